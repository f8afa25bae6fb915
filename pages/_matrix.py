"""A confusion matrix as a table of buttons: by mouse, Tab, arrow keys and Enter, and read out by screen readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st
from numpy.typing import ArrayLike

from cxnet.statistics import ConfusionMatrix, Metric
from cxnet.statistics.proportions import proportion

Cell = tuple[str, str]


def matrix_picker(
    counts: ArrayLike,
    classes: Sequence[str],
    key: str,
    selected: Cell | None = None,
    mark: tuple[str | None, str | None] | None = None,
    clickable: bool = True,
    intervals: bool = True,
    shares: Sequence[Sequence[Metric]] | None = None,
) -> Cell | None:
    """Show a confusion matrix, rows true and columns predicted.

    Parameters
    ----------
    counts : int array (classes, classes)
    classes : sequence of str
    key : str
        Unique on the page.
    selected : (true, predicted), optional
        The chosen cell. The caller keeps it, best in the URL, and hands it in again.
    mark : (true or None, predicted or None), optional
        Outline this row and this column.
    clickable : bool
        Without it, a plain table.
    intervals : bool
        Whether cells have Wilson intervals; leave them out where cases are not independent.
    shares : sequence of sequence of Metric, optional
        Of these counts, as :func:`cxnet.statistics.cell_shares`: their intervals are shown instead, if any.

    Returns
    -------
    (true, predicted) or None
        The cell clicked just now, else `selected`. A click on the selected cell lets it go.
    """
    names = tuple(classes)
    matrix = ConfusionMatrix.from_counts(counts, names)
    told = shares if shares is not None else shares_of(matrix, intervals)
    clicked = st.session_state.pop(f"{key}-clicked", None) if clickable else None
    if clicked is not None and max(clicked) < len(names):
        found = (names[clicked[0]], names[clicked[1]])
        selected = None if found == selected else found

    def keep() -> None:
        value = st.session_state[key]["clicked"]
        if isinstance(value, list) and len(value) == 2 and all(type(n) is int and n >= 0 for n in value):
            st.session_state[f"{key}-clicked"] = value

    data = {
        "classes": list(names),
        "cells": [[_cell(one, true) for one in line] for true, line in zip(names, told, strict=True)],
        "unit": unit_of(told),
        "totals": [int(n) for n in matrix.counts.sum(axis=1)],
        "called": [int(n) for n in matrix.counts.sum(axis=0)],
        "selected": _position(selected, names),
        "mark": _position(mark, names),
        "clickable": clickable,
    }
    component = st.components.v2.component("cxnet_matrix", html=_HTML, css=_CSS, js=_JS)
    if clickable:
        component(data=data, key=key, on_clicked_change=keep)
    else:
        component(data=data, key=key)
    return selected


def _position(cell: tuple[str | None, str | None] | None, names: tuple[str, ...]) -> list[int]:
    return [-1 if name is None or name not in names else names.index(name) for name in cell or (None, None)]


def shares_of(matrix: ConfusionMatrix, intervals: bool = True) -> tuple[tuple[Metric, ...], ...]:
    """Share of each row in each cell, from counts alone, with Wilson's intervals if they are wanted."""
    found = []
    for true, row in zip(matrix.classes, matrix.table, strict=True):
        withhold, undefined = None if intervals else "not wanted", f"no case is truly {true}"
        found.append(
            tuple(
                proportion("share of the row", name, count, sum(row), undefined, 0.95, withhold)
                for name, count in zip(matrix.classes, row, strict=True)
            )
        )
    return tuple(found)


def unit_of(shares: Sequence[Sequence[Metric]]) -> str:
    """What kind of intervals these are, in a sentence; empty where there are none."""
    kinds = sorted({metric.interval for line in shares for metric in line if metric.interval})
    return f"Ranges: {'; '.join(kinds)}." if kinds else ""


def _cell(share: Metric, true: str) -> dict[str, Any]:
    """What one cell says: count, share of its row, interval of that share, and all of it in a sentence."""
    count, total = share.numerator or 0, share.denominator or 0
    sentence = f"True {true}, predicted {share.cls}: {count:,} of {total:,}"
    if share.value is None:
        return {"count": "0", "share": 0.0, "percent": "–", "interval": "", "sentence": f"{sentence} cases"}
    percent, interval = f"{100 * share.value:.1f} %", ""
    sentence += f", {percent}"
    if share.low is not None and share.high is not None:
        interval = f"{100 * share.low:.1f} – {100 * share.high:.1f}"
        kind = "patient bootstrap" if "bootstrap" in str(share.interval) else "Wilson"
        over = " over patients" if "over patients" in str(share.interval) else ""
        sentence += f" (95 % {kind} interval{over} {100 * share.low:.1f} to {100 * share.high:.1f} %)"
    return {"count": f"{count:,}", "share": share.value, "percent": percent, "interval": interval, "sentence": sentence}


_HTML = """<div class="matrix"></div>"""

