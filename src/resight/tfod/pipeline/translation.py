"""What the messages of a `pipeline.config` mean here, beyond their fields one by one."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from ...config.loading import explain, keys_of
from ...config.tree import LENGTHS, TFOD_MODELS
from ...errors import ResightError, listed, nearest
from ...io.object_store import is_remote
from ...io.textproto import Field, quote
from ...label_map import LabelMap
from ...records.discover import find_label_map
from ..config import TfodTree, load_tfod
from .fields import EXTRACTORS, MESSAGES, ONLY_FASTER_RCNN, SCHEDULES
from .reading import Reading

# What TFOD does not have, so that a config says nothing of it.
WITHOUT = {
    "train.optimizer": "momentum",
    "train.weight_decay": 0.0,
    "train.ema": 0.0,
    "train.patience": 0,
    "train.accumulate": 1,
    "train.precision": "float32",
}
# With these some classes would be trained as others, or never; the rest of what is odd in a label map is reported.
WRONG_MAPS = tuple(f"label_map_{kind}" for kind in ("repeated_id", "repeated_name", "id_0", "no_id"))
CHECKPOINT_TYPES = ("detection", "full", "classification")


def classes_of(labels: LabelMap) -> int:
    """Classes of a TFOD model for a label map: its highest id, as a class's index there is its id less 1."""
    return max([item.id for item in labels.items if item.id > 0], default=len(labels.items))


# Models that are not supported, by the field that makes them such: its path in the model's message, and their name.
OTHER_MODELS = {
    "ssd": "SSD",
    "center_net": "CenterNet",
    "experimental_model": "an experimental model",
    "faster_rcnn.second_stage_box_predictor.rfcn_box_predictor": "R-FCN",
    "faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor.predict_instance_masks": "Mask R-CNN",
    "faster_rcnn.context_config": "Context R-CNN",
    "faster_rcnn.feature_extractor.fpn": "Faster R-CNN with a feature pyramid",
}


def other_model(fields: Sequence[Field]) -> tuple[str, int, str] | None:
    """Path and line of the field that makes a config's model another one than those supported, and the model's name."""
    for path, name in OTHER_MODELS.items():
        found = _inside(fields, ("model", *path.split(".")))
        if found and str(found[-1].value) not in ("false", "False", "f", "0"):
            types = _inside(fields, ("model", path.partition(".")[0], "feature_extractor", "type"))
            extractor = str(types[-1].value) if types else ""
            name = "EfficientDet" if name == "SSD" and "efficientnet" in extractor else name
            return f"model.{path}", found[-1].line, name + (f" with {quote(extractor)}" if extractor else "")
    return None


def _inside(fields: Any, path: Sequence[str]) -> list[Field]:
    """The fields of that path, however often its messages are given."""
    found = [field for field in (fields if isinstance(fields, list) else ()) if field.name == path[0]]
    return found if len(path) == 1 else [inner for field in found for inner in _inside(field.value, path[1:])]


