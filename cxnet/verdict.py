"""Is the answer given for a wrong reason? Two keys: what the maps show, and what the network needs.

The **map key** turns when every map that can be read lies in the lungs less than its shifted copies or an even map do. The
**causal key** turns when everything but the lungs carries the answer better than the lungs do, when taking away a
marker or the border costs it more than control edits do, or when a change of appearance of everything but the lungs
overthrows it. The causal key decides:

================== ==================================================================================
wrong reason       the causal key turned (the maps show it: visible; they do not: hidden)
suspicious map     the map key alone turned; a map can accuse an innocent network [1]_
none found         neither turned. That is no proof of a right reason: nobody can give one
undetermined       something that the tests stand on has failed, or the answer cannot be cleared
================== ==================================================================================

*None found* needs more than that neither turned: some edit must move the answer at all, and one that names a finding must
lose its evidence when the lungs are hidden. If it does not, something else suffices for it, whatever the lungs add. That
accuses nobody, since networks that must read the lungs may take the hole for a finding (in the exam 80 of 92 such answers
on phantoms and 25 of 156 on real radiographs, against 183 of 191 and 154 of 187 of cheats); it is *undetermined*.

An answer that names no finding ("Normal", :data:`cxnet.wrong_reasons.NO_FINDING`) has nothing in the lungs that could
be taken away, so that the lungs alone need not carry it and their surroundings may. It is put to other tests
(:data:`ASKED`): a marker or the border, and whether it moves when opacities are drawn into the lungs. If it does not,
the network may look elsewhere or may not know such opacities. So that test accuses nobody either.

Of a network that is shown nothing but the lungs ("lung-mask"), their surroundings cannot be asked; what is left when the
lungs are hidden is their outline.

Thresholds come from ``thresholds.toml``, which the exam writes (:mod:`cxnet.exam`). Those of the causal tests are shares of
the evidence that the network's right answers usually have (:func:`usual_evidence`): logits of one network are not those of
another. Answers that name a finding have lines of their own: "normal" hangs on the border more, of clean networks too.

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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, median
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.analysis import Analysis, Models
from cxnet.architectures import Region
from cxnet.audit import (
    FILLS,
    PROBES,
    SHAPES,
    Answer,
    AuditScore,
    CausalTests,
    add_opacity,
    answers,
    causal_tests,
    find_markers,
    lung_region,
    two_lungs,
)
from cxnet.audit.causal import BORDER, MARKER, Predict, Stack, Tier
from cxnet.audit.edits import Fill
from cxnet.audit.localisation import Mask
from cxnet.audit.opacities import DRAWN, STRENGTH
from cxnet.enhance import Grey
from cxnet.errors import DatasetError
from cxnet.explain import METHODS, Explanation
from cxnet.lungs import LungMask, look_at
from cxnet.runs import find_run, open_run
from cxnet.thresholds import ACCUSES_NOBODY, LEAST_USUAL, NOT_ASKED, TESTS, Thresholds, asked, thresholds
from cxnet.weights import Card
from cxnet.wrong_reasons import names_finding

Name = Literal["wrong reason", "suspicious map", "none found", "undetermined"]
NAMES: tuple[Name, ...] = ("wrong reason", "suspicious map", "undetermined", "none found")

#: Edited pictures need no more pixels than this on their longer side: twice the largest network's input.
LONGEST_PX = 640
#: How the surroundings of the lungs are changed: a probe of :data:`cxnet.audit.PROBES` and its level.
SURROUNDINGS = (("gamma", 0.7), ("gamma", 1.4), ("contrast", 0.6), ("contrast", 1.6), ("blur", 0.008))
#: A map is said to lie outside the lungs from this z down (about 5 % of its shifted copies do, if they scatter normally), above it
#: to lie there no more than by chance. Only the words differ: the map key has its own lines.
LESS_THAN_CHANCE = -1.64
#: Width of the seam between lungs and changed surroundings, as a fraction of the shorter side.
SEAM = 0.02


@dataclass(frozen=True)
class Evidence:
    """How strongly each causal test speaks against the network, in logits of the explained class; None if undefined.

    Parameters
    ----------
    background : float or None
        How much better everything but the lungs speaks for the class than the lungs alone do [2]_, counting no more
        than the whole picture does; or than chance would, if that is less. Fill by fill, then the median over fills
        and both outlines of the lungs, or the mean over outlines with the blur, the fill that is least strange to a
        network, if that is more. A network that reads nothing but lungs has at most 0: the lungs alone give it
        its answer, whatever it makes of the hole. One that calls every picture without a lesion normal says so of
        either part and has 0.
    marker, border : float or None
        Drop by the edit, less the largest drop by a control edit that was tried [3]_: from the test's line on, all 30
        were and none did as much, so that p = 1/31.
    appearance : float or None
        Largest drop by a change of gamma, contrast or sharpness of everything but the lungs. Their own appearance is
        no wrong reason: opacities are a change of contrast and sharpness in the lungs.
    opacity : float or None
        Of an answer that names no finding: what drawn opacities leave of the network's usual evidence, that is the
        usual evidence less the mean drop by them.
    without_lungs : float or None
        What is left when the lungs' hull is hidden: logits over chance, median over the fills. It belongs to no test
        and accuses nobody.
    moved : float or None
        The largest change of the logit by any edit, either way. It belongs to no test.
    """

    background: float | None
    marker: float | None
    border: float | None
    appearance: float | None
    opacity: float | None = None
    without_lungs: float | None = None
    moved: float | None = None

    @property
    def values(self) -> Mapping[str, float | None]:
        """Those of the causal tests, by name."""
        return MappingProxyType({name: getattr(self, name) for name in TESTS})

    def strength(self, limits: Thresholds, usual: float, finding: bool = True) -> float | None:
        """Largest evidence over its threshold: from 1 on a test turns. None if nothing could be tried.

        Of the tests that an answer is put to which names a `finding`, or none.
        """
        tried = {name: (self.values[name], line) for name, line in limits.lines(usual, finding).items()}
        return max((value / line for value, line in tried.values() if value is not None), default=None)


OWN_LINES = "how strongly this network usually answers is not known, so the lines come from this answer's own evidence"
SHOWN_LUNGS_ONLY = "this network is shown nothing but the lungs: their surroundings were not asked"
NO_CONTROLS = "taking burned-in text or markers away costs the answer as much as would accuse it, but nothing is there to compare with"
ANOTHER_ANSWER = "the network gives another answer: nothing can be said of the reasons for this one"


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
    usual : float
        Logits over chance that the network's right answers usually have; a threshold times this is a test's line.
    thresholds_version : int
    finding : bool
        Whether the answer names a finding.
    region : {"full", "lung-crop", "lung-mask", "background"}
        What of a radiograph the network is shown. Both decide on the tests.
    """

    name: Name
    map_key: bool | None
    causal_key: bool | None
    facts: tuple[str, ...]
    evidence: Evidence
    usual: float
    thresholds_version: int
    finding: bool = True
    region: Region = "full"

    @property
    def asked(self) -> tuple[str, ...]:
        """The causal tests that the answer was put to."""
        return asked(self.finding, self.region)

    @property
    def strength(self) -> float:
        """Largest causal evidence over its threshold; from 1 on a test turns. 0 if nothing could be tried."""
        return self.evidence.strength(thresholds(), self.usual, self.finding) or 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "verdict": self.name,
            "map_key": self.map_key,
            "causal_key": self.causal_key,
            "facts": list(self.facts),
            "evidence_logits": dict(self.evidence.values),
            "evidence_without_lungs_logits": self.evidence.without_lungs,
            "largest_change_logits": self.evidence.moved,
            "usual_evidence_logits": self.usual,
            "thresholds_version": self.thresholds_version,
            "tests_asked": list(self.asked),
        }


