"""The README's table of detectors is that of the published comparison."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from reports.results_board.board import read_board
from reports.results_board.page import render_page, render_readme

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "reports" / "bench-digits"
FACES = ROOT / "reports" / "bench-faces"


BOARD = ROOT / "reports" / "board"


def rows() -> list[str]:
    """Return the rows of the README's table, from the published tables."""
    cells, detectors = (pd.read_parquet(PUBLISHED / f"{name}.parquet") for name in ("cells", "detectors"))
    workloads = pd.read_parquet(PUBLISHED / "workloads.parquet")
    shown = []
    for _, detector in detectors.drop_duplicates("detector").iterrows():
        of = cells[cells["detector"] == detector["detector"]]
        if of.empty:
            continue
        client, session = (of[of["scope"] == scope] for scope in ("client", "session"))
        mi_face = client[(client["attack"] == "mi-face") & ~client["knows_detector"]].set_index("evasion")
        counts = [
            int(part.loc[part["knows_detector"] == knows, "stopped"].sum())
            for part, knows in ((client, False), (session, False), (client, True))
        ]
        of_detector = workloads[workloads["detector"] == detector["detector"]]
        tested, unseen = (
            float((part["blocked"] / part["sessions"]).max())
            for part in (of_detector[of_detector["split"] == split] for split in ("test", "unseen"))
        )
        calibrated = bool(of_detector["certified"].any())
        name = f"`{detector['detector']}`" + ("" if calibrated else ", not certified")
        values = [
            f"**{counts[0]}**",
            f"{counts[1]}",
            f"{counts[2]}",
            _queries(mi_face.loc[""]),
            _queries(mi_face.loc["decoys (between 10)"]),
            f"{tested:.1%}",
            f"{unseen:.0%}",
            f"{detector['microseconds_a_query']:.0f}",
            f"{detector['bytes_a_query']:,.0f}",
        ]
        shown.append((not calibrated, -counts[0], f"| {' | '.join([name, *values])} |"))
    return [text for _, _, text in sorted(shown, key=lambda row: row[:2])]


def _queries(cell: pd.Series) -> str:
    return f"{cell['mean_queries']:.0f}" if cell["blocked"] == cell["attackers"] else "never"


def test_the_table_of_detectors_is_the_published_one() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, rest = readme.partition("<!-- bench-digits:begin -->\n")
    assert rest.partition("<!-- bench-digits:end -->")[0].splitlines()[2:] == rows()  # below the head


def test_the_counts_on_faces_are_the_published_ones() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    cells = pd.read_parquet(FACES / "cells.parquet")
    of_client = cells[cells["scope"] == "client"]
    counts = of_client[~of_client["knows_detector"]].groupby("detector", observed=True)[["stopped", "within_quarter"]]
    stopped, quarter = counts.sum().loc["evidence"]
    assert f"stops {stopped} of 25 cells, and blocks all attackers of {quarter} within a quarter" in readme
    for name, words in (("ssim-hash", "the same guarantee, stops {} (and {}),"), ("quota", "the quota {} ({}).")):
        assert words.format(*counts.sum().loc[name]) in readme
    knowing = of_client[of_client["knows_detector"] & (of_client["detector"] == "evidence")]
    assert len(knowing) == 20
    assert f"attackers who know it, `evidence` stops {knowing['stopped'].sum()}." in readme


def test_the_board_has_the_published_cells() -> None:
    table = read_board(BOARD)
    assert len(table)
    for study, met in table[table["attack"].notna()].groupby("study"):
        cells = pd.read_parquet(ROOT / "reports" / str(study) / "cells.parquet")
        columns = [name for name in cells.columns if name in table.columns]
        plain = cells.astype(dict.fromkeys(cells.select_dtypes("category").columns, object))
        pd.testing.assert_frame_equal(met[columns].reset_index(drop=True), plain[columns], check_dtype=False)


def test_the_pages_of_the_board_are_made_from_its_table() -> None:
    table = read_board(BOARD)
    assert (BOARD / "index.html").read_text(encoding="utf-8") == render_page(table)
    assert (BOARD / "README.md").read_text(encoding="utf-8") == render_readme(table, "reports/board")
