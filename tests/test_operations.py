"""What an operator relies on: the log, the container file, the guide."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pages import _server_log

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "operations.md").read_text("utf-8")
CONTAINER = (ROOT / "Containerfile").read_text("utf-8")


class Kept(logging.Handler):
    """Keeps lines instead of writing them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_server_log.Lines())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    handler, log = Kept(), logging.getLogger("cxnet.events")
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "level", logging.INFO)
    monkeypatch.setattr(log, "propagate", False)
    log.manager._clear_cache()  # type: ignore[attr-defined]
    return handler


def test_event_is_one_line(kept: Kept) -> None:
    _server_log.event("upload", outcome="accepted", format="DICOM", size=_server_log.size_class(3 * 2**20))
    (line,) = kept.lines
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "info", "event": "upload", "outcome": "accepted", "format": "DICOM", "size": "<5 MB",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "name"),
    [(0, "<1 MB"), (2**20 - 1, "<1 MB"), (2**20, "<5 MB"), (5 * 2**20, "<20 MB"), (20 * 2**20, ">20 MB")],
)
def test_size_class(size: int, name: str) -> None:
    assert _server_log.size_class(size) == name


def test_duration_and_type_of_an_error(kept: Kept) -> None:
    with _server_log.timed("analysis", network="base-cnn-v2/fold-3"):
        pass
    with pytest.raises(ValueError, match="ZZTESTPHI"), _server_log.timed("analysis"):
        raise ValueError("ZZTESTPHI")
    first, second = (json.loads(line) for line in kept.lines)
    assert first["network"] == "base-cnn-v2/fold-3" and 0 <= first["seconds"] < 1 and "error" not in first
    assert second["error"] == "ValueError"
    assert "ZZTESTPHI" not in kept.lines[1]


@settings(max_examples=50)
@given(st.text(max_size=80))
def test_only_words_get_in(text: str) -> None:
    found = _server_log._word(text)
    assert found == text or found == "?"
    assert len(found) <= 40 and found.isascii() and not re.search(r"[\n\"'{}\\^=;:]", found)


def test_event_refuses_other_facts() -> None:
    with pytest.raises(TypeError):
        _server_log.event("upload", file_name="DOE^JOHN.dcm")  # type: ignore[call-arg]


def run(code: str, **environment: str) -> list[str]:
    """What a fresh process writes to stderr."""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"PATH": "", "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return found.stderr.splitlines()


CODE = """
import logging
import sys
import threading
from streamlit import error_util
from pages import _server_log
_server_log.start()
_server_log.start()
def page():
    raise RuntimeError("DOE^JOHN.dcm")
try:
    page()
except RuntimeError as error:
    error_util._log_uncaught_app_exception(error)
    logging.getLogger("cxnet").exception("A job failed")
timer = threading.Timer(0, page)
timer.start()
timer.join()
threading.Thread(target=sys.exit).start()
"""


def test_log_of_a_process_has_types_of_errors_but_no_message() -> None:
    lines = run(CODE, CXNET_LOG="json")
    start, *errors = (json.loads(line) for line in lines)
    assert start["event"] == "start" and start["version"]
    assert len(errors) == 3  # of a page, a job and a thread
    for found in errors:
        assert (found["event"], found["error"], found["level"]) == ("error", "RuntimeError", "error")
        assert re.fullmatch(r"\S+:\d+", found["at"])
    assert "DOE" not in "".join(lines)


def test_log_is_off_unless_asked_for() -> None:
    code = "from pages import _server_log as log; log.start(); log.event('upload', outcome='refused')"
    assert run(code) == []


def test_place_of_an_error_is_in_our_code() -> None:
    try:
        json.loads("{")
    except ValueError:
        record = logging.LogRecord("cxnet", logging.ERROR, "", 0, "no", None, sys.exc_info())
    found = json.loads(_server_log.Lines().format(record))
    assert found["at"].startswith("tests/test_operations.py:")


# ---------------------------------------------------------------------------------------------------------- container


def test_container_runs_as_nobody_in_particular() -> None:
    users = re.findall(r"^USER (\S+)$", CONTAINER, re.M)
    assert users and users[-1] not in ("root", "0")
    assert CONTAINER.index("\nUSER ") < CONTAINER.index("\nCMD ")
    assert re.search(r"^FROM python:3\.1[1-9]-slim$", CONTAINER, re.M), "a plain image name, no registry's host"
    assert "secret" not in CONTAINER.replace("secrets.toml", "")


def test_health_check_of_the_container(tmp_path: Path) -> None:
    """Its command is run against a server that answers only under the base path."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == "/cxnet/_stcore/health" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        command = json.loads(re.search(r"HEALTHCHECK.*?CMD (\[.*?\])\n", CONTAINER, re.S)[1])[2]  # type: ignore[index]
        command = command.replace(":8501", f":{http.server_port}")
        for base, good in (("cxnet", True), ("/cxnet/", True), ("", False)):
            done = subprocess.run(
                [sys.executable, "-c", command], env={"STREAMLIT_SERVER_BASE_URL_PATH": base}, capture_output=True
            )
            assert (done.returncode == 0) == good, base
        http.shutdown()
    assert asked == ["/cxnet/_stcore/health", "/cxnet/_stcore/health", "/_stcore/health"]


def test_everything_that_is_copied_exists_and_nothing_else_is() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in rules and "**/secrets.toml" in rules
    for rule in rules:
        if rule.startswith("!"):
            assert (ROOT / rule[1:]).exists(), rule


def test_guide_names_every_variable_that_the_server_reads() -> None:
    code = "".join(path.read_text("utf-8") for folder in ("cxnet", "pages") for path in (ROOT / folder).rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"(CXNET_[A-Z]+)\"", code))
    assert {"CXNET_GATE", "CXNET_LOG", "CXNET_LOGIN", "CXNET_IMAGES"} <= read
    for name in read:
        assert f"`{name}" in GUIDE, name


def test_events_of_the_guide_are_those_of_the_code() -> None:
    from typing import get_args

    for name in get_args(_server_log.Event):
        assert f"| `{name}` |" in GUIDE, name


def test_the_soak_fails_when_memory_grows() -> None:
    from benchmarks import soak

    flat = [(25 * step, 500.0 + (step % 2)) for step in range(1, 9)]
    assert soak.grown(500, flat) == []
    jumped = [(n, mib + 150) for n, mib in flat]
    assert soak.grown(500, jumped) == []  # the last is 650 MiB
    assert "grown by 151 MiB" in soak.grown(499, jumped)[0]
    (slope,) = soak.grown(500, [(n, 500 + 0.25 * n) for n, _ in flat])
    assert "grows by 25 MiB per 100 analyses" in slope