_CSS = """
.matrix { font-family: var(--st-font); color: var(--st-text-color); overflow-x: auto; container-type: inline-size;
  --line: color-mix(in srgb, var(--st-text-color) 22%, transparent); padding: 3px; }
table { border-collapse: separate; border-spacing: 3px; width: 100%; table-layout: auto; }
caption { text-align: left; font-size: .8rem; opacity: .8; padding-bottom: .2rem; }
th { font-weight: 600; font-size: .85rem; padding: .2rem .3rem; text-align: center; overflow-wrap: anywhere; }
th[scope=row] { text-align: right; min-width: 4.2em; overflow-wrap: break-word; max-width: 9em; position: sticky; left: -3px; z-index: 1;
  background: var(--st-background-color); }
th small { display: block; font-weight: 400; opacity: .75; font-variant-numeric: tabular-nums; }
th.axis { font-weight: 400; font-size: .78rem; opacity: .8; }
td { padding: 0; min-width: 3.6em; height: 1px; }
.cell { box-sizing: border-box; width: 100%; height: 100%; min-height: 3.6rem; font: inherit; color: inherit;
  border: 1px solid var(--line); border-radius: 6px; padding: .35rem .2rem; display: flex; flex-direction: column;
  align-items: center; justify-content: center; line-height: 1.25; font-variant-numeric: tabular-nums;
  background: color-mix(in srgb, var(--st-primary-color) var(--shade), var(--st-background-color)); }
.cell b { font-size: 1.1rem; }
.cell span { font-size: .8rem; }
.cell .interval { font-size: .7rem; opacity: .85; white-space: nowrap; }
button.cell { cursor: pointer; }
button.cell:hover { border-color: var(--st-text-color); }
button.cell:focus-visible { outline: 3px solid var(--st-text-color); outline-offset: 1px; }
.cell[aria-pressed=true] { box-shadow: inset 0 0 0 3px var(--st-text-color); border-color: var(--st-text-color); }
.marked { border: 2px solid var(--st-primary-color); }
th.marked { border-width: 0; text-decoration: underline 2px var(--st-primary-color); text-underline-offset: 3px; }
.many .interval { display: none; }
.many .cell { min-height: 2.6rem; padding: .15rem; }
.many .cell b { font-size: .9rem; }
.many .cell span { font-size: .7rem; }
.many th { font-size: .72rem; }
@container (max-width: 560px) { .interval { display: none; } .cell { min-height: 3rem !important; } th { font-size: .75rem; } }
"""

_JS = r"""
function make(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

export default function (component) {
  const { parentElement: root, data, setTriggerValue } = component;
  const box = root.querySelector(".matrix"), size = data.classes.length;
  const same = root.__shown === JSON.stringify({ ...data, selected: null });
  root.__shown = JSON.stringify({ ...data, selected: null });
  const at = (row, column) => box.querySelector(`[data-row="${row}"][data-column="${column}"]`);

  function press(row, column) {
    for (const cell of box.querySelectorAll("button.cell")) cell.setAttribute("aria-pressed", "false");
    if (row >= 0 && column >= 0) at(row, column).setAttribute("aria-pressed", "true");
  }

  function reach(row, column) {
    for (const cell of box.querySelectorAll("button.cell")) cell.tabIndex = -1;
    at(row, column).tabIndex = 0;
  }

  if (!same) {
    const focused = root.activeElement;
    const again = focused && focused.dataset ? [focused.dataset.row, focused.dataset.column] : null;
    const table = make("table"), head = make("thead"), body = make("tbody");
    if (size > 5) box.classList.add("many"); else box.classList.remove("many");
    const caption = make("caption", data.clickable ? "Choose a cell to see its cases. Shading and % are shares of the row."
      : "Shading and % are shares of the row.");
    if (data.unit) caption.append(make("span", ` ${data.unit}`, "interval"));
    table.append(caption);
    const over = make("tr"), axis = make("th", "predicted →", "axis"), names = make("tr");
    over.append(make("td"), axis);
    axis.colSpan = size;
    names.append(make("th", "true ↓", "axis"));
    data.classes.forEach((name, column) => {
      const cell = make("th", name, column === data.mark[1] ? "marked" : "");
      cell.scope = "col";
      cell.style.width = `${80 / size}%`;
      cell.append(make("small", `n = ${data.called[column].toLocaleString("en")}`));
      names.append(cell);
    });
    head.append(over, names);
    data.cells.forEach((line, row) => {
      const tr = make("tr"), name = make("th", data.classes[row], row === data.mark[0] ? "marked" : "");
      name.scope = "row";
      name.append(make("small", `n = ${data.totals[row].toLocaleString("en")}`));
      tr.append(name);
      line.forEach((entry, column) => {
        const td = make("td"), cell = make(data.clickable ? "button" : "div", undefined, "cell");
        cell.style.setProperty("--shade", `${Math.round(50 * entry.share)}%`);
        if (row === data.mark[0] || column === data.mark[1]) cell.classList.add("marked");
        cell.append(make("b", entry.count), make("span", entry.percent), make("span", entry.interval, "interval"));
        cell.title = entry.sentence;
        cell.dataset.row = row;
        cell.dataset.column = column;
        if (data.clickable) {
          cell.type = "button";
          cell.setAttribute("aria-label", entry.sentence);
          cell.onclick = () => {
            const pressed = cell.getAttribute("aria-pressed") === "true";
            reach(row, column);
            if (pressed) press(-1, -1); else press(row, column);
            root.__send([row, column]);
          };
          cell.onkeydown = (event) => {
            const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
              Home: [0, -size], End: [0, size] }[event.key];
            if (!step) return;
            event.preventDefault();
            const clamp = (n) => Math.max(0, Math.min(size - 1, n));
            const to = [clamp(row + step[0]), clamp(column + step[1])];
            reach(...to);
            at(...to).focus();
          };
        }
        td.append(cell);
        tr.append(td);
      });
      body.append(tr);
    });
    table.append(head, body);
    box.replaceChildren(table);
    if (data.clickable) {
      reach(...(data.selected[0] >= 0 && data.selected[1] >= 0 ? data.selected : [0, 0]));
      if (again && at(...again)) { reach(...again.map(Number)); at(...again).focus(); }
    }
  }
  root.__send = (cell) => setTriggerValue("clicked", cell);
  if (data.clickable) press(...data.selected);
  box.dataset.ready = String(size);
}
"""
