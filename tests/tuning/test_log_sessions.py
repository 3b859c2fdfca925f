"""Clients of a log with several sessions: replay equals the live run, session by session; tests count clients once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.defense import DetectorConfig, FilterConfig, load_config
from mifsim.defense.any_of import AnyOfConfig
from mifsim.defense.blacklight import BlacklightConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.study.splitting import SPLITS
from mifsim.tables.records import read_table
from tests.logs import digit_png, write_log
from tests.tuning.studies import (
    FormulaBackend,
    assert_live_matches_replay,
    digits,
    formula_model,
    formula_victim,
    tiny_study,
)
from tuning.bench import bench
from tuning.certify import certify
from tuning.live import LiveReplay
from tuning.replay import replay
from tuning.trace_loading import load
from tuning.tracedata import TraceSet
from tuning.traces import record, recording_specs

pytestmark = pytest.mark.usefixtures("empty_cache")

HOUR = 3_600_000_000
START = 1_790_000_000_000_000  # microseconds since 1970
CLIENTS = 9


def sessions_log(path: Path) -> Path:
    """Write a log in which client k has 1 + k % 4 sessions of 2 + k % 3 images, an hour apart.

    An even client sends the same images in each session; all send one image twice in a row.
    """
    rows: list[tuple[str | None, int, bytes]] = []
    for client in range(CLIENTS):
        for session in range(1 + client % 4):
            for number in range(2 + client % 3):
                image = 7 * client + number // 2 + (0 if client % 2 == 0 else 5 * session)
                rows.append(
                    (f"c{client}", START + (client + 10 * session) * HOUR + 60 * 10**6 * number, digit_png(image))
                )
    return write_log(path, rows)


def configs() -> dict[str, DetectorConfig]:
    """Return configurations of several kinds, of which each blocks some session in one of the scopes at least."""
    strict = FilterConfig(0.95, 0.01, 4, 3)
    return {
        "plain": strict,
        "windows": FilterConfig(0.3, 0.1, 5, 6, ssim="uniform"),
        "leak": FilterConfig(0.95, 0.01, 6, 3, leak=0.25, repeats=5),
        "quota": QuotaConfig(5),
        "blacklight": BlacklightConfig(threshold=10, limit=3),
        "any": AnyOfConfig(of=(QuotaConfig(8), strict)),
    }


def with_scope(config: DetectorConfig, scope: str) -> DetectorConfig:
    return type(config).from_dict(
        {key: value for key, value in {**config.to_dict(), "scope": scope}.items() if key != "kind"}
    )


def study_of(log: Path, *, gap: str | None = "30min", **changes: Any) -> Study:
    filters = [
        {"name": f"{name} {scope}", **with_scope(config, scope).to_dict()}
        for name, config in configs().items()
        for scope in ("session", "client")
    ]
    users = [{"user": "log", "path": str(log), "sessions": "all", **({} if gap is None else {"session_gap": gap})}]
    return tiny_study(**{"filters": filters, "users": users, **changes})


def recorded(study: Study, folder: Path) -> TraceSet:
    recording = record(study, digits(study), formula_victim(folder), FormulaBackend())
    return load(recording.path, study)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, TraceSet]]:
    """The study with sessions divided by pauses, and its recording, which the tests share."""
    folder = tmp_path_factory.mktemp("log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIFSIM_CACHE_DIR", str(folder / "cache"))
        study = study_of(sessions_log(folder / "log.parquet"))
        yield study, recorded(study, folder)


def test_every_session_ends_live_as_its_replay_predicts_in_both_scopes(
    once: tuple[Study, TraceSet], tmp_path: Path
) -> None:
    study, traces = once
    users = traces.subset(~traces.is_attack)
    assert users.sessions == sum(1 + client % 4 for client in range(CLIENTS))
    expected = assert_live_matches_replay(study, traces, tmp_path / "live")
    assert len(expected) == 2 * len(configs()) * traces.sessions
    blocked = {item.name: replay(users, item.config).blocked_at for item in study.filters}
    for name in configs():
        of_session, of_client = blocked[f"{name} session"], blocked[f"{name} client"]
        assert (of_client > 0).sum() > (of_session > 0).sum(), name  # the state of a client remembers more
    # A detector of scope client refuses each later session of a blocked client at its first query.
    rows = read_table(tmp_path / "live", "sessions").to_pandas()
    rows = rows[(rows["role"] == "user") & (rows["filter"] == "quota client")]
    for _, sessions in rows.groupby("client_id", observed=True):
        lengths = sessions["queries"].to_numpy()
        first = np.flatnonzero(sessions["outcome"] == "blocked")
        if len(first):
            assert lengths[: first[0] + 1].sum() == 6
            assert (lengths[first[0] + 1 :] == 1).all()
            assert (sessions["outcome"][first[0] :] == "blocked").all()


def test_a_quota_of_clients_follows_from_the_lengths_of_their_sessions(once: tuple[Study, TraceSet]) -> None:
    """A quota of 5 refuses the sixth query of a client; in the scope of sessions, which are shorter, none."""
    _, traces = once
    users = traces.subset(~traces.is_attack)
    lengths = np.diff(users.offsets)
    assert not replay(users, QuotaConfig(5)).blocked_at.any()
    found = replay(users, QuotaConfig(5, scope="client")).blocked_at
    for client in np.unique(users.clients):
        sent = 0
        for session in np.flatnonzero(users.clients == client):
            at = 6 - sent
            assert found[session] == (0 if at > lengths[session] else max(at, 1))
            sent += lengths[session]


def test_without_a_division_a_client_has_one_session_and_both_scopes_are_equal(tmp_path: Path) -> None:
    study = study_of(sessions_log(tmp_path / "log.parquet"), gap=None)
    traces = recorded(study, tmp_path)
    assert not traces.several
    assert {spec.scope for spec in recording_specs(study)} == {"session"}
    for config in configs().values():
        pair = [replay(traces, with_scope(config, scope)).blocked_at.tolist() for scope in ("session", "client")]
        assert pair[0] == pair[1]


def test_a_live_replay_returns_the_same_outcomes(once: tuple[Study, TraceSet]) -> None:
    study, traces = once
    data = digits(study)
    live = LiveReplay(study, formula_model(study, data, None), data)
    for scope in ("session", "client"):
        config = with_scope(configs()["plain"], scope)
        object.__setattr__(config, "replayable", lambda: False)
        np.testing.assert_array_equal(
            live(traces, config).blocked_at, replay(traces, with_scope(configs()["plain"], scope)).blocked_at
        )


def test_a_test_counts_one_session_of_each_client(once: tuple[Study, TraceSet]) -> None:
    _, traces = once
    counted = traces.one_per_client
    users = ~traces.is_attack
    assert sorted(traces.clients[counted & users]) == sorted(set(traces.clients[users]))
    assert (traces.session_numbers[counted & users] > 1).any()
    search, held_out, _ = (traces.of_split(split) for split in SPLITS)
    config = with_scope(configs()["quota"], "client")
    certificate = certify(search, held_out, [config], 0.9)
    tested = held_out.one_per_client & ~held_out.is_attack
    assert certificate.sessions.tolist() == [len(set(held_out.clients[~held_out.is_attack]))] == [int(tested.sum())]
    assert certificate.blocked.tolist() == [[int((replay(held_out, config).blocked_at[tested] > 0).sum())]]
    assert certificate.sampled == ("log",)


def test_a_calibration_states_the_policy_in_filter_toml(tmp_path: Path, calibrate: Callable[..., Path]) -> None:
    log = sessions_log(tmp_path / "log.parquet")
    tuning = {"trials": 8, "scope": "client", "space": {"n_b": {"max": 6}, "l_sp": {"min": 2, "max": 20}},
              "false_positive_limit": 0.9, "false_positive_budget": 0.95, "confidence": 0.5}  # fmt: skip
    run = calibrate(study_of(log, tuning=tuning, filters=[{"none": True}]), "run")
    document = tomllib.loads((run / "filter.toml").read_text())
    assert load_config(run / "filter.toml").scope == "client"
    (stated,) = document["logs"]
    assert (stated["workload"], stated["session_gap_seconds"], stated["lost_rows"]) == ("log", 1800.0, 0)
    assert stated["policy"].startswith("a pause of more than 30 minutes ends a session; ")
    assert "one session of each client was tested" in document["guarantee"]["text"]
    facts = json.loads((run / "run.json").read_text())
    assert facts["logs"]["log"]["sessions"] == sum(1 + client % 4 for client in range(CLIENTS))
    assert "hypervolume" not in facts["tuning"]  # there is no reference front over the sessions of clients
    (workload,) = document["guarantee"]["workloads"]
    assert workload["sessions"] == 3
    assert facts["tuning"]["confirmed_sessions"] > 0


def test_a_comparison_of_scopes_refuses_clients_with_several_sessions(tmp_path: Path) -> None:
    detectors = [{"name": "a", "kind": "quota"}]
    tuning = {"false_positive_limit": 0.9, "false_positive_budget": 0.95, "confidence": 0.5}
    study = study_of(sessions_log(tmp_path / "log.parquet"), tuning=tuning, bench={"detectors": detectors})
    with pytest.raises(StudyError, match=r"needs logs whose clients have one session, .*; remove session_gap"):
        bench(study, tmp_path / "run", backend="in-process")
    assert not (tmp_path / "run").exists()
