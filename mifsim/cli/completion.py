"""The subcommand `mifsim completion`, which prints the completion of the command line for a shell."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

SHELLS = ("bash", "zsh", "fish")


def add_completion(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], whole: argparse.ArgumentParser
) -> None:
    """Add the subcommand; `whole` is the parser that it completes."""
    parser = commands.add_parser(
        "completion",
        help="print the completion of commands for a shell",
        description="Print a script with which a shell completes commands, options, the names of shipped studies, and "
        "the keys of --set and `mifsim keys`. Print it anew after an update of mifsim.",
        epilog="examples:\n"
        "  mifsim completion bash > ~/.local/share/bash-completion/completions/mifsim\n"
        "  mifsim completion zsh > ~/.zfunc/_mifsim           (in .zshrc: fpath+=~/.zfunc, before compinit)\n"
        "  mifsim completion fish > ~/.config/fish/completions/mifsim.fish\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=" or ".join(SHELLS))
    parser.set_defaults(run=lambda options: print(script(whole, options.shell)))


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion of a parser for a shell, one of `SHELLS`."""
    import shtab

    offered = _offered()
    paths = dict.fromkeys(("FOLDER", "RUN", "DIR", "LOG"), shtab.DIRECTORY)
    paths |= dict.fromkeys(("FILE", "FILE.py", "[NAME=]FILE", "FILTER", "PAGE"), shtab.FILE)
    for action in _actions(parser):
        found = offered.get(str(action.metavar)) or paths.get(str(action.metavar))
        if found and action.choices is None:
            action.complete = found  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _offered() -> dict[str, dict[str, Any]]:
    """Return what is offered in the place of each metavariable."""
    from mifsim.cli.tables import all_schemas
    from mifsim.data.config import DATASETS
    from mifsim.reference import all_tables, override_keys
    from mifsim.study.shipped import shipped_studies

    tables = list(all_tables())
    names = dict.fromkeys([*(table.group for table in tables), *(table.name for table in tables)])
    return {
        "STUDY": _words("studies", shipped_studies(), files=True),
        "KEY=VALUE": _words("keys", [f"{key}=" for key in override_keys()], space=False),
        "NAME": _words("names", names),
        "TABLE": _words("tables", all_schemas()),
        "SET": _words("sets", DATASETS),
    }


def _words(name: str, words: Iterable[str], *, files: bool = False, space: bool = True) -> dict[str, Any]:
    """Return a list of words as shtab takes it: a function for each shell, and its definition.

    Parameters
    ----------
    name : str
        Suffix of the function's name.
    words : iterable of str
    files : bool
        Whether files are offered, too.
    space : bool
        Whether a space follows a completed word.
    """
    listed = shlex.join(words)
    quoted = shlex.quote(listed)
    bash = [
        *([] if space else ["compopt -o nospace"]),
        f'compgen -W {quoted} -- "$1"',
        *(['compgen -f -- "$1"'] if files else []),
    ]
    zsh = [f"compadd -- {listed}" if space else f"compadd -S '' -- {listed}", *(["_files"] if files else [])]
    fish = [f"printf '%s\\n' {listed}", *(["__fish_complete_path (commandline -ct)"] if files else [])]
    return {
        "bash": f"_mifsim_{name}",
        "zsh": f"_mifsim_{name}",
        "fish": f"(_mifsim_{name})",
        "preamble": {
            "bash": "\n  ".join([f"_mifsim_{name}() {{", *bash]) + "\n}",
            "zsh": "\n  ".join([f"_mifsim_{name}() {{", *zsh]) + "\n}",
            "fish": "\n  ".join([f"function _mifsim_{name}", *fish]) + "\nend",
        },
    }
