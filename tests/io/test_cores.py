import os

from resight.io.cores import core_count


def test_a_container_has_the_cores_that_its_quota_pays_for(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    limit = tmp_path / "cpu.max"
    assert core_count(limit) == 8
    for text, cores in [("max 100000\n", 8), ("250000 100000\n", 2), ("50000 100000\n", 1), ("9900000 100000\n", 8)]:
        limit.write_text(text)
        assert core_count(limit) == cores


def test_where_there_is_no_affinity_all_cores_count(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert core_count(tmp_path / "none") == 1
