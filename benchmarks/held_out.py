"""What the shipped weights are worth on radiographs that they were not trained on.

    python -m benchmarks.held_out --data DIR [--networks covid-cxnet covid-cxnet-lung unet] [--json OUT] [--runs FOLDER]

DIR holds ``manifest.csv`` (file, label, group, source, lung_mask) as described in weights/README.md. The split
is that of the training: :func:`cxnet.dataset.grouped_folds` with five folds and seed 0, fold 0 held out. With --runs
every prediction of a classifier is kept as a stored run of its name.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, distance_transform_edt
from sklearn.metrics import roc_auc_score

from cxnet.dataset import grouped_folds, near_duplicates, read_manifest
from cxnet.lungs import LungSegmenter
from cxnet.radiograph import open_radiograph
from cxnet.runs import Run
from cxnet.statistics import auc_intervals, check_folds, patient_metrics
from cxnet.training import evaluate
from cxnet.weights import card

NETWORKS = ["covid-cxnet", "covid-cxnet-lung", "unet"]


def unseen(data: Path, classes: tuple[str, ...]) -> tuple[pd.DataFrame, int]:
    """Fold 0 of the split that the weights were trained with, without cases that have a near-duplicate in training.

    The manifest's groups do not know of these copies; how many cases they cost comes second.
    """
    table = read_manifest(data / "manifest.csv", classes)
    fold = grouped_folds(list(table["label"]), list(table["group"]))
    pairs = near_duplicates([data / file for file in table["file"]], workers=os.cpu_count() or 1).pairs
    copied = {case for pair in pairs for case in (pair.first, pair.second) if fold[pair.first] != fold[pair.second]}
    kept = [case for case in np.flatnonzero(fold == 0) if case not in copied]
    return table.iloc[kept].reset_index(drop=True), int((fold == 0).sum()) - len(kept)


def classification(name: str, data: Path, out: Path | None) -> dict[str, Any]:
    """Figures of a network on fold 0, overall and within a source that holds two classes; kept as a run in `out`."""
    known = card(name)
    table, left_out = unseen(data, known.classes)
    note = f"{left_out} cases of the fold are left out: they have a near-duplicate among the training radiographs."
    with tempfile.TemporaryDirectory() as folder:
        run = evaluate(known, table, data, (out or Path(folder)) / name, note, cache=Path(folder))
        return figures_of(run)


def figures_of(run: Run) -> dict[str, Any]:
    """Accuracy, sensitivities and AUC of a run's cases, each with its interval over patients and what kind that is."""
    found = run.table
    true = list(found["true"])
    groups, withhold = list(found["group"]), check_folds(found).intervals_reason
    figures: dict[str, Any] = {"cases": len(found), "note": run.info["note"]}
    ranked = auc_intervals(true, run.probabilities(found), groups, run.classes, withhold=withhold)
    counted = patient_metrics(true, list(found["predicted"]), groups, run.classes, withhold=withhold)
    for metric in (*counted, *ranked):
        if (
            metric.name in ("accuracy", "sensitivity", "specificity", "ROC AUC", "macro ROC AUC")
            and metric.value is not None
        ):
            name = f"{metric.name} {metric.cls or ''}".strip()
            limits = "" if metric.low is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
            figures[name] = f"{metric.value:.3f}{limits} ({metric.interval or metric.reason})"
    nih = (found["source"] == "nih-cxr14").to_numpy()
    if nih.any():
        pneumonia, normal = (found[f"logit {name}"].to_numpy()[nih] for name in ("Pneumonia", "Normal"))
        positive = found["true"].to_numpy()[nih] == "Pneumonia"
        within = float(roc_auc_score(positive, pneumonia - normal))
        figures["AUC Pneumonia against Normal within nih-cxr14"] = round(within, 3)
    return figures


def hausdorff_95(first: np.ndarray, second: np.ndarray) -> float:
    """95th percentile of the distances between two outlines, both ways, in pixels."""
    edges = [mask & ~binary_erosion(mask) for mask in (first, second)]
    distances = [distance_transform_edt(~edge)[other] for edge, other in zip(edges, edges[::-1], strict=True)]
    return float(np.percentile(np.concatenate(distances), 95))


def segmentation(data: Path) -> dict[str, Any]:
    """Dice and Hausdorff-95 of the lung masks on fold 0, leaving out pixels marked "ignore"."""
    segmenter = LungSegmenter()
    table = read_manifest(data / "manifest.csv")
    table = table[table["lung_mask"] != ""].reset_index(drop=True)
    table["fold"] = grouped_folds(list(table["source"]), list(table["group"]))
    rows = []
    for _, row in table[table["fold"] == 0].iterrows():
        truth = cv2.imread(str(data / row["lung_mask"]), cv2.IMREAD_GRAYSCALE)
        mask = segmenter(open_radiograph(data / row["file"]).pixels)
        seen = truth != 127
        ours, human = mask.mask & seen, truth == 255
        dice = 2 * (ours & human).sum() / (ours.sum() + human.sum())
        diagonal = float(np.hypot(*truth.shape))
        distance = hausdorff_95(ours, human) / diagonal * 100 if ours.any() else 100.0
        rows.append((row["source"], dice, distance, mask.ok))
    sources = np.array([r[0] for r in rows])
    figures: dict[str, Any] = {"cases": len(rows), "pass_quality_gate": sum(r[3] for r in rows)}
    for name, chosen in (("all", sources != ""), *((s, sources == s) for s in sorted(set(sources)))):
        dice = np.array([r[1] for r in rows])[chosen]
        distance = np.array([r[2] for r in rows])[chosen]
        figures[f"dice {name}"] = (
            f"mean {dice.mean():.4f}, median {np.median(dice):.4f}, lowest {dice.min():.4f} (n={len(dice)})"
        )
        figures[f"hausdorff95 {name}"] = (
            f"median {np.median(distance):.2f} % of the diagonal, mean {distance.mean():.2f} %"
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--runs", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    figures = {
        name: segmentation(options.data) if name == "unet" else classification(name, options.data, options.runs)
        for name in options.networks
    }
    for name, values in figures.items():
        print(f"\n{name}")
        for key, value in values.items():
            print(f"  {key:45} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
