"""The configuration: one typed tree, frozen, unknown keys refused.

Defaults < a TOML file < ``--set key=value``. ``to_toml`` writes the tree back with a comment for each key, so the
``config.toml`` of a run folder is itself a configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..errors import ResightError, listed, nearest, shown
from ..io.files import TEXT, check_tree, parse_toml, read_text
from ..io.misplaced import meant
from . import defaults
from .defaults import OPERATION_DEFAULTS as OPERATION_DEFAULTS
from .other_names import instead_of_a_file, key_here
from .toml_text import flat, line_of
from .toml_text import to_toml as to_toml

TFOD_MODELS = ("faster_rcnn_resnet50_v1", "faster_rcnn_resnet101_v1", "faster_rcnn_resnet152_v1")
_TFOD = "faster_rcnn_resnet{50,101,152}_v1"
LARGEST_LIMIT = 10_000  # of the detections of an image: memory is set aside for them
LENGTHS = ("train.epochs", "train.steps", "train.max_minutes")  # of a training, in one measure or another

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# One glob or a list of them.
Globs = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: ((given,) if given else ()) if isinstance(given, str) else given)
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_1(cls, value: object, info: Any) -> object:
        kind = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and kind in (int, float, int | None, float | None):
            raise PydanticCustomError("float_type", "true is not 1")
        return value


class DataConfig(_Section):
    path: str = Field("", description="records folder")
    train: Globs = Field((), description="globs of the training records, where the folder does not tell")
    val: Globs = Field((), description="globs of the validation records")
    test: Globs = Field((), description="globs of the test records")
    label_map: str = Field("", description="label map (.pbtxt), where the folder does not tell")
    num_classes: Positive | None = Field(None, description="classes that the label map must have; default: any number")
    workers: int = Field(1, ge=0, description="processes that decode and augment; 0: in the training process")
    on_bad_record: Literal["stop", "skip"] = Field("stop", description="a damaged record: stop, or skip and count")
    as_stored: bool = Field(False, description="keep records that repeat an image as they are")
    window: Positive = Field(16, description="shards that are shuffled together; fewer than that: all records")
    repeat_threshold: Fraction = Field(
        0.0, description="classes on a smaller share of the images are repeated, by its square root; 0: none"
    )
    max_image_mb: float | None = Field(
        None, gt=0, description="megabytes that decoding one image may take; default 1000, 142 megapixels in RGB"
    )
    cache_gb: float = Field(10.0, gt=0, description="gigabytes of the local disk for shards read from s3://")


class TfodConfig(_Section):
    """What the TFOD dialect has beside ``ModelConfig``; the defaults are those of the stock 800x1333 gpu-8 configs."""

    fixed_size: tuple[Positive, Positive] | None = Field(
        None, description="height and width that every image is stretched to; otherwise min_size and max_size hold"
    )
    pad: bool = Field(True, description="pad right and below to a square of max_size")
    pad_value: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="RGB 0..255 of the padding")
    anchor_scales: tuple[float, ...] = Field((0.25, 0.5, 1.0, 2.0), description="factors on anchor_base")
    anchor_ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), description="width / height")
    anchor_base: tuple[float, float] = Field((256.0, 256.0), description="pixels: height and width at scale 1")
    anchor_stride: tuple[Positive, Positive] = Field((16, 16), description="pixels between anchors, down and across")
    anchor_offset: tuple[float, float] = Field((0.0, 0.0), description="pixels: y and x of the first anchor's centre")
    clip_anchors: bool = Field(False, description="in training, clip anchors to the image instead of leaving them out")
    share_boxes: bool = Field(False, description="one box of a proposal for all classes")
    train_norms: bool = Field(False, description="BatchNorm normalises with the batch and updates its statistics")
    static_shapes: bool = Field(False, description="proposals and samples as TFOD takes them with static shapes")
    matmul_crop: bool = Field(False, description="RoIs cropped as TFOD does by matrix products, for a TPU")
    rpn_score: float = Field(0.0, description="least objectness of a proposal")
    rpn_nms_iou: Fraction = Field(0.7, description="IoU above which the weaker proposal goes")
    proposals: Positive = Field(300, description="proposals an image")
    rpn_batch: Positive = Field(256, description="anchors drawn for the losses, an image")
    rpn_positive: Fraction = Field(0.5, description="largest share of objects among them")
    box_batch: Positive = Field(64, description="proposals drawn for the second stage, an image")
    box_positive: Fraction = Field(0.25, description="largest share of objects among them")
    crop_size: Positive = Field(14, description="samples of a RoI, each way")
    pool_size: Positive = Field(2, description="kernel of the max pooling after it")
    pool_stride: Positive = Field(2, description="its stride")
    rpn_stddev: float = Field(0.01, gt=0, description="of the first weights of a new RPN head")
    rpn_box_weight: float = Field(2.0, ge=0, description="factors of the four losses: boxes of the first stage, ...")
    rpn_object_weight: float = Field(1.0, ge=0, description="... objectness, ...")
    box_weight: float = Field(2.0, ge=0, description="... boxes of the second stage, ...")
    class_weight: float = Field(1.0, ge=0, description="... classes")
    score: float = Field(0.0, description="least score of a detection")
    nms_iou: Fraction = Field(0.6, description="IoU above which the weaker detection of a class goes")
    detections_per_class: Positive = Field(100, description="most detections of a class, an image")
    detections: Positive = Field(100, description="most detections of an image")
    max_boxes: Positive = Field(100, description="true boxes an image; what exceeds them is cut off and counted ...")
    evaluated_boxes: Positive = Field(100, description="... in training and, by this limit, in evaluation")

    @model_validator(mode="after")
    def _crop(self) -> TfodConfig:
        if self.pool_size > self.crop_size:
            raise ValueError(f"pool_size {self.pool_size} is larger than crop_size {self.crop_size}")
        return self


class ModelConfig(_Section):
    name: str = Field(
        defaults.MODEL,
        description=f"a timm backbone, one of torchvision's four models, or TFOD's {_TFOD}",
    )
    start: str = Field("pretrained", description="pretrained, none, or a MODEL whose weights to start from")
    start_type: Literal["detection", "full", "classification"] = Field(
        "detection", description="TFOD dialect: backbone, everything, or backbone of an image classifier"
    )
    min_size: Positive = Field(defaults.MIN_SIZE, description="pixels: the short side is scaled to this ...")
    max_size: Positive = Field(defaults.MAX_SIZE, description="pixels: ... unless the long side would exceed this")
    tile: int = Field(
        0,
        ge=0,
        le=16_384,
        description="pixels: larger images are seen whole and in overlapping tiles of this side; 0: only whole",
    )
    anchors: Literal["fit", "default"] = Field("fit", description="fit to the training boxes, or the model's own")
    freeze: int = Field(2, ge=0, le=5, description="backbone stages whose weights stay as they are, from the stem")
    detections: int | None = Field(
        100, gt=0, le=LARGEST_LIMIT, description="most detections of an image; TFOD dialect: model.tfod.detections"
    )
    tfod: TfodConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_sizes(cls, values: Any) -> Any:
        """torchvision's four models and TFOD's have sizes of their own, which their weights were trained at."""
        name = values.get("name") if isinstance(values, dict) else None
        if not isinstance(name, str) or not name.startswith(("fasterrcnn_", "faster_rcnn_")):
            return values
        short, long = (320, 640) if "_320_" in name else (800, 1333)
        if name not in TFOD_MODELS:
            return {"min_size": short, "max_size": long, **values}
        tfod = values.get("tfod") or {}
        fixed = tfod.get("fixed_size") if isinstance(tfod, dict) else getattr(tfod, "fixed_size", None)
        if isinstance(fixed, list | tuple) and fixed and all(isinstance(side, int) for side in fixed):
            short, long = min(fixed), max(fixed)
        own = {"min_size": short, "max_size": long, "anchors": "default", "freeze": 0, "detections": None}
        return {**own, **values, "tfod": tfod}

    @model_validator(mode="after")
    def _sizes(self) -> ModelConfig:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is larger than max_size {self.max_size}")
        if 0 < self.tile < 64:
            raise ValueError(f"tile {self.tile} is too small; 64 pixels are the least")
        if self.tile and self.is_tfod:
            raise ValueError(f"tile is not for the models {_TFOD}, which see images whole")
        if (self.tfod is not None) != self.is_tfod:
            raise ValueError(f"model.tfod belongs to the models {_TFOD}, and they to it; a pipeline.config has both")
        if (self.detections is None) != self.is_tfod:
            own = "model.tfod.detections and model.tfod.detections_per_class"
            raise ValueError(f"detections is not for the models {_TFOD}, which have {own}")
        fixed = self.tfod.fixed_size if self.tfod else None
        if fixed and sorted(fixed) != [self.min_size, self.max_size]:
            raise ValueError(f"every image is stretched to {fixed[0]} x {fixed[1]}, so another size would not apply")
        return self

    @property
    def is_tfod(self) -> bool:
        """Whether the model is of the TFOD dialect."""
        return self.name in TFOD_MODELS


class TrainConfig(_Section):
    epochs: float | None = Field(None, gt=0, description="passes over the data; default 40, within 1,000..50,000 steps")
    steps: Positive | None = Field(None, description="optimizer steps; instead of epochs")
    max_minutes: float | None = Field(None, gt=0, description="minutes of training; the schedule follows the clock")
    batch_size: Positive = Field(defaults.BATCH_SIZE, description="images a step")
    accumulate: Positive = Field(1, description="batches whose gradients are summed into one step")
    optimizer: Literal["adamw", "sgd", "momentum"] = Field(
        "adamw", description="adamw, sgd (momentum .9), or momentum: TFOD's, with the rate inside the velocity"
    )
    momentum: Fraction = Field(0.9, description="share of the velocity that an update keeps (sgd and momentum)")
    learning_rate: float | None = Field(None, gt=0, description="default: of the optimizer, scaled to the batch")
    weight_decay: float | None = Field(None, ge=0, description="decay of the weights; default .05 (adamw), .0001 (sgd)")
    schedule: Literal["cosine", "constant", "steps", "exponential"] = Field(
        "cosine", description="learning rate after the warm-up"
    )
    schedule_steps: Positive | None = Field(
        None, description="steps to the end of the cosine (default: the training's), or to one exponential decay"
    )
    hold_steps: int = Field(0, ge=0, description="steps between the warm-up and the beginning of the cosine")
    milestones: tuple[tuple[int, float], ...] = Field((), description="steps: [step, learning rate from there on]")
    decay: float = Field(0.96, gt=0, description="exponential: factor each schedule_steps")
    staircase: bool = Field(True, description="exponential: at once every schedule_steps, or little by little")
    least_rate: float = Field(0.0, ge=0, description="exponential: the rate is never smaller")
    warmup_steps: int = Field(
        100, ge=0, description="steps of warm-up; without warmup_rate a tenth of the training at most"
    )
    warmup_rate: float | None = Field(None, ge=0, description="rate the warm-up begins at; default: one step of it")
    warmup: Literal["linear", "constant"] = Field("linear", description="the warm-up rises, or stays at warmup_rate")
    clip_norm: float = Field(10.0, ge=0, description="largest gradient norm; 0: no clipping")
    ema: Fraction = Field(0.998, description="decay of the averaged weights that are evaluated; 0: off")
    patience: int = Field(0, ge=0, description="evaluations without improvement before stopping; 0: off")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="arithmetic of the model; float16 with a loss scale that adjusts itself"
    )
    channels_last: bool = Field(True, description="memory format of the convolutions; faster nearly everywhere")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    seed: int = Field(defaults.SEED, ge=0, description="every random draw follows from it")
    deterministic: bool = Field(False, description="ask for determinism on CUDA too (a CPU always is)")

    @model_validator(mode="after")
    def _schedule(self) -> TrainConfig:
        length, warmup = self.schedule_steps, self.warmup_steps
        if self.schedule == "cosine" and length is not None and length < warmup:
            raise ValueError(f"schedule_steps {length} ends within the {warmup} steps of the warm-up")
        ends_before = self.steps is not None and self.steps <= warmup
        if self.schedule == "cosine" and length == warmup and self.hold_steps == 0 and not ends_before:
            raise ValueError(
                f"schedule_steps {length} leaves no step after the {warmup} of the warm-up, and there is no rate at "
                f"step {length}: make it longer, the warm-up shorter, or train {length} steps"
            )
        if self.schedule == "exponential" and self.schedule_steps is None:
            raise ValueError("an exponential schedule needs schedule_steps, the steps to one decay")
        return self


class Operation(_Section):
    """One of TFOD's augmentations, under TFOD's name; options that are absent are ``OPERATION_DEFAULTS``."""

    name: str
    options: dict[str, float] = {}

    @property
    def values(self) -> dict[str, float]:
        """All options, given or not."""
        return {**OPERATION_DEFAULTS[self.name], **self.options}

    @model_validator(mode="after")
    def _valid(self) -> Operation:
        if self.name not in OPERATION_DEFAULTS:
            raise ValueError(f"no augmentation of that name is supported. {nearest(self.name, OPERATION_DEFAULTS)}")
        known = OPERATION_DEFAULTS[self.name]
        for option, value in self.options.items():
            if option not in known:
                raise ValueError(f"{self.name} has no option '{option}'. {nearest(option, known)}")
            least = 1 if option in ("max_border", "num_scales") else 0
            if value < least or (value == 0 and option in ("min_aspect_ratio", "min_area", "scale_min")):
                raise ValueError(f"{self.name}: {option} = {value:g} is too small")
        values = self.values
        pairs = [(name, name.replace("min", "max")) for name in values if "min" in name.split("_")]
        for low, high in pairs:
            if values[low] > values.get(high, values[low]):
                raise ValueError(f"{self.name}: {low} = {values[low]:g} is larger than {high} = {values[high]:g}")
        most = {"num_scales": 1000} | dict.fromkeys(("max_area", "random_coef", "min_object_covered", "probability"), 1)
        for option, value in values.items():
            if value > most.get(option, value):
                raise ValueError(f"{self.name}: {option} = {value:g} is more than {most[option]}")
        return self


class AugmentConfig(_Section):
    flip: Fraction = Field(0.5, description="probability of a left-right flip")
    flip_pairs: dict[str, str] = Field({}, description="classes that change places in a flip: left name = right name")
    scale: tuple[float, float] = Field(
        (0.5, 1.6), description="random factor on the image size; what exceeds the window is cropped"
    )
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="largest window, as a share of the sides at training size"
    )
    color: Fraction = Field(0.5, description="strength of brightness, contrast, saturation and hue jitter")
    operations: tuple[Operation, ...] | None = Field(
        None, description="TFOD dialect: TFOD's operations in their order; no other augmentation applies there"
    )

    @model_validator(mode="after")
    def _order(self) -> AugmentConfig:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {list(self.scale)} is no range of positive factors")
        return self


class EvaluateConfig(_Section):
    every: float = Field(1.0, gt=0, description="epochs between evaluations; they take at most a tenth of the time")
    metric: Literal["mAP", "AP50", "AP75"] = Field("mAP", description="decides which checkpoint is best")
    max_detections: int | None = Field(
        None,
        ge=100,
        le=LARGEST_LIMIT,
        description="detections of a class that mAP and AR beside COCO's count; default: the model's most",
    )


class CheckpointConfig(_Section):
    every_steps: int = Field(0, ge=0, description="steps between saves; 0: by minutes only")
    every_minutes: float = Field(5.0, gt=0, description="minutes between saves")
    keep: int = Field(
        0, ge=0, description="checkpoints kept beside last and best under the names of their steps, the latest too"
    )


class Config(_Section):
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    augment: AugmentConfig = AugmentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _batches(self) -> Config:
        tfod = self.model.tfod
        if tfod and not (tfod.pad or tfod.fixed_size) and self.train.batch_size > 1:
            raise ValueError(
                f"images of different sizes make no batch of {self.train.batch_size}: take batch_size 1"
                " (train.accumulate sums the gradients of several), pad them (model.tfod.pad = true;"
                " pad_to_max_dimension in a pipeline.config) or stretch them (model.tfod.fixed_size;"
                " fixed_shape_resizer)"
            )
        return self


def load_config(path: str | os.PathLike[str] | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the TOML file ``path``, then ``overrides`` of the form ``{"train.steps": 100}``.

    Raises:
        ResightError: the file cannot be read or parsed, a key is unknown or a value is wrong; all are listed.
    """
    tree: dict[str, Any] = {}
    where, text = str(path or ""), ""
    if path is not None:
        try:
            text = read_text(path, TEXT)
            tree = parse_toml(text, where)
        except ResightError as error:
            fix = meant(path, "config") or error.fix or ("" if text else instead_of_a_file(where))
            raise ResightError(error.message, where=error.where, fix=fix) from error
    if wrong := [key for key in overrides or () if key in Config.model_fields]:
        raise ResightError(_is_section(wrong[0]), where="--set")
    if wrong := [key for key in overrides or () if "." not in key or key.split(".")[0] not in Config.model_fields]:
        raise ResightError("; ".join(f"unknown key '{key}'. {_known(key)}".rstrip() for key in wrong), where="--set")
    for key, value in (overrides or {}).items():
        *sections, name = key.split(".")
        branch = tree
        for section in sections:
            if isinstance(branch, dict):
                branch = branch.setdefault(section, {})
        if isinstance(branch, dict):
            branch[name] = value
    check_tree(tree, where or "--set")
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise _refused(error, where, text, overrides or {}) from error
    # A text of digits is a number too, of any length.
    huge = [key for key, value in flat(config.model_dump()).items() if isinstance(value, int) and abs(value) >> 1000]
    if huge:
        raise ResightError(f"{listed(huge)}: has hundreds of digits", where=where or "options")
    return config


