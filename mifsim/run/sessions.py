"""Runs a study's sessions on a backend, with progress; shared by simulation and calibration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

from mifsim.errors import RunError
from mifsim.progress import Bar
from mifsim.run.fits import write_fits
from mifsim.run.folder import RunFolder
from mifsim.server.backend import Backend, InProcess, Job
from mifsim.server.client_specs import ClientSpec, Shard, expected_queries, shards
from mifsim.server.environment import Counters
from mifsim.study import Server, Study
from mifsim.study.study import FITS
from mifsim.victims import Victim

BackendName = Literal["ray", "in-process"]


def make_backend(name: BackendName, address: str | None = None, server: Server | None = None) -> Backend:
    """Return a backend.

    Parameters
    ----------
    name : {"ray", "in-process"}
    address : str or None
        Address of a Ray cluster; None starts a local one.
    server : Server or None
        The study's server section, whose resources the cluster must have.

    Raises
    ------
    RunError
        If the address is not valid, or the backend does not take one.
    """
    if name == "in-process":
        if address is not None:
            raise RunError(f"--address {address}: requires --backend ray")
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
    """Run the unfinished shards of a job, with progress, and record the elapsed time in ``run.json``.

    Parameters
    ----------
    title : str
        Title of the progress bar.
    run : RunFolder
    job : Job
    victim : Victim
    backend : Backend
    classes : int
        Number of classes of the data.
    wanted : callable, optional
        Selects the client specs to run; None: all.
    """
    finished = run.finished_shards()
    unfinished = (shard for shard in shards(job.study, classes, wanted) if shard.stem not in finished)
    total, before = _sizes(job.study, shards(job.study, classes, wanted), finished)
    started = time.monotonic()
    with Bar(title, total.sessions, "sessions", total.work) as bar:

        def show(done: Counters) -> None:
            rate = done.queries / max(1e-9, time.monotonic() - started)
            failed = f", {done.failed} failed" if done.failed else ""
            note = f"{done.blocked:,} blocked{failed}, {rate:,.0f} queries/s"
            bar.update(before.sessions + done.sessions, note, done.work, before.work)

        if total.sessions > before.sessions:
            write_fits(job.fit_digests, run.path / FITS)
            backend.run(job, victim.source(), unfinished, show)
            run.wait_for_shards(shard.stem for shard in shards(job.study, classes, wanted))
    run.update_facts(simulation_seconds=round(time.monotonic() - started, 3))


def _sizes(study: Study, all_shards: Iterator[Shard], finished: set[str]) -> tuple[Counters, Counters]:
    """Return the total numbers of sessions and queries, and those that a resumed run has already finished."""
    weights = [expected_queries(population) for population in study.populations]
    total, before = Counters(), Counters()
    for shard in all_shards:
        work = sum(weights[spec.population] for spec in shard.specs)
        size = Counters(sessions=len(shard.specs), work=work)
        total.add(size)
        if shard.stem in finished:
            before.add(size)
    return total, before
