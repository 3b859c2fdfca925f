"""The copies of the model on a Ray cluster: started, found alike, and known by where they are."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from mifsim.data import load_data
from mifsim.errors import RunError
from mifsim.progress import remark
from mifsim.server.backend import ModelFile
from mifsim.server.model_server import ModelServer
from mifsim.server.ray.placement import Placement
from mifsim.study import Study

PIECE_BYTES = 64 * 2**10
"""Of the model in one argument: small ones travel inside the actor's description, and so survive its restart."""
PROBES = 8
"""Images by which copies are compared; with gradients for half of them."""


@ray.remote(max_restarts=-1, max_task_retries=-1)
class ModelActor(ModelServer):
    """The victim, asked by all hosts.

    It restarts by itself; a call that was lost is made again, which is harmless: it has no state, and the server
    side of a session counts a query before the model is asked.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, logits: bool, batch_size: int, *pieces: bytes) -> None:
        from mifsim.victims.engine import engine_from_bytes

        super().__init__(engine_from_bytes(b"".join(pieces), shape, classes, logits, batch_size))

    async def node(self) -> str:
        """Return the node it is on."""
        return node_id()


def node_id() -> str:
    """Return Ray's name of the node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


@dataclass(frozen=True)
class Models:
    """Copies of the model.

    Attributes
    ----------
    actors : list of handles
        They keep the copies alive: looking them up by name does not.
    names : list of str
        Under which other actors of the job find them.
    """

    actors: list[Any]
    names: list[str]

    def up(self) -> list[Any]:
        """Return a reference for each copy to its node's name, which is there as soon as the copy is."""
        return [actor.node.remote() for actor in self.actors]

    def node_ids(self) -> list[str]:
        """Return the nodes that the copies are on."""
        return list(ray.get(self.up()))

    def end(self) -> None:
        """Give up the copies' places at once."""
        for actor in self.actors:
            ray.kill(actor)


def nearest_copy(names: Sequence[str], node_ids: Sequence[str] = ()) -> Any:
    """Return a copy of the model for this process: on its own node if it is known that there is one, or any.

    By name: a handle among an actor's arguments would lie in the object store, and be lost with its owner.
    """
    near = [name for name, node in zip(names, node_ids, strict=False) if node == node_id()] or list(names)
    start = os.getpid() % len(near)  # another one for the next process
    for name in (*near[start:], *near[:start]):
        with contextlib.suppress(ValueError):  # ended, as it is not like the others
            return ray.get_actor(name)
    raise RunError("no copy of the model is left")


def start_models(study: Study, model: ModelFile, placed: Placement) -> Models:
    """Start the copies of the model, on nodes with a GPU where the cluster has them; they are not up yet."""
    data = load_data(study.data)
    pieces = [model.content[start : start + PIECE_BYTES] for start in range(0, len(model.content), PIECE_BYTES)]
    names = [f"model-{uuid.uuid4().hex}" for _ in range(placed.replicas)]
    actors = [
        ModelActor.options(  # type: ignore[attr-defined]
            name=name,
            num_cpus=placed.model_cpus,
            num_gpus=placed.gpus,
            max_concurrency=256,
            scheduling_strategy="SPREAD",
        ).remote(data.shape, len(data.class_names), model.logits, study.server.batch_size, *pieces)
        for name in names
    ]
    return Models(actors, names)


def drop_divergent_replicas(models: Models, study: Study) -> Models:
    """Return those copies that agree to the last bit: else rows would depend on which one a host asks.

    Where a study leaves their number to the cluster, as many stay as agree, and the others are ended.

    Raises
    ------
    RunError
        Where the study asks for so many.
    """
    groups = alike(models.actors, load_data(study.data).shape)
    if len(groups) <= 1:
        return models
    if study.server.model_replicas != "auto":
        raise RunError(
            f"server.model_replicas = {len(models.actors)}: copies {groups[0][0]} and {groups[1][0]} of the model give "
            'different answers to the same images, as unlike processors do; accepted here: 1, "auto", or nodes that '
            "are alike"
        )
    kept = max(groups, key=len)
    for number, actor in enumerate(models.actors):
        if number not in kept:
            ray.kill(actor)
    remark(
        f"{len(models.actors)} copies of the model give {len(groups)} different answers to the same images, as unlike "
        f"processors do: going on with the {len(kept)} that agree"
    )
    return Models([models.actors[number] for number in kept], [models.names[number] for number in kept])


def alike(actors: Sequence[Any], shape: tuple[int, ...]) -> list[list[int]]:
    """Return the copies' numbers in groups that answer the same to the last bit."""
    if len(actors) < 2:
        return [list(range(len(actors)))]
    images = np.random.default_rng(0).random((PROBES, *shape), dtype=np.float32)
    wanted = np.arange(PROBES, dtype=np.int32) % 2 - 1
    groups: list[tuple[Any, list[int]]] = []
    for number, answer in enumerate(ray.get([actor.predict.remote(images, wanted) for actor in actors])):
        for first, members in groups:
            if all(np.array_equal(one, other) for one, other in zip(answer, first, strict=True)):
                members.append(number)
                break
        else:
            groups.append((answer, [number]))
    return [members for _, members in groups]
