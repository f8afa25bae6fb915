"""A radiograph at its file's full depth in a browser: windows, values and pixels that 8 bits do not have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxnet.radiograph import Depth, Window, read_radiograph
from pages import _viewer
from tests.browser.conftest import ROOT, TIMEOUT_S, idle, serve
from tests.browser.test_viewer import Case, canvas, drag, middles
from tests.test_depth import windowed
from tests.test_radiograph import SECRET, dicom, lookup_table, saved, written

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

#: The viewer alone with a file out of a folder: the radiograph, a picture of 8 bits, and a map over the radiograph.
APP = """
import sys
from pathlib import Path

import numpy as np
import streamlit as st

from cxnet.radiograph import open_radiograph
from pages._viewer import Panel, viewer

st.set_page_config(layout="wide")
found = open_radiograph(Path(sys.argv[1]) / st.query_params["file"])
lungs = np.zeros(found.pixels.shape, bool)
lungs[:240] = True
viewer([Panel("Radiograph", "blocks", found.pixels, depth=found.depth),
        Panel("As the model sees it", "blocks", np.ascontiguousarray(found.pixels[::2, ::2])),
        Panel("Grad-CAM", "no map", found.pixels, np.zeros((4, 4), np.float32), depth=found.depth)],
       lungs, "viewer", found)
"""

#: Values of 16 x 16 blocks, of which the first rows differ by 1 only.
VALUES = np.random.default_rng(4).integers(0, 4096, (16, 16))
VALUES[:4] = 2000 + np.arange(64).reshape(4, 16)
SIZE = 60


def blocks(values: np.ndarray = VALUES) -> np.ndarray:
    return np.kron(values, np.ones((SIZE, SIZE), np.int64))


def several(**tags: Any) -> Dataset:
    """A file with two windows, whose explanations name a patient too."""
    return dicom(
        blocks(), WindowCenter=[2048, 2031.5], WindowWidth=[3001, 65],
        WindowCenterWidthExplanation=[f"NORMAL {SECRET}", "SOFTER"], **tags,
    )  # fmt: skip


def padded() -> Dataset:
    stored = blocks() + 100
    stored[-SIZE:] = 0
    return dicom(stored, 16, WindowCenter=2148, WindowWidth=3001, PixelPaddingValue=0)


def tables() -> Dataset:
    entries = [np.arange(4096) ** 2 >> 8, np.where(np.arange(4096) < 2010, 5, 40)]
    return dicom(blocks(), VOILUTSequence=Sequence([lookup_table(0, each) for each in entries]))


FILES: dict[str, Callable[[], bytes]] = {
    "linear": lambda: written(several(RescaleSlope=1, RescaleIntercept=0)),
    "inverted": lambda: written(several(PhotometricInterpretation="MONOCHROME1")),
    "sigmoid": lambda: written(several(VOILUTFunction="SIGMOID")),
    "tables": lambda: written(tables()),
    "padded": lambda: written(padded()),
    "png": lambda: saved(Image.fromarray((blocks() * 16).astype(np.uint16)), "PNG"),
    "14 bits": lambda: saved(Image.fromarray((blocks() * 4 + 3).astype(np.uint16)), "PNG"),
    "white is zero": lambda: saved(
        Image.fromarray((65535 - blocks() * 16).astype(np.uint16)), "TIFF", tiffinfo={262: 0}
    ),
    "tiny": lambda: saved(Image.fromarray((blocks() * 1e-12).astype(np.float32)), "TIFF"),
    "reduced": lambda: written(
        dicom(np.kron(VALUES, np.ones((200, 200), np.int64)), WindowCenter=2048, WindowWidth=3001)
    ),
}


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return {name: make() for name, make in FILES.items()}


@pytest.fixture(scope="module")
def viewed(browser: Any, made: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tab and the address where a file by its name is shown."""
    folder: Path = tmp_path_factory.mktemp("depth")
    (folder / "page.py").write_text(APP, "utf-8")
    for name, data in made.items():
        (folder / name).write_bytes(data)
    with serve(folder, "--", str(folder), script=str(folder / "page.py"), PYTHONPATH=str(ROOT)) as found:
        context = browser.new_context(viewport={"width": 1500, "height": 900}, base_url=found.url)
        context.set_default_timeout(TIMEOUT_S * 1000)
        tab, bad = context.new_page(), []
        tab.on("pageerror", lambda error: bad.append(str(error)))
        yield tab
        context.close()
        assert not bad, bad
    assert "Traceback" not in found.log.read_text() and SECRET not in found.log.read_text()


