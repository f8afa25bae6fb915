"""A radiograph and networks so simple that their right answers are known by hand."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SIZE = 96
Network = Callable[[np.ndarray], np.ndarray]


def lungs(size: int = SIZE) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for x in (0.32, 0.68):
        cv2.ellipse(mask, (int(size * x), int(size * 0.5)), (size // 8, size // 4), 0, 0, 360, 1, -1)
    return mask.astype(bool)


def texture(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Grey levels with mean 110 and standard deviation 25."""
    field = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((size, size)), (0, 0), 2)
    return np.clip(110 + 25 * field / field.std(), 1, 200).astype(np.uint8)


def radiograph(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Texture with a bright mark in the corner and a bright spot in a lung."""
    pixels = texture(seed, size)
    pixels[1:4, 1:7] = 250
    pixels[46:52, 30:36] = 240
    return pixels


def marker() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[0:5, 0:8] = True
    return mask


def identity(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def linear(weights: np.ndarray, offset: float = 0.0) -> Network:
    """Two classes; the logit of the first is offset + sum of weight x grey level."""
    return lambda x: np.stack([x[..., 0].reshape(len(x), -1) @ weights.ravel() + offset, np.zeros(len(x))], axis=1)


def reads(row: int, column: int, gain: float = 0.1, offset: float = -15.0) -> Network:
    weights = np.zeros((SIZE, SIZE))
    weights[row, column] = gain
    return linear(weights, offset)
