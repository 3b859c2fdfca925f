"""Rounds of faults: seeded traffic through a guard that fails, compared with the same traffic without a fault.

``python -m tests.guard.chaos.rounds --rounds 1000`` runs many rounds (``make guard-chaos``), each with one to four
kinds of faults; `test_rounds` runs a few. After each round:

* the count of a client has never fallen, except to undo a query without an answer, and no block has ended;
* every image was counted durably before the model was asked, and the model received what the client sent;
* no honest client is blocked that is not blocked without faults;
* no client has received more answers than without faults, but for the counts that forgotten images may miss, see
  `tests.guard.chaos.traffic.loss`; if its images were never forgotten, it received exactly the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

from mifsim.defense import FilterConfig
from mifsim.guard.ledger import Entry, Ledger
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.ledger.sqlite import SqliteLedger
from tests.guard.chaos.faults import Faults
from tests.guard.chaos.traffic import Client, counts, loss, most_answers, repeated, traffic
from tests.guard.chaos.world import World


def config_of(seed: int) -> FilterConfig:
    """Return the detector of a round."""
    rng = random.Random(f"config {seed}")
    return FilterConfig(
        t_ssim=0.9, t_hash=0.05, n_b=rng.choice((1, 2, 3, 5)), l_sp=rng.choice((3, 6, 10)),
        count_rule=rng.choice(("per_match", "per_query")),
    )  # fmt: skip


def run_round(seed: int, folder: Path) -> Faults:
    """Run a round, and return its faults.

    Raises
    ------
    AssertionError
        If a property does not hold.
    """
    config, clients = config_of(seed), traffic(seed)
    durable = random.Random(f"ledger {seed}").random() < 0.5
    quiet, faults = Faults(random.Random(seed)), Faults.of_round(seed)
    results = []
    for name, present in (("quiet", quiet), ("faults", faults)):
        part = folder / name
        part.mkdir(parents=True)
        root = MemoryLedger()
        path = str(part / "guard.db")

        def connect(root: MemoryLedger = root, path: str = path) -> Ledger:
            return SqliteLedger(path) if durable else MemoryLedger(root)

        world = World(
            part, config, clients, present, connect, policy="label" if "garbage" in faults.kinds else "confidence"
        )
        asyncio.run(world.run())
        results.append(world)
    undisturbed, disturbed = results
    for client in clients:
        check_client(config, client, undisturbed, disturbed)
    assert not disturbed.violations, disturbed.violations
    assert not undisturbed.violations, undisturbed.violations
    return faults


def check_client(config: FilterConfig, client: Client, undisturbed: World, disturbed: World) -> None:
    """Compare the outcome of a client in both runs."""
    name = client.name
    answered, expected = disturbed.answered[name], undisturbed.answered[name]
    assert expected == most_answers(config, client, 0)
    losses = disturbed.losses[name]
    most = most_answers(config, client, losses)
    assert answered <= most, (
        f"{name}: {answered} answers; at most {most} after {losses} losses, {expected} without faults"
    )
    if repeated(config, client) == 0:  # so it is for honest clients
        assert name in undisturbed.blocked or name not in disturbed.blocked, f"{name} is blocked only by faults"
    if losses == 0:
        assert answered == expected, f"{name}: {answered} answers instead of {expected}, and no image was lost"
    assert name in disturbed.blocked or answered == len(client.images), f"{name} did not end"
    history = disturbed.written[disturbed.hashes[name]]
    check_history(name, history)
    last = history[-1]
    assert last.queries >= answered
    assert bool(last.blocked) == (name in disturbed.blocked)
    if not last.blocked:
        # Queries after the last answer may be missing: the count is that of all images.
        whole = counts(config, client)[-1]
        most_count = whole + losses * repeated(config, client)
        assert whole - losses * loss(config) <= count_of(last) <= most_count, f"{name}: {count_of(last)} of {whole}"


def check_history(name: str, history: list[Entry]) -> None:
    """Check that counts never fell, except to those before an unanswered query, and that no block ended."""
    for number, (before, after) in enumerate(pairwise(history)):
        assert not before.blocked, f"{name}: written after the block: {after}"
        assert after.started == before.started or before.queries == 0, f"{name}: a new session: {before}, {after}"
        if count_of(after) < count_of(before) or after.queries < before.queries:
            earlier = [entry._replace(epoch=after.epoch) for entry in history[:number]]
            is_new = after.queries == 0 and not after.counts
            assert is_new or after in earlier, f"{name}: a count fell: {before}, {after}"
            assert after.queries < before.queries


def count_of(entry: Entry) -> float:
    """Return the count of an entry of the filter."""
    return float(json.loads(entry.counts)["count"]) if entry.counts else 0.0


def main() -> None:
    """Run the rounds, and print how often each fault has happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the others follow")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    happened: Counter[str] = Counter()
    failed = []
    start = time.monotonic()
    for seed in range(options.seed, options.seed + options.rounds):
        with tempfile.TemporaryDirectory(prefix="mifsim-guard-chaos-") as folder:
            try:
                happened.update(run_round(seed, Path(folder)).happened)
            except AssertionError as error:
                failed.append(seed)
                print(f"round {seed}: FAILED: {error}", flush=True)
        if (seed + 1 - options.seed) % 100 == 0:
            print(f"{seed + 1 - options.seed} rounds, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{options.rounds - len(failed)} rounds passed, {len(failed)} failed, {time.monotonic() - start:.0f} s")
    print(", ".join(f"{kind}: {number}" for kind, number in sorted(happened.items())))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
