from collections import Counter
from collections.abc import Callable

import pytest

from resight.datasets.split import split_annotations
from resight.types import Annotation, Box

Dashcam = Callable[..., list[Annotation]]


def image(name: str, *labels: str, group: str | None = None) -> Annotation:
    boxes = tuple(Box(label, 0, 0, 10, 10) for label in labels)
    return Annotation(f"/photos/{name}", boxes, source_id=name, group=group)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_and_the_images_reach_their_shares(dashcam: Dashcam, seed: int) -> None:
    items = dashcam(seed=seed)
    result = split_annotations(items, "group", seed=seed)
    total = Counter(box.label for item in items for box in item.boxes)
    for split, share in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        images = sum(item.split == split for item in result.annotations)
        assert images / len(items) == pytest.approx(share, abs=0.02)
        for label, count in total.items():
            assert result.counts[split][label] / count == pytest.approx(share, abs=0.05), (split, label)


def test_backgrounds_are_shared_out_like_a_class() -> None:
    items = [image(f"{i}.jpg", "stop") for i in range(100)] + [image(f"empty{i}.jpg") for i in range(50)]
    result = split_annotations(items, "group")
    empty = Counter(item.split for item in result.annotations if not item.boxes)
    assert empty == {"train": 35, "test": 10, "val": 5}


def test_two_groups_of_a_class_are_trained_and_tested() -> None:
    items = [image(f"{i}.jpg", "common") for i in range(40)]
    items += [image(f"r{i}.jpg", "rare", group=f"g{i % 2}") for i in range(6)]
    result = split_annotations(items, "group")
    assert result.counts["train"]["rare"] == result.counts["test"]["rare"] == 3
    assert "val has no box of rare" in result.notes


def test_one_image_is_trained_on() -> None:
    assert [item.split for item in split_annotations([image("a.jpg", "stop")], "group").annotations] == ["train"]
    assert split_annotations([], "group").annotations == ()
