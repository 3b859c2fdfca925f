"""Conformance suite of engines; a test class inherits it and supplies the fixture `engine`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from mifsim.victims.engines.base import Engine

Images = npt.NDArray[np.float32]


class EngineConformance:
    """Conformance suite of engines (see `mifsim.victims.engines.base`); supply the fixture `engine`.

    The fixture returns a function that makes a new engine, each time of the same model.
    """

    deterministic: ClassVar[bool] = True
    """Whether the model gives the same answers each time; False replaces the tests of equal answers."""
    exact_in_batches: ClassVar[bool] = True
    """Whether answers do not depend on the batch to the last bit; False accepts differences up to 1e-5."""

    @pytest.fixture
    def engine(self) -> Callable[[], Engine]:
        """Return a function that makes an engine."""
        raise NotImplementedError("override the fixture `engine`: return a function that makes the engine under test")

    @pytest.fixture
    def running(self, engine: Callable[[], Engine]) -> Engine:
        """Return a new engine."""
        return engine()

    def test_confidences_are_float32_of_one_row_per_image_and_add_up_to_1(self, running: Engine) -> None:
        for count in (1, 2, running.batch_size, running.batch_size + 3):
            confidence, gradients = running.predict(noise(running, count), no_gradients(count))
            assert confidence.dtype == gradients.dtype == np.float32
            assert confidence.shape == (count, running.classes)
            assert gradients.shape == (0, *running.image_shape)
            assert confidence.min() >= 0
            np.testing.assert_allclose(confidence.sum(axis=1), 1, atol=1e-2)

    def test_no_images_give_no_answers(self, running: Engine) -> None:
        confidence, gradients = running.predict(noise(running, 0), no_gradients(0))
        assert (confidence.shape, gradients.shape) == ((0, running.classes), (0, *running.image_shape))

    def test_an_image_alone_gets_the_answer_that_it_gets_among_others(self, running: Engine) -> None:
        if not self.deterministic:
            pytest.skip("deterministic is False")
        images = noise(running, 7)
        together, _ = running.predict(images, no_gradients(7))
        alone = np.concatenate([running.predict(images[k : k + 1], no_gradients(1))[0] for k in range(7)])
        np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5)
        if self.exact_in_batches:
            np.testing.assert_array_equal(alone, together)

    def test_the_same_batch_gets_the_same_answers_exactly_if_the_engine_is_deterministic(
        self, engine: Callable[[], Engine]
    ) -> None:
        first, second = engine(), engine()
        images = noise(first, 5)
        answers = [one.predict(images, no_gradients(5))[0] for one in (first, first, second)]
        same = all(np.array_equal(answers[0], other) for other in answers[1:])
        assert same == self.deterministic
        first.ask_twice(images)
        assert first.deterministic == (self.deterministic and self.exact_in_batches)

    def test_different_images_get_different_answers(self, running: Engine) -> None:
        confidence, _ = running.predict(noise(running, 5), no_gradients(5))
        assert len(np.unique(confidence, axis=0)) == 5

    def test_answers_stay_and_images_are_not_changed(self, running: Engine) -> None:
        images = noise(running, 3)
        sent = images.copy()
        first, _ = running.predict(images, no_gradients(3))
        kept = first.copy()
        running.predict(1 - images, no_gradients(3))
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(images, sent)

    def test_images_of_another_shape_are_refused(self, running: Engine) -> None:
        height, *others = running.image_shape
        for shape in ((2, height + 1, *others), (2, *running.image_shape, 1), running.image_shape):
            with pytest.raises(ValueError, match="expected"):
                running.predict(np.zeros(shape, np.float32), no_gradients(len(np.zeros(shape))))
        with pytest.raises(ValueError, match="expected"):
            running.predict(noise(running, 2), no_gradients(3))

    def test_gradients_are_returned_exactly_if_the_engine_gives_them(self, running: Engine) -> None:
        images, wanted = noise(running, 3), np.array([-1, 0, 1], np.int32)
        if not running.gives_gradients:
            with pytest.raises(ValueError, match="no gradients"):
                running.predict(images, wanted)
            return
        confidence, gradients = running.predict(images, wanted)
        assert confidence.shape == (3, running.classes)
        assert gradients.dtype == np.float32
        assert gradients.shape == (2, *running.image_shape)
        assert np.all(np.isfinite(gradients))

    def test_classes_that_do_not_exist_are_refused(self, running: Engine) -> None:
        for label in (running.classes, -2):
            with pytest.raises(ValueError, match="gradient_of must be"):
                running.predict(noise(running, 1), np.array([label], np.int32))

    def test_its_facts_are_plain_data(self, running: Engine) -> None:
        import json

        assert json.loads(json.dumps(running.facts())) == running.facts()

    def test_it_can_be_closed_twice(self, engine: Callable[[], Engine]) -> None:
        with engine() as opened:
            opened.predict(noise(opened, 1), no_gradients(1))
        opened.close()


def noise(engine: Engine, count: int) -> Images:
    """Return images of uniform noise."""
    return np.random.default_rng(7).random((count, *engine.image_shape), np.float32)


def no_gradients(count: int) -> npt.NDArray[np.int32]:
    """Return the argument `gradient_of` for rows that request no gradient."""
    return np.full(count, -1, np.int32)
