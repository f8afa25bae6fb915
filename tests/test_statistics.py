"""Figures against hand-computed, published and other libraries' values, and what must not change them."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, rankdata, ttest_rel
from sklearn import metrics as reference

from cxnet.errors import CxnetError
from cxnet.statistics import (
    Comparison,
    ConfusionMatrix,
    Interval,
    Metric,
    StatisticsError,
    auc,
    auc_intervals,
    average_precision,
    bootstrap,
    brier,
    check_folds,
    delong,
    ece,
    holm,
    mcnemar_exact,
    metrics,
    nadeau_bengio,
    pr_curve,
    precision_at_prevalence,
    reliability,
    roc_curve,
    wilson,
)

CLASSES = ("COVID-19", "Pneumonia", "Normal")
# Rahimzadeh & Attar 2020, doi:10.1016/j.imu.2020.100360: Xception, fold 1, figures 3-4.
PUBLISHED = [[26, 3, 2], [61, 3983, 376], [40, 566, 6245]]


def by_name(found: tuple[Metric, ...]) -> dict[tuple[str, str | None], Metric]:
    return {(metric.name, metric.cls): metric for metric in found}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def draw(cases: int, seed: int = 0, skill: float = 1.0) -> tuple[list[str], np.ndarray]:
    """Labels, and the probabilities of a classifier of some skill."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(cases) % 3)
    return [CLASSES[c] for c in codes], softmax(rng.normal(size=(cases, 3)) + skill * np.eye(3)[codes])


# --- proportions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, table I, method 3 (doi in cxnet.statistics.proportions).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson(n - successes, n) == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_equals_scipy_and_holds_the_share(n: int, share: float, level: float) -> None:
    successes = round(share * n)
    low, high = wilson(successes, n, level)
    interval = binomtest(successes, n).proportion_ci(level, "wilson")
    assert (low, high) == (pytest.approx(interval.low, abs=1e-9), pytest.approx(interval.high, abs=1e-9))
    assert 0 <= low <= successes / n <= high <= 1


def test_precision_falls_with_prevalence() -> None:
    assert precision_at_prevalence(0.9, 0.9, 0.5) == pytest.approx(0.9)
    assert precision_at_prevalence(0.9, 0.9, 0.01) == pytest.approx(0.009 / 0.108)  # Bayes by hand: 1 in 12
    assert precision_at_prevalence(0.9, 0.9, 0.0) == 0
    assert precision_at_prevalence(0.0, 1.0, 0.3) is None


# --- counts ----------------------------------------------------------------------------------------------------------


def test_published_counts_give_the_published_figures() -> None:
    """Table 4 of the paper, in percent."""
    found = by_name(metrics(ConfusionMatrix.from_counts(PUBLISHED, CLASSES)))
    for key, percent in {
        ("accuracy", None): 90.72,
        ("sensitivity", "COVID-19"): 83.87,
        ("sensitivity", "Pneumonia"): 90.11,
        ("sensitivity", "Normal"): 91.15,
        ("specificity", "COVID-19"): 99.1,
        ("one-vs-rest accuracy", "COVID-19"): 99.06,
        ("precision", "COVID-19"): 20.47,
        ("precision", "Normal"): 94.29,
    }.items():
        assert 100 * found[key].value == pytest.approx(percent, abs=0.011), key
    sensitivity = found["sensitivity", "COVID-19"]
    assert (sensitivity.numerator, sensitivity.denominator, sensitivity.interval) == (26, 31, "Wilson 95 %")
    assert (sensitivity.low, sensitivity.high) == wilson(26, 31)
    assert sensitivity.high - sensitivity.low > 0.25  # 31 cases say little


def test_most_published_claims_follow_from_their_counts(data_folder: Path) -> None:
    counts = pd.read_csv(data_folder / "published" / "confusion_counts.csv", dtype={"fold": str})
    claims = pd.read_csv(data_folder / "published" / "claims.csv", dtype={"fold": str})
    claims = claims[(claims["unit"] == "percent") & (claims["study"] == "rahimzadeh-attar-2020")]
    errors = []
    for (model, fold), rows in counts[counts["study"] == "rahimzadeh-attar-2020"].groupby(["model", "fold"]):
        table = rows.pivot(index="true_class", columns="predicted_class", values="count").loc[[*CLASSES], [*CLASSES]]
        found = by_name(metrics(ConfusionMatrix.from_counts(table.to_numpy(), CLASSES)))
        for claim in claims[(claims["model"] == model) & (claims["fold"] == fold)].itertuples():
            metric = found[claim.metric, claim[5] if isinstance(claim[5], str) else None]
            errors.append(abs(100 * metric.value - claim.value))
    assert len(errors) >= 150 and np.median(errors) < 0.006 and np.mean(np.array(errors) < 0.011) > 0.8


