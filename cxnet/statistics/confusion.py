"""Confusion matrices that remember their cases, and the figures that follow from counts.

References
----------
.. [1] Gorodkin J. Comparing two K-category assignments by a K-category correlation coefficient. Comput Biol Chem 2004.
       doi:10.1016/j.compbiolchem.2004.09.006 (equation 8; Matthews' coefficient for two classes)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxnet.statistics.patients import patient_codes, patient_proportion
from cxnet.statistics.proportions import NO_CASES, Metric, StatisticsError, check_level, numbers, proportion

Counts = NDArray[np.number[Any]]
Cells = tuple[tuple[tuple[str, ...], ...], ...]


def check_classes(classes: tuple[str, ...]) -> None:
    """Refuse fewer than two classes and classes of the same name."""
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise StatisticsError(f"At least two classes with different names are needed; received {classes}.")


def encode(labels: Sequence[str], classes: tuple[str, ...], what: str) -> NDArray[np.int64]:
    """Position of every label among the classes: int64 (cases,)."""
    check_classes(classes)
    position = {name: number for number, name in enumerate(classes)}
    unknown = sorted({str(label) for label in labels if label not in position})
    if unknown:
        raise StatisticsError(
            f"The {what} label {unknown[0]!r} is none of the classes {', '.join(classes)}; rename it or add the class."
        )
    return np.fromiter((position[label] for label in labels), np.int64, len(labels))


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often each true class was called each class, and which cases these were.

    Use :meth:`from_cases` or :meth:`from_counts`.

    Parameters
    ----------
    classes : tuple of str
    table : tuple of tuple of int
        Rows: true class; columns: predicted class.
    cells : tuple of tuple of tuple of str, or None
        The ids of the cases in each cell; None when only counts are known.

    Raises
    ------
    StatisticsError
        If shapes or counts do not fit, or a case stands in the matrix twice.
    """

    classes: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    cells: Cells | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))  # a list would differ from the tuple of another fold
        check_classes(self.classes)
        size = len(self.classes)
        if len(self.table) != size or any(len(row) != size for row in self.table):
            raise StatisticsError(f"A confusion matrix of {size} classes needs {size} rows of {size} counts.")
        if any(count < 0 for row in self.table for count in row):
            raise StatisticsError("A confusion matrix holds numbers of cases, which cannot be negative.")
        if self.cells is None:
            return
        if tuple(tuple(len(cell) for cell in row) for row in self.cells) != self.table:
            raise StatisticsError("The case ids of a confusion matrix do not add up to its counts.")
        seen: set[str] = set()
        for case in (case for row in self.cells for cell in row for case in cell):
            if case in seen:
                raise StatisticsError(f"Case {case!r} would be counted twice; keep one prediction of each case.")
            seen.add(case)

    @classmethod
    def from_cases(
        cls,
        true: Sequence[str],
        predicted: Sequence[str],
        classes: tuple[str, ...],
        cases: Sequence[str] | None = None,
    ) -> ConfusionMatrix:
        """Count labelled predictions.

        Parameters
        ----------
        true, predicted : sequence of str (cases,)
        classes : tuple of str
            In the order of rows and columns.
        cases : sequence of str (cases,), optional
            Ids; without them the matrix has counts only.

        Raises
        ------
        StatisticsError
            If lengths differ, a label is not a class or an id stands there twice.
        """
        if len(true) != len(predicted) or (cases is not None and len(cases) != len(true)):
            raise StatisticsError(
                f"Each case needs one true and one predicted label, and one id if any; received {len(true)} true and "
                f"{len(predicted)} predicted labels{'' if cases is None else f' and {len(cases)} ids'}."
            )
        rows, columns = encode(true, classes, "true"), encode(predicted, classes, "predicted")
        size = len(classes)
        counts = np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)
        table = tuple(tuple(row) for row in counts.tolist())
        if cases is None:
            return cls(classes, table)
        found: list[list[list[str]]] = [[[] for _ in classes] for _ in classes]
        for row, column, case in zip(rows.tolist(), columns.tolist(), cases, strict=True):
            found[row][column].append(str(case))
        return cls(classes, table, tuple(tuple(tuple(cell) for cell in line) for line in found))

    @classmethod
    def from_counts(cls, counts: ArrayLike, classes: tuple[str, ...]) -> ConfusionMatrix:
        """Take published counts, rows true and columns predicted; there are no case ids.

        Parameters
        ----------
        counts : int array (classes, classes)
        classes : tuple of str

        Raises
        ------
        StatisticsError
            If the counts are no square table of whole numbers from 0, or classes and counts differ in number.
        """
        told = "A confusion matrix is a square table of whole numbers of cases, not of percentages."
        array = numbers(counts, told)
        if array.ndim != 2 or not np.isfinite(array).all() or (array != np.floor(array)).any():
            raise StatisticsError(told)
        return cls(classes, tuple(tuple(int(count) for count in row) for row in array))

    @classmethod
    def collapse(cls, folds: Iterable[ConfusionMatrix]) -> ConfusionMatrix:
        """Merge the matrices of folds; the ids are kept if all have them.

        Raises
        ------
        StatisticsError
            If there is none, the classes differ, or a case stands in two of them: overlapping test sets must not be
            pooled.
        """
        matrices = list(folds)
        if not matrices:
            raise StatisticsError("There is no confusion matrix to merge; give at least one fold.")
        classes = matrices[0].classes
        if any(matrix.classes != classes for matrix in matrices):
            raise StatisticsError("Only confusion matrices of the same classes in the same order can be merged.")
        size = range(len(classes))
        table = tuple(tuple(sum(m.table[i][j] for m in matrices) for j in size) for i in size)
        cells = [matrix.cells for matrix in matrices if matrix.cells is not None]
        if len(cells) < len(matrices):
            return cls(classes, table)
        merged = tuple(tuple(tuple(case for c in cells for case in c[i][j]) for j in size) for i in size)
        return cls(classes, table, merged)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix.collapse((self, other))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Counts: int64 (classes, classes), rows true, columns predicted, read-only."""
        counts = np.array(self.table, np.int64)
        counts.flags.writeable = False
        return counts

    @property
    def total(self) -> int:
        """Number of cases."""
        return sum(map(sum, self.table))

    def cell(self, true: str, predicted: str) -> tuple[str, ...]:
        """Ids of the cases of one cell, in the order they were given.

        Raises
        ------
        StatisticsError
            If the run has counts only, or a class is unknown.
        """
        row, column = encode([true, predicted], self.classes, "requested").tolist()
        if self.cells is None:
            raise StatisticsError("This run has counts only, so its cases cannot be listed; load its case table.")
        cell: tuple[str, ...] = self.cells[row][column]
        return cell

    def row_percent(self) -> tuple[tuple[float | None, ...], ...]:
        """Percent of each true class called each class; None in the row of a class without cases."""
        return tuple(tuple(100 * count / sum(row) if sum(row) else None for count in row) for row in self.table)


def f1_scores(counts: Counts) -> NDArray[np.float64]:
    """F1 of each class, 2 TP / (2 TP + FP + FN): float64 (classes,), NaN where there is nothing to divide by."""
    hits = np.diagonal(counts).astype(np.float64)
    both = (counts.sum(axis=0) + counts.sum(axis=1)).astype(np.float64)
    scores: NDArray[np.float64] = np.divide(2 * hits, both, out=np.full(len(hits), np.nan), where=both > 0)
    return scores


def balanced_accuracy(counts: Counts) -> float:
    """Mean sensitivity; NaN if a class has no cases."""
    true = counts.sum(axis=1)
    return float(np.mean(np.diagonal(counts) / true)) if (true > 0).all() else float("nan")


def mcc(counts: Counts) -> float:
    """Matthews' correlation coefficient of k classes [1]_; NaN if all cases are of one class or called one."""
    true, predicted = counts.sum(axis=1).astype(np.float64), counts.sum(axis=0).astype(np.float64)
    total = true.sum()
    spread = (total**2 - (true**2).sum()) * (total**2 - (predicted**2).sum())
    if spread <= 0:
        return float("nan")
    return float((np.trace(counts) * total - true @ predicted) / np.sqrt(spread))


