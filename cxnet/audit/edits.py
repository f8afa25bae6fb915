"""Edits of a picture: hide a part, take a marker away, pad over the border; and control edits of the same area.

Every edit takes and returns a grey picture, leaves its argument unchanged, and fits masks of another frame to the
picture's, so that the same edit works on the radiograph and on a channel of the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.audit.localisation import Mask, dilate
from cxnet.enhance import Grey
from cxnet.errors import SettingsError

Edit = Callable[[Grey], Grey]
Fill = Literal["mean", "blur", "noise"]
Shape = Literal["hull", "box"]

FILLS: tuple[Fill, ...] = ("mean", "blur", "noise")
SHAPES: tuple[Shape, ...] = ("hull", "box")

#: The lungs' hull is widened by this fraction of the shorter side: segmenters miss consolidated lung at the rim.
DILATION = 0.03


def _in_frame(mask: Mask, shape: tuple[int, ...], least: float) -> Mask:
    """A mask on another grid: pixels that it covers by more than `least`."""
    if mask.shape == shape:
        return mask
    cover = cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(cover > least, np.bool_)


def lung_region(lungs: Mask, shape: Shape) -> Mask:
    """What counts as lungs: the convex hull of each, dilated by :data:`DILATION`; or the bounding box of both hulls.

    The box tells less about the lungs' outline to a network that sees only the hole.
    """
    contours, _ = cv2.findContours(lungs.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(lungs.shape, np.uint8)
    for contour in contours:
        cv2.fillConvexPoly(filled, cv2.convexHull(contour), 1)
    hull = dilate(filled.astype(bool), DILATION * min(lungs.shape))
    if shape == "hull" or not hull.any():
        return hull
    box = np.zeros(lungs.shape, np.bool_)
    rows, columns = (np.flatnonzero(hull.any(axis=axis)) for axis in (1, 0))
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def hide(pixels: Grey, hidden: Mask, fill: Fill, seed: int = 0) -> Grey:
    """Replace a part of a picture.

    Parameters
    ----------
    pixels : uint8 array (height, width)
    hidden : bool array
        On another grid it is brought to the picture's.
    fill : {"mean", "blur", "noise"}
        The picture's mean grey; the picture blurred with a sigma of 1/16 of each side (coarse shades stay visible);
        or Gaussian noise with mean and variance of the ring of 5 % of the shorter side around the hidden part, in
        grains of 1/320 of the shorter side, so that it outlives shrinking.
    seed : int
        Of the noise.

    Returns
    -------
    uint8 array (height, width)
    """
    hidden = _in_frame(hidden, pixels.shape, 0.5)
    result = pixels.copy()
    if fill == "mean":
        result[hidden] = round(float(pixels.mean()))
    elif fill == "blur":
        # On a coarse grid: sigma is a sixteenth of each side, so nothing is lost and large pictures stay cheap.
        height, width = (min(side, 128) for side in pixels.shape)
        coarse = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        coarse = cv2.GaussianBlur(coarse, (0, 0), sigmaX=width / 16, sigmaY=height / 16)
        blurred = cv2.resize(coarse, pixels.shape[::-1], interpolation=cv2.INTER_LINEAR)
        result[hidden] = np.rint(np.clip(blurred, 0, 255)).astype(np.uint8)[hidden]
    elif fill == "noise":
        ring = pixels[dilate(hidden, 0.05 * min(pixels.shape)) & ~hidden]
        ring = ring if ring.size else pixels.ravel()
        grain = max(1, round(min(pixels.shape) / 320))
        height, width = (-(-side // grain) for side in pixels.shape)
        noise = np.random.default_rng(seed).standard_normal((height, width)).repeat(grain, 0).repeat(grain, 1)
        noise = noise[: pixels.shape[0], : pixels.shape[1]]
        result[hidden] = np.rint(np.clip(ring.mean() + ring.std() * noise, 0, 255)).astype(np.uint8)[hidden]
    else:
        raise SettingsError(f"Unknown fill {fill!r}; choose from {', '.join(FILLS)}.")
    return result


@dataclass(frozen=True, eq=False)
class _Patch:
    """A group of masked pixels: its shape and where its box begins."""

    top: int
    left: int
    mask: Mask

    @property
    def place(self) -> tuple[slice, slice]:
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def _patches(mask: Mask) -> tuple[_Patch, ...]:
    """Split a mask into groups that stand 2 % of the shorter side apart: letters of one line stay together."""
    joined = dilate(mask, 0.01 * min(mask.shape)).astype(np.uint8)
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    found = []
    for label in range(1, count):
        left, top, width, height = (int(v) for v in boxes[label][:4])
        own = mask[top : top + height, left : left + width] & (labels[top : top + height, left : left + width] == label)
        rows, columns = (np.flatnonzero(own.any(axis=axis)) for axis in (1, 0))
        tight = own[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        found.append(_Patch(top + int(rows[0]), left + int(columns[0]), tight))
    return tuple(found)


def _inpaint(pixels: Grey, patches: tuple[_Patch, ...]) -> Grey:
    """Inpaint by Telea's method, only looking at what stands near the patches."""
    result = pixels.copy()
    margin = 8
    for patch in patches:
        rows, columns = (slice(max(0, s.start - margin), s.stop + margin) for s in patch.place)
        window = result[rows, columns]
        mask = np.zeros(window.shape, np.uint8)
        top, left = patch.top - rows.start, patch.left - columns.start
        mask[top : top + patch.mask.shape[0], left : left + patch.mask.shape[1]] = patch.mask
        result[rows, columns] = cv2.inpaint(np.ascontiguousarray(window), mask, 3, cv2.INPAINT_TELEA)
    return result


