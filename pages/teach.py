"""Plant a shortcut and watch; a network that is known to cheat; read before the machine does; tales of others."""

import streamlit as st

from pages import _navigation

_navigation.require_entry()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from cxnet.analysis import Analysis, Settings, to_original  # noqa: E402
from cxnet.errors import CxnetError  # noqa: E402
from pages import _cheats, _lessons, _panels, _session, _store, _whatif  # noqa: E402
from pages._gallery_cards import image_at_hand  # noqa: E402
from pages._viewer import Panel, viewer  # noqa: E402

TABS = ["Plant a shortcut", "A known cheat", "Read first", "Cautionary tales"]
STRENGTHS = [0, 10, 25, 50, 75, 100]
SYNTHETIC, HELD_OUT = "Synthetic radiographs", "Radiographs that the network never saw"


def take_url() -> None:
    """Before anything is drawn: take shortcut, strength and sample from a changed URL; what it cannot mean is ignored."""
    asked = tuple(st.query_params.get(key) for key in ("plant", "strength", "sample"))
    if asked == st.session_state.get("teach-asked"):
        return
    st.session_state["teach-asked"] = asked
    if (kind := _session.choice_from_url("plant", list(_lessons.PLANTS))) is not None:
        st.session_state["set-teach-plant"] = kind
    if (strength := _session.choice_from_url("strength", [str(s) for s in STRENGTHS])) is not None:
        st.session_state["set-teach-strength"] = int(strength)
    if (case := _session.case_from_url()) is not None:
        st.session_state["set-teach-case"] = case


def choose_network() -> str:
    """The network, the same as on the page Analyse."""
    cards = _session.networks()
    names = list(cards)
    return _session.setting(
        st.selectbox, "Network", "model", names[0], names, format_func=lambda name: cards[name].title
    )


def heat(title: str, analysis: Analysis, strongest: float) -> Panel:
    """Grad-CAM over the radiograph, on the scale that both maps share."""
    heatmap = to_original(analysis.explanations["grad-cam"].heatmap, analysis)
    inside = next(score for score in analysis.scores["grad-cam"] if score.name == "in-lung energy")
    told = f"{100 * inside.value:.0f} % in the lungs" if inside.value is not None else str(inside.reason)
    described = f"Grad-CAM for {analysis.target}, {told}"
    return Panel(
        title, described, analysis.radiograph.pixels, heatmap, strongest, badge=f"for {analysis.target}; {told}"
    )


def plant_tab() -> None:
    """One shortcut in one radiograph: before and after."""
    st.markdown(
        "Draw something into a radiograph that has nothing to do with the lungs, and see whether the network cares. "
        "Both maps share one colour scale."
    )
    take_url()
    cases, last = _session.cases(), st.session_state.get("last_case")
    first = last if last in cases else "sample:normal"
    left, right = st.columns(2)
    with left:
        model = choose_network()
        case = _session.setting(
            st.selectbox, "Radiograph", "teach-case", first, cases, format_func=_session.case_title
        )  # fmt: skip
    with right:
        kind = _session.setting(
            st.selectbox, "Shortcut", "teach-plant", "tag", list(_lessons.PLANTS), format_func=_lessons.PLANTS.get
        )
        strength = _session.setting(
            st.select_slider, "Strength", "teach-strength", 100, STRENGTHS, format_func=lambda share: f"{share} %"
        )
    st.caption(_lessons.ORIGINS[kind])
    sample = case.partition(":")[2] if case.startswith("sample:") else None
    _session.write_url(plant=kind, strength=str(strength), sample=sample)
    st.session_state["teach-asked"] = (kind, str(strength), sample)

    radiograph = _session.radiograph_of(case)
    settings = Settings(model=model)
    before = _session.analysis_of(radiograph, settings)
    after = _session.analysis_of(
        _lessons.planted(radiograph, kind, strength / 100), Settings(model=model, target=before.target)
    )
    strongest = max(float(found.explanations["grad-cam"].heatmap.max()) for found in (before, after))
    changed = float((after.radiograph.pixels != before.radiograph.pixels).mean())
    viewer(
        [
            Panel("Before", "radiograph as it is", before.radiograph.pixels),
            heat("Before, Grad-CAM", before, strongest),
            Panel("After", f"with the shortcut: {_lessons.PLANTS[kind]}", after.radiograph.pixels),
            heat("After, Grad-CAM", after, strongest),
        ],
        before.lungs.mask,
        key="teach-viewer",
        radiograph=before.radiograph,
    )
    number = before.card.classes.index(before.target)
    was, now = (float(found.prediction.probabilities[number]) for found in (before, after))
    st.markdown(
        f"**{_lessons.PLANTS[kind]}**, {strength} %, changes {100 * changed:.1f} % of the picture. {before.target} goes "
        f"from {was:.3f} to **{now:.3f}**, {_whatif.in_words(now - was)} ({_whatif.signed(now - was)})."
    )
    _whatif.compare(before.card.classes, before.prediction.probabilities, after.prediction.probabilities)
    if not after.lungs.ok and before.lungs.ok:
        st.caption(f"The shortcut also misleads the lung outline: {'; '.join(after.lungs.reasons)}.")
    st.caption(
        "A network that stays calm here may still follow a shortcut that its training data had and this page does not "
        "draw. No wrong reason found is not a right reason proven."
    )


def held_out(model: str) -> pd.DataFrame | None:
    """Cases that the network was not trained on, in a fixed order, if their radiographs may be at hand."""
    found = _panels.held_out_cases(_session.networks()[model]) if _store.image_folders() else None
    if found is None or "file" not in found:
        return None
    return found.sample(frac=1.0, random_state=0)


