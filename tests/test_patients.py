"""Intervals of proportions over patients: against Wilson, slow readings of the definition, copies and simulations."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.held_out import figures_of
from benchmarks.worth import per_source
from cxnet.runs import Run, write_run
from cxnet.statistics import (
    ConfusionMatrix,
    StatisticsError,
    bootstrap,
    cell_shares,
    check_folds,
    metrics,
    patient_metrics,
    wilson,
)
from cxnet.statistics.patients import is_missing, patient_codes, patient_proportion
from tests.drawn_cases import CLASSES, by_name

BOOTSTRAP, WILSON = "patient bootstrap 95 %", "Wilson 95 %"


def clustered(
    patients: int, seed: int, spread: float = 1.0, most: int = 6
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Hits whose chance, 0.6 on average, differs from patient to patient; patients have 1 to `most` cases."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.6 * spread, 0.4 * spread, patients)
    owner = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    return rng.random(len(owner)) < chance[owner], owner


def answers(cases: int, seed: int, patients: int) -> tuple[list[str], list[str], list[str]]:
    """True class, answer and patient; a patient's cases are of one class and answered alike."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, patients, cases)
    true = rng.integers(0, 3, patients)[owner]
    wrong = rng.integers(0, 3, patients)[owner]
    called = np.where(rng.random(cases) < 0.6, true, wrong)
    names = np.array(CLASSES)
    return names[true].tolist(), names[called].tolist(), [f"patient {n}" for n in owner]


# --- one case a patient ----------------------------------------------------------------------------------------------

labels = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), max_size=60)


@settings(max_examples=50)
@given(labels, st.sampled_from([0.8, 0.95]))
def test_one_case_a_patient_gives_wilson_as_before(pairs: list[tuple[str, str]], level: float) -> None:
    true, predicted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    groups = [str(n) for n in range(len(pairs))]
    matrix = ConfusionMatrix.from_cases(true, predicted, CLASSES)
    assert patient_metrics(true, predicted, groups, CLASSES, level=level) == metrics(matrix, level)
    for row, line in enumerate(cell_shares(true, predicted, groups, CLASSES)):
        total = sum(matrix.table[row])
        for count, share in zip(matrix.table[row], line, strict=True):
            assert (share.numerator, share.denominator) == (count, total)
            limits = wilson(count, total) if total else (None, None)
            assert (share.low, share.high) == limits and bool(share.reason) == (not total)


# --- several cases a patient -----------------------------------------------------------------------------------------


def test_limits_are_those_of_the_definition() -> None:
    """Draw whole patients with replacement, put their cases together, count again."""
    true, predicted, groups = answers(240, 1, 90)
    rng = np.random.default_rng(7)
    rows: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        rows.setdefault(group, []).append(place)
    names = list(rows)
    drawn: dict[tuple[str, str | None], list[float]] = {}
    for _ in range(1500):
        cases = [case for name in rng.choice(names, len(names)) for case in rows[name]]
        counts = np.zeros((3, 3))
        for case in cases:
            counts[CLASSES.index(true[case]), CLASSES.index(predicted[case])] += 1
        drawn.setdefault(("accuracy", None), []).append(np.trace(counts) / counts.sum())
        for k, cls in enumerate(CLASSES):
            rest = np.delete(np.arange(3), k)
            drawn.setdefault(("sensitivity", cls), []).append(counts[k, k] / counts[k].sum())
            drawn.setdefault(("precision", cls), []).append(counts[k, k] / counts[:, k].sum())
            drawn.setdefault(("specificity", cls), []).append(counts[np.ix_(rest, rest)].sum() / counts[rest].sum())
    found = by_name(patient_metrics(true, predicted, groups, CLASSES))
    for key, values in drawn.items():
        assert found[key].interval == BOOTSTRAP
        assert (found[key].low, found[key].high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.015), key


