"""Base class of wires, and what a request in one of them contains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mifsim.defense.images import Pixels
from mifsim.guard.arrival import Arrival, Sent
from mifsim.guard.message import Reply, Request

Confidences = npt.NDArray[np.float32]
"""Shape (n, classes): the model's confidences for each image of a request."""


class AnswerError(ValueError):
    """The model server's answer is not as expected, so its confidences cannot be found."""


class Submission(ABC):
    """A request whose images have been read.

    Attributes
    ----------
    request : Request
        As the client sent it.
    images : list of ndarray of float32
        The images as they arrive, each of which is a query; at least one.
    sent : list of bytes or ndarray
        The same images as the client sent them, files or arrays.
    """

    def __init__(self, request: Request, images: list[Pixels], sent: Sequence[Sent]) -> None:
        self.request, self.images, self.sent = request, images, sent

    @abstractmethod
    def forwarded(self) -> Request:
        """Return the request for the model server: that of the client, with the images that the detector judges."""

    @abstractmethod
    def confidences(self, reply: Reply) -> Confidences:
        """Return the confidences in a model server's answer, one row for each image.

        Raises
        ------
        AnswerError
            If they are not there.
        """

    @abstractmethod
    def restricted(self, reply: Reply, labels: Sequence[int], shown: Confidences | None) -> Reply:
        """Return an answer that contains what the response policy shows, and nothing else about the images.

        Parameters
        ----------
        reply : Reply
            The model server's answer.
        labels : sequence of int
            The class of each image.
        shown : ndarray of float32 or None
            The confidences that clients receive, NaN where one is withheld; None: only the labels.
        """

    @abstractmethod
    def answered(self, confidence: Confidences) -> Reply:
        """Return an answer in this wire, for a model server that uses another one."""


class Wire(ABC):
    """A format of requests.

    Parameters
    ----------
    arrival : Arrival
    output : str
        ``upstream.output``: where the confidences are in answers.
    batch : int
        Largest number of images of a request.
    """

    name: ClassVar[str]

    def __init__(self, arrival: Arrival, output: str = "", batch: int = 256) -> None:
        self.arrival, self.output, self.batch = arrival, output, batch

    @abstractmethod
    def claims(self, request: Request) -> bool:
        """Return whether a request is in this format, by its method, path and media type."""

    def describes(self, request: Request) -> bool:
        """Return whether a request asks for the state or description of a model, which is passed on as it is."""
        return False

    @abstractmethod
    def read(self, request: Request) -> Submission:
        """Read the images of a request that `claims` accepted.

        Raises
        ------
        Refused
            If the request is not valid. A request that could carry something to the model that the detector does not
            see is not valid.
        """

    @abstractmethod
    def compose(self, images: Sequence[Pixels], path: str) -> Request:
        """Return a new request with images, for a path of the model server."""


def as_confidences(values: Any, images: int) -> Confidences:
    """Return confidences as float32 of shape (images, classes).

    Raises
    ------
    AnswerError
        If they are not numbers of this shape.
    """
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise AnswerError("its confidences are no numbers") from None
    if array.ndim == 1 and images == 1:
        array = array.reshape(1, -1)
    if array.ndim != 2 or array.shape[0] != images or array.shape[1] < 1:
        raise AnswerError(f"its confidences have shape {array.shape}; expected ({images}, classes)")
    if not np.isfinite(array).all():
        raise AnswerError("its confidences are not finite")
    return array


def shown_values(labels: Sequence[int], shown: Confidences | None) -> list[Any]:
    """Return what a client receives for each image, for JSON: a label, or confidences with null where withheld."""
    if shown is None:
        return [int(label) for label in labels]
    # str(float32) is the shortest text of the number: 0.12 and not 0.11999999731779099.
    return [[None if np.isnan(value) else float(str(value)) for value in row] for row in shown]
