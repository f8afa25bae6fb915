"""Whether maps point to what experts drew: opacities, which they should, and lines and tubes, which they should not.

Opacities lie in the lungs, so a map that is merely in the lungs scores on them too. Every figure therefore stands
beside what maps without knowledge of the opacity get, the strictest being the same map moved elsewhere with as much of
it in the lungs.

References
----------
.. [1] Wang H et al. Score-CAM (energy-based pointing game). CVPR Workshops 2020. arXiv:1910.01279
.. [2] Zhang J et al. Top-down neural attention by excitation backprop (pointing game). IJCV 2018.
       doi:10.1007/s11263-017-1059-x
.. [3] Saporta A et al. Benchmarking saliency methods for chest X-ray interpretation. Nat Mach Intell 2022.
       doi:10.1038/s42256-022-00536-x
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.audit.localisation import (
    CONSTANT,
    ENERGY,
    NO_EVIDENCE,
    POINTING,
    AuditScore,
    Map,
    Mask,
    centred_blob,
    dilate,
)
from cxnet.errors import DatasetError, SettingsError, WeightsError
from cxnet.statistics import bootstrap
from cxnet.weights import FOLDER, card

#: Region → what experts drew.
REGIONS = {
    "opacity": "ground-glass opacities and consolidations",
    "devices": "lines, tubes and probes",
}
UNIFORM, BLOB, LUNGS, MOVED = "uniform map", "centred blob", "lungs, evenly", "same map moved"
NULLS = {
    UNIFORM: "the same everywhere; also the mean of all shifted copies of any map",
    BLOB: "a Gaussian in the middle of the picture",
    LUNGS: "the same everywhere in the lungs, zero elsewhere",
    MOVED: "this map shifted and flipped to where it has as much in the lungs",
}
#: Columns of :func:`lesion_summary`: mean difference to the same map moved, and its interval.
ABOVE = ("above", "above low", "above high")

#: In-lung energy of a moved copy differs from the map's own by at most this.
ALIKE = 0.05
#: Fewer copies than this make no null.
LEAST_COPIES = 100
#: Fewer cases than this are listed, not summarised.
LEAST_CASES = 5

_COLUMNS = ("network", "model", "model_sha256", "case", "group", "true", "predicted", "method", "region", "figure")
COLUMNS = (*_COLUMNS, "value", *NULLS, "reason")


def moved_copies(
    heatmap: Map, lungs: Mask, region: Mask, cell_px: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy and pointing in a region of every copy of the map that has as much in the lungs.

    Parameters
    ----------
    heatmap : float array (height, width)
        Its positive part is measured; it must have one.
    lungs, region : bool array (height, width)
    cell_px : float
        Side of a cell of the map's own grid, in pixels: copies displaced by less are left out, half of it is the
        tolerance of the pointing game.

    Returns
    -------
    (float64 array (copies,), float64 array (copies,))
        Over all shifts by whole pixels (around the edge) and flips whose in-lung energy differs from the map's own by
        at most :data:`ALIKE`; nothing is random. Perhaps empty.

    Notes
    -----
    What a copy has in the lungs it has by choice of the copies, so what it has in the opacity tells how much a map of
    this shape gets there by being in the lungs.
    """
    positive = _positive(heatmap, lungs, region)
    positive = positive / positive.sum()
    hottest = (positive == positive.max()).astype(np.float64)
    own = float(positive[lungs].sum())
    rows, columns = (np.minimum(np.arange(n), n - np.arange(n)) for n in positive.shape)
    displaced = (rows[:, None] >= cell_px) | (columns[None, :] >= cell_px)
    masks = [np.fft.rfft2(mask.astype(np.float64)) for mask in (lungs, region, dilate(region, cell_px / 2))]
    found: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for flip in range(4):
        flips = slice(None, None, -1 if flip & 1 else 1), slice(None, None, -1 if flip & 2 else 1)
        energy, point = (np.conj(np.fft.rfft2(m[flips])) for m in (positive, hottest / hottest.sum()))
        # entry (r, c) is the sum over the mask of the copy moved down by r and right by c
        inside, hit, pointing = (
            np.fft.irfft2(spectrum * mask, s=positive.shape)
            for spectrum, mask in zip((energy, energy, point), masks, strict=True)
        )
        chosen = np.abs(inside - own) <= ALIKE
        chosen = chosen & displaced if flip == 0 else chosen
        found.append((hit[chosen], pointing[chosen]))
    energies, hits = (np.clip(np.concatenate(values), 0.0, 1.0) for values in zip(*found, strict=True))
    return energies, hits


