"""A keras model that answers a few images: a smaller batch against the whole one, padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mifsim.networks import FixedBatch, SmallerBatches, import_tensorflow
from mifsim.networks.smaller_batches import CALLS
from mifsim.victims.architectures import lenet5

BATCH = 256


@pytest.mark.parametrize("rows", [10, 64, 100, 128])
def test_a_few_images_in_a_smaller_batch(rows: int, ratio: Callable[..., float]) -> None:
    import_tensorflow().keras.utils.set_random_seed(1)
    model = lenet5((28, 28, 1), 10)

    def call(images: Any) -> tuple[Any]:
        return (model(images, training=False),)

    inputs = [((28, 28, 1), np.float32)]
    whole, smaller = FixedBatch(call, BATCH, inputs), SmallerBatches(call, BATCH, inputs)
    images = np.random.default_rng(0).random((rows, 28, 28, 1), np.float32)
    for _ in range(2 * CALLS):
        np.testing.assert_array_equal(smaller(images)[0], whole(images)[0])
    ratio(
        f"LeNet-5 answers {rows} images, against a padded batch of {BATCH}",
        lambda: whole(images),
        lambda: smaller(images),
    )
