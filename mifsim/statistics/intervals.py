"""Exact confidence intervals of proportions."""

from __future__ import annotations

from scipy import special


def rate_interval(blocked: int, sessions: int, clients: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval of the share of blocked sessions, of which those of one client are alike.

    Parameters
    ----------
    blocked, sessions : int
        With ``0 <= blocked <= sessions``.
    clients : int
        Number of clients that have these sessions.
    confidence : float
        Confidence level, in (0, 1).

    Returns
    -------
    tuple of float
        The exact interval of `clopper_pearson` if each client has one session. Otherwise that of one session for each
        client with the same share of blocked sessions, rounded outwards: dependent sessions tell no more than this.

    Examples
    --------
    >>> rate_interval(0, 299, 299) == clopper_pearson(0, 299)
    True
    >>> rate_interval(30, 240, 6) == (clopper_pearson(0, 6)[0], clopper_pearson(1, 6)[1])
    True
    """
    if clients >= sessions:
        return clopper_pearson(blocked, sessions, confidence)
    least, rest = divmod(blocked * clients, sessions)
    return clopper_pearson(least, clients, confidence)[0], clopper_pearson(least + (rest > 0), clients, confidence)[1]


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) two-sided confidence interval for a proportion.

    Parameters
    ----------
    successes, trials : int
        With ``0 <= successes <= trials``. With 0 trials the interval is (0, 1).
    confidence : float
        Confidence level, in (0, 1).

    Returns
    -------
    tuple of float
        Lower and upper bound, in [0, 1].

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Clopper and Pearson, Biometrika 26 (1934).

    Examples
    --------
    >>> low, high = clopper_pearson(0, 299)
    >>> low, round(high, 4)
    (0.0, 0.0123)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials, got {successes} of {trials}")
    tail = tail_of(confidence)
    low = special.betaincinv(successes, trials - successes + 1, tail) if successes > 0 else 0.0
    high = special.betainccinv(successes + 1, trials - successes, tail) if successes < trials else 1.0
    return float(low), float(high)


def tail_of(confidence: float) -> float:
    """Return the probability beyond each end of a two-sided interval.

    Raises
    ------
    ValueError
        If the confidence level is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return (1 - confidence) / 2
