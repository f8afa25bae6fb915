"""Printed confusion matrices and figures, checked by hand against the papers' text."""

from __future__ import annotations

import math
import re
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from cxnet.errors import DatasetError
from cxnet.published import (
    FOLDER,
    MEAN,
    METRICS,
    STUDIES,
    Claim,
    Finding,
    PublishedRun,
    check_claim,
    check_claims,
    published_claims,
    published_runs,
    teaching_note,
)

RAHIMZADEH = "rahimzadeh-attar-2020"
HAGHANIFAR = "haghanifar-2022"

# Table 3 of Rahimzadeh & Attar, copied by hand: for COVID-19, pneumonia and normal in turn
# "correct detected", "not detected" and "wrong detected".
TABLE_3 = """
1 Xception     26 5 101 3983 437 569 6245 606 378
1 ResNet50V2   27 4  96 3858 562 480 6334 517 507
1 Concatenated 26 5  68 3745 675 309 6526 325 628
2 Xception     23 8  42 3874 546 409 6426 425 528
2 ResNet50V2   22 9  67 3659 761 501 6340 511 713
2 Concatenated 23 8  27 3913 507 434 6413 438 492
3 Xception     21 9  28 3942 478 436 6411 440 463
3 ResNet50V2   22 8  97 3770 650 392 6433 418 587
3 Concatenated 25 5  35 3847 573 342 6502 349 550
4 Xception     22 9  42 3818 602 433 6411 440 576
4 ResNet50V2   22 9  78 4015 405 758 6065 786 364
4 Concatenated 26 5  77 3860 560 480 6340 511 519
5 Xception     21 10 41 4041 379 502 6335 516 362
5 ResNet50V2   21 10 42 3604 816 284 6549 302 802
5 Concatenated 24 7  43 3941 479 390 6442 409 462
"""


def the_run(study: str, model: str, fold: str | None = None) -> PublishedRun:
    (found,) = [r for r in published_runs() if (r.study, r.model, r.fold) == (study, model, fold)]
    return found


def the_finding(
    study: str, model: str, fold: str | None, metric: str, cls: str | None, where: str | None = None
) -> Finding:
    (found,) = [
        f
        for f in check_claims()
        if (f.claim.study, f.claim.model, f.claim.fold, f.claim.metric, f.claim.cls)
        == (study, model, fold, metric, cls)
        and where in (None, f.claim.where)
    ]
    return found


def made_run(counts: Any, fold: str | None = None, model: str = "net") -> PublishedRun:
    classes = tuple("ABCDEF"[: len(counts)])
    return PublishedRun("made", model, fold, "t", "c", "d", classes, np.array(counts), "table 1")


def made_claim(printed: str, metric: str, cls: str | None, unit: str = "percent", fold: str | None = None) -> Claim:
    return Claim("made", "net", fold, metric, cls, float(printed), unit, "the abstract", printed)


# --- the matrices ---------------------------------------------------------------------------------------------------


def test_nineteen_runs_of_two_studies() -> None:
    keys = [(run.study, run.model, run.fold) for run in published_runs()]
    assert len(set(keys)) == len(keys) == 19
    expected = {(RAHIMZADEH, m, f) for m in ("Xception", "ResNet50V2", "Concatenated") for f in "12345"}
    assert {key for key in keys if key[0] == RAHIMZADEH} == expected
    models = {
        "Base model v1, external test set",
        "Base model v2",
        "COVID-CXNet v1",
        "COVID-CXNet multiclass",
    }
    assert {key for key in keys if key[0] == HAGHANIFAR} == {(HAGHANIFAR, model, None) for model in models}
    for run in published_runs():
        assert not run.counts.flags.writeable and run.counts.dtype == np.int64
        assert (run.title, run.citation, run.doi) == tuple(
            getattr(STUDIES[run.study], n) for n in ("title", "citation", "doi")
        )


