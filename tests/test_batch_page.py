"""Several radiographs as one job: the rows of the command line, cancel and resume, what one bad radiograph costs."""

from __future__ import annotations

import gc
import io
import itertools
import json
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from cxnet import batch, wrong_reasons
from cxnet.__main__ import main
from cxnet.analysis import NOTICE, Models, load_models
from cxnet.batch import case
from cxnet.errors import RadiographError
from cxnet.phantom import make_phantom
from cxnet.radiograph import Radiograph, open_radiograph
from cxnet.verdict import NAMES
from cxnet.weights import card
from pages import _jobs, _many, _session
from tests.test_whatif import press

APP = str(Path(__file__).parents[1] / "app.py")
SMALL = "base-cnn-v2/fold-0"


def png(seed: int) -> bytes:
    return bytes(cv2.imencode(".png", make_phantom(seed, 256).pixels)[1].tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms as files."""
    root = tmp_path_factory.mktemp("pictures")
    for seed in (0, 1):
        (root / f"{seed}.png").write_bytes(png(seed))
    return root


@cache
def small() -> Models:
    return load_models(SMALL)


def todo_of(folder: Path, tier: wrong_reasons.Tier) -> deque[tuple[_many.Key, Callable[[], Radiograph | None]]]:
    radiographs = [open_radiograph(path) for path in sorted(folder.iterdir())]
    return deque((_many.key_of(one, card(SMALL), tier), lambda one=one: one) for one in radiographs)


def rows_of(found: OrderedDict[Any, _many.Judged]) -> list[batch.Row]:
    return [one.row for one in found.values()]


# -------------------------------------------------------------------------------------------------------- the rows


def test_rows_are_those_of_the_command_line(folder: Path, tmp_path: Path) -> None:
    code = main(
        ["audit", str(folder), "--model", SMALL, "--tier", "full", "--workers", "1", "--out", str(tmp_path / "theirs")]
    )
    assert code == 0
    theirs = wrong_reasons.open_audit(tmp_path / "theirs", "full")
    rows: OrderedDict[Any, _many.Judged] = OrderedDict()
    *_, last = _many.batch_steps(todo_of(folder, "full"), small(), "full", rows, threading.Event())
    assert last.complete and last.share == 1
    (tmp_path / "ours").mkdir()
    for name, content in _many.files(rows_of(rows), card(SMALL), "full").items():
        (tmp_path / "ours" / name).write_bytes(content)
    ours = wrong_reasons.open_audit(tmp_path / "ours", "full")  # so it can be opened as if the command line had made it
    assert ours.table["file"].isna().all()
    assert ours.table["verdict"].tolist() == theirs.table["verdict"].tolist()
    # networks run on one thread there and on all here: sums are taken in another order
    pd.testing.assert_frame_equal(
        ours.table.drop(columns=["file", "facts"]), theirs.table.drop(columns=["file", "facts"]), atol=1e-3
    )
    changing = {"sha256", "errors"}
    assert {k: v for k, v in ours.info.items() if k not in changing} == {
        k: v for k, v in theirs.info.items() if k not in changing
    }
    csv = pd.read_csv(io.BytesIO(_many.csv(rows_of(rows))), encoding="utf-8-sig")
    assert list(csv.columns) == [*theirs.table.columns, "notice"] and set(csv["notice"]) == {NOTICE}
    assert csv["case"].tolist() == theirs.table["case"].tolist()
    assert csv["lift"].tolist() == pytest.approx(theirs.table["lift"].tolist(), abs=1e-3)
    assert csv["thresholds_version"].tolist() == theirs.table["thresholds_version"].tolist()


def test_a_bad_radiograph_costs_its_own_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = todo_of(folder, "fast")
    bad, good = (key.case for key, _ in todo)
    real = case.analyse

    def failing(radiograph: Radiograph, *arguments: Any) -> Any:
        if radiograph.sha256 == bad:
            raise RadiographError("It is bad; take another.")
        return real(radiograph, *arguments)

    monkeypatch.setattr(case, "analyse", failing)
    rows: OrderedDict[Any, _many.Judged] = OrderedDict()
    *_, last = _many.batch_steps(todo, small(), "fast", rows, threading.Event())
    assert last.complete
    assert [row["error"] for row in rows_of(rows)] == ["It is bad; take another.", None]
    by_case = {row["case"]: row for row in rows_of(rows)}
    order = _many.in_order(by_case)
    assert order == [good, bad]
    shown = _many.frame({one: by_case[one] for one in order}, {bad: "Bad", good: "Good"}, "fast")
    assert shown["Note"].tolist() == ["", "It is bad; take another."]
    figures = shown[["Output", "In lungs", "Even map", "Lift", "z"]].isna().all(axis=1)
    assert figures.tolist() == [False, True]
    assert "1 could not be judged" in _many.told(list(by_case.values()), "fast")
    csv = pd.read_csv(io.BytesIO(_many.csv(list(by_case.values()))), encoding="utf-8-sig").set_index("case")
    assert csv.loc[bad, "error"] == "It is bad; take another." and pd.isna(csv.loc[bad, "lift"])


def test_without_lungs_figures_are_undefined_and_say_why() -> None:
    flat = Radiograph(make_phantom(0, 256).pixels * 0 + 90, "0" * 64, "PNG")
    row = batch.audit_radiograph(flat, small(), "fast")
    (line,) = _many.frame({"flat": row}, {"flat": "Flat"}, "fast").to_dict("records")
    assert pd.isna(line["Lift"]) and pd.isna(line["z"]) and line["Lungs"].startswith("doubtful: ")
    assert line["Note"] == f"No figures of the map: {row['map_reason']}."
    assert "1 this is undefined" in _many.told([row], "fast") and "**0** of 0" in _many.told([row], "fast")


# ----------------------------------------------------------------------------------------------------- order, words


def row(lift: float | None, verdict: str | None = None, error: str | None = None) -> batch.Row:
    found: batch.Row = {"lift": lift, "z": lift, "in_lung": lift, "error": error}
    return found | {"verdict": verdict} if verdict else found


ROWS = st.builds(
    row,
    st.none() | st.floats(0, 5),
    st.sampled_from(NAMES),
    st.none() | st.just("no row"),
)


@given(st.lists(ROWS, max_size=8))
def test_the_most_suspicious_comes_first(found: list[batch.Row]) -> None:
    rows = {str(number): one for number, one in enumerate(found)}
    order = _many.in_order(rows)
    assert sorted(order) == sorted(rows)
    for first, second in itertools.pairwise(order):
        a, b = rows[first], rows[second]
        assert (a["error"] is not None) <= (b["error"] is not None)
        if (a["error"] is None) == (b["error"] is None):
            assert NAMES.index(a["verdict"]) <= NAMES.index(b["verdict"])
            if a["verdict"] == b["verdict"]:
                assert b["lift"] is None or (a["lift"] is not None and a["lift"] <= b["lift"])


def test_counts_known_by_hand() -> None:
    full = [row(1.2, "none found"), row(0.5, "wrong reason"), row(None, "undetermined"), row(None, error="no")]
    told = _many.told(full, "full")
    assert "3 radiographs judged: **1** wrong reason · **0** suspicious map · **1** undetermined · **1** none" in told
    assert "1 could not be judged" in told and told.endswith(_many.NOT_PROVEN)
    fast = _many.told([row(1.2), row(0.5), row(0.9), row(None)], "fast")
    assert "**2** of 3 radiographs" in fast and "For 1 this is undefined" in fast and fast.endswith(_many.NOT_PROVEN)


def test_share_known_by_hand() -> None:
    found = _many.Batch("x", "full", total=4, done=1)
    assert found.share == 0.25
    found.count(_many.MOST_SHOWN * 2)  # more than there should be never counts as a radiograph that is done
    assert found.share == pytest.approx((1 + 0.95) / 4) and not found.complete
    assert _many.Batch("x", "fast", total=4, done=1, shown=50).share == 0.25
    assert _many.Batch("x", "fast", total=4, done=4).share == 1


# ------------------------------------------------------------------------------------------------------ the runner


def test_cancel_keeps_rows_and_lets_radiographs_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = todo_of(folder, "full")
    first, _ = todo
    kept = weakref.ref(first[1]())
    rows: OrderedDict[Any, _many.Judged] = OrderedDict()
    jobs: list[_jobs.Job] = []
    runner = _jobs.Runner()

    def count(found: _many.Batch, pictures: int) -> None:
        found.shown += pictures
        if found.done == 1:  # in the midst of the second radiograph
            runner.cancel(jobs[0])

    monkeypatch.setattr(_many.Batch, "count", count)
    go = threading.Event()

    def work(cancel: threading.Event) -> Iterator[_many.Batch]:
        go.wait(30)
        return _many.batch_steps(todo, small(), "full", rows, cancel)

    try:
        jobs.append(runner.submit(work, kind="batch"))
        go.set()
        assert jobs[0].ended.wait(60)
    finally:
        runner.close()
    assert jobs[0].state == "cancelled" and jobs[0].partial.shown == 1
    assert list(rows) == [first[0]] and rows[first[0]].row["verdict"] in NAMES
    del first
    assert kept() is None and not todo


def test_the_fourth_kind_of_a_session_is_refused() -> None:
    runner, go = _jobs.Runner(), threading.Event()

    def wait(cancel: threading.Event) -> Iterator[int]:
        go.wait(30)
        yield 0

    try:
        for kind in ("lime", "verdict", "maps"):
            runner.submit(wait, "reader", kind)
        with pytest.raises(_jobs.TooManyJobs, match="Three jobs"):
            runner.submit(wait, "reader", "batch")
        assert runner.submit(wait, "another", "batch").active
    finally:
        go.set()
        runner.close()


# -------------------------------------------------------------------------------------------------------- the page


def open_page(*files: bytes) -> AppTest:
    at = AppTest.from_file(APP, default_timeout=60).switch_page("pages/batch.py")
    at.session_state["set-model"] = SMALL
    at.run()
    for number, content in enumerate(files):
        at.file_uploader[0].upload(f"{number}.png", content, "image/png")
    if files:
        at.run()
    assert not at.exception
    return at


def when(at: AppTest, true: Callable[[_jobs.Job], Any]) -> AppTest:
    """The page as soon as its batch is as it should be."""
    job = at.session_state["jobs"][_many.JOB]
    end = time.monotonic() + 60
    while not true(job):
        assert time.monotonic() < end
        time.sleep(0.01)
    at.run()
    assert not at.exception
    return at


def test_an_unexpected_error_costs_the_row_of_its_radiograph(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    todo = todo_of(folder, "fast")
    bad = todo[0][0].case
    real = case.analyse

    def failing(radiograph: Radiograph, *arguments: Any) -> Any:
        if radiograph.sha256 == bad:
            raise ValueError("of nobody's making")
        return real(radiograph, *arguments)

    monkeypatch.setattr(case, "analyse", failing)
    rows: OrderedDict[Any, _many.Judged] = OrderedDict()
    *_, last = _many.batch_steps(todo, small(), "fast", rows, threading.Event())
    assert last.complete
    told = "It failed unexpectedly (ValueError); see the server's log."
    assert [row["error"] for row in rows_of(rows)] == [told, None]
    assert "of nobody's making" in caplog.text


def test_radiographs_that_the_tab_has_given_up_are_passed_over(folder: Path) -> None:
    todo = todo_of(folder, "fast")
    first, second = todo
    rows: OrderedDict[Any, _many.Judged] = OrderedDict()
    gone = _many._holder("upload:x", first[1]())  # nobody else keeps it
    steps = deque([(first[0], weakref.ref(first[1]())), second])
    kept = first[1]()
    assert gone() is kept  # as long as the tab does
    del kept, first, todo
    gc.collect()
    assert gone() is None
    *_, last = _many.batch_steps(steps, small(), "fast", rows, threading.Event())
    assert last.complete and last.total == 1 and list(rows) == [second[0]]


def test_a_journey(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    hold, real = threading.Event(), batch.audit_radiograph

    def once(radiograph: Radiograph, models: Models, tier: wrong_reasons.Tier) -> batch.Row:
        seen.append(radiograph.sha256)
        if len(seen) == 2:  # the second waits to be cancelled
            hold.wait(30)
        return real(radiograph, models, tier)

    monkeypatch.setattr(batch, "audit_radiograph", once)
    at = open_page(png(0), png(1), b"no picture")
    assert [error.value[:20] for error in at.error] == ["File 3: This is no P"]
    assert at.button(key="run-batch").label == "Judge 2 radiographs" and not at.dataframe
    when(press(at, "run-batch"), lambda job: len(seen) == 2)
    assert len(at.dataframe[0].value) == 1  # what is there is shown while the other is at work
    job = at.session_state["jobs"][_many.JOB]
    threading.Timer(0.05, hold.set).start()  # a click waits until the work has stopped
    press(at, "cancel-batch")
    when(at, lambda job: not job.active)
    assert job.state == "cancelled" and len(at.dataframe[0].value) == 1
    assert "1 of 2 radiographs done" in at.info[0].value
    assert at.button(key="run-batch").label == "Go on: 1 of 2 left"

    when(press(at, "run-batch"), lambda job: job.state == "done")
    assert len(seen) == 3 and seen[2] == seen[1] != seen[0]  # the first is not done again
    assert len(at.dataframe[0].value) == 2 and "run-batch" not in [button.key for button in at.button]
    assert list(at.dataframe[0].value["Lift"]) == sorted(at.dataframe[0].value["Lift"])
    assert "s each here" in str(at.radio[0].proto.captions)
    assert at.code[0].value == f"python -m cxnet audit FOLDER --model {SMALL} --tier fast --out RESULTS"

    at.radio[0].set_value("full").run()
    assert not at.dataframe and at.button(key="run-batch").label == "Judge 2 radiographs"  # other settings, other rows

    job = _jobs.Job()
    at.session_state["jobs"][_many.JOB] = job
    next(button for button in at.button if button.label == "Forget everything").click().run()
    assert not at.exception and job.cancel.is_set()
    assert not at.dataframe and at.button(key="batch-try")
    for name in ("uploads", "batch-rows", "jobs"):
        assert name not in at.session_state or not at.session_state[name]


def test_samples_start_with_one_click_and_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **more: Any) -> _jobs.Job:
        raise _jobs.TooManyJobs("Three jobs of this tab are under way.")

    monkeypatch.setattr(_session, "sample_phantom", cache(lambda name: _session.SAMPLES_BY_NAME[name].make(160)))
    at = open_page()
    assert "Drop several chest radiographs" in at.info[0].value and not at.radio
    with monkeypatch.context() as patched:
        patched.setattr(_jobs, "submit", full)
        press(at, "batch-try")
    assert [error.value for error in at.error] == ["Three jobs of this tab are under way."]
    assert at.button(key="run-batch").label == "Judge 8 radiographs" and at.toggle(key="set-batch-samples").value

    go = threading.Event()

    def waiting(*_: Any) -> batch.Row:
        go.wait(30)
        return row(1.0) | {"predicted": None, "z": 1.0}

    monkeypatch.setattr(batch, "audit_radiograph", waiting)
    press(at, "run-batch")
    at.toggle(key="set-batch-samples").set_value(False).run()
    assert at.button(key="cancel-batch")  # nothing is listed any more, but it is still at work
    at.session_state["batch-start"] = True
    at.run()
    assert "batch-start" not in at.session_state  # or it would start again after Cancel
    go.set()
    at.toggle(key="set-batch-samples").set_value(True)
    when(at, lambda job: job.state == "done")
    assert len(at.dataframe[0].value) == 8
    assert all(title.startswith("Sample: ") for title in at.dataframe[0].value["Radiograph"])


def test_a_network_that_may_have_been_trained_on_a_case_is_told(folder: Path) -> None:
    radiograph = open_radiograph(folder / "0.png")
    at = AppTest.from_file(APP, default_timeout=60).switch_page("pages/batch.py")
    at.session_state["set-model"] = SMALL
    stored = _session.StoredCase("r", 0, radiograph.sha256, "Normal", radiograph, SMALL)
    at.session_state["stored"] = OrderedDict({f"run:r:{radiograph.sha256}": stored})
    assert not at.run().exception and not at.warning
    at.session_state["set-model"] = "covid-cxnet"
    assert not at.run().exception
    assert "1 of these radiographs was opened from a run" in at.warning[0].value


def test_a_copy_is_judged_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    radiograph = open_radiograph(folder / "0.png")
    monkeypatch.setattr(_session, "cases", lambda: ["upload:a", "run:b", "sample:c"])
    monkeypatch.setattr(_session, "radiograph_of", lambda case: radiograph)
    assert list(_many.listed(samples=False)) == ["upload:a"]


def test_json_has_the_notice() -> None:
    told = json.loads(_many.files([], card(SMALL), "fast")["audit-fast.json"])
    assert told["notice"] == NOTICE and told["models"] == {SMALL: card(SMALL).sha256} and told["cases"] == 0
