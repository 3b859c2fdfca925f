"""Separable CMA-ES: black-box maximisation with a normal search distribution of diagonal covariance.

Ros and Hansen, "A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity", PPSN 2008: CMA-ES with the
covariance restricted to its diagonal, which learns faster, by the factor (n + 2) / 3 (Section 3). Constants are those
of Hansen, "The CMA Evolution Strategy: A Tutorial", 2016, Table 1, without negative weights.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class SeparableCMAES:
    """One maximisation, in turns of `ask` and `tell`.

    No matrix products are computed: their last bits depend on the number of threads.

    Parameters
    ----------
    mean : ndarray, shape (n,)
        Where the search starts.
    sigma : float
        Standard deviation of the first points along each coordinate.
    rng : Generator
        Source of the random numbers.

    Attributes
    ----------
    mean : ndarray, shape (n,)
        Mean of the search distribution.
    population : int
        Number of points per turn, 4 + ⌊3 ln n⌋.

    Examples
    --------
    >>> search = SeparableCMAES(np.full(5, 3.0), 1.0, np.random.default_rng(0))
    >>> for _ in range(150):
    ...     points = search.ask()
    ...     search.tell(-(points**2).sum(axis=1))
    >>> bool(np.abs(search.mean).max() < 1e-6)
    True
    """

    def __init__(self, mean: Floats, sigma: float, rng: np.random.Generator) -> None:
        size = len(mean)
        self.mean = np.array(mean, np.float64)
        self.population = 4 + int(3 * math.log(size))
        self._sigma, self._rng = sigma, rng
        self._variances = np.ones(size)
        self._path_sigma, self._path = np.zeros(size), np.zeros(size)
        self._turns = 0
        kept = self.population // 2
        weights = math.log((self.population + 1) / 2) - np.log(np.arange(1, kept + 1))
        self._weights = weights / weights.sum()
        self._mass = 1 / float((self._weights**2).sum())
        mass = self._mass
        self._c_sigma = (mass + 2) / (size + mass + 5)
        self._damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (size + 1)) - 1) + self._c_sigma
        self._c = (4 + mass / size) / (size + 4 + 2 * mass / size)
        faster = (size + 2) / 3
        self._c_1 = min(1.0, faster * 2 / ((size + 1.3) ** 2 + mass))
        self._c_mass = min(1 - self._c_1, faster * 2 * (mass - 2 + 1 / mass) / ((size + 2) ** 2 + mass))
        self._expected = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))  # E|N(0, I)|
        self._steps = np.empty((0, size))

    def ask(self) -> Floats:
        """Return the points to evaluate, shape (population, n)."""
        self._steps = np.sqrt(self._variances) * self._rng.standard_normal((self.population, len(self.mean)))
        return self.mean + self._sigma * self._steps

    def tell(self, values: npt.ArrayLike) -> None:
        """Receive the values of the points of the last `ask`, shape (population,); larger is better."""
        order = np.argsort(-np.asarray(values, np.float64), kind="stable")[: len(self._weights)]
        best = self._steps[order]
        step = (self._weights[:, None] * best).sum(axis=0)
        self._turns += 1
        size = len(self.mean)
        self.mean = self.mean + self._sigma * step
        rate = self._c_sigma
        self._path_sigma = (1 - rate) * self._path_sigma + math.sqrt(rate * (2 - rate) * self._mass) * step / np.sqrt(
            self._variances
        )
        length = math.sqrt(float((self._path_sigma**2).sum()))
        # Without this condition, the path would grow while the step size is much too small.
        moving = length / math.sqrt(1 - (1 - rate) ** (2 * self._turns)) < (1.4 + 2 / (size + 1)) * self._expected
        self._path = (1 - self._c) * self._path + moving * math.sqrt(self._c * (2 - self._c) * self._mass) * step
        kept = 1 - self._c_1 - self._c_mass + (not moving) * self._c_1 * self._c * (2 - self._c)
        self._variances = (
            kept * self._variances
            + self._c_1 * self._path**2
            + self._c_mass * (self._weights[:, None] * best**2).sum(axis=0)
        )
        self._sigma *= math.exp(rate / self._damping * (length / self._expected - 1))
