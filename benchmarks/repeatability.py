"""Do the networks of one training point to the same places (Arun et al. 2021)? Stored beside the weights.

    python -m benchmarks.repeatability --data DIR [--runs base-cnn-v2 mobilenet-v1] [--cases 40]

DIR holds the radiographs of the stored runs. Without --runs all runs with the weights of several folds are measured. A
seeded sample of cases, one a patient, as many of each class as can be, is shown to every fold's network; the Grad-CAM
for the class that the network says that never saw the case is compared on its own grid. All other networks were trained
on the case, unless the run left it out, so pairs with and without the one that was not are told apart. Writes
``weights/repeatability.json``; what it holds of other runs stays.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.audit import repeatability
from cxnet.classifier import Classifier
from cxnet.errors import CxnetError
from cxnet.explain.grad_cam import grad_cam
from cxnet.lungs import LungSegmenter, look_at
from cxnet.radiograph import open_radiograph
from cxnet.runs import Run, find_run, list_runs
from cxnet.weights import FOLDER, Card, fold_card

METHOD = "grad-cam"


def cards_of(run: Run) -> list[Card]:
    """The networks of all folds, by fold.

    Raises
    ------
    WeightsError
        If one of them is missing.
    """
    return [fold_card(run, fold) for fold in run.folds]


def sample(run: Run, count: int, seed: int = 0) -> pd.DataFrame:
    """Cases drawn at random, one a patient, the true classes in turn."""
    table = run.table.sample(frac=1, random_state=seed).drop_duplicates("group")
    turn = table.groupby("true").cumcount()
    return table.assign(turn=turn).sort_values(["turn", "true"], kind="stable").head(count).drop(columns="turn")


def maps_of(run: Run, cases: pd.DataFrame, data: Path) -> tuple[list[list[NDArray[np.float32]]], list[str]]:
    """Maps by network and case, and the class that each case's maps explain."""
    networks, segmenter = [Classifier(card) for card in cards_of(run)], LungSegmenter()
    maps: list[list[NDArray[np.float32]]] = [[] for _ in networks]
    said: list[str] = []
    for case in cases.itertuples():
        pixels = open_radiograph(data / str(case.file)).pixels
        card = networks[0].card  # the networks of a run prepare their pictures alike
        stack = networks[0].prepare(look_at(pixels, segmenter(pixels), card.region)[0])
        answers = [network.predict(stack) for network in networks]
        said.append(answers[run.folds.index(int(case.fold))].predicted)
        target = card.classes.index(said[-1])
        for row, network, answer in zip(maps, networks, answers, strict=True):
            row.append(grad_cam(answer, network.head)[target])
    return maps, said


def measure(run: Run, data: Path, count: int) -> dict[str, Any]:
    """What is stored of a run."""
    cases = sample(run, count)
    maps, said = maps_of(run, cases, data)
    out = [run.folds.index(int(fold)) for fold in cases["fold"]]
    found = repeatability(maps, said, list(cases["group"]), out)
    told = {"run": run.name, "method": METHOD, "sha256": [card.sha256 for card in cards_of(run)]}
    return {**told, "classes": pd.Series(said).value_counts().sort_index().to_dict(), "found": found.to_json()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", nargs="+")
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--out", type=Path, default=FOLDER / "repeatability.json")
    options = parser.parse_args()
    stored = json.loads(options.out.read_text("utf-8")) if options.out.exists() else []
    kept = {told["run"]: told for told in stored}
    for name in options.runs or [run.name for run in list_runs()[0] if len(run.folds) > 1]:
        started = time.perf_counter()
        try:
            kept[name] = measure(find_run(name), options.data, options.cases)
        except CxnetError as error:
            print(f"{name} is left out: {error}")
            continue
        print(f"{name}: {kept[name]['found']} ({time.perf_counter() - started:.0f} s)", flush=True)
        text = json.dumps([kept[run] for run in sorted(kept)], indent=1, allow_nan=False)
        options.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