def test_test_sets_have_the_sizes_that_the_papers_state() -> None:
    for run in published_runs():
        if run.study == RAHIMZADEH:  # section 3: 31, 4420 and 6851, "exceptionally, in the fold3, we had 30 cases"
            assert run.classes == ("COVID-19", "Pneumonia", "Normal")
            assert run.counts.sum(axis=1).tolist() == [30 if run.fold == "3" else 31, 4420, 6851]
    assert the_run(HAGHANIFAR, "Base model v1, external test set").counts.tolist() == [[21, 9], [3, 27]]  # table 1
    assert the_run(HAGHANIFAR, "Base model v2").counts.tolist() == [[598, 5], [4, 76]]  # table 2, "683 samples"
    assert the_run(HAGHANIFAR, "COVID-CXNet v1").counts.tolist() == [[641, 4], [3, 78]]  # table 3
    multiclass = the_run(HAGHANIFAR, "COVID-CXNet multiclass")
    assert multiclass.classes == ("Normal", "Pneumonia", "COVID-19")
    assert multiclass.counts.tolist() == [[894, 68, 2], [185, 715, 24], [3, 10, 127]]  # table 4


@pytest.mark.parametrize("row", TABLE_3.split("\n")[1:-1])
def test_matrices_give_table_3(row: str) -> None:
    fold, model, *figures = row.split()
    counts = the_run(RAHIMZADEH, model, fold).counts
    found = []
    for i in range(3):
        found += [counts[i, i], counts[i].sum() - counts[i, i], counts[:, i].sum() - counts[i, i]]
    assert found == [int(figure) for figure in figures]


def test_tables_hold_figures_only() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.suffix != ".py" and path.is_file()} == {
        "confusion_counts.csv",
        "claims.csv",
    }
    for name, number in (("confusion_counts.csv", "count"), ("claims.csv", "value")):
        raw = (FOLDER / name).read_bytes()
        assert raw.isascii() and len(raw) < 40_000
        table = pd.read_csv(FOLDER / name, dtype=str, keep_default_na=False)
        assert table[number].str.fullmatch(r"\d+" if number == "count" else r"\d+(\.\d+)?").all()
        for column in table.columns.drop(number):
            assert table[column].str.len().max() <= 50
            assert not table[column].str.contains(r"/|\\|\.(?:jpe?g|png|dcm|webp)|http|@", regex=True).any()


def test_tables_are_those_that_were_collected(data_folder: Path) -> None:
    folder = data_folder / "published"
    if not folder.is_dir():
        pytest.skip("the folder named by CXNET_DATA holds no collected tables")
    keys = {"confusion_counts.csv": ["study", "model", "true_class", "predicted_class", "count"]}
    keys["claims.csv"] = ["study", "model", "metric", "class", "unit"]
    for name, columns in keys.items():
        collected, ours = (pd.read_csv(f / name, dtype=str, keep_default_na=False) for f in (folder, FOLDER))
        pd.testing.assert_frame_equal(collected[columns], ours[columns])
        folds = ours["study"] == RAHIMZADEH
        assert (collected["fold"][folds] == ours["fold"][folds]).all() and set(ours["fold"][~folds]) == {""}
        if name == "claims.csv":
            assert (collected["value"].astype(float) == ours["value"].astype(float)).all()


# --- the findings ---------------------------------------------------------------------------------------------------


def test_verdict_counts() -> None:
    findings = check_claims()
    assert [finding.claim for finding in findings] == list(published_claims()) and len(findings) == 294
    assert Counter((finding.claim.study, finding.verdict) for finding in findings) == {
        (RAHIMZADEH, "agrees"): 173,
        (RAHIMZADEH, "within rounding"): 63,
        (RAHIMZADEH, "does not follow"): 1,
        (HAGHANIFAR, "agrees"): 5,
        (HAGHANIFAR, "within rounding"): 1,
        (HAGHANIFAR, "does not follow"): 1,
        (HAGHANIFAR, "cannot be checked"): 3,
        ("dialameh-2020", "cannot be checked"): 40,
        ("kurz-2020", "cannot be checked"): 7,
    }
    for finding in findings:
        assert (finding.recomputed is None) == (finding.verdict == "cannot be checked")
        assert finding.explanation.endswith(".") and ". " not in finding.explanation.replace("et al. ", "")


