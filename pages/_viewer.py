"""The linked viewer: a canvas a panel, drawn in the browser.

Zoom, pan, window/level, flip, rotation, opacity and colour map act on all panels at once and never reach the server, so
they cannot change what a network gets. The one thing that does is a box that was drawn on purpose. Pictures and maps
are sent once as PNG; text only ever enters as ``textContent``. What the browser runs stands in
``viewer_pictures.js`` and ``viewer.js``.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cxnet import overlay
from cxnet.radiograph import AS_GIVEN, DEPTH_SIDE_PX, Depth, Radiograph, Window

#: A radiograph with noise as PNG: 0.4 MB and 17 ms to make at 1024, 1.0 MB and 30 ms at 1536, 2.0 MB and 85 ms at 2048;
#: it is made at each rerun and sent with each new map. With 12 bits: 1.0 MB and 25 ms at 1024, 2.1 MB and 55 ms at 1536,
#: and 3.0 MB if it was reduced from twice that, as means fill all 16 bits.
LONGEST_SIDE_PX = DEPTH_SIDE_PX

#: What the windows of :func:`cxnet.overlay.windows` are called.
WINDOWS = {"full": "all grey levels", "lungs": "lungs", "bone": "mediastinum and bone", "auto": "automatic"}

#: Left, top, right and bottom in pixels of the radiograph, the last two excluded.
Box = tuple[int, int, int, int]

#: The same in shares of the radiograph.
Frame = tuple[float, float, float, float]
WHOLE: Frame = (0.0, 0.0, 1.0, 1.0)

#: A superpixel is marked + or - if its weight reaches this share of the largest.
SIGNED_SHARE = 0.25


@dataclass(frozen=True)
class Key:
    """A shortcut: what the browser calls the keys, what they do, and whether they are OHIF's."""

    action: str
    keys: tuple[str, ...]
    does: str
    ohif: bool = False


#: Every shortcut of the viewer; it works, and is listed under "?", because it stands here. Keys marked `ohif` are those
#: of the OHIF Viewer's platform/core/src/defaults/hotkeyBindings.ts (github.com/OHIF/Viewers, as of commit 00f012e).
#: Where OHIF changes to another picture or series (arrows) or paints segments (brackets), there is nothing to change to
#: or to paint here, so these keys do what is nearest.
KEYS = (
    Key("zoom-in", ("+",), "Zoom in", ohif=True),
    Key("zoom-out", ("-",), "Zoom out", ohif=True),
    Key("fit", ("=",), "Zoom to fit", ohif=True),
    Key("left", ("ArrowLeft",), "Move the view left"),
    Key("right", ("ArrowRight",), "Move the view right"),
    Key("up", ("ArrowUp",), "Move the view up"),
    Key("down", ("ArrowDown",), "Move the view down"),
    Key("rotate-right", ("r",), "Rotate right by 90°", ohif=True),
    Key("rotate-left", ("l",), "Rotate left by 90°", ohif=True),
    Key("flip-horizontal", ("h",), "Flip horizontally", ohif=True),
    Key("flip-vertical", ("v",), "Flip vertically", ohif=True),
    Key("invert", ("i",), "Invert grey levels", ohif=True),
    Key("reset", (" ", "0"), "Reset the view", ohif=True),
    Key("window-full", ("1",), "Window: all grey levels", ohif=True),
    Key("window-lungs", ("2",), "Window: lungs", ohif=True),
    Key("window-bone", ("3",), "Window: mediastinum and bone", ohif=True),
    Key("window-auto", ("4",), "Window: automatic, 1st to 99th percentile", ohif=True),
    Key("opacity-down", ("[",), "Map more transparent"),
    Key("opacity-up", ("]",), "Map less transparent"),
    Key("colours", ("m",), "Next colours of the map"),
    Key("outline", ("o",), "Lung outline on or off"),
    Key("contours", ("k",), "Contours of the map on or off"),
    Key("superpixels", ("s",), "LIME's superpixels on or off"),
    Key("peek", ("p",), "Hold: everything over the picture is hidden"),
    Key("one", ("f",), "This panel alone, or all panels (or double-click)"),
    Key("box", ("b",), "Draw a box, where the page asks what hiding it changes"),
    Key("place", ("Enter",), "While drawing: a box in the middle of the view"),
    Key("cancel", ("Escape",), "Stop drawing", ohif=True),
    Key("help", ("?",), "This list"),
)

