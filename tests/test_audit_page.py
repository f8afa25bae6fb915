"""The page of audits without a browser, on synthetic audits beside synthetic runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from cxnet import runs, wrong_reasons
from pages import _audit_panels
from tests.stored_runs import CLASSES, make_audit, make_run, open_page, text_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audited")
    make_audit(make_run(root, "alpha"))
    beta = make_run(root, "beta", seed=1)
    make_audit(beta, seed=1, cheats=0.1)
    make_audit(beta, "fast", seed=1)
    make_run(root, "gamma")
    torn = make_run(root, "torn", folds=1)
    make_audit(torn)
    (torn.folder / "audit-full.parquet").write_bytes(b"no table")
    return root


@pytest.fixture
def listed(stored: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CXNET_RUNS", str(stored))
    monkeypatch.setattr(runs, "FOLDER", stored / "there are no others")
    return stored


def opened(**query: str) -> AppTest:
    return open_page("audit", **query)


def frame(at: AppTest, column: str) -> pd.DataFrame:
    (found,) = [d.value for d in at.dataframe if column in d.value.columns]
    return found


def gallery_size(at: AppTest) -> str:
    return next(str(m.value) for m in at.markdown if "case" in str(m.value) and "–" in str(m.value)[:12])


def test_headline_tables_charts_and_cards(listed: Path) -> None:
    at = opened(run="alpha")
    table = pd.read_parquet(listed / "alpha" / "audit-full.parquet")
    right = table[table["error"].isna() & (table["true"] == table["predicted"])]
    wrong = right[right["verdict"] == "wrong reason"]
    assert at.metric[0].value == f"{len(right):,}"
    assert at.metric[1].value == f"{100 * len(wrong) / len(right):.1f} % ({len(wrong)})"
    assert "patient bootstrap" in text_of(at) and "7 of 307 cases are not at hand" in text_of(at)
    assert len(at.get("plotly_chart")) == 3
    cells = frame(at, "Undetermined")
    assert cells.iloc[:3, 0].tolist() == [f"{cls} called {cls}" for cls in CLASSES]
    assert cells["Wrong reason"].iloc[:3].sum() == len(wrong)
    properties = frame(at, "Rank-biserial")
    assert properties.iloc[0, 0].endswith("separates") and properties.iloc[0]["Class"] == CLASSES[0]
    assert properties.iloc[0]["Property"].startswith("brightness")
    worst = frame(at, "Why")
    evidence = wrong["strength"].sort_values(ascending=False)
    assert worst["Case"].iloc[0] == f"./?run=alpha&case={wrong.loc[evidence.index[0], 'case']}"
    assert worst["Why"].iloc[0] == "everything but the lungs is enough for the answer"
    (grid,) = at.get("bidi_component")
    cards = json.loads(grid.proto.json)["cards"]
    assert len(cards) == 24 and all("wrong reason" in card["lines"] and card["right"] for card in cards)
    assert frame(at, "error")["error"].tolist() == ["The file is torn; fetch it again."]


def test_by_fold_and_comparison_from_the_url(listed: Path) -> None:
    at = opened(run="alpha", by="fold", compare="beta", show="all")
    folds = frame(at, "Undetermined")
    assert folds["Fold"].tolist() == ["0", "1", "2", "3", "4"]
    found = wrong_reasons.compare(
        *(pd.read_parquet(listed / name / "audit-full.parquet") for name in ("alpha", "beta"))
    )  # fmt: skip
    assert f"alone: **{found.only_first}**" in text_of(at) and "exact McNemar" in text_of(at)
    assert found.only_first > found.only_second
    at.segmented_control(key="audit-by").set_value("view").run()
    assert not at.exception
    assert set(frame(at, "Undetermined")["View"]) == {"AP", "PA"}
    assert at.query_params["by"] == "view"


def test_fast_audit_gives_no_verdict_and_says_what_does(listed: Path) -> None:
    at = opened(run="beta", tier="fast")
    assert not at.metric
    assert "--tier full" in at.code[0].value
    worst = frame(at, "Lift")
    assert worst["z"].is_monotonic_increasing and "Why" not in worst.columns
    at.selectbox(key="audit-tier").set_value("full").run()
    assert not at.exception
    assert at.metric[0].label == "Right answers audited"


def test_agreement_of_grad_cam_and_lime_comes_from_the_audit_that_ran_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    monkeypatch.setattr(runs, "FOLDER", tmp_path / "there are no others")
    run = make_run(tmp_path, "one", folds=2)
    make_audit(run)
    at = opened(run="one")
    assert "python -m cxnet audit one --tier fast --images DIR --out one --lime" in [c.value for c in at.code]
    assert len(at.get("plotly_chart")) == 3
    audit = make_audit(run, "fast", lime=True)
    for tier in ("full", "fast"):
        at = opened(run="one", tier=tier)
        assert not at.exception
        assert ("From this run's fast audit" in text_of(at)) == (tier == "full")
        shown = frame(at, "CAM-LIME, median")
        known = audit.loc[audit["error"].isna(), "cam_lime"]
        first = shown.iloc[0]
        assert (first["Answers"], first["Cases"], first["Undefined"]) == (
            "all",
            known.notna().sum(),
            known.isna().sum(),
        )
        assert first["CAM-LIME, median"].split(" [")[0] == f"{known.median():.2f}".replace("-", "−")
        assert first["Beyond chance"].split(" %")[0] == f"{100 * (known.dropna() > 0.3).mean():.0f}"
        assert first["A blob beyond it"].startswith("0 %")
        assert shown["Answers"].tolist() == [
            "all",
            "right answers",
            "wrong answers",
            *(f"called {cls}" for cls in CLASSES),
        ]


def test_an_audit_with_lime_whose_cases_all_failed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    monkeypatch.setattr(runs, "FOLDER", tmp_path / "there are no others")
    run = make_run(tmp_path, "one", folds=2)
    make_audit(run)
    table = make_audit(run, "fast", lime=True).assign(error="The file is torn; fetch it again.")
    path = run.folder / "audit-fast.parquet"
    table.to_parquet(path)
    info = json.loads(path.with_suffix(".json").read_text("utf-8"))
    path.with_suffix(".json").write_text(json.dumps(info | {"sha256": runs.sha256(path)}), "utf-8")
    at = opened(run="one")
    assert not at.exception and any("No case of that audit has figures" in i.value for i in at.info)


def test_without_an_audit_the_page_says_which_command_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "first", folds=1)
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    monkeypatch.setattr(runs, "FOLDER", tmp_path / "product" / "runs")
    at = opened()
    assert f"python -m cxnet audit {tmp_path / 'first'} --tier full" in at.code[0].value
    monkeypatch.setattr(runs, "FOLDER", tmp_path)  # the product's own run needs no long path
    assert f"python -m cxnet audit {tmp_path.name}/first --tier full" in opened().code[0].value


def test_damaged_audit_is_one_sentence(listed: Path) -> None:
    at = opened(run="torn")
    assert [e.value for e in at.error] == [
        "The audit audit-full.parquet of torn is not the one that its .json describes; copy both, or audit the run again."
    ]


def test_what_the_url_cannot_mean_is_ignored(listed: Path) -> None:
    at = opened(run="<script>", tier="slow", by="../x", show="9", zones="verdict", compare="alpha")
    assert at.selectbox(key="audit-run").value == "alpha"
    assert frame(at, "Undetermined").columns[0] == "Cell of the matrix"


def test_null_is_marked_and_every_case_is_in_the_bars() -> None:
    rows = pd.DataFrame({"lift": [0.0, 0.5, 1.0, 3.9, None], "verdict": ["none found"] * 2 + ["wrong reason"] * 3})
    figure = _audit_panels.histogram(rows, "lift", "lift", 1.0, "even map", None)
    assert sum(int(np.sum(bar.y)) for bar in figure.data) == 4
    assert [shape.x0 for shape in figure.layout.shapes] == [1.0]


def test_the_gallery_of_runs_filters_by_the_stored_verdict(listed: Path) -> None:
    for run, there in (("alpha", True), ("gamma", False), ("torn", False)):  # audited, not audited, damaged audit
        at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
        for key, value in {"run": run, "true": "COVID-19", "predicted": "COVID-19"}.items():
            at.query_params[key] = value
        at.switch_page("pages/runs.py").run()
        assert not at.exception
        found = [box for box in at.selectbox if box.label == "Verdict"]
        assert bool(found) == there, run
        if there:
            assert {"wrong reason", "none found"} <= set(found[0].options)


@pytest.mark.parametrize(("asked", "told"), [("nobody", "not here"), ("gamma", "no audit yet"), ("beta", None)])
def test_a_link_to_a_run_without_an_audit_says_so(listed: Path, asked: str, told: str | None) -> None:
    at = opened(run=asked)
    links = [warning.value for warning in at.warning if "The link names" in warning.value]
    assert [told in link for link in links] == ([True] if told else [])
