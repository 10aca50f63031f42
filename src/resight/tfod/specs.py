"""The models of the TFOD dialect: what each is by its name. Imports nothing heavy; the configuration reads it too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TfodSpec:
    """One model. Its anchors and thresholds are those of its configuration, ``model.tfod``."""

    name: str
    depth: int  # of the ResNet
    blocks: tuple[int, int, int, int]  # of its stages 2 to 5 (He et al. 2015, table 1)
    stride: int = 16  # of the one feature map
    min_size: int = 800  # pixels of the short side of an image ...
    max_size: int = 1333  # ... unless its long side would exceed this
    licence: str = "Apache-2.0"  # of the zoo's weights


BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
SPECS = {spec.name: spec for spec in (TfodSpec(f"faster_rcnn_resnet{n}_v1", n, blocks) for n, blocks in BLOCKS.items())}
