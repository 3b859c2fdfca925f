"""One client session on the server: Algorithm 1 of the paper, independent of the network and of Ray."""

from __future__ import annotations

import contextlib

from mifsim.clients.protocol import Image
from mifsim.defense import Detector, ModelAnswer, Verdict
from mifsim.errors import DetectorError, InvalidImage
from mifsim.study.wire import Transport


def arrive(image: Image, transport: Transport, shape: tuple[int, ...]) -> Image:
    """Return an image as the server receives it.

    Raises
    ------
    InvalidImage
        If it is not valid, or if its shape is not the one that the model takes.
    """
    arrived = transport.arrive(image)
    if arrived.shape != shape:
        raise InvalidImage(f"the model takes images of shape {shape}, got {arrived.shape}")
    return arrived


class Session:
    """Algorithm 1, lines 1 to 10: receive an image, pass it to the detector, and end the session at UNSAFE.

    The caller queries the model (line 11), so that many sessions can share one batch.

    Parameters
    ----------
    detector : Detector
        The detector of the session, or of its client if the detector's scope is the client.
    transport : Transport
        The encoding in which images arrive.
    shape : tuple of int
        Shape of the images that the model takes.

    Attributes
    ----------
    queries : int
        Number of images received, invalid and unsafe ones included. Only the server counts them.
    answered : int
        Number of images passed on to the model.
    count : float
        The detector's count after the last query, from which rows are written. If the count of a detector cannot be
        read, only the session of that detector fails.
    """

    __slots__ = ("_shape", "_transport", "answered", "count", "detector", "queries")

    def __init__(self, detector: Detector, transport: Transport, shape: tuple[int, ...]) -> None:
        self.detector = detector
        self._transport = transport
        self._shape = shape
        self.queries = 0
        self.answered = 0
        self.count = 0.0
        with contextlib.suppress(Exception):  # if it cannot be read, the first query fails
            self.count = float(detector.count)

    def receive(self, image: Image) -> Image | None:
        """Receive one query.

        Parameters
        ----------
        image : Image
            The image as the client sent it.

        Returns
        -------
        Image or None
            The image as it arrived, for the model; None if the verdict is UNSAFE, which ends the session.

        Raises
        ------
        InvalidImage
            If the image is not valid. The query is refused and counted; the detector is unchanged, and the session
            continues.
        DetectorError
            If the detector raises an exception.
        """
        self.queries += 1
        arrived = arrive(image, self._transport, self._shape)
        try:
            verdict = self.detector.check(arrived)
        except InvalidImage:
            raise
        except Exception as error:  # a detector may be a plug-in: an exception must end only this session
            raise self._failure("check", error) from error
        self._update_count()
        if verdict is Verdict.UNSAFE:
            return None
        if verdict is not Verdict.SAFE:
            raise DetectorError(f"check returned {verdict!r} at query {self.queries}, which is not a Verdict")
        self.answered += 1
        return arrived

    def observe(self, answer: ModelAnswer) -> None:
        """Pass the model's answer to the last query to the detector.

        Raises
        ------
        DetectorError
            If the detector raises an exception.
        """
        try:
            self.detector.observe(answer)
        except Exception as error:
            raise self._failure("observe", error) from error
        self._update_count()

    def _update_count(self) -> None:
        try:
            self.count = float(self.detector.count)
        except Exception as error:
            raise self._failure("count", error) from error

    def _failure(self, method: str, error: Exception) -> DetectorError:
        if isinstance(error, DetectorError):
            return error
        return DetectorError(f"the detector's {method} failed at query {self.queries}: {type(error).__name__}: {error}")
