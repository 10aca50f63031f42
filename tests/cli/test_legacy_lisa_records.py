import csv
import runpy
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from resight.cli.legacy_lisa_records import CLASSES, build_lisa_records, main
from resight.errors import ResightError
from resight.records.reader import open_records
from resight.scenes import make_scenes

SCRIPT = Path(__file__).parents[2] / "build_lisa_records.py"


@pytest.fixture(scope="module")
def lisa(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("drive") / "lisa", videos=8, frames=4, seed=2)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def rows(lisa):
    with open(lisa / "allAnnotations.csv", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file, delimiter=";") if row["Annotation tag"] in CLASSES]


def images(records):
    return {name: [split[i] for i in range(len(split))] for name, split in records.splits.items()}


@pytest.mark.parametrize("split", ["group", "random"])
def test_the_records_hold_each_image_with_the_three_signs_once(lisa, split):
    report = build_lisa_records(str(lisa), split=split, force=True)
    assert {"training.record", "testing.record", "classes.pbtxt"} <= {file.name for file in Path(report.out).iterdir()}
    records = open_records(lisa / "records", as_stored=True)
    assert [(item.id, item.name) for item in records.label_map.items] == [(1, CLASSES[0]), (2, CLASSES[1]), (3, "stop")]
    parts = images(records)
    written = Counter((r.filename, text) for part in parts.values() for r in part for text in r.label_texts)
    assert written == Counter((row["Filename"].rsplit("/")[-1], row["Annotation tag"]) for row in rows(lisa))
    names = [record.source_id for part in parts.values() for record in part]
    assert len(names) == len(set(names)) and set(parts) == {"train", "test"}
    if split == "random":
        assert abs(len(parts["test"]) / len(names) - 0.25) < 1 / len(names)


def test_frames_of_a_track_stay_together_unless_asked_otherwise(lisa):
    tracks = {row["Filename"].rsplit("/")[-1]: (row["Origin file"], row["Origin track"]) for row in rows(lisa)}

    def torn(split):
        build_lisa_records(str(lisa), split=split, force=True)
        sides = defaultdict(set)
        for name, part in images(open_records(lisa / "records")).items():
            for record in part:
                sides[tracks[Path(record.filename).name]].add(name)
        return [track for track, found in sides.items() if len(found) > 1]

    assert not torn("group") and torn("random")


def test_the_command_at_the_root_does_it(lisa):
    # The package may not be installed where the tests run.
    path = {"PYTHONPATH": str(SCRIPT.parent / "src"), "PATH": ""}
    command = [sys.executable, str(SCRIPT), "--force"]
    done = subprocess.run(command, cwd=lisa.parent, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        "split by group" in done.stdout and "Wrote lisa/records\nNext: resight train --data lisa/records" in done.stderr
    )


def test_the_command_without_the_package_says_how_to_install_it():
    done = subprocess.run([sys.executable, "-S", SCRIPT], env={"PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: the package 'resight' is not installed\n  pip install '{SCRIPT.parent}'\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--split", "rnadom"],
            "--split: unknown value 'rnadom'\n  It is group or random. Did you mean 'random'?",
        ),
        (["--splits", "random"], "error: unknown option '--splits'. Did you mean '--split'?"),
        (["lisa"], "build_lisa_records.py --help lists what there is."),
        (["--on-bad", "keep"], "error: --on-bad: unknown value 'keep'"),
        ([], "error: lisa/allAnnotations.csv: there is no such file"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(tmp_path, monkeypatch, capsys, lisa, options, message):
    monkeypatch.chdir(lisa.parent if options else tmp_path)
    monkeypatch.setattr(sys, "argv", ["build_lisa_records.py", *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_records_that_exist_are_not_lost(lisa):
    build_lisa_records(str(lisa), force=True)
    with pytest.raises(ResightError, match="already holds something"):
        build_lisa_records(str(lisa))


def test_a_single_track_has_no_test_part(tmp_path, monkeypatch, capsys, lisa):
    lines = (lisa / "allAnnotations.csv").read_text(encoding="utf-8").splitlines()
    track = next(line for line in lines if ";stop;" in line).split(";")[-2]
    small = tmp_path / "lisa"
    shutil.copytree(lisa, small, ignore=shutil.ignore_patterns("records"))
    kept = [lines[0], *(line for line in lines if line.split(";")[-2] == track)]
    (small / "allAnnotations.csv").write_text("\n".join(kept), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["build_lisa_records.py"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "too few tracks for a test part" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["build_lisa_records.py", "--split", "random", "--force"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code and (small / "records" / "testing.record").is_file()


@pytest.mark.parametrize(("name", "module"), [("build_lisa_records", "legacy_lisa_records"), ("train", "legacy_train")])
def test_scripts_call_the_old_commands_by_their_modules(monkeypatch, capsys, name, module):
    monkeypatch.delitem(sys.modules, f"resight.cli.{module}", raising=False)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"resight.tfod.{name}", run_name="__main__")
    assert not stopped.value.code and name in capsys.readouterr().out
