"""Journeys through the page of audits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import Server, choose, idle, serve
from tests.stored_runs import make_audit, make_run

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The dashboard with two audited runs; at the end its log must hold no traceback."""
    root = tmp_path_factory.mktemp("runs")
    alpha = make_run(root, "alpha")
    make_audit(alpha)
    make_audit(alpha, "fast")
    make_audit(make_run(root, "beta", seed=1), seed=1, cheats=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXNET_RUNS", str(root))
        with serve(tmp_path_factory.mktemp("server")) as found:
            yield found
    assert "Traceback" not in found.log.read_text(), found.log.read_text()


def open_page(page: Any, address: str) -> None:
    page.goto(address)
    expect(page.locator(".js-plotly-plot")).to_have_count(3)
    idle(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_choices_go_to_the_url_and_back_undoes_them(page: Any) -> None:
    open_page(page, "/audit?run=alpha")
    expect(page.get_by_text("of these for a wrong reason")).to_be_visible()
    page.get_by_role("radio", name="Source", exact=True).click()
    expect(page).to_have_url(re.compile("by=source"))
    idle(page)
    choose(page, "Other run", re.compile("^beta"))
    expect(page.get_by_text("exact McNemar test")).to_be_visible()
    expect(page).to_have_url(re.compile("compare=beta"))
    idle(page)
    page.go_back()
    expect(page.get_by_text("exact McNemar test")).to_have_count(0)
    expect(page).to_have_url(re.compile("by=source"))
    idle(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_card_leads_to_the_case(page: Any) -> None:
    open_page(page, "/audit?run=alpha")
    card = page.locator("ul.cards a").first
    expect(card).to_contain_text("wrong reason")
    assert re.fullmatch(r"\./\?run=alpha&case=[0-9a-f]{64}", card.get_attribute("href"))
    card.click()
    expect(page).to_have_url(re.compile(r"/\?run=alpha&case=[0-9a-f]{64}"))
    page.go_back()
    expect(page.get_by_text("of these for a wrong reason")).to_be_visible()


def test_narrow_page_does_not_scroll_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    open_page(page, "/audit?run=alpha&compare=beta")
    width, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner + 2
