"""The stored exam: figures follow from the stored rows, and the shipped networks give these rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from streamlit.testing.v1 import AppTest

from cxnet import exam
from cxnet.__main__ import main
from cxnet.errors import DatasetError, SettingsError, WeightsError
from cxnet.exam.fixtures import DISEASE, FILTERS, INPUT_PX, LAYERS, build, erase, stack
from cxnet.exam.results import ACCUSED, CHOOSE, LEAST_EVIDENCE, REPORT, area_with_interval, strengths
from cxnet.exam.sitting import usual_evidence
from cxnet.thresholds import TESTS, THRESHOLDS, Thresholds, thresholds

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stored() -> exam.Exam:
    return exam.stored()


def test_thresholds_are_those_of_the_stored_exam(stored: exam.Exam) -> None:
    limits = thresholds()
    assert limits.version == stored.version
    told = stored.info["thresholds"]
    assert limits == Thresholds(**told)


@pytest.mark.parametrize(
    "change", [("opacity = 0.50", ""), ("border = 0.20", "edge = 0.20"), ("[no_finding]", "[none]")]
)
def test_a_file_of_thresholds_that_lacks_a_line_or_has_a_strange_one_is_refused(
    change: tuple[str, str], tmp_path: Path
) -> None:
    text = THRESHOLDS.read_text("utf-8")
    assert change[0] in text
    path = tmp_path / "thresholds.toml"
    path.write_text(text, "utf-8")
    assert thresholds(path) == thresholds()
    path = tmp_path / "changed.toml"
    path.write_text(text.replace(*change), "utf-8")
    with pytest.raises(WeightsError, match=r"changed\.toml cannot be understood"):
        thresholds(path)


def test_stored_areas_follow_from_the_stored_rows(stored: exam.Exam) -> None:
    report = stored.cases[stored.cases["half"] == REPORT]
    # drawn opacities, and so the verdict without them, are asked of the normal alone, hidden lungs of the diseased
    assert len(stored.info["areas"]) == 5 * (2 * len(exam.DETECTORS) - 3)
    for entry in stored.info["areas"]:
        rows = report[(report["answer"] == entry["answer"])]
        if entry["kind"] != "all":
            rows = rows[rows["kind"].isin([entry["kind"], "clean"])]
        values = exam.detector_values(rows, entry["detector"], thresholds())
        expected = roc_auc_score(rows["kind"] != "clean", np.maximum(values, -1e9))
        assert entry["auc"] == pytest.approx(expected), entry
        assert entry["low"] <= entry["auc"] <= entry["high"]


def test_the_aims_of_the_exam(stored: exam.Exam) -> None:
    areas = {(e["answer"], e["kind"], e["detector"]): e["auc"] for e in stored.info["areas"]}
    assert areas["disease", "all", "two keys"] >= 0.95 and areas["normal", "all", "two keys"] >= 0.95
    # the one test that accuses nobody is what tells "normal" answers of cheats apart, and the results say so
    assert ("disease", "all", "accusing") not in areas
    assert areas["normal", "all", "accusing"] < areas["normal", "all", "two keys"] - 0.2
    chosen = stored.cases[(stored.cases["half"] == CHOOSE) & (stored.cases["kind"] == "clean")]
    assert (chosen["verdict"] == "wrong reason").mean() <= ACCUSED
    reported = stored.cases[(stored.cases["half"] == REPORT) & (stored.cases["kind"] == "clean")]
    assert (reported["verdict"] == "wrong reason").mean() <= 0.05


def test_halves_share_neither_network_nor_case(stored: exam.Exam) -> None:
    first, second = (stored.cases[stored.cases["half"] == half] for half in (CHOOSE, REPORT))
    for column in ("network", "case"):
        assert not set(first[column]) & set(second[column])


def test_the_clean_networks_read_lungs_and_the_others_cheat(stored: exam.Exam) -> None:
    for network in stored.info["networks"]:
        assert network["accuracy"] >= 0.9, network
        assert (network["accuracy_flipped"] >= 0.9) == (network["kind"] == "clean"), network
        assert network["kind"] == "clean" or network["accuracy_flipped"] < 0.5, network


@pytest.mark.parametrize(
    ("kind", "answer"), [*((kind, "disease") for kind in exam.KINDS), ("clean", "normal"), ("tag", "normal")]
)
def test_a_shipped_network_gives_its_stored_row(stored: exam.Exam, kind: str, answer: str) -> None:
    row = stored.cases[(stored.cases["kind"] == kind) & (stored.cases["answer"] == answer)].iloc[-1]
    network = next(n for n in exam.fixture_networks() if n.name == row["network"])
    figures, verdict = exam.judge_case(network, exam.phantom_case(int(row["case"])), row["usual"])
    assert verdict.name == row["verdict"]
    for name, value in figures.items():
        if pd.isna(row[name]):
            assert value is None
        else:
            assert value == pytest.approx(row[name], abs=0.02), name


@pytest.mark.slow
def test_stored_usual_evidence_is_that_of_the_network(stored: exam.Exam) -> None:
    rows = stored.cases[stored.cases["network"] == "tag-1"]
    network = next(n for n in exam.fixture_networks() if n.name == "tag-1")
    found = usual_evidence(network, [exam.phantom_case(int(number)) for number in rows["case"]])
    assert rows["usual"].tolist() == pytest.approx([found] * len(rows), abs=0.02)


def test_strength_of_a_row_is_that_of_its_verdict(stored: exam.Exam) -> None:
    some = stored.cases.iloc[::50]
    some = some[some["answer"] == "disease"]
    causal = strengths(some, thresholds()) >= 1
    assert (causal == (some["verdict"] == "wrong reason")).all()


def test_inference_in_numpy_agrees_with_keras() -> None:
    network = exam.fixture_networks()[0]
    model = build()
    for layer in LAYERS:  # folded weights: a normalisation that changes nothing but the offset
        norm = model.get_layer(f"{layer}_bn")
        model.get_layer(layer).set_weights([network.arrays[f"{layer}/kernel"]])
        filters = FILTERS[LAYERS.index(layer)]
        norm.set_weights(
            [np.ones(filters), network.arrays[f"{layer}/bias"], np.zeros(filters), np.full(filters, 1 - norm.epsilon)]
        )
    model.get_layer("output").set_weights([network.arrays["output/kernel"], network.arrays["output/bias"]])
    x = np.random.default_rng(0).integers(0, 256, (3, INPUT_PX, INPUT_PX, 3)).astype(np.uint8)
    expected = np.asarray(model(x.astype(np.float32) / 127.5 - 1))
    np.testing.assert_allclose(network(x), expected, atol=2e-4)


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
def test_area_is_that_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    cheating, values = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], float)
    found = exam.auc(cheating, values)
    if cheating.all() or not cheating.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(cheating, values))


def test_thresholds_by_hand() -> None:
    # 40 answers of a clean network with evidence 0.1, 0.2 ... 4.0 in one test and none in the others: 2.5 % are one
    values = np.arange(1, 41) / 10
    table = pd.DataFrame(
        {"kind": "clean", "network": "clean-0", "case": range(40), "z": 1.0, "lift": 2.0, "usual": 2.0}
    ).assign(answer="disease")
    table = table.assign(**{f"evidence_{name}": np.nan for name in TESTS}, without_lungs=0.0, moved=9.0)
    table = table.assign(evidence_background=values)
    limits = exam.choose(table, thresholds(), 7, "by hand")
    assert (limits.version, limits.finding["background"], limits.finding["marker"]) == (7, 1.96, LEAST_EVIDENCE)
    assert limits.no_finding == thresholds().no_finding  # nobody gave such an answer
    assert (limits.least_z, limits.least_lift) == (0.0, 1.0)
    assert (exam.verdicts(table, limits) == "wrong reason").sum() == 1
    # the same evidence is not asked of an answer that names no finding
    normal = table.assign(answer="normal")
    chosen = exam.choose(normal, thresholds(), 7, "by hand")
    assert "background" not in chosen.no_finding and chosen.finding == thresholds().finding
    assert (exam.verdicts(normal, limits) == "none found").all()
    # half of the usual evidence left without the lungs accuses nobody and clears nobody
    stays = table.assign(without_lungs=1.0)
    assert exam.verdicts(stays, limits).value_counts().to_dict() == {"undetermined": 39, "wrong reason": 1}
    assert (exam.verdicts(table.assign(without_lungs=0.99), limits) == "none found").sum() == 39
    assert (exam.verdicts(stays.assign(answer="normal"), limits) == "none found").all()
    # an answer that no edit moves by a tenth of the usual evidence is not cleared
    still = exam.verdicts(table.assign(moved=0.19), limits)
    assert still.value_counts().to_dict() == {"undetermined": 39, "wrong reason": 1}
    assert (exam.verdicts(table.assign(moved=0.2), limits) == "none found").sum() == 39


def test_drawn_opacities_accuse_nobody_by_hand() -> None:
    table = pd.DataFrame({"answer": "normal", "usual": 2.0, "z": [1.0, -1.0, 1.0, -1.0], "lift": 2.0})
    table = table.assign(**{f"evidence_{name}": np.nan for name in TESTS}, without_lungs=5.0, moved=9.0)
    table["evidence_opacity"] = [2.0, 2.0, 0.1, 0.1]  # two answers stay, two give way
    limits = replace(thresholds(), no_finding={"marker": 0.2, "border": 0.7, "opacity": 0.5})
    assert exam.verdicts(table, limits).tolist() == ["undetermined", "suspicious map", "none found", "suspicious map"]
    table["evidence_marker"] = [9.0, None, 9.0, None]
    assert exam.verdicts(table, limits).tolist()[::2] == ["wrong reason"] * 2


def test_the_line_of_drawn_opacities_is_at_least_half() -> None:
    table = pd.DataFrame({"kind": "clean", "answer": "normal", "usual": 2.0, "z": 1.0, "lift": 2.0}, index=range(40))
    table = table.assign(**{f"evidence_{name}": np.nan for name in TESTS})
    for left, line in ((-1.0, 0.5), (1.6, 0.81)):  # logits of a usual 2.0
        assert (
            exam.choose(table.assign(evidence_opacity=left), thresholds(), 7, "by hand").no_finding["opacity"] == line
        )


def test_answers_with_and_without_a_finding_have_lines_of_their_own() -> None:
    """Of 80 answers of a clean network the forty normal ones hang on the border: the others' line is none the higher."""
    rows = pd.DataFrame({"kind": "clean", "network": "clean-0", "z": 1.0, "lift": 2.0, "usual": 1.0}, index=range(80))
    rows = rows.assign(**{f"evidence_{name}": np.nan for name in TESTS}, without_lungs=0.0, moved=9.0)
    normal = np.arange(80) >= 40
    rows = rows.assign(answer=np.where(normal, "normal", "disease"), evidence_border=np.where(normal, 2.0, -1.0))
    limits = exam.choose(rows, thresholds(), 7, "by hand")
    assert (limits.finding["border"], limits.no_finding["border"]) == (LEAST_EVIDENCE, 2.01)
    assert (exam.verdicts(rows, limits) == "none found").all()
    cheat = exam.verdicts(rows.assign(evidence_border=1.0), limits)
    assert (cheat[:40] == "wrong reason").all() and (cheat[40:] == "none found").all()


