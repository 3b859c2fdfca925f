"""Anti-aliased drawing with OpenCV in the coordinates of a subject; used to render faces."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Canvas = npt.NDArray[np.uint8]
Color = tuple[float, float, float]

_SHIFT = 4  # fractional bits of OpenCV's coordinates


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Floats:
    """Return points of an ellipse, shape (40, 2), from angle `start` to `end`; 0 degrees is to the right, 90 below."""
    angle = np.deg2rad(np.linspace(start, end, 40))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


class Pencil:
    """Draws filled shapes and lines with transparency and soft edges.

    Parameters
    ----------
    pose : ndarray of float64, shape (2, 3)
        The affine map from the subject's coordinates to pixels.
    canvas : ndarray of uint8, shape (H, W, 3)
        The image on which it draws, RGB.
    """

    def __init__(self, pose: Floats, canvas: Canvas) -> None:
        self.pose = pose
        self.canvas = canvas

    def fill(self, points: Floats, color: Color, alpha: float = 1.0, blur: float = 0.0) -> None:
        """Fill a polygon with opacity `alpha` (0 to 1); `blur`, in units of the subject, softens its edge."""
        at = self._place(points)
        if alpha >= 1.0 and not blur:
            cv2.fillPoly(self.canvas, [at], color, cv2.LINE_AA, _SHIFT)
            return
        part, corner = self._around(at, blur)
        mask = np.zeros(self.canvas[part].shape[:2], np.uint8)
        cv2.fillPoly(mask, [at - corner], 255, cv2.LINE_AA, _SHIFT)
        self._blend(part, mask, color, alpha, blur)

    def line(self, points: Floats, color: Color, width: float, alpha: float = 1.0, blur: float = 0.0) -> None:
        """Draw an open line; see `fill`. `width` is in units of the subject."""
        at, pixels = self._place(points), max(1, round(width * self._unit))
        if alpha >= 1.0 and not blur:
            cv2.polylines(self.canvas, [at], False, color, pixels, cv2.LINE_AA, _SHIFT)
            return
        part, corner = self._around(at, blur + width)
        mask = np.zeros(self.canvas[part].shape[:2], np.uint8)
        cv2.polylines(mask, [at - corner], False, 255, pixels, cv2.LINE_AA, _SHIFT)
        self._blend(part, mask, color, alpha, blur)

    @property
    def _unit(self) -> float:
        return float(np.hypot(self.pose[0, 1], self.pose[1, 1]))

    def _place(self, points: Floats) -> npt.NDArray[np.int32]:
        placed = points @ self.pose[:, :2].T + self.pose[:, 2]
        fixed: npt.NDArray[np.int32] = np.round(placed * 2**_SHIFT).astype(np.int32)
        return fixed

    def _around(self, at: npt.NDArray[np.int32], reach: float) -> tuple[tuple[slice, slice], npt.NDArray[np.int32]]:
        """Return the part of the canvas that a shape touches, and the position of its upper left corner."""
        margin = int(3 * reach * self._unit) + 2
        size = np.array(self.canvas.shape[1::-1])
        low = np.clip((at.min(axis=0) >> _SHIFT) - margin, 0, size - 1)
        high = np.clip((at.max(axis=0) >> _SHIFT) + margin, 1, size)
        corner: npt.NDArray[np.int32] = (low << _SHIFT).astype(np.int32)
        return np.s_[low[1] : high[1], low[0] : high[0]], corner

    def _blend(self, part: tuple[slice, slice], mask: Canvas, color: Color, alpha: float, blur: float) -> None:
        soft = cv2.GaussianBlur(mask, (0, 0), blur * self._unit) if blur else mask
        weight = soft[..., None].astype(np.float32) * np.float32(alpha / 255)
        under = self.canvas[part].astype(np.float32)
        self.canvas[part] = np.rint(under + weight * (np.asarray(color, np.float32) - under)).astype(np.uint8)
