"""A run is admitted to a board only if all its files agree: each altered folder is refused, with the altered place."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from mifsim.cli import main
from mifsim.cli.board import admit
from mifsim.errors import UserError
from mifsim.run import simulate as simulation
from mifsim.run.fits import fit_detectors
from mifsim.tables.digests import result_digests, run_digest
from reports.bench import write_bench
from reports.results_board.board import read_board
from tests.tuning.studies import FormulaBackend, digits, formula_model, formula_victim, serial_search
from tests.tuning.test_bench import bench_study
from tuning import bench as comparison
from tuning import tune as calibration
from tuning.admission import live_sample as live

BENCH = {
    "detectors": [{"name": "evidence", "kind": "evidence"}, {"name": "quota", "kind": "quota", "trials": 6}],
    "trials": 2,
    "knowing": [[{"sharpen": 1.0}]],
    "unseen": [{"user": "bursts", "name": "noisy bursts", "sessions": 10, "length": 4, "noise": 0.1}],
}
MATRIX = {"evasions": [[], [{"rotate": {}}]]}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A complete comparison: two calibrated detectors, a filter, open-loop and closed-loop attackers; and no Ray."""
    folder = tmp_path_factory.mktemp("admission")

    def inputs(study: Any) -> Any:
        data = digits(study)
        return fit_detectors(study, data), data, formula_victim(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIFSIM_CACHE_DIR", str(folder / "cache"))
        for module in (comparison, simulation, calibration):
            patch.setattr(module, "load_inputs", inputs)
            patch.setattr(module, "make_backend", lambda *where: FormulaBackend())
        patch.setattr("tuning.calibration.model_here", formula_model)
        patch.setattr("tuning.search.search", serial_search)
        patch.setattr(live, "load_inputs", inputs)
        patch.setattr(live, "model_here", formula_model)
        run = comparison.bench(bench_study(bench=BENCH, matrix=MATRIX), folder / "run")
        write_bench(run)
        yield run  # type: ignore[misc]


@pytest.fixture
def run(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "run"))


def checked(run: Path, replays: int = 0) -> Any:
    return admit(run, run_digest(run), replays)


def alter(path: Path, place: int, **values: Any) -> None:
    """Replace values in one row of a table, whose schema stays."""
    table = pq.read_table(path, partitioning=None)
    rows = table.to_pylist()
    rows[place].update(values)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def alter_facts(run: Path, **values: Any) -> None:
    """Replace facts of ``run.json``; None removes one."""
    path = run / "run.json"
    plain = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in plain.items() if value is not None}))


def alter_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def as_recorded(run: Path) -> None:
    """Record the digests of the altered files, as one who alters a run on purpose would."""
    for part in (*run.glob("*/*/run.json"), run / "run.json"):
        alter_facts(part.parent, digests=result_digests(part.parent))


def test_a_complete_run_is_admitted(complete: Path) -> None:
    found = checked(complete, 5)
    assert found.digests == "equal"
    assert found.replayed_live == 5
    # Three detectors; six attackers with no evasion and with sharpen are replayed; rotate runs live against each
    # detector in two scopes, and without one.
    classes, trials = 2, 2
    assert f"the {3 * 2 * classes * trials + 7 * classes * trials} attackers" in found.checked
    assert f"5 of the {3 * 2 * classes * trials} replayed attackers" in found.checked
    assert "2 certificates" in found.checked
    assert "leakage scores were not computed anew" in found.not_checked


def test_a_complete_run_records_the_digests_of_what_it_wrote(complete: Path) -> None:
    recorded = json.loads((complete / "run.json").read_text())["digests"]
    assert set(recorded) == {item.name + "/" * item.is_dir() for item in complete.iterdir()} - {
        "run.json", "cells.parquet", "ablations.parquet"
    }  # fmt: skip
    assert recorded["study.toml"] == hashlib.sha256((complete / "study.toml").read_bytes()).hexdigest()
    files = sorted(f"{file.relative_to(complete)}" for file in (complete / "closed-loop").rglob("*") if file.is_file())
    lines = [f"{hashlib.sha256((complete / name).read_bytes()).hexdigest()}  {name}\n" for name in files]
    assert recorded["closed-loop/"] == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_run_without_its_data_is_not_run_again(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(study: Any) -> Any:
        raise UserError("data.folder = 'x': no such folder")

    monkeypatch.setattr(live, "load_inputs", absent)
    with pytest.raises(UserError, match=r"no such folder; .* admitted with --replay 0 only"):
        checked(complete, 1)


def test_another_model_is_refused(run: Path) -> None:
    victim = {**json.loads((run / "run.json").read_text())["victim"], "fingerprint": "another"}
    for part in (*run.glob("*/*/run.json"), run / "run.json"):
        alter_facts(part.parent, victim=victim)
    as_recorded(run)
    with pytest.raises(UserError, match=r"victim\.fingerprint = 'another': .* fingerprint = 'formula'"):
        checked(run, 1)


def test_a_run_without_digests_is_admitted_and_says_so(run: Path) -> None:
    alter_facts(run, digests=None)
    found = checked(run)
    assert (found.digests, found.replayed_live) == ("not recorded", 0)
    assert "digests: run.json records none" in found.not_checked
    assert "digests" not in found.checked


def _drop_column(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns("high"), path)


def _other_version(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"schema_version": b"1"}), path)


