"""Changes of images that make honest variations and outliers of them; values may leave [0, 1] until `clipped`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
Random = np.random.Generator


def log_uniform(rng: Random, low: float, high: float) -> float:
    """Return a random number whose logarithm is uniformly distributed between those of two positive bounds."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def noisy(image: Image, deviation: float, rng: Random) -> Image:
    """Return an image with white noise."""
    return image + np.float32(deviation) * rng.standard_normal(image.shape, np.float32)


def blurred(image: Image, deviation: float) -> Image:
    """Return an image after a Gaussian blur; the border is replicated."""
    found: Image = cv2.GaussianBlur(image, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE).reshape(image.shape)
    return found


def moved(image: Image, pixels: float, degrees: float, zoom: float, rng: Random) -> Image:
    """Return an image after random motion; the arguments are standard deviations."""
    height, width = image.shape[:2]
    right, down, turn, larger = rng.standard_normal(4)
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees * turn, float(np.exp(zoom * larger)))
    motion[:, 2] += pixels * right, pixels * down
    found: Image = cv2.warpAffine(image, motion, (width, height), borderMode=cv2.BORDER_REPLICATE).reshape(image.shape)
    return found


def resized(image: Image, height: int, width: int) -> Image:
    """Return an image of another size: averages of areas if it is smaller, else bilinear."""
    how = cv2.INTER_AREA if height <= image.shape[0] and width <= image.shape[1] else cv2.INTER_LINEAR
    found: Image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how)
    return found.reshape((height, width, *image.shape[2:]))


def compressed(image: Image, quality: int) -> Image:
    """Return an image after JPEG compression."""
    pixels = np.rint(clipped(image) * np.float32(255)).astype(np.uint8)
    grey = image.ndim == 2 or image.shape[2] == 1
    sent = pixels if grey else pixels[..., ::-1]  # OpenCV's order of the channels
    _, content = cv2.imencode(".jpg", np.ascontiguousarray(sent), [cv2.IMWRITE_JPEG_QUALITY, quality])
    received: Any = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    found: Image = (received if grey else received[..., ::-1]).reshape(image.shape).astype(np.float32)
    return found / np.float32(255)


def clipped(image: Image) -> Image:
    """Return an image with values clipped to [0, 1]."""
    return np.clip(image, np.float32(0), np.float32(1)).astype(np.float32)


def sharpened(image: Image, rng: Random) -> Image:
    """Return an image with amplified fine structure."""
    return image + np.float32(rng.uniform(0.4, 3.0)) * (image - blurred(image, rng.uniform(0.6, 1.5)))


def denoised(image: Image, rng: Random) -> Image:
    """Return an image without fine structure: blurred, or the medians of 3x3 pixels."""
    if rng.random() < 0.7:
        return blurred(image, rng.uniform(0.8, 2.5))
    found: Image = cv2.medianBlur(np.ascontiguousarray(image), 3).reshape(image.shape)
    return found
