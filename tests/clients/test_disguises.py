"""Evasions of attackers that know the detectors: altered copies, and accounts, compared with results by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from mifsim.clients import Answer, ClientGenerator, Evasion, Image, Knowledge, Query, Refusal, World
from mifsim.clients.evasions.accounts import Accounts
from mifsim.clients.evasions.disguised import Morph, Texture
from mifsim.clients.evasions.filtered import Denoise, Sharpen, smoothed
from mifsim.clients.evasions.nearest import NearestImages
from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.study.populations import read_evasions
from mifsim.testing.evasions import Evaded
from mifsim.testing.worlds import StrictPool, small_world

RNG = np.random.default_rng(0)


def pool_of(*images: Any) -> StrictPool:
    return StrictPool(np.array(images, np.float32), np.zeros(len(images), np.int64))


def copies(evasion: Evasion, pool: StrictPool, *images: Image) -> list[Image]:
    """Return what is sent of an attack with these images."""

    def attack(world: World, rng: np.random.Generator) -> ClientGenerator:
        for image in images:
            yield Query(image)
        return None

    world = World(pool.image(0).shape, 2, pool, 1)
    running = evasion.run(attack, world, np.random.default_rng(0))
    queries = [next(running), *(running.send(Answer(0)) for _ in images[1:])]
    for query, image in zip(queries, images, strict=True):
        assert query.guess is image
    return [query.image for query in queries]


def smoothed_by_hand(image: Image, sigma: float) -> np.ndarray:
    """A Gaussian at whole distances up to half of 8 sigma + 1, with mirrored edges, summed pixel by pixel."""
    radius = round(8 * sigma + 1) // 2
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    total = sum(weights)
    height, width = image.shape

    def mirrored(k: int, size: int) -> int:
        k %= 2 * size
        return k if k < size else 2 * size - 1 - k

    found = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            for i, down in enumerate(weights):
                for j, right in enumerate(weights):
                    pixel = image[mirrored(y + i - radius, height), mirrored(x + j - radius, width)]
                    found[y, x] += down * right * float(pixel) / total**2
    return found


# The nearest auxiliary image.


def nearest_by_hand(images: np.ndarray, image: Image) -> int:
    """The first index of least distance, with sums in plain Python."""
    distances = [
        math.fsum((float(a) - float(b)) ** 2 for a, b in zip(other.ravel(), image.ravel(), strict=True))
        for other in images
    ]
    return distances.index(min(distances))


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 40),
    shape=st.sampled_from([(3, 4), (8, 8), (4, 5, 3)]),
    rank=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_the_nearest_image_is_that_of_least_distance(seed: int, count: int, shape: tuple[int, ...], rank: int) -> None:
    """Pixels are multiples of 1/4, so that ties and repeated images occur; a low rank leaves few principal axes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 5, (count, *shape)).astype(np.float32) / np.float32(4)
    if rank:
        images = images[rng.integers(0, min(rank, count), count)]
    search = NearestImages.among(images)
    for number in range(5):
        image = rng.integers(0, 5, shape).astype(np.float32) / np.float32(4)
        if number == 0:
            image = images[rng.integers(count)]
        assert search.index(image) == nearest_by_hand(images, image)


def test_the_nearest_of_many_images_does_not_depend_on_the_number_of_threads() -> None:
    """With more images than principal components, so that the bound excludes some."""
    images = RNG.random((300, 12, 12), np.float32)
    queries = RNG.random((50, 12, 12), np.float32)
    expected = [int(((images - query).astype(np.float64) ** 2).sum((1, 2)).argmin()) for query in queries]
    for threads in (1, 4):
        with threadpool_limits(threads):
            search = NearestImages.among(images)
            assert [search.index(query) for query in queries] == expected


def test_a_pool_is_prepared_once() -> None:
    world, other = small_world(), small_world(seed=1)
    search = NearestImages.of(world.pool, world.shape)
    assert NearestImages.of(world.pool, world.shape) is search
    assert NearestImages.of(other.pool, other.shape) is not search
    assert all(search.index(world.pool.image(index)) == index for index in range(len(world.pool)))


