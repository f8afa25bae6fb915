"""Page set-up and navigation, the same whichever page a browser opens first; and who may open any page at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages import _server, _session, _welcome

ICON = Path(__file__).with_name("icon.png")


def build() -> Any:
    """Page configuration and navigation; the chosen page. Nobody sees other pages' names before the gate."""
    st.set_page_config(page_title="cxnet", page_icon=str(ICON), layout="wide")
    st.session_state.setdefault(_welcome.ENTERED, "navigation")
    _session.hold_settings()
    chosen = st.navigation(
        [
            st.Page("pages/analyse.py", title="Analyse", default=True),
            st.Page("pages/batch.py", title="Batch"),
            st.Page("pages/runs.py", title="Runs"),
            st.Page("pages/audit.py", title="Audit"),
            st.Page("pages/exam.py", title="Exam"),
            st.Page("pages/published.py", title="Published"),
            st.Page("pages/teach.py", title="Teach"),
            st.Page("pages/about.py", title="About"),
        ],
        position="top" if _logged_in() and _welcome.accepted() else "hidden",
    )
    if chosen.url_path != "batch":  # who ticked a line and went elsewhere at once has changed his mind
        st.session_state.pop("batch-opens", None)
    return chosen


def require_entry() -> None:
    """First line of every page: nothing of it runs before login, where one is configured, and the accept gate.

    While a ``pages`` folder stands beside ``app.py``, a fresh server runs a page file directly when it is the first
    thing that a browser asks for. This sends such a run through the navigation, keeping page and query.
    """
    if not st.session_state.get(_welcome.ENTERED):
        build()
        st.rerun()
    if not _logged_in():
        _login()
        st.stop()
    if not _welcome.accepted():
        _welcome.gate()
        st.stop()
    context = get_script_run_ctx()
    if context is not None:
        _server.let_in(context.session_id)
    if st.user.get("is_logged_in"):
        st.sidebar.button("Log out", key="log-out", on_click=st.logout)
    _welcome.remember()
    _welcome.tour()


def _logged_in() -> bool:
    """Whether this user is logged in, or nobody need be.

    Without ``[auth]`` in the secrets Streamlit does not have the key. It cannot tell secrets that were lost from none,
    so an operator may say that login is required.
    """
    return bool(st.user.get("is_logged_in", os.environ.get("CXNET_LOGIN") != "required"))


def _login() -> None:
    st.title("cxnet", anchor=False)
    st.markdown("Research and teaching only; not a medical device. This server asks you to log in.")
    if "is_logged_in" not in st.user:
        st.error(
            "Nobody can log in: CXNET_LOGIN is required but the server's secrets have no [auth] that can be read; the "
            "operator has to mend secrets.toml.",
            icon=":material/error:",
        )
        return
    named = [name for name, entry in st.secrets["auth"].items() if isinstance(entry, Mapping)]
    for provider in named or [None]:
        title = "Log in" if provider is None else f"Log in with {provider}"
        st.button(title, key=f"log-in-{provider}", type="primary", on_click=st.login, args=(provider,))
