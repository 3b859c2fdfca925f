"""Preparation of victims and evaluators, which are trained on first use and then read from the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mifsim.addresses import plain_http_allowed
from mifsim.cache import atomic_write, cache_dir, digest
from mifsim.data.base import DataSet
from mifsim.errors import VictimError
from mifsim.limits import MAX_ARCHIVE_BYTES, read_plain
from mifsim.networks import read_onnx
from mifsim.plugins import source_of_entry
from mifsim.victims.config import PREDICTORS, VictimConfig
from mifsim.victims.reading import Reading
from mifsim.victims.source import ModelSource
from mifsim.victims.trained import package_versions, read_json, trained_network

if TYPE_CHECKING:
    from mifsim.victims.engines.base import Engine
    from mifsim.victims.evaluator import Evaluator

logger = logging.getLogger(__name__)

EVALUATOR_SEED = 0
"""Seed of every evaluator."""


_checked: dict[str, Victim] | None = None
"""The services and plug-ins' models that were checked in the context of `checked_once`; None: there is none."""


@dataclass(frozen=True)
class Victim:
    """A model under attack.

    Attributes
    ----------
    path : Path or None
        The model's file; None: it has none.
    config : VictimConfig
        The ``[victim]`` section of the study.
    test_accuracy : float
        Accuracy on the users' subset, 0 to 1; no model is trained on this subset here.
    fingerprint : str
        A digest of the architecture's name and the weights or, of a user's file, of its content.
    cached : bool
        Whether it was in the cache.
    facts : mapping of str to object
        Facts for ``run.json``, such as accuracy, fingerprint and training.
    reading : Reading
        What the model receives, and what its outputs mean.
    """

    path: Path | None
    config: VictimConfig
    test_accuracy: float
    fingerprint: str
    cached: bool
    facts: Mapping[str, Any]
    reading: Reading = field(default_factory=Reading)

    @property
    def deterministic(self) -> bool:
        """Whether the model gives the same answer to the same image; if it does not, rows differ between runs."""
        return bool(self.facts.get("deterministic", True))

    @property
    def gives_gradients(self) -> bool:
        """Whether the model gives gradients."""
        return bool(self.facts.get("gives_gradients", True))

    def source(self) -> ModelSource:
        """Return what is sent to the process that runs the model."""
        content = b""
        if self.path is not None:
            content = read_onnx(self.path) if self.config.kind == "onnx" else self.path.read_bytes()
        return replace(
            described(self.config),
            content=content,
            reading=self.reading,
            deterministic=self.deterministic,
            gradients=self.gives_gradients,
        )

    def load(self, shape: tuple[int, ...], classes: int, batch_size: int) -> Engine:
        """Make the victim's engine in this process; see `ModelSource.engine`."""
        return self.source().engine(shape, classes, batch_size)


@dataclass(frozen=True)
class PreparedEvaluator:
    """An evaluator on disk.

    Attributes
    ----------
    path, test_accuracy, fingerprint, cached, facts
        See `Victim`.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes.
    """

    path: Path
    shape: tuple[int, ...]
    classes: int
    test_accuracy: float
    fingerprint: str
    cached: bool
    facts: Mapping[str, Any]

    def load(self) -> Evaluator:
        """Load the evaluator, and import TensorFlow."""
        from mifsim.victims.evaluator import Evaluator

        return Evaluator(self.path, self.shape, self.classes)


def prepare_victim(data: DataSet, config: VictimConfig) -> Victim:
    """Return the victim that `config` describes: train it on the private subset, or check the user's file.

    Parameters
    ----------
    data : DataSet
        The data set of the study.
    config : VictimConfig
        The ``[victim]`` section of the study.

    Returns
    -------
    Victim
        The victim, with its file in the cache or the user's file.

    Raises
    ------
    VictimError
        If the file cannot be loaded or does not fit the data, or if the cache folder is not writable.
    """
    if config.file is not None:
        return _user_file(data, config.file, config)
    if config.kind in ("url", "plugin"):
        return _asked(data, config)
    name = config.model or ("lenet5" if len(data.shape) == 2 else "cnn")
    path, facts, cached = trained_network(name, data, ("private",), config.seed, config.epochs)
    from mifsim.victims.accuracy import Accuracy
    from mifsim.victims.model_check import weak_text

    if weak := weak_text(Accuracy.from_facts(facts)):
        logger.warning("%s: %s", name, weak)
    return Victim(path, config, facts["test_accuracy"], facts["fingerprint"], cached, facts)


