"""The kind ``nearest`` against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense.nearest import NearestConfig
from mifsim.errors import ConfigError
from mifsim.testing.streams import blocked_at, fitted, image_pool


@settings(max_examples=60, deadline=None)
@given(
    order=st.lists(st.integers(0, 11), max_size=25),
    neighbours=st.integers(1, 4),
    memory=st.integers(1, 8),
    limit=st.integers(1, 4),
    radius=st.floats(0.05, 6.0),
)
def test_the_block_is_where_numpy_finds_it(order, neighbours, memory, limit, radius):
    config = fitted(NearestConfig(radius, limit, neighbours, memory), (12, 12))
    arrays, pool = config.arrays(), image_pool((12, 12))
    rows, count, expected = [], 0, 0
    for number, place in enumerate(order):
        row = (pool[place].reshape(-1).astype(np.float64) - arrays["mean"]) @ arrays["axes"][:, :30].astype(np.float64)
        distances = sorted(np.linalg.norm(row - other) for other in rows[-memory:])
        if len(distances) >= neighbours:
            mean = np.mean(distances[:neighbours])
            if abs(mean - radius) < 1e-4:  # where rounding decides, either is right
                return
            count += mean <= radius
        rows.append(row)
        if count >= limit:
            expected = number + 1
            break
    assert blocked_at(config, [pool[place] for place in order]) == expected


def test_exact_repeats_are_close():
    pool = image_pool((12, 12))
    config = fitted(NearestConfig(radius=0.0, neighbours=2), (12, 12))
    assert blocked_at(config, [pool[0], pool[1], pool[0], pool[0]]) == 4  # at the third, the second nearest is far


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"radius": -0.1}, "radius = -0.1: must be a number of at least 0"),
        ({"radius": float("nan")}, "radius = nan"),
        ({"radius": 1.0, "limit": 0}, "limit = 0: must be a whole number from 1"),
        ({"radius": 1.0, "neighbours": 11}, "neighbours = 11: must be a whole number from 1 to 10"),
        ({"radius": 1.0, "memory": True}, "memory = True"),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        NearestConfig(**values)
