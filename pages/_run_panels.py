"""Panels of the page Runs: metric table, curves, training, parts of the data, comparison, exports."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from cxnet import statistics as figures
from cxnet.errors import CxnetError
from cxnet.runs import Run
from cxnet.statistics import FoldCheck, Metric
from pages import _jobs, _session
from pages import _run_data as data
from pages import _run_exports as exports
from pages._matrix import Cell, matrix_picker
from pages._run_data import Selection

#: Of patients, for intervals of shares; fewer in a run of :data:`pages._run_data.MANY_CASES`, whose limits hardly move.
RESAMPLES, FEW_RESAMPLES = 2000, 200
CONFIDENCE = "confidence (most probable class)"
MOST_ROWS = 500
LIGHT = ("#0b6e75", "#b4560f", "#5b4bb3", "#a1285a", "#47731c", "#6b5b3e")
DARK = ("#4cc2c9", "#f0a35e", "#a99cf5", "#f07fa8", "#a3cf6f", "#d1bf98")


Shares = tuple[tuple[Metric, ...], ...]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Cases, the class called for each, and whether they permit intervals."""

    selection: Selection
    called: NDArray[np.int64]
    threshold: tuple[str, float] | None
    check: FoldCheck

    @property
    def counts(self) -> NDArray[np.int64]:
        return self.selection.counts(self.called)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.selection.run.classes

    @property
    def title(self) -> str:
        fold = "all folds, out of fold" if self.selection.fold is None else f"fold {self.selection.fold}"
        return f"{self.selection.run.name}, {fold}"

    @property
    def decisions(self) -> str:
        """How classes are called, in words."""
        if self.threshold is None:
            return "decisions as stored"
        return f"{self.threshold[0]} called from probability {self.threshold[1]:.2f}"

    @property
    def shares(self) -> Shares:
        """Share of its row in each cell, with intervals over patients."""
        return _shares(self.selection.key, self.threshold, self.check.intervals_reason, self.selection, self.called)

    def rows(self, cell: Cell) -> pd.DataFrame:
        """The cases of a cell."""
        true, called = (self.classes.index(name) for name in cell)
        return self.selection.table[(self.selection.true == true) & (self.called == called)]


# ------------------------------------------------------------------------------------------------------------- charts


def _palette() -> tuple[tuple[str, ...], str, str]:
    """Colours of lines, of text, of helper lines."""
    dark = st.context.theme.type == "dark"
    return (DARK, "#e3eaed", "#6b828a") if dark else (LIGHT, "#15232a", "#6f858c")


def _line(number: int) -> dict[str, Any]:
    colours = _palette()[0]
    dashes = ("solid", "dash", "dot")
    return {"color": colours[number % len(colours)], "dash": dashes[number // len(colours) % len(dashes)]}


def _chart(x: str, y: str, x_range: list[float] | None, y_range: list[float] | None, height: int = 400) -> go.Figure:
    _, ink, helper = _palette()
    axis = {"color": ink, "gridcolor": f"{helper}55", "zeroline": False, "fixedrange": True}
    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 56, "r": 10, "t": 10, "b": 4},
        xaxis={**axis, "title": x, "range": x_range},
        yaxis={**axis, "title": {"text": y, "standoff": 8}, "range": y_range, "automargin": True},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": ink},
        legend={"orientation": "h", "y": -0.22, "x": 0},
        dragmode=False,
    )
    return figure


def _draw(figure: go.Figure, key: str, alt: str) -> None:
    st.plotly_chart(figure, width="stretch", config={"displayModeBar": False}, key=key, theme=None, alt=alt)


# ------------------------------------------------------------------------------------------------------------ metrics


def _resamples(cases: int) -> int:
    return RESAMPLES if cases <= data.MANY_CASES else FEW_RESAMPLES


def _named(selection: Selection, called: NDArray[np.int64]) -> list[str]:
    classes = selection.run.classes
    return [classes[number] for number in called.tolist()]