def prepare_evaluator(data: DataSet) -> PreparedEvaluator:
    """Return the evaluator, trained on the private and the evaluator subset; see `mifsim.victims.evaluator`."""
    path, facts, cached = trained_network("evaluator", data, ("private", "evaluator"), EVALUATOR_SEED, None)
    return PreparedEvaluator(
        path,
        data.shape,
        len(data.class_names),
        facts["test_accuracy"],
        facts["fingerprint"],
        cached,
        facts,
    )


def _user_file(data: DataSet, path: Path, config: VictimConfig) -> Victim:
    """Check the user's file, unless the same content was already checked for the same data."""
    try:
        content = read_onnx(path) if config.kind == "onnx" else read_plain(path, MAX_ARCHIVE_BYTES)
    except OSError as error:
        raise VictimError(f"victim.file = {path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise VictimError(f"victim.file = {path}: {error}") from error
    fingerprint = hashlib.sha256(content).hexdigest()[:16]
    from mifsim.victims.model_check import check_digest, check_model, judge, study_reading

    versions, where = package_versions(config.kind), f"victim.file = {path}"
    reading = study_reading(config, data)
    settings = [reading.facts(data.class_names), config.output, config.output_name, config.layout]
    key = digest("own file", fingerprint, path.suffix, data.fingerprint, settings, versions, check_digest())
    record = cache_dir() / "models" / f"own-{key}.json"
    facts = read_json(record)
    cached = facts is not None
    if facts is None:
        with _engine_of_file(data, path, content, config, reading) as engine:
            facts = {
                "model": "file",
                "fingerprint": fingerprint,
                **check_model(engine, data, where, config.output),
                "output": config.output,
                "versions": versions,
                "data_fingerprint": data.fingerprint,
            }
        with atomic_write(record) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
    facts = {**judge(facts, config, where), "file": str(path)}
    return Victim(path, config, facts["test_accuracy"], fingerprint, cached, facts, reading)


@contextmanager
def checked_once() -> Iterator[None]:
    """Check each service and each plug-in's model once within this context, not each time that it is prepared.

    A run of several parts then asks it less, and all parts have the same identity of the model: one that answers
    differently in its last bits from time to time would otherwise be another victim for each part.
    """
    global _checked
    outer, _checked = _checked, {} if _checked is None else _checked
    try:
        yield
    finally:
        _checked = outer


def described(config: VictimConfig) -> ModelSource:
    """Return the source of a victim without its content.

    Raises
    ------
    VictimError
        If the environment variable with the token of a service is not set.
    """
    token = ""
    if config.token_env is not None:
        token = os.environ.get(config.token_env, "")
        if not token.strip() or not token.isprintable():
            raise VictimError(
                f"victim.token_env = {config.token_env}: the environment variable is not set, or contains more than "
                "one line (expected: the token for victim.url)"
            )
    return ModelSource(b"", config, token=token.strip(), plain_http=plain_http_allowed())


def _asked(data: DataSet, config: VictimConfig) -> Victim:
    """Check a model whose content cannot be read, and identify it by its answers."""
    from mifsim.victims.model_check import answers_digest, check_model, judge, study_reading

    reading, where = study_reading(config, data), f"victim.{config.described}"
    source = replace(described(config), reading=reading)
    identity: list[Any] = [config.kind, config.url or config.plugin, config.output, config.output_name, config.layout]
    identity.append(reading.facts(data.class_names))
    if config.plugin is not None:
        identity += [config.arguments, source_of_entry(PREDICTORS.load(config.plugin))]
    key = digest(*identity, config.model_dump(mode="json"), data.fingerprint)
    if _checked is not None and key in _checked:
        return _checked[key]
    with source.engine(data.shape, len(data.class_names)) as engine:
        facts = judge(check_model(engine, data, where, config.output), config, where)
        fingerprint, identified_by = answers_digest(engine, data, identity)
    facts = {
        "model": config.kind,
        "fingerprint": fingerprint,
        "identified_by": identified_by,
        **facts,
        "output": config.output,
        "data_fingerprint": data.fingerprint,
    }
    if config.plugin is not None:
        facts |= {"plugin": config.plugin, "arguments": config.arguments}
    victim = Victim(None, config, facts["test_accuracy"], fingerprint, False, facts, reading)
    if _checked is not None:
        _checked[key] = victim
    return victim


def _engine_of_file(data: DataSet, path: Path, content: bytes, config: VictimConfig, reading: Reading) -> Engine:
    from mifsim.victims.model_check import BATCH_SIZE

    classes = len(data.class_names)
    if config.kind == "onnx":
        return ModelSource(content, config, reading).engine(data.shape, classes, BATCH_SIZE)
    from mifsim.victims.engines.keras import KerasEngine

    # From the path and not from the content, because messages name the file.
    return KerasEngine.from_file(path, data.shape, classes, config.output, BATCH_SIZE, reading)
