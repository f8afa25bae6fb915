"""Confusion matrices that papers printed, and whether the papers' other figures follow from them.

Two tables lie beside this file: ``confusion_counts.csv`` (true class, predicted class, count) and ``claims.csv`` (every
figure with the place where it stands, written with the decimals that the paper prints). All figures are recomputed in
exact fractions, so a verdict never hangs on floating-point rounding.

Notes
-----
Table 3 of [1]_ prints true positives, false negatives and false positives of each class and figure 4 the full matrices
of folds 1 and 3; the off-diagonal counts of folds 2, 4 and 5 come from the authors' public results. Accuracy for one
class, specificity, sensitivity, precision and overall accuracy are equations 1 to 5 of [1]_; F1 is the harmonic mean of
precision and sensitivity. The classes "infected" and "CP" of [2]_ are called COVID-19 here, and "CAP" Pneumonia.

References
----------
.. [1] Rahimzadeh M, Attar A. Informatics in Medicine Unlocked 2020;19:100360. doi:10.1016/j.imu.2020.100360
.. [2] Haghanifar A, Majdabadi MM, Ko S. COVID-CXNet. arXiv:2006.13807. doi:10.48550/arXiv.2006.13807
.. [3] Dialameh M et al. arXiv:2012.14204. doi:10.48550/arXiv.2012.14204
.. [4] Kurz P et al. Proc. 30th Workshop Computational Intelligence, Berlin 2020. doi:10.58895/ksp/1000124139-7
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.errors import DatasetError

Verdict = Literal["agrees", "within rounding", "does not follow", "cannot be checked"]

FOLDER = Path(__file__).parent
#: Name of the fold of a claim about the average of all folds.
MEAN = "mean"
#: Metrics that follow from a confusion matrix; all but the first need a class.
METRICS = ("accuracy", "one-vs-rest accuracy", "sensitivity", "specificity", "precision", "f1")
_SCALE = {"percent": 100, "fraction": 1}
_RAHIMZADEH = "rahimzadeh-attar-2020"


@dataclass(frozen=True)
class Study:
    """A paper; `matrices` says where its confusion matrices stand, or why there are none."""

    title: str
    citation: str
    doi: str
    matrices: str


#: Papers by the name that the tables use.
STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        _RAHIMZADEH: Study(
            "A modified deep convolutional neural network for detecting COVID-19 and pneumonia from chest X-ray images "
            "based on the concatenation of Xception and ResNet50V2",
            "Rahimzadeh M, Attar A. Informatics in Medicine Unlocked 2020;19:100360",
            "10.1016/j.imu.2020.100360",
            "they stand in table 3 and figure 4, and in the authors' public results",
        ),
        "haghanifar-2022": Study(
            "COVID-CXNet: Detecting COVID-19 in frontal chest X-ray images using deep learning",
            "Haghanifar A, Molahasani Majdabadi M, Ko S. arXiv:2006.13807, version of March 2022",
            "10.48550/arXiv.2006.13807",
            "tables 1 to 4 of the paper print those of four other runs",
        ),
        "dialameh-2020": Study(
            "Screening COVID-19 based on CT/CXR images & building a publicly available CT-scan dataset of COVID-19",
            "Dialameh M, Hamzeh A, Rahmani H, Radmard AR, Dialameh S. arXiv:2012.14204, 2020",
            "10.48550/arXiv.2012.14204",
            "the paper prints none, nor how it averages over classes",
        ),
        "kurz-2020": Study(
            "On the detection of SARS-CoV-2 induced pneumonia in X-ray thorax images with convolutional neural networks",
            "Kurz P, Kaufmann P, Kalkreuth R, Born J, Klöckner R, Hahn F, Döllinger F, Auer TA. "
            "Proceedings – 30. Workshop Computational Intelligence, Berlin 2020",
            "10.58895/ksp/1000124139-7",
            "figures 12 to 15 of the paper show the results as pictures, and what it calls COVID-19 accuracy is not defined",
        ),
    }
)


@dataclass(frozen=True, eq=False)
class PublishedRun:
    """A confusion matrix that a paper printed.

    Parameters
    ----------
    study, model : str
    fold : str or None
        None if the study has a single split.
    title, citation, doi : str
    classes : tuple of str
    counts : int64 array (classes, classes)
        Rows are the truth, columns the prediction; made read-only.
    source : str
        Where in the paper the counts stand.

    Raises
    ------
    DatasetError
        If `counts` is no matrix of whole numbers from 0, one row and column a class, or has no case at all.
    """

    study: str
    model: str
    fold: str | None
    title: str
    citation: str
    doi: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    source: str

    def __post_init__(self) -> None:
        given = np.asarray(self.counts)
        side = len(self.classes)
        if (
            given.shape != (side, side)
            or len(set(self.classes)) != side
            or not np.issubdtype(given.dtype, np.integer)
            or given.min(initial=0) < 0
            or not given.any()
        ):
            raise DatasetError(
                f"The matrix of {self.model!r} is not usable: {side} classes with different names need {side} × {side} "
                "whole numbers from 0 and at least one case; give rows for the truth and columns for the prediction."
            )
        counts = given.astype(np.int64)
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)


@dataclass(frozen=True)
class Claim:
    """A figure that a paper prints.

    Parameters
    ----------
    study, model : str
    fold : str or None
        :data:`MEAN` for the average over folds, None if the study has a single split.
    metric : str
        One of :data:`METRICS`, or another name, which cannot be checked.
    cls : str or None
        None for figures about all classes together.
    value : float
        In `unit`.
    unit : {"percent", "fraction"}
    where : str
        Where in the paper it stands.
    printed : str
        The same value with the decimals that the paper prints; the tolerance hangs on them.

    Raises
    ------
    DatasetError
        If the unit is another one, or `printed` is not `value` in plain decimals.
    """

    study: str
    model: str
    fold: str | None
    metric: str
    cls: str | None
    value: float
    unit: str
    where: str
    printed: str

    def __post_init__(self) -> None:
        if self.unit not in _SCALE:
            raise DatasetError(f"The unit {self.unit!r} of a claim is not known; use percent or fraction.")
        if not self.printed.replace(".", "", 1).isdecimal() or float(self.printed) != self.value:
            raise DatasetError(f"A claim of {self.value} is said to be printed as {self.printed!r}; give plain digits.")

    @property
    def decimals(self) -> int:
        """Digits printed behind the point."""
        return len(self.printed.partition(".")[2])


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    Parameters
    ----------
    claim : Claim
    recomputed : float or None
        In the claim's unit; None exactly if the claim cannot be checked.
    verdict : str
        "agrees": rounding the recomputed figure to the printed decimals gives the printed one (a tie may go either
        way). "within rounding": else it differs by at most `tolerance`, as when digits are cut off. "does not follow":
        it differs by more. "cannot be checked": `explanation` says why.
    explanation : str
        One sentence.
    tolerance : float
        One unit of the last printed digit, in the claim's unit.
    """

    claim: Claim
    recomputed: float | None
    verdict: Verdict
    explanation: str
    tolerance: float