@st.cache_data(max_entries=128, show_spinner=False)
def _counted(
    key: data.Key,
    threshold: tuple[str, float] | None,
    withhold: str | None,
    part: tuple[str, str] | None,
    _selection: Selection,
    _called: NDArray[np.int64],
) -> tuple[Metric, ...]:
    """Figures of the counts; `part` is a column and its value, where not all cases are meant."""
    where = np.arange(len(_called))
    if part is not None:
        values = _selection.table[part[0]].astype(object)
        names = values.where(values.notna(), "").astype(str).replace("", data.NOT_STATED)
        where = np.flatnonzero(names == part[1])
    true, called, groups = _named(_selection, _selection.true), _named(_selection, _called), _selection.groups
    return figures.patient_metrics(
        [true[at] for at in where], [called[at] for at in where], [groups[at] for at in where],
        _selection.run.classes, withhold=withhold, resamples=_resamples(len(where)),
    )  # fmt: skip


@st.cache_data(max_entries=64, show_spinner=False)
def _shares(
    key: data.Key,
    threshold: tuple[str, float] | None,
    withhold: str | None,
    _selection: Selection,
    _called: NDArray[np.int64],
) -> Shares:
    return figures.cell_shares(
        _named(_selection, _selection.true), _named(_selection, _called), _selection.groups, _selection.run.classes,
        withhold=withhold, resamples=_resamples(len(_called)),
    )  # fmt: skip


def all_metrics(matrix: Matrix) -> list[Metric]:
    """Figures from counts, and those from probabilities with the intervals that were resampled so far."""
    selection, reason = matrix.selection, matrix.check.intervals_reason
    found = list(_counted(selection.key, matrix.threshold, reason, None, selection, matrix.called))
    if selection.probabilities is None:
        return found
    resamples, seconds = data.bootstrap_cost(selection)
    job = _resampling(selection)
    wanted = resamples if seconds < 0.5 or (job is not None and job.state == "done") else 0
    if not wanted and len(selection.table) > data.MANY_CASES:
        return [_explained(metric, "not resampled yet") for metric in found]
    more = {(m.name, m.cls): m for m in data.ranked(selection, wanted, reason)}
    for number, metric in enumerate(found):
        better = more.pop((metric.name, metric.cls), None)
        same = better is not None and better.value is not None and better.value == metric.value
        if better is not None and same and better.interval and matrix.threshold is None:
            found[number] = better
    why = "not resampled yet" if matrix.threshold is None else "none at a moved operating point"
    order = [None, *matrix.classes]
    whole = [_explained(metric, why) for metric in (*found, *more.values())]
    return sorted(whole, key=lambda metric: order.index(metric.cls))


def _explained(metric: Metric, why: str) -> Metric:
    """The figure with a reason where it has neither an interval nor a reason for none."""
    return metric if metric.interval or metric.reason else replace(metric, reason=why)


def metric_frame(found: Sequence[Metric]) -> pd.DataFrame:
    """Figures as text for the screen."""
    rows = []
    for m in found:
        limits = "" if m.low is None or m.high is None else f"{m.low:.3f} – {m.high:.3f}"
        cases = "" if m.denominator is None else f"{m.numerator:,} / {m.denominator:,}"
        value = "undefined" if m.value is None else f"{m.value:.3f}"
        rows.append((m.cls or "all", m.name, value, limits, cases, m.reason or m.interval or ""))
    return pd.DataFrame(rows, columns=["Class", "Figure", "Value", "95 % interval", "Cases", "Interval, or why none"])


def unit(selection: Selection) -> str:
    """What the intervals of shares take as one draw, in a sentence."""
    cases, patients = len(selection.table), len(set(selection.groups))
    if patients == cases:
        return "Intervals of shares are Wilson's: each patient has one case."
    return (
        f"Intervals of shares draw whole patients ({patients:,} with {cases:,} cases); where each patient of a figure "
        "has one case, or the share is 0 or 1, they are Wilson's over patients."
    )


