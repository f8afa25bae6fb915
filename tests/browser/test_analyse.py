"""Journeys through the page that analyses a radiograph."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import cv2
import pytest

from cxnet.phantom import make_phantom
from tests.browser.conftest import Server, idle
from tests.test_private import patient_dicom
from tests.test_viewer import contrast

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

PATIENT = "ZZTESTPHI"


def png(seed: int) -> dict[str, Any]:
    """A phantom as a file to upload."""
    data = cv2.imencode(".png", make_phantom(seed, 400).pixels)[1].tobytes()
    return {"name": "radiograph.png", "mimeType": "image/png", "buffer": data}


def dicom() -> dict[str, Any]:
    """A phantom as a DICOM file that names a patient wherever a file may."""
    return {"name": "scan.dcm", "mimeType": "application/dicom", "buffer": patient_dicom(PATIENT, 400)}


def upload(page: Any, *files: dict[str, Any]) -> None:
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(list(files))


def see_viewer(page: Any, panels: int = 3) -> Any:
    """The viewer, drawn. It lives in a shadow root; playwright's selectors look into these."""
    found = page.locator(f'.viewer[data-panels="{panels}"][data-view]')
    expect(found).to_be_visible()
    expect(found.locator("canvas")).to_have_count(panels)
    return found


def view_of(page: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.locator(".viewer").get_attribute("data-view"))
    return found


def wait_for_drawing(page: Any, drawn: int) -> None:
    expect(page.locator(f'.viewer[data-drawn="{drawn}"]')).to_have_count(0)


def drawn(page: Any) -> int:
    return int(page.locator(".viewer").get_attribute("data-drawn"))


def see_no_error(page: Any) -> None:
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)


