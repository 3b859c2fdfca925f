"""Tables 4 and 5: regular users, by every protocol that the text allows; the filter needs no model for this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Image
from mifsim.data.base import DataSet
from mifsim.defense import FilterConfig
from mifsim.progress import Bar
from mifsim.server.client_specs import client_rng
from mifsim.study.wire import Transport
from tuning.paper.plan import CALIBRATED, Plan, Protocol, configs
from tuning.paper.similarity_variants import MultiVariantRecorder, SimilarityVariant, VariantRecording, apply_variant
from tuning.replay import replay

Rows = list[dict[str, Any]]

PAPER_VARIANTS = (SimilarityVariant(), SimilarityVariant("uniform"), SimilarityVariant("global", 255))
"""Similarity variants in which the paper's configurations are evaluated; the calibrated one has its own SSIM form."""


def user_rows(plan: Plan, data: DataSet, calibrated: FilterConfig | None, trials: int | None = None) -> Rows:
    """Return the rows of ``paper_users``: false detections per label, protocol, configuration and variant."""
    rows: Rows = []
    labels = len(data.class_names)
    n_b = max(10, 0 if calibrated is None else calibrated.n_b)
    with Bar(f"{plan.half}: regular users", len(plan.protocols), "protocols") as bar:
        for number, protocol in enumerate(plan.protocols, 1):
            count = trials or plan.user_trials
            recording = VariantRecording.of([_record(images, n_b) for images in sessions(plan, data, protocol, count)])
            evaluated = [(variant, name, apply_variant(config, variant, "per_match"))
                         for variant in PAPER_VARIANTS for name, config in configs(plan.half).items()]  # fmt: skip
            if calibrated is not None:
                calibrated_variant = SimilarityVariant(calibrated.ssim, 1, calibrated.hash_size)
                evaluated.append((calibrated_variant, CALIBRATED, calibrated))
            for variant, name, config in evaluated:
                blocked_at = replay(recording.traces(variant, is_attack=False, budget=1), config).blocked_at
                for label in range(labels):
                    blocked = int((blocked_at[label * count : (label + 1) * count] > 0).sum())
                    rows.append(_row(plan, protocol, variant, config, name, label, count, blocked))
            bar.update(number)
    return rows


def _row(
    plan: Plan,
    protocol: Protocol,
    variant: SimilarityVariant,
    config: FilterConfig,
    name: str,
    label: int,
    trials: int,
    blocked: int,
) -> dict[str, Any]:
    return {
        "dataset": plan.half, "protocol": protocol.name, "images": protocol.images, "pool": protocol.pool,
        "probability": protocol.probability, "ssim": variant.form, "dynamic_range": variant.dynamic_range,
        "hash_size": variant.hash_size, "count_rule": config.count_rule, "config": name, "label": label,
        "trials": trials, "blocked": blocked,
    }  # fmt: skip


def _record(images: Iterator[Image], n_b: int) -> MultiVariantRecorder:
    recorder = MultiVariantRecorder(n_b)
    for image in images:
        recorder.check(image)
    return recorder


def sessions(plan: Plan, data: DataSet, protocol: Protocol, trials: int) -> Iterator[Iterator[Image]]:
    """Yield the images of every trial, label by label; they depend on the seed, protocol, label and trial only."""
    pool = data.subset("users")
    for label in range(len(data.class_names)):
        members = np.flatnonzero(pool.labels == label)
        for trial in range(trials):
            name = f"regular/{protocol.name}/{protocol.images}/{protocol.pool}/{protocol.probability}/{label}/{trial}"
            yield _images(data, protocol, label, members, client_rng(plan.seed, name))


def _images(
    data: DataSet, protocol: Protocol, label: int, members: npt.NDArray[np.int64], rng: np.random.Generator
) -> Iterator[Image]:
    pool = data.subset("users")
    match protocol.name:
        case "distinct":
            for index in rng.choice(members, min(protocol.images, len(members)), replace=False):
                yield pool.image(int(index))
        case "carried over":
            # The last image has the trial's label: it is the image that the paper's trial consists of.
            classes = len(data.class_names)
            for position in range(protocol.images):
                of_class = np.flatnonzero(pool.labels == (label + 1 + position - protocol.images) % classes)
                yield pool.image(int(rng.choice(of_class)))
        case "drawn again":
            subset = rng.choice(members, min(protocol.pool or len(members), len(members)), replace=False)
            for index in rng.choice(subset, protocol.images):
                yield pool.image(int(index))
        case "re-uploads" | "re-encoded":
            assert protocol.probability is not None
            transport = Transport.parse("jpeg-90" if protocol.name == "re-encoded" else "float32")
            last: Image | None = None
            for _ in range(protocol.images):
                if last is not None and rng.random() < protocol.probability:
                    yield transport.arrive(last)
                else:
                    last = pool.image(int(rng.choice(members)))
                    yield last
        case _:
            raise ValueError(f"protocol {protocol.name!r}: unknown (accepted: those of `Protocol`)")