def lesion_scores(
    heatmap: Map, lungs: Mask, region: Mask, *, cell_px: float, name: str = "opacity"
) -> tuple[AuditScore, AuditScore]:
    """How much of a map lies in what an expert drew, and whether its hottest point does.

    Parameters
    ----------
    heatmap : float array (height, width)
        Raw, enlarged to the drawing's grid; for signed maps only the positive part is measured.
    lungs : bool array (height, width)
        Of the same expert, if possible.
    region : bool array (height, width)
        Where the opacity or the device is.
    cell_px : float
        Side of a cell of the map's own grid, in pixels; half of it is the tolerance of the pointing game.
    name : str
        Of the region.

    Returns
    -------
    (AuditScore, AuditScore)
        Energy [1]_ and pointing game [2]_, with the nulls of :data:`NULLS`; for pointing a random point of the
        picture, of the blob (its hottest) or of the lungs. None with a reason where nothing was drawn or the map is
        zero; pointing also for a constant map.

    Raises
    ------
    SettingsError
        If the shapes differ or the map is not finite.

    Notes
    -----
    Several largest pixels share the hit: with LIME these are a whole superpixel, and one pixel of it in the region
    would be too easy. Opacity outside the drawn lungs counts as lung for the nulls, since diseased lung is what
    outlines miss.
    """
    positive = _positive(heatmap, lungs, region)
    names = f"{name}: energy", f"{name}: pointing"
    direction: Literal["higher", "lower"] = "higher" if name == "opacity" else "lower"
    reason = None
    if not region.any():
        reason = f"no {name} was drawn"
    elif not positive.any():
        reason = NO_EVIDENCE
    if reason is not None:
        return (
            AuditScore(names[0], None, direction=direction, reason=reason, reference=ENERGY),
            AuditScore(names[1], None, "0 or 1", direction, reason=reason, reference=POINTING),
        )
    field = lungs | region if name == "opacity" else lungs
    blob, wide = centred_blob(region.shape), dilate(region, cell_px / 2)
    nulls = {UNIFORM: float(region.mean()), BLOB: float(blob[region].sum() / blob.sum())}
    hits = {UNIFORM: float(wide.mean()), BLOB: float(wide[blob == blob.max()].mean())}
    if field.any():
        nulls[LUNGS], hits[LUNGS] = float(region[field].mean()), float(wide[field].mean())
        copies, pointed = moved_copies(positive, field, region, cell_px)
        if len(copies) >= LEAST_COPIES:
            nulls[MOVED], hits[MOVED] = float(copies.mean()), float(pointed.mean())
    value = float(positive[region].sum() / positive.sum())
    energy = AuditScore(names[0], value, direction=direction, null=nulls, reference=ENERGY)
    hottest = positive == positive.max()
    if hottest.all():
        return energy, AuditScore(names[1], None, "0 or 1", direction, reason=CONSTANT, reference=POINTING)
    return energy, AuditScore(names[1], float(wide[hottest].mean()), "0 or 1", direction, hits, reference=POINTING)


def _positive(heatmap: Map, lungs: Mask, region: Mask) -> NDArray[np.float64]:
    if (
        heatmap.ndim != 2
        or not heatmap.shape == lungs.shape == region.shape
        or {lungs.dtype, region.dtype} != {np.dtype(np.bool_)}
    ):
        raise SettingsError(
            f"A map and bool masks of its shape are needed; received {heatmap.shape}, {lungs.dtype} {lungs.shape} and "
            f"{region.dtype} {region.shape}."
        )
    if not np.isfinite(heatmap).all():
        raise SettingsError("The map holds values that are not finite, so nothing can be measured on it.")
    return np.maximum(heatmap, 0).astype(np.float64)


# ---------------------------------------------------------------------------------------------------- many cases


