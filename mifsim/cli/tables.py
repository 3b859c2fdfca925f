"""The subcommand `mifsim columns`, which describes the Parquet tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mifsim.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def add_columns(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "columns",
        help="describe the columns of the Parquet tables",
        description="Print the name, type and description of each column of the Parquet tables.",
        epilog="examples:\n  mifsim columns\n  mifsim columns sessions\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="the table to describe (default: all)")
    parser.set_defaults(run=_columns)


def all_schemas() -> dict[str, pa.Schema]:
    """Return the schemas of all Parquet tables by name."""
    from mifsim.tables.bench_schemas import BENCH_SCHEMAS
    from mifsim.tables.board_schema import BOARD_SCHEMAS
    from mifsim.tables.schemas import SCHEMAS
    from mifsim.tables.traffic_schema import TRAFFIC_SCHEMAS
    from reports.paper.schemas import PAPER_SCHEMAS

    return {**SCHEMAS, **BENCH_SCHEMAS, **BOARD_SCHEMAS, **TRAFFIC_SCHEMAS, **PAPER_SCHEMAS}


def _columns(options: argparse.Namespace) -> None:
    from mifsim.tables.columns import describe

    schemas = all_schemas()
    if options.table is not None and options.table not in schemas:
        raise UserError(f"columns: {options.table!r} is not a table (accepted: {', '.join(schemas)})")
    table = None
    for name, column, kind, description in describe(options.table, schemas):
        if name != table:
            print(f"{'' if table is None else chr(10)}{name}/*.parquet")
            table = name
        print(f"  {column:22} {kind:8} {description}")
