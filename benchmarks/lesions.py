"""Do maps point to the opacities that experts drew, on radiographs that the network never saw?

    python -m benchmarks.lesions --data DIR [--runs covid-cxnet base-cnn-v2] [--methods grad-cam grad-cam++ lime]

DIR holds ``manifest.csv`` (file, annotations): annotations is the prefix of ``*_lung.png``, ``*_opacity.png`` and
``*_device.png``, 0 or 255, of the picture's size. Every annotated case of a stored run is shown to the network that
never saw it, and the map for the true class is measured. Cases that no run holds are left out, since a network may have
been trained on them. Writes ``weights/lesions.csv``, figures only; what it holds of other runs stays.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.analysis import Analysis, Settings, analyse, load_models
from cxnet.audit import upsample
from cxnet.audit.lesions import COLUMNS, REGIONS, lesion_scores, lesion_summary
from cxnet.errors import DatasetError
from cxnet.explain.lime import LimeSettings
from cxnet.radiograph import open_radiograph
from cxnet.runs import find_run
from cxnet.weights import FOLDER, network_of

#: The experts' drawing itself, averaged over the cells of the map's grid: what the best coarse map gets.
DRAWING = "expert drawing"
#: Fewer samples than the dashboard would take at most; most cases settle before.
LIME = LimeSettings(samples=400)
FILES = {"opacity": "opacity", "devices": "device"}


def mask(path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """One drawing, bool (height, width)."""
    drawn = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if drawn is None or drawn.shape != shape:
        raise DatasetError(f"The drawing {path.name} is missing or not of its picture's size {shape}; restore it.")
    return np.asarray(drawn > 127, np.bool_)


def measure(analysis: Analysis, prefix: Path) -> list[dict[str, Any]]:
    """Figures of all maps of one radiograph against its drawings, in the part that the network saw."""
    crop, shape = analysis.crop, analysis.radiograph.pixels.shape
    rows = []
    part = slice(crop.top, crop.bottom), slice(crop.left, crop.right)
    lungs = mask(Path(f"{prefix}_lung.png"), shape)[part]
    grid = analysis.prediction.features.shape[:2]
    cell_px = float(np.mean([lungs.shape[0] / grid[0], lungs.shape[1] / grid[1]]))
    for region in REGIONS:
        drawn = mask(Path(f"{prefix}_{FILES[region]}.png"), shape)[part]
        maps = {m: upsample(e.heatmap, lungs.shape) for m, e in analysis.explanations.items()}
        cells = cv2.resize(drawn.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
        maps[DRAWING] = upsample(np.asarray(cells, np.float32), lungs.shape)
        for method, heatmap in maps.items():
            scores = lesion_scores(heatmap, lungs, drawn, cell_px=cell_px, name=region)
            for figure, score in zip(("energy", "pointing"), scores, strict=True):
                told = {"method": method, "region": region, "figure": figure, "value": score.value}
                rows.append(told | dict(score.null) | {"reason": score.reason})
    return rows


def of_run(name: str, data: Path, methods: tuple[str, ...]) -> list[dict[str, Any]]:
    """Figures of all annotated cases of a run, each with the network that never saw it."""
    manifest = pd.read_csv(data / "manifest.csv", dtype=str, keep_default_na=False)
    prefix = manifest[manifest["annotations"] != ""].set_index("file")["annotations"]
    run = find_run(name)
    cases = run.table[run.table["file"].isin(prefix.index)]
    rows: list[dict[str, Any]] = []
    for fold, part in cases.groupby("fold"):
        models = load_models(network_of(run, int(fold)))
        known = models.classifier.card
        for case in part.itertuples():
            started = time.perf_counter()
            radiograph = open_radiograph(data / case.file)
            if radiograph.sha256 != case.case:
                raise DatasetError(f"The file {case.file} is not the case of the run {name}; restore it.")
            found = analyse(radiograph, models, Settings(known.name, case.true, methods, lime=LIME))
            told = {"network": name, "model": known.name, "model_sha256": known.sha256, "case": case.case}
            told |= {"group": case.group, "true": case.true, "predicted": found.prediction.predicted}
            rows += [told | row for row in measure(found, data / prefix[case.file])]
            print(f"{known.name} {case.file}: {time.perf_counter() - started:.1f} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", default=["covid-cxnet", "base-cnn-v2"])
    parser.add_argument("--methods", nargs="+", default=["grad-cam", "grad-cam++", "lime"])
    parser.add_argument("--out", type=Path, default=FOLDER / "lesions.csv")
    options = parser.parse_args()
    for name in options.runs:  # each is written before the next begins
        table = pd.DataFrame(of_run(name, options.data, tuple(options.methods))).reindex(columns=list(COLUMNS))
        if options.out.exists():
            stored = pd.read_csv(options.out)
            table = pd.concat([stored[stored["network"] != name], table]).sort_values("network", kind="stable")
        table.to_csv(options.out, index=False, float_format="%.5f", lineterminator="\n")
    summary = lesion_summary(table)
    print(summary.to_string(float_format="%.3f"))


if __name__ == "__main__":
    main()
