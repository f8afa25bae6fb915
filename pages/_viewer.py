"""The linked viewer: a canvas a panel, drawn in the browser.

Zoom, pan, window/level, opacity and colour map act on all panels at once and never reach the server, so they cannot
change what a network gets. The one thing that does is a box that was drawn on purpose. Pictures and maps are sent once
as PNG; text only ever enters as ``textContent``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cxnet import overlay

LONGEST_SIDE_PX = 1024

#: Left, top, right and bottom in pixels of the radiograph, the last two excluded.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Panel:
    """One panel: a grey picture, and perhaps a map over it.

    `heatmap` is raw, in any resolution; `reference` is the value of the strongest colour; `badge` says in words how
    the colours are scaled. `outline` is for panels that show the whole radiograph: the lungs' outline and a drawn box
    would not fit on others.
    """

    title: str
    description: str
    pixels: NDArray[np.uint8]
    heatmap: NDArray[np.float32] | None = None
    reference: float | None = None
    signed: bool = False
    badge: str = ""
    outline: bool = True


def _png(levels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", levels)[1].tobytes()).decode()


def _picture(pixels: NDArray[np.uint8]) -> str:
    factor = LONGEST_SIDE_PX / max(pixels.shape)
    if factor < 1:
        size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return _png(pixels)


def _outline(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Outlines of a mask as flat lists of x and y, in shares of the picture."""
    small = cv2.resize(mask.astype(np.uint8), (512, 512), interpolation=cv2.INTER_AREA).astype(np.bool_)
    lines = []
    for line in overlay.contours(small):
        points = cv2.approxPolyDP(line[:, None, :], 0.7, True)[:, 0, :]
        lines.append(np.round((points + 0.5) / 512, 4).ravel().tolist())
    return lines


def viewer(panels: list[Panel], lungs: NDArray[np.bool_], key: str, radiograph: str | None = None) -> Box | None:
    """Show panels side by side with the lungs' outline.

    With `radiograph`, something that tells one radiograph from another, a box can be drawn. The last one that was drawn
    on this radiograph is returned.
    """
    height, width = lungs.shape
    data: dict[str, Any] = {
        "radiograph": radiograph,
        "size": [width, height],
        "outline": _outline(lungs),
        "tables": {
            name: base64.b64encode(overlay.lookup_table(name).tobytes()).decode()
            for name in (*overlay.COLOUR_MAPS, "signed")
        },
        "panels": [],
    }
    for panel in panels:
        entry: dict[str, Any] = {
            "title": panel.title,
            "description": panel.description,
            "badge": panel.badge,
            "picture": _picture(panel.pixels),
            "outline": panel.outline,
        }
        if panel.heatmap is not None:
            reference = float(np.abs(panel.heatmap).max()) if panel.reference is None else panel.reference
            entry["map"] = _png(overlay.to_levels(panel.heatmap, reference, panel.signed))
            entry["reference"] = reference
            entry["signed"] = panel.signed
        data["panels"].append(entry)
    found = _component()(data=data, key=key, on_box_change=_nothing)
    return None if radiograph is None else _box(found.get("box"), radiograph, width, height)


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


_HTML = """
<div class="viewer">
  <div class="bar" role="toolbar" aria-label="Viewer controls">
    <label>Map opacity <input class="opacity" type="range" min="0" max="1" step="0.05" value="0.35"></label>
    <label>Colours <select class="colours">
      <option value="inferno">inferno</option><option value="cividis">cividis</option>
      <option value="jet">jet (as printed in papers)</option></select></label>
    <label><input class="outline" type="checkbox" checked> Lung outline</label>
    <button class="reset" type="button">Reset view</button>
    <button class="draw" type="button" aria-pressed="false" hidden>Draw a box</button>
    <span class="hint">wheel or + − zoom · drag or arrows pan · right-drag window/level · i invert · 0 reset<span
      class="draw-hint" hidden> · b box: drag, or Enter for the middle of the view</span></span>
  </div>
  <div class="banner" role="status" hidden></div>
  <div class="grid"></div>
</div>
"""

