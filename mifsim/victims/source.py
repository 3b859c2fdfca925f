"""What a process needs to run a victim: the content of its file, and the study's description of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mifsim.plugins import loaded_plugins, restore
from mifsim.victims.config import VictimConfig
from mifsim.victims.engines.base import BATCH_SIZE, Engine
from mifsim.victims.reading import Reading


@dataclass(frozen=True)
class ModelSource:
    """A victim in a form that can be sent to the process that runs it.

    A pickled source contains the plug-ins of this process, which are loaded before it is restored.

    Attributes
    ----------
    content : bytes
        Content of the model's file; empty if it has none.
    config : VictimConfig
        The ``[victim]`` section of the study.
    reading : Reading
        What the model receives, and what its outputs mean, with the classes of the study's data.
    deterministic : bool
        Whether the model gives the same answer to the same image.
    gradients : bool
        Whether it gives gradients.
    token : str
        The token of a service; it is in no file of a run.
    plain_http : bool
        Whether the service may be at an ``http://`` address on another machine.
    """

    content: bytes
    config: VictimConfig
    reading: Reading = field(default_factory=Reading)
    deterministic: bool = True
    gradients: bool = True
    token: str = field(default="", repr=False)
    plain_http: bool = False

    def engine(self, shape: tuple[int, ...], classes: int, batch_size: int = BATCH_SIZE) -> Engine:
        """Make the engine in this process, which imports the library that the model needs, such as TensorFlow.

        Parameters
        ----------
        shape : tuple of int
            Shape of one image: (H, W) or (H, W, 3).
        classes : int
            Number of classes.
        batch_size : int
            Number of rows that are evaluated at a time.

        Raises
        ------
        VictimError
            If the model cannot be loaded, does not fit the data, or does not evaluate every image independently.
        """
        if self.config.kind == "onnx":
            from mifsim.victims.engines.onnx import OnnxEngine

            return OnnxEngine(self.content, self.config, shape, classes, batch_size, self.reading)
        if self.config.kind == "url":
            from mifsim.victims.engines.url import UrlEngine

            return UrlEngine(self.config, self.token, self.plain_http, shape, classes, batch_size, self.reading)
        if self.config.kind == "plugin":
            from mifsim.victims.engines.plugin import PluginEngine

            return PluginEngine(self.config, shape, classes, batch_size, self.reading)
        from mifsim.victims.engines.keras import KerasEngine

        return KerasEngine.from_bytes(self.content, shape, classes, self.config.output, batch_size, self.reading)

    def __reduce__(self) -> Any:
        values = (
            self.content,
            self.config,
            self.reading,
            self.deterministic,
            self.gradients,
            self.token,
            self.plain_http,
        )
        return restore, (loaded_plugins(), ModelSource, *values)
