"""Panels of the page Audit: wrong-reason rates, distributions, zones, properties of the pictures, worst offenders."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cxnet import runs, wrong_reasons
from cxnet.errors import CxnetError
from cxnet.runs import Run
from cxnet.statistics import Metric
from cxnet.wrong_reasons import ANSWERS, PROPERTIES, WRONG, Agreement, PairedReasons, PropertyAuc, Rate, StoredAudit

LIGHT = {"text": "#15232a", "helper": "#6f858c"}
DARK = {"text": "#e3eaed", "helper": "#6b828a"}
#: Verdict → its colour in the light and in the dark theme, in the order of a stack.
VERDICTS = {
    "none found": ("#0b6e75", "#4cc2c9"),
    "undetermined": ("#8a9aa0", "#77888f"),
    "suspicious map": ("#c98a12", "#e8b04a"),
    WRONG: ("#b3261e", "#f2857c"),
}
#: Zones in the order of a stack, the lungs first.
ZONES = {
    "lungs": ("#0b6e75", "#4cc2c9"),
    "mediastinum": ("#47731c", "#a3cf6f"),
    "beside the lungs": ("#6b5b3e", "#d1bf98"),
    "below the diaphragm": ("#5b4bb3", "#a99cf5"),
    "above the apices": ("#c98a12", "#e8b04a"),
    "corners": ("#a1285a", "#f07fa8"),
    "border band": ("#b3261e", "#f2857c"),
}
PARTS = {"cell": "Cell of the matrix", "answer": "Answer", "fold": "Fold", "source": "Source", "view": "View"}
MOST_OFFENDERS = 20
RESAMPLES_PROPERTIES, RESAMPLES_MEDIANS = 300, 1000


def _dark() -> bool:
    return bool(st.context.theme.type == "dark")


def _colours() -> dict[str, str]:
    return DARK if _dark() else LIGHT


def escaped(text: str) -> str:
    """Text of a file as Markdown that shows it as it is."""
    for mark in "\\`*_[]<>$#~|:":
        text = text.replace(mark, "\\" + mark)
    return text


# ----------------------------------------------------------------------------------------- what is computed, cached


@st.cache_resource(max_entries=16, show_spinner=False)
def _opened(folder: str, tier: wrong_reasons.Tier, changed_ns: int) -> StoredAudit:
    """One object an audit for all sessions; treated as read-only."""
    return wrong_reasons.open_audit(Path(folder), tier)


def opened(run: Run, tier: wrong_reasons.Tier) -> StoredAudit:
    """The audit of a run.

    Raises
    ------
    DatasetError
        If it is damaged.
    """
    path = run.folder / f"audit-{tier}.parquet"
    return _opened(str(run.folder), tier, path.stat().st_mtime_ns if path.is_file() else 0)


def verdicts(run: Run) -> pd.DataFrame:
    """Case, fold, verdict and background-only probability of a run's full audit; raises as :func:`opened`."""
    table = opened(run, "full").table
    names = [name for name in ("verdict", "background_probability") if name in table.columns]
    return table[["case", "fold", *names]].drop_duplicates(["case", "fold"])


def _key(audit: StoredAudit) -> str:
    return f"{audit.path}:{audit.info.get('sha256')}"


@st.cache_data(max_entries=64, show_spinner="Resampling patients …")
def _rates(key: str, by: str, _audit: StoredAudit) -> tuple[Rate, ...]:
    return wrong_reasons.rates(_audit.table, by, _audit.classes)


@st.cache_data(max_entries=32, show_spinner="Resampling patients …")
def _property_aucs(key: str, _audit: StoredAudit) -> tuple[PropertyAuc, ...]:
    known = _audit.audited[_audit.audited["true"].notna()]
    return wrong_reasons.property_aucs(
        _audit.table, _audit.classes, resamples=RESAMPLES_PROPERTIES, withhold=wrong_reasons.withheld(known)
    )


@st.cache_data(max_entries=32, show_spinner="Resampling patients …")
def _agreements(key: str, _audit: StoredAudit) -> tuple[Agreement, ...]:
    return wrong_reasons.agreements(_audit.table, _audit.classes, resamples=RESAMPLES_MEDIANS)