# Worked by hand from table 3 of Rahimzadeh & Attar and tables 2 to 4 of Haghanifar et al.
BY_HAND = [
    # 26 of 31 found: 83.871
    (RAHIMZADEH, "Xception", "1", "sensitivity", "COVID-19", "83.87", 100 * 26 / 31, "agrees"),
    # 101 false alarms among 4420 + 6851 = 11271: 99.104, printed with one decimal
    (RAHIMZADEH, "Xception", "1", "specificity", "COVID-19", "99.1", 100 * 11170 / 11271, "agrees"),
    # 5 missed and 101 false alarms among 11302: 99.062
    (RAHIMZADEH, "Xception", "1", "one-vs-rest accuracy", "COVID-19", "99.06", 100 * 11196 / 11302, "agrees"),
    # 26 of 26 + 101 alarms: 20.472
    (RAHIMZADEH, "Xception", "1", "precision", "COVID-19", "20.47", 100 * 26 / 127, "agrees"),
    # 26 + 3983 + 6245 = 10254 of 11302 right: 90.727, cut off to 90.72
    (RAHIMZADEH, "Xception", "1", "accuracy", None, "90.72", 100 * 10254 / 11302, "within rounding"),
    # 26 of 26 + 68 alarms: 27.659, cut off to 27.65
    (RAHIMZADEH, "Concatenated", "1", "precision", "COVID-19", "27.65", 100 * 26 / 94, "within rounding"),
    # 23 of 23 + 27 alarms: 46 exactly, printed without decimals
    (RAHIMZADEH, "Concatenated", "2", "precision", "COVID-19", "46", 46.0, "agrees"),
    # 598 + 76 of 683: 98.682
    (HAGHANIFAR, "Base model v2", None, "accuracy", None, "98.68", 100 * 674 / 683, "agrees"),
    # 2 x 78 / (2 x 78 + 4 + 3): 0.957
    (HAGHANIFAR, "COVID-CXNet v1", None, "f1", "COVID-19", "0.96", 156 / 163, "agrees"),
    # 2 x 715 / (2 x 715 + 185 + 24 + 68 + 10): 0.8328
    (HAGHANIFAR, "COVID-CXNet multiclass", None, "f1", "Pneumonia", "0.83", 1430 / 1717, "agrees"),
    # 2 x 127 / (2 x 127 + 3 + 10 + 2 + 24): 0.8669, cut off to 0.86
    (HAGHANIFAR, "COVID-CXNet multiclass", None, "f1", "COVID-19", "0.86", 254 / 293, "within rounding"),
    # 894 + 715 + 127 = 1736 of 2028 right: 85.60
    (HAGHANIFAR, "COVID-CXNet multiclass", None, "accuracy", None, "94.20", 100 * 1736 / 2028, "does not follow"),
]


@pytest.mark.parametrize(("study", "model", "fold", "metric", "cls", "printed", "value", "verdict"), BY_HAND)
def test_figures_worked_by_hand(
    study: str, model: str, fold: str | None, metric: str, cls: str | None, printed: str, value: float, verdict: str
) -> None:
    finding = the_finding(study, model, fold, metric, cls)
    assert finding.claim.printed == printed and finding.verdict == verdict
    assert finding.recomputed == pytest.approx(value, rel=1e-14)
    assert finding.tolerance == {0: 1, 1: 0.1, 2: 0.01}[len(printed.partition(".")[2])]


