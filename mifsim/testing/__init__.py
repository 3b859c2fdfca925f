"""What every attacker, user, evasion, detector and data set must do, as pytest classes to inherit from.

A plug-in outside this package inherits all the tests of its kind by supplying one fixture::

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
=======================  =========================================================

Each class names further fixtures that may be supplied, such as ``changes``, for more checks. The small world that the
clients are tested in is `mifsim.testing.worlds`; tests of a plug-in's results can use it too.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError("mifsim.testing needs pytest, which is not installed: pip install pytest") from error

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("clients", "conversations", "datasets", "detectors", "evasions", "fields", "worlds")
    )
)

from mifsim.testing.clients import AttackerConformance, UserConformance  # noqa: E402 - once pytest rewrites asserts
from mifsim.testing.datasets import DataSetConformance  # noqa: E402
from mifsim.testing.detectors import DetectorConformance  # noqa: E402
from mifsim.testing.evasions import EvasionConformance  # noqa: E402

__all__ = [
    "AttackerConformance",
    "DataSetConformance",
    "DetectorConformance",
    "EvasionConformance",
    "UserConformance",
]
