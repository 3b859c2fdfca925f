"""Clients: attackers and honest users, all generators that follow `mifsim.clients.protocol`.

A new client is one file with a subclass of `Attacker` or `User`, and one line in `ATTACKS` or `USERS`. A new evasion,
which wraps any attack, is one file with a subclass of `Evasion`, and one line in `EVASIONS`. The conformance tests then
cover it without further code. All three can also come from a plug-in: see `mifsim.plugins`.
"""

from __future__ import annotations

import difflib
from typing import Literal

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
from mifsim.registry import Registry

__all__ = [
    "ATTACKS",
    "EVASIONS",
    "USERS",
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

ATTACKS = Registry(
    "attacks",
    "attack",
    {
        "mi-face": "mifsim.clients.attackers.mi_face:MIFace",
        "mi-face-numeric": "mifsim.clients.attackers.mi_face_numeric:MIFaceNumeric",
        "nes": "mifsim.clients.attackers.nes:NES",
        "spsa": "mifsim.clients.attackers.spsa:SPSA",
        "brep": "mifsim.clients.attackers.brep:BREP",
        "genetic": "mifsim.clients.attackers.genetic:Genetic",
        "inversion-network": "mifsim.clients.attackers.inversion_network:InversionNetwork",
        "error-rate": "mifsim.clients.attackers.error_rate:ErrorRate",
        "surrogate-search": "mifsim.clients.attackers.surrogate_search:SurrogateSearch",
        "label-surrogate": "mifsim.clients.attackers.label_surrogate:LabelSurrogate",
    },
    base="mifsim.clients.protocol:Attacker",
    check=lambda name, cls: "" if hasattr(cls, "sends") else f"{cls.__name__} lacks sends, which describes its queries",
)
"""All attacks: the name that a study uses, and the class, which is imported on first use."""

USERS = Registry(
    "users",
    "kind of user",
    {
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
    },
    base="mifsim.clients.protocol:User",
)
"""All kinds of honest users: the name that a study uses, and the class, which is imported on first use."""

EVASIONS = Registry(
    "evasions",
    "evasion",
    {
        "noise": "mifsim.clients.evasions.altered:Noise",
        "brightness": "mifsim.clients.evasions.altered:Brightness",
        "contrast": "mifsim.clients.evasions.altered:Contrast",
        "motion": "mifsim.clients.evasions.altered:Motion",
        "sharpen": "mifsim.clients.evasions.filtered:Sharpen",
        "denoise": "mifsim.clients.evasions.filtered:Denoise",
        "morph": "mifsim.clients.evasions.disguised:Morph",
        "texture": "mifsim.clients.evasions.disguised:Texture",
        "mimic": "mifsim.clients.evasions.mimic:Mimic",
        "penalty": "mifsim.clients.evasions.penalty:Penalty",
        "decoys": "mifsim.clients.evasions.decoys:Decoys",
        "interleave": "mifsim.clients.evasions.interleave:Interleave",
        "deduplicate": "mifsim.clients.evasions.deduplicate:Deduplicate",
        "rotate": "mifsim.clients.evasions.rotate:Rotate",
        "accounts": "mifsim.clients.evasions.accounts:Accounts",
        "probe": "mifsim.clients.evasions.probe:Probe",
    },
    base="mifsim.clients.evasion:Evasion",
)
"""All evasions: the name that a study uses, and the class, which is imported on first use."""


def client_class(name: str) -> type[Client]:
    """Return the class of an attack or of a kind of user.

    Parameters
    ----------
    name : str
        The name that a study uses.

    Raises
    ------
    UserError
        If there is no such client; the message lists all names and the closest match.

    Examples
    --------
    >>> client_class("mi-face")(step=0.05).step
    0.05
    """
    for registry in (ATTACKS, USERS):
        if name in registry:
            found: type[Client] = registry.load(name)
            return found
    known = names()
    near = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"no client is called {name!r}{hint} (accepted: {', '.join(known)})")


def evasion_class(name: str) -> type[Evasion]:
    """Return the class of an evasion; see `client_class`.

    Raises
    ------
    UserError
        If there is no such evasion; the message lists all names and the closest match.

    Examples
    --------
    >>> evasion_class("decoys")().between
    10
    """
    found: type[Evasion] = EVASIONS.load(name)
    return found


def names(role: Literal["attacker", "user"] | None = None) -> tuple[str, ...]:
    """Return the names of all clients, or of the clients of one role, in the order of the registries.

    Examples
    --------
    >>> names("user")[:4]
    ('independent', 'one-class', 'retries', 'bursts')
    """
    registries = {"attacker": (ATTACKS,), "user": (USERS,), None: (ATTACKS, USERS)}[role]
    return tuple(name for registry in registries for name in registry)
