"""The page of stored runs without a browser: what it shows of whole, damaged and overlapping runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from cxnet import runs
from cxnet.statistics import cell_shares, patient_metrics
from cxnet.training import TrainingSettings
from pages import _matrix, _run_data, _run_exports, _run_panels
from tests.stored_runs import CLASSES, fold_table, make_audit, make_run, open_page, text_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stored")
    make_audit(make_run(root, "alpha"))
    make_run(root, "beta", seed=1)
    make_run(root, "crossing", crossing=True)
    (root / "damaged").mkdir()
    (root / "damaged" / "run.json").write_text("{", "utf-8")
    torn = make_run(root, "torn", folds=1)
    torn.path(0).write_bytes(b"no table")
    return root


@pytest.fixture
def listed(stored: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CXNET_RUNS", str(stored))
    monkeypatch.setattr(runs, "FOLDER", stored / "there are no others")
    return stored


def opened(**query: str) -> AppTest:
    return open_page("runs", **query)


def metrics_of(at: AppTest) -> pd.DataFrame:
    (found,) = [d.value for d in at.dataframe if "Figure" in d.value.columns and "Value" in d.value.columns]
    return found


def matrix_of(folder: Path, name: str, fold: int | None, threshold: tuple[str, float] | None = None):  # type: ignore[no-untyped-def]
    selection = _run_data.select(runs.open_run(folder / name), fold)
    called = _run_data.decide(selection, threshold)
    return _run_panels.Matrix(selection, called, threshold, _run_data.folds_check(selection))


def test_opens_with_the_first_run_and_its_figures(listed: Path) -> None:
    at = opened()
    assert at.title[0].value == "Runs"
    assert at.selectbox(key="runs-run").value == "alpha"
    table = runs.open_run(listed / "alpha").table
    right = int((table["true"] == table["predicted"]).sum())
    accuracy = metrics_of(at).iloc[0]
    assert (accuracy["Figure"], accuracy["Cases"]) == ("accuracy", f"{right} / 300")
    assert "macro ROC AUC" in set(metrics_of(at)["Figure"])
    assert not at.query_params  # nothing was chosen, so Back is not trapped


def test_a_cell_of_the_url_is_shown_with_its_cases(listed: Path) -> None:
    at = opened(run="beta", fold="1", true="normal", predicted="pneumonia")
    table = runs.open_run(listed / "beta").results(1)
    cases = int(((table["true"] == "normal") & (table["predicted"] == "pneumonia")).sum())
    assert cases > 0
    assert at.subheader[0].value == f"True normal, predicted pneumonia: {cases} cases"


def test_choosing_a_fold_goes_into_the_url(listed: Path) -> None:
    at = opened(run="alpha")
    at.selectbox(key="runs-fold").set_value("3").run()
    assert not at.exception
    assert at.query_params["fold"] == "3"
    assert "fold 3** · 60 cases" in text_of(at)


def test_hostile_url_is_ignored(listed: Path) -> None:
    at = opened(
        run="<script>", fold="99", true="../x", predicted="normal", compare="'", threshold="nan", at="normal",
        panel="\x00", page="-1",
    )  # fmt: skip
    assert at.selectbox(key="runs-run").value == "alpha"
    assert at.selectbox(key="runs-fold").value == "all"
    assert not at.subheader
    assert "decisions as stored" in text_of(at)
    assert "names a run that is not here" in at.warning[0].value and "script" not in text_of(at)


def test_damaged_runs_say_so_and_the_others_list(listed: Path) -> None:
    at = opened()
    assert len(at.error) == 1
    assert "run.json" in at.error[0].value
    assert len(at.selectbox(key="runs-run").options) == 4
    at = opened(run="torn")
    assert [("torn" in e.value, "damaged" in e.value) for e in at.error] == [(False, True), (True, True)]


def test_overlapping_groups_withhold_intervals(listed: Path) -> None:
    at = opened(run="crossing", panel="Compare", compare="beta")
    assert any("several folds" in w.value and "Intervals are withheld" in w.value for w in at.warning)
    assert set(metrics_of(at)["95 % interval"]) == {""}
    assert any("Tests are withheld" in w.value for w in at.warning)
    alone = opened(run="crossing", fold="0")
    assert metrics_of(alone).iloc[0]["95 % interval"] != ""


def test_no_run_tells_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "FOLDER", tmp_path)
    monkeypatch.delenv("CXNET_RUNS", raising=False)
    at = opened()
    assert "no stored run" in at.info[0].value
    assert "runs import" in at.code[0].value
    words = at.code[0].value.splitlines()[0].split()
    assert words[:4] == ["python", "-m", "cxnet", "train"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    TrainingSettings(Path("x"), options["--architecture"], options["--recipe"], Path(options["--out"]))  # known names


@pytest.mark.parametrize("panel", ["ROC", "Precision–recall", "Calibration", "Training"])
@pytest.mark.parametrize("fold", ["", "2"])
def test_panels_draw(listed: Path, panel: str, fold: str) -> None:
    at = opened(run="alpha", panel=panel, fold=fold)
    assert len(at.get("plotly_chart")) == (2 if panel == "Training" else 1)


def test_one_class_sources_are_called_out(listed: Path) -> None:
    at = opened(run="alpha", panel="Sources and views")
    assert any("“set of one class”" in w.value and "hospital c" not in w.value for w in at.warning)
    by_source = next(d.value for d in at.dataframe if "Source" in d.value.columns)
    assert by_source["n"].sum() == 300


def test_moved_operating_point_is_labelled_and_taken_back(listed: Path) -> None:
    at = opened(run="alpha", at="COVID-19", threshold="0.05", panel="ROC")
    assert "Operating point moved" in at.info[0].value
    table = runs.open_run(listed / "alpha").table
    called = int((table["probability COVID-19"] >= 0.05).sum())
    frame = metrics_of(at)
    precision = frame[(frame["Class"] == "COVID-19") & (frame["Figure"] == "precision")].iloc[0]
    assert precision["Cases"].endswith(f"/ {called}")
    at.button(key="runs-reset").click().run()
    assert "threshold" not in at.query_params and "at" not in at.query_params
    assert "decisions as stored" in text_of(at)
    at.slider(key="runs-threshold").set_value(0.9).run()
    assert (at.query_params["at"], at.query_params["threshold"]) == ("COVID-19", "0.90")


def test_decisions_at_a_threshold_by_hand(listed: Path) -> None:
    selection = _run_data.select(runs.open_run(listed / "alpha"), 0)
    p = selection.probabilities
    assert p is not None
    assert (_run_data.decide(selection, None) == p.argmax(axis=1)).all()
    assert (_run_data.decide(selection, ("normal", 0.0)) == 1).all()
    never = _run_data.decide(selection, ("normal", 1.0))
    assert (never == np.where(p[:, 0] > p[:, 2], 0, 2)).all()


def test_comparison_pairs_cases_by_hand(listed: Path) -> None:
    first, second = (_run_data.select(runs.open_run(listed / name), None) for name in ("alpha", "beta"))
    paired = _run_data.compare(first, second)
    assert isinstance(paired, _run_data.Paired)
    a, b = first.table.set_index("case"), second.table.set_index("case").loc[first.table["case"]]
    right_a, right_b = (a["true"] == a["predicted"]).to_numpy(), (b["true"] == b["predicted"]).to_numpy()
    name, mcnemar, adjusted = paired.tests[0]
    assert (name, mcnemar.statistic) == ("accuracy", min((right_a & ~right_b).sum(), (right_b & ~right_a).sum()))
    assert adjusted is not None and mcnemar.p_value is not None and adjusted >= mcnemar.p_value
    assert {test.name for _, test, _ in paired.tests} == {"exact McNemar test", "corrected resampled t test"}
    only_b = _run_panels.disagreements(paired, CLASSES, "only B is right")
    assert set(only_b["case"]) == set(a.index[~right_a & right_b])
    unequal = (a["predicted"].to_numpy() != b["predicted"].to_numpy()).sum()
    assert len(_run_panels.disagreements(paired, CLASSES)) == unequal > len(only_b)
    in_fold = _run_data.compare(_run_data.select(first.run, 1), second)
    assert isinstance(in_fold, _run_data.Paired)
    assert [test.name for _, test, _ in in_fold.tests] == ["exact McNemar test"] + 3 * ["DeLong's test"]


def test_the_probability_of_a_disagreement_is_that_of_the_class_called(tmp_path: Path) -> None:
    """Somebody else's decisions need not be the most probable class."""
    columns = {"case": ["1"], "true": ["a"], "probability a": [0.6], "probability b": [0.4]}
    pair = []
    for name, called in (("own", "b"), ("other", "a")):
        info = {"classes": ["a", "b"]}
        run = runs.write_run(tmp_path / name, info, {0: pd.DataFrame({**columns, "predicted": [called]})})
        pair.append(_run_data.select(run, None))
    paired = _run_data.compare(*pair)
    assert isinstance(paired, _run_data.Paired)
    row = _run_panels.disagreements(paired, ("a", "b")).iloc[0]
    assert (row["A"], row["p of A"], row["B"], row["p of B"]) == ("b", 0.4, "a", 0.6)


