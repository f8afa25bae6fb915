"""Panels that pages share: what the network says, what it saw, how far the maps can be trusted."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cxnet import report
from cxnet.analysis import NOTICE, Analysis, Models
from cxnet.audit import ZONES, AuditScore, sanity_check
from cxnet.errors import CxnetError
from cxnet.explain import METHODS, Explanation
from cxnet.explain.grad_cam import grad_cam
from cxnet.statistics import ConfusionMatrix, Metric, cell_shares, patient_metrics
from cxnet.verdict import CaseAudit
from cxnet.weights import Card
from pages import _store
from pages._matrix import matrix_picker
from pages._viewer import WHOLE, Panel

CHANNEL_TITLES = {"original": "original", "clahe": "CLAHE", "beasf": "BEASF"}


def notice() -> None:
    """The banner of every page."""
    st.caption(f":material/info: **{NOTICE}**")


class Palette(NamedTuple):
    """Colours of charts: what is meant, what stands beside it, lines of the grid, text.

    On the page's background `accent` and `quiet` have a contrast of 3 to 1 or more, `ink` of 4.5 to 1 (WCAG 2.2,
    criteria 1.4.11 and 1.4.3). `grid` only guides the eye and needs none.
    """

    accent: str
    quiet: str
    grid: str
    ink: str


THEMES = {
    "light": Palette("#0b6e75", "#6f858c", "#d3dde1", "#15232a"),
    "dark": Palette("#4cc2c9", "#6b828a", "#33434b", "#e3eaed"),
}


def palette() -> Palette:
    """Colours of charts in the theme that the browser shows."""
    return THEMES["dark" if st.context.theme.type == "dark" else "light"]


def draw_chart(
    figure: go.Figure, key: str, alt: str, *, xaxis: dict[str, Any], yaxis: dict[str, Any], **layout: Any
) -> None:
    """Draw a chart in the colours of :func:`palette`; without Streamlit's theme, which would make its text grey."""
    _, _, grid, ink = palette()
    axis = {
        "fixedrange": True, "automargin": True, "ticklabelstandoff": 5, "color": ink, "gridcolor": grid, "zerolinecolor": grid,
    }  # fmt: skip
    figure.update_layout(
        xaxis=axis | xaxis,
        yaxis=axis | yaxis,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": ink, "family": "Source Sans, sans-serif", "size": 13},
        dragmode=False,
        **layout,
    )
    st.plotly_chart(figure, width="stretch", config={"displayModeBar": False}, key=key, theme=None, alt=alt)


def _draw_bars(bars: go.Figure, key: str, alt: str) -> None:
    """Draw a row a class from 0 to 1."""
    draw_chart(
        bars, key, alt, height=150, margin={"l": 0, "r": 44, "t": 4, "b": 4},
        xaxis={"range": [0, 1], "tickformat": ".1f"},
        yaxis={"autorange": "reversed", "showgrid": False, "ticksuffix": " "},
    )  # fmt: skip


def output(analysis: Analysis) -> None:
    """The answer in one line."""
    found = analysis.prediction
    st.markdown(
        f"Model output for **{found.predicted}**: **{found.probabilities.max():.3f}** (uncalibrated). Maps explain "
        f"**{analysis.target}**."
    )


def prediction(analysis: Analysis) -> None:
    """Outputs per class as bars and as a table."""
    probabilities = analysis.prediction.probabilities
    classes = list(analysis.card.classes)
    accent, quiet, _, _ = palette()
    bars = go.Figure(
        go.Bar(
            x=probabilities,
            y=classes,
            orientation="h",
            text=[f"{p:.3f}" for p in probabilities],
            textposition="outside",
            cliponaxis=False,
            marker_color=[accent if name == analysis.target else quiet for name in classes],
            hoverinfo="skip",
        )
    )
    told = ", ".join(f"{name} {p:.3f}" for name, p in zip(classes, probabilities, strict=True))
    _draw_bars(bars, "bars", f"Model output: {told}.")
    with st.expander("Outputs as a table"):
        rows = {"Class": classes, "Output (uncalibrated)": [f"{p:.4f}" for p in probabilities]}
        st.table(pd.DataFrame(rows), hide_index=True)