def lesion_summary(rows: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Means over cases with 95 % patient-bootstrap intervals, and how far they are above each null.

    Parameters
    ----------
    rows : DataFrame
        With the columns :data:`COLUMNS`, one row a case, method, region and figure.
    resamples : int

    Returns
    -------
    DataFrame
        One row for every network, method, region and figure: ``cases`` (with a value), ``patients``, ``value``,
        ``low``, ``high``; the mean of each of :data:`NULLS` over the cases that have it; ``above``, ``above low``,
        ``above high``: the mean of the paired differences to :data:`MOVED`. ``reason`` says why there is no value (fewer
        than :data:`LEAST_CASES` cases) or no interval.

    Notes
    -----
    Cases of one patient are drawn together. With few patients a percentile interval is too narrow.
    """
    found = []
    for (network, method, region, figure), whole in rows.groupby(["network", "method", "region", "figure"], sort=False):
        part = whole[whole["value"].notna()]
        row: dict[str, Any] = {"network": network, "method": method, "region": region, "figure": figure}
        row |= {"cases": len(part), "patients": part["group"].nunique()}
        row |= dict.fromkeys(("value", "low", "high", *NULLS, *ABOVE, "reason"))
        found.append(row)
        if len(part) < LEAST_CASES:
            row["reason"] = f"only {len(part)} radiographs, fewer than {LEAST_CASES}"
            continue
        row["value"], row["low"], row["high"], row["reason"] = _mean(part, part["value"], resamples)
        row |= {null: float(part[null].mean()) for null in NULLS if part[null].notna().any()}
        moved = part[part[MOVED].notna()]
        if len(moved) >= LEAST_CASES:
            row |= dict(zip(ABOVE, _mean(moved, moved["value"] - moved[MOVED], resamples)[:3], strict=True))
    return pd.DataFrame(found).astype(dict.fromkeys(("value", "low", "high", *NULLS, *ABOVE), np.float64))


def _mean(
    part: pd.DataFrame, values: pd.Series, resamples: int
) -> tuple[float, float | None, float | None, str | None]:
    """Mean of cases' values, its limits, and why it has none."""
    array = values.to_numpy(np.float64)
    limits = bootstrap(lambda drawn: float(array[drawn].mean()), part["group"].tolist(), resamples=resamples)
    return float(array.mean()), limits.low, limits.high, limits.reason


def read_lesions(path: Path = FOLDER / "lesions.csv") -> pd.DataFrame:
    """The stored figures of each annotated radiograph, as ``python -m benchmarks.lesions`` writes them.

    Returns
    -------
    DataFrame
        Columns :data:`COLUMNS`; rows made by other weights than those at hand are left out.

    Raises
    ------
    DatasetError
        If the file is missing or damaged.
    """
    try:
        text = dict.fromkeys((*_COLUMNS, "reason"), str)
        table = pd.read_csv(path, dtype=text)
        if missing := set(COLUMNS) - set(table.columns):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        numbers = table[["value", *NULLS]].to_numpy(np.float64)
        if (table["value"].isna() == table["reason"].isna()).any() or np.isinf(numbers).any():
            raise ValueError("a row has neither a value nor a reason, or both")
    except (OSError, ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DatasetError(f"The figures in {path.name} cannot be read ({error}); restore the file.") from error
    made = table.groupby("model")["model_sha256"].unique()
    whole = [model for model, checksums in made.items() if list(checksums) == [_checksum(str(model))]]
    return table[table["model"].isin(whole)].reset_index(drop=True)


def _checksum(model: str) -> str | None:
    try:
        return card(model).sha256
    except WeightsError:
        return None


def in_words(row: pd.Series) -> str:
    """What the energy row of :func:`lesion_summary` says, in one sentence without jargon."""
    place = "the drawn opacities" if row["region"] == "opacity" else "the lines and tubes"
    value, low, high = (float(row[name]) for name in ABOVE)
    if math.isnan(value) or math.isnan(low):
        return f"too few radiographs to say whether the map knows {place}."
    told = f"{100 * value:+.1f} percentage points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}".replace(
        "-", "−"
    )
    if low > 0:
        return f"more of the map lies in {place} than if it were anywhere else with as much in the lungs ({told})."
    if high < 0:
        return f"less of the map lies in {place} than if it were elsewhere with as much in the lungs ({told})."
    return f"no more of the map lies in {place} than chance gives a map that has as much in the lungs ({told})."