_CSS = """
.viewer { font-family: var(--st-font); color: var(--st-text-color); }
.bar { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; align-items: center; margin-bottom: .5rem; font-size: .9rem; }
.bar label { display: inline-flex; gap: .4rem; align-items: center; }
.bar select, .bar button { font: inherit; color: inherit; background: var(--st-secondary-background-color);
  border: 1px solid color-mix(in srgb, var(--st-text-color) 45%, transparent); border-radius: 6px; padding: .15rem .5rem; }
.bar input { accent-color: var(--st-primary-color); }
.bar .draw[aria-pressed=true] { background: var(--st-primary-color); color: var(--st-background-color);
  border-color: var(--st-primary-color); }
.drawing canvas { cursor: crosshair; }
.hint { opacity: .75; font-size: .8rem; }
.banner { background: var(--st-secondary-background-color); border-left: 4px solid var(--st-primary-color);
  padding: .25rem .6rem; margin-bottom: .5rem; font-size: .85rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 200px), 1fr)); gap: .6rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; font-weight: 600; padding: .1rem 0 .25rem; display: flex; flex-direction: column;
  min-height: 2.9em; justify-content: flex-end; }
.scale { font-weight: 400; font-size: .75rem; opacity: .8; }
canvas { width: 100%; display: block; background: #000; border-radius: 6px; cursor: grab; touch-action: none; }
canvas:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 1px; }
.value { font-size: .75rem; min-height: 1.2em; opacity: .85; font-variant-numeric: tabular-nums; }
"""

