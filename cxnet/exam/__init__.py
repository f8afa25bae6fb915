"""The exam that the audit has sat: does it tell networks that cheat from networks that do not?

Tiny networks are trained so that their reasons are known (:mod:`cxnet.exam.fixtures`): some on clean pictures, some
with a shortcut on every diseased one. Each right answer goes through the very tests that a radiograph goes through
(:mod:`cxnet.exam.sitting`). How well each test tells cheating from clean networks, and the thresholds of the verdict,
are measured on different networks and cases (:mod:`cxnet.exam.results`). With these thresholds it is sat again, on
real radiographs with the same shortcuts (:mod:`cxnet.exam.real`).

Files beside this module: ``fixtures.npz`` (weights), ``cases.parquet`` (one row a
judged answer, no pictures), ``results.json``; and ``cxnet/thresholds.toml``, written by the same run. The same three
with ``real-`` before their names for real radiographs.
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
from cxnet.exam.real import Film, asked, read_films, real_case, run_real, split, write_real
from cxnet.exam.results import (
    DETECTORS,
    PHANTOMS,
    REAL,
    Exam,
    areas,
    auc,
    choose,
    detector_values,
    show,
    stored,
    verdicts,
    write,
)
from cxnet.exam.sitting import judge_case, right_answers, run

__all__ = [
    "CLASSES",
    "DETECTORS",
    "KINDS",
    "PHANTOMS",
    "REAL",
    "Case",
    "Exam",
    "Film",
    "FixtureNetwork",
    "Kind",
    "areas",
    "asked",
    "auc",
    "choose",
    "detector_values",
    "fixture_networks",
    "judge_case",
    "phantom_case",
    "plant",
    "read_films",
    "real_case",
    "right_answers",
    "run",
    "run_real",
    "show",
    "shown",
    "split",
    "stored",
    "train",
    "verdicts",
    "write",
    "write_real",
]
