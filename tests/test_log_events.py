"""What a reader's work leaves in the log: events, and nothing of the reader's."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
from streamlit.testing.v1 import AppTest

from cxnet.phantom import make_phantom
from pages import _jobs
from tests.test_operations import Kept, kept  # noqa: F401

APP = str(Path(__file__).parents[1] / "app.py")


def test_events_of_a_journey(kept: Kept) -> None:  # noqa: F811
    at = AppTest.from_file(APP, default_timeout=120).run()
    data = cv2.imencode(".png", make_phantom(77, 320).pixels)[1].tobytes()
    at.file_uploader[0].set_value(
        [("ZZTESTPHI.png", data, "image/png"), ("ZZTESTPHI.dcm", b"ZZTESTPHI" * 9, "text/plain")]
    )
    at.run()
    assert not at.exception
    case = at.session_state["case"].partition(":")[2]
    job = _jobs.runner().submit(lambda cancel: iter([1]), "session", "lime")
    end = time.monotonic() + 20
    while len(kept.lines) < 6 and time.monotonic() < end:
        time.sleep(0.05)
    assert job.state == "done"
    lines = [json.loads(line) for line in kept.lines]
    said = [(line["event"], line.get("outcome") or line.get("state")) for line in lines]
    assert ("upload", "accepted") in said and ("upload", "refused") in said and ("job", "done") in said
    assert [state for event, state in said if event == "job"] == ["queued", "running", "done"]
    (one,) = [line for line in lines if line.get("outcome") == "accepted"]
    assert (one["format"], one["size"]) == ("PNG", "<1 MB")
    assert any(line["event"] == "analysis" and line["seconds"] > 0 for line in lines)
    everything = "".join(kept.lines)
    for private in ("ZZTESTPHI", case, case[:8], ".dcm"):
        assert private not in everything
