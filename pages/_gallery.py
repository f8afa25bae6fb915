"""Gallery of stored cases: sorted by how suspicious their maps are, filtered, paged; a click opens a case.

Every choice stands in the URL under :data:`URL_KEYS`, so a link, or Back from a case, shows the same cards again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from cxnet.runs import Run
from pages import _audit_panels, _gallery_cards, _session, _store

URL_KEYS = ("sort", "source", "view", "verdict", "cards", "page")
FILTERS = {"source": "Source", "view": "View", "verdict": "Verdict"}
PAGE_SIZES = ("12", "24", "48", "96")
USUAL_SIZE = "24"
STORED = "stored"
#: Sort order in the URL: column, whether ascending, what the page calls it. The first that a table has is the default.
SORTS = {
    "z-up": ("z", True, "Lowest z first (most suspicious)"),
    "z-down": ("z", False, "Highest z first"),
    "lift-up": ("lift", True, "Lowest lift first"),
    "lift-down": ("lift", False, "Highest lift first"),
    "confidence-down": ("confidence", False, "Most confident first"),
    "confidence-up": ("confidence", True, "Least confident first"),
    "cam-lime-up": ("cam_lime", True, "CAM-LIME disagreement first"),
    "cam-lime-down": ("cam_lime", False, "CAM-LIME agreement first"),
}
SORT_HELP = (
    "z and lift tell whether more of the map lies in the lungs than chance would put there: z against copies of "
    "the map shifted at random (0 is chance), lift against an even map (1 is chance)."
)
LIME_HELP = (
    " CAM-LIME agreement is the rank correlation of Grad-CAM and LIME over superpixels: 1 where they put them in the "
    "same order, 0 is chance. R² tells how well LIME's surrogate follows the network: where it is low, LIME says "
    "little. Cases without agreement come last."
)
#: What the gallery takes from a stored audit with LIME.
_OF_LIME = ("cam_lime", "cam_lime_reason", "lime_r2")
_ANY = ""
_SHOWN = "gallery-shown"


@st.fragment
def gallery(run: Run, rows: pd.DataFrame) -> None:
    """Show cases of a run as cards.

    Parameters
    ----------
    run : Run
    rows : DataFrame
        Some rows of ``run.results(fold)``, with any of the optional columns missing or null; besides those of
        :mod:`cxnet.runs` the columns ``verdict``, ``background_probability`` and ``cam_lime`` with
        ``cam_lime_reason`` and ``lime_r2`` (:mod:`cxnet.wrong_reasons`) are shown where they are there; the last three
        are taken from the run's stored audit when they are not.
    """
    if rows.empty:
        st.info("There is no case here.", icon=":material/inbox:")
        return
    rows = with_agreement(run, rows)
    chosen: dict[str, str | None] = {}
    orders = orders_of(rows)
    explained = SORT_HELP + (LIME_HELP if "cam-lime-up" in orders else "")
    filters = filters_of(rows)
    sizes = PAGE_SIZES if len(rows) > int(PAGE_SIZES[0]) else ()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        order = _choice("Sort", "sort", orders, orders[0], chosen, 270, explained)
        size = _choice("Cards", "cards", sizes, USUAL_SIZE, chosen, 90) if sizes else USUAL_SIZE
        kept = np.ones(len(rows), np.bool_)
        for name, values in filters.items():
            wanted = _choice(FILTERS[name], name, [_ANY, *values], _ANY, chosen, 184)
            if wanted != _ANY:
                kept &= (_words(rows, name) == wanted).to_numpy()
    ordered = in_order(rows[kept], order)
    pages = max(1, -(-len(ordered) // int(size)))
    page = _page(run, rows, pages)
    first = (page - 1) * int(size)
    part = ordered.iloc[first : first + int(size)]
    _say_how_many(len(rows), len(ordered), first, len(part))
    _cards(run, part, page)
    if pages > 1:
        _pagination(page, pages)
    st.session_state["gallery-page-url"] = chosen["page"] = str(page) if page > 1 else None
    _session.write_url(**{key: chosen.get(key) for key in URL_KEYS})


# --------------------------------------------------------------------------------------------------- order, filters


def with_agreement(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the agreement of Grad-CAM and LIME from the run's stored audit, the full one first, where one has it.

    A damaged audit is left to the page of audits: the cases can be seen without it.
    """
    if "cam_lime" in rows.columns:
        return rows
    audit = _audit_panels.lime_audit(run)
    keys = ["case", "fold"]
    if audit is None or not set(keys) <= set(audit.table.columns):
        return rows
    names = [name for name in _OF_LIME if name in audit.table.columns]
    found = audit.table[[*keys, *names]].drop_duplicates(keys)
    return rows.drop(columns=names, errors="ignore").merge(found, on=keys, how="left", sort=False)


def confidence(rows: pd.DataFrame) -> pd.Series:
    """Probability of the predicted class, NaN where it is not stored."""
    found = pd.Series(np.nan, rows.index, dtype=np.float64)
    for name in rows["predicted"].unique():
        if f"probability {name}" in rows.columns:
            of_class = rows["predicted"] == name
            found[of_class] = _numbers(rows.loc[of_class, f"probability {name}"])
    return found


def _numbers(values: pd.Series) -> pd.Series:
    """Finite numbers, NaN for all else."""
    return pd.to_numeric(values, errors="coerce").astype(np.float64).replace([np.inf, -np.inf], np.nan)


def _figure(rows: pd.DataFrame, column: str) -> pd.Series:
    if column == "confidence":
        return confidence(rows)
    return _numbers(rows[column]) if column in rows.columns else pd.Series(np.nan, rows.index, dtype=np.float64)