def metric_table(matrix: Matrix) -> None:
    """Figures with intervals; those that need resampling wait for a button when they take long."""
    selection = matrix.selection
    before = _resampling(selection)
    drawn = before is not None and before.state == "done"
    frame = metric_frame(all_metrics(matrix))
    st.dataframe(frame, hide_index=True, width="stretch", height=420, key="runs-metrics")
    reason = matrix.check.intervals_reason
    st.caption(f"Intervals are withheld: {reason}." if reason is not None else unit(selection))
    if selection.probabilities is None:
        st.caption("This run stores decisions only, so there are no curves, areas or calibration.")
        return
    resamples, seconds = data.bootstrap_cost(selection)
    job = _resampling(selection)
    if job is not None and job.state == "done":
        if not drawn:  # it has ended since
            st.rerun()
        return
    if seconds < 0.5:
        return
    if job is not None and job.active:
        _jobs.follow(job, lambda found: (found.share if found else 0.0, "Drawing patients"), "cancel-resampling")
        return
    if job is not None and job.state == "failed":
        st.error(job.error or "The figures could not be computed.", icon=":material/error:")
    elif job is not None:
        st.info("The computation was stopped; what it had drawn by then is too little to keep.")
    many = len(selection.table) > data.MANY_CASES
    if reason is None or many:
        took = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        what = "ROC areas, average precision and calibration" if many else "intervals of AUC, F1, MCC and Brier score"
        how = f" by {resamples} patient resamples, about {took}" if reason is None else ""
        if st.button(f"Compute {what}{how}", key="runs-resample"):
            work = partial(data.resampling, selection, resamples, reason)
            try:
                _session.start_job(("resampling", selection.key), _jobs.submit("resampling", work))
            except CxnetError as error:
                st.error(str(error), icon=":material/error:")
            else:
                st.rerun()


def _resampling(selection: Selection) -> _jobs.Job | None:
    """This session's job that computes what takes long of a selection."""
    return _session.job_of(("resampling", selection.key))


# ------------------------------------------------------------------------------------------------------------- curves


def _point(counts: NDArray[np.int64], number: int, kind: str) -> tuple[float, float] | None:
    """Where decisions stand on a curve of one class; None where that is undefined."""
    hits, true, called = counts[number, number], counts[number].sum(), counts[:, number].sum()
    rest = counts.sum() - true
    if not true or (kind == "ROC" and not rest) or (kind == "PR" and not called):
        return None
    recall = float(hits / true)
    return (float((called - hits) / rest), recall) if kind == "ROC" else (recall, float(hits / called))


