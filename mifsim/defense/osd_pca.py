"""The kind ``osd-pca``: Stateful Detection (Chen, Carlini and Wagner 2019) with principal components as its encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mifsim.defense.fitted import FittedConfig, required_fit
from mifsim.defense.osd import OsdConfig, OsdDetector, OsdRecorder, threshold_among
from mifsim.defense.view import View

if TYPE_CHECKING:
    from mifsim.defense.evidence.detector import Features


@dataclass(frozen=True)
class OsdPcaConfig(OsdConfig, FittedConfig):
    """Configuration of Stateful Detection on principal components of the server's own images.

    A query is flagged if the mean L2 distance to its `k` nearest neighbours among the last `memory` queries is below
    `threshold`. Distances are computed from the coordinates in all principal components of the fit, at most 60. The
    first `k` queries are not compared, so query ``k + 1`` is the first that can be flagged.

    Attributes
    ----------
    threshold : float
        Mean L2 distance below which a query is flagged; at least 0. It depends on the images, so it has no default:
        compute it with `threshold_of`, or calibrate it.
    limit : int
        Number of flagged queries that block; 1 blocks at the first one.
    k : int
        Number of nearest neighbours, from 1 to 1,000; published: 50.
    memory : int
        Number of previous queries that are kept, from `k` to 100,000; 4 bytes for each component.
    fit, scope, view
        See `FittedConfig`; keyword-only.

    Raises
    ------
    ConfigError
        If a field is not accepted. The message names field, value and what is accepted.

    Notes
    -----
    Differences from the publication: **its encoder is a convolutional network**, trained so that an image and its
    altered copies have similar outputs (256 numbers). This kind replaces the network by the principal components of the
    server's own images, which need no training, but are not insensitive to changes such as shifts or rotations. The
    published thresholds (1.44, or 1.56 without changes of brightness, on CIFAR-10) have no meaning for them. Memory and
    detections differ as in `mifsim.defense.osd_l2.OsdL2Config`: mifsim keeps the last `memory` queries, and does not
    empty the memory at a detection.

    References
    ----------
    S. Chen, N. Carlini and D. Wagner, "Stateful Detection of Black-Box Adversarial Attacks", arXiv 1907.05587. Code:
    ``detection.py`` in schoyc/blackbox-detection.
    """

    kind: ClassVar[str] = "osd-pca"

    def one_by_one(self) -> bool:
        """Return true; see `DetectorConfig.one_by_one`."""
        return True

    def new_detector(self) -> OsdDetector:
        """Return a detector in its initial state."""
        return OsdDetector(self, _encoder(self.fit))

    def recording(self) -> Mapping[str, Any]:
        """Return the fit, and the numbers of neighbours and of previous queries."""
        return {"fit": self.fit, **super().recording()}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> OsdRecorder:
        """Return a recorder in its initial state."""
        return OsdRecorder(options["ks"], options["memories"], _encoder(options["fit"]))


def threshold_of(images: Sequence[object], fit: str, k: int = 50, view: View | None = None) -> float:
    """Compute the threshold of the publication in principal components; see `mifsim.defense.osd.threshold_among`.

    Parameters
    ----------
    images : sequence of ndarray, shape (H, W) or (H, W, C)
        ``uint8``, or floats in [0, 1]; at least `k` images without attacks, such as the training images. The time grows
        with the square of their number.
    fit : str
        Digest of a fit that is loaded in this process; see `FittedConfig`.
    k : int
        Number of nearest neighbours.
    view : View or None
        Reduction of the images with which the fit was computed; None for none.

    Returns
    -------
    float
        A value for `OsdPcaConfig.threshold`.

    Raises
    ------
    ConfigError
        If the fit is not loaded, `k` is not accepted, or there are fewer than `k` images.
    InvalidImage
        If an image is not valid, or does not have the shape of the images of the fit.
    """
    from mifsim.defense.images import admit

    encoder, shape, rows = _encoder(fit), None, []
    for image in images:
        pixels = admit(image, shape)
        shape = pixels.shape
        rows.append(encoder.coordinates(encoder.admit(pixels if view is None else view.apply(pixels), None)))
    return threshold_among(rows, k)


def _encoder(fit: str) -> Features:
    from mifsim.defense.evidence.detector import Features

    return Features(required_fit("osd-pca", fit))
