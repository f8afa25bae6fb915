"""Charts of all pages can be read in both themes: WCAG 2.2, criterion 1.4.3, from the colours that Chromium computes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import Server, idle
from tests.test_viewer import contrast

TEXT = ".xtick text, .ytick text, .xtitle, .ytitle, .annotation-text, .legendtext, .bartext"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_in_charts_stands_out(browser: Any, server: Server, theme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=server.url, color_scheme=theme)
    context.set_default_timeout(60_000)
    page = context.new_page()
    for name in ("exam", "audit", "runs", "about"):
        page.goto(f"/{name}")
        page.locator(".js-plotly-plot .xtick text").first.wait_for()
        idle(page)
        ground = page.get_by_test_id("stApp").evaluate("app => getComputedStyle(app).backgroundColor")
        colours = page.locator(".js-plotly-plot").locator(TEXT).evaluate_all(
            "all => all.filter((one) => one.textContent.trim()).map((one) => getComputedStyle(one).fill)"
        )  # fmt: skip
        assert len(colours) > 5 and min(contrast(colour, ground) for colour in colours) >= 4.5, name
    context.close()
