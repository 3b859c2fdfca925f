"""Faces drawn with OpenCV from a seed: a substitute with CelebA's four classes, for use without CelebA.

A face is drawn at three times its final size, in its own coordinates (about one unit to each side of the origin, with y
pointing down). A pose rotates, scales and shifts these coordinates. The drawing is reduced by area averaging, shaded as
a rounded body, and a camera's blur and noise are added.
"""

from __future__ import annotations

import cv2
import numpy as np

from mifsim.data.celeba import SIDE
from mifsim.data.face_traits import CANVAS, SCALE, Face, random_face, shade, vary
from mifsim.data.pencil import Canvas, Color, Floats, Pencil, ellipse

_IRIS: tuple[Color, ...] = ((70, 46, 30), (96, 70, 40), (60, 90, 120), (80, 110, 80))


def render(label: int, rng: np.random.Generator) -> Canvas:
    """Draw one face of a class.

    Parameters
    ----------
    label : int
        Index in `CLASSES`. As in `mifsim.data.celeba.class_of`, an Eyeglasses face may have bangs, and the classes
        Eyeglasses and Bangs contain both sexes.
    rng : Generator
        The source of all random numbers.

    Returns
    -------
    ndarray of uint8, shape (64, 64, 3)
        The image, RGB.
    """
    face = random_face(label, rng)
    pencil = Pencil(face.pose, _background(rng))
    _draw_body(pencil, face, rng)
    _draw_head(pencil, face, rng)
    _draw_features(pencil, face, rng)
    _draw_hair(pencil, face, rng)
    if face.eyeglasses:
        _draw_glasses(pencil, face, rng)
    return _photograph(pencil.canvas, face, rng)


def _outline(jaw: float, chin: float) -> Floats:
    """Return the outline of a face, round above and narrow at the chin; squarer for a larger `jaw` (0.6 to 0.95)."""
    angle = np.deg2rad(np.linspace(0, 360, 72, endpoint=False))
    x, y = np.cos(angle), np.sin(angle)
    below = np.clip(y, 0, 1)
    x = 0.78 * x * (1 - (1 - jaw) * below**1.6)
    return np.stack([x, np.where(y > 0, chin * y, 1.02 * y)], axis=1)


