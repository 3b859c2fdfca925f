"""The subcommand `mifsim guard`, which puts a calibrated detector in front of a model server."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mifsim.cli.run import add_plugins
from mifsim.errors import GuardError

if TYPE_CHECKING:
    from mifsim.guard.config import GuardConfig

FILE = "guard.toml"


def add_guard(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "guard",
        help="put a calibrated detector in front of a model server",
        description="Judge every image on its way to a model server, and refuse the queries of blocked clients. The "
        "counts of clients are kept in a ledger across restarts. Needs the extra 'guard'. SIGTERM finishes the open "
        "requests and exits; SIGHUP reads the settings and the filter again.",
        epilog="examples:\n"
        "  mifsim guard runs/mine/filter.toml --upstream http://127.0.0.1:8501 --identity header:x-api-key\n"
        f"  mifsim guard --init                        # write {FILE} with all settings and their meaning\n"
        f"  mifsim guard --config {FILE} --workers 4\n"
        "  mifsim guard runs/mine/filter.toml --check # only POST /check, for Envoy and Traefik\n"
        f"  mifsim guard --config {FILE} --serve > serve.yaml   # for Ray Serve: serve deploy serve.yaml\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("filter", nargs="?", metavar="FILTER", help="the filter.toml of a calibration")
    parser.add_argument("--upstream", metavar="URL", help="base URL of the model server")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: 8080; 0: any free one)")
    parser.add_argument(
        "--identity", metavar="SOURCE", help="header:NAME, bearer, certificate or address (default: bearer)"
    )
    parser.add_argument(
        "--ledger", metavar="URL", help="sqlite:PATH, redis://HOST, rediss://HOST or memory: (default: sqlite:guard.db)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="server processes (default: 1)")
    parser.add_argument(
        "--log", metavar="DIR", help="folder of the traffic log, which a calibration reads (default: no log)"
    )
    parser.add_argument(
        "--uncertified",
        action="store_true",
        help="start although settings contradict what the filter was certified for",
    )
    parser.add_argument("--check", action="store_true", help="give verdicts only (POST /check); another proxy forwards")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="print the configuration of a guard on Ray Serve (extra 'serve'), and exit; needs a ledger in Redis",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="file of settings; options take precedence")
    parser.add_argument(
        "--init",
        nargs="?",
        const=Path(FILE),
        type=Path,
        metavar="FILE",
        help=f"write a file of settings ({FILE}), and exit",
    )
    add_plugins(parser)
    parser.set_defaults(run=_guard)


def _guard(options: argparse.Namespace) -> None:
    if options.init is not None:
        from mifsim.guard.init_file import write_settings

        if options.filter is not None:  # paths in the file start at its folder
            options.filter = os.path.relpath(options.filter, options.init.parent)
        write_settings(options.init, _settings(options))
        print(f"wrote {options.init}; start with: mifsim guard --config {options.init}")
        return
    if options.serve:
        from mifsim.guard.serve_config import serve_config

        if options.plugins:  # replicas start in an environment of their own
            raise GuardError(f"--plugin {options.plugins[0]}: not with --serve (install the plug-in on all nodes)")
        print(serve_config(_settings(options).beside(Path.cwd()), options.check), end="")
        return
    try:
        from mifsim.guard.serving import serve
    except ModuleNotFoundError as error:
        raise GuardError(
            f"guard: {error.name} is not installed; install the extra: pip install 'mifsim[guard]'"
        ) from None
    serve(_settings(options), options.check, lambda: _settings(options))
    sys.exit(0)


def _settings(options: argparse.Namespace) -> GuardConfig:
    """Return the settings of the file and the options."""
    from mifsim.guard.config import GuardConfig

    given = {
        "upstream": {"url": options.upstream},
        "listen": {"host": options.host, "port": options.port, "workers": options.workers},
        "identity": {"source": options.identity},
        "ledger": {"url": options.ledger},
        "log": {"folder": options.log},
    }
    plain: dict[str, Any] = {} if options.config is None else GuardConfig.load(options.config).model_dump()
    for table, values in given.items():
        changes = {key: value for key, value in values.items() if value is not None}
        plain[table] = {**plain.get(table, {}), **changes}
    if options.filter is not None:
        plain["filter"] = options.filter
    if options.uncertified:
        plain["uncertified"] = True
    return GuardConfig.parse(plain, "guard")