def orders_of(rows: pd.DataFrame) -> list[str]:
    """Keys of :data:`SORTS` for which these rows have figures, then :data:`STORED`."""
    there = {column: bool(_figure(rows, column).notna().any()) for column, _, _ in SORTS.values()}
    return [*(key for key, (column, _, _) in SORTS.items() if there[column]), STORED]


def in_order(rows: pd.DataFrame, order: str) -> pd.DataFrame:
    """The rows sorted; undefined figures come last either way, equal ones stay as stored."""
    if order == STORED:
        return rows
    column, ascending, _ = SORTS[order]
    figures = _figure(rows, column).to_numpy()
    return rows.iloc[np.argsort(figures if ascending else -figures, kind="stable")]


def _words(rows: pd.DataFrame, column: str) -> pd.Series:
    found = rows[column].astype(object)
    return found.where(found.notna(), "").astype(str).replace("", "not stated")


def filters_of(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Values to choose from, a column, where there are at least two."""
    values = {name: sorted(_words(rows, name).unique()) for name in FILTERS if name in rows.columns}
    return {name: found for name, found in values.items() if len(found) > 1}


# ------------------------------------------------------------------------------------------------------ URL, state


def _choice(
    label: str,
    key: str,
    allowed: Sequence[str],
    usual: str,
    chosen: dict[str, str | None],
    width_px: int,
    explained: str | None = None,
) -> str:
    """A select box that follows the URL when that was changed by Back or a link; its value goes into `chosen`."""
    widget, last = f"gallery-{key}", f"gallery-{key}-url"
    wanted = _session.choice_from_url(key, list(allowed)) or usual
    if st.session_state.get(last) != wanted or st.session_state.get(widget) not in allowed:
        st.session_state[widget] = wanted
    value: str = st.selectbox(
        label, allowed, key=widget, format_func=_title, on_change=_first_page, width=width_px, help=explained
    )
    st.session_state[last] = value
    chosen[key] = value if value != usual else None
    return value


def _title(choice: str) -> str:
    return {_ANY: "all", STORED: "As stored"}.get(choice) or (SORTS[choice][2] if choice in SORTS else choice)


def _first_page() -> None:
    st.session_state["gallery-page"] = 1


def _page(run: Run, rows: pd.DataFrame, pages: int) -> int:
    """The page to show: what was clicked, or the URL's if that was changed; other cases start on their first page."""
    wanted = _session.choice_from_url("page", [str(n) for n in range(1, pages + 1)])
    shown = (run.name, len(rows), *rows[["fold", "row"]].iloc[[0, -1]].to_numpy().ravel().tolist())
    if st.session_state.get("gallery-page-url") != wanted:
        st.session_state["gallery-page"] = int(wanted or 1)
    elif st.session_state.get(_SHOWN, shown) != shown:
        st.session_state["gallery-page"] = 1
    st.session_state[_SHOWN] = shown
    page = min(pages, int(st.session_state.get("gallery-page") or wanted or 1))
    st.session_state["gallery-page"] = page
    return page


def _pagination(page: int, pages: int) -> None:
    """Buttons of the pages. They take no value from outside once drawn, so another page needs another widget."""
    if st.session_state.get(_page_widget(pages), page) != page:
        st.session_state["gallery-forced"] = st.session_state.get("gallery-forced", 0) + 1
    key = _page_widget(pages)

    def turn() -> None:
        st.session_state["gallery-page"] = st.session_state[key]

    st.pagination(pages, default=page, key=key, width="stretch", on_change=turn)


def _page_widget(pages: int) -> str:
    return f"gallery-pages-{pages}-{st.session_state.get('gallery-forced', 0)}"


# ------------------------------------------------------------------------------------------------------------ cards


def _say_how_many(there: int, matching: int, first: int, shown: int) -> None:
    if not matching:
        st.info("No case matches; choose “all” in a filter.", icon=":material/search_off:")
        return
    of = f"{matching:,}" if matching == there else f"{matching:,} that match, out of {there:,}"
    st.markdown(f"**{first + 1:,}–{first + shown:,}** of {of} case{'' if there == 1 else 's'}")


def _cards(run: Run, part: pd.DataFrame, page: int) -> None:
    if part.empty:
        return
    rows: list[Any] = part.to_dict("records")
    pictures, problem = _gallery_cards.painted(run, rows)
    if problem:
        st.error(problem, icon=":material/error:")
    hint = _images_hint(part, [picture.radiograph for picture in pictures])
    if hint:
        st.info(hint, icon=":material/image:")
    cards = [_gallery_cards.card(run, row, picture) for row, picture in zip(rows, pictures, strict=True)]
    st.caption("Each map is stretched to its own maximum: its colours say where it is hottest, not how strong it is.")
    _gallery_cards.show(cards, "gallery-grid", page)


def _images_hint(part: pd.DataFrame, shown: list[bool]) -> str | None:
    """Why radiographs are missing on this page and what to do; None if none is."""
    if not shown or all(shown):
        return None
    if "file" not in part.columns or part["file"].isna().all():
        return "This run does not say which files its radiographs are, so maps are drawn on the lung outline."
    if any(shown):
        return (
            f"{len(shown) - sum(shown)} of these {len(shown)} radiographs are not at hand, or their file has changed."
        )
    how = "start the server with `CXNET_IMAGES=/path/to/the/folder` (of the data set's manifest)"
    if not _store.image_folders():
        return f"The radiographs are not at hand, so maps are drawn on the lung outline. To see them, {how}."
    return (
        "None of these radiographs lies, unchanged, below the folders that CXNET_IMAGES names, so maps are drawn on the "
        f"lung outline. To see them, {how}."
    )
