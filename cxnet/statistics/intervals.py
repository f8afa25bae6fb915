"""Patient bootstrap: intervals that know that images of one patient are not independent.

References
----------
.. [1] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall 1993, chapter 13 (percentile interval).
.. [2] Field CA, Welsh AH. Bootstrapping clustered data. J R Stat Soc B 2007 (randomized cluster bootstrap).
       doi:10.1111/j.1467-9868.2007.00593.x
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxnet.statistics.confusion import balanced_accuracy, count_reasons, f1_scores, mcc
from cxnet.statistics.patients import LEAST_RESAMPLES, Index, patient_codes
from cxnet.statistics.probabilities import (
    Floats,
    brier_terms,
    check_probabilities,
    confidence_and_hit,
    ece_of_sorted,
    macro_reason,
    ranking_reason,
    rankings,
)
from cxnet.statistics.proportions import NO_CASES, Metric, StatisticsError, check_level

#: An interval is withheld when the figure is undefined in more than this share of the resamples.
MAY_BE_UNDEFINED = 0.05


@dataclass(frozen=True)
class Interval:
    """Limits of a figure, or the reason why there are none.

    Parameters
    ----------
    low, high : float or None
    reason : str or None
    """

    low: float | None
    high: float | None
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != bool(self.reason) or (self.high is None) != bool(self.reason):
            raise StatisticsError("An interval needs both limits, or else a reason why it has none.")


def _strata(groups: Index, strata: Sequence[str] | None) -> list[Index]:
    """The groups of each stratum; a group belongs to the stratum of most of its cases."""
    count = int(groups.max()) + 1
    if strata is None:
        return [np.arange(count)]
    names, codes = np.unique([str(stratum) for stratum in strata], return_inverse=True)
    table = np.bincount(groups * len(names) + codes, minlength=count * len(names)).reshape(count, len(names))
    of_group = table.argmax(axis=1)
    return [np.flatnonzero(of_group == number) for number in range(len(names)) if (of_group == number).any()]


def _replicates(
    statistic: Callable[[Index], ArrayLike],
    groups: Sequence[str | None],
    strata: Sequence[str] | None,
    resamples: int,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Floats | str:
    """The statistic of how often each case was drawn, for every resample; or why there is none."""
    if not len(groups):
        return NO_CASES
    reason = patient_codes(groups)[1]
    if reason is not None:
        return reason
    # numbered in the order of their names, so that the order of the cases changes nothing
    codes: Index = np.unique([str(group) for group in groups], return_inverse=True)[1]
    members = _strata(codes, strata)
    if min(map(len, members)) < 2:
        return "there are fewer than two patients" + (" of a class or fold" if strata is not None else "")
    rng = np.random.default_rng(seed)
    count = int(codes.max()) + 1
    rows = []
    for done in range(resamples):
        if progress is not None:
            progress(done / resamples)
        drawn = np.concatenate(
            [of_stratum[rng.integers(0, len(of_stratum), len(of_stratum))] for of_stratum in members]
        )
        rows.append(np.atleast_1d(np.asarray(statistic(np.bincount(drawn, minlength=count)[codes]), np.float64)))
    return np.stack(rows)


def _percentiles(values: Floats, level: float) -> Interval:
    defined = values[np.isfinite(values)]
    if len(defined) < (1 - MAY_BE_UNDEFINED) * len(values):
        return Interval(None, None, f"undefined in {len(values) - len(defined)} of {len(values)} resamples")
    low, high = np.quantile(defined, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high))


def _check(
    cases: int, groups: Sequence[str | None], strata: Sequence[str] | None, resamples: int, level: float
) -> None:
    check_level(level)
    if resamples < LEAST_RESAMPLES:
        raise StatisticsError(f"At least {LEAST_RESAMPLES} resamples are needed for an interval; received {resamples}.")
    if len(groups) != cases or (strata is not None and len(strata) != cases):
        raise StatisticsError("Each case needs one group, and one stratum if any; the lengths differ.")


def bootstrap(
    statistic: Callable[[Index], float | None],
    groups: Sequence[str | None],
    *,
    strata: Sequence[str] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval [1]_ from drawing whole groups with replacement [2]_.

    Parameters
    ----------
    statistic : callable
        Takes positions of cases, int64 (drawn cases,), rising, a position as often as its group was drawn; returns the
        figure of these cases, or None if it is undefined for them.
    groups : sequence of str (cases,)
        Patient of each case. One that is missing (None, "", NaN) withholds the interval.
    strata : sequence of str (cases,), optional
        Draw as many groups of each stratum as there are, as by true class, so that a rare class never vanishes.
        A group belongs to the stratum of most of its cases.
    resamples : int
    level : float
    seed : int
        The same seed gives the same interval.

    Returns
    -------
    Interval
        Without limits, with a reason, if there are no cases, patients are not known, there are fewer than two of a
        stratum, or the figure is undefined in more than 5 % of the resamples.

    Raises
    ------
    StatisticsError
        If lengths differ, the level does not lie in (0, 1) or there are fewer than 100 resamples.
    """
    _check(len(groups), groups, strata, resamples, level)
    everyone = np.arange(len(groups))

    def figure(times: Index) -> float:
        value = statistic(np.repeat(everyone, times))
        return float("nan") if value is None else float(value)

    values = _replicates(figure, groups, strata, resamples, seed)
    return Interval(None, None, values) if isinstance(values, str) else _percentiles(values[:, 0], level)


