"""The tables of a comparison against its study: whose rows there are, and what ran live against what was replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pyarrow as pa

from mifsim.errors import RunError
from mifsim.run.folder import read_facts
from mifsim.server.client_specs import client_specs
from mifsim.tables.bench_schemas import BENCH_SCHEMAS
from mifsim.tables.records import read_checked, read_table
from tuning.admission.parts import Parts
from tuning.bench_outcomes import attack_text, evasion_text
from tuning.bench_studies import crossed_studies
from tuning.live import open_loop
from tuning.study_check import CALIBRATED

_RELATIVE = 1e-9
"""Relative difference up to which means are equal: another processor may add in another order."""


def rows_of(parts: Parts, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table of a comparison."""
    rows: list[dict[str, Any]] = read_checked(parts.run / f"{table}.parquet", BENCH_SCHEMAS[table]).to_pylist()
    return rows


def check_attackers(parts: Parts) -> int:
    """Check that the attackers in the tables are exactly those of the study; return their number.

    An attacker draws from a seed that follows from the study's seed and its id.

    Raises
    ------
    RunError
        If one is missing, or is not an attacker of the study.
    """
    expected: Counter[tuple[Any, ...]] = Counter()
    replayed = [name for name, config in parts.configs.items() if config is not None and config.replayable()]
    for knows, crossed in crossed_studies(parts.study):
        attacks = open_loop(crossed).model_copy(update={"users": [], "filters": crossed.filters[:1]})
        texts = {attack.name: (attack_text(attack), evasion_text(attack)) for attack in attacks.attacks}
        for spec in client_specs(attacks, parts.classes):
            name = attacks.attacks[spec.population].name
            expected.update((detector, *texts[name], spec.client_id, knows) for detector in replayed)
    keys = ("detector", "attack", "evasion", "client_id", "knows_detector")
    found = Counter(tuple(row[key] for key in keys) for row in rows_of(parts, "bench_outcomes"))
    _check_same(f"{parts.run / 'bench_outcomes.parquet'}", keys, found, expected)
    total = found.total()
    for knows, study in parts.closed_loop.items():
        folder = parts.simulation(knows)
        sessions = read_table(folder, "sessions", ["client_id", "filter"])
        pairs = {(row["client_id"], str(row["filter"])) for row in sessions.to_pylist()}
        wanted = {(spec.client_id, study.filters[spec.filter].name) for spec in client_specs(study, parts.classes)}
        _check_same(f"{folder / 'sessions'}", ("client_id", "filter"), Counter(pairs), Counter(wanted))
        total += len(pairs)
    return total


def _check_same(place: str, keys: tuple[str, ...], found: Counter[Any], expected: Counter[Any]) -> None:
    for difference, problem in (
        (found - expected, "is not of the study, or is there twice"),
        (expected - found, "is missing"),
    ):
        if difference:
            row = ", ".join(f"{key} = {value!r}" for key, value in zip(keys, min(difference), strict=True))
            raise RunError(
                f"{place}: {row}: {problem} ({difference.total():,} such rows; accepted: one row for each attacker of "
                "the study)"
            )


def check_detectors(parts: Parts) -> None:
    """Check that the table of detectors has the configurations of the calibrations and of the study's filters.

    Raises
    ------
    RunError
        If a row is missing, or has another configuration.
    """
    path, names = parts.run / "detectors.parquet", [item.name for item in parts.study.bench.detectors]
    found = {(row["detector"], row["scope"]): row for row in rows_of(parts, "detectors")}
    for name, config in parts.configs.items():
        for scope in parts.study.bench.scopes:
            row = found.pop((name, scope), None)
            if row is None:
                raise RunError(f"{path}: detector = {name!r}, scope = {scope!r}: missing (accepted: one row of each)")
            cells = {"kind": None, "config": None} if config is None else replace(config, scope=scope).to_cells()
            expected = {"kind": cells["kind"], "configuration": cells["config"], "calibrated": name in names}
            for key, value in expected.items():
                if row[key] != value:
                    raise RunError(f"{path}: {name!r}, {scope}: {key} = {row[key]!r} (accepted: {value!r})")
    if found:
        raise RunError(
            f"{path}: detector = {min(found)[0]!r}: is not of the study (accepted: {', '.join(parts.configs)})"
        )


