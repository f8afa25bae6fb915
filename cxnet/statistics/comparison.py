"""Whether two classifiers differ: tests for pairs of runs on the same cases.

References
----------
.. [1] McNemar Q. Note on the sampling error of the difference between correlated proportions. Psychometrika 1947.
       doi:10.1007/BF02295996
.. [2] Agresti A, Min Y. Simple improved confidence intervals for comparing matched proportions. Stat Med 2005
       ("Wald+2"). doi:10.1002/sim.1781
.. [3] DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated ROC curves.
       Biometrics 1988. doi:10.2307/2531595
.. [4] Sun X, Xu W. Fast implementation of DeLong's algorithm. IEEE Signal Process Lett 2014.
       doi:10.1109/LSP.2014.2337313
.. [5] Nadeau C, Bengio Y. Inference for the generalization error. Mach Learn 2003 (corrected resampled t test).
       doi:10.1023/A:1024068626366
.. [6] Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979, 6:65-70.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxnet.statistics.proportions import NO_CASES, StatisticsError, check_level, normal_quantile, numbers


@dataclass(frozen=True)
class Comparison:
    """How much run A exceeds run B, and whether chance explains it.

    Parameters
    ----------
    name : str
        The test.
    difference : float or None
        A minus B, in units of what is compared; None when `reason` says why.
    low, high : float or None
        Confidence limits of the difference; both or neither.
    p_value : float or None
        Two-sided.
    statistic : float or None
        The test's own: the smaller discordant count (McNemar), z (DeLong), t (Nadeau and Bengio).
    reason : str or None
        Why there is no difference, or no test of it.

    Raises
    ------
    StatisticsError
        If a figure is missing without a reason.
    """

    name: str
    difference: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    statistic: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        figures = (self.difference, self.low, self.high, self.p_value, self.statistic)
        if any(x is None for x in figures) != bool(self.reason):
            raise StatisticsError(f"The comparison {self.name!r} needs all its figures, or else a reason.")
        if not all(math.isfinite(x) for x in figures if x is not None):
            raise StatisticsError(f"The comparison {self.name!r} must have finite figures; received {figures}.")


def _pair(
    a: ArrayLike, b: ArrayLike, otherwise: str = "Some values of a run are no numbers; give one for each case or fold."
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = numbers(a, otherwise), numbers(b, otherwise)
    if first.ndim != 1 or first.shape != second.shape:
        raise StatisticsError(
            f"Both runs need one value for each of the same cases or folds; received {first.shape} and {second.shape}."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise StatisticsError("Some values of a run are missing or not finite; compare the cases that both runs have.")
    return first, second


def mcnemar_exact(correct_a: ArrayLike, correct_b: ArrayLike, level: float = 0.95) -> Comparison:
    """Exact McNemar test of two accuracies on the same cases [1]_.

    Parameters
    ----------
    correct_a, correct_b : bool array (cases,)
        Whether each run is right on each case; 0 and 1 are taken too.
    level : float
        Of the interval of the difference.

    Raises
    ------
    StatisticsError
        If the arrays differ in length or hold anything but true and false.

    Notes
    -----
    The interval is Agresti and Min's [2]_, half a case added to every cell. The test is exact and conditional on the
    discordant cases, the interval is neither: at the border one may exclude 0 and the other not. Cases count as
    independent.
    """
    check_level(level)
    name = "exact McNemar test"
    told = "McNemar's test takes right or wrong for each case; compare labels with predictions first."
    first, second = _pair(correct_a, correct_b, told)
    if not np.isin(np.concatenate((first, second)), (0, 1)).all():
        raise StatisticsError(told)
    n = len(first)
    if not n:
        return Comparison(name, None, reason=NO_CASES)
    from scipy.stats import binomtest

    only_a, only_b = int((first > second).sum()), int((second > first).sum())
    discordant = only_a + only_b
    p_value = float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
    centre = (only_a - only_b) / (n + 2)
    half = normal_quantile(level) * math.sqrt(discordant + 1 - (only_a - only_b) ** 2 / (n + 2)) / (n + 2)
    return Comparison(
        name,
        (only_a - only_b) / n,
        max(-1.0, centre - half),
        min(1.0, centre + half),
        p_value,
        float(min(only_a, only_b)),
    )


def delong(positive: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, level: float = 0.95) -> Comparison:
    """DeLong's test of two ROC areas on the same cases [3]_, by midranks [4]_.

    Parameters
    ----------
    positive : bool array (cases,)
        Which cases truly have the class; 0 and 1 are taken too.
    scores_a, scores_b : float array (cases,)
        Each run's score for it.
    level : float
        Of the interval of the difference.

    Raises
    ------
    StatisticsError
        If the arrays differ in length, `positive` holds anything but true and false, or scores are not finite.

    Notes
    -----
    Use it within one fold: scores of different folds do not share a scale. Cases count as independent; with several
    images of a patient, bootstrap the difference instead.
    """
    quantile = normal_quantile(level)
    name = "DeLong's test"
    first, second = _pair(scores_a, scores_b)
    told = (
        "True or false, or 1 or 0, must say for each case whether it is positive; compare labels with the class first."
    )
    truth = numbers(positive, told)
    if truth.shape != first.shape or not np.isin(truth, (0, 1)).all():
        raise StatisticsError(told)
    mask = truth == 1
    positives, negatives = int(mask.sum()), int((~mask).sum())
    if not positives or not negatives:
        return Comparison(name, None, reason="positive and negative cases are needed" if len(mask) else NO_CASES)
    from scipy.stats import rankdata

    scores = np.stack((first, second))
    ranks = rankdata(scores, axis=1)
    # Structural components: for each positive the share of negatives below it, for each negative of positives above.
    above = (ranks[:, mask] - rankdata(scores[:, mask], axis=1)) / negatives
    below = 1 - (ranks[:, ~mask] - rankdata(scores[:, ~mask], axis=1)) / positives
    difference = float(above[0].mean() - above[1].mean())
    if min(positives, negatives) < 2:
        return Comparison(name, difference, reason="at least two positive and two negative cases are needed")
    variance = float(np.var(above[0] - above[1], ddof=1) / positives + np.var(below[0] - below[1], ddof=1) / negatives)
    if variance < 1e-18:
        return Comparison(name, difference, reason="both runs rank positives and negatives alike, so nothing varies")
    error = math.sqrt(variance)
    z = difference / error
    return Comparison(
        name,
        difference,
        max(-1.0, difference - quantile * error),
        min(1.0, difference + quantile * error),
        math.erfc(abs(z) / math.sqrt(2)),
        z,
    )


def nadeau_bengio(values_a: ArrayLike, values_b: ArrayLike, test_fraction: float, level: float = 0.95) -> Comparison:
    """Corrected resampled t test of the mean of a figure over folds [5]_.

    Parameters
    ----------
    values_a, values_b : float array (folds,)
        The figure of each fold, folds in the same order.
    test_fraction : float
        Share of all cases in one fold's test set: 0.2 for 5 folds.
    level : float
        Of the interval of the difference.

    Raises
    ------
    StatisticsError
        If the arrays differ in length or are not finite, or the fraction does not lie in (0, 1).

    Notes
    -----
    Folds share training cases, so a plain paired t test is too sure of itself. The variance of the mean is
    (1 / k + n_test / n_train) s² instead of s² / k, which for 5 folds widens the interval by half.
    """
    check_level(level)
    name = "corrected resampled t test"
    if not 0 < test_fraction < 1:
        raise StatisticsError(
            f"The test fraction must lie between 0 and 1, as 0.2 for 5 folds; received {test_fraction}."
        )
    first, second = _pair(values_a, values_b)
    folds = len(first)
    if not folds:
        return Comparison(name, None, reason="there are no folds")
    differences = first - second
    difference = float(differences.mean())
    if folds < 2:
        return Comparison(name, difference, reason="at least two folds are needed")
    spread = float(differences.std(ddof=1))
    if spread < 1e-12:
        return Comparison(name, difference, reason="the difference is the same in every fold, so nothing varies")
    from scipy.stats import t as student

    error = spread * math.sqrt(1 / folds + test_fraction / (1 - test_fraction))
    half = float(student.ppf(0.5 + level / 2, folds - 1)) * error
    statistic = difference / error
    return Comparison(
        name,
        difference,
        difference - half,
        difference + half,
        float(2 * student.sf(abs(statistic), folds - 1)),
        statistic,
    )


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Holm's adjusted p-values [6]_, in the order given.

    None stands for a test that could not be made; it stays None and does not count.

    Raises
    ------
    StatisticsError
        If a p-value is no number or does not lie in [0, 1].
    """
    made = [(p, number) for number, p in enumerate(p_values) if p is not None]
    for p, _ in made:
        if isinstance(p, str) or not 0 <= p <= 1:
            raise StatisticsError(
                f"P-values must lie between 0 and 1; received {p!r}, so give None for a test that could not be made."
            )
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, number) in enumerate(sorted(made)):
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        adjusted[number] = largest
    return tuple(adjusted)
