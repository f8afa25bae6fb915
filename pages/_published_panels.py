"""Panels of the page of published runs: the chosen run, the check of every claim, precision by prevalence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cxnet.published import (
    MEAN,
    STUDIES,
    Claim,
    Finding,
    PublishedRun,
    Verdict,
    check_claims,
    published_runs,
    teaching_note,
)
from cxnet.statistics import ConfusionMatrix, Metric, metrics, precision_at_prevalence
from pages import _panels
from pages._matrix import matrix_picker

#: Icon and colour of every verdict, worst first; a verdict is always shown with its word too.
VERDICTS: Mapping[Verdict, tuple[str, str]] = {
    "does not follow": ("✗", "red"),
    "cannot be checked": ("?", "gray"),
    "within rounding": ("≈", "blue"),
    "agrees": ("✓", "green"),
}
URL_KEYS = ("study", "model", "fold")
TABS = ("One run", "All claims", "Teaching note")
TAB_KEY = "published-tab"
PEOPLE = 100_000
FLAGGED = 1_000
TABLE_PREVALENCES = (1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2, 0.5)


class Choice(NamedTuple):
    """What is shown: a fold of a model of a study, with or without a matrix."""

    study: str
    model: str
    fold: str | None


def _choices() -> dict[str, dict[str, list[str | None]]]:
    """Folds by study and model, of matrices first and then of claims that have none."""
    found: dict[str, dict[str, list[str | None]]] = {}
    claims = (finding.claim for finding in check_claims())
    for item in (*published_runs(), *claims):
        folds = found.setdefault(item.study, {}).setdefault(item.model, [])
        if item.fold not in folds:
            folds.append(item.fold)
    return found


CHOICES = _choices()


def short(study: str) -> str:
    """Authors and year: what a study is called in tables and lists."""
    return {
        "rahimzadeh-attar-2020": "Rahimzadeh & Attar 2020",
        "haghanifar-2022": "Haghanifar et al. 2022 (COVID-CXNet)",
        "dialameh-2020": "Dialameh et al. 2020",
        "kurz-2020": "Kurz et al. 2020",
    }[study]


def _default_model(study: str) -> str:
    """The model of a study with most claims that a matrix could settle."""
    checked = Counter(
        f.claim.model for f in check_claims() if f.claim.study == study and f.verdict != "cannot be checked"
    )
    return max(CHOICES[study], key=lambda model: checked[model])


def read_choice(wanted: Mapping[str, str | None]) -> Choice:
    """The choice that a URL names; what it names wrongly, or not at all, is replaced by a default."""
    study = wanted.get("study")
    if study not in CHOICES:
        return DEFAULT
    model = wanted.get("model")
    if model not in CHOICES[study]:
        model = _default_model(study)
    folds = CHOICES[study][model]
    fold = wanted.get("fold")
    return Choice(study, model, fold if fold in folds else folds[0])


_STUDY = next(iter(CHOICES))
DEFAULT = Choice(_STUDY, _default_model(_STUDY), CHOICES[_STUDY][_default_model(_STUDY)][0])


def query(choice: Choice) -> dict[str, str]:
    """The URL's parameters for a choice."""
    return {key: value for key, value in zip(URL_KEYS, choice, strict=True) if value is not None}


def choose(choice: Choice) -> None:
    """Three pickers that show the URL's choice and write a new one to it."""
    # The URL decides, so that links, Back and Forward show what they name; the pickers only write to it.
    # A picker shows None as nothing chosen, so a single split is "" there.
    st.session_state.update({f"published-{key}": value or "" for key, value in zip(URL_KEYS, choice, strict=True)})

    def follow() -> None:
        wanted = read_choice({key: st.session_state[f"published-{key}"] for key in URL_KEYS})
        st.query_params.from_dict(query(wanted))

    columns = st.columns([3, 2, 1])
    columns[0].selectbox("Study", CHOICES, format_func=short, key="published-study", on_change=follow)
    columns[1].selectbox("Network", CHOICES[choice.study], key="published-model", on_change=follow)
    columns[2].selectbox(
        "Fold",
        [fold or "" for fold in CHOICES[choice.study][choice.model]],
        format_func=lambda fold: {"": "single split", MEAN: "mean of all"}.get(fold, fold),
        key="published-fold",
        on_change=follow,
        disabled=len(CHOICES[choice.study][choice.model]) == 1,
    )