# --------------------------------------------------------------------------------------------------------- headline


def _percent(metric: Metric) -> str:
    return "—" if metric.value is None else f"{100 * metric.value:.1f} %"


def _limits(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{100 * metric.low:.1f} – {100 * metric.high:.1f} %"


def headline(audit: StoredAudit) -> None:
    """How many right answers were given for a wrong reason."""
    (whole,) = _rates(_key(audit), "run", audit)
    if whole.rate.value is None:
        st.info(f"No wrong-reason rate: {whole.rate.reason}.", icon=":material/info:")
        return
    limits = _limits(whole.rate)
    finding = next((r for r in _rates(_key(audit), "answer", audit) if r.part == ANSWERS[True]), None)
    left, middle, right = st.columns(3)
    left.metric("Right answers audited", f"{whole.answers:,}")
    middle.metric("of these for a wrong reason", f"{_percent(whole.rate)} ({whole.wrong:,})")
    if finding is not None and finding.answers < whole.answers:
        middle.caption(
            f"of the {finding.answers:,} that name a finding **{_percent(finding.rate)}** ({finding.wrong:,}); the others are "
            "put to fewer tests"
        )
    right.metric("undetermined", f"{100 * whole.undetermined / whole.answers:.1f} % ({whole.undetermined:,})")
    st.caption(
        (
            f"95 % interval of the wrong-reason rate {limits} ({whole.rate.interval})."
            if limits
            else f"No interval: {whole.rate.reason}."
        )
        + " An answer without a wrong reason found is not proven right. Undetermined answers (the lungs could not be found, "
        "hiding them leaves a finding standing, opacities drawn into them do not move an answer that names none, nothing moves it, or "
        "it falls with a marker that has no place for a comparison) stay in the denominator."
    )


def rate_frame(found: Sequence[Rate], part: str) -> pd.DataFrame:
    """Rates as text for the screen."""
    rows = [
        (
            r.part,
            r.answers,
            r.wrong,
            _percent(r.rate),
            _limits(r.rate),
            r.undetermined,
            r.rate.interval or r.rate.reason,
        )
        for r in found
    ]
    names = [part, "Answers", "Wrong reason", "Rate", "95 % interval", "Undetermined", "Interval, or why none"]
    return pd.DataFrame(rows, columns=names)


def rate_table(audit: StoredAudit, by: str) -> None:
    """Wrong-reason rates of the parts of the run."""
    found = _rates(_key(audit), by, audit)
    if not found:
        st.info(f"No right answer has a {PARTS[by].lower()} here.", icon=":material/info:")
        return
    st.dataframe(rate_frame(found, PARTS[by]), hide_index=True, width="stretch", key=f"audit-rates-{by}")
    if by == "cell":
        st.caption("All answers of a cell, right ones first: a wrong answer can have a wrong reason, too.")
    else:
        st.caption("Right answers only.")


# ------------------------------------------------------------------------------------------------------------ charts


def _chart(x: str, y: str, height: int = 300) -> go.Figure:
    colours = _colours()
    axis = {"color": colours["text"], "gridcolor": f"{colours['helper']}55", "zeroline": False, "fixedrange": True}
    figure = go.Figure()
    figure.update_layout(
        height=height, barmode="stack", bargap=0.04, dragmode=False,
        margin={"l": 10, "r": 10, "t": 24, "b": 4},
        xaxis={**axis, "title": x},
        yaxis={**axis, "title": {"text": y, "standoff": 8}, "automargin": True},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"color": colours["text"]},
        legend={"orientation": "h", "y": -0.3, "x": 0, "traceorder": "normal"},
    )  # fmt: skip
    return figure


def _draw(figure: go.Figure, key: str, alt: str) -> None:
    st.plotly_chart(figure, width="stretch", config={"displayModeBar": False}, key=key, theme=None, alt=alt)


