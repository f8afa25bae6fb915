"""Lung fields: a U-Net's mask, cleaned up to two lungs, with a quality gate; crop and mask of the lungs.

References
----------
.. [1] Ronneberger O, Fischer P, Brox T. U-Net. MICCAI 2015. doi:10.1007/978-3-319-24574-4_28
.. [2] Haghanifar A et al. COVID-CXNet, §4.3 and Fig. 9. doi:10.1007/s11042-022-12156-z
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet import enhance
from cxnet.architectures import Region
from cxnet.engine import Network
from cxnet.errors import SettingsError
from cxnet.weights import card

#: What the shipped U-Net learned to draw. Figures for masks of another convention cannot be compared.
CONVENTION = "whole lung fields, going on behind the heart"

# Limits of the quality gate: a mask outside them is shown, but no score should be trusted to it.
AREA_FRACTION = (0.15, 0.60)
RIGHT_LEFT_RATIO = (0.4, 2.5)
LEAST_SOLIDITY = 0.8


@dataclass(frozen=True, eq=False)
class LungMask:
    """Lung fields in the frame of the radiograph.

    Parameters
    ----------
    mask : bool array (height, width)
        Read-only; True inside a lung.
    source : str
        "u-net", "human" or "phantom".
    convention : str
        What counts as lung.

    Attributes
    ----------
    area_fraction : float
        Share of the picture that is lung.
    right_left_ratio : float or None
        Area of the lung on the image's left (the patient's right) over the other; None without two lungs.
    solidity : float or None
        Smallest area / convex-hull area of the two lungs.
    reasons : tuple of str
        Why the mask fails the quality gate; empty if it passes.
    """

    mask: NDArray[np.bool_]
    source: str = "u-net"
    convention: str = CONVENTION
    area_fraction: float = 0.0
    right_left_ratio: float | None = None
    solidity: float | None = None
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_ or self.mask.size == 0:
            raise SettingsError(
                f"A lung mask is a bool array (height, width); received {self.mask.dtype} {self.mask.shape}."
            )
        mask = self.mask.copy()
        mask.setflags(write=False)
        object.__setattr__(self, "mask", mask)
        for name, value in _gate(mask).items():
            object.__setattr__(self, name, value)

    @property
    def ok(self) -> bool:
        """Whether the mask passes the quality gate."""
        return not self.reasons

    def resized(self, size_px: int) -> NDArray[np.bool_]:
        """The mask on a square of `size_px`, as the network's input is resized."""
        small = cv2.resize(self.mask.astype(np.float32), (size_px, size_px), interpolation=cv2.INTER_AREA)
        return np.asarray(small >= 0.5, np.bool_)


