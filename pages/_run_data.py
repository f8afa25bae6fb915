"""Figures of stored runs for the page Runs: what is heavy is cached by the checksums of the folds.

No Streamlit elements and no network here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from cxnet import runs
from cxnet import statistics as figures
from cxnet.errors import CxnetError
from cxnet.statistics import Comparison, ConfusionMatrix, FoldCheck, Metric
from cxnet.wrong_reasons import audits_of
from pages import _audit_panels, _jobs

#: With more cases, areas under curves wait for a button: sorting 15 x 112,120 scores takes seconds.
MANY_CASES = 20_000
#: Seconds that one case, class and resample of the bootstrap take on a slow core.
SECONDS_PER_DRAW = 2e-7
NOT_STATED = "(not stated)"

Key = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Selection:
    """Cases of one fold, or of all folds, with labels as numbers; treated as read-only.

    `key` stands for everything in it, so that caches need not look at arrays.
    """

    run: runs.Run
    fold: int | None
    key: Key
    table: pd.DataFrame
    true: NDArray[np.int64]
    stored: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None

    @property
    def labels(self) -> list[str]:
        """True class of each case."""
        return [self.run.classes[number] for number in self.true.tolist()]

    @property
    def groups(self) -> list[str | None]:
        """Patient of each case; None where it is not known."""
        if "group" not in self.table.columns:
            return [None] * len(self.table)
        found: list[str | None] = self.table["group"].astype(object).tolist()
        return found

    @property
    def folds(self) -> list[int] | None:
        """Fold of each case; None when all are of one."""
        found: list[int] = self.table["fold"].tolist()
        return found if self.fold is None else None

    def counts(self, called: NDArray[np.int64], rows: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Confusion counts (classes, classes) of decisions, perhaps of some rows only."""
        size = len(self.run.classes)
        cell = self.true * size + called
        return np.bincount(cell if rows is None else cell[rows], minlength=size * size).reshape(size, size)


def key_of(run: runs.Run) -> Key:
    """What tells this run from every other one."""
    checksums = [f"{fold['number']}:{fold.get('sha256')}" for fold in run.info["folds"]]
    return (str(run.folder), str(run.info.get("created")), *run.classes, *checksums)


def select(run: runs.Run, fold: int | None) -> Selection:
    """Cases of a fold, or of all.

    Raises
    ------
    DatasetError
        If the run's table is damaged.
    """
    return _select(key_of(run), fold, run)


@st.cache_resource(max_entries=24, show_spinner=False)
def _select(key: Key, fold: int | None, _run: runs.Run) -> Selection:
    table = _run.results(fold)
    codes = [
        np.asarray(pd.Categorical(table[column], categories=list(_run.classes)).codes, np.int64)
        for column in ("true", "predicted")
    ]
    return Selection(_run, fold, (*key, f"fold {fold}"), table, codes[0], codes[1], _run.probabilities(table))


def decide(selection: Selection, threshold: tuple[str, float] | None) -> NDArray[np.int64]:
    """Class called for each case: as stored, or at a moved operating point.

    At ``(class, t)`` that class is called where its probability is at least t, elsewhere the most probable other one.
    """
    if threshold is None or selection.probabilities is None:
        return selection.stored
    number = selection.run.classes.index(threshold[0])
    others = selection.probabilities.copy()
    others[:, number] = -1.0
    return np.where(selection.probabilities[:, number] >= threshold[1], number, others.argmax(axis=1))


# ------------------------------------------------------------------------------------------------------------- checks


def folds_check(selection: Selection) -> FoldCheck:
    """Whether these cases permit intervals."""
    return _folds_check(selection.key, selection)


@st.cache_data(max_entries=64, show_spinner=False)
def _folds_check(key: Key, _selection: Selection) -> FoldCheck:
    table = _selection.table
    if "group" not in table.columns:
        table = table.assign(group=None)
    return figures.check_folds(table[["case", "fold", "group", "true"]])


