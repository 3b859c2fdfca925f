"""Wires: the formats of requests that a guard understands, one module each.

A new wire is a module with a subclass of `Wire`, and one line in `WIRES`. The conformance test in
``tests/guard/test_wires.py`` then covers it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mifsim.guard.wire.base import Wire

WIRES = {
    "tfserving": "mifsim.guard.wire.tfserving:TensorFlowServing",
    "oip": "mifsim.guard.wire.oip:OpenInference",
    "npy": "mifsim.guard.wire.npy:Npy",
    "multipart": "mifsim.guard.wire.multipart:Multipart",
    "raw": "mifsim.guard.wire.raw:Raw",
}
"""The wires by name, in the order in which they are asked whether a request is theirs."""


def wire_class(name: str) -> type[Wire]:
    """Return the class of a wire."""
    module, _, attribute = WIRES[name].partition(":")
    found: type[Wire] = getattr(importlib.import_module(module), attribute)
    return found