def _background(rng: np.random.Generator) -> Canvas:
    """Paint a blurred background: a smooth transition between a few colours, sometimes with an edge."""
    base = rng.uniform(40, 215) + rng.normal(0, 26, 3)
    rows, columns = rng.integers(2, 5, 2)
    patches = base + rng.normal(0, 22, (rows, columns, 1)) + rng.normal(0, 9, (rows, columns, 3))
    background = cv2.resize(patches.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        left, width = rng.integers(SIDE), rng.integers(5, 30)
        background[:, left : left + width] = base + rng.normal(0, 40) + rng.normal(0, 14, 3)
        background = cv2.GaussianBlur(background, (0, 0), float(rng.uniform(0.5, 2.5)))
    canvas: Canvas = cv2.resize(
        np.clip(background, 0, 255).astype(np.uint8), (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR
    )
    return canvas


def _draw_body(pencil: Pencil, face: Face, rng: np.random.Generator) -> None:
    m = face.masculinity
    # Hair behind the head: long for most women, short for most men.
    length = np.clip(rng.normal(1.25 - 1.8 * m, 0.3), -0.2, 1.5)
    if length > 0.1:
        width = rng.uniform(0.95, 1.12)
        back = np.concatenate(
            [
                ellipse(0, -0.22, width, 1.02, 180, 360),
                ellipse(0, length - 0.25, width, 0.35, 0, 180),
            ]
        )
        pencil.fill(back, shade(face.hair, 0.8))
    clothes = tuple(float(value) for value in rng.uniform(20, 235, 3))
    neck = 0.36 + 0.16 * m
    pencil.fill(np.array([[-neck, 0.5], [neck, 0.5], [neck + 0.06, 1.5], [-neck - 0.06, 1.5]]), shade(face.skin, 0.82))
    broad = 1.25 + 0.5 * m
    shoulders = np.array(
        [
            [-neck - 0.08, 1.22],
            [neck + 0.08, 1.22],
            [broad, 1.5],
            [broad + 0.3, 3],
            [-broad - 0.3, 3],
            [-broad, 1.5],
        ]
    )
    pencil.fill(shoulders, (clothes[0], clothes[1], clothes[2]))


def _draw_head(pencil: Pencil, face: Face, rng: np.random.Generator) -> None:
    m = face.masculinity
    for side in (-1, 1):
        pencil.fill(ellipse(side * 0.79, 0.02, 0.1, 0.2), shade(face.skin, 0.88))
    jaw, chin = 0.66 + 0.26 * m + rng.normal(0, 0.03), 1.0 + 0.12 * m + rng.normal(0, 0.03)
    outline = _outline(jaw, chin)
    pencil.fill(outline, face.skin)
    for side in (-1, 1):  # cheeks
        blush = vary((214, 120, 104), 10, rng)
        pencil.fill(ellipse(side * 0.42 + face.yaw, 0.3, 0.2, 0.14), blush, 0.22 * (1 - m), 0.08)
    if rng.random() < 0.6 * (m - 0.35) / 0.65:  # beard, from stubble to full
        beard = outline[outline[:, 1] > 0.3]
        upper = ellipse(face.yaw, 0.36, 0.56, 0.16, 180, 0)
        pencil.fill(np.concatenate([beard, upper]), shade(face.hair, 0.9), float(rng.uniform(0.2, 0.85)), 0.03)


def _draw_features(pencil: Pencil, face: Face, rng: np.random.Generator) -> None:
    m, x0, y0 = face.masculinity, face.yaw * 1.5, face.pitch * 2
    dark = shade(face.skin, 0.62)
    iris = vary(_IRIS[rng.integers(len(_IRIS))], 8, rng)
    gap, open_, wide = rng.normal(0.33, 0.015), rng.uniform(0.055, 0.1), rng.normal(0.155, 0.012)
    brow, lift = 0.04 + 0.07 * m + rng.normal(0, 0.01), rng.normal(0.02 * (1 - m), 0.02)
    look = rng.normal(0, 0.025)
    for side in (-1, 1):
        near = 1 - 0.6 * side * face.yaw  # the far side of a turned face is narrower
        x, y = x0 + side * gap * near, y0 - 0.1
        pencil.fill(ellipse(x, y - 0.02, wide * 1.35, open_ * 2.2), dark, 0.3, 0.05)
        pencil.fill(ellipse(x, y, wide * near, open_), (238, 234, 230))
        pencil.fill(ellipse(x + look, y, open_ * 0.95, open_ * 0.95), iris)
        pencil.fill(ellipse(x + look, y, open_ * 0.45, open_ * 0.45), (12, 10, 10))
        pencil.line(ellipse(x, y, wide * near, open_, 180, 360), shade(face.skin, 0.3), 0.03 + 0.02 * (1 - m))
        arch = ellipse(x, y - 0.15 - lift, wide * 1.25 * near, 0.07, 200, 340)
        pencil.line(arch, shade(face.hair, 0.75), max(0.025, brow), 0.85)
    nose = np.array([[x0 * 0.9 + 0.03, y0 - 0.05], [x0 * 1.25 + 0.09, y0 + 0.3], [x0 * 1.25, y0 + 0.36]])
    pencil.fill(nose, dark, 0.5, 0.03)
    for side in (-1, 1):
        pencil.fill(ellipse(x0 * 1.25 + side * 0.075, y0 + 0.32, 0.045, 0.028), shade(face.skin, 0.42), 0.8)
    _draw_mouth(pencil, face, x0 * 1.1, y0 + 0.6, rng)


def _draw_mouth(pencil: Pencil, face: Face, x: float, y: float, rng: np.random.Generator) -> None:
    m = face.masculinity
    made_up = rng.random() < 0.7 * (1 - m)
    lips = vary((176, 44, 58), 14, rng) if made_up else shade(vary(face.skin, 5, rng), 0.72)
    wide, full, smile = rng.normal(0.27, 0.03), 0.09 - 0.05 * m, rng.uniform(-0.02, 0.09)
    t = np.linspace(-1, 1, 21)
    middle = y + smile * (1 - t**2) - smile / 2
    opening = rng.uniform(0.04, 0.11) if rng.random() < 0.4 else 0.0
    curve = 1 - t**2
    upper = np.stack([x + wide * t, middle - full * curve * (0.8 + 0.2 * np.abs(t))], axis=1)
    lower = np.stack([x + wide * t, middle + (full + opening) * curve], axis=1)
    pencil.fill(np.concatenate([upper, lower[::-1]]), lips)
    if opening:
        top, low = (np.stack([x + wide * 0.8 * t, middle + h * curve], axis=1) for h in (0.0, opening))
        pencil.fill(np.concatenate([top, low[::-1]]), (232, 226, 218))
    else:
        pencil.line(np.stack([x + wide * t, middle], axis=1), shade(lips, 0.55), 0.025)


def _draw_hair(pencil: Pencil, face: Face, rng: np.random.Generator) -> None:
    m, hair = face.masculinity, face.hair
    # The hairline is an arc over the forehead, high if it recedes; the hair is between it and the skull.
    line = np.clip(rng.normal(-0.62, 0.07) - 0.05 * m, -0.85, -0.45)
    part, height = rng.uniform(-0.5, 0.5) + face.yaw, rng.uniform(1.12, 1.3)
    skull = ellipse(0, -0.12, 0.86, height - 0.12, 175, 365)
    t = np.linspace(1, -1, 25)
    edge = line + face.pitch + 0.38 * np.abs(t) ** 2.5 - 0.1 * np.exp(-(((t - part) / 0.25) ** 2))
    cap = np.concatenate([skull, np.stack([0.8 * t, edge], axis=1)])
    pencil.fill(cap, hair)
    if face.bangs:
        low = rng.normal(-0.22, 0.05) + face.pitch
        slant, cover = rng.normal(0, 0.1), rng.uniform(0.55, 0.8)
        left, right = (-cover, cover) if rng.random() < 0.65 else ((-cover, 0.25) if slant < 0 else (-0.25, cover))
        across = np.linspace(right, left, 23)
        tips = low + slant * across + rng.normal(0, 0.035, 23) + 0.08 * (across / cover) ** 2
        top = line + face.pitch - 0.08
        skull_width = 0.84 * (1 - min(1.0, (top + 0.12) / (height - 0.12)) ** 2) ** 0.5
        ends = np.clip([left, right], -skull_width, skull_width)
        fringe = np.concatenate([[[ends[0], top], [ends[1], top]], np.stack([across, tips], axis=1)])
        pencil.fill(fringe, hair, float(rng.uniform(0.8, 1.0)), 0.012)
    elif rng.random() < 0.15:  # a lock over part of the forehead, too small to count as bangs
        side = 1 if part < 0 else -1
        lock = np.array([[part, line - 0.3], [side * 0.62, line - 0.15], [side * 0.7, 0.0], [side * 0.5, -0.32]])
        pencil.fill(lock, hair, 1.0, 0.02)
    for _ in range(int(rng.integers(5, 12))):  # strands
        x = rng.uniform(-0.7, 0.7)
        strand = np.array([[part * 0.4 + 0.3 * x, -height * 0.93], [0.7 * x, -0.9], [x, line - 0.08]])
        tone = shade(hair, float(rng.uniform(0.7, 1.45)))
        pencil.line(strand, tone, 0.035, 0.3)


def _draw_glasses(pencil: Pencil, face: Face, rng: np.random.Generator) -> None:
    x0, y0 = face.yaw * 1.5, face.pitch * 2 - 0.08
    rx, ry, power = rng.uniform(0.22, 0.29), rng.uniform(0.15, 0.24), rng.uniform(2, 5)
    thin = rng.random() < 0.25
    width = rng.uniform(0.02, 0.035) if thin else rng.uniform(0.04, 0.075)
    frame = vary((150, 140, 120) if thin else (40, 34, 34), 22, rng)
    strength = float(rng.uniform(0.55, 0.9)) if thin else 1.0
    tint = float(rng.uniform(0.55, 0.9)) if rng.random() < 0.12 else float(rng.uniform(0.0, 0.12))
    angle = np.linspace(0, 2 * np.pi, 49)
    rim = np.stack(
        [
            rx * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power),
            ry * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / power),
        ],
        axis=1,
    )
    for side in (-1, 1):
        center = np.array([x0 + side * 0.34 * (1 - 0.6 * side * face.yaw), y0])
        pencil.fill(rim + center, (30, 30, 36), tint)
        pencil.line(rim + center, frame, width, strength)
        pencil.line(np.array([[center[0] + side * rx, y0 - 0.05], [side * 0.8, y0 - 0.1]]), frame, width, strength)
        if rng.random() < 0.3:  # glare
            glare = np.array([[-0.1, -0.1], [-0.02, -0.12], [-0.08, 0.1], [-0.14, 0.08]]) + center
            pencil.fill(glare, (250, 250, 250), 0.45, 0.015)
    pencil.line(ellipse(x0, y0, 0.1, 0.05, 200, 340), frame, width, strength)


