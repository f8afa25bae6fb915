"""Before the first page: what cxnet is for, accepted once a browser; and a short tour on a synthetic radiograph."""

from __future__ import annotations

import os
from dataclasses import dataclass

import streamlit as st

#: Another text needs another version: it is asked again.
VERSION = "1"
COOKIE = "cxnet_accepted"
COOKIE_DAYS = 365
#: Of the session: how far it came. Kept when everything else is forgotten, because it says nothing of a radiograph.
ENTERED = "_entered"
ACCEPTED = "accepted"

SAMPLE = "normal-marker"
TOUR = "tour-step"


def accepted() -> bool:
    """Whether this browser, or this session if its browser keeps no cookies, has accepted; or nobody need.

    The cookie comes with the connection, so it is known before anything is drawn.
    """
    if os.environ.get("CXNET_GATE") == "off" or st.session_state.get(ENTERED) == ACCEPTED:
        return True
    return st.context.cookies.get(COOKIE) == VERSION


def _accept() -> None:
    st.session_state[ENTERED] = ACCEPTED


def _accept_and_start() -> None:
    _accept()
    _start()


def gate() -> None:
    """The text and its button, in place of the page. The address stays, so the page that was asked for comes next."""
    with st.container(horizontal_alignment="center"), st.container(border=True, width=680):
        st.title("cxnet", anchor=False)
        st.markdown(
            "See why a chest-radiograph classifier decides as it does, and catch it when it is right for the wrong reason."
        )
        st.markdown(
            """
**For research and teaching only. Not a medical device: do not use it for diagnosis or patient care.**

- Its answers come from experimental networks. *No wrong reason found* does not prove a right one.
- Do not put in pictures with **burned-in patient data** (names, dates, numbers). Tags of a DICOM file are dropped
  but for a few technical ones; what is written in the pixels stays there.
- A radiograph stays in the memory of your session on this server. It is not written to disk.
"""
        )
        with st.container(horizontal=True):
            st.button("I understand, open cxnet", type="primary", key="gate-accept", on_click=_accept)
            asked = st.button("Take the two-minute tour", key="gate-tour", on_click=_accept_and_start)
        st.caption(f"A cookie that holds nothing about you ({COOKIE}) keeps this from being asked again for a year.")
    if asked:
        _to_sample()


def remember() -> None:
    """After it was accepted here: have the browser keep the cookie. Takes no room on the page."""
    if st.session_state.get(ENTERED) != ACCEPTED:
        return
    st.html("<style>.st-key-gate-cookie { position: absolute; }</style>")
    write = st.components.v2.component("cxnet_cookie", js=_COOKIE_JS)
    write(key="gate-cookie", data={"cookie": f"{COOKIE}={VERSION}; max-age={COOKIE_DAYS * 86400}; samesite=lax"})


# No path is named: the default is the folder of the address, which is right below any base path of a proxy.
_COOKIE_JS = """
export default function ({ data }) {
  document.cookie = data.cookie + (location.protocol === "https:" ? "; secure" : "");
}
"""


# --------------------------------------------------------------------------------------------------------------- tour


@dataclass(frozen=True)
class Step:
    """One stop of the tour; `place` is the CSS selector of what it speaks of, which is scrolled to and framed."""

    title: str
    text: str
    place: str | None = None


STEPS = (
    Step(
        "What the network says",
        "This radiograph is drawn: clear lungs, and a side marker that has nothing to do with disease. The bars are the "
        "network's outputs. They are uncalibrated: 0.9 does not mean 90 in 100. Beside them: how often it was right when "
        "it said so.",
        ".st-key-bars",
    ),
    Step(
        "Where it looked",
        "**Grad-CAM** paints what speaks for the answer; the line is the outline of the lungs. Wheel zooms, drag moves, "
        "all pictures together. Is there colour outside the lungs, perhaps on the marker? It is a map of evidence, not of "
        "a lesion.",
        ".st-key-viewer",
    ),
    Step(
        "Lungs, lift and null",
        "**In the lungs** is the share of the map inside the outline. A map without content scores the grey line, so a "
        "share means nothing without it. **Lift** 1 is chance. **z** compares with shifted copies: around 0 the map does "
        "not care where the lungs are.",
        ".st-key-figures",
    ),
    Step(
        "What if the marker were not there?",
        "Press **Remove markers**. The network is asked again, and once more with patches of the same shape taken away "
        "elsewhere. If the marker changes the answer no more than those patches do, the answer did not hang on it.",
        ".st-key-whatif-marker",
    ),
    Step(
        "The verdict",
        "Press **Test the reason** and wait a little. *Wrong reason* needs an edited picture that says so; a map alone "
        "accuses nobody. **No wrong reason found is not a right reason proven**: only these tests found nothing.",
        ".st-key-run-verdict",
    ),
    Step(
        "One case proves little",
        "**Runs** has every prediction of a training, by cell of its confusion matrix. **Audit** counts the right answers "
        "that had a wrong reason. **Teach** lets you plant a shortcut yourself. Now drop a radiograph of your own.",
    ),
)