def histogram(
    rows: pd.DataFrame, column: str, title: str, null: float, what: str, most: float | None, least: float = 0.0
) -> go.Figure:
    """Bars of a figure, by verdict where there is one, with its null marked."""
    figure = _chart(title, "cases")
    values = pd.to_numeric(rows[column], errors="coerce")
    shown = rows[values.notna()].assign(**{column: values})
    top = most if most is not None else max(2.0, float(np.ceil(shown[column].max() * 4) / 4) if len(shown) else 2.0)
    edges = np.linspace(least, top, 25)
    middles, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    parts = [(name, shown[shown["verdict"] == name]) for name in VERDICTS] if "verdict" in shown else [("", shown)]
    for name, part in parts:
        counts = np.histogram(part[column], edges)[0]
        if len(parts) > 1 and not counts.any():
            continue
        colour = VERDICTS[name or "none found"][_dark()]
        spans = [f"{low:.2f} – {high:.2f}" for low, high in itertools.pairwise(edges)]
        figure.add_bar(
            x=middles, y=counts, width=width * 0.94, name=name, marker={"color": colour, "line": {"width": 0}},
            customdata=spans, hovertemplate=f"{column.replace('_', ' ')} %{{customdata}}: %{{y}} cases"
            + (f", {name}" if name else "") + "<extra></extra>", showlegend=bool(name),
        )  # fmt: skip
    figure.add_vline(
        x=null, line={"color": _colours()["text"], "dash": "dash", "width": 1.5}, annotation_text=what,
        annotation_position="top", annotation_font={"color": _colours()["text"], "size": 12},
    )  # fmt: skip
    figure.update_xaxes(range=[least, top])
    if len(parts) == 1:  # no legend makes room for the axis below
        figure.update_layout(margin={"b": 56})
    return figure


def _quartiles(values: pd.Series) -> str:
    known = pd.to_numeric(values, errors="coerce").dropna()
    if known.empty:
        return "no value"
    low, middle, high = known.quantile([0.25, 0.5, 0.75])
    return f"median {middle:.2f}, half of them between {low:.2f} and {high:.2f}"


def distributions(audit: StoredAudit) -> None:
    """Lift, and background-only probability of a full audit, each with what chance would give."""
    rows = audit.audited
    left, right = st.columns(2)
    with left:
        st.markdown("**Lift of the map**")
        _draw(
            histogram(rows, "lift", "in-lung energy over the lungs' share of the picture", 1.0, "even map", None),
            "audit-lift-chart",
            f"Histogram of the lift of {len(rows)} maps: {_quartiles(rows['lift'])}; an even map has 1.",
        )
        undefined = int(rows["lift"].isna().sum())
        st.caption(
            "Left of the line the map puts less into the lungs than an even map would. A map alone accuses nobody."
            + (f" {undefined} maps have no figures." if undefined else "")
        )
    with right:
        st.markdown("**Background-only probability**")
        if "background_probability" not in rows.columns:
            st.info("Not in this audit; this makes the causal tests:", icon=":material/info:")
            st.code(command(audit.path.parent, "full"), language=None, wrap_lines=True)
            return
        chance = 1 / len(audit.classes)
        title = "probability of the class called, lungs hidden"
        told = _quartiles(rows["background_probability"])
        _draw(
            histogram(rows, "background_probability", title, chance, "chance", 1.0),
            "audit-background-chart",
            f"Histogram of the {title}: {told}; chance is {chance:.2f}.",
        )
        st.caption(
            "Right of the line the network still leans to its answer although the lungs are hidden: median over "
            "several fills. Blank pictures may lean to a class, too, and the verdict allows for that."
        )


