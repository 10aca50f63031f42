"""Evaluations in parts: what they measure together is what one run measures."""

import json
import os
import signal

import numpy as np
import pytest

from resight.errors import ResightError
from resight.evaluation import evaluate as module
from resight.evaluation import parts
from resight.evaluation.coco import GroundTruth
from resight.evaluation.evaluate import evaluate
from resight.evaluation.loop import ImageResult
from resight.evaluation.parts import Found, save_part
from resight.types import Detections

FILES = ("metrics.json", "detections.safetensors")


@pytest.fixture(autouse=True)
def loaded_once(load_once):
    """The model is the same in all tests here."""
    load_once(module)


@pytest.fixture(scope="module")
def records(shapes):
    return shapes(train=8, val=3)


def contents(folder):
    return [(folder / name).read_bytes() for name in FILES]


def killed(*arguments, **options):
    """Evaluates in a process of its own, which is killed with SIGKILL when it has written half of its part."""
    if not (child := os.fork()):
        try:

            def dies(path, found):
                save_part(path, found)
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

            module.save_part = dies
            evaluate(*arguments, **options)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_parts_of_which_one_was_killed_measure_what_one_run_measures(untrained, records, tmp_path, monkeypatch):
    """To the byte, with losses, what was proposed for the objects that were missed first, and another precision than
    float32, which the next test measures."""
    for name in ("resight.evaluation.reach.MOST", "resight.evaluation.parts.MOST"):
        monkeypatch.setattr(name, 3)
    options = {"split": "train", "precision": "bfloat16", "limit": 7}
    one = evaluate(untrained, records, out=tmp_path / "one", **options)
    assert one.metrics["losses"] and "float32" in one.metrics
    place = str(tmp_path / "parts")
    killed(untrained, records, out=place, part="2/3", **options)
    for number in (1, 2, 3):
        report = evaluate(untrained, records, out=place, part=f"{number}/3", **options)
        assert report.text().startswith(f"Part {number} of 3: {(2, 2, 3)[number - 1]} images\nWrote ")
    assert sorted(os.listdir(place))[0] == "part-00001-of-00003.json" and len(os.listdir(place)) == 6
    merged = evaluate(untrained, records, out=tmp_path / "merged", merge=place, **options)
    assert contents(tmp_path / "merged") == contents(tmp_path / "one")
    assert merged.metrics == one.metrics and merged.notes == one.notes


def test_a_part_that_was_done_is_known(untrained, records, tmp_path, s3):
    place = f"s3://{s3.bucket}/measured"
    options = {"split": "val", "out": place}
    first = evaluate(untrained, records, part="1/2", **options)
    again = evaluate(untrained, records, part="1/2", **options)
    assert again.metrics == first.metrics == {"part": "part-00001-of-00002", "images": 1}
    assert "done already" in again.text()
    with pytest.raises(ResightError, match="another job already: it differs in images"):
        evaluate(untrained, records, part="1/2", limit=2, **options)
    with pytest.raises(ResightError, match="part-00002-of-00002"):
        evaluate(untrained, records, split="val", merge=place, out=tmp_path / "merged")
    evaluate(untrained, records, part="2/2", **options)
    with pytest.raises(ResightError, match="another evaluation: they differ in split, images"):
        evaluate(untrained, records, split="train", merge=place, out=tmp_path / "merged")
    assert not (tmp_path / "merged" / "metrics.json").exists()
    one = evaluate(untrained, records, split="val", out=tmp_path / "one")
    assert one.metrics["losses"] and "float32" not in one.metrics
    evaluate(untrained, records, split="val", merge=place, out=tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"part": "1/2"}, "--part: parts need a place"),
        ({"part": "1/2", "merge": "x", "out": "y"}, "--merge: is for all parts"),
        ({"part": "1/2", "require": ("AP50=.5",), "out": "y"}, "--require: is of all parts"),
        ({"part": "3/2", "out": "y"}, "--part: there is no part 3 of 2"),
        ({"merge": "nowhere"}, "nowhere: cannot be read"),
    ],
)
def test_wrong_parts_are_told(untrained, records, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResightError) as caught:
        evaluate(untrained, records, split="val", **options)
    assert str(caught.value).startswith(words)


def result(number, boxes, found, losses, proposals=None):
    rng = np.random.default_rng(number)
    boxes, scores = np.zeros((boxes, 4), np.float32), rng.random(found).astype(np.float32)
    truth = GroundTruth.of(boxes, np.arange(len(boxes)))
    truth = GroundTruth(*[getattr(truth, name) for name in parts._TRUTH[:-1]], occluded=np.ones(len(boxes), bool))
    detections = Detections(rng.random((found, 4)).astype(np.float32), scores, np.zeros(found, int), ("a",), 3, 4)
    labels = np.arange(len(boxes) + 1)
    return ImageResult(number, f"{number}.jpg", "g", truth, detections, losses, labels, 1, proposals)


def test_all_of_an_image_is_kept(tmp_path):
    """Images without objects or detections, losses that some do not have or that are not finite, odd names."""
    results = [
        result(0, 0, 0, {}),
        result(1, 2, 3, {"a": 0.1, "b": np.nan}, np.array([0.1, 1 / 3])),
        result(2, 1, 0, {"b": np.inf}),
    ]
    for kept in (results, results[:1], results[1:], []):
        found = Found(kept, kept[::-1][:0], parts.Counter({"x\n": 2}), ["\udce9: bad"])
        save_part(tmp_path / "part", found)
        back = Found()
        parts._load(tmp_path / "part", ("a",), back)
        assert (back.unknown, back.unusable, len(back.results)) == ({"x\n": 2}, ["\udce9: bad"], len(kept))
        for one, other in zip(kept, back.results, strict=True):
            assert json.dumps(one.losses) == json.dumps(other.losses)
            assert (one.record, one.name, one.group, one.left_out) == (
                other.record, other.name, other.group, other.left_out,
            )  # fmt: skip
            for mine, theirs, names in (
                (one.truth, other.truth, parts._TRUTH),
                (one.detections, other.detections, parts._FOUND),
                (one, other, ("labels",)),
            ):
                for name in names:
                    np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
            assert (one.proposal_iou is None) == (other.proposal_iou is None)
            assert one.detections.scores.dtype == other.detections.scores.dtype == np.float32


def test_a_damaged_part_is_told(tmp_path):
    (tmp_path / "part").write_bytes(b"no tensors")
    with pytest.raises(ResightError, match="is damaged"):
        parts._load(tmp_path / "part", ("a",), Found())