def _gate(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Figures and failures of the quality gate."""
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    area = float(mask.mean())
    reasons = []
    ratio = solidity = None
    if count == 1:
        reasons.append("no lung was found")
    elif count != 3:
        reasons.append(f"{count - 1} separate region{'s' if count > 2 else ''} instead of two lungs")
    else:
        first, second = sorted((1, 2), key=lambda k: centres[k][0])
        ratio = float(stats[first, cv2.CC_STAT_AREA] / stats[second, cv2.CC_STAT_AREA])
        if not RIGHT_LEFT_RATIO[0] <= ratio <= RIGHT_LEFT_RATIO[1]:
            reasons.append(f"one lung is {max(ratio, 1 / ratio):.1f} times as large as the other")
        solidity = min(_solidity(labels == k) for k in (1, 2))
        if solidity < LEAST_SOLIDITY:
            reasons.append(f"a lung's outline is ragged (solidity {solidity:.2f})")
    if count > 1 and not AREA_FRACTION[0] <= area <= AREA_FRACTION[1]:
        reasons.append(f"the lungs cover {100 * area:.0f} % of the picture")
    return {"area_fraction": area, "right_left_ratio": ratio, "solidity": solidity, "reasons": tuple(reasons)}


def _solidity(lung: NDArray[np.bool_]) -> float:
    contours, _ = cv2.findContours(lung.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = np.zeros(lung.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.vstack(contours)), 1)
    return float(lung.sum() / hull.sum())


def clean_up(probability: NDArray[np.floating[Any]], threshold: float = 0.5) -> NDArray[np.bool_]:
    """Keep the two largest regions above the threshold, smooth their outline and fill their holes.

    Parameters
    ----------
    probability : float array (height, width)
    threshold : float

    Returns
    -------
    bool array (height, width)
        Regions smaller than a sixth of the largest one are dropped, even if only one lung is left.
    """
    size = max(3, round(min(probability.shape) / 64) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    mask = cv2.morphologyEx((probability >= threshold).astype(np.uint8), cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count == 1:
        return np.zeros(probability.shape, np.bool_)
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = [k + 1 for k in np.argsort(areas)[::-1][:2] if areas[k] >= areas.max() / 6]
    result = np.zeros(probability.shape, np.uint8)
    for label in keep:  # one at a time, so that closing never bridges the two lungs
        lung = cv2.morphologyEx((labels == label).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
        contours, _ = cv2.findContours(lung, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros_like(lung), contours, -1, 1, cv2.FILLED)
        result |= filled & (cv2.dilate(result, np.ones((3, 3), np.uint8)) == 0)
    return np.asarray(result, np.bool_)


class LungSegmenter:
    """The shipped U-Net. Thread-safe."""

    def __init__(self, threads: int | None = None) -> None:
        self.card = card("unet")
        self._network = Network(self.card, threads)

    def probability(self, pixels: enhance.Grey) -> NDArray[np.float32]:
        """Probability of "lung" on the network's grid: float32 (256, 256) for a uint8 picture of any shape."""
        picture = enhance.clahe(enhance.resize(pixels, self.card.input_size_px))
        logit = self._network(picture[None, :, :, None])["logits"][0, :, :, 0]
        return np.asarray(1.0 / (1.0 + np.exp(-logit.astype(np.float64))), np.float32)

    def __call__(self, pixels: enhance.Grey) -> LungMask:
        """Lung mask of a uint8 picture (height, width), in its own frame."""
        small = clean_up(self.probability(pixels))
        height, width = pixels.shape
        full = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
        return LungMask(np.asarray(full, np.bool_))


@dataclass(frozen=True)
class Crop:
    """A rectangle of a picture: rows `top` to `bottom` and columns `left` to `right`, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def __post_init__(self) -> None:
        if not (0 <= self.top < self.bottom and 0 <= self.left < self.right):
            raise SettingsError(f"A crop needs top < bottom and left < right, none negative; received {self}.")

    def affine(self, size_px: int) -> NDArray[np.float64]:
        """Matrix (2, 3) from (x, y, 1) in the square input of `size_px` to x, y in the original picture.

        Pixel centres are at integers, so a square of n pixels spans -0.5 to n - 0.5.
        """
        x_scale = (self.right - self.left) / size_px
        y_scale = (self.bottom - self.top) / size_px
        return np.array(
            [
                [x_scale, 0.0, self.left - 0.5 + 0.5 * x_scale],
                [0.0, y_scale, self.top - 0.5 + 0.5 * y_scale],
            ]
        )

    def to_original(self, heatmap: NDArray[np.floating[Any]], shape: tuple[int, int]) -> NDArray[np.float32]:
        """A map in the square input, put back where the crop came from; 0 outside. float32 of `shape`."""
        result = np.zeros(shape, np.float32)
        size = (self.right - self.left, self.bottom - self.top)
        result[self.top : self.bottom, self.left : self.right] = cv2.resize(
            np.asarray(heatmap, np.float32), size, interpolation=cv2.INTER_LINEAR
        )
        return result


def crop_to_lungs(mask: NDArray[np.bool_], margin: float = 0.05) -> Crop:
    """Bounding box of the lungs, widened on each side by `margin` of its size and cut at the picture's edge [2]_.

    Raises
    ------
    SettingsError
        If the mask is empty or the margin negative.
    """
    if margin < 0 or not mask.any():
        raise SettingsError("A lung crop needs a mask that is not empty and a margin of at least 0.")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    dy, dx = round((bottom - top) * margin), round((right - left) * margin)
    return Crop(max(0, top - dy), min(mask.shape[0], bottom + dy), max(0, left - dx), min(mask.shape[1], right + dx))


def keep_lungs(pixels: enhance.Grey, mask: NDArray[np.bool_], dilation: float = 0.02) -> enhance.Grey:
    """Blacken everything but the lungs, dilated by `dilation` of the shorter side so that edges survive [2]_.

    Returns
    -------
    uint8 array (height, width)
    """
    if mask.shape != pixels.shape:
        raise SettingsError(f"The lung mask has shape {mask.shape}, the picture {pixels.shape}.")
    size = 2 * round(min(pixels.shape) * dilation) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return np.asarray(pixels * cv2.dilate(mask.astype(np.uint8), kernel), np.uint8)


def look_at(pixels: enhance.Grey, lungs: LungMask, region: Region) -> tuple[enhance.Grey, Crop]:
    """What of a radiograph a network is shown, before enhancement (Haghanifar et al. Fig. 9), and where that lies.

    A radiograph without lungs that can be found is shown whole (for "background" too: nothing is blackened).
    """
    height, width = pixels.shape
    whole = Crop(0, height, 0, width)
    if region == "full" or not lungs.mask.any():
        return pixels, whole
    if region == "lung-mask":
        return keep_lungs(pixels, lungs.mask), whole
    if region == "background":
        kept = keep_lungs(np.full_like(pixels, 255), lungs.mask)
        return np.where(kept > 0, np.uint8(0), pixels), whole
    crop = crop_to_lungs(lungs.mask)
    return np.ascontiguousarray(pixels[crop.top : crop.bottom, crop.left : crop.right]), crop
