"""One client session on the server: Algorithm 1 of the paper, independent of the network and of Ray."""

from __future__ import annotations

from mifsim.clients.protocol import Image
from mifsim.defense import Detector, InvalidImage, Verdict
from mifsim.study.wire import Transport


class Session:
    """Algorithm 1, lines 1 to 10: fetch a query, filter it, and end the session at UNSAFE.

    The caller queries the model (line 11), so that many sessions share one batch.

    Parameters
    ----------
    detector : Detector
        The filter of this session; each session needs a new one.
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
    """

    __slots__ = ("_shape", "_transport", "answered", "detector", "queries")

    def __init__(self, detector: Detector, transport: Transport, shape: tuple[int, ...]) -> None:
        self.detector = detector
        self._transport = transport
        self._shape = shape
        self.queries = 0
        self.answered = 0

    def receive(self, image: Image) -> Image | None:
        """Take one query.

        Parameters
        ----------
        image : Image
            As the client sent it.

        Returns
        -------
        Image or None
            The image as it arrived, for the model; None if the filter returned UNSAFE, which ends the session.

        Raises
        ------
        InvalidImage
            The query is refused but counted, and the session continues.
        """
        self.queries += 1
        arrived = self._transport.arrive(image)
        if arrived.shape != self._shape:
            raise InvalidImage(f"the model takes images of shape {self._shape}, got {arrived.shape}")
        if self.detector.check(arrived) is Verdict.UNSAFE:
            return None
        self.answered += 1
        return arrived
