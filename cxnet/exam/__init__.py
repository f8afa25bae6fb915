"""The exam that the audit has sat: does it tell networks that cheat from networks that do not?

Tiny networks are trained so that their reasons are known (:mod:`cxnet.exam.fixtures`): some on clean pictures, some
with a shortcut on every diseased one. Each right answer goes through the very tests that a radiograph goes through
(:mod:`cxnet.exam.sitting`). How well each test tells cheating from clean networks, and the thresholds of the verdict,
are measured on different networks and cases (:mod:`cxnet.exam.results`).

Files beside this module: ``fixtures.npz`` (weights), ``cases.parquet`` (one row a
judged answer, no pictures), ``results.json``; and ``cxnet/thresholds.toml``, written by the same run.
"""

from __future__ import annotations

from cxnet.exam.fixtures import (
    CLASSES,
    KINDS,
    Case,
    FixtureNetwork,
    Kind,
    fixture_networks,
    phantom_case,
    plant,
    shown,
    train,
)
from cxnet.exam.results import DETECTORS, Exam, areas, auc, choose, detector_values, show, stored, verdicts, write
from cxnet.exam.sitting import judge_case, right_answers, run

__all__ = [
    "CLASSES",
    "DETECTORS",
    "KINDS",
    "Case",
    "Exam",
    "FixtureNetwork",
    "Kind",
    "areas",
    "auc",
    "choose",
    "detector_values",
    "fixture_networks",
    "judge_case",
    "phantom_case",
    "plant",
    "right_answers",
    "run",
    "show",
    "shown",
    "stored",
    "train",
    "verdicts",
    "write",
]
