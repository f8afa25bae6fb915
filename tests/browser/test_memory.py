"""What a session held goes when its tab was closed, though nobody else comes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import idle, serve, tab

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
