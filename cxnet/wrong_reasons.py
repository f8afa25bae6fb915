"""Stored audits of whole runs: how often a right answer was given for a wrong reason, and what may tempt a network.

:mod:`cxnet.batch` writes beside a run ``audit-fast.parquet`` or ``audit-full.parquet`` and a ``.json`` of the same
name. The table has one row a case:

========================== ===========================================================================
case, file, fold           as the run has them; fold is null for files that belong to no run
group, source, view        as the run has them, else null
true                       null where it is not known
predicted                  the class that the audited network calls, which is the one explained
probability <class>
in_lung, lift, z …         figures of the Grad-CAM map, see :data:`FIGURES`; null where `map_reason` says why
zone <zone>, area <zone>   share of the map's energy, and of the picture, in each zone outside the lungs
lungs_ok, lungs_reasons    whether the lung mask passed its gate
mean_grey …                properties of the picture, see :data:`PROPERTIES`
model, model_sha256        which network was asked
error                      why there are no figures, as a sentence; null where all went well
evidence <test> *          in logits; null where a test could not be made
usual evidence *           logits over chance that the network's answers usually have
strength *                 largest evidence over its line: from 1 on a test turned
background_probability *   of the predicted class, with the lungs' hull hidden; median over the fills
lungs_probability *        of the predicted class, with all but the lungs' hull hidden; median over the fills
verdict *, facts *         of :mod:`cxnet.verdict`; facts as a JSON list
thresholds_version *
lime_r2 †                  fit of LIME's surrogate: R² on held-out samples, or its own where there are none
lime_samples †             perturbed pictures that LIME took
lime_stable †              whether its leading superpixels had settled
lime_in_lung/_lift/_z †    the figures of LIME's map, its positive part; null where `lime_reason` † says why
cam_lime †                 rank correlation of Grad-CAM and LIME over the superpixels, -1 to 1: the lower, the
                           less they agree; null where `cam_lime_reason` † says why
lime_vsi †                 VSI of LIME's five leading superpixels over the seeds, 0 to 1; with two seeds or more
lime_csi †                 CSI of its weights over the seeds: share whose 95 % intervals overlap; likewise
========================== ===========================================================================

Those marked * are in full audits only, those marked † only in audits with ``--lime``, whose ``.json`` says
`lime_seeds`. There the map key turns only when every map that can be read lies outside the lungs, Grad-CAM's and
LIME's, so verdicts with and without LIME are not to be compared. Nothing here imports a deep-learning framework.

References
----------
.. [1] Agresti A. Categorical data analysis. 3rd ed. Wiley 2013, section 11.1 (exact McNemar test).
.. [2] Cureton EE. Rank-biserial correlation. Psychometrika 1956;21:287. doi:10.1007/BF02289138
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.errors import DatasetError
from cxnet.statistics import Comparison, Metric, bootstrap, check_folds, mcnemar_exact
from cxnet.statistics.patients import is_missing, patient_codes, patient_proportion
from cxnet.statistics.probabilities import Ranking

Tier = Literal["full", "fast"]
TIERS: tuple[Tier, ...] = ("full", "fast")
SCHEMA = 1
WRONG, UNDETERMINED = "wrong reason", "undetermined"
#: Names of classes that say that there is nothing, in small letters.
NO_FINDING = frozenset({"normal", "no finding", "no findings", "negative", "healthy"})
#: Names of the parts of :func:`rates` by what the answer says.
ANSWERS = {True: "names a finding", False: "names no finding"}

#: Column of a table → figure of :func:`cxnet.audit.localisation_scores`.
FIGURES = {
    "in_lung": "in-lung energy",
    "in_lung_tolerant": "in-lung energy with tolerance",
    "lift": "lift",
    "z": "z against shifted copies",
    "pointing": "pointing game",
    "rank_lungs": "rank accuracy, lung area",
    "rank_hottest": "rank accuracy, hottest 5 %",
}
#: Property of a picture → what it is.
PROPERTIES = {
    "mean_grey": "brightness: mean grey level, 0 to 255",
    "contrast": "contrast: standard deviation of grey levels",
    "width": "width in pixels",
    "height": "height in pixels",
    "aspect": "aspect: width over height",
    "sharpness": "sharpness: variance of the Laplacian over that of the picture",
    "border_darkness": "border: nearly black share of its outermost 5 %",
    "markers": "markers and text: how many were found",
    "marker_area": "markers and text: share of the picture",
}
#: A property whose interval lies wholly beyond this area (or below 1 less it) tells the classes apart. House rule.
SEPARATES_FROM = 0.6
NOT_STATED = "(not stated)"
NO_RIGHT = "there is no right answer"
DIFFERENCE = "difference of wrong-reason rates"
OTHER_RULES = (
    "one audit judged by other thresholds, or with LIME and the other without; audit both again in the same way"
)
NO_VERDICT = "this audit has no verdicts; audit with --tier full"


@dataclass(frozen=True, eq=False)
class StoredAudit:
    """An audit that was written by :mod:`cxnet.batch`.

    Parameters
    ----------
    path : Path
        Of the table.
    tier : {"full", "fast"}
    info : mapping
        Settings and versions.
    table : DataFrame
        As in this module's docstring; treated as read-only.
    """

    path: Path
    tier: Tier
    info: Mapping[str, Any]
    table: pd.DataFrame

    @property
    def audited(self) -> pd.DataFrame:
        """The rows that have figures."""
        return self.table[self.table["error"].isna()]

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return tuple(self.info["classes"])


def names_finding(cls: str) -> bool:
    """Whether a class is a finding, and not one of :data:`NO_FINDING`."""
    return cls.strip().lower() not in NO_FINDING


def audits_of(folder: Path) -> tuple[Tier, ...]:
    """Which audits are stored in a folder, the full one first."""
    return tuple(tier for tier in TIERS if (folder / f"audit-{tier}.parquet").is_file())


def open_audit(folder: Path, tier: Tier) -> StoredAudit:
    """Read a stored audit.

    Raises
    ------
    DatasetError
        If it is missing, damaged or of another schema.
    """
    path = folder / f"audit-{tier}.parquet"
    try:
        info = json.loads(path.with_suffix(".json").read_text("utf-8"))
        if info["schema"] != SCHEMA:
            raise DatasetError(
                f"{path.name} of {folder.name} has schema {info['schema']!r} and this version reads {SCHEMA}; audit "
                "the run again."
            )
        content = path.read_bytes()
        if info.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
            raise DatasetError(
                f"The audit {path.name} of {folder.name} is not the one that its .json describes; copy both, or audit the "
                "run again."
            )
        table = pd.read_parquet(io.BytesIO(content), engine="pyarrow")
        lacking = {"case", "true", "predicted", "lift", "error"} - set(table.columns)
        if lacking or not info["classes"]:
            raise KeyError(*sorted(lacking))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"The audit {path.name} of {folder.name} cannot be read ({type(error).__name__}); audit the run again."
        ) from error
    return StoredAudit(path, tier, info, table)


# ---------------------------------------------------------------------------------------------- wrong-reason rates


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
    patients, unknown = patient_codes(_groups(table))
    share = patient_proportion(
        "wrong-reason rate", None, bad, patients, "there are no such answers",
        withhold=withhold or unknown, resamples=resamples,
    )  # fmt: skip
    return Rate(part, count, wrong, undetermined, share)


def _groups(table: pd.DataFrame) -> list[str | None]:
    if "group" not in table.columns:
        return [None] * len(table)
    return [None if is_missing(value) else str(value) for value in table["group"].tolist()]


def withheld(table: pd.DataFrame) -> str | None:
    """Why figures over these cases can have no interval; None if they can."""
    if table.empty:
        return "there are no cases"
    columns = {name: table[name] if name in table.columns else None for name in ("case", "fold", "group", "true")}
    rows = pd.DataFrame(columns, index=table.index)
    rows["fold"] = rows["fold"].astype(object).where(rows["fold"].notna(), "0")  # files of no run are one test set
    return check_folds(rows).intervals_reason


def right_answers(table: pd.DataFrame) -> pd.DataFrame:
    """The audited cases whose true class is known and predicted."""
    return table[table["error"].isna() & table["true"].notna() & (table["true"] == table["predicted"])]


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


# ------------------------------------------------------------------------------------------------ two runs, paired


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
        The same difference with an interval that draws whole patients, or the reason why it has none.
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
    patient bootstrap's.
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
        _difference(a, b, _groups(pairs[kept]), test),
    )  # fmt: skip


def _difference(a: NDArray[np.bool_], b: NDArray[np.bool_], groups: list[str | None], test: Comparison) -> Metric:
    """Difference of two paired rates with a patient-bootstrap interval, where the test could be made."""
    if test.p_value is None:
        return Metric(DIFFERENCE, None, test.difference, reason=test.reason)
    change = a.astype(np.float64) - b
    found = bootstrap(lambda drawn: float(change[drawn].mean()), groups)
    kind = None if found.reason else "patient bootstrap 95 %"
    return Metric(DIFFERENCE, None, test.difference, found.low, found.high, kind, found.reason)


def _repeated(table: pd.DataFrame) -> str | None:
    return "test sets of folds overlap" if table["case"].duplicated().any() else None


# ------------------------------------------------------------------------------------- properties of the pictures


@dataclass(frozen=True)
class PropertyAuc:
    """How well one property of the pictures alone tells one class from the rest.

    Parameters
    ----------
    name : str
        Key of :data:`PROPERTIES`.
    auc : Metric
        Chance that a case of the class `auc.cls` has more of it than another case, ties half; 2 AUC - 1 is the
        rank-biserial correlation [2]_.
    separates : bool or None
        Whether the interval lies wholly beyond :data:`SEPARATES_FROM` on one side; None without an interval.
    """

    name: str
    auc: Metric
    separates: bool | None

    @property
    def rank_biserial(self) -> float | None:
        """From -1 to 1, 0 if the property says nothing of the class."""
        return None if self.auc.value is None else 2 * self.auc.value - 1


def property_aucs(
    table: pd.DataFrame, classes: Sequence[str], *, resamples: int = 500, withhold: str | None = None
) -> tuple[PropertyAuc, ...]:
    """Every property against every true class, one against the rest, with patient-bootstrap intervals.

    Parameters
    ----------
    table : DataFrame
        Of :class:`StoredAudit`; cases without a label or with an error are left out.
    classes : sequence of str
    resamples : int
        Patients are drawn within the true classes.
    withhold : str, optional
        Why intervals must not be given.

    Notes
    -----
    Only a property that separates the classes can be a shortcut; that it does, does not mean that the network uses
    it. Dozens of pairs are looked at, so intervals are there to sort them, not to test one.
    """
    known = table[table["error"].isna() & table["true"].notna()]
    groups, labels = _groups(known), known["true"].astype(str).tolist()
    found = []
    for name in PROPERTIES:
        values = pd.to_numeric(known[name], errors="coerce").to_numpy(np.float64)
        for cls in classes:
            positive = (known["true"] == cls).to_numpy(np.bool_)
            found.append(_property(name, cls, values, positive, groups, labels, resamples, withhold))
    return tuple(found)


def _property(
    name: str,
    cls: str,
    values: NDArray[np.float64],
    positive: NDArray[np.bool_],
    groups: list[str | None],
    labels: list[str],
    resamples: int,
    withhold: str | None,
) -> PropertyAuc:
    if not positive.any() or positive.all():
        which = "no case is" if not positive.any() else "every case is"
        return PropertyAuc(name, Metric("ROC AUC", cls, None, reason=f"{which} truly {cls}"), None)
    if not np.isfinite(values).all():
        return PropertyAuc(name, Metric("ROC AUC", cls, None, reason="some cases lack this property"), None)
    ranking = Ranking(values, positive)

    def area(times: NDArray[np.int64]) -> float | None:
        value = ranking.auc(times)
        return None if np.isnan(value) else value

    value = ranking.auc(np.ones(len(values), np.int64))
    if withhold is not None:
        return PropertyAuc(name, Metric("ROC AUC", cls, value, reason=withhold), None)
    limits = bootstrap(
        lambda drawn: area(np.bincount(drawn, minlength=len(values))), groups, strata=labels, resamples=resamples
    )
    kind = None if limits.reason else "patient bootstrap 95 %"
    metric = Metric("ROC AUC", cls, value, limits.low, limits.high, kind, limits.reason)
    if limits.low is None or limits.high is None:
        return PropertyAuc(name, metric, None)
    return PropertyAuc(name, metric, limits.low > SEPARATES_FROM or limits.high < 1 - SEPARATES_FROM)


def zone_energies(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean share of the map's energy in the lungs and in every zone outside, by a column of the table.

    Returns
    -------
    DataFrame
        Columns: `part` (the value of the column), `cases`, `zone`, `energy` (mean share, 0 to 1) and `area` (mean
        share of the picture: what an even map would score). Cases whose map has no figures are left out.
    """
    rows = table[table["error"].isna() & table["in_lung"].notna()]
    words = rows[by].astype(object)
    words = words.where(~words.map(is_missing).astype(np.bool_), NOT_STATED).astype(str)
    zones = [name.removeprefix("zone ") for name in rows.columns if name.startswith("zone ")]
    found = []
    for part in sorted(words.unique()):
        own = rows[words == part]
        inside, even = own["in_lung"].astype(float), own["lungs_area"].astype(float)
        found.append((part, len(own), "lungs", float(inside.mean()), float(even.mean())))
        for zone in zones:
            energy, area = own[f"zone {zone}"].astype(float).mean(), own[f"area {zone}"].astype(float).mean()
            found.append((part, len(own), zone, float(energy), float(area)))
    return pd.DataFrame(found, columns=["part", "cases", "zone", "energy", "area"])
