"""What does the network say if a part of the radiograph is not there; and the verdict on its reason.

The upper half of the file computes and knows no page; the lower half shows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from cxnet.analysis import Analysis, Models
from cxnet.audit import FILLS, add_opacity, find_markers, hide, lung_region, pad_border, remove, two_lungs
from cxnet.audit.appearance import answers
from cxnet.audit.causal import BORDERS, CONTROLS, MODES_DIFFER
from cxnet.audit.edits import Edit, Fill, control_paddings, control_removals
from cxnet.audit.opacities import DRAWN, STRENGTH
from cxnet.classifier import softmax
from cxnet.enhance import Grey
from cxnet.errors import CxnetError
from cxnet.lungs import look_at
from cxnet.thresholds import TESTS, thresholds
from cxnet.verdict import CaseAudit, Verdict, audit
from pages import _jobs, _memory, _session
from pages._viewer import Box

Kind = Literal["marker", "background", "lungs", "border", "opacity", "box"]
Floats = NDArray[np.float64]

#: Kind of edit → what its button says.
KINDS: dict[Kind, str] = {
    "marker": "Remove markers",
    "background": "Blank the background",
    "lungs": "Blank the lungs",
    "border": "Pad over the border",
    "opacity": "Draw an opacity",
    "box": "Hide the box",
}
FEW_CONTROLS = 5
OUTCOMES_KEPT = 12
BATCH = 8
THUMBNAIL_PX = 480

NO_MARKER = "no text, marker or arrow was found in this radiograph (strips along a side: crop the border)"
NO_TWO_LUNGS = "no two lungs were found in this radiograph"
NO_LUNGS = "no lungs were found in this radiograph"
NO_BOX = "no box was drawn: press “Draw a box” above the pictures, then drag on one"
NO_ROOM = "there is no room elsewhere for patches of the same shape and the same share of lung"
DRAWN_BEFORE = "an opacity is drawn into a radiograph, not into an enhanced picture"
PART_ONLY = "the network is shown a part of the radiograph only, so there is no whole enhanced picture to edit"


@dataclass(frozen=True)
class Request:
    """Which edit, and how.

    Parameters
    ----------
    kind : str
        A key of :data:`KINDS`.
    fill : {"mean", "blur", "noise"}
        What hidden parts are replaced with.
    width : float
        Of the border, as a fraction of each side.
    number : int
        Of the opacity, of :data:`cxnet.audit.opacities.DRAWN`.
    box : tuple of int or None
        Left, top, right and bottom in pixels of the radiograph.
    controls : int
        Control edits wanted.
    """

    kind: Kind
    fill: Fill = "mean"
    width: float = BORDERS[1]
    number: int = DRAWN[0]
    box: Box | None = None
    controls: int = FEW_CONTROLS


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an edit does to the answer.

    Parameters
    ----------
    request : Request
    target : str
        The class that the analysis explains.
    classes : tuple of str
    before : float64 array (classes,)
        Probabilities for the radiograph as it is.
    reason : str or None
        Why there is no answer; then all that follows is empty.
    pixels : uint8 array (height, width) or None
        The edited radiograph.
    area : float
        Share of the picture that the edit changed.
    recompute, frozen : float64 array (classes,) or None
        Probabilities with the edit before and after enhancement.
    drop : float
        What the edit takes from the target's logit.
    controls : tuple of (float, float)
        Change of the target's probability and drop of its logit, by the same edit elsewhere.
    controls_reason : str or None
        Why there are none, for kinds that have controls.
    """

    request: Request
    target: str
    classes: tuple[str, ...]
    before: Floats
    reason: str | None = None
    pixels: Grey | None = None
    area: float = 0.0
    recompute: Floats | None = None
    frozen: Floats | None = None
    drop: float = 0.0
    controls: tuple[tuple[float, float], ...] = ()
    controls_reason: str | None = None

    @property
    def disagreeing(self) -> tuple[str, ...]:
        """Classes whose probability differs by more than :data:`MODES_DIFFER` between recompute and frozen."""
        if self.recompute is None or self.frozen is None:
            return ()
        apart = np.abs(self.recompute - self.frozen) > MODES_DIFFER
        return tuple(name for name, differs in zip(self.classes, apart, strict=True) if differs)


