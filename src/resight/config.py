"""The configuration: one typed tree, frozen, unknown keys refused.

Defaults < a TOML file < ``--set key=value``. ``to_toml`` writes the tree back with a comment for each key, so the
``config.toml`` of a run folder is itself a configuration.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ResightError, nearest

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    path: str = Field("", description="records folder")
    train: str = Field("", description="glob of the training records, where the folder does not tell")
    val: str = Field("", description="glob of the validation records")
    test: str = Field("", description="glob of the test records")
    label_map: str = Field("", description="label map (.pbtxt), where the folder does not tell")
    workers: int = Field(1, ge=0, description="processes that decode and augment; 0: in the training process")
    on_bad_record: Literal["stop", "skip"] = Field("stop", description="a damaged record: stop, or skip and count")
    as_stored: bool = Field(False, description="keep records that repeat an image as they are")


class ModelConfig(_Section):
    name: str = Field("tf_efficientnet_lite0", description="a timm backbone, or one of torchvision's four models")
    start: str = Field("pretrained", description="pretrained, none, or a MODEL whose weights to start from")
    min_size: Positive = Field(384, description="pixels: the short side is scaled to this ...")
    max_size: Positive = Field(640, description="pixels: ... unless the long side would exceed this")
    anchors: Literal["fit", "default"] = Field("fit", description="fit to the training boxes, or the model's own")
    freeze: int = Field(2, ge=0, le=5, description="backbone stages whose weights stay as they are, from the stem")

    @model_validator(mode="before")
    @classmethod
    def _own_sizes(cls, values: Any) -> Any:
        """torchvision's four models have sizes of their own, which their weights were trained at."""
        name = values.get("name") if isinstance(values, dict) else None
        if not isinstance(name, str) or not name.startswith("fasterrcnn_"):
            return values
        short, long = (320, 640) if "_320_" in name else (800, 1333)
        return {"min_size": short, "max_size": long, **values}

    @model_validator(mode="after")
    def _sizes(self) -> ModelConfig:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is larger than max_size {self.max_size}")
        return self


class TrainConfig(_Section):
    epochs: float | None = Field(None, gt=0, description="passes over the data; default 40, within 1,000..50,000 steps")
    steps: Positive | None = Field(None, description="optimizer steps; instead of epochs")
    max_minutes: float | None = Field(None, gt=0, description="minutes of training; the schedule follows the clock")
    batch_size: Positive = Field(8, description="images a step")
    accumulate: Positive = Field(1, description="batches whose gradients are summed into one step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd (momentum .9)")
    learning_rate: float | None = Field(None, gt=0, description="default: of the optimizer, scaled to the batch")
    weight_decay: float | None = Field(None, ge=0, description="decay of the weights; default .05 (adamw), .0001 (sgd)")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="learning rate after the warm-up")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up")
    clip_norm: float = Field(10.0, ge=0, description="largest gradient norm; 0: no clipping")
    ema: Fraction = Field(0.998, description="decay of the averaged weights that are evaluated; 0: off")
    patience: int = Field(0, ge=0, description="evaluations without improvement before stopping; 0: off")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of the model")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    seed: int = Field(42, ge=0, description="every random draw follows from it")
    deterministic: bool = Field(False, description="ask for determinism on CUDA too (a CPU always is)")


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

    @model_validator(mode="after")
    def _order(self) -> AugmentConfig:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {list(self.scale)} is no range of positive factors")
        return self


class EvaluateConfig(_Section):
    every: float = Field(1.0, gt=0, description="epochs between evaluations; they take at most a tenth of the time")
    metric: Literal["mAP", "AP50", "AP75"] = Field("mAP", description="decides which checkpoint is best")


class CheckpointConfig(_Section):
    every_steps: int = Field(0, ge=0, description="steps between saves; 0: by minutes only")
    every_minutes: float = Field(5.0, gt=0, description="minutes between saves")
    keep: int = Field(0, ge=0, description="older checkpoints kept beside last and best")


class Config(_Section):
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    augment: AugmentConfig = AugmentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()


def load_config(path: str | os.PathLike[str] | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the TOML file ``path``, then ``overrides`` of the form ``{"train.steps": 100}``.

    Raises:
        ResightError: the file cannot be read or parsed, a key is unknown or a value is wrong; all are listed.
    """
    tree: dict[str, Any] = {}
    where = str(path or "")
    if path is not None:
        try:
            with open(path, "rb") as file:
                tree = tomllib.load(file)
        except OSError as error:
            raise ResightError(f"cannot read the configuration: {error.strerror}", where=where) from error
        except (ValueError, RecursionError) as error:  # TOML and UTF-8 errors, absurd numbers, absurd nesting
            raise ResightError(f"is not valid TOML: {error}", where=where) from error
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        if section not in Config.model_fields or not name:
            raise ResightError(f"unknown key '{key}'", where="--set", fix=_known(key))
        branch = tree.setdefault(section, {})
        if isinstance(branch, dict):
            branch[name] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(item) for item in error.errors()]
        raise ResightError("; ".join(problems), where=where or "configuration") from error


def parse_set(assignments: Iterable[str]) -> dict[str, Any]:
    """``["train.steps=100", "model.name=resnet18"]`` -> overrides; values are TOML, bare words are strings."""
    overrides: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ResightError(f"'{text}' is not of the form key=value", where="--set")
        try:
            overrides[key.strip()] = tomllib.loads(f"x = {value}")["x"]
        except (ValueError, RecursionError):
            overrides[key.strip()] = value.strip()
    return overrides


def to_toml(config: Config) -> str:
    """The whole tree as TOML, each key with its comment; what is unset is a comment line."""
    lines: list[str] = []
    for section in Config.model_fields:
        lines.append(f"[{section}]")
        values = getattr(config, section)
        for name, field in type(values).model_fields.items():
            value = getattr(values, name)
            text = f"# {name} =" if value is None else f"{name} = {_toml_value(value)}"
            lines.append(f"{text:<36} # {field.description}")
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{_toml_value(k)} = {_toml_value(v)}" for k, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return repr(value)


def _all_keys() -> list[str]:
    return [
        f"{section}.{name}"
        for section, field in Config.model_fields.items()
        for name in field.annotation.model_fields  # type: ignore[union-attr]
    ]


def _known(key: str) -> str:
    same_name = [known for known in _all_keys() if known.split(".")[1] == key.split(".")[-1]]
    return f"Did you mean '{same_name[0]}'?" if same_name else nearest(key, _all_keys())


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key '{key}'. {_known(key)}"
    return f"{key} = {item['input']!r}: {item['msg']}" if key else item["msg"]
