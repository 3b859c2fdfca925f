"""The subcommand `mifsim paper`: reproduces the paper's evaluation and compares the results with the paper's."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from mifsim.errors import UserError

DATASETS = ("mnist", "mnist-5k", "celeba", "faces")
_PAPER_DATA = {"mnist": "MNIST", "mnist-5k": "MNIST", "celeba": "CelebA", "faces": "CelebA"}
_WITH_FOLDER = {"mnist": "optional: keras downloads it if absent", "celeba": "required"}


class _Datasets(argparse.Action):
    """Collect --dataset NAME, --dataset NAME=FOLDER and --data in the order given.

    A folder of --data belongs to the data set before it.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        pairs: list[tuple[str, Path | None]] = list(namespace.datasets or ())
        if option == "--dataset":
            name, separator, folder = str(value).partition("=")
            if name not in DATASETS:
                parser.error(f"--dataset {value}: no data set of the paper (accepted: {', '.join(DATASETS)})")
            if separator and not folder:
                parser.error(f"--dataset {value}: no folder after = (accepted: {name}=FOLDER)")
            pairs.append((name, Path(folder) if separator else None))
        elif not pairs or pairs[-1][1] is not None:
            parser.error("--data FOLDER must follow the --dataset to which it belongs")
        else:
            pairs[-1] = (pairs[-1][0], Path(value))
        namespace.datasets = pairs


def add_paper(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "paper",
        help="reproduce every table and figure of the paper's evaluation",
        description="Reproduce the paper's evaluation. Write README.md, which compares every table and figure with the "
        "paper's values, figures/*.png, csv/*.csv, and the Parquet tables from which they are computed.",
        epilog="examples:\n"
        "  mifsim paper                        5,000 embedded digits and rendered faces; no download\n"
        "  mifsim paper --small --out runs/p   takes minutes: fewer variants, three trials per label\n"
        "  mifsim paper --dataset mnist=DIR --dataset celeba=DIR --out reports/paper\n"
        "  mifsim paper --dataset celeba=DIR --trials 50\n"
        "  mifsim paper --filter runs/mine/filter.toml --dataset mnist-5k\n"
        "\n"
        "Finished steps are kept in the cache: after Ctrl-C, the same command continues with the next step.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dataset", action=_Datasets, dest="datasets", metavar="NAME[=FOLDER]",
        help=f"{', '.join(DATASETS)}; repeatable: one for the paper's MNIST results and one for its CelebA results "
        "(default: mnist-5k and faces, which stand in for CelebA)",
    )  # fmt: skip
    parser.add_argument(
        "--data",
        action=_Datasets,
        dest="datasets",
        metavar="FOLDER",
        help="folder with the files of the data set before it; the same as --dataset NAME=FOLDER",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="attackers per label (default: 30; the paper has 3)")
    parser.add_argument(
        "--filter", type=Path, metavar="FILE", help="a calibrated configuration (default: calibrate one)"
    )
    parser.add_argument("--small", action="store_true", help="a smaller evaluation that takes minutes")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="output folder (default: runs/paper-<time>)")
    parser.add_argument(
        "--backend", choices=["ray", "in-process"], help="where sessions run (default: ray; with --small: in-process)"
    )
    parser.add_argument("--page-only", action="store_true", help="rebuild the page from the tables in --out")
    parser.set_defaults(run=_paper)


def _paper(options: argparse.Namespace) -> None:
    from reports.paper.page import write_page

    if options.page_only:
        if options.out is None:
            raise UserError("paper: --page-only requires --out FOLDER, the folder of the tables")
        print(write_page(options.out))
        return
    pairs: list[tuple[str, Path | None]] = options.datasets or [("mnist-5k", None), ("faces", None)]
    reproduced = [_PAPER_DATA[name] for name, _ in pairs]
    if len(set(reproduced)) < len(reproduced):
        raise UserError(
            f"paper: --dataset {' and '.join(name for name, _ in pairs)}: both reproduce the same results of the "
            "paper (accepted: one of mnist and mnist-5k, and one of celeba and faces)"
        )
    for name, folder in pairs:
        if folder is not None and name not in _WITH_FOLDER:
            raise UserError(
                f"paper: --dataset {name} does not read a folder (data sets that do: {', '.join(_WITH_FOLDER)})"
            )
        if name == "celeba" and folder is None:
            raise UserError(
                "paper: --dataset celeba requires its folder: --dataset celeba=FOLDER (or use --dataset faces)"
            )
    if options.trials is not None and options.trials < 3:
        raise UserError(f"paper: --trials {options.trials}: too few attackers per label (accepted: 3 or more)")
    from reports.paper.schemas import PAPER_SCHEMAS
    from tuning.paper.plan import plan_for
    from tuning.paper.reproduction import Given, reproduce

    plans = [plan_for(name, folder, trials=options.trials, small=options.small) for name, folder in pairs]
    out = options.out or Path("runs") / f"paper-{datetime.now():%Y%m%d-%H%M%S}"
    given = Given(options.filter, options.backend or ("in-process" if options.small else "ray"))
    reproduce(plans, out, given, PAPER_SCHEMAS)
    print(f"the page is {write_page(out)}")
