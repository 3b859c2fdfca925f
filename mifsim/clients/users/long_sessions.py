"""A user with long sessions of several hundred queries, of several kinds in turn."""

from __future__ import annotations

from pydantic import Field

from mifsim.clients.users.length import Geometric, Length, Uniform
from mifsim.clients.users.mixture import Ingredient, Mixture


class LongSessions(Mixture):
    """A mixture in long sessions, such as those of one person at work; a turn is a task of a few dozen images.

    The filter's count never decreases, so rare coincidences eventually end such a session: if each query increases the
    count by one with probability p, an honest session is blocked after about l_sp / p queries.
    """

    length: Length = Field(
        Length(Uniform(min=400, max=1200)),
        description="images in a session: a number, {min, max} (each equally likely) or {mean} (geometric)",
    )
    of: tuple[Ingredient, ...] = Field(
        (
            Ingredient(user="independent", weight=4),
            Ingredient(user="one-class", weight=2),
            Ingredient(user="bursts"),
            Ingredient(user="retries"),
            Ingredient(user="re-uploads"),
            Ingredient(user="augmentation"),
        ),
        min_length=1,
        description="the tasks: kind of user, weight and arguments, as in of = [{user = 'bursts', weight = 2}]",
    )
    turn: Length = Field(
        Length(Geometric(mean=25)),
        description="images of one task: a number, {min, max} (each equally likely) or {mean} (geometric)",
    )
