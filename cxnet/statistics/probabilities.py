"""Figures of predicted probabilities: ranking (ROC, precision-recall) and calibration (Brier, ECE).

References
----------
.. [1] Brier GW. Verification of forecasts expressed in terms of probability. Mon Weather Rev 1950 (equation 2).
       doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
.. [2] Guo C et al. On calibration of modern neural networks. ICML 2017 (equation 3). arXiv:1706.04599
.. [3] Roelofs R et al. Mitigating bias in calibration error estimation (equal-mass bins). AISTATS 2022. arXiv:2012.08668
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxnet.statistics.confusion import encode
from cxnet.statistics.proportions import NO_CASES, Metric, StatisticsError, check_level, numbers, wilson

Floats = NDArray[np.float64]
Weights = NDArray[np.integer[Any]]

#: A bin of fewer cases says little: ECE takes fewer bins rather than smaller ones.
CASES_PER_BIN = 10
#: Rows of probabilities may miss 1 by this much, since stored tables are rounded.
ROUNDING = 0.02


class _ReadOnly:
    """Base of frozen dataclasses whose arrays are made read-only."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value = value.copy()
                value.flags.writeable = False
                object.__setattr__(self, field.name, value)


@dataclass(frozen=True, eq=False)
class RocCurve(_ReadOnly):
    """Receiver operating characteristic of one class against the rest.

    Parameters
    ----------
    false_positive_rate, sensitivity : float64 array (points,)
        From (0, 0) to (1, 1).
    thresholds : float64 array (points,)
        Called positive from this score up, falling; the first is infinite (nobody is called positive).
    """

    false_positive_rate: Floats
    sensitivity: Floats
    thresholds: Floats


@dataclass(frozen=True, eq=False)
class PrCurve(_ReadOnly):
    """Precision against recall of one class against the rest.

    Parameters
    ----------
    recall, precision : float64 array (points,)
        From recall 0, where precision is 1 by convention.
    thresholds : float64 array (points,)
        Called positive from this score up, falling; the first is infinite.
    prevalence : float
        Share of true positives: the precision of calling everybody positive.
    """

    recall: Floats
    precision: Floats
    thresholds: Floats
    prevalence: float


