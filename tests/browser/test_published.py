"""The page of published runs in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.browser.conftest import choose, idle

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

LINK = "/published?study=haghanifar-2022&model=COVID-CXNet+multiclass"


def see_no_error(page: Any) -> None:
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)


def see_no_sideways_scroll(page: Any) -> None:
    for box in ("document.documentElement", "document.querySelector('[data-testid=stMain]')"):
        wide, seen = page.evaluate(f"[{box}.scrollWidth, {box}.clientWidth]")
        assert wide <= seen + 2


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
    idle(page)


def test_a_link_then_another_run_then_back_then_claims_and_note(page: Any) -> None:
    page.goto(LINK)
    matrix = page.locator('.matrix[data-ready="3"]')
    expect(matrix).to_contain_text("894")
    expect(matrix.locator("button")).to_have_count(0)  # there are no cases behind the cells
    expect(page.get_by_text("2,028 radiographs.")).to_be_visible()
    idle(page)
    see_no_error(page)
    expect(page.get_by_role("link", name="doi:10.48550/arXiv.2006.13807")).to_have_attribute(
        "href", "https://doi.org/10.48550/arXiv.2006.13807"
    )

    choose(page, "Network", re.compile("^COVID-CXNet v1$"))
    expect(page.get_by_text("726 radiographs.")).to_be_visible()
    expect(page.locator('.matrix[data-ready="2"]')).to_contain_text("641")
    expect(page).to_have_url(re.compile(r"model=COVID-CXNet\+v1"))
    page.go_back()
    expect(page.get_by_text("2,028 radiographs.")).to_be_visible()
    expect(page).to_have_url(re.compile(r"model=COVID-CXNet\+multiclass"))

    open_tab(page, "All claims")
    choose(page, "Verdict", "✗ does not follow")
    expect(page.get_by_text("2 of 294 claims.")).to_be_visible()
    page.keyboard.press("Escape")
    idle(page)  # until then the button may be the previous run's
    with page.expect_download() as download:
        page.get_by_role("button", name="Download these claims").click()
    table = pd.read_csv(Path(download.value.path()), dtype=str)
    assert table["Printed"].tolist() == ["99.56 %", "94.20 %"]

    open_tab(page, "Teaching note")
    expect(page.get_by_text("830 have")).to_be_visible()  # 127 of 153 alarms
    slider = page.get_by_role("slider").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("Of 100,000 people tested 5,000 have it")).to_be_visible()
    idle(page)  # meanwhile there are two charts
    expect(page.locator(".js-plotly-plot")).to_be_visible()
    idle(page)
    see_no_error(page)


def test_narrow_page_does_not_scroll_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    page.goto("/published?study=rahimzadeh-attar-2020&model=Concatenated&fold=1")
    expect(page.locator('.matrix[data-ready="3"]')).to_be_visible()
    idle(page)
    see_no_sideways_scroll(page)
    open_tab(page, "All claims")
    expect(page.get_by_text("294 of 294 claims.")).to_be_visible()
    see_no_sideways_scroll(page)
    open_tab(page, "Teaching note")
    expect(page.locator(".js-plotly-plot")).to_be_visible()
    see_no_sideways_scroll(page)
    see_no_error(page)


def test_hostile_url_shows_the_default(page: Any) -> None:
    page.goto("/published?study=<script>&model=../x&fold=%27")
    expect(page.get_by_text("11,302 radiographs.")).to_be_visible()
    idle(page)
    see_no_error(page)
