"""Where text, markers, arrows and plates were drawn over a radiograph.

What a person or a machine draws over a picture has a level of its own and an outline that is sharp all the way
round. Anatomy is seldom both. Metal in or on the patient often is: clips, electrodes and the electronics of a
pacemaker are found too, and are not told from drawn marks.

Measured by ``python -m benchmarks.markers --data DIR`` on 159 radiographs whose half was not used to choose
thresholds (the marked pictures of both halves were looked at when the method was designed), 20 phantoms, and 250
things drawn on each at 30 grey levels of contrast or more; found means at least half of its pixels:

* regions that people marked as arrow, text or large device: 0.67 [0.53, 0.79] of 46 found. Large devices are the
  weak spot: only their sharp, even parts are found;
* radiographs without such a region: 3 things (median), 0.66 % of the area (median; mean 1.3 %). People marked only
  what lies near the lungs, so most side markers are among these and precision cannot be read from it;
* clean phantoms: no false alarm in 20 [0.00, 0.16];
* drawn on phantoms: 0.93 [0.89, 0.96]: letters 0.98, words 0.94, digits 0.84, arrows 0.98, frames 0.92;
* drawn on radiographs: 0.91 [0.87, 0.94]: letters 0.96, words 0.82, digits 0.80, arrows 0.98, frames 1.00; by
  contrast 0.87 (30-49), 0.96 (50-79), 0.91 (80-119), 0.89 (from 120). Median IoU of the boxes 1.00;
* kind guessed right, of what was found on radiographs: words 0.85, arrows 0.82, digits 0.78, letters 0.50, frames
  0.12 (specks inside a frame make it "text"). The mask of a small frame often covers its inside;
* 34 ms for 1024 px on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.errors import SettingsError

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Kind = Literal["text", "arrow", "frame", "border", "mark"]

#: What a kind means, and how far it can be relied on.
KINDS: dict[Kind, str] = {
    "text": "letters or digits in a row, with the plate they may stand on",
    "arrow": "an arrow or an arrowhead",
    "frame": "a drawn rectangle, or a plate",
    "border": "a strip of one level along a side of the picture",
    "mark": "one letter, a symbol or something of metal: which one cannot be told",
}

WORKING_SIDE_PX = 640
#: Contrast to the surroundings, in grey levels, at which candidates are cut out. A stroke that runs into anatomy of
#: like brightness is separated from it at one of them.
CONTRASTS = (28, 50, 90)
CLOSED = 0.80  # least share of an outline that is sharp
STEEPNESS = 0.22  # least slope, in contrasts per px, of an outline that is sharp
SLOPE = 12.0  # and in grey levels per px
UNEVEN = 0.16  # largest standard deviation of the inside, in contrasts
# A component that fulfils these as well counts alone, others only in a row or beside one that does.
SURE_STEEPNESS = 0.3
SURE_UNEVEN = 0.12
SURE_CONTRAST = 50.0  # grey levels
SURE_AREA = 1.2e-4  # of the square of the shorter side
#: As deep as the border that the border test takes away, :data:`cxnet.audit.causal.BORDERS`, as a fraction of the side.
STRIP = 0.05
EDGE_PX = 3  # how thick pieces of a strip's edge are, and how far from it they lie
FLAT = 8  # largest range of grey levels within 3 x 3 px of a plate


@dataclass(frozen=True)
class Marker:
    """One thing drawn over the picture.

    Parameters
    ----------
    box : tuple of int
        Left, top, width and height in pixels of the picture.
    kind : {"text", "arrow", "frame", "border", "mark"}
        A guess from its shape; see :data:`KINDS`.
    strength : float
        Contrast to its surroundings over 255, times the sharp share of its outline: 0 to 1.
    """

    box: tuple[int, int, int, int]
    kind: Kind
    strength: float


@dataclass(frozen=True, eq=False)
class Markers:
    """Everything found in one picture, strongest first.

    Parameters
    ----------
    mask : bool array (height, width)
        Pixels to remove: the drawn strokes with a margin, and what plates cover. The inside of a large frame
        is left out as a rule.
    drawn : bool array (height, width)
        The same without strips along a side that are no deeper than :data:`STRIP`, but with what stands on them: a strip has no
        other place to be, and the border test takes it away.
    found : tuple of Marker
    """

    mask: Mask
    drawn: Mask
    found: tuple[Marker, ...]

    def __post_init__(self) -> None:
        self.mask.setflags(write=False)
        self.drawn.setflags(write=False)

    @property
    def strength(self) -> float:
        """Of the strongest; 0.0 where nothing was found."""
        return max((marker.strength for marker in self.found), default=0.0)


@dataclass(frozen=True, eq=False)
class _Piece:
    """One accepted component at working size."""

    box: tuple[int, int, int, int]
    contour: NDArray[np.int32]
    pixels: Mask  # within the box
    strength: float
    sure: bool
    plate: bool = False


def find_markers(pixels: Grey) -> Markers:
    """Find what was drawn over a radiograph.

    Parameters
    ----------
    pixels : uint8 array (height, width)

    Returns
    -------
    Markers

    Raises
    ------
    SettingsError
        If the picture is not grey uint8.

    Notes
    -----
    Pictures larger than 640 px are shrunk first. The difference to a median filter of 9 % of the shorter side is cut
    at several contrasts, bright and dark; a connected component counts if at least 80 % of its outline is sharp and
    its inside is even. What is too large for that filter, or runs into anatomy of like brightness, is found as a
    flat area with a sharp outline. Text is a row of pieces of like height; a piece that is faint, soft or small
    counts only in such a row of three, or together with a clear one. Nothing is found in pictures below 64 px.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise SettingsError(
            f"Expected a non-empty grey picture, uint8 of shape (height, width); received {pixels.dtype} "
            f"of shape {pixels.shape}."
        )
    height, width = pixels.shape
    if min(height, width) < 64:
        return Markers(np.zeros(pixels.shape, np.bool_), np.zeros(pixels.shape, np.bool_), ())
    scale = min(1.0, WORKING_SIDE_PX / max(height, width))
    work = np.ascontiguousarray(pixels)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        work = np.asarray(cv2.resize(work, size, interpolation=cv2.INTER_AREA), np.uint8)
    borders = _borders(work)
    slope = _slope(work)
    pieces = [*_strokes(work, slope), *_plates(work, slope)]
    drawn, kept = _grouped(pieces)
    mask = _masked(work, kept)
    strips, deep = (_painted(work, [m for m in borders if _shallow(m, work) == shallow]) for shallow in (True, False))
    near = cv2.dilate(strips, np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8))
    own = _masked(work, [piece for piece in kept if not _is_strip(piece, near)])
    masks = [mask | strips | deep, own | deep]
    found = sorted([*borders, *drawn], key=lambda marker: (-marker.strength, marker.box))
    if scale < 1:
        masks = [cv2.resize(one, (width, height), interpolation=cv2.INTER_NEAREST) for one in masks]
    return Markers(
        np.asarray(masks[0], np.bool_),
        np.asarray(masks[1], np.bool_),
        tuple(
            Marker(_enlarged(marker.box, work.shape, pixels.shape), marker.kind, marker.strength) for marker in found
        ),
    )