_NAMES = {
    " ": "Space",
    "ArrowLeft": "←",
    "ArrowRight": "→",
    "ArrowUp": "↑",
    "ArrowDown": "↓",
    "Escape": "Esc",
    "-": "−",
}


@dataclass(frozen=True)
class Panel:
    """One panel: a grey picture, and perhaps a map over it.

    `heatmap` is raw, in any resolution; `reference` is the value of the strongest colour; `badge` says in words how
    the colours are scaled. `frame` and `heatmap_frame` are the parts of the radiograph that the picture and the map
    show. `depth` is that of the radiograph where `pixels` are its own: then these levels are shown instead. `segments` and `weights` are LIME's superpixels, in the frame of the map. `outline` is for panels whose
    picture is one of the radiograph: without it neither the lungs' outline nor a box is drawn.
    """

    title: str
    description: str
    pixels: NDArray[np.uint8]
    heatmap: NDArray[np.float32] | None = None
    reference: float | None = None
    signed: bool = False
    badge: str = ""
    outline: bool = True
    frame: Frame = WHOLE
    heatmap_frame: Frame = WHOLE
    segments: NDArray[np.int32] | None = None
    weights: NDArray[np.float64] | None = None
    depth: Depth | None = None


def key_name(key: str) -> str:
    """A key as it is printed on a keyboard."""
    return _NAMES.get(key, key)


