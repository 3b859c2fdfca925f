"""The ``[victim]`` section of a study: the model under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from mifsim.registry import Registry

VICTIMS = Registry(
    "victims",
    "victim model",
    {"lenet5": "mifsim.victims.architectures:lenet5", "cnn": "mifsim.victims.architectures:cnn"},
)
"""Models that can be trained as victims. Each is a function of an image's shape (H, W, channels) and the number of
classes; it builds a keras model that ends with a softmax. The function of a plug-in may have an attribute ``recipe``
(see `mifsim.victims.training.Recipe`); otherwise its model is trained with the recipe of ``cnn``."""


class VictimConfig(BaseModel):
    """The ``[victim]`` section of a study: a model to train, or a model file.

    Raises
    ------
    pydantic.ValidationError
        For an unknown key, a value out of range, or keys that cannot be combined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        None, description="model to train on the private subset (default: lenet5 for grey images, cnn for colour)"
    )
    file: Path | None = Field(None, description="a .keras file to use instead of a trained model")
    output: Literal["softmax", "logits"] = Field(
        "softmax", description="output of the file's model; a softmax is added to logits"
    )
    epochs: int | None = Field(
        None, ge=1, le=1000, description="passes over the private subset (default: depends on its size)"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the initial weights and the order of the images")

    @field_validator("model")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in VICTIMS:
            raise ValueError(f"unknown victim model {name!r} (accepted: {', '.join(VICTIMS)})")
        return name

    @model_validator(mode="after")
    def _file_or_training(self) -> VictimConfig:
        if self.file is not None:
            for key in ("model", "epochs", "seed"):
                if key in self.model_fields_set and getattr(self, key) is not None:
                    raise ValueError(f"{key!r} applies to a model to train; it cannot be combined with 'file'")
        elif self.output != "softmax":
            raise ValueError("output = 'logits' requires 'file'; the models trained here end with a softmax")
        return self

    @model_serializer(mode="wrap")
    def _readable_again(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        if self.file is not None:  # the defaults of a model to train cannot be combined with a file
            for key in ("model", "epochs", "seed"):
                plain.pop(key, None)
        return plain