def show(choice: Choice) -> None:
    """Open a run: for buttons, as a link to the page that is open does not change the URL."""
    st.query_params.from_dict(query(choice))
    st.session_state[TAB_KEY] = TABS[0]


def run_of(choice: Choice) -> PublishedRun | None:
    """The printed matrix of a choice, if there is one."""
    return next((run for run in published_runs() if (run.study, run.model, run.fold) == choice), None)


def _doi(doi: str) -> str:
    return f"[doi:{doi}](https://doi.org/{doi})"


def source(choice: Choice, run: PublishedRun | None) -> None:
    """Who printed it, and the matrix or why there is none."""
    study = STUDIES[choice.study]
    left, right = (st, st) if run is None else st.columns([3, 2], gap="medium")
    right.markdown(f"*{study.title}.* {study.citation}. {_doi(study.doi)}")
    if run is not None:
        with left:
            key = "-".join(("published-matrix", *query(choice).values()))
            matrix_picker(run.counts, run.classes, key=key, clickable=False)
        right.markdown(f"**{int(run.counts.sum()):,} radiographs.** Counts: {run.source}.")
        right.caption(
            "Each cell: count, share of its row and, where there is room, Wilson's 95 % interval of that share. A paper prints counts only, so "
            "there are no cases behind these cells to open. The intervals take every radiograph as independent; "
            "several of one patient would make them wider."
        )
    elif choice.fold == MEAN:
        st.info(
            "The mean of the folds has no matrix of its own, and the counts of the folds are not added up here: their "
            "test sets share radiographs. Choose one fold to see its matrix.",
            icon=":material/info:",
        )
    else:
        st.info(f"No matrix of counts is at hand for {choice.model}: {study.matrices}.", icon=":material/info:")


def verdict_word(verdict: Verdict) -> str:
    """Icon and word."""
    return f"{VERDICTS[verdict][0]} {verdict}"


def badge(verdict: Verdict) -> str:
    """Icon and word on a colour, as Markdown."""
    return f":{VERDICTS[verdict][1]}-badge[{verdict_word(verdict)}]"


def _number(value: float | None, unit: str, decimals: int) -> str:
    if value is None:
        return ""
    return f"{value:.{decimals}f} %" if unit == "percent" else f"{value:.{decimals}f}"


def printed(claim: Claim) -> str:
    """A claim as the paper prints it."""
    return f"{claim.printed} %" if claim.unit == "percent" else claim.printed


def recomputed(finding: Finding) -> str:
    """The recomputed figure with at least two digits more than a percent sign needs."""
    return _number(finding.recomputed, finding.claim.unit, max(finding.claim.decimals, 2) + 1)


def title(name: str, cls: str | None) -> str:
    """A figure and its class."""
    name = "F1" if name == "f1" else "ROC AUC" if name == "roc auc" else name
    return f"{name}, {cls}" if cls else name


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: list(VERDICTS).index(finding.verdict))


def contradictions() -> None:
    """The figures that do not follow from their own matrix, before anything else."""
    found = [finding for finding in check_claims() if finding.verdict == "does not follow"]
    st.subheader(f"Printed, but does not follow: {len(found)} of {len(check_claims())}")
    for column, finding in zip(st.columns(len(found)), found, strict=True):
        claim = finding.claim
        with column.container(border=True, height="stretch"):
            st.markdown(f"{badge(finding.verdict)} **{claim.model}**, {title(claim.metric, claim.cls)}")
            with st.container(horizontal=True, gap="large"):
                st.metric("Printed", printed(claim), width="content")
                st.metric("From its matrix", recomputed(finding), width="content")
            st.markdown(f"{short(claim.study)}. {finding.explanation}")
            _show_button(finding, "card")


def _show_button(finding: Finding, place: str) -> None:
    claim = finding.claim
    st.button(
        f"Show {claim.model}",
        key=f"show-{place}-{check_claims().index(finding)}",
        on_click=show,
        args=(Choice(claim.study, claim.model, claim.fold),),
    )


