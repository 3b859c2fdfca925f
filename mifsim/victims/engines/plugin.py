"""The engine of a model that a plug-in provides as a Python function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.errors import VictimError
from mifsim.plugins import error_text
from mifsim.victims.config import PREDICTORS, VictimConfig
from mifsim.victims.engines.base import Float32s
from mifsim.victims.engines.black_box import BlackBoxEngine, padded
from mifsim.victims.reading import Reading


class PluginEngine(BlackBoxEngine):
    """A function of a plug-in, such as a PyTorch or scikit-learn model.

    The registered function is called once in each process that runs the model: with the shape (H, W, channels) of an
    image, the number of classes, and ``victim.arguments`` as keyword arguments. It returns a function from images to
    outputs. This function always gets the same number of images, ``server.batch_size``, of which the last ones may be
    black; so an image's result does not depend on how many other images are beside it. If the returned object has a
    method `close`, it is called at the end.

    Parameters
    ----------
    config : VictimConfig
    image_shape, classes, batch_size, reading
        See `Engine`.

    Raises
    ------
    VictimError
        If the plug-in's function raises an exception, or its model does not fit the data.
    """

    def __init__(
        self,
        config: VictimConfig,
        image_shape: tuple[int, ...],
        classes: int,
        batch_size: int,
        reading: Reading | None = None,
    ) -> None:
        assert config.plugin is not None
        super().__init__(f"victim.plugin = {config.plugin}", config, image_shape, classes, batch_size, reading)
        make = PREDICTORS.load(config.plugin)
        try:
            self._function = make(self.row, classes, **config.arguments)
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        if not callable(self._function):
            raise VictimError(
                f"{self.where}: its function returns {type(self._function).__name__} (expected: a function from images "
                f"of shape (n, {', '.join(map(str, self.row))}) to outputs of shape (n, {classes}))"
            )
        self._check()

    def close(self) -> None:
        """Call the method `close` of the plug-in's model, if it has one."""
        close, self._function = getattr(self._function, "close", None), _closed
        if close is not None:
            close()

    def _outputs(self, rows: Float32s) -> npt.NDArray[Any]:
        return np.concatenate(
            [self._call(rows[start : start + self.batch_size]) for start in range(0, len(rows), self.batch_size)]
        )

    def _call(self, rows: Float32s) -> npt.NDArray[Any]:
        images = padded(rows, self.batch_size).copy()  # a plug-in may write to its argument
        try:
            returned = self._function(images)
            wrong = _unnamed(returned, self.batch_size)
            answers = np.empty(0) if wrong else np.asarray(returned)
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        if wrong:
            raise VictimError(f"{self.where}: its model returns {wrong} (accepted: one array, one row for each image)")
        if not answers.ndim or len(answers) != self.batch_size:
            raise VictimError(
                f"{self.where}: returns an array of shape {answers.shape} for {self.batch_size} images (accepted: "
                f"shape ({self.batch_size}, {self.classes}))"
            )
        return answers[: len(rows)].copy()

    def _failed(self, error: BaseException) -> VictimError:
        return VictimError(f"{self.where}: {error_text(error)}")


def _unnamed(returned: Any, images: int) -> str | None:
    """Return what a model returns instead of one array, for a message; None if it may be one."""
    if returned is None:
        return "None"
    if isinstance(returned, Mapping):
        return f"a dict ({', '.join(map(repr, returned))})"
    if isinstance(returned, (list, tuple)) and len(returned) != images and any(np.ndim(each) for each in returned[:1]):
        return f"a {type(returned).__name__} of {len(returned)} arrays"
    return None


def _closed(images: Float32s) -> npt.NDArray[Any]:
    raise ValueError("the model is closed")