def curves(matrix: Matrix, kind: str, cls: str) -> None:
    """ROC or PR curves with the operating point of the matrix."""
    selection = matrix.selection
    _, ink, helper = _palette()
    number = matrix.classes.index(cls)
    names = ("1 − specificity", "sensitivity") if kind == "ROC" else ("recall (sensitivity)", "precision")
    chart = _chart(*names, [-0.01, 1.01], [-0.01, 1.02])
    prevalence = float((selection.true == number).mean())
    start, end = (0.0, 1.0) if kind == "ROC" else (prevalence, prevalence)
    guide = {"color": helper, "dash": "dot", "width": 1}
    chart.add_scatter(x=[0, 1], y=[start, end], mode="lines", line=guide, name="without skill", hoverinfo="skip")
    reasons = []
    for place, curve in enumerate(data.curves(selection, kind, cls)):
        if curve.reason:
            reasons.append(f"{curve.name}: {curve.reason}")
            continue
        bold = selection.fold is None or curve.name == cls
        chart.add_scatter(
            x=curve.x,
            y=curve.y,
            mode="lines",
            name=curve.name,
            line={**_line(place), "width": 2.5 if bold else 1.2, "shape": "hv" if kind == "ROC" else "linear"},
            opacity=1.0 if bold else 0.6,
            customdata=np.minimum(curve.thresholds, 1.0),
            hovertemplate="%{fullData.name}: %{x:.3f}, %{y:.3f}, from probability %{customdata:.3f}<extra></extra>",
        )
    points = [("matrix as stored", selection.counts(selection.stored), "circle-open")]
    if matrix.threshold is not None:
        points.append(("moved", matrix.counts, "diamond"))
    for name, counts, symbol in points:
        at = _point(counts, number, kind)
        if at is not None:
            marker = {"size": 13, "color": ink, "symbol": symbol, "line": {"width": 2, "color": ink}}
            chart.add_scatter(
                x=[at[0]], y=[at[1]], mode="markers", name=f"{cls}: {name}", marker=marker,
                hovertemplate="%{fullData.name}: %{x:.3f}, %{y:.3f}<extra></extra>",
            )  # fmt: skip
    _draw(chart, f"runs-chart-{kind}", f"{kind} curve of {cls}; its area stands in the table of figures.")
    for sentence in reasons:
        st.caption(sentence)
    told = f"One line a fold for {cls}, whose networks each have their own scale" if selection.fold is None else ""
    st.caption(f"{told or 'One line a class against the rest'}. Lines are thinned to 400 points for the screen.")


def reliability(matrix: Matrix, cls: str | None) -> None:
    """Predicted probability against how often it came true."""
    selection = matrix.selection
    bins, error = data.calibration(selection, cls)
    _, _, helper = _palette()
    chart = _chart("predicted probability", "how often it came true", [-0.01, 1.01], [-0.01, 1.02])
    guide = {"color": helper, "dash": "dot", "width": 1}
    chart.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=guide, name="calibrated", hoverinfo="skip")
    bars = None
    if matrix.check.intervals_valid:
        above, below = bins.high - bins.frequency, bins.frequency - bins.low
        bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.5}
    chart.add_scatter(
        x=bins.confidence, y=bins.frequency, error_y=bars, mode="lines+markers", name=cls or CONFIDENCE,
        line=_line(0), customdata=bins.count,
        hovertemplate="%{x:.3f} predicted, %{y:.3f} came true, %{customdata} cases<extra></extra>",
    )  # fmt: skip
    pairs = "; ".join(f"{x:.2f} predicted, {y:.2f} true" for x, y in zip(bins.confidence, bins.frequency, strict=True))
    _draw(chart, "runs-chart-reliability", f"Reliability of {cls or CONFIDENCE}: {pairs}.")
    if error.value is None:
        st.caption(f"Calibration error undefined: {error.reason}.")
        return
    verdict = "above" if error.value > (error.null_high or 0) else "not above"
    st.markdown(
        f"Expected calibration error **{error.value:.3f}** over {error.bins} equal-mass bins; a perfectly calibrated "
        f"network would score {error.null_low:.3f} to {error.null_high:.3f} on so many cases, so this is **{verdict}** "
        "what chance explains."
    )
    pooled = " Probabilities of all folds' networks are pooled." if selection.fold is None else ""
    wilson = "Bars are Wilson intervals of each bin, which count cases as independent."
    bar = wilson if bars else "Intervals of the bins are withheld."
    st.caption(f"{bar} A moved operating point does not change probabilities.{pooled}")


# ----------------------------------------------------------------------------------------------------------- training


