"""One pass over a few sessions in this process, seen through every lens; for variants that are looked at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mifsim.data.base import DataSet
from mifsim.defense import Detector, NoDefenseConfig
from mifsim.errors import RunError
from mifsim.server.client_session import SessionRow
from mifsim.server.client_specs import ClientSpec, client_specs
from mifsim.server.environment import Environment
from mifsim.server.shard_run import Nowhere, Reply, run_clients
from mifsim.study import Filter, Study
from mifsim.victims import Victim
from mifsim.victims.engine import BatchedModel, engine_from_bytes
from tuning.paper.similarity_variants import MultiVariantRecorder


def engine_for(study: Study, data: DataSet, victim: Victim) -> BatchedModel:
    """Return the victim as an engine in this process."""
    return engine_from_bytes(
        victim.model_bytes(), data.shape, len(data.class_names), victim.logits, study.server.batch_size
    )


@dataclass
class _Watched(Environment):
    """A scene whose guards look through every lens."""

    n_b: int = 10
    detectors: list[MultiVariantRecorder] = field(default_factory=list)

    def detector(self, spec: ClientSpec) -> Detector:
        """Return a new guard, and keep hold of it."""
        self.detectors.append(MultiVariantRecorder(self.n_b))
        return self.detectors[-1]


def look(
    study: Study, data: DataSet, engine: BatchedModel, n_b: int
) -> tuple[list[MultiVariantRecorder], list[SessionRow]]:
    """Run all sessions of a study, none of which is blocked, and return the guards that watched them.

    Parameters
    ----------
    study : Study
        Its filters do not matter.
    data : DataSet
    engine : BatchedModel
    n_b : int
        How many earlier queries each is compared with.

    Returns
    -------
    guards : list of MultiVariantRecorder
        One a session, attack by attack, label by label.
    rows : list of SessionRow
        The same sessions.

    Raises
    ------
    RunError
        Where a client failed.
    """
    traced = study.model_copy(update={"filters": [Filter(name="recorder", config=NoDefenseConfig())]})
    environment = _Watched(traced, Path(), {}, data, n_b=n_b)
    rows: list[SessionRow] = []
    steps = run_clients(list(client_specs(traced, len(data.class_names))), environment, rows, Nowhere())
    try:
        batch = next(steps)
        while True:
            batch = steps.send(Reply(*engine.predict(batch.images, batch.gradient_of)))
    except StopIteration:
        pass
    finally:
        steps.close()
    for row in rows:
        if row.outcome == "failed":
            raise RunError(f"{row.session_id}: {row.error}")
    return environment.detectors, rows
