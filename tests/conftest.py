import io
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

# No deadline: how long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("resight", deadline=None, print_blob=True)
hypothesis.settings.load_profile("resight")

COLOURS = {"red": (220, 30, 30), "blue": (30, 60, 220)}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Folders of records with red and blue squares: ``shapes(train=8, val=3)``, made once, not to be changed.

    Every third image is portrait; ``broken=2`` cuts the images of two more records of each split in half.
    """
    from resight.data.records import write_records_folder
    from resight.labels import LabelMap

    made: dict[tuple[tuple[str, int], ...], Path] = {}

    def make(broken: int = 0, **counts: int) -> Path:
        key = (("broken", broken), *sorted(counts.items()))
        if key not in made:
            splits = {
                split: [draw_squares(f"{split}-{number}", number, number >= count) for number in range(count + broken)]
                for split, count in counts.items()
            }
            made[key] = tmp_path_factory.mktemp("shapes") / "records"
            write_records_folder(splits, made[key], LabelMap.from_names(list(COLOURS)))
        return made[key]

    return make


@pytest.fixture(scope="session")
def squares():
    """``squares(name, number)``: an annotated picture, 96x64 or 64x96."""
    return draw_squares


def draw_squares(name: str, number: int, broken: bool = False):
    from resight.boxes import Annotation, Box

    draw = np.random.default_rng([len(name), number])
    width, height = (64, 96) if number % 3 == 2 else (96, 64)
    image = draw.integers(90, 130, (height, width, 3), dtype=np.uint8)
    boxes = []
    # One square on each side of the middle, so that none covers another.
    for half in range(1 + number % 2):
        label = list(COLOURS)[(number + half) % 2]
        side = int(draw.integers(20, 28))
        x = int(draw.integers(0, width // 2 - side + 1)) + half * width // 2
        y = int(draw.integers(0, height - side + 1))
        image[y : y + side, x : x + side] = COLOURS[label]
        boxes.append(Box(label, x, y, x + side, y + side))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    data = file.getvalue()
    return Annotation(data[: len(data) // 2] if broken else data, tuple(boxes), width, height, f"{name}.png")


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A checkpoint of a small model for ``shapes`` with random weights, which finds something everywhere."""
    import torch

    from resight.config import ModelConfig
    from resight.labels import LabelMap
    from resight.models.build import build_model
    from resight.models.checkpoints import Checkpoint, ModelCard, save_checkpoint

    config = ModelConfig(min_size=64, max_size=96)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config, len(COLOURS))
    card = ModelCard.of(model, config, LabelMap.from_names(list(COLOURS)), score=0.3)
    path = tmp_path_factory.mktemp("untrained") / "model.safetensors"
    save_checkpoint(path, Checkpoint(card, {f"model.{key}": value for key, value in model.state_dict().items()}, {}))
    return path