def remove(pixels: Grey, mask: Mask) -> Grey:
    """Inpaint the masked pixels of a uint8 picture (height, width) by Telea's method; see :func:`hide` on the mask."""
    mask = _in_frame(mask, pixels.shape, 0.0)
    return _inpaint(pixels, _patches(mask)) if mask.any() else pixels.copy()


def _control_patches(
    patches: tuple[_Patch, ...], lungs: Mask, rng: np.random.Generator, tries: int = 400
) -> tuple[_Patch, ...] | None:
    """The same shapes at random places as far in the lungs as the originals (± 10 % of their area), none overlapping."""
    taken = np.zeros(lungs.shape, np.bool_)
    for patch in patches:
        taken[patch.place] |= patch.mask
    placed = []
    for patch in patches:
        area, share = int(patch.mask.sum()), float(lungs[patch.place][patch.mask].mean())
        height, width = patch.mask.shape
        spots = rng.integers((0, 0), (lungs.shape[0] - height + 1, lungs.shape[1] - width + 1), (tries, 2)).tolist()
        for top, left in spots:
            moved = _Patch(top, left, patch.mask)
            if taken[moved.place][patch.mask].any():
                continue
            if abs(int(lungs[moved.place][patch.mask].sum()) / area - share) <= 0.1:
                taken[moved.place] |= patch.mask
                placed.append(moved)
                break
        else:
            return None
    return tuple(placed)


def control_removals(mask: Mask, lungs: Mask, count: int, rng: np.random.Generator) -> tuple[Edit, ...]:
    """Edits that inpaint the same shapes elsewhere, each as far in the lungs as it was; none without room for `count`.

    Parameters
    ----------
    mask, lungs : bool array (height, width)
        The masked pixels stay what they are in every control.
    count : int
        Different edits wanted.
    rng : numpy Generator
    """
    patches = _patches(mask)
    drawn: dict[tuple[tuple[int, int], ...], Edit] = {}
    for _ in range(2 * count):
        placed = _control_patches(patches, lungs, rng)
        if placed is not None:
            drawn.setdefault(tuple((patch.top, patch.left) for patch in placed), partial(_inpaint, patches=placed))
        if len(drawn) == count:
            return tuple(drawn.values())
    return ()


def _bridge(pixels: Grey, rows: tuple[tuple[int, int], ...], columns: tuple[tuple[int, int], ...]) -> Grey:
    """Overwrite strips (first and end row or column) with the nearest row or column outside them."""

    def nearest(length: int, strips: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
        kept = np.ones(length, np.bool_)
        for first, end in strips:
            kept[first:end] = False
        places = np.flatnonzero(kept)
        number: NDArray[np.int64] = np.arange(length)
        after = places[np.searchsorted(places, number).clip(0, len(places) - 1)]
        before = places[(np.searchsorted(places, number, side="right") - 1).clip(0)]
        chosen: NDArray[np.int64] = np.where(np.abs(number - before) <= np.abs(after - number), before, after)
        return chosen

    return pixels[np.ix_(nearest(pixels.shape[0], rows), nearest(pixels.shape[1], columns))]


def _band(length: int, width: float) -> int:
    return max(1, round(length * width))


def _edges(length: int, width: float) -> tuple[tuple[int, int], ...]:
    band = _band(length, width)
    return (0, band), (length - band, length)


def pad_border(pixels: Grey, width: float) -> Grey:
    """Overwrite a border of `width` (a fraction of each side, below 1/2) with the nearest pixels inside it.

    The size of what is shown stays the same, unlike with a crop that is enlarged again.
    """
    return _bridge(pixels, _edges(pixels.shape[0], width), _edges(pixels.shape[1], width))


def _control_strips(length: int, width: float, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Two strips as wide as the border, at random places off the border and off one another."""
    band = _band(length, width)
    # Both lie in what is inside the border, with at least one line between them.
    first, second = np.sort(rng.choice(length - 4 * band, 2, replace=False))
    return (band + int(first), 2 * band + int(first)), (2 * band + int(second), 3 * band + int(second))


def control_paddings(shape: tuple[int, ...], width: float, count: int, rng: np.random.Generator) -> tuple[Edit, ...]:
    """Edits like :func:`pad_border` with the border's four strips at random places inside it.

    Two rows and two columns of strips cross each other in four places, as the border's do in the corners: the same
    area is edited.
    """
    edits = []
    for _ in range(count):
        rows, columns = (_control_strips(length, width, rng) for length in shape)
        edits.append(partial(_bridge, rows=rows, columns=columns))
    return tuple(edits)


def border_fraction(shape: tuple[int, ...], width: float) -> float:
    """Share of the picture that :func:`pad_border` overwrites."""
    return 1 - math.prod(1 - 2 * _band(length, width) / length for length in shape)
