"""The server's interface to clients: the transport of images, and the response policy."""

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
MOST_DECIMALS = 30
"""Most decimals of ``rounded-D``: numpy multiplies float32 values by 10^D, which overflows at 39."""
RESPONSES = f'"label", "top-K", "rounded-D" (D decimals, 1 to {MOST_DECIMALS}) or "confidence"'


@dataclass(frozen=True)
class Transport:
    """The encoding in which images reach the server; both the filter and the model receive the decoded image.

    Attributes
    ----------
    kind : str
        ``float32``: unchanged (as in the paper). ``uint8``: rounded to 8 bits. ``jpeg``: JPEG compression.
    quality : int
        JPEG quality, 1 to 100; 0 for the other kinds.
    """

    kind: Literal["float32", "uint8", "jpeg"]
    quality: int = 0

    @classmethod
    def parse(cls, text: str) -> Transport:
        """Read the value of a study's ``server.transport``.

        Raises
        ------
        ValueError
            If it is not valid; the message says what is accepted.
        """
        if text == "float32":
            return cls("float32")
        if text == "uint8":
            return cls("uint8")
        match = re.fullmatch(r"jpeg-(\d{1,3})", text)
        if match and 1 <= int(match[1]) <= 100:
            return cls("jpeg", int(match[1]))
        raise ValueError(f"{text!r} is not a transport (accepted: {TRANSPORTS})")

    def __str__(self) -> str:
        return f"jpeg-{self.quality}" if self.kind == "jpeg" else self.kind

    def arrive(self, image: Image) -> Image:
        """Return the image as the server receives it, float32 of the same shape.

        Raises
        ------
        InvalidImage
            If it is not a valid image (see `mifsim.defense.images.admit`). It is checked before any rounding, which
            could turn a NaN into a valid pixel. The detector checks unmodified float32 images.
        """
        if self.kind == "float32" and isinstance(image, np.ndarray) and image.dtype == np.float32:
            return image  # checked by the detector
        pixels = admit(image)
        if self.kind == "float32":
            return pixels
        # Rounds half to even, as numpy does.
        rounded: npt.NDArray[np.uint8] = np.rint(pixels * np.float32(255)).astype(np.uint8)
        if self.kind == "jpeg":
            rounded = through_jpeg(rounded, self.quality)
        return rounded.astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class ResponsePolicy:
    """The part of the model's output that the server returns to clients.

    Attributes
    ----------
    kind : str
        ``label``: only the class. ``top``: the `digits` highest confidences, the others NaN. ``rounded``: all
        confidences, rounded to `digits` decimals. ``confidence``: all, unchanged (as in the paper).
    digits : int
        K of ``top-K`` or D of ``rounded-D``; 0 for the other kinds.
    """

    kind: Literal["label", "top", "rounded", "confidence"]
    digits: int = 0

    @classmethod
    def parse(cls, text: str) -> ResponsePolicy:
        """Read the value of a study's ``server.response``.

        Raises
        ------
        ValueError
            If it is not valid; the message says what is accepted.
        """
        if text == "label":
            return cls("label")
        if text == "confidence":
            return cls("confidence")
        match = re.fullmatch(r"(top|rounded)-(\d{1,3})", text)
        if match and 1 <= int(match[2]) <= (999 if match[1] == "top" else MOST_DECIMALS):
            return cls("top" if match[1] == "top" else "rounded", int(match[2]))
        raise ValueError(f"{text!r} is not a response policy (accepted: {RESPONSES})")

    def __str__(self) -> str:
        return f"{self.kind}-{self.digits}" if self.kind in ("top", "rounded") else self.kind

    @property
    def gives(self) -> Knowledge:
        """The knowledge that clients gain under this policy."""
        known = {"label": Knowledge.LABEL, "top": Knowledge.TOP_K}
        return known.get(self.kind, Knowledge.CONFIDENCE)

    def shown(self, confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Return the confidences that clients receive.

        Parameters
        ----------
        confidence : ndarray of float32, shape (n, classes)
            The model's confidence vectors.

        Returns
        -------
        ndarray of float32, shape (n, classes), or None
            NaN where a confidence is withheld; None under the policy ``label``.
        """
        if self.kind == "label":
            return None
        if self.kind == "confidence":
            return confidence
        if self.kind == "rounded":
            return np.round(confidence, self.digits)
        # Stable sort: of equal confidences, the lowest class comes first, as in argmax.
        kept = np.argsort(-confidence, axis=1, kind="stable")[:, : self.digits]
        top = np.full_like(confidence, np.nan)
        np.put_along_axis(top, kept, np.take_along_axis(confidence, kept, axis=1), axis=1)
        return top
