import json
import lzma
import os
import shutil
import signal
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fixtures.models import ARTEFACTS
from resight.commands import bench as benching
from resight.commands import bench_process
from resight.commands.bench import MODULES, BenchReport, bench
from resight.errors import ResightError
from resight.inference.detector import load


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        image = np.random.default_rng(number).integers(0, 255, (40 + number, 60, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Of the classes of ``fpn_onnx``."""
    folder = tmp_path_factory.mktemp("records")
    with lzma.open(ARTEFACTS / "records.tar.xz") as file, tarfile.open(fileobj=file) as tar:
        tar.extractall(folder, filter="data")
    return folder / "records"


def test_a_model_is_timed_with_one_thread_and_with_several(fpn_onnx, photos, records):
    report = bench(fpn_onnx, photos, limit=2, threads=3, data=records, split="test")
    assert [one.threads for one in report.timings] == [1, 3] and report.images == 2
    for one in report.timings:
        assert (one.model, one.engine) == (str(fpn_onnx), "ONNX Runtime")
        assert 0 < one.median_ms <= one.p95_ms and one.first_detection * 1000 > one.median_ms
        assert one.disk_mb == pytest.approx(fpn_onnx.stat().st_size / 1e6, abs=1e-3)
        assert one.memory_mb > one.disk_mb and one.images_per_second > 0
        assert one.mAP is not None and 0 <= one.mAP <= 1
    lines = report.text().splitlines()
    assert lines[0].split()[:3] == ["model", "engine", "threads"] and lines[0].endswith("mAP")
    assert len(lines) == 5 and lines[-1].startswith("2 images; ")
    assert json.loads(json.dumps(report.json()))["timings"][0]["engine"] == "ONNX Runtime"


def test_a_run_is_timed_also_as_an_export_for_each_engine_that_is_installed(untrained, fpn_onnx, tmp_path, monkeypatch):
    made = []

    def pretended(model, format, out):
        made.append((model, format))
        return SimpleNamespace(model=shutil.copy(fpn_onnx, out))

    monkeypatch.setattr(benching, "export", pretended)
    monkeypatch.setattr(benching, "MODULES", MODULES | dict.fromkeys(("openvino", "savedmodel"), "no_such_module"))
    (name, path), (export_name, export_path) = benching._with_exports(str(untrained), tmp_path)
    assert name == path == str(untrained) and export_name == f"{untrained}, as onnx"
    assert made == [(str(untrained), "onnx")] and Path(export_path).is_relative_to(tmp_path)
    assert load(export_path).engine == "ONNX Runtime" and load(untrained).engine == "PyTorch"
    assert [path for _, path in benching._with_exports(export_path, tmp_path)] == [export_path]


def test_rounds_take_turns_and_end_in_time(monkeypatch):
    turns = []

    class Pretended:
        def __init__(self, name, *_):
            self.name, self.seconds = name, []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            turns.append(f"{self.name} ended")

        def round(self):
            turns.append(self.name)
            self.seconds.append(benching.ROUNDS_SECONDS * {"slow": 1.0, "fast": 0.1}[self.name])

        def timing(self):
            return self.name, len(self.seconds)

    monkeypatch.setattr(benching, "_Process", Pretended)
    assert list(benching._timed({"slow": "", "fast": ""}, 1, [], "cpu")) == [("slow", 1), ("fast", 5)]
    assert turns[:5] == ["slow", "fast", "slow", "fast", "fast"] and turns[-2:] == ["fast ended", "slow ended"]


def test_what_cannot_be_timed_is_told(fpn_onnx, photos, tmp_path):
    with pytest.raises(ResightError, match="there is no such model"):
        bench([fpn_onnx, tmp_path / "none.onnx"], photos)
    with pytest.raises(ResightError, match="limit: is 0"):
        bench(fpn_onnx, photos, limit=0)
    with pytest.raises(ResightError, match="MODEL: there is none"):
        bench([], photos)
    with pytest.raises(ResightError, match="no/records: no such file"):  # before anything is timed
        bench(fpn_onnx, photos, data="no/records")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8no picture")
    with pytest.raises(ResightError, match=r"broken\.jpg"):
        bench(fpn_onnx, tmp_path / "broken.jpg")


def test_a_process_that_dies_is_told_and_none_is_left(fpn_onnx, photos):
    with benching._Process("the model", str(fpn_onnx), "cpu", 1, [str(photos / "0.png")]) as process:
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.wait()
        with pytest.raises(ResightError, match=r"^the model: its process ended with -9"):
            process.round()


def test_what_libraries_print_is_no_answer(photos, monkeypatch):
    """Also where they print to the file that is standard output, and not to Python's."""

    class Talks:
        engine = "an engine"

        def detect(self, image):
            os.write(1, b"it is warm today\n")

    monkeypatch.setattr(bench_process, "load", lambda *_, **__: Talks())
    (asks, answers), (told, tells) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        try:
            os.close(answers)
            os.dup2(tells, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            monkeypatch.setattr("sys.stdin", open(asks))  # noqa: SIM115
            bench_process.main()
        finally:
            os._exit(0)
    os.close(tells)
    question = {"model": "m", "device": "cpu", "threads": 1, "files": [str(photos / "0.png")]}
    os.write(answers, f"{json.dumps(question)}\n{{}}\n".encode())
    os.close(asks), os.close(answers)
    os.waitpid(child, 0)
    with open(told) as file:
        first, second = map(json.loads, file)
    assert first == {"engine": "an engine"} and len(second["seconds"]) == 1


def test_the_verb_prints_the_table_or_json(monkeypatch, capsys):
    timing = benching.Timing("m.onnx", "ONNX Runtime", 1, 0.5, 10.0, 12.0, 99.0, 100.0, 5.0, None)
    asked = []

    def pretended(*given, **options):
        asked.append((given, options))
        return BenchReport((timing,), "a processor, 2 cores", 3)

    monkeypatch.setattr(benching, "bench", pretended)
    from typer.testing import CliRunner

    from resight.cli.app import app

    result = CliRunner().invoke(app, ["bench", "m.onnx", "n.onnx", "--images", "photos", "--limit", "3", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["timings"][0]["model"] == "m.onnx"
    ((given, options),) = asked
    assert given == (["m.onnx", "n.onnx"], "photos") and options["limit"] == 3
    assert "mAP" not in CliRunner().invoke(app, ["bench", "m.onnx", "--images", "photos"]).stdout
