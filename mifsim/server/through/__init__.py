"""The clients of a study as real HTTP clients of a running guard, in place of a simulated server.

`ThroughGuard` is a backend: it runs the same shards as the others. Only the detector of a session differs: it sends the
query to the guard, whose status is the verdict and whose body is the model's answer.
"""

from mifsim.server.through.address import GuardAddress
from mifsim.server.through.backend import ThroughGuard
from mifsim.server.through.connection import GuardConnection
from mifsim.server.through.description import GuardDescription, describe, read_description

__all__ = ["GuardAddress", "GuardConnection", "GuardDescription", "ThroughGuard", "describe", "read_description"]
