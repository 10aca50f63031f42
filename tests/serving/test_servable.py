"""What a server asks of a detector, and what it does not let near it."""

import numpy as np
import pytest

from fixtures.serving import Blank, encoded, picture
from resight.errors import ResightError
from resight.inference.saved_model import SavedModelDetector
from resight.serving.request import Refused
from resight.serving.servable import Servable, as_tfod
from resight.serving.worker import Task, load_servable
from resight.types import Detections


def objects(*items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def test_the_signature_is_that_of_an_export_by_tfod():
    pixels, encoded_images = Servable(Blank(), "m"), Servable(Blank(), "m", input_type="encoded_image_string_tensor")
    assert [(spec.name, spec.dtype, spec.shape) for spec in pixels.signature.outputs] == [
        ("detection_boxes", "float32", (1, 4, 4)),
        ("detection_classes", "float32", (1, 4)),
        ("detection_scores", "float32", (1, 4)),
        ("num_detections", "float32", (1,)),
    ]
    assert (pixels.input.dtype, pixels.input.shape) == ("uint8", (1, -1, -1, 3))
    assert (encoded_images.input.dtype, encoded_images.input.shape) == ("string", (-1,))


def test_detections_are_padded():
    found = Detections(
        np.array([[10, 20, 30, 40], [0, 0, 100, 50]], np.float32),
        np.array([0.9, 0.5], np.float32),
        np.array([2, 0]),
        ("a", "b", "c"),
        width=100,
        height=50,
    )
    outputs = as_tfod(found, 3)
    np.testing.assert_allclose(outputs["detection_boxes"][0], [[0.4, 0.1, 0.8, 0.3], [0, 0, 1, 1], [0, 0, 0, 0]])
    assert outputs["detection_classes"].tolist() == [[3, 1, 1]] and outputs["num_detections"].tolist() == [2]
    np.testing.assert_array_equal(outputs["detection_scores"], np.float32([[0.9, 0.5, 0]]))
    assert as_tfod(found, 1)["num_detections"].tolist() == [1]


def test_images_that_are_too_large_are_not_decoded():
    model = Servable(Blank(), "m", max_pixels=600)
    model.detector.seen.clear()
    large = encoded(picture(30, 21), "png")[:60]  # its header
    for given in (objects(large), picture(30, 21)[None]):
        with pytest.raises(Refused, match=r"21 x 30 pixels are more than the 0\.0006 million of this server"):
            model.run(given)
    with pytest.raises(Refused, match=r"^a\.png: 21 x 30 pixels"):
        model.read(large, "a.png", upright=True)
    assert model.detector.seen == [] and model.seconds == 0
    model.run(picture(30, 20)[None])
    assert model.detector.seen == [(30, 20, 3)] and model.seconds > 0


def test_images_of_several_sizes_are_refused():
    model = Servable(Blank(), "m")
    small, wide = (encoded(picture(16, width)) for width in (16, 24))
    assert model.run(objects(small, small))["detection_scores"].shape == (2, 4)
    with pytest.raises(Refused, match="of one size, not 16 x 16, 24 x 16"):
        model.run(objects(small, wide))


@pytest.mark.parametrize(
    ("input_type", "given", "message"),
    [
        ("image_tensor", objects(b"x"), r"input_tensor takes uint8 \[1, -1, -1, 3\], not string \[1\]"),
        ("image_tensor", np.zeros((2, 4, 4, 3), np.uint8), r"not uint8 \[2, 4, 4, 3\]"),
        ("image_tensor", np.zeros((1, 4, 4, 1), np.uint8), r"not uint8 \[1, 4, 4, 1\]"),
        ("image_tensor", np.zeros((1, 0, 4, 3), np.uint8), r"not uint8 \[1, 0, 4, 3\]"),
        ("image_tensor", np.zeros((1, 4, 4, 3), np.float32), r"not float32 \[1, 4, 4, 3\]"),
        ("encoded_image_string_tensor", np.zeros((1, 4, 4, 3), np.uint8), r"takes string \[-1\], not uint8"),
        ("encoded_image_string_tensor", objects(), r"takes string \[-1\], not string \[0\]"),
        (None, np.zeros((4, 4, 3), np.uint8), r"takes uint8 \[1, -1, -1, 3\] or string \[-1\], not uint8 \[4, 4, 3\]"),
    ],
)
def test_what_is_not_as_the_signature_says_is_refused(input_type, given, message):
    with pytest.raises(Refused, match=message):
        Servable(Blank(), "m", input_type=input_type).run(given)


def test_a_saved_model_has_its_own_kind_of_input():
    detector = SavedModelDetector(("stop",), 0.5, "model")
    detector.input_type = ""
    with pytest.raises(ResightError, match="takes what it was exported for"):
        Servable(detector, "m", input_type="image_tensor")


def test_a_worker_loads_what_it_is_told(untrained):
    task = Task(str(untrained), "m", 2, "cpu", input_type="encoded_image_string_tensor", max_pixels=5)
    model = load_servable(task)
    assert (model.name, model.version, model.input.dtype, model.max_pixels) == ("m", 2, "string", 5)


def test_a_shortage_of_memory_is_no_fault_of_the_image(monkeypatch):
    def load(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        Servable(Blank(), "m").read(encoded(picture(16, 16)), "a.jpg")