def _masked(work: Grey, pieces: list[_Piece]) -> Grey:
    """1 on pieces and a margin of a pixel."""
    mask = np.zeros(work.shape, np.uint8)
    for piece in pieces:
        left, top, wide, high = piece.box
        mask[top : top + high, left : left + wide] |= piece.pixels.astype(np.uint8)
    return np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), np.uint8)


def _painted(work: Grey, strips: list[Marker]) -> Grey:
    """1 on strips."""
    mask = np.zeros(work.shape, np.uint8)
    for strip in strips:
        left, top, wide, high = strip.box
        mask[top : top + high, left : left + wide] = 1
    return mask


def _shallow(strip: Marker, work: Grey) -> bool:
    """Whether a strip along a side is no deeper than :data:`STRIP`."""
    height, width = work.shape
    _, _, wide, high = strip.box
    return bool((high / height if wide == width else wide / width) <= STRIP)


def _is_strip(piece: _Piece, near: NDArray[Any]) -> bool:
    """Whether a piece is a strip itself, a frame of them or a part of their edge, and nothing that stands on one.

    `near` is not 0 on strips and :data:`EDGE_PX` around them.
    """
    left, top, wide, high = piece.box
    flat = wide >= near.shape[1] / 2 or high >= near.shape[0] / 2 or min(wide, high) <= EDGE_PX
    return bool(flat and near[top : top + high, left : left + wide][piece.pixels].mean() > 0.8)