def training(run: Run, fold: int | None) -> None:
    """Loss and accuracy an epoch, where the run keeps them."""
    told = [entry for entry in run.info["folds"] if fold is None or entry["number"] == fold]
    parts = {int(entry["number"]): pd.DataFrame(entry["curve"]) for entry in told if entry.get("curve")}
    parts = {number: part for number, part in parts.items() if "epoch" in part.columns}
    if not parts:
        st.info("This run keeps no training curves; runs of `python -m cxnet train` do.", icon=":material/info:")
        return
    for column, figure in zip(st.columns(2), ("loss", "accuracy"), strict=True):
        chart = _chart("epoch", figure, None, [-0.01, 1.02] if figure == "accuracy" else None, 360)
        for number, part in parts.items():
            for name, dash, words in ((figure, "dot", "training"), (f"test_{figure}", "solid", "held out")):
                if name in part.columns:
                    line = {**_line(list(parts).index(number)), "dash": dash, "width": 2}
                    chart.add_scatter(
                        x=part["epoch"], y=part[name], mode="lines+markers", line=line, marker={"size": 4},
                        name=f"fold {number}, {words}",
                    )  # fmt: skip
        with column:
            last = "; ".join(
                f"fold {k} ends at {p[f'test_{figure}'].iloc[-1]:.3f}"
                for k, p in parts.items()
                if f"test_{figure}" in p
            )
            _draw(chart, f"runs-chart-{figure}", f"Held-out {figure} by epoch: {last}.")
    st.caption(
        "Solid lines are the fold's own test cases, looked at after each epoch; no epoch was chosen by them. "
        "Dotted lines are the training cases under augmentation."
    )


# ------------------------------------------------------------------------------------------------- parts of the data


def _told(metric: Metric) -> str:
    if metric.value is None:
        return f"– ({metric.reason})"
    limits = "" if metric.low is None else f" ({metric.low:.2f} – {metric.high:.2f})"
    cases = "" if metric.denominator is None else f", n = {metric.denominator:,}"
    return f"{metric.value:.3f}{limits}{cases}"


def parts_frame(matrix: Matrix, column: str) -> tuple[pd.DataFrame, list[str]]:
    """Figures for each source or view, and the parts that hold one class only."""
    selection, reason = matrix.selection, matrix.check.intervals_reason
    parts, single = data.breakdown(selection, column, matrix.called)
    rows = []
    for name, table in parts:
        found = _counted(selection.key, matrix.threshold, reason, (column, name), selection, matrix.called)
        by = {(m.name, m.cls): m for m in found}
        row = {column.capitalize(): name, "n": table.total, "accuracy": _told(by["accuracy", None])}
        row |= {f"sensitivity: {cls}": _told(by["sensitivity", cls]) for cls in matrix.classes}
        rows.append(row)
    return pd.DataFrame(rows), single


def parts(matrix: Matrix) -> None:
    """Figures by source and by view: a network may tell hospitals apart instead of diseases."""
    for column in ("source", "view"):
        st.markdown(f"**By {column}**")
        if column not in matrix.selection.table.columns:
            st.caption(f"This run does not say the {column} of its cases.")
            continue
        frame, single = parts_frame(matrix, column)
        st.dataframe(frame, hide_index=True, width="stretch", key=f"runs-by-{column}")
        if single:
            names = ", ".join(f"“{name}”" for name in single)
            st.warning(
                f"Only one class comes from {names}. A network can be right there by telling the {column} instead of "
                "the disease; figures of such a part say nothing about that.",
                icon=":material/warning:",
            )
    told, more = "95 % intervals in brackets", f" {unit(matrix.selection)}"
    if not matrix.check.intervals_valid:
        told, more = f"Intervals are withheld: {matrix.check.intervals_reason}", ""
    st.caption(f"{told}; n is the number of cases behind each figure; {matrix.decisions}.{more}")


# --------------------------------------------------------------------------------------------------------- comparison


def tests_frame(paired: data.Paired) -> pd.DataFrame:
    """Tests as text for the screen."""
    rows = []
    for name, test, adjusted in paired.tests:
        rows.append(
            (
                name,
                test.name,
                "–" if test.difference is None else f"{test.difference:+.4f}",
                "" if test.low is None else f"{test.low:+.4f} to {test.high:+.4f}",
                "" if test.p_value is None else f"{test.p_value:.3g}",
                "" if adjusted is None else f"{adjusted:.3g}",
                test.reason or "",
            )
        )
    names = ["Figure", "Test", "A − B", "95 % interval", "p", "p, Holm", "Why not"]
    return pd.DataFrame(rows, columns=names)


