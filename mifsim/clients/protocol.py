"""What a client and the server say to one another.

A client is a generator. It yields a `Query`, is sent an `Answer` or a `Refusal`, and returns when it is done.
It holds no handle to anything, so the same client runs on a Ray host, in one process, and while a trace is
recorded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Image = npt.NDArray[np.float32]
"""One image: (H, W) or (H, W, 3), float32 in [0, 1]."""


class Knowledge(IntEnum):
    """What of the model's output a client needs back to work at all; each includes those before it."""

    LABEL = 0
    TOP_K = 1
    CONFIDENCE = 2


class Query(NamedTuple):
    """One request to the server.

    Attributes
    ----------
    image : Image
        What is submitted.
    guess : Image or None
        The attacker's best reconstruction so far (the image itself where None). It is recorded and scored
        offline; the server never sees it.
    gradient_of : int or None
        For white-box attackers, who hold the weights: the gradient of this class's confidence with respect to
        the image comes back with the answer. It costs no query of its own.
    new_session : bool
        The client leaves its session, and opens another with this query. Only a closed-loop client may: a trace
        holds one session a client.
    new_client : bool
        The same under another client identity: what a detector of scope ``"client"`` knows of the client begins anew.
        Only a closed-loop client may.
    account : int
        The account that sends the query. An attacker can hold several accounts at once. Each has a client identity and
        a session of its own, which stay open while other accounts send. `new_session` and `new_client` refer to this
        account. Only a closed-loop client may use a second account.
    """

    image: Image
    guess: Image | None = None
    gradient_of: int | None = None
    new_session: bool = False
    new_client: bool = False
    account: int = 0

    @property
    def reconstruction(self) -> Image:
        """What the attacker holds when it sends this: the guess, or the image itself."""
        return self.image if self.guess is None else self.guess


class Answer(NamedTuple):
    """What the server's response policy lets out.

    Attributes
    ----------
    label : int
        The class of the highest confidence.
    confidence : ndarray of shape (classes,), float32, or None
        None under the label-only policy; NaN where a top-k policy withholds a class; rounded under a rounding
        policy.
    gradient : Image or None
        d confidence[gradient_of] / d image, where the query asked for it.
    """

    label: int
    confidence: npt.NDArray[np.float32] | None = None
    gradient: Image | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The session has ended. A client may return, or (closed-loop) continue: its next query opens a new session.

    Attributes
    ----------
    account : int
        The account whose session has ended. Sessions of other accounts stay open.
    """

    account: int = 0


ClientGenerator = Generator[Query, Answer | Refusal, Image | None]
"""A running client. An attacker returns its reconstruction, a user None."""


class ImagePool(Protocol):
    """Labelled images that can be drawn by index (a part of a data set: see `mifsim.data`)."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each image, shape (n,)."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image:
        """Return one image, float32 in [0, 1]."""


@dataclass(frozen=True)
class World:
    """All that a client may know when it starts.

    Attributes
    ----------
    shape : tuple of int
        Of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes of the model.
    pool : ImagePool
        For an attacker its auxiliary images, for a user the images that it may send. Never the victim's
        training images.
    target : int or None
        The class under attack; None for users.
    """

    shape: tuple[int, ...]
    classes: int
    pool: ImagePool
    target: int | None = None


class Client(BaseModel, ABC):
    """One kind of client; its fields are the arguments that a study may set.

    A subclass is a pydantic model: a field a line, with a default, a range and a description. `run` starts one
    client; everything random in it comes from `rng`, so that a seed determines the conversation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: ClassVar[Literal["attacker", "user"]]
    needs: ClassVar[Knowledge] = Knowledge.LABEL
    """The least of the model's output that this client can work with."""
    closed_loop: ClassVar[bool] = False
    """Whether its queries depend on having been refused: such a client cannot be replayed from a trace."""

    @property
    def expected_queries(self) -> float | None:
        """How many queries it makes on the average, for an ETA; None: as many as its budget allows."""
        return None

    @abstractmethod
    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one client; see `Conversation`."""


class Attacker(Client):
    """A client that reconstructs images of the class ``world.target``.

    A subclass states its threat model: `needs`, `white_box`, and in `sends` what a filter will see of it.
    """

    role: ClassVar[Literal["attacker", "user"]] = "attacker"
    white_box: ClassVar[bool] = False
    """Whether it holds the model's weights: it asks for gradients (`Query.gradient_of`)."""
    sends: ClassVar[str]
    """What the server sees, in a few words: ``"iterates, each a small step from the last"``."""


class User(Client):
    """An honest client."""

    role: ClassVar[Literal["attacker", "user"]] = "user"
