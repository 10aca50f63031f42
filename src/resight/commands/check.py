"""``data check`` with what models know: which boxes the anchors that training would use can reach."""

from __future__ import annotations

import os

import numpy as np

from ..config.tree import Config, ModelConfig
from . import check_data as check
from .check_data import CheckReport


def check_data(
    path: str | os.PathLike[str], *, format: str = "auto", exif: str = "auto", config: Config | None = None
) -> CheckReport:
    """What is wrong with a source or a records folder, see :func:`resight.commands.check_data.check_data`."""
    return check.check_data(path, format=format, exif=exif, config=config, reach=reachable)


def reachable(model: ModelConfig, images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """``[N]`` the best IoU that an anchor has with each of the boxes ``[N, 4]`` (xyxy pixels) in images of the sizes
    ``[N, 2]`` (width, height): of the model's own anchors, or of those fitted to these boxes, as training does it."""
    # Torch comes with these, so not before there are boxes to compare.
    from ..detection.anchors import fit_anchors, reachable_iou
    from ..fpn.pretrained import has_detection_weights
    from ..input.target import to_input_frame
    from ..models.build import default_anchors, level_strides

    sizes, centers = to_input_frame(boxes, images, model)
    anchors, strides = default_anchors(model.name, model.tfod), level_strides(model.name)
    if model.anchors == "fit" and not has_detection_weights(model.name, model.start):
        anchors = fit_anchors(sizes, centers, strides, per_level=len(anchors.sizes[0]))
    return reachable_iou(sizes, centers, anchors, strides)