def draw_reading(source: str, model: str, number: int) -> _lessons.Reading:
    """The radiograph of a number."""
    if source == SYNTHETIC:
        return _lessons.synthetic_reading(number)
    cases = held_out(model)
    if cases is not None:
        # a data set may be at hand in part: the nth radiograph of those that are there, so that none comes twice
        there = [at for at, row in enumerate(cases.to_dict("records")) if image_at_hand(row) is not None]
        for step in range(len(there)):
            row = cases.iloc[there[(number + step) % len(there)]]
            radiograph = _store.radiograph(row["file"], row["case"])
            if radiograph is not None:
                return _lessons.Reading(radiograph, f"Its class is {row['true']}.", str(row["true"]))
    raise CxnetError("No radiograph that this network never saw is at hand; read synthetic ones instead.")


def reading(source: str, model: str, number: int) -> _lessons.Reading:
    """:func:`draw_reading`, kept while it is read."""
    key = (source, model if source == HELD_OUT else None, number)
    if st.session_state.get("reading-key") != key:
        st.session_state["reading"], st.session_state["reading-key"] = draw_reading(source, model, number), key
        for name in ("reading-answer", "reading-committed"):
            st.session_state.pop(name, None)
    found: _lessons.Reading = st.session_state["reading"]
    return found


def commit() -> None:
    """The reader's answer stands from here on."""
    st.session_state["reading-committed"] = (st.session_state["reading-answer"], st.session_state["reading-sure"])


def go_on() -> None:
    """To the next radiograph."""
    st.session_state["reading-number"] = st.session_state.get("reading-number", 0) + 1


def read_tab() -> None:
    """A radiograph alone; the network's answer and map only after the reader has committed to one."""
    st.markdown(
        "Say what you see before the network does: who has seen the machine's answer can hardly read without it. "
        "Neither prediction nor map is computed until you commit."
    )
    left, right = st.columns(2)
    with left:
        model = choose_network()
    sources = [SYNTHETIC, *([HELD_OUT] if held_out(model) is not None else [])]
    with right:
        source = _session.setting(st.selectbox, "Read", "teach-source", sources[0], sources)
    classes = _session.networks()[model].classes
    number = st.session_state.get("reading-number", 0)
    found = reading(source, model, number)
    committed = st.session_state.get("reading-committed")
    if committed is not None and committed[0] not in classes:
        committed = None  # another network was chosen, which knows other classes
    picture, answer = st.columns([3, 2])
    with answer:
        st.markdown(f"**Reading {number + 1}**")
        if committed is None:
            if st.session_state.get("reading-answer") not in classes:
                st.session_state.pop("reading-answer", None)
            said = st.radio("Your answer", classes, index=None, key="reading-answer")
            st.select_slider("How sure are you?", _lessons.CONFIDENCES, key="reading-sure")
            st.button("Commit", type="primary", disabled=said is None, on_click=commit, key="commit")
    if committed is None:
        with picture:
            pixels = found.radiograph.pixels
            panel = Panel("Radiograph", "to be read", pixels, depth=found.radiograph.depth)
            viewer([panel], np.zeros_like(pixels, bool), "reader", found.radiograph)
        return
    analysis = _session.analysis_of(found.radiograph, Settings(model=model))
    answers: dict[object, _lessons.Answered] = st.session_state.setdefault("readings", {})
    network = analysis.prediction.predicted
    answers[source, model, number] = _lessons.Answered(number + 1, *committed, network, found.true)
    with picture:
        top = float(analysis.explanations["grad-cam"].heatmap.max())
        read = Panel("Radiograph", "as read", found.radiograph.pixels, depth=found.radiograph.depth)
        panels = [read, heat("Grad-CAM", analysis, top)]
        viewer(panels, analysis.lungs.mask, "reader", found.radiograph)
    with answer:
        agreed = "You **agree**" if committed[0] == network else "You **disagree**"
        st.markdown(
            f"You said **{committed[0]}** ({committed[1]}). The network says **{network}** "
            f"({analysis.prediction.probabilities.max():.2f}, uncalibrated). {agreed}. {found.truth}"
        )
        if source == SYNTHETIC:
            st.caption("The network was trained on real radiographs: what it says of a drawn one is no test of it.")
        st.button("Next radiograph", type="primary", on_click=go_on, key="next")
    st.markdown(_lessons.tally(list(answers.values())))
    rows = [(a.number, a.reader, a.confidence, a.network, a.true or "", a.agreed) for a in answers.values()]
    names = ["Reading", "You", "How sure", "Network", "True class", "Agreed"]
    st.dataframe(pd.DataFrame(rows, columns=names), hide_index=True, width="stretch")


def tales_tab() -> None:
    """Each story with its source."""
    for tale in _lessons.TALES:
        st.markdown(
            f"**{tale.title}.** {tale.text}  \n:small[{tale.citation}. [doi:{tale.doi}](https://doi.org/{tale.doi})]"
        )


_panels.notice()
st.title("Teach")
if any(key in st.query_params for key in ("plant", "strength")):
    st.session_state.setdefault("teach-tab", TABS[0])
plant_part, cheat_part, read_part, tales_part = st.tabs(TABS, key="teach-tab", on_change="rerun")
try:
    # Only the open tab is drawn: what is hidden must not have been computed.
    if plant_part.open:
        with plant_part:
            plant_tab()
    if cheat_part.open:
        with cheat_part:
            _cheats.lesson()
    if read_part.open:
        with read_part:
            read_tab()
    if tales_part.open:
        with tales_part:
            tales_tab()
except CxnetError as error:
    st.error(str(error), icon=":material/error:")
