"""Records as a source: what was written comes back, images only when asked for."""

import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resight.datasets.build import build_data
from resight.datasets.formats import read_source
from resight.errors import ResightError
from resight.io.images import read_bytes
from resight.label_map import LabelMap
from resight.records.writer import write_records_folder
from resight.types import Annotation, Box

BOXES = (
    Box("stop", 1, 2, 30, 40, difficult=True, occluded=True),
    Box("yield", 5, 6, 7, 8, crowd=True, area=2.5),
)


@pytest.fixture
def records(tmp_path, images):
    names = ["a.png", "b.png", "c.png"]
    images(*names)
    made = [Annotation(tmp_path / name, BOXES[:at], 100, 80, group=f"g{at}") for at, name in enumerate(names)]
    out = tmp_path / "records"
    labels = LabelMap.from_names(["yield", "stop"])
    write_records_folder({"train": made[:2], "test": made[2:]}, out, labels, info={})
    return out


def test_everything_comes_back(tmp_path, records):
    source = read_source(records)
    assert source.format == "tfrecord" and source.has_split and source.classes == ("yield", "stop")
    assert [(a.filename, a.split, a.group, a.width, a.height) for a in source.annotations] == [
        ("a.png", "train", "g0", 100, 80), ("b.png", "train", "g1", 100, 80), ("c.png", "test", "g2", 100, 80)
    ]  # fmt: skip
    for at, annotation in enumerate(source.annotations):
        assert [(b.label, b.xyxy, b.difficult, b.occluded, b.crowd) for b in annotation.boxes] == [
            (b.label, b.xyxy, b.difficult, b.occluded, b.crowd) for b in BOXES[:at]
        ]
        original = (tmp_path / annotation.filename).read_bytes()
        assert read_bytes(annotation.image) == original
        assert read_bytes(pickle.loads(pickle.dumps(annotation)).image) == original
        assert "byte" in annotation.where and "byte" in str(annotation.image)
    assert source.annotations[2].boxes[1].area == 2.5


def test_an_image_changed_after_reading_is_named_with_its_byte(records):
    image = read_source(records).annotations[1].image
    path = next(records.glob("train-*"))
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ResightError, match="byte"):
        read_bytes(image)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_records(records, damage, survives, data):
    path = next(records.glob("train-*"))
    healthy = path.read_bytes()
    path.write_bytes(data.draw(damage)(healthy))
    try:
        survives(records, "tfrecord")
    finally:
        path.write_bytes(healthy)


def test_a_file_without_a_label_map_beside_it_takes_the_one_that_is_named(tmp_path, records):
    (tmp_path / "alone").mkdir()
    alone = next(records.glob("test-*")).rename(tmp_path / "alone" / "x.record")
    labels = (records / "label_map.pbtxt").rename(tmp_path / "map.pbtxt")
    with pytest.raises(ResightError, match="need a label map") as caught:
        build_data(alone, tmp_path / "none")
    assert "--labels MAP" in caught.value.fix
    for named in (labels, str(labels), LabelMap.from_names(["yield", "stop"])):
        report = build_data(alone, tmp_path / "out", labels=named, force=True)
        assert report.classes == ("yield", "stop") and report.images == {"train": 1}
    other = LabelMap.from_names(["stop", "yield"])
    assert read_source(alone, labels=other).classes == ("stop", "yield")
    # One that lies beside the records says what their numbers mean, also where they get others.
    (tmp_path / "alone" / "map.pbtxt").write_text(labels.read_text())
    assert read_source(alone, labels=other).classes == ("yield", "stop")
    assert build_data(alone, tmp_path / "out", labels=other, force=True).classes == ("stop", "yield")
    (tmp_path / "alone" / "other.pbtxt").write_text("item { id: 1 name: 'car' }")
    with pytest.raises(ResightError, match="different label maps"):
        read_source(alone)
    assert read_source(alone, labels=labels).classes == ("yield", "stop")
