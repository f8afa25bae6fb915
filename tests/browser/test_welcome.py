"""First use in a real browser: the gate, its cookie, and the tour."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from pages._welcome import COOKIE, STEPS
from tests.browser.conftest import Server, idle, serve

ACCEPT = "I understand, open cxnet"

#: Remembers whether the gate was ever drawn, even for one frame.
WATCH_FOR_GATE = """
new MutationObserver(() => {
  if ([...document.querySelectorAll("button")].some((b) => b.textContent.includes("I understand"))) window.__gate = true;
}).observe(document, { childList: true, subtree: true });
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the gate, with its log for machines, and with a home of its own."""
    folder, home = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("home")
    with serve(folder, CXNET_GATE="on", CXNET_LOG="json", HOME=str(home), CI="") as found:
        yield found
    assert not list(home.rglob("*openvino*")), "a library keeps an id to report with"
    text = found.log.read_text()
    assert "Traceback" not in text and '"event": "error"' not in text, text
    assert next(json.loads(line)["event"] for line in text.splitlines() if line.startswith("{")) == "start"


def see_gate(page: Any) -> Any:
    button = page.get_by_role("button", name=ACCEPT)
    expect(button).to_be_visible()
    idle(page)
    return button


def test_gate_by_keyboard_keeps_the_link_and_is_remembered(page: Any) -> None:
    page.goto("/published?paper=none")
    see_gate(page)
    expect(page.get_by_role("link", name="Runs")).to_have_count(0)
    for _ in range(6):  # the first thing that Tab reaches, or nearly so
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == ACCEPT:
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Published runs")).to_be_visible()
    idle(page)
    assert "/published" in page.url
    (cookie,) = [one for one in page.context.cookies() if one["name"] == COOKIE]
    assert cookie["value"] == "1" and cookie["sameSite"] == "Lax"
    page.context.add_init_script(WATCH_FOR_GATE)
    for address in ("/about", "/exam"):
        page.goto(address)
        expect(page.get_by_test_id("stHeading").first).to_be_visible()
        idle(page)
        assert page.evaluate("window.__gate") is None, "it must not even flash"


def test_browser_without_cookies_is_asked_once_a_session(page: Any) -> None:
    page.add_init_script("Object.defineProperty(document, 'cookie', { get: () => '', set: () => {} })")
    page.goto("/about")
    see_gate(page).click()
    expect(page.get_by_role("heading", name="About cxnet")).to_be_visible()
    page.get_by_role("link", name="Published").click()
    expect(page.get_by_role("heading", name="Published runs")).to_be_visible()
    page.goto("/about")
    see_gate(page)


def test_tour(page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto("/")
    see_gate(page)
    page.get_by_role("button", name="Take the two-minute tour").click()
    expect(page.get_by_text("Model output for")).to_be_visible()
    bar = page.locator(".st-key-tour")
    for number, step in enumerate(STEPS, 1):
        expect(bar).to_contain_text(f"Tour {number} of {len(STEPS)}: {step.title}")
        if step.place:
            place = page.locator(step.place).first
            expect(place).to_be_in_viewport()
            page.wait_for_function(
                """(place) => {
                  const bar = document.querySelector(".st-key-tour").getBoundingClientRect();
                  const top = document.querySelector(place).getBoundingClientRect().top;
                  return top > bar.bottom - 4 && top < innerHeight;
                }""",
                arg=step.place,
            )
        expect(bar).to_be_in_viewport()
        if number < len(STEPS):
            page.get_by_role("button", name="Next", exact=True).click()
    page.set_viewport_size({"width": 420, "height": 860})
    idle(page)
    width, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner + 2
    page.get_by_role("button", name="End the tour").click()
    expect(bar).to_have_count(0)
