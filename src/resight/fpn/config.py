"""The configuration of models with a feature pyramid, and the tree that holds it."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from ..config.most_detections import MostDetections, check_most
from ..config.tree import OWN_DETECTIONS, OWN_SECTION, Config, ModelConfig
from .specs import SPECS, TORCHVISION


class FpnModelConfig(ModelConfig):
    dialect: ClassVar[Literal["fpn", "tfod"]] = "fpn"
    repeat_threshold: ClassVar[float] = 0.5

    heads: int = Field(2, ge=1, le=3, description="box heads in cascade, each refining the boxes of the one before")

    @model_validator(mode="before")
    @classmethod
    def _own_sizes(cls, values: Any) -> Any:
        """torchvision's models have sizes of their own, which their weights were trained at, and one box head."""
        name = values.get("name") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in TORCHVISION:
            return values
        return {"min_size": SPECS[name].min_size, "max_size": SPECS[name].max_size, "heads": 1, **values}

    @model_validator(mode="after")
    def _own_rules(self) -> Self:
        if self.tfod is not None:
            raise ValueError(OWN_SECTION)
        if self.detections is None:
            raise ValueError(OWN_DETECTIONS)
        if self.heads > 1 and self.name in TORCHVISION and self.start == "pretrained":
            message = f"heads is {self.heads}, and the published weights of {self.name} have one box head"
            raise ValueError(f"{message}: set model.heads to 1")
        return self

    def of_earlier_version(self) -> Self:
        return self if "heads" in self.model_fields_set else self.model_copy(update={"heads": 1})

    @property
    def most(self) -> MostDetections:
        most = self.detections or 0
        return MostDetections(most, most)

    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        return fit_size(height, width, self.min_size, self.max_size)

    def with_detections(self, most: int) -> Self:
        check_most(most)
        return self.model_copy(update={"detections": most})


def fit_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Height and width at the network: the short side ``min_size`` unless the long side would exceed ``max_size``.

    Rounded down as ``torch.nn.functional.interpolate`` does with a scale factor, so equal to torchvision's.
    """
    scale = min(min_size / min(height, width), max_size / max(height, width))
    # One pixel at the least: an image of 1 x 4000 is legal.
    return max(int(height * scale), 1), max(int(width * scale), 1)


class FpnTree(Config):
    model: SerializeAsAny[FpnModelConfig] = FpnModelConfig()