@st.cache_data(max_entries=64, show_spinner=False)
def _file_problems(key: Key, _run: runs.Run) -> list[str]:
    found = runs.check(_run)
    return [p for p in found if "more than one row" not in p and "more than one fold" not in p]


def file_problems(run: runs.Run) -> list[str]:
    """What is wrong with a run's files and probabilities; folds are :func:`folds_check`'s matter."""
    return _file_problems(key_of(run), run)


# ------------------------------------------------------------------------------------------------------------ metrics


@st.cache_data(max_entries=128, show_spinner=False)
def _ranked(
    key: Key,
    resamples: int,
    withhold: str | None,
    _selection: Selection,
    _progress: Callable[[float], None] | None = None,
) -> tuple[Metric, ...]:
    assert _selection.probabilities is not None
    return figures.auc_intervals(
        _selection.labels,
        _selection.probabilities,
        _selection.groups,
        _selection.run.classes,
        folds=_selection.folds,
        resamples=max(100, resamples),
        withhold=withhold if resamples else withhold or "not resampled yet",
        progress=_progress,
    )


def ranked(selection: Selection, resamples: int, withhold: str | None) -> tuple[Metric, ...]:
    """ROC AUC, average precision, Brier score …, with patient-bootstrap intervals if resamples are asked for."""
    return _ranked(selection.key, resamples if withhold is None else 0, withhold, selection)


@dataclass(eq=False)
class Resampling:
    """Figures that take long while they are computed: the share that is done."""

    share: float = 0.0
    complete: bool = False


def resampling(
    selection: Selection, resamples: int, withhold: str | None, cancel: threading.Event
) -> Iterator[Resampling]:
    """:func:`ranked` as work for the runner: afterwards the page finds the figures in the cache."""
    trial = Resampling()
    yield trial

    def progress(share: float) -> None:
        if cancel.is_set():
            raise _jobs.Stopped
        trial.share = share

    try:
        _ranked(selection.key, resamples if withhold is None else 0, withhold, selection, progress)
    except _jobs.Stopped:
        return
    trial.complete = True
    yield trial


def bootstrap_cost(selection: Selection) -> tuple[int, float]:
    """Resamples worth their time, and the seconds they may take."""
    draws = len(selection.table) * len(selection.run.classes)
    resamples = 500 if draws <= 60_000 else 100
    return resamples, draws * resamples * SECONDS_PER_DRAW


@st.cache_data(max_entries=64, show_spinner=False)
def _calibration(key: Key, cls: str | None, _selection: Selection) -> tuple[Any, Any]:
    labels, classes = _selection.labels, _selection.run.classes
    draws = 1000 if len(labels) <= MANY_CASES else 100
    bins = figures.reliability(labels, _selection.probabilities, classes, positive=cls)
    return bins, figures.ece(labels, _selection.probabilities, classes, positive=cls, draws=draws)


def calibration(selection: Selection, cls: str | None) -> tuple[figures.Reliability, figures.CalibrationError]:
    """Reliability bins and calibration error of a class, or of the confidence."""
    found: tuple[figures.Reliability, figures.CalibrationError] = _calibration(selection.key, cls, selection)
    return found


# ------------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """One line of a chart: `x` and `y` with thresholds, thinned for the screen; or why there is none."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    reason: str | None = None


def _thin(points: int, most: int = 400) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, points - 1, min(points, most)).round().astype(np.int64))