def count_reasons(counts: Counts, classes: tuple[str, ...]) -> dict[str, str]:
    """Why balanced accuracy, macro F1 or MCC of these counts is undefined, by the figure's name."""
    if counts.sum() == 0:
        return dict.fromkeys(("balanced accuracy", "macro F1", "MCC"), NO_CASES)
    reasons = {}
    absent = [name for name, number in zip(classes, counts.sum(axis=1), strict=True) if number == 0]
    if absent:
        reasons["balanced accuracy"] = f"no case is truly {' or '.join(absent)}"
    without = [name for name, value in zip(classes, f1_scores(counts), strict=True) if np.isnan(value)]
    if without:
        reasons["macro F1"] = f"F1 of {' and '.join(without)} is undefined"
    if np.isnan(mcc(counts)):
        one = (counts.sum(axis=1) > 0).sum() == 1
        reasons["MCC"] = "all cases are of one class" if one else "all cases were called the same class"
    return reasons


@dataclass(frozen=True, eq=False)
class _Share:
    """A proportion of counts: cells of the denominator and, among these, of the numerator, both bool (classes²,)."""

    name: str
    cls: str | None
    hit: NDArray[np.bool_]
    among: NDArray[np.bool_]
    undefined: str


def _shares(classes: tuple[str, ...]) -> list[_Share]:
    """The proportions in the order in which they are told; accuracy comes first."""
    rows, columns = np.divmod(np.arange(len(classes) ** 2), len(classes))
    everywhere = np.ones(len(rows), np.bool_)
    found = [_Share("accuracy", None, rows == columns, everywhere, NO_CASES)]
    for number, cls in enumerate(classes):
        true, called = rows == number, columns == number
        found += [
            _Share("sensitivity", cls, true & called, true, f"no case is truly {cls}"),
            _Share("specificity", cls, ~true & ~called, ~true, f"every case is truly {cls}"),
            _Share("precision", cls, true & called, called, f"no case was called {cls}"),
            _Share("negative predictive value", cls, ~true & ~called, ~called, f"every case was called {cls}"),
            _Share("one-vs-rest accuracy", cls, true == called, everywhere, NO_CASES),
        ]
    return found


