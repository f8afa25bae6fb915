"""A journey through the page that judges several radiographs."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from cxnet.analysis import NOTICE
from tests.browser.conftest import idle
from tests.browser.test_analyse import png, see_no_error, see_viewer

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def test_drop_several_and_open_one(page: Any) -> None:
    page.goto("/")
    expect(page.get_by_text("or start with a synthetic sample")).to_be_visible()
    page.get_by_role("link", name="Batch", exact=True).click()
    expect(page.get_by_role("button", name="Try with the eight synthetic samples")).to_be_visible()
    idle(page)
    files = [png(7) | {"name": "ZZTESTPHI.png"}, png(8), {**png(9), "buffer": b"no picture at all"}]
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(files)
    expect(page.get_by_text(re.compile("File 3: This is no PNG"))).to_be_visible()
    page.get_by_role("button", name="Judge 2 radiographs").click()
    expect(page.get_by_text(re.compile("The maps of . of 2 radiographs lie in"))).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    idle(page)
    table = page.get_by_test_id("stDataFrame")
    expect(table).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    with page.expect_download() as download:
        page.get_by_role("button", name="Table (CSV)").click()
    text = Path(download.value.path()).read_text("utf-8-sig")
    rows = list(csv.DictReader(text.splitlines()))
    assert download.value.suggested_filename == "audit-fast.csv" and "ZZTESTPHI" not in text
    assert len(rows) == 2 and all(row["notice"] == NOTICE and row["error"] == "" for row in rows)
    first = min(rows, key=lambda row: float(row["lift"]))

    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    page.mouse.click(box["x"] + 18, box["y"] + 52)  # the tick of the first line, drawn on a canvas
    see_viewer(page)
    idle(page)
    expect(page.get_by_text("Model output for")).to_contain_text(
        f"{first['predicted']}: {float(first['probability ' + first['predicted']]):.3f}"
    )
    expect(page.get_by_test_id("stException")).to_have_count(0)

    page.get_by_role("link", name="Batch", exact=True).click()  # its rows are still there, and nothing is opened again
    expect(page.get_by_text(re.compile("The maps of . of 2 radiographs lie in"))).to_be_visible()
    idle(page)
    page.get_by_role("button", name="Forget everything").click()
    expect(page.get_by_role("button", name="Try with the eight synthetic samples")).to_be_visible()
    idle(page)
    see_no_error(page)
    expect(page.get_by_test_id("stDataFrame")).to_have_count(0)
