"""Panels on what maps are worth: do they find what experts drew, do they depend on what the network learned."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cxnet.audit import lesion_summary, read_lesions
from cxnet.audit.lesions import MOVED, NULLS, REGIONS, UNIFORM, in_words
from cxnet.errors import CxnetError
from cxnet.explain import METHODS
from cxnet.runs import find_run
from cxnet.weights import FOLDER
from pages import _panels

FILE = FOLDER / "lesions.csv"
#: What the experts' own drawing scores on the map's grid; the best that a coarse map can do.
DRAWING = "expert drawing"
ANSWERS = ("all", "right answers only")
FIGURES = {"energy": "Share of the map", "pointing": "Hottest point"}


@st.cache_data(max_entries=16, show_spinner="Resampling patients …")
def _summary(path: str, changed_ns: int, region: str, figure: str, right_only: bool) -> pd.DataFrame:
    rows = read_lesions(Path(path))
    rows = rows[(rows["region"] == region) & (rows["figure"] == figure)]
    return lesion_summary(rows[rows["true"] == rows["predicted"]] if right_only else rows)


def _title(network: str) -> str:
    try:
        return str(find_run(network).info.get("title", network))
    except CxnetError:
        return network


def lesions() -> None:
    """Whether each network's maps find opacities and devices, with intervals and nulls: a chart and a table."""
    st.markdown(
        "Experts drew opacities, and lines and tubes, on radiographs. Each network is shown only those that it **was not "
        "trained on**; maps are for the true class. Opacities lie in the lungs, so a map that is merely in the lungs "
        "scores too: compare it with **the same map moved** to where it has as much in the lungs. The **expert drawing** "
        "itself, on the map's coarse grid, is the best that a map can do."
    )
    try:
        at = FILE.stat().st_mtime_ns if FILE.is_file() else 0
        with st.container(horizontal=True):
            region = st.segmented_control("Drawn", list(REGIONS), default="opacity", required=True, key="lesion-region")
            figure = st.segmented_control(
                "Figure", list(FIGURES), format_func=FIGURES.get, default="energy", required=True, key="lesion-figure"
            )
            answers = st.segmented_control("Answers", ANSWERS, default="all", required=True, key="lesion-answers")
        summary = _summary(str(FILE), at, region, figure, answers != "all")
    except CxnetError as error:
        st.info(str(error), icon=":material/info:")
        return
    for network, part in summary.groupby("network", sort=False):
        maps = part[part["method"] != DRAWING]
        with st.container(border=True):
            first = maps.iloc[0]
            st.markdown(
                f"**{_title(str(network))}**: {first['cases']} radiographs with {region} drawn, "
                f"{first['patients']} patients"
            )
            if maps["value"].isna().all():
                st.markdown(f"No figures: {first['reason']}.")
                continue
            if figure == "energy":
                st.markdown("\n".join(f"- {METHODS[row['method']]}: {in_words(row)}" for _, row in maps.iterrows()))
            _chart(part, f"lesions-{network}", figure)
    with st.expander("All figures as a table"):
        st.dataframe(_table(summary), hide_index=True, width="stretch")
        st.markdown("\n".join(f"- **{name}**: {what}" for name, what in NULLS.items()))
        st.caption(
            "Intervals: 95 %, whole patients resampled; with fewer than about 20 patients they are too narrow. The "
            "hottest point may miss by half a cell of the map's grid."
        )


def _chart(part: pd.DataFrame, key: str, figure: str) -> None:
    accent, _, _, ink = _panels.palette()
    rows = part[part["value"].notna()]
    names = [METHODS.get(method, method) for method in rows["method"]]
    below, above = rows["value"] - rows["low"], rows["high"] - rows["value"]
    chart = go.Figure()
    for null, symbol, size in ((UNIFORM, "line-ns", 14), (MOVED, "diamond-open", 10)):
        chart.add_scatter(
            x=rows[null], y=names, mode="markers", name=null, hovertemplate=f"{null}: %{{x:.1%}}<extra></extra>",
            marker={"symbol": symbol, "size": size, "color": ink, "line": {"width": 2, "color": ink}},
        )  # fmt: skip
    chart.add_scatter(
        x=rows["value"], y=names, mode="markers", name="the map", marker={"size": 11, "color": accent},
        error_x={"array": above, "arrayminus": below, "color": accent, "thickness": 2},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )  # fmt: skip
    _panels.draw_chart(
        chart,
        f"{key}-{figure}",
        "Share of each map in the drawn regions beside its nulls; the table has the numbers.",
        height=110 + 34 * len(rows),
        margin={"l": 0, "r": 10, "t": 6, "b": 0},
        xaxis={"range": [0, 1.02], "tickformat": ".0%"},
        yaxis={"autorange": "reversed", "showgrid": False},
        legend={"orientation": "h", "y": -0.35, "x": 0},
    )


def _table(summary: pd.DataFrame) -> pd.DataFrame:
    def percent(value: float) -> str:
        return "—" if pd.isna(value) else f"{100 * value:.1f} %"

    def limits(low: float, high: float) -> str:
        return "—" if pd.isna(low) else f"{100 * low:.1f} to {100 * high:.1f} %"

    rows = []
    for _, row in summary.iterrows():
        told = {"Network": row["network"], "Map": METHODS.get(row["method"], row["method"])}
        told |= {"Radiographs": row["cases"], "Patients": row["patients"]}
        told |= {"Inside": percent(row["value"]), "95 % interval": limits(row["low"], row["high"])}
        told |= {name: percent(row[name]) for name in NULLS}
        told |= {"Above the same map moved": percent(row["above"]), "its interval": limits(row["above low"], row["above high"])}  # fmt: skip
        rows.append(told | ({"Undefined because": row["reason"] or ""} if summary["reason"].notna().any() else {}))
    return pd.DataFrame(rows)
