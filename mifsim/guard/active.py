"""The settings in use, with everything that follows from them; a reload replaces them as a whole."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from mifsim.guard.certified import Deployment, deploy
from mifsim.guard.config import GuardConfig
from mifsim.guard.policy import SessionPolicy
from mifsim.guard.wire import wire_class
from mifsim.guard.wire.base import Wire
from mifsim.study.wire import Transport
from mifsim.watch.promise import Promise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Active:
    """The settings in use.

    Attributes
    ----------
    settings : GuardConfig
    deployment : Deployment
        The detector of new sessions, the transport and the response policy.
    policy : SessionPolicy
    wires : tuple of Wire
        Those of clients, in the order in which they are asked.
    other_wire : Wire or None
        That of the model server, if it differs from the client's.
    promise : Promise
        What the filter promises about traffic. Read with the filter, so that a worker which is started again does not
        depend on what the file contains by then.
    """

    settings: GuardConfig
    deployment: Deployment
    policy: SessionPolicy
    wires: tuple[Wire, ...]
    other_wire: Wire | None
    promise: Promise

    @classmethod
    def of(cls, settings: GuardConfig, alone: bool) -> Active:
        """Read the filter of settings; see `mifsim.guard.certified.deploy`."""
        deployment = deploy(settings, alone)
        output, batch, other = settings.upstream.output, settings.limits.batch, settings.upstream.wire
        # What is translated has passed the transport; a second JPEG compression would change the judged image.
        judged = replace(deployment.arrival, transport=Transport("float32"))
        return cls(
            settings,
            deployment,
            SessionPolicy.of(settings.sessions),
            tuple(wire_class(name)(deployment.arrival, output, batch) for name in settings.wires),
            None if other == "same" else wire_class(other)(judged, output, batch),
            Promise.read(settings.filter),
        )

    @property
    def closed(self) -> bool:
        """Whether queries are refused that cannot be counted durably."""
        return self.settings.ledger.on_failure == "closed"

    def warn(self) -> None:
        """Write log lines about what is not certified, or cannot be compared with the certificate."""
        for line in self.deployment.contradictions:
            logger.warning("uncertified: %s", line)
        for line in self.deployment.unchecked:
            logger.warning("not checked: %s", line)
        most = int(min(self.deployment.max_queries, 2**31))
        if not self.deployment.detector.forgets_safely(most):
            logger.warning(
                "kind %s: a session whose images are forgotten, such as at a restart, may be blocked earlier than a "
                "whole one. Its counts are kept in any case",
                self.deployment.detector.kind,
            )
