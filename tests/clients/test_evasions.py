"""Every registered evasion passes its conformance suite, alone and combined; and tests of what each one does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mifsim.clients import EVASIONS, Answer, ClientGenerator, Evasion, Query, Refusal, World, evasion_class
from mifsim.clients.evasions.penalty import Penalty
from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.study.populations import Attacks, read_evasions
from mifsim.testing import EvasionConformance
from mifsim.testing.worlds import Runs, SoftmaxLinear, StrictPool, converse, small_world

EvasionRows = list[dict[str, Any]]
COMBINATIONS: list[EvasionRows] = [
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
    [{"texture": 1.0}, {"penalty": {"skip": 5}}],
    [{"rotate": {"sessions": 2}}, {"penalty": {"skip": 5}}],
]
ARGUMENTS: dict[str, Mapping[str, Any]] = {"penalty": {"skip": 5}}
"""Arguments in place of defaults: an image that is not sent takes time all the same."""
CHANGES: dict[str, Mapping[str, Any]] = {
    "noise": {"sd": 0.1},
    "brightness": {"most": 0.5},
    "contrast": {"most": 0.1},
    "motion": {"pixels": 3.0, "degrees": 0.0},
    "sharpen": {"strength": 2.0, "sigma": 2.0},
    "denoise": {"sigma": 1.0},
    "morph": {"share": 0.6},
    "texture": {"strength": 2.0, "sigma": 2.0},
    "mimic": {"share": 0.45},
    "penalty": {"weight": 3.0, "share": 0.4, "k": 1, "most": 100.0, "skip": 0},
    "decoys": {"between": 1},
    "interleave": {"targets": 2},
    "rotate": {"every": 3, "sessions": 1, "clients": 2},
    "accounts": {"accounts": 2, "order": "one-after-another", "turn": 2},
    "probe": {"sessions": 2, "patience": 3, "least": 0.01, "most": 0.1},
}
"""Changed fields of each evasion; `test_deduplicate_forgets_the_oldest_answer_first` tests that of `deduplicate`."""


def wrapped(evasions: EvasionRows, **attack: Any) -> Attacks:
    """Return a population of MI-Face attacks that are wrapped in evasions."""
    return Attacks.model_validate({"attack": "mi-face", "beta": 0, "gamma": 0.0, **attack, "evasions": evasions})


def description(evasions: EvasionRows) -> str:
    return "+".join(str(one) for one in evasions)


class TestEvasions(EvasionConformance):
    """Each registered evasion alone, and some combinations, of which the last (outermost) evasion is under test."""

    @pytest.fixture(params=[*([{name: ARGUMENTS.get(name, {})}] for name in EVASIONS), *COMBINATIONS], ids=description)
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

    def test_a_population_of_a_study_runs_it_in_the_same_way(self, rows: EvasionRows, runs: Runs, world: World) -> None:
        attacks = wrapped(rows, noise=0.02)
        for refuse_at in (None, 3):
            one, other = (
                converse(runner, world, np.random.default_rng(1), refuse_at=refuse_at).digests
                for runner in (runs, attacks)
            )
            assert one == other

    def test_costs_as_many_queries_as_stated(self, evasion: Evasion, world: World) -> None:
        if isinstance(evasion, Penalty):  # it does not send the random images of this test, which are unnatural
            evasion = evasion.model_copy(update={"skip": 0})
        super().test_costs_as_many_queries_as_stated(evasion, world)

    def test_is_unchanged_by_writing_and_reading_a_study_file(self, rows: EvasionRows) -> None:
        attacks = wrapped(rows, noise=0.02)
        table = {"name": "s", "attacks": [attacks.to_toml()]}
        assert Study.parse(table).attacks[0] == attacks


def test_every_field_of_every_evasion_is_changed_in_a_case() -> None:
    fields = {(name, field) for name in EVASIONS for field in evasion_class(name).model_fields}
    changed = {(name, field) for name, changes in CHANGES.items() for field in changes}
    assert changed == fields - {("deduplicate", "memory")}


def test_the_attack_draws_the_same_random_numbers_as_without_evasion() -> None:
    world = small_world(target=1)
    alone = converse(wrapped([], noise=0.02), world, np.random.default_rng(3), queries=10)
    with_decoys = converse(wrapped([{"decoys": 3}], noise=0.02), world, np.random.default_rng(3), queries=40)
    places = [place for place, query in enumerate(with_decoys.queries) if query.gradient_of is not None]
    assert places == list(range(0, 40, 4))
    assert [with_decoys.sent[place] for place in places] == alone.sent
    pool = world.pool
    assert isinstance(pool, StrictPool)
    decoys = [query for query in with_decoys.queries if query.gradient_of is None]
    assert all(pool.index_of(query.image) >= 0 for query in decoys)


def test_noise_on_submitted_copies_does_not_change_the_iterate() -> None:
    """The submitted image has noise; the current reconstruction has none."""
    transcript = converse(wrapped([{"noise": 0.1}]), small_world(target=1), np.random.default_rng(0), queries=5)
    first = transcript.queries[0]
    assert not first.reconstruction.any()  # MI-Face begins with a black image
    noise = first.image[first.image > 0]
    assert 0.3 < noise.size / first.image.size < 0.7  # the other half is clipped at 0
    assert noise.std() == pytest.approx(0.1 * np.sqrt(1 - 2 / np.pi), rel=0.15)  # of a half-normal


def test_brightness_adds_an_offset_and_contrast_scales_around_the_mean() -> None:
    image = np.full((4, 4), 0.5, np.float32)
    image[0, 0] = 0.6
    rng = np.random.default_rng(0)
    shifted = evasion_class("brightness")(most=0.2).alter(image, rng)  # type: ignore[attr-defined]
    assert np.ptp(shifted - image) < 1e-6
    assert 0 < abs(float((shifted - image).mean())) <= 0.2
    stretched = evasion_class("contrast")(most=0.3).alter(image, rng)  # type: ignore[attr-defined]
    assert stretched.mean() == pytest.approx(image.mean(), abs=1e-6)
    assert stretched.std() != pytest.approx(image.std(), rel=1e-3)


def test_motion_is_limited_to_the_given_number_of_pixels() -> None:
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


def test_deduplicate_ends_an_attack_that_repeats_its_query() -> None:
    """With a step of nearly zero length, an attack sends the same query forever; with the evasion it ends."""
    stalling = {"step": 1e-60, "alpha": 30}
    world = small_world(target=1)
    assert len(set(converse(wrapped([], **stalling), world, np.random.default_rng(0)).sent)) == 1
    transcript = converse(wrapped([{"deduplicate": {}}], **stalling), world, np.random.default_rng(0))
    assert len(transcript.queries) == 1
    assert transcript.ended
    assert transcript.returned is not None


def test_deduplicate_forgets_the_oldest_answer_first() -> None:
    """Of three images in turn, a memory of three lets each pass once; a memory of two lets all repetitions pass."""

    def three_in_turn(world: World, rng: np.random.Generator) -> ClientGenerator:
        for number in range(9):
            yield Query(world.pool.image(number % 3))
        return None

    sent = {}
    for memory in (2, 3):
        running = evasion_class("deduplicate")(memory=memory).run(
            three_in_turn, small_world(), np.random.default_rng(0)
        )
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
    with pytest.raises(StopIteration) as done:  # refused in its last session, it ends
        running.send(Refusal())
    assert done.value.value is not None


def test_rotation_opens_a_session_after_the_given_number_of_queries() -> None:
    transcript = converse(wrapped([{"rotate": 3}]), small_world(target=1), np.random.default_rng(0), queries=9)
    assert [query.new_session for query in transcript.queries] == [False] * 3 + [True, False, False] * 2


def test_probing_finds_the_noise_that_passes() -> None:
    """The server refuses an image that differs from the last one by less than 0.05 (root mean square)."""
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
    assert len(attack) > 100  # most queries are the attack's, and are answered
    steps = [np.sqrt(np.square(a.image - b.image).mean()) for a, b in pairwise(attack[-20:])]
    assert 0.05 <= min(steps) < 0.15  # above the server's threshold, but not far above


@pytest.mark.parametrize(
    ("evasions", "message"),
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
def test_an_invalid_evasion_is_refused(evasions: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Study.parse({"name": "s", "attacks": [{"attack": "mi-face", "evasions": evasions}]})


def test_a_population_is_named_after_its_attack_and_evasions() -> None:
    assert wrapped([{"decoys": 10}, {"rotate": {}}]).name == "mi-face+decoys+rotate"
