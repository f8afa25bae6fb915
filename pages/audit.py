"""Audits of whole runs: how often a right answer had a wrong reason, where maps lie, what tempts a network.

The URL says what is shown; widgets only follow it. No network is loaded here.
"""

from pathlib import Path

import streamlit as st

from pages import _navigation

_navigation.require_entry()

from cxnet import runs, wrong_reasons  # noqa: E402
from cxnet.errors import CxnetError  # noqa: E402
from cxnet.runs import Run  # noqa: E402
from cxnet.wrong_reasons import TIERS, StoredAudit, Tier  # noqa: E402
from pages import _audit_panels as panels  # noqa: E402
from pages import _gallery, _panels, _store  # noqa: E402

NONE = "none"
OFFENDERS, ALL = "offenders", "all"
ZONES_BY = {"predicted": "class called", "source": "source"}
TITLES = {"full": "full: causal tests and verdict", "fast": "fast: maps only"}


def go(**changes: str | None) -> None:
    """Change the URL in one step, so that Back undoes one choice; None takes a key out."""
    now = st.query_params.to_dict()
    new = {key: value for key, value in {**now, **changes}.items() if value is not None}
    if new != now:
        st.query_params.from_dict(new)


def asked(key: str, allowed: list[str], usual: str) -> str:
    """A value of the URL if it is allowed."""
    value = st.query_params.get(key, usual)
    return value if value in allowed else usual


def follow(key: str, allowed: list[str], usual: str) -> str:
    """The URL's choice, put into the widget of the same name."""
    value = asked(key, allowed, usual)
    st.session_state[f"audit-{key}"] = value
    return value


def moved(key: str, *also: str) -> None:
    """Put a widget's value into the URL; the keys of `also` lose theirs."""
    go(**{**dict.fromkeys(also), key: str(st.session_state[f"audit-{key}"])})


def empty_state(folder: Path) -> None:
    """How to get an audit."""
    st.info("No stored run has an audit yet.", icon=":material/arrow_upward:")
    st.markdown(
        "An audit asks a run's own networks again, case by case, and needs the run's radiographs. **fast** measures where "
        "the maps lie. **full** also edits every radiograph thirty to a hundred times, to find answers for a wrong reason:"
    )
    st.code(panels.command(folder, "fast", "full"), language=None, wrap_lines=True)
    st.caption("Stopped halfway, the same command goes on where it was.")


def describe(audit: StoredAudit) -> None:
    """What was audited, and what was not."""
    info, table = audit.info, audit.table
    failed = int(table["error"].notna().sum())
    changed = info.get("changed_answers")
    limits = info.get("thresholds")
    told = [
        f"{len(table) - failed:,} cases audited",
        f"{failed:,} failed" if failed else "",
        *(str(note).rstrip(".") for note in info.get("left_out", [])),
        f"{changed} answers differ from the stored ones" if changed else "",
        f"networks: {', '.join(info.get('models', {}))}",
        f"thresholds version {limits['version']}" if isinstance(limits, dict) and "version" in limits else "",
    ]
    st.caption(" · ".join(panels.escaped(part) for part in told if part))
    if failed:
        with st.expander(f"{failed:,} case{'' if failed == 1 else 's'} failed"):
            bad = table.loc[table["error"].notna(), ["file", "error"]]
            st.dataframe(bad, hide_index=True, width="stretch", key="audit-errors")


def compare(found: dict[str, Run], run: str, audit: StoredAudit) -> None:
    """This run against another, paired."""
    others = [name for name in found if name != run and "full" in wrong_reasons.audits_of(found[name].folder)]
    if audit.tier != "full" or not others:
        return
    st.subheader("Compare with another run", anchor=False)
    chosen = follow("compare", [NONE, *others], NONE)
    st.selectbox(
        "Other run", [NONE, *others], key="audit-compare", on_change=moved, args=("compare",),
        format_func=lambda name: "–" if name == NONE else f"{name}: {found[name].info.get('title', name)}",
    )  # fmt: skip
    if chosen != NONE:
        panels.comparison(run, chosen, wrong_reasons.compare(audit.table, panels.opened(found[chosen], "full").table))
        masked = [name for name in (run, chosen) if found[name].info.get("region") == "lung-mask"]
        if masked:
            st.caption(
                f"{' and '.join(map(panels.escaped, masked))}: shown nothing but the lungs, so nothing outside them can be held "
                "against it. A lower rate says that, and not that its reasons are right: the lungs' outline still tells sources."
            )