def offer_tour() -> None:
    """The button of the empty page Analyse."""
    st.button("Take the two-minute tour", key="tour-start", icon=":material/explore:", on_click=_start)


def _start() -> None:
    st.session_state[TOUR] = 0
    st.session_state["case"] = f"sample:{SAMPLE}"
    st.session_state["link_error"] = None


def _move(to: int | None) -> None:
    if to is None:
        del st.session_state[TOUR]
    else:
        st.session_state[TOUR] = to


def _to_sample() -> None:
    st.switch_page("pages/analyse.py", query_params={"sample": SAMPLE})


def tour() -> None:
    """The step that the session is at, at the top of whichever page is shown; nothing outside of a tour."""
    at = st.session_state.get(TOUR)
    if at is None:
        return
    step, last = STEPS[at], len(STEPS) - 1
    with st.container(border=True, key="tour", gap="small"):
        st.markdown(f"**Tour {at + 1} of {len(STEPS)}: {step.title}**  \n{step.text}")
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.button("Back", key="tour-back", on_click=_move, args=(at - 1,), disabled=at == 0)
            if at < last:
                st.button("Next", key="tour-next", type="primary", on_click=_move, args=(at + 1,))
            else:
                st.page_link("pages/runs.py", label="Runs")
                st.page_link("pages/audit.py", label="Audit")
            st.button("End the tour", key="tour-end", on_click=_move, args=(None,))
        lead = st.components.v2.component("cxnet_tour", js=_TOUR_JS)
        lead(key="tour-lead", data={"place": step.place, "step": at})
    frame = (
        f"{step.place} {{ outline: 3px solid #2a9aa2; outline-offset: 6px; border-radius: 2px; }}" if step.place else ""
    )
    st.html(f"<style>{_TOUR_CSS} {frame}</style>")


# It stays in sight while the page is scrolled below it.
_TOUR_CSS = """
[data-testid=stLayoutWrapper]:has(> .st-key-tour) { position: sticky; top: 3.75rem; z-index: 90; }
.st-key-tour { background: Canvas; border-color: #2a9aa2; }
.st-key-tour-lead { position: absolute; }
"""

# Scrolls to what the step speaks of, and again while the page is still growing; a reader who scrolls is left alone.
_TOUR_JS = """
export default function ({ data, parentElement }) {
  if (parentElement.__step === data.step) return;
  parentElement.__step = data.step;
  if (!data.place) return;
  const end = Date.now() + 20000;
  let still = 0, left = false;
  const leave = () => { left = true; };
  const hands = ["wheel", "touchmove", "keydown", "pointerdown"];
  for (const hand of hands) window.addEventListener(hand, leave, { once: true, passive: true });
  const look = () => {
    const done = left || still > 7 || Date.now() > end || parentElement.__step !== data.step;
    if (done) { for (const hand of hands) window.removeEventListener(hand, leave); return; }
    const place = document.querySelector(data.place), bar = document.querySelector(".st-key-tour");
    if (place && bar) {
      const top = bar.getBoundingClientRect().height + 80, before = place.getBoundingClientRect().top;
      place.style.scrollMarginTop = top + "px";
      place.scrollIntoView({ block: "start" });
      still = Math.abs(place.getBoundingClientRect().top - before) < 2 ? still + 1 : 0;
    }
    setTimeout(look, 250);
  };
  setTimeout(look, 50);
}
"""