def zone_chart(found: pd.DataFrame) -> go.Figure:
    """Where maps lie: a bar for each part, the lungs first."""
    figure = _chart("", "", 176 + 44 * found["part"].nunique())
    sizes = found.groupby("part")["cases"].first()
    names = {part: f"{part} ({cases:,})" for part, cases in sizes.items()}
    for zone, colours in ZONES.items():
        own = found[found["zone"] == zone]
        figure.add_bar(
            y=own["part"].map(names), x=own["energy"], name=zone, orientation="h", customdata=own["area"],
            marker={"color": colours[_dark()], "line": {"width": 0}},
            hovertemplate="%{y}, %{fullData.name}: %{x:.1%} of the map, on %{customdata:.1%} of the picture"
            "<extra></extra>",
        )  # fmt: skip
    # the legend may need four rows on a telephone
    legend = {"xref": "container", "yref": "container", "x": 0, "y": 0, "yanchor": "bottom", "maxheight": 142}
    figure.update_layout(bargap=0.3, legend=legend, margin={"b": 140})
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def zones(audit: StoredAudit, by: str) -> None:
    """Mean energy in the lungs and in each zone outside, by class or source."""
    found = wrong_reasons.zone_energies(audit.table, by)
    if found.empty:
        st.info("No map of this audit has figures.", icon=":material/info:")
        return
    _draw(
        zone_chart(found), "audit-zone-chart", "Mean share of the maps in each zone; the table below has the numbers."
    )
    st.caption("Mean share of the map, by the class that it explains or by source.")
    with st.expander("The same as a table"):
        table = found.rename(columns={"part": "Part", "cases": "Cases", "zone": "Zone"})
        for name, column in (("Share of the map", "energy"), ("Share of the picture", "area")):
            table[name] = [f"{100 * value:.1f} %" if pd.notna(value) else "" for value in found[column]]
        table = table[["Part", "Cases", "Zone", "Share of the map", "Share of the picture"]]
        st.dataframe(table, hide_index=True, width="stretch", key="audit-zone-table")
    lines = found[found["zone"] != "lungs"].assign(over=lambda rows: rows["energy"] / rows["area"].replace(0, np.nan))
    lines = lines[lines["cases"] >= 5].dropna(subset="over")
    if not lines.empty:
        top = lines.loc[lines["over"].idxmax()]
        st.caption(
            f"Most over its area: {escaped(str(top['part']))}, {top['zone']}, with {100 * top['energy']:.0f} % of the "
            f"map on {100 * top['area']:.0f} % of the picture ({top['over']:.1f} times an even map's)."
        )


# ------------------------------------------------------------------------------------------------ Grad-CAM and LIME


def _with_limits(metric: Metric, percent: bool = False) -> str:
    if metric.value is None:
        return "—"
    told = [
        f"{100 * v:.0f} %" if percent else f"{round(v, 2) + 0.0:.2f}"
        for v in (metric.value, metric.low, metric.high)
        if v is not None
    ]
    return (told[0] + (f" [{told[1]}, {told[2]}]" if len(told) == 3 else "")).replace("-", "−")


def agreement_frame(found: Sequence[Agreement]) -> pd.DataFrame:
    """Agreement of Grad-CAM and LIME as text for the screen."""
    rows = [
        (
            one.part,
            one.cases,
            one.undefined,
            _with_limits(one.correlation),
            _with_limits(one.beyond_chance, percent=True),
            _with_limits(one.blob_beyond_chance, percent=True),
            _with_limits(one.r2),
        )
        for one in found
    ]
    names = [
        "Answers",
        "Cases",
        "Undefined",
        "CAM-LIME, median",
        "Beyond chance",
        "A blob beyond it",
        "R² of LIME, median",
    ]
    return pd.DataFrame(rows, columns=names)


def lime_audit(run: Run, first: StoredAudit | None = None) -> StoredAudit | None:
    """`first` if LIME was run in it, else the first audit of the run that has it, the full one first; None if none has.

    A damaged audit is left out here and says so where it is opened.
    """
    if first is not None and "cam_lime" in first.table.columns:
        return first
    for tier in wrong_reasons.audits_of(run.folder):
        try:
            found = opened(run, tier)
        except CxnetError:
            continue
        if "cam_lime" in found.table.columns:
            return found
    return None


def _intervals(whole: Agreement) -> str:
    """Where the intervals come from, or why there are none."""
    reasons = dict.fromkeys(m.reason for m in (whole.correlation, whole.beyond_chance) if m.reason)
    told = "Medians with 95 % intervals that draw whole patients." if whole.correlation.interval else "Medians."
    return escaped(" ".join([told, *(f"Not given: {reason}." for reason in reasons)]))


