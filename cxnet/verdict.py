"""Is the answer given for a wrong reason? Two keys: what the maps show, and what the network needs.

The **map key** turns when every map that can be read lies outside the lungs more than its shifted copies do. The
**causal key** turns when a picture without lungs keeps the answer, when taking away a marker or the border costs it
more than control edits do, or when a change of appearance alone overthrows it. The causal key decides:

================== ==================================================================================
wrong reason       the causal key turned (the maps show it: visible; they do not: hidden)
suspicious map     the map key alone turned; a map can accuse an innocent network [1]_
none found         neither turned. That is no proof of a right reason: nobody can give one
undetermined       something that the tests stand on has failed
================== ==================================================================================

All thresholds come from ``thresholds.toml``, which the exam writes (:mod:`cxnet.exam`).

References
----------
.. [1] Adebayo J et al. Post hoc explanations may be ineffective for detecting unknown spurious correlation.
       ICLR 2022. arXiv:2212.04629
.. [2] Maguolo G, Nanni L. A critic evaluation of methods for COVID-19 automatic detection from X-ray images.
       Inf Fusion 2021. doi:10.1016/j.inffus.2021.04.008
.. [3] DeGrave AJ, Janizek JD, Lee SI. AI for radiographic COVID-19 detection selects shortcuts over signal.
       Nat Mach Intell 2021. doi:10.1038/s42256-021-00338-7
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.analysis import Analysis, Models
from cxnet.audit import FILLS, Answer, AuditScore, CausalTests, answers, causal_tests, find_markers, hide
from cxnet.audit.causal import Tier
from cxnet.enhance import Grey
from cxnet.errors import WeightsError
from cxnet.explain import METHODS, Explanation
from cxnet.lungs import LungMask, look_at

Name = Literal["wrong reason", "suspicious map", "none found", "undetermined"]
NAMES: tuple[Name, ...] = ("wrong reason", "suspicious map", "undetermined", "none found")

THRESHOLDS = Path(__file__).with_name("thresholds.toml")
#: Edited pictures need no more pixels than this on their longer side: twice the largest network's input.
LONGEST_PX = 640


@dataclass(frozen=True)
class Thresholds:
    """Where the lines are drawn.

    Parameters
    ----------
    version : int
    source : str
        Which exam gave them.
    least_z, least_lift : float
        A map below either of them turns against the network.
    background, marker, border, appearance : float
        Evidence in logits from which a causal test turns.
    edit_p : float
        Largest p value of an edit against its controls.
    least_local_r2 : float
        LIME's map is read from this held-out R² on.
    """

    version: int
    source: str
    least_z: float
    least_lift: float
    background: float
    marker: float
    border: float
    appearance: float
    edit_p: float
    least_local_r2: float


@cache
def thresholds(path: Path = THRESHOLDS) -> Thresholds:
    """The thresholds of the last exam.

    Raises
    ------
    WeightsError
        If the file is missing or cannot be understood.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
        return Thresholds(
            version=int(found["version"]), source=str(found["source"]),
            **{name: float(value) for part in ("map", "causal", "gates") for name, value in found[part].items()},
        )  # fmt: skip
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path.name} cannot be understood ({error}); restore it from the repository.") from error


@dataclass(frozen=True)
class Evidence:
    """How strongly each causal test speaks against the network, in logits of the explained class; None if undefined.

    Parameters
    ----------
    background : float or None
        Median over the fills of how far everything but the lungs lifts the class over chance, and over what a picture
        with nothing in it gets [2]_: a network that calls every blank picture normal is not accused for it.
    marker, border : float or None
        Drop by the edit, less the 95th percentile of the control edits' drops [3]_.
    appearance : float or None
        Largest drop by a change of gamma, contrast, sharpness, compression or resolution.
    """

    background: float | None
    marker: float | None
    border: float | None
    appearance: float | None

    @property
    def values(self) -> Mapping[str, float | None]:
        """All of them by name."""
        return MappingProxyType({name: getattr(self, name) for name in TESTS})


