"""What a run's figures are worth: the same networks on pictures without lungs, on lungs alone, and within one source.

    python -m benchmarks.worth --run covid-cxnet --data DIR [--json OUT]

DIR is the folder of the data set's manifest. Every case is shown to its own fold's network three times: as the network
is used, with the lungs blackened (background), and with everything but the lungs blackened. A network that needs the
lungs cannot tell classes by the background: its AUC there should be near 0.5. AUC are means over folds, one class
against the rest, with 95 % intervals of a patient bootstrap. Within a source no source can be recognised.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from cxnet.architectures import Region
from cxnet.classifier import Classifier, softmax
from cxnet.enhance import Grey
from cxnet.lungs import LungMask, LungSegmenter, look_at
from cxnet.radiograph import open_radiograph
from cxnet.runs import Run, find_run
from cxnet.statistics import auc_intervals, check_folds, patient_metrics
from cxnet.weights import network_of

LEAST_CASES = 10


def probabilities(run: Run, data: Path, regions: tuple[Region, ...], batch: int = 16) -> dict[Region, Any]:
    """Softmax outputs by region, float64 (cases, classes), in the order of the run's table."""
    segmenter, table = LungSegmenter(), run.table
    crops = run.info.get("region") == "lung-crop"

    def seen(pixels: Grey, lungs: LungMask, region: Region) -> Grey:
        if not crops or region == "lung-crop":
            return look_at(pixels, lungs, region)[0]
        return look_at(look_at(pixels, lungs, region)[0], lungs, "lung-crop")[0]  # of a crop, the crop is blackened

    found: dict[Region, Any] = {region: np.zeros((len(table), len(run.classes))) for region in regions}
    for fold in run.folds:
        network = Classifier(network_of(run, fold))
        rows = np.flatnonzero(table["fold"] == fold)
        for first in range(0, len(rows), batch):
            part = rows[first : first + batch]
            pictures = [open_radiograph(data / file).pixels for file in table["file"].iloc[part]]
            lungs = [segmenter(pixels) for pixels in pictures]
            for region in regions:
                stacks = [network.prepare(seen(p, m, region)) for p, m in zip(pictures, lungs, strict=True)]
                found[region][part] = softmax(network.logits(np.stack(stacks)))
        print(f"fold {fold}: {len(rows)} cases", flush=True)
    return found


def areas(run: Run, table: pd.DataFrame, shown: Any) -> dict[str, str]:
    """ROC AUC of each class and their mean, out of fold, with intervals."""
    withhold = check_folds(table).intervals_reason
    found = auc_intervals(
        list(table["true"]), shown, list(table["group"]), run.classes, folds=list(table["fold"]), withhold=withhold
    )
    rows = {}
    for metric in found:
        if "ROC AUC" in metric.name and metric.value is not None:
            interval = "" if metric.low is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
            rows[f"{metric.name} {metric.cls or ''}".strip()] = f"{metric.value:.3f}{interval}"
    return rows


def within_sources(run: Run, table: pd.DataFrame, shown: Any) -> dict[str, str]:
    """Mean over folds of the AUC of one class against another where both come from one source."""
    rows = {}
    for source, cases in table.groupby("source"):
        for one, other in combinations(run.classes, 2):
            pair = cases[cases["true"].isin([one, other])]
            counts = pair["true"].value_counts()
            if len(counts) < 2 or counts.min() < LEAST_CASES:
                continue
            where = pair.index.to_numpy()
            score = np.log(shown[where, run.classes.index(one)] / shown[where, run.classes.index(other)])
            positive, folds = (pair["true"] == one).to_numpy(), pair["fold"].to_numpy()

            values = [
                roc_auc_score(positive[folds == fold], score[folds == fold])
                for fold in np.unique(folds)
                if 0 < positive[folds == fold].sum() < (folds == fold).sum()
            ]
            value = float(np.mean(values))
            rows[f"{one} against {other} within {source}"] = f"{value:.3f} (n = {counts[one]} and {counts[other]})"
    return rows


def per_source(run: Run, table: pd.DataFrame) -> dict[str, str]:
    """Accuracy of each source's cases, with its interval over patients and how many classes it has."""
    withhold = check_folds(table).intervals_reason
    rows = {}
    for source, cases in table.groupby("source"):
        labels, groups = list(cases["true"]), list(cases["group"])
        found = patient_metrics(labels, list(cases["predicted"]), groups, run.classes, withhold=withhold)
        accuracy = next(m for m in found if m.name == "accuracy")
        limits = "" if accuracy.low is None else f" [{accuracy.low:.3f}, {accuracy.high:.3f}]"
        rows[f"accuracy in {source}"] = (
            f"{accuracy.value:.3f}{limits} ({accuracy.interval or accuracy.reason}; n = {len(cases)}, "
            f"{len(set(labels))} classes)"
        )
    return rows


def worth(run: Run, data: Path) -> dict[str, dict[str, str]]:
    """All figures of a run by heading."""
    own = run.info.get("region", "full")
    regions: tuple[Region, ...] = tuple(dict.fromkeys((own, "background", "lung-mask")))
    shown, table = probabilities(run, data, regions), run.table
    lung_figures = {}
    for name in ("in_lung", "lift", "z"):
        values = table[name].dropna()
        lung_figures[f"{name}, median (quartiles)"] = "{1:.2f} ({0:.2f} to {2:.2f})".format(
            *np.percentile(values, [25, 50, 75])
        )
    return {
        **{f"shown: {region}": areas(run, table, shown[region]) for region in regions},
        "within one source, as used": within_sources(run, table, shown[own]),
        "within one source, background": within_sources(run, table, shown["background"]),
        "by source": per_source(run, table),
        "maps": lung_figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = worth(find_run(options.run), options.data)
    for heading, rows in found.items():
        print(f"\n{heading}")
        for name, value in rows.items():
            print(f"  {name:60} {value}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
