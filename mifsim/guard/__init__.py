"""The guard: a calibrated detector in front of a real model server.

``mifsim guard`` runs it as a reverse proxy; `GuardMiddleware` puts it into an ASGI application. It needs the extra
``guard``, and neither TensorFlow, Ray nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mifsim.guard.config import GuardConfig

if TYPE_CHECKING:
    from mifsim.guard.middleware import GuardMiddleware

__all__ = ["GuardConfig", "GuardMiddleware"]


def __getattr__(name: str) -> Any:
    """Import the middleware on first access: it needs the extra ``guard``, which the settings do not."""
    if name == "GuardMiddleware":
        return import_module("mifsim.guard.middleware").GuardMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
