"""The pages without a browser: what they show, and that they show it without an exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest
from streamlit.testing.v1 import AppTest

from cxnet import report
from cxnet.phantom import make_phantom
from pages import _jobs

APP = str(Path(__file__).parents[1] / "app.py")


def new() -> AppTest:
    return AppTest.from_file(APP, default_timeout=60)


def output_of(at: AppTest) -> str:
    """The sentence that tells the network's output."""
    (sentence,) = [m.value for m in at.markdown if m.value.startswith("Model output for")]
    return str(sentence)


def test_empty_state() -> None:
    at = new().run()
    assert not at.exception
    assert "synthetic sample" in at.info[0].value
    assert len(at.get("plotly_chart")) == 1  # what the network reached; it also has the chart library loaded early


def test_sample_of_the_url_and_preprocessing() -> None:
    at = new()
    at.query_params["sample"] = "normal"
    at.run()
    assert not at.exception
    assert len(at.get("plotly_chart")) == 1
    chart, sentence = at.get("plotly_chart")[0].proto.spec, output_of(at)
    next(box for box in at.checkbox if box.label == "Equalise histogram").check().run()
    assert not at.exception
    assert (at.get("plotly_chart")[0].proto.spec, output_of(at)) != (chart, sentence)


def test_about() -> None:
    at = new().run().switch_page("pages/about.py").run()
    assert not at.exception
    assert at.title[0].value == "About cxnet"
    assert at.dataframe


def test_a_page_opened_first_goes_through_the_navigation() -> None:
    at = new().switch_page("pages/about.py").run()
    assert not at.exception
    assert at.title[0].value == "About cxnet"


def test_forget_empties_the_session() -> None:
    at = new().run()
    png = cv2.imencode(".png", make_phantom(1, 320).pixels)[1].tobytes()
    at.file_uploader[0].upload("one.png", png, "image/png").run()
    assert not at.exception
    assert at.session_state["case"].startswith("upload:")
    assert len(at.session_state["uploads"]) == len(at.session_state["analyses"]) == 1
    job = _jobs.Job()
    at.session_state["jobs"]["key"] = job
    key = at.file_uploader[0].key
    # the test runner formats values outside of the session, where there are no uploads; it takes titles as they are
    picker = at.selectbox(key="case")
    picker.set_value(picker.options[0])
    next(button for button in at.button if button.label == "Forget everything").click().run()
    assert not at.exception
    assert job.cancel.is_set()
    assert at.file_uploader[0].key != key
    assert not at.file_uploader[0].value
    assert at.session_state["case"] is None
    for name in ("uploads", "analyses", "jobs", key):
        assert name not in at.session_state or not at.session_state[name]
    assert "synthetic sample" in at.info[0].value


def test_a_full_server_is_told_beside_the_button(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> _jobs.Job:
        raise _jobs.TooManyJobs("Too many jobs.")

    at = new()
    at.query_params["sample"] = "normal"
    at.run().file_uploader[0].upload("one.png", b"no picture", "image/png").run()
    (refused,) = [error.value for error in at.error]
    with monkeypatch.context() as patched:
        patched.setattr(_jobs, "submit", full)
        at.button(key="run-lime").click().run()
    assert not at.exception
    assert [error.value for error in at.error] == [refused, "Too many jobs."]
    assert [error.value for error in at.run().error] == [refused]  # what was said of the click is past


def _one_map(r2: float) -> None:
    import numpy as np

    from cxnet.explain import Explanation
    from pages import _panels

    _panels._fidelity(Explanation("lime", "Normal", np.zeros((4, 4), np.float32), r2_held_out=r2, samples=16))


def test_how_far_a_map_is_trusted_is_the_reports_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "LOW_R2", 0.8)
    monkeypatch.setattr(report, "WEAK_R2", 0.9)
    found = []
    for r2 in (0.79, 0.8, 0.89, 0.9):
        at = AppTest.from_function(_one_map, args=(r2,)).run()
        assert not at.exception
        found.append((len(at.error), len(at.warning)))
    assert found == [(1, 0), (0, 1), (0, 1), (0, 0)]
