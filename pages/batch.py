"""Judge all radiographs of this tab at once: one row each, the most suspicious first."""

import streamlit as st

from pages import _navigation

_navigation.require_entry()

from pages import _many, _panels, _session, _uploader  # noqa: E402

if st.session_state.pop("batch-opens", False):
    st.switch_page("pages/analyse.py")

_panels.notice()
st.title("Several radiographs")
st.markdown(
    "One network judges all radiographs of this tab, one after another; the most suspicious answers come first."
)


def try_samples() -> None:
    """Take the synthetic samples and start."""
    st.session_state["set-batch-samples"] = st.session_state["batch-start"] = True


def empty_state() -> None:
    """What this page is for, and something to try it with."""
    st.info(
        "Drop several chest radiographs, a zip or a folder above, or open radiographs on the pages Analyse and Runs. Each gets "
        "a row: what the network says, where its map lies and, if you want, the verdict on its reason.",
        icon=":material/arrow_upward:",
    )
    st.button("Try with the eight synthetic samples", key="batch-try", on_click=try_samples, type="primary")


with st.sidebar:
    card = _session.choose_network()
    st.button("Forget everything", on_click=_session.forget, help="Drops all radiographs and results of this tab.")
samples = bool(st.session_state.get("set-batch-samples", False))
# files that were dropped just now are among them: the uploader has taken them before the page is run
cases = _many.listed(samples)
_uploader.uploader(bool(cases))
if not cases and not _many.under_way():
    empty_state()
    st.stop()
tier = _session.setting(
    st.radio, "How far", "batch-tier", "fast", list(_many.TIERS), format_func=_many.TIERS.get,
    captions=[_many.cost(cases, card, one) for one in _many.TIERS],
)  # fmt: skip
_session.setting(st.toggle, "With the eight synthetic samples", "batch-samples", False)
asked_before = {one.radiograph.sha256: one.network for one in _session.stored_cases()}
others = [one for one in cases.values() if asked_before.get(one.sha256) not in (None, card.name)]
if others:
    were = "was" if len(others) == 1 else "were"
    st.warning(
        f"{len(others)} of these radiographs {were} opened from a run with another network than {card.title}, which may have "
        "been trained on them: what it says of them is then no test of it.",
        icon=":material/warning:",
    )
st.caption(
    f"{_many.counted(len(cases))} in this tab. The network gets them with the settings that it was trained with, whatever is set "
    "on Analyse. Nothing is stored: rows live in this tab until it is closed or you choose “Forget everything”."
)
_many.controls(cases, card, tier)
_many.results(cases, card, tier)
