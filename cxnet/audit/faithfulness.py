"""Whether a map shows what the network uses, and whether it would come out the same again.

Three questions before anybody reads a map: does hiding what it marks change the answer more than hiding anything
else (insertion and deletion), does it depend on what the network has learned (parameter randomisation), and do
networks of the same training agree on it (repeatability).

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
from cxnet.errors import DatasetError, SettingsError
from cxnet.weights import FOLDER, Card

Map = NDArray[np.floating[Any]]
Predict = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]

INSERTION_DELETION = "Petsiuk et al. 2018, arXiv:1806.07421"
RANDOMISATION = "Adebayo et al. 2018, arXiv:1810.03292; Arun et al. 2021, doi:10.1148/ryai.2021200267"
REPEATABILITY = "Arun et al. 2021, doi:10.1148/ryai.2021200267"

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


def insertion_deletion(
    stack: NDArray[np.uint8],
    heatmap: Map,
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
) -> Curves:
    """Hide or show the picture's blocks, hottest first, and follow the logit [1]_.

    Parameters
    ----------
    stack : uint8 array (height, width, channels)
        The network's input.
    heatmap : float array (height, width)
        Raw, in the frame of `stack`; blocks are ordered by its mean in them, ties at random with the seed.
    predict : callable
        uint8 (n, height, width, channels) to logits (n, classes); called with at most `batch_size` pictures.
    target : int
        Class whose logit is followed.
    fill, sigma_px
        See :func:`hidden`.
    block_px, steps, random_orders, seed, batch_size : int
        The cost is ``(steps - 1) * (random_orders + 2) + 2`` pictures: 107 by default.
    least_effect : float
        Least logit effect of hiding everything that can be followed.

    Returns
    -------
    Curves
        Figures are None with a reason for a map that is constant over the blocks, and where hiding everything does
        not lower the logit by `least_effect`.

    Raises
    ------
    SettingsError
        If shapes do not fit, the map or a logit is not finite, or a number makes no sense.

    Notes
    -----
    RISE follows the probability from grey or a blur; we follow its logit, which does not saturate (see
    :func:`cxnet.audit.appearance.answers` why not the raw output), and divide by the effect of hiding everything, so that 1 is the whole picture and 0 none of it. A network that reacts to the edges
    of what is hidden does so in random orders too: read the gap, not the area.
    """
    if stack.ndim != 3 or stack.dtype != np.uint8 or heatmap.shape != stack.shape[:2]:
        raise SettingsError(
            f"Insertion and deletion need a uint8 picture (height, width, channels) and a map of its size; received "
            f"{stack.dtype} {stack.shape} and {heatmap.shape}."
        )
    if not np.isfinite(heatmap).all():
        raise SettingsError("The map holds values that are not finite, so nothing can be measured on it.")
    if min(block_px, random_orders, batch_size) < 1 or steps < 2 or least_effect <= 0:
        raise SettingsError(
            "Insertion and deletion need at least two steps, and blocks, random orders, a batch size and a least "
            "effect above 0."
        )
    labels = block_labels(heatmap.shape, block_px)
    count = int(labels.max()) + 1
    if count < steps:
        raise SettingsError(f"The picture has {count} blocks of {block_px} px, too few for {steps} steps.")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(count) for _ in range(random_orders)]
    sums = np.bincount(labels.ravel(), heatmap.ravel().astype(np.float64), minlength=count)
    means = sums / np.bincount(labels.ravel(), minlength=count)
    hottest = np.lexsort((rng.random(count), -means))
    ends = np.rint(np.linspace(0, count, steps + 1)).astype(int)
    fractions = ends / count

    covered = hidden(stack, fill, sigma_px)
    first, last = _logits(predict, np.stack([stack, covered]), target)
    effect = float(first - last)
    spread = float(np.ptp(means))
    reason = None
    if spread <= 1e-9 * float(np.abs(means).max()):
        reason = CONSTANT
    elif effect < least_effect:
        reason = NO_EFFECT
    if reason is not None:
        scores = tuple(
            AuditScore(
                name, None, "ratio", "lower" if k == 0 else "higher", reason=reason, reference=INSERTION_DELETION
            )
            for k, name in enumerate(_CURVE_SCORES)
        )
        return Curves(fractions, None, None, None, effect, scores)

    # Insertion is deletion of the coldest first, run backwards.
    plans = [hottest, hottest[::-1], *orders]
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
    areas = np.asarray(np.trapezoid(curves, fractions, axis=1), np.float64)
    deleted, inserted, chance = float(areas[0]), float(areas[1]), areas[2:]
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
    return Curves(fractions, curves[0].copy(), curves[1, ::-1].copy(), curves[2:].copy(), effect, scores)


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
        Whether, with all layers randomised, the SSIM is below its null: the map depends on what was learned.
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
        """Whether the test is passed under every seed; None where one is undefined.

        A randomised network can have a Grad-CAM of zero everywhere: such a seed leaves nothing to compare.
        """
        answers = [test.passes for test in self.tests]
        return None if None in answers else all(answers)

    def in_words(self) -> str:
        """The result in one sentence."""
        told = ""
        if self.likeness and self.null is not None:
            told = f"likeness {np.mean(self.likeness):.2f}, maps of different radiographs {self.null:.2f}"
        if self.passes is None:
            blank = [test.reason for test in self.tests if test.passes is None]
            told = f"; the others: {told}" if told else ""
            return f"Sanity check undefined under {len(blank)} of {len(self.tests)} seeds: {blank[0]}{told}."
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
    views = [_view(m) for m in trained]
    levels = []
    for name, maps in randomised.items():
        both = [(a, b) for a, b in zip(views, map(_view, maps), strict=True) if a is not None and b is not None]
        if both:
            rank, structure = np.array([_likeness(a, b) for a, b in both]).mean(axis=0)
            levels.append(Level(name, float(rank), float(structure), len(both)))
        else:
            levels.append(Level(name, None, None, 0))
    usable = [view for view in views if view is not None]
    every = list(combinations(range(len(usable)), 2))
    null: dict[str, float] = {}
    if every:
        drawn = np.random.default_rng(seed).permutation(len(every))[:pairs]
        spearman, ssim = np.array([_likeness(usable[i], usable[j]) for i, j in (every[k] for k in drawn)]).mean(axis=0)
        null = {"spearman": float(spearman), "ssim": float(ssim)}
    last = levels[-1].ssim
    reason = None
    if not null:
        reason = "fewer than two cases have a map of the trained network"
    elif last is None:
        reason = "the fully randomised network gave no map"
    passes = None if reason is not None or last is None else last < null["ssim"]
    return Randomisation(tuple(levels), null, passes, reason)


@dataclass(frozen=True, eq=False)
class _View:
    """A map as its ranks (centred, of length 1) and as a picture of absolute values up to 1."""

    ranks: NDArray[np.float64]
    picture: NDArray[np.float64]


def _view(heatmap: Map) -> _View | None:
    from scipy.stats import rankdata  # costs as long to import as everything else together

    if heatmap.ndim != 2 or min(heatmap.shape) < 3 or not np.isfinite(heatmap).all():
        raise SettingsError(f"Maps to compare must be finite and at least 3 x 3; received shape {heatmap.shape}.")
    picture = np.abs(np.asarray(heatmap, np.float64))
    if np.ptp(picture) <= 1e-9 * picture.max():
        return None
    ranks = rankdata(picture.ravel())
    ranks -= ranks.mean()
    return _View(ranks / np.linalg.norm(ranks), picture / picture.max())


def _likeness(first: _View, second: _View) -> tuple[float, float]:
    """Rank correlation and structural similarity."""
    from skimage.metrics import structural_similarity

    side = min(first.picture.shape)
    window = min(7, side - 1 + side % 2)
    ssim = structural_similarity(first.picture, second.picture, data_range=1.0, win_size=window)
    return float(first.ranks @ second.ranks), float(ssim)


# ------------------------------------------------------------------------------------------------- repeatability


def repeatability(maps: Sequence[Sequence[Map]]) -> tuple[AuditScore, ...]:
    """Whether networks of the same training point to the same places [3]_.

    Parameters
    ----------
    maps : sequence of sequence of float array (height, width)
        ``maps[network][case]``: maps of the same cases, which none of the networks was trained on, for one class.
        On the map's own grid, since enlarging makes all maps alike.

    Returns
    -------
    tuple of AuditScore
        Mean rank correlation of the absolute maps over all pairs of networks, with its null, maps of different cases
        by different networks; and the probability that two maps of one case are more alike than two of different
        cases, 0.5 by chance. Constant maps are left out.

    Raises
    ------
    SettingsError
        If networks have different numbers of cases, or maps differ in shape, are smaller than 3 x 3 or not finite.
    """
    if len({len(row) for row in maps}) > 1 or len({m.shape for row in maps for m in row}) > 1:
        raise SettingsError("Repeatability needs the same cases from every network, and maps of one shape.")
    names = ("repeatability over networks", "same case told from others")
    views = [[_view(m) for m in row] for row in maps]
    same: list[float] = []
    other: list[float] = []
    for first, second in combinations(views, 2):
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                if a is not None and b is not None:
                    (same if i == j else other).append(float(a.ranks @ b.ranks))
    if not same:
        reason = "no case has maps of two networks"
        return tuple(
            AuditScore(name, None, unit, reason=reason, reference=reference)
            for name, unit, reference in zip(names, ("correlation", "fraction"), (REPEATABILITY, "cxnet"), strict=True)
        )
    null = {"maps of other cases": float(np.mean(other))} if other else {}
    value = AuditScore(names[0], float(np.mean(same)), "correlation", null=null, reference=REPEATABILITY)
    if not other:
        return value, AuditScore(names[1], None, reason="there is only one case, so nothing to tell it from")
    one, two = np.array(same)[:, None], np.array(other)[None, :]
    share = float(((one > two) + 0.5 * (one == two)).mean())
    return value, AuditScore(names[1], share, null={"chance": 0.5})