def test_limits_are_those_of_the_general_bootstrap() -> None:
    hit, owner = clustered(150, 3)
    found = patient_proportion("x", None, hit, owner, "", resamples=20_000)
    general = bootstrap(lambda drawn: float(hit[drawn].mean()), [str(n) for n in owner], resamples=4000)
    assert (found.low, found.high) == pytest.approx((general.low, general.high), abs=0.006)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_copies_of_cases_add_no_certainty(seed: int, copies: int) -> None:
    """The same limits to the last digit, where patients have several cases as they are."""
    true, predicted, groups = answers(60, seed, 25)
    once = patient_metrics(true, predicted, groups, CLASSES, resamples=200)
    many = patient_metrics(true * copies, predicted * copies, groups * copies, CLASSES, resamples=200)
    for one, other in zip(once, many, strict=True):
        assert other.value == pytest.approx(one.value)
        if one.interval != WILSON:
            assert (other.interval, other.reason) == (one.interval, one.reason)
            assert (other.low, other.high) == pytest.approx((one.low, one.high))


@pytest.mark.parametrize(("hits", "cases"), [(30, 60), (170, 200), (4, 50)])
def test_copies_of_single_cases_stay_near_wilson(hits: int, cases: int) -> None:
    hit, owner = np.repeat(np.arange(cases) < hits, 5), np.repeat(np.arange(cases), 5)
    found = patient_proportion("x", None, hit, owner, "")
    low, high = wilson(hits, cases)
    assert found.interval == BOOTSTRAP and found.low is not None and found.high is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    narrow = wilson(5 * hits, 5 * cases)
    assert found.high - found.low > 1.8 * (narrow[1] - narrow[0])


def test_coverage_where_cases_of_a_patient_are_alike() -> None:
    """The interval holds the true 0.6 about as often as it says; Wilson's over cases does not."""
    ours = plain = 0
    for seed in range(400):
        hit, owner = clustered(80, seed, spread=0.5)
        found = patient_proportion("x", None, hit, owner, "", resamples=500)
        low, high = wilson(int(hit.sum()), len(hit))
        assert found.low is not None and found.high is not None
        ours += found.low <= 0.6 <= found.high
        plain += low <= 0.6 <= high
    assert 0.91 <= ours / 400 <= 0.985 and plain / 400 < 0.8


def test_shares_without_width_are_wilsons_over_patients() -> None:
    owner = np.arange(20) // 2
    for hit, hits in ((np.zeros(20, np.bool_), 0), (np.ones(20, np.bool_), 10)):
        found = patient_proportion("x", None, hit, owner, "")
        assert (found.low, found.high) == wilson(hits, 10) and found.interval == "Wilson 95 %, over patients"


def test_diagonal_of_the_cells_is_the_sensitivity() -> None:
    case = answers(200, 5, 60)
    found = by_name(patient_metrics(*case, CLASSES))
    for row, (cls, line) in enumerate(zip(CLASSES, cell_shares(*case, CLASSES), strict=True)):
        own = found["sensitivity", cls]
        assert (line[row].low, line[row].high, line[row].interval) == (own.low, own.high, own.interval)
        assert sum(share.numerator or 0 for share in line) == line[0].denominator


def test_the_same_cases_give_the_same_limits_in_any_order() -> None:
    true, predicted, groups = answers(150, 2, 50)
    order = np.random.default_rng(0).permutation(150)
    shuffled = [[column[place] for place in order] for column in (true, predicted, groups)]
    first = patient_metrics(true, predicted, groups, CLASSES)
    assert first == patient_metrics(true, predicted, groups, CLASSES) == patient_metrics(*shuffled, CLASSES)
    assert first != patient_metrics(true, predicted, groups, CLASSES, seed=1)


def test_two_and_a_half_thousand_cases_are_quick() -> None:
    case = answers(2500, 0, 1500)
    start = time.process_time()
    patient_metrics(*case, CLASSES)
    cell_shares(*case, CLASSES)
    assert time.process_time() - start < 1  # takes about 0.08 s; the room is for slow machines


# --- none ------------------------------------------------------------------------------------------------------------


def test_no_interval_without_known_patients() -> None:
    true, predicted, groups = answers(40, 0, 15)
    told = [None, *groups[1:]]
    for metric in patient_metrics(true, predicted, told, CLASSES):
        assert metric.value is not None and metric.low is None
        assert metric.reason == "the patient of 1 case(s) is not known"
    for metric in patient_metrics(true, predicted, told, CLASSES, withhold="test sets overlap"):
        assert metric.low is None and metric.reason == "test sets overlap"
    assert all(s.low is None for line in cell_shares(true, predicted, groups, CLASSES, withhold="x") for s in line)


