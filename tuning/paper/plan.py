"""What is run: the paper's setup (its Sections 4 and 5.1, Table 1), and how far its open choices are swept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mifsim.defense import FilterConfig
from mifsim.study import Study

Half = Literal["MNIST", "CelebA"]
"""Which half of the paper's evaluation a data set stands for."""

HALVES: dict[str, Half] = {"mnist": "MNIST", "mnist-5k": "MNIST", "celeba": "CelebA", "faces": "CelebA"}

L_SP: dict[Half, int] = {"MNIST": 4, "CelebA": 8}

TRIALS_PAPER = 3
"""Attackers, and regular users, for each label (Section 5.3)."""

IMAGES_PER_LABEL = 800
"""To which the paper reduces its data (Section 4.5)."""

SMALL_IMAGES_PER_LABEL = 200
SMALL_EPOCHS = 40
"""Of the faces' classifier: its own number, 100 for so few images, takes half a minute."""

SEED = 20261125
CALIBRATION_SEED = 5_040_302
"""Of the sessions on which the calibrated setting is found: none of them is in the tables."""

CALIBRATED = "calibrated"


def configs(half: Half) -> dict[str, FilterConfig]:
    """Return Table 1."""
    thresholds = {"config_1": (0.99990, 0.00010), "config_2": (0.99999, 0.00001), "config_3": (0.99900, 0.00100)}
    return {
        name: FilterConfig(t_ssim=t_ssim, t_hash=t_hash, n_b=10, l_sp=L_SP[half])
        for name, (t_ssim, t_hash) in thresholds.items()
    }


@dataclass(frozen=True)
class Variant:
    """One reading of what the attacker does and what arrives of it. The defaults are the text's own, where it has any.

    Attributes
    ----------
    noise : float
        Standard deviation, in pixel values of 0 to 1.
    noise_on : {"iterate", "copy"}
    step : float
        MI-Face's λ.
    process : {"identity", "denoise-sharpen"}
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
        """What its population is called: the noise, and whatever is not the text's own."""
        plain = Variant(self.noise)
        others = [self.noise_on, f"step {self.step:g}", self.process, self.transport]
        usual = [plain.noise_on, f"step {plain.step:g}", plain.process, plain.transport]
        return " ".join([f"noise {self.noise:g}", *(a for a, b in zip(others, usual, strict=True) if a != b)])

    def attack(self, trials: int, budget: int, labels: list[int] | str = "all") -> dict[str, Any]:
        """Return it as a study's ``[[attacks]]`` table.

        Neither stopping rule is on: "the trial continues until it gets restricted" (Section 4.5).
        """
        return {
            "attack": "mi-face", "name": self.name, "noise": self.noise, "noise_on": self.noise_on,
            "step": self.step, "process": self.process, "beta": 0, "gamma": 0.0, "alpha": max(budget, 1),
            "trials": trials, "budget_queries": budget, "labels": labels,
        }  # fmt: skip


NOISES = (0.0, 0.0002, 0.0004, 0.0007, 0.001, 0.00125, 0.0015, 0.002, 0.0025, 0.005, 0.02, 0.1)
CELEBA_NOISES = (0.0, 0.0001, 0.00013, 0.00016, 0.0002, 0.0003, 0.0004, 0.0005, 0.001, 0.00125, 0.0015)
"""Closer together where settings 1 and 2 stop finding the attacker."""


def _variants(half: Half) -> tuple[Variant, ...]:
    """Everything that is swept: a ladder of noise as the text has it, coarser ones with one thing read otherwise."""
    few = (0.0, 0.0004, 0.002, 0.02)
    if half == "CelebA":
        return (
            *(Variant(noise) for noise in CELEBA_NOISES),
            Variant(0.001, transport="uint8"),
        )
    return (
        *(Variant(noise) for noise in NOISES),
        *(Variant(noise, noise_on="copy") for noise in few[1:3]),
        *(Variant(noise, transport="uint8") for noise in few[:3]),
        *(Variant(noise, step=step) for step in (0.01, 1.0) for noise in (0.0, 0.002)),
        Variant(0.002, transport="jpeg-90"),
        *(Variant(noise, process="denoise-sharpen") for noise in (0.0, 0.002)),
    )


@dataclass(frozen=True)
class Protocol:
    """How the images of one regular user's trial are drawn.

    Attributes
    ----------
    name : str
        ``distinct``: no image twice. ``carried over``: one session takes one image of each label in turn.
        ``drawn again``: with replacement from a small pool. ``re-uploads``: an image is followed by itself again,
        with a probability. ``re-encoded``: the same, the copy having gone through a JPEG of quality 90.
    images : int
        Of one session.
    pool : int or None
        Images that they are drawn from; None: all of the label.
    probability : float or None
        See above.
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
    """One data set's part of the reproduction.

    Attributes
    ----------
    half : {"MNIST", "CelebA"}
    data : mapping
        The study's ``[data]`` section.
    trials : int
        Attackers a label where intervals are to mean something; the first three are the paper's.
    budget : int
        Queries after which an attacker that is not blocked is stopped: the paper's are unlimited.
    noises : tuple of float
        Of the attackers that are recorded whole.
    live_noise : float
        Of those that also run live behind each setting, three a label.
    variants : tuple of Variant
    sweep_budget : int
    protocols : tuple of Protocol
    user_trials : int
        Sessions a label and protocol.
    workload_sessions : int
        Of each of the four workloads of the calibration, and of the heat maps.
    workload_length : tuple of int
        Least and greatest length of their sessions.
    search_trials : int
        Settings that the calibration tries.
    false_positive_limit : float
        That the calibrated setting must keep to for every workload.
    victim : mapping
        The study's ``[victim]`` section.
    seed : int
    small : bool
        See `plan_for`.
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

    def study(self, name: str, **sections: Any) -> Study:
        """Return a study on this plan's data and victim."""
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
        Where its files are; for mnist and celeba.
    trials : int or None
        Attackers a label; None: 30 (small: 3).
    small : bool
        A run of minutes: fewer readings, shorter sessions, three trials. Its intervals say little.
    """
    half = HALVES[dataset]
    data: dict[str, Any] = {"set": dataset}
    if folder is not None:
        data["folder"] = str(folder)
    # The embedded digits are 500 a label: fewer than the paper's 800, and all of them are used.
    if dataset != "mnist-5k":
        data["images_per_class"] = IMAGES_PER_LABEL
    plan = Plan(half, data, variants=_variants(half))
    if half == "CelebA":
        plan = replace(
            plan, budget=800, noises=(0.00013, 0.0004, 0.0015), live_noise=0.0015, sweep_budget=1500,
            workload_length=(20, 40), user_trials=20,
        )  # fmt: skip
    if small:
        if dataset == "faces":
            data["images_per_class"] = SMALL_IMAGES_PER_LABEL  # rendering and training on them takes a minute
            plan = replace(plan, victim={"epochs": SMALL_EPOCHS})
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