def disagreements(paired: data.Paired, classes: Sequence[str], which: str = "all") -> pd.DataFrame:
    """Shared cases that the runs call differently: "all", "only A is right" or "only B is right"."""
    cases = paired.cases
    rows = cases[cases["predicted A"] != cases["predicted B"]]
    if which != "all":
        rows = rows[rows["true"] == rows[f"predicted {which[5]}"]]
    found = rows[[c for c in ("case", "file", "source", "view") if c in rows.columns]].copy()
    found["fold A"], found["fold B"], found["true"] = rows["fold A"], rows["fold B"], rows["true"]
    for side in "AB":
        found[side] = rows[f"predicted {side}"]
        columns = [f"probability {name} {side}" for name in classes]
        if set(columns) <= set(rows.columns):
            place = [columns.index(f"probability {name} {side}") for name in rows[f"predicted {side}"]]
            found[f"p of {side}"] = rows[columns].to_numpy()[np.arange(len(rows)), place].round(4)
    return found


@st.cache_data(max_entries=16, show_spinner=False)
def _paired_shares(
    first_key: data.Key, second_key: data.Key, side: str, withhold: str | None, _first: Selection, _paired: data.Paired
) -> Shares:
    """Shares of one side's matrix of the shared cases; patients are those that the first run tells."""
    cases = _paired.cases
    told = pd.Series(_first.groups, index=_first.table["case"], dtype=object)
    groups = told[~told.index.duplicated()].reindex(cases["case"]).tolist()
    return figures.cell_shares(
        cases["true"].tolist(), cases[f"predicted {side}"].tolist(), groups, _first.run.classes,
        withhold=withhold, resamples=_resamples(len(cases)),
    )  # fmt: skip


def comparison(first: Selection, second: Selection, withhold: str | None) -> None:
    """Two runs on the cases that both have."""
    paired = data.compare(first, second)
    if isinstance(paired, str):
        st.warning(paired, icon=":material/warning:")
        return
    classes = first.run.classes
    st.markdown(
        f"**{len(paired.cases):,} shared cases**, decisions as stored: A is {first.run.name}, B {second.run.name}."
    )
    for note in paired.notes:
        st.caption(f"• {note}")
    for side, column, run in zip("AB", st.columns(2), (first.run, second.run), strict=True):
        with column:
            st.markdown(f"**{side}: {run.name}**")
            shares = _paired_shares(first.key, second.key, side, withhold, first, paired)
            counts = [[share.numerator or 0 for share in line] for line in shares]
            matrix_picker(counts, classes, f"runs-matrix-{side}", clickable=False, shares=shares)
    if withhold is None:
        st.dataframe(tests_frame(paired), hide_index=True, width="stretch", key="runs-tests")
        st.caption(
            "Exact McNemar test on shared cases; DeLong's test within one fold; corrected resampled t test (Nadeau and "
            "Bengio) of means over folds; Holm's adjustment over this table. McNemar and DeLong count images as "
            "independent: with several images of a patient their p-values are too small. "
            + ("Choose a fold for DeLong's test." if first.fold is None else "Choose all folds for means over folds.")
        )
    else:
        st.warning(f"Tests are withheld, since they would be wrong: {withhold}.", icon=":material/warning:")
    st.markdown("**Cases where they disagree**")
    which = st.segmented_control(
        "Show", ["all", "only A is right", "only B is right"], key="runs-which", default="all", required=True
    )
    found = disagreements(paired, classes, str(which))
    shown = found.head(MOST_ROWS).copy()
    for place, (side, run) in enumerate({"A": first.run, "B": second.run}.items()):
        links = ["./?" + urlencode({"run": run.name, "case": case}) for case in shown["case"]]
        shown.insert(place, f"Open in {side}", links)
    opens = st.column_config.LinkColumn(display_text=r"case=([0-9A-Za-z._-]{1,10})", help="Opens it in Analyse")
    st.dataframe(
        shown.drop(columns="case"), hide_index=True, width="stretch", key="runs-disagree",
        column_config={"Open in A": opens, "Open in B": opens},
    )  # fmt: skip
    more = f"; the first {MOST_ROWS} are shown, the CSV has all" if len(found) > MOST_ROWS else ""
    st.caption(f"{len(found):,} of {len(paired.cases):,} shared cases{more}.")
    stem = exports.file_name(first.run.name, "against", second.run.name)
    left, right, _ = st.columns([1, 1, 2])
    _download(left, "Disagreements (CSV)", lambda: exports.csv(found), f"{stem}-disagreements.csv", "text/csv")
    if withhold is None:
        tests = tests_frame(paired)
        _download(right, "Tests (CSV)", lambda: exports.csv(tests), f"{stem}-tests.csv", "text/csv")


