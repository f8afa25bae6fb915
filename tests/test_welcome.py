"""The accept gate, login and the tour, without a browser."""

from __future__ import annotations

import ast
from pathlib import Path
from types import MappingProxyType

import pytest
import streamlit as st
from streamlit.runtime.context import StreamlitCookies
from streamlit.testing.v1 import AppTest

from cxnet.phantom import SAMPLES
from pages import _welcome

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "pages").glob("*.py") if not path.name.startswith("_"))
ACCEPT = "I understand, open cxnet"


def new(page: str | None = None) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    return at if page is None else at.switch_page(f"pages/{page}")


def labels(at: AppTest) -> list[str]:
    return [button.label for button in at.button]


def press(at: AppTest, label: str) -> AppTest:
    return next(button for button in at.button if button.label == label).click().run()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXNET_GATE")


def cookies(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    found = StreamlitCookies(MappingProxyType(values))
    monkeypatch.setattr(type(st.context), "cookies", property(lambda self: found))


def test_every_page_asks_first() -> None:
    """Before a page imports or draws anything of its own, it asks whether it may be shown."""
    assert len(PAGES) >= 7
    for name in PAGES:
        tree = ast.parse((ROOT / "pages" / name).read_text("utf-8"))
        body = tree.body[1:]  # after the docstring
        calls = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]
        assert ast.unparse(calls[0]) == "_navigation.require_entry()", name
        before = body[: body.index(calls[0])]
        for node in before:
            if isinstance(node, ast.ImportFrom) and node.module == "pages":
                assert [alias.name for alias in node.names] == ["_navigation"], name


@pytest.mark.parametrize("name", PAGES)
def test_gate_before_every_page_also_cold(name: str, gate: None) -> None:
    at = new(name)
    at.query_params["run"] = "covid-cxnet"
    at.run()
    assert not at.exception
    assert labels(at) == [ACCEPT, "Take the two-minute tour"]
    assert [title.value for title in at.title] == ["cxnet"]
    assert not at.selectbox and not at.dataframe and not at.get("file_uploader")
    assert "Not a medical device" in at.markdown[1].value
    assert "covid-cxnet" in at.query_params["run"]


def test_accepting_opens_the_page_that_was_asked_for(gate: None) -> None:
    at = press(new("about.py").run(), ACCEPT)
    assert not at.exception
    assert at.title[0].value == "About cxnet"
    assert "st-key-gate-cookie" in at.get("html")[0].proto.body
    at.switch_page("pages/exam.py").run()
    assert ACCEPT not in labels(at), "asked once"


def test_forgetting_everything_does_not_forget_that(gate: None) -> None:
    at = press(new("analyse.py").run(), ACCEPT)
    press(at, "Forget everything")
    assert not at.exception
    assert ACCEPT not in labels(at)


@pytest.mark.parametrize(
    ("sent", "asked"),
    [({}, True), ({_welcome.COOKIE: _welcome.VERSION}, False), ({_welcome.COOKIE: "0"}, True), ({"other": "1"}, True)],
)
def test_cookie(sent: dict[str, str], asked: bool, gate: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cookies(monkeypatch, **sent)
    at = new("about.py").run()
    assert not at.exception
    assert (ACCEPT in labels(at)) == asked
    assert not at.get("bidi_component"), "who comes with a cookie, or has not accepted, is sent none"


def test_gate_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXNET_GATE", "off")
    at = new("about.py").run()
    assert at.title[0].value == "About cxnet"
    monkeypatch.setenv("CXNET_GATE", "false")
    assert labels(new("about.py").run())[:1] == [ACCEPT], "only the documented value switches it off"


# -------------------------------------------------------------------------------------------------------------- login


PROVIDER = {"client_id": "x", "client_secret": "x", "server_metadata_url": "https://example.org/.well-known"}


def with_login(name: str, auth: dict[str, object], logged_in: bool = False) -> AppTest:
    """A page on a server with ``[auth]`` in its secrets."""
    at = new(name)
    at.secrets["auth"] = auth
    at.user = {"is_logged_in": logged_in}
    return at.run()


@pytest.mark.parametrize("name", PAGES)
def test_no_page_without_login(name: str) -> None:
    at = with_login(name, PROVIDER)
    assert not at.exception
    assert labels(at) == ["Log in"]
    assert [title.value for title in at.title] == ["cxnet"]
    assert not at.selectbox and not at.dataframe and not at.get("file_uploader") and not at.get("page_link")


def test_login_with_named_providers() -> None:
    at = with_login("about.py", {"redirect_uri": "x", "first": PROVIDER, "second": PROVIDER})
    assert labels(at) == ["Log in with first", "Log in with second"]


def test_who_is_logged_in_sees_the_page_and_can_log_out() -> None:
    at = with_login("about.py", PROVIDER, logged_in=True)
    assert not at.exception
    assert at.title[0].value == "About cxnet"
    assert [button.label for button in at.sidebar.button] == ["Log out"]


def test_login_comes_before_the_gate(gate: None) -> None:
    assert labels(with_login("about.py", PROVIDER)) == ["Log in"]


def test_required_login_without_a_provider_shuts_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit takes secrets that are missing or cannot be read for no login at all."""
    monkeypatch.setenv("CXNET_LOGIN", "required")
    at = new("about.py").run()
    assert not at.exception
    assert not at.button and not at.dataframe
    assert "[auth]" in at.error[0].value


# --------------------------------------------------------------------------------------------------------------- tour


def test_tour_from_the_gate(gate: None) -> None:
    at = new("about.py").run()
    press(at, "Take the two-minute tour")
    assert not at.exception
    assert at.session_state["case"] == f"sample:{_welcome.SAMPLE}"
    assert f"Tour 1 of {len(_welcome.STEPS)}" in at.markdown[0].value


def test_tour_goes_forth_and_back_and_ends() -> None:
    at = press(new().run(), "Take the two-minute tour")
    assert not at.exception
    assert at.session_state["case"] == f"sample:{_welcome.SAMPLE}"
    assert any(m.value.startswith("Model output for") for m in at.markdown), "the sample is analysed beside the tour"
    assert at.button(key="tour-back").disabled
    for number, step in enumerate(_welcome.STEPS, 1):
        assert f"Tour {number} of {len(_welcome.STEPS)}: {step.title}" in at.markdown[0].value
        if number < len(_welcome.STEPS):
            at.button(key="tour-next").click().run()
    assert "Next" not in labels(at)
    at.button(key="tour-back").click().run()
    assert _welcome.STEPS[-2].title in at.markdown[0].value
    at.button(key="tour-end").click().run()
    assert not at.exception
    assert not any("Tour " in m.value for m in at.markdown)
    assert at.session_state["case"] == f"sample:{_welcome.SAMPLE}", "the case stays"


def test_tour_shows_a_marker_and_promises_nothing() -> None:
    sample = next(sample for sample in SAMPLES if sample.name == _welcome.SAMPLE)
    assert sample.make(256).shortcut.any()
    assert 5 <= len(_welcome.STEPS) <= 6
    text = " ".join(step.text for step in _welcome.STEPS)
    assert "No wrong reason found is not a right reason proven" in text
    assert all(len(step.text) < 300 for step in _welcome.STEPS)
