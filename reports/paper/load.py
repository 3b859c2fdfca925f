"""The Parquet tables of the reproduction, as pandas data frames."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from mifsim.tables.records import read_checked
from reports.paper.published_tables import HALVES
from reports.paper.schemas import PAPER_SCHEMAS

CALIBRATED = "calibrated"


class Results:
    """The results of `mifsim paper`.

    Parameters
    ----------
    out : Path
        The folder that contains ``parquet/``.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def _table(self, name: str) -> pd.DataFrame:
        table: pd.DataFrame = read_checked(
            self.out / "parquet" / f"paper_{name}.parquet", PAPER_SCHEMAS[f"paper_{name}"]
        ).to_pandas()
        for column in table.columns:
            if isinstance(table[column].dtype, pd.CategoricalDtype):
                table[column] = table[column].astype(object)
        return table

    @cached_property
    def attacks(self) -> pd.DataFrame:
        """``paper_attacks``."""
        return self._table("attacks")

    @cached_property
    def users(self) -> pd.DataFrame:
        """``paper_users``."""
        return self._table("users")

    @cached_property
    def sweep(self) -> pd.DataFrame:
        """``paper_sweep``."""
        return self._table("sweep")

    @cached_property
    def curves(self) -> pd.DataFrame:
        """``paper_curves``."""
        return self._table("curves")

    @cached_property
    def heat(self) -> pd.DataFrame:
        """``paper_heat``."""
        return self._table("heat")

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """``paper_pictures``."""
        return self._table("pictures")

    @cached_property
    def configs(self) -> pd.DataFrame:
        """``paper_configs``."""
        return self._table("configs")

    @cached_property
    def halves(self) -> list[str]:
        """The halves of the evaluation that were run, in the paper's order."""
        present = set(self.attacks["dataset"])
        return [half for half in HALVES if half in present]

    def facts(self, half: str) -> dict[str, str]:
        """Return the facts about one half's run."""
        table = self._table("facts")
        selected = table[table["dataset"] == half]
        return dict(zip(selected["fact"], selected["value"], strict=True))

    def classes(self, half: str) -> list[str]:
        """Return the names of the classes, in the order of the paper's tables."""
        return self.facts(half)["classes"].split(", ")

    def config_names(self, half: str) -> list[str]:
        """Return the names of a half's configurations, the paper's first."""
        return list(self.configs.loc[self.configs["dataset"] == half, "config"])

    def live_noise(self, half: str) -> float:
        """Return the noise of the attackers that also ran live."""
        return float(self.facts(half)["live noise"])
