"""One radiograph of a batch: its row of the table."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.analysis import Analysis, Models, Settings, analyse, looking
from cxnet.audit import ZONES, find_markers
from cxnet.audit.localisation import BLOB, SHIFTED, zones
from cxnet.batch.planning import Task
from cxnet.errors import CxnetError, DatasetError
from cxnet.explain.lime import csi, explain_lime, vsi
from cxnet.radiograph import Radiograph, open_radiograph
from cxnet.verdict import CaseAudit, audit
from cxnet.weights import Card
from cxnet.wrong_reasons import FIGURES, PROPERTIES, Tier

#: Longer side of the picture on which sharpness is measured.
SHARPNESS_PX = 640
NEARLY_BLACK = 16
#: Column of a table → figure of LIME's map.
LIME_FIGURES = {f"lime_{name}": FIGURES[name] for name in ("in_lung", "lift", "z")}
#: All that LIME adds to a table, but for :data:`STABILITY`, which needs two seeds.
LIME_COLUMNS = (
    *("lime_r2", "lime_samples", "lime_stable", *LIME_FIGURES, "lime_reason"),
    *("cam_lime", "cam_lime_chance", "cam_lime_blob", "cam_lime_reason"),
)
STABILITY = ("lime_vsi", "lime_csi")

Row = dict[str, Any]


def properties(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """What a picture looks like without looking at the lungs: see :data:`cxnet.wrong_reasons.PROPERTIES`.

    Parameters
    ----------
    pixels : uint8 array (height, width)

    Returns
    -------
    dict of str to float

    Notes
    -----
    Sharpness is the variance of the Laplacian over the picture's own variance, on the picture shrunk to 640 px, so
    that neither contrast nor sheer size count as sharpness; 0 for a constant picture.
    """
    height, width = pixels.shape
    scale = min(1.0, SHARPNESS_PX / max(height, width))
    small = pixels
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    variance = float(small.var(dtype=np.float64))
    edges = cv2.Laplacian(small, cv2.CV_32F)
    rows, columns = max(1, round(0.05 * height)), max(1, round(0.05 * width))
    border = np.ones(pixels.shape, np.bool_)
    border[rows : height - rows, columns : width - columns] = False
    markers = find_markers(pixels)
    values = (
        float(pixels.mean(dtype=np.float64)),
        float(pixels.std(dtype=np.float64)),
        float(width),
        float(height),
        width / height,
        float(edges.var(dtype=np.float64)) / variance if variance else 0.0,
        float((pixels[border] < NEARLY_BLACK).mean()),
        float(len(markers.found)),
        float(markers.mask.mean()),
    )
    return dict(zip(PROPERTIES, values, strict=True))


def settings_of(model: str, lime_seeds: int = 0) -> Settings:
    """The product's own for this network, with LIME where it is asked for."""
    return Settings(model=model, methods=("grad-cam", "lime") if lime_seeds else ("grad-cam",))


def audit_radiograph(radiograph: Radiograph, models: Models, tier: Tier, *, lime_seeds: int = 0) -> Row:
    """One row of the table for a radiograph in memory.

    Parameters
    ----------
    radiograph : Radiograph
    models : Models
        The network that is asked, and the lung segmenter.
    tier : {"fast", "full"}
    lime_seeds : int
        How often LIME explains it too; 0 for not at all.

    Returns
    -------
    dict
        Plain values by column, as :mod:`cxnet.wrong_reasons` names them; `file` and what else only a run or a folder
        knows is None. Where the radiograph cannot be audited, `error` says why as a sentence.
    """
    card = models.classifier.card
    row = _head(radiograph.sha256, card.name, card.sha256)
    try:
        analysis = analyse(radiograph, models, settings_of(card.name, lime_seeds))
        row |= _from_analysis(analysis) | properties(radiograph.pixels)
        if lime_seeds:
            row |= _from_lime(analysis, models, lime_seeds)
        if tier == "full":
            row |= _from_audit(audit(analysis, models, tier="full"))
    except CxnetError as error:
        row["error"] = str(error)
    return row


def failed_row(case: str, card: Card, why: str) -> Row:
    """The row of a radiograph that could not be audited: a sentence, and no figure."""
    return _head(case, card.name, card.sha256) | {"error": why}