def _refused(error: ValidationError, where: str, text: str, overrides: Mapping[str, Any]) -> ResightError:
    """All that is wrong, each with its line of the file; what an option or ``--set`` gave has none."""
    found = []
    for item in error.errors()[:100]:  # to find the line and the nearest name of each takes a while
        keys = [str(part) for part in item["loc"]]
        given = any(".".join(keys).startswith(key) for key in overrides)
        found.append((0 if given or not keys else line_of(text, keys), explain(item)))
    place = ", ".join(filter(None, (where, "options" if overrides else ""))) or "configuration"
    if len(found) == 1:
        ((line, message),) = found
        return ResightError(message, where=f"{where}:{line}" if line else place)
    lines = [f"line {line}: {message}" if line else message for line, message in sorted(found)]
    if more := (total := error.error_count()) - len(found):
        lines.append(f"and {more:,} more")
    return ResightError("\n  ".join([f"{total:,} problems", *lines]), where=place)


def parse_set(assignments: Iterable[str]) -> dict[str, Any]:
    """``["train.steps=100", "model.name=resnet18"]`` -> overrides; values are TOML, bare words are strings."""
    overrides: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ResightError(f"'{text}' is not of the form key=value", where="--set")
        try:
            overrides[key.strip()] = parse_toml(f"x = {value}")["x"]
        except ResightError:
            overrides[key.strip()] = value.strip()
    return overrides


