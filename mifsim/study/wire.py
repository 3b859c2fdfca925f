"""What a server lets in and out: how an image travels to it, and what of an answer travels back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Image, Knowledge
from mifsim.data.image_files import through_jpeg
from mifsim.defense.images import admit

TRANSPORTS = '"float32", "uint8" or "jpeg-Q" with Q from 1 to 100'
RESPONSES = '"label", "top-K", "rounded-D" (D decimals) or "confidence"'


@dataclass(frozen=True)
class Transport:
    """What of an image arrives at the server; the filter and the model both see what arrived.

    Attributes
    ----------
    kind : str
        ``float32``: the image as it is (the paper). ``uint8``: rounded to 8 bits. ``jpeg``: through a JPEG.
    quality : int
        Of the JPEG, 1 to 100; 0 for the other kinds.
    """

    kind: Literal["float32", "uint8", "jpeg"]
    quality: int = 0

    @classmethod
    def parse(cls, text: str) -> Transport:
        """Read a study's ``transport``; raises ValueError that says what is accepted."""
        if text == "float32":
            return cls("float32")
        if text == "uint8":
            return cls("uint8")
        match = re.fullmatch(r"jpeg-(\d{1,3})", text)
        if match and 1 <= int(match[1]) <= 100:
            return cls("jpeg", int(match[1]))
        raise ValueError(f"{text!r} is no transport; accepted: {TRANSPORTS}")

    def arrive(self, image: Image) -> Image:
        """Return what the server receives, float32 of the same shape; the session's guard checks its values.

        Raises
        ------
        InvalidImage
            Where it is not an image (see `mifsim.defense.images.admit`). A transport must not turn a NaN into a
            plausible pixel, so this comes before any rounding.
        """
        if self.kind == "float32" and isinstance(image, np.ndarray) and image.dtype == np.float32:
            return image  # every guard checks what it is given: once is enough
        pixels = admit(image)
        if self.kind == "float32":
            return pixels
        # Rounds half to even, as numpy does; the step of 1/255 is what an 8-bit file format costs.
        rounded: npt.NDArray[np.uint8] = np.rint(pixels * np.float32(255)).astype(np.uint8)
        if self.kind == "jpeg":
            rounded = through_jpeg(rounded, self.quality)
        return rounded.astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class ResponsePolicy:
    """What of the model's confidence vector the server gives back.

    Attributes
    ----------
    kind : str
        ``label``: the class alone. ``top``: the `digits` highest confidences, the others NaN. ``rounded``: all,
        to `digits` decimals. ``confidence``: all as they are (the paper).
    digits : int
        K of ``top-K`` or D of ``rounded-D``.
    """

    kind: Literal["label", "top", "rounded", "confidence"]
    digits: int = 0

    @classmethod
    def parse(cls, text: str) -> ResponsePolicy:
        """Read a study's ``response``; raises ValueError that says what is accepted."""
        if text == "label":
            return cls("label")
        if text == "confidence":
            return cls("confidence")
        match = re.fullmatch(r"(top|rounded)-(\d{1,3})", text)
        if match and int(match[2]) >= 1:
            return cls("top" if match[1] == "top" else "rounded", int(match[2]))
        raise ValueError(f"{text!r} is no response policy; accepted: {RESPONSES}")

    @property
    def gives(self) -> Knowledge:
        """What a client learns under this policy."""
        known = {"label": Knowledge.LABEL, "top": Knowledge.TOP_K}
        return known.get(self.kind, Knowledge.CONFIDENCE)

    def shown(self, confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Return what clients are shown of a batch's confidences, shape (n, classes); None under label-only."""
        if self.kind == "label":
            return None
        if self.kind == "confidence":
            return confidence
        if self.kind == "rounded":
            return np.round(confidence, self.digits)
        # Stable order: among equals the lower class comes first, as argmax has it.
        kept = np.argsort(-confidence, axis=1, kind="stable")[:, : self.digits]
        top = np.full_like(confidence, np.nan)
        np.put_along_axis(top, kept, np.take_along_axis(confidence, kept, axis=1), axis=1)
        return top
