"""The compiled parts of reading and writing PNG files; see `mifsim.guard.plain_png`."""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import entry


@entry
def unfilter(filtered: Any, step: int, pixels: Any) -> bool:
    """Undo the filters of the rows of an image without interlacing (PNG 1.2, Section 6).

    Parameters
    ----------
    filtered : ndarray of uint8, shape (rows * (1 + width),)
        The rows, each after the number of its filter.
    step : int
        Bytes of a pixel.
    pixels : ndarray of uint8, shape (rows, width)
        Receives the bytes of each row. (An array that a compiled function returns takes longer.)

    Returns
    -------
    bool
        Whether all rows have a filter that is defined.
    """
    rows, width = pixels.shape
    for row in range(rows):
        start = row * (width + 1)
        kind = filtered[start]
        given, now = filtered[start + 1 : start + 1 + width], pixels[row]
        above = pixels[max(0, row - 1)]
        first = row == 0  # the row above the first one is 0
        if kind == 0 or (kind == 2 and first):
            now[:] = given
        elif kind == 2:
            for i in range(width):
                now[i] = given[i] + above[i]
        elif kind == 1:
            now[:step] = given[:step]
            for i in range(step, width):
                now[i] = given[i] + now[i - step]
        elif kind == 3:
            for i in range(width):
                left = int(now[i - step]) if i >= step else 0
                up = 0 if first else int(above[i])
                now[i] = given[i] + (left + up) // 2
        elif kind == 4:
            for i in range(width):
                left = int(now[i - step]) if i >= step else 0
                up = 0 if first else int(above[i])
                corner = int(above[i - step]) if i >= step and not first else 0
                to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
                if to_left <= to_up and to_left <= to_corner:
                    now[i] = given[i] + left
                elif to_up <= to_corner:
                    now[i] = given[i] + up
                else:
                    now[i] = given[i] + corner
        else:
            return False
    return True


@entry
def pack_rows(pixels: Any, packed: Any) -> None:
    """Round pixels to 8 bits, as rows of a PNG file without filters.

    Parameters
    ----------
    pixels : ndarray of float32
        From 0 to 1; contiguous.
    packed : ndarray of uint8, shape (rows, 1 + width)
        Receives the rows, each after a 0.
    """
    flat = pixels.reshape(pixels.size)
    rows, width = len(packed), packed.shape[1] - 1
    for row in range(rows):
        packed[row, 0] = 0
        for i in range(width):
            packed[row, 1 + i] = np.uint8(np.rint(flat[row * width + i] * np.float32(255)))
