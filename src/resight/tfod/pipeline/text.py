"""A `pipeline.config` as text: written from our configuration, or changed in a few places."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...config.tree import Config
from ...errors import ResightError, nearest
from ...io.textproto import Field, Word, normalized, parse, quote
from .config import translate
from .fields import CHOICES, EXTRACTORS, MESSAGES, SCHEDULES, join, paths, scalar

_RATE = "train_config.optimizer.momentum_optimizer.learning_rate"
# Fields that TFOD refuses where they are more than another; ours may be, where they are of no use then.
_LIMITED = ("second_stage_batch_size", "max_detections_per_class")
# Messages of choices: where one of their values changes they are written anew.
_WHOLE = (_RATE, "model.faster_rcnn.image_resizer", "train_config.data_augmentation_options")


def write_pipeline(
    config: Config,
    num_classes: int,
    *,
    records: Mapping[str, Sequence[str]] | None = None,
    label_map: str = "",
    checkpoint: str = "",
) -> str:
    """A `pipeline.config` that says what ``config`` says, as far as TFOD has words for it.

    ``examine_pipeline`` reads the same configuration from it. What cannot be said so is named in comments.

    Args:
        config: of a model of the TFOD dialect.
        records: globs of the "train" and "test" records; by default those of ``config.data``.
        label_map, checkpoint: paths; by default those of ``config``.
    """
    message = _everything(config, num_classes, records, label_map, checkpoint)
    text = "\n".join(line for name, value in message.items() for line in _render(name, value)) + "\n"
    keys = _unsaid(text, config)
    if not checkpoint and config.model.start in ("pretrained", "none"):
        keys = [key for key in keys if key != "model.start"]
    return "\n".join([*_no_word(keys, config), text])


def merge_pipeline(text: str, config: Config, num_classes: int) -> str:
    """The `pipeline.config` that a training came from, changed only where ``config``, by which it trained, says
    otherwise. The readers stay; a comment says where their records were not those that were trained on."""
    text = normalized(text)
    changes = _changes(_unsaid(text, config), config, num_classes)
    if translate(text).num_classes != num_classes:
        changes["model.faster_rcnn.num_classes"] = num_classes
    text = edit_pipeline(text, changes)
    comments = _no_word(_unsaid(text, config), config)
    if config.data.path:
        comments.insert(0, f"# Trained on the records of {quote(config.data.path)}, in place of the readers' own.")
    return "\n".join([*comments, text])


def with_limits(text: str, config: Config, num_classes: int) -> str:
    """``text`` as it is but for the limits of detections, which an export may have of its own."""
    keys = [key for key in _unsaid(text, config, model_only=True) if key.startswith("model.tfod.")]
    return edit_pipeline(text, _changes(keys, config, num_classes)) if keys else text


def _changes(keys: Sequence[str], config: Config, num_classes: int) -> dict[str, Any]:
    """The fields of our ``keys`` with their values in ``config``, as :func:`edit_pipeline` takes them."""
    message = _everything(config, num_classes)
    changes: dict[str, Any] = {}
    for place, known in paths():
        limited = place.endswith(_LIMITED) and _get(message, place) != _get(config, known.key)
        if known.use == "read" and (known.key in keys or limited):
            whole = next((whole for whole in _WHOLE if place.startswith(whole)), place)
            changes[whole] = _get(message, whole)
    return changes


def _unsaid(text: str, config: Config, model_only: bool = False) -> list[str]:
    """Our keys, but those of the data, whose value in ``config`` is another than ``text`` says."""
    said = dict(translate(text, model_only=model_only).overrides)
    if Path(config.model.start).match(said.get("model.start") or "none"):  # named from another folder
        said["model.start"] = config.model.start
    return [key for key, value in said.items() if not key.startswith("data.") and not _same(_get(config, key), value)]


def _no_word(keys: Sequence[str], config: Config) -> list[str]:
    return [f"# TFOD has no word for {key} = {_get(config, key)!r}." for key in keys]


def _everything(
    config: Config,
    num_classes: int,
    records: Mapping[str, Sequence[str]] | None = None,
    label_map: str = "",
    checkpoint: str = "",
) -> dict[str, Any]:
    """All that ``config`` says, as the message of a `pipeline.config`."""
    data, start = config.data, config.model.start
    records = records or {"train": data.train, "test": data.test or data.val}
    checkpoint = checkpoint or ("" if start in ("pretrained", "none") else start)
    named = {
        "train_input_reader.tf_record_input_reader.input_path": tuple(records.get("train", ())),
        "eval_input_reader.tf_record_input_reader.input_path": tuple(records.get("test", ())),
        "train_input_reader.label_map_path": label_map or data.label_map or None,
        "eval_input_reader.label_map_path": label_map or data.label_map or None,
        "train_config.fine_tune_checkpoint": checkpoint or None,
        "train_config.fine_tune_checkpoint_version": Word("V2") if checkpoint else None,
        "train_config.fine_tune_checkpoint_type": config.model.start_type,
        "eval_config.metrics_set": ("coco_detection_metrics",),
    }
    train = config.train
    warmup = train.warmup_steps
    if train.warmup_rate is None and train.steps:
        warmup = min(warmup, -(-train.steps // 10), train.steps - 1)  # such a one takes a tenth of the training at most
    values = {**_model(config, num_classes), **_training(config, warmup), **named}
    rate = "constant" if train.schedule == "steps" and not (train.milestones or warmup) else train.schedule
    resizer = "fixed_shape_resizer" if config.model.tfod.fixed_size else "keep_aspect_ratio_resizer"
    return _message(config, values, {"ImageResizer": resizer, "LearningRate": SCHEDULES[rate]})


def edit_pipeline(text: str, changes: Mapping[str, Any]) -> str:
    """``text`` with other values in a few fields, and everything else, comments too, as it was.

    Args:
        changes: by the path of the field, ``train_config.batch_size``: a number, a text, a bool, a list of them, a
            mapping (a message), or None (the field goes).

    Raises:
        ResightError: TFOD has no such field, or it does not apply, as the text has made another choice
            (``min_dimension`` of a resizer to a fixed size).
    """
    text = normalized(text)
    for path, value in changes.items():
        text = _edit(text, path, value)
    return text


def _model(config: Config, num_classes: int) -> dict[str, Any]:
    tfod, place = config.model.tfod, "model.faster_rcnn"
    if tfod is None:
        raise ResightError(f"the model {config.model.name} is none of TFOD's", fix="Only those have a pipeline.config.")
    keep, fixed = f"{place}.image_resizer.keep_aspect_ratio_resizer", f"{place}.image_resizer.fixed_shape_resizer"
    grid = f"{place}.first_stage_anchor_generator.grid_anchor_generator"
    nms = f"{place}.second_stage_post_processing.batch_non_max_suppression"
    values: dict[str, Any] = {
        f"{place}.num_classes": num_classes,
        f"{place}.feature_extractor.type": next(name for name, ours in EXTRACTORS.items() if ours == config.model.name),
        f"{place}.use_static_balanced_label_sampler": tfod.static_shapes,
        f"{place}.second_stage_batch_size": min(tfod.box_batch, tfod.proposals),
        f"{nms}.max_detections_per_class": min(tfod.detections_per_class, tfod.detections),
        "eval_input_reader.max_number_of_boxes": tfod.evaluated_boxes,
        f"{keep}.per_channel_pad_value": tfod.pad_value if any(tfod.pad_value) else None,
    }
    pairs = {"": tfod.anchor_base, "_stride": tfod.anchor_stride, "_offset": tfod.anchor_offset}
    for suffix, pair in pairs.items():
        values |= {f"{grid}.{side}{suffix}": round(v) for side, v in zip(("height", "width"), pair, strict=True)}
    if tfod.fixed_size:
        values |= {f"{fixed}.height": tfod.fixed_size[0], f"{fixed}.width": tfod.fixed_size[1]}
    return values


def _training(config: Config, warmup: int) -> dict[str, Any]:
    train, operations = config.train, config.augment.operations or ()
    begin, rate = train.warmup_rate, train.learning_rate
    if begin is None and rate is not None and warmup:
        begin = rate / train.warmup_steps
    cosine, manual, exponential = (f"{_RATE}.{SCHEDULES[name]}" for name in ("cosine", "steps", "exponential"))
    first = [(warmup, rate)] if warmup else []
    return {
        "train_config.num_steps": train.steps,
        "train_config.optimizer.use_moving_average": False,
        "train_config.data_augmentation_options": [
            {step.name: {key: MESSAGES[step.name][key].kind(value) for key, value in step.values.items()}}  # type: ignore[operator]
            for step in operations
        ],
        f"{cosine}.total_steps": train.schedule_steps or train.steps,
        f"{cosine}.warmup_steps": warmup,
        f"{cosine}.warmup_learning_rate": begin or 0.0,
        f"{exponential}.burnin_steps": warmup,
        f"{exponential}.burnin_learning_rate": begin or 0.0,
        f"{manual}.initial_learning_rate": begin if warmup else rate,
        f"{manual}.warmup": bool(warmup),
        f"{manual}.schedule": [{"step": step, "learning_rate": v} for step, v in (*first, *train.milestones)],
    }


def _message(
    config: Config, values: Mapping[str, Any], choices: Mapping[str, str], kind: str = "Pipeline", path: str = ""
) -> dict[str, Any]:
    """A message by the table: what ``values`` says of a path, else the value of our key.

    Args:
        choices: the field of a message of which one alone may be given; by default the first.
    """
    found, table = {}, MESSAGES[kind]
    for name, known in table.items():
        if known.use != "read" or (kind in CHOICES and name != choices.get(kind, next(iter(table)))):
            continue
        place = join(path, name)
        value: Any = None
        if place in values:
            value = values[place]
        elif known.is_message:
            value = _message(config, values, choices, str(known.kind), place)
        elif known.key and not known.by_hand:
            value = _get(config, known.key)
        elif known.only and known.default not in known.only:
            value = Word(known.only[0]) if isinstance(known.kind, tuple) else known.only[0]
        if value not in (None, (), [], {}):
            found[name] = value
    return found


def _get(value: Any, path: str) -> Any:
    """What lies at a path of names in our configuration or in a message; None where nothing does."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value


