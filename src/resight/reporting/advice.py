"""What to do next: at most five sentences, each from a rule on the numbers of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from ..config.tree import ModelConfig
from ..dialect import could_fit_anchors, dialect_of, model_config
from ..errors import ResightError, counted
from ..io.files import parse_toml
from .data_suspects import DIFFERENT

MOST = 5
LOSES = {  # what a stage does to so many of the objects of a kind
    "no_anchor": "No anchor reaches {} of {} {} at IoU .5",
    "no_proposal": "No proposal covers {} of {} {} at IoU .5",
    "background": "The second stage takes {} of {} {} for background or scores them below the operating point",
    "loose": "The boxes of {} of {} {} are loose, with an IoU of .5 to .75",
}
Findings = Mapping[str, Any]


class Advice(NamedTuple):
    """``weight``: about the AP50 to be won, by which the sentences are ordered."""

    rule: str
    weight: float
    text: str
    figures: dict[str, float | int | str]


def advice(findings: Findings) -> list[dict[str, Any]]:
    """The sentences for the content of ``report.json``, the weightiest first: ``{"rule", "text", "figures"}``."""
    told = sorted((one for rule in RULES for one in rule(findings)), key=lambda one: -one.weight)
    return [{"rule": one.rule, "text": one.text, "figures": one.figures} for one in told[:MOST]]


def wrong_labels(findings: Findings) -> Iterator[Advice]:
    """Labels come first, as every other number is measured by them; a detector is asked only if it is good enough."""
    asked = (findings["operating_point"]["precision"] or 0) >= 0.8
    count = sum(asked or one["kind"] == DIFFERENT for one in findings["suspects"])
    boxes = findings["head"]["num_boxes"]
    if count >= 5 and count >= 0.02 * boxes:
        text = f"Of {boxes:,} labels {count:,} look wrong: go through them before anything else (a CSV beside the page "
        text += "lists them), as every number here is measured by the labels."
        yield Advice("labels", 1.0, text, {"suspects": count, "boxes": boxes})


def few_images(findings: Findings) -> Iterator[Advice]:
    ap, drawn = findings["numbers"]["mAP"], findings["resampled"]
    if ap["low"] is not None and ap["high"] - ap["low"] > 0.1:
        more = "more images" if drawn["unit"] == "images" else "images of more groups"
        text = f"From {drawn['count']:,} {drawn['unit']} all that is known of mAP is that it lies between "
        text += (
            f"{_number(ap['low'])} and {_number(ap['high'])}: make no decision on a smaller difference, and evaluate "
        )
        text += f"on {more}."
        yield Advice("few images", 0.9, text, {"low": ap["low"], "high": ap["high"], "count": drawn["count"]})


def small_objects(findings: Findings) -> Iterator[Advice]:
    sizes, model = _table(findings, "size"), _model(findings)
    missed = {row["name"]: round(row["objects"] * (1 - row["found"])) for row in sizes}
    small, every = missed.get("under 16 px", 0), sum(missed.values())
    if small >= 5 and small >= 0.4 * every:
        whole = model is None or (dialect_of(model).size_remedy and not model.tile)
        tiles = ", or in tiles (`--set model.tile=PIXELS`)" if whole else ""
        text = f"Of {every:,} missed boxes {small:,} are under 16 px at the network's size: train at a larger one "
        text += f"({_larger(model)}){tiles}."
        figures = {"missed": every, "small": small}
        yield Advice("small objects", _gain(findings, "missed") * small / every, text, figures)


def odd_aspects(findings: Findings) -> Iterator[Advice]:
    rows = {row["name"]: row for row in _table(findings, "aspect")}
    plain = rows.get("between")
    for name, row in rows.items():
        if plain and row["objects"] >= 10 and row["AP"] < plain["AP"] - 0.15:
            text = f"Objects {name} have an AP of {_number(row['AP'])}, less elongated ones {_number(plain['AP'])}: "
            text += "add images of such objects to the training data."
            share = row["objects"] / max(findings["head"]["num_boxes"], 1)
            figures = {"AP": row["AP"], "others": plain["AP"], "objects": row["objects"]}
            yield Advice("aspect", share * (plain["AP"] - row["AP"]), text, figures)


def confused_classes(findings: Findings) -> Iterator[Advice]:
    classes = findings["classes"]
    often = [
        (count, row, column)
        for row, column, count in findings["confusion"]["cells"]
        if row != column and min(row, column) >= 0 and count >= max(5, 0.1 * classes[row]["boxes"])
    ]
    if often:
        count, row, column = max(often)
        objects, name, other = classes[row]["boxes"], classes[row]["name"], classes[column]["name"]
        text = f"{count:,} of {objects:,} '{name}' are reported as '{other}': look at them in the gallery. If their "
        text += "labels are right, add images that show in what the two differ."
        yield Advice("confusion", _gain(findings, "wrong class"), text, {"objects": objects, "confused": count})


def weak_class(findings: Findings) -> Iterator[Advice]:
    known = [one for one in findings["classes"] if one["AP50"] is not None]
    mean, most = findings["numbers"]["AP50"]["value"], max((one["boxes"] for one in known), default=0)
    rare = [one for one in known if one["boxes"] <= 0.2 * most and one["AP50"] < mean - 0.15]
    if rare:
        worst = min(rare, key=lambda one: one["AP50"])
        text = f"'{worst['name']}' has an AP50 of {_number(worst['AP50'])} (the mean is {_number(mean)}) and "
        text += f"{counted(worst['boxes'], 'box', 'boxes')} here, where the most frequent class has {most:,}: "
        repeated = ", or have its images repeated (`--set data.repeat_threshold=0.5`)" * _repeats_none(findings)
        text += f"add images of it{repeated}."
        weight = (mean - worst["AP50"]) / len(known)
        yield Advice("rare class", weight, text, {"AP50": worst["AP50"], "mean": mean, "boxes": worst["boxes"]})


def false_alarms(findings: Findings) -> Iterator[Advice]:
    gain = _gain(findings, "false alarm")
    if gain >= 0.02 and gain == _largest_gain(findings):
        text = f"False alarms on background cost most (AP50 {_signed(gain)} without them): add images to the training "
        text += "data that look like those in the gallery and show no object; `data build` keeps images without boxes."
        yield Advice("false alarms", gain, text, {"gain": gain})


def misplaced_boxes(findings: Findings) -> Iterator[Advice]:
    gain = _gain(findings, "misplaced")
    if gain >= 0.02 and gain == _largest_gain(findings):
        text = f"Misplaced boxes cost most (AP50 {_signed(gain)} if they were right): check that labels are drawn "
        text += f"tightly and alike; a larger network size ({_larger(_model(findings))}) or a longer training "
        text += "(`--epochs`) makes boxes tighter."
        yield Advice("misplaced", gain, text, {"gain": gain})


def uncovered(findings: Findings) -> Iterator[Advice]:
    reach, model = (findings["reach"] or {}).get("anchors"), _model(findings)
    if reach and reach["missed"] >= 5 and reach["missed_uncovered"] >= 0.3 * reach["missed"]:
        count, missed = reach["missed_uncovered"], reach["missed"]
        text = f"No anchor reaches {count:,} of the {missed:,} missed boxes at IoU .5: "
        text += f"{_remedy('no_anchor', model)}."
        weight = _gain(findings, "missed") * count / missed
        yield Advice("anchors", weight, text, {"missed": missed, "uncovered": count})


def losing_stage(findings: Findings) -> Iterator[Advice]:
    """The class or aspect of which one stage loses many more than of all other objects."""
    every, worst, found = findings["lost"]["all"], 0.0, None
    known = 10 * every["unknown"] <= every["objects"] - every["found"]  # proposals are looked at in some images only
    told = {"no_anchor": not any(uncovered(findings)), "no_proposal": known, "background": known}
    stages = [stage for stage in LOSES if told.get(stage, True)]
    for by, stage in product(("class", "aspect"), stages):
        for name, row in findings["lost"][by].items():
            count, objects = row[stage], row["objects"]
            others = (every[stage] - count) / max(every["objects"] - objects, 1)
            more = count - others * objects
            enough = count >= 5 and every["objects"] - objects >= 10
            if enough and more > worst and count / objects >= max(2 * others, others + 0.15):
                worst, found = more, (by, stage, name, count, objects, others)
    if found:
        by, stage, name, count, objects, others = found
        text = f"{LOSES[stage].format(f'{count:,}', f'{objects:,}', _kind(by, name))} ({count / objects:.0%}; of all "
        text += f"other objects {others:.0%}): {_remedy(stage, _model(findings))}."
        figures = {"objects": objects, "lost": count, "others": round(others, 4)}
        yield Advice("losing stage", worst / every["objects"] / (2 if stage == "loose" else 1), text, figures)


def other_threshold(findings: Findings) -> Iterator[Advice]:
    point, table = findings["operating_point"], findings["all"]
    scores = [
        (2 * right / max(reported + table["objects"], 1), score)
        for score, reported, right in zip(findings["thresholds"], table["reported"], table["right"], strict=True)
    ]
    best, score = max(scores)  # of equals the highest score
    if point["f1"] is not None and best > point["f1"] + 0.02:
        text = f"At a score of {_number(score)} F1 is {_number(best)}, at the operating point of "
        text += f"{_number(point['score'])} it is {_number(point['f1'])}: predict with `--score {_number(score)}`."
        yield Advice("score", best - point["f1"], text, {"f1": point["f1"], "best": best, "score": score})


def longer_training(findings: Findings) -> Iterator[Advice]:
    values = _validation(findings)
    if len(values) >= 3 and values[-1] == max(values) and values[-1] - values[-3] > 0.01:
        rise = values[-1] - values[-3]
        text = f"mAP was still rising when the training ended ({_signed(rise)} over the last two evaluations): train "
        text += "longer (`--epochs`, or `--max-minutes`)."
        yield Advice("longer", rise, text, {"rise": rise})


def shorter_training(findings: Findings) -> Iterator[Advice]:
    values = _validation(findings)
    if len(values) >= 5 and max(values) - values[-1] > 0.03 and values.index(max(values)) < len(values) / 2:
        fall = max(values) - values[-1]
        text = (
            f"mAP fell by {_number(fall, 3)} after its best evaluation, in the first half of the training: the model "
        )
        text += "overfits. Add images, or end the training sooner (`--set train.patience=N`, or `--epochs`)."
        yield Advice("overfitting", fall / 2, text, {"fall": fall})


RULES: tuple[Callable[[Findings], Iterable[Advice]], ...] = (
    wrong_labels,
    few_images,
    small_objects,
    odd_aspects,
    confused_classes,
    weak_class,
    false_alarms,
    misplaced_boxes,
    uncovered,
    losing_stage,
    other_threshold,
    longer_training,
    shorter_training,
)


def _kind(by: str, name: str) -> str:
    return f"'{name}'" if by == "class" else f"{name} objects"


def _remedy(stage: str, model: ModelConfig | None) -> str:
    larger = f"a larger network size ({_larger(model)})"
    if stage == "no_anchor":
        could = model is not None and could_fit_anchors(model)
        fit = "have anchors fitted to the data (`--set model.anchors=fit`), or " if could else ""
        return f"{fit}train at {larger}"
    if stage == "loose":
        return f"check that their labels are drawn tightly and alike; {larger} or a longer training (`--epochs`) helps"
    return "add images of such objects"


def _table(findings: Findings, by: str) -> list[dict[str, Any]]:
    return next((table["rows"] for table in findings["slices"] if table["by"] == by), [])


def _gain(findings: Findings, kind: str) -> float:
    return next((one["gain"] for one in findings["tide"]["errors"] if one["kind"] == kind), 0.0)


def _largest_gain(findings: Findings) -> float:
    return max((one["gain"] for one in findings["tide"]["errors"]), default=0.0)


def _configuration(findings: Findings) -> dict[str, Any]:
    """The run's, empty where it is not known."""
    try:
        return parse_toml(findings["configuration"])
    except (ResightError, ValueError, KeyError):
        return {}


def _model(findings: Findings) -> ModelConfig | None:
    """The section [model] of the run's configuration, where it is known."""
    try:
        return model_config(_configuration(findings)["model"])
    except (ResightError, ValueError, KeyError):
        return None


def _repeats_none(findings: Findings) -> bool:
    """Whether the run is known to oversample no class."""
    configuration = _configuration(findings)
    return bool(configuration) and not configuration.get("data", {}).get("repeat_threshold")


def _larger(model: ModelConfig | None) -> str:
    """The option for a network size half as large again, in multiples of 32."""
    if model is None:
        return "`--size MIN,MAX`"
    low, high = model.min_size, model.max_size
    larger, longer = (math.ceil(1.5 * side / 32) * 32 for side in (low, high))
    return f"{model.size_option(larger, longer)}; it was {low},{high}"


def _validation(findings: Findings) -> list[float]:
    """mAP on validation at each evaluation of the training."""
    series = (findings["training"] or {"series": {}})["series"]
    return [value for name, rows in series.items() if name.startswith("mAP") for _, value in rows if value is not None]


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".removeprefix("0") if value < 1 else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("+0.", "+.")
