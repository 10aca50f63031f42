import dataclasses

import numpy as np
import pytest
import torch

from resight.config.tree import ModelConfig
from resight.dialect import load_config
from resight.evaluation.coco import GroundTruth
from resight.evaluation.loop import ImageResult
from resight.evaluation.reach import MOST, anchor_iou, with_proposals
from resight.inference.detector import Detector
from resight.label_map import LabelMap
from resight.models.build import build_model
from resight.models.checkpoints import ModelMetadata
from resight.types import Detections, pairwise_iou

SIZES = {"model.min_size": 64, "model.max_size": 96}


@pytest.fixture(params=["test_efficientnet", "faster_rcnn_resnet50_v1"])
def detector(request):
    torch.manual_seed(0)
    config: ModelConfig = load_config(None, {"model.name": request.param} | SIZES).model
    model = build_model(config, 2).eval()
    return Detector.of(model, ModelMetadata.of(model, config, LabelMap.from_names(["a", "b"])), torch.device("cpu"))


def result(boxes, found=None, size=(90, 60)):
    """An image with objects of class 0 at ``boxes``, all of which are found, or those that ``found`` says."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    kept = boxes if found is None else boxes[found]
    count = len(kept)
    detections = Detections(kept, np.full(count, 0.9, np.float32), np.zeros(count, np.int64), ("a", "b"), *size)
    truth = GroundTruth.of(boxes, np.zeros(len(boxes), np.int64))
    return ImageResult(0, "a.jpg", "", truth, detections, {}, truth.labels, 0)


def test_proposals_lie_in_the_image_in_its_own_pixels(detector):
    image = np.random.default_rng(0).integers(0, 256, (120, 180, 3), np.uint8)
    proposals = detector.proposals(image)
    assert proposals.dtype == np.float32 and len(proposals) > 10
    assert (proposals >= 0).all() and (proposals <= [180.01, 120.01, 180.01, 120.01]).all()
    assert proposals[:, 2].max() > 120  # not the 90 pixels of the network
    small = detector.proposals(image[::2, ::2])
    assert small[:, 2].max() <= 90.01  # and of half the image in its pixels


def test_they_are_looked_at_where_an_object_is_missed(detector):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    boxes = [[5, 5, 30, 30], [40, 10, 80, 50]]
    rows = [result(boxes), result(boxes, found=[0]), result([])]
    (_, whole), (_, missed), (_, empty) = with_proposals(detector, [(image, row) for row in rows])
    assert whole.proposal_iou is None and empty.proposal_iou is None
    wanted = pairwise_iou(detector.proposals(image), np.array(boxes, np.float32)).max(0)
    assert np.array_equal(missed.proposal_iou, wanted) and (wanted > 0).all()


def test_of_many_images_with_a_missed_object_the_first_are_looked_at(detector, monkeypatch):
    monkeypatch.setattr(detector, "proposals", lambda image: np.zeros((0, 4), np.float32))
    rows = [(np.zeros((60, 90, 3), np.uint8), result([[5, 5, 30, 30]], found=[]))] * (MOST + 3)
    told = [row.proposal_iou for _, row in with_proposals(detector, rows)]
    assert [one is not None for one in told] == [True] * MOST + [False] * 3
    assert told[0].tolist() == [0.0]  # nothing was proposed


def test_the_best_anchor_is_the_best_of_a_plain_grid(detector):
    rows = [result([[5, 5, 30, 30], [40, 10, 80, 50]]), result([]), result([[0, 0, 90, 60]], size=(90, 60))]
    iou = anchor_iou(detector, rows)
    assert iou.shape == (3,) and ((iou > 0) & (iou <= 1)).all()
    larger = [dataclasses.replace(row, truth=GroundTruth.of(2 * row.truth.boxes, row.truth.labels)) for row in rows]
    larger = [
        dataclasses.replace(row, detections=dataclasses.replace(row.detections, width=180, height=120))
        for row in larger
    ]
    assert anchor_iou(detector, larger) == pytest.approx(iou, abs=0.05)  # the network sees them alike


def test_an_exported_model_has_neither():
    exported = Detector(("a", "b"), 0.5)
    rows = [(np.zeros((60, 90, 3), np.uint8), result([[5, 5, 30, 30]], found=[]))]
    assert [row.proposal_iou for _, row in with_proposals(exported, rows)] == [None]
    assert np.isnan(anchor_iou(exported, [rows[0][1]])).all()
