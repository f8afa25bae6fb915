"""Figures that say how far an explanation can be trusted; every figure comes with its null."""

from cxnet.audit.appearance import PROBES, Answer, Sweep, answers
from cxnet.audit.causal import CausalTests, EditTest, RegionTest, causal_tests
from cxnet.audit.edits import FILLS, SHAPES, hide, lung_region, pad_border, remove
from cxnet.audit.localisation import (
    ZONES,
    AuditScore,
    cam_lime_agreement,
    centred_blob,
    dilate,
    energy,
    localisation_scores,
    pointing,
    rank_accuracy,
    shifted_energies,
    upsample,
    zones,
)

__all__ = [
    "FILLS",
    "PROBES",
    "SHAPES",
    "ZONES",
    "Answer",
    "AuditScore",
    "CausalTests",
    "EditTest",
    "RegionTest",
    "Sweep",
    "answers",
    "cam_lime_agreement",
    "causal_tests",
    "centred_blob",
    "dilate",
    "energy",
    "hide",
    "localisation_scores",
    "lung_region",
    "pad_border",
    "pointing",
    "rank_accuracy",
    "remove",
    "shifted_energies",
    "upsample",
    "zones",
]
