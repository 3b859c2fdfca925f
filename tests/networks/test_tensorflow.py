"""TensorFlow is imported at its first use, without messages, and configured for deterministic results."""

import os
import subprocess
import sys

import pytest

from mifsim.errors import VictimError
from mifsim.networks import import_tensorflow
from mifsim.networks.tensorflow import _without_start_up_log

LOG_LINES = b"""2026-01-31 12:00:00.123456: I external/local_xla/xla/tsl/cuda/cudart_stub.cc:31] Could not find drivers
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1790000000.146134   24280 port.cc:153] oneDNN custom operations are on.
"""


def run(code, **environment):
    """Run a program in a process with additional environment variables."""
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"} | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_importing_the_package_does_not_import_tensorflow():
    done = run("import sys, mifsim.networks; print(sorted({'tensorflow', 'keras'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


ONEDNN = """\
from tensorflow.python.util._pywrap_util_port import IsMklEnabled
print(IsMklEnabled())
"""


def run_with_setting(code, setting):
    """Run a program with a value of the environment variable that turns oneDNN on or off; None: without it."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {} if setting is None else {"TF_ENABLE_ONEDNN_OPTS": setting}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


OWN = "from mifsim.plugins import declare_own_process, load_plugin; declare_own_process()\n"
FIRST_USE = "import sys; from mifsim.networks import *; import_tensorflow(); print('tensorflow' in sys.modules)\n"
OPTIONAL = "print(sorted({'matplotlib', 'sklearn'} & set(sys.modules)))\n"


def test_the_first_use_in_mifsims_processes_has_no_messages_and_leaves_optional_modules_out():
    done = run_with_setting(OWN + FIRST_USE + OPTIONAL + "import matplotlib, sklearn.ensemble\n" + ONEDNN, None)
    assert (done.stdout.split("\n")[:3], done.stderr) == (["True", "[]", "True"], "")


@pytest.mark.parametrize("in_mifsims_process", [False, True])
def test_the_code_of_a_user_can_use_all_of_keras(in_mifsims_process, tmp_path):
    """A script that uses mifsim, and a plug-in in mifsim's process, find the optional parts of keras."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import mifsim\n@mifsim.register('predictors', 'halves')\ndef halves(images): return images / 2")
    code = f"{OWN}load_plugin({str(plugin)!r})\n" if in_mifsims_process else ""
    code += f"{FIRST_USE}{OPTIONAL}import keras\nkeras.wrappers.SKLearnClassifier(keras.Sequential())"
    done = run_with_setting(code, None)
    assert (done.stdout.split("\n")[:2], done.stderr) == (["True", "['matplotlib', 'sklearn']"], "")


def test_a_user_can_turn_onednn_off_and_operations_are_deterministic():
    """With deterministic operations, TensorFlow refuses to draw random numbers without a seed."""
    code = f"from mifsim.networks import *; tf = import_tensorflow().tf\n{ONEDNN}tf.random.uniform((1,))"
    done = run_with_setting(code, "0")
    assert done.stdout.strip() == "False", done.stderr
    assert "Random ops require a seed to be set when determinism is enabled" in done.stderr


def test_tensorflow_is_imported_once_and_computes_in_full_precision():
    tf, keras = import_tensorflow()
    assert import_tensorflow() is import_tensorflow()
    assert keras.backend.backend() == "tensorflow"
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.parametrize("setting", [None, "1"])
def test_a_tensorflow_imported_before_is_reported_unless_onednn_was_chosen(setting):
    code = "import logging, tensorflow; logging.basicConfig(); from mifsim.networks import *; import_tensorflow()\n"
    done = run_with_setting(code + ONEDNN, setting)
    assert ("TensorFlow was imported before mifsim" in done.stderr) == (setting is None), done.stderr
    if setting is not None:
        assert done.stdout.strip() == "True"


def test_keras_on_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(import_tensorflow().keras.backend, "backend", lambda: "torch")
    with pytest.raises(VictimError, match=r"keras uses the backend 'torch'.*required: KERAS_BACKEND=tensorflow"):
        import_tensorflow.__wrapped__()


def test_messages_other_than_the_start_up_log_are_passed_on(capfd):
    with _without_start_up_log():
        os.write(2, LOG_LINES + b"something broke\n")
    assert capfd.readouterr().err == "something broke\n"
