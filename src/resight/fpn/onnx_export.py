"""A Faster R-CNN of the FPN dialect as one ONNX graph: resizing, network, proposals, RoIs and NMS inside.

The network is exported by ``torch.export`` with tensors of fixed count (proposals are padded, never fewer), which is
what keeps the graph free of data-dependent shapes; resizing is a small graph of its own in front of it.
"""

import warnings
from ast import literal_eval
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from onnxscript import opset18 as op
from torch import Tensor, nn
from torchvision.ops import roi_align

from ..detection import box_coder
from ..detection.boxes import big_enough
from ..detection.folding import as_convolutions
from ..detection.model import DetectionModel
from ..detection.onnx_graph import OPSET, Builder
from ..detection.roi_align import SAMPLES, assign_levels
from ..detection.stages import STAGE
from .faster_rcnn import POOL_SIZE, RPN_WEIGHTS, FasterRCNN, RCNNConfig

# Steps whose shapes depend on data or on the image are opaque to torch.export: it sees their output shapes only, and
# each becomes the ONNX operators written below. They are never run in PyTorch. So is ReLU6, as torch.export takes three
# times as long for PyTorch's as for all convolutions.
torch.library.define("resight::best", "(Tensor scores, int count) -> (Tensor, Tensor)")
torch.library.define("resight::stride", "(Tensor batch, Tensor feature) -> Tensor")
torch.library.define("resight::nms", "(Tensor boxes, Tensor scores, float iou, float score, int limit) -> Tensor")
torch.library.define("resight::pool", "(Tensor[] features, Tensor boxes, Tensor levels, int[] strides) -> Tensor")
torch.library.define("resight::relu6", "(Tensor x) -> Tensor")


@torch.library.register_fake("resight::best")
def _(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return scores.new_empty(count), scores.new_empty(count, dtype=torch.int64)


@torch.library.register_fake("resight::stride")
def _(batch: Tensor, feature: Tensor) -> Tensor:
    return batch.new_empty(2, dtype=torch.int64)


@torch.library.register_fake("resight::nms")
def _(boxes: Tensor, scores: Tensor, iou: float, score: float, limit: int) -> Tensor:
    return boxes.new_empty(limit, dtype=torch.int64)


@torch.library.register_fake("resight::pool")
def _(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[int]) -> Tensor:
    return boxes.new_empty(boxes.shape[0], features[0].shape[1], POOL_SIZE, POOL_SIZE)


@torch.library.register_fake("resight::relu6")
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _best(scores: Any, count: int) -> Any:
    """The ``count`` highest of ``[N]`` scores and their indices; filled up with -inf and 0 where N is less."""
    filled = op.Concat(scores, op.Constant(value_floats=[float("-inf")] * count), axis=0)
    values, index = op.TopK(filled, _ints(count), axis=0)
    return values, op.Where(op.Less(index, op.Shape(scores)), index, _ints(0))


def _stride(batch: Any, feature: Any) -> Any:
    """``[2]`` int64: how many pixels of the batch a cell of the feature stands for, rows and columns."""
    return op.Div(op.Slice(op.Shape(batch), _ints(2), _ints(4)), op.Slice(op.Shape(feature), _ints(2), _ints(4)))


def _nms(boxes: Any, scores: Any, iou: float, score: float, limit: int) -> Any:
    """Best-first indices ``[limit]`` into ``K * N`` of what NMS in each of the K groups keeps, padded with -1.

    boxes ``[K, N, 4]`` xyxy, scores ``[K, N]``; only scores above ``score`` take part.
    """
    per_group = op.Slice(op.Shape(boxes), _ints(1), _ints(2))
    kept = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, _ints(1)),
        per_group,
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[score]),
    )
    group, box = op.Gather(kept, _ints(0), axis=1), op.Gather(kept, _ints(2), axis=1)
    index = op.Squeeze(op.Add(op.Mul(group, per_group), box), _ints(1))
    count = op.Min(op.Shape(index), _ints(limit))
    _, order = op.TopK(op.Gather(op.Reshape(scores, _ints(-1)), index, axis=0), count, axis=0)
    padding = op.Expand(_ints(-1), op.Sub(_ints(limit), count))
    return op.Concat(op.Gather(index, order, axis=0), padding, axis=0)