def auc_intervals(
    true: Sequence[str],
    probabilities: ArrayLike,
    groups: Sequence[str | None],
    classes: tuple[str, ...],
    *,
    folds: Sequence[object] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    withhold: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[Metric, ...]:
    """Figures that have no simple interval, with that of a patient bootstrap stratified by true class.

    Parameters
    ----------
    true : sequence of str (cases,)
    probabilities : float array (cases, classes)
        The class called is the one with the largest.
    groups : sequence of str (cases,)
        Patient of each case.
    classes : tuple of str
        In the order of the columns.
    folds : sequence (cases,), optional
        Fold of each case. ROC AUC and average precision are then the plain mean over the folds' own, since each fold's
        network has its own scale of scores; patients are drawn within folds. The other figures pool the cases.
    resamples, level, seed
        As of :func:`bootstrap`.
    withhold : str, optional
        Why intervals must not be given, as ``FoldCheck.intervals_reason``; then nothing is resampled.
    progress : callable, optional
        Gets the share that is done before each resample. Whatever it raises ends the work.

    Returns
    -------
    tuple of Metric
        ROC AUC and average precision of each class and their macro means, balanced accuracy, MCC, F1 of each class,
        macro F1, Brier score, expected calibration error.

    Raises
    ------
    StatisticsError
        If shapes or labels do not fit, or the rows are not probabilities.

    Notes
    -----
    The calibration error has no interval: it is biased upwards, and the repeats in a resample bias it once more. In
    simulations of a perfectly calibrated classifier (200 and 1,000 cases) the percentile interval never held the true
    error, and the basic interval in fewer than half of the runs. :func:`cxnet.statistics.ece` gives a null band.
    """
    codes, array = check_probabilities(true, probabilities, classes)
    _check(len(codes), groups, None, resamples, level)
    size = len(classes)
    fold_names = [""] * len(codes) if folds is None else [str(fold) for fold in folds]
    if len(fold_names) != len(codes):
        raise StatisticsError(f"Each of {len(codes)} cases needs its fold; received {len(fold_names)} folds.")
    parts = [(name, np.flatnonzero(np.array(fold_names) == name)) for name in sorted(set(fold_names))]
    ranked = [(at, rankings(codes[at], array[at])) for _, at in parts or [("", np.arange(0))]]
    strata = list(true) if folds is None else [f"{fold}\n{label}" for fold, label in zip(fold_names, true, strict=True)]
    cell = codes * size + array.argmax(axis=1)
    squares = brier_terms(codes, array)

    def figures(times: Index) -> list[float]:
        counts = np.bincount(cell, times, size * size).reshape(size, size)
        aucs = np.mean([[r.auc(times[at]) for r in own] for at, own in ranked], axis=0)
        precisions = np.mean([[r.average_precision(times[at]) for r in own] for at, own in ranked], axis=0)
        f1 = f1_scores(counts)
        return [
            *(*aucs, float(np.mean(aucs)), *precisions, float(np.mean(precisions))),
            *(balanced_accuracy(counts), mcc(counts), *f1.tolist(), float(f1.mean())),
            float(squares @ times / times.sum()) if times.any() else float("nan"),
        ]

    def why(number: int, cls: str) -> str:
        for name, at in parts:
            own = codes[at] == number
            if own.all() or not own.any():
                return ranking_reason(codes[at], number, cls) + (f" in fold {name}" if folds is not None else "")
        return NO_CASES

    once = np.ones(len(codes), np.int64)
    counts = np.bincount(cell, minlength=size * size).reshape(size, size)
    undefined = count_reasons(counts, classes)
    names: list[tuple[str, str | None, str]] = []
    for name in ("ROC AUC", "average precision"):
        names += [(name, cls, why(number, cls)) for number, cls in enumerate(classes)]
        names.append((f"macro {name}", None, macro_reason(name)))
    names += [(name, None, undefined.get(name, "")) for name in ("balanced accuracy", "MCC")]
    names += [("F1", cls, f"no case is or was called {cls}" if len(codes) else NO_CASES) for cls in classes]
    names += [("macro F1", None, undefined.get("macro F1", "")), ("Brier score", None, NO_CASES)]

    values = figures(once)
    drawn = withhold if withhold is not None else _replicates(figures, groups, strata, resamples, seed, progress)
    found = []
    for number, ((name, cls, reason), value) in enumerate(zip(names, values, strict=True)):
        if np.isnan(value):
            found.append(Metric(name, cls, None, reason=reason))
            continue
        limits = Interval(None, None, drawn) if isinstance(drawn, str) else _percentiles(drawn[:, number], level)
        kind = None if limits.reason else f"patient bootstrap {100 * level:g} %"
        found.append(Metric(name, cls, value, limits.low, limits.high, kind, limits.reason))
    if not len(codes):
        return (*found, Metric("expected calibration error", None, None, reason=NO_CASES))
    error = ece_of_sorted(*confidence_and_hit(codes, array), 15)
    return (*found, Metric("expected calibration error", None, error, reason="see its null band"))
