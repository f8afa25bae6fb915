"""Journeys through the page of stored runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import cv2
import pandas as pd
import pytest

from cxnet import runs
from cxnet.phantom import make_phantom
from tests.browser.conftest import Server, choose, idle, serve
from tests.stored_runs import make_run

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The dashboard with two runs; at the end its log must hold no traceback."""
    root = tmp_path_factory.mktemp("runs")
    make_run(root, "alpha")
    make_run(root, "beta", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXNET_RUNS", str(root))
        with serve(tmp_path_factory.mktemp("server")) as found:
            yield found
    assert "Traceback" not in found.log.read_text(), found.log.read_text()


def cell(page: Any, row: int, column: int) -> Any:
    """A cell of the first matrix; it lives in a shadow root, into which playwright looks."""
    return page.locator(f'button.cell[data-row="{row}"][data-column="{column}"]')


def open_page(page: Any, address: str) -> None:
    page.goto(address)
    expect(page.locator('.matrix[data-ready="3"]').first).to_be_visible()
    idle(page)


def see_cell(page: Any, true: str, predicted: str) -> None:
    expect(page.get_by_role("heading", name=f"True {true}, predicted {predicted}")).to_be_visible()
    idle(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_corner_cells_by_mouse_and_back_twice(page: Any) -> None:
    open_page(page, "/runs?run=alpha")
    for row, column, true, predicted in ((0, 2, "COVID-19", "pneumonia"), (2, 0, "pneumonia", "COVID-19")):
        box = cell(page, row, column).bounding_box()
        # the outermost corner of the table, not the middle of the cell
        page.mouse.click(box["x"] + (box["width"] - 3 if column else 3), box["y"] + (box["height"] - 3 if row else 3))
        see_cell(page, true, predicted)
        expect(cell(page, row, column)).to_have_attribute("aria-pressed", "true")
        assert f"true={true}" in page.url and f"predicted={predicted}" in page.url
    page.go_back()
    see_cell(page, "COVID-19", "pneumonia")
    expect(cell(page, 0, 2)).to_have_attribute("aria-pressed", "true")
    expect(cell(page, 2, 0)).to_have_attribute("aria-pressed", "false")
    page.go_back()
    expect(page.get_by_role("heading", name="True COVID-19")).to_have_count(0)
    idle(page)
    expect(page.locator('button.cell[aria-pressed="true"]')).to_have_count(0)
    assert "true=" not in page.url


def test_keyboard_only(page: Any) -> None:
    open_page(page, "/runs?run=alpha")
    for _ in range(60):
        page.keyboard.press("Tab")
        inside = page.evaluate(
            "() => { let e = document.activeElement; while (e && e.shadowRoot) e = e.shadowRoot.activeElement;"
            " return e ? e.className : '' }"
        )
        if inside == "cell":
            break
    expect(cell(page, 0, 0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(cell(page, 1, 1)).to_be_focused()
    page.keyboard.press("End")
    expect(cell(page, 1, 2)).to_be_focused()
    page.keyboard.press("Enter")
    see_cell(page, "normal", "pneumonia")
    expect(cell(page, 1, 2)).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("heading", name="True normal")).to_have_count(0)
    expect(page.locator('button.cell[aria-pressed="true"]')).to_have_count(0)


def test_deep_link_cold(page: Any) -> None:
    open_page(page, "/runs?run=beta&fold=1&true=pneumonia&predicted=normal&panel=Compare&compare=alpha")
    see_cell(page, "pneumonia", "normal")
    expect(cell(page, 2, 1)).to_have_attribute("aria-pressed", "true")
    name = cell(page, 2, 1).get_attribute("aria-label")
    assert re.match(r"True pneumonia, predicted normal: \d+ of 20, [\d.]+ % \(95 % Wilson interval", name)
    expect(page.get_by_text("60 shared cases", exact=True)).to_be_visible()
    expect(page.locator(".matrix[data-ready]")).to_have_count(3)
    assert page.locator('button.cell[aria-pressed="true"]').count() == 1


def test_slider_moves_the_matrix_and_is_taken_back(page: Any) -> None:
    open_page(page, "/runs?run=alpha")
    before = cell(page, 0, 0).inner_text()
    page.get_by_role("slider").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("Operating point moved")).to_be_visible()
    idle(page)
    moved = cell(page, 0, 0).inner_text()
    assert moved != before
    assert re.search(r"threshold=0\.4\d", page.url)
    page.get_by_role("button", name="Back to stored decisions").click()
    expect(page.get_by_text("Operating point moved")).to_have_count(0)
    expect(cell(page, 0, 0)).to_have_text(re.compile(before.split()[0]))


def test_narrow_page_does_not_scroll_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    open_page(page, "/runs?run=alpha&true=normal&predicted=normal&panel=Export")
    width, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner + 2
    table = page.locator(".matrix").first
    assert table.evaluate("box => box.scrollWidth <= box.clientWidth + 2")


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[str]]]:
    """The dashboard with a run whose radiographs are at hand, and the ids of its only cell's cases by rising z."""
    root = tmp_path_factory.mktemp("pictured")
    (root / "pictures").mkdir()
    cases = []
    for number in range(3):
        path = root / "pictures" / f"{number}.png"
        cv2.imwrite(str(path), make_phantom(20 + number, 320).pixels)
        cases.append(runs.sha256(path))
    table = pd.DataFrame(
        {
            "case": cases, "file": [f"{number}.png" for number in range(3)], "group": ["a", "b", "c"],
            "true": ["Normal"] * 3, "predicted": ["COVID-19"] * 3, "z": [0.5, -2.0, 1.5], "lift": [0.8, 1.2, 1.9],
            "in_lung": [0.2, 0.3, 0.6], "probability COVID-19": [0.9, 0.7, 0.8],
            "probability Normal": [0.1, 0.3, 0.2],
        }
    )  # fmt: skip
    runs.write_run(root / "stored" / "pictured", {"classes": ["COVID-19", "Normal"]}, {0: table})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXNET_RUNS", str(root / "stored"))
        patch.setenv("CXNET_IMAGES", str(root / "pictures"))
        with serve(tmp_path_factory.mktemp("server")) as found:
            yield found, [cases[1], cases[0], cases[2]]
    assert "Traceback" not in found.log.read_text(), found.log.read_text()


def test_open_a_cell_sort_open_a_case_and_back_twice(browser: Any, pictured: tuple[Server, list[str]]) -> None:
    server, by_z = pictured
    context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(f"{server.url}/runs?run=pictured")
    expect(page.locator(".matrix[data-ready]").first).to_be_visible()
    idle(page)
    cell(page, 1, 0).click()
    see_cell(page, "Normal", "COVID-19")
    links = page.locator("ul.cards a")
    expect(links).to_have_count(3)
    assert [case in links.nth(n).get_attribute("href") for n, case in enumerate(by_z)] == [True] * 3

    choose(page, "Sort", re.compile("Highest lift", re.IGNORECASE))
    expect(links.first).to_have_attribute("href", re.compile(by_z[2]))
    idle(page)
    sorted_view = page.url
    links.first.click()
    expect(page.locator(".viewer[data-view]")).to_be_visible()
    idle(page)
    assert f"case={by_z[2]}" in page.url
    expect(page.get_by_text("Model output for")).to_be_visible()

    page.go_back()
    see_cell(page, "Normal", "COVID-19")
    expect(links.first).to_have_attribute("href", re.compile(by_z[2]))
    assert page.url == sorted_view
    page.go_back()
    see_cell(page, "Normal", "COVID-19")
    expect(links.first).to_have_attribute("href", re.compile(by_z[0]))
    context.close()
