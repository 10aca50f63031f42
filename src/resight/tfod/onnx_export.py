"""A Faster R-CNN of the TFOD dialect as one ONNX graph, with the outputs of TFOD's signature by name.

Boxes are ``[N, 4]`` float32 yxyx; absolute pixels of the network's input, unless a line says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from ..detection.onnx_graph import Builder
from .faster_rcnn import TfodRCNN
from .resnet_v1 import EPS, MEAN
from .specs import SPECS

LONGEST = 1 << 16  # pixels of a side
Convolve = Callable[[str, str, str], str]  # names of convolution and norm, input


class TfodGraph(Builder):
    def __init__(self, model: TfodRCNN) -> None:
        super().__init__()
        self.weights = {name: value.detach().cpu().double().numpy() for name, value in model.state_dict().items()}
        self.config, self.tfod, self.num_classes = model.config, model.tfod, model.num_classes
        self.blocks = SPECS[self.config.name].blocks

    def build(self) -> onnx.ModelProto:
        """``image`` uint8 ``[1, H, W, 3]`` -> TFOD's serving outputs."""
        return self.network(*self.front("image"))

    def body(self) -> onnx.ModelProto:
        """``batch`` and ``size``, as ``network_input`` makes them of an image -> TFOD's serving outputs."""
        return self.network("batch", "size", {"batch": [1, 3, "h", "w"], "size": [2]})

    def network(self, batch: str, true_size: str, inputs: dict[str, list[Any]] | None = None) -> onnx.ModelProto:
        size = self.sides(batch)
        features = self.trunk(batch)
        proposals, count = self.propose(features, size, true_size)
        crops = self.crop(features, self("Mul", proposals, self("Div", 1.0, self.yxyx(size))))
        deltas, logits = self.second_stage(crops)
        found = self.detections(proposals, count, deltas, self("Softmax", logits, axis=1), true_size)
        outputs = {name: self("Reshape", value, shape) for name, (value, shape) in found.items()}
        return self.model(outputs, {name: shape for name, (_, shape) in found.items()}, 8, inputs)

    # Input

    def front(self, image: str) -> tuple[str, str]:
        """``[1, 3, h, w]`` resized, padded, without the mean; and ``[2]`` height and width without padding."""
        pixels = self("Cast", self("Squeeze", image, [0]), to=TensorProto.FLOAT)
        given = self("Cast", self("Shape", image, start=1, end=3), to=TensorProto.FLOAT)
        if self.tfod.fixed_size:
            size: Any = self("Identity", np.array(self.tfod.fixed_size, np.float32))
        else:
            landscape = self("Less", self.at(given, 0), self.at(given, 1))
            short, long = (self.share(side, given) for side in (self.config.min_size, self.config.max_size))
            wanted = [self("Gather", each, axis) for each, axis in ((short, 0), (long, 1), (long, 0), (short, 1))]
            scale = self("Where", landscape, self("Min", *wanted[:2]), self("Min", *wanted[2:]))
            size = self("Max", self("Round", self("Mul", scale, given)), 1.0)
        for axis in (1, 0):
            pixels = self.interpolated(pixels, axis, self.at(given, axis), self.at(size, axis))
        batch = self("Unsqueeze", self("Transpose", pixels, perm=[2, 0, 1]), [0])
        if self.tfod.pad and not self.tfod.fixed_size:
            short_of = self("Sub", self.config.max_size, self("Cast", size, to=TensorProto.INT64))
            margins = self("Concat", [0] * 6, short_of, axis=0)
            padding = np.array(self.tfod.pad_value, np.float32)[:, None, None]
            batch = self("Add", self("Pad", self("Sub", batch, padding), margins), padding)
        return self("Sub", batch, np.array(MEAN, np.float32)[:, None, None]), size

    def share(self, size: int, sides: str) -> str:
        """``size / sides`` rounded to float32. By a table: some engines multiply with a reciprocal, and the last digit
        decides where an image comes to half a pixel."""
        table = np.float32(size) / np.arange(LONGEST, dtype=np.float32).clip(min=1)
        place = self("Cast", self("Min", sides, float(LONGEST - 1)), to=TensorProto.INT64)
        known = self("Less", sides, float(LONGEST))
        return self("Where", known, self("Gather", table, place), self("Div", float(size), sides))

    def interpolated(self, pixels: str, axis: int, length: str, wanted: str) -> str:
        """TensorFlow 1's bilinear interpolation along one axis of ``[H, W, 3]``."""
        step = self("Div", self.double(length), self.double(wanted))
        at = self("Mul", self.range(wanted), self("Cast", step, to=TensorProto.FLOAT))
        last = self("Sub", length, 1.0)
        before = self("Min", self("Floor", at), last)
        after = self("Min", self("Add", before, 1.0), last)
        one, other = (
            self("Gather", pixels, self("Cast", place, to=TensorProto.INT64), axis=axis) for place in (before, after)
        )
        fraction = self("Reshape", self("Sub", at, before), [-1, 1] if axis == 1 else [-1, 1, 1])
        return self("Add", one, self("Mul", self("Sub", other, one), fraction))

    # Network

    def trunk(self, batch: str) -> str:
        """``[1, 1024, ceil(h / 16), ceil(w / 16)]``."""
        x = self("Relu", self.conv("backbone.conv1", "backbone.norm1", batch, 2))
        x = self("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
        for stage, blocks in zip(("conv2", "conv3", "conv4"), self.blocks, strict=False):
            for i in range(blocks):
                first = partial(self.conv, stride=2 if i == 0 and stage != "conv2" else 1)
                x = self.block(f"backbone.{stage}.{i}", x, first, self.conv)
        return x

    def block(self, name: str, x: str, first: Convolve, rest: Convolve) -> str:
        """``first`` are the convolutions of the block's input, ``rest`` its inner ones."""
        shortcut = first(f"{name}.conv0", f"{name}.norm0", x) if f"{name}.conv0.weight" in self.weights else x
        y = self("Relu", first(f"{name}.conv1", f"{name}.norm1", x))
        y = self("Relu", rest(f"{name}.conv2", f"{name}.norm2", y))
        return self("Relu", self("Add", rest(f"{name}.conv3", f"{name}.norm3", y), shortcut))

    def folded(self, conv: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias of a convolution with the norm after it."""
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPS)
        return self.weights[f"{conv}.weight"] * scale[:, None, None, None], beta - mean * scale

    def conv(self, conv: str, norm: str, x: str, stride: int = 1) -> str:
        weight, bias = self.folded(conv, norm)
        return self("Conv", x, weight, bias, name=conv, strides=[stride] * 2, pads=[weight.shape[2] // 2] * 4)

    def biased(self, name: str, x: str) -> str:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        if weight.ndim == 2:
            return self("Gemm", x, weight, bias, name=name, transB=1)
        return self("Conv", x, weight, bias, name=name, pads=[weight.shape[2] // 2] * 4)

    def crop(self, features: str, boxes: str) -> str:
        """RoI features ``[N * S * S, 1024]`` of normalised boxes, best read as NHWC.

        The convolutions that follow have the stride 2, so only every second pooled row and column is worked out. What
        is pooled are the samples of RoIAlign, one in each bin: those of every 2nd window's first pixel, second, ...
        """
        tfod = self.tfod
        self.cells = ((tfod.crop_size - tfod.pool_size) // tfod.pool_stride + 2) // 2
        size = self.sides(features)
        y1, x1, y2, x2 = self("Split", boxes, outputs=4, axis=1, num_outputs=4)
        rows = [self.bins(y1, y2, self.at(size, 0), first) for first in range(tfod.pool_size)]
        columns = [self.bins(x1, x2, self.at(size, 1), first) for first in range(tfod.pool_size)]
        samples = []
        for top, bottom, row_inside in rows:
            for left, right, column_inside in columns:
                taken = self(
                    "RoiAlign",
                    features,
                    self("Concat", left, top, right, bottom, axis=1),
                    np.zeros(tfod.proposals, np.int64),
                    coordinate_transformation_mode="half_pixel",
                    output_height=self.cells,
                    output_width=self.cells,
                    sampling_ratio=1,
                )
                if not tfod.matmul_crop:
                    inside = self(
                        "Mul", self("Unsqueeze", row_inside, [1, 3]), self("Unsqueeze", column_inside, [1, 2])
                    )
                    taken = self("Mul", taken, inside)
                samples.append(taken)
        return self("Reshape", self("Transpose", self("Max", *samples), perm=[0, 2, 3, 1]), [-1, 1024])

    def bins(self, low: str, high: str, length: str, first: int) -> tuple[str, str, str]:
        """Along one axis the ends ``[N, 1]`` of the RoIs in whose bins, in the middle, lie the samples ``first`` of
        every second window; and ``[N, S]`` 1 where such a sample is on the map: outside the native operation finds 0.
        """
        last = self("Sub", length, 1.0)
        step = self("Div", self("Mul", self("Sub", high, low), last), float(max(self.tfod.crop_size - 1, 1)))
        start = low if self.tfod.crop_size > 1 else self("Mul", self("Add", low, high), 0.5)
        start, between = self("Mul", start, last), 2 * self.tfod.pool_stride
        samples = np.arange(self.cells, dtype=np.float32) * between + first
        at = self("Add", start, self("Mul", samples, step))
        inside = self("And", self("GreaterOrEqual", at, 0.0), self("LessOrEqual", at, last))
        # RoIAlign counts from the corner of the first pixel, half a pixel before its middle.
        lower = self("Add", self("Add", start, self("Mul", first - between / 2, step)), 0.5)
        upper = self("Add", lower, self("Mul", float(between * self.cells), step))
        return lower, upper, self("Cast", inside, to=TensorProto.FLOAT)

    def second_stage(self, x: str) -> tuple[str, str]:
        """Box deltas ``[N, C or 1, 4]`` and logits ``[N, C + 1]`` from RoI features ``[N * S * S, 1024]``.

        Planes this small are convolved faster as products of matrices with all RoIs below one another.
        """
        for i in range(self.blocks[3]):
            x = self.block(f"head.conv5.{i}", x, self.product, self.product)
        x = self("ReduceMean", self("Reshape", x, [self.tfod.proposals, self.cells**2, 2048]), [1], keepdims=0)
        deltas = self("Reshape", self.biased("predictor.box", x), [self.tfod.proposals, -1, 4])
        return self.stage("box_deltas", deltas), self.stage("class_logits", self.biased("predictor.classes", x))

    def product(self, conv: str, norm: str, x: str) -> str:
        weight, bias = self.folded(conv, norm)
        channels, depth, side, _ = weight.shape
        if side > 1:
            x = self("Gather", self("Concat", x, np.zeros((1, depth), np.float32), axis=0), self.neighbours())
            x = self("Reshape", x, [-1, side * side * depth])
        return self("Gemm", x, weight.transpose(2, 3, 1, 0).reshape(-1, channels), bias, name=conv)

    def neighbours(self) -> np.ndarray:
        """``[N * S * S, 9]``: rows of the 3x3 cells around each cell; the row behind the last for those outside."""
        count, side = self.tfod.proposals, self.cells
        rows = np.full((count, side + 2, side + 2), count * side**2)
        rows[:, 1:-1, 1:-1] = np.arange(count * side**2).reshape(count, side, side)
        return np.stack([rows[:, y : y + side, x : x + side] for y in range(3) for x in range(3)], -1).reshape(-1, 9)

    # Boxes

    def propose(self, features: str, size: str, true_size: str) -> tuple[str, str]:
        """``[P, 4]`` proposals, best first, zeros behind the last; and ``[1]`` how many there are."""
        x = self("Clip", self.biased("rpn.conv", features), 0.0, 6.0)
        planes = {"rpn_deltas": self.biased("rpn.box", x), "rpn_logits": self.biased("rpn.objectness", x)}
        deltas, logits = (
            self.stage(name, self("Reshape", self("Transpose", plane, perm=[0, 2, 3, 1]), [-1, values]))
            for (name, plane), values in zip(planes.items(), (4, 2), strict=True)
        )
        scores = self("Gather", self("Softmax", logits, axis=1), 1, axis=1)
        boxes = self.decode(deltas, self.anchors(self.sides(features), size))
        limits = [self.tfod.proposals], [self.tfod.rpn_nms_iou], [self.tfod.rpn_score]
        kept = self("NonMaxSuppression", self("Unsqueeze", boxes, [0]), self("Unsqueeze", scores, [0, 1]), *limits)
        row = self("Gather", kept, 2, axis=1)
        kept = self.stage("rpn_kept", self("Gather", row, self.order(self("Gather", scores, row))))
        boxes = self.clip(self("Gather", boxes, kept), true_size)
        boxes = self.stage("proposals", self("Compress", boxes, self.has_area(boxes), axis=0))
        count = self("Shape", boxes, end=1)
        return self.filled(boxes, count, self.tfod.proposals), count

    def anchors(self, cells: str, size: str) -> str:
        """Those of ``cells`` (rows, columns), row by row, ratios before scales, clipped to the input."""
        tfod = self.tfod
        root = np.sqrt(np.repeat(np.array(tfod.anchor_ratios, np.float32), len(tfod.anchor_scales)))
        scale = np.tile(np.array(tfod.anchor_scales, np.float32), len(tfod.anchor_ratios))
        half = np.stack([scale / root * tfod.anchor_base[0], scale * root * tfod.anchor_base[1]], 1) / 2
        y, x = (
            self("Add", self("Mul", self.range(self.at(cells, i)), float(tfod.anchor_stride[i])), tfod.anchor_offset[i])
            for i in range(2)
        )
        columns, rows = self("Reshape", y, [-1, 1, 1, 1]), self("Reshape", x, [1, -1, 1, 1])
        y, x = self("Add", columns, self("Mul", rows, 0.0)), self("Add", rows, self("Mul", columns, 0.0))
        centre = self("Concat", y, x, axis=3)
        corners = self("Concat", self("Sub", centre, half), self("Add", centre, half), axis=3)
        return self.clip(self("Reshape", corners, [-1, 4]), size)

    def detections(
        self, proposals: str, count: str, deltas: str, scores: str, true_size: str
    ) -> dict[str, tuple[str, list[Any]]]:
        """TFOD's outputs by their names, each with its shape."""
        tfod, kinds, limit = self.tfod, self.num_classes, self.tfod.detections
        boxes = self.decode(deltas, self("Unsqueeze", proposals, [1]))  # [P, C or 1, 4]
        valid = self("Slice", boxes, [0], count, [0])
        own = self("Slice", scores, [0, 1], self("Concat", count, [kinds + 1], axis=0), [0, 1])
        by_class, score_of = self("Transpose", valid, perm=[1, 0, 2]), self("Transpose", own, perm=[1, 0])
        shared = tfod.share_boxes
        most = min(tfod.detections_per_class, tfod.proposals)
        score_of = self("Unsqueeze", score_of, [0 if shared else 1])
        kept = self("NonMaxSuppression", by_class, score_of, [most], [tfod.nms_iou], [tfod.score])
        label, row = self("Gather", kept, [1 if shared else 0], axis=1), self("Gather", kept, [2], axis=1)
        score = self("GatherND", own, self("Concat", row, label, axis=1))
        order = self.order(score)
        row, label, score = (self("Gather", each, order) for each in (row, label, score))
        row, label = self.stage("kept", row), self.stage("kept_labels", label)
        place = self("Concat", row, self("Mul", label, 0) if shared else label, axis=1)
        box = self.clip(self("GatherND", valid, place), true_size)
        whole = self.has_area(box)
        row, label, score, box = (
            self("Slice", self("Compress", each, whole, axis=0), [0], [limit], [0]) for each in (row, label, score, box)
        )
        found = self("Shape", score, end=1)
        best: Any = np.zeros((tfod.proposals, 1), np.int64)
        if not shared:
            best = self("ArgMax", self("Slice", scores, [1], [kinds + 1], [1]), axis=1)
        raw = self("Div", self("GatherND", boxes, best, batch_dims=1), self.yxyx(true_size))
        numbers = (self("Cast", each, to=TensorProto.FLOAT) for each in (row, label, found))
        row_number, label_number, found_number = numbers
        multiclass = self("Gather", scores, self("Squeeze", row, [1]))
        box = self("Div", box, self.yxyx(true_size))
        score = self("Pad", score, self("Concat", [0], self("Sub", [limit], found), axis=0))
        return {
            "detection_anchor_indices": (self.filled(row_number, found, limit), [1, limit]),
            "detection_boxes": (self.filled(box, found, limit), [1, limit, 4]),
            "detection_classes": (self("Add", self.filled(label_number, found, limit), 1.0), [1, limit]),
            "detection_multiclass_scores": (self.filled(multiclass, found, limit), [1, limit, kinds + 1]),
            "detection_scores": (score, [1, limit]),
            "num_detections": (found_number, [1]),
            "raw_detection_boxes": (self("Clip", raw, 0.0, 1.0), [1, tfod.proposals, 4]),
            "raw_detection_scores": (scores, [1, tfod.proposals, kinds + 1]),
        }

    def order(self, scores: str) -> str:
        """Best first, of equals the earlier."""
        return self("TopK", scores, self("Shape", scores), outputs=2, axis=0)[1]

    def decode(self, deltas: str, anchors: str) -> str:
        """``[..., 4]`` from deltas (ty, tx, th, tw)."""
        low, high = self("Split", anchors, outputs=2, axis=-1, num_outputs=2)
        shift, growth = self("Split", deltas, outputs=2, axis=-1, num_outputs=2)
        size = self("Sub", high, low)
        centre = self("Add", low, self("Div", size, 2.0))
        centre = self("Add", self("Mul", self("Div", shift, 10.0), size), centre)
        half = self("Div", self("Mul", self("Exp", self("Div", growth, 5.0)), size), 2.0)
        return self("Concat", self("Sub", centre, half), self("Add", centre, half), axis=-1)

    def clip(self, boxes: str, size: str) -> str:
        return self("Max", self("Min", boxes, self.yxyx(size)), 0.0)

    def has_area(self, boxes: str) -> str:
        low, high = self("Split", boxes, outputs=2, axis=1, num_outputs=2)
        return self("Greater", self("ReduceProd", self("Sub", high, low), [1], keepdims=0), 0.0)

    # Small parts

    def at(self, vector: str, index: int) -> str:
        return self("Gather", vector, index)

    def range(self, count: str) -> str:
        """0, 1, ... as float32, up to below ``count``, a float32 scalar."""
        return self("Range", 0.0, count, 1.0)

    def sides(self, plane: str) -> str:
        """``[2]`` float32: height and width of ``[1, C, H, W]``."""
        return self("Cast", self("Shape", plane, start=2), to=TensorProto.FLOAT)

    def yxyx(self, size: str) -> str:
        return self("Concat", size, size, axis=0)

    def filled(self, values: str, count: str, limit: int) -> str:
        """``[count, n]`` -> ``[limit, n]``, zeros behind the last."""
        return self("Pad", values, self("Concat", [0, 0], self("Sub", [limit], count), [0], axis=0))