def how_often(analysis: Analysis) -> None:
    """In one sentence, how often this answer was right on radiographs that the network never saw."""
    results, predicted = held_out_cases(analysis.card), analysis.prediction.predicted
    if results is None:
        st.markdown("No stored run tells how often this network is right.")
        return
    said = results["predicted"] == predicted
    if not said.any():
        st.markdown(f"It said **{predicted}** of none of the radiographs that it was tested on.")
        return
    found = next(m for m in held_out_figures(analysis.card, results) if (m.name, m.cls) == ("precision", predicted))
    assert found.value is not None
    limits = ""
    if found.low is not None and found.high is not None:
        limits = f" (95 % interval {100 * found.low:.0f} to {100 * found.high:.0f})"
    st.markdown(
        f"On radiographs that it never saw it said **{predicted}** {found.denominator} times and was right "
        f"**{found.numerator}** times: {100 * found.value:.0f} %{limits}. With other shares of the classes it would be "
        "another figure."
    )


def how_good(analysis: Analysis) -> None:
    """The matrix of the run that the network comes from, the row and the column of this prediction marked."""
    card = analysis.card
    results = held_out_cases(card)
    with st.container(border=True):
        st.markdown("**How often is such an answer right?**")
        if results is None or card.run is None:
            st.markdown("No stored run tells.")
        else:
            matrix = ConfusionMatrix.from_cases(
                list(results["true"]), list(results["predicted"]), card.classes, list(results["case"])
            )
            own = results.loc[results["case"] == analysis.radiograph.sha256, "true"]
            mark = (str(own.iloc[0]) if len(own) else None, analysis.prediction.predicted)
            shares = _held_out(card.name, card.sha256, results, card.classes)[1]
            matrix_picker(matrix.counts, card.classes, key="marked-matrix", mark=mark, clickable=False, shares=shares)
            st.page_link(
                "pages/runs.py", label="Every one of these predictions", icon=":material/grid_view:",
                query_params={"run": card.run[0], "fold": str(card.run[1])},
            )  # fmt: skip
        st.caption(card.trained_on)


def held_out_cases(card: Card) -> pd.DataFrame | None:
    """Predictions of a network on radiographs that it was not trained on, if a stored run holds them."""
    found = _store.listing()[0].get(card.run[0]) if card.run else None
    if found is None or card.run is None or card.run[1] not in found.folds or found.classes != card.classes:
        return None
    return found.results(card.run[1])


def _answers(results: pd.DataFrame) -> tuple[list[str], list[str], list[str | None]]:
    """True class, answer and patient of each case."""
    groups = list(results["group"]) if "group" in results.columns else [None] * len(results)
    return list(results["true"]), list(results["predicted"]), groups


@st.cache_data(max_entries=16, show_spinner=False)
def _held_out(
    name: str, sha256: str, _results: pd.DataFrame, _classes: tuple[str, ...]
) -> tuple[tuple[Metric, ...], tuple[tuple[Metric, ...], ...]]:
    """Figures and cells of a network's :func:`held_out_cases`; resampled once."""
    answers = _answers(_results)
    return patient_metrics(*answers, _classes), cell_shares(*answers, _classes)


def held_out_figures(card: Card, results: pd.DataFrame) -> tuple[Metric, ...]:
    """Figures of :func:`held_out_cases`."""
    return _held_out(card.name, card.sha256, results, card.classes)[0]


def sensitivities(card: Card) -> None:
    """What a network reached, a bar a class: shown while there is no radiograph."""
    results = held_out_cases(card)
    if results is None:
        return
    found = [(metric, metric.value) for metric in held_out_figures(card, results) if metric.name == "sensitivity"]
    shown = [
        (m, value, value if m.low is None else m.low, value if m.high is None else m.high)
        for m, value in found
        if value is not None
    ]
    accent = palette().accent
    bars = go.Figure(
        go.Scatter(
            x=[value for _, value, _, _ in shown],
            y=[m.cls for m, _, _, _ in shown],
            mode="markers+text",
            marker={"color": accent, "size": 11},
            text=[f"{value:.2f}" for _, value, _, _ in shown],
            textposition="top center",
            error_x={
                "type": "data", "symmetric": False, "color": accent, "thickness": 2,
                "array": [high - value for _, value, _, high in shown],
                "arrayminus": [value - low for _, value, low, _ in shown],
            },
            hoverinfo="skip",
        )
    )  # fmt: skip
    st.markdown(f"**What {card.title} finds** in {len(results)} radiographs that it never saw")
    told = ", ".join(f"{m.cls} {value:.2f}, {low:.2f} to {high:.2f}" for m, value, low, high in shown)
    _draw_bars(bars, "sensitivities", f"Sensitivity: {told}.")
    with st.expander("Sensitivities as a table"):
        rows = [
            (m.cls, f"{value:.3f}", "—" if m.low is None or m.high is None else f"{low:.3f} to {high:.3f}",
             m.numerator, m.denominator)
            for m, value, low, high in shown
        ]  # fmt: skip
        names = ["Class", "Sensitivity", "95 % interval", "Found", "Radiographs"]
        st.table(pd.DataFrame(rows, columns=names), hide_index=True)
    st.caption("Sensitivity of each class with its 95 % interval. The classes come from different hospitals: see Runs.")


