"""Wrong-reason rates, paired comparison and properties against answers known by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from cxnet import wrong_reasons
from cxnet.errors import DatasetError
from cxnet.runs import find_run, list_runs
from cxnet.statistics import wilson
from cxnet.thresholds import ACCUSES_NOBODY, LEAST_USUAL, TESTS, thresholds
from cxnet.verdict import LESS_THAN_CHANCE, over_chance
from cxnet.wrong_reasons import (
    PROPERTIES,
    UNDETERMINED,
    WRONG,
    agreements,
    compare,
    names_finding,
    property_aucs,
    rate,
    rates,
    withheld,
)

FINE = "none found"


def table(verdicts: list[str], **columns: object) -> pd.DataFrame:
    """Right answers of as many patients, in one fold."""
    count = len(verdicts)
    found = pd.DataFrame({"case": [f"c{n}" for n in range(count)], "verdict": verdicts})
    found["group"], found["fold"], found["error"] = [f"p{n}" for n in range(count)], 0, None
    found["true"] = found["predicted"] = "a"
    return found.assign(**columns)


def test_single_patients_get_wilson() -> None:
    found = rate(table([WRONG] * 3 + [UNDETERMINED] + [FINE] * 6), "all")
    assert (found.answers, found.wrong, found.undetermined) == (10, 3, 1)
    assert (found.rate.value, found.rate.low, found.rate.high) == (0.3, *wilson(3, 10))
    assert found.rate.interval == "Wilson 95 %"


def test_patients_with_several_cases_get_a_wider_interval() -> None:
    verdicts = ([WRONG] * 5 + [FINE] * 5) * 8  # every patient has five equal cases
    groups = [f"p{n // 5}" for n in range(80)]
    found = rate(table(verdicts, group=groups), "all").rate
    low, high = wilson(40, 80)
    assert found.interval == "patient bootstrap 95 %" and found.low is not None and found.high is not None
    assert found.low < low < 0.5 < high < found.high


def test_a_bootstrap_without_width_is_not_shown() -> None:
    found = rate(table([FINE] * 10, group=[f"p{n // 2}" for n in range(10)]), "all").rate
    assert (found.value, found.low, found.high) == (0.0, *wilson(0, 5))


def test_withheld_with_the_reason_of_the_folds() -> None:
    both = pd.concat([table([WRONG, FINE]), table([WRONG, FINE], fold=1)], ignore_index=True)
    assert withheld(both) is not None and "overlap" in str(withheld(both))
    (whole,) = rates(both, "run", ("a", "b"))
    assert whole.rate.value == 0.5 and whole.rate.low is None and "overlap" in str(whole.rate.reason)
    # each fold alone is sound
    assert [one.rate.interval for one in rates(both, "fold", ("a", "b"))] == ["Wilson 95 %"] * 2
    unknown = rate(table([WRONG, FINE], group=["p", None]), "all").rate
    assert unknown.value == 0.5 and "not known" in str(unknown.reason)


def test_cells_hold_all_answers_and_errors_are_left_out() -> None:
    rows = table([WRONG, FINE, WRONG, WRONG, FINE])
    rows["true"], rows["predicted"] = list("aabba"), list("aabab")
    rows["error"] = [None, None, None, None, "the file is torn"]
    found = {one.part: (one.answers, one.wrong) for one in rates(rows, "cell", ("a", "b"))}
    assert found == {"a called a": (2, 1), "b called b": (1, 1), "b called a": (1, 1)}
    (whole,) = rates(rows, "run", ("a", "b"))
    assert (whole.answers, whole.wrong) == (3, 2)


def test_answers_that_name_a_finding_have_a_rate_of_their_own() -> None:
    rows = table([WRONG, FINE, WRONG, FINE, FINE])
    rows["true"] = rows["predicted"] = ["Pneumonia", "COVID-19", "Normal", "Normal", " no finding"]
    found = [(one.part, one.answers, one.wrong) for one in rates(rows, "answer", ())]
    assert found == [("names a finding", 2, 1), ("names no finding", 3, 1)]
    assert [one.part for one in rates(rows[:2], "answer", ())] == ["names a finding"]


SHIPPED = [run.name for run in list_runs()[0] if wrong_reasons.audits_of(run.folder)]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_audits_follow_the_thresholds_in_use(name: str) -> None:
    """Every stored verdict follows from the stored evidence, by the lines of the thresholds and those in words."""
    run = find_run(name)
    audit = wrong_reasons.open_audit(run.folder, "full")
    limits = thresholds()
    assert audit.info["thresholds"] == asdict(limits) and set(audit.table["thresholds_version"]) == {limits.version}
    rows = audit.audited[audit.audited["lungs_ok"]]
    assert len(rows) > 300
    finding = rows["predicted"].map(names_finding)
    usual = rows["usual evidence"].clip(lower=LEAST_USUAL)
    turned = pd.DataFrame(index=rows.index)
    for test in TESTS:
        share = finding.map(lambda names, test=test: limits.shares(names).get(test, np.inf))
        turned[test] = rows[f"evidence {test}"] >= share * usual
    accused = turned.drop(columns=list(ACCUSES_NOBODY)).any(axis=1)
    left = rows["background_probability"].map(lambda p: over_chance(p, len(audit.classes)))
    stays = finding & ~(left < limits.most_without_lungs * usual)  # or the lungs could not be hidden
    pd.testing.assert_series_equal(rows["verdict"] == WRONG, accused, check_names=False)
    still = rows["facts"].str.contains("no edit moved the answer")
    still |= rows["facts"].str.contains("nothing is there to compare with")
    cleared = ~accused & ~turned.any(axis=1) & ~stays & ~still & (rows["map_key"] != True)  # noqa: E712 - None is not True
    pd.testing.assert_series_equal(rows["verdict"] == FINE, cleared, check_names=False)
    if run.info["region"] == "lung-mask":  # what surrounds the lungs never reached it
        assert rows["evidence background"].isna().all() and rows["evidence appearance"].isna().all()


def test_a_missing_source_is_a_part() -> None:
    rows = table([WRONG, FINE, FINE], source=["x", "", None])
    assert [(one.part, one.answers) for one in rates(rows, "source", ("a",))] == [("(not stated)", 2), ("x", 1)]


def test_fast_audits_have_no_rate() -> None:
    rows = table([WRONG]).drop(columns="verdict")
    (whole,) = rates(rows, "run", ("a",))
    assert whole.rate.value is None and "--tier full" in str(whole.rate.reason)


@given(st.lists(st.sampled_from([WRONG, FINE, UNDETERMINED, "suspicious map"]), min_size=1, max_size=40))
def test_interval_holds_the_rate(verdicts: list[str]) -> None:
    groups = [f"p{n // 2}" for n in range(len(verdicts))]
    found = rate(table(verdicts, group=groups), "all", resamples=100).rate
    assert found.value == verdicts.count(WRONG) / len(verdicts)
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.high <= 1


def test_mcnemar_on_shared_right_answers() -> None:
    first = table([WRONG] * 9 + [FINE] * 5 + [UNDETERMINED, WRONG])
    second = table([FINE] * 8 + [WRONG] * 2 + [FINE] * 4 + [FINE, WRONG])
    second.loc[15, "predicted"] = "b"  # not right in both
    second = pd.concat([second, table([WRONG]).assign(case="alone")], ignore_index=True)
    found = compare(first, second)
    assert (found.shared, found.cases) == (16, 14)
    assert (found.only_first, found.only_second, found.both) == (8, 1, 1)
    assert found.test.difference == pytest.approx(7 / 14)
    assert found.test.p_value == pytest.approx(binomtest(8, 9).pvalue)
    limits = found.difference
    assert limits.value == found.test.difference and limits.interval == "patient bootstrap 95 %"
    # every patient has one case here: the bootstrap draws the 14 paired differences, eight +1, one -1, five 0
    drawn = np.random.default_rng(1).choice([1.0] * 8 + [-1.0] + [0.0] * 5, (20_000, 14)).mean(axis=1)
    assert (limits.low, limits.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.08)
    mirrored = compare(second, first)
    assert mirrored.difference.high == pytest.approx(-limits.low, abs=0.08)
    assert mirrored.test.difference == pytest.approx(-7 / 14) and mirrored.test.p_value == found.test.p_value


def test_several_cases_of_a_patient_widen_the_paired_interval() -> None:
    verdicts = ([WRONG] * 10 + [FINE] * 10) * 4
    calm = [FINE] * len(verdicts)
    alone = compare(table(verdicts), table(calm)).difference
    tens = [f"p{n // 10}" for n in range(len(verdicts))]  # a patient's ten cases always agree
    together = compare(table(verdicts, group=tens), table(calm, group=tens)).difference
    assert alone.value == together.value == 0.5
    assert together.high - together.low > 2 * (alone.high - alone.low)
    unknown = compare(table(verdicts, group=None), table(calm, group=None)).difference
    assert unknown.low is None and unknown.reason


def test_nothing_to_compare_says_why() -> None:
    assert "share no case" in str(compare(table([WRONG]), table([WRONG], case=["other"])).test.reason)
    for unlike in (table([WRONG], thresholds_version=[2]), table([WRONG], lime_r2=[0.9])):
        found = compare(table([WRONG], thresholds_version=[3]), unlike)
        assert "audit both again" in str(found.test.reason) and found.difference.value is None
    assert "no shared case" in str(compare(table([WRONG]), table([UNDETERMINED])).test.reason)


def properties_table(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = table([FINE] * 60, true=["a"] * 30 + ["b"] * 30)
    for name in PROPERTIES:
        rows[name] = rng.normal(0, 1, 60).round(1)
    rows["mean_grey"] = [200.0] * 30 + [100.0] * 30
    rows["markers"] = 0.0
    return rows


def test_properties_against_scikit_learn() -> None:
    rows = properties_table()
    found = {(one.name, one.auc.cls): one for one in property_aucs(rows, ("a", "b", "c"), resamples=200)}
    for (name, cls), one in found.items():
        if cls == "c":
            assert one.auc.value is None and one.auc.reason == "no case is truly c"
            continue
        assert one.auc.value == pytest.approx(roc_auc_score(rows["true"] == cls, rows[name]))
    bright = found["mean_grey", "a"]
    assert (bright.auc.value, bright.auc.low, bright.rank_biserial, bright.separates) == (1.0, 1.0, 1.0, True)
    assert found["mean_grey", "b"].separates and found["mean_grey", "b"].rank_biserial == -1.0
    even = found["markers", "a"]
    assert (even.auc.value, even.separates) == (0.5, False)
    assert not any(one.separates for (name, _), one in found.items() if name != "mean_grey")


def test_properties_without_intervals() -> None:
    (first, *_) = property_aucs(properties_table(), ("a", "b"), withhold="test sets of folds overlap")
    assert first.auc.value == 1.0 and first.separates is None and first.auc.reason == "test sets of folds overlap"


def test_zones_are_means_over_cases_with_figures() -> None:
    rows = table([FINE] * 3, in_lung=[0.2, 0.4, None], lungs_area=[0.3] * 3)
    rows["zone corners"], rows["area corners"] = [0.8, 0.6, None], [0.1, 0.3, 0.5]
    found = wrong_reasons.zone_energies(rows, "predicted").set_index("zone")
    assert found.loc["lungs", "energy"] == pytest.approx(0.3) and found.loc["corners", "energy"] == pytest.approx(0.7)
    assert found.loc["corners", "area"] == pytest.approx(0.2) and set(found["cases"]) == {2}


def test_damaged_audits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="audit the run again"):
        wrong_reasons.open_audit(tmp_path, "full")
    table([FINE]).assign(lift=1.0).to_parquet(tmp_path / "audit-full.parquet")
    path = tmp_path / "audit-full.json"
    path.write_text(json.dumps({"schema": 99, "classes": ["a"]}), "utf-8")
    with pytest.raises(DatasetError, match="schema 99"):
        wrong_reasons.open_audit(tmp_path, "full")
    path.write_text(json.dumps({"schema": 1, "classes": ["a"]}), "utf-8")
    assert len(wrong_reasons.open_audit(tmp_path, "full").audited) == 1
    assert wrong_reasons.audits_of(tmp_path) == ("full",)
    path.write_text(json.dumps({"schema": 1, "classes": ["a"], "sha256": "0" * 64}), "utf-8")
    with pytest.raises(DatasetError, match="not the one that its"):
        wrong_reasons.open_audit(tmp_path, "full")


# ------------------------------------------------------------------------------------------------ Grad-CAM and LIME


def with_lime(values: list[float | None], **columns: object) -> pd.DataFrame:
    count = len(values)
    rows = table([FINE] * count, cam_lime=pd.Series(values, dtype=float), lime_r2=np.linspace(0.2, 0.8, count))
    return rows.assign(**columns)


def test_agreement_by_hand() -> None:
    values = [0.1, 0.5, 0.3, None, -0.7, 0.9]
    chance, blob = [0.2] * 3 + [np.nan] + [0.2] * 2, [0.0, 0.1, 0.2, np.nan, 0.3, 0.4]
    rows = with_lime(values, cam_lime_chance=chance, cam_lime_blob=blob)
    rows["predicted"], rows.loc[5, "error"] = list("aabbab"), "torn"
    whole, right, wrong, called_a, called_b = agreements(rows, ("a", "b", "c"))
    assert [one.part for one in (whole, right, wrong)] == ["all", "right answers", "wrong answers"]
    assert (whole.cases, whole.undefined) == (4, 1)
    assert whole.correlation.value == pytest.approx(0.2)  # of 0.1, 0.5, 0.3 and -0.7
    assert whole.r2.value == pytest.approx(np.median(np.linspace(0.2, 0.8, 6)[[0, 1, 2, 4]]))
    assert whole.beyond_chance.value == 0.5 and whole.blob_beyond_chance.value == 0.25
    assert right.correlation.value == pytest.approx(0.1) and wrong.correlation.value == pytest.approx(0.3)
    assert (called_a.part, called_a.cases, called_a.undefined) == ("called a", 3, 0)
    assert (called_b.part, called_b.cases, called_b.undefined) == ("called b", 1, 1)
    assert called_b.correlation.low is None and called_b.correlation.reason


def test_agreement_draws_patients_and_says_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    spread = rng.normal(0.3, 0.2, 60).clip(-1, 1)
    singles = agreements(with_lime(list(spread)), ("a",))[0]
    assert singles.correlation.interval == "patient bootstrap 95 %"
    low, high = singles.correlation.low, singles.correlation.high
    assert low is not None and high is not None and low < float(np.median(spread)) < high
    five = with_lime(list(np.repeat(spread[:12], 5)), group=[f"p{n // 5}" for n in range(60)])
    alone = with_lime(list(np.repeat(spread[:12], 5)))
    wide, narrow = (agreements(rows, ("a",))[0].correlation for rows in (five, alone))
    assert wide.high - wide.low > narrow.high - narrow.low  # type: ignore[operator]
    for missing in (None, [0.1] + [np.nan] * 59):  # as audits were written at first, all or a part
        rows = with_lime(
            list(spread), **({} if missing is None else {"cam_lime_chance": missing, "cam_lime_blob": missing})
        )
        found = agreements(rows, ("a",))[0]
        assert found.beyond_chance.value is found.blob_beyond_chance.value is None
        assert "audit of an earlier version" in str(found.beyond_chance.reason)
    nothing = agreements(with_lime([None, None]), ("a",))[0]
    assert (nothing.cases, nothing.undefined, nothing.correlation.value) == (0, 2, None) and nothing.correlation.reason
    assert agreements(table([FINE] * 3), ("a",)) == ()
    unknown = agreements(with_lime([0.1, 0.2], group=["p", None]), ("a",))[0].correlation
    assert unknown.value == pytest.approx(0.15) and "not known" in str(unknown.reason)


def test_two_runs_that_accuse_nobody_have_an_interval_with_width() -> None:
    none = table([FINE] * 8)
    found = compare(none, none)
    assert (found.difference.value, found.difference.low, found.difference.high) == (
        0.0,
        found.test.low,
        found.test.high,
    )
    assert (
        found.difference.low is not None and found.difference.low < -0.1 and "exact" in str(found.difference.interval)
    )
    both = table([WRONG] * 4 + [FINE] * 4)
    assert compare(both, both).difference.low == found.difference.low


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_audits_tell_where_enhancement_takes_part(name: str) -> None:
    run = find_run(name)
    rows = wrong_reasons.open_audit(run.folder, "full").table
    rows = rows[rows["error"].isna()]
    told = rows["facts"].str.contains("comes from the enhancement that follows it")
    assert 0.02 < told.mean() < 0.98
    lies = rows["facts"].str.contains("Grad-CAM lies outside the lungs")
    assert (rows.loc[lies, "z"] <= LESS_THAN_CHANCE + 0.005).all() and lies.any()
    assert (rows.loc[rows["facts"].str.contains("no more than by chance"), "z"] > LESS_THAN_CHANCE).all()


def test_maps_of_the_shipped_run_agree_hardly_more_than_unrelated_ones() -> None:
    audit = wrong_reasons.open_audit(find_run("base-cnn-v2").folder, "fast")
    whole, *_ = agreements(audit.table, audit.classes)
    assert (whole.cases, whole.undefined) == (1983, 3)
    for metric, value, low, high in ((whole.correlation, 0.02, 0.01, 0.03), (whole.beyond_chance, 0.065, 0.053, 0.077)):
        found = (metric.value, metric.low, metric.high)
        assert found == pytest.approx((value, low, high), abs=0.005)
    assert whole.r2.value == pytest.approx(0.99, abs=0.005)
    full = wrong_reasons.open_audit(find_run("base-cnn-v2").folder, "full").table.set_index("case")
    again = audit.table.set_index("case")
    pd.testing.assert_series_equal(again["predicted"], full.loc[again.index, "predicted"])
    np.testing.assert_allclose(again["lift"], full.loc[again.index, "lift"], atol=1e-3)
