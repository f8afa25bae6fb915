"""Edits on the page Analyse: they are the library's edits, and the figures are the network's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from cxnet.analysis import Analysis, Models, Settings, analyse, load_models
from cxnet.audit import find_markers, hide, lung_region, pad_border, remove
from cxnet.audit.opacities import DRAWN, STRENGTH, add_opacity
from cxnet.classifier import softmax
from cxnet.explain.lime import LimeSettings
from cxnet.lungs import LungMask
from cxnet.phantom import SAMPLES
from cxnet.radiograph import Radiograph
from cxnet.thresholds import thresholds
from cxnet.verdict import Evidence, Verdict
from pages import _jobs, _session, _whatif
from pages._viewer import _box
from pages._whatif import KINDS, Request, audit_steps, control_boxes, in_words, try_edit

APP = str(Path(__file__).parents[1] / "app.py")
BOX = (20, 30, 90, 110)


@cache
def models() -> Models:
    return load_models()


@cache
def analysed(name: str = "normal-marker", size: int = 320) -> Analysis:
    pixels = next(sample for sample in SAMPLES if sample.name == name).make(size).pixels
    return analyse(Radiograph(pixels, "0" * 64, "synthetic"), models(), Settings())


def by_hand(kind: str) -> np.ndarray:
    """The edited radiograph, by the library's functions."""
    pixels, lungs = analysed().radiograph.pixels, analysed().lungs.mask
    box = np.zeros(pixels.shape, bool)
    box[30:110, 20:90] = True
    edits: dict[str, Callable[[], np.ndarray]] = {
        "marker": lambda: remove(pixels, find_markers(pixels).mask),
        "background": lambda: hide(pixels, ~lung_region(lungs, "hull"), "mean"),
        "lungs": lambda: hide(pixels, lung_region(lungs, "hull"), "mean"),
        "border": lambda: pad_border(pixels, 0.05),
        "box": lambda: hide(pixels, box, "mean"),
        "opacity": lambda: add_opacity(pixels, analysed().lungs.mask, DRAWN[0], STRENGTH),
    }
    return edits[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_the_networks_for_the_edited_picture(kind: Any) -> None:
    found = try_edit(analysed(), models(), Request(kind, box=BOX, controls=2))
    edited = by_hand(kind)
    np.testing.assert_array_equal(found.pixels, edited)
    classifier = models().classifier
    direct = classifier.predict(classifier.prepare(edited)).probabilities
    np.testing.assert_allclose(found.recompute, direct, atol=1e-4)
    np.testing.assert_array_equal(found.before, analysed().prediction.probabilities)
    assert found.area == pytest.approx((edited != analysed().radiograph.pixels).mean())
    assert len(found.controls) == (0 if kind in ("background", "lungs", "opacity") else 2)
    assert (found.frozen is None) == (kind == "opacity")
    p, q = (probabilities[found.classes.index(found.target)] for probabilities in (found.before, direct))
    assert found.drop == pytest.approx(np.log(p / (1 - p)) - np.log(q / (1 - q)), abs=1e-3)


def test_frozen_edits_the_enhanced_picture() -> None:
    analysis = analysed()
    found = try_edit(analysis, models(), Request("box", box=BOX, controls=1))
    mask = np.zeros(analysis.radiograph.pixels.shape, bool)
    mask[30:110, 20:90] = True
    stack = np.stack([hide(np.ascontiguousarray(c), mask, "mean") for c in analysis.stack.transpose(2, 0, 1)], axis=-1)
    np.testing.assert_allclose(found.frozen, softmax(models().classifier.logits(stack[None])[0]), atol=1e-4)


def test_modes_that_differ_are_flagged() -> None:
    found = try_edit(analysed(), models(), Request("box", box=BOX, controls=1))
    told = replace(found, recompute=np.array([0.6, 0.3, 0.1]), frozen=np.array([0.45, 0.35, 0.2]))
    assert told.disagreeing == (found.classes[0],)


def test_what_is_undefined_says_why() -> None:
    plain = analysed("normal")
    smooth = cv2.GaussianBlur(plain.radiograph.pixels, (0, 0), 6)
    unmarked = replace(plain, radiograph=Radiograph(smooth, "1" * 64, "synthetic"))
    assert try_edit(unmarked, models(), Request("marker")).reason == _whatif.NO_MARKER
    assert try_edit(plain, models(), Request("box")).reason == _whatif.NO_BOX
    blind = replace(plain, lungs=LungMask(np.zeros(plain.lungs.mask.shape, bool)))
    for kind in ("lungs", "background"):
        found = try_edit(blind, models(), Request(kind))
        assert (found.reason, found.recompute) == (_whatif.NO_LUNGS, None)
    assert try_edit(blind, models(), Request("opacity")).reason == _whatif.NO_TWO_LUNGS
    everything = try_edit(plain, models(), Request("box", box=(0, 0, 320, 320)))
    assert (everything.controls, everything.controls_reason) == ((), _whatif.NO_ROOM)


@given(st.data())
def test_control_boxes_are_like_the_box_and_elsewhere(data: st.DataObject) -> None:
    lungs = np.zeros((60, 80), bool)
    lungs[15:45, 10:35] = lungs[15:45, 45:70] = True
    left, top = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 40))
    right, bottom = data.draw(st.integers(left + 1, min(80, left + 30))), data.draw(st.integers(top + 1, top + 20))
    found = control_boxes((left, top, right, bottom), lungs, 4, np.random.default_rng(0))
    assert len(set(found)) == len(found)
    assert len(found) in (0, 4)
    own = lungs[top:bottom, left:right].mean()
    for x, y, end_x, end_y in found:
        assert (end_x - x, end_y - y) == (right - left, bottom - top)
        assert 0 <= x < end_x <= 80
        assert 0 <= y < end_y <= 60
        assert end_x <= left or x >= right or end_y <= top or y >= bottom
        assert abs(lungs[y:end_y, x:end_x].mean() - own) <= 0.1 + 1e-9


