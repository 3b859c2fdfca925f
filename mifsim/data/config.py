"""The ``[data]`` section of a study, and the registry of data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mifsim.data.image_files import Colour
from mifsim.data.preprocessing import Fit, Preprocessing
from mifsim.errors import PluginError, UserError
from mifsim.registry import Registry

if TYPE_CHECKING:
    from mifsim.data.base import DataSet


class Source(NamedTuple):
    """One data set that a study can name.

    Attributes
    ----------
    load : str or callable
        A function that takes a `DataConfig` and returns a `mifsim.data.base.DataSet`, or ``"module:function"``, which
        is imported on first use.
    reads : frozenset of str
        The optional keys that it reads, of `folder`, `size`, `colour`, `fit` and `background`; a study cannot set the
        others, except for the last two, which logs read too.
    needs : frozenset of str
        The keys of `reads` that a study must set.
    """

    load: str | Callable[[DataConfig], DataSet]
    reads: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()


_FOLDER = frozenset({"folder"})

_SHIPPED: dict[str, Source] = {
    "mnist-5k": Source("mifsim.data.mnist_5k:load"),
    "mnist": Source("mifsim.data.mnist:load", reads=_FOLDER),
    "fashion-mnist": Source("mifsim.data.mnist:load", reads=_FOLDER),
    "celeba": Source("mifsim.data.celeba:load", reads=_FOLDER, needs=_FOLDER),
    "folder": Source("mifsim.data.folder:load", reads=_FOLDER | {"size", "colour", "fit", "background"}, needs=_FOLDER),
    "faces": Source("mifsim.data.faces:load"),
}

DATASETS = Registry("datasets", "data set", _SHIPPED)
"""All data sets by name. A new one is a file with a function and a line above, or it comes from a plug-in."""


def source_of(name: str) -> Source:
    """Return the source of a data set; a plug-in may register a `Source` or only its function.

    Raises
    ------
    UserError
        If there is no such set; the message lists all names and the closest match.
    """
    found = DATASETS.load(name)
    return found if isinstance(found, Source) else Source(found)


Side = Annotated[int, Field(ge=8, le=1024)]
"""Side of an image, in pixels."""
Level = Annotated[int, Field(ge=0, le=255)]
"""Amount of one colour."""


class DataConfig(BaseModel):
    """The ``[data]`` section of a study.

    Raises
    ------
    pydantic.ValidationError
        For an unknown set or key, a value out of range, a key that the set does not read, or a missing key that it
        needs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str = Field("mnist-5k", description="data set: one of " + ", ".join(_SHIPPED) + ", or one of a plug-in")
    folder: Path | None = Field(
        None,
        description="folder of the files; required by celeba and folder; mnist and fashion-mnist: default keras' cache",
    )
    size: tuple[Side, Side] | None = Field(
        None, description="folder only: height and width to which images are resized; one number for a square"
    )
    colour: Colour | None = Field(None, description='folder only: "grey" or "rgb" (default: rgb)')
    fit: Fit = Field(
        "cut",
        description="images of another aspect ratio, in a folder or a log: cut (keep the central part), squash (change "
        "the aspect ratio) or pad (add bars)",
    )
    background: tuple[Level, Level, Level] | None = Field(
        None,
        description="colour of padding and behind transparent pixels, in a folder or a log: a grey value from 0 to "
        "255, or [red, green, blue]; default: padding is black, and transparency is ignored",
    )
    images_per_class: int | None = Field(
        None,
        ge=8,
        le=1_000_000,
        description="reduce to exactly this number of images per class (faces: render this number; default: 1000)",
    )
    at_most_per_class: int | None = Field(
        None,
        ge=8,
        le=1_000_000,
        description="reduce classes with more images to this number; smaller ones keep all their images",
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="seed of the random split into subsets")

    @field_validator("set")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            source_of(name)
        except PluginError:
            raise
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, size: object) -> object:
        return (size, size) if isinstance(size, int) and not isinstance(size, bool) else size

    @field_validator("background", mode="before")
    @classmethod
    def _grey(cls, level: object) -> object:
        return (level,) * 3 if isinstance(level, int) and not isinstance(level, bool) else level

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            if "color" in value:
                raise ValueError(".color: unknown key; it is now spelled 'colour' (accepted: colour = 'grey' or 'rgb')")
            if value.get("colour") == "gray":
                raise ValueError(".colour = 'gray': is now spelled 'grey' (accepted: 'grey' or 'rgb')")
        return value

    @model_validator(mode="after")
    def _one_reduction(self) -> DataConfig:
        if self.images_per_class is not None and self.at_most_per_class is not None:
            raise ValueError("images_per_class and at_most_per_class exclude each other (accepted: one of them)")
        return self

    @model_validator(mode="after")
    def _only_what_is_read(self) -> DataConfig:
        source = source_of(self.set)
        for key in ("folder", "size", "colour"):
            given = getattr(self, key) is not None
            if given and key not in source.reads:
                readers = ", ".join(name for name in DATASETS if key in source_of(name).reads)
                raise ValueError(f"data set {self.set!r} does not read {key!r}; sets that do: {readers}")
            if not given and key in source.needs:
                raise ValueError(f"data set {self.set!r} needs {key!r}")
        return self

    def preprocessing(self, shape: tuple[int, ...]) -> Preprocessing:
        """Return the preprocessing of image files for a shape: that of the data set's images, (H, W) or (H, W, 3)."""
        return Preprocessing(shape, self.fit, self.background)