def figures(choice: Choice, run: PublishedRun | None) -> None:
    """Every figure of the run with its interval, beside what the paper prints, and a sentence for each claim."""
    findings = [f for f in check_claims() if (f.claim.study, f.claim.model, f.claim.fold) == choice]
    st.subheader("Recomputed, beside what the paper prints")
    st.dataframe(_figure_rows(run, findings), hide_index=True, width="stretch", height="content")
    if run is not None:
        st.caption(
            "Balanced accuracy, F1 and MCC have no simple interval: theirs is found by drawing cases anew, which takes "
            "the cases."
        )
    if not findings:
        st.markdown("The paper prints no figure for this run beside its matrix.")
    agreeing = [finding for finding in findings if finding.verdict == "agrees"]
    for finding in _worst_first(findings):
        if finding not in agreeing:
            _sentence(finding)
    if agreeing:
        with st.expander(f"{verdict_word('agrees')}: {len(agreeing)} of {len(findings)} printed figures"):
            for finding in agreeing:
                _sentence(finding)


def _sentence(finding: Finding) -> None:
    claim = finding.claim
    st.markdown(
        f"{badge(finding.verdict)} **{title(claim.metric, claim.cls)}**: {printed(claim)}.  \n{finding.explanation}"
    )


def _figure_rows(run: PublishedRun | None, findings: list[Finding]) -> pd.DataFrame:
    """All figures that follow from the matrix, then printed ones that do not come from one."""
    rows, left = [], list(findings)
    for metric in metrics(ConfusionMatrix.from_counts(run.counts, run.classes)) if run is not None else ():
        own = [f for f in findings if (f.claim.metric, f.claim.cls) == (metric.name.lower(), metric.cls)]
        rows += [_figure_row(metric, finding) for finding in own or (None,)]
        left = [finding for finding in left if finding not in own]
    for finding in left:
        rows.append((title(finding.claim.metric, finding.claim.cls), recomputed(finding), "", "", *_claimed(finding)))
    names = ["Figure", "Recomputed", "95 % interval", "Counts", "Printed", "Verdict", "Printed in"]
    return pd.DataFrame(rows, columns=names)


def _figure_row(metric: Metric, finding: Finding | None) -> tuple[str, ...]:
    counted = metric.denominator is not None
    share = counted or metric.name == "balanced accuracy"
    unit, scale, decimals = ("percent", 100, 2) if share else ("fraction", 1, 4)
    value = f"undefined: {metric.reason}" if metric.value is None else _number(scale * metric.value, unit, decimals)
    limits = "" if metric.low is None or metric.high is None else f"{100 * metric.low:.2f} to {100 * metric.high:.2f} %"
    counts = f"{metric.numerator:,} of {metric.denominator:,}" if counted else ""
    return (title(metric.name, metric.cls), value, limits, counts, *_claimed(finding))


def _claimed(finding: Finding | None) -> tuple[str, str, str]:
    if finding is None:
        return "not printed", "", ""
    return printed(finding.claim), verdict_word(finding.verdict), finding.claim.where


def summary() -> None:
    """How many claims of each study met each verdict."""
    counted = Counter((f.claim.study, f.verdict) for f in check_claims())
    verdicts = tuple(reversed(VERDICTS))
    rows = []
    for name, studies in [*((short(study), [study]) for study in STUDIES), ("All studies", list(STUDIES))]:
        numbers = [sum(counted[study, verdict] for study in studies) for verdict in verdicts]
        rows.append((name, *map(str, (*numbers, sum(numbers)))))
    st.table(pd.DataFrame(rows, columns=["Study", *map(verdict_word, verdicts), "All"]), hide_index=True)
    st.caption(
        "**✓ agrees**: the recomputed figure rounds to the printed one. **≈ within rounding**: it differs by at most "
        "one unit of the last printed digit, as when digits were cut off. **✗ does not follow**: it differs by more. "
        "**? cannot be checked**: the sentence says why."
    )


