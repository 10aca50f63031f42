"""YOLO's layouts: where images, labels, names and splits are found, and what the lines say."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from resight.datasets.formats import read_source
from resight.errors import ResightError

LINE = "1 0.5 0.5 0.2 0.25\n"
BOX = (40.0, 30.0, 60.0, 50.0)  # LINE on 100 x 80 pixels


def boxes(annotation):
    return [(box.label, tuple(round(side, 6) for side in box.xyxy)) for box in annotation.boxes]


@pytest.mark.parametrize("names", ["[no, yes]", "{0: no, 1: yes}", "\n- no\n- yes"])
@pytest.mark.parametrize(
    ("yaml", "layout"),
    [
        ("train: images/train\nval: images/val", "images/{split}"),
        ("path: .\ntrain: [images/train]\nval: ./images/val/", "images/{split}"),
        ("path: ../datasets/gone\ntrain: images/train\nval: images/val", "images/{split}"),
        ("train: ../train/images\nval: ../val/images\ntest: ''", "{split}/images"),
        ("train: train.txt\nval: val.txt", "pics/{split}"),
        ("train: {root}/images/train\nval: {root}/images/val", "images/{split}"),
    ],
)
def test_the_yaml_tells_names_and_splits(tmp_path, put, images, names, yaml, layout):
    for split in ("train", "val"):
        folder = layout.format(split=split)
        images(f"{folder}/{split}_a.jpg", f"{folder}/{split}_empty.jpg")
        put(f"{folder.replace('images', 'labels')}/{split}_a.txt", LINE)
        put(f"{split}.txt", f"./{folder}/{split}_a.jpg\n{tmp_path}/{folder}/{split}_empty.jpg\n")
    file = put(
        "data.yaml",
        f"{yaml.format(root=tmp_path)}\nnames: {names}\nnc: 2\n".replace("no", "'no'").replace("yes", "'yes'"),
    )
    for path in (tmp_path, file):
        source = read_source(path)
        assert source.format == "yolo" and "data.yaml" in source.note
        assert source.classes == ("no", "yes") and source.has_split
        assert [problem.kind for problem in source.problems] == ["missing_label"]
        assert {(a.filename, a.split, tuple(boxes(a))) for a in source.annotations} == {
            ("train_a.jpg", "train", (("yes", BOX),)), ("train_empty.jpg", "train", ()),
            ("val_a.jpg", "val", (("yes", BOX),)), ("val_empty.jpg", "val", ()),
        }  # fmt: skip
        assert source.annotations[0].width == 100 and source.annotations[0].height == 80


def test_a_test_folder_that_was_never_exported_is_said_and_a_train_folder_is_an_error(tmp_path, put, images):
    images("val/images/a.jpg")
    put("val/labels/a.txt", LINE)
    put("data.yaml", "names: [a, b]\ntrain: ../train/images\nval: ../val/images\ntest: ../test/images\n")
    problems = read_source(tmp_path).problems
    assert [(p.kind, p.level) for p in problems] == [("missing_folder", "error"), ("missing_folder", "warning")]


@pytest.mark.parametrize(
    ("image", "label", "names"),
    [
        ("a.jpg", "a.txt", "classes.txt"),
        ("images/a.jpg", "labels/a.txt", "classes.txt"),
        ("images/a.jpg", "labels/a.txt", "labels/classes.txt"),
        ("photos/a.jpg", "labels/a.txt", "classes.txt"),
        ("obj_train_data/a.jpg", "obj_train_data/a.txt", "obj.names"),
        ("VOC/JPEGImages/a.jpg", "VOC/labels/a.txt", "signs.names"),
    ],
)
def test_without_a_yaml(tmp_path, put, images, image, label, names):
    images(image)
    put(label, LINE)
    put(names, "no\nyes\n\n")
    source = read_source(tmp_path)
    assert source.format == "yolo" and source.classes == ("no", "yes") and not source.problems
    assert [boxes(a) for a in source.annotations] == [[("yes", BOX)]]


def test_cvat_lists(tmp_path, put, images):
    images("obj_train_data/a.jpg", "obj_train_data/b.jpg")
    put("obj_train_data/a.txt", LINE)
    put("obj_train_data/b.txt", "")
    put("obj.names", "no\nyes\n")
    put("train.txt", "data/obj_train_data/a.jpg\n")
    put("test.txt", "data/obj_train_data/b.jpg\n")
    source = read_source(tmp_path)
    assert {(a.filename, a.split) for a in source.annotations} == {("a.jpg", "train"), ("b.jpg", "test")}
    assert not source.problems


def test_numbers_without_names(tmp_path, put, images):
    images("train/images/a.jpg", "test/images/b.jpg")
    put("train/labels/a.txt", LINE)
    put("test/labels/b.txt", "0 .5 .5 1 1")
    source = read_source(tmp_path)
    assert source.has_split and [p.kind for p in source.problems] == ["unnamed_classes"]
    assert sorted(boxes(a)[0][0] for a in source.annotations) == ["0", "1"]
    named = read_source(tmp_path, classes=["no", "yes"])
    assert not named.problems and named.classes == ("no", "yes")


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 .1 .1 .5 .2 .3 .9", (10, 8, 50, 72)),
        ("0 .1 .1 .5 .1 .5 .2 .1 .2", (10, 8, 50, 16)),
        ("0.0 0.5 0.5 1.5 1", (-25, 0, 125, 80)),
    ],
)
def test_polygons_become_the_box_around_them(tmp_path, put, images, line, box):
    images("a.jpg")
    put("a.txt", line)
    assert boxes(read_source(tmp_path, "yolo").annotations[0]) == [("0", box)]


def test_keypoints_are_no_polygon(tmp_path, put, images):
    images("a.jpg")
    put("a.txt", "0 .5 .5 .2 .25 .9 .9 2 .1 .1 2")
    put("data.yaml", "names: [x]\nkpt_shape: [2, 3]\n")
    assert boxes(read_source(tmp_path).annotations[0]) == [("x", BOX)]


def test_a_rotated_photograph_is_measured_as_it_is_shown(tmp_path, put):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 100)).save(tmp_path / "a.jpg", exif=exif)
    put("a.txt", LINE)
    (annotation,) = read_source(tmp_path).annotations
    assert (annotation.width, annotation.height) == (100, 80) and boxes(annotation) == [("1", BOX)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 .5 .5 .1", "3 numbers"), ("0 .5 .5 .1 .1 .9", "5 numbers"), ("x .5 .5 .1 .1", "class"),
        ("2 .5 .5 .1 .1", "class is 2, which has no name"), ("0 50 40 20 10", "pixels"),
        ("-1 .5 .5 .1 .1", "class"), ("1.5 .5 .5 .1 .1", "class"),
        ("nan .5 .5 .1 .1", "class"), ("inf .5 .5 .1 .1", "class"), ("0 .5 .5 .1 ,1", "',1'"),
        (b"\xff\xfe\xff", ""), ("0", "0 numbers"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_and_its_image_left_out(tmp_path, put, images, text, says):
    images("a.jpg", "b.jpg")
    put("a.txt", text)
    put("b.txt", LINE)
    put("classes.txt", "no\nyes")
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["b.jpg"]
    (problem,) = source.problems
    assert problem.kind == "malformed" and "a.txt" in problem.where and says in problem.message


def test_labels_without_image_and_images_that_are_none(tmp_path, put, images):
    images("images/a.jpg")
    put("labels/a.txt", LINE)
    put("labels/gone.txt", LINE)
    put("images/c.jpg", "this is no image")
    put("labels/c.txt", LINE)
    put("README.txt", "hello")
    source = read_source(tmp_path)
    assert [(p.kind, p.where) for p in source.problems if p.level == "error"] == [
        ("missing_image", str(tmp_path / "labels/gone.txt"))
    ]
    assert [len(a.boxes) for a in source.annotations] == [1, 0]  # c.jpg stays, to be found unreadable


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/d\u00e9j\u00e0.jpg", "labels/de\u0301ja\u0300.txt"),
        ("images/Capture d\u00e9cran.jpg", "labels/Capture%20d%C3%A9cran.txt"),
        ("images/Capture%20d%C3%A9cran.jpg", "labels/Capture d\u00e9cran.txt"),
        ("images/A.JPG", "labels/A.TXT"),
        ("images/IMG_1.jpg", "labels/img_1.txt"),
        ("images/train/b.jpg", "Labels/train/b.txt"),
        ("Images/train/b.jpg", "labels/train/b.txt"),
        ("d\u00e9.jpg", "de\u0301.txt"),
    ],
)
def test_the_label_file_of_another_writing(tmp_path, put, images, image, label):
    images(image, "images/plain.jpg")
    put(label, LINE)
    put("labels/plain.txt", LINE)
    put("data.yaml", "names: ['no', 'yes']")
    source = read_source(tmp_path)
    assert [boxes(a) for a in source.annotations] == [[("yes", BOX)]] * 2
    assert {(p.kind, p.level) for p in source.problems} <= {("inexact_name", "warning")}


def test_images_that_share_a_label_file_are_left_out(tmp_path, put, images):
    images("images/0.jpg", "images/1.jpg", "images/1.png", "images/A.jpg", "images/a.jpg")
    for stem in "01a":
        put(f"labels/{stem}.txt", LINE)
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["0.jpg", "A.jpg", "a.jpg"]
    assert [len(a.boxes) for a in source.annotations] == [1, 0, 1]  # a.txt is that of a.jpg
    found = [p for p in source.problems if p.kind == "ambiguous_image"]
    assert len(found) == 2 and all("1.jpg" in p.message and "1.png" in p.message for p in found)
    assert all(p.where.endswith("labels/1.txt") for p in found)


def test_images_without_a_label_file_are_counted_and_are_no_background_where_names_differ(tmp_path, put, images):
    images("images/a.jpg", "images/b.jpg")
    put("labels/a.txt", LINE)
    put("classes.txt", "no\nyes")
    source = read_source(tmp_path)
    assert len(source.annotations) == 2
    (problem,) = source.problems
    assert (problem.kind, problem.level) == ("missing_label", "warning") and "1 of 2 images" in problem.message
    put("labels/b2.txt", LINE)
    images("images/c.jpg")
    config = put("data.yaml", "names: [x, y]\ntrain: images")
    for path in (tmp_path, config):  # the same however it is named
        source = read_source(path)
        assert [a.filename for a in source.annotations] == ["a.jpg"]
        assert [p.kind for p in source.problems] == ["missing_image", "missing_label", "missing_label"]
        assert all(p.level == "error" for p in source.problems)


def test_label_files_of_images_that_are_not_listed_are_no_fault(tmp_path, put, images):
    images("images/a.jpg", "images/b.jpg")
    put("labels/a.txt", LINE)
    put("labels/b.txt", LINE)
    put("train.txt", "images/a.jpg")
    put("data.yaml", "names: [x, y]\ntrain: train.txt")
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["a.jpg"]
    assert [(p.kind, p.level) for p in source.problems] == [("unlisted_image", "warning")]


@pytest.mark.parametrize(
    "line",
    ["0 .27 .46 .22 .42 .2 .3 .3 .5", "0 .5 .5 .4 .4 .4 .4 .6 .6 .5 .55 .52 .4 .48 .61"],
)
def test_key_points_are_no_polygon_in_silence(tmp_path, put, images, line):
    images("images/a.jpg", "images/b.jpg")
    put("labels/a.txt", line)
    put("labels/b.txt", line)
    put("data.yaml", "names: [x]\n")
    with pytest.raises(ResightError, match="key points, or polygons") as caught:
        read_source(tmp_path)
    assert "kpt_shape: [" in caught.value.fix and "data.yaml" in caught.value.fix
    put("data.yaml", "names: [x]\nkpt_shape: [2, 2]\n")
    taken = read_source(tmp_path).annotations[0].boxes[0]
    put("data.yaml", "names: [x]\ntask: segment\n")
    source = read_source(tmp_path)
    assert source.annotations[0].boxes[0] != taken and [p.kind for p in source.problems] == ["polygons"]


def test_key_points_with_visibility_are_recognised(tmp_path, put, images):
    images("a.jpg")
    put("a.txt", "0 .5 .5 .2 .25 .9 .9 2 .1 .1 1\n0 .5 .5 .2 .25 0 0 0 .1 .1 2\n")
    put("data.yaml", "names: [x]\n")
    source = read_source(tmp_path)
    assert boxes(source.annotations[0]) == [("x", BOX)] * 2
    assert [(p.kind, p.level) for p in source.problems] == [("keypoints", "warning")]


@pytest.mark.parametrize(
    "lines",
    [
        "0 .4 .4 .6 .4 .6 .6 .4 .6",  # a rectangle by its corners
        "0 .4 .42 .6 .4 .62 .6 .4 .61",  # nearly one
        "0 .5 .5 .6 .6 .4 .6\n0 .5 .5 .6 .6 .4 .6 .5 .4",  # of several lengths
        "0 .1 .1 .9 .1 .9 .9",  # no box within the image
    ],
)
def test_polygons_are_told_from_key_points(tmp_path, put, images, lines):
    images("a.jpg")
    put("a.txt", lines)
    put("classes.txt", "x")
    assert [(p.kind, p.level) for p in read_source(tmp_path).problems] == [("polygons", "warning")]


def test_folders_of_another_machine_are_found_by_the_end_of_their_path(tmp_path, put, images):
    for split in ("train", "val"):
        images(f"set/images/{split}/a.jpg")
        put(f"set/labels/{split}/a.txt", LINE)
    test = "test: /content/drive/set/images/test"
    put("x.yaml", f"names: [a, b]\ntrain: C:\\Users\\me\\set\\images\\train\nval: /content/set/images/val/\n{test}\n")
    for path in (tmp_path, tmp_path / "x.yaml"):
        source = read_source(path)
        assert [(a.split, len(a.boxes)) for a in source.annotations] == [("train", 1), ("val", 1)]
        assert [p.kind for p in source.problems] == ["inexact_name", "inexact_name", "missing_folder"]


def test_a_folder_that_could_be_one_of_two_is_named_with_both(tmp_path, put, images):
    for folder in ("a/images", "b/images"):
        images(f"{folder}/1.jpg")
        put(f"{folder.replace('images', 'labels')}/1.txt", LINE)
    put("data.yaml", "names: [a, b]\ntrain: a/images\nval: /content/set/images\n")
    problems = read_source(tmp_path).problems
    assert [p.kind for p in problems if p.level == "error"] == ["ambiguous_image"]
    assert "a/images, b/images" in problems[0].message


def test_a_val_that_is_train_is_one_sentence(tmp_path, put, images):
    for at in range(4):
        images(f"train/images/{at}.jpg")
        put(f"train/labels/{at}.txt", LINE)
    put("data.yaml", "names: [a, b]\ntrain: train/images\nval: train/images\n")
    (problem,) = read_source(tmp_path).problems
    assert (problem.level, problem.kind) == ("error", "split_conflict")
    assert problem.message.startswith("4 images of val are also in train") and "--split group" in problem.message


def test_two_numbers_of_one_name_are_named(tmp_path, put, images):
    images("a.jpg")
    put("a.txt", LINE)
    put("data.yaml", "names: {0: stop, 1: stop}")
    source = read_source(tmp_path)
    assert source.classes == ("stop",)
    assert [(p.level, p.kind) for p in source.problems] == [("warning", "duplicate_class")]
    put("data.yaml", "names: [no, yes]")
    with pytest.raises(ResightError, match=r"names\[0\] is False") as caught:
        read_source(tmp_path)
    assert "quotes" in caught.value.fix


def test_no_label_at_all_is_refused(tmp_path, put, images):
    images("images/a.jpg")
    put("data.yaml", "names: [x]\ntrain: images\n")
    with pytest.raises(ResightError, match=r"labels/a\.txt"):
        read_source(tmp_path)
    put("data.yaml", "names: [x]\ntrain: pictures\n")
    with pytest.raises(ResightError, match="train: pictures"):
        read_source(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[st.integers(0, 100)] * 2, *[st.integers(1, 100)] * 2), max_size=5))
def test_pixels_come_back(tmp_path, corners):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    rows = [f"0 {(x + w / 2) / 100!r} {(y + h / 2) / 80!r} {w / 100!r} {h / 80!r}" for x, y, w, h in corners]
    (tmp_path / "a.txt").write_text("\n".join(rows))
    found = read_source(tmp_path, "yolo").annotations[0].boxes if corners else ()
    assert len(found) == len(corners)
    for box, (x, y, w, h) in zip(found, corners, strict=True):
        assert box.xyxy == pytest.approx((x, y, x + w, y + h), abs=1e-9)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path, damage, survives, data):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "labels").mkdir(exist_ok=True)
    Image.new("RGB", (100, 80)).save(tmp_path / "images/a.png")
    yaml = b"path: .\ntrain: images\nval: [images]\nnames: {0: no, 1: 'yes'}\nnc: 2\n"
    (tmp_path / "data.yaml").write_bytes(data.draw(st.one_of(st.just(yaml), damage.map(lambda f: f(yaml)))))
    (tmp_path / "labels/a.txt").write_bytes(data.draw(damage)((LINE + "0 .1 .1 .5 .1 .5 .2 .1 .2\n").encode()))
    survives(tmp_path, "yolo")
    survives(tmp_path / "data.yaml", "yolo")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("names: [1, a]\ntrain: 2024-13-45\n")
@example("names: {a: b}\n")
@example("names: {[1]: b}\n")
@example("names: {.inf: a}\n")
@example("names: [x]\nnc: !!bool 3\n")
@example("names: &a [*a]\n")
@example("names: x.names\n")
@example("names: [x]\ntrain: {a: b}\n")
@example("names: [x]\ntrain: [[1]]\npath: [1]\n")
@example('names: ["\\ud800"]\ntrain: images\n')
@example('names: [x]\ntrain: "\\0"\npath: 1\n')
@example("names: " + "[" * 1500)
@example("names: !!python/object:os.system [x]\n")
@given(st.text(max_size=40).map("names: {}\n".format))
def test_odd_yaml(tmp_path, survives, text):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(LINE)
    (tmp_path / "data.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    survives(tmp_path, "yolo")
