"""Whether a map shows what the network uses, and whether it would come out the same again.

Three questions before anybody reads a map: does hiding what it marks change the answer more than hiding anything
else (insertion and deletion), does it depend on what the network has learned (parameter randomisation), and do
networks of the same training agree on it (repeatability, in :mod:`cxnet.audit.siblings`).

References
----------
.. [1] Petsiuk V, Das A, Saenko K. RISE: randomized input sampling for explanation of black-box models. BMVC 2018.
       arXiv:1806.07421
.. [2] Adebayo J et al. Sanity checks for saliency maps. NeurIPS 2018. arXiv:1810.03292
.. [3] Arun N et al. Assessing the trustworthiness of saliency maps for localizing abnormalities in medical imaging.
       Radiol Artif Intell 2021. doi:10.1148/ryai.2021200267
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.audit.appearance import answers
from cxnet.audit.localisation import AuditScore
from cxnet.audit.siblings import likeness, view
from cxnet.errors import DatasetError, SettingsError
from cxnet.weights import FOLDER, Card

Map = NDArray[np.floating[Any]]
Predict = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]

INSERTION_DELETION = "Petsiuk et al. 2018, arXiv:1806.07421"
RANDOMISATION = "Adebayo et al. 2018, arXiv:1810.03292; Arun et al. 2021, doi:10.1148/ryai.2021200267"

#: Maps with a lower SSIM have nothing in common, even where maps of different radiographs have less. House rule.
NOTHING_ALIKE = 0.1
#: Seeds that must leave maps, so that those that leave none may be passed over.
ENOUGH_SEEDS = 3
CONSTANT = "the map is the same everywhere"
NO_EFFECT = "the picture speaks for the class hardly more than the picture with everything hidden"

_CURVE_SCORES = (
    "deletion area",
    "insertion area",
    "deletion gap to random order",
    "insertion gap to random order",
)


@dataclass(frozen=True, eq=False)
class Curves:
    """Insertion and deletion curves of one map, and what random orders give.

    Parameters
    ----------
    fractions : float64 array (steps + 1,)
        Share of the blocks that was hidden or shown, 0 to 1.
    deletion, insertion : float64 array (steps + 1,) or None
        Normalised logit: 1 for the whole picture, 0 with everything hidden. None where undefined.
    random : float64 array (orders, steps + 1) or None
        Deletion in random orders. Run backwards, the same pictures are insertion in random orders, so their areas
        serve both.
    effect : float
        Logit of the picture less that with everything hidden.
    scores : tuple of AuditScore
        Both areas, and both gaps to the mean of the random orders; a gap above 0 is better than random.
    """

    fractions: NDArray[np.float64]
    deletion: NDArray[np.float64] | None
    insertion: NDArray[np.float64] | None
    random: NDArray[np.float64] | None
    effect: float
    scores: tuple[AuditScore, ...]

    def __post_init__(self) -> None:
        for array in (self.fractions, self.deletion, self.insertion, self.random):
            if array is not None:
                array.setflags(write=False)

    @property
    def beats_random(self) -> tuple[bool, bool] | None:
        """Whether deletion, and whether insertion, is better than in every random order; None where undefined.

        A map that has nothing to do with the network is so with a chance of 1 / (orders + 1).
        """
        gaps = [(score.value, score.null.get("best random order")) for score in self.scores[2:]]
        found = [value > best for value, best in gaps if value is not None and best is not None]
        return (found[0], found[1]) if len(found) == 2 else None


def block_labels(shape: tuple[int, ...], block_px: int) -> NDArray[np.int64]:
    """Number of the block of every pixel, from 0; blocks differ by at most one pixel in each side.

    A block is about `block_px` square; there is at least one in each direction.
    """
    height, width = shape
    down, across = (max(1, round(side / block_px)) for side in (height, width))
    rows, columns = np.arange(height) * down // height, np.arange(width) * across // width
    labels: NDArray[np.int64] = (rows[:, None] * across + columns[None, :]).astype(np.int64)
    return labels


def hidden(
    stack: NDArray[np.uint8], fill: Literal["blur", "mean"] = "blur", sigma_px: float | None = None
) -> NDArray[np.uint8]:
    """The picture with everything hidden: blurred, or each channel's mean; uint8 (height, width, channels).

    The blur's standard deviation is a sixteenth of the height where `sigma_px` is None.
    """
    if fill == "mean":
        mean = np.rint(stack.reshape(-1, stack.shape[-1]).mean(axis=0)).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(mean, stack.shape))
    if fill != "blur" or (sigma_px is not None and not sigma_px > 0):
        raise SettingsError(f"A picture is hidden by 'blur' with a sigma above 0 px, or by 'mean'; received {fill!r}.")
    blurred = cv2.GaussianBlur(np.ascontiguousarray(stack), (0, 0), sigma_px or stack.shape[0] / 16)
    return np.asarray(blurred, np.uint8).reshape(stack.shape)


def insertion_deletion(stack: NDArray[np.uint8], heatmap: Map, predict: Predict, target: int, **options: Any) -> Curves:
    """:func:`insertion_deletions` of one map."""
    return next(insertion_deletions(stack, {"map": heatmap}, predict, target, **options))[1]


def insertion_deletions(
    stack: NDArray[np.uint8],
    heatmaps: Mapping[str, Map],
    predict: Predict,
    target: int,
    *,
    fill: Literal["blur", "mean"] = "blur",
    sigma_px: float | None = None,
    block_px: int = 16,
    steps: int = 16,
    random_orders: int = 5,
    seed: int = 0,
    batch_size: int = 16,
    least_effect: float = 0.1,
) -> Iterator[tuple[str, Curves]]:
    """Hide or show the picture's blocks, hottest first, and follow the logit [1]_; for several maps of one picture.

    Parameters
    ----------
    stack : uint8 array (height, width, channels)
        The network's input.
    heatmaps : mapping of str to float array (height, width)
        Raw, in the frame of `stack`; blocks are ordered by a map's mean in them, ties at random with the seed.
    predict : callable
        uint8 (n, height, width, channels) to logits (n, classes); called with at most `batch_size` pictures.
    target : int
        Class whose logit is followed.
    fill, sigma_px
        See :func:`hidden`.
    block_px, steps, random_orders, seed, batch_size : int
        The cost is ``(steps - 1) * (random_orders + 2 * maps) + 2`` pictures: 107 for one map by default. All maps
        are held against the same random orders.
    least_effect : float
        Least logit effect of hiding everything that can be followed.

    Yields
    ------
    (str, Curves)
        Name and result of a map, in their order, as soon as it is there. Figures are None with a reason for a map
        that is constant over the blocks, and where hiding everything does not lower the logit by `least_effect`.

    Raises
    ------
    SettingsError
        If shapes do not fit, a map or a logit is not finite, or a number makes no sense.

    Notes
    -----
    RISE follows the probability from grey or a blur; we follow its logit, which does not saturate (see
    :func:`cxnet.audit.appearance.answers` why not the raw output), and divide by the effect of hiding everything, so
    that 1 is the whole picture and 0 none of it. A network that reacts to the edges of what is hidden does so in
    random orders too: read the gap, not the area. Still, random blocks lie scattered and a map's lie together, so
    that they have fewer edges.
    """
    for heatmap in heatmaps.values():
        if stack.ndim != 3 or stack.dtype != np.uint8 or heatmap.shape != stack.shape[:2]:
            raise SettingsError(
                f"Insertion and deletion need a uint8 picture (height, width, channels) and a map of its size; "
                f"received {stack.dtype} {stack.shape} and {heatmap.shape}."
            )
        if not np.isfinite(heatmap).all():
            raise SettingsError("The map holds values that are not finite, so nothing can be measured on it.")
    if min(block_px, random_orders, batch_size) < 1 or steps < 2 or least_effect <= 0:
        raise SettingsError(
            "Insertion and deletion need at least two steps, and blocks, random orders, a batch size and a least "
            "effect above 0."
        )
    labels = block_labels(stack.shape[:2], block_px)
    count = int(labels.max()) + 1
    if count < steps:
        raise SettingsError(f"The picture has {count} blocks of {block_px} px, too few for {steps} steps.")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(count) for _ in range(random_orders)]
    ties = rng.random(count)
    ends = np.rint(np.linspace(0, count, steps + 1)).astype(int)
    fractions = ends / count

    covered = hidden(stack, fill, sigma_px)
    first, last = _logits(predict, np.stack([stack, covered]), target)
    effect = float(first - last)

    def deleted(plans: list[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Curves (plans, steps + 1) while the blocks are hidden in these orders."""
        pictures = [(order, end) for order in plans for end in ends[1:-1]]
        logits: list[float] = []
        for start in range(0, len(pictures), batch_size):
            batch = np.empty((len(pictures[start : start + batch_size]), *stack.shape), np.uint8)
            for k, (order, end) in enumerate(pictures[start : start + batch_size]):
                gone = np.zeros(count, np.bool_)
                gone[order[:end]] = True
                batch[k] = np.where(gone[labels][:, :, None], covered, stack)
            logits += _logits(predict, batch, target).tolist()
        curves = np.empty((len(plans), steps + 1))
        curves[:, 0], curves[:, -1] = 1.0, 0.0
        curves[:, 1:-1] = (np.array(logits).reshape(len(plans), steps - 1) - last) / effect
        return curves

    random: NDArray[np.float64] | None = None
    for name, heatmap in heatmaps.items():
        sums = np.bincount(labels.ravel(), heatmap.ravel().astype(np.float64), minlength=count)
        means = sums / np.bincount(labels.ravel(), minlength=count)
        if float(np.ptp(means)) <= 1e-9 * float(np.abs(means).max()):
            yield name, _undefined(fractions, effect, CONSTANT)
        elif effect < least_effect:
            yield name, _undefined(fractions, effect, NO_EFFECT)
        else:
            if random is None:
                random = deleted(orders)
            hottest = np.lexsort((ties, -means))
            # Insertion is deletion of the coldest first, run backwards.
            curves = deleted([hottest, hottest[::-1]])
            yield name, _curves(fractions, curves[0].copy(), curves[1, ::-1].copy(), random.copy(), effect)