def _read(name: str) -> pd.DataFrame:
    # As text, without guessing: "91.10" must keep its zero and an empty class must stay empty.
    return pd.read_csv(FOLDER / name, dtype=str, keep_default_na=False)


@cache
def published_runs() -> tuple[PublishedRun, ...]:
    """All printed confusion matrices, in the order of ``confusion_counts.csv``."""
    runs = []
    for key, rows in _read("confusion_counts.csv").groupby(["study", "model", "fold", "source"], sort=False):
        study, model, fold, source = map(str, key)
        classes = tuple(dict.fromkeys(rows["true_class"]))
        table = rows.pivot(index="true_class", columns="predicted_class", values="count")
        counts = table.loc[list(classes), list(classes)].to_numpy().astype(np.int64)
        paper = STUDIES[study]
        runs.append(
            PublishedRun(study, model, fold or None, paper.title, paper.citation, paper.doi, classes, counts, source)
        )
    return tuple(runs)


@cache
def published_claims() -> tuple[Claim, ...]:
    """All printed figures, in the order of ``claims.csv``."""
    return tuple(
        Claim(study, model, fold or None, metric, cls or None, float(value), unit, where, value)
        for study, model, fold, metric, cls, value, unit, where in _read("claims.csv").itertuples(index=False)
    )


@cache
def check_claims() -> tuple[Finding, ...]:
    """Check every figure of :func:`published_claims` against its own matrix, in the same order."""
    return tuple(check_claim(claim, published_runs(), published_claims()) for claim in published_claims())