@dataclass(frozen=True, eq=False)
class CaseAudit:
    """The causal tests of one answer and the verdict.

    Parameters
    ----------
    causal : CausalTests
    surroundings : tuple of Answer
        With everything but the lungs changed as :data:`SURROUNDINGS` says.
    opacities : tuple of Answer
        With each opacity of :data:`cxnet.audit.opacities.DRAWN` in the lungs; none for an answer that names a finding.
    verdict : Verdict
    passes : int
        Pictures that the network was shown.
    """

    causal: CausalTests
    surroundings: tuple[Answer, ...]
    opacities: tuple[Answer, ...]
    verdict: Verdict
    passes: int

    @property
    def scores(self) -> tuple[AuditScore, ...]:
        """All causal figures."""
        return self.causal.scores


def audit(analysis: Analysis, models: Models, tier: Tier = "full") -> CaseAudit:
    """Run the causal tests for the explained class of an analysis, and judge.

    Lungs are found once, in the radiograph as it is: an edit must not move them. Of a network that sees a crop only,
    the crop is edited.
    """
    pixels, lungs = _small(analysis.radiograph.pixels), analysis.lungs
    mask = lungs.mask
    if pixels.shape != mask.shape:
        resized = cv2.resize(mask.astype(np.uint8), pixels.shape[::-1], interpolation=cv2.INTER_NEAREST)
        mask = np.asarray(resized, np.bool_)
        lungs = LungMask(mask, lungs.source, lungs.convention)
    classifier, shown = models.classifier, models.classifier.card.region
    enhancement = analysis.settings.enhancement or classifier.card.enhancement
    crops = shown == "lung-crop"
    if crops:
        pixels, crop = look_at(pixels, lungs, shown)
        mask = np.ascontiguousarray(mask[crop.top : crop.bottom, crop.left : crop.right])

    def stack(grey: Grey) -> NDArray[np.uint8]:
        return classifier.prepare(grey if crops else look_at(grey, lungs, shown)[0], enhancement)

    target = classifier.classes.index(analysis.target)
    usual = usual_evidence(classifier.card)
    finding = names_finding(analysis.target)
    lines = {} if usual is None else thresholds().lines(usual, finding)
    matters = {MARKER: lines["marker"], BORDER: lines["border"]} if lines else None
    causal = causal_tests(
        pixels, mask, classifier.logits, stack, target, find_markers(pixels).drawn, tier=tier, matters=matters
    )
    changed = () if shown == "lung-mask" else surroundings(pixels, mask, classifier.logits, stack, target)
    drawn = () if finding else with_opacities(pixels, mask, classifier.logits, stack, target)
    found = judge(
        analysis.explanations, analysis.scores, causal, changed, analysis.lungs, usual, finding=finding, drawn=drawn,
        region=shown,
    )  # fmt: skip
    return CaseAudit(causal, changed, drawn, found, causal.passes + len(changed) + len(drawn))