def _png(levels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", levels)[1].tobytes()).decode()


def _picture(pixels: NDArray[np.uint8]) -> str:
    factor = LONGEST_SIDE_PX / max(pixels.shape)
    if factor < 1:
        size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return _png(pixels)


def _deep_picture(levels: NDArray[np.uint16]) -> str:
    """Both bytes of each level, the high ones above the low ones: a browser reads no more than 8 bits of a grey."""
    return _png(np.vstack([levels >> 8, levels & 255]).astype(np.uint8))


def _outline(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Outlines of a mask as flat lists of x and y, in shares of the picture."""
    small = cv2.resize(mask.astype(np.uint8), (512, 512), interpolation=cv2.INTER_AREA).astype(np.bool_)
    lines = []
    for line in overlay.contours(small):
        points = cv2.approxPolyDP(line[:, None, :], 0.7, True)[:, 0, :]
        lines.append(np.round((points + 0.5) / 512, 4).ravel().tolist())
    return lines


def _contours(heatmap: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Level lines of a map as flat lists of x and y, in shares of the map's frame."""
    size = np.array(heatmap.shape[::-1])
    return [
        {"share": share, "lines": [np.round((line + 0.5) / size, 4).ravel().tolist() for line in lines]}
        for share, lines in overlay.level_lines(heatmap).items()
    ]


def _superpixels(segments: NDArray[np.int32], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Borders between superpixels in pixels of the map, and where the sign of an important one is written."""
    signs = []
    strongest = float(np.abs(weights).max(initial=0.0))
    for number in np.flatnonzero(np.abs(weights) >= max(SIGNED_SHARE * strongest, 1e-12)):
        inner = cv2.distanceTransform(np.pad(segments == number, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        if inner.any():
            row, column = np.unravel_index(int(inner.argmax()), inner.shape)
            signs.append([int(column), int(row), 1 if weights[number] > 0 else -1])
    return {
        "size": [segments.shape[1], segments.shape[0]],
        "borders": overlay.boundaries(segments).ravel().tolist(),
        "signs": signs,
    }


def _in_units(depth: Depth, value: float) -> str:
    """A centre or width, as ``inUnits`` of viewer_pictures.js writes it; files write halves of a unit.

    Notes
    -----
    Ties are rounded away from 0, as JavaScript does.
    """
    digits = _digits(depth)
    if digits is not None:
        mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent):+d}" if value else "0"
    with localcontext(prec=60):
        told = Decimal(value).quantize(Decimal(1).scaleb(-_decimals(depth) - 1), ROUND_HALF_UP)
    return f"{told:f}".rstrip("0").rstrip(".") if told else "0"


def _decimals(depth: Depth) -> int:
    """Decimals that tell a value of the file from the next."""
    return min(9, max(0, -math.floor(math.log10(depth.unit) + 1e-9)))


def _digits(depth: Depth) -> int | None:
    """Digits that do so in scientific notation, of values that are too small or too large for another; else None."""
    largest = max(abs(depth.offset), abs(depth.offset + depth.step * depth.brightest))
    if depth.unit >= 1e-9 and largest < 1e15:
        return None
    return min(17, max(1, math.floor(math.log10(largest / depth.unit)) + 1))


def _window_title(depth: Depth, window: Window, number: int) -> str:
    """What the window control says of a window of the file; its own texts are not among it."""
    told = ""
    if window.centre is not None and window.width is not None:
        told = f": C {_in_units(depth, window.centre)} W {_in_units(depth, window.width)}"
    mark = " (the network's)" if number == 0 and window.title != AS_GIVEN and len(depth.windows) > 1 else ""
    return window.title + told + mark


def _ends(low: float, high: float, base: Window) -> dict[str, float]:
    """Level and width between two levels of a straight window, in grey levels of the 8-bit picture."""
    first, last = ((level - base.low) / (base.high - base.low) * 255 for level in (low, high))
    return {"level": (first + last) / 2, "width": last - first, "curve": 0}


def _depth(depth: Depth, lungs: NDArray[np.bool_]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the browser needs beside the levels: their scale and curves, and the windows to choose from.

    All panels share one window in grey levels of the 8-bit picture. A window of the file that is a straight line, as the
    network's is, is one of these. Any other one is a curve of its own, for the radiograph's own levels only.
    """
    base = depth.windows[0]
    curves: list[dict[str, Any]] = []

    def curve(window: Window) -> dict[str, float]:
        table = None if window.curve is None else _deep_picture(window.curve.reshape(256, 256))
        curves.append({"low": window.low, "high": window.high, "picture": table})
        return {"level": 127.5, "width": 255, "curve": len(curves) - 1}

    def view(window: Window) -> dict[str, float]:
        straight = base.curve is None and window.curve is None
        return _ends(window.low, window.high, base) if straight else curve(window)

    chosen = [
        {"name": f"file-{number}", "title": _window_title(depth, window, number),
         "view": curve(window) if window is base else view(window)}
        for number, window in enumerate(depth.windows)
    ]  # fmt: skip
    image = depth.levels > 0 if depth.padded else np.ones(depth.levels.shape, np.bool_)
    small = cv2.resize(lungs.astype(np.uint8), depth.levels.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(
        np.bool_
    )
    found = overlay.windows(depth.levels, small, image)
    found["full"] = ((depth.brightest + depth.padded) / 2, depth.brightest - depth.padded)
    # the lungs last: whether there are any may change while a curve is shown, and the others keep their numbers
    views = {
        name: view(Window(WINDOWS[name], level - width / 2, level + width / 2))
        for name, (level, width) in sorted(found.items(), key=lambda each: each[0] == "lungs")
    }
    chosen += [{"name": name, "title": title, "view": views[name]} for name, title in WINDOWS.items() if name in views]
    sent = {
        "offset": depth.offset,
        "step": depth.step,
        "decimals": _decimals(depth),
        "digits": _digits(depth),
        "more": base.more,
        "brightest": depth.brightest,
        "padded": depth.padded,
        "curves": curves,
    }
    return sent, chosen


def _entry(panel: Panel, pictures: dict[int, int], depth: Depth | None) -> dict[str, Any]:
    """What the browser needs of a panel besides its picture."""
    entry: dict[str, Any] = {
        "title": panel.title,
        "description": panel.description,
        "badge": panel.badge,
        "picture": pictures[id(_shown(panel, depth))],
        "deep": _shown(panel, depth) is not panel.pixels,
        "outline": panel.outline,
        "frame": list(panel.frame),
    }
    if panel.heatmap is not None:
        reference = float(np.abs(panel.heatmap).max()) if panel.reference is None else panel.reference
        entry["map"] = _png(overlay.to_levels(panel.heatmap, reference, panel.signed))
        entry["mapFrame"] = list(panel.heatmap_frame)
        entry["reference"] = reference
        entry["signed"] = panel.signed
        if not panel.signed:
            entry["contours"] = _contours(panel.heatmap)
    if panel.segments is not None and panel.weights is not None:
        entry["superpixels"] = _superpixels(panel.segments, panel.weights)
    return entry


def _shown(panel: Panel, depth: Depth | None) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """What is painted of a panel; only one radiograph is shown at its full depth."""
    return panel.pixels if depth is None or panel.depth is not depth else depth.levels


def viewer(
    panels: list[Panel], lungs: NDArray[np.bool_], key: str, radiograph: Radiograph | None = None, boxes: bool = False
) -> Box | None:
    """Show panels side by side with the lungs' outline.

    `lungs` has the shape of the radiograph that the panels show. With `radiograph`, its sides and a scale bar are shown
    as far as its file tells them. With `boxes` a box can be drawn on it; the last one that was drawn is returned.
    """
    height, width = lungs.shape
    found = _component()(data=_data(panels, lungs, radiograph, boxes), key=key, on_box_change=_nothing)
    return None if radiograph is None or not boxes else _box(found.get("box"), radiograph.sha256, width, height)


def _data(
    panels: list[Panel], lungs: NDArray[np.bool_], radiograph: Radiograph | None, boxes: bool = False
) -> dict[str, Any]:
    """Everything that the browser gets."""
    height, width = lungs.shape
    depth = next((panel.depth for panel in panels if panel.depth is not None), None)
    distinct = {id(shown): shown for shown in (_shown(panel, depth) for panel in panels)}
    pictures = {found: number for number, found in enumerate(distinct)}
    first = np.ascontiguousarray(panels[0].pixels)
    subject = hashlib.sha256(first)
    if depth is None:
        deep = None
        found = overlay.windows(first, lungs if first.shape == lungs.shape else np.zeros(first.shape, np.bool_))
        windows = [
            {"name": name, "title": WINDOWS[name], "view": {"level": level, "width": wide, "curve": 0}}
            for name, (level, wide) in found.items()
        ]
    else:
        deep, windows = _depth(depth, lungs)
        subject.update(depth.sha256.encode())
    return {
        # the view starts anew with another picture: a flip must not pass to the next patient
        "subject": subject.hexdigest()[:16],
        "radiograph": radiograph.sha256 if radiograph is not None and boxes else None,
        "size": [width, height],
        "spacing": None if radiograph is None else _spacing(radiograph),
        # without a file there is nothing that could tell sides, and nothing is said of them
        "fromFile": radiograph is not None,
        "patientLeft": None if radiograph is None else radiograph.patient_left,
        "outline": _outline(lungs),
        "windows": windows,
        "depth": deep,
        "tables": {
            name: base64.b64encode(overlay.lookup_table(name).tobytes()).decode()
            for name in (*overlay.COLOUR_MAPS, "signed")
        },
        "keys": [
            {"action": key.action, "keys": list(key.keys), "names": [key_name(k) for k in key.keys], "does": key.does}
            for key in KEYS
        ],
        "pictures": [
            _deep_picture(shown) if shown.dtype == np.uint16 else _picture(shown) for shown in distinct.values()
        ],
        "panels": [_entry(panel, pictures, depth) for panel in panels],
    }


def _spacing(radiograph: Radiograph) -> dict[str, Any] | None:
    """Millimetres from column to column and from row to row, and what they are worth in words."""
    if radiograph.pixel_spacing_mm is None:
        return None
    rows, columns = radiograph.pixel_spacing_mm
    told = "at the detector: the body is magnified there" if radiograph.spacing_at_detector else "as the file says"
    return {"mm": [columns, rows], "told": told, "detector": radiograph.spacing_at_detector}


def _nothing() -> None:
    """Tells Streamlit that boxes are wanted."""


def _box(sent: Any, radiograph: str, width: int, height: int) -> Box | None:
    """What a browser sent, if it is a box on this radiograph. A browser may send anything."""
    if not isinstance(sent, Mapping) or sent.get("radiograph") != radiograph:
        return None
    sides = sent.get("box")
    if not isinstance(sides, list) or len(sides) != 4 or any(type(side) is not int for side in sides):
        return None
    left, top, right, bottom = sides
    fits = 0 <= left < right <= width and 0 <= top < bottom <= height
    return (left, top, right, bottom) if fits else None


def _component() -> Any:
    return st.components.v2.component("cxnet_viewer", html=_HTML, css=_CSS, js=_JS)


_HTML, _CSS, _JS = (
    "\n".join((Path(__file__).parent / name).read_text("utf-8") for name in names)
    for names in (["viewer.html"], ["viewer.css"], ["viewer_pictures.js", "viewer.js"])
)