def test_runs_without_common_cases_or_classes_are_not_compared(listed: Path, tmp_path: Path) -> None:
    first = _run_data.select(runs.open_run(listed / "alpha"), None)
    table = fold_table(0, 0)[["case", "true", "predicted"]]
    strangers = runs.write_run(
        tmp_path / "strangers", {"classes": CLASSES}, {0: table.assign(case=table.index.astype(str))}
    )
    said = _run_data.compare(first, _run_data.select(strangers, None))
    assert isinstance(said, str) and "share no case" in said
    named = table.replace({"COVID-19": "covid"})
    others = runs.write_run(tmp_path / "others", {"classes": ["covid", *CLASSES[1:]]}, {0: named})
    said = _run_data.compare(first, _run_data.select(others, None))
    assert isinstance(said, str) and "different classes" in said


def test_a_run_of_decisions_only(listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.write_run(tmp_path / "decisions", {"classes": CLASSES}, {0: fold_table(0, 0)[["case", "true", "predicted"]]})
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    at = opened(at="normal", threshold="0.3")
    assert "no curves" in text_of(at) and "moved" not in text_of(at).lower().replace("not moved", "")
    assert "some patients are not known" in text_of(at)


def test_exports_hold_the_counts(listed: Path) -> None:
    matrix = matrix_of(listed, "alpha", None)
    title = 'alpha <&> "all"'
    svg = _run_exports.matrix_svg(matrix.shares, matrix.classes, title, "n")
    words = {text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {title, *CLASSES, *(f"{count:,}" for count in matrix.counts.ravel())} <= words
    picture = Image.open(io.BytesIO(_run_exports.matrix_png(matrix.shares, matrix.classes, title)))
    assert picture.size[0] >= 1000
    assert len(picture.convert("L").getcolors(1 << 20) or []) > 20
    counts = pd.read_csv(io.BytesIO(_run_panels.matrix_csv(matrix)))
    assert (counts[[f"predicted {name}" for name in CLASSES]].to_numpy() == matrix.counts).all()
    moved = matrix_of(listed, "alpha", 1, ("normal", 0.1))
    cell = pd.read_csv(io.BytesIO(_run_panels.cell_csv(moved, ("COVID-19", "normal"))))
    assert len(cell) == moved.counts[0, 1]
    assert (cell["probability normal"] >= 0.1).all() and set(cell["called_here"]) == {"normal"}


def test_intervals_say_that_they_are_over_patients(listed: Path) -> None:
    """Patients of the stored runs have two cases each, of two classes."""
    at = opened(run="alpha", panel="Sources and views")
    kinds = metrics_of(at).set_index(["Class", "Figure"])["Interval, or why none"]
    assert kinds["all", "accuracy"] == kinds["normal", "specificity"] == "patient bootstrap 95 %"
    assert kinds["normal", "sensitivity"] == "Wilson 95 %"  # no patient has two normal cases
    assert text_of(at).count("draw whole patients (150 with 300 cases)") == 2  # figures, and figures by source
    table = runs.open_run(listed / "alpha").table
    own = table[table["source"] == "hospital c"]
    expected = next(
        m for m in patient_metrics(*(own[name].tolist() for name in ("true", "predicted", "group")), CLASSES)
        if m.name == "accuracy"
    )  # fmt: skip
    by_source = next(d.value for d in at.dataframe if "Source" in d.value.columns).set_index("Source")
    assert f"({expected.low:.2f} – {expected.high:.2f})" in by_source.loc["hospital c", "accuracy"]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_takes_long_waits_for_a_button_and_is_a_job(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run_data, "SECONDS_PER_DRAW", 1e-5)
    _run_data._ranked.clear()

    def f1(at: AppTest) -> pd.DataFrame:
        return metrics_of(at).query("Figure == 'macro F1'")

    at = opened(run="alpha")
    assert list(f1(at)["95 % interval"]) == [""] and "not resampled" in f1(at)["Interval, or why none"].iloc[0]
    at.button(key="runs-resample").click().run()
    (job,) = at.session_state["jobs"].values()
    until(lambda: not job.active)
    assert (job.state, job.error) == ("done", None)
    at.run()
    assert not at.exception
    selection = _run_data.select(runs.open_run(listed / "alpha"), None)
    (known,) = (m for m in _run_data.ranked(selection, 500, None) if m.name == "macro F1")
    assert list(f1(at)["95 % interval"]) == [f"{known.low:.3f} – {known.high:.3f}"]
    assert "runs-resample" not in {button.key for button in at.button}


def test_resampling_stops_when_told_and_keeps_nothing(listed: Path) -> None:
    _run_data._ranked.clear()
    selection, cancel = _run_data.select(runs.open_run(listed / "alpha"), None), threading.Event()
    work = _run_data.resampling(selection, 2000, None, cancel)
    trial = next(work)
    threading.Timer(0.3, cancel.set).start()
    assert list(work) == []
    assert 0 < trial.share < 1 and not trial.complete
    done = list(_run_data.resampling(selection, 100, None, threading.Event()))[-1]
    assert done.complete
    assert _run_data.ranked(selection, 100, None) == _run_data._ranked.__wrapped__(selection.key, 100, None, selection)


def test_cells_and_exports_name_their_interval(listed: Path) -> None:
    matrix = matrix_of(listed, "alpha", None)
    assert [[share.numerator for share in line] for line in matrix.shares] == matrix.counts.tolist()
    assert _matrix.unit_of(matrix.shares) == "Ranges: Wilson 95 %."  # one case of a class a patient
    table = runs.open_run(listed / "alpha").table
    answers = [table[name].tolist() for name in ("true", "predicted")]
    shared = cell_shares(*answers, [str(n // 30) for n in range(len(table))], CLASSES)
    told = _matrix.unit_of(shared)
    assert told == "Ranges: patient bootstrap 95 %."
    svg = _run_exports.matrix_svg(shared, CLASSES, "t")
    words = {text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    share = shared[0][1]
    assert {told, f"{100 * share.low:.1f} to {100 * share.high:.1f}"} <= words
    assert "95 % patient bootstrap interval" in _matrix._cell(share, CLASSES[0])["sentence"]
    withheld = matrix_of(listed, "crossing", None).shares
    assert _matrix.unit_of(withheld) == "" and b"Ranges" not in _run_exports.matrix_svg(withheld, CLASSES, "t")
    figures = pd.read_csv(io.BytesIO(_run_panels.figures_csv(matrix)))
    assert figures.set_index("name").loc["accuracy", "interval"] == "patient bootstrap 95 %"


def test_the_link_reopens_the_view(listed: Path) -> None:
    at = opened(run="beta", fold="2", true="normal", predicted="COVID-19", panel="Export", at="normal", threshold="0.3")
    link = at.code[-1].value
    for part in ("run=beta", "fold=2", "true=normal", "predicted=COVID-19", "at=normal", "threshold=0.30"):
        assert part in link


def test_no_framework_is_loaded(listed: Path) -> None:
    """The page itself; the server loads a network beside it for the page Analyse, which is switched off here."""
    code = """
import json, sys
from streamlit.testing.v1 import AppTest
from pages import _session
_session.warm_up = lambda: None
at = AppTest.from_file("app.py", default_timeout=60)
for key, value in {"run": "alpha", "true": "normal", "predicted": "normal", "compare": "beta"}.items():
    at.query_params[key] = value
at.switch_page("pages/runs.py").run()
for panel in ("Calibration", "Compare", "Export"):
    at.query_params["panel"] = panel
    at.run()
    assert not at.exception
assert at.subheader
names = ("tensorflow", "keras", "tf_keras_vis", "torch", "openvino", "lime")
print(json.dumps([name for name in names if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_wrong_reasons_of_an_audited_run(listed: Path) -> None:
    at = opened(run="alpha", panel="Wrong reasons")
    table = pd.read_parquet(listed / "alpha" / "audit-full.parquet")
    right = table[table["error"].isna() & (table["true"] == table["predicted"])]
    wrong = int((right["verdict"] == "wrong reason").sum())
    assert [m.value for m in at.metric][:2] == [f"{len(right):,}", f"{100 * wrong / len(right):.1f} % ({wrong:,})"]
    (rates,) = [d.value for d in at.dataframe if "Wrong reason" in d.value.columns]
    assert rates["Answers"].sum() == table["error"].isna().sum()
    at.segmented_control(key="runs-wrong-by").set_value("source").run()
    (rates,) = [d.value for d in at.dataframe if "Wrong reason" in d.value.columns]
    assert rates["Answers"].sum() == len(right)
    at = opened(run="beta", panel="Wrong reasons")
    assert "no full audit" in text_of(at) and "beta --tier full" in at.code[0].value


def test_disagreements_lead_to_the_cases(listed: Path) -> None:
    at = opened(run="alpha", compare="beta", panel="Compare")
    (found,) = [d.value for d in at.dataframe if "Open in A" in d.value.columns]
    cases = set(runs.open_run(listed / "alpha").table["case"])
    for side, name in (("A", "alpha"), ("B", "beta")):
        links = found[f"Open in {side}"]
        assert len(links) and all(link.startswith(f"./?run={name}&case=") for link in links)
        assert {link.rpartition("=")[2] for link in links} <= cases
