"""Who asks: attackers and honest users, all generators that speak `mifsim.clients.protocol`.

A new client is one file that derives from `Attacker` or `User`, and one line in `REGISTRY`; a new evasion, which
bends any attacker's stream, is one file that derives from `Evasion`, and one line in `EVASIONS`. The conformance
tests then cover it without another word.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, Literal

from mifsim.clients.evasion import Evasion
from mifsim.clients.protocol import (
    Answer,
    Attacker,
    Client,
    ClientGenerator,
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
    "EVASIONS",
    "REGISTRY",
    "Answer",
    "Attacker",
    "Client",
    "ClientGenerator",
    "Evasion",
    "Image",
    "ImagePool",
    "Knowledge",
    "Query",
    "Refusal",
    "User",
    "World",
    "client_class",
    "evasion_class",
    "names",
]

REGISTRY: dict[str, str] = {
    "mi-face": "mifsim.clients.attackers.mi_face:MIFace",
    "mi-face-numeric": "mifsim.clients.attackers.mi_face_numeric:MIFaceNumeric",
    "nes": "mifsim.clients.attackers.nes:NES",
    "spsa": "mifsim.clients.attackers.spsa:SPSA",
    "brep": "mifsim.clients.attackers.brep:BREP",
    "genetic": "mifsim.clients.attackers.genetic:Genetic",
    "inversion-network": "mifsim.clients.attackers.inversion_network:InversionNetwork",
    "error-rate": "mifsim.clients.attackers.error_rate:ErrorRate",
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

EVASIONS: dict[str, str] = {
    "noise": "mifsim.clients.evasions.altered:Noise",
    "brightness": "mifsim.clients.evasions.altered:Brightness",
    "contrast": "mifsim.clients.evasions.altered:Contrast",
    "motion": "mifsim.clients.evasions.altered:Motion",
    "decoys": "mifsim.clients.evasions.decoys:Decoys",
    "interleave": "mifsim.clients.evasions.interleave:Interleave",
    "deduplicate": "mifsim.clients.evasions.deduplicate:Deduplicate",
    "rotate": "mifsim.clients.evasions.rotate:Rotate",
    "probe": "mifsim.clients.evasions.probe:Probe",
}
"""What a study calls an evasion, and where it lives."""


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
    found: type[Client] = _load(name, REGISTRY, "client")
    assert issubclass(found, Client), f"{REGISTRY[name]} is not a Client"
    return found


def evasion_class(name: str) -> type[Evasion]:
    """Return the evasion that a study calls `name`; see `client_class`.

    Examples
    --------
    >>> evasion_class("decoys")().between
    10
    """
    found: type[Evasion] = _load(name, EVASIONS, "evasion")
    assert issubclass(found, Evasion), f"{EVASIONS[name]} is not an Evasion"
    return found


def _load(name: str, registry: dict[str, str], what: str) -> Any:
    if name not in registry:
        near = difflib.get_close_matches(name, registry, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no {what} is called {name!r}{hint} (known: {', '.join(registry)})")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def names(role: Literal["attacker", "user"] | None = None) -> tuple[str, ...]:
    """Return the names of all clients, or of those of one role, in the registry's order.

    Examples
    --------
    >>> names("user")[:4]
    ('independent', 'one-class', 'retries', 'bursts')
    """
    return tuple(name for name in REGISTRY if role is None or client_class(name).role == role)
