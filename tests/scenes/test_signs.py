"""The faces of signs."""

import numpy as np

from resight.scenes.signs import DESIGNS, OTHERS, WANTED, paint_face

THREE = {"stop", "pedestrianCrossing", "signalAhead"}


def test_no_two_faces_are_alike():
    faces = {label: np.asarray(paint_face(label).convert("L"), np.float32) for label in DESIGNS}
    for label, face in faces.items():
        assert face.max() > 100
        assert all(np.abs(face - other).mean() > 1 for name, other in faces.items() if name != label)


def test_designs_name_the_three_classes_and_what_confuses_with_them(lisa):
    assert {design.label for design in WANTED} == THREE
    assert {design.label for design in OTHERS} <= lisa - THREE