class Translation(Reading):
    """The messages that mean more than their fields one by one."""

    def all_of_it(self, fields: Sequence[Field]) -> tuple[int, str]:
        values = self.message(fields, "Pipeline", "", 1)
        for metric in values["eval_config"]["metrics_set"]:
            if metric != "coco_detection_metrics":
                self.refuse("eval_config.metrics_set", f"{quote(metric)} (supported is coco_detection_metrics)")
        classes = self.model(fields, values["model"])
        self.train(values["train_config"])
        self.overrides.update(WITHOUT)
        return classes, self.readers(values, classes)

    def trained_model(self, fields: Sequence[Field]) -> tuple[int, str]:
        self.overrides["train.batch_size"] = 1  # whatever it was trained with: images of any sizes come one at a time
        labels = ""
        evaluation = next((field for field in fields if field.name == "eval_input_reader"), None)
        for field in fields:
            if field.name not in ("model", *MESSAGES["Model"]):
                self.note(self.ignored, field.line, field.name, "not needed by a trained model")
            for inner in field.value if isinstance(field.value, list) else ():
                if inner.name == "label_map_path" and isinstance(inner.value, str):
                    labels = labels or self.find(inner.value, os.path.isfile)
                if field is evaluation and inner.name == "max_number_of_boxes":
                    self.set("model.tfod.evaluated_boxes", inner.value, f"{field.name}.{inner.name}")
        values = self.message([field for field in fields if field.name == "model"], "Model", "", 1)
        return self.model(fields, values["model"]), labels

    # The model

    def model(self, fields: Sequence[Field], values: Mapping[str, Any]) -> int:
        """Takes over the model; its number of classes."""
        place, rcnn = "model.faster_rcnn", values.get("faster_rcnn")
        if other := other_model(fields):
            # Whatever else of it is not supported follows from that.
            where, line, name = other
            follows = re.compile(r"line \d+, (model\.|eval_config\..*mask)")
            self.refused = [refused for refused in self.refused if not follows.match(refused[1])]
            self.overrides = {key: value for key, value in self.overrides.items() if not key.startswith("model.")}
            self.note(self.refused, line, where, f"{name} ({ONLY_FASTER_RCNN})")
            return 0
        if rcnn is None:
            self.required("model", f"faster_rcnn with {', '.join(EXTRACTORS)}")
            return 0
        extractor, where = rcnn["feature_extractor"]["type"], f"{place}.feature_extractor.type"
        if extractor in EXTRACTORS:
            self.set("model.name", EXTRACTORS[extractor], where)
        else:
            close = nearest(extractor, EXTRACTORS).removeprefix("Did you mean ").rstrip("?") or listed(EXTRACTORS)
            self.refuse(where, f"{quote(extractor)} (supported, and nearest to it: {close})")
        if rcnn["num_classes"] < 1:
            self.refuse(f"{place}.num_classes", f"{rcnn['num_classes']} classes are too few")
        self.resizer(rcnn["image_resizer"], f"{place}.image_resizer")
        self.anchors(rcnn["first_stage_anchor_generator"], f"{place}.first_stage_anchor_generator")
        layer = "first_stage_box_predictor_conv_hyperparams"
        if "truncated_normal_initializer" not in rcnn[layer]["initializer"]:
            self.required(f"{place}.{layer}.initializer", "truncated_normal_initializer")
        if "mask_rcnn_box_predictor" not in rcnn["second_stage_box_predictor"]:
            self.required(f"{place}.second_stage_box_predictor", "mask_rcnn_box_predictor")
        self.limits(rcnn, place)
        return int(rcnn["num_classes"])

    def required(self, place: str, choice: str) -> None:
        """Refuses a choice without anything that is supported, unless what is given was refused already."""
        if not any(f", {place}." in text for _, text in self.refused):
            self.refuse(place, f"is missing (supported is {choice})")

    def resizer(self, values: Mapping[str, Any], place: str) -> None:
        if (keep := values.get("keep_aspect_ratio_resizer")) is not None:
            where = f"{place}.keep_aspect_ratio_resizer.per_channel_pad_value"
            self.set("model.tfod.fixed_size", None, place)
            self.set("model.tfod.pad_value", keep["per_channel_pad_value"] or (0.0, 0.0, 0.0), where)
        elif (fixed := values.get("fixed_shape_resizer")) is not None:
            size = (fixed["height"], fixed["width"])
            sizes = {"tfod.fixed_size": size, "tfod.pad": False, "min_size": min(size), "max_size": max(size)}
            for key, value in sizes.items():
                self.set(f"model.{key}", value, f"{place}.fixed_shape_resizer")
        else:
            self.required(place, "keep_aspect_ratio_resizer or fixed_shape_resizer")

    def anchors(self, values: Mapping[str, Any], place: str) -> None:
        if (grid := values.get("grid_anchor_generator")) is None:
            self.required(place, "grid_anchor_generator")
            return
        where = f"{place}.grid_anchor_generator"
        for key, suffix in {"base": "", "stride": "_stride", "offset": "_offset"}.items():
            self.set(f"model.tfod.anchor_{key}", (grid[f"height{suffix}"], grid[f"width{suffix}"]), where)
        for name in ("scales", "aspect_ratios"):
            if not grid[name] or min(grid[name]) <= 0:
                self.refuse(f"{where}.{name}", "must be one number or more, each above 0")

    def limits(self, rcnn: Mapping[str, Any], place: str) -> None:
        """What TFOD itself refuses, and which switches must go together."""
        both = ("use_static_shapes", "use_static_balanced_label_sampler")
        if rcnn[both[0]] != rcnn[both[1]]:
            given, other = both if rcnn[both[0]] else both[::-1]
            self.refuse(f"{place}.{given}", f"true (supported together with {other}: true)")
        if rcnn["use_static_shapes"] and not rcnn["use_partitioned_nms_in_first_stage"]:
            self.refuse(f"{place}.use_partitioned_nms_in_first_stage", "false (supported with static shapes is true)")
        self.at_most(rcnn, place, "second_stage_batch_size", "first_stage_max_proposals")
        nms = rcnn["second_stage_post_processing"]["batch_non_max_suppression"]
        where = f"{place}.second_stage_post_processing.batch_non_max_suppression"
        self.at_most(nms, where, "max_detections_per_class", "max_total_detections")

    def at_most(self, values: Mapping[str, Any], place: str, name: str, limit: str) -> None:
        if values[name] > values[limit]:
            self.refuse(f"{place}.{name}", f"{values[name]} is more than the {values[limit]} of {limit}")

    # Training

    def train(self, values: Mapping[str, Any]) -> None:
        place = "train_config"
        if (steps := values["num_steps"]) > 0:
            self.set("train.steps", steps, f"{place}.num_steps")
        elif steps < 0:
            self.refuse(f"{place}.num_steps", f"{steps} is less than 0")
        elif not any(self.given.get(key) for key in LENGTHS):
            text = "absent (Resight's default length applies; --steps N sets another)"
            self.note(self.ignored, self.line(place), f"{place}.num_steps", text)
        operations: list[dict[str, Any]] = []
        self.set("augment.operations", operations, f"{place}.data_augmentation_options")
        for name, options in (item for step in values["data_augmentation_options"] for item in step.items()):
            where = f"{place}.data_augmentation_options.{name}"
            self.places[f"augment.operations.{len(operations)}"] = where
            self.note(self.honoured, self.line(where), where, "-> augment.operations")
            operations.append({"name": name, "options": {key: float(value) for key, value in options.items()}})
        where = f"{place}.optimizer"
        if f"{where}.momentum_optimizer" in self.lines:
            rate = values["optimizer"]["momentum_optimizer"]["learning_rate"]
            self.schedule(rate, f"{where}.momentum_optimizer.learning_rate")
        else:
            self.required(where, "momentum_optimizer")
        average = f"{where}.use_moving_average"
        if values["optimizer"]["use_moving_average"] and average in self.lines:
            self.refuse(average, "true (supported is false: TFOD trains, saves and exports the plain weights as well)")
        elif values["optimizer"]["use_moving_average"]:
            text = "absent (the averages that TFOD then keeps change no weight; none are kept here)"
            self.note(self.ignored, self.line(where), average, text)
        self.start(values, f"{place}.fine_tune_checkpoint")

    def start(self, values: Mapping[str, Any], place: str) -> None:
        kind, written = values["fine_tune_checkpoint_type"], values["fine_tune_checkpoint"]
        replaced = bool(self.given.get("model.start"))
        if kind and kind not in CHECKPOINT_TYPES:
            self.refuse(f"{place}_type", f"{quote(kind)} (supported are {', '.join(CHECKPOINT_TYPES)})")
        elif kind or values["from_detection_checkpoint"] or (written and not replaced):
            # TFOD takes a checkpoint for a classifier's where the config does not say.
            usual = "detection" if values["from_detection_checkpoint"] else "classification"
            self.set("model.start_type", kind or usual, f"{place}_type")
        if replaced:
            return
        if written and values["fine_tune_checkpoint_version"] == "V1":
            self.refuse(f"{place}_version", "V1 (supported is V2; V1 is of TF1)")
        elif written and f"{place}_version" not in self.lines:
            self.note(self.honoured, self.line(place), f"{place}_version", "absent (V2 is assumed)")
        found = written and self.find(written, lambda path: os.path.isfile(f"{path}.index") or os.path.exists(path))
        self.set("model.start", found or written or "none", place)
        if written and not found:
            self.absent(place, written, "--start MODEL")

    def schedule(self, values: Mapping[str, Any], place: str) -> None:
        if not values:
            self.required(place, "cosine_, manual_step_, exponential_decay_ or constant_learning_rate")
            return
        name, rate = next(iter(values.items()))
        where = f"{place}.{name}"
        schedule = next(ours for ours, theirs in SCHEDULES.items() if theirs == name)
        self.set("train.schedule", schedule, where)
        self.set("train.warmup_steps", 0, where)
        if schedule == "cosine" and rate["warmup_steps"] > 0:
            self.set("train.warmup_steps", rate["warmup_steps"], f"{where}.warmup_steps")
            self.set("train.warmup_rate", rate["warmup_learning_rate"], f"{where}.warmup_learning_rate")
            if rate["warmup_learning_rate"] > rate["learning_rate_base"]:
                text = f"{rate['warmup_learning_rate']} is more than the {rate['learning_rate_base']} to rise to"
                self.refuse(f"{where}.warmup_learning_rate", text)
        elif schedule == "exponential" and rate["burnin_steps"] > 0:
            begin = rate["burnin_learning_rate"] or rate["initial_learning_rate"]
            self.set("train.warmup", "constant", where)
            self.set("train.warmup_steps", rate["burnin_steps"], f"{where}.burnin_steps")
            self.set("train.warmup_rate", max(begin, rate["min_learning_rate"]), f"{where}.burnin_learning_rate")
        elif schedule == "steps":
            self.manual_steps(rate, where)

    def manual_steps(self, rate: Mapping[str, Any], where: str) -> None:
        parts = [(part["step"], part["learning_rate"]) for part in rate["schedule"]]
        if not parts or parts[0][0] < 1 or any(later[0] <= part[0] for part, later in pairwise(parts)):
            self.refuse(f"{where}.schedule", "must have steps that rise, from 1 or more")
            return
        self.set("train.learning_rate", rate["initial_learning_rate"], f"{where}.initial_learning_rate")
        if rate["warmup"]:  # the rate rises from the first to the second of them
            self.set("train.warmup_steps", parts[0][0], f"{where}.schedule")
            self.set("train.warmup_rate", rate["initial_learning_rate"], f"{where}.initial_learning_rate")
            self.set("train.learning_rate", parts.pop(0)[1], f"{where}.schedule")
        self.set("train.milestones", tuple(parts), f"{where}.schedule")

    # Paths

    def readers(self, values: Mapping[str, Any], classes: int) -> str:
        """Takes over records and label map; the path of the map."""
        readers = {"train": ("train_input_reader", values["train_input_reader"])}
        if values["eval_input_reader"]:
            readers["test"] = ("eval_input_reader", values["eval_input_reader"][0])
            limit = readers["test"][1]["max_number_of_boxes"]
            self.set("model.tfod.evaluated_boxes", limit, "eval_input_reader.max_number_of_boxes")
        if len(values["eval_input_reader"]) > 1:
            place = "eval_input_reader"
            self.note(self.ignored, self.line(place), place, "all but the first, as TFOD does by default")
        if data := self.given.get("data.path"):
            for place, _ in readers.values():
                self.note(self.ignored, self.line(place), place, f"records and label map ({data} takes their place)")
            written = values["train_input_reader"]["label_map_path"]
            if not self.given.get("data.label_map") and written and (found := self.find(written, os.path.isfile)):
                folder = os.path.dirname(str(data)) if os.path.isfile(str(data)) else str(data)
                with suppress(ResightError):  # where there is none beside the records, or several
                    if find_label_map(folder, otherwise=found)[0] == found:
                        return self.labels({"train_input_reader.label_map_path": found}, classes)
            return self.labels({}, classes, str(data))
        maps: dict[str, str] = {}
        for split, (place, reader) in readers.items():
            if not self.given.get(f"data.{split}"):
                self.records(split, f"{place}.tf_record_input_reader.input_path", reader["tf_record_input_reader"])
            written = reader["label_map_path"]
            if self.given.get("data.label_map") or not (written or split == "train"):
                continue
            if written and (found := self.find(written, os.path.isfile)):
                maps[f"{place}.label_map_path"] = found
            else:
                self.overrides.setdefault("data.label_map", written)
                self.absent(f"{place}.label_map_path", written, "--data RECORDS or --set data.label_map=FILE")
        return self.labels(maps, classes)

    def records(self, split: str, place: str, reader: Mapping[str, Any]) -> None:
        found = {pattern: self.find(pattern, matches, escape=True) for pattern in reader["input_path"]}
        self.set(f"data.{split}", tuple(path or pattern for pattern, path in found.items()), place)
        for pattern, path in (found or {"": ""}).items():
            if not path:
                self.absent(place, pattern, f"--data RECORDS or --set data.{split}=GLOB")

    def labels(self, maps: Mapping[str, str], classes: int, data: str = "") -> str:
        """Compares the label maps, by the fields that name them, with the number of classes."""
        path = str(self.given.get("data.label_map") or next(iter(maps.values()), ""))
        try:
            first = find_label_map(data, path) if data or path else None
            others = [(place, *find_label_map("", file)) for place, file in maps.items() if file != path]
        except ResightError as error:
            if not data:  # a records folder is opened later, with all that may be said of it
                self.refused.append((self.line("train_input_reader"), str(error)))
            return path
        if first is None:
            return ""
        if maps:
            self.set("data.label_map", path, next(iter(maps)))
        for place, file, labels in others:
            if labels.items != first[1].items:
                self.refuse(place, f"{file} differs from {path} (supported is one map for both readers)")
        for problem in first[1].problems:
            lines = self.refused if problem.kind in WRONG_MAPS else self.honoured
            lines.append((self.line("train_input_reader"), f"{first[0]}: {problem.message}"))
        if classes and classes != (wanted := classes_of(first[1])):
            odd = "".join(f"; {problem.message}" for problem in first[1].problems)
            text = f"{classes}, but the label map {first[0]} has {wanted} classes{odd}; make the two agree"
            self.refuse("model.faster_rcnn.num_classes", text)
        return first[0]

    def find(self, written: str, exists: Callable[[str], bool], escape: bool = False) -> str:
        """The absolute path, looked for in the working directory and then beside the config; "" where it is not."""
        if is_remote(written):  # asked for when it is read
            return written
        for folder in (os.getcwd(), self.folder):
            path = os.path.normpath(os.path.join(glob.escape(folder) if escape else folder, written))
            with suppress(OSError, ValueError, re.error):  # no path at all, to the system or to glob
                if exists(path):
                    return path
        return ""

    def absent(self, place: str, written: str, option: str) -> None:
        what = "is a folder, not a file" if os.path.isdir(written) else "does not exist"
        text = f"{quote(written)} {what}" if written else "is not given"
        self.note(self.missing, self.line(place), place, f"{text}; {option} takes its place")

    def validate(self) -> None:
        """Refuses values that our configuration does not take, by the field that each comes from; raises where options
        have such values."""
        tree = {"model.name": TFOD_MODELS[0], **self.overrides, **self.given}
        try:
            load_tfod(tree)
        except ResightError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            items = error.__cause__.errors()
            keys = partial(keys_of, TfodTree)
            wrong = [(".".join(str(part) for part in item["loc"]), explain(item, keys)) for item in items]
            if own := [text for key, text in wrong if self.source(key, text) in self.given]:
                raise ResightError("; ".join(own), where="options") from error
            for key, text in wrong:
                place = self.places.get(self.source(key, text))
                if place is None:
                    self.refused.append((0, text))
                elif not any(f", {place}:" in line for _, line in self.refused):
                    self.refuse(place, text)

    def source(self, key: str, text: str) -> str:
        """Our key, of the options or of the config, that what is said of ``key`` comes from; "" where none does."""
        known = {**self.places, **self.given}
        if near := [one for one in known if f"{key}.".startswith(f"{one}.")]:
            return max(near, key=len)
        # A section's own rule, which names its fields.
        words = {one.rpartition(".")[2]: one for one in known}
        near = [words[word] for word in re.findall(r"\w+", text.partition(":")[2] or text) if word in words]
        return next((one for one in near if one in self.given), near[0] if near else "")


def matches(pattern: str) -> bool:
    return is_remote(pattern) or any(os.path.isfile(file) for file in glob.iglob(pattern))