def agreement(run: Run, audit: StoredAudit) -> None:
    """How far Grad-CAM and LIME agree over the run, where LIME was run."""
    explained = lime_audit(run, audit)
    if explained is None:
        st.info("LIME was not run in an audit of this run. This runs it:", icon=":material/info:")
        st.code(f"{command(run.folder, 'fast')} --lime", language=None, wrap_lines=True)
        return
    found = _agreements(_key(explained), explained)
    if not found:
        st.info("No case of that audit has figures.", icon=":material/info:")
        return
    if explained is not audit:
        st.caption(f"From this run's {explained.tier} audit, which ran LIME.")
    rows = explained.audited
    _draw(
        histogram(rows, "cam_lime", "rank correlation over superpixels", 0.0, "nothing in common", 1.0, least=-1.0),
        "audit-agreement-chart",
        f"Histogram of the rank correlation of Grad-CAM and LIME in {found[0].cases} cases: {_quartiles(rows['cam_lime'])}; "
        "0 says nothing in common.",
    )
    st.dataframe(agreement_frame(found), hide_index=True, width="stretch", key="audit-agreement")
    st.caption(
        f"{_intervals(found[0])} Beyond chance: share of the cases whose two maps agree more "
        "than 95 % of copies of Grad-CAM's map do that were shifted and flipped at random. Of unrelated maps that prefer no place "
        "5 % would; of maps that both prefer the middle more, so beside it stands how often a centred blob would, which knows "
        "nothing of the network. Undefined where LIME found no superpixel that speaks for the class, or Grad-CAM no evidence. "
        "Where the two disagree, at least one of them does not tell what the network used; the cases below can be sorted by it."
    )


# ------------------------------------------------------------------------------------------- properties, comparison


def property_frame(found: Sequence[PropertyAuc]) -> pd.DataFrame:
    """Properties as text for the screen, those that tell most first."""
    ordered = sorted(found, key=lambda one: -abs(one.rank_biserial or 0.0))
    rows = []
    for one in ordered:
        m = one.auc
        limits = "" if m.low is None or m.high is None else f"{m.low:.2f} – {m.high:.2f}"
        rows.append(
            (
                "separates" if one.separates else "",
                PROPERTIES[one.name],
                m.cls,
                "undefined" if m.value is None else f"{m.value:.2f}",
                limits,
                "" if one.rank_biserial is None else f"{one.rank_biserial:+.2f}".replace("-", "−"),
                m.reason or "",
            )
        )
    names = ["", "Property", "Class", "AUC", "95 % interval", "Rank-biserial", "Why none"]
    frame = pd.DataFrame(rows, columns=names)
    return frame if frame["Why none"].any() else frame.drop(columns="Why none")


def property_table(audit: StoredAudit) -> None:
    """What of a picture's looks tells its class."""
    if not audit.audited["true"].notna().any():
        st.info("The true classes are not known, so nothing can be compared with them.", icon=":material/info:")
        return
    found = _property_aucs(_key(audit), audit)
    separating = [one for one in found if one.separates]
    limit = wrong_reasons.SEPARATES_FROM
    if separating:
        st.warning(
            f"{len(separating)} of {len(found)} pairs of property and class separate: a network could tell that class "
            "without looking at the lungs. That it could does not mean that it does.",
            icon=":material/warning:",
        )
    st.dataframe(property_frame(found), hide_index=True, width="stretch", key="audit-properties", height=388)
    st.caption(
        "AUC: chance that a picture of the class has more of the property than one of another class; 0.5 says nothing, "
        f"1 less 0.3 as much as 0.7. Marked where the whole interval lies above {limit} or below {1 - limit:.1f}. "
        "Rank-biserial correlation = 2 AUC − 1. Intervals draw patients within classes."
    )


