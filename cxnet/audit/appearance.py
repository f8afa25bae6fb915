"""Shortcuts without a place: does the answer hang on gamma, contrast, sharpness, compression or resolution?

A map cannot show such a shortcut and hiding a region cannot remove it, because it is everywhere [1]_, [2]_. Each
sweep changes one property of the radiograph before any enhancement, as another detector, post-processing or archive
would. (There is no sweep of the enhanced picture: what is varied belongs to the acquisition.)

References
----------
.. [1] Viviano JD et al. Saliency is a possible red herring when diagnosing poor generalization. ICLR 2021.
       arXiv:1910.00199
.. [2] Adebayo J et al. Post hoc explanations may be ineffective for detecting unknown spurious correlation.
       ICLR 2022. arXiv:2212.04629
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.enhance import Grey
from cxnet.errors import SettingsError


@dataclass(frozen=True)
class Answer:
    """What a network says of one picture.

    Parameters
    ----------
    logit : float
        Of the target's probability: log(p / (1 - p)), natural logarithm.
    probability : float
        Softmax probability of the target.
    predicted : int
        Number of the class with the largest logit.
    """

    logit: float
    probability: float
    predicted: int


def answers(logits: NDArray[np.floating[Any]], target: int) -> tuple[Answer, ...]:
    """Read a network's outputs for one class.

    Parameters
    ----------
    logits : float array (n, classes)
        Inputs of a softmax.
    target : int

    Raises
    ------
    SettingsError
        If there are fewer than two classes, no such target, or a value is not finite.

    Notes
    -----
    A softmax network's raw outputs are free up to a constant of each picture, so a change of the target's raw output
    can mean nothing, and another class can win without it. The logit of the probability, the raw output minus the
    log-sum-exp of the others, has neither fault; with one opponent it is the difference of the two outputs.
    """
    z = np.asarray(logits, np.float64)
    if z.ndim != 2 or z.shape[1] < 2 or not 0 <= target < z.shape[1]:
        raise SettingsError(
            f"Logits (n, 2 or more classes) and a target among them are needed; got {z.shape}, {target}."
        )
    if not np.isfinite(z).all():
        raise SettingsError("The network gave outputs that are not finite, so nothing can be measured on it.")
    others = np.delete(z, target, axis=1)
    largest = others.max(axis=1)
    odds = z[:, target] - largest - np.log(np.exp(others - largest[:, None]).sum(axis=1))
    probability = 0.5 * (1 + np.tanh(odds / 2))  # the logistic function without overflow
    return tuple(
        Answer(float(o), float(p), int(k)) for o, p, k in zip(odds, probability, z.argmax(axis=1), strict=True)
    )


def _rounded(values: NDArray[Any]) -> Grey:
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)


def change_gamma(pixels: Grey, gamma: float) -> Grey:
    """Grey levels g become 255 (g / 255)^gamma; above 1 darkens."""
    return np.asarray(cv2.LUT(pixels, _rounded(255 * (np.arange(256) / 255) ** gamma)), np.uint8)


def change_contrast(pixels: Grey, factor: float) -> Grey:
    """Stretch grey levels about the picture's mean by `factor`, clipped to 0..255."""
    mean = float(pixels.mean())
    return np.asarray(cv2.LUT(pixels, _rounded(mean + factor * (np.arange(256) - mean))), np.uint8)


def change_sharpness(pixels: Grey, sigma: float) -> Grey:
    """Gaussian blur; `sigma` is a fraction of the shorter side."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma * min(pixels.shape)), np.uint8)


def compress(pixels: Grey, quality: float) -> Grey:
    """Write as JPEG of `quality` (1 to 100) and read again."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)


def change_resolution(pixels: Grey, side_px: float) -> Grey:
    """Shrink to a shorter side of `side_px` by averaging, and enlarge again; a smaller picture stays as it is."""
    height, width = pixels.shape
    scale = side_px / min(height, width)
    if scale >= 1:
        return pixels.copy()
    small = cv2.resize(
        pixels, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


@dataclass(frozen=True)
class Probe:
    """One property of a radiograph and how far it is varied.

    Parameters
    ----------
    unit : str
        What the levels mean.
    levels : tuple of float
    neutral : float or None
        The level that changes nothing, where there is one.
    change : callable (grey picture, level) -> grey picture
    """

    unit: str
    levels: tuple[float, ...]
    neutral: float | None
    change: Callable[[Grey, float], Grey]


#: The sweeps; twelve pictures together.
PROBES: Mapping[str, Probe] = MappingProxyType(
    {
        "gamma": Probe("exponent", (0.5, 0.7, 1.4, 2.0), 1.0, change_gamma),
        "contrast": Probe("factor", (0.6, 1.6), 1.0, change_contrast),
        "blur": Probe("sigma as a fraction of the shorter side", (0.004, 0.008), 0.0, change_sharpness),
        "JPEG": Probe("quality", (50, 20), None, compress),
        "resolution": Probe("shorter side in px", (160, 80), None, change_resolution),
    }
)


@dataclass(frozen=True)
class Sweep:
    """The network's answers while one property of the radiograph changes.

    Parameters
    ----------
    name : str
        Key of :data:`PROBES`.
    base : Answer
        For the radiograph as it is.
    levels : tuple of float
    answers : tuple of Answer
        One for every level; empty exactly when `reason` says why.
    reason : str or None
    """

    name: str
    base: Answer
    levels: tuple[float, ...] = ()
    answers: tuple[Answer, ...] = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.answers) or bool(self.answers) == bool(self.reason):
            raise SettingsError(f"The sweep {self.name!r} needs an answer for every level, or else a reason.")

    @property
    def changes(self) -> tuple[float, ...]:
        """Logit at each level minus the logit of the radiograph as it is."""
        return tuple(answer.logit - self.base.logit for answer in self.answers)

    @property
    def largest_change(self) -> float | None:
        """The change of largest size, with its sign; None if undefined."""
        return max(self.changes, key=abs) if self.answers else None

    @property
    def flips(self) -> bool | None:
        """Whether the predicted class differs at any level; None if undefined."""
        return any(answer.predicted != self.base.predicted for answer in self.answers) if self.answers else None
