"""The subcommand `mifsim board`, which keeps a board of results: what detectors stop in several runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mifsim.cli.run import Commands, folder_argument
from mifsim.errors import UserError
from mifsim.tables.storage import Folder

if TYPE_CHECKING:
    from reports.results_board.rows import Admission

DEFAULT = Path("reports") / "board"
REPLAYS = 4
"""Attackers that `mifsim board add` runs live again, unless ``--replay`` says otherwise."""

_ADD = """\
Check the run folders of comparisons (mifsim bench), and add one row for each combination of detector, scope, attack and
evasion to board.parquet, index.html and README.md in the board's folder.

A run is refused, and nothing is written, unless:
  files     the run and its calibrations and simulations are complete; their tables have known columns and schema
            versions, and belong to the run; the digests that run.json records are those of the files
  studies   each study.toml is the one of its run.json, and follows from the comparison's study, with its seeds; the
            attackers are exactly those of the study, whose seeds follow from their names
  tables    cells and ablations, made anew from the other files, are equal; so are configurations, limits and intervals
  guarantee the exact tests, computed anew from the counts, certify the configuration that filter.toml states
  replay    the live sessions of each calibration are confirmed, and their counts equal those by replay; a sample of the
            attackers runs live again here, and must be blocked at the same query (--replay)
What could not be checked is in the column not_checked.
"""


def add_board(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "board",
        help="keep a board of results: a table and a page of what detectors stop in several runs",
        description="Keep a board of results: a table and a page of what detectors stop in several runs.",
        epilog="examples:\n"
        "  mifsim board add runs/bench-digits runs/bench-faces\n"
        "  mifsim board add runs/bench-digits --replace --replay 20\n"
        "  mifsim board list --board reports/board\n"
        "  mifsim board remove r-20261127-984b819f\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = actions.add_parser(
        "add",
        help="check run folders, and add their results",
        description=_ADD,
        epilog="examples:\n"
        "  mifsim board add runs/bench-digits\n"
        "  mifsim board add runs/bench-digits --board runs/board --replay 0\n"
        "  mifsim board add runs/mine --plugin quota.py\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("runs", type=folder_argument, nargs="+", metavar="RUN", help="local run folders of mifsim bench")
    add.add_argument(
        "--replay",
        type=_number,
        default=REPLAYS,
        metavar="N",
        help=f"run N of the replayed attackers live again, drawn at random by the digest of the run (default: "
        f"{REPLAYS}); this loads the data, and loads or trains the model; 0: none, which the board states",
    )
    add.add_argument(
        "--replace", action="store_true", help="replace the run of the same study and seed that is on the board"
    )
    add.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        dest="plugins",
        help="a plug-in of the runs (repeatable)",
    )
    add.set_defaults(run=_add)
    list_ = actions.add_parser("list", help="list the runs on a board", description="List the runs on a board.")
    list_.set_defaults(run=_list)
    remove = actions.add_parser("remove", help="remove a run", description="Remove a run from a board.")
    remove.add_argument("run_id", metavar="RUN_ID", help="the run's id, as mifsim board list prints it")
    remove.set_defaults(run=_remove)
    for action in (add, list_, remove):
        action.add_argument(
            "--board", type=Path, default=DEFAULT, metavar="DIR", help=f"folder of the board (default: {DEFAULT})"
        )


def _number(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of attackers (accepted: 0 and more)")
    return int(text)


def _add(options: argparse.Namespace) -> None:
    from mifsim.run.folder import read_facts
    from mifsim.tables.digests import run_digest
    from reports.results_board.board import add_rows, check_place, is_on_board, read_board, write_board
    from reports.results_board.rows import board_rows

    board: Path = options.board
    for run in options.runs:
        local = _local(run)
        facts = read_facts(local)
        digest = run_digest(local)
        if is_on_board(board, digest):
            write_board(board, read_board(board))
            print(f"{local}: is on the board already, with the digest {digest}; its rows stay as they are")
            continue
        check_place(board, facts, replace=options.replace)
        rows = board_rows(local, admit(local, digest, options.replay))
        add_rows(board, rows)
        print(f"{local}: admitted; {len(rows):,} rows; the board is {board / 'index.html'}")


def admit(run: Path, digest: str, replays: int) -> Admission:
    """Check the folder of a comparison; return what was checked.

    Parameters
    ----------
    run : Path
    digest : str
        See `mifsim.tables.digests.run_digest`.
    replays : int
        Number of attackers that run live again.

    Raises
    ------
    UserError
        If a check fails.
    """
    from reports.results_board.files import check_files, check_tables_made_anew
    from reports.results_board.rows import Admission
    from tuning import admission

    files = check_files(run)
    parts = admission.checked_parts(run)
    attackers = admission.check_attackers(parts)
    admission.check_detectors(parts)
    users = admission.check_splits_of_users(parts)
    certificates = admission.check_certificates(parts)
    live = admission.check_live_sessions(parts)
    rows = check_tables_made_anew(run)
    replayed = admission.run_again(parts, replays, digest) if replays else 0
    total = admission.replayable_outcomes(parts)
    again = f"{replayed:,} of the {total:,} replayed attackers, drawn at random, ran live again, equal"
    lacking = f"columns that the run lacks and the board does not use: {', '.join(files.absent)}"
    checked = [
        "the run and its parts are complete, with known schemas",
        *(["the recorded digests are those of the files"] if files.digests == "equal" else []),
        "studies, fingerprints and seeds follow from the study",
        f"the {attackers:,} attackers under the detectors are those of the study",
        f"{rows:,} rows of cells and ablations, made anew, and {users:,} rows of workloads are equal",
        f"{certificates:,} certificates, tested anew from their counts, hold",
        f"{live:,} live sessions of the calibrations are confirmed, and their counts equal those by replay",
        *([again] if replayed else []),
    ]
    not_checked = [
        *(["digests: run.json records none, as in runs of earlier versions"] if files.digests != "equal" else []),
        *([lacking] if files.absent else []),
        f"{total - replayed:,} of {total:,} replayed attackers did not run live again, nor did those who react to "
        "refusals, who ran live in the run",
        "the recordings behind search, certification and replays are not in the folder: the counts of the "
        "certificates and the queries to block are taken from its tables",
        "leakage scores were not computed anew",
        "times and sizes of the detectors were not measured again",
    ]
    return Admission(digest, files.digests, replayed, "; ".join(checked), "; ".join(not_checked))


def _local(run: Folder) -> Path:
    if not isinstance(run, Path):
        raise UserError(f"{run}: is a URL (accepted: a local run folder)")
    return run


def _list(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from reports.results_board.board import runs_on

    columns = ("run_id", "study", "seed", "data_set", "rows", "digests", "replayed_live", "finished", "run_digest")
    table = Table(title=f"Runs on {options.board}", title_justify="left")
    for name in columns:
        table.add_column(name)
    for row in runs_on(options.board).to_dict("records"):
        table.add_row(*(str(row[name]) for name in columns))
    Console(width=None if _is_terminal() else 240).print(table)


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()


def _remove(options: argparse.Namespace) -> None:
    from reports.results_board.board import remove_run

    print(f"{options.run_id}: {remove_run(options.board, options.run_id):,} rows removed from {options.board}")