def all_keys() -> list[str]:
    """Every key of the configuration, ``train.steps``."""
    sections = {**{name: field.annotation for name, field in Config.model_fields.items()}, "model.tfod": TfodConfig}
    return [f"{section}.{name}" for section, kind in sections.items() for name in kind.model_fields]  # type: ignore[union-attr]


def _known(key: str) -> str:
    same_name = [known for known in all_keys() if known.split(".")[-1] == key.split(".")[-1]]
    if same_name:
        return f"Did you mean '{same_name[0]}'?"
    return key_here(key) or nearest(key, all_keys())


_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "dict": "a table of names and values",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
    "too_long": "a list of {max_length}",
}


def _is_section(key: str) -> str:
    keys = [known.removeprefix(f"{key}.") for known in all_keys() if known.startswith(f"{key}.")]
    return f"{key} is a section of the configuration; its keys are {listed(keys, 5)}"


def explain(item: Any) -> str:
    """What pydantic found, in the words of the configuration."""
    key, kind, context = ".".join(str(part) for part in item["loc"]), item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key '{key}'. {_known(key)}".rstrip()
    if kind == "value_error":  # of a validator, whose words are ours
        return (f"{key}: {context['error']}" if key else str(context["error"])).rstrip()
    if kind == "missing":
        return f"{key} is missing"
    value = shown(item["input"])
    if kind == "model_type":
        return f"{key} = {value}: {_is_section(key)}"
    wanted = _WANTED.get(kind) or _WANTED.get(kind.split("_")[0])
    return f"{key} = {value}: must be {wanted.format(**context)}" if wanted else f"{key} = {value}: {item['msg']}"
