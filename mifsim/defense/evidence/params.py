"""Parameters of the kind ``evidence``, and those of its search."""

from __future__ import annotations

from collections.abc import Mapping

from mifsim.defense.evidence.flags import FLAGS, LEARNED
from mifsim.defense.param import Choice, Param

LARGEST_MEMORY = 16_384
LARGEST_K = 10

PARAMS: Mapping[str, Param] = {
    "neighbours_radius": Param(0.01, 10.0, "distance to the k-th nearest query", strictness=1, least=0.0),
    "neighbours_leak": Param(0.01, 0.3, "leak of the count of near queries", strictness=-1, least=0.0, most=1.0),
    "neighbours_limit": Param(1.0, 1e4, "count of near queries that blocks", strictness=-1, least=0.0),
    "average_radius": Param(0.1, 10.0, "distance from the mean image", strictness=1, least=0.0),
    "average_leak": Param(0.01, 0.3, "leak of the count of average images", strictness=-1, least=0.0, most=1.0),
    "average_limit": Param(1.0, 1e4, "count of average images that blocks", strictness=-1, least=0.0),
    "noisy_radius": Param(1e-3, 1.0, "noise level", strictness=-1, least=0.0),
    "noisy_leak": Param(0.01, 0.3, "leak of the count of noisy images", strictness=-1, least=0.0, most=1.0),
    "noisy_limit": Param(1.0, 1e4, "count of noisy images that blocks", strictness=-1, least=0.0),
    "smooth_radius": Param(1e-4, 1.0, "share of the image that is not explained", strictness=1, least=0.0),
    "smooth_leak": Param(0.01, 0.3, "leak of the count of smooth images", strictness=-1, least=0.0, most=1.0),
    "smooth_limit": Param(1.0, 1e4, "count of smooth images that blocks", strictness=-1, least=0.0),
    "repeats_leak": Param(0.01, 0.3, "leak of the count of exact repeats", strictness=-1, least=0.0, most=1.0),
    "repeats_limit": Param(1.0, 1e4, "count of exact repeats that blocks", strictness=-1, least=0.0),
    "queries_limit": Param(1.0, 1e5, "number of queries that blocks", strictness=-1, least=0.0),
    # Log-odds have no pole from which their distance is meaningful: this radius is neither relaxed nor tightened.
    "naturalness_radius": Param(-10.0, 10.0, "log-odds of an outlier", scale="linear", requires=LEARNED),
    "naturalness_leak": Param(0.01, 0.3, "leak of outliers", strictness=-1, least=0.0, most=1.0, requires=LEARNED),
    "naturalness_limit": Param(1.0, 1e4, "outliers that block", strictness=-1, least=0.0, requires=LEARNED),
}
"""The numbers of a configuration; see `mifsim.defense.evidence.config.EvidenceConfig`."""

CHOICES: Mapping[str, Choice] = {
    "k": Choice(range(1, LARGEST_K + 1), 5, "which nearest earlier query is compared"),
    "memory": Choice(range(1, LARGEST_MEMORY + 1), 1000, "earlier queries that are compared"),
    LEARNED: Choice((False, True), False, "whether outliers are recognised by a trained classifier", optional=True),
}
"""The fields of a configuration that take one of several values."""

SEARCH_PARAMS: Mapping[str, Param] = {
    **{
        f"{flag}_rate": Param(
            3e-4, 0.3, f"share of honest queries that raise {flag}", least=0.0, most=1.0,
            requires=LEARNED if flag == LEARNED else "",
        )
        for flag in (*FLAGS[:4], LEARNED)
    },
    **{
        f"{flag}_leak": Param(
            0.01, 0.3, f"leak of {flag}", least=0.0, most=1.0, requires=LEARNED if flag == LEARNED else ""
        )
        for flag in (*FLAGS[:5], LEARNED)
    },
    **{
        f"{flag}_share": Param(
            0.0, 1.0, f"weight of {flag} in the false-positive budget; below 0.1 it is off", least=0.0, most=1.0,
            scale="linear", requires=LEARNED if flag == LEARNED else "",
        )
        for flag in FLAGS
    },
    "budget": Param(0.05, 5.0, "false positives on the search split, as a share of the limit", least=0.0),
}  # fmt: skip
"""The numbers that the search proposes; `mifsim.defense.evidence.search` makes a configuration of them."""
