"""Every registered evasion meets the contract, alone and combined, and does what it documents."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mifsim.clients import EVASIONS, Evasion, Refusal, World, evasion_class
from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.study.populations import Attacks

from .conformance import assert_is_image
from .fake_world import SoftmaxLinear, StrictPool, converse, small_world

EvasionRows = list[dict[str, Any]]
OTHERS: list[EvasionRows] = [
    [{"decoys": 1}, {"rotate": 3}],
    [{"rotate": {}}, {"decoys": 2}],
    [{"interleave": 3}, {"noise": 0.1}],
    [{"rotate": {"sessions": 2}}, {"interleave": 2}],
    [{"deduplicate": {}}, {"brightness": 0.2}, {"probe": {"sessions": 2, "patience": 3}}],
    [{"probe": {"sessions": 1, "patience": 2}}, {"decoys": 1}],
]


def wrapped(evasions: EvasionRows, **attack: Any) -> Attacks:
    return Attacks.model_validate({"attack": "mi-face", "beta": 0, "gamma": 0.0, **attack, "evasions": evasions})


def described(evasions: EvasionRows) -> str:
    return "+".join(str(one) for one in evasions)


@pytest.fixture(params=[*([{name: {}}] for name in EVASIONS), *OTHERS], ids=described)
def attacks(request: pytest.FixtureRequest) -> Attacks:
    return wrapped(request.param, noise=0.02)


@pytest.fixture(params=[((28, 28), 10), ((16, 16, 3), 4)], ids=["grey", "colour"])
def world(request: pytest.FixtureRequest) -> World:
    return small_world(*request.param, target=1)


class TestConformance:
    """The contract of an attacker with any evasions."""

    def test_queries_and_guesses_are_images(self, attacks: Attacks, world: World) -> None:
        transcript = converse(attacks, world, np.random.default_rng(1))
        assert len(transcript.queries) == 40
        for query in transcript.queries:
            assert_is_image(query.image, world.shape)
            assert query.guess is not None, "an altered image is not the attacker's current reconstruction"
            assert_is_image(query.guess, world.shape)

    def test_same_seed_same_stream_and_no_other_randomness(self, attacks: Attacks, world: World) -> None:
        streams = []
        for unrelated in (1, 2):
            random.seed(unrelated)
            np.random.seed(unrelated)  # noqa: NPY002 - the global generator is what must not matter
            streams.append(converse(attacks, world, np.random.default_rng(7)).sent)
        assert streams[0] == streams[1]
        assert converse(attacks, world, np.random.default_rng(8)).sent != streams[0]

    def test_what_was_sent_is_not_changed_afterwards(self, attacks: Attacks, world: World) -> None:
        transcript = converse(attacks, world, np.random.default_rng(1))
        assert [query.image.tobytes() for query in transcript.queries] == transcript.sent

    @pytest.mark.parametrize("refuse_at", [1, 2, 3, 4, 9])
    def test_a_refusal_ends_it_unless_it_is_closed_loop(self, attacks: Attacks, world: World, refuse_at: int) -> None:
        transcript = converse(attacks, world, np.random.default_rng(1), refuse_at=refuse_at)
        if not attacks.closed_loop:
            assert transcript.ended
            assert len(transcript.queries) == refuse_at
            assert transcript.returned is not None
            assert_is_image(transcript.returned, world.shape)
        assert not any(query.new_session for query in transcript.queries) or attacks.closed_loop

    def test_survives_a_study_file(self, attacks: Attacks) -> None:
        table = {"name": "s", "attacks": [attacks.to_toml()]}
        assert Study.parse(table).attacks[0] == attacks

    @pytest.mark.parametrize("name", EVASIONS)
    def test_every_argument_is_documented_and_has_a_default(self, name: str) -> None:
        kind = evasion_class(name)
        assert kind.__doc__ != Evasion.__doc__
        assert kind.main is None or kind.main in kind.model_fields
        for key, field in kind.model_fields.items():
            assert field.description, f"{key} has no description"
        kind()


def test_the_wrapped_attack_draws_the_same_numbers_as_alone() -> None:
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
    """The submitted image has noise; the attacker's current reconstruction has none."""
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


def test_motion_stays_within_its_limits() -> None:
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


def test_deduplication_sends_no_query_twice() -> None:
    """With a step of almost no length the attack stalls: without the evasion it repeats one query for ever."""
    still = {"step": 1e-60, "alpha": 30}
    world = small_world(target=1)
    assert len(set(converse(wrapped([], **still), world, np.random.default_rng(0)).sent)) == 1
    transcript = converse(wrapped([{"deduplicate": {}}], **still), world, np.random.default_rng(0))
    assert len(transcript.queries) == 1
    assert transcript.ended
    assert transcript.returned is not None


def test_rotation_sends_the_refused_query_again() -> None:
    attacks = wrapped([{"rotate": {"sessions": 2}}], noise=0.02)
    running = attacks.run(small_world(target=1), np.random.default_rng(0))
    model = SoftmaxLinear((28, 28), 10)
    query = next(running)
    query = running.send(model.answer(query, attacks.client.needs))
    again = running.send(Refusal())
    assert again.image is query.image
    with pytest.raises(StopIteration) as done:  # a refusal in its last session ends it
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
    assert 0.05 <= min(steps) < 0.15  # above the threshold, but not far above


@pytest.mark.parametrize(
    ("evasions", "message"),
    [
        ([{"decoy": 10}], r"no evasion is called 'decoy'; did you mean 'decoys'\?"),
        ([{"decoys": 0}], r"decoys\.between"),
        ([{"decoys": {"betwen": 3}}], r"betwen"),
        ([{"deduplicate": 3}], "takes a table of arguments"),
        ([{"decoys": 1, "rotate": {}}], "a table of one key"),
        (["rotate"], "a table of one key"),
        ("rotate", "must be a list"),
    ],
)
def test_an_invalid_evasion_is_refused(evasions: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Study.parse({"name": "s", "attacks": [{"attack": "mi-face", "evasions": evasions}]})


def test_a_population_is_named_after_its_evasions() -> None:
    assert wrapped([{"decoys": 10}, {"rotate": {}}]).name == "mi-face+decoys+rotate"
