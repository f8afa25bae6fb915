"""How often an answer was given for a wrong reason, and whether two runs differ in it.

References
----------
.. [1] Agresti A. Categorical data analysis. 3rd ed. Wiley 2013, section 11.1 (exact McNemar test).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.statistics import Comparison, Metric, bootstrap, mcnemar_exact
from cxnet.statistics.patients import is_missing, patient_codes, patient_proportion
from cxnet.wrong_reasons.stored import NOT_STATED, groups_of, names_finding, right_answers, withheld

WRONG, UNDETERMINED = "wrong reason", "undetermined"
#: Names of the parts of :func:`rates` by what the answer says.
ANSWERS = {True: "names a finding", False: "names no finding"}

NO_RIGHT = "there is no right answer"
DIFFERENCE = "difference of wrong-reason rates"
OTHER_RULES = (
    "one audit judged by other thresholds, or with LIME and the other without; audit both again in the same way"
)
NO_VERDICT = "this audit has no verdicts; audit with --tier full"


@dataclass(frozen=True)
class Rate:
    """How many answers of one part of a run were given for a wrong reason.

    Parameters
    ----------
    part : str
        Which answers.
    answers : int
    wrong, undetermined : int
        Of these, by verdict.
    rate : Metric
        wrong / answers, with its interval or the reason why it has none.
    """

    part: str
    answers: int
    wrong: int
    undetermined: int
    rate: Metric


def rate(table: pd.DataFrame, part: str, *, withhold: str | None = None, resamples: int = 2000) -> Rate:
    """Share of the given answers whose verdict is "wrong reason".

    Parameters
    ----------
    table : DataFrame
        Audited cases with `verdict` and, for an interval, `group`.
    part : str
    withhold : str, optional
        Why no interval may be given.
    resamples : int

    Notes
    -----
    The interval draws whole patients; where every patient has one case it is Wilson's. A bootstrap of a share of 0 or 1
    has no width, so there Wilson's interval over the number of patients is given, as if each had one case. Undetermined
    answers stay in the denominator: leaving them out would raise the share whenever a test cannot be made.
    """
    if "verdict" not in table.columns:
        return Rate(part, len(table), 0, 0, Metric("wrong-reason rate", None, None, reason=NO_VERDICT))
    bad = (table["verdict"] == WRONG).to_numpy(np.bool_)
    count, wrong = len(table), int(bad.sum())
    undetermined = int((table["verdict"] == UNDETERMINED).sum())
    patients, unknown = patient_codes(groups_of(table))
    share = patient_proportion(
        "wrong-reason rate", None, bad, patients, "there are no such answers",
        withhold=withhold or unknown, resamples=resamples,
    )  # fmt: skip
    return Rate(part, count, wrong, undetermined, share)


def rates(table: pd.DataFrame, by: str, classes: Sequence[str], resamples: int = 2000) -> tuple[Rate, ...]:
    """Wrong-reason rates of the parts of an audited run.

    Parameters
    ----------
    table : DataFrame
        Of :class:`StoredAudit`.
    by : {"run", "answer", "fold", "cell", "source", "view"}
        Right answers of the whole run, or by whether they name a finding (which decides on the tests that they are put
        to), or of each fold, source or view; or all answers of each cell of the confusion matrix, the right ones first,
        where a wrong answer can have a wrong reason too.
    classes : sequence of str
        In the order wanted.
    resamples : int

    Returns
    -------
    tuple of Rate
        Parts without an answer are left out, but the run is always there.
    """
    known = table[table["error"].isna() & table["true"].notna()]
    right = right_answers(table)
    if by == "run":
        return (rate(right, "all right answers", withhold=withheld(known), resamples=resamples),)
    parts: list[tuple[str, pd.DataFrame, pd.DataFrame]]
    if by == "cell":
        cells = [(c, c) for c in classes] + [(t, p) for t in classes for p in classes if t != p]
        parts = [(f"{t} called {p}", known[(known["true"] == t) & (known["predicted"] == p)], known) for t, p in cells]
    elif by == "answer":
        names = right["predicted"].map(names_finding)
        parts = [(ANSWERS[finding], right[names == finding], known) for finding in (True, False)]
    elif by in table.columns:
        words = table[by].astype(object)
        words = words.where(~words.map(is_missing).astype(np.bool_), NOT_STATED).map(
            lambda value: str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        )
        # a fold by itself may have intervals where folds overlap
        parts = [
            (name, right[words[right.index] == name], known[words[known.index] == name] if by == "fold" else known)
            for name in sorted(words[right.index].unique())
        ]
    else:
        parts = []
    return tuple(
        rate(rows, name, withhold=withheld(population), resamples=resamples)
        for name, rows, population in parts
        if len(rows)
    )


@dataclass(frozen=True)
class PairedReasons:
    """Two audited runs on the cases that both answer rightly.

    Parameters
    ----------
    shared : int
        Cases that both audits have.
    cases : int
        Of these, answered rightly by both and with a verdict that is not "undetermined".
    only_first, only_second, both : int
        Wrong reason in the first run alone, the second alone, in both.
    test : Comparison
        Exact McNemar test [1]_ of the two rates; the difference is first minus second.
    difference : Metric
        The same difference with an interval that draws whole patients (the test's own, which takes cases as independent, where no
        case differs), or the reason why it has none.
    """

    shared: int
    cases: int
    only_first: int
    only_second: int
    both: int
    test: Comparison
    difference: Metric


def _rules(table: pd.DataFrame) -> tuple[frozenset[object], bool]:
    """What a verdict of this audit depends on beside the answer: versions of the thresholds, and whether LIME was read."""
    versions = frozenset(table["thresholds_version"].dropna()) if "thresholds_version" in table.columns else frozenset()
    return versions, "lime_r2" in table.columns


def compare(first: pd.DataFrame, second: pd.DataFrame) -> PairedReasons:
    """Whether one network is right for a wrong reason more often than another, on the same cases.

    Parameters
    ----------
    first, second : DataFrame
        Tables of full audits. A case that stands twice in one of them is left out.

    Notes
    -----
    Audits by other thresholds, or with LIME and without, are not compared. Only cases count that both networks answer
    rightly and both verdicts decide, so it is not compared how often they are right. Nothing outside the lungs can be held
    against a network that is shown nothing else: a difference from such a network says no more than that. McNemar's test
    takes cases as independent; several cases of one patient make it too sure, so the interval of the difference is a
    patient bootstrap's, which has no width where no case differs: there the test's own is given.
    """
    name = "exact McNemar test"
    unlike = NO_VERDICT if not all("verdict" in table.columns for table in (first, second)) else None
    if unlike is None and _rules(first) != _rules(second):
        unlike = OTHER_RULES
    if unlike is not None:
        test = Comparison(name, None, reason=unlike)
        return PairedReasons(0, 0, 0, 0, 0, test, Metric(DIFFERENCE, None, None, reason=unlike))
    sides = []
    for table in (first, second):
        good = table[table["error"].isna() & ~table["case"].duplicated(keep=False)]
        sides.append(good[["case", "true", "predicted", "verdict"]])
    groups = first[["case", "group"]] if "group" in first.columns else first[["case"]].assign(group=None)
    pairs = sides[0].merge(sides[1], on="case", suffixes=(" a", " b"))
    pairs = pairs.merge(groups.drop_duplicates("case"), on="case")
    shared = len(pairs)
    kept = (pairs["true a"] == pairs["true b"]) & pairs["true a"].notna()
    for side in "ab":
        kept &= (pairs[f"predicted {side}"] == pairs[f"true {side}"]) & (pairs[f"verdict {side}"] != UNDETERMINED)
    a, b = ((pairs.loc[kept, f"verdict {side}"] == WRONG).to_numpy(np.bool_) for side in "ab")
    reason = next((why for table in (first, second) if (why := _repeated(table)) is not None), None)
    if not shared:
        test = Comparison(name, None, reason="the two audits share no case")
    elif not kept.any():
        test = Comparison(name, None, reason="no shared case is answered rightly and judged in both audits")
    elif reason is not None:
        test = Comparison(name, float(a.mean() - b.mean()), reason=reason)
    else:
        test = mcnemar_exact(a, b)
    return PairedReasons(
        shared, int(kept.sum()), int((a & ~b).sum()), int((b & ~a).sum()), int((a & b).sum()), test,
        _difference(a, b, groups_of(pairs[kept]), test),
    )  # fmt: skip


def _difference(a: NDArray[np.bool_], b: NDArray[np.bool_], groups: list[str | None], test: Comparison) -> Metric:
    """Difference of two paired rates with a patient-bootstrap interval, where the test could be made."""
    if test.p_value is None:
        return Metric(DIFFERENCE, None, test.difference, reason=test.reason)
    change = a.astype(np.float64) - b
    if not change.any() and None not in groups:  # every resample would say 0, as if nothing else were possible
        return Metric(
            DIFFERENCE, None, test.difference, test.low, test.high, "exact McNemar 95 %, cases as independent"
        )
    found = bootstrap(lambda drawn: float(change[drawn].mean()), groups)
    kind = None if found.reason else "patient bootstrap 95 %"
    return Metric(DIFFERENCE, None, test.difference, found.low, found.high, kind, found.reason)


def _repeated(table: pd.DataFrame) -> str | None:
    return "test sets of folds overlap" if table["case"].duplicated().any() else None