def surroundings(pixels: Grey, lungs: Mask, predict: Predict, stack: Stack, target: int) -> tuple[Answer, ...]:
    """What the network says while only what surrounds the lungs looks otherwise; arguments of :func:`causal_tests`.

    The lungs' dilated hull stays as it is, with a soft seam; one answer for each of :data:`SURROUNDINGS`, none for a
    picture without lungs.
    """
    hull = lung_region(lungs, "hull")
    if not hull.any():
        return ()
    kept = np.maximum(hull, np.minimum(1.0, 2 * cv2.GaussianBlur(hull.astype(float), (0, 0), SEAM * min(pixels.shape))))
    pictures = []
    for name, level in SURROUNDINGS:
        mixed = kept * pixels + (1 - kept) * PROBES[name].change(pixels, level)
        pictures.append(stack(np.rint(mixed).astype(np.uint8)))
    return answers(predict(np.stack(pictures)), target)


def with_opacities(pixels: Grey, lungs: Mask, predict: Predict, stack: Stack, target: int) -> tuple[Answer, ...]:
    """What the network says with opacities drawn into the lungs; arguments of :func:`causal_tests`.

    One answer for each of :data:`cxnet.audit.opacities.DRAWN`, none for a picture without two lungs.
    """
    if not two_lungs(lungs):
        return ()
    pictures = [stack(add_opacity(pixels, lungs, number, STRENGTH)) for number in DRAWN]
    return answers(predict(np.stack(pictures)), target)