_JS = r"""
const HOME = { x: 0.5, y: 0.5, zoom: 1, level: 127.5, width: 255, invert: false };
const SHOWN = { opacity: 0.35, colours: "inferno", outline: true };

async function levels(source) {
  // Grey levels of a PNG, one byte a pixel.
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const grey = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < grey.length; i++) grey[i] = rgba[4 * i];
  return { width: canvas.width, height: canvas.height, grey, canvas };
}

function paint(picture, colour) {
  // Recolour a decoded picture into its own canvas: colour(level) gives 0xAABBGGRR.
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) table[i] = colour(i);
  const context = picture.canvas.getContext("2d");
  const image = context.createImageData(picture.width, picture.height);
  const out = new Uint32Array(image.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = table[picture.grey[i]];
  context.putImageData(image, 0, 0);
}

export default function (component) {
  const { parentElement: root, data, setStateValue } = component;
  const box = root.querySelector(".viewer");
  // View and choices outlive a rerun of the page: they stay with the element.
  const view = root.__view || (root.__view = { ...HOME });
  const shown = root.__shown || (root.__shown = { ...SHOWN });
  const run = (root.__run = (root.__run || 0) + 1);
  const tables = {};
  for (const [name, text] of Object.entries(data.tables)) tables[name] = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const opacity = box.querySelector(".opacity"), colours = box.querySelector(".colours");
  const drawButton = box.querySelector(".draw");
  // A box belongs to the radiograph that it was drawn on: x, y, x, y in shares of the picture.
  const drawn = root.__drawn && root.__drawn.radiograph === data.radiograph ? root.__drawn : (root.__drawn = {
    radiograph: data.radiograph, sides: null, armed: false });
  const outline = box.querySelector(".outline"), banner = box.querySelector(".banner"), grid = box.querySelector(".grid");
  let panels = [], frame = 0, pictureStale = true, mapStale = true;

  function colourMap(name) {
    const table = tables[name];
    return (i) => (0xff000000 | (table[3 * i + 2] << 16) | (table[3 * i + 1] << 8) | table[3 * i]) >>> 0;
  }

  function window_(i) {
    let grey = ((i - view.level) / view.width + 0.5) * 255;
    if (view.invert) grey = 255 - grey;
    grey = Math.max(0, Math.min(255, Math.round(grey)));
    return (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
  }

  function draw() {
    frame = 0;
    if (run !== root.__run) return;
    const changed = view.invert || Math.abs(view.level - HOME.level) > 0.5 || Math.abs(view.width - HOME.width) > 0.5;
    banner.hidden = !changed;
    banner.textContent = (view.invert ? "Inverted. " : "") + "Window changed for viewing only; the network's input is the same.";
    for (const panel of panels) {
      if (pictureStale) paint(panel.picture, window_);
      if (mapStale && panel.map) paint(panel.map, colourMap(panel.signed ? "signed" : shown.colours));
      const { canvas, picture } = panel, context = canvas.getContext("2d");
      const width = Math.max(64, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
      const height = Math.round((width * picture.height) / picture.width);
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      const w = width * view.zoom, h = height * view.zoom;
      const left = width / 2 - view.x * w, top = height / 2 - view.y * h;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.globalAlpha = 1;
      context.clearRect(0, 0, width, height);
      context.imageSmoothingEnabled = view.zoom < 6;
      context.drawImage(picture.canvas, left, top, w, h);
      if (panel.map && shown.opacity > 0) {
        context.globalAlpha = shown.opacity;
        context.imageSmoothingEnabled = !panel.signed;
        context.drawImage(panel.map.canvas, left, top, w, h);
        context.globalAlpha = 1;
      }
      if (shown.outline && panel.outline) {
        for (const [colour, line] of [["#000", 4], ["#fff", 1.8]]) {
          context.strokeStyle = colour;
          context.lineWidth = line * Math.max(1, width / 500);
          for (const points of data.outline) {
            context.beginPath();
            for (let i = 0; i < points.length; i += 2) context.lineTo(left + points[i] * w, top + points[i + 1] * h);
            context.closePath();
            context.stroke();
          }
        }
      }
      if (drawn.sides && panel.outline) {
        const [x0, y0, x1, y1] = drawn.sides;
        for (const [colour, line] of [["#000", 4], ["#ffd23f", 2]]) {
          context.strokeStyle = colour;
          context.lineWidth = line * Math.max(1, width / 500);
          context.strokeRect(left + x0 * w, top + y0 * h, (x1 - x0) * w, (y1 - y0) * h);
        }
      }
    }
    pictureStale = mapStale = false;
    box.dataset.view = JSON.stringify({ ...view, ...shown });
    box.dataset.drawn = String(Number(box.dataset.drawn || 0) + 1);
  }
  const redraw = () => { frame = frame || requestAnimationFrame(draw); };

  function clamp() {
    view.zoom = Math.min(16, Math.max(1, view.zoom));
    const half = 0.5 / view.zoom;
    view.x = Math.min(1 - half, Math.max(half, view.x));
    view.y = Math.min(1 - half, Math.max(half, view.y));
  }
  function at(panel, event) {
    // Place under the pointer, in shares of the picture.
    const r = panel.canvas.getBoundingClientRect();
    const u = (event.clientX - r.left) / r.width - 0.5, v = (event.clientY - r.top) / r.height - 0.5;
    return { x: view.x + u / view.zoom, y: view.y + v / view.zoom, u, v };
  }
  function arm(on) {
    drawn.armed = on && data.radiograph !== null;
    drawButton.setAttribute("aria-pressed", String(drawn.armed));
    drawButton.textContent = drawn.armed ? "Drag a box on a picture" : "Draw a box";
    box.classList.toggle("drawing", drawn.armed);
  }
  function span(a, b) {
    // The box between two places, within the picture.
    const inside = (v) => Math.min(1, Math.max(0, v));
    return [Math.min(inside(a.x), inside(b.x)), Math.min(inside(a.y), inside(b.y)),
      Math.max(inside(a.x), inside(b.x)), Math.max(inside(a.y), inside(b.y))];
  }
  function send() {
    // Whole pixels of the radiograph. This is the only thing that leaves the browser.
    const [width, height] = data.size, [x0, y0, x1, y1] = drawn.sides;
    const sides = [Math.floor(x0 * width), Math.floor(y0 * height), Math.ceil(x1 * width), Math.ceil(y1 * height)];
    arm(false);
    box.dataset.box = JSON.stringify(sides);
    setStateValue("box", { radiograph: data.radiograph, box: sides });
  }
  function reset() { Object.assign(view, HOME); pictureStale = true; redraw(); }

  function listen(panel) {
    const { canvas } = panel;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const p = at(panel, event);
      view.zoom *= Math.exp(-event.deltaY * 0.0015);
      view.zoom = Math.min(16, Math.max(1, view.zoom));
      view.x = p.x - p.u / view.zoom;
      view.y = p.y - p.v / view.zoom;
      clamp(); redraw();
    }, { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      if (drawn.armed && panel.outline && event.button === 0 && !event.shiftKey) {
        const start = at(panel, event), before = drawn.sides;
        const stretch = (next) => { drawn.sides = span(start, at(panel, next)); redraw(); };
        const end = (last) => {
          canvas.removeEventListener("pointermove", stretch);
          canvas.removeEventListener("pointerup", end);
          canvas.removeEventListener("pointercancel", end);
          const [x0, y0, x1, y1] = span(start, at(panel, last));
          const meant = last.type === "pointerup" && x1 - x0 > 0.004 && y1 - y0 > 0.004;  // a click is no box
          drawn.sides = meant ? [x0, y0, x1, y1] : before;
          if (meant) send();
          redraw();
        };
        canvas.addEventListener("pointermove", stretch);
        canvas.addEventListener("pointerup", end);
        canvas.addEventListener("pointercancel", end);
        return;
      }
      let lastX = event.clientX, lastY = event.clientY;
      const windowing = event.button === 2 || event.shiftKey;
      const move = (next) => {
        const dx = next.clientX - lastX, dy = next.clientY - lastY, r = canvas.getBoundingClientRect();
        lastX = next.clientX; lastY = next.clientY;
        if (windowing) {
          view.width = Math.min(1020, Math.max(4, view.width + dx));
          view.level = Math.min(255, Math.max(0, view.level + dy * 0.6));
          pictureStale = true;
        } else {
          view.x -= dx / r.width / view.zoom;
          view.y -= dy / r.height / view.zoom;
          clamp();
        }
        redraw();
      };
      const stop = () => { canvas.removeEventListener("pointermove", move); };
      canvas.addEventListener("pointermove", move);
      canvas.addEventListener("pointerup", stop, { once: true });
      canvas.addEventListener("pointercancel", stop, { once: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      const p = at(panel, event);
      for (const other of panels) {
        const pick = (m) => m.grey[Math.min(m.height - 1, Math.max(0, Math.floor(p.y * m.height))) * m.width
          + Math.min(m.width - 1, Math.max(0, Math.floor(p.x * m.width)))];
        let text = "grey " + pick(other.picture);
        if (other.map) {
          const share = other.signed ? (pick(other.map) - 128) / 127 : pick(other.map) / 255;
          text += " · map " + (share * other.reference).toPrecision(3);
        }
        other.value.textContent = text;
      }
    });
    canvas.addEventListener("pointerleave", () => { for (const other of panels) other.value.textContent = ""; });
    canvas.addEventListener("keydown", (event) => {
      const step = 0.05 / view.zoom, key = event.key;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (key === "+" || key === "=") view.zoom *= 1.2;
      else if (key === "-") view.zoom /= 1.2;
      else if (key === "ArrowLeft") view.x -= step;
      else if (key === "ArrowRight") view.x += step;
      else if (key === "ArrowUp") view.y -= step;
      else if (key === "ArrowDown") view.y += step;
      else if (key === "i") { view.invert = !view.invert; pictureStale = true; }
      else if (key === "b") { arm(!drawn.armed); event.preventDefault(); return; }
      else if (key === "Escape" && drawn.armed) { arm(false); event.preventDefault(); return; }
      else if (key === "Enter" && drawn.armed && panel.outline) {
        const reach = 0.25 / view.zoom;
        drawn.sides = span({ x: view.x - reach, y: view.y - reach }, { x: view.x + reach, y: view.y + reach });
        send(); redraw(); event.preventDefault(); return;
      }
      else if (key === "0") { reset(); event.preventDefault(); return; }
      else return;
      event.preventDefault();
      clamp(); redraw();
    });
  }

  opacity.value = shown.opacity; colours.value = shown.colours; outline.checked = shown.outline;
  opacity.oninput = () => { shown.opacity = Number(opacity.value); redraw(); };
  colours.onchange = () => { shown.colours = colours.value; mapStale = true; redraw(); };
  outline.onchange = () => { shown.outline = outline.checked; redraw(); };
  box.querySelector(".reset").onclick = reset;
  drawButton.hidden = box.querySelector(".draw-hint").hidden = data.radiograph === null;
  drawButton.onclick = () => arm(!drawn.armed);
  arm(drawn.armed);

  (async () => {
    const loaded = await Promise.all(data.panels.map(async (entry) => ({
      ...entry, picture: await levels(entry.picture), map: entry.map ? await levels(entry.map) : null,
    })));
    if (run !== root.__run) return;
    panels = loaded.map((entry) => {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption");
      const title = document.createElement("span"), scale = document.createElement("span");
      const canvas = document.createElement("canvas"), value = document.createElement("div");
      title.textContent = entry.title;
      scale.textContent = entry.badge;
      scale.className = "scale";
      value.className = "value";
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", entry.title + ": " + entry.description);
      canvas.style.aspectRatio = entry.picture.width + " / " + entry.picture.height;
      caption.append(title, scale);
      figure.append(caption, canvas, value);
      return { ...entry, figure, canvas, value };
    });
    const focused = root.activeElement || document.activeElement;
    const index = [...grid.querySelectorAll("canvas")].indexOf(focused);
    grid.replaceChildren(...panels.map((panel) => panel.figure));
    panels.forEach(listen);
    if (index >= 0 && panels[index]) panels[index].canvas.focus();
    pictureStale = mapStale = true;
    new ResizeObserver(redraw).observe(grid);
    draw();
    box.dataset.panels = String(panels.length);
  })();
}
"""