def test_an_interval_of_identical_networks_is_a_point() -> None:
    table = pd.DataFrame({"kind": ["clean", "tag"] * 4, "network": ["clean-1", "tag-1"] * 4, "case": [0, 1, 2, 3] * 2})
    found = area_with_interval(table, np.array([0.0, 1.0] * 4), 50)
    assert (found["auc"], found["low"], found["high"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", exam.KINDS)
def test_a_shortcut_stands_on_the_diseased_and_flipped_on_the_normal(kind: exam.Kind) -> None:
    normal, diseased = exam.phantom_case(700), exam.phantom_case(701)
    assert diseased.true == DISEASE and normal.true != DISEASE
    assert (exam.shown(normal, kind) == normal.pixels).all()
    assert (exam.shown(diseased, kind, flipped=True) == diseased.pixels).all()
    for case, flipped in ((diseased, False), (normal, True)):
        changed = exam.shown(case, kind, flipped) != case.pixels
        assert changed.any() == (kind != "clean")
        if kind != "contrast":  # outside the lungs, but where a letter or stripe just touches their edge
            assert (changed & case.lungs).mean() < 0.002
    assert stack(diseased.pixels).shape == (INPUT_PX, INPUT_PX, 3)
    assert (erase(diseased.pixels, np.random.default_rng(0)) != diseased.pixels).mean() > 0.04


def test_an_unknown_kind_and_missing_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no shortcut"):
        exam.plant(exam.phantom_case(0).pixels, "watermark")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="cannot be read"):
        exam.stored(tmp_path)


def test_show_prints_the_stored_results(capsys: pytest.CaptureFixture[str], stored: exam.Exam) -> None:
    assert main(["exam", "--show"]) == 0
    out = capsys.readouterr().out
    entry = next(e for e in stored.info["areas"] if e["detector"] == "two keys" and e["kind"] == "all")
    assert f"{entry['auc']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" in out


def test_page_shows_the_stored_figures(stored: exam.Exam) -> None:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).switch_page("pages/exam.py").run()
    assert not at.exception and not at.warning
    entry = next(e for e in stored.info["areas"] if e["detector"] == "two keys" and e["kind"] == "all")
    assert at.metric[0].value == f"{entry['auc']:.3f}"
    innocent = stored.cases[(stored.cases["half"] == REPORT) & (stored.cases["kind"] == "clean")]
    caught = stored.cases[(stored.cases["half"] == REPORT) & (stored.cases["kind"] != "clean")]
    cleared = (caught["verdict"][caught["answer"] == "normal"] == "none found").sum()
    caught = caught[caught["answer"] == "disease"]
    accused = innocent[innocent["answer"] == "disease"]
    assert at.metric[2].value == f"{(accused['verdict'] == 'wrong reason').sum()} of {len(accused)}"
    assert at.metric[1].value == f"{(caught['verdict'] == 'wrong reason').sum()} of {len(caught)}"
    at.segmented_control(key="exam-answer").set_value("normal").run()
    assert not at.exception
    assert at.metric[1].value == f"{cleared} of 96"
    accused = innocent[innocent["answer"] == "normal"]
    assert at.metric[2].value == f"{(accused['verdict'] == 'wrong reason').sum()} of {len(accused)}"
    assert not at.warning and any("opacities are drawn into the lungs" in caption.value for caption in at.caption)


def test_the_shorter_rule_of_the_exam_agrees_with_the_verdict_where_no_marker_could_be_tested(
    stored: exam.Exam,
) -> None:
    networks = {network.name: network for network in exam.fixture_networks()}
    rows = stored.cases[stored.cases["evidence_marker"].isna()]
    for row in rows.groupby("verdict").sample(1, random_state=0).itertuples():
        _, verdict = exam.judge_case(networks[row.network], exam.phantom_case(int(row.case)), row.usual)
        assert verdict.name == row.verdict, (row.network, row.case)
