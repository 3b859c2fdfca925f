"""A session whose images come from several users: people and programs that share one key."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.length import Length, upper
from mifsim.clients.users.stream import ImageStream
from mifsim.errors import UserError


def _stream_class(name: str) -> type[ImageStream]:
    from mifsim.clients import client_class  # imported late: the registry refers to this module

    try:
        found = client_class(name)
    except UserError as error:
        raise ValueError(str(error)) from None
    if not issubclass(found, ImageStream):
        raise ValueError(f"{name!r} cannot be part of a mixture (expected a user that sends images of the data set)")
    return found


class Ingredient(BaseModel):
    """One user of a mixture; keys other than `user` and `weight` are arguments of that user, except `length`.

    Examples
    --------
    >>> Ingredient(user="bursts", weight=2, shots=3).stream.shots.mean
    3.0
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    user: str = Field(description="kind of user, as in [[users]]; not a log")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="relative frequency of its turns")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """Check the user's arguments, and fill in their defaults."""
        if not isinstance(value, Mapping) or not isinstance(value.get("user"), str):
            return value
        ingredient_keys = {key: value[key] for key in cls.model_fields if key in value}
        found = _stream_class(value["user"])
        rest = {key: value[key] for key in value if key not in ingredient_keys}
        accepted = sorted(set(found.model_fields) - {"length"})
        if unknown := sorted(set(rest) - set(accepted)):
            raise ValueError(f"unknown key {unknown[0]!r} (accepted: user, weight, {', '.join(accepted)})")
        try:
            user = found.model_validate(rest)
        except ValidationError as error:
            messages = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise ValueError(f"{value['user']}: {'; '.join(messages)}") from None
        return {**ingredient_keys, **user.model_dump(mode="json", exclude={"length"}, exclude_none=True)}

    @cached_property
    def stream(self) -> ImageStream:
        """The user with these arguments."""
        return _stream_class(self.user).model_validate(self.model_extra)


class Mixture(ImageStream):
    """Several users that take turns in one session; each of them continues where its last turn ended.

    This is the traffic of an API key that several people or programs share. The next user is drawn after every turn,
    in proportion to the weights. In the long run, the shares of the images are also proportional to the weights. The
    users are independent: two of them may send the same image.
    """

    of: tuple[Ingredient, ...] = Field(
        (
            Ingredient(user="independent", weight=3),
            Ingredient(user="retries"),
            Ingredient(user="re-uploads"),
            Ingredient(user="bursts"),
        ),
        min_length=1,
        description="the users: kind, weight and arguments, as in of = [{user = 'bursts', weight = 2, shots = 3}]",
    )
    turn: Length = Field(
        Length(1),
        description="images of one turn: a number, {min, max} (each equally likely) or {mean} (geometric)",
    )

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        total = sum(ingredient.weight for ingredient in self.of)
        found: list[ImageNeed] = []
        for ingredient in self.of:
            share = ingredient.weight / total
            # A turn is long or short, and somebody else's or not: images come in runs of this size on average.
            run = self.turn.mean + self.turn.variance / self.turn.mean
            most = upper(queries * share, queries * share * (1 - share) * run, queries)
            found += ingredient.stream.needs_for(most)
        return tuple(found)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield the users' images, in turns."""
        streams = [ingredient.stream.images(world, rng) for ingredient in self.of]
        ends = list(accumulate(ingredient.weight for ingredient in self.of))
        while True:
            # Rounding could give ends[-1] itself, for which bisect returns an index out of range.
            stream = streams[min(bisect(ends, rng.random() * ends[-1]), len(ends) - 1)]
            for _ in range(self.turn.draw(rng)):
                yield next(stream)
