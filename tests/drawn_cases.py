"""Cases whose classifier has a known skill, and the counts that a paper prints."""

from __future__ import annotations

import numpy as np

from cxnet.statistics import Metric

CLASSES = ("COVID-19", "Pneumonia", "Normal")
GOOD = ["COVID-19", "Normal"]
# Rahimzadeh & Attar 2020, doi:10.1016/j.imu.2020.100360: Xception, fold 1, figures 3-4.
PUBLISHED = [[26, 3, 2], [61, 3983, 376], [40, 566, 6245]]


def by_name(found: tuple[Metric, ...]) -> dict[tuple[str, str | None], Metric]:
    return {(metric.name, metric.cls): metric for metric in found}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def draw(cases: int, seed: int = 0, skill: float = 1.0) -> tuple[list[str], np.ndarray]:
    """Labels, and the probabilities of a classifier of some skill."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(cases) % 3)
    return [CLASSES[c] for c in codes], softmax(rng.normal(size=(cases, 3)) + skill * np.eye(3)[codes])
