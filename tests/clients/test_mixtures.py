"""Several users in one session, and long sessions."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from mifsim.clients import User, World
from mifsim.clients.users.long_sessions import LongSessions
from mifsim.clients.users.mixture import Ingredient, Mixture
from mifsim.clients.users.reuploads import ReUploads
from mifsim.clients.users.span import Span
from mifsim.testing.worlds import StrictPool, converse

POOL = StrictPool.random((8, 8), 4, each=6)


def indices(user: User, seed: int = 0) -> list[int]:
    """Return the index in the pool of each query's image; -1 for an altered image."""
    world = World((8, 8), 4, POOL)
    queries = converse(user, world, np.random.default_rng(seed), queries=10**6).queries
    return [POOL.index_of(query.image) for query in queries]


def mixture_of(*users: dict[str, Any], **arguments: Any) -> Mixture:
    """Return a mixture of some users."""
    return Mixture.model_validate({"of": users, **arguments})


class TestMixture:
    def test_shares_follow_the_weights(self) -> None:
        order = indices(mixture_of({"user": "independent", "weight": 3}, {"user": "kiosk", "weight": 1}, length=3000))
        assert binomtest(order.count(-1), 3000, 0.25).pvalue > 1e-3

    def test_each_user_continues_where_it_stopped(self) -> None:
        order = indices(mixture_of({"user": "independent"}, {"user": "kiosk"}, length=60))
        drawn = [index for index in order if index >= 0]
        assert len(drawn) > 20
        assert len(set(drawn[:24])) == min(24, len(drawn))

    def test_a_turn_has_the_given_number_of_images(self) -> None:
        order = indices(mixture_of({"user": "independent"}, {"user": "kiosk"}, length=600, turn=5))
        runs = [len(list(run)) for _, run in groupby(index < 0 for index in order)]
        assert all(run % 5 == 0 for run in runs)
        assert min(runs) == 5

    def test_a_mixture_of_one_user_behaves_as_that_user(self) -> None:
        assert sorted(indices(mixture_of({"user": "independent"}, length=24))) == list(range(24))

    def test_users_keep_their_arguments_and_all_arguments_are_written_out(self) -> None:
        mixture = mixture_of({"user": "retries", "probability": 0.9, "weight": 2})
        (table,) = mixture.model_dump(mode="json")["of"]
        assert table == {"user": "retries", "weight": 2.0, "probability": 0.9, "window": 1}
        order = indices(mixture.model_copy(update={"length": mixture.length.model_validate(400)}))
        repeats = sum(now == before for before, now in pairwise(order))
        assert binomtest(repeats, 399, 0.9).pvalue > 1e-3

    @pytest.mark.parametrize(
        ("user", "message"),
        [
            ({"user": "burst"}, "did you mean 'bursts'"),
            ({"user": "log"}, "'log' cannot be part of a mixture"),
            ({"user": "mi-face"}, "'mi-face' cannot be part of a mixture"),
            ({"user": "bursts", "shotz": 3}, r"unknown key 'shotz' \(accepted: user, weight, gain"),
            ({"user": "bursts", "length": 3}, "unknown key 'length'"),
            ({"user": "bursts", "noise": -1}, "bursts: noise: .*greater than or equal to 0"),
            ({"user": "bursts", "weight": 0}, "greater than 0"),
            ({"weight": 1}, "user"),
        ],
    )
    def test_an_invalid_user_is_reported(self, user: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            mixture_of(user)

    def test_an_empty_mixture_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="at least 1"):
            mixture_of()


class TestLongSessions:
    def test_sessions_have_many_hundreds_of_queries(self) -> None:
        lengths = [len(indices(LongSessions(), seed)) for seed in range(12)]
        assert min(lengths) >= 400
        assert max(lengths) <= 1200
        assert len(set(lengths)) == 12

    def test_a_task_has_a_few_dozen_images(self) -> None:
        order = indices(LongSessions(length=4000, of=(Ingredient(user="independent"), Ingredient(user="kiosk"))))
        runs = [len(list(run)) for _, run in groupby(index < 0 for index in order)]
        # Half of the turns change the user: a run is a geometric number of turns, of 25 images on average.
        assert 30 < np.mean(runs) < 75


class TestSpan:
    @pytest.mark.parametrize("value", ["fast", [1, 2], {"min": 2, "max": 1}, {"min": 1}, float("nan"), None])
    def test_an_invalid_span_is_reported_in_one_line(self, value: Any) -> None:
        with pytest.raises(ValidationError, match=r"must be a number, or \{min = 0.2, max = 0.6\}") as caught:
            ReUploads.model_validate({"scale": value})
        assert caught.value.error_count() == 1

    @pytest.mark.parametrize("value", [0, 101, {"min": 0, "max": 50}, {"min": 50, "max": 101}])
    def test_ends_beyond_the_fields_range_are_refused(self, value: Any) -> None:
        with pytest.raises(ValidationError, match="must lie in 1 to 100, got"):
            ReUploads.model_validate({"quality": value})

    def test_draws_are_uniform_over_the_span(self) -> None:
        rng = np.random.default_rng(0)
        span = Span.model_validate({"min": 2, "max": 4})
        drawn = [span.draw(rng) for _ in range(4000)]
        assert np.mean(drawn) == pytest.approx(3, abs=0.05)
        assert np.var(drawn) == pytest.approx(4 / 12, rel=0.1)
        whole = np.bincount([span.draw_whole(rng) for _ in range(3000)])
        assert whole[:2].sum() == 0
        assert binomtest(int(whole[2]), 3000, 1 / 3).pvalue > 1e-3
        assert len(whole) == 5
