"""Live runs of a sample of the attackers that a comparison replayed."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from mifsim.errors import RunError, UserError
from mifsim.run.inputs import load_inputs
from mifsim.server.client_specs import ClientSpec, client_specs
from mifsim.study import Filter, Study
from tuning.admission.parts import Parts
from tuning.admission.tables import rows_of
from tuning.bench_studies import crossed_studies
from tuning.live import model_here, open_loop, run_live


def replayable_outcomes(parts: Parts) -> int:
    """Return the number of replayed attackers, of which `run_again` draws."""
    return len(rows_of(parts, "bench_outcomes"))


def run_again(parts: Parts, number: int, digest: str) -> int:
    """Run attackers of the table ``bench_outcomes`` live, and compare with the rows; return how many ran.

    The sample is drawn with equal probabilities, from a seed that is the digest of the run: nobody can choose it
    without changing the run. Each attacker starts from its seed, and queries the study's model, which is loaded or
    trained here, through the detector of the row. Query of the block and number of queries must be equal.

    Parameters
    ----------
    parts : Parts
    number : int
        Size of the sample; at most the number of rows is drawn. 0: nothing is loaded.
    digest : str
        Digest of the run, in hexadecimal; see `mifsim.tables.digests.run_digest`.

    Raises
    ------
    RunError
        If a row differs, the model is not the one of the run, or its answers are not deterministic.
    UserError
        If the data or the model cannot be loaded.
    """
    rows = rows_of(parts, "bench_outcomes")
    rng = np.random.default_rng(int(digest, 16))
    drawn = [rows[place] for place in np.sort(rng.choice(len(rows), min(number, len(rows)), replace=False)).tolist()]
    for knows, crossed in crossed_studies(parts.study):
        wanted = [row for row in drawn if row["knows_detector"] == knows]
        if wanted:
            _run(parts, open_loop(crossed), wanted)
    return len(drawn)


def _run(parts: Parts, crossed: Study, rows: list[dict[str, Any]]) -> None:
    populations = {row["client_id"].rsplit("/", 2)[0] for row in rows}
    detectors = list(dict.fromkeys(row["detector"] for row in rows))
    configs = {name: config for name in detectors if (config := parts.configs[name]) is not None}
    wanted = crossed.model_copy(
        update={
            "attacks": [attack for attack in crossed.attacks if attack.name in populations],
            "filters": [Filter(name=name, config=config) for name, config in configs.items()],
            "users": [],
            "leakage": crossed.leakage.model_copy(update={"enabled": False}),
        }
    )
    try:
        study, data, victim = load_inputs(wanted)
    except UserError as error:
        raise RunError(f"{error}; without the data and the model, a run is admitted with --replay 0 only") from None
    recorded = parts.facts["victim"]["fingerprint"]
    if victim.fingerprint != recorded or not victim.deterministic:
        here = f"fingerprint = {victim.fingerprint!r}" if victim.deterministic else "answers are not deterministic"
        raise RunError(
            f"{parts.run / 'run.json'}: victim.fingerprint = {recorded!r}: the model that is loaded or trained here: "
            f"{here}: sessions cannot be run again with it (accepted: the same model, or --replay 0, which the board "
            "states)"
        )
    specs: dict[str, list[ClientSpec]] = defaultdict(list)
    by_id = {spec.client_id: spec for spec in client_specs(study, parts.classes)}
    for row in rows:
        specs[row["detector"]].append(by_id[row["client_id"]])
    predict = model_here(study, data, victim)
    live = {
        (name, session.spec.client_id): {"queries": session.queries, "queries_to_block": session.queries_to_block}
        for name in detectors
        for session in run_live(study, [configs[name]], specs[name], predict, data)
    }
    for row in rows:
        found = live[row["detector"], row["client_id"]]
        for key, value in found.items():
            if row[key] != value:
                raise RunError(
                    f"{parts.run / 'bench_outcomes.parquet'}: detector = {row['detector']!r}, client_id = "
                    f"{row['client_id']!r}: {key} = {row[key]!r} by replay, {value!r} in a live run here (accepted: "
                    "equal numbers)"
                )