labels = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=60)


@settings(max_examples=50)
@given(labels)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_figures_equal_sklearn(pairs: list[tuple[str, str]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    matrix = ConfusionMatrix.from_cases(true, predicted, CLASSES)
    np.testing.assert_array_equal(matrix.counts, reference.confusion_matrix(true, predicted, labels=CLASSES))
    found = by_name(metrics(matrix))
    assert found["accuracy", None].value == pytest.approx(reference.accuracy_score(true, predicted))
    oracle = {
        name: function(true, predicted, labels=CLASSES, average=None, zero_division=np.nan)
        for name, function in {
            "sensitivity": reference.recall_score,
            "precision": reference.precision_score,
            "F1": reference.f1_score,
        }.items()
    }
    for name, values in oracle.items():
        for cls, value in zip(CLASSES, values, strict=True):
            ours = found[name, cls]
            assert (ours.value is None) == bool(np.isnan(value)) == bool(ours.reason)
            assert ours.value is None or ours.value == pytest.approx(value)
    if len(set(true)) == 3:
        ours = found["balanced accuracy", None].value
        assert ours == pytest.approx(reference.balanced_accuracy_score(true, predicted))
    else:
        assert found["balanced accuracy", None].value is None
    coefficient = found["MCC", None]
    if len(set(true)) > 1 and len(set(predicted)) > 1:
        assert coefficient.value == pytest.approx(reference.matthews_corrcoef(true, predicted), abs=1e-12)
    else:
        assert coefficient.value is None and coefficient.reason
    for number, cls in enumerate(CLASSES):
        tn, fp, fn, tp = reference.multilabel_confusion_matrix(true, predicted, labels=CLASSES)[number].ravel()
        for name, top, bottom in (
            ("specificity", tn, tn + fp),
            ("negative predictive value", tn, tn + fn),
            ("one-vs-rest accuracy", tp + tn, len(true)),
        ):
            assert (found[name, cls].numerator, found[name, cls].denominator) == (top, bottom)


@given(labels, st.permutations(range(3)))
def test_order_of_classes_and_cases_changes_no_figure(pairs: list[tuple[str, str]], order: list[int]) -> None:
    true, predicted = zip(*pairs, strict=True)
    ids = [f"case {n}" for n in range(len(pairs))]
    first = ConfusionMatrix.from_cases(true, predicted, CLASSES, ids)
    classes = tuple(CLASSES[n] for n in order)
    second = ConfusionMatrix.from_cases(true[::-1], predicted[::-1], classes, ids[::-1])
    assert first.total == second.total == len(pairs)
    one, other = by_name(metrics(first)), by_name(metrics(second))
    assert one.keys() == other.keys()
    for key, metric in one.items():
        assert other[key].value == (None if metric.value is None else pytest.approx(metric.value))
        assert other[key].low == metric.low and other[key].numerator == metric.numerator
    for row in CLASSES:
        for column in CLASSES:
            assert set(first.cell(row, column)) == set(second.cell(row, column))


@given(labels, st.integers(0, 60))
def test_folds_merge_to_the_whole(pairs: list[tuple[str, str]], cut: int) -> None:
    true, predicted = zip(*pairs, strict=True)
    ids = [str(n) for n in range(len(pairs))]
    whole = ConfusionMatrix.from_cases(true, predicted, CLASSES, ids)
    parts = [
        ConfusionMatrix.from_cases(true[part], predicted[part], CLASSES, ids[part])
        for part in (slice(0, cut), slice(cut, None))
    ]
    assert parts[0] + parts[1] == whole == ConfusionMatrix.collapse(parts)


def test_cells_name_their_cases() -> None:
    matrix = ConfusionMatrix.from_cases(["a", "a", "b"], ["a", "b", "b"], ("a", "b"), ["x", "y", "z"])
    assert matrix.cell("a", "b") == ("y",) and matrix.cell("b", "a") == ()
    assert matrix.row_percent() == ((50.0, 50.0), (0.0, 100.0))
    with pytest.raises(ValueError, match="read-only"):
        matrix.counts[0, 0] = 5
    counts_only = matrix + ConfusionMatrix.from_counts([[1, 0], [0, 1]], ("a", "b"))
    assert counts_only.total == 5
    for run in (counts_only, ConfusionMatrix.from_cases(["a"], ["a"], ("a", "b"))):
        with pytest.raises(StatisticsError, match="counts only"):
            run.cell("a", "a")


def test_overlapping_folds_are_not_pooled() -> None:
    first = ConfusionMatrix.from_cases(["a"], ["a"], ("a", "b"), ["x"])
    second = ConfusionMatrix.from_cases(["a", "b"], ["b", "b"], ("a", "b"), ["x", "y"])
    with pytest.raises(StatisticsError, match="'x' would be counted twice"):
        first + second


def test_an_empty_matrix_has_reasons_and_no_figures() -> None:
    matrix = ConfusionMatrix.from_cases([], [], CLASSES, [])
    assert matrix.total == 0 and matrix.row_percent()[0] == (None, None, None)
    found = metrics(matrix)
    assert len(found) == 4 + 3 * 6 and all(m.value is None and m.reason and m.low is None for m in found)


def test_a_class_without_cases_says_so() -> None:
    found = by_name(metrics(ConfusionMatrix.from_counts([[5, 1, 0], [0, 0, 0], [0, 2, 7]], CLASSES)))
    assert found["sensitivity", "Pneumonia"].reason == "no case is truly Pneumonia"
    assert found["balanced accuracy", None].reason == "no case is truly Pneumonia"
    assert found["F1", "Pneumonia"].value == 0 and found["precision", "Pneumonia"].value == 0
    assert found["sensitivity", "Normal"].value == pytest.approx(7 / 9)


def test_withheld_intervals_keep_the_values() -> None:
    matrix = ConfusionMatrix.from_counts(PUBLISHED, CLASSES)
    for plain, withheld in zip(metrics(matrix), metrics(matrix, withhold="test sets overlap"), strict=True):
        assert withheld.value == plain.value and withheld.low is withheld.high is withheld.interval is None
        assert withheld.reason == "test sets overlap"


# --- probabilities ---------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(6, 80), st.sampled_from([1, 10, 10**6]))
def test_areas_and_brier_equal_sklearn(seed: int, cases: int, grid: int) -> None:
    """A coarse grid of probabilities gives many ties."""
    true, fine = draw(cases, seed)
    probabilities = np.floor(fine * grid) / grid
    probabilities[:, 2] = 1 - probabilities[:, :2].sum(axis=1)
    onehot = np.array([[label == cls for cls in CLASSES] for label in true])
    for found, function in (
        (auc(true, probabilities, CLASSES), reference.roc_auc_score),
        (average_precision(true, probabilities, CLASSES), reference.average_precision_score),
    ):
        oracle = [function(onehot[:, k], probabilities[:, k]) for k in range(3)]
        assert [m.value for m in found] == pytest.approx([*oracle, np.mean(oracle)])
    oracle = ((probabilities - onehot) ** 2).sum(axis=1).mean()
    assert brier(true, probabilities, CLASSES).value == pytest.approx(oracle)
    assert oracle == pytest.approx(
        reference.brier_score_loss(
            np.array(true), probabilities[:, np.argsort(CLASSES)], labels=sorted(CLASSES), scale_by_half=False
        )
    )


@given(st.integers(0, 2**32 - 1))
def test_area_depends_on_ranks_only(seed: int) -> None:
    true, probabilities = draw(40, seed)
    warped = probabilities**3 / 2
    two = ("COVID-19", "rest")
    renamed = [label if label == two[0] else "rest" for label in true]
    plain, changed = (auc(renamed, np.stack([p, 1 - p], axis=1), two) for p in (probabilities[:, 0], warped[:, 0]))
    assert plain[0].value == pytest.approx(changed[0].value) == pytest.approx(plain[1].value)


def test_curves_by_hand() -> None:
    """Scores 4 > 3 > 2 > 1 of a positive, a negative, a positive and a negative."""
    true, scores = ["p", "n", "p", "n"], [4.0, 3.0, 2.0, 1.0]
    roc = roc_curve(true, scores, "p")
    assert roc.false_positive_rate.tolist() == [0, 0, 0.5, 0.5, 1] and roc.sensitivity.tolist() == [0, 0.5, 0.5, 1, 1]
    assert roc.thresholds.tolist() == [math.inf, 4, 3, 2, 1]
    curve = pr_curve(true, scores, "p")
    assert curve.recall.tolist() == [0, 0.5, 0.5, 1, 1]
    assert curve.precision.tolist() == pytest.approx([1, 1, 0.5, 2 / 3, 0.5])
    assert curve.thresholds.tolist() == [math.inf, 4, 3, 2, 1] and curve.prevalence == 0.5
    with pytest.raises(ValueError, match="read-only"):
        roc.sensitivity[0] = 1


def test_constant_scores_have_no_skill() -> None:
    true = ["COVID-19"] * 5 + ["Normal"] * 10 + ["Pneumonia"] * 5
    same = np.full((20, 3), 1 / 3)
    assert [m.value for m in auc(true, same, CLASSES)] == [0.5] * 4
    assert average_precision(true, same, CLASSES)[0].value == pytest.approx(0.25)  # the prevalence
    assert brier(true, same, CLASSES).value == pytest.approx(4 / 9 + 2 / 9)
    assert roc_curve(true, same[:, 0], "Normal").sensitivity.tolist() == [0, 1]
    found = reliability(true, same, CLASSES)
    assert found.count.tolist() == [20]  # ties are never split


def test_one_class_only_has_reasons() -> None:
    true, probabilities = ["Normal"] * 6, np.tile([0.2, 0.3, 0.5], (6, 1))
    for metric in (*auc(true, probabilities, CLASSES), average_precision(true, probabilities, CLASSES)[0]):
        assert metric.value is None and metric.reason
    assert auc(true, probabilities, CLASSES)[2].reason == "every case is truly Normal"
    assert average_precision(true, probabilities, CLASSES)[2].value == 1
    for call in (
        lambda: roc_curve(true, probabilities[:, 2], "Normal"),
        lambda: pr_curve(true, probabilities[:, 0], "x"),
    ):
        with pytest.raises(StatisticsError, match="choose a fold or class"):
            call()


def test_no_cases_have_reasons() -> None:
    nothing = np.empty((0, 3))
    assert all(m.reason for m in auc([], nothing, CLASSES)) and brier([], nothing, CLASSES).reason
    assert ece([], nothing, CLASSES).reason == "there are no cases"
    assert all(m.value is None and m.reason for m in auc_intervals([], nothing, [], CLASSES))
    with pytest.raises(StatisticsError, match="needs cases"):
        reliability([], nothing, CLASSES)


def test_ece_by_hand() -> None:
    """20 cases at 0.9 of which 10 are right, 20 at 0.6 of which 15 are: (0.4 + 0.15) / 2."""
    probabilities = np.array([[0.9, 0.1]] * 20 + [[0.6, 0.4]] * 20)
    true = ["a"] * 10 + ["b"] * 10 + ["a"] * 15 + ["b"] * 5
    found = ece(true, probabilities, ("a", "b"))
    assert found.value == pytest.approx(0.275) and found.bins == 2
    bins = reliability(true, probabilities, ("a", "b"))
    assert bins.confidence.tolist() == pytest.approx([0.6, 0.9]) and bins.frequency.tolist() == [0.75, 0.5]
    assert (bins.low[0], bins.high[0]) == wilson(15, 20) and bins.count.tolist() == [20, 20]
    other = reliability(true, probabilities, ("a", "b"), positive="b")
    assert other.confidence.tolist() == pytest.approx([0.1, 0.4]) and other.frequency.tolist() == [0.5, 0.25]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 20))
