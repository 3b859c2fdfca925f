"""The ``[victim]`` section of a study: the model under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

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
from mifsim.victims.layout import LayoutName

VICTIMS = Registry(
    "victims",
    "victim model",
    {"lenet5": "mifsim.victims.architectures:lenet5", "cnn": "mifsim.victims.architectures:cnn"},
)
"""Models that can be trained as victims. Each is a function of an image's shape (H, W, channels) and the number of
classes; it builds a keras model that ends with a softmax. The function of a plug-in may have an attribute ``recipe``
(see `mifsim.victims.training.Recipe`); otherwise its model is trained with the recipe of ``cnn``."""

SOURCES = ("model", "file")
"""Keys of which a study gives at most one: the model to train, or where an existing one is."""
TRAINED_KEYS = ("epochs", "seed")
"""Keys of a model to train."""
EXISTING_KEYS = ("output", "output_name", "layout")
"""Keys of an existing model."""


class VictimConfig(BaseModel):
    """The ``[victim]`` section of a study: a model to train, or an existing model.

    Raises
    ------
    pydantic.ValidationError
        For an unknown key, a value out of range, or keys that cannot be combined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        None, description="model to train on the private subset (default: lenet5 for grey images, cnn for colour)"
    )
    file: Path | None = Field(None, description="a .keras or .onnx file to use instead of a trained model")
    output: Literal["softmax", "logits"] = Field(
        "softmax", description="output of an existing model; a softmax is added to logits"
    )
    output_name: str | None = Field(
        None, description="name of the output with the classes, if an .onnx file has several outputs"
    )
    layout: LayoutName | None = Field(
        None,
        description="order of the axes in which an .onnx file takes images (default: as its input's shape shows)",
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

    @field_validator("file")
    @classmethod
    def _known_format(cls, file: Path | None) -> Path | None:
        if file is not None and file.suffix not in (".keras", ".onnx"):
            raise ValueError(
                f"{file}: not a .keras or .onnx file (accepted: a file that keras' model.save('model.keras') writes, "
                "or an ONNX model)"
            )
        return file

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{', '.join(map(repr, given[:-1]))} and {given[-1]!r} cannot be combined (accepted: one of "
                f"{', '.join(SOURCES)})"
            )
        kind = self.kind
        allowed = {
            "trained": TRAINED_KEYS,
            "keras": ("output",),
            "onnx": EXISTING_KEYS,
        }[kind]
        for key in (*TRAINED_KEYS, *EXISTING_KEYS):
            value, default = getattr(self, key), type(self).model_fields[key].default
            # A written study contains the default output of a model to train.
            given_here = key in self.model_fields_set and value is not None and (key != "output" or value != default)
            if key not in allowed and given_here:
                raise ValueError(f"{key!r} applies to {_owners(key)}; it cannot be combined with {self.described}")
        return self

    @property
    def kind(self) -> Literal["trained", "keras", "onnx"]:
        """The kind of victim: a model to train, or an existing one."""
        if self.file is not None:
            return "onnx" if self.file.suffix == ".onnx" else "keras"
        return "trained"

    @property
    def gives_gradients(self) -> bool:
        """Whether the victim can return gradients, which only keras models have."""
        return self.kind in ("trained", "keras")

    @property
    def described(self) -> str:
        """The key and the value that name the victim, for messages."""
        given = [f"{key} = {getattr(self, key)}" for key in SOURCES if getattr(self, key) is not None]
        return given[0] if given else "a model to train"

    @model_serializer(mode="wrap")
    def _readable_again(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        if self.kind != "trained":  # the defaults of a model to train cannot be combined with another one
            for key in ("model", *TRAINED_KEYS):
                plain.pop(key, None)
        for key in ("output_name", "layout"):  # absent unless set, so that the digests of older studies do not change
            if plain.get(key) is None:
                plain.pop(key, None)
        return plain


def _owners(key: str) -> str:
    if key in TRAINED_KEYS:
        return "a model to train"
    return "an existing model" if key == "output" else "an .onnx file"
