"""Train an architecture in patient-grouped folds and store every out-of-fold prediction with its map.

Keras 3 only: any of its backends will do (``KERAS_BACKEND=tensorflow|jax|torch``). A fold's test cases are used for
nothing but the curve of each epoch and the final prediction; no epoch or setting is chosen by them.

References
----------
.. [1] Smith LN. Cyclical learning rates for training neural networks. WACV 2017. doi:10.1109/WACV.2017.58
.. [2] Rahimzadeh M, Attar A. Inform Med Unlocked 2020. doi:10.1016/j.imu.2020.100360
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet import __version__, runs
from cxnet.architectures import ARCHITECTURES, SCALING
from cxnet.audit import localisation_scores, upsample
from cxnet.classifier import Head, Prediction, softmax
from cxnet.dataset import check_groups, dataset_checksum, grouped_folds, join_groups, near_duplicates, read_manifest
from cxnet.errors import DatasetError, SettingsError
from cxnet.explain.grad_cam import grad_cam
from cxnet.training.preparation import REGIONS, Prepared, Region, cache_folder, prepare
from cxnet.training.recipes import RECIPES, Augmentation, Recipe, phases_of
from cxnet.weights import assign, read_arrays, write_arrays

__all__ = [
    "RECIPES",
    "REGIONS",
    "Augmentation",
    "Prepared",
    "Recipe",
    "Region",
    "TrainingSettings",
    "fold_table",
    "learning_rate_range_test",
    "phases_of",
    "prepare",
    "start_as_linear",
    "train",
]

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingSettings:
    """What to train on what.

    Parameters
    ----------
    dataset : Path
        Manifest CSV, see :mod:`cxnet.dataset`.
    architecture, recipe : str
        Keys of :data:`cxnet.architectures.ARCHITECTURES` and :data:`RECIPES`.
    out : Path
        Folder of the run; ``<out>.partial`` holds checkpoints until it is done.
    classes : tuple of str
        Labels used, in the order of the outputs; all labels of the manifest when empty. Two classes give two softmax
        outputs, which is the same model as the papers' single sigmoid.
    region : str or None
        What of a radiograph the network sees; the architecture's own when None.
    folds, only : int, tuple of int
        Number of folds, and which of them to train (all when empty).
    epochs, batch_size : int or None
        Instead of the recipe's.
    initial : Path or None
        Weights to start from: a ``.npz`` of this package or a CheXNet checkpoint.
    mixed_precision : bool
        bfloat16 where it is safe; for GPUs.
    mask_column : str or None
        Column of the manifest with mask pictures, instead of segmenting.
    """

    dataset: Path
    architecture: str
    recipe: str
    out: Path
    classes: tuple[str, ...] = ()
    region: Region | None = None
    folds: int = 5
    only: tuple[int, ...] = ()
    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    initial: Path | None = None
    mixed_precision: bool = False
    cache: Path | None = None
    mask_column: str | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES or ARCHITECTURES[self.architecture].task != "classification":
            known = ", ".join(name for name, row in ARCHITECTURES.items() if row.task == "classification")
            raise SettingsError(f"Unknown architecture {self.architecture!r}; choose from {known}.")
        if self.recipe not in RECIPES:
            raise SettingsError(f"Unknown recipe {self.recipe!r}; choose from {', '.join(RECIPES)}.")
        if self.region is not None and self.region not in REGIONS:
            raise SettingsError(f"Unknown region {self.region!r}; choose from {', '.join(REGIONS)}.")
        if self.folds < 2 or not set(self.only) <= set(range(self.folds)):
            raise SettingsError(f"Folds must be at least 2 and those chosen from 0 to {self.folds - 1}.")
        if RECIPES[self.recipe].frozen_backbone and self.initial is None:
            raise SettingsError(
                f"The recipe {self.recipe!r} freezes the backbone, which without pretrained weights would leave it "
                "random; give weights to start from, or another recipe."
            )


def train(settings: TrainingSettings, say: Say = print) -> runs.Run:
    """Train all folds and write the run. A stopped call goes on from its last epoch when it is made again.

    Ctrl-C writes a run of what there is, marked as stopped, and keeps the checkpoints.

    Raises
    ------
    DatasetError
        If the run exists, a class is missing from a fold, or no case can be read.
    SettingsError, WeightsError
        If the weights to start from do not fit.
    """
    import keras

    architecture = ARCHITECTURES[settings.architecture]
    recipe = _recipe(settings)
    region: Region = settings.region or architecture.region
    partial = settings.out.with_name(f"{settings.out.name}.partial")
    if settings.out.exists() and not (partial.exists() and runs.open_run(settings.out).info.get("stopped")):
        raise DatasetError(
            f"There is a run at {settings.out} already, and runs are never changed; choose another name."
        )
    table = read_manifest(settings.dataset, settings.classes or None)
    classes = settings.classes or tuple(sorted(set(table["label"])))
    if len(classes) < 2:
        raise DatasetError(f"The data set has only the class {classes[0]!r}; training needs two.")
    folder = Path(settings.dataset).parent
    cache = settings.cache or cache_folder()
    checksum = dataset_checksum(table, folder)
    table, copies = _join_copies(table, folder, cache / f"copies-{checksum[:24]}.json", say)
    fold = grouped_folds(list(table["label"]), list(table["group"]), settings.folds, settings.seed)
    check_groups(table, fold)
    enhancement = architecture.enhancement
    if recipe.histogram_matching:
        enhancement = replace(enhancement, histogram_matching=True)
    prepared = prepare(table, folder, architecture, region, enhancement, cache, say, settings.mask_column)
    for sentence in prepared.problems.values():
        say(f"left out: {sentence}")
    usable = np.array([number not in prepared.problems for number in range(len(table))])
    true = np.array([classes.index(label) for label in table["label"]])
    partial.mkdir(parents=True, exist_ok=True)
    _same_settings(partial, settings, recipe, region)
    if settings.mixed_precision:
        keras.config.set_dtype_policy("mixed_bfloat16")
    tables: dict[int, pd.DataFrame] = {}
    told: dict[int, dict[str, Any]] = {}
    stopped = False
    for number in settings.only or range(settings.folds):
        place = partial / f"fold-{number}"
        job = _Fold(settings, recipe, prepared, true, classes, np.flatnonzero(usable & (fold != number)),
                    np.flatnonzero(usable & (fold == number)), table, number, place, say)  # fmt: skip
        try:
            job.fit()
        except KeyboardInterrupt:
            stopped = True
            if job.progress["epochs"] == 0:
                break
        if not (place / "table.parquet").exists() or stopped:
            job.evaluate(table)
        tables[number] = pd.read_parquet(place / "table.parquet")
        told[number] = {**job.progress, "weights_sha256": runs.sha256(place / "weights.npz"), "stopped": stopped}
        if stopped:
            break
    if not tables:
        raise KeyboardInterrupt
    info = {
        "title": f"{settings.architecture}, {settings.recipe}",
        "architecture": settings.architecture,
        "recipe": settings.recipe,
        "settings": asdict(recipe) | {"seed": settings.seed, "folds": settings.folds, "initial": str(settings.initial)},
        "region": region,
        "channels": list(architecture.channels),
        "input_size_px": architecture.input_size_px,
        "enhancement": asdict(enhancement),
        "classes": list(classes),
        "map": "Grad-CAM of the predicted class",
        "map_shape": list(job.map_shape),
        "dataset": {
            "sha256": checksum, "cases": int(usable.sum()), "groups": int(table["group"][usable].nunique()),
            "near_duplicate_pairs_joined": copies, "left_out": sorted(prepared.problems.values())},
        "versions": {
            "cxnet": __version__, "keras": keras.version(), "backend": keras.backend.backend(),
            "python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
        "stopped": stopped,
    }  # fmt: skip
    weights = {f"fold-{number}.npz": partial / f"fold-{number}" / "weights.npz" for number in tables}
    run = runs.write_run(settings.out, info, tables, told, files=weights, replace=settings.out.exists())
    if not stopped:
        shutil.rmtree(partial)
    say(f"wrote {settings.out}")
    return run


def _join_copies(table: pd.DataFrame, folder: Path, kept: Path, say: Say) -> tuple[pd.DataFrame, int]:
    """Near-duplicates share a group, also where the manifest does not know of them; found once a data set."""
    if kept.exists():
        pairs = [(int(a), int(b)) for a, b in json.loads(kept.read_text("utf-8"))]
    else:
        say("looking for near-duplicates")
        found = near_duplicates([folder / file for file in table["file"]], workers=os.cpu_count() or 1)
        pairs = [(pair.first, pair.second) for pair in found.pairs]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(pairs), "utf-8")
    joined = join_groups(table, pairs)
    groups = table["group"].astype(str).to_list()
    crossing = sum(groups[a] != groups[b] for a, b in pairs)
    if crossing:
        say(f"{crossing} pairs of near-duplicates stand in different groups of the manifest; their groups were joined")
    return joined, crossing


def _recipe(settings: TrainingSettings) -> Recipe:
    recipe = RECIPES[settings.recipe]
    return replace(
        recipe,
        epochs=settings.epochs or recipe.epochs,
        batch_size=settings.batch_size or recipe.batch_size,
    )


def _same_settings(partial: Path, settings: TrainingSettings, recipe: Recipe, region: str) -> None:
    """Checkpoints are only taken up by the training that wrote them."""
    text = json.dumps(
        {**asdict(settings), "only": None, "cache": None, "recipe_": asdict(recipe), "region_": region},
        default=str, sort_keys=True,
    )  # fmt: skip
    place = partial / "settings.json"
    if place.exists() and place.read_text("utf-8") != text:
        raise SettingsError(
            f"{partial} holds checkpoints of a training with other settings; remove it or choose another name."
        )
    place.write_text(text, "utf-8")


class _Fold:
    """One fold: its networks, its checkpoints, its test cases."""

    def __init__(
        self, settings: TrainingSettings, recipe: Recipe, prepared: Prepared, true: NDArray[np.int64],
        classes: tuple[str, ...], training: NDArray[np.int64], test: NDArray[np.int64], table: pd.DataFrame,
        number: int, place: Path, say: Say,
    ) -> None:  # fmt: skip
        import keras

        self.settings, self.recipe, self.prepared, self.true, self.classes = settings, recipe, prepared, true, classes
        self.training, self.test, self.number, self.place, self.say = training, test, number, place, say
        self.architecture = ARCHITECTURES[settings.architecture]
        self.sources = np.array(table["source"] if "source" in table.columns else [""] * len(table))
        keras.utils.set_random_seed(settings.seed * 1000 + number)
        self.network = self.architecture.build(
            input_size_px=self.architecture.input_size_px, outputs=len(classes), activation=None
        )
        features = self.network.get_layer(self.architecture.feature_layer).output
        self.map_shape = tuple(int(n) for n in features.shape[1:3])
        if settings.initial is not None:
            _start_from(self.network, settings.initial)
        if recipe.frozen_backbone:
            self._freeze()
        narrow = recipe.linear_share > 0 and len(self.architecture.dense) == 2 and self.architecture.pooling == "mean"
        self.linear: Any = None
        if narrow:
            pooled = self.network.get_layer(self.architecture.dense[0]).input
            output = keras.layers.Dense(len(classes), name="linear")(pooled)
            self.linear = keras.Model(self.network.input, output)
        self.progress: dict[str, Any] = {"epochs": 0, "seconds": 0.0, "images": 0, "curve": []}

    def _freeze(self) -> None:
        layers = self.network.layers
        last = [layer.name for layer in layers].index(self.architecture.feature_layer)
        for layer in layers[: last + 1]:
            layer.trainable = False

    # ------------------------------------------------------------------------------------------------------ fitting

    def _stages(self) -> list[tuple[str, NDArray[np.int64], int]]:
        """(which network, its cases, epochs), one after another."""
        rng = np.random.default_rng([self.settings.seed, self.number, 1])
        labels, sources = self.true[self.training], self.sources[self.training]
        phases = [self.training[part] for part in phases_of(labels, sources, self.recipe, rng)]
        stages = [("own", cases, self.recipe.epochs) for cases in phases]
        if self.linear is not None:
            first = round(self.recipe.linear_share * self.recipe.epochs)
            stages = [("linear", phases[0], first), ("own", phases[0], self.recipe.epochs - first)]
        return [stage for stage in stages if stage[2] > 0]

    def fit(self) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        import keras

        self.place.mkdir(exist_ok=True)
        state = self.place / "progress.json"
        if state.exists():
            self.progress = json.loads(state.read_text("utf-8"))
            self.say(f"fold {self.number}: going on after epoch {self.progress['epochs']}")
        stages = self._stages()
        total, before = sum(epochs for _, _, epochs in stages), 0
        model: Any = None
        kind_now = ""
        for kind, cases, epochs in stages:
            if self.progress["epochs"] < before + epochs and kind != kind_now:
                if kind == "own" and self.linear is not None and self.progress["epochs"] == before:
                    start_as_linear(self.network, self.linear.get_layer("linear"), self.architecture.dense)
                model, kind_now = self._trainer(kind, cases, epochs, stages), kind
                if (self.place / "state.keras").exists() and self.progress["epochs"] > before:
                    saved = keras.models.load_model(self.place / "state.keras")
                    model.set_weights(saved.get_weights())
                    model.optimizer.build(model.trainable_variables)
                    for ours, theirs in zip(model.optimizer.variables, saved.optimizer.variables, strict=True):
                        ours.assign(theirs)
            for epoch in range(max(before, self.progress["epochs"]), before + epochs):
                self._epoch(model, cases, epoch, total)
            before += epochs
        if not (self.place / "weights.npz").exists():
            write_arrays(self.place / "weights.npz", {v.path: np.asarray(v) for v in self._variables()})

    def _variables(self) -> list[Any]:
        return [v for v in self.network.weights if "seed_generator" not in v.path]

    def _trainer(self, kind: str, cases: NDArray[np.int64], epochs: int, stages: list[Any]) -> Any:
        """The network behind its scaling, compiled. Pictures come as uint8: scaling runs where the network does."""
        import keras

        recipe = self.recipe
        inner = self.linear if kind == "linear" else self.network
        mean, deviation = (np.array(values, np.float32) for values in SCALING[self.architecture.scaling])
        raw = keras.Input(self.prepared.stacks.shape[1:], dtype="uint8", name="raw")
        scaled = keras.layers.Rescaling((1 / deviation).tolist(), (-mean / deviation).tolist(), name="scaled")(raw)
        model = keras.Model(raw, keras.layers.Activation("linear", dtype="float32", name="logits")(inner(scaled)))
        peak = recipe.learning_rate
        if peak is None:
            peak = self._range_test(model, cases)
        steps = -(-len(cases) // recipe.batch_size) * epochs
        if recipe.schedule == "cosine":
            first = kind == "linear" or self.linear is None
            # the second stage refines: it starts at a tenth of the peak
            rate: Any = keras.optimizers.schedules.CosineDecay(
                1e-6, int(steps * 0.95), alpha=0.01, warmup_target=peak if first else peak / 10,
                warmup_steps=max(1, int(steps * 0.05)),
            )  # fmt: skip
        else:
            rate = peak
        options = {"weight_decay": recipe.weight_decay} if recipe.optimizer == "adamw" else {}
        optimizer = {
            "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "nadam": keras.optimizers.Nadam,
        }[recipe.optimizer](rate, **options)  # fmt: skip
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
        # TensorFlow's XLA is slower than its own kernels on a CPU; JAX always compiles
        compiled = False if keras.backend.backend() == "tensorflow" else "auto"
        model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=compiled)
        return model

    def _range_test(self, model: Any, cases: NDArray[np.int64]) -> float:
        if "range_test" not in self.progress:
            before = model.get_weights()
            batches = self._batches(cases, 0)
            found = learning_rate_range_test(model, lambda step: batches[step % len(batches)])
            model.set_weights(before)
            self.progress["range_test"] = found
            self.say(f"fold {self.number}: the range test gives a learning rate of {found['rate']:.2g}")
        return float(self.progress["range_test"]["rate"])

    def _batches(self, cases: NDArray[np.int64], epoch: int, augment: bool = True) -> Any:
        seeds = [self.settings.seed, self.number, 2, epoch]
        return _batches(
            self.prepared.stacks, self.true, len(self.classes), cases, self.recipe.batch_size,
            self.recipe.augmentation if augment else None, seeds,
        )  # fmt: skip

    def _epoch(self, model: Any, cases: NDArray[np.int64], epoch: int, total: int) -> None:
        import keras

        batches = self._batches(cases, epoch)
        if "pipeline_images_per_second" not in self.progress:
            start, some = time.perf_counter(), min(4, len(batches))
            for number in range(some):
                batches[number]
            self.progress["pipeline_images_per_second"] = round(
                some * self.recipe.batch_size / (time.perf_counter() - start), 1
            )
        weights = None
        if self.recipe.class_weights:
            counts = np.bincount(self.true[cases], minlength=len(self.classes))
            weights = dict(enumerate(np.sqrt(counts.sum() / len(counts) / counts)))
        start, say, number = time.perf_counter(), self.say, self.number
        done_before, seconds_before = self.progress["images"], self.progress["seconds"]

        class Report(keras.callbacks.Callback):  # type: ignore[misc]
            last = start

            def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
                now = time.perf_counter()
                if now - self.last > 20:
                    self.last = now
                    say(f"fold {number}, epoch {epoch + 1} of {total}, batch {batch + 1} of {len(batches)}, "
                        f"loss {(logs or {}).get('loss', float('nan')):.3f}")  # fmt: skip

        test = self._batches(self.test, 0, augment=False)
        found = model.fit(
            batches, validation_data=test, epochs=1, verbose=0, shuffle=False, class_weight=weights,
            callbacks=[Report()],
        ).history  # fmt: skip
        seconds = time.perf_counter() - start
        self.progress |= {
            "epochs": epoch + 1,
            "images": done_before + len(cases),
            "seconds": round(seconds_before + seconds, 1),
        }
        names = {"loss": "loss", "accuracy": "accuracy", "val_loss": "test_loss", "val_accuracy": "test_accuracy"}
        curve = {names[name]: round(float(values[-1]), 5) for name, values in found.items() if name in names}
        self.progress["curve"].append({"epoch": epoch + 1, **curve})
        model.save(self.place / "state.new.keras")
        os.replace(self.place / "state.new.keras", self.place / "state.keras")
        written = self.place / "progress.new.json"
        written.write_text(json.dumps(self.progress), "utf-8")
        os.replace(written, self.place / "progress.json")
        rate = self.progress["images"] / self.progress["seconds"]
        left = (total - epoch - 1) * seconds / 60
        say(
            f"fold {number}, epoch {epoch + 1} of {total}: "
            + ", ".join(f"{name} {value:.3f}" for name, value in curve.items())
            + f", {rate:.0f} images/s (pipeline alone {self.progress['pipeline_images_per_second']:.0f}), "
            f"{left:.0f} min left in this fold"
        )

    # --------------------------------------------------------------------------------------------------- evaluation

    def evaluate(self, table: pd.DataFrame) -> None:
        """Predict the test cases with the half-precision weights that are kept, and write their table."""
        path = self.place / "weights.npz"
        if not path.exists():
            write_arrays(path, {v.path: np.asarray(v) for v in self._variables()})
        arrays = read_arrays(path)
        assign(self.network, arrays)
        found = fold_table(self.network, self.settings.architecture, arrays, self.prepared, table, self.classes,
                           self.test, self.settings.seed)  # fmt: skip
        found.to_parquet(self.place / "table.new.parquet", index=False)
        os.replace(self.place / "table.new.parquet", self.place / "table.parquet")
        accuracy = float((found["true"] == found["predicted"]).mean())
        self.say(f"fold {self.number}: accuracy {accuracy:.3f} on {len(found)} test cases")


def fold_table(
    network: Any, architecture: str, arrays: Mapping[str, NDArray[Any]], prepared: Prepared, table: pd.DataFrame,
    classes: tuple[str, ...], cases: NDArray[np.int64], seed: int = 0, batch_size: int = 32,
) -> pd.DataFrame:  # fmt: skip
    """Predictions, Grad-CAM of the predicted class and first audit figures, one row a case (see :mod:`cxnet.runs`)."""
    import keras

    row = ARCHITECTURES[architecture]
    outputs = [network.get_layer(row.feature_layer).output, network.output]
    if row.extra_layer:
        outputs.append(network.get_layer(row.extra_layer).output)
    both = keras.Model(network.input, outputs)
    head = Head.of(row, arrays)
    mean, deviation = (np.array(values, np.float32) for values in SCALING[row.scaling])
    size = prepared.stacks.shape[1]
    records = []
    for first in range(0, len(cases), batch_size):
        part = cases[first : first + batch_size]
        results = both.predict_on_batch((prepared.stacks[part].astype(np.float32) - mean) / deviation)
        features, logits, *extra = (np.asarray(result, np.float32) for result in results)
        for at, case in enumerate(part):
            prediction = Prediction(classes, logits[at], features[at], extra[0][at] if extra else None)
            heatmap = grad_cam(prediction, head)[int(np.argmax(logits[at]))]
            lungs = prepared.lungs[case]
            scores = {
                score.name: score.value
                for score in localisation_scores(
                    upsample(heatmap, (size, size)), lungs, cell_px=size / heatmap.shape[0], seed=seed
                )
            }
            source = table.iloc[case]
            record = {"case": prepared.sha256[case]}
            record |= {name: source[name] for name in ("file", "group", "source", "view") if name in table.columns}
            record |= {"true": source["label"], "predicted": prediction.predicted}
            record |= {f"probability {c}": p for c, p in zip(classes, softmax(logits[at]), strict=True)}
            record |= {f"logit {c}": float(v) for c, v in zip(classes, logits[at], strict=True)}
            record |= {
                "map": runs.pack_map(heatmap),
                "lungs": runs.pack_lungs(prepared.outlines[case]),
                "region": prepared.boxes[case].tolist(),
                "in_lung": scores["in-lung energy"],
                "lift": scores["lift"],
                "z": scores["z against shifted copies"],
            }
            records.append(record)
    return pd.DataFrame(records)


def _batches(
    stacks: NDArray[np.uint8], true: NDArray[np.int64], outputs: int, cases: NDArray[np.int64], size: int,
    augmentation: Augmentation | None, seeds: list[int],
) -> Any:  # fmt: skip
    """Batches of (uint8 pictures, one-hot labels); each picture's changes depend on the seeds and its place only."""
    import keras

    order = np.random.default_rng(seeds).permutation(cases) if augmentation is not None else cases
    identity = np.eye(outputs, dtype=np.float32)

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return -(-len(order) // size)

        def __getitem__(self, number: int) -> tuple[Any, Any]:
            part = order[number * size : (number + 1) * size]
            pictures = stacks[part]
            if augmentation is not None:
                rng = np.random.default_rng([*seeds, number])
                pictures = np.stack([augmentation(np.ascontiguousarray(picture), rng) for picture in pictures])
            return pictures, identity[true[part]]

    workers = min(8, max(1, (os.cpu_count() or 2) - 1))
    return Batches(workers=workers, use_multiprocessing=False, max_queue_size=2 * workers)


def start_as_linear(network: Any, linear: Any, dense: tuple[str, ...]) -> None:
    """Set a narrow ReLU layer and the output behind it so that together they equal a trained linear output.

    With ``z = x W + b``: the first units are ``relu(z)``, the next ``relu(-z)``, and ``relu(z) - relu(-z) = z``.
    Units that are left keep their random start and an output weight of 0.

    Parameters
    ----------
    network : keras.Model
        Has the layers `dense`: the narrow one and the output.
    linear : keras.layers.Dense
        Trained; as many units as there are outputs.

    Raises
    ------
    SettingsError
        If the layer has fewer than two units an output.
    """
    narrow, output = (network.get_layer(name) for name in dense)
    kernel, bias = (np.asarray(w) for w in linear.get_weights())
    count, units = kernel.shape[1], narrow.kernel.shape[1]
    if units < 2 * count:
        raise SettingsError(f"A layer of {units} units cannot start as {count} linear outputs; it needs {2 * count}.")
    first, offset = (np.asarray(w).copy() for w in narrow.get_weights())
    second, last = (np.zeros_like(np.asarray(w)) for w in output.get_weights())
    first[:, : 2 * count] = np.concatenate([kernel, -kernel], axis=1)
    offset[: 2 * count] = np.concatenate([bias, -bias])
    second[: 2 * count] = np.concatenate([np.eye(count), -np.eye(count)])
    narrow.set_weights([first, offset])
    output.set_weights([second, last])


def learning_rate_range_test(
    model: Any, batch: Callable[[int], tuple[Any, Any]], low: float = 1e-6, high: float = 1e-1, steps: int = 60
) -> dict[str, Any]:
    """Learning-rate range test (Smith 2017 [1]_ §3.3): raise the rate exponentially, see where the loss falls fastest.

    Parameters
    ----------
    model : keras.Model
        Logits; its weights are changed, so keep a copy.
    batch : callable
        Step → (pictures, one-hot labels).

    Returns
    -------
    dict
        "rates" and "losses" (smoothed) of the steps until the loss passed four times its minimum, and "rate": where
        the smoothed loss has its steepest descent, as Haghanifar et al. §5.1 read it off their Fig. 10.
    """
    import keras

    model.compile(keras.optimizers.Adam(low), keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[])
    rates, losses, smoothed = [], [], 0.0
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        model.optimizer.learning_rate = rate
        loss = float(np.asarray(model.train_on_batch(*batch(step))).ravel()[0])
        smoothed = 0.9 * smoothed + 0.1 * loss
        losses.append(smoothed / (1 - 0.9 ** (step + 1)))
        rates.append(rate)
        if not np.isfinite(loss) or losses[-1] > 4 * min(losses):
            break
    finite = [value for value in losses if np.isfinite(value)]
    fall = np.gradient(finite, np.log(rates[: len(finite)]))
    rate = rates[int(np.argmin(fall))] if len(finite) > 2 else low
    return {
        "rate": float(rate),
        "rates": [float(f"{r:.4g}") for r in rates[: len(finite)]],
        "losses": [round(value, 5) for value in finite],
    }


def _start_from(network: Any, path: Path) -> None:
    """Weights to start from: ours, or a CheXNet checkpoint for DenseNet-121."""
    from cxnet.chexnet import load_checkpoint

    if path.suffix == ".npz":
        arrays = read_arrays(path)
        head = {v.path: np.asarray(v) for v in network.weights if v.path not in arrays}
        assign(network, {**head, **arrays})
    else:
        load_checkpoint(path, network)