def test_multiclass_accuracy_of_covid_cxnet_is_in_no_table() -> None:
    text = the_finding(HAGHANIFAR, "COVID-CXNet multiclass", None, "accuracy", None).explanation
    assert text.startswith("From table 4 the accuracy of COVID-CXNet multiclass is 85.60 %, but 94.20 % is printed in")
    assert "does not give that figure either" in text and "mix-up" not in text


def test_the_preprints_99_56_is_another_column() -> None:
    key = (RAHIMZADEH, "Concatenated", MEAN, "one-vs-rest accuracy", "COVID-19")
    preprint = the_finding(*key, "the abstract of the April 2020 preprint")
    assert preprint.verdict == "does not follow" and preprint.recomputed == pytest.approx(99.5045, abs=5e-5)
    assert "equals the specificity for COVID-19 of Concatenated in the mean of its folds" in preprint.explanation
    # Table 4 prints that other column with the same digits, and the journal version corrected the abstract.
    assert the_finding(*key[:3], "specificity", "COVID-19").claim.printed == preprint.claim.printed == "99.56"
    assert the_finding(*key, "the abstract of the journal version").verdict == "agrees"


def test_averages_are_means_of_folds_and_not_pooled() -> None:
    # Precision of Xception: 26/127, 23/65, 21/49, 22/64, 21/62 have the mean 33.392; pooled 113/367 = 30.79.
    finding = the_finding(RAHIMZADEH, "Xception", MEAN, "precision", "COVID-19")
    mean = 100 * (26 / 127 + 23 / 65 + 21 / 49 + 22 / 64 + 21 / 62) / 5
    assert finding.recomputed == pytest.approx(mean, rel=1e-12) and finding.verdict == "agrees"
    assert "pooled counts 30.79 %" in finding.explanation and finding.explanation.endswith(
        "the mean of the folds fits."
    )
    # (27.65 + 46 + 41.66 + 25.24 + 35.82) / 5 = 35.274, though the exact mean is 35.278.
    finding = the_finding(RAHIMZADEH, "Concatenated", MEAN, "precision", "COVID-19")
    assert finding.verdict == "within rounding" and finding.explanation.endswith("had been shortened.")
    assert not [f for f in check_claims() if "pooled counts fit." in f.explanation]


def test_what_cannot_be_checked_says_why() -> None:
    assert "score of every case" in the_finding(HAGHANIFAR, "Base model v2", None, "roc auc", "COVID-19").explanation
    no_matrix = the_finding(HAGHANIFAR, "COVID-CXNet v2", None, "accuracy", None)
    assert no_matrix.explanation.startswith("No matrix of counts is at hand for COVID-CXNet v2")
    # 2 x 0.943 x 0.915 / (0.943 + 0.915) = 0.9288, printed 0.924; but 2 x 0.75 x 0.81 / 1.56 = 0.7788, printed 0.779.
    for model, text in (("CAAD on ieee8023", "give 0.929, so it is not"), ("COVNET on CT-COV19", "does fit")):
        assert text in the_finding("dialameh-2020", model, None, "f1", "COVID-19").explanation
    run = made_run([[5, 0], [3, 0]])  # nothing was called B
    for claim, text in (
        (made_claim("50", "precision", "B"), "0 / 0"),
        (made_claim("50", "kappa", "B"), "is defined is not known"),
        (made_claim("50", "f1", None), "over all classes"),
        (made_claim("50", "f1", "Z"), "has no class 'Z'"),
        (made_claim("50", "accuracy", None, fold="7"), "No matrix"),
    ):
        finding = check_claim(claim, [run])
        assert finding.verdict == "cannot be checked" and text in finding.explanation


def test_a_mix_up_is_named() -> None:
    run = made_run([[8, 2], [4, 16]])  # A: sensitivity 80 %, precision 66.7 %; B: precision 88.9 %
    for printed, text in (("80.0", "the sensitivity for A of net"), ("88.9", "the precision for B of net")):
        finding = check_claim(made_claim(printed, "precision", "A"), [run])
        assert finding.verdict == "does not follow" and text in finding.explanation
    swapped = check_claim(made_claim("80.0", "precision", "A"), [run]).explanation
    assert "with rows and columns exchanged" in swapped
    other = made_run([[1, 9], [9, 1]], model="other")
    text = check_claim(made_claim("10.0", "accuracy", None), [run, other]).explanation
    assert "the accuracy of other" in text