def open_file(tab: Any, name: str) -> Case:
    tab.goto(f"/?file={name}")
    expect(tab.locator('.viewer[data-panels="3"][data-view]')).to_be_visible()
    idle(tab)
    case = Case(tab, [], {}, {})
    case.canvas().focus()
    case.press("o")  # no outline over the blocks
    return case


def choose(case: Case, name: str) -> None:
    case.drawn_after(lambda: case.viewer.get_by_label("Window").select_option(name))


def middles_of(case: Case, panel: int) -> np.ndarray:
    found = canvas(case, panel)[..., 0]
    rows, columns = (((np.arange(16) + 0.5) / 16 * size).astype(int) for size in found.shape)
    return found[np.ix_(rows, columns)].astype(int)


def by_standard(centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    return np.array([windowed(float(x), centre, width, function) for x in VALUES.ravel()]).reshape(VALUES.shape)


def eight_bits(case: Case, data: bytes) -> np.ndarray:
    """The blocks of the 8-bit picture, after a look at whether the viewer begins with it."""
    found = read_radiograph(data)
    step = len(found.pixels) // 16
    eight = found.pixels[step // 2 :: step, step // 2 :: step].astype(int)
    assert found.depth is not None and np.abs(middles(case) - eight).max() <= 1
    np.testing.assert_array_equal(middles_of(case, 1), eight)
    expect(case.viewer.locator(".banner")).to_be_hidden()
    return eight


@pytest.mark.parametrize("name", ["padded", "png", "reduced"])
def test_at_first_a_file_looks_as_its_8_bits(viewed: Any, made: dict[str, bytes], name: str) -> None:
    case = open_file(viewed, name)
    eight = eight_bits(case, made[name])
    if name == "reduced":
        expect(case.viewer.locator(".detail")).to_contain_text("a grey value is the mean of 2.1 × 2.1 pixels")
    if name == "padded":
        case.page.mouse.move(*case.at(0, 0.5, 15.5 / 16))
        expect(case.viewer.locator(".value").first).to_contain_text("padding, no image")
        case.press("1")
        assert not middles(case)[-1].any()
        case.press("0")
    case.press("i")
    assert np.abs(middles(case) - (255 - eight)).max() <= 1


@pytest.mark.parametrize("name", ["linear", "inverted", "sigmoid"])
def test_the_second_window_shows_what_8_bits_do_not_have(viewed: Any, made: dict[str, bytes], name: str) -> None:
    case = open_file(viewed, name)
    eight = eight_bits(case, made[name])[:4]
    assert SECRET not in viewed.content()
    options = case.viewer.get_by_label("Window").locator("option").all_inner_texts()
    assert options[:2] == ["window 1: C 2048 W 3001 (the network's)", "softer: C 2031.5 W 65"]
    assert len(np.unique(eight)) <= 7  # 64 values
    choose(case, "file-1")
    grey = by_standard(2031.5, 65, "SIGMOID" if name == "sigmoid" else "LINEAR")
    grey = 255 - grey if name == "inverted" else grey
    assert np.abs(middles(case) - grey).max() <= 1
    assert len(np.unique(middles(case)[:4])) > (50 if name == "sigmoid" else 62)
    if name == "sigmoid":
        expect(case.viewer.get_by_role("status")).to_contain_text("other pictures keep the first")
        np.testing.assert_array_equal(middles_of(case, 1)[:4], eight)
    else:
        expect(case.viewer.locator(".state")).to_contain_text("C 2031.5 W 65 · ")
        assert 1 < len(np.unique(middles_of(case, 1)[:4])) <= 7  # linked, as well as 8 bits can be
    case.canvas().focus()
    case.press("0")
    np.testing.assert_array_equal(middles_of(case, 1)[:4], eight)


def test_the_second_lookup_table(viewed: Any, made: dict[str, bytes]) -> None:
    case = open_file(viewed, "tables")
    eight = eight_bits(case, made["tables"])
    choose(case, "file-1")
    np.testing.assert_array_equal(middles(case), np.where(VALUES < 2010, 0, 255))
    choose(case, "full")
    assert np.abs(middles(case) - (VALUES - VALUES.min()) / np.ptp(VALUES) * 255).max() <= 1
    choose(case, "file-0")
    assert np.abs(middles(case) - eight).max() <= 1


def test_what_the_window_of_the_file_clips_can_be_seen(viewed: Any) -> None:
    case = open_file(viewed, "linear")
    clipped = VALUES > 3600
    assert clipped.sum() > 10 and set(middles(case)[clipped]) == {255}
    case.press("1")
    found = middles(case)
    assert len(np.unique(found[clipped])) > 10
    assert np.abs(found - (VALUES - VALUES.min()) / np.ptp(VALUES) * 255).max() <= 1
    case.press("2")  # the lungs are the first four rows, of 64 values
    assert np.abs(middles(case)[:4] - (VALUES[:4] - 2000) / 63 * 255).max() <= 1


def test_values_and_window_are_told_in_units_of_the_file(viewed: Any) -> None:
    case = open_file(viewed, "linear")
    case.page.mouse.move(*case.at(0, 5.5 / 16, 9.5 / 16))
    told = [case.viewer.locator(".value").nth(panel).inner_text() for panel in range(3)]
    assert f"value {VALUES[9, 5]}" in told[0] and f"value {VALUES[9, 5]} · map 0" in told[2]
    assert f"grey {round(by_standard(2048, 3001)[9, 5])}" in told[1]
    expect(case.viewer.locator(".detail")).to_contain_text("on the radiograph itself in the file's own units")
    expect(case.viewer.locator(".state")).to_contain_text("C 2048 W 3001 · 1.0×")
    drag(case, (0.5, 0.5), (-100, 0), "right")
    told_now = case.viewer.locator(".state").inner_text()
    found = re.match(r"C ([\d.]+) W ([\d.]+) ", told_now)
    assert found, told_now
    centre, width = float(found[1]), float(found[2])
    assert centre == 2048 and 1500 < width < 2500
    assert np.abs(middles(case) - by_standard(centre, width)).max() <= 1
    expect(case.viewer.get_by_label("Window")).to_have_value("own")


def test_the_list_and_the_line_below_tell_the_same_window(viewed: Any) -> None:
    case = open_file(viewed, "14 bits")
    expect(case.viewer.get_by_label("Window").locator("option").first).to_have_text(re.compile("C 8191.5 W 16383$"))
    expect(case.viewer.locator(".state")).to_contain_text("C 8191.5 W 16383 · ")


@pytest.mark.parametrize("name", ["white is zero", "tiny"])
def test_values_are_told_as_the_file_stores_them(viewed: Any, name: str) -> None:
    case = open_file(viewed, name)
    case.page.mouse.move(*case.at(0, 5.5 / 16, 9.5 / 16))
    told = case.viewer.locator(".value").first.inner_text()
    found = re.search(r"value ([-+.e0-9]+)", told)
    assert found, told
    stored = 65535 - VALUES[9, 5] * 16 if name == "white is zero" else VALUES[9, 5] * 1e-12
    assert float(found[1]) == pytest.approx(stored, rel=1e-3)
    if name == "white is zero":
        assert float(found[1]) == stored


def test_a_narrow_window_is_set_finely(viewed: Any) -> None:
    case = open_file(viewed, "linear")
    choose(case, "file-1")
    width = case.view()["width"]
    drag(case, (0.5, 0.5), (20, 0), "right")
    assert 1 < case.view()["width"] / width < 1.3
    for _ in range(3):
        drag(case, (0.9, 0.5), (-380, 0), "right")
    # not narrower than four of the 4,096 values
    assert case.view()["width"] * 3000 / 255 >= 3.9


def test_python_and_the_browser_write_numbers_alike(viewed: Any) -> None:
    script = (ROOT / "pages" / "viewer_pictures.js").read_text("utf-8")
    rng = np.random.default_rng(5)
    for unit, offset in ((1, 0), (1, 1e9), (0.5, -20), (0.0244, 800), (1e-9, 0), (2e-12, 0), (1e-30, 1e-27), (1e28, 0)):
        depth = Depth(np.eye(2, dtype=np.uint16), offset, unit, unit, 4095, False, (Window("a"),), "0" * 64)
        halves = [offset + unit * half / 2 for half in (-3, 0, 1, 8191, *rng.integers(0, 8190, 40).tolist())]
        values = [*halves, *(offset + unit * rng.random(40) * 4095).tolist()]
        sent = {"decimals": _viewer._decimals(depth), "digits": _viewer._digits(depth)}
        written_there = viewed.evaluate(
            f"([depth, values]) => {{ {script}\n return values.map((value) => inUnits(depth, value, 1)); }}",
            [sent, values],
        )
        assert written_there == [_viewer._in_units(depth, value) for value in values]
