"""Journeys: draw a box and see what it changes; test the reason; plant a shortcut by a link."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.browser.conftest import idle

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

SLOW_MS = 300_000  # the tests of a reason show the network almost a hundred pictures
SIDE = 640  # of the samples


def see_viewer(page: Any, panels: int) -> Any:
    found = page.locator(f'.viewer[data-panels="{panels}"][data-view]')
    expect(found).to_be_visible()
    idle(page)
    return found


def test_looking_is_private_and_a_box_is_hidden(page: Any) -> None:
    sent: list[Any] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.goto("/?sample=normal-marker")
    viewer = see_viewer(page, 3)
    canvas = viewer.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    before = len(sent)
    canvas.hover()
    page.mouse.wheel(0, -300)
    expect(viewer).to_have_attribute("data-view", re.compile(r'"zoom":1\.\d'))
    canvas.focus()
    for key in ("0", "b", "Escape", "b"):
        page.keyboard.press(key)
    expect(viewer).to_have_class(re.compile("drawing"))
    canvas.click()  # a click is no box
    expect(viewer).to_have_class(re.compile("drawing"))
    idle(page)
    assert before and len(sent) == before, "looking must not reach the server"

    place = canvas.bounding_box()
    page.mouse.move(place["x"] + 0.10 * place["width"], place["y"] + 0.10 * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + 0.25 * place["width"], place["y"] + 0.30 * place["height"], steps=4)
    page.mouse.up()
    expect(viewer).not_to_have_class(re.compile("drawing"))
    box = json.loads(viewer.get_attribute("data-box"))
    assert box == pytest.approx([0.10 * SIDE, 0.10 * SIDE, 0.25 * SIDE, 0.30 * SIDE], abs=3)
    expect(page.get_by_text(re.compile(r"Hide the box: [23]\.\d % of the picture changed"))).to_be_visible()
    idle(page)
    assert len(sent) > before
    expect(page.get_by_text("5 control edits")).to_be_visible()

    page.get_by_role("button", name="Blank the lungs").click()
    expect(page.get_by_text(re.compile("Blank the lungs: .* of the picture changed"))).to_be_visible()
    idle(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_box_by_keyboard(page: Any) -> None:
    page.goto("/?sample=normal")
    viewer = see_viewer(page, 3)
    viewer.locator("canvas").first.focus()
    for key in ("b", "Enter"):
        page.keyboard.press(key)
    expect(viewer).to_have_attribute("data-box", json.dumps([160, 160, 480, 480]).replace(" ", ""))
    expect(page.get_by_text(re.compile(r"Hide the box: 2[45]\.\d % of the picture changed"))).to_be_visible()


def test_verdict(page: Any) -> None:
    page.goto("/?sample=normal-marker")
    see_viewer(page, 3)
    page.get_by_role("button", name="Test the reason").click()
    expect(page.get_by_text(re.compile(r"[1-9]\d* edited pictures shown so far"))).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_text("Thresholds, version")).to_be_visible(timeout=SLOW_MS)
    idle(page)
    expect(page.get_by_text("the causal key")).to_be_visible()
    expect(page.get_by_text("No wrong reason found is not a right reason proven").first).to_be_visible()
    page.get_by_role("button", name="Blank the background").click()  # the verdict stays beside another question
    expect(page.get_by_text(re.compile("Blank the background: .* of the picture changed"))).to_be_visible()
    expect(page.get_by_text("Thresholds, version")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_link_to_a_planted_shortcut(page: Any) -> None:
    page.goto("/teach?plant=stripes&strength=75&sample=consolidation")
    see_viewer(page, 4)
    expect(page.get_by_text(re.compile("Bright stripes, 75 %, changes"))).to_be_visible()
    assert all(part in page.url for part in ("plant=stripes", "strength=75", "sample=consolidation"))
    page.get_by_role("tab", name="Read first").click()
    see_viewer(page, 1)
    page.get_by_test_id("stRadio").get_by_text("Normal", exact=True).click()
    page.get_by_role("button", name="Commit").click()
    expect(page.get_by_text("The network says")).to_be_visible()
    see_viewer(page, 2)
    expect(page.get_by_test_id("stException")).to_have_count(0)
