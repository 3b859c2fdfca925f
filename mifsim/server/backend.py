"""The backend interface that runs sessions, and its in-process implementation; `mifsim.server.ray` has the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mifsim.defense.fit import Fit, add_fit, find_fit, fit_file
from mifsim.defense.fitted import FittedConfig
from mifsim.defense.recording import RecordingSpec
from mifsim.plugins import loaded_plugins, restore
from mifsim.server.client_specs import Shard
from mifsim.server.environment import Counters, Environment
from mifsim.server.shard_run import Reply, run_shard
from mifsim.study import Study
from mifsim.study.study import FITS
from mifsim.tables.storage import Folder
from mifsim.victims import ModelSource

OnProgress = Callable[[Counters], None]
"""Called repeatedly with the total counters of all hosts."""


@dataclass(frozen=True)
class Job:
    """All that session hosts need to run the sessions of a study.

    A pickled job does not contain the arrays of fitted detectors, which would be too large for the arguments of an
    actor that Ray can restart. The process that unpickles it reads them from the run folder; see `fit_digests`.

    Attributes
    ----------
    study : Study
    run : Path or RemotePath
        The run folder; every host must be able to write to it.
    facts : dict of str to str
        Metadata of every table file.
    recording : tuple of RecordingSpec or None
        If given, sessions are recorded instead of filtered, and a table ``observations`` is written.
    separate_images : bool
        Whether users draw only images of their split of a calibration; see `Environment`.
    """

    study: Study
    run: Folder
    facts: dict[str, str]
    recording: tuple[RecordingSpec, ...] | None = None
    separate_images: bool = False

    @property
    def fit_digests(self) -> list[str]:
        """Digests of the fits that hosts need; their files must be in the folder `FITS` of the run folder."""
        members = [member for item in self.study.filters for member in item.config.members()]
        found = {member.fit for member in members if isinstance(member, FittedConfig) and member.fit}
        for options in (dict(spec.options) for spec in self.recording or ()):
            found.update((options.get("fit", ""), *options.get("fits", ())))
        return sorted(found - {""})

    def __reduce__(self) -> Any:
        plain = self.study.to_toml(), self.study.name
        others = self.run, self.facts, self.recording, self.separate_images
        return restore, (loaded_plugins(), _restored_job, self.fit_digests, plain, others)


def _restored_job(fits: Sequence[str], plain: tuple[dict[str, Any], str], others: tuple[Any, ...]) -> Job:
    run: Folder = others[0]
    for digest in fits:
        if find_fit(digest) is None:
            path = run / FITS / fit_file(digest)
            add_fit(Fit.from_bytes(path.read_bytes(), path, digest))
    return Job(Study.parse(*plain), *others)


class Backend(Protocol):
    """An implementation that runs shards; the rows written do not depend on the backend."""

    def run(self, job: Job, model: ModelSource, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards to completion.

        On KeyboardInterrupt, the implementation leaves only complete files and re-raises the exception.
        """


class InProcess:
    """A backend that runs one shard after another in this process, for debugging."""

    def run(self, job: Job, model: ModelSource, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards; see `Backend.run`."""
        environment = Environment.load(job.study, job.run, job.facts, job.recording, job.separate_images)
        data = environment.data
        with model.engine(data.shape, len(data.class_names), job.study.server.batch_size) as engine:
            for shard in shards:
                steps = run_shard(shard, environment)
                try:
                    batch = next(steps)
                    while True:
                        on_progress(environment.counters)
                        batch = steps.send(Reply(*engine.predict(batch.images, batch.gradient_of)))
                except StopIteration:
                    on_progress(environment.counters)
                finally:
                    steps.close()