def test_bins_cover_the_cases_and_ignore_their_order(seed: int, cases: int, bins: int) -> None:
    true, probabilities = draw(cases, seed)
    probabilities = np.round(probabilities, 2)
    found = reliability(true, probabilities, CLASSES, bins=bins)
    assert found.count.sum() == cases and len(found.count) <= max(1, min(bins, cases // 10))
    assert (np.diff(found.confidence) > 0).all() and (
        (found.low <= found.frequency) & (found.frequency <= found.high)
    ).all()
    gap = float(found.count @ np.abs(found.frequency - found.confidence)) / cases
    order = np.random.default_rng(seed).permutation(cases)
    shuffled = ece([true[i] for i in order], probabilities[order], CLASSES, bins=bins, draws=1)
    assert (
        shuffled.value
        == pytest.approx(gap)
        == pytest.approx(ece(true, probabilities, CLASSES, bins=bins, draws=1).value)
    )


def test_distinct_confidences_make_equal_bins() -> None:
    true, probabilities = draw(1500)
    assert reliability(true, probabilities, CLASSES).count.tolist() == [100] * 15
    few = reliability(true[:31], probabilities[:31], CLASSES)
    assert few.count.tolist() == [11, 10, 10]  # fewer bins rather than bins of fewer than 10


def test_rounded_probabilities_pass() -> None:
    assert brier(GOOD, [[0.33, 0.33, 0.33], [0.0, 0.0, 1.0]], CLASSES).value == pytest.approx(
        (0.67**2 + 2 * 0.33**2) / 2
    )


def test_a_calibrated_classifier_lies_in_its_null_band() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(40):
        probabilities = softmax(2 * rng.normal(size=(200, 3)))
        true = [CLASSES[rng.choice(3, p=p)] for p in probabilities]
        found = ece(true, probabilities, CLASSES, draws=200, seed=seed)
        inside += found.null_low <= found.value <= found.null_high
        # Known bias: some 0.07 at 200 cases although nothing is wrong.
        assert 0.04 < found.null_mean < 0.1
    assert inside >= 34  # 38 expected; fewer than 34 has a chance of 1 %
    sure = softmax(20 * rng.normal(size=(200, 3)))
    bad = ece([CLASSES[rng.integers(3)] for _ in sure], sure, CLASSES)
    assert bad.value > bad.null_high
    again = ece([CLASSES[0]] * len(sure), sure, CLASSES)  # the same seed gives the same band, whatever the labels
    assert (again.null_mean, again.null_low, again.null_high) == (bad.null_mean, bad.null_low, bad.null_high)


# --- bootstrap -------------------------------------------------------------------------------------------------------


def test_the_bootstrap_of_a_mean_is_its_textbook_interval() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(lambda index: values[index].mean(), [str(n) for n in range(400)], resamples=4000)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == (
        pytest.approx(values.mean() - half, abs=0.1 * half),
        pytest.approx(values.mean() + half, abs=0.1 * half),
    )


def test_copies_of_a_patients_image_add_no_certainty() -> None:
    values = np.random.default_rng(0).normal(size=60)
    ids = [f"{n:03}" for n in range(60)]
    once = bootstrap(lambda index: values[index].mean(), ids)
    many = np.repeat(values, 5)
    repeated = bootstrap(lambda index: many[index].mean(), np.repeat(ids, 5).tolist())
    assert (repeated.low, repeated.high) == (pytest.approx(once.low), pytest.approx(once.high))
    naive = bootstrap(lambda index: many[index].mean(), [str(n) for n in range(300)])
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_strata_keep_their_number_of_patients() -> None:
    strata = ["rare"] * 3 + ["common"] * 97
    seen: set[int] = set()
    bootstrap(lambda index: seen.add(int((index < 3).sum())), [str(n) for n in range(100)], strata=strata)
    assert seen == {3}


def test_a_patient_belongs_to_the_stratum_of_most_images() -> None:
    """Patients x and y are mostly "p", z and w "n", u and v "q": each resample holds two of each."""
    groups, strata = list("xxxyyyzzzwwwuuuvvv"), list("ppnpppnnpnnnqqqqqp")
    kinds: set[tuple[int, ...]] = set()
    bootstrap(lambda index: kinds.add(tuple(np.bincount(index // 6, minlength=3).tolist())), groups, strata=strata)
    assert kinds == {(6, 6, 6)}


@pytest.mark.parametrize(
    ("groups", "words"),
    [([], "no cases"), (["a", None], "not known"), (["a", " "], "not known"), (["a", "a"], "fewer than two patients")],
)
def test_the_bootstrap_says_why_it_has_no_interval(groups: list[str | None], words: str) -> None:
    found = bootstrap(lambda index: float(len(index)), groups)
    assert found.low is None and words in found.reason


def test_a_figure_that_is_often_undefined_has_no_interval() -> None:
    often = bootstrap(lambda index: None if 0 in index else 1.0, ["a", "b", "c"])
    assert often.low is None and "undefined in" in often.reason


def test_auc_intervals_agree_with_single_figures_and_delong() -> None:
    true, probabilities = draw(600)
    ids = [str(n) for n in range(600)]
    found = by_name(auc_intervals(true, probabilities, ids, CLASSES, resamples=2000))
    for metric in (
        *auc(true, probabilities, CLASSES),
        *average_precision(true, probabilities, CLASSES),
        brier(true, probabilities, CLASSES),
    ):
        interval = found[metric.name, metric.cls]
        assert interval.value == metric.value and interval.interval == "patient bootstrap 95 %"
        assert interval.low < interval.value < interval.high
    predicted = [CLASSES[k] for k in probabilities.argmax(axis=1)]
    counted = by_name(metrics(ConfusionMatrix.from_cases(true, predicted, CLASSES)))
    for key in [("balanced accuracy", None), ("MCC", None), ("macro F1", None), *(("F1", cls) for cls in CLASSES)]:
        assert found[key].value == pytest.approx(counted[key].value) and found[key].low < found[key].high
    assert found["expected calibration error", None].value == ece(true, probabilities, CLASSES, draws=1).value
    # Against constant scores DeLong's variance is that of the one area.
    mask = np.array(true) == "COVID-19"
    single = delong(mask, probabilities[:, 0], np.zeros(600))
    area = found["ROC AUC", "COVID-19"]
    assert area.high - area.low == pytest.approx(single.high - single.low, rel=0.1)
    assert area.value == pytest.approx(single.difference + 0.5)


def test_auc_intervals_can_be_withheld_and_explain_themselves() -> None:
    true, probabilities = draw(60)
    for found in (
        auc_intervals(true, probabilities, ["p"] * 60, CLASSES),
        auc_intervals(true, probabilities, [None] * 60, CLASSES),
        auc_intervals(true, probabilities, ["p"] * 60, CLASSES, withhold="test sets of folds overlap"),
    ):
        assert all(m.value is not None and m.low is None and m.reason for m in found)
    assert found[0].reason == "test sets of folds overlap"
    two = [label for label in true if label != "Normal"]
    rows = probabilities[[label != "Normal" for label in true]]
    lacking = by_name(auc_intervals(two, rows, [str(n) for n in range(len(two))], CLASSES, resamples=100))
    assert lacking["ROC AUC", "Normal"].reason == "no case is truly Normal"
    assert lacking["macro ROC AUC", None].value is None and lacking["ROC AUC", "COVID-19"].low is not None


def test_areas_are_averaged_over_folds_not_pooled() -> None:
    """Two perfect folds whose scores do not share a scale: pooled they look worse than they are."""
    true = ["COVID-19", "COVID-19", "Normal", "Normal"] * 2
    first = np.array([0.9, 0.8, 0.7, 0.7, 0.3, 0.3, 0.1, 0.2])
    probabilities = np.stack([first, 1 - first], axis=1)
    two = ("COVID-19", "Normal")
    ids = [str(n) for n in range(8)]
    pooled = by_name(auc_intervals(true, probabilities, ids, two, resamples=100))
    folded = by_name(auc_intervals(true, probabilities, ids, two, folds=[1] * 4 + [2] * 4, resamples=100))
    assert pooled["ROC AUC", "COVID-19"].value == 0.75  # 12 of 16 pairs
    assert folded["ROC AUC", "COVID-19"].value == folded["average precision", "Normal"].value == 1
    assert folded["Brier score", None].value == pooled["Brier score", None].value
    lacking = by_name(auc_intervals(true, probabilities, ids, two, folds=[1] * 6 + [2] * 2, resamples=100))
    assert lacking["ROC AUC", "Normal"].reason == "every case is truly Normal in fold 2"


def test_two_thousand_cases_are_quick() -> None:
    true, probabilities = draw(2000)
    groups = [str(n // 2) for n in range(2000)]
    started = time.process_time()
    auc_intervals(true, probabilities, groups, CLASSES, resamples=1000)
    assert time.process_time() - started < 6  # takes about 1 s; the room is for slow machines


def test_the_seed_decides() -> None:
    true, probabilities = draw(90)
    first, again, other = (
        auc_intervals(true, probabilities, [str(n // 2) for n in range(90)], CLASSES, resamples=100, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again != other


# --- comparisons -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_mcnemar_equals_the_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.array(pairs).T
    found, swapped = mcnemar_exact(first, second), mcnemar_exact(second, first)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    assert found.p_value == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1)
    assert found.difference == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    assert found.low <= found.difference <= found.high or abs(found.difference) == 1
    assert (swapped.difference, swapped.low, swapped.high) == (
        pytest.approx(-found.difference),
        pytest.approx(-found.high),
        pytest.approx(-found.low),
    )


def test_mcnemar_by_hand() -> None:
    """9 cases only A gets right, 1 only B: p = 2 (1 + 10) / 2^10."""
    found = mcnemar_exact([True] * 9 + [False] + [True] * 10, [False] * 9 + [True] + [True] * 10)
    assert found.p_value == pytest.approx(0.021484375) and found.difference == 0.4 and found.statistic == 1
    # Wald interval of the counts 9.5, 1.5 of 22
    half = 1.959964 * math.sqrt(((9.5 + 1.5) / 22 - (8 / 22) ** 2) / 22)
    assert (found.low, found.high) == (pytest.approx(8 / 22 - half), pytest.approx(8 / 22 + half))


def test_delong_by_hand() -> None:
    """A: positives 3, 1, negatives 2, 0: components (1, 1/2) and (1/2, 1). B: 2, 3 and 1, 2: (3/4, 1) and (1, 3/4).

    The differences (1/4, -1/2) and (-1/2, 1/4) have the variance 9/32 each, so var = 9/64 + 9/64 = 9/32.
    """
    found = delong(np.array([True, True, False, False]), [3, 1, 2, 0], [2, 3, 1, 2])
    assert found.difference == pytest.approx(0.75 - 0.875)
    assert found.statistic == pytest.approx(-0.125 / math.sqrt(9 / 32))
    assert found.p_value == pytest.approx(0.813664, abs=1e-5)  # 2 (1 - Phi(0.235702))
    assert found.high == pytest.approx(-0.125 + 1.959964 * math.sqrt(9 / 32))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 15), st.integers(2, 15))
def test_delong_equals_its_definition(seed: int, positives: int, negatives: int) -> None:
    """Structural components by comparing every pair, with ties."""
    rng = np.random.default_rng(seed)
    mask = rng.permutation(np.arange(positives + negatives) < positives)
    scores = rng.integers(0, 6, (2, positives + negatives)) + mask
    kernels = [(s[mask][:, None] > s[~mask]) + 0.5 * (s[mask][:, None] == s[~mask]) for s in scores]
    areas = [kernel.mean() for kernel in kernels]
    assert areas == pytest.approx([reference.roc_auc_score(mask, s) for s in scores])
    covariance = np.cov([k.mean(axis=1) for k in kernels]) / positives
    covariance += np.cov([k.mean(axis=0) for k in kernels]) / negatives
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    found = delong(mask, *scores)
    assert found.difference == pytest.approx(areas[0] - areas[1], abs=1e-12)
    if variance < 1e-12:
        assert found.p_value is None and found.reason
    else:
        assert found.statistic == pytest.approx((areas[0] - areas[1]) / math.sqrt(variance), abs=1e-9)


def test_delong_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(5)
    mask = np.arange(300) < 100
    shared = rng.normal(size=300)
    a, b = (shared + rng.normal(size=300) + skill * mask for skill in (1.5, 1.0))
    found = delong(mask, a, b)

    def difference(index: np.ndarray) -> float:
        ranks = rankdata([a[index], b[index]], axis=1)[:, mask[index]].sum(axis=1)
        return float(ranks[0] - ranks[1]) / (100 * 200)  # Mann and Whitney; the strata keep 100 and 200 cases

    strata = ["p" if positive else "n" for positive in mask]
    drawn = bootstrap(difference, [str(n) for n in range(300)], strata=strata, resamples=800)
    width = found.high - found.low
    assert drawn.low == pytest.approx(found.low, abs=0.12 * width)
    assert drawn.high == pytest.approx(found.high, abs=0.12 * width)


def test_delong_without_variance_says_so() -> None:
    mask = np.array([True, True, False, False])
    same = delong(mask, [4, 2, 3, 1], [4, 2, 3, 1])
    assert same.difference == 0 and same.p_value is None and "nothing varies" in same.reason
    assert delong(np.ones(3, bool), [1, 2, 3], [3, 2, 1]).difference is None
    one = delong(np.array([True, False, False]), [3, 1, 2], [1, 2, 3])
    assert one.difference == 1 and "at least two" in one.reason


def test_nadeau_bengio_widens_the_paired_t_test_by_half() -> None:
    a, b = [0.91, 0.93, 0.90, 0.95, 0.92], [0.89, 0.92, 0.91, 0.91, 0.90]
    found, naive = nadeau_bengio(a, b, 0.2), ttest_rel(a, b)
    assert found.statistic == pytest.approx(naive.statistic / 1.5)  # sqrt((1/5 + 1/4) / (1/5))
    interval = naive.confidence_interval(0.95)
    assert found.high - found.low == pytest.approx(1.5 * (interval.high - interval.low))
    assert found.difference == pytest.approx(0.016) and found.p_value > naive.pvalue
    assert nadeau_bengio([0.9] * 5, [0.8] * 5, 0.2).p_value is None
    assert nadeau_bengio([0.9], [0.8], 0.2).reason and nadeau_bengio([], [], 0.2).difference is None


def test_holm_equals_r() -> None:
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") in R gives 0.03 0.06 0.06 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.01, None, 0.9, 0.6]) == (pytest.approx(0.03), None, 1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_lies_between_raw_and_bonferroni(p_values: list[float], random: object) -> None:
    adjusted = holm(p_values)
    for raw, value in zip(p_values, adjusted, strict=True):
        assert raw <= value <= 1
    assert min(adjusted) == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    order = list(range(len(p_values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert holm([p_values[n] for n in order]) == tuple(adjusted[n] for n in order)


# --- folds -----------------------------------------------------------------------------------------------------------


def folds() -> pd.DataFrame:
    rows = [(f"case {n}", n % 2 + 1, f"patient {n}", CLASSES[n // 2 % 3]) for n in range(12)]
    return pd.DataFrame(rows, columns=["case", "fold", "group", "true"])


def test_sound_folds_have_no_problems() -> None:
    found = check_folds(folds())
    assert found.problems == () and found.intervals_valid and found.intervals_reason is None


@pytest.mark.parametrize(
    ("row", "column", "value", "words", "reason"),
    [
        (
            0,
            "case",
            "case 1",
            "1 case(s) stand in the test sets of several folds, as case 1:",
            "test sets of folds overlap",
        ),
        (0, "case", "case 2", "more than once, as case 2", "some cases are counted more than once"),
        (0, "case", None, "1 row(s) have no case id", "some cases have no id"),
        (0, "group", "patient 1", "1 patient(s) stand in the test sets", "patients stand in several folds"),
        (0, "group", float("nan"), "1 row(s) have no patient", "some patients are not known"),
        (0, "group", "patient 2", None, None),  # two images of a patient in one fold are fine
        (0, "true", "", "1 row(s) have no true label", None),
    ],
)
def test_each_problem_is_told(row: int, column: str, value: object, words: str | None, reason: str | None) -> None:
    table = folds()
    table.loc[row, column] = value
    found = check_folds(table)
    assert len(found.problems) == (words is not None) and (words is None or words in found.problems[0])
    assert found.intervals_reason == reason


def test_a_class_missing_from_a_fold_is_told_and_withholds_nothing() -> None:
    table = folds()
    table.loc[(table["fold"] == 2) & (table["true"] == "Normal"), "true"] = "Pneumonia"
    found = check_folds(table)
    assert found.problems == ("Fold 2 has no case of Normal, so its figures for that are undefined.",)
    assert found.intervals_valid


def test_several_problems_are_all_told() -> None:
    table = pd.concat([folds(), folds().assign(fold=3)])
    found = check_folds(table)
    assert (
        len(found.problems) == 2
        and found.intervals_reason == "test sets of folds overlap; patients stand in several folds"
    )
    assert check_folds(table[table["fold"] == 3]).intervals_valid


# --- refusals --------------------------------------------------------------------------------------------------------

GOOD = ["COVID-19", "Normal"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 0),
        lambda: wilson(4, 3),
        lambda: wilson(1, 3, 95),
        lambda: precision_at_prevalence(90, 0.9, 0.1),
        lambda: ConfusionMatrix.from_cases(["a"], ["c"], ("a", "b")),
        lambda: ConfusionMatrix.from_cases(["a"], [], ("a", "b")),
        lambda: ConfusionMatrix.from_cases(["a", "b"], ["a", "b"], ("a", "b"), ["same", "same"]),
        lambda: ConfusionMatrix.from_counts([[83.87, 16.13], [0, 100]], ("a", "b")),
        lambda: ConfusionMatrix.from_counts([[1, 2]], ("a", "b")),
        lambda: ConfusionMatrix.from_counts([[1, -2], [0, 0]], ("a", "b")),
        lambda: ConfusionMatrix.from_counts([[1]], ("a",)),
        lambda: ConfusionMatrix(("a", "b"), ((1, 0), (0, 0)), ((("x", "y"), ()), ((), ()))),
        lambda: (
            ConfusionMatrix.from_counts([[1, 0], [0, 1]], ("a", "b"))
            + ConfusionMatrix.from_counts([[1, 0], [0, 1]], ("b", "a"))
        ),
        lambda: ConfusionMatrix.collapse([]),
        lambda: ConfusionMatrix.from_cases(["a"], ["a"], ("a", "b"), ["x"]).cell("a", "c"),
        lambda: auc(GOOD, [[0.5, 0.5, 0], [np.nan, 0.5, 0.5]], CLASSES),
        lambda: auc(GOOD, [[0.5, 0.5], [0.5, 0.5]], CLASSES),
        lambda: brier(GOOD, [[3.0, -1, 0], [0.1, 0.2, 0.7]], CLASSES),
        lambda: brier(GOOD, [[0.9, 0.8, 0.7], [0.1, 0.2, 0.7]], CLASSES),  # three sigmoids
        lambda: brier(["Other", "Normal"], [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], CLASSES),
        lambda: ece(GOOD, [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], CLASSES, positive="Other"),
        lambda: ece(GOOD, [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], CLASSES, bins=0),
        lambda: roc_curve(GOOD, [0.5, np.inf], "Normal"),
        lambda: pr_curve(GOOD, [0.5], "Normal"),
        lambda: bootstrap(len, ["a", "b"], resamples=5),
        lambda: bootstrap(len, ["a", "b"], strata=["x"]),
        lambda: auc_intervals(GOOD, [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], ["a"], CLASSES),
        lambda: auc_intervals(GOOD, [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], ["a", "b"], CLASSES, folds=[1]),
        lambda: mcnemar_exact([True], [True, False]),
        lambda: mcnemar_exact([0.5], [1.0]),
        lambda: delong(np.array([1, 0]), [0.5, 0.2], [0.5, 0.2]),
        lambda: delong(np.array([True, False]), [0.5, np.nan], [0.5, 0.2]),
        lambda: nadeau_bengio([1.0], [1.0], 20),
        lambda: holm([1.2]),
        lambda: holm([float("nan")]),
        lambda: check_folds(pd.DataFrame({"case": ["a"]})),
        lambda: check_folds(folds().iloc[:0]),
        lambda: check_folds(folds().assign(fold=None)),
        lambda: Metric("x", None, None),
        lambda: Metric("x", None, float("nan")),
        lambda: Metric("x", None, 0.5, 0.4),
        lambda: Metric("x", None, 0.5, 0.4, 0.6, "Wilson 95 %", "but withheld"),
        lambda: Comparison("x", 0.5),
        lambda: Comparison("x", 0.5, 0.4, 0.6, float("nan"), 1.0),
        lambda: Interval(None, None),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: object) -> None:
    with pytest.raises(StatisticsError) as caught:
        call()  # type: ignore[operator]
    assert isinstance(caught.value, CxnetError) and str(caught.value).endswith(".")
