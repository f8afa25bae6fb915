"""How fast the main job is, as ratios measured in one run, in random order.

    python -m benchmarks.speed [--repeats 30] [--lime-samples 1000] [--stability-data DIR --stability-seeds 3]

Without --stability-data a synthetic radiograph is used and stability is left out: that part compares the top five
superpixels over seeds on real radiographs and takes about a second per ten samples of every run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cxnet.architectures import SCALING
from cxnet.classifier import Classifier
from cxnet.dataset import grouped_folds, read_manifest
from cxnet.explain.grad_cam import by_tf_keras_vis, grad_cam
from cxnet.explain.lime import (
    EQUAL_REFITS,
    LimeExplanation,
    LimeSettings,
    block_rows,
    explain_lime,
    superpixels,
    vsi,
)
from cxnet.lungs import LungSegmenter
from cxnet.phantom import make_phantom
from cxnet.radiograph import open_radiograph
from cxnet.weights import card, keras_model

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

#: Seeds over which LIME is timed: where it stops depends on its draw.
SEEDS = 5
#: Numbers of equal refits that are tried.
REFITS = (4, 6, 8, 10, 12)


def paired(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each job, one after another in random order, after a warm-up."""
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name in random.sample(list(jobs), len(jobs)):
            start = time.perf_counter()
            jobs[name]()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def prediction_and_map(classifier: Classifier, stack: Pixels, repeats: int) -> None:
    """Prediction with Grad-CAM of all classes against a bare forward pass, and against Keras with tf-keras-vis."""
    bare = classifier._network

    def ours() -> object:
        prediction = classifier.predict(stack)
        return prediction.probabilities, grad_cam(prediction, classifier.head)

    found = paired({"bare": lambda: bare(stack[None]), "ours": ours}, repeats)
    print(f"prediction + Grad-CAM of all classes: {found['ours'] / found['bare']:.3f} x a bare forward pass")
    model = keras_model(card("covid-cxnet"), activation="softmax")
    mean, deviation = (np.array(v, np.float32) for v in SCALING["imagenet"])

    def stock() -> object:
        model.predict((stack[None].astype(np.float32) - mean) / deviation, verbose=0)
        return by_tf_keras_vis("covid-cxnet", "grad-cam", stack, 0)

    found = paired({"ours": ours, "stock": stock}, max(5, repeats // 5))
    print(f"model.predict + tf-keras-vis, one class: {found['stock'] / found['ours']:.1f} x ours, all classes")


def stock_lime(network: Callable[[Pixels], Any], stack: Pixels, segments: Any, samples: int, seed: int) -> Any:
    """The lime package as it comes, batches of 10."""
    from lime.lime_image import LimeImageExplainer

    explainer = LimeImageExplainer(random_state=seed)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        return explainer.explain_instance(
            stack,
            network,
            labels=(0,),
            top_labels=None,
            num_samples=samples,
            segmentation_fn=lambda _: segments,
            random_seed=0,
        )


def lime_speed(classifier: Classifier, stack: Pixels, lungs: Any, samples: int) -> None:
    """LIME with the same number of samples, and the default that stops early, against the package with Keras."""
    segments = superpixels(np.ascontiguousarray(stack[:, :, 0]), lungs, 60)
    model = keras_model(card("covid-cxnet"), activation="softmax")
    mean, deviation = (np.array(v, np.float32) for v in SCALING["imagenet"])

    def network(pictures: Pixels) -> Any:
        return model.predict((np.asarray(pictures, np.float32) - mean) / deviation, verbose=0)

    def timed(job: Callable[[], Any]) -> tuple[float, Any]:
        start = time.perf_counter()
        result = job()
        return time.perf_counter() - start, result

    def ours(options: LimeSettings) -> LimeExplanation:
        *_, found = explain_lime(stack, segments, classifier.logits, (0,), options)
        return found[0]

    stock_lime(network, stack, segments, 20, 0)
    ours(LimeSettings(samples=20))
    full, _ = timed(lambda: ours(LimeSettings(samples=samples, stop_when_stable=False)))
    early = [timed(lambda seed=seed: ours(LimeSettings(seed=seed))) for seed in range(SEEDS)]  # type: ignore[misc]
    stock, _ = timed(lambda: stock_lime(network, stack, segments, samples, 0))
    print(f"LIME, {samples} samples, {segments.max() + 1} superpixels: stock takes {stock / full:.2f} x ours")
    ratios = sorted(stock * 1000 / samples / seconds for seconds, _ in early)
    used = sorted(explanation.samples for _, explanation in early)
    print(
        f"LIME by default ({used[0]} to {used[-1]} samples over {SEEDS} seeds): stock with 1000 takes "
        f"{median(ratios):.1f} x ours ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    )


def lime_stability(classifier: Classifier, data: Path, seeds: int, cases: int) -> None:
    """VSI over seeds on held-out radiographs: the default against the package's sampler with 1,000 samples.

    One run of the default's sampler tells where it would have stopped after each number of equal refits.
    """
    table = read_manifest(data / "manifest.csv", classifier.classes)
    held_out = table[grouped_folds(list(table["label"]), list(table["group"])) == 0]
    segmenter = LungSegmenter()
    scores: dict[str, list[float]] = {}
    used: dict[str, list[int]] = {}
    for file in held_out["file"].sample(cases, random_state=0):
        pixels = open_radiograph(data / file).pixels
        stack = classifier.prepare(pixels)
        segments = superpixels(np.ascontiguousarray(stack[:, :, 0]), segmenter(pixels).resized(320), 60)
        target = int(np.argmax(classifier.predict(stack).logits))
        runs: dict[str, list[LimeExplanation]] = {}
        for seed in range(seeds):
            stock = LimeSettings(seed=seed, design="random", fill="mean", stop_when_stable=False, batch_size=16)
            *_, found = explain_lime(stack, segments, classifier.logits, (target,), stock)
            runs.setdefault("stock, 1000", []).append(found[target])
            for refits, stopped in _stops(classifier, stack, segments, target, seed).items():
                name = f"{refits} equal refits" + (", the default" if refits == EQUAL_REFITS else "")
                runs.setdefault(name, []).append(stopped)
                used.setdefault(name, []).append(stopped.samples)
        for name, some in runs.items():
            scores.setdefault(name, []).append(vsi(some) or 0.0)
        print({name: round(values[-1], 3) for name, values in scores.items()}, flush=True)
    print(f"VSI of the top five over {seeds} seeds, mean of {cases} held-out radiographs, by when LIME stops")
    rng = np.random.default_rng(0)
    for name, values in scores.items():
        difference = np.array(values) - np.array(scores["stock, 1000"])
        low, high = np.percentile(rng.choice(difference, (10_000, cases)).mean(axis=1), [2.5, 97.5])
        spent = f"; samples: median {median(used[name]):.0f}, most {max(used[name])}" if name in used else ""
        print(f"{name}: {np.mean(values):.3f}, minus stock {difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]{spent}")


def _stops(
    classifier: Classifier, stack: Pixels, segments: np.ndarray[Any, Any], target: int, seed: int
) -> dict[int, LimeExplanation]:
    """Where LIME with the default's sampler stands when its top five have been equal for so many refits."""
    settings = LimeSettings(seed=seed, stop_when_stable=False)
    leaders: list[frozenset[int]] = []
    found: dict[int, LimeExplanation] = {}
    for partial in explain_lime(stack, segments, classifier.logits, (target,), settings):
        last = partial[target]
        leaders.append(frozenset(last.top(settings.top_k)))
        for refits in set(REFITS) - set(found):
            equal = len(leaders) >= refits and len(set(leaders[-refits:])) == 1
            if equal and last.samples > block_rows(int(segments.max()) + 1):
                found[refits] = last
        if len(found) == len(REFITS):
            break
    return found | dict.fromkeys(set(REFITS) - set(found), last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--lime-samples", type=int, default=1000)
    parser.add_argument("--stability-data", type=Path)
    parser.add_argument("--stability-seeds", type=int, default=3)
    parser.add_argument("--stability-cases", type=int, default=10)
    options = parser.parse_args()
    classifier = Classifier("covid-cxnet")
    phantom = make_phantom(2, 1024, "ground-glass")
    stack = classifier.prepare(phantom.pixels)
    lungs = LungSegmenter()(phantom.pixels).resized(320)
    if options.stability_data:
        lime_stability(classifier, options.stability_data, options.stability_seeds, options.stability_cases)
        return
    prediction_and_map(classifier, stack, options.repeats)
    lime_speed(classifier, stack, lungs, options.lime_samples)


if __name__ == "__main__":
    main()
