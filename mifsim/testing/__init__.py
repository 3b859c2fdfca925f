"""Conformance suites for attackers, users, evasions, detectors, data sets and victims, as pytest classes.

A test class of a plug-in inherits a suite and supplies one fixture::

    import pytest
    from mifsim.testing import AttackerConformance
    from my_package import MyAttack

    class TestMyAttack(AttackerConformance):
        @pytest.fixture
        def client(self): return MyAttack()

=======================  =========================================================
class                    fixture to supply
=======================  =========================================================
`AttackerConformance`    ``client``: a `mifsim.clients.Attacker`
`UserConformance`        ``client``: a `mifsim.clients.User`
`EvasionConformance`     ``evasion``: a `mifsim.clients.Evasion`
`DetectorConformance`    ``config``: a `mifsim.DetectorConfig`
`DataSetConformance`     ``data``: a `mifsim.data.DataSet`
`EngineConformance`      ``engine``: makes a `mifsim.victims.engines.base.Engine`
=======================  =========================================================

The docstring of each class describes optional fixtures, such as ``changes``, which enable further tests. The suites run
clients in the small worlds of `mifsim.testing.worlds`, which other tests of a plug-in can use too.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError("mifsim.testing needs pytest, which is not installed: pip install pytest") from error

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "clients",
            "conversations",
            "datasets",
            "detectors",
            "engines",
            "evasions",
            "fields",
            "streams",
            "worlds",
        )
    )
)

from mifsim.testing.clients import AttackerConformance, UserConformance  # noqa: E402 - after register_assert_rewrite
from mifsim.testing.datasets import DataSetConformance  # noqa: E402
from mifsim.testing.detectors import DetectorConformance  # noqa: E402
from mifsim.testing.engines import EngineConformance  # noqa: E402
from mifsim.testing.evasions import EvasionConformance  # noqa: E402

__all__ = [
    "AttackerConformance",
    "DataSetConformance",
    "DetectorConformance",
    "EngineConformance",
    "EvasionConformance",
    "UserConformance",
]
