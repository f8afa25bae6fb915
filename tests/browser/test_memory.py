"""What a session held goes when its tab was closed, though nobody else comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from tests.browser.conftest import TIMEOUT_S, Server, idle, serve, tab

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

#: A page that holds something which tells when it is emptied.
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
import streamlit as st
from pages import _memory

class Told(dict):
    def clear(self):
        Path({told!r}).write_text(str(len(self)))
        super().clear()

_memory.start()
_memory.hold(st.session_state.setdefault("held", Told(radiograph=1)))
st.button("Again")
"""


def test_a_closed_tab_is_emptied_and_an_open_one_is_not(browser: Any, tmp_path: Path) -> None:
    told, script = tmp_path / "told", tmp_path / "held.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2]), told=str(told)), "utf-8")
    with serve(tmp_path, "--server.disconnectedSessionTTL", "2", script=str(script)) as server:
        with tab(browser, server) as page:
            page.goto("/")
            idle(page)
            page.get_by_role("button", name="Again").click()
            idle(page)
            time.sleep(5)
            assert not told.exists()  # the tab is open
        end = time.monotonic() + 20
        while not told.exists() and time.monotonic() < end:
            time.sleep(0.2)
        assert told.read_text() == "1"
    assert "Traceback" not in server.log.read_text()


@contextmanager
def connection(server: Server, session: str = "", run: bool = True) -> Iterator[str]:
    """A connection as a browser's tab makes it, with a run of the page unless not; the session's name."""
    connect = pytest.importorskip("websockets.sync.client", reason="websockets is not installed").connect
    protocols = ["streamlit", "none", *([session] if session else [])]
    url = server.url.replace("http", "ws") + "/_stcore/stream"
    with connect(url, subprotocols=protocols, origin=server.url) as socket:
        if run:
            asked, told = BackMsg(), ForwardMsg()
            asked.rerun_script.query_string = ""
            socket.send(asked.SerializeToString())
            while told.WhichOneof("type") != "new_session":
                told.ParseFromString(socket.recv(timeout=TIMEOUT_S))
            session = told.new_session.initialize.session_id
        yield session


def test_a_connection_that_is_lost_twice_costs_nothing(tmp_path: Path) -> None:
    """The page is not run when the tab comes back, so the server is not asked to hold anything."""
    told, script = tmp_path / "told", tmp_path / "held.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2]), told=str(told)), "utf-8")
    with serve(tmp_path, "--server.disconnectedSessionTTL", "4", script=str(script)) as server:
        with connection(server) as session:
            time.sleep(2)  # the page has been run
        time.sleep(1)
        with connection(server, session, run=False):
            time.sleep(4)
        time.sleep(2)  # by now the session has been away for longer than the server waits, but not at a stretch
        with connection(server, session) as again:
            assert again == session
            time.sleep(1)
            assert not told.exists()
        end = time.monotonic() + 30
        while not told.exists() and time.monotonic() < end:
            time.sleep(0.2)
        assert told.read_text() == "1"
    assert "Traceback" not in server.log.read_text()