def check_live_sessions(parts: Parts) -> int:
    """Compare the live sessions of each calibration with what the replay predicted; return their number.

    The live sessions are rows of the calibration. The predictions are the figures of its ``run.json``, and the table
    ``workloads`` of the comparison: numbers of sessions, of blocked ones, and the mean queries to block.

    Raises
    ------
    RunError
        If a number differs, or the run states no confirmation.
    """
    tested = {
        (row["detector"], row["workload"]): (row["sessions"], row["blocked"])
        for row in rows_of(parts, "workloads")
        if row["split"] == "test"
    }
    total = 0
    for detector in parts.calibrations:
        config = parts.configs[detector]
        if config is None:
            continue
        folder = parts.calibration(detector)
        facts = read_facts(folder).get("tuning") or {}
        reacting = {attack.name for attack in parts.calibrations[detector].attacks if attack.closed_loop}
        rows = read_table(folder, "sessions", _COLUMNS)
        live = _live_figures(rows, reacting)
        file = folder / "run.json"
        for row in rows.to_pylist():
            if row["outcome"] == "failed":
                raise RunError(
                    f"{folder / 'sessions'}: {row['session_id']}: outcome = 'failed' (accepted: none failed)"
                )
        sessions = sum(found["sessions"] for found in live.values())
        if facts.get("confirmed_sessions") != sessions or facts.get("differing_sessions"):
            raise RunError(
                f"{file}: tuning.confirmed_sessions = {facts.get('confirmed_sessions')!r}: the run has {sessions:,} "
                f"live sessions, of which {facts.get('differing_sessions', 0):,} differ from the replay (accepted: all "
                "are confirmed, none differs)"
            )
        predicted = {row["group"]: row for row in facts.get("test", {}).get(CALIBRATED, [])}
        if predicted.keys() != live.keys():
            raise RunError(
                f"{file}: tuning.test.{CALIBRATED}: other groups than in {folder / 'sessions'} (accepted: "
                f"{', '.join(live)})"
            )
        for group, found in live.items():
            for key, value in found.items():
                if not _equal(predicted[group][key], value):
                    raise RunError(
                        f"{file}: tuning.test.{CALIBRATED}: {group}: {key} = {predicted[group][key]!r} by replay, "
                        f"{value!r} live in {folder / 'sessions'} (accepted: equal numbers)"
                    )
            counts = (found["sessions"], found["blocked"])
            if (detector, group) in tested and tested[detector, group] != counts:
                raise RunError(
                    f"{parts.run / 'workloads.parquet'}: {detector!r}, {group!r}, test: sessions, blocked = "
                    f"{tested[detector, group]} by replay, {counts} live in {folder / 'sessions'} (accepted: equal "
                    "numbers)"
                )
        total += sessions
    return total


_COLUMNS = ["session_id", "population", "role", "filter", "outcome", "queries_to_block", "budget_queries"]


def _live_figures(sessions: pa.Table, without: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the figures of the calibrated filter by population, without those of closed-loop attackers."""
    found: dict[str, dict[str, Any]] = {}
    queries: dict[str, list[int]] = {}
    for row in sessions.to_pylist():
        if row["filter"] != CALIBRATED or row["population"] in without:
            continue
        figures = found.setdefault(row["population"], {"sessions": 0, "blocked": 0, "queries_to_block": None})
        figures["sessions"] += 1
        figures["blocked"] += row["outcome"] == "blocked"
        if row["role"] == "attacker":
            queries.setdefault(row["population"], []).append(row["queries_to_block"] or row["budget_queries"])
    for name, values in queries.items():
        found[name]["queries_to_block"] = sum(values) / len(values)
    return found


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _RELATIVE * max(abs(one), abs(other))
    return bool(one == other)
