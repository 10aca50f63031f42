"""Weights to start from: torchvision's old names, other classes, other architectures."""

import re
import ssl
from urllib.error import URLError

import pytest
import torch

from resight.errors import ResightError
from resight.fpn import pretrained as starts
from resight.fpn.config import FpnModelConfig
from resight.fpn.dialect import fits_anchors
from resight.fpn.faster_rcnn import FasterRCNN
from resight.io import object_store as storage
from resight.models.build import build_model

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


def _old_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As in the files that torchvision published before it renamed its layers: and without BatchNorm's counters."""
    old = {}
    for key, value in weights.items():
        key = re.sub(r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", key)
        key = re.sub(r"^(backbone\.fpn\.\w+\.\d)\.0\.", r"\1.", key)
        if not key.endswith("num_batches_tracked"):
            old[key] = value
    return old


@pytest.fixture(scope="module")
def published() -> FasterRCNN:
    torch.manual_seed(1)
    return build_model(FpnModelConfig(name=NAME), 90)


def test_published_coco_weights_load_whole_under_their_old_names(
    published: FasterRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models.detection import FasterRCNN_MobileNet_V3_Large_320_FPN_Weights as Weights

    old = _old_names(published.state_dict())
    assert "rpn.head.conv.weight" in old and "backbone.fpn.inner_blocks.0.weight" in old
    monkeypatch.setattr(Weights, "get_state_dict", lambda *_a, **_k: old)
    model = build_model(FpnModelConfig(name=NAME), 3)
    assert starts.load_pretrained(model, NAME) == "COCO (torchvision)"
    for key, value in model.state_dict().items():
        if not key.startswith(tuple(model.class_heads)):
            assert torch.equal(value, published.state_dict()[key]), key


def test_a_broken_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models.detection import FasterRCNN_MobileNet_V3_Large_320_FPN_Weights as Weights

    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError('invalid hash value (expected "a", got "b")')

    monkeypatch.setattr(Weights, "get_state_dict", broken)
    with pytest.raises(ResightError, match=r"invalid hash.*\n.*none"):
        starts.load_pretrained(build_model(FpnModelConfig(name=NAME), 3), NAME)


def test_only_a_trained_rpn_keeps_its_anchors() -> None:
    assert fits_anchors(FpnModelConfig())
    assert fits_anchors(FpnModelConfig(name=NAME, start="none"))
    assert not fits_anchors(FpnModelConfig(name=NAME))
    assert not fits_anchors(FpnModelConfig(start="runs/first"))


def test_without_a_network_the_cache_is_asked_once_and_the_way_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    tried = []

    def unreached(*_args: object, **_options: object) -> None:
        raise URLError("no such host")

    def create(*_args: object, **_options: object) -> None:
        tried.append(constants.HF_HUB_OFFLINE)
        raise OSError("not in the cache")

    monkeypatch.setattr(starts, "urlopen", unreached)
    monkeypatch.setattr(starts.timm, "create_model", create)
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(ResightError, match="cannot be reached") as caught:
        starts._timm_weights("resnet18")
    assert "--start none" in caught.value.fix
    assert tried == [True] and before == constants.HF_HUB_OFFLINE


def test_a_certificate_that_python_does_not_know_is_left_to_the_hubs_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: object, **_options: object) -> None:
        raise URLError(ssl.SSLCertVerificationError("self-signed certificate in certificate chain"))

    monkeypatch.setattr(starts, "urlopen", refused)
    assert starts._unreached("https://huggingface.co") == ""


def test_published_weights_are_read_from_a_file_without_a_network(s3, tmp_path, monkeypatch) -> None:
    name = "test_efficientnet"
    given = {key: value + 1 for key, value in starts.timm.create_model(name).state_dict().items()}
    monkeypatch.setattr(starts, "_timm_weights", lambda _: given)
    file = tmp_path / "pretrained.safetensors"
    starts.write_published(name, file)
    monkeypatch.setattr(starts, "_timm_weights", None)  # nothing is downloaded
    address = f"s3://{s3.bucket}/runs/first/launch/pretrained.safetensors"
    storage.write(address, file)
    for place in (str(file), address):
        monkeypatch.setenv("RESIGHT_PRETRAINED", place)
        model = build_model(FpnModelConfig(name=name), 3)
        assert starts.load_pretrained(model, name) == "ImageNet (timm)"
        key = next(key for key in model.backbone.body.state_dict() if key in given)
        assert torch.equal(model.backbone.body.state_dict()[key], given[key])
    assert starts.published_weights(FpnModelConfig().name)  # installed: the file is not theirs


def test_published_weights_of_other_shapes_are_refused(tmp_path, monkeypatch) -> None:
    name, file = "test_efficientnet", tmp_path / "pretrained.safetensors"
    given = dict.fromkeys(starts.timm.create_model(name).state_dict(), torch.ones(1))
    with monkeypatch.context() as patch:
        patch.setattr(starts, "_timm_weights", lambda _: given)
        starts.write_published(name, file)
    monkeypatch.setenv("RESIGHT_PRETRAINED", str(file))
    with pytest.raises(ResightError, match="have other shapes: conv_stem") as caught:
        starts.load_pretrained(build_model(FpnModelConfig(name=name), 3), name)
    assert caught.value.where == str(file)


def test_a_file_of_other_or_damaged_published_weights_is_refused(s3, tmp_path, monkeypatch, untrained) -> None:
    other, cut = tmp_path / "other.safetensors", tmp_path / "cut.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(starts, "_timm_weights", lambda _: {"a": torch.ones(1)})
        starts.write_published("resnet18", other)
    cut.write_bytes(other.read_bytes()[:-2])
    for place, message in (
        (other, "holds the weights of 'resnet18', and model.name is resnet50"),
        (cut, "ncomplete|buffer|header"),
        (untrained, "does not say whose weights it holds"),
        (tmp_path / "none.safetensors", "No such file"),
        (f"s3://{s3.bucket}/none.safetensors", "no such file"),
    ):
        monkeypatch.setenv("RESIGHT_PRETRAINED", str(place))
        with pytest.raises(ResightError, match=message) as caught:
            starts.published_weights("resnet50")
        assert caught.value.where == str(place) and caught.value.fix.startswith("RESIGHT_PRETRAINED names")
