"""VOC in the development kit's layout, against torchvision's reader, and in the layouts of tools."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.datasets import VOCDetection

from resight.datasets.formats import read_source
from resight.datasets.inspect import inspect


def xml(filename="a.jpg", objects=(("stop", (1, 2, 30, 40)),), size=(100, 80), more=""):
    items = "".join(
        f"<object><name>{label}</name><difficult>{at % 2}</difficult><occluded>{at % 2}</occluded><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox><part><name>head</name><bndbox><xmin>0</xmin></bndbox></part></object>"
        for at, (label, box) in enumerate(objects)
    )
    width, height = size
    return (
        f"<annotation><filename>{filename}</filename><size><width>{width}</width><height>{height}</height></size>"
        f"{items}{more}</annotation>"
    )


def test_the_development_kit_agrees_with_torchvision(tmp_path, put, images):
    kit = "VOCdevkit/VOC2012"
    sets = {"train": ("2008_000001", "2008_000002"), "val": ("2008_000003",), "trainval": ()}
    sets["trainval"] = sets["train"] + sets["val"]
    for stem in (*sets["trainval"], "2008_000009"):
        images(f"{kit}/JPEGImages/{stem}.jpg")
        put(f"{kit}/Annotations/{stem}.xml", xml(f"{stem}.jpg", (("dog", (1, 2, 3, 4)), ("cat", (5, 6, 70.5, 8)))))
    for name, stems in sets.items():
        put(f"{kit}/ImageSets/Main/{name}.txt", "\n".join(stems) + "\n")
    put(f"{kit}/ImageSets/Main/dog_train.txt", "2008_000009  1\n")
    source = read_source(tmp_path)
    assert source.format == "voc" and source.has_split
    assert [(p.kind, p.level) for p in source.problems] == [("no_split", "warning")]  # 2008_000009 is in no list
    for split in ("train", "val"):
        oracle = VOCDetection(str(tmp_path), year="2012", image_set=split)
        ours = [a for a in source.annotations if a.split == split]
        assert [a.image for a in ours] == list(oracle.images)
        for annotation, (_, target) in zip(ours, oracle, strict=True):
            expected = target["annotation"]["object"]
            assert [box.label for box in annotation.boxes] == [item["name"] for item in expected]
            for box, item in zip(annotation.boxes, expected, strict=True):
                assert box.xyxy == tuple(float(item["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax"))
                assert (box.difficult, box.occluded) == (item["difficult"] == "1", item["occluded"] == "1")
            assert (annotation.width, annotation.height) == (100, 80)


def test_trainval_alone_is_train(tmp_path, put, images):
    for stem in "ab":
        images(f"JPEGImages/{stem}.jpg")
        put(f"Annotations/{stem}.xml", xml(f"{stem}.jpg"))
    put("ImageSets/Main/trainval.txt", "a")
    put("ImageSets/Main/test.txt", "b\nmissing\n")
    source = read_source(tmp_path)
    assert [(a.filename, a.split) for a in source.annotations] == [("a.jpg", "train"), ("b.jpg", "test")]
    (problem,) = source.problems
    assert problem.kind == "missing_annotation" and "missing" in problem.message


def test_an_image_in_two_sets_is_a_conflict(tmp_path, put, images):
    for stem in "ab":
        images(f"JPEGImages/{stem}.jpg")
        put(f"Annotations/{stem}.xml", xml(f"{stem}.jpg"))
    put("ImageSets/Main/train.txt", "a\nb")
    put("ImageSets/Main/test.txt", "b\n")
    put("ImageSets/Main/trainval.txt", "a\nb\n")
    assert [p.kind for p in read_source(tmp_path).problems] == ["split_conflict"]


@pytest.mark.parametrize(
    ("xml_folder", "image_folder"),
    [("photos", "photos"), ("annotations", "images"), ("a/Annotations", "a/JPEGImages"), ("data/xmls", "data/images"),
     ("Annotations", "."), (".", "images"), ("x", "somewhere/else")],
)  # fmt: skip
def test_plain_folders(tmp_path, put, images, xml_folder, image_folder):
    images(f"{image_folder}/a.jpg", f"{image_folder}/b.png")
    put(f"{xml_folder}/a.xml", xml("a.jpg"))
    put(f"{xml_folder}/b.xml", xml("b.png", objects=()))
    source = read_source(tmp_path)
    assert not source.problems and not source.has_split
    assert [a.image for a in source.annotations] == [
        str((tmp_path / image_folder / n).resolve()) for n in ("a.jpg", "b.png")
    ]
    assert source.annotations[1].boxes == ()


@pytest.mark.parametrize("layout", ["{split}", "annotations/{split}", "{split}/annotations"])
def test_folders_tell_the_split(tmp_path, put, images, layout):
    for split in ("train", "valid", "test"):
        folder = layout.format(split=split)
        images(f"{folder.replace('annotations', 'images')}/a.jpg")
        put(f"{folder}/a.xml", xml("a.jpg"))
    source = read_source(tmp_path)
    assert source.has_split and not source.problems
    assert sorted(a.split for a in source.annotations) == ["test", "train", "val"]
    assert len({a.image for a in source.annotations}) == 3


@pytest.mark.parametrize("filename", ["", "a", "old_name.jpg", "/home/x/a.jpg", "..\\pics\\a.jpg", "a.png"])
def test_the_files_own_name_finds_the_image(tmp_path, put, images, filename):
    images("a.JPG")
    put("a.xml", xml(filename))
    source = read_source(tmp_path)
    assert not source.problems and source.annotations[0].image == str(tmp_path / "a.JPG")


def test_a_filename_that_names_another_image_is_said(tmp_path, put, images):
    images("a.jpg", "b.jpg")
    put("a.xml", xml("b.jpg"))
    put("b.xml", xml("b.jpg"))
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["a.jpg", "b.jpg"]
    assert [p.kind for p in source.problems] == ["name_mismatch"]


def test_two_files_for_one_image(tmp_path, put, images):
    images("pic.jpg")
    put("a.xml", xml("pic.jpg"))
    put("b.xml", xml("pic.jpg"))
    assert "duplicate_image" in [p.kind for p in read_source(tmp_path).problems]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (xml()[:-5], "not valid XML"),
        (xml(size=("wide", 80)), "width"),
        (xml(objects=(("", (1, 2, 3, 4)),)), "name"),
        (b"", "not valid XML"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "not valid XML"),
    ],
)
def test_a_bad_file_is_named_and_its_image_left_out(tmp_path, put, images, content, says):
    images("a.jpg", "b.jpg")
    put("a.xml", content)
    put("b.xml", xml("b.jpg"))
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["b.jpg"]
    found = [p for p in source.problems if p.kind == "malformed"]
    assert len(found) == 1 and says in found[0].message and "a.xml" in found[0].where


@pytest.mark.parametrize(
    "content",
    [
        xml(objects=(("good", (5, 5, 50, 50)), ("bad", (1, "12px", 30, 40)))),
        xml(objects=(("good", (5, 5, 50, 50)),), more="<object><name>bad</name></object>"),
    ],
)
def test_a_corner_that_is_no_number_costs_its_box_and_not_the_image(tmp_path, put, images, content):
    images("a.jpg")
    put("a.xml", content)
    source = read_source(tmp_path)
    (annotation,), problems = source.annotations, source.problems
    assert [box.label for box in annotation.boxes] == ["good", "bad"] and not problems
    found = inspect(annotation)
    assert [box.label for box in found.annotation.boxes] == ["good"]
    assert [problem.kind for problem in found.problems] == ["bad_box"]
    assert "box 2 (bad) has corners that are not numbers" in found.problems[0].message


@pytest.mark.parametrize("written", ["(88, 100)", "12px", "1,5"])
def test_a_corner_is_shown_as_it_is_written_and_a_mark_is_no_part_of_it(tmp_path, put, images, written):
    images("a.jpg")
    put("a.xml", xml(objects=(("good", ("\ufeff5", 5, 50, 50)), ("bad", (1, written, 30, 40)))))
    (annotation,) = read_source(tmp_path).annotations
    assert annotation.boxes[0].xyxy == (5, 5, 50, 50)
    (problem,) = inspect(annotation).problems
    assert problem.kind == "bad_box" and f"'{written}'" in problem.message and "nan" not in problem.message


def test_an_image_that_could_be_one_of_two_is_named_with_both(tmp_path, put, images):
    images("a.png", "a.bmp", "JPEGImages/b.jpg", "SegmentationClass/b.png", "c.PNG")
    put("a.xml", xml(""))
    put("Annotations/b.xml", xml(""))
    put("C.xml", xml("C.png"))
    source = read_source(tmp_path)
    assert [a.source_id for a in source.annotations] == ["JPEGImages/b.jpg", "c.PNG"]
    (problem,) = [p for p in source.problems if p.level == "error"]
    assert problem.kind == "ambiguous_image" and "a.bmp, a.png" in problem.message and "a.xml" in problem.where


def test_entities_do_not_explode(tmp_path, put, images):
    images("a.jpg")
    entities = '<!ENTITY e0 "x">' + "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    put("b.xml", xml("b.jpg"))
    put("a.xml", f"<!DOCTYPE a [{entities}]>" + xml("&e11;"))
    assert "malformed" in [p.kind for p in read_source(tmp_path).problems]


def test_sizes_of_zero_say_nothing_and_hidden_copies_are_no_files(tmp_path, put, images):
    images("a.jpg")
    put("a.xml", xml(size=(0, 0)))
    put("._a.xml", b"\0\5\x16\7")
    put("__MACOSX/._a.xml", b"\0\5\x16\7")
    put("pom.xml", "<project/>")
    source = read_source(tmp_path)
    assert source.annotations[0].width is None
    assert [p.kind for p in source.problems] == ["not_an_annotation"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path, damage, survives, data):
    (tmp_path / "a.xml").write_bytes(data.draw(damage)(xml().encode()))
    (tmp_path / "b.xml").write_bytes(xml("b.jpg").encode())
    survives(tmp_path, "voc")
    (tmp_path / "ImageSets").mkdir(exist_ok=True)
    (tmp_path / "ImageSets/train.txt").write_bytes(data.draw(damage)(b"a\n"))
    (tmp_path / "ImageSets/test.txt").write_bytes(data.draw(damage)(b"b\n"))
    survives(tmp_path, "voc")
    (tmp_path / "ImageSets/train.txt").unlink()
    (tmp_path / "ImageSets/test.txt").unlink()