def _pool(features: Any, boxes: Any, levels: Any, strides: Any) -> Any:
    """``[P, C, S, S]`` of ``boxes`` ``[P, 4]``, each pooled from the one of its ``levels`` ``[P]``."""
    parts, orders = [], []
    for level, (feature, stride) in enumerate(zip(features, strides, strict=False)):
        order = op.Squeeze(op.NonZero(op.Equal(levels, op.Constant(value_int=level))), _ints(0))
        part = op.RoiAlign(
            feature,
            op.Gather(boxes, order, axis=0),
            op.Expand(_ints(0), op.Shape(order)),
            coordinate_transformation_mode="output_half_pixel",
            output_height=POOL_SIZE,
            output_width=POOL_SIZE,
            sampling_ratio=SAMPLES,
            spatial_scale=1 / stride,
        )
        parts.append(part)
        orders.append(order)
    order = op.Concat(*orders, axis=0)
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    places = op.Range(zero, op.Squeeze(op.Shape(order)), one)
    back = op.ScatterElements(order, order, places, axis=0)
    return op.Gather(op.Concat(*parts, axis=0), back, axis=0)


def _relu6(x: Any) -> Any:
    return op.Clip(x, op.Constant(value_float=0.0), op.Constant(value_float=6.0))


class _ReLU6(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.resight.relu6(x)


class Exportable(nn.Module):
    """``(batch, size, scale) -> boxes, scores, labels, *stages`` with the weights and the arithmetic of ``model``.

    batch ``[1, 3, H, W]`` normalised and padded, size ``[2]`` float32 height and width without padding,
    scale ``[4]`` float32 from pixels of the network to those of the original image. Of RoIs, all are pooled from every
    level, or those ``by_level`` that belong to it: less work, in shapes that depend on data.
    """

    def __init__(self, model: FasterRCNN, by_level: bool = False) -> None:
        super().__init__()
        self.model, self.by_level = model, by_level
        self.config = model.config
        for level in range(len(model.config.anchors.sizes)):
            self.register_buffer(f"cell_anchors{level}", model.config.anchors.cell_anchors(level))

    def forward(self, batch: Tensor, size: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        features = self.model.backbone(batch)
        logits, deltas = self.model.rpn["head"](features)
        proposals, chosen, rpn_kept = self._propose(batch, features, logits, deltas, size)
        rois, boxes, head_scores, head_stages = proposals, proposals[:, None], [], []
        for number, (stage, head) in enumerate(self.model.box_heads):
            if number:
                rois = boxes[:, 0]
                head_stages.append(rois)
            class_logits, box_deltas = head["box_predictor"](head["box_head"](self._pool(batch, features, rois)))
            boxes = _clip(box_coder.decode(box_deltas, rois[:, None], stage.weights), size)
            head_scores.append(class_logits.softmax(-1))
            head_stages += [class_logits, box_deltas]
        boxes = boxes[:, 1:].transpose(0, 1)  # [K, P, 4]
        scores = torch.stack(head_scores).mean(0)[:, 1:].transpose(0, 1)
        scores = torch.where(big_enough(proposals, 1e-3)[None] & big_enough(boxes, 1e-2), scores, -1.0)
        index = torch.ops.resight.nms(boxes, scores, self.config.nms_iou, self.config.score, self.config.detections)
        index = index[index >= 0]
        labels = torch.div(index, boxes.shape[1], rounding_mode="floor")
        found = boxes.reshape(-1, 4)[index] * scale, scores.reshape(-1)[index], labels
        return *found, *logits, *deltas, *chosen, rpn_kept, proposals, *head_stages, index

    @property
    def stages(self) -> list[str]:
        """Names of what comes behind the labels."""
        levels = range(len(self.model.config.anchors.sizes))
        by_level = [f"{name}{level}" for name in ("rpn_logits", "rpn_deltas", "rpn_best") for level in levels]
        by_head = ["class_logits", "box_deltas"]
        for number in range(1, len(self.model.box_heads)):
            by_head += [f"{name}{number}" for name in ("rois", "class_logits", "box_deltas")]
        return [STAGE + name for name in (*by_level, "rpn_kept", "proposals", *by_head, "kept")]

    def _propose(
        self, batch: Tensor, features: Any, logits: Any, deltas: Any, size: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """``[P, 4]`` proposals, P fixed; what NMS did not fill is zero and taken out by its size later.

        Behind them the anchors ``[N]`` of each level that took part, and which of all these ``[P]`` became proposals.
        """
        config = self.config
        before, after = config.rpn_pre_nms_top_n[1], config.rpn_post_nms_top_n[1]
        logits_of_best, moves, anchors, chosen = [], [], [], []
        for level, (feature, logit, delta) in enumerate(zip(features, logits, deltas, strict=True)):
            best, index = torch.ops.resight.best(logit[0], before)
            logits_of_best.append(best)
            moves.append(delta[0][index])
            anchors.append(self._anchors(level, batch, feature, index))
            chosen.append(index)
        best = torch.stack(logits_of_best)  # [L, N]
        boxes = _clip(box_coder.decode(torch.stack(moves), torch.stack(anchors), RPN_WEIGHTS), size)
        scores = best.sigmoid()
        usable = torch.isfinite(best) & big_enough(boxes, 1e-3) & (scores >= config.rpn_score)
        scores = torch.where(usable, scores, -1.0)
        kept = torch.ops.resight.nms(boxes, scores, config.rpn_nms_iou, -0.5, after)
        proposals = boxes.reshape(-1, 4)[kept.clamp(min=0)]
        return torch.where((kept >= 0)[:, None], proposals, 0.0), chosen, kept

    def _anchors(self, level: int, batch: Tensor, feature: Tensor, index: Tensor) -> Tensor:
        """The anchors ``[N, 4]`` of the level with these indices, as ``grid_anchors`` numbers them."""
        cell_anchors = self.get_buffer(f"cell_anchors{level}")
        stride = torch.ops.resight.stride(batch, feature)
        place = torch.div(index, len(cell_anchors), rounding_mode="floor")
        y = torch.div(place, feature.shape[3], rounding_mode="floor")
        x = place - y * feature.shape[3]
        x, y = x * stride[1], y * stride[0]
        return cell_anchors[index - place * len(cell_anchors)] + torch.stack([x, y, x, y], dim=1)

    def _pool(self, batch: Tensor, features: Any, boxes: Tensor) -> Tensor:
        strides = self.model.backbone.pooled_strides
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
        levels = assign_levels(boxes, strides)
        if self.by_level:
            return torch.ops.resight.pool(features[: len(strides)], boxes, levels, strides)
        pooled = [
            torch.where(
                (levels == level)[:, None, None, None], roi_align(feature, rois, POOL_SIZE, 1 / stride, SAMPLES), 0
            )
            for level, (feature, stride) in enumerate(zip(features, strides, strict=False))
        ]
        return torch.stack(pooled).sum(0)


def _clip(boxes: Tensor, size: Tensor) -> Tensor:
    """``detection.boxes.clip`` for a size ``[2]`` (height, width) that is a tensor."""
    return torch.minimum(boxes.clamp(min=0), torch.stack([size[1], size[0], size[1], size[0]]))


def _front(inputs: RCNNConfig, ir_version: int) -> onnx.ModelProto:
    """``image`` uint8 ``[1, H, W, 3]`` -> batch, size and scale of :class:`Exportable`, by the resizing and
    padding of ``faster_rcnn``."""
    g = Builder()
    sides = g("Shape", "image", start=1, end=3)
    whole = g("Max", _network_size(g, sides, inputs.min_size, inputs.max_size), [1])
    sides, whole_double = g.double(sides), g.double(whole)
    pixels = g("Cast", g("Transpose", "image", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    pixels = g("Div", pixels, 255.0)
    if inputs.antialias:
        # ONNX Runtime's own filters otherwise than PyTorch's; as a product with the filter's matrix it is the same.
        rows, columns = (_filter(g, g("Gather", sides, axis), g("Gather", whole_double, axis)) for axis in (0, 1))
        small = g("MatMul", g("MatMul", rows, pixels), g("Transpose", columns, perm=[1, 0]))
    else:
        small = g("Resize", pixels, "", "", g("Concat", [1, 3], whole, axis=0), mode="linear")
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (inputs.mean, inputs.std))
    step = [inputs.multiple] * 2
    missing = g("Mod", g("Sub", step, g("Mod", whole, step)), step)
    outputs = {
        "batch": g("Pad", g("Div", g("Sub", small, mean), std), g("Concat", [0] * 6, missing, axis=0)),
        "size": g("Cast", whole, to=TensorProto.FLOAT),
        "scale": g("Gather", g("Cast", g("Div", sides, whole_double), to=TensorProto.FLOAT), [1, 0, 1, 0]),
    }
    return g.model(outputs, {"batch": [1, 3, "h", "w"], "size": [2], "scale": [4]}, ir_version)


LONGEST = 1 << 16  # pixels of a side; a longer one may come to a size that is larger by a pixel


def _network_size(g: Builder, sides: str, short: int, long: int) -> str:
    """``[2]`` int64: ``config.fit_size`` of ``sides`` ``[2]`` int64.

    Python rounds the scale to a double, rounds its product with the side to another one, and drops the fraction. Not
    all engines have doubles, and one takes the quotient of a constant and a minimum for its reciprocal. So the exact
    quotient is worked out in integers here, and where it is whole two tables tell whether rounding falls below it.
    """
    height, width = (g("Gather", sides, axis) for axis in (0, 1))
    least, most = g("Min", height, width), g("Max", height, width)
    by_short = g("LessOrEqual", g("Mul", most, np.int64(short)), g("Mul", least, np.int64(long)))
    product = g("Mul", sides, g("Where", by_short, np.int64(short), np.int64(long)))
    side = g("Where", by_short, least, most)
    floats = (g("Cast", each, to=TensorProto.FLOAT) for each in (product, side))
    about = g("Cast", g("Floor", g("Div", *floats)), to=TensorProto.INT64)
    above = g("LessOrEqual", g("Mul", g("Add", about, np.int64(1)), side), product)
    below = g("Greater", g("Mul", about, side), product)
    above, below = (g("Cast", each, to=TensorProto.INT64) for each in (above, below))
    size = g("Sub", g("Add", about, above), below)
    place = g("Min", side, np.int64(LONGEST - 1))
    falls = g("Where", by_short, g("Gather", _shortfall(short), place), g("Gather", _shortfall(long), place))
    lost = g("Greater", falls, g("Gather", _spacing(long), size))
    lost = g("And", lost, g("Equal", g("Mul", size, side), product))
    return g("Sub", size, g("Cast", lost, to=TensorProto.INT64))


def _shortfall(size: int) -> np.ndarray:
    """``[LONGEST]`` float32: by how much ``size / side`` as a double is less than it is, in parts of 2 ** -53 of it."""
    found = [0.0]
    for side in range(1, LONGEST):
        whole, part = (size / side).as_integer_ratio()
        found.append((size * part - whole * side) * 2**53 / (size * part))
    return np.array(found, np.float32)


def _spacing(most: int) -> np.ndarray:
    """``[most + 1]`` float32: how far below a whole number may lie what is rounded to it, in 2 ** -53 of it."""
    sizes = np.arange(1, most + 1)
    return np.concatenate([[0], (sizes - np.nextafter(sizes, 0)) / 2 / sizes * 2.0**53]).astype(np.float32)


def _filter(g: Builder, old: str, new: str) -> str:
    """``[new, old]`` float32: the triangle filter of one axis, as wide as the step where the image shrinks; each row
    sums to 1. Both lengths are doubles."""
    zero, half, one = (g.double(value) for value in (0.0, 0.5, 1.0))
    step = g("Div", old, new)
    center = g("Mul", g("Add", g("Range", zero, new, one), half), step)
    pixel = g("Add", g("Range", zero, old, one), half)
    away = g("Abs", g("Sub", pixel, g("Reshape", center, [-1, 1])))
    weight = g("Max", g("Sub", one, g("Div", away, g("Max", step, one))), zero)
    return g("Cast", g("Div", weight, g("ReduceSum", weight, [1])), to=TensorProto.FLOAT)


def to_onnx(model: DetectionModel) -> onnx.ModelProto:
    """The graph of ``model``: ``image`` uint8 ``[1, H, W, 3]`` -> boxes ``[N, 4]``, scores ``[N]``, labels ``[N]``."""
    assert isinstance(model, FasterRCNN)
    network = _network(model, by_level=False)
    front = _front(model.config, network.ir_version)
    links = [(front.graph.output[i].name, network.graph.input[i].name) for i in range(3)]
    return onnx.compose.merge_models(
        onnx.compose.add_prefix(front, "input/", rename_inputs=False, rename_outputs=False), network, io_map=links
    )


def to_body(model: DetectionModel) -> onnx.ModelProto:
    """The graph behind the resizing: ``batch``, ``size`` and ``scale``, as ``network_input`` makes them of an image."""
    assert isinstance(model, FasterRCNN)
    return _network(model, by_level=True)


def _network(model: FasterRCNN, by_level: bool) -> onnx.ModelProto:
    model = as_convolutions(model.eval())
    for name in [name for name, module in model.named_modules() if isinstance(module, nn.ReLU6)]:
        model.set_submodule(name, _ReLU6())
    height, width = torch.export.Dim("h32", min=2, max=512), torch.export.Dim("w32", min=2, max=512)
    example = (torch.rand(1, 3, 320, 416), torch.tensor([310.0, 400.0]), torch.ones(4))
    shapes = {"batch": {2: 32 * height, 3: 32 * width}, "size": None, "scale": None}
    exportable = Exportable(model, by_level).to(memory_format=torch.contiguous_format).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exportable,
            example,
            input_names=["batch", "size", "scale"],
            output_names=["boxes", "scores", "labels", *exportable.stages],
            opset_version=OPSET,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
            custom_translation_table={
                torch.ops.resight.best.default: _best,
                torch.ops.resight.stride.default: _stride,
                torch.ops.resight.nms.default: _nms,
                torch.ops.resight.pool.default: _pool,
                torch.ops.resight.relu6.default: _relu6,
            },
        )
    assert program is not None
    network = program.model_proto
    del network.graph.output[3:]  # the stages stay in the graph under their names
    for node in network.graph.node:
        if node.op_type in ("Conv", "Gemm"):  # by the module it is of, which may be asked several times
            scopes = next(each.value for each in node.metadata_props if each.key == "pkg.torch.onnx.name_scopes")
            node.name = f"{literal_eval(scopes)[-2].removeprefix('model.')}/{node.name}"
    return network
