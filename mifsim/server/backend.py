"""Where sessions run: one interface, in one process or on Ray."""

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
"""Called now and then with what all hosts have done so far."""


@dataclass(frozen=True)
class Job:
    """What the hosts need to run a study's sessions.

    Attributes
    ----------
    study : Study
    run : Path or RemotePath
        The run folder, which every host can write to.
    facts : dict of str to str
        Into every file's metadata.
    recording : tuple of RecordingSpec or None
        Sessions are recorded, not filtered, and leave a table ``observations``.
    """

    study: Study
    run: Folder
    facts: dict[str, str]
    recording: tuple[RecordingSpec, ...] | None = None


@dataclass(frozen=True)
class ModelFile:
    """The victim, on its way to where it runs.

    Attributes
    ----------
    content : bytes
        Of the ``.keras`` file.
    logits : bool
        Whether the model's output still wants a softmax.
    """

    content: bytes
    logits: bool


class Backend(Protocol):
    """Run shards; the rows they leave do not depend on which backend did."""

    def run(self, job: Job, model: ModelFile, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards to their ends; on KeyboardInterrupt, leave whole files only and let it through."""


class InProcess:
    """Everything in this process, one shard after another: for debugging."""

    def run(self, job: Job, model: ModelFile, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards; see `Backend.run`."""
        from mifsim.victims.engine import engine_from_bytes

        environment = Environment.load(job.study, job.run, job.facts, job.recording)
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
