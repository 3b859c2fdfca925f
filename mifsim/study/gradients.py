"""Check that no attack needs gradients of a victim that gives none."""

from __future__ import annotations

from collections.abc import Iterable

from mifsim.clients import ATTACKS, Attacker, client_class
from mifsim.clients.protocol import Knowledge
from mifsim.study.populations import Attacks
from mifsim.victims import VictimConfig


def check_gradients(attacks: Iterable[Attacks], victim: VictimConfig, gives: Knowledge) -> None:
    """Refuse attacks that need gradients if the victim gives none; only keras models do.

    Parameters
    ----------
    attacks : iterable of Attacks
    victim : VictimConfig
    gives : Knowledge
        What the server returns, by which the message lists the attacks that could run instead.

    Raises
    ------
    ValueError
        If an attack needs gradients.
    """
    if victim.gives_gradients:
        return
    for population in attacks:
        if needs_gradients(type(population.client)):
            raise ValueError(
                f"{population.name!r} needs gradients, which only keras models give; the victim is {victim.described} "
                f"(accepted: attacks without gradients, {', '.join(without_gradients(gives))})"
            )


def needs_gradients(client: type[object]) -> bool:
    """Return whether a kind of client is an attack that needs gradients."""
    return issubclass(client, Attacker) and client.white_box


def without_gradients(gives: Knowledge) -> list[str]:
    """Return the names of the attacks that need no gradients, and no more than the server returns."""
    return [name for name in ATTACKS if not needs_gradients(kind := client_class(name)) and kind.needs <= gives]
