"""The guard gives the verdicts of the detector, counts durably, and undoes what has no answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mifsim.defense import DetectorConfig, FilterConfig
from mifsim.defense.any_of import AnyOfConfig
from mifsim.defense.blacklight import BlacklightConfig
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.kinds import KINDS
from mifsim.defense.nearest import NearestConfig
from mifsim.defense.none import NoDefenseConfig
from mifsim.defense.osd_l2 import OsdL2Config
from mifsim.defense.osd_pca import OsdPcaConfig
from mifsim.defense.prada import PradaConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.message import Reply
from mifsim.guard.refusals import Refused
from mifsim.testing.streams import comparable, fitted, image_pool, judged
from tests.guard.guards import FILTER, SHAPE, Model, entry_of, request_for, settings, started, statuses, write_filter

POOL = image_pool(SHAPE)


BY_KIND: dict[str, DetectorConfig] = {
    "ssim-hash": FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=4, leak=0.1, repeats=4),
    "evidence": EvidenceConfig(
        k=2, memory=7, neighbours_radius=2.0, neighbours_limit=4, repeats_limit=3.5, repeats_leak=0.25, queries_limit=30
    ),
    "nearest": NearestConfig(radius=3.0, limit=4, memory=9),
    "any-of": AnyOfConfig(of=(PradaConfig(delta=0.95, min_distances=8), QuotaConfig(queries=20))),
    "quota": QuotaConfig(queries=12),
    "none": NoDefenseConfig(),
    "blacklight": BlacklightConfig(limit=3),
    "osd-l2": OsdL2Config(threshold=3.0, limit=4, k=2),
    "osd-pca": OsdPcaConfig(threshold=2.0, limit=4, k=2, memory=5),
    "prada": PradaConfig(delta=0.999, limit=2, min_distances=3),
}


def test_every_kind_is_tested() -> None:
    assert set(BY_KIND) == set(KINDS)


@pytest.fixture(params=BY_KIND, ids=BY_KIND.keys())
def config(request: pytest.FixtureRequest) -> DetectorConfig:
    return fitted(BY_KIND[request.param], SHAPE)


def stream(seed: int, length: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [POOL[i] for i in rng.integers(0, len(POOL), length)]


def test_verdicts_are_those_of_the_detector(config: DetectorConfig, tmp_path: Path) -> None:
    """Each query gets the verdict that it gets without a guard, and the model receives exactly the safe images."""

    async def check() -> None:
        model = Model()
        guard = await started(settings(tmp_path, config), model)
        for seed in range(3):
            images = stream(seed)
            expected = [200 if verdict == "SAFE" else 403 for verdict in _answered(config.detector(), images)]
            model.received.clear()
            assert await statuses(guard, images, f"user {seed}") == expected
            safe = [image for image, status in zip(images, expected, strict=True) if status == 200]
            assert [image.tobytes() for image in model.received] == [image.tobytes() for image in safe]
        await guard.stop()

    asyncio.run(check())


def _answered(detector: Any, images: list[np.ndarray]) -> list[str]:
    """Return verdicts as `judged` does, with the answers of the guard's model."""
    from mifsim.defense import ModelAnswer, Verdict

    found = []
    for image in images:
        verdict = detector.check(image)
        if verdict is Verdict.SAFE:
            mean = np.float32(image.mean())
            row = np.array([mean, 1 - mean, 0.5], np.float32)
            detector.observe(ModelAnswer(int(row.argmax()), row))
        found.append(verdict.name)
    return found


def test_no_count_falls_when_the_guard_restarts(config: DetectorConfig, tmp_path: Path) -> None:
    """After any number of restarts the counts are those before them, and a blocked client stays blocked."""

    async def check() -> None:
        url = {"url": f"sqlite:{tmp_path / 'guard.db'}"}
        images = stream(5, 39)
        blocked = False
        counts = ""
        for start in range(0, len(images), 3):
            guard = await started(settings(tmp_path, config, ledger=url), Model())
            entry = await entry_of(guard._ledger, guard)
            assert (entry.counts if entry else "") == counts
            found = await statuses(guard, images[start : start + 3])
            assert not blocked or found == [403] * 3
            blocked = found[-1] == 403
            entry = await entry_of(guard._ledger, guard)
            assert bool(entry.blocked) == blocked
            counts = entry.counts
            await guard.stop()

    asyncio.run(check())


def test_unanswered_queries_change_nothing(config: DetectorConfig, tmp_path: Path) -> None:
    """With any pattern of outages, the answered queries end as without the others, and the states are equal."""
    write_filter(tmp_path, config)

    @hypothesis_settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, len(POOL) - 1), st.integers(0, 4)), max_size=25))
    def over_streams(order: list[tuple[int, int]]) -> None:
        async def check() -> None:
            ledger, model = MemoryLedger(), Model()
            guard = await started(settings(tmp_path), model, ledger=ledger)
            detector = config.detector()
            for place, fault in order:
                model.fail = _FAULTS[fault]
                (status,) = await statuses(guard, [POOL[place]])
                if fault and status != 403:
                    assert status in (500, 502, 504)
                    continue
                before = detector.blocked
                (verdict,) = _answered(detector, [POOL[place]])
                assert status == (200 if verdict == "SAFE" else 403)
                if before or detector.blocked:
                    return
            session = guard._keeper.table.get(guard._identifier.client(request_for(POOL[0])))
            if session.detector is not None:
                assert comparable(session.detector.state_dict()) == comparable(detector.state_dict())
            entry = await entry_of(ledger, guard)
            if entry is not None and entry.queries:
                assert json.loads(entry.counts) == json.loads(json.dumps(detector.durable_counts()))
                assert entry.queries == sum(not fault for _, fault in order)

        asyncio.run(check())

    over_streams()


