"""Small sources in the layouts that the data sets read: IDX files, a folder of images, and CelebA's folder tree."""

from __future__ import annotations

import struct

import cv2
import numpy as np

TRAIN, TEST = 300, 40
"""Numbers of digits in the training files and in the test files."""


def digits(count, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)


def idx(array, magic=None, sizes=None):
    """Return an IDX file in the published format, written independently of the reader."""
    magic = 0x0800 + array.ndim if magic is None else magic
    sizes = array.shape if sizes is None else sizes
    return struct.pack(f">I{len(sizes)}I", magic, *sizes) + array.tobytes()


def idx_files(separator="-"):
    (x, y), (tx, ty) = digits(TRAIN, 0), digits(TEST, 1)
    return {
        f"train-images{separator}idx3-ubyte": idx(x),
        f"train-labels{separator}idx1-ubyte": idx(y),
        f"t10k-images{separator}idx3-ubyte": idx(tx),
        f"t10k-labels{separator}idx1-ubyte": idx(ty),
    }


def write_files(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def write_image(path, seed, size=(12, 14), grey=False):
    shape = size if grey else (*size, 3)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def write_pets(root):
    """Write three classes of 20 images, each class in a different file format."""
    for label, (name, ending) in enumerate([("cats", ".png"), ("dogs", ".jpg"), ("fish", ".pgm")]):
        (root / name).mkdir(parents=True)
        for number in range(20):
            write_image(root / name / f"{number:03}{ending}", 100 * label + number, grey=ending == ".pgm")
    (root / ".hidden").mkdir()
    (root / "cats" / ".DS_Store").write_text("")
    return root


FACES = 120
FACE_COLUMNS = ["5_o_Clock_Shadow", "Bangs", "Eyeglasses", "Male", "Young"]


def attributes(number):
    """Return attributes that cycle through all combinations of three, so that each subset has every class."""
    bangs, glasses, male = (1 if (number // step) % 2 else -1 for step in (1, 2, 4))
    return {"5_o_Clock_Shadow": -1, "Bangs": bangs, "Eyeglasses": glasses, "Male": male, "Young": 1}


def partition_of(number):
    return 0 if number < 72 else 1 if number < 104 else 2


def face_file(number):
    return f"{number + 1:06}.jpg"


def write_celeba(root):
    """Write CelebA's published layout, with random images in place of the photographs."""
    (root / "img_align_celeba").mkdir(parents=True)
    for number in range(FACES):
        image = np.random.default_rng(number).integers(0, 256, (22, 18, 3), np.uint8)
        image = cv2.resize(image, (178, 218), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / "img_align_celeba" / face_file(number)), image)
    write_celeba_lists(root, ".txt")
    return root


def write_celeba_lists(root, ending):
    for path in root.glob("list_*"):
        path.unlink()
    if ending == ".txt":
        rows = [str(FACES), " ".join(FACE_COLUMNS) + " "]
        rows += [face_file(n) + "  " + "  ".join(f"{attributes(n)[c]:2}" for c in FACE_COLUMNS) for n in range(FACES)]
        partition = [f"{face_file(n)} {partition_of(n)}" for n in range(FACES)]
    else:
        rows = ["image_id," + ",".join(FACE_COLUMNS)]
        rows += [face_file(n) + "," + ",".join(str(attributes(n)[c]) for c in FACE_COLUMNS) for n in range(FACES)]
        partition = ["image_id,partition"] + [f"{face_file(n)},{partition_of(n)}" for n in range(FACES)]
    (root / f"list_attr_celeba{ending}").write_text("\r\n".join(rows) + "\r\n")
    (root / f"list_eval_partition{ending}").write_text("\n".join(partition) + "\n")
