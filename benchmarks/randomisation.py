"""Do maps change when a network forgets what it learned (Adebayo et al. 2018)? Stored beside the weights.

    python -m benchmarks.randomisation --data DIR [--models covid-cxnet base-cnn-v2/fold-0] [--cases 20] [--seeds 3]

DIR holds the radiographs of the stored runs. Without --models all networks of stored runs are tested, each on cases
that it never saw, one a patient. Layers are randomised from the output down (:func:`cxnet.audit.cascade`); the
Grad-CAM for the class that the trained network said is compared on its own grid, before enlarging. Writes
``weights/randomisation.json``; what it holds of other networks stays.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.architectures import SCALING
from cxnet.audit import Randomisation, SanityCheck, cascade, parameter_randomisation
from cxnet.classifier import Head, Prediction
from cxnet.engine import outputs_of
from cxnet.enhance import Grey
from cxnet.errors import CxnetError
from cxnet.explain.grad_cam import grad_cam
from cxnet.lungs import LungSegmenter, look_at
from cxnet.radiograph import open_radiograph
from cxnet.runs import Run, list_runs
from cxnet.weights import FOLDER, Card, assign, keras_model, network_of, read_arrays

METHOD = "grad-cam"
#: A randomised network can have maps of zero everywhere. Such a seed tells nothing, so another is tried: this many times
#: the wanted number in all.
MOST_TRIES = 3


def cases_of(run: Run, fold: int, count: int) -> list[str]:
    """Files of a fold's cases drawn at random (seed 0), one a group."""
    table = run.results(fold).sample(frac=1, random_state=0).drop_duplicates("group")
    return list(table["file"].head(count))


def stacks_of(card: Card, pictures: list[Grey]) -> NDArray[np.uint8]:
    """The network's inputs, uint8 (n, size, size, 3)."""
    segmenter = LungSegmenter()
    shown = [look_at(p, segmenter(p), card.region)[0] for p in pictures]
    enhancement = card.enhancement
    return np.stack([enhancement.stack(enhancement.grey(p, card.input_size_px), card.channels) for p in shown])


class Forgetful:
    """A network whose weights can be replaced; gives maps by the same code as the dashboard."""

    def __init__(self, card: Card) -> None:
        import keras

        self._card, self._model = card, keras_model(card)
        layers = outputs_of(card.recipe)
        outputs = {name: self._model.get_layer(layer).output for name, layer in layers.items()}
        self._network = keras.Model(self._model.input, outputs)

    def predictions(self, stacks: NDArray[np.uint8], arrays: dict[str, NDArray[Any]]) -> list[Prediction]:
        """What the network says with these weights."""
        assign(self._model, arrays)
        mean, deviation = (np.array(value, np.float32) for value in SCALING[self._card.scaling])
        found = self._network.predict((stacks.astype(np.float32) - mean) / deviation, batch_size=8, verbose=0)
        extra = found.get("extra", [None] * len(stacks))
        rows = zip(found["logits"], found["features"], extra, strict=True)
        return [Prediction(self._card.classes, *row) for row in rows]

    def maps(
        self, stacks: NDArray[np.uint8], arrays: dict[str, NDArray[Any]], targets: list[int]
    ) -> list[NDArray[np.float32]]:
        """Grad-CAM of a class of each picture, on the feature layer's grid."""
        head = Head.of(self._card.recipe, arrays)
        said = self.predictions(stacks, arrays)
        return [grad_cam(prediction, head)[target] for prediction, target in zip(said, targets, strict=True)]


def check(card: Card, stacks: NDArray[np.uint8], seeds: int, levels: int = 8) -> SanityCheck:
    """The test of one network, under as many seeds as leave maps to compare if that can be."""
    network, arrays = Forgetful(card), read_arrays(card.path(".npz"))
    targets = [int(p.logits.argmax()) for p in network.predictions(stacks, arrays)]
    trained = network.maps(stacks, arrays, targets)
    tests: list[Randomisation] = []
    while sum(test.passes is not None for test in tests) < seeds and len(tests) < MOST_TRIES * seeds:
        seed = len(tests)
        maps = {name: network.maps(stacks, some, targets) for name, some in cascade(arrays, levels, seed)}
        tests.append(parameter_randomisation(trained, maps))
    return SanityCheck(card.name, card.sha256, METHOD, len(stacks), tuple(tests))


def networks() -> dict[str, tuple[Card, Run, int]]:
    """All networks of the stored runs that came with weights, by name."""
    found = {}
    for run in list_runs()[0]:
        for fold in run.folds:
            try:
                known = network_of(run, fold)
            except CxnetError as error:
                print(f"{run.name}, fold {fold} is left out: {error}")
                continue
            found[known.name] = known, run, fold
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=FOLDER / "randomisation.json")
    options = parser.parse_args()
    stored = json.loads(options.out.read_text("utf-8")) if options.out.exists() else []
    kept = {told["model"]: told for told in stored}
    known = networks()
    for name in options.models or known:
        card, run, fold = known[name]
        started = time.perf_counter()
        pictures = [open_radiograph(options.data / file).pixels for file in cases_of(run, fold, options.cases)]
        found = check(card, stacks_of(card, pictures), options.seeds)
        kept[name] = found.to_json()
        print(f"{name}: {found.in_words()} ({time.perf_counter() - started:.0f} s)", flush=True)
        for level in zip(*(test.levels for test in found.tests), strict=True):
            print("   ", level[0].name, [(round(one.ssim or -9, 3), round(one.spearman or -9, 3)) for one in level])
        text = json.dumps([kept[model] for model in sorted(kept)], indent=1, allow_nan=False)
        options.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
