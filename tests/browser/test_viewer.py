"""The linked viewer in a browser: keys, peek, flips with boxes, contours, superpixels, sides and scale bar."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxnet.phantom import make_phantom
from cxnet.radiograph import read_radiograph
from pages._viewer import KEYS, key_name
from tests.browser.conftest import ROOT, TIMEOUT_S, idle, serve
from tests.test_viewer import dicom

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

WIDTH, HEIGHT, SPACING_MM = 480, 400, 0.8
View = dict[str, Any]


#: A page with the viewer alone: a radiograph, what a network might see of it, a map with one peak, and, once it is asked
#: for, superpixels. No network has to answer, so what is tested is the viewer.
APP = """
import sys

import numpy as np
import streamlit as st

from cxnet.radiograph import open_radiograph
from pages._viewer import Panel, viewer

st.set_page_config(layout="wide")
if "pixels" in st.query_params:
    from cxnet.radiograph import Radiograph

    # blocks of one grey level each, large enough to be painted as they are, and a map that is hot in one place
    levels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    pixels = np.kron(levels, np.ones((200, 200), np.uint8))
    heat = np.zeros((128, 128), np.float32)
    heat[38, 84] = 1
    st.container(height=600).write("Above")
    viewer([Panel("Radiograph", "blocks", pixels), Panel("Grad-CAM", "one place", pixels, heat)],
           np.zeros(pixels.shape, bool), "viewer", Radiograph(pixels, "0" * 64, "PNG"))
    st.container(height=1200).write("Below")
    st.stop()