def _told(
    counts: Counts, classes: tuple[str, ...], share: Callable[[_Share], Metric], withhold: str | None
) -> tuple[Metric, ...]:
    """Proportions, and the figures of counts that are none, in the order of :func:`metrics`."""
    total = int(counts.sum())
    reasons, f1 = count_reasons(counts, classes), f1_scores(counts)
    overall = {"balanced accuracy": balanced_accuracy(counts), "macro F1": float(f1.mean()), "MCC": mcc(counts)}
    proportions = [share(one if total else replace(one, undefined=NO_CASES)) for one in _shares(classes)]
    found = [proportions[0]]
    for name, value in overall.items():
        found.append(
            Metric(name, None, None, reason=reasons[name])
            if name in reasons
            else Metric(name, None, value, reason=withhold)
        )
    for number, cls in enumerate(classes):
        found += [metric for metric in proportions if metric.cls == cls]
        found.append(
            Metric("F1", cls, None, reason=f"no case is or was called {cls}" if total else NO_CASES)
            if np.isnan(f1[number])
            else Metric("F1", cls, float(f1[number]), reason=withhold)
        )
    return tuple(found)


def metrics(matrix: ConfusionMatrix, level: float = 0.95, withhold: str | None = None) -> tuple[Metric, ...]:
    """All figures that follow from the counts.

    Parameters
    ----------
    matrix : ConfusionMatrix
    level : float
        Of Wilson's intervals.
    withhold : str, optional
        Why intervals must not be given, as ``FoldCheck.intervals_reason``; then no figure has one.

    Returns
    -------
    tuple of Metric
        accuracy, balanced accuracy, macro F1 and MCC; then of every class: sensitivity, specificity, precision,
        negative predictive value, one-vs-rest accuracy, F1. Proportions carry Wilson's interval, their numerator and
        denominator; the others have no interval here (:func:`cxnet.statistics.auc_intervals` bootstraps them).

    Notes
    -----
    Counts do not say whose cases they are, so Wilson's interval takes cases as independent: too narrow where patients
    have several. Where patients are known, use :func:`patient_metrics`.
    """
    check_level(level)
    counts = matrix.counts
    flat = counts.ravel()

    def share(one: _Share) -> Metric:
        numerator, denominator = int(flat[one.hit].sum()), int(flat[one.among].sum())
        return proportion(one.name, one.cls, numerator, denominator, one.undefined, level, withhold)

    return _told(counts, matrix.classes, share, withhold)


