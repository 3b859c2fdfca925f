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


def sentences() -> str:
    """Return the text of the README without line breaks."""
    return " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_sentences_on_digits_are_the_published_ones() -> None:
    readme = sentences()
    cells = pd.read_parquet(PUBLISHED / "cells.parquet")
    of_client = cells[cells["scope"] == "client"]
    workloads = pd.read_parquet(PUBLISHED / "workloads.parquet")
    certified = set(workloads.loc[workloads["certified"], "detector"])
    unaware = of_client[of_client["detector"].isin(certified) & ~of_client["knows_detector"]]
    best = unaware.groupby(["attack", "evasion"], observed=True)["stopped"].any()
    assert f"**No certified detector stops** {(~best).sum()} of the {len(best)}: all but 3 of" in readme
    assert best[["genetic", "inversion-network"]].sum() == 3
    assert best.drop(["genetic", "inversion-network"]).all()
    gains = of_client[of_client["leakage_undefended"] - of_client["leakage_without_queries"] >= 0.05]
    counted = gains.groupby(["detector", "knows_detector"], observed=True)["stopped"].agg(["sum", "size"])
    assert (of_client.groupby(["detector", "knows_detector"], observed=True).size() - counted["size"]).eq(4).all()
    evidence, learned = (counted.loc[name]["sum"].tolist() for name in ("evidence", "evidence+naturalness"))
    assert f"stops {evidence[0]} and {evidence[1]} of {counted['size'].max()}," in readme
    assert f"`evidence+naturalness` {learned[0]} and {learned[1]}." in readme
    assert (of_client["leakage_undefended"] - of_client["leakage_labelled"]).max() < 0.05
    labelled = unaware.groupby("detector", observed=True)["stopped_labelled"].sum()
    assert f"{labelled['evidence']} with `evidence`, {labelled['quota']} with the quota." in readme


def test_the_sentences_on_flags_and_evasions_are_the_published_ones() -> None:
    readme = sentences()
    ablations = pd.read_parquet(PUBLISHED / "ablations.parquet")
    without = ablations[~ablations["knows_detector"]].set_index(["detector", "without"])["stopped_without"]
    stopped = ablations[~ablations["knows_detector"]].groupby("detector", observed=True)["stopped"].first()
    assert (
        f"`evidence` stops {stopped['evidence']}; without its limit of 375 queries {without['evidence', 'queries']}, "
        f"without its flag `average` {without['evidence', 'average']}. `evidence+naturalness` stops "
        f"{stopped['evidence+naturalness']}, without its trained classifier "
        f"{without['evidence+naturalness', 'naturalness']}."
    ) in readme
    cells = pd.read_parquet(PUBLISHED / "cells.parquet")
    gains = cells[
        (cells["scope"] == "client") & (cells["leakage_undefended"] - cells["leakage_without_queries"] >= 0.05)
    ]
    evasions = gains["evasion"].astype(str)
    found = {
        name: gains[chosen].groupby("detector", observed=True)["stopped"].agg(["sum", "size"])
        for name, chosen in (
            ("penalty", evasions.str.contains("penalty")),
            ("mimic", evasions.eq("mimic (share 0.25)")),
        )
    }
    one, other = found["penalty"], found["mimic"]
    assert one.loc[["evidence", "quota"], "sum"].eq(0).all()
    assert f"of the {one['size'].max()} cells with `penalty` that gain anything, it stops none, as the quota;" in readme
    assert f"`evidence+naturalness` stops {one.loc['evidence+naturalness', 'sum']}, but" in readme
    shared = other.loc["evidence", "sum"]
    assert shared == other.loc["quota", "sum"]
    assert (
        f"Of the {other['size'].max()} with `mimic`, `evidence` and the quota stop {shared}, `evidence+naturalness` "
        f"{other.loc['evidence+naturalness', 'sum']}."
    ) in readme


def test_the_counts_on_faces_are_the_published_ones() -> None:
    readme = sentences()
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
    unaware = of_client[~of_client["knows_detector"]]
    some = unaware.groupby(["attack", "evasion"], observed=True)["stopped"].any()
    left = (~some).groupby("attack", observed=True).sum()
    assert left[left > 0].to_dict() == {"genetic": 4, "brep": 3}
    assert "No detector stops `genetic` in 4 of its 5 cells, nor `brep` in 3." in readme


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
