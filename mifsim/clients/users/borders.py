"""Images inside a constant frame, such as those of scanners and screenshots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.camera import resized
from mifsim.clients.users.span import Span, Within
from mifsim.clients.users.stream import ImageStream, shuffled

Style = Literal["frame", "letterbox", "pillarbox"]


class Borders(ImageStream):
    """Sends distinct images, each shrunk into the same border.

    The border is drawn once per session, as a user has one scanner, phone or player: bars above and below
    ("letterbox"), left and right ("pillarbox"), or all around ("frame": a scanner's lid, a program's window). It
    has one grey `level`, plus constant blocks of contrast `detail`: icons, captions, dust on the glass. The image is
    resized to the area inside the border, including its aspect ratio.
    """

    style: Style | Literal["any"] = Field(
        "any", description="position of the border: frame, letterbox or pillarbox; any: drawn for each session"
    )
    border: Annotated[Span, Within(0, 0.45)] = Field(
        Span.model_validate({"min": 0.1, "max": 0.25}),
        description="width of each bar, as a share of the side: a number, or {min, max}",
    )
    level: Annotated[Span, Within(0, 1)] = Field(
        Span.model_validate({"min": 0, "max": 1}),
        description="grey value of the border (pixels: 0 to 1): a number, or {min, max}",
    )
    detail: float = Field(0.1, ge=0, allow_inf_nan=False, description="contrast of the blocks on the border (sd)")

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        return (ImageNeed(queries),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield the pool's images in random order, each inside the session's border."""
        height, width = world.shape[:2]
        styles: tuple[Style, ...] = ("frame", "letterbox", "pillarbox")
        style = styles[rng.integers(len(styles))] if self.style == "any" else self.style
        share = self.border.draw(rng)
        bar_rows = 0 if style == "pillarbox" else round(share * height)
        bar_columns = 0 if style == "letterbox" else round(share * width)
        rows, columns = max(1, height - 2 * bar_rows), max(1, width - 2 * bar_columns)
        inside = np.s_[bar_rows : bar_rows + rows, bar_columns : bar_columns + columns]
        frame = self._frame(world.shape, rng)
        for index in shuffled(np.arange(len(world.pool)), rng):
            framed = frame.copy()
            framed[inside] = resized(world.pool.image(index), rows, columns)
            yield framed

    def _frame(self, shape: tuple[int, ...], rng: np.random.Generator) -> Image:
        """Return the empty frame: its level, and blocks of an eighth of the side."""
        import cv2

        height, width = shape[:2]
        blocks = self.level.draw(rng) + self.detail * rng.standard_normal((8, 8, *shape[2:]))
        frame: Image = cv2.resize(blocks.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
        return np.clip(frame, np.float32(0), np.float32(1))
