"""How much of a map lies in the lungs, and whether that is more than chance.

Every function takes raw maps: stretching a map for display moves its figures. Negative values count as 0.

References
----------
.. [1] Wang H et al. Score-CAM (energy-based pointing game). CVPR Workshops 2020. arXiv:1910.01279
.. [2] Arras L, Osman A, Samek W. CLEVR-XAI (relevance mass and rank accuracy). Inf Fusion 2022.
       doi:10.1016/j.inffus.2021.11.008
.. [3] Zhang J et al. Top-down neural attention by excitation backprop (pointing game). IJCV 2018.
       doi:10.1007/s11263-017-1059-x
.. [4] Krishna S et al. The disagreement problem in explainable machine learning. arXiv:2202.01602
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.errors import SettingsError

Map = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

ENERGY = "Wang et al. 2020, arXiv:1910.01279"
RANK = "Arras et al. 2022, doi:10.1016/j.inffus.2021.11.008"
POINTING = "Zhang et al. 2018, doi:10.1007/s11263-017-1059-x"
AGREEMENT = "Krishna et al. 2022, arXiv:2202.01602"
OWN = "cxnet"

#: Names of what stands beside the agreement of Grad-CAM and LIME.
SHIFTED, BLOB = "95 % of shifted copies lie below", "centred blob"
NO_EVIDENCE = "no evidence: the map is zero everywhere"
CONSTANT = "the map is the same everywhere"
EMPTY_MASK = "no lung was found"
FULL_MASK = "the whole picture is marked as lung"

#: Zones outside the lungs, each with what it usually means when a map is hot there.
ZONES = {
    "border band": "outermost 5 % of the picture",
    "corners": "corner boxes of 20 %, where markers and text stand",
    "above the apices": "shoulders and neck",
    "below the diaphragm": "abdomen",
    "mediastinum": "between the lungs: heart, spine, large vessels",
    "beside the lungs": "chest wall, arms, and gaps at the lungs' outline",
}


@dataclass(frozen=True)
class AuditScore:
    """One figure of an audit.

    Parameters
    ----------
    name : str
    value : float or None
        None exactly when `reason` says why it is undefined.
    unit : str
        "fraction", "ratio", "standard deviations", "0 or 1" or "correlation".
    direction : {"higher", "lower", "neither"}
        Which way speaks for evidence in the lungs.
    null : mapping of str to float
        What maps without any content score, by their name.
    reason : str or None
    reference : str
        Where the figure is defined.
    """

    name: str
    value: float | None
    unit: str = "fraction"
    direction: Literal["higher", "lower", "neither"] = "higher"
    null: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    reference: str = OWN

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise SettingsError(f"The score {self.name!r} needs a value, or else a reason why it has none.")
        values = [*self.null.values(), *([] if self.value is None else [self.value])]
        if not all(math.isfinite(value) for value in values):
            raise SettingsError(f"The score {self.name!r} must be finite; received {self.value} and {dict(self.null)}.")
        object.__setattr__(self, "null", MappingProxyType(dict(self.null)))

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``analysis.json``."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "direction": self.direction,
            "null": dict(self.null),
            "reason": self.reason,
            "reference": self.reference,
        }


def upsample(heatmap: Map, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Enlarge a coarse map bilinearly with half-pixel centres; no new extremes, no negative values."""
    height, width = shape
    return np.asarray(
        cv2.resize(np.ascontiguousarray(heatmap, np.float32), (width, height), interpolation=cv2.INTER_LINEAR),
        np.float32,
    )


def _positive(heatmap: Map, lungs: Mask) -> NDArray[np.float64]:
    if heatmap.ndim != 2 or heatmap.shape != lungs.shape or lungs.dtype != np.bool_:
        raise SettingsError(
            f"A map and a bool lung mask of the same shape are needed; received {heatmap.shape} and {lungs.dtype} {lungs.shape}."
        )
    if not np.isfinite(heatmap).all():
        raise SettingsError("The map holds values that are not finite, so nothing can be measured on it.")
    return np.maximum(heatmap, 0).astype(np.float64)


def _undefined(positive: NDArray[np.float64], lungs: Mask) -> str | None:
    if not lungs.any():
        return EMPTY_MASK
    if lungs.all():
        return FULL_MASK
    return NO_EVIDENCE if not positive.any() else None


def dilate(mask: Mask, radius_px: float) -> Mask:
    """Every pixel within `radius_px` of the mask."""
    if radius_px <= 0 or not mask.any():
        return mask.copy()
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= radius_px, np.bool_)