def test_upload_then_lime_then_cancel(page: Any) -> None:
    page.goto("/")
    upload(page, png(7), {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture at all\n" * 40})
    see_viewer(page)
    idle(page)
    expect(page.get_by_test_id("stAlertContentError")).to_have_count(1)
    expect(page.get_by_text(re.compile(r"File \d: This is no PNG"))).to_be_visible()
    expect(page.get_by_test_id("stPlotlyChart")).to_be_visible()
    expect(page.get_by_text("Model output for")).to_be_visible()

    page.get_by_text("LIME", exact=True).first.click()
    page.get_by_text("Stop when the top five have settled").click()
    idle(page)
    page.get_by_role("button", name="Run LIME").click()
    expect(page.get_by_text(re.compile(r"LIME: [1-9]\d* of at most 1000 samples"))).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text(re.compile(r"LIME was stopped after \d+ samples"))).to_be_visible()
    see_viewer(page, panels=4)
    idle(page)
    expect(page.get_by_role("button", name="Run LIME again")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_deep_link_to_a_sample(page: Any) -> None:
    page.goto("/?sample=ground-glass")
    see_viewer(page)
    idle(page)
    see_no_error(page)
    assert "sample=ground-glass" in page.url


def test_hostile_url_shows_the_empty_page(page: Any) -> None:
    page.goto("/?sample=<script>&target=%27&model=../x")
    expect(page.get_by_text("or start with a synthetic sample")).to_be_visible()
    idle(page)
    see_no_error(page)
    expect(page.locator(".viewer")).to_have_count(0)


def test_viewer_by_keyboard(page: Any) -> None:
    sent: list[Any] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.goto("/?sample=normal")
    viewer = see_viewer(page)
    idle(page)
    home = view_of(page)
    before = len(sent)
    viewer.locator("canvas").first.focus()
    for key in ("+", "+", "ArrowLeft", "i"):
        page.keyboard.press(key)
    expect(viewer).to_have_attribute("data-view", re.compile('"invert":true'))
    view = view_of(page)
    assert view["zoom"] == pytest.approx(home["zoom"] * 1.2**2)
    assert view["x"] < home["x"]
    expect(viewer.get_by_role("status")).to_contain_text("Inverted")

    viewer.get_by_label("Map opacity").fill("0.8")
    expect(viewer).to_have_attribute("data-view", re.compile('"opacity":0.8'))
    idle(page)
    assert before and len(sent) == before, "looking must not reach the server"

    drawings = drawn(page)
    view = view_of(page)
    page.get_by_text("Equalise histogram").click()
    wait_for_drawing(page, drawings)
    idle(page)
    assert len(sent) > before
    assert view_of(page) == view


def test_choices_outlive_a_visit_to_another_page(page: Any) -> None:
    page.goto("/?sample=normal")
    see_viewer(page)
    page.get_by_text("Equalise histogram").click()
    idle(page)
    page.get_by_role("link", name="About").click()
    expect(page.get_by_role("heading", name="About cxnet")).to_be_visible()
    idle(page)
    page.get_by_role("link", name="Analyse").click()
    see_viewer(page)
    idle(page)
    expect(page.get_by_role("checkbox", name="Equalise histogram")).to_be_checked()
    see_no_error(page)


def test_narrow_page_does_not_scroll_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    page.goto("/?sample=normal")
    see_viewer(page)
    idle(page)
    width, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner + 2


def test_pictures_are_in_sight_on_a_laptop_and_files_can_still_be_dropped(page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto("/?sample=normal-marker")
    viewer = see_viewer(page)
    idle(page)

    def more_than_half_is_in_sight() -> bool:
        box = viewer.locator("canvas").first.bounding_box()
        return bool(box["y"] + 0.6 * box["height"] < 720)

    assert more_than_half_is_in_sight()
    for seed, name in enumerate(("one.png", "two.png", "three.png")):
        data = base64.b64encode(png(seed)["buffer"]).decode()
        page.get_by_test_id("stFileUploaderDropzone").evaluate(
            """(zone, [name, data]) => {
              const moved = new DataTransfer(), bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
              moved.items.add(new File([bytes], name, { type: "image/png" }));
              zone.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true }));
            }""",
            [name, data],
        )
        expect(page.get_by_text(name)).to_be_visible()
        idle(page)
    expect(page.get_by_role("combobox", name="Radiograph")).to_have_value(re.compile("^Upload 3:"))
    expect(page.get_by_role("button", name="Add files")).to_be_in_viewport()
    assert page.get_by_test_id("stFileUploaderDropzone").bounding_box()["height"] < 90, "one line of files"
    assert more_than_half_is_in_sight()
    see_no_error(page)


#: Elements to the colours of their text and of what it stands on, both opaque.
INK = """all => all.filter((one) => one.innerText.trim()).map((text) => {
  const levels = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const ink = levels(getComputedStyle(text).color);
  let share = ink[3] ?? 1, ground = null;
  for (let one = text; one; one = one.parentElement) {
    const style = getComputedStyle(one), behind = levels(style.backgroundColor);
    share *= Number(style.opacity);
    if (!ground && (behind[3] ?? 1) === 1) ground = behind.slice(0, 3);
  }
  return [ground.map((level, k) => Math.round(share * ink[k] + (1 - share) * level)), ground].map((c) => `rgb(${c})`);
})"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_bars_can_be_read_in_both_themes_and_have_a_table(browser: Any, server: Server, theme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=server.url, color_scheme=theme)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto("/?sample=normal")
    see_viewer(page)
    idle(page)
    ground = page.get_by_test_id("stApp").evaluate("app => getComputedStyle(app).backgroundColor")
    chart = page.get_by_test_id("stPlotlyChart")

    def fills(selector: str) -> list[str]:
        found: list[str] = chart.locator(selector).evaluate_all("all => all.map((one) => getComputedStyle(one).fill)")
        assert len(found) >= 3, selector
        return found

    assert min(contrast(colour, ground) for colour in fills(".bars .point path")) >= 3
    for text in (".bars .bartext", ".xtick text", ".ytick text"):
        assert min(contrast(colour, ground) for colour in fills(text)) >= 4.5
    captions = page.get_by_test_id("stCaptionContainer").locator("p").evaluate_all(INK)
    assert captions and min(contrast(*colours) for colours in captions) >= 4.5
    page.get_by_text("Outputs as a table").click()
    table = page.get_by_test_id("stTable").first
    expect(table).to_be_visible()
    shown = [float(text) for text in chart.locator(".bartext").all_text_contents()]
    cells = [
        float(text) for text in table.locator("td").all_inner_texts() if re.fullmatch(r"[01]\.\d{4}", text.strip())
    ]
    assert cells == pytest.approx(shown, abs=0.0006) and sum(cells) == pytest.approx(1, abs=0.001)
    context.close()


@pytest.mark.parametrize(("width", "rows"), [(400, 2), (1500, 1), (2560, 1)])
def test_samples_are_small_pictures_whatever_the_screen(page: Any, width: int, rows: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("/")
    pictures = page.get_by_role("img", name="Synthetic radiograph")
    expect(pictures).to_have_count(4)
    idle(page)
    boxes = [picture.bounding_box() for picture in pictures.all()]
    assert len({round(box["y"]) for box in boxes}) == rows
    assert all(140 < box["width"] < 280 for box in boxes)  # drawn with 256


def test_patient_is_never_told_and_all_is_forgotten(page: Any, server: Server) -> None:
    received: list[bytes | str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(frame)))
    page.goto("/")
    upload(page, dicom())
    see_viewer(page)
    idle(page)
    see_no_error(page)
    expect(page.get_by_text("scan.dcm").first).to_be_visible()
    page.get_by_text("Technical tags").click()
    expect(page.get_by_text("MONOCHROME2")).to_be_visible()
    assert PATIENT not in page.content()
    assert PATIENT not in page.locator(".viewer").inner_html()
    assert received
    assert not any(PATIENT.encode() in (f.encode() if isinstance(f, str) else f) for f in received)
    assert PATIENT not in server.log.read_text()

    page.get_by_role("button", name="Forget everything").click()
    expect(page.get_by_text("or start with a synthetic sample")).to_be_visible()
    idle(page)
    expect(page.get_by_text("scan.dcm")).to_have_count(0)
    expect(page.locator(".viewer")).to_have_count(0)
    expect(page.get_by_text("Upload 1")).to_have_count(0)
    upload(page, dicom())  # the same file once more
    see_viewer(page)