def claim_rows(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table, one row each."""
    return pd.DataFrame(
        [
            {
                "Verdict": verdict_word(f.verdict),
                "Study": short(f.claim.study),
                "Network": f.claim.model,
                "Fold": f.claim.fold or "",
                "Figure": title(f.claim.metric, None),
                "Class": f.claim.cls or "",
                "Printed": printed(f.claim),
                "Recomputed": recomputed(f),
                "Why": f.explanation,
                "Printed in": f.claim.where,
                "DOI": STUDIES[f.claim.study].doi,
            }
            for f in findings
        ]
    )


#: Column that the claims can be filtered by → the URL's parameter.
FILTERS = {name: f"claims-{name.lower()}" for name in ("Verdict", "Study", "Figure", "Class")}


def _write_filter(name: str) -> None:
    st.query_params[FILTERS[name]] = st.session_state[f"claims-{name}"]  # nothing chosen takes the parameter away


def follow_filters() -> None:
    """Open the claims when the URL asks for others than it did: by a link, by Back or by Forward."""
    asked = {key: st.query_params.get_all(key) for key in FILTERS.values() if key in st.query_params}
    if asked and asked != st.session_state.get("claims-asked"):
        st.session_state[TAB_KEY] = TABS[1]
    st.session_state["claims-asked"] = asked


def claims_table() -> None:
    """All claims with filters, which stand in the URL, the sentence of a chosen one, and a download."""
    findings = _worst_first(check_claims())
    whole = claim_rows(findings)
    shown, filters = pd.Series(True, index=whole.index), []
    for column, name in zip(st.columns(4), FILTERS, strict=True):
        options = [option for option in dict.fromkeys(whole[name]) if option]
        # the URL decides, as for the pickers of a run
        asked = [option for option in st.query_params.get_all(FILTERS[name]) if option in options]
        st.session_state[f"claims-{name}"] = asked
        wanted = column.multiselect(
            name, options, key=f"claims-{name}", placeholder="all", on_change=_write_filter, args=(name,)
        )
        shown &= whole[name].isin(wanted) if wanted else True
        filters.append(",".join(wanted))
    table = whole[shown]
    if table.empty:
        st.info("No claim fits all these filters; remove one.", icon=":material/info:")
        return
    st.markdown(f"{len(table)} of {len(whole)} claims. Choose a row to read its sentence.")
    event = st.dataframe(
        table,
        hide_index=True,
        width="stretch",
        height=380,
        key=f"claims-table-{'-'.join(filters)}",  # with other rows the chosen one is another
        on_select="rerun",
        selection_mode="single-row",
        column_config={"Why": st.column_config.TextColumn(width="large")},
    )
    for row in event["selection"]["rows"]:
        finding = findings[table.index[row]]
        st.markdown(f"{badge(finding.verdict)} {finding.explanation}")
        _show_button(finding, "row")
    st.download_button(
        "Download these claims (CSV)",
        table.to_csv(index=False).encode(),  # made at once: a button that makes its file later may be of a page gone by
        "claims.csv",
        "text/csv",
        on_click="ignore",
    )


def _share(value: float) -> str:
    """A share in percent with three digits that count, so that 0.01 % and 99.99 % stay apart."""
    percent = 100 * value
    far = min(percent, 100 - percent)
    return f"{percent:.2f} %" if far < 10 and round(percent, 2) != round(percent) else f"{percent:.3g} %"


def _slider(label: str, own: float, others: Iterable[float], key: str, help_text: str | None = None) -> float:
    """A slider over given shares and the run's own, which it starts at."""
    steps = sorted({own, *others})
    chosen: float = st.select_slider(
        label,
        steps,
        value=own,
        format_func=lambda value: f"{_share(value)}{' (this run)' if value == own else ''}",
        key=key,
        help=help_text,
    )
    return chosen


def note() -> None:
    """The teaching note; its DOI is a link, and its table scrolls by itself where it is too wide."""
    text = teaching_note()
    for study in STUDIES.values():
        text = text.replace(f"doi:{study.doi}", _doi(study.doi))
    for is_table, lines in groupby(text.splitlines(), lambda line: line.startswith("|")):
        if is_table:
            head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
            st.table(pd.DataFrame(rows, columns=head), hide_index=True)
        else:
            st.markdown("\n".join(lines))


def precision_by_prevalence(run: PublishedRun) -> None:
    """Sliders that start at a run's own figures: what an alarm is worth where the finding is rarer or more common."""
    st.subheader("What is an alarm worth?")
    findings = [cls for cls in run.classes if cls != "Normal"]
    name = f"{run.model}{f', fold {run.fold}' if run.fold else ''}"
    cls = st.selectbox("Finding", findings, index=findings.index("COVID-19"), key=f"note-class-{name}")
    figures_of = {m.name: m for m in metrics(ConfusionMatrix.from_counts(run.counts, run.classes)) if m.cls == cls}
    have, total = figures_of["sensitivity"].denominator or 0, int(run.counts.sum())
    own = [figures_of[metric].value for metric in ("sensitivity", "specificity", "one-vs-rest accuracy")]
    if any(value is None for value in own):
        st.info(
            f"{name} was tested on radiographs of one kind only, so its figures are undefined.", icon=":material/info:"
        )
        return
    sensitivity, specificity, accuracy = (float(value or 0) for value in own)
    st.markdown(
        f"{short(run.study)}, {name}: {have:,} of {total:,} radiographs show {cls}. "
        + _always_no(cls, have, total, accuracy)
    )
    left, right = st.columns(2)
    key = f"{name}-{cls}"
    with left:
        prevalence = _slider(
            "Prevalence: how many have it",
            have / total,
            (1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
            f"prevalence-{key}",
            "Each step is about a doubling.",
        )
        sensitivity = _slider(
            "Sensitivity: how many of these are flagged",
            sensitivity,
            (step / 100 for step in range(0, 101, 5)),
            f"sensitivity-{key}",
        )
        specificity = _slider(
            "Specificity: how many of the others are not",
            specificity,
            (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0),
            f"specificity-{key}",
            "Steps get finer towards 100 %, where false alarms halve at each.",
        )
    with right:
        _worth(cls, prevalence, sensitivity, specificity)
    st.caption(
        "Bayes' theorem. It takes sensitivity and specificity as the same in every population, which spectrum, "
        "scanner and referral can change; both have intervals of their own (tab One run)."
    )


def _always_no(cls: str, have: int, total: int, accuracy: float) -> str:
    """What the laziest classifier scores, beside this one."""
    lazy = (total - have) / total
    than = "more than" if accuracy > lazy else "less than" if accuracy < lazy else "the same as"
    return (
        f"Always answering “not {cls}” finds none of them and is still right in {total - have:,} of {total:,}: "
        f"**{100 * lazy:.2f} %** one-vs-rest accuracy. This network scores **{100 * accuracy:.2f} %**, {than} that."
    )


def _worth(cls: str, prevalence: float, sensitivity: float, specificity: float) -> None:
    """Precision in words and as a curve."""
    precision = precision_at_prevalence(sensitivity, specificity, prevalence)
    if precision is None:
        st.info("Nobody would be flagged, so the precision is undefined.", icon=":material/info:")
        return
    of_flagged = round(FLAGGED * precision)
    told = "fewer than one has" if of_flagged == 0 and precision > 0 else f"{of_flagged:,} have"
    st.metric("Precision at this prevalence", f"{100 * precision:.1f} %")
    st.markdown(f"Of {FLAGGED:,} people flagged as {cls}, **{told}** it.")
    ill = round(PEOPLE * prevalence)
    found, alarms = round(PEOPLE * prevalence * sensitivity), round(PEOPLE * (1 - prevalence) * (1 - specificity))
    st.markdown(
        f"Of {PEOPLE:,} people tested {ill:,} have it: {found:,} are flagged and {ill - found:,} missed. "
        f"Of the {PEOPLE - ill:,} others {alarms:,} are flagged too."
    )
    _curve(prevalence, sensitivity, specificity, precision)


def _curve(prevalence: float, sensitivity: float, specificity: float, precision: float) -> None:
    steps = [10 ** (-4 + 4 * step / 80) for step in range(80)]
    curve = [precision_at_prevalence(sensitivity, specificity, step) for step in steps]
    accent = _panels.palette().accent
    drawn = go.Figure(
        [
            go.Scatter(x=steps, y=curve, mode="lines", line={"color": accent}, hoverinfo="skip"),
            go.Scatter(
                x=[prevalence], y=[precision], mode="markers", marker={"color": accent, "size": 12}, hoverinfo="skip"
            ),
        ]
    )
    _panels.draw_chart(
        drawn,
        "precision-curve",
        f"Precision against prevalence; {100 * precision:.1f} % at {_share(prevalence)}.",
        height=220,
        margin={"l": 0, "r": 10, "t": 8, "b": 0},
        xaxis={
            "type": "log",
            "title": "prevalence",
            "tickvals": [1e-4, 1e-3, 1e-2, 1e-1, 0.5],
            "ticktext": ["0.01 %", "0.1 %", "1 %", "10 %", "50 %"],
        },
        yaxis={"title": "precision", "range": [0, 1.02], "tickformat": ".0%"},
        showlegend=False,
    )
    with st.expander("The curve as a table"):
        shares = sorted({*TABLE_PREVALENCES, prevalence})
        precisions = [precision_at_prevalence(sensitivity, specificity, share) for share in shares]
        rows = {
            "Prevalence": [_share(share) + (" (chosen)" if share == prevalence else "") for share in shares],
            "Precision": ["undefined" if value is None else f"{100 * value:.1f} %" for value in precisions],
        }
        st.table(pd.DataFrame(rows), hide_index=True)