def _other_seed(run: Path) -> None:
    """Alter the seed of a calibration, and let its own files agree."""
    from mifsim.study import Study

    folder = run / "calibrations" / "quota"
    alter_text(folder / "study.toml", "seed = 5", "seed = 6")
    fingerprint = Study.load(folder / "study.toml").fingerprint
    alter_facts(folder, seed=6, study_fingerprint=fingerprint)
    for file in folder.rglob("*.parquet"):
        table = pq.read_table(file, partitioning=None)
        changed = {b"seed": b"6", b"study_fingerprint": fingerprint.encode()}
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **changed}), file)


def _other_outcome(run: Path, outcome: str) -> None:
    """Alter the outcome of a live attacker under the calibrated quota, which does not block it."""
    for file in sorted((run / "calibrations/quota/sessions").iterdir()):
        rows = pq.read_table(file, partitioning=None).to_pylist()
        places = [place for place, row in enumerate(rows) if row["population"] == "mi-face"]
        if places:
            assert rows[places[0]]["outcome"] not in ("blocked", outcome)
            alter(file, places[0], outcome=outcome)
            return
    raise AssertionError("no attacker")


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unfinished": (lambda run: alter_facts(run, status="interrupted"), r"run\.json: status = 'interrupted' \(accepted"),
    "unfinished part": (
        lambda run: alter_facts(run / "closed-loop" / "matrix", status="failed"),
        r"matrix/run\.json: status = 'failed'",
    ),
    "no comparison": (lambda run: alter_facts(run, bench=None), "bench: missing: not the run of a comparison"),
    "missing table": (lambda run: (run / "workloads.parquet").unlink(), r"workloads\.parquet: missing"),
    "missing part": (lambda run: shutil.rmtree(run / "calibrations" / "quota"), "calibrations"),
    "column": (lambda run: _drop_column(run / "cells.parquet"), r"cells\.parquet: high: missing"),
    "version": (lambda run: _other_version(run / "cells.parquet"), r"cells\.parquet: schema_version = '1' \(accepted"),
    "other run": (lambda run: alter_facts(run, run_id="r-2"), r"run_id = 'r-.*' \(accepted: 'r-2'\)"),
    "seed": (lambda run: alter_facts(run, seed=6), r"seed = '5' \(accepted: '6'\)"),
    "seed of a part": (_other_seed, "quota/study.toml: seed: not the value that follows"),
    "study": (
        lambda run: alter_text(run / "study.toml", 'description = ""', 'description = "better"'),
        r"run\.json: study_fingerprint = .* was changed after the run",
    ),
    "attacker": (
        lambda run: alter(run / "bench_outcomes.parquet", 3, client_id="mi-face/7/0"),
        r"bench_outcomes\.parquet: .*client_id = 'mi-face/7/0'.*: is not of the study",
    ),
    "outcome": (
        lambda run: alter(run / "bench_outcomes.parquet", 0, queries_to_block=None),
        r"cells\.parquet: detector = 'evidence'.* blocked = \d, but the other files of the run give",
    ),
    "cell": (lambda run: alter(run / "cells.parquet", 0, stopped=False), r"cells\.parquet: .*: stopped = False, but"),
    "detector": (
        lambda run: alter(run / "detectors.parquet", 0, configuration="{}"),
        r"detectors\.parquet: 'evidence', .*: configuration = '\{\}'",
    ),
    "workload": (
        lambda run: alter(run / "workloads.parquet", 0, limit=0.001),
        r"workloads\.parquet: .*limit = 0\.001 \(accepted",
    ),
    "p-value": (
        lambda run: alter(run / "calibrations" / "quota" / "certification.parquet", 0, p_value=0.0001),
        r"certification\.parquet: independent: p_value = 0\.0001",
    ),
    "guarantee": (
        lambda run: alter_text(run / "calibrations/quota/filter.toml", "confidence = 0.", "confidence = 0.9"),
        r"filter\.toml: guarantee\.confidence = 0\.9",
    ),
    "chosen": (
        lambda run: alter_text(run / "calibrations/quota/filter.toml", "queries = ", "queries = 1"),
        r"quota/filter\.toml: filter: run\.json states tuning\.chosen",
    ),
    "live": (
        lambda run: _other_outcome(run, "blocked"),
        r"quota/run\.json: tuning\.test\.calibrated: mi-face: blocked = 0 by replay, 1 live",
    ),
    "failed session": (lambda run: _other_outcome(run, "failed"), r"quota/sessions: .*: outcome = 'failed'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_altered_run_is_refused(name: str, run: Path) -> None:
    change, message = CHANGES[name]
    change(run)
    as_recorded(run)
    with pytest.raises(UserError, match=message):
        checked(run)


def test_an_altered_file_has_another_digest_than_the_recorded_one(run: Path) -> None:
    alter(run / "bench_outcomes.parquet", 0, leakage_at_block=0.0)
    with pytest.raises(UserError, match=r"bench_outcomes\.parquet: SHA-256 .* digests\.bench_outcomes\.parquet"):
        checked(run)
    (run / "bench_ablations.parquet").unlink()
    with pytest.raises(UserError, match=r"bench_ablations\.parquet: missing: run\.json records"):
        checked(run)


def test_unconfirmed_sessions_are_refused(run: Path) -> None:
    folder = run / "calibrations" / "evidence"
    facts = json.loads((folder / "run.json").read_text())["tuning"]
    for changed, message in (
        ({"confirmed_sessions": 1}, "confirmed_sessions = 1"),
        ({"differing_sessions": 2}, "2 differ from the replay"),
    ):
        alter_facts(folder, tuning={**facts, **changed})
        as_recorded(run)
        with pytest.raises(UserError, match=message):
            checked(run)


def test_a_replayed_attacker_that_is_blocked_elsewhere_live_is_refused(run: Path) -> None:
    path = run / "bench_outcomes.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        if row["detector"] == "two":
            row |= {"queries": 4, "queries_to_block": 4}
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    write_bench(run)  # the cells follow from the altered rows, so that only a live run can tell
    as_recorded(run)
    with pytest.raises(UserError, match=r"detector = 'two'.*: queries = 4 by replay, 3 in a live run here"):
        checked(run, len(rows))


def test_the_command_adds_lists_replaces_and_removes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    board = tmp_path / "board"
    place = ["--board", str(board)]
    main(["board", "add", str(run), "--replay", "2", *place])
    table = read_board(board)
    cells = pd.read_parquet(run / "cells.parquet")
    assert len(table) == len(cells) == 3 * 2 * 3
    for column in ("detector", "scope", "attack", "evasion", "blocked", "mean_queries", "stopped"):
        assert table[column].tolist() == cells[column].tolist(), column
    for row in table.itertuples():
        interval = binomtest(int(row.blocked), int(row.attackers)).proportion_ci(0.95, "exact")
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    assert set(table["replayed_live"]) == {2}
    assert table.groupby("detector")["certified"].all().to_dict() == {"evidence": True, "quota": True, "two": False}
    before = {file.name: file.read_bytes() for file in board.iterdir()}
    assert set(before) == {"board.parquet", "index.html", "README.md"}

    capsys.readouterr()
    main(["board", "add", str(run), *place])
    assert "is on the board already" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in board.iterdir()} == before

    alter_facts(run, started="another time")  # another run of the same study and seed
    with pytest.raises(SystemExit) as exit_:
        main(["board", "add", str(run), "--replay", "0", *place])
    assert exit_.value.code == 2
    assert "of the same study is on the board (accepted: --replace" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in board.iterdir()} == before
    main(["board", "add", str(run), "--replay", "0", "--replace", *place])
    replaced = read_board(board)
    assert len(replaced) == len(table)
    assert set(replaced["replayed_live"]) == {0}
    assert set(replaced["run_digest"]) != set(table["run_digest"])

    run_id = replaced["run_id"].iloc[0]
    main(["board", "list", *place])
    assert run_id in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["board", "remove", "r-0", *place])
    assert run_id in capsys.readouterr().err
    main(["board", "remove", run_id, *place])
    assert read_board(board).empty
