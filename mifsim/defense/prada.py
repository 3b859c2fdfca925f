"""The kind ``prada``: a test for the normality of distances between queries (Juuti et al., EuroS&P 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mifsim.defense.config import DetectorConfig
from mifsim.defense.counting import CountingDetector
from mifsim.defense.detector import ModelAnswer
from mifsim.defense.fields import parameter
from mifsim.defense.flags import blocked_by_flags, recorded_column
from mifsim.defense.param import Param
from mifsim.defense.pixel_recorder import PixelRecorder
from mifsim.defense.prada_state import GrowingSets
from mifsim.defense.recording import Column, Outcome, RecordedSessions


@dataclass(frozen=True)
class PradaConfig(DetectorConfig):
    """Configuration of PRADA, which flags a client whose queries' distances are not normally distributed.

    Queries are grouped by the class that the model predicts. The distance of a query is the L2 distance to the nearest
    image of its class's growing set. The query itself is added to the set if its distance is above the class's
    threshold, which is the mean minus the standard deviation of the distances of the set (it never falls). At queries
    1, 11, 21, ... the distances of all classes that have at least 10 are pooled, those beyond three standard deviations
    of their mean are left out, and the W statistic of the Shapiro-Wilk test is computed of the others. The query is
    flagged if there are at least `min_distances` of them, and W is below `delta`.

    The default of `delta` is that of the published code's server; the publication chooses it for each data set. With
    the default of `min_distances`, query 111 is the first that can be flagged.

    Attributes
    ----------
    delta : float
        W below which a query is flagged, in [0, 1].
    limit : int
        Number of flagged queries that block; 1 blocks after the first one.
    min_distances : int
        Smallest number of distances that are tested, from 3 to 5,000; published: more than 100.
    scope, view
        See `DetectorConfig`; keyword-only.

    Raises
    ------
    ConfigError
        If a field is not accepted. The message names field, value and what is accepted.

    Notes
    -----
    The detector receives the predicted class from the server (`ModelAnswer`), whatever the response policy reveals to
    the client. It is known only after the verdict. Therefore the flagged query is answered, and the next valid one is
    refused: query 112 at the earliest.

    Differences from the publication: it permutes the largest three logits of the answers, from the flagged query on, as
    long as the last test has W below `delta`. mifsim counts the tests with W below `delta` and blocks after the
    `limit`-th one; the count does not fall. Distances are rounded to float32, and W is computed as in scipy, but for
    differences of about 1e-9. As in the publication, memory is not bounded: the images of the growing sets, and one
    distance per query.

    As published, a client that submits one image again and again is never flagged: its distances have no deviation, and
    all are left out.

    References
    ----------
    M. Juuti, S. Szyller, S. Marchal and N. Asokan, "PRADA: Protecting Against DNN Model Stealing Attacks", EuroS&P
    2019. Code: ``src/growing_set.py`` in SSGAalto/prada-protecting-against-dnn-model-stealing-attacks.

    Examples
    --------
    >>> import numpy as np
    >>> from mifsim.defense import ModelAnswer
    >>> detector = PradaConfig(delta=0.9).detector()
    >>> for number, distance in enumerate(np.random.default_rng(0).random(111) ** 9):
    ...     verdict = detector.check(np.full((1, 1), distance * (number > 0)))
    ...     detector.observe(ModelAnswer(0, np.ones(1, np.float32)))
    >>> verdict.name, detector.count, detector.check(np.zeros((1, 1))).name
    ('SAFE', 1.0, 'UNSAFE')
    """

    delta: float = 0.9
    limit: int = 1
    min_distances: int = 101

    kind: ClassVar[str] = "prada"
    params: ClassVar[Mapping[str, Param]] = {
        "delta": Param(0.5, 0.999, "W that flags if it is smaller", pole=1.0, strictness=-1, least=0.0, most=1.0),
        "limit": Param(1, 64, "flagged queries that block", whole=True, strictness=-1, least=1, most=65536),
        "min_distances": Param(
            20, 101, "smallest number of distances that are tested", whole=True, strictness=-1, least=3, most=5000
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, param in self.params.items():
            object.__setattr__(self, name, parameter(name, getattr(self, name), param))

    def forgets_safely(self, queries: int) -> bool:
        """Return False: the W statistic of fewer distances can be smaller than that of all of them."""
        return False

    def uses_answers(self) -> bool:
        """Return True: the detector needs the predicted class."""
        return True

    def new_detector(self) -> Prada:
        """Return a detector in its initial state."""
        return Prada(self)

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return the columns: the distance, and at each test W and the number of distances tested.

        The distance is not needed for a replay. It is NaN for the first query of a class.
        """
        return {"distance": Column("float32"), "w": Column("float64"), "tested": Column("int64")}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> PradaRecorder:
        """Return a recorder in its initial state."""
        return PradaRecorder()

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Replay recorded sessions under this configuration.

        Raises
        ------
        ValueError
            If the recording does not contain the data that the configuration needs.
        """
        w = recorded_column(sessions, "w").astype(np.float64)
        enough = recorded_column(sessions, "tested") >= self.min_distances
        flagged = enough & (w < self.delta)
        with np.errstate(divide="ignore", invalid="ignore"):  # delta is 1, or nothing was tested
            closeness = np.nan_to_num((1.0 - w) / (1.0 - self.delta), nan=0.0, posinf=1.0)
        return blocked_by_flags(
            sessions, flagged, self.limit, np.where(enough, closeness, 0.0), after_the_answer=True
        )  # fmt: skip


class Prada(CountingDetector):
    """Detector of the kind ``prada``; it counts flagged queries.

    Parameters
    ----------
    config : PradaConfig
    """

    def __init__(self, config: PradaConfig) -> None:
        super().__init__(config.limit)
        self._config = config
        self._sets = GrowingSets()
        self._pending: npt.NDArray[np.float32] | None = None

    def step(self, pixels: npt.NDArray[np.float32]) -> float:
        """Return 0, and keep the image until the model's answer; the count changes in `observe`."""
        self._pending = pixels
        return 0.0

    def observe(self, answer: ModelAnswer) -> None:
        """Add the last image to the growing set of its class, and count a flag. The next image is then refused."""
        if self._pending is None:
            return
        self._sets.add(self._pending.reshape(-1), int(answer.label))
        self._pending = None
        test = self._sets.test(self._config.min_distances)
        if test is not None and test.w < self._config.delta:
            self.count += 1.0

    def memory(self) -> dict[str, Any]:
        """Return the growing sets, and the image that waits for its answer, if there is one."""
        return {**self._sets.to_dict(), "pending": None if self._pending is None else self._pending.copy()}

    def memory_savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query and its answer."""
        pending, undo_sets = self._pending, self._sets.savepoint()

        def undo() -> None:
            undo_sets()
            self._pending = pending

        return undo

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore the growing sets."""
        rest = dict(memory)
        self._pending = rest.pop("pending")
        self._sets = GrowingSets.from_dict(rest, int(np.prod(self._shape)) if self._shape else 0)


class PradaRecorder(PixelRecorder):
    """Recorder of the kind ``prada``."""

    def __init__(self) -> None:
        super().__init__()
        self._sets = GrowingSets()
        self._pixels: npt.NDArray[np.float32] | None = None

    def measure(self, pixels: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Keep the image until the model's answer; the row follows in `observe`."""
        self._pixels = pixels
        return {"distance": np.nan, "w": np.nan, "tested": 0}

    def observe(self, answer: ModelAnswer) -> None:
        """Compute the row from the last image and its predicted class."""
        if self._pixels is None:
            return
        distance = self._sets.add(self._pixels.reshape(-1), int(answer.label))
        self._pixels = None
        test = self._sets.test()
        w, tested = (np.nan, 0) if test is None else test
        self.last_row = {"distance": distance, "w": w, "tested": tested}
