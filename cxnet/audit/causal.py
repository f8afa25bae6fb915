"""Does the answer change when the lungs, everything else, a marker or the border is taken away?

A map says where a network may have looked; an edited picture says what it needs. Every edit is made to the
radiograph, which is then enhanced again ("recompute": the honest pipeline, in which CLAHE and BEASF also move pixels
elsewhere), and for a part of them to the enhanced picture ("frozen": nothing moves outside the edit). Where the
two modes' probabilities differ by more than :data:`MODES_DIFFER`, the effect is partly one of the enhancement.

References
----------
.. [1] Teixeira LO et al. Impact of lung segmentation on the diagnosis and explanation of COVID-19 in chest X-ray
       images. Sensors 2021;21:7116. doi:10.3390/s21217116
.. [2] Maguolo G, Nanni L. A critic evaluation of methods for COVID-19 automatic detection from X-ray images.
       Inf Fusion 2021. doi:10.1016/j.inffus.2021.04.008
.. [3] Sourget T et al. Mask of truth: model sensitivity to unexpected regions of medical images. arXiv:2412.04030
.. [4] DeGrave AJ, Janizek JD, Lee SI. AI for radiographic COVID-19 detection selects shortcuts over signal.
       Nat Mach Intell 2021. doi:10.1038/s42256-021-00338-7
.. [5] Besag J, Clifford P. Sequential Monte Carlo p-values. Biometrika 1991;78:301. doi:10.1093/biomet/78.2.301
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cxnet.audit.appearance import PROBES, Answer, Sweep, answers
from cxnet.audit.edits import (
    FILLS,
    SHAPES,
    Edit,
    Fill,
    Shape,
    border_fraction,
    control_paddings,
    control_removals,
    hide,
    lung_region,
    pad_border,
    remove,
)
from cxnet.audit.localisation import EMPTY_MASK, AuditScore, Mask
from cxnet.enhance import Grey
from cxnet.errors import SettingsError

Predict = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
Stack = Callable[[Grey], NDArray[np.uint8]]
Key = tuple[Hashable, ...]
Tier = Literal["full", "exhaustive"]
Part = Literal["lungs-only", "background-only"]

PARTS: tuple[Part, ...] = ("lungs-only", "background-only")

#: Difference of probabilities above which recompute and frozen enhancement are said to disagree.
MODES_DIFFER = 0.1
#: Control edits of the marker and of the border test, and how many are looked at before the rest is worth its cost.
CONTROLS, FIRST_CONTROLS, ENOUGH_EXCEED = 30, 8, 2
#: Widths of the border that is padded over, as fractions of each side; controls belong to the middle one.
BORDERS = (0.02, 0.05, 0.10)
#: Smaller changes of the logit carry no lung dependence index.
NEGLIGIBLE_LOGIT = 0.01
#: A region test needs this fraction of the picture on both sides of the region's outline.
LEAST_PART = 0.05
#: As the quality gate of lung masks has it.
MOST_LUNG = 0.6
#: Smaller pictures have no room for strips inside their border.
LEAST_SIDE_PX = 32

BASE: Key = ("base",)
MARKER, BORDER = "marker removal", "border edit"
CONSTANT_PICTURE = "the picture is the same everywhere"
LARGE_LUNGS = "the lung mask covers more than 60 % of the picture"
NO_MARKERS = "no marker mask was given"
EMPTY_MARKERS = "no marker was found"
LARGE_MARKERS = "the marker mask covers more than half of the picture"
NO_ROOM = f"there is no room for {CONTROLS} control patches"
NO_CHANGE = "hiding the lungs and hiding the rest both left the logit as high as it was"


@dataclass(frozen=True)
class RegionTest:
    """The network's answers to the lungs alone [1]_ or to everything but the lungs [2]_, [3]_.

    Parameters
    ----------
    part : {"lungs-only", "background-only"}
        What stays visible.
    shape : {"hull", "box"}
        What counts as lungs: see :func:`lung_region`.
    recompute, frozen : mapping of fill to Answer
        By what replaces the hidden part; frozen for some fills only.
    reason : str or None
        Why there are no answers.
    """

    part: Part
    shape: Shape
    recompute: Mapping[Fill, Answer] = field(default_factory=dict)
    frozen: Mapping[Fill, Answer] = field(default_factory=dict)
    reason: str | None = None

    def __post_init__(self) -> None:
        if bool(self.recompute) == bool(self.reason):
            raise SettingsError(f"The test {self.part!r} needs answers, or else a reason why it has none.")
        for name in ("recompute", "frozen"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def probability(self) -> float | None:
        """Median over the fills; None if undefined."""
        return median(answer.probability for answer in self.recompute.values()) if self.recompute else None

    @property
    def logit(self) -> float | None:
        """Median over the fills; None if undefined."""
        return median(answer.logit for answer in self.recompute.values()) if self.recompute else None

    @property
    def spread(self) -> float | None:
        """Largest minus smallest probability over the fills; None if undefined."""
        values = [answer.probability for answer in self.recompute.values()]
        return max(values) - min(values) if values else None

    @property
    def modes_disagree(self) -> bool | None:
        """Whether the modes differ for a fill that was tried in both; None without one."""
        pairs = [(self.recompute[fill], answer) for fill, answer in self.frozen.items()]
        return any(_differ(a, b) for a, b in pairs) if pairs else None


@dataclass(frozen=True)
class EditTest:
    """What a small edit does to the answer, against the same edit elsewhere [4]_.

    Parameters
    ----------
    name : {"marker removal", "border edit"}
    base : Answer
        For the radiograph as it is.
    area_fraction : float
        Share of the picture that was edited.
    recompute, frozen : Answer or None
        None exactly when `reason` says why.
    controls : tuple of float
        Drops of the logit by the control edits that were looked at, in the order of drawing.
    reason : str or None
    controls_reason : str or None
        Why there are no controls although there is an edit.
    curve : mapping of float to Answer
        Border edit: by width, recompute.
    """

    name: str
    base: Answer
    area_fraction: float = 0.0
    recompute: Answer | None = None
    frozen: Answer | None = None
    controls: tuple[float, ...] = ()
    reason: str | None = None
    controls_reason: str | None = None
    curve: Mapping[float, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.recompute is None) != bool(self.reason) or (self.recompute is None) != (self.frozen is None):
            raise SettingsError(f"The test {self.name!r} needs answers in both modes, or else a reason.")
        if self.recompute is not None and bool(self.controls) == bool(self.controls_reason):
            raise SettingsError(f"The test {self.name!r} needs controls, or else a reason why it has none.")
        object.__setattr__(self, "curve", MappingProxyType(dict(self.curve)))

    @property
    def drop(self) -> float | None:
        """Logit before minus logit after the edit; positive if what was removed spoke for the target."""
        return None if self.recompute is None else self.base.logit - self.recompute.logit

    @property
    def p_value(self) -> float | None:
        """(1 + controls with at least this drop) / (1 + controls); one-sided. None if undefined.

        Below 1/9 only after all 30 controls: see :func:`causal_tests` on stopping early.
        """
        drop = self.drop
        if drop is None or not self.controls:
            return None
        return (1 + sum(control >= drop for control in self.controls)) / (1 + len(self.controls))

    @property
    def asked(self) -> tuple[Answer, ...]:
        """Answers to the edit itself, in every width; recompute."""
        return (*([] if self.recompute is None else [self.recompute]), *self.curve.values())

    @property
    def flips(self) -> bool | None:
        """Whether the edit changes the predicted class; None if undefined."""
        return None if self.recompute is None else self.recompute.predicted != self.base.predicted

    @property
    def modes_disagree(self) -> bool | None:
        """Whether recompute and frozen differ; None if undefined."""
        return None if self.recompute is None or self.frozen is None else _differ(self.recompute, self.frozen)


@dataclass(frozen=True)
class CausalTests:
    """All causal tests of one radiograph, for one class of one network.

    Parameters
    ----------
    target, classes : int
        The class asked about, and how many there are.
    base : Answer
        For the radiograph as it is.
    regions : tuple of RegionTest
        Lungs-only and background-only, by hull and by box.
    marker, border : EditTest
    sweeps : tuple of Sweep
    tier : {"full", "exhaustive"}
    seed : int
    passes : int
        Pictures that the network was shown, the unedited one included.
    calls : int
        Calls of `predict` that they took.
    """

    target: int
    classes: int
    base: Answer
    regions: tuple[RegionTest, ...]
    marker: EditTest
    border: EditTest
    sweeps: tuple[Sweep, ...]
    tier: Tier
    seed: int
    passes: int
    calls: int

    def region(self, part: Part, shape: Shape = "hull") -> RegionTest:
        """One of the region tests."""
        return next(test for test in self.regions if (test.part, test.shape) == (part, shape))

    def lung_dependence(self, shape: Shape = "hull") -> dict[Fill, float]:
        """Share of the evidence that goes with the lungs, by fill; fills for which it is undefined are left out.

        With the drops d₁ = z(x) - z(background-only) and d₂ = z(x) - z(lungs-only), negative ones counted as 0,
        it is d₁ / (d₁ + d₂): 1 if all evidence lies in the lungs, 0 if none does. Undefined if d₁ + d₂ is below
        :data:`NEGLIGIBLE_LOGIT`.
        """
        only, without = self.region("lungs-only", shape).recompute, self.region("background-only", shape).recompute
        found: dict[Fill, float] = {}
        for fill in only:
            lungs, rest = (max(0.0, self.base.logit - test[fill].logit) for test in (without, only))
            if lungs + rest >= NEGLIGIBLE_LOGIT:
                found[fill] = lungs / (lungs + rest)
        return found

    @property
    def modes_disagree(self) -> tuple[str, ...]:
        """Names of the tests in which recompute and frozen enhancement disagree."""
        regions = [f"{test.part}, {test.shape}" for test in self.regions if test.modes_disagree]
        return (*regions, *(edit.name for edit in self._edits if edit.modes_disagree))

    @property
    def _edits(self) -> tuple[EditTest, EditTest]:
        return self.marker, self.border

    @property
    def scores(self) -> tuple[AuditScore, ...]:
        """The main figures, one by one; medians over the fills, recompute mode."""
        scores = []
        for test in self.regions:
            name = f"{test.part} probability, {test.shape}"
            kind: Literal["higher", "lower"] = "higher" if test.part == "lungs-only" else "lower"
            null = {"chance": 1 / self.classes} if test.reason is None else {}
            scores.append(AuditScore(name, test.probability, "fraction", kind, null, test.reason))
            scores.append(AuditScore(f"{name}: spread over fills", test.spread, "fraction", "lower", {}, test.reason))
        for shape in SHAPES:
            index = self.lung_dependence(shape)
            reason = None if index else self.region("lungs-only", shape).reason or NO_CHANGE
            value, spread = (
                (median(index.values()), max(index.values()) - min(index.values())) if index else (None, None)
            )
            name = f"lung dependence index, {shape}"
            scores.append(AuditScore(name, value, reason=reason))
            scores.append(AuditScore(f"{name}: spread over fills", spread, direction="lower", reason=reason))
        for edit in self._edits:
            controls = (
                {
                    "control edits": float(np.mean(edit.controls)),
                    "control edits, 95th percentile": float(np.percentile(edit.controls, 95)),
                }
                if edit.controls
                else {}
            )
            scores.append(AuditScore(f"{edit.name}: drop", edit.drop, "logits", "lower", controls, edit.reason))
            why = edit.reason or edit.controls_reason
            scores.append(AuditScore(f"{edit.name}: p value", edit.p_value, "fraction", "higher", {}, why))
        for sweep in self.sweeps:
            change = sweep.largest_change
            size = None if change is None else abs(change)
            scores.append(AuditScore(f"{sweep.name} sweep: largest change", size, "logits", "lower", {}, sweep.reason))
        return tuple(scores)


def _differ(a: Answer, b: Answer) -> bool:
    return abs(a.probability - b.probability) > MODES_DIFFER


class _Desk:
    """Edits one radiograph, shows the pictures to the network in few calls and keeps its answers by key."""

    def __init__(self, pixels: Grey, stack: Stack, predict: Predict, target: int, batch: int) -> None:
        self.pixels, self.original = pixels, stack(pixels)
        if self.original.ndim != 3 or self.original.dtype != np.uint8:
            raise SettingsError(
                "The enhanced picture must be uint8 (size, size, channels); "
                f"received {self.original.dtype} {self.original.shape}."
            )
        self._stack, self._predict, self._target, self._batch = stack, predict, target, batch
        self._waiting: dict[Key, NDArray[np.uint8]] = {BASE: self.original}
        self.found: dict[Key, Answer] = {}
        self.passes = self.calls = self.classes = 0

    def ask(self, key: Key, edit: Edit, frozen: bool = False) -> None:
        """Edit the radiograph and enhance it again, or edit every channel of the enhanced picture."""
        if frozen:
            channels = [edit(np.ascontiguousarray(channel)) for channel in self.original.transpose(2, 0, 1)]
            self._waiting[key] = np.stack(channels, axis=-1)
        else:
            self._waiting[key] = self._stack(edit(self.pixels))

    def run(self) -> None:
        """Answer everything that was asked."""
        keys = list(self._waiting)
        for first in range(0, len(keys), self._batch):
            some = keys[first : first + self._batch]
            logits = np.asarray(self._predict(np.stack([self._waiting[key] for key in some])))
            if logits.ndim != 2 or len(logits) != len(some):
                raise SettingsError(f"The network must give logits ({len(some)}, classes); received {logits.shape}.")
            self.found.update(zip(some, answers(logits, self._target), strict=True))
            self.classes = logits.shape[1]
            self.calls += 1
        self.passes += len(keys)
        self._waiting.clear()

    def drops(self, name: str) -> tuple[float, ...]:
        """What the control edits of a test took from the logit, in their order."""
        keys = [key for key in self.found if key[:2] == (name, "control")]
        return tuple(self.found[BASE].logit - self.found[key].logit for key in keys)


def causal_tests(
    pixels: Grey,
    lungs: Mask,
    predict: Predict,
    stack: Stack,
    target: int,
    markers: Mask | None = None,
    *,
    tier: Tier = "full",
    matters: Mapping[str, float] | None = None,
    seed: int = 0,
    batch: int = 8,
) -> CausalTests:
    """Edit one radiograph in many ways and see what the network makes of it.

    Parameters
    ----------
    pixels : uint8 array (height, width)
    lungs : bool array (height, width)
    predict : callable
        uint8 pictures (n, size, size, channels) to logits (n, classes).
    stack : callable
        A uint8 grey picture (height, width) to the network's input, uint8 (size, size, channels).
    target : int
        Class to ask about, counted from 0.
    markers : bool array (height, width), optional
        Burned-in markers and text, without strips along a side: :attr:`cxnet.markers.Markers.drawn`.
    tier : {"full", "exhaustive"}
        "exhaustive" looks at all controls, and tries all fills in frozen mode for both shapes.
    matters : mapping of str to float, optional
        By name of the test, "marker removal" and "border edit": the drop of the logit over every control's from which
        it is of interest; a test that can no longer reach it ends early. Any, when left out.
    seed : int
        Of noise and control edits. The same arguments give the same result.
    batch : int
        Most pictures in one call of `predict`.

    Returns
    -------
    CausalTests
        With the number of forward passes. Full tier: 33 pictures (1 as it is, 12 region tests and 2 of them frozen,
        2 marker, 4 border, 12 sweeps), and 8 to 30 controls each for marker and border: 49 to 93, 59 expected if
        neither matters; without markers 39 to 61, 44 expected. With `matters` most end with 49 and 39.

    Raises
    ------
    SettingsError
        If shapes or types do not fit, or the network's outputs do not.

    Notes
    -----
    *Cost.* For a picture of 512 px the edits and the enhancement take about 3 ms a pass. They grow with the
    picture's area: shrink one of several megapixels, and its masks, first.

    *Controls.* A marker's controls are the same shapes at 30 random places that are no marker and lie as far in the
    lungs as the marker does. The border's are two rows and two columns of strips of its width at random
    places inside it: the same area, and the same crossings as the border's corners; they cut through the lungs,
    so the border is accused with caution. A p value tells whether an effect is special to the place, not whether it
    is large: read it with the drop and with whether the class flips.

    *Stopping early.* Of 30 controls drawn, 8 are looked at first; if at least two of them lower the logit as much
    as the edit, the test ends with p = (1 + those) / 9, else the other 22 follow [5]_. P(p ≤ α) ≤ α still holds
    under the null: below α = 1/3 only tests with all 30 controls can have p ≤ α, and (1 + exceeding) / 31 is
    a valid p value of 30; from 1/3 up, p ≤ α implies (1 + exceeding in the first 8) / 9 ≤ α. A test also ends after
    the first 8 if the drop is less than `matters` above the largest of them: others could only take from it. Its p
    value is then at least 1/9, so all that could pass a level of 5 % or 10 % still rest on 30 controls; between 1/9
    and 1/3 it may be too small.

    *Undefined.* Empty lungs, lungs over 60 % of the picture, a region that leaves less than 5 % on one side,
    a constant picture: no answers but a reason.
    """
    _check(pixels, lungs, markers, tier, batch)
    desk = _Desk(pixels, stack, predict, target, batch)
    constant = CONSTANT_PICTURE if int(pixels.min()) == int(pixels.max()) else None
    no_lungs = EMPTY_MASK if not lungs.any() else LARGE_LUNGS if lungs.mean() > MOST_LUNG else None
    no_marker = constant or _why_no_marker(markers)

    region_reasons = {shape: constant or no_lungs or _ask_regions(desk, lungs, shape, tier, seed) for shape in SHAPES}
    rng = np.random.default_rng(seed)
    controls: dict[str, tuple[Edit, ...]] = {}
    if no_marker is None and markers is not None:
        removal = partial(remove, mask=markers)
        desk.ask((MARKER, "recompute"), removal)
        desk.ask((MARKER, "frozen"), removal, frozen=True)
        controls[MARKER] = () if no_lungs else control_removals(markers, lungs, CONTROLS, rng)
    if constant is None:
        for width in BORDERS:
            desk.ask((BORDER, width), partial(pad_border, width=width))
        desk.ask((BORDER, "frozen"), partial(pad_border, width=BORDERS[1]), frozen=True)
        controls[BORDER] = control_paddings(pixels.shape, BORDERS[1], CONTROLS, rng)
        for name, probe in PROBES.items():
            for level in probe.levels:
                desk.ask((name, level), partial(_vary, name=name, level=level))
    first = FIRST_CONTROLS if tier == "full" else CONTROLS
    for name, edits in controls.items():
        for number, edit in enumerate(edits[:first]):
            desk.ask((name, "control", number), edit)
    desk.run()

    found, base = desk.found, desk.found[BASE]
    edited = {MARKER: found.get((MARKER, "recompute")), BORDER: found.get((BORDER, BORDERS[1]))}
    for name, edits in controls.items():
        answer = edited[name]
        if answer is None or not edits:
            continue
        drop, drops = base.logit - answer.logit, desk.drops(name)
        exceed = sum(control >= drop for control in drops)
        if exceed < ENOUGH_EXCEED and drop - max(drops) >= (matters or {}).get(name, -math.inf):
            for number, edit in enumerate(edits[first:], first):
                desk.ask((name, "control", number), edit)
    desk.run()

    area = 0.0 if markers is None else float(markers.mean())
    no_controls = None if no_marker or controls[MARKER] else no_lungs or NO_ROOM
    return CausalTests(
        target=target,
        classes=desk.classes,
        base=base,
        regions=tuple(_region_test(desk, part, shape, region_reasons[shape]) for part in PARTS for shape in SHAPES),
        marker=EditTest(
            MARKER,
            base,
            area,
            edited[MARKER],
            found.get((MARKER, "frozen")),
            desk.drops(MARKER),
            no_marker,
            no_controls,
        ),
        border=EditTest(
            BORDER,
            base,
            0.0 if constant else border_fraction(pixels.shape, BORDERS[1]),
            edited[BORDER],
            found.get((BORDER, "frozen")),
            desk.drops(BORDER),
            constant,
            curve={} if constant else {width: found[BORDER, width] for width in BORDERS},
        ),
        sweeps=tuple(
            Sweep(name, base, reason=constant)
            if constant
            else Sweep(name, base, probe.levels, tuple(found[name, level] for level in probe.levels))
            for name, probe in PROBES.items()
        ),
        tier=tier,
        seed=seed,
        passes=desk.passes,
        calls=desk.calls,
    )


def _check(pixels: Grey, lungs: Mask, markers: Mask | None, tier: str, batch: int) -> None:
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or min(pixels.shape) < LEAST_SIDE_PX:
        raise SettingsError(
            f"Causal tests need a grey picture, uint8 with at least {LEAST_SIDE_PX} px on each side; "
            f"received {pixels.dtype} {pixels.shape}."
        )
    for name, mask in (("lung", lungs), ("marker", markers)):
        if mask is not None and (mask.shape != pixels.shape or mask.dtype != np.bool_):
            raise SettingsError(
                f"The {name} mask must be bool {pixels.shape} like the picture; received {mask.dtype} {mask.shape}."
            )
    if tier not in get_args(Tier) or batch < 1:
        raise SettingsError(f"The tier must be full or exhaustive and the batch at least 1; got {tier!r}, {batch}.")


def _why_no_marker(markers: Mask | None) -> str | None:
    if markers is None:
        return NO_MARKERS
    if not markers.any():
        return EMPTY_MARKERS
    return LARGE_MARKERS if markers.mean() > 0.5 else None


def _ask_regions(desk: _Desk, lungs: Mask, shape: Shape, tier: Tier, seed: int) -> str | None:
    """Ask for the region tests of one shape; or say why there are none."""
    region = lung_region(lungs, shape)
    if min(region.mean(), 1 - region.mean()) < LEAST_PART:
        return f"less than {LEAST_PART:.0%} of the picture lies on one side of the lungs' {shape}"
    for part in PARTS:
        hidden = ~region if part == "lungs-only" else region
        for fill in FILLS:
            edit = partial(hide, hidden=hidden, fill=fill, seed=seed)
            desk.ask((part, shape, fill), edit)
            if tier == "exhaustive" or (shape == "hull" and fill == FILLS[0]):
                desk.ask((part, shape, fill, "frozen"), edit, frozen=True)
    return None


def _region_test(desk: _Desk, part: Part, shape: Shape, reason: str | None) -> RegionTest:
    if reason is not None:
        return RegionTest(part, shape, reason=reason)
    recompute = {fill: desk.found[part, shape, fill] for fill in FILLS}
    frozen = {
        fill: desk.found[part, shape, fill, "frozen"] for fill in FILLS if (part, shape, fill, "frozen") in desk.found
    }
    return RegionTest(part, shape, recompute, frozen)


def _vary(pixels: Grey, name: str, level: float) -> Grey:
    return PROBES[name].change(pixels, level)
