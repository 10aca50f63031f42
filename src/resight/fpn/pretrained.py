"""Weights to start from: what is loaded, what is new, and why."""

import logging
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..detection.heads import set_norm_eps
from ..detection.model import DetectionModel, load_detector
from ..errors import ResightError, listed, shown
from ..io.files import check_regular
from ..io.object_store import fetch_file, is_remote
from ..io.outputs import atomic_file
from . import backbones
from .faster_rcnn import FasterRCNN
from .specs import spec_of

REACHED_WITHIN = 5.0  # seconds
VARIABLE = "RESIGHT_PRETRAINED"  # of the environment
_MODEL = "resight_pretrained"  # in the metadata of a file of published weights: the model's name


def load_pretrained(model: DetectionModel, name: str) -> str:
    """Puts the published weights of ``name`` into ``model`` and says what they are; new class heads stay as they are.

    The default backbone's come in a package; every other one's are downloaded once by timm or torchvision.

    Raises:
        ResightError: they cannot be had, or do not fit.
    """
    assert isinstance(model, FasterRCNN), "TFOD's models come with no weights"
    weights, spec = published_weights(name), spec_of(name)
    if spec.weights == "COCO":
        load_detector(model, modern_names(weights), f"COCO weights of {name}")
        if spec.norm_eps is not None:
            set_norm_eps(model, spec.norm_eps)
        return "COCO (torchvision)"
    body = model.backbone.body.state_dict()
    weights = {_flat(key, body): value for key, value in weights.items()}
    missing = [key for key in body if key not in weights]
    unfit = [key for key in body if key in weights and weights[key].shape != body[key].shape]
    if missing or unfit:
        what = f"lack {listed(missing, 5)}" if missing else f"have other shapes: {listed(unfit, 5)}"
        raise ResightError(
            f"the pretrained weights of '{name}' {what}", where=os.environ.get(VARIABLE) or "model.start"
        )
    model.backbone.body.load_state_dict({key: weights[key] for key in body})
    return f"ImageNet ({spec.source})"


def published_weights(name: str) -> dict[str, Tensor]:
    """The published tensors of a model, as timm or torchvision name them.

    The default's come in a package. Others are downloaded once; where ``RESIGHT_PRETRAINED`` is the path or address of
    a file that :func:`write_published` made, they are read from there and nothing is downloaded.

    Raises:
        ResightError: they cannot be had, or the file is damaged or holds those of another model.
    """
    source = spec_of(name).source
    if source == "packaged":
        return backbones.lite0_weights()
    if place := os.environ.get(VARIABLE):
        return _read_published(place, name)
    return _coco_weights(name) if source == "torchvision" else _timm_weights(name)


def write_published(name: str, path: Path) -> None:
    """Writes the published tensors of ``name`` into one safetensors file. Raises ResightError as
    :func:`published_weights`, or where it cannot be written."""
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in published_weights(name).items()}
    with atomic_file(path) as partial:
        save_file(tensors, partial, metadata={_MODEL: name})


def _read_published(place: str, name: str) -> dict[str, Tensor]:
    try:
        path = fetch_file(place) if is_remote(place) else Path(place)
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get(_MODEL)
            if found != name:
                what = f"holds the weights of {shown(found)}" if found else "does not say whose weights it holds"
                raise ResightError(f"{what}, and model.name is {name}", where=place)
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (ResightError, OSError, SafetensorError) as error:
        message, where = (error.message, error.where) if isinstance(error, ResightError) else (str(error), place)
        fix = f"{VARIABLE} names a file of the published weights of {name}; unset it to have them downloaded."
        raise ResightError(message, where=where, fix=fix) from error


def modern_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of torchvision before 0.13, which its published files still have, changed to the present ones."""
    renamed = {}
    for key, value in weights.items():
        key = re.sub(r"^rpn\.head\.conv\.(?=weight$|bias$)", "rpn.head.conv.0.0.", key)
        renamed[re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(?=weight$|bias$)", r"\1.0.", key)] = value
    return renamed


def _timm_weights(name: str) -> dict[str, Tensor]:
    """Downloaded once; where the hub cannot be reached, from its cache alone, and at once: its own client would try
    again for a minute and log every attempt."""
    from huggingface_hub import constants

    log, offline = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = log.level
    log.setLevel(logging.ERROR)
    unreached = "" if offline else _unreached(constants.ENDPOINT)
    try:
        constants.HF_HUB_OFFLINE = offline or bool(unreached)
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # hub, network and cache each raise their own kinds
        raise _unavailable(f"pretrained weights of '{name}'", unreached or str(error)) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
        log.setLevel(level)


def _unreached(address: str) -> str:
    """Why ``address`` gives no answer; empty where it gives any, or its certificate alone is not known."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=REACHED_WITHIN).close()
    except HTTPError:
        return ""
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLError):  # the hub's client may trust other certificates
            return ""
        return f"{address} cannot be reached ({getattr(error, 'reason', error)})"
    return ""


def _coco_weights(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    try:
        return dict(get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # a broken download is a RuntimeError about its hash
        raise _unavailable(f"COCO weights of '{name}'", str(error)) from error


def _unavailable(what: str, why: str) -> ResightError:
    return ResightError(
        f"cannot get the {what}: {why}",
        where="model.start",
        fix="Check the network, leave --model out (the default's weights are installed), or add --start none.",
    )


def _flat(key: str, body: Mapping[str, Tensor]) -> str:
    """timm flattens ``layers.0.`` to ``layers_0.`` in some feature extractors."""
    if key in body:
        return key
    head, _, tail = key.partition(".")
    second, _, rest = tail.partition(".")
    return f"{head}_{second}.{rest}"
