"""The subcommand `mifsim paper`: the paper's evaluation, run again and laid beside its own numbers."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from mifsim.errors import UserError

DATASETS = ("mnist", "mnist-5k", "celeba", "faces")
_OF_HALF = {"mnist": "MNIST", "mnist-5k": "MNIST", "celeba": "CelebA", "faces": "CelebA"}
_READS_DATA = {"mnist": "optional: keras' own copy where absent", "celeba": "needed"}


class _Datasets(argparse.Action):
    """Gather --dataset and --data in the order in which they are given: the folder belongs to the set before it."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        pairs: list[tuple[str, Path | None]] = list(namespace.datasets or ())
        if option == "--dataset":
            pairs.append((value, None))
        elif not pairs or pairs[-1][1] is not None:
            parser.error("--data FOLDER comes after the --dataset that it belongs to")
        else:
            pairs[-1] = (pairs[-1][0], Path(value))
        namespace.datasets = pairs


def add_paper(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "paper",
        help="reproduce the paper: every table and figure of its evaluation, with what holds and why",
        description="Run the paper's evaluation again and write README.md with every table and figure beside the "
        "paper's values, figures/*.png, csv/*.csv, and the Parquet tables that all of it comes from.",
        epilog="examples:\n"
        "  mifsim paper                        5,000 embedded digits and rendered faces; no download\n"
        "  mifsim paper --small --out runs/p   the same in minutes: fewer readings, three trials a label\n"
        "  mifsim paper --dataset mnist --data DIR --dataset faces --out reports/paper\n"
        "  mifsim paper --dataset celeba --data DIR --trials 50\n"
        "  mifsim paper --filter runs/mine/filter.toml --dataset mnist-5k\n"
        "\n"
        "What is finished lies in the cache: after Ctrl-C the same command goes on where it was.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dataset", action=_Datasets, dest="datasets", choices=DATASETS,
        help="may be given twice: once for the paper's MNIST half, once for its CelebA half (default: mnist-5k, faces)",
    )  # fmt: skip
    parser.add_argument("--data", action=_Datasets, dest="datasets", metavar="FOLDER", help="files of that set")
    parser.add_argument("--trials", type=int, metavar="N", help="attackers a label (default: 30; the paper has 3)")
    parser.add_argument("--filter", type=Path, metavar="FILE", help="a calibrated setting (default: find one)")
    parser.add_argument("--small", action="store_true", help="a run of minutes that says less")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/paper-<time>")
    parser.add_argument(
        "--backend", choices=["ray", "in-process"], help="where sessions run (default: ray; with --small: in-process)"
    )
    parser.add_argument("--page-only", action="store_true", help="write the page again from the tables in --out")
    parser.set_defaults(run=_paper)


def _paper(options: argparse.Namespace) -> None:
    from reports.paper.page import write_page

    if options.page_only:
        if options.out is None:
            raise UserError("paper: --page-only needs --out FOLDER, where the tables are")
        print(write_page(options.out))
        return
    pairs: list[tuple[str, Path | None]] = options.datasets or [("mnist-5k", None), ("faces", None)]
    halves = [_OF_HALF[name] for name, _ in pairs]
    if len(set(halves)) < len(halves):
        raise UserError(
            f"paper: --dataset {' and '.join(name for name, _ in pairs)}: both stand for the same half of the paper "
            "(accepted: one of mnist and mnist-5k, one of celeba and faces)"
        )
    for name, folder in pairs:
        if folder is not None and name not in _READS_DATA:
            raise UserError(f"paper: --dataset {name} takes no --data (accepted for: {', '.join(_READS_DATA)})")
        if name == "celeba" and folder is None:
            raise UserError("paper: --dataset celeba needs --data FOLDER (or use --dataset faces)")
    if options.trials is not None and options.trials < 3:
        raise UserError(f"paper: --trials {options.trials}: the paper has 3 a label (accepted: 3 or more)")
    from reports.paper.schemas import PAPER_SCHEMAS
    from tuning.paper.plan import plan_for
    from tuning.paper.reproduction import Given, reproduce

    plans = [plan_for(name, folder, trials=options.trials, small=options.small) for name, folder in pairs]
    out = options.out or Path("runs") / f"paper-{datetime.now():%Y%m%d-%H%M%S}"
    given = Given(options.filter, options.backend or ("in-process" if options.small else "ray"))
    reproduce(plans, out, given, PAPER_SCHEMAS)
    print(f"the page is {write_page(out)}")
