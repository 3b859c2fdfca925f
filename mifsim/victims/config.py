"""The ``[victim]`` section of a study: the model under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from mifsim.registry import Registry
from mifsim.victims.layout import LayoutName
from mifsim.victims.outputs import Output

VICTIMS = Registry(
    "victims",
    "victim model",
    {
        "lenet5": "mifsim.victims.architectures:lenet5",
        "cnn": "mifsim.victims.architectures:cnn",
        "cnn-bn": "mifsim.victims.architectures:cnn_bn",
        "softmax": "mifsim.victims.architectures:softmax",
        "mlp": "mifsim.victims.architectures:mlp",
    },
)
"""Models that can be trained as victims. Each is a function of an image's shape (H, W, channels) and the number of
classes; it builds a keras model that ends with a softmax. The function of a plug-in may have an attribute ``recipe``
(see `mifsim.victims.training.Recipe`); otherwise its model is trained with the recipe of ``cnn``."""

PREDICTORS = Registry("predictors", "predictor", {})
"""Functions of plug-ins that return a model. Each is called with an image's shape (H, W, channels), the number of
classes and the study's ``victim.arguments``. It returns a function from float32 images in [0, 1] of shape (n, H, W,
channels) to outputs of shape (n, classes); see `mifsim.victims.engines.plugin`."""

SOURCES = ("model", "file", "url", "plugin")
"""Keys of which a study gives at most one: the model to train, or where an existing one is."""
TRAINED_KEYS = ("epochs", "seed")
"""Keys of a model to train."""
SERVICE_KEYS = ("protocol", "token_env", "concurrency", "request_images", "timeout_seconds", "retries")
"""Keys of a service."""
READING_KEYS = ("input", "labels", "output", "accept_any_accuracy")
"""Keys of every existing model."""
KEYS_OF = {
    "trained": TRAINED_KEYS,
    "keras": READING_KEYS,
    "onnx": (*READING_KEYS, "output_name", "layout"),
    "url": (*READING_KEYS, "output_name", "layout", *SERVICE_KEYS),
    "plugin": (*READING_KEYS, "arguments"),
}
"""For each kind of victim, the keys that apply to it beside the one that names it."""
ABSENT_KEYS = ("input", "labels", "output_name", "layout", "token_env")
"""Keys that a written study lacks unless they are set."""
OWNERS = {
    "epochs": "a model to train",
    "seed": "a model to train",
    **dict.fromkeys(READING_KEYS, "an existing model"),
    "output_name": "an .onnx file or a url",
    "layout": "an .onnx file or a url",
    "arguments": "a plugin",
    **dict.fromkeys(SERVICE_KEYS, "a url"),
}
"""For each of these keys, what it applies to, for messages."""


def _numbers(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise ValueError("not a number (accepted: one number, or three: one for each channel)")
    return value


PerChannel = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False, strict=False)], ...],
    BeforeValidator(_numbers),
    PlainSerializer(lambda values: values[0] if len(values) == 1 else list(values)),
]
"""One number, or one for each channel."""


class Input(BaseModel):
    """The table ``victim.input``: a model receives ``image * scale + offset``, for an image in [0, 1].

    Raises
    ------
    pydantic.ValidationError
        For an unknown key, or a value out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: PerChannel | None = Field(
        None, description="factor of the pixels: one number, or one for each channel that the model receives"
    )
    offset: PerChannel = Field((0.0,), description="added to the scaled pixels: one number, or one for each channel")
    channels: Literal["rgb", "bgr"] = Field("rgb", description="order in which the model receives the channels")

    @field_validator("scale", "offset")
    @classmethod
    def _one_or_three(cls, values: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        if values is not None and len(values) not in (1, 3):
            raise ValueError(f"{len(values)} numbers (accepted: one number, or three: one for each channel)")
        if values is not None and info.field_name == "scale" and 0 in values:
            raise ValueError("0 gives the model the same for every image (accepted: any other number)")
        return values


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
    input: Input | None = Field(
        None, description="what a user's model receives (default: pixels in [0, 1]; 0 to 255 for whole numbers)"
    )
    labels: tuple[str, ...] | None = Field(
        None, description="classes of the outputs of a user's model, in their order (default: the data's order)"
    )
    output: Output = Field(
        "softmax",
        description="outputs of a user's model: confidences that add up to 1 (softmax), independent confidences "
        "(sigmoid), or logits, to which a softmax is added; one unit stands for two classes",
    )
    accept_any_accuracy: bool = Field(
        False, description="use a user's model even if its accuracy on the users' images does not beat chance"
    )
    output_name: str | None = Field(
        None, description="name of the output with the classes, if the model has several outputs"
    )
    layout: LayoutName | None = Field(
        None,
        description="order of the axes in which the model takes images (default: as its input's shape shows)",
    )
    url: str | None = Field(
        None, description="address of a running model, such as http://127.0.0.1:8000/v2/models/NAME"
    )
    protocol: Literal["oip-v2-json", "oip-v2-binary", "tf-serving"] | None = Field(
        None,
        description="protocol of the url: the Open Inference Protocol v2 with tensors as JSON or in binary form, or "
        "TensorFlow Serving's :predict",
    )
    token_env: str | None = Field(
        None,
        pattern=r"^MIFSIM_[A-Z0-9_]+$",
        description="name of the environment variable with the token for the url; it starts with MIFSIM_, so that a "
        "study cannot name another secret",
    )
    concurrency: int = Field(4, ge=1, le=64, description="requests to the url at a time")
    request_images: int = Field(32, ge=1, le=4096, description="images in each request to the url")
    timeout_seconds: float = Field(30.0, gt=0, le=3600, description="time limit of a request to the url")
    retries: int = Field(
        8, ge=0, le=1000, description="how often a request to the url is repeated if it is not answered"
    )
    plugin: str | None = Field(None, description="name of a function of a plug-in, given by --plugin FILE.py")
    arguments: dict[str, Any] = Field(default_factory=dict, description="arguments of the plugin's function")
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

    @field_validator("labels")
    @classmethod
    def _distinct(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (twice := sorted({name for name in names if names.count(name) > 1})):
            raise ValueError(f"{', '.join(map(repr, twice))}: more than once (accepted: each class once)")
        return names

    @field_validator("file")
    @classmethod
    def _known_format(cls, file: Path | None) -> Path | None:
        if file is not None and file.suffix not in (".keras", ".onnx"):
            raise ValueError(
                f"{file}: not a .keras or .onnx file (accepted: a file that keras' model.save('model.keras') writes, "
                "or an ONNX model)"
            )
        return file

    @field_validator("url")
    @classmethod
    def _model_address(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                parts = urlsplit(url)
                host, _ = parts.hostname, parts.port
            except ValueError:
                host, parts = None, urlsplit("")
            if (
                parts.scheme not in ("http", "https")
                or not host
                or parts.query
                or parts.fragment
                or "@" in parts.netloc
            ):
                raise ValueError(
                    f"{url}: not the address of a model (accepted: http:// or https:// with host and path, without a "
                    "user name, a question mark or a fragment)"
                )
        return url

    @field_validator("plugin")
    @classmethod
    def _registered(cls, name: str | None) -> str | None:
        if name is not None and name not in PREDICTORS:
            known = ", ".join(PREDICTORS) or "none"
            raise ValueError(
                f"no plug-in registers a predictor called {name!r} (registered: {known}); give its file with --plugin "
                "FILE.py"
            )
        return name

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{', '.join(map(repr, given[:-1]))} and {given[-1]!r} cannot be combined (accepted: one of "
                f"{', '.join(SOURCES)})"
            )
        for key, owner in OWNERS.items():
            value, default = getattr(self, key), type(self).model_fields[key].get_default(call_default_factory=True)
            # A written study contains the default output of a model to train.
            given_here = key in self.model_fields_set and value is not None and (key != "output" or value != default)
            if key not in KEYS_OF[self.kind] and given_here:
                raise ValueError(f"{key!r} applies to {owner}; it cannot be combined with {self.described}")
        if self.url is not None and self.protocol is None:
            raise ValueError("'url' requires 'protocol' (accepted: oip-v2-json, oip-v2-binary, tf-serving)")
        return self

    @property
    def kind(self) -> Literal["trained", "keras", "onnx", "url", "plugin"]:
        """The kind of victim: a model to train, or an existing one."""
        if self.url is not None:
            return "url"
        if self.plugin is not None:
            return "plugin"
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
        """Leave out the keys of other kinds of victims, which cannot be combined with it.

        The same keys as ever are thus written for a model to train or a keras file, and their digests do not change.
        """
        plain: dict[str, Any] = handler(self)
        kept = {*KEYS_OF[self.kind], "output", "file", *(("model",) if self.kind == "trained" else ()), self.kind}
        return {
            key: value
            for key, value in plain.items()
            if key in kept
            and not (value is None and key in ABSENT_KEYS)
            and not (key == "accept_any_accuracy" and not value)
        }
