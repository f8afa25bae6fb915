"""Contrast enhancement and the three-channel input of COVID-CXNet.

Every function takes and returns grey pictures as uint8 arrays of shape (height, width) and leaves its
argument unchanged. CLAHE, BEASF and equalisation look at the whole picture: editing one region and
enhancing again changes pixels elsewhere.

References
----------
.. [1] Haghanifar A, Majdabadi MM, Choi Y, Deivalakshmi S, Ko S. COVID-CXNet: Detecting COVID-19 in frontal
       chest X-ray images using deep learning. Multimed Tools Appl 2022. doi:10.1007/s11042-022-12156-z
.. [2] Arriaga-Garcia EF, Sanchez-Yanez RE, Garcia-Hernandez MG. Image enhancement using bi-histogram
       equalization with adaptive sigmoid functions. CONIELECOMP 2014. doi:10.1109/CONIELECOMP.2014.6808563
.. [3] Zuiderveld K. Contrast limited adaptive histogram equalization. Graphics Gems IV, 1994.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.errors import SettingsError
from cxnet.markers import find_markers

Grey = NDArray[np.uint8]

#: Order of the network's input channels. The code published with COVID-CXNet contradicts itself here.
CHANNELS = ("original", "clahe", "beasf")

_REFERENCE_HISTOGRAM = Path(__file__).with_name("reference_histogram.npy")


def _checked(pixels: NDArray[Any]) -> Grey:
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise SettingsError(
            f"Expected a non-empty grey picture, uint8 of shape (height, width); received {pixels.dtype} "
            f"of shape {pixels.shape}."
        )
    return np.ascontiguousarray(pixels)


def clahe(pixels: Grey, clip_limit_opencv: float = 2.0, tiles: int = 8) -> Grey:
    """Contrast limited adaptive histogram equalisation [3]_.

    Parameters
    ----------
    pixels : uint8 array (height, width)
    clip_limit_opencv : float
        Clip limit on OpenCV's scale, in multiples of the mean bin height (scikit-image's scale differs).
    tiles : int
        Tiles in each direction.

    Returns
    -------
    uint8 array (height, width)

    Raises
    ------
    SettingsError
        If the picture is not grey uint8, or a parameter is not positive.
    """
    if clip_limit_opencv <= 0 or tiles < 1:
        raise SettingsError("CLAHE needs a positive clip limit and at least one tile.")
    pixels = _checked(pixels)
    if int(pixels.min()) == int(pixels.max()):
        return pixels.copy()  # a constant picture holds no contrast to enhance
    return np.asarray(cv2.createCLAHE(clip_limit_opencv, (tiles, tiles)).apply(pixels), np.uint8)


def beasf_table(histogram: NDArray[Any], gamma: float = 1.5) -> Grey:
    """Grey-level table of BEASF [2]_ for a picture with this histogram.

    Parameters
    ----------
    histogram : integer array (256,)
        Number of pixels at each level; not all zero.
    gamma : float
        Slope of both sigmoids; 1.5 in COVID-CXNet.

    Returns
    -------
    uint8 array (256,)
        Non-decreasing; keeps 0, 255 and the split level m, the integer part of the mean grey level.

    Notes
    -----
    The histogram is split at m into levels 0..m and m+1..255. On each side the median level h is the centre of
    a sigmoid ``s(k) = 1 / (1 + exp(-5 γ (k - h) / w))``, w the side's width (m, or 255 - m), which is then
    stretched to the side's full range: 0..m below, m..255 above (where level m+1 goes to m), and rounded half up.

    The implementation published with COVID-CXNet truncates between the steps, counts level m on both sides,
    bins between the picture's own minimum and maximum, shifts the upper sigmoid by one level and raises
    IndexError on a white picture; none of this is in the paper. A picture with fewer than two levels keeps its
    level.
    """
    counts = np.asarray(histogram, dtype=np.int64)
    if counts.shape != (256,) or counts.min() < 0 or counts.sum() == 0 or not gamma > 0:
        raise SettingsError("BEASF needs 256 counts that are not all zero, and gamma above 0.")
    levels = np.arange(256)
    if np.count_nonzero(counts) < 2:
        return levels.astype(np.uint8)
    mean = int((counts * levels).sum() // counts.sum())
    table = levels.astype(float)
    for first, last, low, high in ((0, mean, 0, mean), (mean + 1, 255, mean, 255)):
        side = levels[first : last + 1]
        cumulated = np.cumsum(counts[first : last + 1])
        if side.size < 2 or high == low:
            continue
        median = side[int(np.searchsorted(cumulated, cumulated[-1] / 2, side="right"))]
        sigmoid = 1.0 / (1.0 + np.exp(-5.0 * gamma * (side - median) / (high - low)))
        table[side] = low + (high - low) * (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])
    return np.floor(table + 0.5).astype(np.uint8)


def beasf(pixels: Grey, gamma: float = 1.5) -> Grey:
    """Bi-histogram equalisation with adaptive sigmoid functions [2]_, as one 256-entry table.

    See :func:`beasf_table` for the transform and where it departs from published code. A constant picture
    stays as it is.
    """
    pixels = _checked(pixels)
    histogram = cv2.calcHist([pixels], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return np.asarray(cv2.LUT(pixels, beasf_table(histogram, gamma)), np.uint8)


def equalize(pixels: Grey) -> Grey:
    """Global histogram equalisation; a constant picture stays as it is."""
    return np.asarray(cv2.equalizeHist(_checked(pixels)), np.uint8)


def smooth(pixels: Grey, sigma_px: float = 1.0) -> Grey:
    """Gaussian smoothing with standard deviation `sigma_px` in pixels; borders are mirrored."""
    if not sigma_px > 0:
        raise SettingsError("Gaussian smoothing needs a sigma above 0 px.")
    return np.asarray(cv2.GaussianBlur(_checked(pixels), (0, 0), sigma_px), np.uint8)


@cache
def reference_histogram() -> NDArray[np.float64]:
    """Relative frequency of the 256 levels, averaged over the training radiographs; float64 (256,)."""
    histogram: NDArray[np.float64] = np.load(_REFERENCE_HISTOGRAM, allow_pickle=False).astype(np.float64)
    histogram.setflags(write=False)
    return histogram


def match_histogram(pixels: Grey, reference: NDArray[np.float64] | None = None) -> Grey:
    """Map grey levels so that their distribution follows a reference (Haghanifar et al. §5.3 [1]_).

    Parameters
    ----------
    pixels : uint8 array (height, width)
    reference : float array (256,), optional
        Frequencies of the levels; :func:`reference_histogram` when left out. The paper matches to one "base
        image" that it does not publish; ours is the mean histogram of the training radiographs.

    Returns
    -------
    uint8 array (height, width); a constant picture stays as it is.
    """
    pixels = _checked(pixels)
    counts = np.bincount(pixels.ravel(), minlength=256)
    if np.count_nonzero(counts) < 2:
        return pixels.copy()
    wanted = reference_histogram() if reference is None else np.asarray(reference, dtype=float)
    if wanted.shape != (256,) or wanted.min() < 0 or wanted.sum() <= 0:
        raise SettingsError("Histogram matching needs 256 reference frequencies that are not all zero.")
    target = np.cumsum(wanted) / wanted.sum()
    quantile = (np.cumsum(counts) - counts / 2) / pixels.size  # mid-ranks keep the mapping symmetric
    table = np.clip(np.searchsorted(target, quantile), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def remove_text(pixels: Grey, mask: NDArray[np.bool_] | None = None) -> Grey:
    """Inpaint markers and text (Haghanifar et al. Fig. 20 [1]_) by Telea's method.

    `mask` says which pixels to replace; what :func:`cxnet.markers.find_markers` finds when left out. Metal in or on the patient may be among that: look at
    the result before you trust it.
    """
    pixels = _checked(pixels)
    mask = find_markers(pixels).mask if mask is None else mask
    if mask.shape != pixels.shape:
        raise SettingsError(f"The text mask has shape {mask.shape}, the picture {pixels.shape}.")
    if not mask.any():
        return pixels.copy()
    return np.asarray(cv2.inpaint(pixels, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)


def resize(pixels: Grey, size_px: int) -> Grey:
    """Resize to a square of `size_px`, without keeping the aspect ratio, as the papers do.

    Shrinking averages areas, enlarging is bilinear.
    """
    pixels = _checked(pixels)
    shrink = max(pixels.shape) >= size_px
    method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size_px, size_px), interpolation=method), np.uint8)


@dataclass(frozen=True)
class Enhancement:
    """Switches of the preprocessing, applied in the order in which they are listed.

    `text_removal` works on the full-size picture, everything else on the network's input size, and the last
    step makes the three channels of :data:`CHANNELS`.
    """

    text_removal: bool = False
    histogram_matching: bool = False
    equalization: bool = False
    smoothing_sigma_px: float = 0.0
    clahe_clip_limit_opencv: float = 2.0
    beasf_gamma: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing_sigma_px <= 20:
            raise SettingsError(f"Smoothing needs a sigma from 0 to 20 px; received {self.smoothing_sigma_px}.")
        if not 0 < self.clahe_clip_limit_opencv <= 100 or not 0 < self.beasf_gamma <= 20:
            raise SettingsError("CLAHE needs a clip limit in (0, 100] and BEASF a gamma in (0, 20].")

    def grey(self, pixels: Grey, size_px: int) -> Grey:
        """The grey picture before the channels are made: uint8 (size_px, size_px)."""
        picture = resize(remove_text(pixels) if self.text_removal else pixels, size_px)
        if self.histogram_matching:
            picture = match_histogram(picture)
        if self.equalization:
            picture = equalize(picture)
        if self.smoothing_sigma_px:
            picture = smooth(picture, self.smoothing_sigma_px)
        return picture

    def stack(self, grey: Grey, channels: tuple[str, ...] = CHANNELS) -> NDArray[np.uint8]:
        """Channels (names of :data:`CHANNELS`, in the order given) of a grey picture: uint8 (height, width, n)."""
        grey = _checked(grey)
        pictures = {"original": grey}
        if "clahe" in channels:
            pictures["clahe"] = clahe(grey, self.clahe_clip_limit_opencv)
        if "beasf" in channels:
            pictures["beasf"] = beasf(grey, self.beasf_gamma)
        return np.stack([pictures[name] for name in channels], axis=-1)


def three_channels(pixels: Grey, size_px: int = 320, enhancement: Enhancement | None = None) -> NDArray[np.uint8]:
    """COVID-CXNet's input (Haghanifar et al. §3.2 [1]_): resized, then original, CLAHE and BEASF side by side.

    Parameters
    ----------
    pixels : uint8 array (height, width)
    size_px : int
        Side of the square input; 320 in the paper.
    enhancement : Enhancement, optional
        Switches; the paper's recipe when left out.

    Returns
    -------
    uint8 array (size_px, size_px, 3)
    """
    enhancement = enhancement or Enhancement()
    return enhancement.stack(enhancement.grey(pixels, size_px))
