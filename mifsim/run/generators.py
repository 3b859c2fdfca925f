"""Generators of a study's attackers: prepared before a run, and identified by the content of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mifsim.cache import digest
from mifsim.clients.attackers.generators import generator_content
from mifsim.data.base import DataSet
from mifsim.errors import RunError
from mifsim.study import Attacks, Study
from mifsim.tables.storage import Folder


def prepare_attackers(study: Study, data: DataSet) -> None:
    """Check and cache what the attackers need, such as generators, so that session hosts find it in the cache.

    Raises
    ------
    UserError
        See `mifsim.clients.protocol.Client.prepare`.
    """
    for population in study.attacks:
        population.client.prepare(data.subset("auxiliary"), data.shape)


def generator_files(study: Study) -> Iterator[tuple[int, Attacks, Path]]:
    """Yield the attacks with a generator in a file: number in the study, attack, and path of the file."""
    for number, population in enumerate(study.attacks):
        path = getattr(population.client, "generator", None)
        if isinstance(path, Path):
            yield number, population, path


def generator_facts(study: Study) -> dict[str, str]:
    """Return a digest of each file of a generator for ``run.json``, by the name of the attack."""
    return {population.name: digest(generator_content(path)) for _, population, path in generator_files(study)}


def check_generators(run: Folder, facts: Mapping[str, Any], study: Study) -> None:
    """Raise a `RunError` if a file of a generator has changed since the run started."""
    for _, population, path in generator_files(study):
        recorded, found = facts.get("generators", {}).get(population.name), digest(generator_content(path))
        if found != recorded:
            raise RunError(
                f"--resume {run}: generator = {path}: has digest {found}, the run started with {recorded}; their rows "
                "cannot be combined"
            )