def _undefined(fractions: NDArray[np.float64], effect: float, reason: str) -> Curves:
    scores = tuple(
        AuditScore(name, None, "ratio", "lower" if k == 0 else "higher", reason=reason, reference=INSERTION_DELETION)
        for k, name in enumerate(_CURVE_SCORES)
    )
    return Curves(fractions, None, None, None, effect, scores)


def _curves(
    fractions: NDArray[np.float64],
    deletion: NDArray[np.float64],
    insertion: NDArray[np.float64],
    random: NDArray[np.float64],
    effect: float,
) -> Curves:
    deleted, inserted = (float(np.trapezoid(curve, fractions)) for curve in (deletion, insertion))
    chance = np.asarray(np.trapezoid(random, fractions, axis=1), np.float64)
    mean = float(chance.mean())
    gaps = (mean - deleted, inserted - mean)
    best = (mean - float(chance.min()), float(chance.max()) - mean)
    scores = (
        AuditScore(_CURVE_SCORES[0], deleted, "ratio", "lower", {"random order": mean}, reference=INSERTION_DELETION),
        AuditScore(_CURVE_SCORES[1], inserted, "ratio", null={"random order": mean}, reference=INSERTION_DELETION),
        *(
            AuditScore(name, gap, "ratio", null={"random order": 0.0, "best random order": top})
            for name, gap, top in zip(_CURVE_SCORES[2:], gaps, best, strict=True)
        ),
    )
    return Curves(fractions, deletion, insertion, random, effect, scores)


