"""Forms of SSIM, the paper's similarity measure (Section 3.2), and their limits."""

from __future__ import annotations

from typing import Literal, get_args

Form = Literal["global", "uniform", "gaussian"]
"""Form of the SSIM: Eq. (1) over the whole image, or its mean over uniform 7x7 or Gaussian 11x11 windows."""

FORMS: tuple[Form, ...] = get_args(Form)

WINDOW: dict[Form, int] = {"global": 1, "uniform": 7, "gaussian": 11}
"""Smallest accepted height and width of an image, in pixels, by form."""

LARGEST_HASH = 256
"""Largest accepted `hash_size`, in pixels; larger values would enlarge most images before averaging."""