def lungs(analysis: Analysis) -> None:
    """Lung area and the quality gate."""
    found = analysis.lungs
    if found.ok:
        st.markdown(f"Lungs: {100 * found.area_fraction:.0f} % of the picture; the outline passes its checks.")
    else:
        st.warning(
            f"The lung outline may be wrong: {'; '.join(found.reasons)}. Do not trust figures that depend on it.",
            icon=":material/warning:",
        )


def panels(analysis: Analysis, models: Models, channel: str, shared_scale: bool) -> list[Panel]:
    """The viewer's panels: original, network's input, and a map a method."""
    pixels = analysis.radiograph.pixels
    height, width = pixels.shape
    channels = analysis.card.channels
    order = ", ".join(CHANNEL_TITLES[name] for name in channels)
    crop = analysis.crop
    seen = (crop.left / width, crop.top / height, crop.right / width, crop.bottom / height)
    cut = "" if seen == WHOLE else ", cut to the lungs"
    position = analysis.radiograph.tags.get("ViewPosition")
    view = f"view {position}, as the file says" if position else ""
    shown = [
        Panel(
            "Radiograph",
            f"{width} by {height} pixels" + (f", {view}" if view else ""),
            pixels,
            badge=view,
            depth=analysis.radiograph.depth,
        ),
        Panel(
            "As the model sees it",
            f"channel {CHANNEL_TITLES[channel]} of {order}, {analysis.stack.shape[0]} px{cut}",
            np.ascontiguousarray(analysis.stack[:, :, channels.index(channel)]),
            badge=f"{channels.index(channel) + 1} of {len(channels)}: {order}",
            frame=seen,
        ),
    ]
    strongest = float(grad_cam(analysis.prediction, models.classifier.head).max())
    for method, explanation in analysis.explanations.items():
        own = float(np.abs(explanation.heatmap).max())
        reference, badge = own, f"stretched to its maximum, {own:.2g}"
        if method == "grad-cam" and shared_scale:
            reference, badge = max(strongest, own), f"scale of all classes, 0 to {max(strongest, own):.2g}"
        if explanation.signed:
            badge = f"blue against, orange for; ±{own:.2g} logits"
        inside = next(s for s in analysis.scores[method] if s.name == "in-lung energy")
        told = f"{100 * inside.value:.0f} % in the lungs" if inside.value is not None else str(inside.reason)
        shown.append(
            Panel(
                METHODS[method] + ("" if explanation.finished else " (partial)"),
                f"map for {analysis.target}, {told}",
                pixels,
                explanation.heatmap,
                reference,
                explanation.signed,
                badge,
                heatmap_frame=seen,
                segments=explanation.segments,
                weights=explanation.weights,
                depth=analysis.radiograph.depth,
            )
        )
    return shown


def _percent(score: AuditScore) -> str:
    return "undefined" if score.value is None else f"{100 * score.value:.0f} %"


