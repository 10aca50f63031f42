"""The configuration: one typed tree, frozen, unknown keys refused. A dialect completes it with its ``ModelConfig``."""

from abc import ABC, abstractmethod
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..errors import nearest, shown
from . import defaults
from .defaults import OPERATION_DEFAULTS
from .most_detections import LARGEST_LIMIT, MostDetections

TFOD_MODELS = ("faster_rcnn_resnet50_v1", "faster_rcnn_resnet101_v1", "faster_rcnn_resnet152_v1")
TFOD_NAMES = "faster_rcnn_resnet{50,101,152}_v1"
OWN_SECTION = f"model.tfod belongs to the models {TFOD_NAMES}, and they to it; a pipeline.config has both"
OWN_DETECTIONS = (
    f"detections is not for the models {TFOD_NAMES}, which have model.tfod.detections and "
    "model.tfod.detections_per_class"
)
LENGTHS = ("train.epochs", "train.steps", "train.max_minutes")  # of a training, in one measure or another

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# One glob or a list of them.
Globs = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: ((given,) if given else ()) if isinstance(given, str) else given)
]


def _ranges(given: Any) -> Any:
    if not isinstance(given, list | tuple):
        return given
    is_one = not any(isinstance(item, list | tuple) for item in given)
    ranges = (given,) if is_one else given
    if not all(map(_is_pair, ranges)):
        raise ValueError(f"{shown(given)} is neither a range [LEAST, MOST] nor a list of ranges")
    return ranges


def _is_pair(item: Any) -> bool:
    """Of numbers, which true and false are not."""
    if not isinstance(item, list | tuple) or len(item) != 2:
        return False
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in item)


# One range [LEAST, MOST] or a list of them.
Ranges = Annotated[tuple[tuple[float, float], ...], BeforeValidator(_ranges)]


def _plain(kind: Any) -> Any:
    """A type without the limits that it is annotated with."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_1(cls, value: object, info: Any) -> object:
        kind = cls.model_fields[info.field_name].annotation
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if isinstance(value, bool) and {int, float} & {_plain(one) for one in kinds}:
            raise PydanticCustomError("float_type", "true is not 1")
        return value


class DataConfig(Section):
    path: str = Field("", description="records folder")
    train: Globs = Field((), description="globs of the training records, if the folder does not say")
    val: Globs = Field((), description="globs of the validation records")
    test: Globs = Field((), description="globs of the test records")
    label_map: str = Field("", description="label map (.pbtxt), if the folder has none")
    num_classes: Positive | None = Field(None, description="classes that the label map must have; default: any number")
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that decode and augment; 0: in the training process; default 1, on CUDA by the cores",
    )
    on_bad_record: Literal["stop", "skip"] = Field("stop", description="a damaged record: stop, or skip and count")
    as_stored: bool = Field(False, description="keep records that repeat an image as they are")
    window: Positive = Field(16, description="shards that are shuffled together; fewer than that: all records")
    repeat_threshold: Fraction | None = Field(
        None,
        description="repeat-factor sampling (LVIS): oversample classes in fewer images than this fraction; 0: off; "
        "default 0.5, or the share of the commonest class; TFOD's models 0",
    )
    max_image_mb: float | None = Field(
        None, gt=0, description="megabytes that decoding one image may take; default 1000, 142 megapixels in RGB"
    )
    cache_gb: float = Field(10.0, gt=0, description="gigabytes of the local disk for shards read from s3://")


class ModelConfig(Section, ABC):
    """What the two dialects have in common; each completes it with its own options, defaults and rules."""

    dialect: ClassVar[Literal["fpn", "tfod"]]
    repeat_threshold: ClassVar[float]  # where data.repeat_threshold says nothing

    name: str = Field(
        defaults.MODEL,
        description=f"a timm backbone, one of torchvision's four models, or TFOD's {TFOD_NAMES}",
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
        description="pixels: larger images are processed whole and in overlapping tiles of this side; 0: only whole",
    )
    anchors: Literal["fit", "default"] = Field("fit", description="fit to the training boxes, or the model's own")
    freeze: int = Field(2, ge=0, le=5, description="number of frozen backbone stages, counted from the stem")
    detections: int | None = Field(
        100, gt=0, le=LARGEST_LIMIT, description="maximum detections per image; TFOD dialect: model.tfod.detections"
    )
    tfod: Any = None

    @property
    @abstractmethod
    def most(self) -> MostDetections:
        """The most detections of an image, and of a class in it."""

    @abstractmethod
    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of ``height`` x ``width`` is resized to for the network, without padding."""

    def size_option(self, low: int, high: int) -> str:
        """What makes these the sides of the network's input."""
        return f"`--size {low},{high}`"

    def of_earlier_version(self) -> Self:
        """What a model is whose configuration was stored, perhaps before there were all of today's options."""
        return self

    @abstractmethod
    def with_detections(self, most: int) -> Self:
        """The same model with ``most`` detections of an image, and of a class in it."""

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is larger than max_size {self.max_size}")
        if 0 < self.tile < 64:
            raise ValueError(f"tile {self.tile} is too small; the minimum is 64 pixels")
        return self