def _logits(predict: Predict, pictures: NDArray[np.uint8], target: int) -> NDArray[np.float64]:
    logits = predict(pictures)
    if len(logits) != len(pictures):
        raise SettingsError(
            f"The network must give one row of logits a picture; received {len(logits)} for {len(pictures)} pictures."
        )
    return np.array([answer.logit for answer in answers(logits, target)])


# ------------------------------------------------------------------------------------------------ randomisation


def cascade(
    arrays: Mapping[str, NDArray[Any]], levels: int = 8, seed: int = 0, layers: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, NDArray[np.float32]]]]:
    """Weights with more and more layers randomised, from the top down [2]_.

    Parameters
    ----------
    arrays : mapping of str to float array
        Variables by path, as :func:`cxnet.weights.read_arrays` gives them; a layer is what stands before the last
        "/" of a path.
    levels : int
        The first randomises the top layer only, the last all; their numbers of layers grow geometrically.
    seed : int
    layers : sequence of str, optional
        All layers, input first; the order in which `arrays` names them when left out.

    Yields
    ------
    (str, dict of str to float32 array)
        The lowest layer randomised so far, and all weights.

    Raises
    ------
    SettingsError
        If `layers` does not name the layers of `arrays`, or there are none.

    Notes
    -----
    Kernels are drawn anew from a normal distribution with mean 0 and their own standard deviation. Vectors (biases,
    batch normalisation) are shuffled among themselves: a variance drawn anew could be negative.
    """
    known = list(dict.fromkeys(path.rpartition("/")[0] for path in arrays))
    order = known if layers is None else list(layers)
    if levels < 1 or not known or sorted(order) != sorted(known):
        raise SettingsError("Randomising needs at least one level, and each layer of the weights named once.")
    top_down = order[::-1]
    ends = sorted({round(end) for end in np.geomspace(1, len(top_down), levels)} | {len(top_down)})
    current = {path: np.asarray(array, np.float32) for path, array in arrays.items()}
    rng = np.random.default_rng(seed)
    done = 0
    for end in ends:
        for layer in top_down[done:end]:
            for path in (path for path in arrays if path.rpartition("/")[0] == layer):
                values = current[path]
                if values.ndim > 1:
                    current[path] = rng.normal(0, float(values.std()), values.shape).astype(np.float32)
                else:
                    current[path] = rng.permutation(values) if values.ndim else values
        done = end
        yield top_down[end - 1], dict(current)