@dataclass(frozen=True, eq=False)
class _Cases:
    """Cell and patient of each case, int64 (cases,), and why intervals are withheld."""

    cells: NDArray[np.int64]
    patients: NDArray[np.int64]
    withhold: str | None


def _cases(
    true: Sequence[str],
    predicted: Sequence[str],
    groups: Sequence[str | None],
    classes: tuple[str, ...],
    withhold: str | None,
) -> _Cases:
    if not len(true) == len(predicted) == len(groups):
        raise StatisticsError(
            f"Each case needs a true label, a predicted one and a patient; received {len(true)}, {len(predicted)} and "
            f"{len(groups)} of them."
        )
    cells = encode(true, classes, "true") * len(classes) + encode(predicted, classes, "predicted")
    patients, unknown = patient_codes(groups)
    return _Cases(cells, patients, withhold or unknown)


def patient_metrics(
    true: Sequence[str],
    predicted: Sequence[str],
    groups: Sequence[str | None],
    classes: tuple[str, ...],
    *,
    level: float = 0.95,
    withhold: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Metric, ...]:
    """The figures of :func:`metrics`, with intervals that know whose cases they are.

    Parameters
    ----------
    true, predicted : sequence of str (cases,)
    groups : sequence of str (cases,)
        Patient of each case. One that is missing withholds all intervals.
    classes : tuple of str
    level, withhold, resamples, seed
        As of :func:`cxnet.statistics.patients.patient_proportion`.

    Returns
    -------
    tuple of Metric
        Those of :func:`metrics`, in its order. `interval` of each proportion says which it is: Wilson's where each
        patient of its denominator has one case, else a patient bootstrap.

    Raises
    ------
    StatisticsError
        If lengths differ or a label is not a class.
    """
    check_level(level)
    known, size = _cases(true, predicted, groups, classes, withhold), len(classes)

    def share(one: _Share) -> Metric:
        rows = one.among[known.cells]
        return patient_proportion(
            one.name, one.cls, one.hit[known.cells[rows]], known.patients[rows], one.undefined,
            level=level, withhold=known.withhold, resamples=resamples, seed=seed,
        )  # fmt: skip

    counts = np.bincount(known.cells, minlength=size * size).reshape(size, size)
    return _told(counts, classes, share, known.withhold)


def cell_shares(
    true: Sequence[str],
    predicted: Sequence[str],
    groups: Sequence[str | None],
    classes: tuple[str, ...],
    *,
    level: float = 0.95,
    withhold: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[tuple[Metric, ...], ...]:
    """Share of each true class that was called each class, with intervals as :func:`patient_metrics` gives.

    Returns
    -------
    tuple of tuple of Metric
        Rows true, columns predicted; `cls` is the predicted class.

    Raises
    ------
    StatisticsError
        If lengths differ or a label is not a class.
    """
    check_level(level)
    known, size = _cases(true, predicted, groups, classes, withhold), len(classes)
    found = []
    for row, cls in enumerate(classes):
        own = known.cells // size == row
        called = known.cells[own] % size
        patients = np.unique(known.patients[own], return_inverse=True)[
            1
        ]  # of the row only: half the time of many cells
        found.append(
            tuple(
                patient_proportion(
                    "share of the row", name, called == column, patients, f"no case is truly {cls}",
                    level=level, withhold=known.withhold, resamples=resamples, seed=seed,
                )
                for column, name in enumerate(classes)
            )
        )  # fmt: skip
    return tuple(found)