@st.cache_data(max_entries=64, show_spinner=False)
def _curves(key: Key, kind: str, cls: str, _selection: Selection) -> list[Curve]:
    assert _selection.probabilities is not None
    if _selection.fold is None:
        folds = _selection.table["fold"].to_numpy()
        parts = [(f"fold {fold}", folds == fold, cls) for fold in _selection.run.folds]
    else:
        everyone = np.ones(len(_selection.table), np.bool_)
        parts = [(name, everyone, name) for name in _selection.run.classes]
    found = []
    nothing = np.empty(0)
    for name, rows, positive in parts:
        number = _selection.run.classes.index(positive)
        labels = [_selection.run.classes[n] for n in _selection.true[rows].tolist()]
        scores = _selection.probabilities[rows, number]
        try:
            if kind == "ROC":
                roc = figures.roc_curve(labels, scores, positive)
                x, y, thresholds = roc.false_positive_rate, roc.sensitivity, roc.thresholds
            else:
                pr = figures.pr_curve(labels, scores, positive)
                x, y, thresholds = pr.recall, pr.precision, pr.thresholds
        except CxnetError as error:
            found.append(Curve(name, nothing, nothing, nothing, str(error)))
            continue
        at = _thin(len(x))
        found.append(Curve(name, x[at], y[at], thresholds[at]))
    return found


def curves(selection: Selection, kind: str, cls: str) -> list[Curve]:
    """ "ROC" or "PR" curves: of every class in one fold; of one class in every fold when all are chosen.

    Each fold has its own network and scale of scores, so scores of folds are never pooled into one curve.
    """
    return _curves(selection.key, kind, cls, selection)


# --------------------------------------------------------------------------------------------------- parts of the data


def breakdown(
    selection: Selection, column: str, called: NDArray[np.int64]
) -> tuple[list[tuple[str, ConfusionMatrix]], list[str]]:
    """Matrix of each source or view, and the parts that hold one class only."""
    values = selection.table[column].astype(object)
    names = values.where(values.notna() & (values != ""), NOT_STATED).astype(str).to_numpy()
    found, single = [], []
    for name in sorted(set(names)):
        matrix = ConfusionMatrix.from_counts(selection.counts(called, names == name), selection.run.classes)
        found.append((name, matrix))
        if (matrix.counts.sum(axis=1) > 0).sum() == 1:
            single.append(name)
    return found, single


# --------------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True, eq=False)
class Paired:
    """Two runs on the cases that both have.

    `tests` are (figure, test, Holm-adjusted p or None); `cases` has a row a case with both answers.
    """

    cases: pd.DataFrame
    tests: tuple[tuple[str, Comparison, float | None], ...]
    notes: tuple[str, ...]


def compare(first: Selection, second: Selection) -> Paired | str:
    """Paired tests; or a sentence that says why there can be none."""
    return _compare(first.key, second.key, first, second)


@st.cache_resource(max_entries=8, show_spinner=False)
def _compare(first_key: Key, second_key: Key, _first: Selection, _second: Selection) -> Paired | str:
    classes = _first.run.classes
    if set(classes) != set(_second.run.classes):
        return (
            f"{_first.run.name} and {_second.run.name} have different classes, so their answers cannot be paired; "
            "choose a run with the same classes."
        )
    left, right = _first.table, _second.table
    notes = []
    twice = left["case"].duplicated(keep=False).sum() + right["case"].duplicated(keep=False).sum()
    if twice:
        notes.append(f"{twice} rows are left out: their case is in a run more than once, so answers cannot be paired.")
        left, right = (t[~t["case"].duplicated(keep=False)] for t in (left, right))
    both = _side(left, "A", classes).merge(_side(right, "B", classes), on="case", sort=False)
    extra = [column for column in ("file", "source", "view") if column in left.columns]
    both = both.merge(left[["case", *extra]], on="case", sort=False)
    if both.empty:
        return "The two runs share no case, so nothing can be paired; choose runs over the same data set."
    relabelled = both["true A"] != both["true B"]
    if relabelled.any():
        notes.append(f"{int(relabelled.sum())} shared cases have another true class in each run; they are left out.")
        both = both[~relabelled].reset_index(drop=True)
    both = both.rename(columns={"true A": "true"}).drop(columns="true B")
    alone = len(_first.table) - len(both), len(_second.table) - len(both)
    if any(alone):
        notes.append(f"{alone[0]:,} cases of A and {alone[1]:,} cases of B are not among the {len(both):,} shared.")
    tests = _tests(_first, _second, both, classes, notes)
    adjusted = figures.holm([test.p_value for _, test in tests])
    triples = tuple((name, test, p) for (name, test), p in zip(tests, adjusted, strict=True))
    return Paired(both, triples, tuple(notes))