def test_pooled_counts_are_used_where_only_they_fit() -> None:
    runs = [made_run([[1, 0], [0, 1]], "1"), made_run([[10, 10], [10, 10]], "2")]  # 100 % and 50 %; pooled 22 of 42
    finding = check_claim(made_claim("52.4", "accuracy", None, fold=MEAN), runs)
    assert finding.verdict == "agrees" and finding.recomputed == pytest.approx(100 * 22 / 42)
    assert finding.explanation.endswith("the pooled counts fit.")
    assert check_claim(made_claim("75.0", "accuracy", None, fold=MEAN), runs).recomputed == 75


def test_ties_may_be_rounded_either_way() -> None:
    run = made_run([[1, 7], [0, 0]])  # 1 of 8: 12.5 %
    verdicts = [check_claim(made_claim(p, "sensitivity", "A"), [run]).verdict for p in ("11", "12", "13", "14")]
    assert verdicts == ["does not follow", "agrees", "agrees", "does not follow"]


# --- properties -----------------------------------------------------------------------------------------------------


def share(counts: np.ndarray, metric: str, index: int) -> Fraction | None:
    """A figure counted case by case, in another way than the module does."""
    truth, said = (side.ravel() for side in np.indices(counts.shape))
    weight = counts.ravel()
    if metric == "accuracy":
        hit, among = truth == said, np.ones_like(truth, bool)
    else:
        a, b = truth == index, said == index
        hit, among = {
            "one-vs-rest accuracy": (a == b, a | ~a),
            "sensitivity": (a & b, a),
            "specificity": (~a & ~b, ~a),
            "precision": (a & b, b),
            "f1": (a & b, a | b),
        }[metric]
    above, below = int(weight[hit].sum()), int(weight[among].sum())
    if metric == "f1":  # from Jaccard's index J, F1 = 2 J / (1 + J)
        return Fraction(2 * above, above + below) if below else None
    return Fraction(above, below) if below else None


def digits(units: int, decimals: int) -> str:
    """So many units of the last decimal, as a paper would print them."""
    return f"{Decimal(units).scaleb(-decimals):.{decimals}f}"


matrices = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 500), min_size=k, max_size=k), min_size=k, max_size=k)
)


@given(matrices, st.sampled_from(METRICS), st.integers(0, 1), st.integers(0, 4), st.booleans(), st.integers(-30, 30))
@example([[8, 2], [4, 16]], "precision", 0, 2, True, 1)
def test_a_true_claim_agrees_and_a_changed_one_does_not(
    rows: list[list[int]], metric: str, index: int, decimals: int, percent: bool, steps: int
) -> None:
    counts = np.array(rows)
    assume(counts.any())
    exact = share(counts, metric, index)
    assume(exact is not None and (percent or decimals > 0))
    assert exact is not None
    scaled = exact * (100 if percent else 1)
    unit, cls = "percent" if percent else "fraction", None if metric == "accuracy" else "AB"[index]
    run = made_run(rows)
    units = round(scaled * 10**decimals)
    finding = check_claim(made_claim(digits(units, decimals), metric, cls, unit), [run])
    assert finding.verdict == "agrees" and finding.recomputed == float(scaled)

    tie = (scaled * 10**decimals) % 1 == Fraction(1, 2)
    assume(steps and units + steps >= 0 and not (tie and abs(steps) == 1))
    verdict = check_claim(made_claim(digits(units + steps, decimals), metric, cls, unit), [run]).verdict
    assert verdict in (("within rounding", "does not follow") if abs(steps) == 1 else ("does not follow",))


