from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import resight
from resight.errors import ResightError
from resight.exporting.export import write_onnx
from resight.fpn import onnx_export
from resight.inference.detector import Detector, class_names, load
from resight.io.images import decode
from resight.label_map import LabelMap, to_pbtxt
from resight.models.checkpoints import load_checkpoint, save_checkpoint
from resight.records.reader import open_records
from resight.types import Detections


@pytest.fixture(scope="module")
def detector(untrained):
    return load(untrained, "cpu")


@pytest.fixture(scope="module")
def split(shapes):
    return open_records(shapes(train=9, val=3)).splits["train"]


@pytest.fixture(scope="module")
def images(split):
    return [decode(split[index].encoded) for index in range(3)]


def same(a, b):
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("boxes", "scores", "labels"))


def test_whatever_form_an_image_comes_in_the_same_is_found(detector, images, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(images[0]).save(path)
    found = detector(images[0], score=0)
    assert len(found) > 10
    for form in (path, str(path), Image.open(path), Image.open(path).convert("RGBA"), np.asfortranarray(images[0])):
        assert same(detector(form, score=0), found)
    assert [detector(form).file for form in (path, images[0])] == [str(path), ""]
    assert (found.width, found.height) == (96, 64)
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.fromarray(np.rot90(images[0])).save(turned, exif=exif)
    assert same(detector(turned, score=0), found) and same(detector(Image.open(turned), score=0), found)
    grey = Image.fromarray(images[0][..., 0])
    assert same(detector(grey, score=0), detector(np.stack([images[0][..., 0]] * 3, -1), score=0))


def test_sixteen_bits_are_the_same_from_a_file_and_from_memory(detector, images, tmp_path):
    Image.fromarray(images[0][..., 0].astype(np.uint16) << 8).save(tmp_path / "deep.png")
    opened = Image.open(tmp_path / "deep.png")
    assert opened.mode == "I;16"
    found = detector(np.stack([images[0][..., 0]] * 3, -1), score=0)
    assert same(detector(opened, score=0), found) and same(detector(tmp_path / "deep.png", score=0), found)


def test_an_opened_image_that_ends_too_early_is_named(detector, images, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(images[0]).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ResightError, match="truncated") as caught:
        detector(Image.open(path))
    assert caught.value.where == str(path)


@pytest.mark.parametrize("score", [-0.1, 1.5, float("nan"), "high", [0.5]])
def test_a_score_is_a_share_of_one(detector, images, score):
    with pytest.raises(ResightError, match="score: must be a number from 0 to 1"):
        detector(images[0], score)
    with pytest.raises(ResightError, match="iou: must be a number from 0 to 1"):
        detector.set_nms(score)


@pytest.mark.parametrize(
    "wrong", [{"model": 3}, {"model": None}, {"model": ""}, {"device": 0}, {"labels": 1.5}], ids=str
)
def test_what_names_no_model_is_refused(untrained, wrong):
    with pytest.raises(ResightError, match=f"^load: {next(iter(wrong))} is "):
        load(**{"model": untrained, **wrong})


def test_detections_are_what_is_promised(detector, images):
    for found in detector(images, score=0):
        assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
        assert found.classes == ("red", "blue") and 0 < len(found) <= 100
        assert (np.diff(found.scores) <= 0).all() and found.scores.min() >= 0.001
        assert (found.boxes >= 0).all() and (found.boxes <= [found.width, found.height] * 2).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all() and set(found.labels) <= {0, 1}
        name, score, box = next(iter(found))
        assert name == found.names[0] and score == found.scores[0] and len(box) == 4


def test_a_list_gives_a_list_whose_items_know_nothing_of_each_other(detector, images):
    alone = [detector(image, score=0) for image in images]
    for order in ([0, 1, 2], [2, 0, 1], [1, 1]):
        together = detector([images[index] for index in order], score=0)
        assert all(same(found, alone[index]) for found, index in zip(together, order, strict=True))
    assert detector([]) == [] and detector((images[0],), score=0)[0].width == 96


def test_images_of_one_shape_may_share_a_batch(detector, images):
    pair = [torch.from_numpy(image).permute(2, 0, 1) for image in images[:2]]
    assert pair[0].shape == pair[1].shape
    with torch.inference_mode():
        alone = [detector.model([image])[0] for image in pair]
        together = detector.model(pair)
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-5)


@pytest.fixture(params=["fpn", "tfod"], scope="module")
def checkpoint(request, untrained, tfod_checkpoint):
    return untrained if request.param == "fpn" else tfod_checkpoint(pad=False)


