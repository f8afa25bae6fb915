"""Journey: do the maps follow the network?"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.conftest import idle

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

SLOW_MS = 120_000


def test_maps_are_tested(page: Any) -> None:
    page.goto("/?sample=normal&model=base-cnn-v2%2Ffold-0")  # the fastest network
    expect(page.locator('.viewer[data-panels="3"][data-view]')).to_be_visible()
    idle(page)
    start = page.get_by_role("button", name="Test the maps")
    expect(start).not_to_be_visible()
    page.get_by_text("Do the maps follow the network?").click()
    start.click()
    expect(page.get_by_text("Every map is held against the same 19 random orders")).to_be_visible(timeout=SLOW_MS)
    idle(page)  # the timer has ended
    section = page.locator(".st-key-maps-section")
    expect(section.get_by_role("listitem")).to_have_text(re.compile("Grad-CAM.*(beats all 19|chance order|undefined)"))
    expect(start).not_to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)