def _photograph(canvas: Canvas, face: Face, rng: np.random.Generator) -> Canvas:
    """Reduce a drawing by area averaging, shade the head as a rounded body, and add a camera's blur and noise."""
    image = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    pixel = (np.arange(SIDE) + 0.5) * SCALE
    across, down = np.meshgrid(pixel, pixel)
    u, v = np.tensordot(
        np.linalg.inv(face.pose[:, :2]), np.stack([across - face.pose[0, 2], down - face.pose[1, 2]]), axes=1
    )
    bulge = np.clip(1 - (u / 1.05) ** 2 - (v / 1.3) ** 2, 0, 1) ** 0.5
    direction, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.45)
    body = 0.9 + bulge * (0.15 + slope * (np.cos(direction) * u + 0.7 * np.sin(direction) * v))
    light = 1 + rng.normal(0, 0.12) * (across / CANVAS - 0.5) + rng.normal(0, 0.12) * (down / CANVAS - 0.5)
    warmth = 1 + rng.normal(0, 0.05) * np.array([1.0, 0.1, -1.0])
    lit = image * np.clip(body * light, 0.3, 1.6)[..., None] * warmth
    lit = np.clip(lit * rng.uniform(0.75, 1.15), 0, 1) ** rng.uniform(0.85, 1.2)
    lit = cv2.GaussianBlur(lit.astype(np.float32), (0, 0), float(rng.uniform(0.3, 0.7)))
    lit += rng.normal(0, rng.uniform(0.004, 0.018), lit.shape)
    photo: Canvas = np.rint(np.clip(lit, 0, 1) * 255).astype(np.uint8)
    return photo
