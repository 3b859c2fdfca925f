"""Networks that are trained on first use, and their files and facts in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mifsim.cache import atomic_write, cache_dir, digest, exclusive
from mifsim.data.base import DataSet, Subset
from mifsim.errors import VictimError
from mifsim.plugins import source_of_entry
from mifsim.victims.config import VICTIMS

logger = logging.getLogger(__name__)

PROGRAMS = ("victims/architectures.py", "victims/training.py", "networks/fixed_batch.py", "networks/tensorflow.py")
"""Source files that determine the weights of a trained model: if one changes, the model is trained again."""


def trained_network(
    name: str, data: DataSet, subsets: tuple[Subset, ...], seed: int, epochs: int | None
) -> tuple[Path, dict[str, Any], bool]:
    """Return a trained architecture: its file, its facts, and whether it was in the cache."""
    programs = [(Path(__file__).parents[1] / file).read_bytes() for file in PROGRAMS]
    if name != "evaluator" and VICTIMS.origin_of(name) is not None:
        programs.append(source_of_entry(VICTIMS.load(name)))
    key = digest(name, data.fingerprint, subsets, seed, epochs, package_versions(), *programs)
    path = cache_dir() / "models" / f"{name}-{key}.keras"
    if (facts := _read_facts(path)) is not None:
        return path, facts, True
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path, "trains the same model"))
        except OSError as error:
            raise _unwritable(path, error) from error
        if (facts := _read_facts(path)) is not None:  # another process has trained it meanwhile
            return path, facts, True
        return path, _train_and_store(path, name, data, subsets, seed, epochs), False


def _train_and_store(
    path: Path, name: str, data: DataSet, subsets: tuple[Subset, ...], seed: int, epochs: int | None
) -> dict[str, Any]:
    """Train an architecture and write its two files; return its facts."""
    from mifsim.victims.model_check import network_accuracy
    from mifsim.victims.training import recipe_of, train

    pools = [data.subset(subset) for subset in subsets]
    images = sum(map(len, pools))
    recipe = recipe_of(name)
    passes, steps = epochs or recipe.epochs(images), max(1, images // recipe.batch_size)
    logger.info(
        "training %s on %s images of %s: %s epochs of %s, with at most %d images in a step",
        name,
        f"{images:,}",
        data.name,
        f"{passes:,}",
        f"{steps:,} step{'' if steps == 1 else 's'}",
        recipe.batch_size,
    )
    classes = len(data.class_names)
    trained = train(name, pools, data.shape, classes, seed=seed, epochs=epochs)
    measured = network_accuracy(trained.model, data.subset("users"), data.shape, classes)
    try:
        with atomic_write(path) as temporary:
            trained.model.save(temporary)
            saved = temporary.read_bytes()
        facts = {
            "model": name,
            "fingerprint": _weights_digest(name, trained.model),
            **measured.facts(),
            "trained_on": list(subsets),
            "train_images": trained.images,
            "epochs": trained.epochs,
            "seed": seed,
            "last_loss": trained.loss,
            "parameters": trained.model.count_params(),
            "training_seconds": round(trained.seconds, 3),
            "versions": package_versions(),
            "data_fingerprint": data.fingerprint,
        }
        _write_facts(path, facts, saved)
    except OSError as error:
        raise _unwritable(path, error) from error
    logger.info(
        "%s: accuracy %.1f%% on the users' images, trained in %.0f s", name, 100 * measured.value, trained.seconds
    )
    return facts


def _unwritable(path: Path, error: OSError) -> VictimError:
    return VictimError(
        f"cannot write the trained model to the cache folder {path.parent}: {error.strerror or error}; "
        "set MIFSIM_CACHE_DIR to a writable folder"
    )


def package_versions(kind: str = "trained") -> dict[str, str]:
    """Return the versions of the packages that determine the answers of a kind of victim."""
    packages = ("onnxruntime", "numpy") if kind == "onnx" else ("tensorflow", "keras", "numpy")
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):  # ONNX Runtime has another package for GPUs
            found[name] = version(name)
    return found


def _weights_digest(name: str, model: Any) -> str:
    """Digest the weights, not the file, which contains the time and layer names that depend on the process."""
    return digest(name, *(weights.tobytes() for weights in model.get_weights()))


def _write_facts(path: Path, facts: Mapping[str, Any], model: bytes) -> None:
    text = json.dumps({**facts, "file_sha256": hashlib.sha256(model).hexdigest()}, indent=2)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(text + "\n")


def _read_facts(path: Path) -> dict[str, Any] | None:
    """Return the facts stored with a model, or None if a file is missing or the model's digest differs."""
    facts = read_json(path.with_suffix(".json"))
    try:
        if facts is None or facts.pop("file_sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
            return None
    except (OSError, KeyError):
        return None
    return facts


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the facts in a file; None if it is missing or damaged."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return facts
