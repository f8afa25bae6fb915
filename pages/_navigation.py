"""Page set-up and navigation, the same whichever page a browser opens first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from pages import _session

ICON = Path(__file__).with_name("icon.png")


def build() -> Any:
    """Page configuration and navigation; the chosen page."""
    st.set_page_config(page_title="cxnet", page_icon=str(ICON), layout="wide")
    st.session_state["_entered"] = True
    _session.hold_settings()
    return st.navigation(
        [
            st.Page("pages/analyse.py", title="Analyse", default=True),
            st.Page("pages/runs.py", title="Runs"),
            st.Page("pages/audit.py", title="Audit"),
            st.Page("pages/exam.py", title="Exam"),
            st.Page("pages/published.py", title="Published"),
            st.Page("pages/teach.py", title="Teach"),
            st.Page("pages/about.py", title="About"),
        ],
        position="top",
    )


def require_entry() -> None:
    """First line of every page.

    While a ``pages`` folder stands beside ``app.py``, a fresh server runs a page file directly when it is the first
    thing that a browser asks for. This sends such a run through the navigation, keeping page and query.
    """
    if not st.session_state.get("_entered"):
        build()
        st.rerun()