@pytest.fixture(scope="module")
def many(images):
    """Images of three sizes, two of them one at the network."""
    sizes = ((64, 96), (96, 64), (32, 48), (64, 96))
    return [np.resize(images[number % 3] // (1 + number), (*size, 3)) for number, size in enumerate(sizes)]


def close(found, others, tolerance):
    """``tolerance`` is that of the scores, and of the boxes a hundred times as much. What scores alike has no order."""
    for one, other in zip(found, others, strict=True):
        assert len(one) == len(other) and (one.width, one.height) == (other.width, other.height)
        same = (one.labels[:, None] == other.labels) & (abs(one.scores[:, None] - other.scores) < tolerance)
        same &= (abs(one.boxes[:, None] - other.boxes) < 100 * tolerance).all(-1)
        assert same.any(0).all() and same.any(1).all()


def test_in_a_batch_the_same_is_found_as_alone(checkpoint, many):
    detector, batches = load(checkpoint, "cpu"), []
    detector.model.double()  # in single precision rounding moves a RoI over an edge here and there
    alone = [detector.detect(image) for image in many]
    least = float(np.median([found.scores.max() for found in alone]))
    if hasattr(detector.model, "tfod"):
        detector.model.tfod = detector.model.tfod.model_copy(update={"score": least})
    else:
        detector.model.config = replace(detector.model.config, score=least)
    alone = [found.above(np.nextafter(np.float32(least), np.float32(1))) for found in alone]
    assert {bool(len(found)) for found in alone} == {True, False}
    detector.model.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    close(detector.detect_batch(many), alone, 1e-6)
    assert sorted(batches) == [1, 3] and detector.detect_batch([]) == []


def test_what_shares_a_batch_has_one_size_at_the_network(untrained, tfod_checkpoint):
    for path in (untrained, tfod_checkpoint(pad=False), tfod_checkpoint()):
        model = load(path, "cpu").model
        for height, width in ((64, 96), (96, 64), (31, 17), (300, 301)):
            batch = model.batch([model.resize(torch.zeros(3, height, width, dtype=torch.uint8))])
            assert model.network_size(height, width) == batch.shape[2:]


def test_a_batch_that_does_not_fit_into_memory_is_halved(untrained, many, monkeypatch):
    detector, seen = load(untrained, "cpu"), []
    forward = detector.model.forward

    def small_memory(images):
        seen.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(images)

    monkeypatch.setattr(detector.model, "forward", small_memory)
    same = [many[0]] * 9
    close(detector.detect_batch(same), [detector.detect(many[0])] * 9, 1e-4)
    assert seen == [8, 4, 2, 2, 4, 2, 2, 1, 1]
    seen.clear()
    detector.detect_batch(same[:3])
    assert seen == [2, 1]  # it is remembered
    with pytest.raises(torch.OutOfMemoryError):
        monkeypatch.setattr(detector.model, "forward", lambda images: small_memory(images * 3))
        detector.detect(many[0])


def test_many_images_on_a_gpu_wait_no_longer_than_one(pretended_cuda, checkpoint, many, tmp_path):
    alone = load(checkpoint, "cpu")(many, score=0)
    paths = [tmp_path / f"{number}.png" for number in range(len(many))]
    for path, image in zip(paths, many, strict=True):
        Image.fromarray(image).save(path)
    with pretended_cuda() as counts:
        detector = load(checkpoint)
        assert detector.on_gpu and detector.device.type == "cuda"
        waits = []
        for together in ([many[0]], [many[0]] * 3):
            counts.waits.clear()
            copies = counts.pinned
            close(detector.detect_batch(together), [alone[0]] * len(together), 1e-3)
            waits.append(counts.waited)
            assert counts.pinned >= copies + len(together)
        assert waits[1] <= waits[0] <= (7 if "untrained" in str(checkpoint) else 8), counts.waits
        found = detector(paths, score=0)
        detector.model.to("cpu")
    close(found, alone, 1e-3)
    assert [one.file for one in found] == [str(path) for path in paths]


def test_the_tiles_of_an_image_share_a_batch(untrained, many, monkeypatch):
    detector, batches = load(untrained, "cpu"), []
    detector.config = detector.config.model_copy(update={"tile": 48})
    alone = [detector.detect(image) for image in many]
    detector.model.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    monkeypatch.setattr(detector, "batch_size", 30)
    close(detector.detect_batch(many), alone, 1e-4)
    assert sum(batches) > 2 * len(many) and max(batches) > 8


def test_in_bfloat16_nearly_the_same_is_found(checkpoint, many, split):
    detector, record = load(checkpoint, "cpu"), split[0]
    labels, pixels = split.labels(record), decode(record.encoded)
    usual, losses = detector.detect(many[0]), detector.losses(record, labels, pixels)
    detector.set_precision("bfloat16")
    found, half = detector.detect(many[0]), detector.losses(record, labels, pixels)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert not same(found, usual) and half != losses
    assert found.scores.max() == pytest.approx(usual.scores.max(), rel=0.1)
    assert half == pytest.approx(losses, rel=0.1, abs=0.05)
    detector.set_precision("float32")
    assert same(detector.detect(many[0]), usual)


def test_the_operating_point_decides_unless_a_score_is_given(detector, images):
    everything = detector.detect(images[0])
    assert detector.score == 0.3
    assert same(detector(images[0]), everything.above(0.3))
    level = float(np.median(everything.scores))
    assert 0 < len(detector(images[0], score=level)) < len(everything)
    assert len(detector(images[0], score=1)) == 0


def test_without_an_operating_point_it_is_half(untrained, tmp_path):
    stored = load_checkpoint(untrained)
    save_checkpoint(tmp_path / "a.safetensors", replace(stored, card=replace(stored.card, score=None)))
    assert (load(tmp_path / "a.safetensors").score, load(tmp_path / "a.safetensors").has_score) == (0.5, False)
    assert load(untrained).has_score


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((64, 96, 3), np.float32),
        np.zeros((64, 96), np.uint8),
        np.zeros((3, 64, 96), np.uint8),
        np.zeros((64, 96, 4), np.uint8),
        np.zeros((1, 64, 96, 3), np.uint8),
        np.zeros((0, 96, 3), np.uint8),
        torch.zeros(64, 96, 3, dtype=torch.uint8),
        None,
        7,
    ],
    ids=lambda value: f"{getattr(value, 'dtype', value)}{list(getattr(value, 'shape', []))}",
)
def test_what_is_no_image_is_refused(detector, wrong):
    with pytest.raises(ResightError) as caught:
        detector(wrong)
    shape = str(tuple(wrong.shape)) if isinstance(wrong, np.ndarray) else type(wrong).__name__
    assert shape in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(detector, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    for name in ("a.png", "missing.png"):
        with pytest.raises(ResightError) as caught:
            detector(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (300, 2, 3)])
