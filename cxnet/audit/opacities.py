"""Opacities drawn into the lungs of a radiograph: would the answer change if there were something to find?

An answer that names no finding has nothing in the lungs that could be taken away, so taking parts of the picture away
cannot tell whether it rests on the lungs. Something can be added: the opacities of phantoms, ground glass and
consolidations, mixed into the lungs of the radiograph itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.audit.localisation import Mask
from cxnet.enhance import Grey
from cxnet.errors import SettingsError
from cxnet.phantom import make_phantom

#: Numbers of the opacities that an answer without a finding is tested with: as much ground glass as consolidation. The
#: exam's networks were neither trained on these nor asked about them.
DRAWN = tuple(range(180, 188))
#: They come drawn: what they add, int16 (8, 128, 128), and their lungs, bool (8, 128, 128).
FILE = Path(__file__).with_name("opacities.npz")
#: How strongly they are drawn, as a share of the phantoms' own.
STRENGTH = 2.0
#: Side of the phantoms that lend their opacities, and the grey levels from their lungs to their densest tissue.
OPACITY_PX, PHANTOM_RANGE = 128, 200.0
#: First of their seeds: a prime, far from the seeds of the exam's own phantoms.
_SEEDS = 104729


@cache
def opacity(number: int) -> tuple[NDArray[np.int16], Mask]:
    """What an opacity adds to a phantom, and the phantom's lungs: even numbers ground glass, odd a consolidation.

    Returns
    -------
    (int16 array (128, 128), bool array (128, 128))
        Grey levels.
    """
    if number in DRAWN:
        with np.load(FILE, allow_pickle=False) as stored:
            return stored["added"][number - DRAWN[0]], stored["lungs"][number - DRAWN[0]]
    return draw(number)


def draw(number: int) -> tuple[NDArray[np.int16], Mask]:
    """:func:`opacity` from its phantom; half a second."""
    plain = make_phantom(_SEEDS + number, OPACITY_PX)
    ill = make_phantom(_SEEDS + number, OPACITY_PX, "consolidation" if number % 2 else "ground-glass")
    return ill.pixels.astype(np.int16) - plain.pixels, plain.lungs


def _sides(lungs: Mask) -> list[tuple[Mask, tuple[int, int, int, int]]]:
    """Each lung and its box (left, top, width, height), from the picture's left to its right."""
    _, labels, boxes, centres = cv2.connectedComponentsWithStats(lungs.astype(np.uint8), connectivity=8)
    largest = 1 + np.argsort(boxes[1:, cv2.CC_STAT_AREA])[::-1][:2]
    ordered = sorted(largest.tolist(), key=lambda k: float(centres[k][0]))
    return [(labels == k, tuple(int(v) for v in boxes[k][:4])) for k in ordered]  # type: ignore[misc]


def two_lungs(lungs: Mask) -> bool:
    """Whether there are two regions to draw into."""
    return len(_sides(lungs)) == 2


def add_opacity(pixels: Grey, lungs: Mask, number: int, share: float = 1.0) -> Grey:
    """A copy of a radiograph with an opacity of a phantom in its lungs.

    Each lung of the phantom is stretched over the lung of the radiograph on the same side, box over box, and what the
    opacity adds there is added here, as a share of the grey levels from lungs to densest tissue; nothing is added
    outside `lungs`. The brighter a place already is, the less of it: film saturates.

    Parameters
    ----------
    pixels : uint8 array (height, width)
    lungs : bool array (height, width)
        Two regions.
    number : int
        Of :func:`opacity`.
    share : float
        How much of it is mixed in.

    Raises
    ------
    SettingsError
        If there are not two lungs.
    """
    sides = _sides(lungs)
    if len(sides) != 2:
        raise SettingsError("An opacity is drawn into two lungs that do not touch; the lung mask has fewer.")
    added, own = opacity(number)
    height, width = pixels.shape
    field = np.zeros((height, width), np.float32)
    for (_, source), (lung, target) in zip(_sides(own), sides, strict=True):
        left, top, wide, tall = source
        part = added[top : top + tall, left : left + wide].astype(np.float32)
        x, y, w, h = target
        field[y : y + h, x : x + w] += cv2.resize(part, (w, h), interpolation=cv2.INTER_LINEAR) * lung[y : y + h, x : x + w]  # fmt: skip
    # the outline of a real lung is soft; what the blur carries outside is cut
    field = cv2.GaussianBlur(field, (0, 0), min(height, width) / 200) * lungs
    low, high = float(np.percentile(pixels[lungs], 5)), float(np.percentile(pixels, 97))
    change = share * field * max(high - low, 1.0) / PHANTOM_RANGE
    level = pixels + change * np.clip((255.0 - pixels) / max(255.0 - low, 1.0), 0, 1)
    return np.asarray(np.rint(np.clip(level, 0, 255)), np.uint8)
