"""Bootstrap intervals, comparisons of networks, checks of folds, and what statistics refuse, against known values."""

from __future__ import annotations

import math
import time

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
    roc_curve,
    wilson,
)
from tests.drawn_cases import CLASSES, GOOD, by_name, draw

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


def test_progress_is_told_and_may_stop_the_work() -> None:
    true, probabilities = draw(60)
    ids = [str(n) for n in range(60)]
    told: list[float] = []
    found = auc_intervals(true, probabilities, ids, CLASSES, resamples=100, progress=told.append)
    assert told == [done / 100 for done in range(100)]
    assert found == auc_intervals(true, probabilities, ids, CLASSES, resamples=100)

    def stop(share: float) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        auc_intervals(true, probabilities, ids, CLASSES, resamples=100, progress=stop)


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


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 0),
        lambda: wilson(4, 3),
        lambda: wilson(1, 3, 95),
        lambda: wilson(5.5, 10),
        lambda: wilson(5, 10.5),
        lambda: ConfusionMatrix.from_counts([["one", 2], [3, 4]], ("a", "b")),
        lambda: ConfusionMatrix.from_counts([[1, 2], [3]], ("a", "b")),
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
        lambda: ece(GOOD, [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], CLASSES, draws=0),
        lambda: auc(GOOD, [["x", 0.5, 0], [0.1, 0.2, 0.7]], CLASSES),
        lambda: roc_curve(GOOD, [0.5, "x"], "Normal"),
        lambda: roc_curve(GOOD, [0.5, np.inf], "Normal"),
        lambda: pr_curve(GOOD, [0.5], "Normal"),
        lambda: bootstrap(len, ["a", "b"], resamples=5),
        lambda: bootstrap(len, ["a", "b"], strata=["x"]),
        lambda: auc_intervals(GOOD, [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], ["a"], CLASSES),
        lambda: auc_intervals(GOOD, [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], ["a", "b"], CLASSES, folds=[1]),
        lambda: mcnemar_exact([True], [True, False]),
        lambda: mcnemar_exact([0.5], [1.0]),
        lambda: mcnemar_exact(GOOD, GOOD),  # labels
        lambda: mcnemar_exact(["1", "0"], ["0", "0"]),  # these too
        lambda: delong(np.array([2, 0]), [0.5, 0.2], [0.5, 0.2]),
        lambda: delong(["Normal", "COVID-19"], [0.5, 0.2], [0.5, 0.2]),
        lambda: delong([True], [0.5, 0.2], [0.5, 0.2]),
        lambda: delong([True, False], [0.5, "x"], [0.5, 0.2]),
        lambda: delong(np.array([True, False]), [0.5, np.nan], [0.5, 0.2]),
        lambda: nadeau_bengio([1.0], [1.0], 20),
        lambda: nadeau_bengio([0.1, 0.2], [0.1, "x"], 0.2),
        lambda: nadeau_bengio([0.1, 0.2], [0.1, [0.2]], 0.2),
        lambda: holm(["0.5"]),
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


def test_refusals_name_what_to_give_instead() -> None:
    with pytest.raises(StatisticsError, match="compare labels with predictions first"):
        mcnemar_exact(["a", "b"], ["a", "a"])
    with pytest.raises(StatisticsError, match="received nan, so give None"):
        holm([0.01, float("nan")])


def test_truths_are_taken_as_0_and_1() -> None:
    truth, a, b = np.arange(30) % 3 == 0, np.arange(30) % 7, np.arange(30) % 5
    assert (
        delong(truth.astype(int), a, b) == delong(truth, a, b) == delong(positive=list(truth), scores_a=a, scores_b=b)
    )
    assert delong(truth, a, b).p_value is not None


def test_classes_given_as_a_list_are_those_of_a_tuple() -> None:
    one, other = (ConfusionMatrix.from_counts([[1, 2], [3, 4]], kind("ab")) for kind in (list, tuple))
    assert one == other and (one + other).counts.tolist() == [[2, 4], [6, 8]]
