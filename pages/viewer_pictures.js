// Pictures, shapes and windows of the linked viewer: plain functions, which viewer.js calls.

// `level` and `width` are grey levels of the 8-bit picture; `curve` is what makes grey of the levels of a deep picture.
const HOME = { x: 0.5, y: 0.5, zoom: 1, level: 127.5, width: 255, curve: 0, invert: false, flip: false, turns: 0 };
const SHOWN = { opacity: 0.35, colours: "inferno", outline: true, contours: false, superpixels: false, one: -1 };
const EDGES = ["top", "right", "bottom", "left"];  // clockwise
const DASHES = { 0.25: [1, 4], 0.5: [7, 5], 0.75: [] };  // told apart without colour
const HANDLED_BY = {  // keys that a control needs itself
  BUTTON: [" ", "Enter"],
  INPUT: [" ", "Enter", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"],
};

async function levels(source, deep) {
  // Grey levels of a PNG: one byte a pixel, or two, if it holds the high bytes above the low ones.
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = document.createElement("canvas"), width = image.naturalWidth, all = image.naturalHeight;
  canvas.width = width;
  canvas.height = all;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, width, all).data;
  const height = deep ? all / 2 : all, count = width * height;
  const grey = deep ? new Uint16Array(count) : new Uint8Array(count);
  if (deep) for (let i = 0; i < count; i++) grey[i] = (rgba[4 * i] << 8) | rgba[4 * (i + count)];
  else for (let i = 0; i < count; i++) grey[i] = rgba[4 * i];
  if (deep) canvas.height = height;
  return { width, height, grey, canvas, painted: context.createImageData(width, height) };
}

function paint(picture, colour) {
  // Recolour a decoded picture into its own canvas: colour(level) gives 0xAABBGGRR.
  const { grey, painted } = picture, table = new Uint32Array(grey instanceof Uint16Array ? 65536 : 256);
  for (let i = 0; i < table.length; i++) table[i] = colour(i);
  const out = new Uint32Array(painted.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = table[grey[i]];
  picture.canvas.getContext("2d").putImageData(painted, 0, 0);
}

function make(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function path(lines, frame, closed) {
  // A path in shares from flat lists of x and y in shares of a frame.
  const [left, top, right, bottom] = frame, result = new Path2D();
  for (const points of lines) {
    for (let i = 0; i < points.length; i += 2) {
      const x = left + points[i] * (right - left), y = top + points[i + 1] * (bottom - top);
      if (i) result.lineTo(x, y); else result.moveTo(x, y);
    }
    if (closed) result.closePath();
  }
  return result;
}

function pathOfBorders(superpixels, frame) {
  const [width, height] = superpixels.size, lines = [], b = superpixels.borders;
  for (let i = 0; i < b.length; i += 4) lines.push([b[i] / width, b[i + 1] / height, b[i + 2] / width, b[i + 3] / height]);
  return path(lines, frame, false);
}

function turnedTo(edge, view) {
  // Where an edge of the picture is on the screen.
  let index = EDGES.indexOf(edge);
  if (view.flip && index % 2) index = 4 - index;
  return EDGES[(index + view.turns) % 4];
}

function orientation(view) {
  // What flips and rotations come to, for the banner and for the tag on each panel.
  const degrees = { 1: "90° to the right", 2: "180°", 3: "90° to the left" }[view.turns];
  if (!view.flip && !view.turns) return null;
  if (!view.flip) return { tag: "ROTATED", text: `View is rotated by ${degrees}` + (view.turns === 2
    ? " — left and right, and top and bottom, are exchanged." : " — left and right are not at the sides.") };
  if (!view.turns) return { tag: "FLIPPED", text: "View is flipped — left and right are exchanged." };
  if (view.turns === 2) return { tag: "FLIPPED", text: "View is flipped — top and bottom are exchanged." };
  return { tag: "FLIPPED, ROTATED", text: `View is flipped and rotated by ${degrees} — it is a mirror image.` };
}

// How the levels of a deep picture become grey, and what they are in the file's units.

async function depthOf(sent) {
  // What a file tells beyond 8 bits, its curves as grey of each level: 0 is black and 255 white, straight ones go beyond.
  const curves = await Promise.all(sent.curves.map(async ({ low, high, picture }) => {
    const curve = new Float32Array(65536);
    if (picture) (await levels(picture, true)).grey.forEach((grey, i) => { curve[i] = grey / 257; });
    else for (let i = 0; i < curve.length; i++) curve[i] = (i - low) / (high - low) * 255;
    if (sent.padded) curve[0] = -Infinity;  // what is no image stays black
    return curve;
  }));
  return { ...sent, straight: sent.curves, curves };
}

function inUnits(depth, value, more = 0) {
  // A value as finely as the file has them, or `more` finer; the window list is written so too, by _in_units of _viewer.py.
  if (depth.digits === null) {
    const told = value.toFixed(depth.decimals + more);
    return !Number(told) ? "0" : told.includes(".") ? told.replace(/\.?0+$/, "") : told;
  }
  const [mantissa, exponent] = value.toExponential(depth.digits - 1 + more).split("e");
  return value ? `${Number(mantissa)}e${exponent}` : "0";
}

function valueOf(depth, level) {
  // The value of a level, in words.
  return depth.padded && level === 0 ? "padding, no image" : `value ${inUnits(depth, depth.offset + depth.step * level)}`;
}

function windowInUnits(depth, view) {
  // Centre and width as the file would write them, in halves of a unit too; null for a curve that has none.
  const { low, high, picture } = depth.straight[view.curve];
  if (picture) return null;
  const level = low + view.level / 255 * (high - low), width = view.width / 255 * (high - low);
  return `C ${inUnits(depth, depth.offset + depth.step * level + depth.more / 2, 1)} `
    + `W ${inUnits(depth, Math.abs(depth.step) * width + depth.more, 1)}`;
}

function reach(depth) {
  // How far window and level may be set.
  if (!depth) return { narrowest: 4, widest: 1020, lowest: 0, highest: 255 };
  const { low, high, picture } = depth.straight[0];
  if (picture) return { narrowest: 0.5, widest: 1020, lowest: 0, highest: 255 };
  const grey = (level) => (level - low) / (high - low) * 255, ends = [grey(0), grey(depth.brightest)];
  return { narrowest: Math.min(4, (ends[1] - ends[0]) / 1024), widest: Math.max(1020, 4 * (ends[1] - ends[0])),
    lowest: Math.min(0, ends[0]), highest: Math.max(255, ends[1]) };
}
