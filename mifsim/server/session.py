"""One client session on the server: Algorithm 1 of the paper, without the network and without Ray."""

from __future__ import annotations

from mifsim.clients.protocol import Image
from mifsim.defense import Detector, InvalidImage, Verdict
from mifsim.study.wire import Transport


class Session:
    """Algorithm 1, lines 1 to 10: fetch, filter, and end the session at UNSAFE.

    The model (line 11) is asked by whoever holds the session, so that many sessions share one batch.

    Parameters
    ----------
    guard : Guard
        The session's own filter: a new one for each session.
    transport : Transport
        What of an image arrives.
    shape : tuple of int
        Of the images that the model takes.

    Attributes
    ----------
    queries : int
        Images received, bad and unsafe ones included. The server counts them; nobody else does.
    answered : int
        Those that went to the model.
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
            The image as it arrived, for the model; None where the filter said UNSAFE and the session is over.

        Raises
        ------
        InvalidImage
            The query is refused, the session goes on as if it had not come (but it is counted).
        """
        self.queries += 1
        arrived = self._transport.arrive(image)
        if arrived.shape != self._shape:
            raise InvalidImage(f"the model takes images of shape {self._shape}, got {arrived.shape}")
        if self.detector.check(arrived) is Verdict.UNSAFE:
            return None
        self.answered += 1
        return arrived