def figures(analysis: Analysis) -> None:
    """The audit of every map: in-lung energy beside its nulls, lift, z, then everything as a table."""
    columns = st.columns(max(1, len(analysis.explanations)))
    for column, (method, explanation) in zip(columns, analysis.explanations.items(), strict=False):
        with column, st.container(border=True):
            _figures_of(method, explanation, {score.name: score for score in analysis.scores[method]})
            if method == "grad-cam":
                sanity(analysis.card)
    if analysis.agreement:
        with st.container(border=True):
            st.markdown("**Do Grad-CAM and LIME agree?**")
            for score in analysis.agreement:
                value = f"undefined: {score.reason}" if score.value is None else f"{score.value:.2f}"
                chance = "".join(f" ({name} {null:.2f})" for name, null in score.null.items())
                st.markdown(f"- {score.name}: **{value}**{chance}")
    rows = [
        (
            METHODS[method],
            score.name,
            None if score.value is None else round(score.value, 4),
            score.unit,
            ", ".join(f"{name} {value:.3f}" for name, value in score.null.items()),
            score.reason or "",
            score.reference,
        )
        for method, scores in analysis.scores.items()
        for score in scores
    ]
    with st.expander("All figures as a table"):
        names = ["Map", "Figure", "Value", "Unit", "What content-free maps score", "Undefined because", "Reference"]
        st.dataframe(pd.DataFrame(rows, columns=names), hide_index=True, width="stretch")


def sanity(card: Card) -> None:
    """One line: does a classifier's map change when the network forgets what it learned."""
    if card.recipe.task != "classification":
        return
    try:
        found = sanity_check(card)
    except CxnetError as error:
        st.caption(str(error))
        return
    st.caption(found.in_words() if found else "No sanity check of this network's maps is stored.")


def _figures_of(method: str, explanation: Explanation, scores: dict[str, AuditScore]) -> None:
    inside, lift, z = (scores[name] for name in ("in-lung energy", "lift", "z against shifted copies"))
    st.markdown(f"**{METHODS[method]}** for {explanation.target_class}")
    if inside.value is None:
        st.markdown(f"No figures: {inside.reason}.")
    else:
        nulls = ", ".join(f"{name} {100 * value:.0f} %" for name, value in inside.null.items())
        st.markdown(f"In the lungs: **{_percent(inside)}** of the map  \n:small[Maps without content score: {nulls}]")
        told = f"{z.value:+.1f}" if z.value is not None else f"undefined ({z.reason})"
        st.markdown(f"Lift **{lift.value:.2f}** (1 is chance), z **{told}** against shifted copies of itself")
        hot = sorted(((scores[f"energy: {zone}"].value or 0.0, zone) for zone in ZONES), reverse=True)[:2]
        st.markdown("Outside: " + ", ".join(f"{zone} {100 * share:.0f} %" for share, zone in hot if share >= 0.005))
        point = scores["pointing game"]
        if point.value is not None:
            st.markdown(
                f"Hottest point in the lungs: **{'yes' if point.value else 'no'}** (chance {point.null['random point']:.2f})"
            )
    if method == "lime":
        _fidelity(explanation)


def _fidelity(explanation: Explanation) -> None:
    """Whether LIME's surrogate is good enough to be read."""
    r2 = explanation.r2_held_out if explanation.r2_held_out is not None else explanation.r2
    settled = "settled" if explanation.stable else "not settled"
    fitted = "" if explanation.r2 is None else f" (fitted {explanation.r2:.2f})"
    held_out = "unknown yet" if explanation.r2_held_out is None else f"{explanation.r2_held_out:.2f}"
    st.markdown(f"Local R² held out **{held_out}**{fitted}; {explanation.samples} samples, top five {settled}")
    if r2 is None or r2 < report.LOW_R2:
        st.error("Do not interpret: the surrogate does not follow the network here.", icon=":material/block:")
    elif r2 < report.WEAK_R2:
        st.warning("Weak: the surrogate follows the network only in part.", icon=":material/warning:")


def downloads(analysis: Analysis, audit: CaseAudit | None = None) -> None:
    """The report as HTML and PDF, and the bundle for auditors; each is made when it is clicked, not before."""
    first, second, third, _ = st.columns([1, 1, 1, 2])
    name = f"cxnet-{analysis.radiograph.sha256[:12]}"
    for column, title, make, kind, mime, told in (
        (first, "Report (HTML)", report.html, "html", "text/html", "One file for any browser; prints on A4."),
        (second, "Report (PDF)", report.pdf, "pdf", "application/pdf", "The same as a PDF."),
        (
            third, "Bundle (zip)", report.bundle, "zip", "application/zip",
            "For auditors: all figures as JSON, raw maps, pictures, and a manifest with checksums.",
        ),
    ):  # fmt: skip
        column.download_button(
            title,
            partial(make, analysis, audit),
            f"{name}.{kind}",
            mime,
            on_click="ignore",
            width="stretch",
            icon=":material/download:",
            help=told,
        )
