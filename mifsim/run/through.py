"""A simulation whose clients query a running guard: which filter it runs, and what can be compared."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from typing import Any

from mifsim.addresses import plain_http_allowed
from mifsim.data.base import DataSet
from mifsim.errors import RemoteGuardError
from mifsim.guard.certified import digest_of
from mifsim.server.through import GuardAddress, GuardConnection, GuardDescription, ThroughGuard, describe
from mifsim.server.through.backend import SHARDS_AT_A_TIME
from mifsim.server.through.formats import Pixels
from mifsim.server.through.paths import format_for
from mifsim.study import Filter, Study
from mifsim.victims import Victim

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Through:
    """A guard, and a study with the only filter that the guard runs.

    Attributes
    ----------
    address : GuardAddress
    connection : GuardConnection
    description : GuardDescription or None
        What the guard states about itself; None: nothing.
    study : Study
    """

    address: GuardAddress
    connection: GuardConnection
    description: GuardDescription | None
    study: Study

    @classmethod
    def open(cls, study: Study, url: str, identity: str = "bearer") -> Through:
        """Connect to a guard, and find its filter in a study.

        Parameters
        ----------
        study : Study
        url, identity : str
            See `GuardAddress`.

        Raises
        ------
        RemoteGuardError
            If the guard cannot be reached, or runs a configuration that the study does not contain, or with another
            transport or response policy.
        """
        address = GuardAddress.parse(url, identity, plain=plain_http_allowed())
        connection = GuardConnection(address, SHARDS_AT_A_TIME)
        description = describe(connection)
        if description is None:
            logger.warning(
                "%s: the guard does not state its configuration (GET /metrics): that its filter, transport and "
                "response policy are those of the study, and its pixels 0 to 1, cannot be checked",
                address,
            )
        else:
            _check_server(study, description, address)
        chosen = _filter_of(study, description, address)
        return cls(address, connection, description, study.model_copy(update={"filters": [chosen]}))

    def backend(self, data: DataSet, victim: Victim) -> ThroughGuard:
        """Compare the guard with the study's data and victim, and return the backend.

        Raises
        ------
        RemoteGuardError
            If the guard takes images of another shape or form, or the victim's inputs or outputs would have to be
            converted.
        """
        shape = self.description.shape if self.description else ()
        if shape and shape not in (data.shape, (*data.shape, 1)):
            raise RemoteGuardError(
                f"{self.address}: the guard takes images of shape {list(shape)}; those of {data.name} have "
                f"{list(data.shape)}"
            )
        reading = victim.reading.facts(data.class_names)
        if reading or victim.config.output == "logits":
            what = ", ".join(f"victim.{key}" for key in reading) or 'victim.output = "logits"'
            raise RemoteGuardError(
                f"{self.address}: {what}: is not applied to answers of a guard (accepted: a model server that takes "
                "pixels from 0 to 1, and returns confidences in the order of the data's classes)"
            )
        self._warn_of_long_sessions()
        stated = self.description
        pixels = Pixels(self.study.transport, (stated.white if stated else None) or 1)
        layout = stated.layout if stated else ""
        form = format_for(self.connection, pixels, data.shape, layout, self.study.victim.output_name)
        return ThroughGuard(self.connection, stated, form)

    def _warn_of_long_sessions(self) -> None:
        most = self.description.max_queries if self.description else None
        longest = max((population.budget_queries for population in self.study.attacks), default=0)
        if most is not None and longest > most:
            logger.warning(
                "%s: the guard allows %g queries in a session, and attackers of the study have up to %d: a session "
                "that is not blocked before is recorded as failed",
                self.address,
                most,
                longest,
            )

    def facts(self) -> dict[str, Any]:
        """Return the facts for ``run.json``."""
        return {
            "url": self.address.url,
            "identity": self.address.identity,
            "configuration": digest_of(self.study.filters[0].config),
            "checked": self.description is not None,
        }

    @property
    def options(self) -> str:
        """The options of the command line."""
        return f"--through {shlex.quote(self.address.url)} --identity {shlex.quote(self.address.identity)}"


def _check_server(study: Study, stated: GuardDescription, address: GuardAddress) -> None:
    for key, value, wanted in (
        ("transport", stated.transport, str(study.transport)),
        ("response", stated.response, str(study.policy)),
    ):
        if value and value != wanted:
            raise RemoteGuardError(
                f"{address}: the guard has images.{key} = {value!r}, the study server.{key} = {wanted!r}; "
                f"set the study's with --set server.{key}={value}"
            )


def _filter_of(study: Study, stated: GuardDescription | None, address: GuardAddress) -> Filter:
    """Return the filter of a study that a guard runs."""
    defended = [item for item in study.filters if not item.undefended]
    if stated is None:
        if len(defended) == 1:
            return defended[0]
        raise RemoteGuardError(
            f"{address}: the guard does not state which filter it runs, and the study has {len(defended)} (accepted: a "
            "study with one [[filters]] table, beside the kind none)"
        )
    for item in defended:
        if digest_of(item.config) == stated.digest:
            return item
    listed = ", ".join(f"{item.name!r} {digest_of(item.config)}" for item in defended) or "none"
    raise RemoteGuardError(
        f"{address}: the guard runs configuration {stated.digest} of kind {stated.kind!r}; the study's filters are "
        f'{listed} (expected the guard\'s filter.toml among them: [[filters]] file = "FILE", or mifsim matrix --filter '
        "FILE)"
    )