def test_undefined_figures_keep_their_reasons() -> None:
    found = by_name(patient_metrics(["Normal"] * 4, ["Normal", "Pneumonia"] * 2, list("aabb"), CLASSES))
    assert found["sensitivity", "COVID-19"].reason == "no case is truly COVID-19"
    assert found["specificity", "Normal"].value is None and found["precision", "COVID-19"].value is None
    empty = patient_metrics([], [], [], CLASSES)
    assert all(m.value is None and m.reason and m.low is None for m in empty)
    one = patient_proportion("x", None, np.array([True, False]), np.array([3, 3]), "")
    assert (one.value, one.low, one.reason) == (0.5, None, "there are fewer than two patients")


@pytest.mark.parametrize(
    "value", ["", " ", "NA", "na", "N/A", "n/a", "NaN", "null", "NULL", "None", "none", None, np.nan]
)
def test_spellings_of_no_patient(value: object) -> None:
    assert is_missing(value)
    codes, reason = patient_codes(["p", value, "q", "p"])  # type: ignore[list-item]
    assert codes[0] == codes[3] != codes[2] and reason == "the patient of 1 case(s) is not known"
    table = pd.DataFrame({"case": list("abcd"), "fold": 0, "group": ["p", value, "q", "p"], "true": ["x", "y"] * 2})
    assert check_folds(table).intervals_reason == "some patients are not known"
    # a class or a case of that name is one, unless it is an empty cell
    named = check_folds(table.assign(group="p", true=["NA", "null"] * 2, case=["na", "N/A", "null", "none"]))
    assert named.intervals_valid and named.problems == ()


@pytest.mark.parametrize("value", ["0", "nan-1", "NA12", "nobody", "nil"])
def test_names_that_are_patients(value: str) -> None:
    assert not is_missing(value) and patient_codes([value])[1] is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: patient_metrics(["Normal"], ["Normal"], [], CLASSES),
        lambda: patient_metrics(["Normal"], ["flu"], ["a"], CLASSES),
        lambda: patient_metrics(["Normal"], ["Normal"], ["a"], CLASSES, level=95),
        lambda: patient_metrics(["Normal"], ["Normal"], ["a"], CLASSES, resamples=5),
        lambda: patient_proportion("x", None, np.array([True]), np.array([0, 1]), ""),
    ],
)
def test_what_cannot_be_computed_is_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StatisticsError):
        call()


# --- what the benchmarks print ---------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    rng = np.random.default_rng(0)
    true, predicted, groups = answers(120, 4, 40)
    shares = rng.dirichlet(np.ones(3), 120)
    table = pd.DataFrame({"case": [str(n) for n in range(120)], "group": groups, "true": true, "predicted": predicted})
    table["source"] = np.where(np.arange(120) < 60, "a", "b")
    for number, name in enumerate(CLASSES):
        table[f"probability {name}"] = shares[:, number]
    info = {"classes": list(CLASSES), "note": "drawn"}
    return write_run(tmp_path_factory.mktemp("drawn") / "drawn", info, {0: table})


def test_benchmarks_name_their_intervals(run: Run) -> None:
    table = run.table
    found = by_name(patient_metrics(list(table["true"]), list(table["predicted"]), list(table["group"]), CLASSES))
    told = figures_of(run)
    accuracy = found["accuracy", None]
    assert told["accuracy"] == f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}] ({BOOTSTRAP})"
    assert all(f"({BOOTSTRAP})" in told[f"{name} Normal"] for name in ("sensitivity", "specificity", "ROC AUC"))
    by_source = per_source(run, table)
    assert set(by_source) == {"accuracy in a", "accuracy in b"}
    assert all(f"({BOOTSTRAP}; n = 60, 3 classes)" in value for value in by_source.values())
    unknown = per_source(run, table.assign(group="NA"))
    assert all("(some patients are not known; n = 60" in v and "[" not in v for v in unknown.values())
