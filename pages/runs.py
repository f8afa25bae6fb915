"""Stored fold runs: a confusion matrix to click into, its figures with intervals, curves, parts, comparison, exports.

The URL says what is shown; widgets only follow it. So a link, Back and Forward show the same, and whatever the URL has
that does not exist is ignored.
"""

import math
from dataclasses import dataclass
from urllib.parse import urlencode

import streamlit as st

from pages import _navigation

_navigation.require_entry()

from cxnet.errors import CxnetError  # noqa: E402
from cxnet.runs import Run  # noqa: E402
from cxnet.wrong_reasons import audits_of  # noqa: E402
from pages import _audit_panels, _gallery, _panels, _store  # noqa: E402
from pages import _run_data as data  # noqa: E402
from pages import _run_panels as panels  # noqa: E402
from pages._matrix import Cell, matrix_picker  # noqa: E402

ALL = "all"
NONE = "none"
BESIDE_TABLE_CLASSES = 7
PANELS = (
    "ROC",
    "Precision–recall",
    "Calibration",
    "Training",
    "Sources and views",
    "Wrong reasons",
    "Compare",
    "Export",
)


@dataclass(frozen=True)
class View:
    """What the URL asks for, as far as it exists. `threshold` is the moved operating point; `cls` has the curves."""

    run: str
    fold: int | None
    cell: Cell | None
    compare: str | None
    cls: str
    threshold: tuple[str, float] | None
    panel: str


def view_of_url(found: dict[str, Run]) -> View:
    """Read the URL; anything in it that does not exist counts as not said."""
    asked = st.query_params
    name = asked.get("run")
    name = name if name in found else next(iter(found))
    run = found[name]
    classes = run.classes
    fold = {str(number): number for number in run.folds}.get(asked.get("fold", ""))
    true, predicted = asked.get("true"), asked.get("predicted")
    cell = (true, predicted) if true in classes and predicted in classes else None
    compare = asked.get("compare")
    cls, at, panel = asked.get("class"), asked.get("at"), asked.get("panel")
    try:
        value = float(asked.get("threshold", ""))
    except ValueError:
        value = math.nan
    return View(
        name,
        fold,
        cell,
        compare if compare in found and compare != name else None,
        cls if cls in classes else classes[0],
        (at, value) if at in classes and 0 <= value <= 1 else None,
        panel if panel in PANELS else PANELS[0],
    )


def go(**changes: str | None) -> None:
    """Change the URL in one step, so that Back undoes one choice; None takes a key out."""
    now = {key: st.query_params.get_all(key) for key in st.query_params}
    new = {**now, **{key: [value] for key, value in changes.items() if value is not None}}
    new = {key: value for key, value in new.items() if key not in changes or changes[key] is not None}
    if new != now:
        st.query_params.from_dict(new)


def chosen(key: str) -> str:
    return str(st.session_state[key])


def link_to(view: View) -> str:
    """The address that reopens this view."""
    values = {"run": view.run, "fold": view.fold, "compare": view.compare, "class": view.cls, "panel": view.panel}
    if view.cell:
        values |= {"true": view.cell[0], "predicted": view.cell[1]}
    if view.threshold:
        values |= {"at": view.threshold[0], "threshold": f"{view.threshold[1]:.2f}"}
    values |= {key: st.query_params.get(key) for key in _gallery.URL_KEYS if view.cell}
    return f"{st.context.url or ''}?{urlencode({key: v for key, v in values.items() if v is not None})}"


def empty_state() -> None:
    """How to get a first run."""
    st.info(
        "There is no stored run yet. A run holds every out-of-fold prediction of a k-fold training.",
        icon=":material/arrow_upward:",
    )
    st.markdown(
        "Train one, or bring predictions that you have as a CSV (case, true, probability_… or predicted, fold):"
    )
    st.code(
        "python -m cxnet train --dataset manifest.csv --architecture densenet121 --recipe strong --out runs/first\n"
        "python -m cxnet runs import predictions.csv --out runs/mine",
        language=None,
        wrap_lines=True,
    )
    st.markdown("Runs of other folders are listed when the environment variable `CXNET_RUNS` names these folders.")


