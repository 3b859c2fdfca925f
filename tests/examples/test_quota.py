"""The example of a custom detector: 40 lines, the inherited conformance suite, and a complete calibration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mifsim import DetectorConfig, read_run
from mifsim.cli import main
from mifsim.defense import config_class
from mifsim.plugins import load_plugin, unload_plugins
from mifsim.testing.detectors import DetectorConformance
from tests.tuning.studies import tiny_study

QUOTA = Path(__file__).parents[2] / "examples" / "quota.py"
PAPER = {"name": "paper 3", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4}
QUOTA_OF_6 = {"name": "quota of 6", "kind": "example-quota", "queries": 6}
NO_DEFENSE = {"name": "nothing", "kind": "none"}


@pytest.fixture(autouse=True, scope="module")
def _plugin() -> Iterator[None]:
    load_plugin(QUOTA)
    yield
    unload_plugins()


class TestConformance(DetectorConformance):
    @pytest.fixture(params=[1, 5, 30])
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        return config_class("example-quota")(queries=request.param)


def test_the_example_has_at_most_40_lines() -> None:
    assert len(QUOTA.read_text().splitlines()) <= 40


def write_study(path: Path, filters: list[dict[str, object]]) -> Path:
    import tomli_w

    document = tiny_study(
        filters=filters,
        tuning={"kind": "example-quota", "space": {"queries": {"min": 1, "max": 30}},
                "grid": {}, "trials": 12, "false_positive_limit": 0.5},
        matrix={"evasions": [[], [{"noise": 0.02}]]},
    ).to_toml()  # fmt: skip
    path.write_text(tomli_w.dumps(document))
    return path


def test_a_calibration_certifies_and_confirms_the_quota_beside_other_detectors(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study.toml", [QUOTA_OF_6, NO_DEFENSE, PAPER])
    out = tmp_path / "run"
    main(["tune", str(study), "--plugin", str(QUOTA), "--out", str(out), "--backend", "in-process"])
    run = read_run(out)
    assert run.complete
    assert run.filter is not None
    assert run.filter.kind == "example-quota"
    assert run.facts["tuning"]["confirmed_sessions"] > 0
    assert run.facts["plugins"][0]["file"] == "quota.py"
    trials = run.table("trials")
    assert set(trials["kind"]) == {"example-quota"}
    assert trials["param_queries"].between(1, 30).all()
    assert [json.loads(config)["queries"] for config in trials["config"]] == trials["param_queries"].tolist()
    sessions = run.table("sessions")
    kinds = dict(zip(sessions["filter"], sessions["kind"], strict=True))
    assert kinds == {
        "calibrated": "example-quota", "quota of 6": "example-quota", "paper 3": "ssim-hash", "nothing": "none"
    }  # fmt: skip
    # A quota of 6 blocks every client that sends a seventh valid image, at that query.
    quota = sessions[sessions["filter"] == "quota of 6"]
    assert (quota["queries_to_block"].dropna() == 7).all()
    assert (quota["queries_to_block"].notna() == (quota["queries"] >= 7)).all()
    page = (out / "report.html").read_text()
    assert "<dt>queries</dt>" in page
    assert "queries before the block" in page
    assert "example-quota" in page
    assert f"queries = {run.filter.queries}" in (out / "filter.toml").read_text()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "filters",
    [
        pytest.param([PAPER, QUOTA_OF_6, NO_DEFENSE], marks=pytest.mark.slow),
        pytest.param([NO_DEFENSE, QUOTA_OF_6, PAPER], marks=pytest.mark.slow),
        [QUOTA_OF_6, PAPER, NO_DEFENSE],
    ],
)
def test_the_matrix_includes_the_quota_for_any_order_of_the_filters(
    filters: list[dict[str, object]], tmp_path: Path
) -> None:
    study = write_study(tmp_path / "study.toml", filters)
    out = tmp_path / "run"
    main(["matrix", str(study), "--plugin", str(QUOTA), "--out", str(out), "--backend", "in-process"])
    attacks = pq.read_table(out / "matrix_attacks.parquet").to_pandas()
    users = pq.read_table(out / "matrix_users.parquet").to_pandas()
    assert set(attacks["filter"]) == set(users["filter"]) == {"paper 3", "quota of 6"}
    assert (attacks.loc[attacks["filter"] == "quota of 6", "blocked_share"] == 1).all()
    assert (attacks.loc[attacks["filter"] == "quota of 6", "queries_to_block"] == 7).all()
