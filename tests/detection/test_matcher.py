"""Matching against torchvision's, and what enters a minibatch."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from resight.detection import matcher
from resight.detection.matcher import balanced_minibatch, balanced_places, indices_of


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 60))
def test_matches_are_torchvisions(boxes_of, seed: int, objects: int, anchors: int) -> None:
    iou = box_iou(boxes_of(objects, seed), boxes_of(anchors, seed + 1))
    for high, low, force in [(0.7, 0.3, True), (0.5, 0.5, False)]:
        theirs = Matcher(high, low, allow_low_quality_matches=force)
        assert torch.equal(matcher.match(iou, high, low, force), theirs(iou.clone()))


def test_without_objects_everything_is_background() -> None:
    assert (matcher.match(torch.zeros(0, 5), 0.7, 0.3, True) == matcher.NEGATIVE).all()


def _drawn(matches: torch.Tensor, size: int, share: float, seed: int) -> tuple[torch.Tensor, ...]:
    """Positives and negatives of one image."""
    drawn = balanced_minibatch(matches[None], size, share, [torch.Generator().manual_seed(seed)])
    assert drawn.sizes == [len(drawn.index)] and not drawn.image.any()
    assert torch.equal(drawn.positives(drawn.index), drawn.index[: drawn.taken[0]])
    return drawn.index.split(drawn.taken)


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_a_minibatch_keeps_to_its_limits(seed: int, positives: int, negatives: int, size: int) -> None:
    matches = torch.cat([torch.zeros(positives), torch.full((negatives,), -1), torch.full((7,), -2)]).long()
    matches = matches[torch.randperm(len(matches), generator=torch.Generator().manual_seed(seed))]
    positive, negative = _drawn(matches, size, 0.25, seed)
    assert len(positive) == min(positives, int(size * 0.25))
    assert len(negative) == min(negatives, size - len(positive))
    assert (matches[positive] >= 0).all() and (matches[negative] == -1).all()
    assert len(set(positive.tolist())) == len(positive) and positive.tolist() == sorted(positive.tolist())


def test_every_negative_has_the_same_chance() -> None:
    matches = torch.full((10,), -1)
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[_drawn(matches, 3, 0.5, seed)[1]] += 1
    assert (counts / 2000 - 0.3).abs().max() < 0.05


def _masks(seed: int, images: int, count: int) -> torch.Tensor:
    kinds = torch.randint(-2, 2, (images, count), generator=torch.Generator().manual_seed(seed))
    return torch.where(kinds == 1, 0, kinds)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 40), st.integers(1, 30))
def test_each_image_of_a_batch_is_drawn_by_its_own_generator(seed: int, images: int, count: int, size: int) -> None:
    matches = _masks(seed, images, count)
    generators = [torch.Generator().manual_seed(seed + image) for image in range(images)]
    drawn = balanced_minibatch(matches, size, 0.3, generators)
    parts = iter(drawn.index.split(drawn.taken))
    assert drawn.image.tolist() == [image for image, number in enumerate(drawn.sizes) for _ in range(number)]
    for image, row in enumerate(matches):
        generator, room = torch.Generator().manual_seed(seed + image), int(size * 0.3)
        for mask in (row >= 0, row == matcher.NEGATIVE):
            items = torch.where(mask)[0]
            if len(items) > room:
                items = items[torch.randperm(len(items), generator=generator)[:room]].sort().values
            assert (next(parts) - image * count).tolist() == items.tolist()
            room = size - len(items)
    rows = indices_of(matches >= 0)
    assert [row.tolist() for row in rows] == [torch.where(row >= 0)[0].tolist() for row in matches]


def test_a_draw_on_another_device_is_the_same_and_waits_once(pretended_cuda) -> None:
    matches, limits = _masks(3, 8, 500), (64, 0.25)
    generators = [[torch.Generator().manual_seed(seed) for seed in range(8)] for _ in range(2)]
    here = balanced_places(matches >= 0, matches == matcher.NEGATIVE, *limits, generators[0])
    with pretended_cuda() as counts:
        other = matches.to("cuda")
        counts.waits.clear()
        there = balanced_places(other >= 0, other == matcher.NEGATIVE, *limits, generators[1])
        assert counts.waited == 1 and there[1] == here[1]
        assert torch.equal(there[0].cpu(), here[0])
