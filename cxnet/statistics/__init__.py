"""Figures of a k-fold run with their uncertainty, and comparisons between runs.

Counts and their proportions (`confusion`, `proportions`), over patients where cases share some (`patients`), figures of
predicted probabilities (`probabilities`), patient bootstrap (`intervals`), tests between runs (`comparison`), and
whether the folds permit any of it (`folds`).
"""

from __future__ import annotations

from cxnet.statistics.comparison import Comparison, delong, holm, mcnemar_exact, nadeau_bengio
from cxnet.statistics.confusion import ConfusionMatrix, cell_shares, metrics, patient_metrics
from cxnet.statistics.folds import FoldCheck, check_folds
from cxnet.statistics.intervals import Interval, auc_intervals, bootstrap
from cxnet.statistics.probabilities import (
    CalibrationError,
    PrCurve,
    Reliability,
    RocCurve,
    auc,
    average_precision,
    brier,
    ece,
    pr_curve,
    reliability,
    roc_curve,
)
from cxnet.statistics.proportions import Metric, StatisticsError, precision_at_prevalence, wilson

__all__ = [
    "CalibrationError",
    "Comparison",
    "ConfusionMatrix",
    "FoldCheck",
    "Interval",
    "Metric",
    "PrCurve",
    "Reliability",
    "RocCurve",
    "StatisticsError",
    "auc",
    "auc_intervals",
    "average_precision",
    "bootstrap",
    "brier",
    "cell_shares",
    "check_folds",
    "delong",
    "ece",
    "holm",
    "mcnemar_exact",
    "metrics",
    "nadeau_bengio",
    "patient_metrics",
    "pr_curve",
    "precision_at_prevalence",
    "reliability",
    "roc_curve",
    "wilson",
]
