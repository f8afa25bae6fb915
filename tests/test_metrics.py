"""Figures of counts and of probabilities against hand-computed, published and other libraries' values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as reference

from cxnet.statistics import (
    ConfusionMatrix,
    StatisticsError,
    auc,
    auc_intervals,
    average_precision,
    brier,
    ece,
    metrics,
    pr_curve,
    precision_at_prevalence,
    reliability,
    roc_curve,
    wilson,
)
from tests.drawn_cases import CLASSES, GOOD, PUBLISHED, by_name, draw, softmax

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
