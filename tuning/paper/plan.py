"""The plan of the reproduction: the paper's setup (Sections 4 and 5.1, Table 1), and the sweep of its open choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mifsim.defense import FilterConfig
from mifsim.study import Study

Half = Literal["MNIST", "CelebA"]
"""The half of the paper's evaluation that a data set reproduces."""

HALVES: dict[str, Half] = {"mnist": "MNIST", "mnist-5k": "MNIST", "celeba": "CelebA", "faces": "CelebA"}

L_SP: dict[Half, int] = {"MNIST": 4, "CelebA": 8}

TRIALS_PAPER = 3
"""The paper's attackers, and regular users, per label (Section 5.3)."""

IMAGES_PER_LABEL = 800
"""The size to which the paper reduces its data (Section 4.5); a class of CelebA with fewer images keeps all."""

SMALL_IMAGES_PER_LABEL = 200
SMALL_EPOCHS = 40
"""Epochs of the faces' classifier in a small run; its default, 100 for so few images, takes half a minute."""

CELEBA_MODEL = "cnn-bn"
"""The paper's "standard CNN" for CelebA (Section 4.2). On 610 unseen images of the first 10,000, it is right on 88.0%
(95% interval 85.2 to 90.5%), and ``cnn``, the victim of the rendered faces, on 82.3% (79.0 to 85.2%); see
``tests.benchmarks.architectures``."""

PHOTOGRAPHS = ("celeba",)
"""Data sets of photographs that may not be shown: the page has no training image of them."""

SEED = 20261125
CALIBRATION_SEED = 5_040_302
"""Seed of the sessions for the calibration, none of which is in the tables."""

CALIBRATED = "calibrated"


def configs(half: Half) -> dict[str, FilterConfig]:
    """Return the configurations of Table 1."""
    thresholds = {"config_1": (0.99990, 0.00010), "config_2": (0.99999, 0.00001), "config_3": (0.99900, 0.00100)}
    return {
        name: FilterConfig(t_ssim=t_ssim, t_hash=t_hash, n_b=10, l_sp=L_SP[half])
        for name, (t_ssim, t_hash) in thresholds.items()
    }


@dataclass(frozen=True)
class Variant:
    """A variant of the attacker and of the transport. The defaults follow the paper's text as far as it states them.

    Attributes
    ----------
    noise : float
        Standard deviation, in pixel values of 0 to 1.
    noise_on : {"iterate", "copy"}
        Whether the noise changes the attacker's iterate or only the submitted copy.
    step : float
        MI-Face's λ.
    process : {"identity", "denoise-sharpen"}
        Processing of the image after each step.
    transport : str
        ``float32``, ``uint8`` or ``jpeg-Q``.
    """

    noise: float
    noise_on: str = "iterate"
    step: float = 0.1
    process: str = "identity"
    transport: str = "float32"

    @property
    def name(self) -> str:
        """Name of the variant's population: the noise, and every value that is not the default."""
        default = Variant(self.noise)
        values = [self.noise_on, f"step {self.step:g}", self.process, self.transport]
        defaults = [default.noise_on, f"step {default.step:g}", default.process, default.transport]
        return " ".join([f"noise {self.noise:g}", *(a for a, b in zip(values, defaults, strict=True) if a != b)])

    def attack(self, trials: int, budget: int, labels: list[int] | str = "all") -> dict[str, Any]:
        """Return the ``[[attacks]]`` table of the variant.

        Both stopping rules are off: "the trial continues until it gets restricted" (Section 4.5).
        """
        return {
            "attack": "mi-face", "name": self.name, "noise": self.noise, "noise_on": self.noise_on,
            "step": self.step, "process": self.process, "beta": 0, "gamma": 0.0, "alpha": max(budget, 1),
            "trials": trials, "budget_queries": budget, "labels": labels,
        }  # fmt: skip


NOISES = (0.0, 0.0002, 0.0004, 0.0007, 0.001, 0.00125, 0.0015, 0.002, 0.0025, 0.005, 0.02, 0.1)
CELEBA_NOISES = (0.0, 0.0001, 0.00013, 0.00016, 0.0002, 0.0003, 0.0004, 0.0005, 0.001, 0.00125, 0.0015)
"""Denser where configurations 1 and 2 stop detecting the attacker."""


def _variants(half: Half) -> tuple[Variant, ...]:
    """Return all variants: a fine sweep of the noise with the defaults, coarser ones with one other value changed."""
    coarse = (0.0, 0.0004, 0.002, 0.02)
    if half == "CelebA":
        return (
            *(Variant(noise) for noise in CELEBA_NOISES),
            Variant(0.001, transport="uint8"),
        )
    return (
        *(Variant(noise) for noise in NOISES),
        *(Variant(noise, noise_on="copy") for noise in coarse[1:3]),
        *(Variant(noise, transport="uint8") for noise in coarse[:3]),
        *(Variant(noise, step=step) for step in (0.01, 1.0) for noise in (0.0, 0.002)),
        Variant(0.002, transport="jpeg-90"),
        *(Variant(noise, process="denoise-sharpen") for noise in (0.0, 0.002)),
    )