def check_claim(claim: Claim, runs: Sequence[PublishedRun], claims: Sequence[Claim] = ()) -> Finding:
    """Check one figure against the matrix of its own run.

    Parameters
    ----------
    claim : Claim
    runs : sequence of PublishedRun
        Also searched for another reading that would explain a figure which does not follow.
    claims : sequence of Claim
        Other figures of the study, to see whether an average was taken of printed figures.

    Notes
    -----
    An average is compared with the unweighted mean of the folds, and with the pooled counts if that mean does not fit.
    Pooled counts are no independent evidence: test sets of different folds may share pictures.
    """
    tolerance = 10.0**-claim.decimals
    own = _matching(runs, claim.study, claim.model, claim.fold)
    reason = _why_not(claim, own, claims)
    if reason is not None:
        return Finding(claim, None, "cannot be checked", reason, tolerance)
    exact = _figure(own, claim.metric, claim.cls)
    if exact is None:
        text = (
            f"The {_name(claim.metric, claim.cls)} is not defined for {_place(claim.model, claim.fold)}: it is 0 / 0."
        )
        return Finding(claim, None, "cannot be checked", text, tolerance)
    if claim.fold == MEAN:
        exact, text = _explain_mean(claim, own, exact, claims)
    else:
        text = f"From {own[0].source} the {_name(claim.metric, claim.cls)} of {_place(claim.model, claim.fold)} is "
        text += _explain_single(claim, exact)
    verdict = _verdict(claim, exact)
    if verdict == "does not follow":
        text += f"; {_mix_up(claim, runs)}"
    return Finding(claim, float(exact * _SCALE[claim.unit]), verdict, f"{text}.", tolerance)


def _matching(runs: Sequence[PublishedRun], study: str, model: str, fold: str | None) -> list[PublishedRun]:
    """The run of a fold, or the runs of all folds for :data:`MEAN`."""
    of_model = [run for run in runs if run.study == study and run.model == model]
    if fold == MEAN:
        return [run for run in of_model if run.fold is not None]
    return [run for run in of_model if run.fold == fold][:1]


def _one(counts: NDArray[np.int64], index: int, metric: str) -> Fraction | None:
    """Figure of one class against the rest, None for 0 / 0."""
    total = int(counts.sum())
    tp = int(counts[index, index])
    fn = int(counts[index].sum()) - tp
    fp = int(counts[:, index].sum()) - tp
    tn = total - tp - fn - fp
    above, below = {
        "accuracy": (tp + tn, total),
        "one-vs-rest accuracy": (tp + tn, total),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "precision": (tp, tp + fp),
        "f1": (2 * tp, 2 * tp + fp + fn),
    }[metric]
    return Fraction(above, below) if below else None


def _average(values: Sequence[Fraction | None], weights: Sequence[int] | None = None) -> Fraction | None:
    """Weighted mean, None if a value is undefined or there is none."""
    weights = weights or [1] * len(values)
    defined = [value * weight for value, weight in zip(values, weights, strict=True) if value is not None]
    return sum(defined, Fraction(0)) / sum(weights) if values and len(defined) == len(values) else None


def _figure(
    runs: Sequence[PublishedRun],
    metric: str,
    cls: str | None,
    how: Literal["", "transposed", "macro", "weighted"] = "",
) -> Fraction | None:
    """Mean over runs of a figure, exact; `how` chooses another reading of the matrix."""
    values: list[Fraction | None] = []
    for run in runs:
        counts = run.counts.T if how == "transposed" else run.counts
        if how in ("macro", "weighted"):
            weights = counts.sum(axis=1).tolist() if how == "weighted" else None
            values.append(_average([_one(counts, i, metric) for i in range(len(counts))], weights))
        elif cls is None:
            values.append(Fraction(int(np.trace(counts)), int(counts.sum())))
        else:
            values.append(_one(counts, run.classes.index(cls), metric) if cls in run.classes else None)
    return _average(values)


def _pooled(runs: Sequence[PublishedRun], metric: str, cls: str | None) -> Fraction | None:
    """Figure of the summed counts."""
    total = np.sum([run.counts for run in runs], axis=0)
    return (
        Fraction(int(np.trace(total)), int(total.sum()))
        if cls is None
        else _one(total, runs[0].classes.index(cls), metric)
    )