@dataclass(frozen=True, eq=False)
class Reliability(_ReadOnly):
    """Equal-mass bins of a reliability diagram, by rising confidence.

    Parameters
    ----------
    confidence, frequency : float64 array (bins,)
        Mean predicted probability, and how often it came true.
    low, high : float64 array (bins,)
        Wilson's interval of the frequency.
    count : int64 array (bins,)
    """

    confidence: Floats
    frequency: Floats
    low: Floats
    high: Floats
    count: NDArray[np.int64]


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error next to what a perfectly calibrated classifier would score.

    Parameters
    ----------
    value : float or None
        None when `reason` says why.
    null_mean, null_low, null_high : float or None
        Mean and band of the error when labels are drawn from the predicted probabilities themselves.
    bins : int
        Bins that were used.
    reason : str or None
    """

    value: float | None
    null_mean: float | None
    null_low: float | None
    null_high: float | None
    bins: int
    reason: str | None = None


def check_scores(true: Sequence[str], scores: ArrayLike) -> Floats:
    """Scores of one class as float64 (cases,); refuses other shapes and values that are not finite."""
    array = numbers(scores, "Some scores are no numbers; give one for each case.")
    if array.shape != (len(true),):
        raise StatisticsError(f"One score is needed for each of {len(true)} cases; received an array {array.shape}.")
    if not np.isfinite(array).all():
        raise StatisticsError("Some scores are missing or not finite; leave these cases out or predict them again.")
    return array


def check_probabilities(
    true: Sequence[str], probabilities: ArrayLike, classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], Floats]:
    """Positions of the true classes, int64 (cases,), and probabilities, float64 (cases, classes)."""
    codes = encode(true, classes, "true")
    array = numbers(probabilities, "Some probabilities are no numbers; give a row for each case, one for each class.")
    if array.shape != (len(codes), len(classes)):
        raise StatisticsError(
            f"Probabilities of {len(codes)} cases and {len(classes)} classes are needed; received an array {array.shape}."
        )
    if not np.isfinite(array).all():
        raise StatisticsError(
            "Some probabilities are missing or not finite; leave these cases out or predict them again."
        )
    if array.size and (array.min() < 0 or array.max() > 1 or np.abs(array.sum(axis=1) - 1).max() > ROUNDING):
        raise StatisticsError(
            "Each case's probabilities must lie in [0, 1] and add up to 1; logits need a softmax first."
        )
    return codes, array


class Ranking:
    """Scores sorted once, so that resampled areas under curves cost no sorting.

    Parameters
    ----------
    scores : float array (cases,)
    positive : bool array (cases,)
    """

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        self.order = np.argsort(-scores, kind="stable")
        falling = scores[self.order]
        # First case of each group of equal scores.
        self.starts = np.flatnonzero(np.diff(falling, prepend=np.inf) != 0)
        self.positive = positive[self.order]

    def _groups(self, weights: Weights) -> tuple[Floats, Floats]:
        """Positives and negatives at each distinct score, by falling score."""
        ordered = weights[self.order]
        positive = np.where(self.positive, ordered, 0)
        hits = np.add.reduceat(positive, self.starts).astype(np.float64)
        return hits, np.add.reduceat(ordered, self.starts) - hits

    def auc(self, weights: Weights) -> float:
        """Chance that a positive scores above a negative, ties half; NaN without both."""
        if not len(self.order):
            return float("nan")
        hits, others = self._groups(weights)
        pairs = hits.sum() * others.sum()
        below = others.sum() - np.cumsum(others) + others / 2
        return float(hits @ below / pairs) if pairs > 0 else float("nan")

    def average_precision(self, weights: Weights) -> float:
        """Mean of precision over the steps in recall, without interpolation; NaN without positives."""
        if not len(self.order):
            return float("nan")
        hits, others = self._groups(weights)
        called = np.cumsum(hits + others)
        # A resample may leave the highest scores out; they then add nothing.
        precision = np.divide(np.cumsum(hits), called, out=np.zeros_like(called), where=called > 0)
        return float(hits @ precision / hits.sum()) if hits.sum() > 0 else float("nan")


def rankings(codes: NDArray[np.int64], probabilities: Floats) -> list[Ranking]:
    """A ranking of each class against the rest."""
    return [Ranking(probabilities[:, number], codes == number) for number in range(probabilities.shape[1])]


def ranking_reason(codes: NDArray[np.int64], number: int, cls: str) -> str:
    """Why an area under a curve of one class is undefined."""
    if not len(codes):
        return NO_CASES
    return f"every case is truly {cls}" if (codes == number).all() else f"no case is truly {cls}"


def macro_reason(name: str) -> str:
    """Why a mean over classes is undefined."""
    return f"{name} of a class is undefined"


def _ranked(name: str, true: Sequence[str], probabilities: ArrayLike, classes: tuple[str, ...]) -> tuple[Metric, ...]:
    codes, array = check_probabilities(true, probabilities, classes)
    once = np.ones(len(codes), np.int64)
    ranked = rankings(codes, array)
    values = [r.auc(once) if name == "ROC AUC" else r.average_precision(once) for r in ranked]
    found = [
        Metric(name, cls, None, reason=ranking_reason(codes, number, cls))
        if np.isnan(value)
        else Metric(name, cls, value)
        for number, (cls, value) in enumerate(zip(classes, values, strict=True))
    ]
    mean = float(np.mean(values))
    macro = f"macro {name}"
    last = Metric(macro, None, None, reason=macro_reason(name)) if np.isnan(mean) else Metric(macro, None, mean)
    return (*found, last)


def auc(true: Sequence[str], probabilities: ArrayLike, classes: tuple[str, ...]) -> tuple[Metric, ...]:
    """Area under the ROC curve of each class against the rest, then their plain mean ("macro ROC AUC").

    Parameters
    ----------
    true : sequence of str (cases,)
    probabilities : float array (cases, classes)
    classes : tuple of str
        In the order of the columns.

    Raises
    ------
    StatisticsError
        If shapes or labels do not fit, or the rows are not probabilities.

    Notes
    -----
    Scores of different folds come from different networks and need not share a scale: take each fold's area and
    average these, rather than pooling the scores.
    """
    return _ranked("ROC AUC", true, probabilities, classes)


def average_precision(true: Sequence[str], probabilities: ArrayLike, classes: tuple[str, ...]) -> tuple[Metric, ...]:
    """Average precision of each class against the rest, then their plain mean; arguments as of :func:`auc`.

    Its value without skill is the class's prevalence, so it cannot be compared between test sets of different mix.
    """
    return _ranked("average precision", true, probabilities, classes)


def roc_curve(true: Sequence[str], scores: ArrayLike, positive: str) -> RocCurve:
    """ROC curve of one class against the rest, with every threshold.

    Parameters
    ----------
    true : sequence of str (cases,)
    scores : float array (cases,)
        Of the class `positive`; higher means more likely.
    positive : str

    Raises
    ------
    StatisticsError
        If the scores do not fit, or there are not both positive and other cases.
    """
    array = check_scores(true, scores)
    mask = np.array([label == positive for label in true], np.bool_)
    if mask.all() or not mask.any():
        raise StatisticsError(
            f"A ROC curve needs cases of {positive} and others; choose a fold or class that has both."
        )
    from sklearn.metrics import roc_curve as sklearn_roc_curve

    false, sensitivity, thresholds = sklearn_roc_curve(mask, array, drop_intermediate=False)
    return RocCurve(false, sensitivity, thresholds)


def pr_curve(true: Sequence[str], scores: ArrayLike, positive: str) -> PrCurve:
    """Precision-recall curve of one class against the rest; arguments as of :func:`roc_curve`.

    Raises
    ------
    StatisticsError
        If the scores do not fit, or there are no positive cases.
    """
    array = check_scores(true, scores)
    mask = np.array([label == positive for label in true], np.bool_)
    if not mask.any():
        raise StatisticsError(
            f"A precision-recall curve needs cases of {positive}; choose a fold or class that has some."
        )
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(mask, array)
    return PrCurve(recall[::-1], precision[::-1], np.append(thresholds, np.inf)[::-1], float(mask.mean()))


def brier_terms(codes: NDArray[np.int64], probabilities: Floats) -> Floats:
    """Squared distance of each case's probabilities from its true class: float64 (cases,)."""
    terms: Floats = ((probabilities - np.eye(probabilities.shape[1])[codes]) ** 2).sum(axis=1)
    return terms