@pytest.mark.parametrize(
    ("sent", "box"),
    [
        ({"radiograph": "a", "box": [1, 2, 3, 4]}, (1, 2, 3, 4)),
        ({"radiograph": "a", "box": [0, 0, 10, 20]}, (0, 0, 10, 20)),
        ({"radiograph": "b", "box": [1, 2, 3, 4]}, None),
        ({"radiograph": "a", "box": [1, 2, 11, 4]}, None),
        ({"radiograph": "a", "box": [3, 2, 3, 4]}, None),
        ({"radiograph": "a", "box": [-1, 2, 3, 4]}, None),
        ({"radiograph": "a", "box": [1.5, 2, 3, 4]}, None),
        ({"radiograph": "a", "box": [True, 2, 3, 4]}, None),
        ({"radiograph": "a", "box": "1234"}, None),
        ("a", None),
        (None, None),
    ],
)
def test_a_browser_may_send_anything(sent: Any, box: Any) -> None:
    assert _box(sent, "a", 10, 20) == box


@pytest.mark.parametrize(
    ("difference", "words"),
    [(0.0, "about the same"), (-0.05, "slightly lower"), (0.2, "clearly higher"), (-0.9, "far lower")],
)
def test_words(difference: float, words: str) -> None:
    assert in_words(difference) == words


class CornerReader:
    """A network that calls a picture by its upper left corner alone."""

    def __init__(self) -> None:
        self.card = models().classifier.card
        self.classes = self.card.classes
        self.asked = 0

    def prepare(self, pixels: Any, enhancement: Any = None) -> Any:
        return models().classifier.prepare(pixels, enhancement)

    def logits(self, stacks: Any) -> Any:
        self.asked += len(stacks)
        corner = stacks[:, 30:60, 8:50, 0].max(axis=(1, 2)).astype(np.float32)
        return np.stack([corner / 20 - 6, 0 * corner, 0 * corner], axis=1)


def test_verdict_as_work_counts_and_accuses_a_network_that_reads_the_corner() -> None:
    reader: Any = CornerReader()
    steps = audit_steps(analysed(), Models(reader, models().segmenter), threading.Event())
    first = next(steps)
    assert (first.shown, first.complete) == (0, False)
    last = next(steps)
    assert last.complete
    assert last.audit is not None
    assert last.shown == reader.asked == last.audit.passes
    assert last.audit.verdict.name == "wrong reason"
    assert last.audit.verdict.evidence.marker is not None
    assert last.audit.verdict.evidence.marker > 3  # the marker alone speaks for the class


def test_verdict_stops_between_network_calls() -> None:
    cancel = threading.Event()
    reader: Any = CornerReader()
    original = reader.logits

    def logits(stacks: Any) -> Any:
        cancel.set()
        return original(stacks)

    reader.logits = logits
    steps = list(audit_steps(analysed(), Models(reader, models().segmenter), cancel))
    assert len(steps) == 1
    assert not steps[0].complete
    assert 0 < steps[0].shown == reader.asked <= 8


