"""One figure with its interval, and intervals of proportions.

References
----------
.. [1] Wilson EB. Probable inference, the law of succession, and statistical inference. J Am Stat Assoc 1927.
       doi:10.1080/01621459.1927.10502953
.. [2] Newcombe RG. Two-sided confidence intervals for the single proportion. Stat Med 1998 (method 3).
       doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxnet.errors import CxnetError

NO_CASES = "there are no cases"


class StatisticsError(CxnetError):
    """A statistic cannot be computed from what was given."""


@dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Parameters
    ----------
    name : str
        As "sensitivity" or "ROC AUC".
    cls : str or None
        The class it is about; None for a figure of all classes.
    value : float or None
        None when `reason` says why it is undefined.
    low, high : float or None
        Confidence limits; both or neither.
    interval : str or None
        What kind of interval the limits are, as "Wilson 95 %"; None exactly when there are none.
    reason : str or None
        Why there is no value, or why a value has no interval.
    numerator, denominator : int or None
        Of a proportion.

    Raises
    ------
    StatisticsError
        If the fields contradict each other or are not finite.
    """

    name: str
    cls: str | None
    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    reason: str | None = None
    numerator: int | None = None
    denominator: int | None = None

    def __post_init__(self) -> None:
        limits = (self.low, self.high, self.interval)
        if self.value is None and not self.reason:
            raise StatisticsError(f"The figure {self.name!r} needs a value, or else a reason why it has none.")
        if any(x is None for x in limits) != all(x is None for x in limits):
            raise StatisticsError(f"The figure {self.name!r} needs both limits and the kind of interval, or none.")
        if self.interval is not None and self.reason:
            raise StatisticsError(f"The figure {self.name!r} has an interval and a reason for none; give one of them.")
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high) if x is not None):
            raise StatisticsError(f"The figure {self.name!r} must be finite; received {self.value}.")


def numbers(values: ArrayLike, otherwise: str) -> NDArray[np.float64]:
    """Values as float64; refused with the sentence `otherwise` if some are text, or rows differ in length."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "biufO":  # of others numpy would take the text "1" for a number
            return array.astype(np.float64)
    except (TypeError, ValueError):
        pass
    raise StatisticsError(otherwise)


def check_level(level: float) -> None:
    """Refuse a confidence level outside of (0, 1)."""
    if not 0 < level < 1:
        raise StatisticsError(f"The confidence level must lie between 0 and 1, as 0.95; received {level}.")


def normal_quantile(level: float) -> float:
    """Two-sided standard normal quantile: 1.96 for 0.95."""
    check_level(level)
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion [1]_, without continuity correction ([2]_, method 3).

    Returns
    -------
    (low, high) : tuple of float
        Within [0, 1]; they contain successes / n.

    Raises
    ------
    StatisticsError
        If n is below 1, successes do not lie in 0 … n, either is no whole number, or the level does not lie in (0, 1).

    Notes
    -----
    Cases count as independent. Several images of one patient make the interval too narrow.
    """
    if n < 1 or not 0 <= successes <= n:
        raise StatisticsError(f"A proportion needs 0 to n successes of at least one case; received {successes} of {n}.")
    if successes % 1 or n % 1:
        raise StatisticsError(f"A proportion is of whole cases; received {successes} of {n}, so give the counts.")
    z = normal_quantile(level)
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # The limits are exactly 0 and 1 at the ends; rounding would leave 1e-17 behind.
    return (
        0.0 if successes == 0 else min(max(0.0, centre - half), share),
        1.0 if successes == n else max(min(1.0, centre + half), share),
    )


def precision_at_prevalence(sensitivity: float, specificity: float, prevalence: float) -> float | None:
    """Positive predictive value in a population with another prevalence (Bayes' theorem).

    Returns
    -------
    float or None
        None if nobody would be called positive.

    Raises
    ------
    StatisticsError
        If an argument does not lie in [0, 1].
    """
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity), ("prevalence", prevalence)):
        if not 0 <= value <= 1:
            raise StatisticsError(f"The {name} must lie between 0 and 1, not in percent; received {value}.")
    hits = sensitivity * prevalence
    called = hits + (1 - specificity) * (1 - prevalence)
    return hits / called if called > 0 else None


def proportion(
    name: str, cls: str | None, numerator: int, denominator: int, undefined: str, level: float, withhold: str | None
) -> Metric:
    """A proportion as a :class:`Metric` with Wilson's interval; `undefined` is the reason for a denominator of 0."""
    if denominator == 0:
        return Metric(name, cls, None, reason=undefined, numerator=numerator, denominator=0)
    value = numerator / denominator
    if withhold is not None:
        return Metric(name, cls, value, reason=withhold, numerator=numerator, denominator=denominator)
    low, high = wilson(numerator, denominator, level)
    return Metric(
        name, cls, value, low, high, f"Wilson {100 * level:g} %", numerator=numerator, denominator=denominator
    )