def _verdict(claim: Claim, exact: Fraction) -> Verdict:
    unit = Fraction(1, 10**claim.decimals)
    difference = abs(exact * _SCALE[claim.unit] - Fraction(claim.printed))
    return "agrees" if 2 * difference <= unit else "within rounding" if difference <= unit else "does not follow"


def _why_not(claim: Claim, own: Sequence[PublishedRun], claims: Sequence[Claim]) -> str | None:
    """Why a claim cannot be checked, None if it can."""
    if claim.metric == "roc auc":
        return "An area under the ROC curve needs the score of every case, which no matrix of counts holds."
    if claim.metric not in METRICS or (claim.cls is None and claim.metric != "accuracy"):
        about = "" if claim.cls else " over all classes"
        return f"How {claim.metric!r}{about} is defined is not known, so there is nothing to compute."
    if not own:
        study = STUDIES.get(claim.study)
        reason = f"No matrix of counts is at hand for {claim.model}"
        reason += f": {study.matrices}" if study else ""
        return f"{reason}{_harmonic(claim, claims)}."
    if claim.cls is not None and any(claim.cls not in run.classes for run in own):
        return f"The matrix of {claim.model} has no class {claim.cls!r}."
    if len({run.classes for run in own}) > 1:
        return f"The folds of {claim.model} do not have the same classes."
    return None


def _harmonic(claim: Claim, claims: Sequence[Claim]) -> str:
    """What the precision and sensitivity printed beside an F1 say about it, when there is no matrix."""
    beside = {
        other.metric: other
        for other in claims
        if (other.study, other.model, other.fold, other.cls, other.unit)
        == (claim.study, claim.model, claim.fold, claim.cls, claim.unit)
    }
    if claim.metric != "f1" or not {"precision", "sensitivity"} <= set(beside):
        return ""
    ends = []
    for sign in (-1, 0, 1):  # F1 rises with both, so the ends of their rounding intervals give the ends of F1
        p, r = (
            Fraction(beside[name].printed) + Fraction(sign, 2 * 10 ** beside[name].decimals)
            for name in ("precision", "sensitivity")
        )
        ends.append(2 * p * r / (p + r))
    half = Fraction(1, 2 * 10**claim.decimals)
    if ends[0] - half <= Fraction(claim.printed) <= ends[2] + half:
        return "; the figure does fit the precision and sensitivity printed beside it"
    middle = _show(claim, ends[1] / _SCALE[claim.unit])
    return f"; the precision and sensitivity printed beside it give {middle}, so it is not the F1 of one class"


def _explain_single(claim: Claim, exact: Fraction) -> str:
    verdict = _verdict(claim, exact)
    if verdict == "agrees":
        return f"{_show(claim, exact)}, as printed in {claim.where}"
    if verdict == "within rounding":
        return f"{_show(claim, exact, 2)}, printed as {_printed(claim)} in {claim.where}: {_manner(claim, exact)}"
    return f"{_show(claim, exact)}, but {_printed(claim)} is printed in {claim.where}"


def _explain_mean(
    claim: Claim, own: Sequence[PublishedRun], mean: Fraction, claims: Sequence[Claim]
) -> tuple[Fraction, str]:
    """The average that fits best, and a sentence on both ways to average."""
    pooled = _pooled(own, claim.metric, claim.cls)
    of_folds = [
        Fraction(other.printed)
        for other in claims
        if (other.study, other.model, other.metric, other.cls, other.unit)
        == (claim.study, claim.model, claim.metric, claim.cls, claim.unit)
        and other.fold in {run.fold for run in own}
    ]
    shortened_first = (
        _verdict(claim, mean) == "within rounding"
        and len(of_folds) == len(own)
        and _verdict(claim, sum(of_folds, Fraction(0)) / len(own) / _SCALE[claim.unit]) == "agrees"
    )
    ranks = ("agrees", "within rounding", "does not follow")
    rank_mean = 0 if shortened_first else ranks.index(_verdict(claim, mean))
    rank_pooled = 2 if pooled is None else ranks.index(_verdict(claim, pooled))
    exact = mean if pooled is None or rank_mean <= rank_pooled else pooled
    more = 0 if _verdict(claim, exact) == "agrees" else 2
    text = f"The mean of the {len(own)} folds gives {_show(claim, mean, more)} as {_name(claim.metric, claim.cls)} of "
    text += claim.model
    if pooled is not None:
        text += f" and their pooled counts {_show(claim, pooled, more)}"
    text += f", where {_printed(claim)} is printed in {claim.where}: "
    if rank_mean == rank_pooled:
        text += "neither fits" if rank_mean == 2 else "both fit"
    else:
        text += "the mean of the folds fits" if exact is mean else "the pooled counts fit"
    if shortened_first and exact is mean:
        text += ", averaged after the figures of the folds had been shortened"
    elif _verdict(claim, exact) == "within rounding":
        text += f", {_manner(claim, exact)}"
    return exact, text


