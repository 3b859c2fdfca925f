"""The paper's two similarity measures as functions of images (Section 3.2)."""

from __future__ import annotations

from mifsim.defense.similarity import FORMS, LARGEST_HASH, WINDOW, Form
from mifsim.errors import InvalidImage


def ssim(x: object, y: object, kind: Form = "global") -> float:
    """Structural similarity (SSIM) of two images, as the filter computes it.

    Parameters
    ----------
    x, y : ndarray of shape (H, W) or (H, W, C), C 1 or 3
        ``uint8``, or floats in [0, 1]; both of the same shape.
    kind : {"global", "uniform", "gaussian"}
        ``"global"`` is Eq. (1) over the whole image, with population variances. ``"uniform"`` is
        scikit-image's ``structural_similarity`` with its defaults (7x7 windows, sample covariance).
        ``"gaussian"`` is the same with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``
        (11x11 windows), as in Wang et al. All use K1 = 0.01, K2 = 0.03 and a data range of 1, and the mean
        over the channels of colour images.

    Returns
    -------
    float
        In [-1, 1], exactly 1 for equal images; a float32 value (see `mifsim.defense.ssim_hash.kernels`).

    Raises
    ------
    InvalidImage
        If an argument is not a valid image or is smaller than the window, or if the shapes differ.
    ValueError
        If `kind` is unknown.

    References
    ----------
    Eq. (1) of the paper; Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Processing 13 (2004).

    Examples
    --------
    >>> import numpy as np
    >>> black, white = np.zeros((8, 8)), np.ones((8, 8))
    >>> ssim(black, black), round(ssim(black, white), 6)
    (1.0, 0.0001)
    """
    from mifsim.defense.images import admit
    from mifsim.defense.ssim_hash.buffer import Buffer

    if kind not in FORMS:
        raise ValueError(f"kind = {kind!r}: must be one of {', '.join(FORMS)}")
    new, old = admit(x, smallest=WINDOW[kind]), admit(y, smallest=WINDOW[kind])
    if new.shape != old.shape:
        raise InvalidImage(f"got shapes {new.shape} and {old.shape}; expected two images of the same shape")
    pair = Buffer(1, (kind,))
    pair.push(*pair.admit(old), compare=False)
    return float(pair.push(*pair.admit(new))[kind][0])


def simple_hash(image: object, size: int = 8) -> float:
    """Mean intensity of an image after downsampling, which the filter uses as a hash.

    Parameters
    ----------
    image : ndarray of shape (H, W) or (H, W, C), C 1 or 3
        ``uint8``, or floats in [0, 1].
    size : int
        From 1 to 256. The image is resized to size x size pixels with OpenCV's ``INTER_AREA``; the mean is over pixels
        and channels.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InvalidImage
        If the argument is not a valid image.
    ValueError
        If the size is out of range.

    References
    ----------
    Section 3.2 of the paper.

    Examples
    --------
    >>> import numpy as np
    >>> round(simple_hash(np.full((28, 28), 51, dtype=np.uint8)), 6)
    0.2
    """
    from mifsim.defense.images import admit, hash_of

    if not 1 <= size <= LARGEST_HASH:
        raise ValueError(f"size = {size!r}: must be a whole number from 1 to {LARGEST_HASH}")
    return hash_of(admit(image), size)