def open_page(sample: str = "normal-marker") -> AppTest:
    at = AppTest.from_file(APP, default_timeout=120)
    at.query_params["sample"] = sample
    at.run()
    assert not at.exception
    return at


def press(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click().run()
    assert not at.exception
    return at


def named(at: AppTest, index: str) -> list[pd.DataFrame]:
    """The tables of a page whose rows have this name."""
    return [table.value for table in at.table if table.value.index.name == index]


def test_buttons_of_the_page() -> None:
    at = open_page()
    assert not named(at, "Class")
    for kind in ("lungs", "border"):
        press(at, f"whatif-{kind}")
        kept = list(at.session_state["whatif-outcomes"].values())[-1]
        assert kept.request == Request(kind)
        (table,) = named(at, "Class")
        assert list(table["Before"]) == [f"{p:.3f}" for p in kept.before]
        assert list(table["After"]) == [f"{p:.3f}" for p in kept.recompute]
        assert list(table["After, frozen"]) == [f"{p:.3f}" for p in kept.frozen]
        assert any(m.value.startswith(f"**{KINDS[kind]}**") for m in at.markdown)
    assert any("**5 control edits** of the same area" in m.value for m in at.markdown)
    at.selectbox(key="set-whatif-opacity").set_value(DRAWN[1]).run()
    press(at, "whatif-opacity")
    assert list(at.session_state["whatif-outcomes"].values())[-1].request == Request("opacity", number=DRAWN[1])
    assert any(_whatif.DRAWN_BEFORE in caption.value for caption in at.caption)
    press(at, "whatif-box")
    assert any(_whatif.NO_BOX in info.value for info in at.info)
    assert not named(at, "Class")
    next(b for b in at.button if b.label == "Forget everything").click().run()
    assert "whatif-outcomes" not in at.session_state


@cache
def accused() -> Any:
    """What the tests say of the network that reads the corner."""
    reader: Any = CornerReader()
    *_, trial = audit_steps(analysed(), Models(reader, models().segmenter), threading.Event())
    return trial


def test_verdict_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tests that come back at once; the real ones are run in a browser."""
    trial = accused()
    ready = threading.Event()

    def steps(*_: Any) -> Any:
        yield SimpleNamespace(shown=40, audit=None, complete=False)
        ready.wait(60)
        yield trial

    monkeypatch.setattr(_whatif, "audit_steps", steps)
    at = press(open_page(), "run-verdict")
    time.sleep(0.3)
    at.run()
    assert at.button(key="cancel-verdict")
    ready.set()
    time.sleep(0.5)
    at.run()
    assert not at.exception
    verdict = trial.audit.verdict
    alerts = [*at.error, *at.warning, *at.info]
    assert any(_whatif.VERDICTS[verdict.name] in alert.value for alert in alerts)
    assert any("the map key" in m.value and "the causal key" in m.value for m in at.markdown)
    assert any("No wrong reason found is not a right reason proven" in c.value for c in at.caption)
    assert any(f"version {verdict.thresholds_version}" in c.value for c in at.caption)
    (tests,) = named(at, "Causal test")
    assert list(tests.index) == [*_whatif.TESTS, "without lungs"]
    assert not [b for b in at.button if b.key == "run-verdict"]


# --------------------------------------------------------------------------------------------- the verdict and LIME

SHORT = Settings(methods=("grad-cam", "lime"), superpixels=10, lime=LimeSettings(samples=16, stop_when_stable=False))


@cache
def with_lime() -> Analysis:
    *_, found = _jobs.lime_steps(analysed(), models(), SHORT, threading.Event())
    return found


def unfinished(analysis: Analysis) -> Analysis:
    partial = replace(analysis.explanations["lime"], finished=False)
    return replace(analysis, explanations={**analysis.explanations, "lime": partial})


def set_otherwise(analysis: Analysis, **changes: Any) -> Analysis:
    return replace(analysis, settings=replace(analysis.settings, **changes))


def test_a_verdict_belongs_to_finished_maps_and_what_they_come_from() -> None:
    key, quick, done = partial(_session.maps_key, "verdict"), analysed(), with_lime()
    other = {"lime": LimeSettings(samples=100), "superpixels": 20}
    without = {key(quick), key(unfinished(done)), key(set_otherwise(quick, **other)), key(done, lime=False)}
    assert len(without) == 1
    others = [done, set_otherwise(done, **other), set_otherwise(quick, seed=1), set_otherwise(quick, target="Normal")]
    assert len({*without, *map(key, others)}) == 5


def test_tests_that_run_without_limes_map_can_still_be_cancelled_when_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A waiting LIME of other settings gives its place in the queue to a new one, which then is before the tests."""
    job = _jobs.Job(kind="verdict", partial=accused())
    jobs = {_session.maps_key("verdict", analysed()): job}
    monkeypatch.setattr(_session, "job_of", jobs.get)
    assert _whatif._verdict_job(with_lime()) is job
    job._state = "done"
    assert _whatif._verdict_job(with_lime()) is None
    assert _whatif.audit_of(with_lime()) is None
    assert _whatif.audit_of(unfinished(with_lime())) is job.partial.audit


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A LIME that waits half way until it may go on, or is cancelled. Its map is another radiograph's."""
    found = threading.Event()

    def steps(quick: Analysis, networks: Models, settings: Settings, cancel: threading.Event) -> Any:
        done = with_lime()
        done = replace(quick, settings=settings, explanations=done.explanations, scores=done.scores)
        yield unfinished(done)
        while not found.wait(0.02):
            if cancel.is_set():
                return
        yield done

    monkeypatch.setattr(_jobs, "lime_steps", steps)
    monkeypatch.setattr(_whatif, "audit_steps", lambda *_: iter([accused()]))
    yield found
    found.set()


def when(at: AppTest, true: Callable[[_jobs.Job], Any]) -> AppTest:
    """The page as soon as its last job is as it should be."""
    job = list(at.session_state["jobs"].values())[-1]
    end = time.monotonic() + 60
    while not true(job):
        assert time.monotonic() < end
        time.sleep(0.02)
    at.run()
    assert not at.exception
    return at


def keys(at: AppTest) -> list[str]:
    return [button.key for button in at.button]


def judged(at: AppTest) -> bool:
    return any(_whatif.VERDICTS["wrong reason"] in error.value for error in at.error)


def test_the_reason_is_not_tested_while_lime_runs(go: threading.Event) -> None:
    at = when(press(open_page(), "run-lime"), lambda job: job.partial)
    assert "cancel-lime" in keys(at)
    assert at.button(key="run-verdict").disabled
    assert any(caption.value.startswith("LIME is at work") for caption in at.caption)
    go.set()
    when(at, lambda job: not job.active)
    assert not at.button(key="run-verdict").disabled
    (job,) = at.session_state["jobs"].values()
    job._state = "running"
    press(at, "run-verdict")  # a click that was on its way when LIME was started
    assert len(at.session_state["jobs"]) == 1 and at.button(key="run-verdict").disabled
    job._state = "done"
    at.run()
    assert judged(when(press(at, "run-verdict"), lambda job: not job.active))


def test_a_verdict_stays_until_lime_has_finished(go: threading.Event) -> None:
    at = when(press(open_page(), "run-verdict"), lambda job: not job.active)
    assert judged(at)
    when(press(at, "run-lime"), lambda job: job.partial)
    assert "cancel-lime" in keys(at) and judged(at)
    when(press(at, "cancel-lime"), lambda job: not job.active)
    assert "run-lime" in keys(at) and judged(at) and "run-verdict" not in keys(at)
    go.set()
    when(press(at, "run-lime"), lambda job: job.state == "done")
    assert not judged(at) and not at.button(key="run-verdict").disabled
    assert any("test again to have it judged as well" in info.value for info in at.info)


def test_the_table_of_evidence_says_which_tests_were_not_made_and_why() -> None:
    evidence = Evidence(None, 0.1, 0.2, None, None, without_lungs=-1.0, moved=3.0)
    lungs_only = Verdict("none found", False, False, (), evidence, 2.0, thresholds().version, True, "lung-mask")
    turns = _whatif.evidence_rows(lungs_only)["Turns"]
    assert {name for name in turns.index if turns[name].startswith("from ")} == {"marker", "border", "without lungs"}
    assert turns["background"] == turns["appearance"] == "not asked of a network that is shown nothing but the lungs"
    assert turns["opacity"] == "not asked of an answer that names a finding"
    assert turns["border"] == f"from {2 * thresholds().finding['border']:.2f}"
    normal = _whatif.evidence_rows(replace(lungs_only, finding=False, region="full"))["Turns"]
    assert normal["border"] == f"from {2 * thresholds().no_finding['border']:.2f}"
    assert normal["background"] == normal["without lungs"] == "not asked of an answer that names no finding"