def try_edit(analysis: Analysis, models: Models, request: Request) -> Outcome:
    """Edit the radiograph of an analysis and ask its network again.

    Lungs are those of the unedited radiograph: an edit must not move them.
    """
    pixels, classifier = analysis.radiograph.pixels, models.classifier
    nothing = partial(Outcome, request, analysis.target, classifier.classes, analysis.prediction.probabilities)
    found = _edits(analysis, request)
    if isinstance(found, str):
        return nothing(reason=found)
    edit, controls, controls_reason = found
    enhancement = analysis.settings.enhancement or classifier.card.enhancement

    def stack(grey: Grey) -> NDArray[np.uint8]:
        return classifier.prepare(look_at(grey, analysis.lungs, classifier.card.region)[0], enhancement)

    edited = edit(pixels)
    whole = classifier.card.region == "full" and request.kind != "opacity"
    stacks = [stack(edited), *(stack(control(pixels)) for control in controls)]
    if whole:
        channels = [edit(np.ascontiguousarray(channel)) for channel in analysis.stack.transpose(2, 0, 1)]
        stacks.append(np.stack(channels, axis=-1))
    # together, so that a click waits for one picture of another reader's LIME and not for one between any two of its own
    parts = [np.stack(stacks[first : first + BATCH]) for first in range(0, len(stacks), BATCH)]
    logits = np.concatenate([classifier.logits(part) for part in parts])
    target = classifier.classes.index(analysis.target)
    base = answers(analysis.prediction.logits[None], target)[0]
    asked = answers(logits, target)
    return nothing(
        pixels=edited,
        area=float((edited != pixels).mean()),
        recompute=softmax(logits[0]),
        frozen=softmax(logits[-1]) if whole else None,
        drop=base.logit - asked[0].logit,
        controls=tuple(
            (answer.probability - base.probability, base.logit - answer.logit)
            for answer in asked[1 : 1 + len(controls)]
        ),
        controls_reason=controls_reason,
    )


def _edits(analysis: Analysis, request: Request) -> tuple[Edit, tuple[Edit, ...], str | None] | str:
    """The edit, its control edits, and why there are none; or why there is no edit."""
    pixels, lungs = analysis.radiograph.pixels, analysis.lungs.mask
    rng = np.random.default_rng(analysis.settings.seed)
    if request.kind == "border":
        edit: Edit = partial(pad_border, width=request.width)
        return edit, control_paddings(pixels.shape, request.width, request.controls, rng), None
    if request.kind == "marker":
        markers = find_markers(pixels).drawn
        if not markers.any():
            return NO_MARKER
        controls = control_removals(markers, lungs, request.controls, rng)
        return partial(remove, mask=markers), controls, None if controls else NO_ROOM
    if request.kind == "box":
        if request.box is None:
            return NO_BOX
        boxes = control_boxes(request.box, lungs, request.controls, rng)
        edit = partial(hide, hidden=_mask(request.box, pixels.shape), fill=request.fill)
        controls = tuple(partial(hide, hidden=_mask(box, pixels.shape), fill=request.fill) for box in boxes)
        return edit, controls, None if controls else NO_ROOM
    if request.kind == "opacity":
        if not two_lungs(lungs):
            return NO_TWO_LUNGS
        return partial(add_opacity, lungs=lungs, number=request.number, share=STRENGTH), (), None
    if not lungs.any():
        return NO_LUNGS
    region = lung_region(lungs, "hull")
    hidden = region if request.kind == "lungs" else ~region
    return partial(hide, hidden=hidden, fill=request.fill), (), None


def _mask(box: Box, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, np.bool_)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    return mask