#: Causal test → what it says when it turns.
TESTS = {
    "background": "everything but the lungs is enough for the answer",
    "marker": "the answer hangs on burned-in text or a marker",
    "border": "the answer hangs on the border of the picture",
    "appearance": "a change of contrast, brightness or sharpness alone overthrows the answer",
}


@dataclass(frozen=True)
class Verdict:
    """What the two keys say of one answer.

    Parameters
    ----------
    name : {"wrong reason", "suspicious map", "none found", "undetermined"}
    map_key, causal_key : bool or None
        Whether they turned; None where they could not be tried.
    facts : tuple of str
        Why, as short sentences.
    evidence : Evidence
    thresholds_version : int
    """

    name: Name
    map_key: bool | None
    causal_key: bool | None
    facts: tuple[str, ...]
    evidence: Evidence
    thresholds_version: int

    @property
    def strength(self) -> float:
        """Largest causal evidence over its threshold; from 1 on the causal key turns. 0 if nothing could be tried."""
        limits = thresholds()
        shares = [v / getattr(limits, name) for name, v in self.evidence.values.items() if v is not None]
        return max(shares, default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "verdict": self.name,
            "map_key": self.map_key,
            "causal_key": self.causal_key,
            "facts": list(self.facts),
            "evidence_logits": dict(self.evidence.values),
            "thresholds_version": self.thresholds_version,
        }


@dataclass(frozen=True, eq=False)
class CaseAudit:
    """The causal tests of one answer and the verdict.

    Parameters
    ----------
    causal : CausalTests
    blank : tuple of Answer
        For pictures with nothing in them: the mean grey, and noise.
    verdict : Verdict
    passes : int
        Pictures that the network was shown.
    """

    causal: CausalTests
    blank: tuple[Answer, ...]
    verdict: Verdict
    passes: int

    @property
    def scores(self) -> tuple[AuditScore, ...]:
        """All causal figures."""
        return self.causal.scores


def audit(analysis: Analysis, models: Models, tier: Tier = "full") -> CaseAudit:
    """Run the causal tests for the explained class of an analysis, and judge.

    Lungs are found once, in the radiograph as it is: an edit must not move them.
    """
    pixels, lungs = _small(analysis.radiograph.pixels), analysis.lungs
    mask = lungs.mask
    if pixels.shape != mask.shape:
        resized = cv2.resize(mask.astype(np.uint8), pixels.shape[::-1], interpolation=cv2.INTER_NEAREST)
        mask = np.asarray(resized, np.bool_)
        lungs = LungMask(mask, lungs.source, lungs.convention)
    classifier = models.classifier
    enhancement = analysis.settings.enhancement or classifier.card.enhancement

    def stack(grey: Grey) -> NDArray[np.uint8]:
        return classifier.prepare(look_at(grey, lungs, classifier.card.region)[0], enhancement)

    target = classifier.classes.index(analysis.target)
    causal = causal_tests(pixels, mask, classifier.logits, stack, target, markers=find_markers(pixels).mask, tier=tier)
    everything = np.ones(pixels.shape, np.bool_)
    blanks = np.stack([stack(hide(pixels, everything, fill)) for fill in ("mean", "noise")])
    blank = answers(classifier.logits(blanks), target)
    found = judge(analysis.explanations, analysis.scores, causal, blank, analysis.lungs)
    return CaseAudit(causal, blank, found, causal.passes + len(blanks))