radiograph = open_radiograph(sys.argv[1])
pixels = radiograph.pixels
y, x = np.mgrid[:64, :64] / 63
heat = np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / 0.05).astype(np.float32)
segments = (np.minimum(3, 4 * y).astype(np.int32) * 4 + np.minimum(3, 4 * x).astype(np.int32))
weights = np.linspace(-1, 1, 16)
rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
lungs = np.abs(np.abs(columns / pixels.shape[1] - 0.5) - 0.2) < 0.12
lungs &= np.abs(rows / pixels.shape[0] - 0.5) < 0.3
panels = [
    Panel("Radiograph", "as it is", pixels),
    Panel("As the model sees it", "squeezed", np.ascontiguousarray(pixels[: len(pixels) // 64 * 64 : 2, ::2])),
    Panel("Grad-CAM", "map with one peak", pixels, heat),
]
if st.checkbox("LIME"):
    panels.append(
        Panel("LIME", "superpixels", pixels, weights[segments].astype(np.float32), None, True,
              segments=segments, weights=weights)
    )
st.text_input("Text")
st.write(f"Box: {viewer(panels, lungs, 'viewer', radiograph, boxes=True)}")
"""


@dataclass(frozen=True)
class Case:
    """One radiograph in one browser, shared by the tests of this file; each starts from a view that was reset."""

    page: Any
    sent: list[Any]
    before: View
    after: View

    @property
    def viewer(self) -> Any:
        return self.page.locator(".viewer[data-view]")

    def view(self) -> View:
        found: View = json.loads(self.viewer.get_attribute("data-view"))
        return found

    def canvas(self, panel: int = 0) -> Any:
        return self.viewer.locator("canvas").nth(panel)

    def drawn_after(self, act: Callable[[], None]) -> None:
        """Do something and wait until the viewer has drawn again."""
        before = self.viewer.get_attribute("data-drawn")
        act()
        expect(self.viewer).not_to_have_attribute("data-drawn", before)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.drawn_after(lambda key=key: self.page.keyboard.press(key))  # type: ignore[misc]

    def picture(self, panel: int) -> str:
        found: str = self.canvas(panel).evaluate("canvas => canvas.toDataURL()")
        return found

    def at(self, panel: int, x: float, y: float) -> tuple[float, float]:
        box = self.canvas(panel).bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]


def radiograph() -> bytes:
    pixels = np.ascontiguousarray(make_phantom(5, WIDTH).pixels[:HEIGHT])
    return dicom(pixels, PatientOrientation=["L", "F"], ImagerPixelSpacing=[SPACING_MM, SPACING_MM])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page with the viewer alone is served."""
    folder: Path = tmp_path_factory.mktemp("viewer")
    (folder / "page.py").write_text(APP, "utf-8")
    (folder / "scan.dcm").write_bytes(radiograph())
    scan = str(folder / "scan.dcm")
    with serve(folder, "--", scan, script=str(folder / "page.py"), PYTHONPATH=str(ROOT)) as found:
        yield found.url
    assert "Traceback" not in found.log.read_text(), found.log.read_text()


@pytest.fixture(scope="module")
def opened(browser: Any, address: str) -> Iterator[Case]:
    """The page with all panels; the last came while the view was zoomed, flipped and inverted."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, base_url=address, reduced_motion="reduce")
    context.set_default_timeout(TIMEOUT_S * 1000)
    page = context.new_page()
    bad: list[str] = []
    own = ("data:", "blob:", f"{address}/")
    page.on("pageerror", lambda error: bad.append(f"script error: {error}"))
    page.on("request", lambda request: None if request.url.startswith(own) else bad.append(request.url))
    sent: list[Any] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.goto("/")
    expect(page.locator('.viewer[data-panels="3"][data-view]')).to_be_visible()
    idle(page)
    case = Case(page, sent, {}, {})
    expect(case.viewer.get_by_label("Superpixels")).to_be_hidden()
    case.canvas().focus()
    case.press("+", "+", "h", "i", "]")
    before = case.view()
    page.get_by_text("LIME", exact=True).first.click()
    expect(page.locator('.viewer[data-panels="4"]')).to_be_visible()
    idle(page)
    yield Case(page, sent, before, case.view())
    context.close()
    assert not bad, bad


@pytest.fixture
def case(opened: Case) -> Iterator[Case]:
    """The viewer as a page begins with it, the first panel focused."""
    opened.canvas().scroll_into_view_if_needed()
    opened.canvas().focus()
    opened.press("0")
    before = opened.view()
    yield opened
    opened.canvas().focus()
    opened.press("0")
    assert opened.view() == before, "a test must leave the viewer as it found it"


def test_the_view_outlives_a_rerun_with_one_more_panel(opened: Case) -> None:
    assert opened.after == opened.before
    assert opened.after["zoom"] == pytest.approx(1.44) and opened.after["flip"]
    assert opened.after["invert"] and opened.after["opacity"] == pytest.approx(0.4)


def changed(**expected: Any) -> Callable[[View, View], bool]:
    """Whether exactly these values of the view changed, and to these."""
    return lambda before, after: after == {**before, **expected} and after != before


def moved(axis: str, sign: int) -> Callable[[View, View], bool]:
    return lambda before, after: sign * (after[axis] - before[axis]) > 0 and after == {**before, axis: after[axis]}


def windowed(before: View, after: View) -> bool:
    return after == {**before, "level": after["level"], "width": after["width"]} and after["width"] < before["width"]


#: What each key does to the view: keys that go before, and what must have changed.
EFFECTS: dict[str, tuple[tuple[str, ...], Callable[[View, View], bool]]] = {
    "zoom-in": ((), changed(zoom=1.2)),
    "zoom-out": (("+",), changed(zoom=1)),
    "fit": (("+", "2"), changed(zoom=1)),
    "left": (("+",), moved("x", -1)),
    "right": (("+",), moved("x", 1)),
    "up": (("+",), moved("y", -1)),
    "down": (("+",), moved("y", 1)),
    "rotate-right": ((), changed(turns=1)),
    "rotate-left": ((), changed(turns=3)),
    "flip-horizontal": ((), changed(flip=True)),
    "flip-vertical": ((), changed(flip=True, turns=2)),
    "invert": ((), changed(invert=True)),
    "reset": (("h", "r", "i", "+", "2"), lambda _, after: after["zoom"] == 1 and after["width"] == 255
              and not (after["flip"] or after["turns"] or after["invert"])),
    "window-full": (("2",), changed(level=127.5, width=255)),
    "window-lungs": ((), windowed),
    "window-bone": ((), windowed),
    "window-auto": ((), windowed),
    "opacity-down": ((), changed(opacity=0.35)),
    "opacity-up": ((), changed(opacity=0.45)),
    "colours": ((), changed(colours="cividis")),
    "outline": ((), changed(outline=False)),
    "contours": ((), changed(contours=True)),
    "superpixels": ((), changed(superpixels=True)),
    "one": ((), changed(one=0)),
}  # fmt: skip
UNDO = {"opacity-down": "]", "opacity-up": "[", "outline": "o", "contours": "k", "superpixels": "s", "one": "f"}
ELSEWHERE = {"peek", "box", "place", "cancel", "help"}


def test_every_key_does_what_the_table_says_and_none_reaches_the_server(case: Case) -> None:
    assert {entry.action for entry in KEYS} == set(EFFECTS) | ELSEWHERE
    sent = len(case.sent)
    for entry in KEYS:
        if entry.action in ELSEWHERE:
            continue
        first, right = EFFECTS[entry.action]
        for key in entry.keys:
            case.press("0", *first)
            before = case.view()
            case.press("Space" if key == " " else key)
            assert right(before, case.view()), (entry, before, case.view())
            if entry.action in UNDO:
                case.press(UNDO[entry.action])
    case.press("m", "m")
    for key in ("b", "Escape"):
        case.press(key)
        pressed = expect(case.viewer.locator(".draw"))
        pressed.to_have_attribute("aria-pressed", "true" if key == "b" else "false")
    assert len(case.sent) == sent, "looking must not reach the server"


def test_keys_do_nothing_while_something_else_has_the_focus(case: Case) -> None:
    before = case.view()
    case.page.get_by_label("Text").focus()
    for key in ("h", "i", "+", "?"):
        case.page.keyboard.press(key)
    assert case.page.get_by_label("Text").input_value() == "hi+?"
    assert case.view() == before
    case.viewer.locator("select.colours").focus()
    case.page.keyboard.press("h")
    case.canvas().focus()
    case.press("+")
    assert case.view() == {**before, "zoom": 1.2}


def test_the_list_of_keys(case: Case) -> None:
    case.page.keyboard.press("?")
    dialog = case.viewer.get_by_role("dialog")
    expect(dialog).to_be_visible()
    listed = dialog.locator("dl div").evaluate_all(
        "rows => rows.map(row => [[...row.querySelectorAll('kbd')].map(key => key.textContent),"
        " row.querySelector('dd').textContent])"
    )
    assert listed == [[[key_name(key) for key in entry.keys], entry.does] for entry in KEYS]
    before = case.view()
    case.page.keyboard.press("h")
    assert case.view() == before
    case.page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    case.press("i")  # the focus is back on the picture


def test_peek_by_key_and_by_button(case: Case) -> None:
    radiograph, bare = case.picture(2), case.viewer.locator(".peek")
    case.press("o")
    case.drawn_after(lambda: case.viewer.get_by_label("Map opacity").fill("0"))
    nothing_over = case.picture(2)
    case.drawn_after(lambda: case.viewer.get_by_label("Map opacity").fill("0.4"))
    case.canvas().focus()
    case.press("o")
    assert case.picture(2) == radiograph != nothing_over

    case.drawn_after(lambda: case.page.keyboard.down("p"))
    expect(case.viewer).to_have_attribute("data-peek", "true")
    assert case.picture(2) == nothing_over
    case.drawn_after(lambda: case.page.keyboard.up("p"))
    assert case.picture(2) == radiograph

    place = bare.bounding_box()
    case.page.mouse.move(place["x"] + 9, place["y"] + 9)
    case.drawn_after(case.page.mouse.down)
    expect(case.viewer).to_have_attribute("data-peek", "true")
    assert case.picture(2) == nothing_over
    case.drawn_after(case.page.mouse.up)
    assert case.picture(2) == radiograph


def test_contours_and_superpixels_change_their_own_panels(case: Case) -> None:
    for label, panel in (("Contours 25/50/75 %", 2), ("Superpixels", 3)):
        before = [case.picture(number) for number in range(4)]
        switch = case.viewer.get_by_role("checkbox", name=label)
        case.drawn_after(switch.check)
        after = [case.picture(number) for number in range(4)]
        assert [number for number in range(4) if before[number] != after[number]] == [panel]
        case.drawn_after(switch.uncheck)
        assert [case.picture(number) for number in range(4)] == before


@pytest.mark.parametrize(
    ("keys", "words", "right_at", "left_at"),
    [
        ((), None, "left", "right"),
        (("h",), "View is flipped — left and right are exchanged", "right", "left"),
        (("v",), "View is flipped — top and bottom are exchanged", "left", "right"),
        (("r",), "rotated by 90° to the right", "top", "bottom"),
        (("l",), "rotated by 90° to the left", "bottom", "top"),
        (("r", "r"), "rotated by 180° — left and right", "right", "left"),
        (("h", "r"), "it is a mirror image", "bottom", "top"),
        (("r", "h"), "it is a mirror image", "top", "bottom"),
    ],
)
def test_sides_and_banner(case: Case, keys: tuple[str, ...], words: str | None, right_at: str, left_at: str) -> None:
    case.press(*keys)
    for panel in range(4):
        figure = case.viewer.locator("figure").nth(panel)
        for letter, edge in (("R", right_at), ("L", left_at)):
            expect(figure.locator(".side").get_by_text(letter, exact=True)).to_have_attribute("data-edge", edge)
        expect(case.canvas(panel)).to_have_attribute("aria-label", re.compile(f"patient's left is at the {left_at}"))
        expect(figure.locator(".turned-tag")).to_be_visible(visible=words is not None)
    banner = case.viewer.locator(".banner")
    if words is None:
        expect(banner).to_be_hidden()
        return
    expect(case.viewer.get_by_role("status")).to_contain_text(words)
    case.canvas(3).scroll_into_view_if_needed()
    expect(banner).to_be_in_viewport()
    case.drawn_after(banner.get_by_role("button", name="Reset").click)
    expect(banner).to_be_hidden()


#: From a place on the screen to one in the picture, both as shares, worked out by hand for each sequence of keys.
TURNS: dict[tuple[str, ...], Callable[[float, float], tuple[float, float]]] = {
    ("h",): lambda x, y: (1 - x, y),
    ("r",): lambda x, y: (y, 1 - x),
    ("h", "r", "+"): lambda x, y: (0.5 + (0.5 - y) / 1.2, 0.5 + (0.5 - x) / 1.2),
}


@pytest.mark.parametrize("keys", TURNS)
def test_a_box_in_a_turned_view_lies_where_it_was_drawn(case: Case, keys: tuple[str, ...]) -> None:
    case.press(*keys, "b")
    start, end = (0.15, 0.2), (0.4, 0.7)
    case.page.mouse.move(*case.at(2, *start))
    case.page.mouse.down()
    case.page.mouse.move(*case.at(2, *end), steps=3)
    case.page.mouse.up()
    expect(case.viewer.locator(".draw")).to_have_attribute("aria-pressed", "false")
    corners = [TURNS[keys](*start), TURNS[keys](*end)]
    (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
    box = json.loads(case.viewer.get_attribute("data-box"))
    assert box == pytest.approx([left * WIDTH, top * HEIGHT, right * WIDTH, bottom * HEIGHT], abs=4)
    expect(case.page.get_by_text(f"Box: {tuple(box)}")).to_be_visible()
    idle(case.page)
    assert (case.view()["flip"], case.view()["turns"]) == ("h" in keys, int("r" in keys)), "the rerun keeps the view"


@pytest.mark.parametrize(("keys", "across"), [((), WIDTH), (("+", "+"), WIDTH / 1.44), (("r",), HEIGHT)])
def test_the_scale_bar_is_as_long_as_it_says(case: Case, keys: tuple[str, ...], across: float) -> None:
    case.press(*keys)
    ruler = case.viewer.locator(".ruler").first
    expect(ruler).to_contain_text("cm at the detector")
    mm = float(ruler.get_attribute("data-mm"))
    expect(ruler).to_contain_text(f"{mm / 10:g} cm")
    shown = ruler.locator("i").bounding_box()["width"] / case.canvas().bounding_box()["width"]
    assert shown == pytest.approx(mm / (across * SPACING_MM), rel=0.02) and 0.1 < shown < 0.45


def test_the_value_under_the_pointer_on_every_panel(case: Case) -> None:
    case.press("r")
    case.page.mouse.move(*case.at(0, 0.25, 0.5))  # x is the share of y from the top, y of x from the left
    pixels = read_radiograph(radiograph()).pixels
    for panel in range(4):
        text = case.viewer.locator(".value").nth(panel).inner_text()
        found = re.fullmatch(r"x (\d+), y (\d+) · grey (\d+)( · map (\S+))?", text)
        assert found, text
        x, y = int(found[1]), int(found[2])
        assert (x, y) == pytest.approx((WIDTH / 2, 0.75 * HEIGHT), abs=3)
        assert (found[4] is not None) == (panel >= 2)
        if panel != 1:
            assert int(found[3]) == pixels[y, x]


# ------------------------------------------------------------------------------------------------- what is painted

LEVELS = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
HOT = ((84 + 0.5) / 128, (38 + 0.5) / 128)  # the middle of the map's only pixel that is not 0, as shares


@pytest.fixture(scope="module")
def blocks(browser: Any, address: str) -> Iterator[Case]:
    """A radiograph of 16 x 16 blocks of one grey level each, and beside it a map that is hot in one place."""
    context = browser.new_context(viewport={"width": 1000, "height": 800}, base_url=address, reduced_motion="reduce")
    context.set_default_timeout(TIMEOUT_S * 1000)
    page = context.new_page()
    page.goto("/?pixels=1")
    expect(page.locator('.viewer[data-panels="2"][data-view]')).to_be_visible()
    idle(page)
    yield Case(page, [], {}, {})
    context.close()


@pytest.fixture
def painted(blocks: Case) -> Case:
    """The blocks in a view that was reset."""
    blocks.canvas().scroll_into_view_if_needed()
    blocks.canvas().focus()
    blocks.press("0")
    return blocks


def canvas(case: Case, panel: int = 0) -> np.ndarray:
    """The pixels of a canvas: height, width, and blue, green and red."""
    data = base64.b64decode(case.picture(panel).partition(",")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def middles(case: Case) -> np.ndarray:
    """The painted grey in the middle of each block; only for views of the whole picture."""
    found = canvas(case)
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()
    rows, columns = (((np.arange(16) + 0.5) / 16 * size).astype(int) for size in found.shape[:2])
    return found[np.ix_(rows, columns)][..., 0].astype(int)


def drag(case: Case, start: tuple[float, float], by: tuple[float, float], button: str = "left") -> None:
    x, y = case.at(0, *start)
    case.page.mouse.move(x, y)
    case.page.mouse.down(button=button)
    case.drawn_after(lambda: case.page.mouse.move(x + by[0], y + by[1], steps=4))
    case.page.mouse.up(button=button)
    case.drawn_after(lambda: case.page.keyboard.press("o"))  # whatever was still to be drawn is drawn by now
    case.press("o")


def test_window_level_and_inversion_are_painted_as_computed_by_hand(painted: Case) -> None:
    np.testing.assert_array_equal(middles(painted), LEVELS)
    painted.press("i")
    np.testing.assert_array_equal(middles(painted), 255 - LEVELS.astype(int))
    painted.press("i")
    drag(painted, (0.3, 0.4), (-135, 50), "right")  # narrower by 1 a pixel, brighter or darker by 0.6 a pixel
    assert (painted.view()["width"], painted.view()["level"]) == pytest.approx((120, 157.5))
    # level 157.5 and width 120 spread 97.5 to 217.5 over black to white
    by_hand = np.clip((LEVELS - 97.5) / 120 * 255, 0, 255)
    np.testing.assert_allclose(middles(painted), by_hand, atol=0.51)
    assert len(np.unique(middles(painted))) > 20
    painted.press("i")
    np.testing.assert_allclose(middles(painted), 255 - by_hand, atol=0.51)


@pytest.mark.parametrize(
    ("keys", "turned"),
    [(("h",), np.fliplr(LEVELS)), (("v",), np.flipud(LEVELS)), (("r",), np.rot90(LEVELS, -1)), (("l",), np.rot90(LEVELS))],
)  # fmt: skip
def test_flips_and_rotations_are_painted(painted: Case, keys: tuple[str, ...], turned: np.ndarray) -> None:
    painted.press(*keys)
    np.testing.assert_array_equal(middles(painted), turned)


def test_zoom_and_pan_keep_what_is_under_the_pointer(painted: Case) -> None:
    def under(x: float, y: float) -> int:
        found = canvas(painted)
        return int(found[int(y * found.shape[0]), int(x * found.shape[1]), 0])

    column, row = 11, 4
    start, level = ((column + 0.5) / 16, (row + 0.5) / 16), int(LEVELS[row, column])
    painted.page.mouse.move(*painted.at(0, *start))
    for _ in range(2):
        painted.drawn_after(lambda: painted.page.mouse.wheel(0, -500))
        assert under(*start) == level
        expect(painted.viewer.locator(".value").first).to_contain_text(f"grey {level}")
    zoom = painted.view()["zoom"]
    assert zoom == pytest.approx(np.exp(1.5))
    # a block is now 1/16 of the canvas times the zoom wide, and only its neighbours are beside it
    assert under(start[0] + zoom / 16, start[1]) == LEVELS[row, column + 1]
    size = painted.canvas().bounding_box()
    drag(painted, start, (-0.3 * size["width"], 0.2 * size["height"]))
    assert under(start[0] - 0.3, start[1] + 0.2) == level
    painted.press("=")
    assert painted.view()["zoom"] == 1


@pytest.mark.parametrize("zoom", [1, 4])
@pytest.mark.parametrize("keys", [(), ("h", "r")])
def test_the_hot_place_of_a_map_is_painted_where_it_is(painted: Case, zoom: int, keys: tuple[str, ...]) -> None:
    painted.drawn_after(lambda: painted.viewer.get_by_label("Map opacity").fill("1"))
    painted.canvas().focus()
    painted.press(*keys)
    x, y = HOT
    place = (1 - y, 1 - x) if keys else (x, y)  # mirrored, then rotated to the right: by hand
    if zoom > 1:
        painted.page.mouse.move(*painted.at(1, *place))
        painted.drawn_after(lambda: painted.page.mouse.wheel(0, -np.log(zoom) / 0.0015))
        view = painted.view()
        assert view["zoom"] == pytest.approx(zoom, rel=1e-3)
        away = (view["y"] - y, view["x"] - x) if keys else (x - view["x"], y - view["y"])
        pointer, place = place, (0.5 + zoom * away[0], 0.5 + zoom * away[1])
        assert place == pytest.approx(pointer, abs=0.02)  # a wheel is turned at whole pixels of the screen
    found = canvas(painted, 1).astype(float).sum(2)
    found -= found[0, 0]  # the colour of 0
    assert found.min() >= 0 and found.max() > 300
    height, width = found.shape
    centre = (
        float((found.sum(0) * (np.arange(width) + 0.5)).sum() / found.sum()),
        float((found.sum(1) * (np.arange(height) + 0.5)).sum() / found.sum()),
    )
    # Chromium draws a map in steps of 1/16 of its pixels, so the map is fine
    assert centre == pytest.approx((place[0] * width, place[1] * height), abs=1)
    painted.drawn_after(lambda: painted.viewer.get_by_label("Map opacity").fill("0.35"))


def test_double_click_enlarges_one_panel_and_again_shows_all(painted: Case) -> None:
    figures, narrow = painted.viewer.locator("figure"), painted.canvas().bounding_box()["width"]
    painted.drawn_after(painted.canvas().dblclick)
    expect(figures.nth(1)).to_be_hidden()
    assert painted.canvas().bounding_box()["width"] > 1.2 * narrow
    np.testing.assert_array_equal(middles(painted), LEVELS)
    painted.drawn_after(painted.canvas().dblclick)
    expect(figures.nth(1)).to_be_visible()


def test_the_wheel_scrolls_the_page_where_it_would_not_zoom(painted: Case) -> None:
    main = painted.page.get_by_test_id("stMain")

    def scrolled() -> int:
        return int(main.evaluate("main => main.scrollTop"))

    painted.page.mouse.move(*painted.at(0, 0.5, 0.5))
    before, view = scrolled(), painted.view()
    painted.drawn_after(lambda: painted.page.mouse.wheel(0, -300))
    assert scrolled() == before and painted.view()["zoom"] > 1
    painted.drawn_after(lambda: painted.page.mouse.wheel(0, 2000))  # no smaller than the whole picture
    assert scrolled() == before and painted.view()["zoom"] == 1
    painted.page.wait_for_timeout(600)  # so that a new movement of the wheel begins
    painted.page.mouse.wheel(0, 120)
    painted.page.wait_for_function(
        "before => document.querySelector('[data-testid=stMain]').scrollTop > before", arg=before
    )
    assert painted.view() == view


def test_it_is_told_how_far_a_large_radiograph_is_reduced(painted: Case) -> None:
    told = painted.viewer.locator(".detail")
    expect(told).to_contain_text("3200 × 3200 pixels of the radiograph. It is shown at 1/2.1 of that width and height")
    expect(told).to_contain_text("the mean of 2.1 × 2.1 pixels")


def test_sides_and_lengths_are_shown_only_where_the_file_tells_them(page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto("/?sample=normal")
    viewer = page.locator('.viewer[data-panels="3"][data-view]')
    expect(viewer).to_be_visible()
    for name in (".side", ".ruler", ".turned-tag"):
        assert viewer.locator(name).count() and not any(found.is_visible() for found in viewer.locator(name).all())
    for badge in viewer.locator(".sideless").all():
        expect(badge).to_have_text("side not known")
        expect(badge).to_be_visible()
    first, last = viewer.locator("canvas").first, viewer.locator("canvas").last
    assert "Which side is the patient's left is not known" in first.get_attribute("aria-label")
    expect(viewer.locator(".scale").first).to_be_hidden()
    first.focus()
    page.keyboard.press("h")
    last.scroll_into_view_if_needed()
    expect(viewer.locator(".banner")).to_be_in_viewport()
    width, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner + 2

    file = {"name": "scan.dcm", "mimeType": "application/dicom", "buffer": radiograph()}
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files([file])
    expect(viewer.locator(".ruler").first).to_be_visible()
    idle(page)  # before that the old viewer may still be there
    expect(viewer.locator(".side").get_by_text("R", exact=True).first).to_have_attribute("data-edge", "left")
    assert not any(badge.is_visible() for badge in viewer.locator(".sideless").all())
    expect(viewer.locator(".scale").first).to_have_text("view PA, as the file says")
    expect(viewer.locator(".banner")).to_be_hidden()  # a flip does not pass to the next radiograph
    expect(page.get_by_test_id("stException")).to_have_count(0)
