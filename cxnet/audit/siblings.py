"""How alike two maps are, and whether networks of the same training point to the same places.

References
----------
.. [1] Arun N et al. Assessing the trustworthiness of saliency maps for localizing abnormalities in medical imaging.
       Radiol Artif Intell 2021. doi:10.1148/ryai.2021200267
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import DatasetError, SettingsError
from cxnet.statistics import bootstrap
from cxnet.weights import FOLDER, Card

Map = NDArray[np.floating[Any]]

REPEATABILITY = "Arun et al. 2021, doi:10.1148/ryai.2021200267"


@dataclass(frozen=True, eq=False)
class View:
    """A map as its ranks (centred, of length 1) and as a picture of absolute values up to 1."""

    ranks: NDArray[np.float64]
    picture: NDArray[np.float64]


def view(heatmap: Map) -> View | None:
    """A map to compare; None if it is constant. It must be finite and at least 3 x 3."""
    from scipy.stats import rankdata  # costs as long to import as everything else together

    if heatmap.ndim != 2 or min(heatmap.shape) < 3 or not np.isfinite(heatmap).all():
        raise SettingsError(f"Maps to compare must be finite and at least 3 x 3; received shape {heatmap.shape}.")
    picture = np.abs(np.asarray(heatmap, np.float64))
    if np.ptp(picture) <= 1e-9 * picture.max():
        return None
    ranks = rankdata(picture.ravel())
    ranks -= ranks.mean()
    return View(ranks / np.linalg.norm(ranks), picture / picture.max())


def likeness(first: View, second: View) -> tuple[float, float]:
    """Rank correlation and structural similarity."""
    from skimage.metrics import structural_similarity

    side = min(first.picture.shape)
    window = min(7, side - 1 + side % 2)
    ssim = structural_similarity(first.picture, second.picture, data_range=1.0, win_size=window)
    return float(first.ranks @ second.ranks), float(ssim)


@dataclass(frozen=True)
class Repeatability:
    """Whether networks of the same training point to the same places, by rank correlations of absolute maps.

    Parameters
    ----------
    networks, cases : int
        Cases with maps of at least two networks; one a patient, or intervals are too narrow.
    value : float or None
        Mean over all pairs of networks, maps of the same radiograph. None exactly when `reason` says why.
    interval : (float, float) or None
        95 %, patients resampled.
    null : float or None
        Mean for maps of different radiographs explained for the same class, by different networks.
    above : (float, float) or None
        95 % interval of the value less the null.
    told_apart : float or None
        Probability that two maps of one radiograph are more alike than two of different ones; 0.5 by chance.
    unseen, seen : float or None
        `value` for pairs with the network that was not trained on the radiograph, and for pairs that both were.
    reason : str or None
    """

    networks: int
    cases: int
    value: float | None
    interval: tuple[float, float] | None = None
    null: float | None = None
    above: tuple[float, float] | None = None
    told_apart: float | None = None
    unseen: float | None = None
    seen: float | None = None
    reason: str | None = None
    reference: str = REPEATABILITY

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise SettingsError("Repeatability needs a value, or else a reason why it has none.")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Repeatability:
        """The inverse of :meth:`to_json`."""
        pairs = {name: None if told[name] is None else tuple(told[name]) for name in ("interval", "above")}
        return cls(**{**told, **pairs})


def repeatability(
    maps: Sequence[Sequence[Map]],
    classes: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    held_out_by: Sequence[int] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Repeatability:
    """Whether networks of the same training point to the same places [1]_.

    Parameters
    ----------
    maps : sequence of sequence of float array (height, width)
        ``maps[network][case]``: maps of the same cases, of a case for one class. On the map's own grid, since
        enlarging makes all maps alike. Constant maps are left out.
    classes : sequence of str, optional
        Class that the maps of each case explain; all the same when left out.
    groups : sequence of str, optional
        Patient of each case; each case is a patient when left out.
    held_out_by : sequence of int, optional
        The network that was not trained on each case.
    resamples, seed : int
        Of the intervals.

    Returns
    -------
    Repeatability

    Raises
    ------
    SettingsError
        If networks have different numbers of cases, or maps differ in shape, are smaller than 3 x 3 or not finite.

    Notes
    -----
    Arun et al. [1]_ compare maps on radiographs that none of the networks was trained on. Of the networks of a k-fold
    training all but one were trained on any case, which may make them more alike: `unseen` and `seen` tell.
    """
    if len({len(row) for row in maps}) > 1 or len({m.shape for row in maps for m in row}) > 1:
        raise SettingsError("Repeatability needs the same cases from every network, and maps of one shape.")
    count = len(maps[0]) if maps else 0
    kinds = np.array([""] * count if classes is None else list(classes))
    who = [str(k) for k in range(count)] if groups is None else list(groups)
    if len(kinds) != count or len(who) != count or (held_out_by is not None and len(held_out_by) != count):
        raise SettingsError("Repeatability needs a class, a patient and a held-out network for each case, if any.")
    # ranks of constant maps are 0 and do not count
    views = [[view(m) for m in row] for row in maps]
    there = np.array([[found is not None for found in row] for row in views], np.float64).reshape(len(maps), count)
    both = there.T @ there  # networks that have a map of both cases
    pairs = np.outer(there.sum(axis=0), there.sum(axis=0)) - both  # ordered pairs of different networks
    alone = pairs.diagonal() if count else np.zeros(0)
    if not alone.any():
        return Repeatability(len(maps), 0, None, reason="no case has maps of two networks")
    size = maps[0][0].size
    ranks = np.array([[np.zeros(size) if found is None else found.ranks for found in row] for row in views])
    alike = np.einsum("aip,bjp->abij", ranks, ranks)
    counted = np.einsum("ai,bj->abij", there, there)
    for network in range(len(maps)):
        alike[network, network] = counted[network, network] = 0
    total = alike.sum(axis=(0, 1))
    other = (kinds[:, None] == kinds[None, :]) & ~np.eye(count, dtype=np.bool_)
    other &= np.array(who)[:, None] != np.array(who)[None, :]

    def same(drawn: NDArray[np.int64]) -> float | None:
        weight = float(alone[drawn].sum())
        return float(total.diagonal()[drawn].sum()) / weight if weight else None

    def apart(drawn: NDArray[np.int64]) -> float | None:
        grid = np.ix_(drawn, drawn)
        weight = float((pairs * other)[grid].sum())
        return float((total * other)[grid].sum()) / weight if weight else None

    def above(drawn: NDArray[np.int64]) -> float | None:
        one, two = same(drawn), apart(drawn)
        return None if one is None or two is None else one - two

    def limits(statistic: Callable[[NDArray[np.int64]], float | None]) -> tuple[float, float] | None:
        found = bootstrap(statistic, who, resamples=resamples, seed=seed)
        return None if found.low is None or found.high is None else (found.low, found.high)

    everyone = np.arange(count)
    null = apart(everyone)
    told_apart = unseen = seen = None
    if null is not None:
        upper = np.triu(np.ones((len(maps), len(maps)), np.bool_), 1)
        shown = counted.astype(np.bool_) & upper[:, :, None, None]
        one = alike[shown & np.eye(count, dtype=np.bool_)]
        two = np.sort(alike[shown & other])
        below, through = np.searchsorted(two, one, "left"), np.searchsorted(two, one, "right")
        told_apart = float((below + through).mean() / (2 * len(two)))
    if held_out_by is not None:
        out = np.asarray(held_out_by, np.int64)
        own = np.array([alike[h, :, i, i].sum() for i, h in enumerate(out)]).sum()
        weight = np.array([counted[h, :, i, i].sum() for i, h in enumerate(out)]).sum()
        unseen = float(own / weight) if weight else None
        rest = float(alone.sum() / 2 - weight)
        seen = float((total.diagonal().sum() / 2 - own) / rest) if rest else None
    return Repeatability(
        len(maps), int((alone > 0).sum()), same(everyone), limits(same), null,
        None if null is None else limits(above), told_apart, unseen, seen,
    )  # fmt: skip


def sibling_check(
    cards: Sequence[Card], method: str = "grad-cam", path: Path = FOLDER / "repeatability.json"
) -> Repeatability | None:
    """The stored repeatability of a run's networks, or None where there is none of these very weights.

    Raises
    ------
    DatasetError
        If the file is there but damaged.
    """
    sums = [card.sha256 for card in cards]
    try:
        for told in json.loads(path.read_text("utf-8")):
            if (told["method"], told["sha256"]) == (method, sums):
                return Repeatability.from_json(told["found"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, SettingsError) as error:
        raise DatasetError(f"The repeatability in {path.name} cannot be read ({error}); restore the file.") from error
    return None
