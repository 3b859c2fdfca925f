"""Accuracy on CelebA of candidates for the paper's "standard CNN": python -m tests.benchmarks.architectures DIR [NAME]

Each candidate is trained once on the private images of the paper's plan, with the victim's seed, and measured on the
users' images. The candidates are those of `CANDIDATES`; give names to train some of them only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import mifsim
from mifsim.data import DataConfig, load_data
from mifsim.data.base import ArrayPool, ImagePool
from mifsim.networks import Model
from mifsim.victims.architectures import cnn
from mifsim.victims.model_check import network_accuracy
from mifsim.victims.training import RECIPES, train
from tuning.paper.plan import IMAGES_PER_LABEL

CANDIDATES = {
    "cnn": "the CNN of the rendered faces",
    "cnn-mirrored": "the same, with the recipe of cnn-bn: twice as many images, mirrored and shifted further",
    "cnn-bn": "with batch normalisation and an average over the image",
}


@mifsim.register("victims", "cnn-mirrored")
def cnn_mirrored(shape: tuple[int, int, int], classes: int) -> Model:
    """Build `cnn`."""
    return cnn(shape, classes)


cnn_mirrored.recipe = RECIPES["cnn-bn"]  # type: ignore[attr-defined]


def in_memory(pool: ImagePool) -> ArrayPool:
    """Return a copy of a pool that decodes no files."""
    return ArrayPool(np.rint(pool.images(np.arange(len(pool))) * 255).astype(np.uint8), pool.labels)


def main(folder: Path, names: list[str]) -> None:
    """Train the candidates one after another, and print a row of a Markdown table for each."""
    data = load_data(DataConfig(set="celeba", folder=folder, at_most_per_class=IMAGES_PER_LABEL))
    private, users = (in_memory(data.subset(subset)) for subset in ("private", "users"))
    print(f"{data.note}\n\n| candidate | accuracy | parameters | training |\n| --- | ---: | ---: | ---: |")
    for name in names:
        trained = train(name, [private], data.shape, len(data.class_names))
        accuracy = network_accuracy(trained.model, users, data.shape, len(data.class_names))
        cells = [f"`{name}`: {CANDIDATES[name]}", str(accuracy), f"{trained.model.count_params():,}"]
        print(f"| {' | '.join(cells)} | {trained.seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(CANDIDATES))
