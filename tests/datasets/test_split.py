import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.datasets.split import leaks, split_annotations
from resight.errors import ResightError
from resight.types import Annotation, Box

Dashcam = Callable[..., list[Annotation]]


def image(name: str, *labels: str, group: str | None = None, split: str | None = None) -> Annotation:
    boxes = tuple(Box(label, 0, 0, 10, 10) for label in labels)
    return Annotation(f"/photos/{name}", boxes, source_id=name, group=group, split=split)


@st.composite
def collections(draw: st.DrawFn) -> tuple[list[Annotation], list[int | None]]:
    """Images with tracks, near-duplicates and backgrounds, in any order, and their hashes."""
    count = draw(st.integers(1, 40))
    tracks = draw(st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), min_size=count, max_size=count))
    labels = draw(
        st.lists(st.lists(st.sampled_from(["stop", "yield", "merge"]), max_size=3), min_size=count, max_size=count)
    )
    hashes = draw(
        st.lists(
            st.one_of(st.none(), st.integers(0, 12).map(lambda n: n << 20 * (n % 3))), min_size=count, max_size=count
        )
    )
    items = [image(f"{i}.jpg", *labels[i], group=tracks[i]) for i in range(count)]
    return items, hashes


def parted(result_splits: dict[str, str | None], items: list[Annotation], hashes: list[int | None] | None) -> list[str]:
    """Tracks, and pairs of equal hashes, that lie in more than one split."""
    where = defaultdict(set)
    for i, item in enumerate(items):
        if item.group:
            where[f"track {item.group}"].add(result_splits[item.source_id])
        if hashes and hashes[i] is not None:
            where[f"hash {hashes[i]}"].add(result_splits[item.source_id])
    return [name for name, splits in where.items() if len(splits) > 1]


@settings(max_examples=100, deadline=None)
@given(collections(), st.sampled_from([(0.2, 0.1), (0.5, 0.0), (0.0, 0.3), (0.0, 0.0)]), st.integers(0, 3))
def test_groups_stay_whole_and_every_image_is_in_one_split(
    collection: tuple[list[Annotation], list[int | None]], fractions: tuple[float, float], seed: int
) -> None:
    items, hashes = collection
    result = split_annotations(
        items, "group", test_fraction=fractions[0], val_fraction=fractions[1], seed=seed, hashes=hashes
    )
    assert [replace(item, split=None) for item in result.annotations] == items
    allowed = {"train"} | {name for name, share in zip(("test", "val"), fractions, strict=True) if share}
    assert {item.split for item in result.annotations} <= allowed
    assert parted({item.source_id: item.split for item in result.annotations}, items, hashes) == []
    assert result.leakage == 0 and set(result.leaked_by.values()) == {0}


@settings(max_examples=80, deadline=None)
@given(collections(), st.sampled_from(["group", "random"]), st.randoms(use_true_random=False))
def test_the_order_of_the_input_is_nothing(
    collection: tuple[list[Annotation], list[int | None]], rule: str, shuffler: random.Random
) -> None:
    items, hashes = collection
    order = list(range(len(items)))
    shuffler.shuffle(order)
    first = split_annotations(items, rule, hashes=hashes)
    second = split_annotations([items[i] for i in order], rule, hashes=[hashes[i] for i in order])
    assert {a.source_id: a.split for a in first.annotations} == {a.source_id: a.split for a in second.annotations}
    assert (first.leakage, first.counts, first.notes) == (second.leakage, second.counts, second.notes)


@settings(max_examples=80, deadline=None)
@given(collections(), st.sampled_from(["random", "given"]), st.integers(0, 5))
def test_leakage_is_the_share_of_test_images_with_a_relative_in_train(
    collection: tuple[list[Annotation], list[int | None]], rule: str, seed: int
) -> None:
    items, hashes = collection
    hashes = [None if value is None else 0xFFFF << 16 * (value % 4) for value in hashes]  # equal or far apart
    if rule == "given":
        draw = random.Random(seed)
        items = [replace(item, split=draw.choice(["train", "val", "test"])) for item in items]
    result = split_annotations(items, rule, seed=seed, hashes=hashes)
    test = [i for i, item in enumerate(result.annotations) if item.split == "test"]
    train = [i for i, item in enumerate(result.annotations) if item.split == "train"]
    track = {i for i in test if items[i].group and any(items[i].group == items[j].group for j in train)}
    near = {i for i in test if hashes[i] is not None and any(hashes[i] == hashes[j] for j in train)}
    if test:
        assert result.leakage == pytest.approx(len(track | near) / len(test))
        assert result.leaked_by == {"track": len(track), "near_duplicate": len(near)}


def test_the_seed_changes_the_split(dashcam: Dashcam) -> None:
    items = dashcam()
    splits = {
        tuple(item.split for item in split_annotations(items, rule, seed=s).annotations)
        for s in range(3)
        for rule in ("group", "random")
    }
    assert len(splits) == 6


def test_random_is_a_plain_shuffle_and_its_leakage_is_told(dashcam: Dashcam) -> None:
    items = dashcam()
    result = split_annotations(items, "random", seed=7)
    names = sorted(item.source_id for item in items)
    random.Random(7).shuffle(names)
    count = round(0.2 * len(items))
    assert {item.source_id for item in result.annotations if item.split == "test"} == set(names[:count])
    assert Counter(item.split for item in result.annotations)["val"] == round(0.1 * len(items))
    assert result.leakage > 0.9


