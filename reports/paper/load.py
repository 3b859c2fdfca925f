"""The reproduction's Parquet tables, as pandas frames."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from mifsim.records import read_checked
from reports.paper.published_tables import HALVES

CALIBRATED = "calibrated"


class Results:
    """What `mifsim paper` recorded.

    Parameters
    ----------
    out : Path
        The folder that holds ``parquet/``.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def _table(self, name: str) -> pd.DataFrame:
        table: pd.DataFrame = read_checked(self.out / "parquet" / f"paper_{name}.parquet", f"paper_{name}").to_pandas()
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
    def settings(self) -> pd.DataFrame:
        """``paper_settings``."""
        return self._table("settings")

    @cached_property
    def halves(self) -> list[str]:
        """Which halves of the paper were run, in its order."""
        there = set(self.attacks["dataset"])
        return [half for half in HALVES if half in there]

    def facts(self, half: str) -> dict[str, str]:
        """Return what is stated of one half's run."""
        table = self._table("facts")
        mine = table[table["dataset"] == half]
        return dict(zip(mine["fact"], mine["value"], strict=True))

    def classes(self, half: str) -> list[str]:
        """Return the names of the classes, in the order of the paper's tables."""
        return self.facts(half)["classes"].split(", ")

    def setting_names(self, half: str) -> list[str]:
        """Return the settings of a half, the paper's first."""
        return list(self.settings.loc[self.settings["dataset"] == half, "setting"])

    def live_noise(self, half: str) -> float:
        """Return the noise of the attackers that ran live too."""
        return float(self.facts(half)["live noise"])
