"""What a reader's work leaves in the log: events, and nothing of the reader's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
from streamlit.testing.v1 import AppTest

from cxnet.errors import WeightsError
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


def jobs_of(kept: Kept, count: int) -> list[tuple[str, str, str | None, bool]]:  # noqa: F811
    """Kind, state, error, and whether it has seconds, of so many events of jobs."""
    end = time.monotonic() + 20
    while len(kept.lines) < count and time.monotonic() < end:
        time.sleep(0.02)
    lines = [json.loads(line) for line in kept.lines]
    assert {line["event"] for line in lines} == {"job"}
    return [(line["kind"], line["state"], line.get("error"), "seconds" in line) for line in lines]


def test_a_job_that_fails_leaves_the_type_of_its_error(kept: Kept) -> None:  # noqa: F811
    def work(error: Exception) -> Iterator[None]:
        yield None
        raise error

    runner = _jobs.Runner()
    try:
        runner.submit(lambda cancel: work(WeightsError("ZZTESTPHI")), "a", "lime")
        jobs_of(kept, 3)
        runner.submit(lambda cancel: work(KeyError("ZZTESTPHI")), "a", "verdict")
        said = jobs_of(kept, 6)
    finally:
        runner.close()
    assert said == [
        (kind, *rest)
        for kind, error in (("lime", "WeightsError"), ("verdict", "KeyError"))
        for rest in (("queued", None, False), ("running", None, False), ("failed", error, True))
    ]
    assert "ZZTESTPHI" not in "".join(kept.lines)


def test_a_job_that_is_cancelled_while_it_waits_says_so_once(kept: Kept) -> None:  # noqa: F811
    def endless(cancel: threading.Event) -> Iterator[None]:
        yield None
        cancel.wait(20)

    runner = _jobs.Runner()
    try:
        running = runner.submit(endless, "a", "lime")
        jobs_of(kept, 2)
        waiting = runner.submit(endless, "b", "verdict")
        runner.cancel(waiting)
        runner.cancel(waiting)
        runner.cancel(running)
        said = jobs_of(kept, 5)
    finally:
        runner.close()
    assert said[2:] == [
        ("verdict", "queued", None, False), ("verdict", "cancelled", None, False), ("lime", "cancelled", None, True),
    ]  # fmt: skip
