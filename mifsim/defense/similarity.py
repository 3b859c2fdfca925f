"""The forms of the paper's similarity measure (Section 3.2), and their limits."""

from __future__ import annotations

from typing import Literal, get_args

Form = Literal["global", "uniform", "gaussian"]
"""Which SSIM: Eq. (1) over the whole image, or its mean over 7x7 or over Gaussian 11x11 windows."""

FORMS: tuple[Form, ...] = get_args(Form)

WINDOW: dict[Form, int] = {"global": 1, "uniform": 7, "gaussian": 11}
"""The least height and width of an image, by form."""

LARGEST_HASH = 256
"""The largest `hash_size`: beyond it the hash is the mean of an enlarged image."""
