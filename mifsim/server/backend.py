"""The backend interface that runs sessions, and its in-process implementation; `mifsim.server.ray` has the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mifsim.defense.recording import RecordingSpec
from mifsim.server.client_specs import Shard
from mifsim.server.environment import Counters, Environment
from mifsim.server.shard_run import Reply, run_shard
from mifsim.study import Study
from mifsim.tables.storage import Folder

OnProgress = Callable[[Counters], None]
"""Called repeatedly with the total counters of all hosts."""


@dataclass(frozen=True)
class Job:
    """All that session hosts need to run the sessions of a study.

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


@dataclass(frozen=True)
class ModelFile:
    """The victim's model file, for the process that runs the model.

    Attributes
    ----------
    content : bytes
        Content of the ``.keras`` file.
    logits : bool
        Whether the model returns logits, to which a softmax must be applied.
    """

    content: bytes
    logits: bool


class Backend(Protocol):
    """An implementation that runs shards; the rows written do not depend on the backend."""

    def run(self, job: Job, model: ModelFile, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards to completion.

        On KeyboardInterrupt, the implementation leaves only complete files and re-raises the exception.
        """


class InProcess:
    """A backend that runs one shard after another in this process, for debugging."""

    def run(self, job: Job, model: ModelFile, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards; see `Backend.run`."""
        from mifsim.victims.engine import engine_from_bytes

        environment = Environment.load(job.study, job.run, job.facts, job.recording, job.separate_images)
        engine = engine_from_bytes(
            model.content,
            environment.data.shape,
            len(environment.data.class_names),
            model.logits,
            job.study.server.batch_size,
        )
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
