"""What to do next: at most five sentences, each from a rule on the numbers of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

MOST = 5
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
    """Labels come first, as every other number is measured by them; if the detector is good enough to be asked."""
    count, boxes = len(findings["suspects"]), findings["head"]["num_boxes"]
    if count >= 5 and count >= 0.02 * boxes and (findings["operating_point"]["precision"] or 0) >= 0.8:
        text = f"Look through the {count} labels that the detector is sure are wrong, of {boxes:,}, before anything "
        text += "else: every number here is measured by them (a CSV beside the page lists them)."
        yield Advice("labels", 1.0, text, {"suspects": count, "boxes": boxes})


def few_images(findings: Findings) -> Iterator[Advice]:
    ap, drawn = findings["numbers"]["mAP"], findings["resampled"]
    if ap["low"] is not None and ap["high"] - ap["low"] > 0.1:
        text = f"With {drawn['count']:,} {drawn['unit']} mAP is known to lie between {_number(ap['low'])} and "
        text += f"{_number(ap['high'])} only: take no decision on a smaller difference, and evaluate on more images."
        yield Advice("few images", 0.9, text, {"low": ap["low"], "high": ap["high"], "count": drawn["count"]})


def small_objects(findings: Findings) -> Iterator[Advice]:
    sizes = _table(findings, "size")
    missed = {row["name"]: round(row["objects"] * (1 - row["found"])) for row in sizes}
    small, every = missed.get("under 16 px", 0), sum(missed.values())
    if small >= 5 and small >= 0.4 * every:
        text = f"Of {every:,} missed boxes {small:,} are under 16 px at the network's size: try a larger one "
        text += "(`--size 640,1024`), or tiles (`model.tile`)."
        yield Advice(
            "small objects", _gain(findings, "missed") * small / every, text, {"missed": every, "small": small}
        )


def odd_aspects(findings: Findings) -> Iterator[Advice]:
    rows = {row["name"]: row for row in _table(findings, "aspect")}
    plain = rows.get("between")
    for name, row in rows.items():
        if plain and row["objects"] >= 10 and row["AP"] is not None and row["AP"] < plain["AP"] - 0.15:
            text = f"Objects {name} reach AP {_number(row['AP'])}, others {_number(plain['AP'])}: "
            text += "add images of them, or repeat those there are (`data.repeat_threshold`)."
            share = row["objects"] / max(findings["head"]["num_boxes"], 1)
            figures = {"AP": row["AP"], "others": plain["AP"], "objects": row["objects"]}
            yield Advice("aspect", share * (plain["AP"] - row["AP"]), text, figures)


def confused_classes(findings: Findings) -> Iterator[Advice]:
    names = [one["name"] for one in findings["classes"]]
    cells = [cell for cell in findings["confusion"]["cells"] if cell[0] != cell[1] and min(cell[:2]) >= 0]
    if cells:
        row, column, count = max(cells, key=lambda cell: cell[2])
        objects = findings["classes"][row]["boxes"]
        if count >= 5 and count >= 0.1 * objects:
            text = (
                f"Of {objects:,} '{names[row]}' {count:,} are called '{names[column]}': look at them in the gallery; "
            )
            text += "if their labels are right, more images in which the two differ will help."
            yield Advice("confusion", _gain(findings, "wrong class"), text, {"objects": objects, "confused": count})


def weak_class(findings: Findings) -> Iterator[Advice]:
    known = [one for one in findings["classes"] if one["AP50"] is not None]
    mean = findings["numbers"]["AP50"]["value"]
    if len(known) > 1 and mean is not None:
        worst = min(known, key=lambda one: one["AP50"])
        most = max(one["boxes"] for one in known)
        if worst["AP50"] < mean - 0.15 and worst["boxes"] <= 0.2 * most:
            text = f"'{worst['name']}' reaches AP50 {_number(worst['AP50'])}, the mean is {_number(mean)}, and it has "
            text += (
                f"{worst['boxes']:,} boxes here where the most frequent class has {most:,}: add images of it, or show "
            )
            text += "those there are more often (`data.repeat_threshold`)."
            weight = (mean - worst["AP50"]) / len(known)
            yield Advice("rare class", weight, text, {"AP50": worst["AP50"], "mean": mean, "boxes": worst["boxes"]})


def false_alarms(findings: Findings) -> Iterator[Advice]:
    gain = _gain(findings, "false alarm")
    if gain >= 0.02 and gain >= max(_gain(findings, kind) for kind in ("missed", "misplaced", "wrong class")):
        text = f"False alarms on background cost most (AP50 {_signed(gain)} without them): add images without objects "
        text += "that look like those in the gallery, or raise the score from which detections are shown."
        yield Advice("false alarms", gain, text, {"gain": gain})


def misplaced_boxes(findings: Findings) -> Iterator[Advice]:
    gain = _gain(findings, "misplaced")
    if gain >= 0.02 and gain >= max(_gain(findings, kind) for kind in ("missed", "false alarm", "wrong class")):
        text = (
            f"Boxes in the wrong place cost most (AP50 {_signed(gain)} if they were right): check that the boxes are "
        )
        text += "drawn tightly and alike; a larger network size or a longer training make them tighter."
        yield Advice("misplaced", gain, text, {"gain": gain})


def uncovered(findings: Findings) -> Iterator[Advice]:
    reach = (findings["reach"] or {}).get("anchors")
    if reach and reach["missed"] >= 5 and reach["missed_uncovered"] >= 0.3 * reach["missed"]:
        count, missed = reach["missed_uncovered"], reach["missed"]
        text = f"No anchor reaches {count:,} of the {missed:,} missed boxes at IoU .5: have them fitted to the data "
        text += '(`model.anchors = "fit"`), or train at a larger network size.'
        yield Advice(
            "anchors", _gain(findings, "missed") * count / missed, text, {"missed": missed, "uncovered": count}
        )


def other_threshold(findings: Findings) -> Iterator[Advice]:
    point, table = findings["operating_point"], findings["all"]
    objects = table["objects"]
    best, at = max(
        ((2 * right / (reported + objects), -step) for step, (reported, right) in enumerate(_steps(table)) if reported),
        default=(0.0, 0),
    )
    if point["f1"] is not None and best > point["f1"] + 0.02:
        text = f"From score {_number(-at / 100)} on F1 is {best:.2f}, and {point['f1']:.2f} at the model's own "
        text += f"{_number(point['score'])}: predict with `--score {_number(-at / 100)}`."
        yield Advice("score", best - point["f1"], text, {"f1": point["f1"], "best": best, "score": -at / 100})


def longer_training(findings: Findings) -> Iterator[Advice]:
    values = _validation(findings)
    if len(values) >= 3 and values[-1] == max(values) and values[-1] - values[-3] > 0.01:
        rise = values[-1] - values[-3]
        text = (
            f"The numbers on validation were still rising when the training ended (mAP {_signed(rise)} over the last "
        )
        text += "two evaluations): train longer."
        yield Advice("longer", rise, text, {"rise": rise})


def shorter_training(findings: Findings) -> Iterator[Advice]:
    values = _validation(findings)
    if len(values) >= 5 and max(values) - values[-1] > 0.03 and values.index(max(values)) < len(values) / 2:
        fall = max(values) - values[-1]
        text = (
            f"mAP on validation fell by {fall:.3f} after its best evaluation, in the first half of the training: the "
        )
        text += "model learns the training images by heart. Add images, or stop earlier (`train.patience`)."
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
    other_threshold,
    longer_training,
    shorter_training,
)


def _table(findings: Findings, by: str) -> list[dict[str, Any]]:
    return next((table["rows"] for table in findings["slices"] if table["by"] == by), [])


def _gain(findings: Findings, kind: str) -> float:
    return next((one["gain"] for one in findings["tide"]["errors"] if one["kind"] == kind), 0.0)


def _validation(findings: Findings) -> list[float]:
    """mAP on validation at each evaluation of the training."""
    series = (findings["training"] or {"series": {}})["series"]
    return [value for name, rows in series.items() if name.startswith("mAP") for _, value in rows if value is not None]


def _steps(table: Mapping[str, Any]) -> Iterable[tuple[int, int]]:
    return zip(table["reported"], table["right"], strict=True)


def _number(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("+0.", "+.")
