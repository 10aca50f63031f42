"""The generated road scenes: LISA's layout, honest boxes, LISA's sizes, the same bytes every time."""

import csv
import hashlib
from pathlib import Path

import pytest
from PIL import Image

from resight import scenes
from resight.errors import ResightError
from resight.scenes import make_scenes

HEADER = (
    "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y;"
    "Occluded,On another road;Origin file;Origin frame number;Origin track;Origin track frame number"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("scenes") / "lisa", videos=3, frames=5, seed=5)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "allAnnotations.csv", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_annotations_are_written_as_lisa_writes_them(written, lisa):
    assert (written / "allAnnotations.csv").read_text().splitlines()[0] == HEADER
    rows = rows_of(written)
    assert len(rows) >= 12
    for row in rows:
        name, video, track = row["Filename"], row["Origin file"], row["Origin track"]
        folder, file = video.split("/")
        assert name.startswith(f"{folder}/frameAnnotations-{file}_annotations/{track}_image") and name.endswith(".png")
        assert row["Annotation tag"] in lisa
        assert row["Occluded,On another road"] in ("0,0", "0,1", "1,0", "1,1")
        x1, y1, x2, y2 = (int(row[f"{end} corner {axis}"]) for end in ("Upper left", "Lower right") for axis in "XY")
        assert 0 <= x1 < x2 <= 704 and 0 <= y1 < y2 <= 480
        assert int(row["Origin frame number"]) > int(row["Origin track frame number"]) > 0


def test_the_frames_on_disk_are_those_annotated(written):
    frames = {str(path.relative_to(written)) for path in written.rglob("*.png")}
    assert frames == {row["Filename"] for row in rows_of(written)}
    for frame in frames:
        with Image.open(written / frame) as picture:
            assert picture.size == (704, 480) and picture.mode in ("RGB", "L")


def test_same_seed_same_bytes_whatever_the_number_of_processes(written, tmp_path, monkeypatch):
    monkeypatch.setattr("resight.scenes.core_count", lambda: 1)
    assert digests(make_scenes(tmp_path / "again", videos=3, frames=5, seed=5)) == digests(written)
    other = digests(make_scenes(tmp_path / "other", videos=1, frames=1, seed=6))
    assert not set(other.values()) & set(digests(written).values())


def test_an_output_that_holds_something_is_refused(written, tmp_path):
    before = digests(written)
    with pytest.raises(ResightError, match="already holds something"):
        make_scenes(written, videos=1, frames=1)
    assert digests(written) == before
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResightError):
            make_scenes(out, videos=1, frames=1)
    with pytest.raises(ResightError, match="cannot make 0 videos"):
        make_scenes(tmp_path / "none", videos=0)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(videos, out):
        (out / "vid0").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "_render_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / "out", videos=1, frames=1)
    assert list(tmp_path.iterdir()) == []
