"""The protocol between clients and the server.

A client is a generator. It yields a `Query`, receives an `Answer` or a `Refusal`, and returns when it is done. It has
no reference to the server, so the same client runs on a Ray host, in a single process, and while it is recorded.
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
"""One image, shape (H, W) or (H, W, 3), float32 in [0, 1]."""


class Knowledge(IntEnum):
    """The part of the model's output that a client needs; each level includes the levels before it."""

    LABEL = 0
    TOP_K = 1
    CONFIDENCE = 2


class Query(NamedTuple):
    """One request to the server.

    Attributes
    ----------
    image : Image
        The submitted image.
    guess : Image or None
        The attacker's best reconstruction so far; None: the submitted image. It is recorded and scored after the run;
        the detector never sees it.
    gradient_of : int or None
        A class. The answer then contains the gradient of the confidence in this class with respect to the image. For
        white-box attackers, which have the model's weights; the gradient is not counted as a query.
    new_session : bool
        Whether the client leaves its session and opens another one with this query. Only closed-loop clients can do so,
        and clients that revisit the server (`Client.revisits`).
    new_client : bool
        Whether the client also changes its identity (to another account, for example), so that a detector of scope
        ``"client"`` starts in its initial state. Only closed-loop clients can do so.
    account : int
        The account that sends the query. An attacker can hold several accounts at once. Each has its own client
        identity and session, which stay open while other accounts send. `new_session` and `new_client` refer to this
        account. Only closed-loop clients can use a second account.
    shared : bool
        Whether the query is the same for every class under attack, so that an attacker of several classes sends it
        once and uses the answer for all. Such queries are counted in the tables; the detector never sees the flag.

    Notes
    -----
    A simulated attacker has one class. It sends the shared queries itself, in its own session, before the others. A
    detector therefore sees what it sees of an attacker of one class, or of several classes until the first is done. An
    attacker of k classes sends (shared) + k · (other) queries in all; its session of a later class consists of the
    other queries only.
    """

    image: Image
    guess: Image | None = None
    gradient_of: int | None = None
    new_session: bool = False
    new_client: bool = False
    account: int = 0
    shared: bool = False

    @property
    def reconstruction(self) -> Image:
        """The attacker's reconstruction when it sends this query: the guess, or the image itself."""
        return self.image if self.guess is None else self.guess


class Answer(NamedTuple):
    """The model's answer to a query, as far as the server's response policy discloses it.

    Attributes
    ----------
    label : int
        The class of the highest confidence.
    confidence : ndarray of shape (classes,), float32, or None
        The confidence in each class, in [0, 1]. None under the label-only policy; NaN for classes that a top-k policy
        withholds; rounded under a rounding policy.
    gradient : Image or None
        d confidence[gradient_of] / d image, if the query requested it.
    """

    label: int
    confidence: npt.NDArray[np.float32] | None = None
    gradient: Image | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reply to a query that the detector blocked; the session has ended.

    The client returns or, if it is closed-loop, continues: its next query opens a new session.

    Attributes
    ----------
    account : int
        The account whose session has ended. Sessions of other accounts stay open.
    """

    account: int = 0


ClientGenerator = Generator[Query, Answer | Refusal, Image | None]
"""A running client. An attacker returns its reconstruction, a user None."""


class ImagePool(Protocol):
    """Labelled images that can be read by index, such as a subset of a data set (see `mifsim.data`)."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each image, shape (n,)."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image:
        """Return one image, float32 in [0, 1]."""


@dataclass(frozen=True)
class World:
    """The information that a client has when it starts.

    Attributes
    ----------
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes of the model.
    pool : ImagePool
        An attacker's auxiliary images, or the images that a user may send. They never include the victim's training
        images.
    target : int or None
        The class under attack, from 0; None for users.
    starts : tuple of int
        Positions in the pool at which the sessions of a client begin that revisits the server; the first is 0.
    reconstructs : bool
        Whether the reconstruction that an attacker returns is used. If not, it may return any image, and so save the
        work that no query depends on.
    """

    shape: tuple[int, ...]
    classes: int
    pool: ImagePool
    target: int | None = None
    starts: tuple[int, ...] = (0,)
    reconstructs: bool = True


class Client(BaseModel, ABC):
    """One kind of client; its fields are the arguments that a study can set.

    A subclass is a pydantic model, whose fields have a default, a range and a description. `run` starts one client. All
    its random numbers come from `rng`, so that a seed and the replies determine its queries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: ClassVar[Literal["attacker", "user"]]
    needs: ClassVar[Knowledge] = Knowledge.LABEL
    """The least model output with which this client works."""
    closed_loop: ClassVar[bool] = False
    """Whether it continues after a refusal or opens new sessions, so that recordings of it cannot be replayed."""
    revisits: ClassVar[bool] = False
    """Whether it has several sessions, one after the other, whose number and queries do not depend on the detector:
    after a refusal, the client continues with its next session. Each session can be replayed."""

    @property
    def expected_queries(self) -> float | None:
        """Expected number of queries, for an ETA; None: as many as its budget allows."""
        return None

    def prepare(self, pool: ImagePool, shape: tuple[int, ...]) -> None:
        """Check and cache what all clients of this kind need, such as a generator; called before a run starts.

        Clients must not rely on it: each process computes what it does not find in the cache.

        Parameters
        ----------
        pool : ImagePool
            The images of `World.pool`.
        shape : tuple of int
            Shape of one image: (H, W) or (H, W, 3).

        Raises
        ------
        UserError
            If an argument does not fit the data, such as a file that cannot be used.
        """

    @abstractmethod
    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one client.

        Parameters
        ----------
        world : World
            The information available to the client.
        rng : Generator
            The source of all its random numbers.

        Returns
        -------
        generator
            The running client; see `ClientGenerator`.
        """


class Attacker(Client):
    """A client that reconstructs images of the class ``world.target``.

    A subclass defines its threat model by `needs` and `white_box`, and describes its queries in `sends`.
    """

    role: ClassVar[Literal["attacker", "user"]] = "attacker"
    white_box: ClassVar[bool] = False
    """Whether it has the model's weights, so that it can request gradients (`Query.gradient_of`)."""
    sends: ClassVar[str]
    """A short description of the queries, such as ``"iterates, each a small step from the last"``."""


class ImageNeed(NamedTuple):
    """The number of different images that a session can need.

    Attributes
    ----------
    images : int
        At most one session in a thousand needs more.
    one_class : bool
        Whether all of them are of one class.
    """

    images: int
    one_class: bool = False


class User(Client):
    """An honest client."""

    role: ClassVar[Literal["attacker", "user"]] = "user"

    def image_needs(self) -> tuple[ImageNeed, ...]:
        """Return the numbers of different images that a session can need; empty if they are not known.

        A session with fewer images sends some of them again. There are several needs if the session has several parts
        that draw their images independently.
        """
        return ()