def _small(pixels: Grey) -> Grey:
    scale = LONGEST_PX / max(pixels.shape)
    if scale >= 1:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def evidence(causal: CausalTests, blank: tuple[Answer, ...]) -> Evidence:
    """How strongly each causal test speaks; see :class:`Evidence`."""
    chance = -math.log(causal.classes - 1)
    floor = max([chance, *(answer.logit for answer in blank)])
    # hull and box must agree: the hull's outline may tell of the lungs, the box hides more than lungs
    tests = [causal.region("background-only", shape) for shape in ("hull", "box")]
    lifts = [median(test.recompute[f].logit - floor for f in FILLS) for test in tests if test.reason is None]
    edits = {}
    for edit in (causal.marker, causal.border):
        over = None
        if edit.drop is not None and edit.controls:
            over = edit.drop - float(np.percentile(edit.controls, 95))
        edits[edit.name] = over
    drops = [-change for sweep in causal.sweeps for change in sweep.changes] if causal.sweeps else []
    return Evidence(
        background=min(lifts) if lifts else None,
        marker=edits[causal.marker.name],
        border=edits[causal.border.name],
        appearance=max(drops) if drops else None,
    )


def judge(
    explanations: Mapping[str, Explanation],
    scores: Mapping[str, tuple[AuditScore, ...]],
    causal: CausalTests,
    blank: tuple[Answer, ...],
    lungs: LungMask,
    limits: Thresholds | None = None,
) -> Verdict:
    """The verdict on one answer.

    Parameters
    ----------
    explanations, scores : mappings by method
        As :class:`cxnet.analysis.Analysis` has them.
    causal : CausalTests
    blank : tuple of Answer
        For pictures with nothing in them.
    lungs : LungMask
    limits : Thresholds, optional
        :func:`thresholds` when left out.
    """
    limits = limits or thresholds()
    found = evidence(causal, blank)
    turned = {name: _turned(name, value, causal, limits) for name, value in found.values.items()}
    tried = [value for value in turned.values() if value is not None]
    causal_key = any(tried) if tried else None
    map_key, facts = _map_key(explanations, scores, limits)
    facts = [
        *(f"{TESTS[name]} ({found.values[name]:+.1f} logits)" for name, value in turned.items() if value),
        *facts,
    ]
    name: Name
    if not lungs.ok:
        name, facts = "undetermined", [f"the lung outline may be wrong: {'; '.join(lungs.reasons)}", *facts]
    elif causal_key is None:
        name, facts = "undetermined", ["no causal test could be made", *facts]
    elif causal_key:
        name = "wrong reason"
        if map_key is not None:
            facts.append("the maps show it" if map_key else "the maps do not show it")
    else:
        name = "suspicious map" if map_key else "none found"
    return Verdict(name, map_key, causal_key, tuple(facts), found, limits.version)


def _turned(name: str, value: float | None, causal: CausalTests, limits: Thresholds) -> bool | None:
    if value is None:
        return None
    if value < getattr(limits, name):
        return False
    if name in ("marker", "border"):
        p_value = (causal.marker if name == "marker" else causal.border).p_value
        return p_value is not None and p_value <= limits.edit_p
    return True


def _map_key(
    explanations: Mapping[str, Explanation], scores: Mapping[str, tuple[AuditScore, ...]], limits: Thresholds
) -> tuple[bool | None, list[str]]:
    """Whether every map that can be read lies outside the lungs, and what each says."""
    votes, facts = [], []
    for method, explanation in explanations.items():
        if not explanation.finished:
            continue
        r2 = explanation.r2_held_out if explanation.r2_held_out is not None else explanation.r2
        if explanation.signed and (r2 is None or r2 < limits.least_local_r2):
            facts.append(f"{METHODS[method]} is not read: its surrogate does not follow the network")
            continue
        values = {score.name: score.value for score in scores[method]}
        z, lift = values.get("z against shifted copies"), values.get("lift")
        if z is None or lift is None:
            facts.append(f"{METHODS[method]} has no figures: there is nothing to read")
            continue
        outside = z < limits.least_z or lift < limits.least_lift
        votes.append(outside)
        if outside:
            facts.append(f"{METHODS[method]} lies outside the lungs (lift {lift:.2f}, z {z:+.1f})")
    return (all(votes) if votes else None), facts
