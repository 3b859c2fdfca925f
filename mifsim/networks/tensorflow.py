"""The one place where TensorFlow and keras are imported and set up."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from mifsim.errors import VictimError

Model = Any  # keras.Model; keras is imported where a model is built or loaded

_CHATTER = re.compile(rb"(?:[IWE]\d{4} .*|WARNING: All log messages before absl.*|\d{4}-\d\d-\d\d .*: [IWE] .*)\n?")


class Frameworks(NamedTuple):
    """The two modules, set up."""

    tf: Any
    keras: Any


@functools.cache
def import_tensorflow() -> Frameworks:
    """Import TensorFlow and keras, once a process, and set them up.

    - Only errors are logged, and nothing during start-up, where TensorFlow tells of every library it looks
      for; set ``TF_CPP_MIN_LOG_LEVEL=0`` to see it all.
    - A GPU's memory is taken as needed, not all of it.
    - Operations are deterministic and float32 is float32 (no TF32): the same seed gives the same weights, and
      the same image the same answer. On a CPU this costs no speed that could be measured.

    Raises
    ------
    VictimError
        If keras was already imported with another backend.
    """
    loud = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    with contextlib.nullcontext() if loud else _without_chatter():
        import keras
        import tensorflow as tf

        if keras.backend.backend() != "tensorflow":
            raise VictimError(
                f"keras runs on {keras.backend.backend()!r} in this process; needed: KERAS_BACKEND=tensorflow"
            )
        for gpu in tf.config.list_physical_devices("GPU"):
            # Too late where the device is in use already: whoever used it chose for this process.
            with contextlib.suppress(RuntimeError):
                tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.experimental.enable_op_determinism()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.constant(0.0)  # starts the devices, which logs too
    return Frameworks(tf, keras)


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Drop what TensorFlow writes to standard error from C++, below `sys.stderr`; pass on the rest."""
    sys.stderr.flush()
    try:
        real = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            captured.seek(0)
            for line in captured:
                if not _CHATTER.fullmatch(line):
                    os.write(real, line)
            os.close(real)