def _mix_up(claim: Claim, runs: Sequence[PublishedRun]) -> str:
    """Which figures of the study, one change away, would have been printed like this one."""
    found = [text for text, value in _readings(claim, runs) if value is not None and _verdict(claim, value) == "agrees"]
    if not found:
        return "changing one of metric, class, average, fold or network does not give that figure either"
    return f"that equals {' and '.join(dict.fromkeys(found))}, so it may be a mix-up"


def _readings(claim: Claim, runs: Sequence[PublishedRun]) -> Iterator[tuple[str, Fraction | None]]:
    """Figures that differ from a claim in one thing: metric, class, averaging, direction, fold or network."""
    own = _matching(runs, claim.study, claim.model, claim.fold)
    place = _place(claim.model, claim.fold)
    classes = own[0].classes
    for metric in METRICS[1:]:
        if claim.cls is None:
            for cls in classes:
                yield f"the {_name(metric, cls)} of {place}", _figure(own, metric, cls)
        elif metric != claim.metric:
            yield f"the {_name(metric, claim.cls)} of {place}", _figure(own, metric, claim.cls)
    if claim.cls is not None:
        yield f"the overall accuracy of {place}", _figure(own, "accuracy", None)
        for cls in classes:
            if cls != claim.cls:
                yield f"the {_name(claim.metric, cls)} of {place}", _figure(own, claim.metric, cls)
    for metric in METRICS[1:] if claim.cls is None else (claim.metric,):
        yield f"the plain mean over classes of the {_name(metric)} of {place}", _figure(own, metric, None, "macro")
        text = f"the mean over classes, weighted by cases, of the {_name(metric)} of {place}"
        yield text, _figure(own, metric, None, "weighted")
    if claim.cls is not None:
        text = f"the {_name(claim.metric, claim.cls)} of {place} with rows and columns exchanged"
        yield text, _figure(own, claim.metric, claim.cls, "transposed")
    places = [(run.model, run.fold) for run in runs if run.study == claim.study]
    places += [(model, MEAN) for model, fold in places if fold is not None]
    for model, fold in dict.fromkeys(places):
        if (model == claim.model) != (fold == claim.fold):
            of_other = _matching(runs, claim.study, model, fold)
            text = f"the {_name(claim.metric, claim.cls)} of {_place(model, fold)}"
            yield text, _figure(of_other, claim.metric, claim.cls)


def _name(metric: str, cls: str | None = None) -> str:
    name = "F1" if metric == "f1" else metric
    return f"{name} for {cls}" if cls else name


def _place(model: str, fold: str | None) -> str:
    return model if fold is None else f"{model} in the mean of its folds" if fold == MEAN else f"{model} in fold {fold}"


def _show(claim: Claim, exact: Fraction, more: int = 0) -> str:
    """A recomputed figure like the printed one, with `more` decimals."""
    number = f"{float(exact * _SCALE[claim.unit]):.{claim.decimals + more}f}"
    return f"{number} %" if claim.unit == "percent" else number


def _printed(claim: Claim) -> str:
    return f"{claim.printed} %" if claim.unit == "percent" else claim.printed


def _manner(claim: Claim, exact: Fraction) -> str:
    """How a figure within one unit of the last digit came to differ."""
    cut = math.floor(exact * _SCALE[claim.unit] * 10**claim.decimals)
    same = Fraction(claim.printed) * 10**claim.decimals == cut
    return "cut off instead of rounded" if same else "one off in the last digit"