class TrainConfig(Section):
    epochs: float | None = Field(
        None, gt=0, description="passes over the data; default 40, repeats not counted, within 1,000..50,000 steps"
    )
    steps: Positive | None = Field(None, description="optimizer steps; instead of epochs")
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="minutes of training; the schedule follows the clock, and the default model's input size, where it "
        "is not set, is chosen for them",
    )
    batch_size: Positive = Field(defaults.BATCH_SIZE, description="images per batch")
    accumulate: Positive = Field(1, description="batches whose gradients are summed into one step")
    optimizer: Literal["adamw", "sgd", "momentum"] = Field(
        "adamw", description="adamw, sgd, or momentum: Keras/TFOD's (learning rate folded into velocity)"
    )
    momentum: Fraction = Field(0.9, description="momentum coefficient (sgd and momentum)")
    learning_rate: float | None = Field(None, gt=0, description="default: depends on the optimizer and the batch")
    weight_decay: float | None = Field(None, ge=0, description="weight decay; default .05 (adamw), .0001 (sgd)")
    schedule: Literal["cosine", "constant", "steps", "exponential"] = Field(
        "cosine", description="learning rate after the warm-up"
    )
    schedule_steps: Positive | None = Field(
        None, description="steps to the end of the cosine (default: the training's), or to one exponential decay"
    )
    hold_steps: int = Field(0, ge=0, description="steps between the warm-up and the start of the cosine")
    milestones: tuple[tuple[int, float], ...] = Field((), description="steps: [step, learning rate from there on]")
    decay: float = Field(0.96, gt=0, description="exponential: factor each schedule_steps")
    staircase: bool = Field(True, description="exponential: decay once every schedule_steps, or continuously")
    least_rate: float = Field(0.0, ge=0, description="exponential: minimum learning rate")
    warmup_steps: int = Field(
        100, ge=0, description="steps of warm-up; capped at 10% of the training unless warmup_rate is set"
    )
    warmup_rate: float | None = Field(None, ge=0, description="initial rate; default: base rate / warmup_steps")
    warmup: Literal["linear", "constant"] = Field("linear", description="the warm-up rises, or stays at warmup_rate")
    clip_norm: float = Field(10.0, ge=0, description="maximum gradient norm; 0: no clipping")
    ema: Fraction = Field(0.998, description="decay of the averaged weights that are evaluated; 0: off")
    patience: int = Field(0, ge=0, description="evaluations without improvement before stopping; 0: off")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="arithmetic of the model; auto: bfloat16 on a GPU that has it (FPN dialect), else float32; "
        "float16 uses dynamic loss scaling",
    )
    channels_last: bool = Field(True, description="memory format of the convolutions; faster nearly everywhere")
    compile: bool = Field(False, description="torch.compile the backbone: minutes at first, then faster steps on a GPU")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    seed: int = Field(defaults.SEED, ge=0, description="random seed")
    deterministic: bool = Field(False, description="ask for determinism on CUDA too, and no TF32 (a CPU always is)")

    @model_validator(mode="after")
    def _schedule(self) -> Self:
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


class Operation(Section):
    """One of TFOD's augmentations, under TFOD's name; options that are absent are ``OPERATION_DEFAULTS``."""

    name: str
    options: dict[str, float] = {}

    @property
    def values(self) -> dict[str, float]:
        """All options, given or not."""
        return {**OPERATION_DEFAULTS[self.name], **self.options}

    @model_validator(mode="after")
    def _valid(self) -> Self:
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


class AugmentConfig(Section):
    flip: Fraction = Field(0.5, description="probability of a left-right flip")
    flip_pairs: dict[str, str] = Field({}, description="classes swapped by a flip: left name = right name")
    scale: Ranges = Field(
        ((0.65, 1.25),) * 3 + ((0.5, 1.6),),
        description="random factor on the image size, one range or one an epoch, the last for all that follow; "
        "what exceeds the crop window is cut off",
    )
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="maximum random-crop size as a fraction of the training size"
    )
    color: Fraction = Field(0.5, description="strength of brightness, contrast, saturation and hue jitter")
    operations: tuple[Operation, ...] | None = Field(
        None, description="TFOD dialect: TFOD's operations in their order; no other augmentation applies there"
    )

    @field_validator("scale")
    @classmethod
    def _positive(cls, ranges: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        for low, high in ranges:
            if not 0 < low <= high:
                raise ValueError(f"{[low, high]} is not a range of positive factors")
        return ranges


class EvaluateConfig(Section):
    every: float = Field(1.0, gt=0, description="epochs between evaluations; they take at most 10% of the time")
    metric: Literal["mAP", "AP50", "AP75"] = Field("mAP", description="decides which checkpoint is best")
    max_detections: int | None = Field(
        None,
        ge=100,
        le=LARGEST_LIMIT,
        description="maxDets for the mAP and AR beyond COCO's; default: the model's limit",
    )


class CheckpointConfig(Section):
    every_steps: int = Field(0, ge=0, description="steps between saves; 0: by minutes only")
    every_minutes: float = Field(5.0, gt=0, description="minutes between saves")
    keep: int = Field(0, ge=0, description="number of step-numbered checkpoints to keep besides last and best")


class Config(Section):
    """The whole tree; that of a dialect says which ``ModelConfig`` it has."""

    data: DataConfig = DataConfig()
    model: SerializeAsAny[ModelConfig]
    train: TrainConfig = TrainConfig()
    augment: AugmentConfig = AugmentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
