"""Every registered evasion keeps the contract, alone and around one another; and each does what it says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mifsim.clients import EVASIONS, Answer, ClientGenerator, Evasion, Query, Refusal, World, evasion_class
from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.study.populations import Attacks, read_evasions
from mifsim.testing import EvasionConformance
from mifsim.testing.worlds import Runs, SoftmaxLinear, StrictPool, converse, small_world

EvasionRows = list[dict[str, Any]]
OTHERS: list[EvasionRows] = [
    [{"decoys": 1}, {"rotate": 3}],
    [{"rotate": {}}, {"decoys": 2}],
    [{"interleave": 3}, {"noise": 0.1}],
    [{"rotate": {"sessions": 2}}, {"interleave": 2}],
    [{"deduplicate": {}}, {"brightness": 0.2}, {"probe": {"sessions": 2, "patience": 3}}],
    [{"probe": {"sessions": 1, "patience": 2}}, {"decoys": 1}],
    [{"accounts": {"accounts": 2, "turn": 3}}, {"decoys": 1}],
    [{"accounts": 2}, {"rotate": {"sessions": 2}}],
    [{"rotate": {"every": 3, "clients": 2}}, {"accounts": {"order": "one-after-another"}}],
    [{"morph": 0.3}, {"sharpen": 1.0}],
]
CHANGES: dict[str, Mapping[str, Any]] = {
    "noise": {"sd": 0.1},
    "brightness": {"most": 0.5},
    "contrast": {"most": 0.1},
    "motion": {"pixels": 3.0, "degrees": 0.0},
    "sharpen": {"strength": 2.0, "sigma": 2.0},
    "denoise": {"sigma": 1.0},
    "morph": {"share": 0.6},
    "texture": {"strength": 2.0, "sigma": 2.0},
    "decoys": {"between": 1},
    "interleave": {"targets": 2},
    "rotate": {"every": 3, "sessions": 1, "clients": 2},
    "accounts": {"accounts": 2, "order": "one-after-another", "turn": 2},
    "probe": {"sessions": 2, "patience": 3, "least": 0.01, "most": 0.1},
}
"""What changes each evasion; see `test_the_oldest_answer_is_forgotten_first` for that of `deduplicate`."""


def wrapped(evasions: EvasionRows, **attack: Any) -> Attacks:
    return Attacks.model_validate({"attack": "mi-face", "beta": 0, "gamma": 0.0, **attack, "evasions": evasions})


def described(evasions: EvasionRows) -> str:
    return "+".join(str(one) for one in evasions)


class TestEvasions(EvasionConformance):
    """Every registered evasion alone, and some around one another: the last one of a row is then the one tested."""

    @pytest.fixture(params=[*([{name: {}}] for name in EVASIONS), *OTHERS], ids=described)
    def rows(self, request: pytest.FixtureRequest) -> EvasionRows:
        found: EvasionRows = request.param
        return found

    @pytest.fixture
    def evasions(self, rows: EvasionRows) -> tuple[Evasion, ...]:
        return read_evasions(rows)

    @pytest.fixture
    def evasion(self, evasions: tuple[Evasion, ...]) -> Evasion:
        return evasions[-1]

    @pytest.fixture
    def changes(self, rows: EvasionRows) -> Mapping[str, Any]:
        (name,) = rows[-1]
        return CHANGES.get(name, {}) if len(rows) == 1 else {}

    def test_a_population_of_a_study_runs_it_so(self, rows: EvasionRows, runs: Runs, world: World) -> None:
        attacks = wrapped(rows, noise=0.02)
        for refuse_at in (None, 3):
            one, other = (
                converse(started, world, np.random.default_rng(1), refuse_at=refuse_at).digests
                for started in (runs, attacks)
            )
            assert one == other

    def test_survives_a_study_file(self, rows: EvasionRows) -> None:
        attacks = wrapped(rows, noise=0.02)
        table = {"name": "s", "attacks": [attacks.to_toml()]}
        assert Study.parse(table).attacks[0] == attacks


def test_every_field_of_every_evasion_is_changed_in_a_case() -> None:
    fields = {(name, field) for name in EVASIONS for field in evasion_class(name).model_fields}
    changed = {(name, field) for name, changes in CHANGES.items() for field in changes}
    assert changed == fields - {("deduplicate", "memory")}


def test_the_attack_draws_the_same_random_numbers_as_alone() -> None:
    world = small_world(target=1)
    alone = converse(wrapped([], noise=0.02), world, np.random.default_rng(3), queries=10)
    among = converse(wrapped([{"decoys": 3}], noise=0.02), world, np.random.default_rng(3), queries=40)
    places = [place for place, query in enumerate(among.queries) if query.gradient_of is not None]
    assert places == list(range(0, 40, 4))
    assert [among.sent[place] for place in places] == alone.sent
    pool = world.pool
    assert isinstance(pool, StrictPool)
    decoys = [query for query in among.queries if query.gradient_of is None]
    assert all(pool.index_of(query.image) >= 0 for query in decoys)


def test_altered_copies_leave_the_iterate_alone() -> None:
    """What is sent has noise on it; what the attacker holds has not."""
    transcript = converse(wrapped([{"noise": 0.1}]), small_world(target=1), np.random.default_rng(0), queries=5)
    first = transcript.queries[0]
    assert not first.reconstruction.any()  # MI-Face begins with a black image
    noise = first.image[first.image > 0]
    assert 0.3 < noise.size / first.image.size < 0.7  # the other half is clipped at 0
    assert noise.std() == pytest.approx(0.1 * np.sqrt(1 - 2 / np.pi), rel=0.15)  # of a half-normal


def test_brightness_and_contrast_do_what_they_say() -> None:
    image = np.full((4, 4), 0.5, np.float32)
    image[0, 0] = 0.6
    rng = np.random.default_rng(0)
    shifted = evasion_class("brightness")(most=0.2).alter(image, rng)  # type: ignore[attr-defined]
    assert np.ptp(shifted - image) < 1e-6
    assert 0 < abs(float((shifted - image).mean())) <= 0.2
    stretched = evasion_class("contrast")(most=0.3).alter(image, rng)  # type: ignore[attr-defined]
    assert stretched.mean() == pytest.approx(image.mean(), abs=1e-6)
    assert stretched.std() != pytest.approx(image.std(), rel=1e-3)


def test_motion_moves_by_no_more_than_it_may() -> None:
    image = np.zeros((41, 41), np.float32)
    image[20, 20] = 1
    kind = evasion_class("motion")
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = kind(pixels=2.0, degrees=0.0).alter(image, rng)  # type: ignore[attr-defined]
        ys, xs = np.nonzero(moved > 1e-3)
        assert np.abs(ys - 20).max() <= 3
        assert np.abs(xs - 20).max() <= 3
        assert moved.sum() == pytest.approx(1, abs=1e-3)


def test_interleaved_attacks_take_turns() -> None:
    transcript = converse(wrapped([{"interleave": 4}]), small_world(target=8), np.random.default_rng(0))
    assert [query.gradient_of for query in transcript.queries[:8]] == [8, 9, 0, 1] * 2
    for before, after in pairwise(transcript.queries[::4]):
        assert before.gradient_of == after.gradient_of == 8


def test_nothing_is_asked_twice() -> None:
    """A step of no length stands still: without the evasion it asks the same for ever."""
    still = {"step": 1e-60, "alpha": 30}
    world = small_world(target=1)
    assert len(set(converse(wrapped([], **still), world, np.random.default_rng(0)).sent)) == 1
    transcript = converse(wrapped([{"deduplicate": {}}], **still), world, np.random.default_rng(0))
    assert len(transcript.queries) == 1
    assert transcript.ended
    assert transcript.returned is not None


def test_the_oldest_answer_is_forgotten_first() -> None:
    """Three images in turn: with all three in memory none is sent twice, with the last two every one always is."""

    def in_turns(world: World, rng: np.random.Generator) -> ClientGenerator:
        for number in range(9):
            yield Query(world.pool.image(number % 3))
        return None

    sent = {}
    for memory in (2, 3):
        running = evasion_class("deduplicate")(memory=memory).run(in_turns, small_world(), np.random.default_rng(0))
        queries = [next(running)]
        with suppress(StopIteration):
            while True:
                queries.append(running.send(Answer(0)))
        sent[memory] = len(queries)
    assert sent == {2: 9, 3: 3}


def test_rotation_sends_the_refused_query_again() -> None:
    attacks = wrapped([{"rotate": {"sessions": 2}}], noise=0.02)
    running = attacks.run(small_world(target=1), np.random.default_rng(0))
    model = SoftmaxLinear((28, 28), 10)
    query = next(running)
    query = running.send(model.answer(query, attacks.client.needs))
    again = running.send(Refusal())
    assert again.image is query.image
    with pytest.raises(StopIteration) as done:  # refused in its last session it gives up
        running.send(Refusal())
    assert done.value.value is not None


def test_rotation_leaves_after_so_many_queries() -> None:
    transcript = converse(wrapped([{"rotate": 3}]), small_world(target=1), np.random.default_rng(0), queries=9)
    assert [query.new_session for query in transcript.queries] == [False] * 3 + [True, False, False] * 2


def test_probing_finds_the_noise_that_passes() -> None:
    """A server that refuses two images in a row that differ by less than 0.05 root mean square."""
    attacks = wrapped([{"probe": {"sessions": 8, "patience": 5, "least": 0.001, "most": 0.5}}])
    running = attacks.run(small_world(target=1), np.random.default_rng(0))
    model = SoftmaxLinear((28, 28), 10)
    query, last, sessions, sent = next(running), None, 1, []
    for _ in range(200):
        if query.new_session:
            last, sessions = None, sessions + 1
        if last is not None and np.sqrt(np.square(query.image - last).mean()) < 0.05:
            last, sessions = None, sessions + 1
            query = running.send(Refusal())
            continue
        last = query.image
        sent.append(query)
        query = running.send(model.answer(query, attacks.client.needs))
    attack = [query for query in sent if query.gradient_of == 1]
    assert len(attack) > 100  # most of its queries are the attack's, and pass
    steps = [np.sqrt(np.square(a.image - b.image).mean()) for a, b in pairwise(attack[-20:])]
    assert 0.05 <= min(steps) < 0.15  # above what is refused, not far above


@pytest.mark.parametrize(
    ("evasions", "complaint"),
    [
        ([{"decoy": 10}], r"no evasion is called 'decoy'; did you mean 'decoys'\?"),
        ([{"decoys": 0}], r"decoys\.between"),
        ([{"decoys": {"betwen": 3}}], r"betwen"),
        ([{"deduplicate": 3}], "must be a table of arguments"),
        ([{"decoys": 1, "rotate": {}}], "must be a table with one key"),
        (["rotate"], "must be a table with one key"),
        ("rotate", "must be a list"),
    ],
)
def test_what_is_no_evasion_is_refused(evasions: Any, complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        Study.parse({"name": "s", "attacks": [{"attack": "mi-face", "evasions": evasions}]})


def test_a_population_is_named_after_its_evasions() -> None:
    assert wrapped([{"decoys": 10}, {"rotate": {}}]).name == "mi-face+decoys+rotate"