# Altered copies.


def test_morph_mixes_in_the_nearest_image() -> None:
    black, white = np.zeros((2, 2)), np.ones((2, 2))
    dark, light = np.full((2, 2), 0.4, np.float32), np.full((2, 2), 0.6, np.float32)
    sent = copies(Morph(share=0.25), pool_of(white, black), dark, light)
    np.testing.assert_allclose(sent[0], np.full((2, 2), 0.3), atol=1e-7)  # 0.75 * 0.4 + 0.25 * 0
    np.testing.assert_allclose(sent[1], np.full((2, 2), 0.7), atol=1e-7)  # 0.75 * 0.6 + 0.25 * 1


def test_morph_leaves_auxiliary_images_alone() -> None:
    pool = StrictPool.random((6, 6), 2, each=5)
    images = [pool.image(index) for index in range(len(pool))]
    np.testing.assert_allclose(copies(Morph(share=0.3), pool, *images), images, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 3.0])
def test_smoothing_is_a_gaussian_with_mirrored_edges(sigma: float) -> None:
    for image in (RNG.random((7, 5), np.float32), np.eye(6, dtype=np.float32)):
        np.testing.assert_allclose(smoothed(image, sigma), smoothed_by_hand(image, sigma), atol=1e-6)


def test_smoothing_treats_each_channel_alone() -> None:
    image = RNG.random((7, 5, 3), np.float32)
    for channel in range(3):
        alone = smoothed(np.ascontiguousarray(image[..., channel]), 1.0)
        np.testing.assert_allclose(smoothed(image, 1.0)[..., channel], alone, atol=1e-6)


def test_texture_adds_what_smoothing_removes_from_the_nearest_image() -> None:
    natural = np.float32(0.3) + np.float32(0.4) * RNG.random((6, 6), np.float32)
    flat = np.full((6, 6), 0.5, np.float32)
    black = np.zeros((6, 6), np.float32)
    (sent,) = copies(Texture(strength=0.5, sigma=1.0), pool_of(black, natural), flat)
    np.testing.assert_allclose(sent, flat + 0.5 * (natural - smoothed_by_hand(natural, 1.0)), atol=1e-6)
    (sent,) = copies(Texture(), pool_of(black, natural), np.full((6, 6), 0.01, np.float32))
    np.testing.assert_allclose(sent, np.full((6, 6), 0.01), atol=1e-7)  # the black image has no texture


def test_sharpening_is_an_unsharp_mask_within_the_range_of_pixels() -> None:
    image = RNG.random((7, 7), np.float32)
    (sent,) = copies(Sharpen(strength=1.5, sigma=1.0), pool_of(image), image)
    unclipped = image + 1.5 * (image - smoothed_by_hand(image, 1.0))
    assert unclipped.min() < 0
    assert unclipped.max() > 1
    np.testing.assert_allclose(sent, np.clip(unclipped, 0, 1), atol=1e-6)
    flat = np.full((7, 7), 0.25, np.float32)
    (sent,) = copies(Sharpen(strength=10.0), pool_of(image), flat)
    np.testing.assert_allclose(sent, flat, atol=1e-5)


