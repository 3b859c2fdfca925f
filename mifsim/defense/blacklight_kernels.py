"""Compiled kernels of Blacklight: hashes of windows of quantised pixels, and the number shared with earlier queries.

A hash is the SHA-256 of a window (FIPS 180-4), as in the publication. The published code reverses the hexadecimal text
of each hash, sorts these texts in descending order and keeps the first 50. Here, a **key** is the number that the first
16 digits of the reversed text represent: 64 of the 256 bits. Keys have the order of the texts, and hashes are the same
if their keys are. (Two different windows have the same key with a probability of 2**-64.) A digest is a row of keys in
descending order, filled with zeros, which stand for no hash.

SHA-256 is computed for a tile of windows at once: each step is a loop over the tile, which is vectorised. All
operations are on integers, or exact per pixel, so that the results do not depend on the machine. On x86 processors with
instructions for SHA-256, `mifsim.defense.blacklight_x86_kernels` computes the same digests in a third of the time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mifsim.defense.compiled import entry, inner

_STEP = 50  # of the quantised intensities, of 255
_TILE = 128  # windows: the state and the schedule of a tile fit into the first-level cache
_DIGITS, _BYTES, _PAIRS = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
_SLOT_BITS = 10  # of the lookup table, which then takes a quarter of the first-level cache


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found


def _cube_root(number: int) -> int:
    """Return the integer part of the cube root."""
    root = 1 << -(-number.bit_length() // 3)
    while (following := (2 * root + number // root**2) // 3) < root:
        root = following
    return root


# FIPS 180-4, Sections 4.2.2 and 5.3.3: 32 bits of the fractional parts of roots of the first primes.
ROUND = np.array([_cube_root(p << 96) & 0xFFFFFFFF for p in _primes(64)], dtype=np.uint32)
START = np.array([math.isqrt(p << 64) & 0xFFFFFFFF for p in _primes(8)], dtype=np.uint32)


# numba computes with 64 bits where numpy computes with 32, so results are converted back after each operation.


@inner
def _turned(x: Any, bits: int) -> Any:
    """Rotate a 32-bit number to the right."""
    return np.uint32(np.uint32(x >> np.uint32(bits)) | np.uint32(x << np.uint32(32 - bits)))


@inner
def _extend(w0: Any, w1: Any, w9: Any, w14: Any) -> None:
    """Replace the words ``w0`` of the message schedule by the words 16 places later."""
    for i in range(len(w0)):
        x, y = w1[i], w14[i]
        small = np.uint32(_turned(x, 7) ^ _turned(x, 18) ^ np.uint32(x >> np.uint32(3)))
        large = np.uint32(_turned(y, 17) ^ _turned(y, 19) ^ np.uint32(y >> np.uint32(10)))
        w0[i] = np.uint32(w0[i] + small + w9[i] + large)


@inner
def _round(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, word: Any, constant: Any) -> None:
    """Compute one round in place: afterwards `d` is the next ``e``, and `h` the next ``a``."""
    for i in range(len(a)):
        x, y = e[i], a[i]
        first = np.uint32(_turned(x, 6) ^ _turned(x, 11) ^ _turned(x, 25))
        choice = np.uint32((x & f[i]) ^ (np.uint32(~x) & g[i]))
        first = np.uint32(first + choice + h[i] + constant + word[i])
        second = np.uint32(_turned(y, 2) ^ _turned(y, 13) ^ _turned(y, 22))
        majority = np.uint32((y & b[i]) ^ (y & c[i]) ^ (b[i] & c[i]))
        d[i] = np.uint32(d[i] + first)
        h[i] = np.uint32(first + second + majority)


@inner
def _hash_tile(halves: Any, first: int, window: int, stride: int, work: Any, words: Any, state: Any) -> None:
    """Compute SHA-256 of a tile of windows into `state`, of shape (8, tile); `first` is the number of its first window.

    A window is a sequence of 16-bit numbers `halves`, followed by the padding of SHA-256: a one, zeros, and the number
    of bits.
    """
    for k in range(8):
        state[k, :] = START[k]
    blocks = (2 * window + 9 + 63) // 64
    for block in range(blocks):
        for t in range(16):
            place = 32 * block + 2 * t
            word = words[t]
            for half in range(2):
                shift = np.uint32(16 - 16 * half)
                at = place + half
                if at < window:
                    for i in range(len(word)):
                        begin = min((first + i) * stride, len(halves) - window)  # windows beyond the last are not used
                        value = np.uint32(halves[begin + at] << shift)
                        word[i] = value if half == 0 else np.uint32(word[i] | value)
                else:
                    fill = np.uint32(np.uint32(0x8000 if at == window else 0) << shift)
                    for i in range(len(word)):
                        word[i] = fill if half == 0 else np.uint32(word[i] | fill)
        if block == blocks - 1:
            words[15, :] = np.uint32(16 * window)
        work[:] = state
        for t in range(64):
            if t >= 16:
                _extend(words[t & 15], words[(t + 1) & 15], words[(t + 9) & 15], words[(t + 14) & 15])
            # The rows are not moved from round to round: round t finds variable k in row k - t, modulo 8.
            _round(
                work[-t & 7], work[(1 - t) & 7], work[(2 - t) & 7], work[(3 - t) & 7],
                work[(4 - t) & 7], work[(5 - t) & 7], work[(6 - t) & 7], work[(7 - t) & 7],
                words[t & 15], ROUND[t],
            )  # fmt: skip
        for k in range(8):
            total, part = state[k], work[k]
            for i in range(len(total)):
                total[i] = np.uint32(total[i] + part[i])


@inner
def key_of(high: Any, low: Any) -> Any:
    """Return the key of a hash, whose last 8 bytes are given: its hexadecimal digits in reverse order."""
    key = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
    for bits, mask in ((4, _DIGITS), (8, _BYTES), (16, _PAIRS)):  # swap neighbours of 4, 8 and 16 bits, then halves
        key = ((key >> np.uint64(bits)) & mask) | ((key & mask) << np.uint64(bits))
    return (key >> np.uint64(32)) | (key << np.uint64(32))


@inner
def insert(key: Any, digest: Any, size: int) -> int:
    """Insert a key into the largest keys so far, unless it is among them or too small; return their number."""
    if size == len(digest) and key <= digest[size - 1]:
        return size
    place = size
    while place > 0 and digest[place - 1] < key:
        place -= 1
    if place > 0 and digest[place - 1] == key:
        return size
    grown = min(size + 1, len(digest))
    for i in range(grown - 1, place, -1):
        digest[i] = digest[i - 1]
    digest[place] = key
    return grown


@inner
def quantise(pixels: Any, salt: Any) -> Any:
    """Return the quantised intensities of an image as 16-bit numbers in uint32; see `digest_of`."""
    halves = np.empty(len(pixels), np.uint32)
    for i in range(len(pixels)):
        value = np.float32(np.float32(pixels[i] * np.float32(255)) + salt[i])
        if value >= np.float32(255):  # the remainder of a division by 255, because the sum is below 510
            value = np.float32(value - np.float32(255))
        level = np.uint32(np.rint(np.float32(value / np.float32(_STEP)))) * np.uint32(_STEP)
        halves[i] = np.uint32(level << np.uint32(8))  # the bytes of an int16, the lower one first, the upper one 0
    return halves


@entry
def digest_of(pixels: Any, salt: Any, window: int, stride: int, digest: Any) -> None:
    """Compute the digest of an image into `digest`, a uint64 vector whose length is the number of hashes to keep.

    `pixels` are the float32 values in [0, 1], channel by channel, and `salt` a float32 vector of whole numbers from 0
    to 254. The arithmetic is that of the published code: float32, and halves are rounded to the even neighbour.
    """
    halves = quantise(pixels, salt)
    windows = (len(pixels) - window + 1) // stride
    work, words = np.empty((8, _TILE), np.uint32), np.empty((16, _TILE), np.uint32)
    state = np.empty((8, _TILE), np.uint32)
    digest[:] = np.uint64(0)
    size = 0
    for first in range(0, windows, _TILE):
        _hash_tile(halves, first, window, stride, work, words, state)
        for i in range(min(_TILE, windows - first)):
            size = insert(key_of(state[6, i], state[7, i]), digest, size)


@inner
def _fill(digest: Any, table: Any) -> int:
    """Enter the keys of a digest into a table, each at a place of its own, and return the shift of `_slot`; -1 if none.

    Keys are hashes, so that one of three or four shifts gives 50 keys different places.
    """
    for shift in range(64 - _SLOT_BITS):
        table[:] = np.uint64(0)
        # No key of slot 0 is equal to this number, whose slot is the last one: zeros stand for no hash.
        table[0] = np.uint64(len(table) - 1) << np.uint64(shift)
        empty = table[0]
        distinct = True
        for key in digest:
            if key:
                slot = _slot(key, np.uint64(shift))
                distinct &= table[slot] == (empty if slot == 0 else np.uint64(0))
                table[slot] = key
        if distinct:
            return shift
    return -1


@inner
def _slot(key: Any, shift: Any) -> Any:
    return (key >> shift) & np.uint64(2**_SLOT_BITS - 1)


@inner
def _count(row: Any, table: Any, shift: Any, digest: Any) -> int:
    """Return the number of keys that a stored row shares with the digest in the table."""
    count = 0
    if shift >= 0:
        by = np.uint64(shift)
        for i in range(len(row)):
            count += table[_slot(row[i], by)] == row[i]  # one comparison, without a branch
        return count
    for key in row:
        for other in digest:
            count += (key == other) & (key != 0)
    return count


@entry
def most_shared(digest: Any, stored: Any, start: int, size: int, memories: Any, shared: Any) -> None:
    """Compute the largest number of keys that a digest shares with one of the last stored digests.

    `stored` is a ring of rows, the oldest at `start`. ``shared[j]`` receives the result for the last ``memories[j]``
    rows; `memories` is ascending.
    """
    table = np.empty(2**_SLOT_BITS, np.uint64)
    shift = _fill(digest, table)
    most, lag = 0, 0
    for j in range(len(memories)):
        while lag < min(size, memories[j]):
            place = start + size - 1 - lag  # below twice the length
            row = stored[place - len(stored) if place >= len(stored) else place]
            most = max(most, _count(row, table, shift, digest))
            lag += 1
        shared[j] = most
