"""The lesson of a known cheat: a network of the audit's exam beside a clean one, on the same drawn radiographs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from cxnet.audit import upsample
from cxnet.classifier import Prediction
from cxnet.exam import Case, FixtureNetwork, fixture_networks, judge_case, phantom_case, plant, stored
from cxnet.exam.fixtures import CLASSES, DISEASE, INPUT_PX, TRAINED, Kind, stack
from cxnet.explain.grad_cam import grad_cam
from pages import _session
from pages._viewer import Panel, viewer

#: Kind of network → what it learned to look at.
SHORTCUTS: dict[Kind, str] = {
    "tag": "a line of text at the lower left",
    "stripes": "two bright stripes",
    "obstruction": "a dark shape at the bottom",
    "contrast": "the contrast of the whole picture",
}
CLEAN: Kind = "clean"
#: Seed of the networks that are shown: of the half that the exam's figures come from, and trained with erased parts.
SEED = 1
#: Drawn radiographs that no network of the exam was trained on: diseased, normal, and so on.
PICTURES = tuple(range(TRAINED + 1, TRAINED + 9))


@dataclass(frozen=True, eq=False)
class Look:
    """What one network makes of one picture.

    Parameters
    ----------
    probability : float
        Of disease.
    heatmap : float32 array (128, 128)
        Grad-CAM for disease.
    verdict : str
        Of the audit on the network's answer.
    """

    probability: float
    heatmap: NDArray[np.float32]
    verdict: str


def title_of(number: int) -> str:
    """Of one of :data:`PICTURES`."""
    place = PICTURES.index(number) // 2 + 1
    return f"{'Diseased' if number % 2 else 'Normal'} {place}"


def network_of(kind: Kind) -> FixtureNetwork:
    """The network of a kind that the lesson shows."""
    return next(n for n in fixture_networks() if (n.kind, n.seed) == (kind, SEED))


@st.cache_resource(max_entries=64, show_spinner="Asking both networks, and auditing their answers …")
def look(kind: Kind, planted: Kind, number: int) -> Look:
    """What the network of a kind makes of a drawn radiograph with a shortcut planted, or nothing: "clean"."""
    network, case = network_of(kind), phantom_case(number)
    pixels = plant(case.pixels, planted, case.number)
    picture = stack(pixels)[None]
    features, logits = network.features(picture)[0], network(picture)[0]
    prediction = Prediction(CLASSES, logits, features)
    rows = stored().cases
    usual = float(rows.loc[rows["network"] == network.name, "usual"].iloc[0])
    # as a clean network is shown its pictures: as they are, since the shortcut stands there already
    as_it_is = Case(case.number, pixels, case.lungs.copy(), int(logits.argmax()))
    _, verdict = judge_case(replace(network, kind=CLEAN), as_it_is, usual)
    heatmap = upsample(grad_cam(prediction, network.head)[DISEASE], (INPUT_PX, INPUT_PX))
    return Look(float(prediction.probabilities[DISEASE]), np.asarray(heatmap, np.float32), verdict.name)


def lesson() -> None:
    """Choose a shortcut and a radiograph; see both networks with and without it, and what the audit says of each."""
    st.markdown(
        "Two tiny networks of the audit's own exam (page Exam) learned from the same drawn radiographs. One met a shortcut on every "
        "diseased picture and on no normal one; the other met none. **Which of the two is right for the right reason, and "
        "does the map tell?**"
    )
    left, right = st.columns(2)
    with left:
        kind = _session.setting(
            st.selectbox, "Shortcut that one learned", "cheat-kind", "tag", list(SHORTCUTS), format_func=SHORTCUTS.get
        )
    with right:
        number = _session.setting(
            st.selectbox, "Drawn radiograph", "cheat-number", PICTURES[3], list(PICTURES), format_func=title_of
        )
    case = phantom_case(number)
    planted = plant(case.pixels, kind, case.number)
    found = {
        (who, there): look(who, kind if there else CLEAN, number) for who in (kind, CLEAN) for there in (False, True)
    }
    top = {who: max(float(found[who, there].heatmap.max()) for there in (False, True)) for who in (kind, CLEAN)}
    panels = [
        Panel("Without the shortcut", title_of(number), case.pixels),
        Panel("With it", f"{title_of(number)}, {SHORTCUTS[kind]}", planted),
    ]
    for who, name in ((kind, "The cheat, Grad-CAM"), (CLEAN, "The clean one, Grad-CAM")):
        told = f"for disease {found[who, True].probability:.2f}"
        panels.append(Panel(name, f"{name} {told}", planted, found[who, True].heatmap, top[who], badge=told))
    viewer(panels, case.lungs, key="cheat-viewer")
    rows = [
        (
            name,
            "with it" if there else "without",
            f"{one.probability:.3f}",
            CLASSES[int(one.probability >= 0.5)],
            one.verdict,
        )
        for who, name in ((kind, f"cheat: {SHORTCUTS[kind]}"), (CLEAN, "clean"))
        for there in (False, True)
        for one in (found[who, there],)
    ]
    names = ["Network", "Shortcut", "Probability of disease", "Answer", "The audit's verdict on it"]
    st.table(pd.DataFrame(rows, columns=names).set_index("Network"))
    truth = "diseased: its lungs hold a drawn opacity" if case.true == DISEASE else "normal"
    st.caption(
        f"The radiograph is {truth}. The audit does not know which network cheats. It judges wrong answers too, and it can miss a "
        "cheat or find no reason to clear an honest network: the page Exam tells how often."
    )
