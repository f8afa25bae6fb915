"""What the shipped weights are worth on radiographs that they were not trained on.

    python -m benchmarks.held_out --data DIR [--json OUT]

DIR holds ``manifest.csv`` (file, label, group, source, lung_mask) as described in weights/README.md. The split
is that of the training: :func:`cxnet.dataset.grouped_folds` with five folds and seed 0, fold 0 held out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, roc_auc_score

from cxnet.classifier import Classifier
from cxnet.dataset import grouped_folds, read_manifest
from cxnet.lungs import LungSegmenter
from cxnet.radiograph import open_radiograph


def interval(count: int, total: int) -> str:
    """Share with its 95 % Wilson interval."""
    low, high = binomtest(count, total).proportion_ci(method="wilson")
    return f"{count / total:.3f} [{low:.3f}, {high:.3f}]"


def classification(data: Path) -> dict[str, Any]:
    """Figures of covid-cxnet on fold 0, overall and within sources that hold more than one class."""
    classifier = Classifier("covid-cxnet")
    table = read_manifest(data / "manifest.csv", classifier.classes)
    table["fold"] = grouped_folds(list(table["label"]), list(table["group"]))
    table = table[table["fold"] == 0].reset_index(drop=True)
    probabilities = np.stack(
        [
            classifier.predict(classifier.prepare(open_radiograph(data / file).pixels)).probabilities
            for file in table["file"]
        ]
    )
    true = np.array([classifier.classes.index(label) for label in table["label"]])
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(true, predicted)
    figures: dict[str, Any] = {
        "cases": len(true),
        "accuracy": interval(int(np.trace(matrix)), len(true)),
        "macro_auc": round(float(roc_auc_score(true, probabilities, multi_class="ovr")), 4),
    }
    for k, name in enumerate(classifier.classes):
        figures[f"sensitivity {name}"] = interval(int(matrix[k, k]), int(matrix[k].sum()))
        others = true != k
        figures[f"specificity {name}"] = interval(int((predicted[others] != k).sum()), int(others.sum()))
        figures[f"auc {name}"] = round(float(roc_auc_score(true == k, probabilities[:, k])), 4)
    figures["confusion_rows_true"] = matrix.tolist()
    pneumonia, normal = classifier.classes.index("Pneumonia"), classifier.classes.index("Normal")
    nih = (table["source"] == "nih-cxr14").to_numpy()
    if nih.any():
        figures["auc Pneumonia against Normal within nih-cxr14"] = round(
            float(roc_auc_score(true[nih] == pneumonia, (probabilities[:, pneumonia] - probabilities[:, normal])[nih])),
            4,
        )
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
    options = parser.parse_args()
    figures = {"covid-cxnet": classification(options.data), "unet": segmentation(options.data)}
    for name, values in figures.items():
        print(f"\n{name}")
        for key, value in values.items():
            print(f"  {key:45} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
