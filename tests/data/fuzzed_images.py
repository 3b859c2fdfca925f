"""Seeded image files, sound and damaged, of every kind that people store and that attackers could send."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

SIDE = 24
"""Greatest side of the sound images, in pixels; small, so that many can be tried."""


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sound_image(rng):
    """Return a valid file: any mode, depth, format, orientation and number of frames."""
    height, width = (int(side) for side in rng.integers(1, SIDE + 1, 2))
    pixels = cv2.resize(rng.integers(0, 256, (3, 4, 4), np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    image = Image.fromarray(pixels, "RGBA")
    mode = rng.choice(["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "16-bit colour", "PGM", "text PGM"])
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 10))
    options = {"exif": exif} if rng.random() < 0.5 else {}
    if mode == "I;16":
        return saved(Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16)), "PNG", **options)
    if mode == "16-bit colour":
        deep = rng.integers(0, 65536, (height, width, int(rng.choice([3, 4])))).astype(np.uint16)
        return cv2.imencode(".png", deep)[1].tobytes()
    if mode.endswith("PGM"):
        white = int(rng.choice([1, 15, 255, 4095, 65535]))
        values = rng.integers(0, white + 1, height * width)
        kind, written = 5, values.astype("u1" if white < 256 else ">u2").tobytes()
        if mode == "text PGM":
            kind, written = 2, b" ".join(b"%d" % value for value in values)
        return b"P%d\n%d %d\n%d\n" % (kind, width, height, white) + written
    if mode == "CMYK":
        return saved(image.convert("RGB").convert("CMYK"), "JPEG", **options)
    converted = image.convert("RGB").quantize(8) if mode == "P" else image.convert(mode)
    if mode == "P" and rng.random() < 0.5:
        options["transparency"] = int(rng.integers(0, 8))
    kinds = {"RGB": ["PNG", "JPEG", "WEBP"], "L": ["PNG", "JPEG"], "RGBA": ["PNG", "WEBP"]}.get(mode, ["PNG"])
    kind = str(rng.choice(kinds))
    if kind != "JPEG" and rng.random() < 0.2:
        options |= {"save_all": True, "append_images": [converted.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]}
    if kind == "JPEG":
        options |= {"quality": int(rng.integers(5, 100)), "progressive": bool(rng.random() < 0.3)}
    return saved(converted, kind, **options)


def stated_size(data, rng):
    """Return the file with another size in its header, which is huge, zero or slightly wrong, and a right checksum."""
    sides = [int(rng.choice([0, 1, 7, 30, 1000, 16383, 65535, 2**31 - 1, 2**32 - 1])) for _ in range(2)]
    if data.startswith(b"\x89PNG"):
        return data[:8] + png_chunk(b"IHDR", struct.pack(">II", *sides) + data[24:29]) + data[33:]
    if data.startswith(b"\xff\xd8"):
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            if (at := data.find(marker)) >= 0:
                return data[: at + 5] + struct.pack(">HH", *(side & 0xFFFF for side in sides)) + data[at + 9 :]
    if data[:4] == b"RIFF":
        at = 24 if data[12:16] == b"VP8X" else 21 if data[12:16] == b"VP8L" else 26
        return data[:at] + struct.pack("<Q", sides[0] | sides[1] << 24)[:6] + data[at + 6 :]
    return data[:3] + b"%d %d\n" % tuple(sides) + data[3:].split(b"\n", 1)[-1]


def damaged(data, rng):
    """Return a file after one or two changes of random kinds."""
    for _ in range(int(rng.integers(1, 3))):
        at, until = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
        change = rng.choice(["cut", "flip", "noise", "remove", "repeat", "magic", "size", "splice", "end"])
        if change == "cut":
            data = data[:at]
        elif change == "flip" and data:
            place = at % len(data)
            data = data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]
        elif change == "noise":
            until = min(until, at + 8)
            data = data[:at] + rng.bytes(until - at) + data[until:]
        elif change == "remove":
            data = data[:at] + data[min(until, at + 16) :]
        elif change == "repeat":
            data = data[:until] + data[at:]
        elif change == "magic":
            magic = [
                b"\x89PNG\r\n\x1a\n",
                b"\xff\xd8\xff\xe0",
                b"RIFF\x40\0\0\0WEBPVP8 ",
                b"P5 ",
                b"P2 9 9 255 ",
                b"GIF89a",
            ]
            data = magic[int(rng.integers(len(magic)))] + data[8:]
        elif change == "size":
            data = stated_size(data, rng)
        elif change == "splice":
            data = data[:at] + sound_image(rng)[until % 64 :]
        elif change == "end":
            data += rng.bytes(int(rng.integers(1, 64)))
    # Half of the damaged PNG files have right checksums, so that the damage reaches the decoder.
    return with_right_checksums(data) if data.startswith(b"\x89PNG") and rng.random() < 0.5 else data


def with_right_checksums(data):
    """Return a PNG file with the checksums of its chunks as they are."""
    at, found = 8, [data[:8]]
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append(png_chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join(found)