def choose(found: dict[str, Run], view: View) -> None:
    """Run, fold and second run."""
    st.session_state["runs-run"] = view.run
    st.session_state["runs-fold"] = ALL if view.fold is None else str(view.fold)
    st.session_state["runs-compare"] = view.compare or NONE
    run = found[view.run]
    sizes = {str(fold["number"]): fold.get("cases") for fold in run.info["folds"]}

    def fold_title(name: str) -> str:
        if name == ALL:
            return "All folds, out of fold"
        return f"Fold {name}" + (f" ({sizes[name]:,} cases)" if isinstance(sizes.get(name), int) else "")

    def run_title(name: str) -> str:
        title = found[name].info.get("title", name) if name in found else "no other run"
        return name if title == name or name not in found else f"{name}: {title}"

    first, second, third = st.columns([3, 2, 3])
    first.selectbox(
        "Run", list(found), key="runs-run", format_func=run_title,
        on_change=lambda: go(
            run=chosen("runs-run"), fold=None, threshold=None, at=None, page=None, **{"class": None}
        ),
    )  # fmt: skip
    second.selectbox(
        "Fold", [ALL, *map(str, run.folds)], key="runs-fold", format_func=fold_title,
        on_change=lambda: go(fold=None if chosen("runs-fold") == ALL else chosen("runs-fold"), page=None),
    )  # fmt: skip
    third.selectbox(
        "Compare with", [NONE, *(name for name in found if name != view.run)], key="runs-compare",
        format_func=lambda name: "–" if name == NONE else run_title(name),
        on_change=lambda: go(
            compare=None if chosen("runs-compare") == NONE else chosen("runs-compare"),
            panel=None if chosen("runs-compare") == NONE else "Compare",
        ),
    )  # fmt: skip


def describe(run: Run) -> None:
    """What was trained on what."""
    info = run.info
    dataset = info.get("dataset") if isinstance(info.get("dataset"), dict) else {}
    told = [
        str(info.get("title", run.name)),
        f"{len(run.folds)} fold(s) of {', '.join(run.classes)}",
        f"{dataset['groups']:,} patients or groups" if isinstance(dataset.get("groups"), int) else "",
        f"imported from {info['imported_from']}" if info.get("imported_from") else "",
        f"written {str(info['created'])[:10]}" if info.get("created") else "",
        str(info.get("note") or ""),
    ]
    st.caption(" · ".join(part.replace("[", "\\[").replace("*", "\\*") for part in told if part))


def banners(run: Run, matrix: panels.Matrix) -> None:
    """Everything that speaks against the figures below, in one box each for the run and the operating point."""
    whole = data.folds_check(data.select(run, None))
    problems = [*data.file_problems(run), *whole.problems]
    if run.info.get("stopped"):
        problems.insert(0, "This training was stopped early, so folds or epochs are missing.")
    if problems:
        reason = matrix.check.intervals_reason
        told = f"\n\n**Intervals are withheld: {reason}.**" if reason else ""
        st.warning("\n".join(f"- {sentence}" for sentence in problems) + told, icon=":material/warning:")
    if matrix.threshold is not None:
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.info(
            f"Operating point moved: **{matrix.decisions}**, else the most probable other class. Matrix, figures and "
            "cells follow; maps still explain the stored decision.",
            icon=":material/tune:",
        )
        right.button(
            "Back to stored decisions", on_click=lambda: go(threshold=None, at=None), width="stretch",
            key="runs-reset",
        )  # fmt: skip


def operating_point(view: View, classes: tuple[str, ...]) -> None:
    """Class of the curves, and the slider of its threshold."""
    st.session_state["runs-class"] = view.cls
    moved = view.threshold is not None and view.threshold[0] == view.cls
    st.session_state["runs-threshold"] = view.threshold[1] if moved and view.threshold else 0.5
    st.selectbox("Class", classes, key="runs-class", on_change=lambda: go(**{"class": chosen("runs-class")}))
    st.slider(
        f"Call {view.cls} from this probability", 0.0, 1.0, step=0.01, key="runs-threshold",
        help="This class where its probability is at least so much, elsewhere the most probable other class.",
        on_change=lambda: go(
            at=view.cls, threshold=f"{st.session_state['runs-threshold']:.2f}", page=None, **{"class": view.cls}
        ),
    )  # fmt: skip
    if view.threshold is None:
        st.caption("Not moved: the matrix shows the stored decisions. Moving the slider changes the matrix above.")
        return
    cls, lowest = view.threshold
    st.caption(
        f"Moved: the matrix calls {cls} from {lowest:.2f} up, else the most probable other class."
        + ("" if moved else f" Moving this slider moves {view.cls} instead.")
    )


