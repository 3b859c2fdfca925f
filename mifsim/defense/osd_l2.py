"""The kind ``osd-l2``: the mean distance to the nearest earlier queries (Chen, Carlini and Wagner 2019), in pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mifsim.defense.osd import OsdConfig, OsdDetector, OsdRecorder, threshold_among
from mifsim.defense.view import View


@dataclass(frozen=True)
class OsdL2Config(OsdConfig):
    """Configuration of Stateful Detection on pixels, which flags an image that has many similar earlier ones.

    A query is flagged if the mean L2 distance to its `k` nearest neighbours among the last `memory` queries is below
    `threshold`. The first `k` queries are not compared, so query ``k + 1`` is the first that can be flagged.

    The defaults of `k` and `threshold` are the published ones for CIFAR-10 (32x32 pixels, three colours). Distances
    grow with the size of the images: compute the threshold for other images with `threshold_of`, or calibrate it.

    Attributes
    ----------
    threshold : float
        Mean L2 distance below which a query is flagged; at least 0. Pixels are in [0, 1].
    limit : int
        Number of flagged queries that block; 1 blocks at the first one.
    k : int
        Number of nearest neighbours, from 1 to 1,000.
    memory : int
        Number of previous queries that are kept, from `k` to 100,000; 4 bytes for each pixel and channel.
    scope, view
        See `DetectorConfig`; keyword-only.

    Raises
    ------
    ConfigError
        If a field is not accepted. The message names field, value and what is accepted.

    Notes
    -----
    Differences from the publication, whose memory has no limit: mifsim keeps the last `memory` queries, and forgets the
    oldest one (another implementation, in MindArmour, empties its memory after 10,000 queries). The published code
    empties the memory at a detection and answers the query; this represents the ban of an account. With ``limit = 1``,
    mifsim blocks at the same query. With a larger `limit`, **mifsim does not empty the memory**, because the distances
    of later queries would then depend on the threshold, and a recording could not serve more than one. A count of
    published detections, each of which needs ``k + 1`` queries, is therefore not the same as `limit`.

    The published variants with a trained encoder are not included: pixels are the encoder of ``L2Detector``.

    References
    ----------
    S. Chen, N. Carlini and D. Wagner, "Stateful Detection of Black-Box Adversarial Attacks", arXiv 1907.05587. Code:
    ``detection.py`` in schoyc/blackbox-detection.

    Examples
    --------
    >>> import numpy as np
    >>> detector = OsdL2Config(threshold=0.1, k=2).detector()
    >>> [detector.check(np.full((8, 8), 0.5)).name for _ in range(3)]
    ['SAFE', 'SAFE', 'UNSAFE']
    """

    threshold: float = 5.069

    kind: ClassVar[str] = "osd-l2"

    def one_by_one(self) -> bool:
        """Return true; see `DetectorConfig.one_by_one`."""
        return True

    def new_detector(self) -> OsdDetector:
        """Return a detector in its initial state."""
        return OsdDetector(self)

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> OsdRecorder:
        """Return a recorder in its initial state."""
        return OsdRecorder(options["ks"], options["memories"])


def threshold_of(images: Sequence[object], k: int = 50, view: View | None = None) -> float:
    """Compute the threshold of the publication from images without attacks, such as the training images.

    It is the 0.1 percentile, over all images, of the mean distance to the `k` nearest of all images. An image is itself
    one of these, with a distance of 0.

    Parameters
    ----------
    images : sequence of ndarray, shape (H, W) or (H, W, C)
        ``uint8``, or floats in [0, 1]; at least `k` images of one shape. The time grows with the square of their
        number: about 0.2 µs for each pair of images of 28x28 pixels.
    k : int
        Number of nearest neighbours; see `OsdL2Config`.
    view : View or None
        Reduction of the images before they are compared; None for none.

    Returns
    -------
    float
        A value for `OsdL2Config.threshold`.

    Raises
    ------
    ConfigError
        If `k` is not accepted, or there are fewer than `k` images.
    InvalidImage
        If an image is not valid.

    Notes
    -----
    The published value for ``k = 50`` and the training images of CIFAR-10 is 5.069. This implementation has not been
    checked against it, because CIFAR-10 was not available. The published code leaves out the images after the last
    complete thousand; this function uses all of them.

    Examples
    --------
    Images of one pixel and their distances to the nearest other image, whose mean with 0 is half of them:

    >>> import numpy as np
    >>> images = [np.full((1, 1), level) for level in (0.0, 0.25, 1.0)]
    >>> round(threshold_of(images, k=2), 6)  # the means are 0.125, 0.125 and 0.375
    0.125
    """
    from mifsim.defense.images import admit

    rows = []
    shape = None
    for image in images:
        pixels = admit(image, shape)
        shape = pixels.shape
        rows.append((pixels if view is None else view.apply(pixels)).reshape(-1))
    return threshold_among(rows, k)