@given(matrices, st.integers(1, 4))
def test_a_figure_cut_off_is_within_rounding(rows: list[list[int]], decimals: int) -> None:
    exact = share(np.array(rows), "sensitivity", 0)
    assume(exact is not None)
    assert exact is not None
    printed = digits(math.floor(exact * 100 * 10**decimals), decimals)
    finding = check_claim(made_claim(printed, "sensitivity", "A"), [made_run(rows)])
    rounded = abs(exact * 100 - Fraction(printed)) <= Fraction(1, 2 * 10**decimals)
    assert finding.verdict == ("agrees" if rounded else "within rounding")
    assert ("cut off instead of rounded" in finding.explanation) != rounded


@pytest.mark.parametrize("run", published_runs(), ids=lambda run: f"{run.model} {run.fold}")
def test_figures_are_those_of_scikit_learn(run: PublishedRun) -> None:
    truth, said = (side.ravel() for side in np.indices(run.counts.shape))
    weight = run.counts.ravel()
    precision, recall, f1, _ = precision_recall_fscore_support(truth, said, sample_weight=weight)
    expected = {"precision": precision, "sensitivity": recall, "f1": f1}
    for index, cls in enumerate(run.classes):
        for metric, values in expected.items():
            claim = Claim(run.study, run.model, run.fold, metric, cls, 0.5, "fraction", "here", "0.5")
            assert check_claim(claim, [run]).recomputed == pytest.approx(values[index], rel=1e-12)
    claim = Claim(run.study, run.model, run.fold, "accuracy", None, 0.5, "fraction", "here", "0.5")
    assert check_claim(claim, [run]).recomputed == pytest.approx(accuracy_score(truth, said, sample_weight=weight))


# --- the note, and bad input ----------------------------------------------------------------------------------------


def test_teaching_note_states_what_can_be_counted_by_hand() -> None:
    note = teaching_note()
    assert "11,301 to 11,302 radiographs, of which 30 or 31" in note
    # Table 3: 26 + 23 + 25 + 26 + 24 = 124 right, 68 + 27 + 35 + 77 + 43 = 250 wrong alarms of the Concatenated network.
    assert "| Concatenated | 80.52 % | 99.56 % | 99.50 % | 33.2 % (124 of 374) |" in note
    # 154 of 56509 have COVID-19, so never saying it is right in 56355 of 56509.
    assert f"{100 * 56355 / 56509:.2f}" == "99.73" and "A classifier that never says COVID-19 scores 99.73 %" in note
    # 8 + 27 errors of the best run are more than its 31 cases.
    assert "Of the 15 runs, none does better; the best, Concatenated in fold 2, scores 99.69 %" in note
    # Bayes' rule at the test sets' own prevalence must give the precision that was counted.
    assert "33.2 % where 0.27 % have it" in note and re.search(r"99\.5 % where 50 % have it", note)


@pytest.mark.parametrize("counts", [[[1, 2]], [[1, -1], [0, 1]], [[0.5, 1], [1, 1]], [[0, 0], [0, 0]], []])
def test_a_bad_matrix_is_refused(counts: Any) -> None:
    with pytest.raises(DatasetError, match="The matrix of 'net' is not usable"):
        PublishedRun("made", "net", None, "t", "c", "d", ("A", "B"), np.array(counts), "table 1")


def test_a_run_does_not_share_its_matrix() -> None:
    counts = np.array([[1, 2], [3, 4]])
    run = PublishedRun("made", "net", None, "t", "c", "d", ("A", "B"), counts, "table 1")
    counts[0, 0] = 9
    assert run.counts[0, 0] == 1


@pytest.mark.parametrize(
    ("value", "unit", "printed"), [(1.0, "points", "1"), (1.0, "percent", "2"), (1.0, "percent", "1e0")]
)
def test_a_bad_claim_is_refused(value: float, unit: str, printed: str) -> None:
    with pytest.raises(DatasetError):
        Claim("made", "net", None, "accuracy", None, value, unit, "the abstract", printed)
