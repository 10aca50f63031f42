"""A network of OpenVINO in 8-bit integers: static, weights by channel, calibrated on images.

Only what has weights and what lies between two of those is quantised; decoding of boxes, suppression, pooling of RoIs
and softmax stay in float. Layers that cost too much stay in float with the group they are of.
"""

from __future__ import annotations

import copy
import importlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import listed
from ..inference.openvino_runtime import OpenVinoDetector, openvino
from ..io.progress import track
from .trial import Missed, OneByOne, Trial

log = logging.getLogger(__name__)

Feed = Mapping[str, np.ndarray]  # the network's input for an image
SAMPLES = 64  # training images that it is calibrated on; more cost time and gave no better mAP
WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
MOVING = ("Interpolate", "Gather", "Reshape", "Transpose")  # their first input, by what the others say
BETWEEN = ("Add", "Relu", "Clamp", "MaxPool", "Concat", *MOVING)  # quantised where all that goes in is


@dataclass(frozen=True)
class Quantized:
    """A quantised ``openvino.Model``, its mAP, and the groups of layers that stay in float."""

    model: Any
    ap: float
    in_float: tuple[str, ...]


def int8(body: Any, exported: OpenVinoDetector, trial: Trial, reference: float | None) -> tuple[Quantized, str]:
    """The network of ``exported`` in 8 bits, and what that gains and costs in words.

    Args:
        body: the network, an ``openvino.Model``.
        reference: the mAP that is not to be missed by more than the loss allowed; by default that of ``exported``.

    Raises:
        Missed: it is.
    """

    def detector_of(model: Any) -> OpenVinoDetector:
        detector = copy.copy(exported)
        detector.use(model)
        return detector

    images = trial.samples(SAMPLES)
    feeds = OneByOne(lambda place: exported.prepare(images[place]), len(images))
    before = trial.ap(exported, "mAP in float32")
    least = (before if reference is None else reference) - trial.max_ap_loss
    log.info("float32: mAP %.4f", before)
    found = quantize(body, feeds, lambda model: trial.ap(detector_of(model), "mAP in int8"), least)
    slow, fast = trial.milliseconds([exported.detect, detector_of(found.model).detect])
    text = (
        f"mAP on val {before:.4f} in float32, {found.ap:.4f} in int8; {slow:.0f} ms an image and {fast:.0f} ms, here. "
        f"In float stay {listed(found.in_float) if found.in_float else 'no layers with weights'}."
    )
    if found.ap < least:
        fix = "Allow more with --max-ap-loss, or export it without --precision int8."
        raise Missed(f"int8 needs a mAP of {least:.4f} and has less: {text}", where="--max-ap-loss", fix=fix)
    return found, text


def quantize(body: Any, feeds: Sequence[Feed], ap_of: Callable[[Any], float], least: float) -> Quantized:
    """``body`` in 8 bits with a mAP of ``least`` or more, or where half of the groups in float do not reach that, the
    best there was.

    Args:
        body: an ``openvino.Model`` whose layers are named by their modules; it stays as it is.
        feeds: inputs of the network that it is calibrated on.
        ap_of: the mAP of such a model.
    """
    body = _folded(body)
    layers = groups(body)
    best = found = _measured(body, feeds, ap_of, ())
    if found.ap < least:
        order = _by_gain(body, feeds, ap_of)
        for count in range(1, len(layers) // 2 + 1):
            found = _measured(body, feeds, ap_of, tuple(order[:count]))
            best = max(best, found, key=lambda each: each.ap)
            if found.ap >= least:
                return found
    return best


def _folded(body: Any) -> Any:
    """A copy whose weights are constants, and no products of those with what a norm came to."""
    passes = importlib.import_module("openvino.passes")
    folded, manager = body.clone(), passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(folded)
    return folded


def groups(body: Any) -> dict[str, list[str]]:
    """The names of the layers with weights of a folded ``body``, by what they are part of: a block of the backbone,
    the FPN, a head."""
    found: dict[str, list[str]] = {}
    for node in body.get_ordered_ops():
        if node.get_type_name() in WEIGHTED and _is_constant(node.input_value(1).get_node()):
            found.setdefault(_group_of(node.get_friendly_name()), []).append(node.get_friendly_name())
    return found


def _group_of(layer: str) -> str:
    """``backbone.body.blocks.1.0.conv_pw/...`` -> ``backbone.blocks.1``."""
    parts = [part for part in layer.partition("/")[0].split(".") if part not in ("body", "roi_heads")]
    depth = {"backbone": 3 if "blocks" in parts else 2, "cascade": 3}.get(parts[0], 1)
    return ".".join(parts[:depth])


def _measured(body: Any, feeds: Sequence[Feed], ap_of: Callable[[Any], float], in_float: tuple[str, ...]) -> Quantized:
    model = _quantized(body, feeds, in_float)
    found = Quantized(model, ap_of(model), in_float)
    log.info("int8%s: mAP %.4f", f" without {listed(in_float)}" if in_float else "", found.ap)
    return found


def _by_gain(body: Any, feeds: Sequence[Feed], ap_of: Callable[[Any], float]) -> list[str]:
    """The groups, the one first that gives most mAP back in float."""
    layers, whole = groups(body), _quantized(body, feeds, (), compressed=False)
    gains = {}
    for group, names in layers.items():
        gains[group] = ap_of(_without(whole, names))
        log.info("int8 without %s: mAP %.4f", group, gains[group])
    return sorted(layers, key=lambda group: -gains[group])


def _quantized(body: Any, feeds: Sequence[Feed], in_float: Sequence[str], compressed: bool = True) -> Any:
    """
    Args:
        compressed: weights are stored in 8 bits; else as they were, behind a node that quantises.
    """
    openvino()  # without its telemetry, which nncf's is too
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no CUDA is nothing to tell
    nncf = importlib.import_module("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    advanced = nncf.AdvancedQuantizationParameters(backend_params={"compress_weights": compressed})
    with redirect_stdout(io.StringIO()):  # where it draws bars
        return nncf.quantize(
            body.clone(),
            nncf.Dataset(track(feeds, "calibrating")),
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,  # activations may be asymmetric
            ignored_scope=nncf.IgnoredScope(names=_left_alone(body, in_float), validate=False),
            advanced_parameters=advanced,
        )


def _left_alone(body: Any, in_float: Sequence[str]) -> list[str]:
    """Names of all nodes that are not quantised."""
    layers = groups(body)
    wanted = {name for group, names in layers.items() if group not in in_float for name in names}
    kept = {name for names in layers.values() for name in names} - wanted
    quantised: set[str] = set()
    others = []
    for node in body.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        given = [value.get_node() for value in node.input_values()[: 1 if kind in MOVING else None]]
        moved = [one.get_friendly_name() for one in given if not _is_constant(one)]
        between = bool(moved) and quantised.issuperset(moved)
        if name in wanted or (kind in BETWEEN and name not in kept and between):
            quantised.add(name)
        elif kind not in ("Constant", "Parameter", "Result"):
            others.append(name)
    return others


def _is_constant(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant")


def _without(model: Any, names: Sequence[str]) -> Any:
    """A copy of the quantised ``model`` in which these layers compute in float."""
    reverted = model.clone()
    for node in reverted.get_ops():
        for place in node.inputs() if node.get_friendly_name() in names else ():
            source = place.get_source_output().get_node()
            if source.get_type_name() == "FakeQuantize":
                place.replace_source_output(source.input_value(0))
    return reverted