def test_auto_keeps_a_split_that_is_there_and_groups_otherwise() -> None:
    items = [image(f"{i}.jpg", "stop", split="test" if i < 3 else "train") for i in range(9)]
    kept = split_annotations(items, "auto")
    assert kept.rule == "given" and list(kept.annotations) == items
    assert split_annotations([replace(item, split=None) for item in items]).rule == "group"
    assert split_annotations([replace(item, split="train") for item in items]).rule == "group"
    assert split_annotations([replace(item, split="train") for item in items], "given").rule == "given"


def test_images_that_a_given_split_does_not_name_are_left_out_and_listed() -> None:
    items = [image("a.jpg", "stop", split="train"), image("b.jpg", "stop"), image("c.jpg", "stop", split="test")]
    result = split_annotations(items)
    assert [item.source_id for item in result.annotations] == ["a.jpg", "c.jpg"]
    assert result.unsplit == ("b.jpg",)


def test_given_without_a_split_and_unknown_splits_are_refused() -> None:
    with pytest.raises(ResightError, match="no split to keep"):
        split_annotations([image("a.jpg", "stop")], "given")
    with pytest.raises(ResightError, match="unknown split dev"):
        split_annotations([image("a.jpg", "stop", split="dev"), image("b.jpg", split="train")], "given")


@pytest.mark.parametrize("fractions", [(1.0, 0.0), (0.6, 0.4), (-0.1, 0.1), (float("nan"), 0.1)])
def test_fractions_that_leave_no_training_part_are_refused(fractions: tuple[float, float]) -> None:
    with pytest.raises(ResightError, match="leave nothing to train on"):
        split_annotations([image("a.jpg")], "group", test_fraction=fractions[0], val_fraction=fractions[1])


def test_group_by_video_joins_its_clusters() -> None:
    items = [image(f"{i}.jpg", "stop", group=f"v{i % 3}#{i}") for i in range(30)]
    result = split_annotations(items, "group", group_by="video")
    videos = defaultdict(set)
    for item in result.annotations:
        videos[str(item.group).partition("#")[0]].add(item.split)
    assert all(len(splits) == 1 for splits in videos.values())
    for video in ("v0", "v1", "v2"):
        assert any(f"the group of {video} holds 10 images" in note for note in result.notes)
    apart = split_annotations(items, "group", group_by="track")
    assert Counter(item.split for item in apart.annotations) == {"train": 21, "test": 6, "val": 3}
    assert not any("the group of" in note for note in apart.notes)


@pytest.mark.parametrize("pattern", [r"^(\w+)_\d+", r"^[a-z]+"])
def test_group_by_an_expression_on_the_file_name(pattern: str) -> None:
    items = [image(f"{place}_{i}.jpg", "stop") for place in ("road", "yard", "mall", "dock", "park") for i in range(4)]
    result = split_annotations(items, "group", group_by=pattern)
    places = defaultdict(set)
    for item in result.annotations:
        places[item.filename.partition("_")[0]].add(item.split)
    assert all(len(splits) == 1 for splits in places.values())


@pytest.mark.parametrize(
    ("group_by", "says"),
    [
        ("(", "not a valid regular expression"),
        ("^zebra", "matches no file name"),
        ("track", "does not say which track"),
    ],
)
def test_group_by_that_cannot_be_done_is_refused(group_by: str, says: str) -> None:
    with pytest.raises(ResightError, match=says):
        split_annotations([image("a.jpg", "stop")], "group", group_by=group_by)


@pytest.mark.parametrize(
    ("rule", "count", "group", "hashes", "notes"),
    [
        ("group", 1, None, None, ["no test and no val part: there is too little for it, 1 group"]),
        ("random", 2, None, None, ["no test and no val part: there is too little for it, 2 images"]),
        ("group", 2, None, None, ["no val part: there is too little for it, 2 groups"]),
        (
            "group",
            9,
            "v#0",
            None,
            [
                "no test and no val part: there is too little for it, 1 group",
                "the group of v#0 holds 9 images, of 9 in all",
            ],
        ),
        (
            "group",
            9,
            None,
            [7] * 9,
            [
                "no test and no val part: there is too little for it, 1 group",
                "the group of those that look like 0.jpg holds 9 images, of 9 in all",
            ],
        ),
    ],
)
def test_parts_that_stay_empty_are_explained(rule, count, group, hashes, notes) -> None:
    items = [image(f"{i}.jpg", "stop", group=group) for i in range(count)]
    assert list(split_annotations(items, rule, hashes=hashes).notes) == notes
    unasked = split_annotations(items, rule, test_fraction=0, val_fraction=0, hashes=hashes)
    assert not [note for note in unasked.notes if "part" in note]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){20}$"])
def test_an_expression_that_would_search_for_ever_is_given_up(pattern, monkeypatch):
    monkeypatch.setattr("resight.datasets.split._PATIENCE", 0.1)
    items = [Annotation(b"", filename="a" * 60 + "!") for _ in range(3)]
    with pytest.raises(ResightError, match="takes too long") as caught:
        split_annotations(items, group_by=pattern)
    assert pattern in caught.value.where and caught.value.fix


pairs = st.tuples(st.sampled_from(["train", "val", "test", None]), st.sampled_from([None, "g", "h"]))


@given(st.lists(pairs, max_size=9))
def test_leaks_name_the_first_relative_in_an_earlier_split(images):
    splits, groups = [split for split, _ in images], [group for _, group in images]
    earlier = {"val": ("train",), "test": ("train", "val")}
    expected = {}
    for at, (split, group) in enumerate(images):
        # The first of train, and only where train has none the first of val.
        for part in earlier.get(split, ()):
            if group and (related := [i for i, other in enumerate(images) if other == (part, group)]):
                expected.setdefault(at, related[0])
    assert dict(leaks(splits, groups)) == expected