# ------------------------------------------------------------------------------------------------------------ exports


def _download(place: Any, label: str, make: Callable[[], bytes], name: str, mime: str) -> None:
    place.download_button(label, make, name, mime, on_click="ignore", width="stretch", key=f"runs-get-{label}")


def cell_csv(matrix: Matrix, cell: Cell) -> bytes:
    """The cases of a cell with all that is stored of them but maps."""
    rows = matrix.rows(cell).drop(columns="row")
    return exports.csv(rows if matrix.threshold is None else rows.assign(called_here=cell[1]))


def figures_csv(matrix: Matrix) -> bytes:
    """All figures with full precision."""
    names = ("cls", "name", "value", "low", "high", "interval", "reason", "numerator", "denominator")
    return exports.csv(pd.DataFrame([{name: getattr(m, name) for name in names} for m in all_metrics(matrix)]))


def matrix_csv(matrix: Matrix) -> bytes:
    """Counts, rows true and columns predicted."""
    frame = pd.DataFrame(matrix.counts, columns=[f"predicted {name}" for name in matrix.classes])
    frame.insert(0, "true", list(matrix.classes))
    return exports.csv(frame)


def downloads(matrix: Matrix, cell: Cell | None, link: str) -> None:
    """Pictures and tables of what is shown, and the link that reopens it."""
    stem = exports.file_name(matrix.title)
    arguments = (matrix.shares, matrix.classes, matrix.title, f"{matrix.counts.sum():,} cases, {matrix.decisions}")
    first, second, third = st.columns(3)
    _download(first, "Matrix (PNG)", lambda: exports.matrix_png(*arguments), f"{stem}-matrix.png", "image/png")
    _download(second, "Matrix (SVG)", lambda: exports.matrix_svg(*arguments), f"{stem}-matrix.svg", "image/svg+xml")
    _download(third, "Matrix (CSV)", lambda: matrix_csv(matrix), f"{stem}-matrix.csv", "text/csv")
    _download(first, "Figures (CSV)", lambda: figures_csv(matrix), f"{stem}-figures.csv", "text/csv")
    for column, place in (("source", second), ("view", third)):
        if column in matrix.selection.table.columns:
            _download(
                place, f"By {column} (CSV)", lambda column=column: exports.csv(parts_frame(matrix, column)[0]),  # type: ignore[misc]
                f"{stem}-by-{column}.csv", "text/csv",
            )  # fmt: skip
    if cell is not None:
        name = f"{stem}-{exports.file_name('true', cell[0], 'predicted', cell[1])}.csv"
        _download(first, "Cases of the cell (CSV)", lambda: cell_csv(matrix, cell), name, "text/csv")
    info = json.dumps(dict(matrix.selection.run.info), indent=1, ensure_ascii=False).encode()
    _download(second, "run.json", lambda: info, "run.json", "application/json")
    st.markdown("Link to exactly this view")
    st.code(link, language=None, wrap_lines=True)