def test_denoising_reduces_the_standard_deviation_of_noise_as_a_gaussian_does() -> None:
    """White noise smoothed in two dimensions keeps about 1 / (2 sqrt(pi) sigma) of its standard deviation."""
    image = np.float32(0.5) + np.float32(0.05) * RNG.standard_normal((200, 200), np.float32)
    for sigma in (1.0, 2.0):
        (sent,) = copies(Denoise(sigma=sigma), pool_of(image), image)
        assert sent.std() / image.std() == pytest.approx(1 / (2 * math.sqrt(math.pi) * sigma), rel=0.05)
        assert sent.mean() == pytest.approx(image.mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("evasion", "complaint"),
    [
        ({"morph": 1.0}, r"morph\.share"),
        ({"texture": 0}, r"texture\.strength"),
        ({"mimic": 0.5}, r"mimic\.share"),
        ({"sharpen": {"sigma": 0}}, r"sharpen\.sigma"),
        ({"denoise": "much"}, r"denoise\.sigma"),
        ({"accounts": 1}, r"accounts\.accounts"),
        ({"accounts": {"order": "round-robin"}}, r"accounts\.order.*'in-turn' or 'one-after-another'"),
        ({"accounts": {"order": "one-after-another", "turn": 5}}, "turn = 5: has no effect with order"),
    ],
)
def test_arguments_out_of_range_are_refused(evasion: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        Study.parse({"name": "s", "attacks": [{"attack": "mi-face", "evasions": [evasion]}]})


# Accounts.


@dataclass
class Server:
    """Answers the queries of an attack of `length` images; refuses all queries of an account after its limit.

    Attributes
    ----------
    log : list of str
        ``image@account`` of each query; ``+`` opens a session, ``*`` a client identity, ``!`` marks a refusal.
    """

    length: int = 9
    limits: dict[int, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    def attack(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Send images 0, 1, 2, ...; stop at a refusal."""
        for number in range(self.length):
            reply = yield Query(np.full(world.shape, number / 100, np.float32))
            self.heard.append("refused" if isinstance(reply, Refusal) else "answered")
            if isinstance(reply, Refusal):
                break
        return np.zeros(world.shape, np.float32)

    def run(self, *rows: dict[str, Any]) -> list[str]:
        """Run the attack with evasions; return the log."""
        pool = pool_of(np.ones((2, 2)))  # decoys are images 100
        evaded = Evaded(_Attack(self), read_evasions(rows))
        running = evaded.run(World((2, 2), 2, pool, 1), np.random.default_rng(0))
        sent: dict[int, int] = {}
        with suppress(StopIteration):
            query = next(running)
            while True:
                if query.new_client:
                    sent[query.account] = 0
                sent[query.account] = sent.get(query.account, 0) + 1
                refused = sent[query.account] > self.limits.get(query.account, 1000)
                marks = "*" * query.new_client + "+" * query.new_session + "!" * refused
                self.log.append(f"{round(float(query.image[0, 0]) * 100)}@{query.account}{marks}")
                query = running.send(Refusal(query.account) if refused else Answer(0))
        return self.log


@dataclass
class _Attack:
    """The attack of a `Server`, as an attacker."""

    server: Server
    needs: ClassVar[Knowledge] = Knowledge.LABEL

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        return self.server.attack(world, rng)


def words(text: str) -> list[str]:
    return text.split()


def test_accounts_send_in_turn() -> None:
    assert Server(7).run({"accounts": 3}) == words("0@0 1@1 2@2 3@0 4@1 5@2 6@0")
    in_blocks = {"accounts": {"accounts": 2, "turn": 3}}
    assert Server(8).run(in_blocks) == words("0@0 1@0 2@0 3@1 4@1 5@1 6@0 7@0")


def test_a_refused_query_is_sent_from_the_next_account_and_the_refused_one_is_not_used_again() -> None:
    server = Server(8, limits={1: 1})
    assert server.run({"accounts": 3}) == words("0@0 1@1 2@2 3@0 4@1! 4@2 5@0 6@2 7@0")
    assert server.heard == ["answered"] * 8


def test_the_attack_hears_of_a_refusal_when_all_accounts_are_refused() -> None:
    server = Server(9, limits={0: 2, 1: 1, 2: 1})
    assert server.run({"accounts": 3}) == words("0@0 1@1 2@2 3@0 4@1! 4@2! 4@0!")
    assert server.heard == ["answered"] * 4 + ["refused"]


def test_one_account_after_another_is_used_until_it_is_refused() -> None:
    order = {"accounts": {"accounts": 3, "order": "one-after-another"}}
    assert Server(4).run(order) == words("0@0 1@0 2@0 3@0")
    server = Server(9, limits={0: 2, 1: 3, 2: 1})
    assert server.run(order) == words("0@0 1@0 2@0! 2@1 3@1 4@1 5@1! 5@2 6@2!")
    assert server.heard == ["answered"] * 6 + ["refused"]


def test_a_turn_begins_anew_after_a_refusal() -> None:
    server = Server(6, limits={0: 1})
    assert server.run({"accounts": {"accounts": 2, "turn": 3}}) == words("0@0 1@0! 1@1 2@1 3@1 4@1 5@1")


def test_each_account_sends_decoys_of_its_own() -> None:
    assert Server(3).run({"accounts": 2}, {"decoys": 1}) == words("0@0 100@0 1@1 100@1 2@0")
    assert Server(3).run({"decoys": 1}, {"accounts": 2}) == words("0@0 100@1 1@0 100@1 2@0")


def test_an_account_that_is_refused_a_decoy_is_not_used_again() -> None:
    server = Server(4, limits={0: 1})
    log = server.run({"accounts": 2}, {"decoys": 1})
    assert log == words("0@0 100@0! 1@1 100@1 2@1 100@1 3@1")
    assert server.heard == ["answered"] * 4


def test_rotation_around_accounts_counts_the_sessions_of_each() -> None:
    server = Server(8, limits={0: 2, 1: 3})
    log = server.run({"accounts": 2}, {"rotate": {"sessions": 2}})
    # Account 0 is refused, and again in its second session, which shows that it is blocked; then account 1.
    assert log == words("0@0 1@1 2@0 3@1 4@0! 4@0! 4@1 5@1! 5@1!")
    assert server.heard == ["answered"] * 5 + ["refused"]
    assert Server(6).run({"accounts": 2}, {"rotate": 2}) == words("0@0 1@1 2@0 3@1 4@0+ 5@1+")
    renewed = Server(6, limits={0: 1}).run({"accounts": 2}, {"rotate": {"sessions": 1, "clients": 2}})
    assert renewed == words("0@0 1@1 2@0! 2@0* 3@1 4@0! 4@1 5@1")


def test_an_attack_that_rotates_does_so_with_all_accounts() -> None:
    assert Server(8).run({"rotate": 3}, {"accounts": 2}) == words("0@0 1@1 2@0 3@1+ 4@0+ 5@1 6@0+ 7@1+")
    renewed = Server(5, limits={0: 1, 1: 1}).run({"rotate": {"sessions": 1, "clients": 2}}, {"accounts": 2})
    assert renewed == words("0@0 1@1 2@0! 2@1! 2@0* 3@1* 4@0! 4@1!")


def test_accounts_of_accounts_are_different_accounts() -> None:
    server = Server(9, limits={1: 1, 3: 0})
    log = server.run({"accounts": 2}, {"accounts": 2})
    # The attack's account 0 has accounts 0 and 1, its account 1 has accounts 2 and 3.
    assert log == words("0@0 1@2 2@1 3@3! 3@2 4@0 5@2 6@1! 6@0 7@2 8@0")
    server = Server(5, limits={0: 1, 1: 1, 2: 1, 3: 1})
    assert server.run({"accounts": 2}, {"accounts": 2})[-4:] == words("4@0! 4@1! 4@2! 4@3!")
    assert server.heard == ["answered"] * 4 + ["refused"]


def test_a_refusal_of_an_unknown_account_is_that_of_the_last_query() -> None:
    """An evasion of a plug-in may pass on a refusal that does not say of which account it is."""
    running = Accounts(accounts=3).run(Server(9).attack, small_world(), np.random.default_rng(0))
    replies: Iterable[Answer | Refusal] = (Answer(0), Answer(0), Refusal(99), Answer(0), Answer(0))
    numbers = [next(running).account, *(running.send(reply).account for reply in replies)]
    assert numbers == [0, 1, 2, 0, 1, 0]