def cases(run: Run, audit: StoredAudit) -> None:
    """Worst offenders, and all audited cases, as cards."""
    worst = panels.offenders(audit)
    full = audit.tier == "full"
    name = "Right answers for a wrong reason" if full else "Right answers, maps farthest from the lungs first"
    st.subheader("Cases", anchor=False)
    kinds = {OFFENDERS: f"{name} ({len(worst):,})", ALL: f"All audited ({len(audit.audited):,})"}
    show = follow("show", list(kinds), OFFENDERS)
    st.segmented_control(
        "Show", list(kinds), key="audit-show", format_func=kinds.get, required=True, label_visibility="collapsed",
        on_change=moved, args=("show", *_gallery.URL_KEYS),
    )  # fmt: skip
    if show == OFFENDERS and worst.empty:
        st.info(
            "No right answer has a wrong reason that these tests can find. That proves no right reason.",
            icon=":material/info:",
        )
        return
    if show == OFFENDERS:
        panels.offender_table(run, worst)
    _gallery.gallery(run, panels.merged(run, audit, worst if show == OFFENDERS else None))


def work(found: dict[str, Run], run: Run, audit: StoredAudit) -> None:
    """Everything about one audit."""
    describe(audit)
    if audit.tier == "full":
        panels.headline(audit)
        by = follow("by", list(panels.PARTS), "cell")
        st.segmented_control(
            "Wrong reasons by", list(panels.PARTS), key="audit-by", format_func=panels.PARTS.get, required=True,
            on_change=moved, args=("by",),
        )  # fmt: skip
        panels.rate_table(audit, by)
    else:
        st.info(
            "A fast audit gives no verdicts, because a map alone accuses nobody. This does:", icon=":material/info:"
        )
        st.code(panels.command(audit.path.parent, "full"), language=None, wrap_lines=True)
    st.subheader("Distributions", anchor=False)
    panels.distributions(audit)
    compare(found, run.name, audit)
    st.subheader("Where the maps lie", anchor=False)
    zones = follow("zones", list(ZONES_BY), "predicted")
    st.segmented_control(
        "By", list(ZONES_BY), key="audit-zones", format_func=ZONES_BY.get, required=True,
        on_change=moved, args=("zones",),
    )  # fmt: skip
    panels.zones(audit, zones)
    st.subheader("Do Grad-CAM and LIME agree?", anchor=False)
    panels.agreement(run, audit)
    st.subheader("Could a picture's looks give its class away?", anchor=False)
    panels.property_table(audit)
    cases(run, audit)


_panels.notice()
st.title("Audit")
st.markdown("Is a right answer right for a right reason? Every case of a run, tested; a summary of what was found.")
listed, problems = _store.listing()
for sentence in problems:
    st.error(sentence, icon=":material/error:")
found = {name: run for name, run in listed.items() if wrong_reasons.audits_of(run.folder)}
if not found:
    own = [run.folder for run in listed.values() if panels.can_be_audited(run)]
    empty_state(own[0] if own else runs.FOLDER / "NAME")
    st.stop()
_store.say_unknown_run(found, "has no audit yet" if st.query_params.get("run") in listed else "is not here")
name = follow("run", list(found), next(iter(found)))
tiers: tuple[Tier, ...] = wrong_reasons.audits_of(found[name].folder)
tier = next(one for one in TIERS if one == follow("tier", list(tiers), tiers[0]))
left, right = st.columns([3, 2])
left.selectbox(
    "Run", list(found), key="audit-run", on_change=moved,
    args=("run", "tier", "compare", "show", *_gallery.URL_KEYS),
    format_func=lambda one: one if one not in found else f"{one}: {found[one].info.get('title', one)}",
)  # fmt: skip
right.selectbox(
    "Audit", list(tiers), key="audit-tier", format_func=TITLES.get, on_change=moved,
    args=("tier", "show", *_gallery.URL_KEYS),
)  # fmt: skip
try:
    work(found, found[name], panels.opened(found[name], tier))
except CxnetError as error:
    st.error(str(error), icon=":material/error:")
