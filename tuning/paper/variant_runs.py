"""Run attacker variants in this process, and record their sessions in every similarity variant."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mifsim.data.base import DataSet
from mifsim.defense import Detector, NoDefenseConfig
from mifsim.errors import RunError
from mifsim.server.client_specs import ClientSpec, client_specs
from mifsim.server.environment import Environment
from mifsim.server.session_rows import SessionRow
from mifsim.server.shard_run import NullSink, Reply, run_clients
from mifsim.study import Filter, Study
from mifsim.victims import Victim
from mifsim.victims.engines.base import Engine
from tuning.paper.similarity_variants import MultiVariantRecorder


def engine_for(study: Study, data: DataSet, victim: Victim) -> Engine:
    """Return the victim as an engine in this process."""
    return victim.load(data.shape, len(data.class_names), study.server.batch_size)


@dataclass
class _RecordingEnvironment(Environment):
    """An environment whose detectors are multi-variant recorders."""

    n_b: int = 10
    recorders: list[MultiVariantRecorder] = field(default_factory=list)

    def detector(self, spec: ClientSpec, before: Detector | None = None) -> Detector:
        """Return a new recorder, and keep it in `recorders`."""
        self.recorders.append(MultiVariantRecorder(self.n_b))
        return self.recorders[-1]


def record_sessions(
    study: Study, data: DataSet, engine: Engine, n_b: int
) -> tuple[list[MultiVariantRecorder], list[SessionRow]]:
    """Run all sessions of a study without blocking, and return their recorders.

    Parameters
    ----------
    study : Study
        Its filters are ignored.
    data : DataSet
    engine : Engine
    n_b : int
        Number of earlier queries that each query is compared with.

    Returns
    -------
    recorders : list of MultiVariantRecorder
        One per session, ordered by attack and label.
    rows : list of SessionRow
        The rows of the same sessions.

    Raises
    ------
    RunError
        If a client failed.
    """
    unfiltered = study.model_copy(update={"filters": [Filter(name="recorder", config=NoDefenseConfig())]})
    environment = _RecordingEnvironment(unfiltered, Path(), {}, data, n_b=n_b)
    rows: list[SessionRow] = []
    steps = run_clients(list(client_specs(unfiltered, len(data.class_names))), environment, rows, NullSink())
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
    return environment.recorders, rows
