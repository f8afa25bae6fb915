"""Figures that say how far an explanation can be trusted; every figure comes with its null."""

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
    "ZONES",
    "AuditScore",
    "cam_lime_agreement",
    "centred_blob",
    "dilate",
    "energy",
    "localisation_scores",
    "pointing",
    "rank_accuracy",
    "shifted_energies",
    "upsample",
    "zones",
]
