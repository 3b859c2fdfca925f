"""Completion of the command line in shells."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mifsim.cli import main
from mifsim.cli.completion import SHELLS
from mifsim.study import shipped_studies

# Calls the function that the script registers, as bash does when a user presses the tab key.
COMPLETE = r"""
source "$1"; shift
words=("$@")
COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMPREPLY=()
function=$(complete -p mifsim | sed -E 's/.*-F ([^ ]+).*/\1/')
$function mifsim "${words[COMP_CWORD]}" "${words[COMP_CWORD - 1]}" 2> /dev/null
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The printed scripts by shell."""
    from contextlib import redirect_stdout

    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        with (folder / shell).open("w", encoding="utf-8") as file, redirect_stdout(file):
            main(["completion", shell])
    return {shell: folder / shell for shell in SHELLS}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tu"], ["tune"]),
        (["tune", "calibrate-"], [name for name in shipped_studies() if name.startswith("calibrate-")]),
        (["simulate", "--set", "server.tr"], ["server.transport="]),
        (["tune", "digits", "--back"], ["--backend"]),
        (["tune", "--backend", ""], ["ray", "in-process"]),
        (["keys", "mi-"], ["mi-face", "mi-face-numeric"]),
        (["columns", "sess"], ["sessions"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes(words: list[str], offered: list[str], scripts: dict[str, Path], tmp_path: Path) -> None:
    command = ["bash", "--norc", "-c", COMPLETE, "bash", str(scripts["bash"]), "mifsim", *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
    assert sorted(found) == sorted(offered)


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_have_commands_options_studies_and_keys(shell: str, scripts: dict[str, Path]) -> None:
    text = scripts[shell].read_text(encoding="utf-8")
    for word in ("simulate", "tune", "recertify", "leave-out", "server.transport=", "mi-face", *shipped_studies()):
        assert word in text, word


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_accept_the_scripts(shell: str, scripts: dict[str, Path]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(scripts[shell])], check=True)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["completion", "tcsh"])
    assert exit_.value.code == 2
    assert "bash" in capsys.readouterr().err
