"""Sessions of ONNX Runtime for untrusted ``.onnx`` files, on a GPU if its CUDA provider is installed.

ONNX has no operator that runs a program, other operators are not registered, and tensors in other files are not read:
`mifsim.networks.onnx_files` does this before.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from mifsim.errors import VictimError

logger = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises
    ------
    VictimError
        If it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise VictimError(
            "an .onnx file needs ONNX Runtime, which is not installed: pip install 'mifsim[onnx]' (or "
            "'onnxruntime-gpu[cuda,cudnn]' for the CUDA provider)"
        ) from None
    onnxruntime.set_default_logger_severity(4)  # errors become exceptions, and other lines would mix with the progress
    return onnxruntime


def open_onnx(content: bytes) -> Any:
    """Return an inference session, with deterministic computation.

    Parameters
    ----------
    content : bytes
        Content of the file, with all its tensors.

    Raises
    ------
    VictimError
        If ONNX Runtime is not installed.
    ValueError
        If it cannot load the file; the message says why, without the file's name.
    """
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # hosts need the CPUs between batches
    with tempfile.TemporaryDirectory(prefix="mifsim-") as empty:
        # Without a folder, a file in the working folder could become a part of the model.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
        try:
            providers = execution_providers(runtime.get_available_providers())
            if CUDA in dict(providers):
                _load_cuda_libraries(runtime)
            session = runtime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # ONNX Runtime raises a class of its own for each status
            raise ValueError(f"ONNX Runtime cannot load it: {onnx_reason(error)}") from None
    if CUDA in dict(providers) and CUDA not in session.get_providers():
        _warn_that_cuda_failed()
    return session


def _load_cuda_libraries(runtime: Any) -> None:
    """Load the libraries that ``onnxruntime-gpu[cuda,cudnn]`` installs, which the provider does not find by itself."""
    preload = getattr(runtime, "preload_dlls", None)  # since ONNX Runtime 1.21
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints each library that is not there
            preload(directory="")  # not those of PyTorch, which may be of another version


@functools.cache
def _warn_that_cuda_failed() -> None:
    """Say once per process that the CUDA provider is installed but not in use: ONNX Runtime goes on silently."""
    logger.warning(
        "ONNX Runtime computes on the CPU, although its CUDA provider is installed: there is no GPU, or the CUDA and "
        "cuDNN libraries are missing (pip install 'onnxruntime-gpu[cuda,cudnn]')"
    )


def onnx_reason(error: Exception) -> str:
    """Return the first line of an error of ONNX Runtime, without the number of its status."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.rpartition("[ONNXRuntimeError] : ")[2].strip()


def execution_providers(available: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Return the execution providers to try, in this order, with their options.

    CUDA comes first where the process may use a GPU: an empty ``CUDA_VISIBLE_DEVICES``, as Ray sets it, or ``-1`` says
    that it may not. On a machine without a GPU, ONNX Runtime goes on to the CPU; `open_onnx` then warns.

    Parameters
    ----------
    available : sequence of str
        The providers of the installed package.

    Examples
    --------
    >>> execution_providers(["CPUExecutionProvider"])
    [('CPUExecutionProvider', {})]
    """
    providers: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
    if CUDA in available and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        # The default algorithm and no TF32: the same image then gets the same answer in every process.
        providers.insert(0, (CUDA, {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}))
    return providers