def _same(ours: Any, said: Any) -> bool:
    if isinstance(said, list):  # augmentations
        return [(step.name, step.values) for step in ours or ()] == [(step["name"], step["options"]) for step in said]
    return bool(ours == said) or (ours is None and not said)


def _render(name: str, value: Any, indent: int = 0) -> list[str]:
    margin = "  " * indent
    if isinstance(value, Mapping):
        inner = [line for key, item in value.items() for line in _render(key, item, indent + 1)]
        return [f"{margin}{name} {{", *inner, f"{margin}}}"]
    if isinstance(value, list | tuple):
        if all(isinstance(item, int | float) for item in value):
            return [f"{margin}{name}: [{', '.join(map(scalar, value))}]"]
        return [line for item in value for line in _render(name, item, indent)]
    return [f"{margin}{name}: {scalar(value)}"]


def _edit(text: str, path: str, value: Any) -> str:
    names, kind = path.split("."), "Pipeline"
    fields, end = parse(text), len(text)
    for depth, name in enumerate(names):
        known = MESSAGES[kind].get(name)
        if known is None:
            raise ResightError(f"a pipeline.config has no '{path}'", fix=nearest(name, MESSAGES[kind]))
        others = [field.name for field in fields if field.name != name]
        if kind in CHOICES and others:
            raise ResightError(f"{path} does not apply, as the config has {others[0]}")
        here = [field for field in fields if field.name == name]
        last = depth == len(names) - 1
        if last or not here:
            for inner in reversed(names[depth + 1 :]):
                value = {inner: value}
            return _replace(text, here, [] if value is None else _render(name, value, depth), depth, end)
        field = here[0 if known.repeated else -1]  # TFOD evaluates the first reader; of other fields the last counts
        if not isinstance(field.value, list):
            raise ResightError(f"{path} does not apply, as {name} is not a message", where=f"line {field.line}")
        fields, kind, end = field.value, str(known.kind), field.end - 1
    return text


def _replace(text: str, old: Sequence[Field], lines: Sequence[str], depth: int, end: int) -> str:
    """``lines`` where the first of ``old`` stood, else before ``end``, where the message closes."""
    spans = sorted({(field.start, field.end) for field in old})
    for start, stop in reversed(spans[1:] if lines else spans):
        stop += len(re.match(r"\s*[,;]?[^\S\n]*\n?", text[stop:]).group())  # type: ignore[union-attr]
        text = text[:start].rstrip(" \t") + text[stop:]
    if spans and lines:
        start, stop = spans[0]
        return text[:start] + "\n".join(lines).lstrip() + text[stop:]
    if not lines:
        return text
    before, after = text[:end].rstrip(" \t"), text[end:]
    gap = "" if before.endswith("\n") or not before else "\n"
    return f"{before}{gap}" + "\n".join(lines) + "\n" + "  " * (depth - 1) * bool(depth) + after
