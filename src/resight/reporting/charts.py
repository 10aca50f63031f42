"""The charts of a report, and all of them as files for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from . import svg


def plots(findings: dict[str, Any]) -> dict[str, str]:
    """File name -> SVG of each chart of ``findings`` (the content of ``report.json``)."""
    start = operating_index(findings)
    files = {"thresholds.svg": thresholds(findings, start), "tide.svg": tide(findings["tide"]["errors"])}
    files["calibration.svg"] = reliability(findings["calibration"]["bins"])
    for row in curves(findings["classes"], start):
        files[f"precision_recall_{row['index'] + 1:04d}_{_file_name(row['name'])}.svg"] = row["svg"]
    for number, (name, chart) in enumerate(training_charts(findings["training"]), start=1):
        files[f"training_{number}_{_file_name(name)}.svg"] = chart
    return {name: str(chart) for name, chart in files.items()}


def operating_index(findings: dict[str, Any]) -> int:
    """Which of the 101 thresholds is the operating point."""
    return round(100 * findings["operating_point"]["score"])


def thresholds(findings: dict[str, Any], start: int) -> Markup:
    """Precision, recall and F1 of all classes, with a line at threshold number ``start``."""
    scores = findings["thresholds"]
    at = [at_threshold(findings["all"], index) for index in range(101)]
    lines = {
        name: list(zip(scores, (row[name.lower()] for row in at), strict=True))
        for name in ("precision", "recall", "F1")
    }
    return svg.line_chart(
        "Precision, recall and F1 of all classes by score threshold",
        "The upright line is the threshold that is set.",
        lines,
        svg.Axis("score threshold"),
        svg.Axis(""),
        cursor=scores[start],
    )


def curves(classes: Sequence[dict[str, Any]], start: int) -> list[dict[str, Any]]:
    """Of each class that has objects, the worst first."""
    rows = []
    for index, row in enumerate(classes):
        if not row["objects"]:
            continue
        at = at_threshold(row, start)
        point = None if at["precision"] is None else (at["recall"], at["precision"])
        best = max((i for i, value in enumerate(row["precision"]) if value), default=0) / 100
        says = f"AP50 {row['AP50'] or 0:.3f}. Precision is above 0 up to a recall of {best:.2f}."
        title = f"Precision by recall of {row['name']}"
        chart = svg.pr_curve(title, says, row["precision"], point)
        rows.append({"index": index, "name": row["name"], "AP50": row["AP50"], "svg": chart})
    return sorted(rows, key=lambda row: row["AP50"] or 0)


def tide(errors: Sequence[dict[str, Any]]) -> Markup:
    rows = [(one["kind"], one["gain"] or 0, f"{one['gain'] or 0:+.3f}") for one in errors]
    says = ", ".join(f"{kind} {text}" for kind, _, text in rows)
    return svg.bars("AP50 that fixing each kind of error would give", says, rows)


def reliability(bins: Sequence[dict[str, Any]]) -> Markup:
    return svg.reliability_curve(
        "Share of detections that are right, by their score",
        "The dashed line is where scores are probabilities; a larger dot is of more detections.",
        [(one["score"], one["right"], one["count"]) for one in bins],
    )


def training_charts(training: dict[str, Any] | None) -> list[tuple[str, Markup]]:
    """Name and chart of each series that has numbers."""
    charts = []
    for name, points in (training or {"series": {}})["series"].items():
        known = [(step, value) for step, value in points if value is not None]
        if not known:
            continue
        steps, values = zip(*known, strict=True)
        says = f"From {svg.number(values[0])} at step {steps[0]} to {svg.number(values[-1])} at step {steps[-1]}."
        title = f"{name} by training step"
        chart = svg.line_chart(title, says, {name: points}, svg.Axis.around("step", steps), svg.Axis.around("", values))
        charts.append((name, chart))
    return charts


def at_threshold(counts: dict[str, Any], index: int) -> dict[str, Any]:
    """Of a class or of all classes at threshold number ``index``."""
    objects, reported, right = counts["objects"], counts["reported"][index], counts["right"][index]
    return {
        "precision": _share(right, reported),
        "recall": _share(right, objects),
        "f1": _share(2 * right, reported + objects),
        "found": right,
        "missed": objects - right,
        "wrong": reported - right,
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _file_name(name: str) -> str:
    return re.sub("[^A-Za-z0-9._-]+", "_", name)[:40]
