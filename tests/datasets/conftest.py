import random
from collections.abc import Callable

import pytest

from resight.types import Annotation, Box


def image(name: str, *labels: str, group: str | None = None) -> Annotation:
    boxes = tuple(Box(label, 0, 0, 10, 10) for label in labels)
    return Annotation(f"/photos/{name}", boxes, source_id=name, group=group)


@pytest.fixture
def dashcam() -> Callable[..., list[Annotation]]:
    return _dashcam


def _dashcam(videos: int = 60, seed: int = 0) -> list[Annotation]:
    """Tracks of very different lengths and classes, as dash-cam data has."""
    draw = random.Random(seed)
    items = []
    for video in range(videos):
        for track in range(draw.randint(1, 5)):
            label = draw.choices(["stop", "signalAhead", "yield", "rare"], [8, 4, 4, 1])[0]
            for frame in range(draw.randint(2, 30)):
                more = ["stop"] if draw.random() < 0.2 else []
                items.append(image(f"{video}-{track}-{frame}.png", label, *more, group=f"v{video}#{track}"))
    return items
