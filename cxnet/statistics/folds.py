"""Whether the folds of a run permit pooling and intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.statistics.patients import is_empty, is_missing
from cxnet.statistics.proportions import StatisticsError


@dataclass(frozen=True)
class FoldCheck:
    """What is wrong with the folds of a run.

    Parameters
    ----------
    problems : tuple of str
        One sentence each; empty if nothing was found.
    intervals_reason : str or None
        Why no interval may be given; pass it as `withhold` to whatever computes some.
    """

    problems: tuple[str, ...]
    intervals_reason: str | None

    @property
    def intervals_valid(self) -> bool:
        """Whether intervals may be given."""
        return self.intervals_reason is None


def _shared(table: pd.DataFrame, column: str) -> list[str]:
    """Values of a column that stand in more than one fold, sorted."""
    folds = table.groupby(column)["fold"].nunique()
    return sorted(str(value) for value in folds.index[folds > 1])


def _as_text(column: pd.Series[Any], lacks: Callable[[object], bool]) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Values as strings, and which are missing. Each different value is looked at once: folds can be long."""
    codes, values = pd.factorize(column.astype(object), use_na_sentinel=False)
    text = np.array([str(value) for value in values], dtype=object)
    gone = np.array([lacks(value) for value in values], dtype=np.bool_)
    return text[codes], gone[codes]


def check_folds(table: pd.DataFrame) -> FoldCheck:
    """Look for cases and patients on several sides, missing ids and missing classes.

    Parameters
    ----------
    table : DataFrame
        One row for each prediction on a test set, with the columns `case`, `fold`, `group` (patient) and `true`.

    Raises
    ------
    StatisticsError
        If a column is missing, there are no rows, or a row has no fold.

    Notes
    -----
    The reason concerns figures over all given rows. Where only test sets overlap, each fold by itself may still have
    intervals: check its rows alone.
    """
    lacking = sorted({"case", "fold", "group", "true"} - set(table.columns))
    if lacking:
        raise StatisticsError(f"The table of cases lacks the column(s) {', '.join(lacking)}; add them.")
    columns = {name: _as_text(table[name], is_empty) for name in ("case", "fold", "true")}
    columns["group"] = _as_text(table["group"], is_missing)
    rows = pd.DataFrame({name: text for name, (text, _) in columns.items()})
    missing = pd.DataFrame({name: gone for name, (_, gone) in columns.items()})
    if rows.empty or missing["fold"].any():
        raise StatisticsError("The table of cases must have rows, and each must name its fold; complete it.")
    problems: list[str] = []
    withheld: list[str] = []

    def note(sentence: str, reason: str | None = None) -> None:
        problems.append(sentence)
        if reason is not None:
            withheld.append(reason)

    if missing["case"].any():
        note(
            f"{int(missing['case'].sum())} row(s) have no case id, so overlap of test sets cannot be ruled out.",
            "some cases have no id",
        )
    known = rows[~missing["case"]]
    shared = _shared(known, "case")
    if shared:
        note(
            f"{len(shared)} case(s) stand in the test sets of several folds, as {shared[0]}: they must not be pooled.",
            "test sets of folds overlap",
        )
    repeated = known[known.duplicated(["case", "fold"])]
    if len(repeated):
        note(
            f"{repeated['case'].nunique()} case(s) stand in a test set more than once, as {repeated['case'].iloc[0]}.",
            "some cases are counted more than once",
        )
    if missing["group"].any():
        note(
            f"{int(missing['group'].sum())} row(s) have no patient, so images of one patient cannot be kept together.",
            "some patients are not known",
        )
    shared = _shared(rows[~missing["group"]], "group")
    if shared:
        note(
            f"{len(shared)} patient(s) stand in the test sets of several folds, as {shared[0]}: "
            "each of these folds was tested on a patient that it was trained on.",
            "patients stand in several folds",
        )
    if missing["true"].any():
        note(f"{int(missing['true'].sum())} row(s) have no true label, so nothing can be counted for them.")
    labelled = rows[~missing["true"]]
    classes = sorted(labelled["true"].unique())
    for fold in sorted(rows["fold"].unique()):
        absent = sorted(set(classes) - set(labelled.loc[labelled["fold"] == fold, "true"]))
        if absent:
            note(f"Fold {fold} has no case of {' or '.join(absent)}, so its figures for that are undefined.")
    return FoldCheck(tuple(problems), "; ".join(withheld) or None)
