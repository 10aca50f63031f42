"""Small models of the TFOD dialect with weights that find something everywhere, and errors in models."""

import os
import zlib

import pytest

# What TFOD itself computed, where RESIGHT_TFOD names a folder that holds it.
collect_ignore = [] if os.environ.get("RESIGHT_TFOD") else ["test_tfod_export_goldens.py"]


@pytest.fixture(scope="session")
def tfod_checkpoint(once):
    """``tfod_checkpoint(score=.5, ...)``: a checkpoint of ResNet-50 with these options of ``TfodConfig``, made once."""
    import torch

    from resight.config import ModelConfig
    from resight.labels import LabelMap
    from resight.models.build import build_model
    from resight.models.checkpoints import Checkpoint, ModelCard, save_checkpoint

    def value_of(name, shape):
        """Features stay of one size through all layers, and the answers differ between places and classes."""
        if name.endswith("running_var"):
            return torch.full(shape, 1e4 if name.startswith("backbone.norm1") else 1.0)
        draw = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if len(shape) == 1:
            return draw * 0.05 + (0.65 if name.endswith("weight") else 0.0)
        if name.startswith(("rpn.box", "rpn.obj", "predictor")):
            draw = draw - draw.mean(1, keepdim=True)
        return draw * (2 / shape[1:].numel()) ** 0.5 * (0.3 if name.endswith("box.weight") else 1)

    def make(min_size=96, max_size=128, **options):
        def write(folder):
            tfod = {"anchor_base": (64.0, 64.0), "proposals": 40, "detections": 30, **options}
            config = ModelConfig(name="faster_rcnn_resnet50_v1", min_size=min_size, max_size=max_size, tfod=tfod)
            model = build_model(config, 3)
            tensors = {f"model.{name}": value_of(name, value.shape) for name, value in model.state_dict().items()}
            card = ModelCard.of(model, config, LabelMap.from_names(["stop", "yield", "merge"]), 0.25)
            save_checkpoint(folder / "model.safetensors", Checkpoint(card, tensors, {}))

        key = zlib.crc32(repr((min_size, max_size, sorted(options.items()))).encode())
        return once(f"tfod-{key:08x}", write) / "model.safetensors"

    return make


@pytest.fixture
def parities():
    """``parities(detector, exported, images)``: one for an error in each head, and one for errors of rounding.

    The error is one of the bias that changes a score by a little more than .001, or a box code.
    """
    import torch

    from resight.exporting.comparison import compare

    heads = {
        "objectness": 5e-3, "cls_logits": 5e-3, "classes": 5e-3, "cls_score": 5e-3,
        "rpn.box": 1.5e-3, "predictor.box": 1.5e-3, "bbox_pred": 1.5e-3,
    }  # fmt: skip

    def get(detector, exported, images):
        found, weights = {}, {name: value.clone() for name, value in detector.model.state_dict().items()}
        biases = {name: error for name in weights for head, error in heads.items() if name.endswith(f"{head}.bias")}
        assert len(biases) == 4
        for name, error in biases.items():
            changed = weights[name].clone()
            changed[-1] += error
            detector.model.load_state_dict({**weights, name: changed})
            found[name] = compare(detector, exported, images)
        noise = torch.Generator().manual_seed(0)
        detector.model.load_state_dict(
            {
                name: value * (1 + 1e-6 * torch.randn(value.shape, generator=noise)) if value.ndim > 1 else value
                for name, value in weights.items()
            }
        )
        found["rounding"] = compare(detector, exported, images)
        return found

    return get
