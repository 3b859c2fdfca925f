"""One local Ray for all tests of this room that want it: starting one takes longer than they do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    import ray

    from mifsim.server.ray.cluster import connect

    started_here = connect(None)
    yield
    if started_here:
        ray.shutdown()
