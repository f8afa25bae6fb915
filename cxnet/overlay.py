"""Paint maps and lung outlines over a radiograph. Takes and gives arrays; nothing here changes a figure."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.errors import SettingsError

RGB = NDArray[np.uint8]

#: Colour maps on offer. Inferno and cividis grow steadily lighter; jet does not, and shows edges that are not there.
COLOUR_MAPS = ("inferno", "cividis", "jet")

#: Shares of a map's maximum at which lines are drawn.
CONTOURS = (0.25, 0.5, 0.75)
LINE_TOLERANCE_PX = 0.25

#: A picture of one grey level still gets a window that can be seen through.
NARROWEST_WINDOW = 8.0
NARROWEST_WINDOW_16 = 64.0

# Blue - white - orange (ColorBrewer PuOr reversed in hue, safe for colour-blind readers): signed maps, 0 is white.
_SIGNED = (
    (0.0, (33, 60, 140)),
    (0.25, (116, 156, 210)),
    (0.5, (247, 247, 247)),
    (0.75, (244, 165, 96)),
    (1.0, (179, 70, 6)),
)


@cache
def lookup_table(colour_map: str) -> RGB:
    """The colours of a map from its lowest to its highest value: uint8 (256, 3), red-green-blue.

    Raises
    ------
    SettingsError
        If there is no such colour map; "signed" is one besides :data:`COLOUR_MAPS`.
    """
    if colour_map == "signed":
        stops = np.array([stop for stop, _ in _SIGNED])
        colours = np.array([colour for _, colour in _SIGNED], float)
        at = np.linspace(0, 1, 256)
        table = np.stack([np.interp(at, stops, channel) for channel in colours.T], axis=1)
        result = np.rint(table).astype(np.uint8)
    elif colour_map in COLOUR_MAPS:
        code = {"inferno": cv2.COLORMAP_INFERNO, "cividis": cv2.COLORMAP_CIVIDIS, "jet": cv2.COLORMAP_JET}[colour_map]
        result = np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], code)[:, 0, ::-1], np.uint8)
    else:
        raise SettingsError(f"There is no colour map {colour_map!r}; choose from {', '.join(COLOUR_MAPS)}.")
    result = np.ascontiguousarray(result)
    result.setflags(write=False)
    return result


def to_levels(heatmap: NDArray[np.floating[Any]], reference: float | None = None, signed: bool = False) -> RGB:
    """A raw map as 8-bit levels for display.

    Parameters
    ----------
    heatmap : float array (height, width)
    reference : float, optional
        Value that gets the strongest colour; the map's own maximum when left out, which stretches it.
    signed : bool
        Level 128 is 0 and both signs share one scale; otherwise negative values count as 0.

    Returns
    -------
    uint8 array (height, width)
    """
    top = float(np.abs(heatmap).max()) if reference is None else float(reference)
    if not np.isfinite(heatmap).all() or not np.isfinite(top) or top < 0:
        raise SettingsError("Only finite maps with a finite, not negative reference can be painted.")
    if top == 0:
        return np.full(heatmap.shape, 128 if signed else 0, np.uint8)
    share = heatmap / top
    level = 128 + 127 * np.clip(share, -1, 1) if signed else 255 * np.clip(share, 0, 1)
    return np.asarray(np.rint(level), np.uint8)


def colourise(
    heatmap: NDArray[np.floating[Any]],
    colour_map: str = "inferno",
    reference: float | None = None,
    signed: bool = False,
) -> RGB:
    """A raw map in colour: uint8 (height, width, 3)."""
    return lookup_table("signed" if signed else colour_map)[to_levels(heatmap, reference, signed)]


def blend(
    pixels: NDArray[np.uint8],
    heatmap: NDArray[np.floating[Any]],
    opacity: float = 0.35,
    colour_map: str = "inferno",
    reference: float | None = None,
    signed: bool = False,
) -> RGB:
    """A map over a grey picture of the same shape, at one opacity everywhere: uint8 (height, width, 3)."""
    if pixels.shape != heatmap.shape or not 0 <= opacity <= 1:
        raise SettingsError(
            f"A map of the picture's shape and an opacity from 0 to 1 are needed; received {heatmap.shape} on {pixels.shape}, {opacity}."
        )
    colour = colourise(heatmap, colour_map, reference, signed)
    return np.asarray(np.rint(pixels[..., None] * (1 - opacity) + colour * opacity), np.uint8)


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Outer and inner outlines of a mask: int32 arrays (points, 2) of x and y."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [np.asarray(outline[:, 0, :], np.int32) for outline in found]


def level_lines(
    heatmap: NDArray[np.floating[Any]], shares: tuple[float, ...] = CONTOURS
) -> dict[float, list[NDArray[np.float64]]]:
    """Lines along which a map has given shares of its maximum.

    Parameters
    ----------
    heatmap : float array (height, width)
        At least 2 by 2. What is below 0 has no lines; neither has a map that is nowhere above 0.
    shares : tuple of float
        Each above 0 and below 1.

    Returns
    -------
    dict from share to list of float64 arrays (points, 2)
        x and y in pixels, pixel centres at integers. A line that leaves the picture ends at its edge.

    Raises
    ------
    SettingsError
        If the map is not finite or too small, or a share is out of range.
    """
    from skimage.measure import approximate_polygon, find_contours  # takes its time to load

    if heatmap.ndim != 2 or min(heatmap.shape) < 2 or not np.isfinite(heatmap).all():
        raise SettingsError(f"Lines need a finite map of at least 2 by 2 pixels; received {heatmap.shape}.")
    if not all(0 < share < 1 for share in shares):
        raise SettingsError(f"Lines are drawn at shares between 0 and 1 of the maximum; received {shares}.")
    top = float(heatmap.max())
    if top <= 0:
        return {share: [] for share in shares}
    # scaled first: the level of a very small map would be too close to 0 to be told from it
    values = np.asarray(heatmap, np.float64) / top
    return {
        share: [approximate_polygon(line, LINE_TOLERANCE_PX)[:, ::-1] for line in find_contours(values, share)]
        for share in shares
    }


def boundaries(segments: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """The borders between segments as straight pieces, exact to the pixel.

    Parameters
    ----------
    segments : int array (height, width)
        A number a segment.

    Returns
    -------
    int32 array (pieces, 4)
        x, y of one end and x, y of the other, where pixel (row, column) spans column to column + 1 and row to row + 1.
        The picture's own edge is no border.
    """
    if segments.ndim != 2 or segments.size == 0:
        raise SettingsError(f"Segments are an array (height, width); received {segments.shape}.")
    pieces = []
    for turned in (False, True):
        numbers = segments.T if turned else segments
        differs = (numbers[:, 1:] != numbers[:, :-1]).T  # one row a vertical border, along y
        steps = np.diff(np.pad(differs, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        at, start = np.nonzero(steps == 1)
        _, end = np.nonzero(steps == -1)
        x = at + 1
        pieces.append(np.stack([start, x, end, x] if turned else [x, start, x, end], axis=1))
    return np.concatenate(pieces).astype(np.int32)


def windows(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], lungs: NDArray[np.bool_], image: NDArray[np.bool_] | None = None
) -> dict[str, tuple[float, float]]:
    """Useful windows for looking at a radiograph.

    Parameters
    ----------
    pixels : uint8 or uint16 array (height, width)
    lungs : bool array (height, width)
    image : bool array (height, width), optional
        Where the picture is one; all of it when left out.

    Returns
    -------
    dict from name to (level, width)
        "full" is all levels of the type; "lungs" the 1st to 99th percentile within the lungs, left out where there are
        none; "bone" the median to the 99.5th percentile; "auto" the 1st to 99th percentile.

    Raises
    ------
    SettingsError
        If the shapes differ or there is nothing to look at.
    """
    everywhere = np.ones(pixels.shape, np.bool_) if image is None else image
    if pixels.shape != lungs.shape or pixels.shape != everywhere.shape or not everywhere.any():
        raise SettingsError(f"The lungs have shape {lungs.shape}, the picture {pixels.shape}.")
    narrowest = NARROWEST_WINDOW if pixels.dtype == np.uint8 else NARROWEST_WINDOW_16
    found = {"full": (0.0, float(np.iinfo(pixels.dtype).max))}
    if (lungs & everywhere).any():
        found["lungs"] = _percentiles(pixels, lungs & everywhere, 1, 99)
    found["bone"] = _percentiles(pixels, everywhere, 50, 99.5)
    found["auto"] = _percentiles(pixels, everywhere, 1, 99)
    return {name: ((low + high) / 2, max(narrowest, high - low)) for name, (low, high) in found.items()}


def _percentiles(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], within: NDArray[np.bool_], low: float, high: float
) -> tuple[float, float]:
    """As ``np.percentile`` finds them, from a histogram, which takes a tenth of the time."""
    counts = np.zeros(np.iinfo(pixels.dtype).max + 1, np.intp)
    for start in range(0, len(pixels), 256):
        part = slice(start, start + 256)
        counts += np.bincount(pixels[part][within[part]], minlength=len(counts))
    up_to = counts.cumsum()

    def percentile(share: float) -> float:
        place = share / 100 * (int(up_to[-1]) - 1)
        below = math.floor(place)
        first, second = np.searchsorted(up_to, (below, math.ceil(place)), side="right")
        return float(first + (place - below) * (second - first))

    return percentile(low), percentile(high)


def draw_outline(picture: RGB, mask: NDArray[np.bool_]) -> RGB:
    """The picture with the mask's outline in white on black, which shows on any ground."""
    if picture.shape[:2] != mask.shape:
        raise SettingsError(f"The mask has shape {mask.shape}, the picture {picture.shape[:2]}.")
    drawn = np.ascontiguousarray(picture).copy()
    width = max(1, round(min(mask.shape) / 400))
    lines = contours(mask)
    cv2.polylines(drawn, lines, True, (0, 0, 0), 3 * width, cv2.LINE_AA)
    cv2.polylines(drawn, lines, True, (255, 255, 255), width, cv2.LINE_AA)
    return drawn