@dataclass(frozen=True)
class Protocol:
    """How the images of a regular user's trial are drawn.

    Attributes
    ----------
    name : str
        ``distinct``: every image differs. ``carried over``: one session takes one image of each label in turn.
        ``drawn again``: with replacement from a small pool. ``re-uploads``: each image repeats the one before with a
        probability. ``re-encoded``: the same, but the repeated image is a JPEG of quality 90.
    images : int
        Images per session.
    pool : int or None
        Number of images to draw from; None: all images of the label.
    probability : float or None
        Probability of a repetition.
    """

    name: str
    images: int
    pool: int | None = None
    probability: float | None = None


PROTOCOLS = (
    Protocol("distinct", 1),
    Protocol("distinct", 10),
    Protocol("distinct", 30),
    Protocol("distinct", 100),
    Protocol("carried over", 30),
    *(Protocol("drawn again", images, pool) for pool in (10, 20, 30) for images in (10, 20, 30)),
    *(Protocol("re-uploads", images, None, p) for images in (10, 20) for p in (0.1, 0.2, 0.3)),
    *(Protocol("re-encoded", 20, None, p) for p in (0.2,)),
)


@dataclass(frozen=True)
class Plan:
    """The plan of the reproduction for one data set.

    Attributes
    ----------
    half : {"MNIST", "CelebA"}
    data : mapping
        The ``[data]`` section of the studies.
    trials : int
        Attackers per label for interval estimates; the first three are the paper's.
    budget : int
        Queries after which an unblocked attacker is stopped; the paper has no limit.
    noises : tuple of float
        Noise levels of the attackers in the main study.
    live_noise : float
        Noise level of the attackers that also run live with each configuration, three per label.
    variants : tuple of Variant
        Variants of the sweep.
    sweep_budget : int
        The budget of the attackers in the sweep.
    protocols : tuple of Protocol
    user_trials : int
        Sessions per label and protocol.
    workload_sessions : int
        Sessions of each of the four workloads in the calibration; the main study has a quarter of it, at least 12.
    workload_length : tuple of int
        Minimum and maximum length of their sessions.
    search_trials : int
        Configurations that the calibration evaluates.
    false_positive_limit : float
        Limit of the calibrated configuration for every workload.
    victim : mapping
        The ``[victim]`` section of the studies.
    seed : int
    small : bool
        See `plan_for`.
    shows_private : bool
        Whether the page may show a training image of each class.
    """

    half: Half
    data: Mapping[str, Any]
    trials: int = 30
    budget: int = 1500
    noises: tuple[float, ...] = (0.0004, 0.00125, 0.0025)
    live_noise: float = 0.0025
    variants: tuple[Variant, ...] = ()
    sweep_budget: int = 1500
    protocols: tuple[Protocol, ...] = PROTOCOLS
    user_trials: int = 60
    workload_sessions: int = 760
    workload_length: tuple[int, int] = (20, 100)
    search_trials: int = 300
    false_positive_limit: float = 0.01
    victim: Mapping[str, Any] = field(default_factory=dict)
    seed: int = SEED
    small: bool = False
    shows_private: bool = True

    def study(self, name: str, **sections: Any) -> Study:
        """Return a study with the plan's data, victim and seed."""
        table: dict[str, Any] = {
            "name": f"paper {self.half} {name}",
            "seed": self.seed,
            "data": dict(self.data),
            "victim": dict(self.victim),
            "server": {"response": "confidence"},
            **sections,
        }
        return Study.parse(table, "paper")


def plan_for(dataset: str, folder: Path | None, *, trials: int | None = None, small: bool = False) -> Plan:
    """Return the plan for a data set.

    Parameters
    ----------
    dataset : {"mnist", "mnist-5k", "celeba", "faces"}
    folder : Path or None
        Folder of the data set's files, for mnist and celeba.
    trials : int or None
        Attackers per label; None: 30 (small: 3).
    small : bool
        A run of minutes with fewer variants, shorter sessions and three trials. Its intervals are wide.
    """
    half = HALVES[dataset]
    data: dict[str, Any] = {"set": dataset}
    if folder is not None:
        data["folder"] = str(folder)
    # CelebA may have fewer images of a class, as its first 10,000 images do.
    size = "at_most_per_class" if dataset == "celeba" else "images_per_class"
    # The embedded data set has 500 digits per label, fewer than the paper's 800, so all of them are used.
    if dataset != "mnist-5k":
        data[size] = IMAGES_PER_LABEL
    plan = Plan(half, data, variants=_variants(half), shows_private=dataset not in PHOTOGRAPHS)
    if half == "CelebA":
        plan = replace(
            plan, budget=800, noises=(0.00013, 0.0004, 0.0015), live_noise=0.0015, sweep_budget=1500,
            workload_length=(20, 40), user_trials=20, victim={"model": CELEBA_MODEL} if dataset == "celeba" else {},
        )  # fmt: skip
    if small:
        if half == "CelebA":
            data[size] = SMALL_IMAGES_PER_LABEL  # reading or rendering more, and training on them, takes a minute
            plan = replace(plan, victim={**plan.victim, "epochs": SMALL_EPOCHS})
        plan = replace(
            plan,
            small=True,
            trials=TRIALS_PAPER,
            budget=200,
            noises=(plan.live_noise,),
            variants=tuple(Variant(noise) for noise in (0.0, 0.001, 0.005)),
            sweep_budget=200,
            protocols=(PROTOCOLS[0], PROTOCOLS[1], PROTOCOLS[5], PROTOCOLS[14]),
            user_trials=10,
            search_trials=60,
            workload_sessions=160,
            false_positive_limit=0.05,
        )
    return plan if trials is None else replace(plan, trials=max(TRIALS_PAPER, trials))