def test_images_of_absurd_shapes_are_images(detector, shape):
    found = detector(np.zeros(shape, np.uint8), score=0)
    assert (found.height, found.width) == shape[:2]
    assert (found.boxes <= [found.width, found.height] * 2).all()


def test_another_suppression_can_be_asked_for(untrained, images):
    detector = load(untrained, "cpu")
    usual = detector.detect(images[0])
    detector.set_nms(0.05)
    fewer = detector.detect(images[0])
    detector.set_nms(None, class_agnostic=True)
    fewest = detector.detect(images[0])
    assert len(usual) > len(fewer) > len(fewest) > 0
    corners = torch.from_numpy(fewest.boxes)
    from torchvision.ops import box_iou

    assert float(box_iou(corners, corners).fill_diagonal_(0).max()) <= 0.05 + 1e-6


# Losses


def test_losses_depend_neither_on_order_nor_on_what_was_before(detector, split):
    def losses(order):
        return {
            index: detector.losses(split[index], split.labels(split[index]), decode(split[index].encoded))
            for index in order
        }

    first = losses(range(4))
    torch.rand(5)
    assert losses([3, 1, 0, 2]) == first
    names = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert all(found.keys() == names and all(np.isfinite(v) for v in found.values()) for found in first.values())
    assert len({found["loss_classifier"] for found in first.values()}) == 4


def test_losses_are_of_the_image_that_was_decoded(detector, split):
    record, labels = split[0], split.labels(split[0])
    image = decode(record.encoded)
    losses = detector.losses(record, labels, image)
    assert detector.losses(replace(record, encoded=b""), labels, image) == losses
    assert detector.losses(record, labels, 255 - image) != losses


def test_losses_of_an_image_without_known_objects(detector, split):
    nothing = np.full(len(split[1].boxes), -1, np.int64)
    losses = detector.losses(split[1], nothing, decode(split[1].encoded))
    assert losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0 < losses["loss_classifier"]


# Loading


def test_a_run_folder_is_a_model(untrained, tmp_path, images, detector):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.safetensors").write_bytes(untrained.read_bytes())
    loaded = resight.load(tmp_path)
    assert loaded.name == str(tmp_path / "checkpoints" / "last.safetensors")
    assert same(loaded(images[0], score=0), detector(images[0], score=0))


def test_records_are_no_model(shapes):
    with pytest.raises(ResightError, match=r"holds no checkpoint\n.*resight train --data"):
        load(shapes(train=9, val=3))