def brier(true: Sequence[str], probabilities: ArrayLike, classes: tuple[str, ...]) -> Metric:
    """Brier score over all classes, from 0 (best) to 2 ([1]_, equation 2); arguments as of :func:`auc`.

    For two classes it is twice the score that is often printed, which looks at one of them only.
    """
    codes, array = check_probabilities(true, probabilities, classes)
    if not len(codes):
        return Metric("Brier score", None, None, reason=NO_CASES)
    return Metric("Brier score", None, float(brier_terms(codes, array).mean()))


def confidence_and_hit(
    codes: NDArray[np.int64], probabilities: Floats, number: int | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Predicted probability and whether it came true, sorted by probability.

    Of the class at position `number`, or of the class that was called when it is None.
    """
    column = probabilities.argmax(axis=1) if number is None else np.full(len(codes), number, np.int64)
    confidence = probabilities[np.arange(len(codes)), column]
    order = np.argsort(confidence, kind="stable")
    return confidence[order], (codes == column)[order]


def bin_starts(confidence: Floats, bins: int) -> NDArray[np.int64]:
    """First case of each equal-mass bin of sorted confidences: int64 (at most bins,).

    Equal confidences share a bin, so the order of the cases never matters and bins may be fewer.
    """
    cases = len(confidence)
    bins = min(bins, max(1, cases // CASES_PER_BIN))
    changes = np.flatnonzero(np.diff(confidence, prepend=-1.0))
    # A group of ties belongs to the bin in which it begins.
    return changes[np.flatnonzero(np.diff(changes * bins // cases, prepend=-1))]


def ece_of_sorted(confidence: Floats, hit: NDArray[np.bool_], bins: int) -> float:
    """ECE of cases sorted by confidence."""
    starts = bin_starts(confidence, bins)
    return float(np.abs(np.add.reduceat(hit - confidence, starts)).sum() / len(confidence))


def _position(positive: str | None, classes: tuple[str, ...]) -> int | None:
    return None if positive is None else int(encode([positive], classes, "positive")[0])


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise StatisticsError(f"At least one bin is needed; received {bins}.")


def reliability(
    true: Sequence[str],
    probabilities: ArrayLike,
    classes: tuple[str, ...],
    *,
    positive: str | None = None,
    bins: int = 15,
    level: float = 0.95,
) -> Reliability:
    """Bins of a reliability diagram: predicted probability against how often it came true.

    Parameters
    ----------
    true : sequence of str (cases,)
    probabilities : float array (cases, classes)
    classes : tuple of str
    positive : str, optional
        Look at this class's probability; without it, at the largest one ("confidence").
    bins : int
        At most so many, of equally many cases; fewer when a bin would hold fewer than 10.
    level : float
        Of Wilson's intervals.

    Raises
    ------
    StatisticsError
        If shapes or labels do not fit, the rows are not probabilities, or there are no cases.
    """
    _check_bins(bins)
    codes, array = check_probabilities(true, probabilities, classes)
    if not len(codes):
        raise StatisticsError("A reliability diagram needs cases; choose a fold that has some.")
    confidence, hit = confidence_and_hit(codes, array, _position(positive, classes))
    starts = bin_starts(confidence, bins)
    count = np.diff(starts, append=len(hit))
    hits = np.add.reduceat(hit.astype(np.int64), starts)
    limits = np.array([wilson(int(k), int(n), level) for k, n in zip(hits, count, strict=True)])
    return Reliability(np.add.reduceat(confidence, starts) / count, hits / count, limits[:, 0], limits[:, 1], count)


def ece(
    true: Sequence[str],
    probabilities: ArrayLike,
    classes: tuple[str, ...],
    *,
    positive: str | None = None,
    bins: int = 15,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> CalibrationError:
    """Expected calibration error ([2]_, equation 3) over equal-mass bins [3]_, with its null band.

    Parameters
    ----------
    true, probabilities, classes, positive, bins
        As of :func:`reliability`.
    draws : int
        Label sets drawn for the null band.
    level : float
        Share of the draws within the band.
    seed : int
        Of the draws; the same seed gives the same band.

    Raises
    ------
    StatisticsError
        If shapes or labels do not fit, the rows are not probabilities, bins or draws are fewer than one, or the level
        does not lie in (0, 1).

    Notes
    -----
    The error is an absolute value, so it is above 0 by chance alone: a perfectly calibrated classifier scores some
    0.1 on 60 cases. Only an error above the band speaks for miscalibration.
    """
    _check_bins(bins)
    check_level(level)
    if draws < 1:
        raise StatisticsError(f"The null band needs at least one draw; received {draws}, so leave it out for 1000.")
    codes, array = check_probabilities(true, probabilities, classes)
    number = _position(positive, classes)
    if not len(codes):
        return CalibrationError(None, None, None, None, 0, NO_CASES)
    confidence, hit = confidence_and_hit(codes, array, number)
    starts = bin_starts(confidence, bins)
    rng = np.random.default_rng(seed)
    null = np.empty(draws)
    for draw in range(draws):
        gaps = (rng.random(len(hit)) < confidence) - confidence
        null[draw] = np.abs(np.add.reduceat(gaps, starts)).sum() / len(hit)
    low, high = np.quantile(null, [0.5 - level / 2, 0.5 + level / 2])
    return CalibrationError(
        ece_of_sorted(confidence, hit, bins), float(null.mean()), float(low), float(high), len(starts)
    )