def control_boxes(box: Box, lungs: NDArray[np.bool_], count: int, rng: np.random.Generator) -> tuple[Box, ...]:
    """Boxes of the same size at random places off the first, as far in the lungs as it is (± 10 % of its area).

    None at all without room for `count` different ones.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    total = cv2.integral(lungs.astype(np.uint8)).astype(np.int64)
    inside = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    fits = np.abs(inside - inside[top, left]) <= 0.1 * width * height
    fits[max(0, top - height + 1) : bottom, max(0, left - width + 1) : right] = False
    places = np.flatnonzero(fits)
    if len(places) < count:
        return ()
    rows, columns = np.divmod(rng.choice(places, count, replace=False), fits.shape[1])
    return tuple((x, y, x + width, y + height) for x, y in zip(columns.tolist(), rows.tolist(), strict=True))


@dataclass(eq=False)
class Trial:
    """The tests of one answer while they run, and what came of them."""

    shown: int = 0
    audit: CaseAudit | None = None

    @property
    def complete(self) -> bool:
        """Whether there is a verdict."""
        return self.audit is not None


def audit_steps(analysis: Analysis, models: Models, cancel: threading.Event) -> Iterator[Trial]:
    """:func:`cxnet.verdict.audit` as work for the runner: one value that changes while the tests run."""
    trial = Trial()
    yield trial

    def count(pictures: int) -> None:
        trial.shown += pictures

    watched: Any = _jobs.Watched(models.classifier, cancel, count)
    try:
        trial.audit = audit(analysis, Models(watched, models.segmenter))
    except _jobs.Stopped:
        return
    yield trial


# --------------------------------------------------------------------------------------------------------------- page

MOST_SHOWN = 105  # edited pictures that the tests show a network at most: 92 of the causal tests, 5 and 8
VERDICTS = {
    "wrong reason": "Wrong reason: the answer hangs on something else than the lungs",
    "suspicious map": "Suspicious map: the maps lie in the lungs no more than by chance, but no causal test bears them out",
    "none found": "No wrong reason found",
    "undetermined": "Undetermined: neither a wrong reason found nor the answer cleared",
}
NAMES = {True: "a finding", False: "no finding"}
TURNED = {True: "turned", False: "did not turn", None: "could not be read"}
OPACITY_TITLES = {0: "Ground glass", 1: "Consolidation"}
FILL_TITLES = {"mean": "the mean grey", "blur": "a strong blur", "noise": "noise"}


def in_words(difference: float) -> str:
    """A change of a probability: how large, which way."""
    size = abs(difference)
    if size < 0.02:
        return "about the same"
    how = "slightly" if size < 0.1 else "clearly" if size < 0.3 else "far"
    return f"{how} {'higher' if difference > 0 else 'lower'}"


def signed(value: float) -> str:
    """Two digits and a sign, with a true minus."""
    return f"{value:+.2f}".replace("-", "−")


def compare(classes: tuple[str, ...], before: Floats, after: Floats, frozen: Floats | None = None) -> None:
    """Probabilities per class before and after as a table, and whether the predicted class flips."""
    rows = {
        "Before": [f"{p:.3f}" for p in before],
        "After": [f"{p:.3f}" for p in after],
        "Change": [f"{signed(b - a)} {in_words(b - a)}" for a, b in zip(before, after, strict=True)],
    }
    if frozen is not None:
        rows["After, frozen"] = [f"{p:.3f}" for p in frozen]
    st.table(pd.DataFrame(rows, index=pd.Index(classes, name="Class")))
    was, now = classes[int(before.argmax())], classes[int(after.argmax())]
    st.markdown(
        f"The predicted class **flips** from {was} to **{now}**." if was != now else f"It still says **{now}**."
    )


def take_box(analysis: Analysis, box: Box | None) -> None:
    """Ask for a box as soon as it was drawn."""
    drawn = (analysis.radiograph.sha256, box)
    if box is not None and st.session_state.get("whatif-drawn") != drawn:
        st.session_state["whatif-drawn"] = drawn
        _ask(analysis.radiograph.sha256, "box")


def section(analysis: Analysis, models: Models, box: Box | None, lime: _jobs.Job | None = None) -> None:
    """Buttons, the last outcome, and the verdict. `lime` is this analysis's LIME job, if there is one."""
    take_box(analysis, box)
    job = _verdict_job(analysis)
    st.subheader("What if …", divider="gray")
    st.fragment(what_if)(analysis, models, box)
    st.subheader("Is it the right reason?", divider="gray")
    if job is not None and job.active:
        _jobs.follow(job, _tested, "cancel-verdict")
    else:
        st.fragment(verdict_panel)(analysis, models, lime)


def _ask(sha256: str, kind: Kind, controls: int = FEW_CONTROLS) -> None:
    st.session_state["whatif-asked"] = (sha256, kind, controls)


def what_if(analysis: Analysis, models: Models, box: Box | None) -> None:
    """The buttons, and what the last of them did."""
    sha256 = analysis.radiograph.sha256
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for kind, title in KINDS.items():
            st.button(title, key=f"whatif-{kind}", on_click=_ask, args=(sha256, kind))
    with st.container(horizontal=True):
        fill = _session.setting(
            st.selectbox, "Hidden parts become", "whatif-fill", FILLS[0], list(FILLS), format_func=FILL_TITLES.get,
            width=200,
        )  # fmt: skip
        width = _session.setting(
            st.selectbox, "Width of the border", "whatif-width", BORDERS[1], list(BORDERS),
            format_func=lambda share: f"{100 * share:.0f} % of each side", width=200,
        )  # fmt: skip
        number = _session.setting(
            st.selectbox, "Drawn opacity", "whatif-opacity", DRAWN[0], list(DRAWN),
            format_func=lambda n: f"{OPACITY_TITLES[n % 2]} {1 + DRAWN.index(n) // 2}", width=200,
        )  # fmt: skip
    asked_for, kind, controls = st.session_state.get("whatif-asked", (None, "marker", FEW_CONTROLS))
    if asked_for != sha256:
        st.caption(
            "Each button takes something away from the radiograph, or draws an opacity into its lungs, and asks the network "
            "again. "
            "To hide a part of your own choice, press “Draw a box” above the pictures."
        )
        return
    request = Request(kind, fill, width, number, box if kind == "box" else None, controls)
    with st.spinner("Asking the network again …", show_time=False):
        found = outcome_of(analysis, models, request)
    show(found, sha256)