def _small(pixels: Grey) -> Grey:
    scale = LONGEST_PX / max(pixels.shape)
    if scale >= 1:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def evidence(
    causal: CausalTests,
    changed: tuple[Answer, ...],
    drawn: tuple[Answer, ...] = (),
    usual: float = LEAST_USUAL,
    *,
    region: Region = "full",
) -> Evidence:
    """How strongly each causal test speaks; see :class:`Evidence`.

    `usual` is needed with `drawn` alone, `region` is what of a radiograph the network is shown. If that is nothing but
    the lungs, their surroundings are not asked: what stands there never reaches it.
    """
    chance = -math.log(causal.classes - 1)
    parts: dict[Fill, list[float]] = {fill: [] for fill in FILLS}
    for shape in SHAPES:
        without, only = causal.region("background-only", shape).recompute, causal.region("lungs-only", shape).recompute
        for fill, answer in without.items():
            over_lungs = min(answer.logit, causal.base.logit) - only[fill].logit
            parts[fill].append(min(over_lungs, answer.logit - chance))
    tried = [value for values in parts.values() for value in values]
    hidden = causal.region("background-only").logit
    shown = [
        *(answer for test in causal.regions for answer in test.recompute.values()),
        *(answer for edit in (causal.marker, causal.border) for answer in edit.asked),
        *(answer for sweep in causal.sweeps for answer in sweep.answers),
        *changed,
        *drawn,
    ]
    edits = {}
    for edit in (causal.marker, causal.border):
        over = None
        if edit.drop is not None and edit.controls:
            over = edit.drop - max(edit.controls)
        edits[edit.name] = over
    found = {
        "background": max(median(tried), mean(parts["blur"])) if tried else None,
        "marker": edits[causal.marker.name],
        "border": edits[causal.border.name],
        "appearance": max(causal.base.logit - answer.logit for answer in changed) if changed else None,
        "opacity": usual - mean(causal.base.logit - answer.logit for answer in drawn) if drawn else None,
    }
    found |= dict.fromkeys(NOT_ASKED.get(region, ()))
    return Evidence(
        **found,
        without_lungs=None if hidden is None else hidden - chance,
        moved=max((abs(causal.base.logit - answer.logit) for answer in shown), default=None),
    )


def over_chance(probability: float, classes: int) -> float:
    """Logit of a probability less that of 1 / `classes`: how far an answer stands above guessing."""
    kept = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(kept / (1 - kept)) + math.log(classes - 1)


def usual_evidence(card: Card) -> float | None:
    """Median logit over chance of a network's right answers in its fold, as in the exam that drew the lines.

    None without a stored run of it, or without a right answer.
    """
    return None if card.run is None else _usual(*card.run, card.folder)


@cache
def _usual(name: str, fold: int, folder: Path) -> float | None:
    try:
        run = open_run(folder) if (folder / "run.json").is_file() else find_run(name)
        table = run.results(fold)
    except DatasetError:  # weights may come without their run
        return None
    table = table[table["true"] == table["predicted"]]
    probabilities = run.probabilities(table)
    if probabilities is None or table.empty:
        return None
    return median(over_chance(float(p), len(run.classes)) for p in probabilities.max(axis=1))


def judge(
    explanations: Mapping[str, Explanation],
    scores: Mapping[str, tuple[AuditScore, ...]],
    causal: CausalTests,
    changed: tuple[Answer, ...],
    lungs: LungMask,
    usual: float | None = None,
    limits: Thresholds | None = None,
    *,
    finding: bool = True,
    drawn: tuple[Answer, ...] = (),
    region: Region = "full",
) -> Verdict:
    """The verdict on one answer.

    Parameters
    ----------
    explanations, scores : mappings by method
        As :class:`cxnet.analysis.Analysis` has them.
    causal : CausalTests
    changed : tuple of Answer
        Of :func:`surroundings`.
    lungs : LungMask
    usual : float, optional
        Of :func:`usual_evidence`; this answer's own evidence when it is not known.
    limits : Thresholds, optional
        :func:`thresholds` when left out.
    finding : bool
        Of :func:`names_finding`.
    drawn : tuple of Answer
        Of :func:`with_opacities`.
    region : {"full", "lung-crop", "lung-mask", "background"}
        What of a radiograph the network is shown.
    """
    limits = limits or thresholds()
    differ = ", ".join(causal.modes_disagree)
    notes = [f"a part of what an edit does comes from the enhancement that follows it: {differ}"] if differ else []
    if usual is None:
        usual = causal.base.logit + math.log(causal.classes - 1)
        notes.append(OWN_LINES)
    usual = max(usual, LEAST_USUAL)
    found = evidence(causal, changed, drawn, usual, region=region)
    alone = not causal.marker.controls and (causal.marker.drop or 0.0) >= limits.lines(usual, finding)["marker"]
    notes += [f"{NO_CONTROLS}: {causal.marker.controls_reason}"] if alone else []
    turned, facts = _map_key(explanations, scores, limits)
    answered = causal.base.predicted == causal.target
    return _conclude(found, (turned, facts + notes), lungs, usual, limits, finding, answered, region, alone)


