"""The TFOD dialect's inference in TensorFlow's operations, none of them younger than TensorFlow 2.8.

Weights are named as in the PyTorch model's ``state_dict`` and laid out as TensorFlow has them (HWIO, ``[in, out]``).
Boxes are ``[N, 4]`` float32 yxyx; absolute pixels of the network's input, unless a line says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from ..config.tree import ModelConfig
from ..detection.stages import STAGE
from .resnet_v1 import EPS, MEAN
from .specs import SPECS


def input_spec(input_type: str) -> tf.TensorSpec:
    if input_type in ("encoded_image_string_tensor", "tf_example"):
        return tf.TensorSpec([1], tf.string, "input_tensor")
    return tf.TensorSpec([1, None, None, 3], tf.uint8 if input_type == "image_tensor" else tf.float32, "input_tensor")


def decode_input(given: tf.Tensor, input_type: str) -> tf.Tensor:
    """``[H, W, 3]`` float32 0..255 of what a client sends."""
    if input_type in ("image_tensor", "float_image_tensor"):
        return tf.cast(given[0], tf.float32)
    encoded = given[0]
    if input_type == "tf_example":
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_single_example(encoded, features)["image/encoded"]
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.cast(tf.ensure_shape(image, [None, None, 3]), tf.float32)


class Graph:
    """Faster R-CNN ResNet V1 with these weights."""

    def __init__(self, weights: Mapping[str, tf.Variable], config: ModelConfig, num_classes: int) -> None:
        self.weights, self.config, self.tfod, self.num_classes = weights, config, config.tfod, num_classes

    def outputs(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """TFOD's serving outputs of an image ``[H, W, 3]`` float32 0..255."""
        pixels, true_size = self.preprocess(image)
        features = self.trunk(pixels)
        proposals, count = self.propose(features, tf.shape(pixels)[1:3], true_size)
        crops = self.crop(features, proposals / _yxyx(tf.shape(pixels)[1:3]))
        deltas, logits = self.second_stage(crops)
        return self.detections(proposals, count, deltas, tf.nn.softmax(logits), true_size)

    # Input

    def preprocess(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """``[1, h, w, 3]`` resized, padded, without the mean; and ``[2]`` float32 height and width without padding."""
        given = tf.cast(tf.shape(image)[:2], tf.float32)
        if self.tfod.fixed_size:
            size = tf.constant(self.tfod.fixed_size)
        else:
            short, long = float(self.config.min_size), float(self.config.max_size)
            target = tf.where(given[0] < given[1], [short, long], [long, short])
            size = tf.cast(tf.maximum(tf.round(tf.reduce_min(target / given) * given), 1.0), tf.int32)
        batch = tf.raw_ops.ResizeBilinear(images=image[None], size=size)
        if self.tfod.pad and not self.tfod.fixed_size:
            below, right = tf.unstack(self.config.max_size - size)
            margin = [[0, 0], [0, below], [0, right], [0, 0]]
            batch = tf.pad(batch, margin)
            if any(self.tfod.pad_value):
                inside = tf.zeros_like(batch[:, : size[0], : size[1], :1])
                batch += tf.pad(inside, margin, constant_values=1.0) * list(self.tfod.pad_value)
        return batch - list(MEAN), tf.cast(size, tf.float32)

    # Network

    def trunk(self, batch: tf.Tensor) -> tf.Tensor:
        """``[1, ceil(h / 16), ceil(w / 16), 1024]``."""
        x = tf.nn.relu(self.normed("backbone", 1, tf.pad(batch, [[0, 0], [3, 3], [3, 3], [0, 0]]), 2, "VALID"))
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        for stage, blocks in zip(("conv2", "conv3", "conv4"), SPECS[self.config.name].blocks, strict=False):
            x = self.stage(f"backbone.{stage}", x, blocks, 1 if stage == "conv2" else 2)
        return x

    def stage(self, name: str, x: tf.Tensor, blocks: int, stride: int) -> tf.Tensor:
        for i in range(blocks):
            block, step = f"{name}.{i}", stride if i == 0 else 1
            shortcut = self.normed(block, 0, x, step) if i == 0 else x
            y = tf.nn.relu(self.normed(block, 1, x, step))
            y = tf.nn.relu(self.normed(block, 2, y))
            x = tf.nn.relu(shortcut + self.normed(block, 3, y))
        return x

    def normed(self, block: str, number: int, x: tf.Tensor, stride: int = 1, padding: str = "SAME") -> tf.Tensor:
        """A convolution of the block and the norm after it."""
        x = tf.nn.conv2d(x, self.weights[f"{block}.conv{number}.weight"], stride, padding)
        parts = ("weight", "bias", "running_mean", "running_var")
        values = [self.weights[f"{block}.norm{number}.{part}"] for part in parts]
        return tf.compat.v1.nn.fused_batch_norm(x, *values, EPS, is_training=False)[0]

    def biased(self, name: str, x: tf.Tensor) -> tf.Tensor:
        weight = self.weights[f"{name}.weight"]
        x = tf.matmul(x, weight) if len(weight.shape) == 2 else tf.nn.conv2d(x, weight, 1, "SAME")
        return tf.nn.bias_add(x, self.weights[f"{name}.bias"])

    def crop(self, features: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        """``[N, 7, 7, 1024]`` of normalised boxes."""
        if self.tfod.matmul_crop:
            # A sample that rounding puts outside is worth what lies inside of it, not nothing: a margin of zeros.
            side = tf.cast(tf.shape(features)[1:3], tf.float32)
            features = tf.pad(features, [[0, 0], [0, 1], [0, 1], [0, 0]])
            boxes = boxes * tf.tile((side - 1) / side, [2])
        images = tf.zeros(self.tfod.proposals, tf.int32)
        crops = tf.image.crop_and_resize(features, boxes, images, [self.tfod.crop_size] * 2)
        return tf.nn.max_pool2d(crops, self.tfod.pool_size, self.tfod.pool_stride, "VALID")

    def second_stage(self, crops: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Box deltas ``[N, C or 1, 4]`` and logits ``[N, C + 1]``, background first."""
        x = tf.reduce_mean(self.stage("head.conv5", crops, 3, 2), [1, 2])
        shape = [self.tfod.proposals, 1 if self.tfod.share_boxes else self.num_classes, 4]
        deltas, logits = tf.reshape(self.biased("predictor.box", x), shape), self.biased("predictor.classes", x)
        return _stage("box_deltas", deltas), _stage("class_logits", logits)

    # Boxes

    def anchors(self, cells: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Those of ``cells`` (rows, columns), row by row, ratios before scales, clipped to the input."""
        tfod = self.tfod
        root = tf.sqrt(tf.repeat(tf.constant(tfod.anchor_ratios), len(tfod.anchor_scales)))
        scale = tf.tile(tf.constant(tfod.anchor_scales), [len(tfod.anchor_ratios)])
        half = tf.stack([scale / root * tfod.anchor_base[0], scale * root * tfod.anchor_base[1]], 1) / 2
        y, x = (
            tf.cast(tf.range(cells[i]), tf.float32) * float(tfod.anchor_stride[i]) + tfod.anchor_offset[i]
            for i in range(2)
        )
        centre = tf.stack(tf.meshgrid(y, x, indexing="ij"), -1)[:, :, None]
        return _clip(tf.reshape(tf.concat([centre - half, centre + half], -1), [-1, 4]), tf.cast(size, tf.float32))

    def propose(self, features: tf.Tensor, size: tf.Tensor, true_size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """``[P, 4]`` proposals, best first, zeros behind the last; and how many there are."""
        x = tf.nn.relu6(self.biased("rpn.conv", features))
        deltas = _stage("rpn_deltas", tf.reshape(self.biased("rpn.box", x), [-1, 4]))
        logits = _stage("rpn_logits", tf.reshape(self.biased("rpn.objectness", x), [-1, 2]))
        boxes = _decode(deltas, self.anchors(tf.shape(features)[1:3], size))
        limit = self.tfod.proposals
        kept, _ = tf.image.non_max_suppression_with_scores(
            boxes, tf.nn.softmax(logits)[:, 1], limit, self.tfod.rpn_nms_iou, self.tfod.rpn_score
        )
        boxes = _clip(tf.gather(boxes, _stage("rpn_kept", kept)), true_size)
        boxes = _stage("proposals", tf.boolean_mask(boxes, _area(boxes) > 0))
        count = tf.shape(boxes)[0]
        return tf.ensure_shape(tf.pad(boxes, [[0, limit - count], [0, 0]]), [limit, 4]), count

    def detections(
        self, proposals: tf.Tensor, count: tf.Tensor, deltas: tf.Tensor, scores: tf.Tensor, true_size: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        limit = self.tfod.detections
        boxes = _decode(deltas, proposals[:, None])  # [P, C or 1, 4]
        box, score, label, row = self.suppress(boxes[:count], scores[:count, 1:])
        box = _clip(box, true_size)
        whole = _area(box) > 0
        box, score, label, row = (tf.boolean_mask(each, whole)[:limit] for each in (box, score, label, row))
        found = tf.shape(score)[0]

        def filled(values: tf.Tensor) -> tf.Tensor:
            """``[1, limit, ...]``, zeros behind the last."""
            margins = [[0, limit - found]] + [[0, 0]] * (len(values.shape) - 1)
            return tf.ensure_shape(tf.pad(values, margins), [limit, *values.shape[1:]])[None]

        best = tf.argmax(scores[:, 1:], 1) if not self.tfod.share_boxes else tf.zeros(self.tfod.proposals, tf.int64)
        raw = tf.gather(boxes, best, batch_dims=1)
        return {
            "detection_anchor_indices": filled(tf.cast(row, tf.float32)),
            "detection_boxes": filled(box / _yxyx(true_size)),
            "detection_classes": filled(tf.cast(label, tf.float32)) + 1,
            "detection_multiclass_scores": filled(tf.gather(scores, row)),
            "detection_scores": filled(score),
            "num_detections": tf.cast(found, tf.float32)[None],
            "raw_detection_boxes": tf.clip_by_value(raw / _yxyx(true_size), 0.0, 1.0)[None],
            "raw_detection_scores": scores[None],
        }

    def suppress(self, boxes: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """What each class keeps of boxes ``[n, C or 1, 4]`` and scores ``[n, C]``, best first: boxes, scores, classes
        from 0, rows. A loop over the classes loads faster than as many copies of its operations."""
        most = min(self.tfod.detections_per_class, self.tfod.proposals)
        shared = self.tfod.share_boxes

        def of_class(label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            kept, kept_scores = tf.image.non_max_suppression_with_scores(
                boxes[:, 0 if shared else label], scores[:, label], most, self.tfod.nms_iou, self.tfod.score
            )
            room = [[0, most - tf.shape(kept)[0]]]
            return tf.pad(kept, room), tf.pad(kept_scores, room, constant_values=-1.0)

        kinds = tf.TensorSpec([most], tf.int32), tf.TensorSpec([most], tf.float32)
        rows, kept_scores = tf.map_fn(of_class, tf.range(self.num_classes), fn_output_signature=kinds)
        labels = tf.repeat(tf.range(self.num_classes), most)
        ordered, order = tf.math.top_k(tf.reshape(kept_scores, [-1]), self.num_classes * most)  # of equals the earlier
        order = tf.boolean_mask(order, ordered > -1)
        label, row = tf.gather(labels, order), tf.gather(tf.reshape(rows, [-1]), order)
        label, row = _stage("kept_labels", label), _stage("kept", row)
        box = tf.gather_nd(boxes, tf.stack([row, tf.zeros_like(label) if shared else label], 1))
        return box, tf.gather_nd(scores, tf.stack([row, label], 1)), label, row


def _stage(name: str, value: tf.Tensor) -> tf.Tensor:
    """``value`` under a name by which a comparison finds it."""
    return tf.identity(value, name=STAGE + name)


def _yxyx(size: tf.Tensor) -> tf.Tensor:
    return tf.tile(tf.cast(size, tf.float32), [2])


def _clip(boxes: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.maximum(tf.minimum(boxes, _yxyx(size)), 0.0)


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], 1)


def _decode(deltas: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + size / 2
    deltas = deltas / [10.0, 10.0, 5.0, 5.0]
    centre += deltas[..., :2] * size
    half = tf.exp(deltas[..., 2:]) * size / 2
    return tf.concat([centre - half, centre + half], -1)