def outcome_of(analysis: Analysis, models: Models, request: Request) -> Outcome:
    """:func:`try_edit`, once a session for the same question."""
    kept: OrderedDict[Hashable, Outcome] = st.session_state.setdefault("whatif-outcomes", OrderedDict())
    _memory.hold(kept)
    settings = analysis.settings
    key = (analysis.radiograph.sha256, settings.model, settings.enhancement, settings.seed, analysis.target, request)
    if key not in kept:
        kept[key] = try_edit(analysis, models, request)
        while len(kept) > OUTCOMES_KEPT:
            kept.popitem(last=False)
        _session.within_budget()
    return kept[key]


def thumbnail(pixels: Grey) -> Grey:
    """Small enough for a column."""
    scale = THUMBNAIL_PX / max(pixels.shape)
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def show(found: Outcome, sha256: str) -> None:
    """An outcome: the edited picture beside the figures."""
    title = KINDS[found.request.kind]
    if found.reason is not None or found.recompute is None or found.pixels is None:
        st.info(f"**{title}**: undefined, because {found.reason}.", icon=":material/info:")
        return
    picture, figures = st.columns([1, 3])
    with picture:
        st.image(
            thumbnail(found.pixels), caption=f"{title}: {100 * found.area:.1f} % of the picture changed",
            width="stretch", alt=f"Edited radiograph: {title}",
        )  # fmt: skip
    with figures:
        number = found.classes.index(found.target)
        was, now = float(found.before[number]), float(found.recompute[number])
        st.markdown(
            f"**{title}**: {found.target} goes from {was:.3f} to **{now:.3f}**, {in_words(now - was)} "
            f"({signed(now - was)})."
        )
        compare(found.classes, found.before, found.recompute, found.frozen)
        if found.frozen is None:
            why = DRAWN_BEFORE if found.request.kind == "opacity" else PART_ONLY
            st.caption(f"No figure with frozen enhancement: {why}.")
        elif found.disagreeing:
            st.warning(
                f"Recomputed and frozen enhancement differ by more than {MODES_DIFFER} for "
                f"{', '.join(found.disagreeing)}: a part of the effect comes from the enhancement, not from what was "
                "taken away.",
                icon=":material/warning:",
            )
        else:
            st.caption(
                "“Frozen” edits the enhanced picture; “After” edits the radiograph and enhances it again. They agree "
                f"within {MODES_DIFFER}."
            )
        _controls(found, sha256)


def _controls(found: Outcome, sha256: str) -> None:
    """What the same edit does elsewhere."""
    kind, count = found.request.kind, len(found.controls)
    if kind in ("background", "lungs", "opacity"):
        return
    if not count:
        st.caption(f"No controls: {found.controls_reason}.")
        return
    changes = sorted(change for change, _ in found.controls)
    as_much = sum(drop >= found.drop for _, drop in found.controls)
    told = (
        f"**{count} control edits** of the same area elsewhere change {found.target} by {signed(changes[0])} to "
        f"{signed(changes[-1])}; {as_much} of {count} lower its logit at least as much as this one "
        f"({signed(-found.drop)} logits)."
    )
    if count >= CONTROLS:
        st.markdown(f"{told} One-sided p = {(1 + as_much) / (1 + count):.3f}.")
        return
    st.markdown(f"{told} So few can hint, not prove.")
    st.button(f"With {CONTROLS} controls", key="whatif-controls", on_click=_ask, args=(sha256, kind, CONTROLS))


# ------------------------------------------------------------------------------------------------------------ verdict


def _verdict_job(analysis: Analysis) -> _jobs.Job | None:
    """The job of the verdict on these maps; or one that still works without LIME's map, so that it can be cancelled."""
    job, before = (_session.job_of(_session.maps_key("verdict", analysis, lime)) for lime in (True, False))
    return before if job is None and before is not None and before.active else job


def audit_of(analysis: Analysis) -> CaseAudit | None:
    """The verdict on these maps, if this session has asked for it."""
    job = _session.job_of(_session.maps_key("verdict", analysis))
    found: CaseAudit | None = job.partial.audit if job is not None and job.state == "done" else None
    return found


