"""Replicas of the model on a Ray cluster: starts, compares and looks up their actors."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from mifsim.data import load_data
from mifsim.errors import RunError
from mifsim.plugins import declare_own_process
from mifsim.server.model_server import ModelServer
from mifsim.server.ray.placement import Placement
from mifsim.study import Study
from mifsim.victims import ModelSource

logger = logging.getLogger(__name__)


PIECE_BYTES = 64 * 2**10
"""Size of the model's pieces: small arguments are part of the actor's specification, and so survive its restart."""
PROBES = 8
"""Number of images by which replicas are compared; half of them with gradients if the model has gradients."""


@ray.remote(max_restarts=-1, max_task_retries=-1)
class ModelActor(ModelServer):
    """The victim, queried by all hosts.

    Ray restarts it and repeats lost calls. This is harmless: it has no state, and a session counts a query before it
    calls the model.
    """

    def __init__(
        self, model: ModelSource, shape: tuple[int, ...], classes: int, batch_size: int, *pieces: bytes
    ) -> None:
        declare_own_process()
        complete = replace(model, content=b"".join(pieces))
        super().__init__(complete.engine(shape, classes, batch_size))

    async def node(self) -> str:
        """Return the id of the actor's node."""
        return node_id()


def node_id() -> str:
    """Return Ray's id of the node on which this process runs."""
    return str(ray.get_runtime_context().get_node_id())


@dataclass(frozen=True)
class Models:
    """The replicas of the model.

    Attributes
    ----------
    actors : list of handles
        Keep the replicas alive, which looking them up by name does not.
    names : list of str
        Names by which other actors of the job look the replicas up.
    """

    actors: list[Any]
    names: list[str]

    def up(self) -> list[Any]:
        """Return a reference to each replica's node id, which is ready as soon as the replica is up."""
        return [actor.node.remote() for actor in self.actors]

    def node_ids(self) -> list[str]:
        """Return the node id of each replica."""
        return list(ray.get(self.up()))

    def end(self) -> None:
        """End all replicas at once."""
        for actor in self.actors:
            ray.kill(actor)


def nearest_copy(names: Sequence[str], node_ids: Sequence[str] = ()) -> Any:
    """Return a replica of the model for this process: one on its node if `node_ids` lists one, else any.

    Replicas are looked up by name: a handle among an actor's arguments would be in the object store, and be lost with
    its owner.
    """
    near = [name for name, node in zip(names, node_ids, strict=False) if node == node_id()] or list(names)
    start = os.getpid() % len(near)  # spreads the processes over the replicas
    for name in (*near[start:], *near[:start]):
        with contextlib.suppress(ValueError):  # ended because it diverged
            return ray.get_actor(name)
    raise RunError("no replica of the model is left on the Ray cluster")


def start_models(study: Study, model: ModelSource, placement: Placement) -> Models:
    """Start the replicas of the model, on GPUs if the cluster has any, without waiting until they are up."""
    data = load_data(study.data, again=True)
    pieces = [model.content[start : start + PIECE_BYTES] for start in range(0, len(model.content), PIECE_BYTES)]
    description = replace(model, content=b"")
    names = [f"model-{uuid.uuid4().hex}" for _ in range(placement.replicas)]
    actors = [
        ModelActor.options(  # type: ignore[attr-defined]
            name=name,
            num_cpus=placement.model_cpus,
            num_gpus=placement.gpus,
            max_concurrency=256,
            scheduling_strategy="SPREAD",
        ).remote(description, data.shape, len(data.class_names), study.server.batch_size, *pieces)
        for name in names
    ]
    return Models(actors, names)


def drop_divergent_replicas(models: Models, study: Study, deterministic: bool = True, gradients: bool = True) -> Models:
    """Return replicas that agree to the last bit, since rows must not depend on which replica a host queries.

    If the study leaves the number of replicas to the cluster, the largest group that agrees is kept, and the others are
    ended. All replicas of a model that is not deterministic are kept, as they cannot be compared.

    Raises
    ------
    RunError
        If replicas differ and the study sets their number.
    """
    if not deterministic:
        return models
    groups = group_by_answers(models.actors, load_data(study.data, again=True).shape, gradients)
    if len(groups) <= 1:
        return models
    if study.server.model_replicas != "auto":
        raise RunError(
            f"server.model_replicas = {len(models.actors)}: replicas {groups[0][0]} and {groups[1][0]} of the model "
            "give different answers to the same images, because their processors differ; accepted on this cluster: "
            '1 or "auto", or use nodes with the same processor'
        )
    kept = max(groups, key=len)
    for number, actor in enumerate(models.actors):
        if number not in kept:
            ray.kill(actor)
    logger.info(
        f"{len(models.actors)} replicas of the model give {len(groups)} different answers to the same images, because "
        f"their processors differ: continuing with the {len(kept)} that agree"
    )
    return Models([models.actors[number] for number in kept], [models.names[number] for number in kept])


def group_by_answers(actors: Sequence[Any], shape: tuple[int, ...], gradients: bool = True) -> list[list[int]]:
    """Group the indices of replicas whose answers are equal to the last bit."""
    if len(actors) < 2:
        return [list(range(len(actors)))]
    images = np.random.default_rng(0).random((PROBES, *shape), dtype=np.float32)
    gradient_of = np.arange(PROBES, dtype=np.int32) % 2 - 1 if gradients else np.full(PROBES, -1, np.int32)
    groups: list[tuple[Any, list[int]]] = []
    for number, answer in enumerate(ray.get([actor.predict.remote(images, gradient_of) for actor in actors])):
        for first, members in groups:
            if all(np.array_equal(array, expected) for array, expected in zip(answer, first, strict=True)):
                members.append(number)
                break
        else:
            groups.append((answer, [number]))
    return [members for _, members in groups]
