"""Imports TensorFlow and keras, and configures them for deterministic results."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from mifsim.errors import VictimError
from mifsim.plugins import runs_only_mifsim

logger = logging.getLogger(__name__)

Model = Any  # keras.Model; keras is imported where a model is built or loaded

_START_UP_LOG = re.compile(
    rb"(?:[IWE]\d{4} .*|WARNING: All log messages before absl.*|\d{4}-\d\d-\d\d .*: [IWE] .*)\n?"
)


class Frameworks(NamedTuple):
    """The configured modules of TensorFlow and keras."""

    tf: Any
    keras: Any


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let the import of these optional modules fail, unless they were imported before."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: the import raises an error
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@functools.cache
def import_tensorflow() -> Frameworks:
    """Import and configure TensorFlow and keras, once per process.

    - TensorFlow logs errors only, and nothing during start-up; set ``TF_CPP_MIN_LOG_LEVEL=0`` to see all messages.
    - oneDNN is on, which TensorFlow otherwise uses on processors with AVX-512 only; set ``TF_ENABLE_ONEDNN_OPTS=0`` to
      turn it off. Without it, rows depend on their position in a batch, in the last bits (see
      `mifsim.networks.fixed_batch`), and small networks are several times slower on a processor with AVX2.
    - GPU memory is allocated as needed.
    - In processes that run only mifsim, keras is imported without matplotlib and scikit-learn, a fifth of the time.
      In others, a user's code may need ``keras.visualization`` or ``keras.wrappers``.
    - Operations are deterministic, and TF32 is disabled: the same seed gives the same weights, and the same image the
      same output. On a CPU, no slowdown was measurable.

    If TensorFlow was imported before, perhaps without oneDNN, a warning says so: other processes of the run may then
    compute other last bits.

    Raises
    ------
    VictimError
        If keras was already imported with another backend.
    """
    verbose = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")
    imported_before = "tensorflow" in sys.modules and "TF_ENABLE_ONEDNN_OPTS" not in os.environ
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    with contextlib.nullcontext() if verbose else _without_start_up_log():
        with _hidden("matplotlib", "sklearn") if runs_only_mifsim() else contextlib.nullcontext():
            import keras
        import tensorflow as tf

        if keras.backend.backend() != "tensorflow":
            raise VictimError(
                f"keras uses the backend {keras.backend.backend()!r} in this process (required: "
                "KERAS_BACKEND=tensorflow)"
            )
        for gpu in tf.config.list_physical_devices("GPU"):
            # Raised if the device is already in use; its configuration is then fixed for this process.
            with contextlib.suppress(RuntimeError):
                tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.experimental.enable_op_determinism()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.constant(0.0)  # starts the devices, which also logs messages
    if imported_before:
        logger.warning(
            "TensorFlow was imported before mifsim, perhaps without oneDNN: answers of the model may differ in their "
            "last bits from those in other processes; set TF_ENABLE_ONEDNN_OPTS=1"
        )
    return Frameworks(tf, keras)


@contextlib.contextmanager
def _without_start_up_log() -> Iterator[None]:
    """Suppress the start-up messages that TensorFlow's C++ code writes to standard error; pass on all other lines."""
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            captured.seek(0)
            for line in captured:
                if not _START_UP_LOG.fullmatch(line):
                    os.write(stderr, line)
            os.close(stderr)
