"""Any file is either preprocessed or refused with a reason; nothing crashes, and memory does not grow.

``make fuzz`` tries 100,000 files, and prints the time and the memory.
"""

import collections
import io
import os
import resource
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from mifsim.data import DataConfig, load_data
from mifsim.data.image_files import decode
from mifsim.data.preprocessing import Preprocessing
from mifsim.errors import DataError
from tests.data.fuzzed_images import damaged, sound_image

COUNT = int(os.environ.get("MIFSIM_FUZZED_IMAGES", "1000"))

WAYS = [
    Preprocessing((16, 16, 3)),
    Preprocessing((9, 20), "squash"),
    Preprocessing((20, 9, 3), "pad", (1, 2, 3)),
    Preprocessing((8, 8), "pad", (255, 255, 255)),
]


def resident_mebibytes():
    """Return the memory that the process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measures memory as Linux reports it")
def test_damaged_files_are_preprocessed_or_refused_and_memory_stays_flat():
    reasons, started, memory = collections.Counter(), time.monotonic(), []
    for number in range(COUNT):
        rng = np.random.default_rng([7, number])
        data, way = damaged(sound_image(rng), rng), WAYS[number % len(WAYS)]
        try:
            image = way.read(data)
        except ValueError as error:
            reason = str(error)
            assert reason.isprintable(), (number, reason)
            assert 0 < len(reason) <= 300, (number, reason)
            reasons[reason.split(":")[0]] += 1
        else:
            assert (image.shape, image.dtype) == (way.shape, np.uint8), number
        if number % (COUNT // 10) == 0:
            memory.append(resident_mebibytes())
    refused = sum(reasons.values())
    print(f"\n{COUNT:,} files, {refused:,} refused, {time.monotonic() - started:.0f} s, MiB in tenths: {memory}")
    print(f"greatest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    print(*reasons.most_common(), sep="\n")
    assert 0.3 * COUNT < refused < 0.95 * COUNT
    assert memory[-1] < memory[2] + 100


@pytest.mark.parametrize("block", range(4))
def test_sound_files_are_read_as_pillow_reads_them(block):
    for number in range(COUNT // 40 * block, COUNT // 40 * (block + 1)):
        data = sound_image(np.random.default_rng([8, number]))
        opened = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        if opened.mode.startswith("I"):
            expected = np.repeat((np.asarray(opened, np.int64) >> 8)[..., None], 3, axis=2)
        else:
            expected = np.asarray(opened.convert("RGB"), np.int64)
        read = decode(data, "rgb")
        assert read.shape == expected.shape, number
        assert np.abs(read - expected).max() <= 2, number


def test_a_folder_with_damaged_files_counts_and_names_exactly_the_bad_ones(tmp_path):
    bad = []
    for number in range(200):
        rng = np.random.default_rng([9, number])
        data = sound_image(rng)
        path = tmp_path / ("even", "odd")[number % 2] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        if number % 5 == 0:
            data = damaged(data, rng)
            try:
                WAYS[0].read(data)
            except ValueError:
                bad.append(path)
        path.write_bytes(data)
    assert len(bad) > 10
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(set="folder", folder=tmp_path, size=16))
    assert f"{len(bad)} of 200 files are not valid images" in str(caught.value)
    with open(str(caught.value).split("listed in ")[1]) as file:
        assert sorted(line.split(": ")[0] for line in file) == sorted(map(str, bad))
