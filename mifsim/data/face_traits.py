"""The random attributes and the pose of a rendered face, and its colours."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mifsim.data.celeba import CLASSES, SIDE
from mifsim.data.pencil import Color, Floats

SCALE = 3
"""How many times larger than the final image a face is drawn, on each axis."""
CANVAS = SIDE * SCALE
"""Side of the drawing in pixels."""

_SKIN: tuple[Color, ...] = (
    (246, 214, 190),
    (234, 192, 162),
    (222, 172, 136),
    (196, 142, 104),
    (158, 106, 74),
    (116, 76, 54),
    (82, 54, 40),
)
_HAIR: tuple[Color, ...] = (
    (24, 20, 20),
    (46, 32, 26),
    (84, 56, 38),
    (122, 84, 52),
    (176, 136, 86),
    (214, 186, 132),
    (140, 64, 36),
    (150, 148, 146),
)


@dataclass(frozen=True)
class Face:
    """The random attributes and the pose of one face.

    Attributes
    ----------
    masculinity : float
        0 to 1. It determines jaw, brows, lips, beard and length of hair. The distributions of the sexes overlap, as in
        photographs.
    bangs, eyeglasses : bool
        Whether the face has bangs or eyeglasses.
    yaw, pitch : float
        Horizontal and vertical offset of the features from the middle of the face, in its coordinates.
    skin, hair : tuple of float
        Colours, RGB, 0 to 255.
    pose : ndarray of float64, shape (2, 3)
        The affine map from the face's coordinates to pixels.
    """

    masculinity: float
    bangs: bool
    eyeglasses: bool
    yaw: float
    pitch: float
    skin: Color
    hair: Color
    pose: Floats = field(repr=False)


def random_face(label: int, rng: np.random.Generator) -> Face:
    """Draw the attributes and the pose of a face of class number `label`, at random."""
    name = CLASSES[label]
    male = name == "Male" if name in ("Male", "Female") else rng.random() < 0.5
    angle, scale = rng.normal(0, 6), rng.uniform(0.92, 1.16)
    x, y = rng.normal(0, 0.03, 2) * CANVAS
    unit = 0.30 * CANVAS * scale
    turn = np.deg2rad(angle)
    across = unit * rng.uniform(0.92, 1.06)
    pose = np.array(
        [
            [across * np.cos(turn), -unit * np.sin(turn), CANVAS * 0.5 + x],
            [across * np.sin(turn), unit * np.cos(turn), CANVAS * 0.52 + y],
        ]
    )
    return Face(
        masculinity=float(rng.beta(9, 1.5) if male else rng.beta(1.5, 9)),
        bangs=name == "Bangs" or (name == "Eyeglasses" and rng.random() < 0.2),
        eyeglasses=name == "Eyeglasses",
        yaw=float(rng.normal(0, 0.1)),
        pitch=float(rng.normal(0, 0.05)),
        skin=vary(_SKIN[rng.integers(len(_SKIN))], 9, rng),
        hair=vary(_HAIR[rng.integers(len(_HAIR))], 9, rng),
        pose=pose,
    )


def vary(color: Color, spread: float, rng: np.random.Generator) -> Color:
    """Return a similar colour.

    Parameters
    ----------
    color : tuple of float
        RGB, 0 to 255.
    spread : float
        Standard deviation of the change of all channels together; each changes by 0.4 times as much on its own.
    rng : Generator
    """
    r, g, b = np.clip(np.asarray(color) + rng.normal(0, 0.4 * spread, 3) + rng.normal(0, spread), 0, 255)
    return float(r), float(g), float(b)


def shade(color: Color, factor: float) -> Color:
    """Return a darker (`factor` below 1) or brighter colour; no channel exceeds 255."""
    r, g, b = (min(255.0, part * factor) for part in color)
    return r, g, b