def _conclude(
    found: Evidence,
    maps: tuple[bool | None, list[str]],
    lungs: LungMask,
    usual: float,
    limits: Thresholds,
    finding: bool,
    answered: bool = True,
    region: Region = "full",
    unsure: bool = False,
) -> Verdict:
    """The verdict from what the tests found.

    `maps` is what the maps say and all facts that stand whatever the verdict, `usual` at least :data:`LEAST_USUAL`; `answered`
    tells whether the network gives this answer at all, `unsure` whether what no test could use keeps it from being cleared.
    """
    lines = limits.lines(usual, finding)
    turned = [name for name, line in lines.items() if (value := found.values[name]) is not None and value >= line]
    tried = found.strength(limits, usual, finding) is not None
    accused = [name for name in turned if name not in ACCUSES_NOBODY]
    causal_key = bool(accused) if tried and (accused or not turned) else None
    map_key, facts = maps
    facts = [
        *(f"{TESTS[name]} ({found.values[name]:+.1f} logits, turns at {lines[name]:.1f})" for name in turned),
        *([SHOWN_LUNGS_ONLY] if region == "lung-mask" else []),
        *facts,
    ]
    left, most = found.without_lungs, limits.most_without_lungs * usual
    stays = finding and left is not None and left >= most
    if left is not None and stays:
        what = "from the lungs' outline alone" if region == "lung-mask" else "with the lungs hidden"
        facts.insert(
            len(turned),
            f"the answer is given {what} ({left:+.1f} logits over chance, cleared below {most:.1f}); a hole can look like "
            "a finding, so this accuses nobody",
        )
    still = found.moved is not None and found.moved < limits.least_moved * usual
    if still:
        facts.insert(
            0,
            f"no edit moved the answer by more than {found.moved:.2f} logits: nothing could be learned of its reasons",
        )
    name: Name
    if not lungs.ok:
        name, facts = "undetermined", [f"the lung outline may be wrong: {'; '.join(lungs.reasons)}", *facts]
    elif not answered:
        # what a test takes from a class that the network does not call is no reason of its answer
        name, causal_key, facts = "undetermined", None, [ANOTHER_ANSWER, *facts]
    elif not tried:
        name, facts = "undetermined", ["no causal test could be made", *facts]
    elif causal_key:
        name = "wrong reason"
        if map_key is not None:
            facts.append("the maps show it" if map_key else "the maps do not show it")
    elif map_key:
        name = "suspicious map"
    elif finding and left is None:
        name, facts = "undetermined", ["the lungs could not be hidden", *facts]
    else:
        name = "undetermined" if turned or still or stays or unsure else "none found"
    return Verdict(name, map_key, causal_key, tuple(facts), found, usual, limits.version, finding, region)


def _map_key(
    explanations: Mapping[str, Explanation], scores: Mapping[str, tuple[AuditScore, ...]], limits: Thresholds
) -> tuple[bool | None, list[str]]:
    """Whether every map that can be read lies in the lungs no more than by chance, and what each says."""
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
            what = "lies outside the lungs" if z <= LESS_THAN_CHANCE else "lies in the lungs no more than by chance"
            facts.append(f"{METHODS[method]} {what} (lift {lift:.2f}, z {z:+.1f})")
    return (all(votes) if votes else None), facts
