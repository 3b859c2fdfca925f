"""One client session on the server: Algorithm 1 of the paper, independent of the network and of Ray."""

from __future__ import annotations

import contextlib

from mifsim.clients.protocol import Image
from mifsim.defense import Detector, ModelAnswer, Verdict
from mifsim.errors import DetectorError, InvalidImage
from mifsim.study.wire import Transport


class Session:
    """Algorithm 1, lines 1 to 10: fetch, judge, and end the session at UNSAFE.

    The caller queries the model (line 11), so that many sessions share one batch.

    Parameters
    ----------
    detector : Detector
        The state of the session, or of its client where the detector's scope is the client.
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
        The detector's count after the last query. Rows are written from it: a detector whose count can no longer be
        read ends its own session only.
    """

    __slots__ = ("_shape", "_transport", "answered", "count", "detector", "queries")

    def __init__(self, detector: Detector, transport: Transport, shape: tuple[int, ...]) -> None:
        self.detector = detector
        self._transport = transport
        self._shape = shape
        self.queries = 0
        self.answered = 0
        self.count = 0.0
        with contextlib.suppress(Exception):  # where it cannot be read, the first query fails
            self.count = float(detector.count)

    def receive(self, image: Image) -> Image | None:
        """Take one query.

        Parameters
        ----------
        image : Image
            As the client sent it.

        Returns
        -------
        Image or None
            The image as it arrived, for the model; None where the detector said UNSAFE and the session is over.

        Raises
        ------
        InvalidImage
            The query is refused, the session continues as if it had not come (but it is counted).
        DetectorError
            The detector failed.
        """
        self.queries += 1
        arrived = self._transport.arrive(image)
        if arrived.shape != self._shape:
            raise InvalidImage(f"the model takes images of shape {self._shape}, got {arrived.shape}")
        try:
            verdict = self.detector.check(arrived)
        except InvalidImage:
            raise
        except Exception as error:  # a detector may be foreign code: what it raises ends this session alone
            raise self._failure("check", error) from error
        self._take_count()
        if verdict is Verdict.UNSAFE:
            return None
        if verdict is not Verdict.SAFE:
            raise DetectorError(f"check returned {verdict!r} at query {self.queries}, which is not a Verdict")
        self.answered += 1
        return arrived

    def observe(self, answer: ModelAnswer) -> None:
        """Show the detector what the model answered to the last query.

        Raises
        ------
        DetectorError
            The detector failed.
        """
        try:
            self.detector.observe(answer)
        except Exception as error:
            raise self._failure("observe", error) from error
        self._take_count()

    def _take_count(self) -> None:
        try:
            self.count = float(self.detector.count)
        except Exception as error:
            raise self._failure("count", error) from error

    def _failure(self, method: str, error: Exception) -> DetectorError:
        if isinstance(error, DetectorError):
            return error
        return DetectorError(f"the detector's {method} failed at query {self.queries}: {type(error).__name__}: {error}")
