"""Digests of Blacklight with the SHA-256 instructions of x86 processors; see `mifsim.defense.blacklight_kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense import blacklight_kernels, sha256_x86
from mifsim.defense.blacklight_kernels import ROUND, START, insert, key_of, quantise
from mifsim.defense.compiled import entry_using, inner
from mifsim.defense.sha256_x86 import ORDER, compress

_START = START[ORDER]
_HIGH, _LOW = 5, 4  # places of g and h, the last 8 bytes of a hash, in a state


@inner
def _padding(window: int, kept: Any, padding: Any) -> None:
    """Write, for each block and word of a window's message, which bits are the window's, and all other bits.

    `kept` and `padding` have the shape (blocks, 16). See `blacklight_kernels.hash_tile` for the message.
    """
    kept[:] = np.uint32(0)
    padding[:] = np.uint32(0)
    end = window // 2  # the word with the one that follows the window
    for t in range(end):
        kept[t // 16, t % 16] = np.uint32(0xFFFFFFFF)
    kept[end // 16, end % 16] = np.uint32(0xFFFF0000 if window % 2 else 0)
    padding[end // 16, end % 16] = np.uint32(0x8000 if window % 2 else 0x80000000)
    padding[len(padding) - 1, 15] = np.uint32(16 * window)


@entry_using(blacklight_kernels, sha256_x86)
def digest_of(pixels: Any, salt: Any, window: int, stride: int, digest: Any) -> None:
    """Compute the digest of an image into `digest`; see `blacklight_kernels.digest_of`."""
    halves = quantise(pixels, salt)
    blocks = (2 * window + 9 + 63) // 64
    kept, padding = np.empty((blocks, 16), np.uint32), np.empty((blocks, 16), np.uint32)
    _padding(window, kept, padding)
    # words[p, i] is the word of the values 2 * i + p and the next one. The rest of a last block is read, but not kept.
    words = np.zeros((2, len(halves) // 2 + 20), np.uint32)
    for i in range(len(halves) - 1):
        words[i & 1, i >> 1] = np.uint32(np.uint32(halves[i] << np.uint32(16)) | halves[i + 1])
    last = len(halves) - 1
    words[last & 1, last >> 1] = np.uint32(halves[last] << np.uint32(16))
    windows = (len(halves) - window + 1) // stride
    states = np.empty((2, 8), np.uint32)
    digest[:] = np.uint64(0)
    size = 0
    for first in range(0, windows, 2):
        begin, other = first * stride, min(first + 1, windows - 1) * stride
        place = (begin & 1) * words.shape[1] + (begin >> 1)
        other_place = (other & 1) * words.shape[1] + (other >> 1)
        states[0, :] = _START
        states[1, :] = _START
        for block in range(blocks):
            compress(
                states, words, place + 16 * block, other_place + 16 * block, kept[block], padding[block], ROUND
            )  # fmt: skip
        for i in range(min(2, windows - first)):
            size = insert(key_of(states[i, _HIGH], states[i, _LOW]), digest, size)