def test_other_class_names_need_as_many(untrained, tmp_path):
    (tmp_path / "two.pbtxt").write_text(to_pbtxt(LabelMap.from_names(["rot", "blau"])))
    (tmp_path / "one.pbtxt").write_text(to_pbtxt(LabelMap.from_names(["rot"])))
    assert load(untrained, labels=tmp_path / "two.pbtxt").classes == ("rot", "blau")
    with pytest.raises(ResightError, match="names 1 classes, the model has 2") as caught:
        load(untrained, labels=tmp_path / "one.pbtxt")
    assert caught.value.where == str(tmp_path / "one.pbtxt")
    assert class_names(("a",), None) == ("a",)


def test_weights_that_do_not_fit_their_description_are_refused(untrained, tmp_path):
    stored = load_checkpoint(untrained)
    three = replace(stored, card=replace(stored.card, label_map=LabelMap.from_names(["a", "b", "c"])))
    save_checkpoint(tmp_path / "a.safetensors", three)
    with pytest.raises(ResightError, match="do not fit") as caught:
        load(tmp_path / "a.safetensors")
    assert caught.value.where == str(tmp_path / "a.safetensors")


def test_a_device_that_is_not_there_is_refused(untrained):
    for device in ("cuda:9", "gpu", "meta", "mps", "cpu:1", "CPU"):
        with pytest.raises(ResightError, match=f"there is no device '{device}' here") as caught:
            load(untrained, device)
        assert caught.value.fix.startswith("Choose auto or cpu")


def test_as_many_threads_as_asked_for_look_at_an_image(untrained, fpn_onnx):
    before = torch.get_num_threads()
    try:
        load(untrained, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    session = load(fpn_onnx, threads=3).session
    assert session.get_session_options().intra_op_num_threads == 3
    with pytest.raises(ResightError, match=r"^threads: is 0, and must be at least 1"):
        load(untrained, threads=0)


def test_in_tiles_small_objects_of_a_large_image_are_found_once_each():
    class Squares(Detector):
        """Finds squares of up to 60 pixels a side in images of 100 x 100, and larger ones alone in any other."""

        def detect_whole(self, image):
            boxes = []
            for value in range(1, len(placed) + 1):  # each square has a grey of its own
                y, x = np.nonzero(image[..., 0] == value)
                small = len(x) > 0 and np.ptp(x) < 60
                if len(x) and small == (image.shape[:2] == (100, 100)):
                    boxes.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
            array = np.array(boxes, np.float32).reshape(-1, 4)
            scores = np.linspace(0.9, 0.8, len(array), dtype=np.float32)
            return Detections(array, scores, np.zeros(len(array), np.int64), self.classes, *image.shape[1::-1])

    image = np.zeros((330, 410, 3), np.uint8)
    placed = [(3, 5, 20), (70, 80, 25), (160, 30, 12), (385, 300, 25), (240, 170, 22), (20, 200, 90)]
    for number, (x, y, side) in enumerate(placed, 1):
        image[y : y + side, x : x + side] = number
    detector = Squares(("square",), 0.5)
    assert len(detector.detect(image)) == 1  # the large one alone
    detector.config = detector.config.model_copy(update={"tile": 100})
    found = detector.detect(image)
    assert sorted(found.boxes.tolist()) == sorted([x, y, x + side, y + side] for x, y, side in placed)
    assert (found.width, found.height) == (410, 330) and (np.diff(found.scores) <= 0).all()


def test_a_model_with_tiles_says_so_in_every_form(untrained, images, tmp_path, monkeypatch):
    checkpoint = load_checkpoint(untrained)
    card = replace(checkpoint.card, model=checkpoint.card.model.model_copy(update={"tile": 64}))
    save_checkpoint(tmp_path / "tiled.safetensors", replace(checkpoint, card=card))
    tiled, whole = load(tmp_path / "tiled.safetensors", "cpu"), load(untrained, "cpu")
    assert tiled.tile == 64 and whole.tile == 0
    assert same(tiled.detect(images[0][:64, :64]), whole.detect(images[0][:64, :64]))
    assert not same(tiled.detect(images[0]), whole.detect(images[0]))
    graph = '<ir_version: 8, opset_import: ["": 18]> any (float[1] x) => (float[1] y) { y = Identity (x) }'
    monkeypatch.setattr(onnx_export, "to_onnx", lambda _: onnx.parser.parse_model(graph))  # its own takes seconds
    write_onnx(tiled, tmp_path / "tiled.onnx")
    assert load(tmp_path / "tiled.onnx").tile == 64