@dataclass(frozen=True)
class Level:
    """Likeness of maps before and after randomising down to one layer: means over the cases.

    `spearman` is the rank correlation of the maps' absolute values, `ssim` their structural similarity after
    division by their largest absolute value; `cases` is the number that had a map. Both None where `cases` is 0.
    """

    name: str
    spearman: float | None
    ssim: float | None
    cases: int


@dataclass(frozen=True)
class Randomisation:
    """Model parameter randomisation test of one network and method.

    Parameters
    ----------
    levels : tuple of Level
        From the top layer alone to all layers.
    null : mapping of str to float
        Mean "spearman" and "ssim" of random pairs of the trained network's maps of different cases.
    passes : bool or None
        Whether, with all layers randomised, the SSIM is below its null or :data:`NOTHING_ALIKE`: the map depends on what
        was learned.
        None exactly when `reason` says why it is undefined.
    reason : str or None
    """

    levels: tuple[Level, ...]
    null: Mapping[str, float]
    passes: bool | None
    reason: str | None = None
    reference: str = RANDOMISATION

    def __post_init__(self) -> None:
        if (self.passes is None) != bool(self.reason):
            raise SettingsError("A randomisation test passes or fails, or else has a reason why it is undefined.")
        object.__setattr__(self, "null", MappingProxyType(dict(self.null)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "levels": [
                {"name": level.name, "spearman": level.spearman, "ssim": level.ssim, "cases": level.cases}
                for level in self.levels
            ],
            "null": dict(self.null),
            "passes": self.passes,
            "reason": self.reason,
            "reference": self.reference,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Randomisation:
        """The inverse of :meth:`to_json`."""
        levels = tuple(Level(**level) for level in told["levels"])
        return cls(levels, told["null"], told["passes"], told["reason"], told["reference"])


@dataclass(frozen=True)
class SanityCheck:
    """The randomisation test of one network and method under several seeds, as it is stored with the weights.

    Parameters
    ----------
    model, sha256 : str
        Name of the network and checksum of its trainable file.
    method : str
    cases : int
        Radiographs, none of which the network was trained on.
    tests : tuple of Randomisation
        One a seed; they share the trained maps and so the null.
    """

    model: str
    sha256: str
    method: str
    cases: int
    tests: tuple[Randomisation, ...]

    def __post_init__(self) -> None:
        if not self.tests:
            raise SettingsError(f"The sanity check of {self.model!r} needs the test of at least one seed.")

    @property
    def likeness(self) -> tuple[float, ...]:
        """SSIM to the fully randomised network's maps under each seed that gave maps at all."""
        return tuple(test.levels[-1].ssim for test in self.tests if test.levels[-1].ssim is not None)

    @property
    def null(self) -> float | None:
        """SSIM of the trained network's maps of different cases; None with fewer than two maps."""
        return self.tests[0].null.get("ssim")

    @property
    def passes(self) -> bool | None:
        """Whether the test is passed under every seed that leaves maps; None where fewer than :data:`ENOUGH_SEEDS` do.

        A randomised network can have a Grad-CAM of zero everywhere: such a seed leaves nothing to compare.
        """
        answers = [test.passes for test in self.tests if test.passes is not None]
        every = len(answers) == len(self.tests) or len(answers) >= ENOUGH_SEEDS
        return all(answers) if answers and every else None

    def in_words(self) -> str:
        """The result in one sentence."""
        told = ""
        if self.likeness and self.null is not None:
            told = f"likeness {np.mean(self.likeness):.2f}, maps of different radiographs {self.null:.2f}"
        if self.passes is None:
            blank = [test.reason for test in self.tests if test.passes is None]
            told = f"; the others: {told}" if told else ""
            return f"Sanity check undefined under {len(blank)} of {len(self.tests)} seeds: {blank[0]}{told}."
        if empty := sum(test.passes is None for test in self.tests):
            told += f"; {empty} of {len(self.tests)} seeds left no map"
        if self.passes:
            return f"Sanity check passed: the map changes when the network forgets what it learned ({told})."
        return (
            "Sanity check failed: with random weights the map is as like itself as it is like maps of different "
            f"radiographs ({told}), so much of it does not come from what the network learned."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {"model": self.model, "sha256": self.sha256, "method": self.method, "cases": self.cases}
        return {**told, "tests": [test.to_json() for test in self.tests]}


def sanity_check(
    card: Card, method: str = "grad-cam", path: Path = FOLDER / "randomisation.json"
) -> SanityCheck | None:
    """The stored randomisation test of a network, or None where there is none of these very weights.

    Raises
    ------
    DatasetError
        If the file is there but damaged.
    """
    try:
        for told in json.loads(path.read_text("utf-8")):
            if (told["model"], told["method"], told["sha256"]) == (card.name, method, card.sha256):
                tests = tuple(Randomisation.from_json(test) for test in told["tests"])
                return SanityCheck(card.name, card.sha256, method, int(told["cases"]), tests)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, SettingsError) as error:
        raise DatasetError(f"The sanity checks in {path.name} cannot be read ({error}); restore the file.") from error
    return None


def parameter_randomisation(
    trained: Sequence[Map], randomised: Mapping[str, Sequence[Map]], *, pairs: int = 50, seed: int = 0
) -> Randomisation:
    """Whether maps change when the network forgets what it learned [2]_, [3]_.

    Parameters
    ----------
    trained : sequence of float array (height, width)
        Maps of the trained network, one a case; on the map's own grid, since enlarging makes all maps alike.
    randomised : mapping of str to sequence of float array (height, width)
        By level, in the order of :func:`cascade`: maps of the same cases by the randomised network.
    pairs, seed : int
        Random pairs of different cases that make the null.

    Returns
    -------
    Randomisation

    Raises
    ------
    SettingsError
        If shapes or numbers of maps differ, or a map is smaller than 3 x 3 or not finite.

    Notes
    -----
    Arun et al. [3]_ take the mean SSIM of 50 random pairs of the trained network's maps as the threshold. A map
    that stays like itself without the weights is no less like itself than like another case's. Constant maps are
    left out: they show nothing that could be alike.
    """
    shapes = {m.shape for m in trained} | {m.shape for maps in randomised.values() for m in maps}
    if not trained or not randomised or len(shapes) != 1 or {len(m) for m in randomised.values()} != {len(trained)}:
        raise SettingsError(
            "Randomisation needs the same cases at every level, at least one, and maps of one shape; received "
            f"{len(trained)} trained maps and {[len(maps) for maps in randomised.values()]} of shapes {sorted(shapes)}."
        )
    views = [view(m) for m in trained]
    levels = []
    for name, maps in randomised.items():
        both = [(a, b) for a, b in zip(views, map(view, maps), strict=True) if a is not None and b is not None]
        if both:
            rank, structure = np.array([likeness(a, b) for a, b in both]).mean(axis=0)
            levels.append(Level(name, float(rank), float(structure), len(both)))
        else:
            levels.append(Level(name, None, None, 0))
    usable = [found for found in views if found is not None]
    every = list(combinations(range(len(usable)), 2))
    null: dict[str, float] = {}
    if every:
        drawn = np.random.default_rng(seed).permutation(len(every))[:pairs]
        spearman, ssim = np.array([likeness(usable[i], usable[j]) for i, j in (every[k] for k in drawn)]).mean(axis=0)
        null = {"spearman": float(spearman), "ssim": float(ssim)}
    last = levels[-1].ssim
    reason = None
    if not null:
        reason = "fewer than two cases have a map of the trained network"
    elif last is None:
        reason = "the fully randomised network gave no map"
    passes = None if reason is not None or last is None else last < max(null["ssim"], NOTHING_ALIKE)
    return Randomisation(tuple(levels), null, passes, reason)