def _enlarged(box: tuple[int, int, int, int], old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, int, int, int]:
    across, down = new[1] / old[1], new[0] / old[0]
    left, top = int(box[0] * across), int(box[1] * down)
    right, bottom = round((box[0] + box[2]) * across), round((box[1] + box[3]) * down)
    return left, top, right - left, bottom - top


def _slope(work: Grey) -> NDArray[np.float32]:
    """Steepest slope within one pixel, grey levels per pixel: float32, as `work`."""
    across, down = (cv2.Scharr(work, cv2.CV_32F, dx, dy, scale=1 / 32) for dx, dy in ((1, 0), (0, 1)))
    return np.asarray(cv2.dilate(cv2.magnitude(across, down), np.ones((3, 3), np.uint8)), np.float32)


def _strokes(work: Grey, slope: NDArray[np.float32]) -> list[_Piece]:
    """Components that stand out from their surroundings, have a sharp outline and an even inside."""
    height, width = work.shape
    short = min(height, width)
    # The surroundings change slowly, so the median of a picture half as large will do.
    window = max(5, round(0.045 * short)) | 1
    margin = 2 * window
    padded = cv2.copyMakeBorder(work, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    small = cv2.medianBlur(cv2.resize(padded, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), window)
    around = cv2.resize(small, padded.shape[::-1], interpolation=cv2.INTER_LINEAR)
    around = np.ascontiguousarray(around[margin:-margin, margin:-margin])
    pieces: list[_Piece] = []
    for bright in (True, False):
        excess = cv2.subtract(work, around) if bright else cv2.subtract(around, work)
        taken = np.zeros(work.shape, np.bool_)
        for contrast in CONTRASTS:
            candidate = np.asarray(excess > contrast, np.uint8)
            pieces += _accepted(candidate, work, excess, slope, taken)
    return pieces


def _accepted(
    candidate: NDArray[np.uint8],
    work: Grey,
    excess: NDArray[Any],
    slope: NDArray[np.float32],
    taken: Mask,
) -> list[_Piece]:
    height, width = work.shape
    short = min(height, width)
    count, labels, stats = _components(candidate)
    if count < 2:
        return []
    inner = cv2.erode(candidate, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    at = np.flatnonzero(labels)
    label = labels.ravel()[at]
    core = inner.ravel()[at] > 0
    value, over, steep = (a.ravel()[at].astype(np.float64) for a in (work, excess, slope))

    def mean(values: NDArray[Any], chosen: Mask) -> NDArray[np.float64]:
        weight = np.bincount(label[chosen], minlength=count)
        total = np.bincount(label[chosen], values[chosen], minlength=count)
        return np.asarray(total / np.maximum(weight, 1), np.float64)

    # Half of a thin stroke's pixels are its soft edge: the contrast is that of its inside where it has one.
    cores = np.bincount(label[core], minlength=count)
    everything = np.ones(len(at), np.bool_)
    has_core = cores >= np.maximum(6, 0.15 * stats[:, cv2.CC_STAT_AREA])
    contrast = np.where(has_core, mean(over, core), 1.25 * mean(over, everything))
    middle = np.where(has_core, mean(value, core), mean(value, everything))
    deviation = (value - middle[label]) ** 2
    uneven = np.sqrt(np.where(has_core, mean(deviation, core), 0.3 * mean(deviation, everything)))
    closed = mean((steep > STEEPNESS * contrast[label]) & (steep > SLOPE), ~core)
    area, wide, high = (stats[:, k] for k in (cv2.CC_STAT_AREA, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT))
    good = (closed >= CLOSED) & (uneven <= UNEVEN * contrast + 2) & (area >= max(5, short * short // 40000))
    good &= (np.maximum(wide, high) <= 0.5 * short) & (np.maximum(wide, high) >= 0.012 * short)
    good[0] = False
    steeper = mean((steep > SURE_STEEPNESS * contrast[label]) & (steep > SLOPE), ~core)
    sure = (contrast >= SURE_CONTRAST) & (steeper >= CLOSED) & (area >= SURE_AREA * short * short)
    sure &= uneven <= SURE_UNEVEN * contrast + 2
    pieces = []
    for k in np.flatnonzero(good):
        left, top = int(stats[k, cv2.CC_STAT_LEFT]), int(stats[k, cv2.CC_STAT_TOP])
        box = (left, top, int(wide[k]), int(high[k]))
        window = (slice(top, top + box[3]), slice(left, left + box[2]))
        own = labels[window] == k
        if taken[window][own].mean() > 0.5:
            continue  # found at a lower contrast, where more of it shows
        taken[window] |= own
        filled, contour = _filled(own)
        strength = float(min(1.0, contrast[k] / 255) * closed[k])
        kept = filled if filled.sum() <= 0.01 * short * short else own
        pieces.append(_Piece(box, contour, kept, strength, bool(sure[k])))
    return pieces


def _components(mask: NDArray[np.uint8]) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    """8-connected components; this algorithm takes a third of the default's time."""
    count, labels, stats, _centres = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_GRANA)
    return count, np.asarray(labels, np.int32), np.asarray(stats, np.int32)


def _filled(own: Mask) -> tuple[Mask, NDArray[np.int32]]:
    """A component without its holes, and its outline."""
    contours, _tree = cv2.findContours(own.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=len)
    filled = cv2.drawContours(np.zeros(own.shape, np.uint8), [outline], -1, 1, -1)
    return np.asarray(filled, np.bool_), np.asarray(outline, np.int32)


def _plates(work: Grey, slope: NDArray[np.float32]) -> list[_Piece]:
    """Flat areas with an outline that is sharp all the way round: plates under text, thick arrows."""
    height, width = work.shape
    short = min(height, width)
    square = np.ones((3, 3), np.uint8)
    flat = np.asarray(cv2.subtract(cv2.dilate(work, square), cv2.erode(work, square)) <= FLAT, np.uint8)
    _count, labels, stats = _components(flat)
    wide, high, area = (stats[:, k] for k in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA))
    good = (area >= 2e-4 * short * short) & (np.maximum(wide, high) <= 0.6 * short)
    good &= wide * high <= 0.05 * height * width
    good[0] = False
    pieces = []
    for k in np.flatnonzero(good):
        # The area and five pixels around it; what lies outside the picture has no outline to check.
        left, top = int(stats[k, cv2.CC_STAT_LEFT]) - 5, int(stats[k, cv2.CC_STAT_TOP]) - 5
        right, bottom = min(width, left + int(wide[k]) + 10), min(height, top + int(high[k]) + 10)
        left, top = max(0, left), max(0, top)
        window = (slice(top, bottom), slice(left, right))
        own = labels[window] == k
        level = float(np.median(work[window][own]))
        filled, _contour = _filled(own)
        grown = [cv2.dilate(filled.astype(np.uint8), np.ones((n, n), np.uint8)) for n in (3, 5, 7)]
        ring = grown[2] > grown[1]
        if ring.sum() < 12:
            continue
        step = work[window][ring].astype(float) - level
        steep = cv2.dilate(np.ascontiguousarray(slope[window]), square)[ring]
        closed = float(((np.abs(step) > 20) & (steep > STEEPNESS * np.abs(step)) & (steep > SLOPE)).mean())
        if closed < CLOSED:
            continue
        rows, columns = (np.flatnonzero(grown[0].any(axis=axis)) for axis in (1, 0))
        inner = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        shape = np.asarray(grown[0][inner], np.bool_)
        box = (left + int(columns[0]), top + int(rows[0]), shape.shape[1], shape.shape[0])
        strength = float(min(1.0, np.abs(step).mean() / 255) * closed)
        _same, contour = _filled(shape)
        pieces.append(_Piece(box, contour, shape, strength, True, bool(shape.mean() > 0.9)))
    return pieces


def _borders(work: Grey) -> list[Marker]:
    """Strips of one level along a side that end in a sharp step."""
    found = []
    height, width = work.shape
    for side in range(4):
        turned = np.rot90(work, side)  # the side is on top: 0 top, 1 right, 2 bottom, 3 left
        limit = len(turned) // 5
        low, high = np.percentile(turned[: limit + 4], [5, 95], axis=1)
        constant = high - low <= 6
        depth = int(np.argmin(constant))
        if depth == 0 or depth > limit:
            continue
        step = np.abs(turned[min(depth + 2, limit + 3)].astype(float) - float(np.median(turned[0])))
        if (step > 20).mean() < 0.7:
            continue
        box = {
            0: (0, 0, width, depth),
            1: (width - depth, 0, depth, height),
            2: (0, height - depth, width, depth),
            3: (0, 0, depth, height),
        }[side]
        found.append(Marker(box, "border", float(min(1.0, step.mean() / 255) * (step > 20).mean())))
    return found


def _grouped(pieces: list[_Piece]) -> tuple[list[Marker], list[_Piece]]:
    """Rows of pieces as text, pieces on a plate with it, the others by their shape; and the pieces that count.

    A piece that is too faint, soft or small to count alone counts in a group with a sure one, or in a row of three.
    """
    count = len(pieces)
    parent = list(range(count))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    boxes = np.array([piece.box for piece in pieces], float).reshape(-1, 4)
    for k in range(count):
        x, y, w, h = boxes[k]
        for other in range(k):
            u, v, s, t = boxes[other]
            overlap = min(y + h, v + t) - max(y, v)
            gap = max(x, u) - min(x + w, u + s)
            row = overlap > 0.5 * max(h, t) and gap < 0.7 * max(h, t) and max(h, t) < 2 * min(h, t)
            inside = gap < 0 and overlap > 0 and (pieces[k].plate or pieces[other].plate)
            nested = gap < 0 and overlap > 0.8 * min(h, t) and -gap > 0.8 * min(w, s)
            if row or inside or nested:
                parent[root(k)] = root(other)
    groups: dict[int, list[int]] = {}
    for k in range(count):
        groups.setdefault(root(k), []).append(k)
    found: list[Marker] = []
    kept: list[_Piece] = []
    for members in groups.values():
        apart = _apart(boxes[members])
        if apart < 3 and not any(pieces[k].sure for k in members):
            continue
        kept += [pieces[k] for k in members]
        low = boxes[members, :2].min(axis=0)
        size = (boxes[members, :2] + boxes[members, 2:]).max(axis=0) - low
        box = (int(low[0]), int(low[1]), int(size[0]), int(size[1]))
        kind: Kind = "text" if apart >= 2 else _shape(pieces[max(members, key=lambda k: pieces[k].pixels.sum())])
        found.append(Marker(box, kind, max(pieces[k].strength for k in members)))
    return found, kept


def _apart(boxes: NDArray[np.float64]) -> int:
    """How many of the boxes stand beside each other rather than within one another."""
    edge, total = -np.inf, 0
    for left, _top, width, _height in boxes[np.lexsort((boxes[:, 2], boxes[:, 0] + boxes[:, 2]))]:
        if left >= edge - 1:
            total, edge = total + 1, left + width
    return total


def _shape(piece: _Piece) -> Kind:
    """Kind of a single piece from its outline."""
    contour = piece.contour
    filled = float(cv2.contourArea(contour))
    (_centre, (w, h), _angle) = cv2.minAreaRect(contour)
    if filled <= 0 or min(w, h) < 4:
        return "mark"
    if filled / (w * h) > 0.88:
        return "frame" if piece.plate or piece.pixels.sum() < 0.6 * filled or min(w, h) > 0.35 * max(w, h) else "mark"
    hull = float(cv2.contourArea(cv2.convexHull(contour)))
    corners = len(cv2.approxPolyDP(contour, 0.035 * cv2.arcLength(contour, True), True))
    if corners == 3 and filled / hull > 0.85:
        return "arrow"
    # A shaft with a head: a convex hull of five corners that it fills by about half.
    if corners in (6, 7, 8) and 0.35 < filled / hull < 0.85 and max(w, h) > 1.25 * min(w, h):
        return "arrow"
    return "mark"