def audit_case(task: Task, models: Models) -> Row:
    """One row of the table: plain values by column; with `error` where the file cannot be used."""
    try:
        radiograph = open_radiograph(task.path)
        if radiograph.sha256 != task.case:
            raise DatasetError("The file has changed: its sha256 is not the case's id; restore it from where it came.")
        row = audit_radiograph(radiograph, models, task.tier, lime_seeds=task.lime_seeds)
    except CxnetError as error:
        row = _head(task.case, task.model, task.model_sha256) | {"error": str(error)}
    except Exception as error:  # one bad file must not end the audit of all others
        logging.getLogger("cxnet").exception("The audit of %s failed", task.file)
        why = f"It failed unexpectedly ({type(error).__name__}); the traceback stands where the audit was started."
        row = _head(task.case, task.model, task.model_sha256) | {"error": why}
    return row | {"file": task.file} | dict(task.known)


def _head(case: str, model: str, checksum: str) -> Row:
    """The columns that every row begins with."""
    row: Row = {"case": case} | dict.fromkeys(("file", "fold", "group", "source", "view", "true"))
    return row | {"model": model, "model_sha256": checksum, "error": None}


def _from_analysis(analysis: Analysis) -> Row:
    scores = {score.name: score for score in analysis.scores["grad-cam"]}
    row: Row = {"predicted": analysis.prediction.predicted}
    for name, probability in zip(analysis.card.classes, analysis.prediction.probabilities.tolist(), strict=True):
        row[f"probability {name}"] = probability
    row |= {column: scores[name].value for column, name in FIGURES.items()}
    row |= {f"in_lung_{key.replace(' ', '_')}": value for key, value in scores[FIGURES["in_lung"]].null.items()}
    row["map_reason"] = scores[FIGURES["in_lung"]].reason
    row |= {f"zone {zone}": scores[f"energy: {zone}"].value for zone in ZONES}
    row |= {f"area {zone}": float(mask.mean()) for zone, mask in zones(analysis.model_lungs).items()}
    row["lungs_area"] = float(analysis.model_lungs.mean())
    row["lungs_ok"] = analysis.lungs.ok
    row["lungs_reasons"] = "; ".join(analysis.lungs.reasons) or None
    return row


def _from_lime(analysis: Analysis, models: Models, seeds: int) -> Row:
    lime, scores = analysis.explanations["lime"], {score.name: score for score in analysis.scores["lime"]}
    row: Row = {
        "lime_r2": lime.r2 if lime.r2_held_out is None else lime.r2_held_out,
        "lime_samples": lime.samples,
        "lime_stable": lime.stable,
    }
    row |= {column: scores[name].value for column, name in LIME_FIGURES.items()}
    row["lime_reason"] = next((scores[n].reason for n in LIME_FIGURES.values() if scores[n].value is None), None)
    agreement = analysis.agreement[0]
    row |= {"cam_lime": agreement.value, "cam_lime_chance": agreement.null.get(SHIFTED)}
    row["cam_lime_blob"] = agreement.null.get(BLOB)
    row["cam_lime_reason"] = agreement.reason
    if seeds > 1:
        row |= dict(zip(STABILITY, _stability(analysis, models, seeds), strict=True))
    return row


def _stability(analysis: Analysis, models: Models, seeds: int) -> tuple[float | None, float | None]:
    """VSI of LIME's leading superpixels and CSI of all over its seeds; superpixels and first run are the analysis's own.

    None where LIME found nothing, so that no superpixel leads.
    """
    shown, settings = analysis.explanations["lime"], analysis.settings.lime
    assert shown.segments is not None and shown.weights is not None and shown.standard_errors is not None
    if not shown.weights.any():
        return None, None
    target = models.classifier.classes.index(analysis.target)
    predict = looking(analysis, models.classifier.logits)
    runs = []
    for more in range(1, seeds):
        again = replace(settings, seed=settings.seed + more)
        *_, found = explain_lime(analysis.stack, shown.segments, predict, [target], again)
        runs.append(found[target])
    first = replace(runs[0], weights=shown.weights, standard_errors=shown.standard_errors)
    return vsi([first, *runs], settings.top_k), csi([first, *runs])


def _from_audit(found: CaseAudit) -> Row:
    told = found.verdict.to_json()
    row: Row = {f"evidence {name}": value for name, value in found.verdict.evidence.values.items()}
    row["usual evidence"] = found.verdict.usual
    row["strength"] = found.verdict.strength
    row["background_probability"] = found.causal.region("background-only").probability
    row["lungs_probability"] = found.causal.region("lungs-only").probability
    row |= {name: told[name] for name in ("verdict", "map_key", "causal_key")}
    row["facts"] = json.dumps(told["facts"], ensure_ascii=False)
    row["thresholds_version"] = told["thresholds_version"]
    row["passes"] = found.passes
    return row
