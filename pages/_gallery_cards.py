"""Cards of stored cases: pictures painted on the server, everything else drawn in the browser.

Text of a run file only ever enters the page as ``textContent`` or as an attribute, never as markup. Pictures that show
a radiograph stay in the session of one browser tab.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from cxnet import overlay
from cxnet.errors import CxnetError, DatasetError
from cxnet.radiograph import read_radiograph
from cxnet.runs import Run
from pages import _memory, _store

SIDE_PX = 256
PAINTED_KEPT = 400
TEXT_LENGTH = 120
OPACITY, OPACITY_ON_OUTLINE = 0.35, 0.6
#: Grey values of the ground and of the lungs where there is no radiograph.
_GROUND, _LUNGS = 70, 150
_PAINTED = "gallery-painted"

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Painted:
    """One card's picture as a data URI ("" if there is nothing to show), what it shows, and what it lacks.

    `lacking` says why figures of the map cannot be had; "" if map and lungs are there.
    """

    source: str
    alt: str
    lacking: str
    radiograph: bool


def number(value: object) -> float | None:
    """A finite number of a table, or None."""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and np.isfinite(value):
        return float(value)
    return None


def text(value: object) -> str:
    """A string of a table, cut to a length that fits on a card; "" if there is none."""
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return ""
    found = str(value)
    return found if len(found) <= TEXT_LENGTH else found[: TEXT_LENGTH - 1] + "…"


# -------------------------------------------------------------------------------------------------------- painting


def _region(value: object) -> Box | None:
    """What of the picture the network saw: (top, bottom, left, right); the whole if not stored, None if damaged."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return (0.0, 1.0, 0.0, 1.0)
    try:
        top, bottom, left, right = (float(edge) for edge in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    return (top, bottom, left, right) if 0 <= top < bottom <= 1 and 0 <= left < right <= 1 else None


def paint(pixels: NDArray[np.uint8] | None, heatmap: Map | None, lungs: Mask | None, region: Box) -> overlay.RGB:
    """The map on the radiograph, or, without one, on the lung outline over a neutral ground.

    Parameters
    ----------
    pixels : uint8 array (height, width), optional
    heatmap : float32 array, optional
        Of what the network saw; stretched to its own maximum.
    lungs : bool array, optional
        Of the whole picture, in any resolution.
    region : (top, bottom, left, right)
        What the network saw, as shares of the picture; the map covers that part only.

    Returns
    -------
    uint8 array (height, width, 3), red-green-blue, sides at most :data:`SIDE_PX`
    """
    if pixels is None:
        height = width = SIDE_PX
    else:
        factor = min(1.0, SIDE_PX / max(pixels.shape))
        height, width = (max(1, round(side * factor)) for side in pixels.shape)
    mask = None
    if lungs is not None and lungs.any():
        soft = cv2.resize(lungs.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        mask = np.asarray(cv2.GaussianBlur(soft, (0, 0), SIDE_PX / 100) >= 0.5, np.bool_)
    if pixels is not None:
        base = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    else:
        base = np.full((height, width), _GROUND, np.uint8)
        if mask is not None:
            base[mask] = _LUNGS
    painted = np.repeat(base[:, :, None], 3, axis=2)
    if heatmap is not None:
        top, bottom = round(region[0] * height), max(round(region[0] * height) + 1, round(region[1] * height))
        left, right = round(region[2] * width), max(round(region[2] * width) + 1, round(region[3] * width))
        part = base[top:bottom, left:right]
        fine = cv2.resize(heatmap, part.shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(part.shape)
        opacity = OPACITY if pixels is not None else OPACITY_ON_OUTLINE
        strongest = max(0.0, float(heatmap.max()))
        painted[top:bottom, left:right] = overlay.blend(part, fine, opacity, reference=strongest)
    if mask is not None:  # finer lines than on a large picture, which overlay.draw_outline is made for
        for grey, thickness in ((0, 2), (255, 1)):
            cv2.polylines(painted, overlay.contours(mask), True, (grey, grey, grey), thickness, cv2.LINE_AA)
    return painted


def _pixels(row: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """The radiograph of a row if it is at hand, unchanged and readable."""
    path = image_at_hand(row)
    if path is None:
        return None
    try:
        found = read_radiograph(path.read_bytes())
    except (CxnetError, OSError):
        return None
    return found.pixels if found.sha256 == row["case"] else None


def image_at_hand(row: Mapping[str, Any]) -> Path | None:
    """Path of a row's radiograph, or None. A name that cannot be a path on this system is not at hand."""
    try:
        return _store.image_path(row.get("file"), str(row["case"]))
    except (OSError, ValueError):
        return None


def _paint_row(row: Mapping[str, Any], heatmap: Map | None, lungs: Mask | None) -> Painted:
    region, predicted, lacking = _region(row.get("region")), text(row["predicted"]), ""
    if heatmap is None:
        lacking = "no map is stored"
    elif not np.isfinite(heatmap).all() or region is None:
        heatmap, lacking = None, "the stored map is damaged"
    elif heatmap.max() <= 0:
        lacking = "the map has no positive evidence"
    elif lungs is None:
        lacking = "no lung outline is stored"
    elif not lungs.any():
        lacking = "no lung was found"
    pixels = _pixels(row)
    if pixels is None and heatmap is None and (lungs is None or not lungs.any()):
        return Painted("", "", lacking, False)
    picture = paint(pixels, heatmap, lungs, region or (0.0, 1.0, 0.0, 1.0))
    encoded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    shown = "Chest radiograph" if pixels is not None else "Outline of the lungs, without the radiograph,"
    alt = (
        f"{shown} with the Grad-CAM map for {predicted}, stretched to its own maximum"
        if heatmap is not None
        else f"{shown} without a map"
    )
    return Painted("data:image/jpeg;base64," + base64.b64encode(encoded).decode(), alt, lacking, pixels is not None)


def painted(run: Run, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Painted], str | None]:
    """Pictures of the rows of one page, and a sentence if the run's maps cannot be read.

    Kept in this session, the last :data:`PAINTED_KEPT` of them. Whether a radiograph is still at hand and unchanged
    is asked every time.
    """
    kept: OrderedDict[Hashable, Painted] = st.session_state.setdefault(_PAINTED, OrderedDict())
    _memory.hold(kept)
    checksums = {fold["number"]: fold.get("sha256") for fold in run.info["folds"]}
    keys = [
        (run.name, checksums.get(row["fold"]), row["fold"], row["row"], row["case"], image_at_hand(row) is not None)
        for row in rows
    ]
    missing = [at for at, key in enumerate(keys) if key not in kept]
    problem = None
    if missing:
        try:
            pictures = run.pictures(
                pd.DataFrame([{"fold": rows[at]["fold"], "row": rows[at]["row"]} for at in missing])
            )
        except (DatasetError, OSError, ValueError):
            pictures = [(None, None)] * len(missing)
            problem = f"The maps of the run {run.name} cannot be read; write or fetch the run again."
        for at, (heatmap, lungs) in zip(missing, pictures, strict=True):
            kept[keys[at]] = _paint_row(rows[at], heatmap, lungs)
    found = [kept[key] for key in keys]
    for key in keys:
        kept.move_to_end(key)
    if problem:  # not kept, so that it is told again
        for at in missing:
            kept.pop(keys[at], None)
    while len(kept) > max(PAINTED_KEPT, len(keys)):
        kept.popitem(last=False)
    return found, problem


# ----------------------------------------------------------------------------------------------------------- cards


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _figures(row: Mapping[str, Any], picture: Painted) -> list[str]:
    """In-lung share, lift and z; undefined ones say why."""
    inside, lift, z = (number(row.get(name)) for name in ("in_lung", "lift", "z"))
    why = picture.lacking or (
        "" if any(name in row for name in ("in_lung", "lift", "z")) else "the run does not store them"
    )
    if inside is None and lift is None and z is None:
        return [f"No figures of the map: {why or 'undefined for this case'}"]
    told = [
        "— in the lungs" if inside is None else f"{100 * inside:.0f} % in the lungs",
        "lift —" if lift is None else f"lift {lift:.2f}",
        "z —" if z is None else f"z {_signed(z, 1)}",
    ]
    lines = [" · ".join(told)]
    if None in (inside, lift, z):
        lines.append(f"—: {why or 'undefined for this case'}")
    return lines


def _agreement(row: Mapping[str, Any]) -> list[str]:
    """Rank correlation of Grad-CAM and LIME, and R² of LIME's surrogate; or why there is none."""
    agreement, r2 = number(row.get("cam_lime")), number(row.get("lime_r2"))
    if agreement is None:
        reason = text(row.get("cam_lime_reason"))
        return [f"CAM-LIME agreement —: {reason}"] if reason else []
    return [f"CAM-LIME agreement {_signed(agreement, 2)}" + ("" if r2 is None else f" · R² {r2:.2f}")]


def card(run: Run, row: Mapping[str, Any], picture: Painted) -> dict[str, Any]:
    """What the browser draws of one case: strings, all of them text."""
    probability = number(row.get(f"probability {row['predicted']}"))
    lines = _figures(row, picture)
    lines += _agreement(row)
    if (background := number(row.get("background_probability"))) is not None:
        lines.append(f"background alone {background:.3f}")
    if verdict := text(row.get("verdict")):
        lines.append(verdict)
    origin = [part for part in (text(row.get("source")), text(row.get("view"))) if part]
    if len(run.folds) > 1:
        origin.append(f"fold {row['fold']}")
    return {
        "href": "./?" + urlencode({"run": run.name, "case": str(row["case"])}),
        "picture": picture.source,
        "alt": picture.alt,
        "right": bool(row["true"] == row["predicted"]),
        "predicted": text(row["predicted"]),
        "probability": "—" if probability is None else f"{probability:.3f}",
        "true": text(row["true"]),
        "lines": lines,
        "origin": " · ".join(origin),
    }


def show(cards: Sequence[Mapping[str, Any]], key: str, page: int) -> None:
    """Draw cards as a grid of links to the Analyse page."""
    st.components.v2.component("cxnet_gallery", html=_HTML, css=_CSS, js=_JS)(
        data={"cards": list(cards), "page": page}, key=key
    )


_HTML = '<ul class="cards" role="list"></ul>'

_CSS = """
.cards { --gap: .75rem; scroll-margin-top: 9rem; list-style: none; margin: 0; padding: 3px; display: grid; gap: var(--gap);
  grid-template-columns: repeat(auto-fill, minmax(max(200px, (100% - 5 * var(--gap)) / 6), 1fr));
  font-family: var(--st-font); color: var(--st-text-color); }
.cards li { margin: 0; min-width: 0; }
a { display: block; height: 100%; box-sizing: border-box; color: inherit; text-decoration: none; overflow: hidden;
  background: var(--st-secondary-background-color); border-radius: 8px;
  border: 1px solid color-mix(in srgb, var(--st-text-color) 18%, transparent); }
a:hover { border-color: var(--st-primary-color); }
a:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 0; }
.ground { background: #000; aspect-ratio: 1; display: flex; align-items: center; justify-content: center; }
.ground img { width: 100%; height: 100%; object-fit: contain; display: block; }
.ground span { color: #d7dfe2; font-size: .8rem; padding: .5rem; text-align: center; }
.text { display: block; padding: .45rem .6rem .55rem; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.text span { display: block; }
.text .predicted { font-size: .9rem; font-weight: 600; display: flex; justify-content: space-between; gap: .5rem; }
.text .predicted span:last-child { overflow-wrap: normal; }
.text small { font-size: .8rem; font-weight: 400; opacity: .75; }
.text .origin { opacity: .75; }
"""

_JS = r"""
function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw(card) {
  const item = element("li"), link = element("a"), ground = element("span", "ground"), words = element("span", "text");
  link.setAttribute("href", card.href);
  link.target = "_self";
  if (card.picture) {
    const image = element("img");
    image.alt = card.alt;
    image.src = card.picture;
    ground.append(image);
  } else {
    ground.append(element("span", "", "no picture"));
  }
  const head = element("span", "predicted");
  const called = element("span");
  called.append(element("small", "", "predicted "), card.predicted);
  head.append(called, element("span", "", card.probability));
  words.append(head, element("span", "", (card.right ? "✓" : "✗") + " true " + card.true));
  for (const line of card.lines) words.append(element("span", "", line));
  if (card.origin) words.append(element("span", "origin", card.origin));
  link.append(ground, words);
  // A plain click goes where Back and Forward go: Streamlit follows the URL within the session, and the browser's
  // history gets one entry, so Back shows this gallery again. (st.switch_page would leave a second, wrong entry.)
  // With Ctrl, Shift or the middle button the browser opens the link itself.
  link.addEventListener("click", (event) => {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    history.pushState({}, "", link.href);
    window.dispatchEvent(new PopStateEvent("popstate", { state: {} }));
  });
  item.append(link);
  return item;
}

export default function (component) {
  const { parentElement: root, data } = component;
  const list = root.querySelector(".cards");
  list.replaceChildren(...data.cards.map(draw));
  list.dataset.drawn = String(Math.round(performance.now()));
  if (root.__page !== undefined && root.__page !== data.page) list.scrollIntoView({ block: "start" });
  root.__page = data.page;
}
"""