def work(found: dict[str, Run], view: View) -> None:
    """Everything about the chosen run and fold."""
    run = found[view.run]
    selection = data.select(run, view.fold)
    threshold = view.threshold if selection.probabilities is not None else None
    matrix = panels.Matrix(selection, data.decide(selection, threshold), threshold, data.folds_check(selection))
    banners(run, matrix)
    # many classes need the whole width
    left, right = st.columns([3, 2]) if len(run.classes) <= BESIDE_TABLE_CLASSES else (st.container(), st.container())
    with left:
        st.markdown(f"**Confusion matrix: {matrix.title}** · {len(selection.table):,} cases, {matrix.decisions}")
        cell = matrix_picker(matrix.counts, run.classes, "runs-matrix", view.cell, shares=matrix.shares)
        if cell != view.cell:
            go(true=cell and cell[0], predicted=cell and cell[1], page=None)
            view = view_of_url(found)
    with right:
        panels.metric_table(matrix)
    if view.cell is not None:
        rows = matrix.rows(view.cell)
        st.subheader(f"True {view.cell[0]}, predicted {view.cell[1]}: {len(rows):,} cases", anchor=False)
        if len(rows):
            _gallery.gallery(run, data.with_verdicts(run, rows))
        else:
            st.info("No case is in this cell.", icon=":material/info:")
    st.divider()
    st.session_state["runs-panel"] = view.panel
    st.segmented_control(
        "More about this run", PANELS, key="runs-panel", required=True, label_visibility="collapsed",
        on_change=lambda: go(panel=chosen("runs-panel")),
    )  # fmt: skip
    show_panel(found, view, matrix, threshold)


def wrong_reasons(run: Run, fold: int | None) -> None:
    """How many right answers the stored audit accuses, and where to read more."""
    if "full" not in audits_of(run.folder):
        unknown = "so it is not known how often it is right for a wrong reason."
        if not _audit_panels.can_be_audited(run):
            st.info(f"This run holds answers and no network that could be audited, {unknown}", icon=":material/info:")
            return
        st.info(f"This run has no full audit yet, {unknown}", icon=":material/info:")
        st.code(_audit_panels.command(run.folder, "full"), language=None, wrap_lines=True)
        return
    audit = _audit_panels.opened(run, "full")
    _audit_panels.headline(audit)
    if fold is not None:
        st.caption("Of all folds; the table below has each.")
    st.session_state.setdefault("runs-wrong-by", "cell")
    parts = _audit_panels.PARTS
    by = st.segmented_control("By", list(parts), key="runs-wrong-by", format_func=parts.get, required=True)
    _audit_panels.rate_table(audit, str(by))
    st.page_link("pages/audit.py", label="Maps, zones, worst offenders: Audit", query_params={"run": run.name})


def show_panel(found: dict[str, Run], view: View, matrix: panels.Matrix, threshold: tuple[str, float] | None) -> None:
    """The chosen one only, so that a click does not pay for the others."""
    run, selection = found[view.run], matrix.selection
    if view.panel in PANELS[:3] and selection.probabilities is None:
        st.info("This run stores decisions only, so there are no curves.", icon=":material/info:")
    elif view.panel in PANELS[:2]:
        left, right = st.columns([2, 3])
        with left:
            operating_point(view, run.classes)
        with right:
            panels.curves(matrix, "ROC" if view.panel == "ROC" else "PR", view.cls)
    elif view.panel == "Calibration":
        options = [panels.CONFIDENCE, *run.classes]
        left, right = st.columns([2, 3])
        about = left.selectbox("Probability of", options, key="runs-calibrated")
        with right:
            panels.reliability(matrix, None if about == panels.CONFIDENCE else about)
    elif view.panel == "Training":
        panels.training(run, view.fold)
    elif view.panel == "Sources and views":
        panels.parts(matrix)
    elif view.panel == "Wrong reasons":
        wrong_reasons(run, view.fold)
    elif view.panel == "Compare" and view.compare is None:
        st.info("Choose a second run under “Compare with”.", icon=":material/arrow_upward:")
    elif view.panel == "Compare":
        other = data.select(found[str(view.compare)], None)
        if threshold is not None:
            st.caption("The moved operating point does not count here.")
        reason = matrix.check.intervals_reason or data.folds_check(other).intervals_reason
        panels.comparison(selection, other, reason)
    else:
        panels.downloads(matrix, view.cell, link_to(view))


_panels.notice()
st.title("Runs")
found, problems = _store.listing()
for sentence in problems:
    st.error(sentence, icon=":material/error:")
if not found:
    empty_state()
    st.stop()
_store.say_unknown_run(found, "is not here")
view = view_of_url(found)
choose(found, view)
describe(found[view.run])
try:
    work(found, view)
except CxnetError as error:
    st.error(str(error), icon=":material/error:")
