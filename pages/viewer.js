// The linked viewer in the browser. Coordinates called "shares" run from 0 to 1 over the radiograph, whatever part of it
// a panel's picture shows; only draw() and at() know how the view is turned.

function create(root, box) {
  // View and choices outlive a rerun of the page, and even a new copy of this element's insides: they stay with the root.
  const state = root.__viewer || (root.__viewer = { view: { ...HOME }, shown: { ...SHOWN }, subject: null, drawn: {} });
  const { view, shown } = state;
  const find = (selector) => box.querySelector(selector);
  const opacity = find(".opacity"), colours = find(".colours"), chosenWindow = find(".window"), drawButton = find(".draw");
  const peekButton = find(".peek"), banner = find(".banner"), grid = find(".grid"), dialog = find("dialog");
  let data = null, send = null, panels = [], pictures = new Map(), depth = null, tables = {}, run = 0, frame = 0;
  let pictureStale = true, mapStale = true, peeking = false;

  function colourMap(name) {
    const table = tables[name];
    return (i) => (0xff000000 | (table[3 * i + 2] << 16) | (table[3 * i + 1] << 8) | table[3 * i]) >>> 0;
  }
  function windowed(i) {
    // A grey level, of 8 bits or off a curve, through the window.
    let grey = ((i - view.level) / view.width + 0.5) * 255;
    if (view.invert) grey = 255 - grey;
    grey = Math.max(0, Math.min(255, Math.round(grey)));
    return (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
  }
  const sideways = () => view.turns % 2 === 1;
  function aspect(panel) {
    // A picture of the whole radiograph keeps its own shape: a network may see it squeezed.
    const [width, height] = panel.frame.join() === "0,0,1,1" ? [panel.picture.width, panel.picture.height] : data.size;
    return sideways() ? height / width : width / height;
  }
  function matrix(width, height) {
    // From shares to the pixels of a canvas: flip, then rotate to the right, about the middle of the view.
    const w = (sideways() ? height : width) * view.zoom * (view.flip ? -1 : 1);
    const h = (sideways() ? width : height) * view.zoom;
    const cos = [1, 0, -1, 0][view.turns], sin = [0, 1, 0, -1][view.turns];
    const m = [cos * w, sin * w, -sin * h, cos * h];
    return new DOMMatrix([...m, width / 2 - m[0] * view.x - m[2] * view.y, height / 2 - m[1] * view.x - m[3] * view.y]);
  }

  function drawPanel(panel) {
    const { canvas, picture } = panel, context = canvas.getContext("2d");
    const width = Math.max(64, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
    const height = Math.round(width / aspect(panel));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const m = matrix(width, height), line = Math.max(1, width / 500);
    const place = (image, [left, top, right, bottom]) => {
      context.setTransform(m);
      context.drawImage(image, left, top, right - left, bottom - top);
      context.setTransform(1, 0, 0, 1, 0, 0);
    };
    const stroke = (shape, colour, thin, dash = []) => {
      // Two tones show on any ground.
      const turned = new Path2D();
      turned.addPath(shape, m);
      for (const [tone, thick, dashes] of [["#000", 2.2 * thin, []], [colour, thin, dash]]) {
        context.strokeStyle = tone;
        context.lineWidth = thick * line;
        context.setLineDash(dashes.map((length) => length * line));
        context.stroke(turned);
      }
      context.setLineDash([]);
    };
    context.globalAlpha = 1;
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = view.zoom < 6;
    place(picture.canvas, panel.frame);
    if (!peeking) {
      if (panel.map && shown.opacity > 0) {
        context.globalAlpha = shown.opacity;
        context.imageSmoothingEnabled = !panel.signed;
        place(panel.map.canvas, panel.mapFrame);
        context.globalAlpha = 1;
      }
      if (shown.superpixels && panel.borders) {
        stroke(panel.borders, "#fff", 1);
        context.font = `bold ${Math.round(15 * line * Math.min(2, Math.sqrt(view.zoom)))}px sans-serif`;
        context.textAlign = "center";
        context.textBaseline = "middle";
        const [left, top, right, bottom] = panel.mapFrame, [columns, rows] = panel.superpixels.size;
        for (const [column, row, sign] of panel.superpixels.signs) {
          const at = m.transformPoint({ x: left + (column + 0.5) / columns * (right - left),
            y: top + (row + 0.5) / rows * (bottom - top) });
          context.lineWidth = 3 * line;
          context.strokeStyle = "#000";
          context.strokeText(sign > 0 ? "+" : "−", at.x, at.y);
          context.fillStyle = "#fff";
          context.fillText(sign > 0 ? "+" : "−", at.x, at.y);
        }
      }
      if (shown.contours) for (const { share, shape } of panel.levels) stroke(shape, "#7df9ff", 1.6, DASHES[share]);
      if (panel.outline && shown.outline) stroke(state.lungs, "#fff", 1.8);
      if (panel.outline && state.drawn.sides) {
        const [x0, y0, x1, y1] = state.drawn.sides;
        stroke(path([[x0, y0, x1, y0, x1, y1, x0, y1]], [0, 0, 1, 1], true), "#ffd23f", 2);
      }
    }
    canvas.style.touchAction = state.drawn.armed || view.zoom > 1 ? "none" : "pan-y";
    for (const [letter, badge] of Object.entries(panel.sides)) {
      const opposite = EDGES[(EDGES.indexOf(data.patientLeft) + 2) % 4];
      badge.hidden = !data.patientLeft || !panel.outline;
      if (data.patientLeft) badge.dataset.edge = turnedTo(letter === "L" ? data.patientLeft : opposite, view);
    }
    panel.sideless.hidden = !data.fromFile || Boolean(data.patientLeft) || !panel.outline;
    const turned = orientation(view);
    panel.tag.hidden = !turned;
    panel.stage.classList.toggle("sideways", sideways());
    panel.tag.textContent = turned ? turned.tag : "";
    canvas.setAttribute("aria-label", `${panel.name}: ${panel.description}.`
      + (data.patientLeft && panel.outline ? ` The patient's left is at the ${panel.sides.L.dataset.edge}.` : "")
      + (panel.sideless.hidden ? "" : " Which side is the patient's left is not known.")
      + (turned ? ` ${turned.text}` : ""));
    drawRuler(panel);
  }

  function drawRuler(panel) {
    panel.ruler.hidden = !data.spacing || !panel.outline;
    if (panel.ruler.hidden) return;
    const axis = sideways() ? 1 : 0;
    const pixelsPerMm = panel.canvas.clientWidth * view.zoom / (data.size[axis] * data.spacing.mm[axis]);
    const most = 0.4 * panel.canvas.clientWidth / pixelsPerMm;
    const decade = 10 ** Math.floor(Math.log10(most));
    const mm = decade * (most >= 5 * decade ? 5 : most >= 2 * decade ? 2 : 1);
    panel.ruler.querySelector("i").style.width = `${mm * pixelsPerMm}px`;
    panel.ruler.querySelector("span").textContent = (mm >= 10 ? `${mm / 10} cm` : `${Number(mm.toPrecision(1))} mm`)
      + (data.spacing.detector ? " at the detector" : "");
    panel.ruler.dataset.mm = mm;
  }

  function draw() {
    frame = 0;
    if (!panels.length) return;
    const turned = orientation(view);
    const off = (name) => Math.abs(view[name] - HOME[name]);
    const changed = view.invert || view.curve !== HOME.curve || off("level") > 0.5 || off("width") > 0.5;
    banner.hidden = !changed && !turned;
    banner.classList.toggle("turned", Boolean(turned));
    const told = (turned ? turned.text + " " : "") + (view.invert ? "Inverted. " : "")
      + (depth && view.curve ? "This window is shown on the radiograph itself only; other pictures keep the first. " : "")
      + (changed ? "Window changed for viewing only; the network's input is the same." : "Only the view: the network's input is the same.");
    const status = banner.querySelector("span");
    if (status.textContent !== told) status.textContent = told;
    const told8 = `W ${Math.round(view.width)} · L ${Math.round(view.level)}`;
    find(".state").textContent = `${depth && windowInUnits(depth, view) || told8} · ${view.zoom.toFixed(1)}×`;
    find("[data-action=flip-horizontal]").setAttribute("aria-pressed", String(view.flip));
    find("[data-action=invert]").setAttribute("aria-pressed", String(view.invert));
    opacity.value = shown.opacity;
    colours.value = shown.colours;
    for (const name of ["outline", "contours", "superpixels"]) find("input." + name).checked = shown[name];
    const known = data.windows.find(({ view: at }) => at.level === view.level && at.width === view.width && at.curve === view.curve);
    chosenWindow.value = known ? known.name : "own";
    if (shown.one >= panels.length) shown.one = -1;
    grid.classList.toggle("alone", shown.one >= 0);
    panels.forEach((panel, index) => {
      panel.figure.hidden = shown.one >= 0 && index !== shown.one;
      panel.canvas.style.aspectRatio = String(aspect(panel));
      panel.figure.style.maxWidth = `max(220px, calc(82vh * ${aspect(panel)}))`;  // no taller than the window
      panel.lines.hidden = !shown.contours || !panel.levels.length;
    });
    if (pictureStale) for (const picture of new Set(panels.map((panel) => panel.picture))) {
      const curve = depth && depth.curves[view.curve];
      paint(picture, picture.grey instanceof Uint16Array ? (i) => windowed(curve[i]) : windowed);
    }
    if (mapStale) for (const panel of panels) if (panel.map) {
      const table = tables[panel.signed ? "signed" : shown.colours], stops = [];
      paint(panel.map, colourMap(panel.signed ? "signed" : shown.colours));
      for (let i = 0; i < 256; i += 15) stops.push(`rgb(${table[3 * i]} ${table[3 * i + 1]} ${table[3 * i + 2]})`);
      panel.legend.querySelector("i").style.background = `linear-gradient(90deg, ${stops.join()})`;
    }
    pictureStale = mapStale = false;
    for (const panel of panels) if (!panel.figure.hidden) drawPanel(panel);
    box.dataset.view = JSON.stringify({ ...view, ...shown });
    box.dataset.peek = String(peeking);
    box.dataset.drawn = String(Number(box.dataset.drawn || 0) + 1);
  }
  const redraw = () => { frame = frame || requestAnimationFrame(draw); };

  const bound = (low, value, high) => Math.min(high, Math.max(low, value));
  function clamp() {
    view.zoom = bound(1, view.zoom, 16);
    const half = 0.5 / view.zoom;
    view.x = bound(half, view.x, 1 - half);
    view.y = bound(half, view.y, 1 - half);
  }
  function at(panel, clientX, clientY) {
    // Place under the pointer in shares.
    const r = panel.canvas.getBoundingClientRect();
    return matrix(r.width, r.height).inverse().transformPoint({ x: clientX - r.left, y: clientY - r.top });
  }
  function zoomAt(panel, clientX, clientY, factor) {
    const before = at(panel, clientX, clientY);
    view.zoom = bound(1, view.zoom * factor, 16);
    const after = at(panel, clientX, clientY);
    view.x += before.x - after.x;
    view.y += before.y - after.y;
    clamp(); redraw();
  }
  function moveBy(panel, dx, dy) {
    // By pixels on the screen.
    const here = at(panel, 0, 0), there = at(panel, dx, dy);
    view.x += there.x - here.x;
    view.y += there.y - here.y;
    clamp(); redraw();
  }
  function turn(quarters) { view.turns = (view.turns + quarters + 4) % 4; redraw(); }
  function flip(axis) {
    // About an axis of the screen, not of the picture.
    view.turns = (axis - view.turns + 4) % 4;
    view.flip = !view.flip;
    redraw();
  }
  function setWindow(name) {
    const found = data.windows.find((each) => each.name === name);
    if (!found) return;
    Object.assign(view, found.view);
    pictureStale = true; redraw();
  }
  function peek(on) {
    peeking = on;
    peekButton.classList.toggle("held", on);
    redraw();
  }
  function arm(on) {
    state.drawn.armed = on && data.radiograph !== null;
    drawButton.setAttribute("aria-pressed", String(state.drawn.armed));
    drawButton.textContent = state.drawn.armed ? "Drag a box, or Enter" : "Draw a box";
    box.classList.toggle("drawing", state.drawn.armed);
    redraw();
  }
  function span(a, b) {
    // The box between two places, within the picture.
    return [bound(0, Math.min(a.x, b.x), 1), bound(0, Math.min(a.y, b.y), 1),
      bound(0, Math.max(a.x, b.x), 1), bound(0, Math.max(a.y, b.y), 1)];
  }
  function sendBox() {
    // Whole pixels of the radiograph. This is the only thing that leaves the browser.
    const [width, height] = data.size, [x0, y0, x1, y1] = state.drawn.sides;
    const near = (side, round) => Math.abs(side - Math.round(side)) < 1e-6 ? Math.round(side) : round(side);
    const sides = [near(x0 * width, Math.floor), near(y0 * height, Math.floor), near(x1 * width, Math.ceil),
      near(y1 * height, Math.ceil)];
    arm(false);
    box.dataset.box = JSON.stringify(sides);
    send("box", { radiograph: data.radiograph, box: sides });
  }
  function alone(index) { shown.one = shown.one >= 0 ? -1 : index; redraw(); }
  function toggle(name) { shown[name] = !shown[name]; redraw(); }
  function paler(step) { shown.opacity = bound(0, Math.round(20 * (shown.opacity + step)) / 20, 1); redraw(); }
  function step(dx, dy) {
    const panel = panels[focused()], r = panel.canvas.getBoundingClientRect();
    moveBy(panel, 0.05 * dx * r.width, 0.05 * dy * r.height);
  }
  const focused = () => Math.max(0, panels.findIndex((panel) => panel.canvas === root.activeElement));

  // What the actions of the table of keys do. One that answers false leaves the key to others.
  const actions = {
    "zoom-in": () => { view.zoom *= 1.2; clamp(); redraw(); },
    "zoom-out": () => { view.zoom /= 1.2; clamp(); redraw(); },
    fit: () => { Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 }); redraw(); },
    left: () => step(-1, 0),
    right: () => step(1, 0),
    up: () => step(0, -1),
    down: () => step(0, 1),
    "rotate-right": () => turn(1),
    "rotate-left": () => turn(-1),
    "flip-horizontal": () => flip(0),
    "flip-vertical": () => flip(2),
    invert: () => { view.invert = !view.invert; pictureStale = true; redraw(); },
    reset: () => { Object.assign(view, HOME); pictureStale = true; redraw(); },
    "window-full": () => setWindow("full"),
    "window-lungs": () => setWindow("lungs"),
    "window-bone": () => setWindow("bone"),
    "window-auto": () => setWindow("auto"),
    "opacity-down": () => paler(-0.05),
    "opacity-up": () => paler(0.05),
    colours: () => {
      const names = [...colours.options].map((option) => option.value);
      shown.colours = names[(names.indexOf(shown.colours) + 1) % names.length];
      mapStale = true; redraw();
    },
    outline: () => toggle("outline"),
    contours: () => toggle("contours"),
    superpixels: () => toggle("superpixels"),
    peek: () => peek(true),
    one: () => alone(focused()),
    box: () => arm(!state.drawn.armed),
    place: () => {
      if (!state.drawn.armed || !panels[focused()].outline) return false;
      const reach = 0.25 / view.zoom;
      state.drawn.sides = span({ x: view.x - reach, y: view.y - reach }, { x: view.x + reach, y: view.y + reach });
      sendBox(); redraw();
    },
    cancel: () => state.drawn.armed && arm(false),
    help: () => { if (dialog.open) dialog.close(); else dialog.showModal(); },
  };

  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const tag = event.target.tagName;
    if (event.key.length === 1) event.stopPropagation();  // letters are meant for the viewer, not for the page around it
    if (tag === "SELECT" || (HANDLED_BY[tag] || []).includes(event.key)) return;
    const bind = data && data.keys.find(({ keys }) => keys.includes(event.key) || keys.includes(event.key.toLowerCase()));
    if (!bind || !panels.length || (dialog.open && bind.action !== "help")) return;
    if (actions[bind.action]() === false) return;
    event.preventDefault();
    event.stopPropagation();
  });
  box.addEventListener("keyup", (event) => {
    if (peeking && data.keys.find(({ action }) => action === "peek").keys.includes(event.key.toLowerCase())) peek(false);
  });
  box.addEventListener("focusout", (event) => { if (peeking && !box.contains(event.relatedTarget)) peek(false); });
  box.addEventListener("click", (event) => {
    const action = event.target.dataset && event.target.dataset.action;
    if (action && panels.length) actions[action]();
  });
  peekButton.addEventListener("pointerdown", (event) => { peekButton.setPointerCapture(event.pointerId); peek(true); });
  for (const end of ["pointerup", "pointercancel"]) peekButton.addEventListener(end, () => peek(false));
  peekButton.addEventListener("keydown", (event) => { if ([" ", "Enter"].includes(event.key)) peek(true); });
  peekButton.addEventListener("keyup", (event) => { if ([" ", "Enter"].includes(event.key)) peek(false); });
  opacity.oninput = () => { shown.opacity = Number(opacity.value); redraw(); };
  colours.onchange = () => { shown.colours = colours.value; mapStale = true; redraw(); };
  chosenWindow.onchange = () => setWindow(chosenWindow.value);
  for (const name of ["outline", "contours", "superpixels"]) find("input." + name).onchange = () => toggle(name);

  function drawing(panel, event) {
    const start = at(panel, event.clientX, event.clientY), before = state.drawn.sides;
    const sides = (next) => span(start, at(panel, next.clientX, next.clientY));
    return {
      move: (next) => { state.drawn.sides = sides(next); redraw(); },
      end: (last) => {
        const [x0, y0, x1, y1] = sides(last);
        const meant = last.type === "pointerup" && x1 - x0 > 0.004 && y1 - y0 > 0.004;  // a click is no box
        state.drawn.sides = meant ? [x0, y0, x1, y1] : before;
        if (meant) sendBox();
        redraw();
      },
    };
  }
  function dragging(panel, event, act) {
    let x = event.clientX, y = event.clientY;
    return {
      move: (next) => { act(next.clientX - x, next.clientY - y); x = next.clientX; y = next.clientY; },
      end: () => {},
    };
  }
  function pinching(panel, fingers) {
    const measure = () => {
      const [a, b] = [...fingers.values()];
      return { x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2,
        gap: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1 };
    };
    let last = measure();
    return {
      move: () => {
        const next = measure();
        moveBy(panel, last.x - next.x, last.y - next.y);
        zoomAt(panel, next.x, next.y, next.gap / last.gap);
        last = next;
      },
      end: () => {},
    };
  }

  function listen(panel) {
    const { canvas } = panel, fingers = new Map();
    let gesture = null;
    canvas.addEventListener("wheel", (event) => {
      const factor = Math.exp(-event.deltaY * 0.0015);
      // Where nothing would change the page scrolls. With Ctrl, as a pinch comes, the browser would shrink the page.
      if (!event.cancelable || (bound(1, view.zoom * factor, 16) === view.zoom && !event.ctrlKey)) return;
      event.preventDefault();
      zoomAt(panel, event.clientX, event.clientY, factor);
    }, { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => { if (!state.drawn.armed) alone(panels.indexOf(panel)); });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, event);
      if (gesture) gesture.end({ type: "pointercancel", clientX: 0, clientY: 0 });
      if (fingers.size === 2) gesture = pinching(panel, fingers);
      else if (state.drawn.armed && panel.outline && event.button === 0 && !event.shiftKey) gesture = drawing(panel, event);
      else if (event.button === 2 || event.shiftKey) {
        gesture = dragging(panel, event, (dx, dy) => {
          // a narrow window of a deep picture is set as finely, in its own proportion, as a wide one
          const limits = reach(depth), fine = depth ? bound(0.02, view.width / 255, 8) : 1;
          view.width = bound(limits.narrowest, view.width + dx * fine, limits.widest);
          view.level = bound(limits.lowest, view.level + dy * 0.6 * fine, limits.highest);
          pictureStale = true; redraw();
        });
      } else gesture = dragging(panel, event, (dx, dy) => moveBy(panel, -dx, -dy));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event);
      if (gesture) gesture.move(event);
      point(at(panel, event.clientX, event.clientY), panel);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => {
      if (!fingers.delete(event.pointerId)) return;
      if (gesture) gesture.end(event);
      gesture = null;
    });
    canvas.addEventListener("pointerleave", () => {
      for (const other of panels) { other.value.textContent = ""; other.cross.hidden = true; }
    });
  }

  function pick(image, [left, top, right, bottom], p) {
    // The value of the pixel at a place; undefined outside.
    const x = Math.floor((p.x - left) / (right - left) * image.width);
    const y = Math.floor((p.y - top) / (bottom - top) * image.height);
    return x < 0 || y < 0 || x >= image.width || y >= image.height ? undefined : image.grey[y * image.width + x];
  }
  function point(p, source) {
    // The same place on every panel: a cross, the grey value and the map's value.
    for (const panel of panels) {
      const grey = pick(panel.picture, panel.frame, p);
      const parts = [`x ${Math.floor(p.x * data.size[0])}, y ${Math.floor(p.y * data.size[1])}`,
        grey === undefined ? "not shown to the network" : panel.deep ? valueOf(depth, grey) : `grey ${grey}`];
      if (panel.map) {
        const level = pick(panel.map, panel.mapFrame, p);
        if (level === undefined) parts.push("no map here");
        else parts.push("map " + ((panel.signed ? (level - 128) / 127 : level / 255) * panel.reference).toPrecision(3));
      }
      panel.value.textContent = p.x < 0 || p.y < 0 || p.x >= 1 || p.y >= 1 ? "" : parts.join(" · ");
      const on = matrix(panel.canvas.clientWidth, panel.canvas.clientHeight).transformPoint(p);
      panel.cross.hidden = panel === source;
      panel.cross.style.left = `${on.x}px`;
      panel.cross.style.top = `${on.y}px`;
    }
  }

  function build() {
    // The elements of one panel; they stay while the page reruns, so that a drag or a hover goes on.
    const panel = { figure: make("figure"), stage: make("div", "stage"), canvas: make("canvas"), cross: make("div", "cross"),
      title: make("span", "title"), scale: make("span", "scale"), legend: make("span", "legend"),
      lines: make("span", "lines", "Contours: ··· 25 %, – – 50 %, — 75 % of the map's maximum"),
      value: make("div", "value"), tag: make("span", "turned-tag"), ruler: make("div", "ruler"),
      sides: { R: make("span", "side", "R"), L: make("span", "side", "L") }, sideless: make("span", "sideless", "side not known") };
    for (const badge of Object.values(panel.sides)) badge.title = "Side of the patient, from the file's Patient Orientation";
    panel.sideless.title = "The file does not tell which side is the patient's left";
    const caption = make("figcaption");
    panel.cross.hidden = true;
    panel.legend.append(make("span", "low"), make("i"), make("span", "high"));
    panel.ruler.append(make("span"), make("i"));
    panel.canvas.tabIndex = 0;
    panel.canvas.setAttribute("role", "img");
    caption.append(panel.title, panel.scale, panel.legend, panel.lines);
    panel.stage.append(panel.canvas, panel.cross, panel.sides.R, panel.sides.L, panel.sideless, panel.tag, panel.ruler);
    panel.figure.append(caption, panel.stage, panel.value);
    listen(panel);
    return panel;
  }

  function fill(panel, entry) {
    Object.assign(panel, { map: null, superpixels: null, deep: false }, entry);
    panel.levels = (entry.contours || []).map(({ share, lines }) => ({ share, shape: path(lines, entry.mapFrame, false) }));
    panel.borders = entry.superpixels ? pathOfBorders(entry.superpixels, entry.mapFrame) : null;
  }

  function detail() {
    // What the values under the pointer are values of.
    const panel = panels.find(({ frame, outline }) => outline && frame.join() === "0,0,1,1");
    if (!panel) return "";
    const [width, height] = data.size, reduced = width / panel.picture.width, count = reduced.toPrecision(2);
    return `x and y count the ${width} × ${height} pixels of the radiograph. `
      + (reduced > 1.005 ? `It is shown at 1/${count} of that width and height: a grey value is the mean of ${count} × ${count} pixels`
        : "All are shown: a grey value is that of one pixel") + ", "
      + (panel.deep ? "before the window: on the radiograph itself in the file's own units and at its full depth, elsewhere "
        + "as 0 to 255 of the 8-bit picture that the network gets." : "as 0 to 255 and before the window.");
  }

  async function update(sent, setStateValue) {
    const mine = ++run, decoded = new Map();
    const keep = async (source, deep) => {
      if (!decoded.has(source)) decoded.set(source, pictures.has(source) ? pictures.get(source) : levels(source, deep));
      return decoded.get(source);
    };
    const deeper = sent.depth && depthOf(sent.depth);
    const entries = await Promise.all(sent.panels.map(async (entry) => ({
      ...entry, picture: await keep(sent.pictures[entry.picture], entry.deep), map: entry.map ? await levels(entry.map) : null,
    })));
    const found = await deeper;
    if (mine !== run) return;  // a later rerun of the page was faster
    data = sent; send = setStateValue; pictures = decoded; depth = found;
    if (state.subject !== data.subject) { state.subject = data.subject; Object.assign(view, HOME); }
    const curves = depth ? depth.curves.length : 1;  // a window of the lungs may be gone
    if (view.curve >= curves) Object.assign(view, { level: HOME.level, width: HOME.width, curve: HOME.curve });
    // A box belongs to the radiograph that it was drawn on: x, y, x, y in shares.
    if (state.drawn.radiograph !== data.radiograph) state.drawn = { radiograph: data.radiograph, sides: null, armed: false };
    for (const [name, text] of Object.entries(data.tables)) tables[name] = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    state.lungs = path(data.outline, [0, 0, 1, 1], true);
    while (panels.length > entries.length) panels.pop().figure.remove();
    while (panels.length < entries.length) { panels.push(build()); grid.append(panels.at(-1).figure); }
    panels.forEach((panel, index) => {
      const { title, ...entry } = entries[index];
      panel.title.textContent = title;
      panel.scale.textContent = entry.badge;
      panel.scale.hidden = !entry.badge;
      panel.legend.hidden = !entry.map;
      if (entry.map) {
        const top = Number(entry.reference.toPrecision(2));
        panel.legend.querySelector(".low").textContent = entry.signed ? `−${top}` : "0";
        panel.legend.querySelector(".high").textContent = (entry.signed ? "+" : "") + top;
      }
      if (data.spacing) panel.ruler.title = `Pixel spacing ${data.spacing.told}`;
      fill(panel, { ...entry, name: title });
    });
    find(".detail").textContent = detail();
    box.classList.toggle("deep", Boolean(depth));
    find(".for-contours").hidden = !panels.some((panel) => panel.levels.length);
    find(".for-superpixels").hidden = !panels.some((panel) => panel.borders);
    find(".opacity").closest("label").hidden = colours.closest("label").hidden = peekButton.hidden
      = !panels.some((panel) => panel.map);
    chosenWindow.replaceChildren(...data.windows.map(({ name, title }) => new Option(title, name)),
      Object.assign(new Option("as dragged", "own"), { hidden: true }));
    find("dialog dl").replaceChildren(...data.keys.map(({ names, does }) => {
      const line = make("div"), keys = make("dt");
      names.forEach((name, index) => keys.append(...(index ? [" or ", make("kbd", "", name)] : [make("kbd", "", name)])));
      line.append(keys, make("dd", "", does));
      return line;
    }));
    drawButton.hidden = data.radiograph === null;
    arm(Boolean(state.drawn.armed));
    pictureStale = mapStale = true;
    draw();
    box.dataset.panels = String(panels.length);
  }

  new ResizeObserver(redraw).observe(grid);
  return { update };
}

export default function (component) {
  const box = component.parentElement.querySelector(".viewer");
  const viewer = box.__viewer || (box.__viewer = create(component.parentElement, box));
  viewer.update(component.data, component.setStateValue);
}