def teaching_note() -> str:
    """What 99.5 % accuracy means when one case in 365 has the disease, as Markdown; all figures are computed.

    The study is [1]_: its test sets hold 30 or 31 radiographs with COVID-19 among some 11,302.
    """
    disease = "COVID-19"
    runs = [run for run in published_runs() if run.study == _RAHIMZADEH]
    row = runs[0].classes.index(disease)
    cases = sorted({int(run.counts.sum()) for run in runs})
    sick = sorted({int(run.counts[row].sum()) for run in runs})
    never = {run: 1 - Fraction(int(run.counts[row].sum()), int(run.counts.sum())) for run in runs}
    accuracy = {run: _figure([run], "one-vs-rest accuracy", disease) or Fraction(0) for run in runs}
    better = sum(accuracy[run] > never[run] for run in runs)
    best = max(runs, key=accuracy.__getitem__)
    lines = ["| network | sensitivity | specificity | one-vs-rest accuracy | precision |", "|---|---|---|---|---|"]
    pooled: dict[str, dict[str, Fraction]] = {}
    called: dict[str, tuple[int, int]] = {}
    for model in dict.fromkeys(run.model for run in runs):
        own = [run for run in runs if run.model == model]
        pooled[model] = {metric: _pooled(own, metric, disease) or Fraction(0) for metric in METRICS[1:]}
        total = np.sum([run.counts for run in own], axis=0)
        called[model] = int(total[row, row]), int(total[:, row].sum())
        shares = [_percent(pooled[model][m], 2) for m in ("sensitivity", "specificity", "one-vs-rest accuracy")]
        right, alarms = called[model]
        precision = f"{_percent(pooled[model]['precision'])} ({right} of {alarms})"
        lines.append(f"| {model} | {' | '.join(shares)} | {precision} |")
    # Every network met the same test sets, so the runs of one of them give the prevalence.
    prevalence = 1 - Fraction(sum(never[r] * int(r.counts.sum()) for r in runs), sum(int(r.counts.sum()) for r in runs))
    lines.append(f"| never says {disease} | 0 % | 100 % | {_percent(1 - prevalence, 2)} | undefined: no alarm |")
    model = best.model
    right, alarms = called[model]
    single = sorted(_figure([run], "precision", disease) or Fraction(0) for run in runs if run.model == model)
    se, sp = pooled[model]["sensitivity"], pooled[model]["specificity"]
    by_prevalence = [
        f"{_percent(se * p / (se * p + (1 - sp) * (1 - p)))} where {_percent(p, 2 if p == prevalence else 0)} have it"
        for p in (Fraction(1, 2), Fraction(1, 10), Fraction(1, 100), prevalence)
    ]
    # Table 1: every test set holds 6851 of 8851 normal and 4420 of 6054 pneumonia radiographs, so that any two share
    # at least 4851 and 2786.
    return "\n".join(
        [
            f"### {_percent(pooled[model]['one-vs-rest accuracy'])} accuracy, yet most alarms are false",
            "",
            f"Rahimzadeh & Attar (2020, doi:{runs[0].doi}) tested three networks on five test sets of "
            f"{cases[0]:,} to {cases[-1]:,} radiographs, of which {sick[0]} or {sick[-1]} show {disease}: "
            f"a prevalence of {_percent(prevalence, 2)}. Counts of all five folds together:",
            "",
            *lines,
            "",
            f"- **Accuracy says little here.** A classifier that never says {disease} scores "
            f"{_percent(1 - prevalence, 2)} one-vs-rest accuracy. Of the {len(runs)} runs, {better or 'none'} "
            f"{'do' if better > 1 else 'does'} better; the best, {best.model} in fold {best.fold}, scores "
            f"{_percent(accuracy[best], 2)}.",
            f"- **Precision does.** {alarms} radiographs were called {disease} by the {model} network and {right} of "
            f"them were: {_percent(Fraction(right, alarms))}, between {_percent(single[0])} and {_percent(single[-1])} "
            "in single folds. The discussion of the paper says so itself.",
            f"- **Precision goes with prevalence.** The same sensitivity ({_percent(se)}) and specificity "
            f"({_percent(sp, 2)}) give a precision of {', '.join(by_prevalence)}. A precision from a balanced test set "
            "is not what a clinic would see.",
            "",
            "The five test sets share most of their normal and pneumonia radiographs, so counts taken together describe "
            "the result but are no independent evidence.",
        ]
    )


def _percent(share: Fraction, decimals: int = 1) -> str:
    return f"{float(100 * share):.{decimals}f} %"