def _side(table: pd.DataFrame, side: str, classes: tuple[str, ...]) -> pd.DataFrame:
    names = ["fold", "true", "predicted", *(f"probability {name}" for name in classes)]
    return table[["case", *(name for name in names if name in table.columns)]].rename(
        columns={name: f"{name} {side}" for name in names}
    )


def _scores(cases: pd.DataFrame, classes: tuple[str, ...], side: str) -> NDArray[np.float64]:
    return cases[[f"probability {name} {side}" for name in classes]].to_numpy(np.float64)


def _tests(
    first: Selection, second: Selection, both: pd.DataFrame, classes: tuple[str, ...], notes: list[str]
) -> list[tuple[str, Comparison]]:
    """McNemar on all shared cases, DeLong in a fold or Nadeau-Bengio over folds."""
    right = [(both["true"] == both[f"predicted {side}"]).to_numpy() for side in "AB"]
    tests = [("accuracy", figures.mcnemar_exact(*right))]
    ranks = first.probabilities is not None and second.probabilities is not None
    if not ranks:
        notes.append("A run without probabilities has no ROC curve, so areas are not compared.")
    if first.fold is not None and ranks and both["fold B"].nunique() > 1:
        notes.append(
            "B holds these cases in several folds, so several networks scored them and areas are not compared."
        )
        return tests
    if first.fold is not None:
        truth = both["true"].to_numpy()
        for name in classes if ranks else ():
            pair = (both[f"probability {name} {side}"].to_numpy() for side in "AB")
            tests.append((f"ROC AUC of {name}", figures.delong(truth == name, *pair)))
        return tests
    same = (both["fold A"] == both["fold B"]).all()
    if not same or first.run.folds != second.run.folds:
        notes.append("The runs split the cases into other folds, so means over folds cannot be paired.")
        return tests
    values: dict[str, list[tuple[float | None, float | None]]] = {}
    for _, part in both.groupby("fold A"):
        truth = part["true"].tolist()
        for side in "AB":
            matrix = ConfusionMatrix.from_cases(truth, part[f"predicted {side}"].tolist(), classes)
            found = {m.name: m.value for m in figures.metrics(matrix) if m.cls is None}
            if ranks:
                found |= {m.name: m.value for m in figures.auc(truth, _scores(part, classes, side), classes)[-1:]}
            for name, value in found.items():
                line = values.setdefault(f"mean over folds: {name}", [])
                if side == "A":
                    line.append((value, None))
                else:
                    line[-1] = (line[-1][0], value)
    settings = first.run.info.get("settings")
    split = settings.get("folds") if isinstance(settings, dict) else None
    share = 1 / split if isinstance(split, int) and split > 1 else 1 / max(2, len(first.run.folds))
    for name, pairs in values.items():
        a, b = ([x for x in side if x is not None] for side in zip(*pairs, strict=True))
        if len(a) < len(pairs) or len(b) < len(pairs):
            tests.append((name, Comparison("corrected resampled t test", None, reason="undefined in some fold")))
        else:
            tests.append((name, figures.nadeau_bengio(a, b, share)))
    return tests


def with_verdicts(run: runs.Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the verdict and the background-only probability of the run's stored audit, where it has one.

    A damaged audit is left to the page of audits: the cases can be seen without it.
    """
    if "full" not in audits_of(run.folder):
        return rows
    try:
        return rows.merge(_audit_panels.verdicts(run), on=["case", "fold"], how="left", sort=False)
    except CxnetError:
        return rows
