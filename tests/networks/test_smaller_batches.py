"""Few rows are evaluated in a smaller batch, if that gives the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mifsim.networks import FixedBatch, SmallerBatches, import_tensorflow
from mifsim.networks.smaller_batches import CALLS

ROW = (5,)


class Traced:
    """A function that doubles its rows, records the sizes for which it is traced, and is wrong for some of them."""

    def __init__(self, *wrong: int) -> None:
        self.sizes: list[int] = []
        self.wrong = wrong

    def __call__(self, rows: Any) -> tuple[Any]:
        size = int(rows.shape[0])
        self.sizes.append(size)
        return (rows * 2 + (1e-7 if size in self.wrong else 0.0),)


def ask(batches: SmallerBatches, rows: int, times: int = CALLS) -> None:
    """Ask for some rows several times, and check the answers."""
    for seed in range(times):
        given = np.random.default_rng(seed).random((rows, *ROW), np.float32)
        np.testing.assert_array_equal(batches(given)[0], given * 2)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (1, [64, 16]),
        (16, [64, 16]),
        (17, [64, 32]),
        (32, [64, 32]),
        (33, [64]),
        (64, [64]),
        (80, [64, 16]),
        (128, [64]),
    ],
)
def test_the_smallest_batch_that_holds_the_rows_is_made_when_it_is_often_large_enough(
    rows: int, sizes: list[int]
) -> None:
    function = Traced()
    batches = SmallerBatches(function, 64, [(ROW, np.float32)])
    ask(batches, rows, CALLS - 1)
    assert function.sizes == [64]
    ask(batches, rows, 3)
    assert function.sizes == sizes


@pytest.mark.parametrize(("wrong", "sizes"), [((16,), [64, 16, 32]), ((16, 32), [64, 16, 32]), ((), [64, 16])])
def test_a_size_with_other_bits_is_not_used(wrong: tuple[int, ...], sizes: list[int]) -> None:
    function = Traced(*wrong)
    ask(SmallerBatches(function, 64, [(ROW, np.float32)]), 10, 4 * CALLS)
    assert function.sizes == sizes


def test_a_function_of_one_size_only_is_used_with_this_size() -> None:
    class OneSize(Traced):
        def __call__(self, rows: Any) -> tuple[Any]:
            if rows.shape[0] != 64:
                raise ValueError("expected 64 rows")
            return super().__call__(rows)

    ask(SmallerBatches(OneSize(), 64, [(ROW, np.float32)]), 10, 3 * CALLS)


def test_a_small_batch_is_not_made_smaller() -> None:
    function = Traced()
    ask(SmallerBatches(function, 16, [(ROW, np.float32)]), 2, 3 * CALLS)
    assert function.sizes == [16]


def test_the_bits_of_a_network_do_not_depend_on_the_number_of_rows() -> None:
    keras = import_tensorflow().keras
    layers = keras.layers
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [
            layers.Input((12, 12, 1)),
            layers.Conv2D(6, 5, activation="relu"),
            layers.Flatten(),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )

    def call(rows: Any) -> tuple[Any]:
        return (network(rows, training=False),)

    inputs = [((12, 12, 1), np.float32)]
    batches, whole = SmallerBatches(call, 256, inputs), FixedBatch(call, 256, inputs)
    rng = np.random.default_rng(0)
    for rows in [3] * 2 * CALLS + [100] * 2 * CALLS + [300] * 2 * CALLS:
        images = rng.random((rows, 12, 12, 1), np.float32)
        np.testing.assert_array_equal(batches(images)[0], whole(images)[0])