async def _refuse() -> Reply | None:
    raise Refused("upstream-failed")


async def _late() -> Reply | None:
    raise Refused("upstream-slow")


async def _error() -> Reply | None:
    return Reply(500)


async def _bug() -> Reply | None:
    raise ZeroDivisionError("a bug of the guard or of an application")


_FAULTS: list[Any] = [None, _refuse, _late, _error, _bug]


def test_a_block_of_an_unanswered_query_stays(tmp_path: Path) -> None:
    """A query that blocks was never passed on, so no outage undoes it."""

    async def check() -> None:
        model = Model()
        guard = await started(settings(tmp_path, QuotaConfig(queries=2)), model)
        assert await statuses(guard, POOL[:3]) == [200, 200, 403]
        model.fail = _refuse
        assert await statuses(guard, POOL[:2]) == [403, 403]
        assert len(model.requests) == 2

    asyncio.run(check())


def test_unanswered_queries_count_if_asked_for(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        guard = await started(settings(tmp_path, QuotaConfig(queries=2), sessions={"count_unanswered": True}), model)
        model.fail = _error
        assert await statuses(guard, POOL[:3]) == [500, 500, 403]

    asyncio.run(check())


def test_a_batch_is_as_many_queries_in_order(tmp_path: Path) -> None:
    """A batch ends as its images one by one; if one of them blocks, nothing of the batch reaches the model."""

    async def check() -> None:
        write_filter(tmp_path, FILTER)
        for seed in range(6):
            model, ledger = Model(), MemoryLedger()
            guard = await started(settings(tmp_path), model, ledger=ledger)
            detector, images = FILTER.detector(), stream(seed, 30)
            for start in range(0, 30, 3):
                batch = images[start : start + 3]
                verdicts = judged(detector, batch)
                if "UNSAFE" in verdicts:
                    with pytest.raises(Refused) as caught:
                        await guard.handle(request_for(batch))
                    assert caught.value.status == 403
                    assert len(model.received) == start
                    break
                reply = await guard.handle(request_for(batch))
                assert len(json.loads(reply.body)["predictions"]) == 3
                assert (await entry_of(ledger, guard)).queries == start + 3

    asyncio.run(check())


def test_an_invalid_image_in_a_batch_changes_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = MemoryLedger()
        guard = await started(settings(tmp_path), Model(), ledger=ledger)
        await statuses(guard, POOL[:2])
        before = await entry_of(ledger, guard)
        bad = POOL[4].copy()
        bad[0, 0] = 2.0
        with pytest.raises(Refused, match="values from") as caught:
            await guard.handle(request_for([POOL[3], bad]))
        assert caught.value.status == 400
        assert await entry_of(ledger, guard) == before

    asyncio.run(check())


def test_open_sessions_keep_their_detector_after_a_reload_and_a_restart(tmp_path: Path) -> None:
    async def check() -> None:
        url = {"url": f"sqlite:{tmp_path / 'guard.db'}"}
        guard = await started(settings(tmp_path, QuotaConfig(queries=3), ledger=url), Model())
        assert await statuses(guard, POOL[:2]) == [200, 200]
        write_filter(tmp_path, QuotaConfig(queries=1))
        await guard.reload(settings(tmp_path, ledger=url))
        assert await statuses(guard, POOL[:2], "bob") == [200, 403]
        assert await statuses(guard, POOL[2:3]) == [200]
        await guard.stop()
        guard = await started(settings(tmp_path, ledger=url), Model())
        assert await statuses(guard, POOL[3:5]) == [403, 403]
        assert await statuses(guard, POOL[:1], "bob") == [403]
        await guard.stop()

    asyncio.run(check())


def test_an_open_session_gets_its_answers_after_a_reload(tmp_path: Path) -> None:
    """The detector of an open session observes answers, although new sessions have one that does not."""

    async def check() -> None:
        config = PradaConfig(delta=0.999, limit=1, min_distances=3)
        write_filter(tmp_path, config)
        guard = await started(settings(tmp_path), Model())
        images = stream(0)
        expected = [200 if verdict == "SAFE" else 403 for verdict in _answered(config.detector(), images)]
        assert 403 in expected[2:]
        assert await statuses(guard, images[:2]) == expected[:2]
        write_filter(tmp_path, QuotaConfig(queries=1000))
        await guard.reload(settings(tmp_path))
        with pytest.raises(Refused, match="one image"):
            await guard.handle(request_for(images[2:4]))
        assert await statuses(guard, images[2:]) == expected[2:]
        assert (await guard.handle(request_for(images[2:4], "bob"))).status == 200

    asyncio.run(check())
