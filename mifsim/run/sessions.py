"""Running a study's sessions on a backend, with progress; shared by simulation and calibration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

from mifsim.errors import RunError
from mifsim.progress import Bar
from mifsim.run.folder import RunFolder
from mifsim.server.backend import Backend, InProcess, Job, ModelFile
from mifsim.server.client_specs import ClientSpec, Shard, expected_queries, shards
from mifsim.server.environment import Counters
from mifsim.study import Server, Study
from mifsim.victims import Victim

BackendName = Literal["ray", "in-process"]


def make_backend(name: BackendName, address: str | None = None, server: Server | None = None) -> Backend:
    """Return a backend by name; `address` is a Ray cluster's, which must hold what `server` asks for."""
    if name == "in-process":
        if address is not None:
            raise RunError("--address goes with --backend ray")
        return InProcess()
    from mifsim.server.ray.backend import OnRay

    return OnRay(address, server)


def run_sessions(
    title: str,
    run: RunFolder,
    job: Job,
    victim: Victim,
    backend: Backend,
    classes: int,
    wanted: Callable[[ClientSpec], bool] | None = None,
) -> None:
    """Run what is missing of a job's sessions, with progress, and note how long it took.

    Parameters
    ----------
    title : str
        Of the progress bar.
    run : RunFolder
    job : Job
    victim : Victim
    backend : Backend
    classes : int
        Of the data.
    wanted : callable, optional
        Which tickets to run; None: all.
    """
    finished = run.finished_shards()
    todo = (shard for shard in shards(job.study, classes, wanted) if shard.stem not in finished)
    total, before = _sizes(job.study, shards(job.study, classes, wanted), finished)
    started = time.monotonic()
    with Bar(title, total.sessions, "sessions", total.work) as bar:

        def watch(done: Counters) -> None:
            pace = done.queries / max(1e-9, time.monotonic() - started)
            failed = f", {done.failed} failed" if done.failed else ""
            note = f"{done.blocked:,} blocked{failed}, {pace:,.0f} queries/s"
            bar.update(before.sessions + done.sessions, note, done.work, before.work)

        if total.sessions > before.sessions:
            backend.run(job, ModelFile(victim.model_bytes(), victim.logits), todo, watch)
            run.wait_for_shards(shard.stem for shard in shards(job.study, classes, wanted))
    run.update_facts(simulation_seconds=round(time.monotonic() - started, 3))


def _sizes(study: Study, cut: Iterator[Shard], finished: set[str]) -> tuple[Counters, Counters]:
    """Return how much there is to do in all, and how much of it a resumed run has done already."""
    weights = [expected_queries(population) for population in study.populations]
    total, before = Counters(), Counters()
    for shard in cut:
        work = sum(weights[spec.population] for spec in shard.specs)
        size = Counters(sessions=len(shard.specs), work=work)
        total.add(size)
        if shard.stem in finished:
            before.add(size)
    return total, before
