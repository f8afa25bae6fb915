"""Paint maps and lung outlines over a radiograph. Takes and gives arrays; nothing here changes a figure."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.errors import SettingsError

RGB = NDArray[np.uint8]

#: Colour maps on offer. Inferno and cividis grow steadily lighter; jet does not, and shows edges that are not there.
COLOUR_MAPS = ("inferno", "cividis", "jet")

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
