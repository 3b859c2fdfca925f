"""Who asks: attackers and honest users, all generators that speak `mifsim.clients.protocol`.

A new client is one file that derives from `Attacker` or `User`, and one line in `REGISTRY`; the conformance
tests then cover it without another word.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Literal

from mifsim.clients.protocol import (
    Answer,
    Attacker,
    Client,
    Conversation,
    Image,
    ImagePool,
    Knowledge,
    Query,
    Refusal,
    User,
    World,
)
from mifsim.errors import UserError

__all__ = [
    "REGISTRY",
    "Answer",
    "Attacker",
    "Client",
    "Conversation",
    "Image",
    "ImagePool",
    "Knowledge",
    "Query",
    "Refusal",
    "User",
    "World",
    "client_class",
    "names",
]

REGISTRY: dict[str, str] = {
    "mi-face": "mifsim.clients.attackers.mi_face:MIFace",
    "independent": "mifsim.clients.users.independent:Independent",
    "one-class": "mifsim.clients.users.one_class:OneClass",
    "retries": "mifsim.clients.users.retries:Retries",
    "bursts": "mifsim.clients.users.bursts:Bursts",
    "re-uploads": "mifsim.clients.users.reuploads:ReUploads",
    "video": "mifsim.clients.users.video:Video",
    "augmentation": "mifsim.clients.users.augmentation:Augmentation",
    "kiosk": "mifsim.clients.users.kiosk:Kiosk",
    "borders": "mifsim.clients.users.borders:Borders",
    "long-sessions": "mifsim.clients.users.long_sessions:LongSessions",
    "mixture": "mifsim.clients.users.mixture:Mixture",
    "log": "mifsim.clients.users.log:Log",
}
"""What a study calls a client, and where it lives (``module:class``); imported when first asked for."""


def client_class(name: str) -> type[Client]:
    """Return the client that a study calls `name`.

    Raises
    ------
    UserError
        Where nobody is called so; the message names the nearest and all known.

    Examples
    --------
    >>> client_class("mi-face")(step=0.05).step
    0.05
    """
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no client is called {name!r}{hint} (known: {', '.join(REGISTRY)})")
    module, _, attribute = REGISTRY[name].partition(":")
    found: type[Client] = getattr(importlib.import_module(module), attribute)
    assert issubclass(found, Client), f"{REGISTRY[name]} is not a Client"
    return found


def names(role: Literal["attacker", "user"] | None = None) -> tuple[str, ...]:
    """Return the names of all clients, or of those of one role, in the registry's order.

    Examples
    --------
    >>> names("user")[:4]
    ('independent', 'one-class', 'retries', 'bursts')
    """
    return tuple(name for name in REGISTRY if role is None or client_class(name).role == role)