def comparison(first: str, second: str, found: PairedReasons) -> None:
    """Two runs on shared cases."""
    test = found.test
    if test.difference is None:
        st.info(f"Nothing to compare: {test.reason}.", icon=":material/info:")
        return
    a, b = escaped(first), escaped(second)
    st.markdown(
        f"Of {found.shared:,} shared cases, both answer **{found.cases:,}** rightly with a verdict. Wrong reason in "
        f"{a} alone: **{found.only_first:,}**, in {b} alone: **{found.only_second:,}**, in both: **{found.both:,}**."
    )
    points = f"{100 * test.difference:+.1f}".replace("-", "−")
    if test.p_value is None:
        st.caption(f"Difference {points} percentage points; no test: {test.reason}.")
        return
    limits, interval = found.difference, ""
    if limits.low is not None and limits.high is not None:
        interval = " [{}, {}]".format(*(f"{100 * end:+.1f}".replace("-", "−") for end in (limits.low, limits.high)))
    chance = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    st.markdown(
        f"Wrong-reason rate of {a} less that of {b}: **{points}** percentage points{interval}, exact McNemar "
        f"test {chance}."
    )
    told = f"Interval: {limits.interval}" if interval else f"No interval: {limits.reason}"
    st.caption(f"{told}. The test counts cases as independent; several of one patient make it too sure.")


# ---------------------------------------------------------------------------------------------------------- offenders


def offenders(audit: StoredAudit) -> pd.DataFrame:
    """The worst first: right answers for a wrong reason by their strongest evidence, or in a fast audit by z.

    Without true classes all answers count.
    """
    rows = audit.audited
    rows = wrong_reasons.right_answers(rows) if rows["true"].notna().any() else rows
    if "verdict" not in rows.columns:
        return rows[rows["z"].notna()].sort_values("z", kind="stable")
    rows = rows[rows["verdict"] == WRONG]
    return rows.sort_values("strength", ascending=False, kind="stable")


def _said(facts: object) -> str:
    try:
        told = json.loads(str(facts))
    except ValueError:
        return ""
    return "; ".join(map(str, told)) if isinstance(told, list) else ""


def offender_table(run: Run, rows: pd.DataFrame) -> None:
    """The first of the offenders as links, with the verdict's facts."""
    top = rows.head(MOST_OFFENDERS)
    frame = pd.DataFrame(
        {
            "Case": ["./?" + urlencode({"run": run.name, "case": case}) for case in top["case"]],
            "Class": top["predicted"].tolist(),
            "Source": top["source"].fillna("").tolist(),
            "z": top["z"].tolist(),
            "Lift": top["lift"].tolist(),
        }
    )
    if "verdict" in top.columns:
        frame.insert(2, "Background alone", top["background_probability"].tolist())
        frame["Why"] = [_said(facts) for facts in top["facts"]]
    number = st.column_config.NumberColumn(format="%.2f")
    st.dataframe(
        frame, hide_index=True, width="stretch", key="audit-offenders",
        column_config={
            "Case": st.column_config.LinkColumn(display_text=r"case=([0-9A-Za-z._-]{1,10})", help="Opens it in Analyse"),
            "Background alone": number, "z": number, "Lift": number, "Why": st.column_config.TextColumn(width="large"),
        },
    )  # fmt: skip


def merged(run: Run, audit: StoredAudit, only: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows of the run with what the audit found, for the gallery; in the order of `only`, or of the run."""
    names = [name for name in ("verdict", "background_probability") if name in audit.table.columns]
    keys = ["case", "fold"]
    chosen = (audit.audited if only is None else only)[[*keys, *names]]
    table = run.table.drop(columns=[name for name in names if name in run.table.columns])
    if only is None:
        return table.merge(chosen, on=keys, how="inner", sort=False)
    return chosen.merge(table, on=keys, how="inner", sort=False)


def command(folder: Path, *tiers: str) -> str:
    """What to type for audits of a run, a line each; from the product's folder a run of its own needs no long path."""
    home = runs.FOLDER.resolve().parent
    place = folder.resolve()
    told = shlex.quote(str(place.relative_to(home) if place.is_relative_to(home) else place))
    return "\n".join(f"python -m cxnet audit {told} --tier {tier} --images DIR --out {told}" for tier in tiers)


def can_be_audited(run: Run) -> bool:
    """Whether it stores which network gave its answers; an imported one does not."""
    return bool(run.info.get("architecture") or run.info.get("weights"))