def energy(heatmap: Map, region: Mask) -> float | None:
    """Share of the positive map that lies in a region [1]_; None for a map without evidence."""
    positive = _positive(heatmap, region)
    total = positive.sum()
    return float(positive[region].sum() / total) if total > 0 else None


def centred_blob(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A content-free map: a Gaussian in the middle, standard deviation 20 % of each side."""
    rows, columns = (np.exp(-0.5 * ((np.arange(n) + 0.5 - n / 2) / (0.2 * n)) ** 2) for n in shape)
    blob: NDArray[np.float64] = np.outer(rows, columns)
    return blob


def shifted_energies(heatmap: Map, lungs: Mask, copies: int = 200, seed: int = 0) -> NDArray[np.float64]:
    """In-lung energy of this very map after random shifts (around the edge) and flips: float64 (copies,).

    The null keeps the map's shape and loses its place. All shifts are had at once by Fourier transform.
    """
    positive = _positive(heatmap, lungs)
    rng = np.random.default_rng(seed)
    flips = rng.integers(0, 4, copies)
    rows, columns = rng.integers(0, lungs.shape[0], copies), rng.integers(0, lungs.shape[1], copies)
    mask = np.conj(np.fft.rfft2(lungs.astype(np.float64)))
    result = np.empty(copies)
    for flip in range(4):
        flipped = positive[:: -1 if flip & 1 else 1, :: -1 if flip & 2 else 1]
        correlation = np.fft.irfft2(np.conj(np.fft.rfft2(flipped) * mask), s=lungs.shape)
        chosen = flips == flip
        result[chosen] = correlation[rows[chosen], columns[chosen]]
    shares: NDArray[np.float64] = np.clip(result / positive.sum(), 0.0, 1.0)
    return shares


def zones(lungs: Mask) -> dict[str, Mask]:
    """Split everything outside the lungs into the zones of :data:`ZONES`.

    Returns
    -------
    dict of str to bool array (height, width)
        Disjoint; together with the lungs they cover the picture. A pixel that fits several zones belongs to the
        first: border band, corners, above the apices (higher than the highest lung pixel), below the diaphragm
        (lower than the lungs of its column, or than both lungs), mediastinum (between the lungs of its row),
        beside the lungs (the rest).
    """
    height, width = lungs.shape
    row: NDArray[np.int64] = np.arange(height)[:, None]
    column: NDArray[np.int64] = np.arange(width)[None, :]
    # relative distance of every row and column from the nearer edge
    across, down = (np.minimum(c, 1 - c) for c in ((column + 0.5) / width, (row + 0.5) / height))
    border = np.asarray((across < 0.05) | (down < 0.05), np.bool_)
    corner = np.asarray((across < 0.2) & (down < 0.2), np.bool_)
    lung_rows, lung_columns = (np.asarray(lungs.any(axis=axis), np.bool_) for axis in (1, 0))
    empty = np.zeros(lungs.shape, np.bool_)
    above = below = between = empty
    if lung_rows.any():
        top, bottom = int(lung_rows.argmax()), height - 1 - int(lung_rows[::-1].argmax())
        above = np.asarray((row < top) & ~empty, np.bool_)
        lowest = np.where(lung_columns, height - 1 - lungs[::-1].argmax(axis=0), bottom)
        below = (row > lowest[None, :]) & (row > (top + bottom) / 2)
        left = np.where(lung_rows, lungs.argmax(axis=1), width)
        right = np.where(lung_rows, width - 1 - lungs[:, ::-1].argmax(axis=1), -1)
        between = (column > left[:, None]) & (column < right[:, None])
    found: dict[str, Mask] = {}
    taken = lungs.copy()
    masks: tuple[Mask, ...] = (border, corner, above, below, between, ~empty)
    for name, zone in zip(ZONES, masks, strict=True):
        found[name] = np.asarray(zone & ~taken, np.bool_)
        taken = taken | zone
    return found


def pointing(heatmap: Map, lungs: Mask, tolerance_px: float) -> bool | None:
    """Whether a largest pixel of the map lies in the lungs or within the tolerance of them [3]_.

    With several largest pixels one in the lungs is enough. None for a constant map or an empty mask.
    """
    positive = _positive(heatmap, lungs)
    if not lungs.any() or positive.max() == positive.min():
        return None
    return bool(dilate(lungs, tolerance_px)[positive == positive.max()].any())


def rank_accuracy(heatmap: Map, lungs: Mask, share: float | None = None, seed: int = 0) -> float | None:
    """Share of the K hottest pixels that lie in the lungs [2]_.

    `share` of the picture's pixels gives K; None takes as many as the lungs have. Ties are broken at random, with
    the seed. None for a map without evidence or an empty mask.
    """
    positive = _positive(heatmap, lungs)
    if _undefined(positive, lungs) is not None:
        return None
    count = int(lungs.sum()) if share is None else max(1, round(share * lungs.size))
    values, inside = positive.ravel(), lungs.ravel()
    least = np.partition(values, len(values) - count)[len(values) - count]
    hotter, ties = values > least, np.flatnonzero(values == least)
    wanted = count - int(hotter.sum())
    if wanted < len(ties):
        ties = ties[np.argpartition(np.random.default_rng(seed).random(len(values))[ties], wanted - 1)[:wanted]]
    return float((inside[hotter].sum() + inside[ties].sum()) / count)


def localisation_scores(
    heatmap: Map, lungs: Mask, *, cell_px: float, seed: int = 0, copies: int = 200
) -> tuple[AuditScore, ...]:
    """All figures of one map against one lung mask in the same frame.

    Parameters
    ----------
    heatmap : float array (height, width)
        Raw; for signed maps only the positive part is measured.
    lungs : bool array (height, width)
    cell_px : float
        Side of a cell of the map's own grid, in pixels; half of it is the tolerance.
    seed, copies : int
        Of the random shifted copies.

    Returns
    -------
    tuple of AuditScore
        In-lung energy, the same with tolerance, lift, z, pointing game, rank accuracy (K = lung area, 5 %), and the
        energy of every zone.

    Raises
    ------
    SettingsError
        If the shapes differ or the map is not finite.
    """
    positive = _positive(heatmap, lungs)
    reason = _undefined(positive, lungs)
    tolerance = cell_px / 2
    names = ["in-lung energy", "in-lung energy with tolerance", "lift", "z against shifted copies"]
    names += ["pointing game", "rank accuracy, lung area", "rank accuracy, hottest 5 %"]
    if reason is not None:
        return tuple(AuditScore(name, None, reason=reason) for name in [*names, *(f"energy: {zone}" for zone in ZONES)])
    area = float(lungs.mean())
    wide = dilate(lungs, tolerance)
    blob = centred_blob(lungs.shape)
    total = positive.sum()
    inside = float(positive[lungs].sum() / total)
    shifted = shifted_energies(positive, lungs, copies, seed)
    spread = float(shifted.std(ddof=1))
    constant = positive.max() == positive.min()
    hit = pointing(positive, lungs, tolerance)
    scores = [
        AuditScore(
            names[0],
            inside,
            null={
                "uniform map": area,
                "centred blob": float(blob[lungs].sum() / blob.sum()),
                "shifted copies": float(shifted.mean()),
            },
            reference=ENERGY,
        ),
        AuditScore(
            names[1],
            float(positive[wide].sum() / total),
            null={"uniform map": float(wide.mean()), "centred blob": float(blob[wide].sum() / blob.sum())},
            reference=ENERGY,
        ),
        AuditScore(names[2], inside / area, "ratio", null={"uniform map": 1.0}),
        AuditScore(names[3], None, "standard deviations", reason=CONSTANT)
        if constant or spread < 1e-9
        else AuditScore(
            names[3],
            (inside - float(shifted.mean())) / spread,
            "standard deviations",
            null={"shifted copies": 0.0},
        ),
        AuditScore(names[4], None, "0 or 1", reason=CONSTANT, reference=POINTING)
        if hit is None
        else AuditScore(names[4], float(hit), "0 or 1", null={"random point": float(wide.mean())}, reference=POINTING),
    ]
    for name, share in ((names[5], None), (names[6], 0.05)):
        value = None if constant else rank_accuracy(positive, lungs, share, seed)
        scores.append(
            AuditScore(name, None, reason=CONSTANT, reference=RANK)
            if value is None
            else AuditScore(name, value, null={"uniform map": area}, reference=RANK)
        )
    for zone, mask in zones(lungs).items():
        scores.append(
            AuditScore(
                f"energy: {zone}",
                float(positive[mask].sum() / total),
                direction="lower",
                null={"uniform map": float(mask.mean())},
            )
        )
    return tuple(scores)


def _superpixel_means(cam: Map, segments: NDArray[np.integer[Any]], count: int) -> NDArray[np.float64]:
    area = np.bincount(segments.ravel(), minlength=count)
    return np.asarray(np.bincount(segments.ravel(), cam.ravel(), minlength=count) / np.maximum(area, 1), np.float64)


def _correlations(maps: NDArray[np.float64], lime: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's correlation of LIME with each map, 0 for a map that is the same everywhere: float64 (maps,)."""
    from scipy.stats import rankdata  # costs as long to import as everything else together

    ranks, own = rankdata(maps, axis=1), rankdata(lime)
    ranks, own = ranks - ranks.mean(axis=1, keepdims=True), own - own.mean()
    spread = np.sqrt((ranks**2).sum(axis=1) * (own**2).sum())
    return np.asarray(np.divide(ranks @ own, spread, out=np.zeros(len(maps)), where=spread > 0), np.float64)


def _by_chance(
    cam: Map, lime: NDArray[np.float64], segments: NDArray[np.integer[Any]], copies: int, seed: int
) -> dict[str, float]:
    """What maps that know nothing of the network would agree with LIME."""
    rng = np.random.default_rng(seed)
    moved = []
    for flip in rng.integers(0, 4, copies):
        flipped = cam[:: -1 if flip & 1 else 1, :: -1 if flip & 2 else 1]
        moved.append(_superpixel_means(np.roll(flipped, rng.integers(0, cam.shape), (0, 1)), segments, len(lime)))
    blob = _superpixel_means(centred_blob(cam.shape), segments, len(lime))
    *shifted, centred = _correlations(np.array([*moved, blob]), lime)
    return {SHIFTED: float(np.quantile(shifted, 0.95)), BLOB: float(centred)}


def cam_lime_agreement(
    cam: Map,
    weights: NDArray[np.floating[Any]],
    segments: NDArray[np.integer[Any]],
    lungs: Mask,
    k: int = 5,
    copies: int = 100,
    seed: int = 0,
) -> tuple[AuditScore, ...]:
    """Whether Grad-CAM and LIME point to the same superpixels [4]_.

    Parameters
    ----------
    cam : float array (height, width)
    weights : float array (superpixels,)
        LIME's; the positive part is compared.
    segments : int array (height, width)
        Superpixel of every pixel, from 0.
    lungs : bool array (height, width)
    k : int
        Superpixels in the top-k overlap.
    copies, seed : int
        Of the random shifted copies of Grad-CAM's map; with 0 of them the correlation has no null.

    Returns
    -------
    tuple of AuditScore
        Spearman's correlation over superpixels, top-k intersection over union with what random sets give, and the
        difference of the in-lung energies. Neighbours have similar values in both maps, so the correlation of two
        unrelated ones scatters far more widely than its formula says: beside it stand the 95th percentile of the same
        map shifted around the edge and flipped at random, and what a centred blob has.
    """
    positive = _positive(cam, lungs)
    count = len(weights)
    if segments.shape != cam.shape or segments.min() < 0 or segments.max() >= count:
        raise SettingsError(f"Superpixels must be numbered from 0 to {count - 1} on a grid of {cam.shape}.")
    mean = _superpixel_means(positive, segments, count)
    lime = np.maximum(np.asarray(weights, np.float64), 0)
    names = (
        "rank correlation of Grad-CAM and LIME",
        f"top-{k} overlap of Grad-CAM and LIME",
        "difference of in-lung energies",
    )
    reason = None
    if not positive.any():
        reason = "Grad-CAM found no evidence"
    elif not lime.any():
        reason = "LIME found no superpixel that speaks for the class"
    elif np.ptp(mean) == 0 or np.ptp(lime) == 0:
        reason = "one of the maps is constant over the superpixels"
    elif count <= k:
        reason = f"there are only {count} superpixels"
    if reason is not None:
        return (
            AuditScore(names[0], None, "correlation", reason=reason, reference=AGREEMENT),
            AuditScore(names[1], None, reason=reason, reference=AGREEMENT),
            AuditScore(names[2], None, direction="lower", reason=reason),
        )
    first, second = (set(np.argsort(-values, kind="stable")[:k].tolist()) for values in (mean, lime))
    # Expected intersection over union of two random k-sets out of n (hypergeometric overlap).
    chance = sum(
        math.comb(k, j) * math.comb(count - k, k - j) / math.comb(count, k) * j / (2 * k - j) for j in range(k + 1)
    )
    correlation = float(_correlations(mean[None], lime)[0])
    by_chance = _by_chance(positive, lime, segments, copies, seed) if copies else {}
    scores = [
        AuditScore(names[0], correlation, "correlation", null=by_chance, reference=AGREEMENT),
        AuditScore(names[1], len(first & second) / len(first | second), null={"chance": chance}, reference=AGREEMENT),
    ]
    if not lungs.any():
        return (*scores, AuditScore(names[2], None, direction="lower", reason=EMPTY_MASK))
    painted = lime[segments]
    difference = abs(float(positive[lungs].sum() / positive.sum()) - float(painted[lungs].sum() / painted.sum()))
    return (*scores, AuditScore(names[2], difference, direction="lower"))