def _tested(trial: Trial | None) -> tuple[float, str]:
    """How far the tests are."""
    shown = 0 if trial is None else trial.shown
    return shown / MOST_SHOWN, f"{shown} edited pictures shown so far"


def verdict_panel(analysis: Analysis, models: Models, lime: _jobs.Job | None) -> None:
    """Start button; or the verdict."""
    key = _session.maps_key("verdict", analysis)
    job = _verdict_job(analysis)
    found = audit_of(analysis)
    if found is not None:
        show_verdict(found, analysis)
        return
    if job is not None and job.state == "failed":
        st.error(job.error or "The tests failed.", icon=":material/error:")
    elif job is not None:
        st.info("The tests were stopped before they came to a verdict.", icon=":material/stop_circle:")
    else:
        before = _session.job_of(_session.maps_key("verdict", analysis, lime=False))
        if before is not None and before.state == "done":
            st.info(
                "LIME's map was not there when the reason was tested; test again to have it judged as well.",
                icon=":material/info:",
            )
    st.caption(
        "Shows the network edited pictures (without lungs, without background, markers or border, with other contrast "
        "and sharpness) and judges by two keys: what the maps show and what the network needs."
    )
    waits = lime is not None and lime.active
    if waits:
        st.caption("LIME is at work, and its map counts in the verdict: test the reason when it is done, or cancel it.")
    if st.button("Test the reason", type="primary", key="run-verdict", disabled=waits) and not waits:
        try:
            _session.start_job(key, _jobs.submit("verdict", partial(audit_steps, analysis, models)))
        except CxnetError as error:
            st.error(str(error), icon=":material/error:")
        else:
            st.rerun()


def show_verdict(found: CaseAudit, analysis: Analysis) -> None:
    """The verdict in words, its keys, facts and figures."""
    verdict = found.verdict
    told, icon = {
        "wrong reason": (st.error, ":material/flag:"), "suspicious map": (st.warning, ":material/warning:"), "none found": (st.info, ":material/search:"),
    }.get(verdict.name, (st.info, ":material/help:"))  # fmt: skip
    told(f"**{VERDICTS[verdict.name]}**", icon=icon)
    st.markdown(
        f"For the answer **{analysis.target}**: the map key **{TURNED[verdict.map_key]}**, the causal key "
        f"**{TURNED[verdict.causal_key]}**."
    )
    if verdict.facts:
        st.markdown("\n".join(f"- {fact[0].upper()}{fact[1:]}" for fact in verdict.facts))
    st.table(evidence_rows(verdict))
    rows = [
        (
            score.name,
            None if score.value is None else round(score.value, 3),
            score.unit,
            ", ".join(f"{name} {value:.3f}" for name, value in score.null.items()),
            score.reason or "",
        )
        for score in found.scores
    ]
    with st.expander("All causal figures as a table"):
        names = ["Figure", "Value", "Unit", "What to expect without a reason", "Undefined because"]
        st.dataframe(pd.DataFrame(rows, columns=names), hide_index=True, width="stretch")
        disagree = found.causal.modes_disagree
        if disagree:
            st.caption(
                f"Recomputed and frozen enhancement differ by more than {MODES_DIFFER} in: {', '.join(disagree)}."
            )
    st.caption(
        f"Thresholds, version {verdict.thresholds_version} ({thresholds().source.rstrip('.')}); {found.passes} pictures "
        "were shown to the network. **No wrong reason found is not a right reason proven.**"
    )


def evidence_rows(verdict: Verdict) -> pd.DataFrame:
    """How strongly each causal test speaks, beside the line from which it turns, or why it was not made."""
    lines = thresholds().lines(verdict.usual, verdict.finding)
    rows = []
    for name, meaning in TESTS.items():
        value = verdict.evidence.values[name]
        if name in verdict.asked:
            turns = f"from {lines[name]:.2f}"
        elif name in lines:
            turns = "not asked of a network that is shown nothing but the lungs"
        else:
            turns = f"not asked of an answer that names {NAMES[verdict.finding]}"
        rows.append((meaning, "undefined" if value is None else signed(value), turns))
    left, most = verdict.evidence.without_lungs, thresholds().most_without_lungs * verdict.usual
    rows.append(
        (
            "no key: hiding the lungs leaves too much of the evidence for “none found”",
            "undefined" if left is None else signed(left),
            f"from {most:.2f}" if verdict.finding else f"not asked of an answer that names {NAMES[verdict.finding]}",
        )
    )
    names = ["Would mean", "Evidence, logits", "Turns"]
    return pd.DataFrame(rows, columns=names, index=pd.Index([*TESTS, "without lungs"], name="Causal test"))
