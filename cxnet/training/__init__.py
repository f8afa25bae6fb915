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
from cxnet.architectures import ARCHITECTURES, REGIONS, SCALING, Region
from cxnet.dataset import check_groups, dataset_checksum, grouped_folds, read_manifest
from cxnet.engine import export, outputs_of
from cxnet.errors import DatasetError, SettingsError
from cxnet.training.evaluation import evaluate, fold_table
from cxnet.training.folds import check_groups_of_classes, join_copies, split_checksum
from cxnet.training.preparation import Prepared, cache_folder, prepare
from cxnet.training.rates import learning_rate_range_test, start_as_linear, start_from
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
    "evaluate",
    "fold_table",
    "join_copies",
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
        if self.folds < 2:
            raise SettingsError(f"At least 2 folds are needed, one to train on and one to test; received {self.folds}.")
        if not set(self.only) <= set(range(self.folds)) or len(set(self.only)) < len(self.only):
            raise SettingsError(f"Choose each fold once, from 0 to {self.folds - 1}; received {list(self.only)}.")
        for name, value in (("epoch", self.epochs), ("picture in a batch", self.batch_size)):
            if value is not None and value < 1:
                raise SettingsError(f"At least one {name} is needed; received {value}.")
        if not 0 <= self.seed < 4_000_000:
            raise SettingsError(f"A seed lies between 0 and 3,999,999; received {self.seed}.")
        if len(set(self.classes)) < len(self.classes):
            raise SettingsError(f"A class was given twice ({', '.join(self.classes)}); give each once.")
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
    runs.check_name(settings.out.name)  # before the hours, not after
    table = read_manifest(settings.dataset, settings.classes or None)
    classes = settings.classes or tuple(sorted(set(table["label"])))
    _check_classes(table, classes)
    folder = settings.dataset if settings.dataset.is_dir() else settings.dataset.parent
    cache = settings.cache or cache_folder()
    checksum = dataset_checksum(table, folder)
    partial.mkdir(parents=True, exist_ok=True)
    table, copies = join_copies(table, folder, cache, say)
    check_groups_of_classes(table, settings.folds)
    fold = grouped_folds(list(table["label"]), list(table["group"]), settings.folds, settings.seed)
    check_groups(table, fold)
    _same_settings(partial, settings, recipe, region, [checksum, split_checksum(table, fold), _initial(settings)])
    enhancement = architecture.enhancement
    if recipe.histogram_matching:
        enhancement = replace(enhancement, histogram_matching=True)
    prepared = prepare(table, folder, architecture, region, enhancement, cache, say, settings.mask_column)
    for sentence in prepared.problems.values():
        say(f"left out: {sentence}")
    usable = np.array([number not in prepared.problems for number in range(len(table))])
    true = np.array([classes.index(label) for label in table["label"]])
    for number in range(settings.folds):
        lacking = set(classes) - set(table["label"][usable & (fold == number)])
        if lacking:
            raise DatasetError(
                f"Fold {number} has no readable case of {', '.join(sorted(lacking))}; mend the files that were left out "
                "or use fewer folds."
            )
    tables: dict[int, pd.DataFrame] = {}
    told: dict[int, dict[str, Any]] = {}
    weights: dict[str, Path] = {}
    stopped = False
    for number in settings.only or range(settings.folds):
        place = partial / f"fold-{number}"
        job = _Fold(settings, recipe, prepared, true, classes, np.flatnonzero(usable & (fold != number)),
                    np.flatnonzero(usable & (fold == number)), table, number, place, say)  # fmt: skip
        try:
            job.fit()
        except KeyboardInterrupt:
            stopped = True
            if not (place / "state.npz").exists():
                break
            job.keep()
        if not (place / "table.parquet").exists():
            job.evaluate(table)
        tables[number] = pd.read_parquet(place / "table.parquet")
        files = {f"fold-{number}{path.suffix}": path for path in sorted(place.glob("weights.*"))}
        weights |= files
        checksums = {name: runs.sha256(path) for name, path in files.items()}
        told[number] = {**job.progress, "files": checksums, "stopped": stopped}
        if stopped:
            break
    if not tables:
        raise KeyboardInterrupt
    info = {
        "title": f"{settings.architecture}, {settings.recipe}",
        "architecture": settings.architecture,
        "recipe": settings.recipe,
        "settings": asdict(recipe) | {"seed": settings.seed, "folds": settings.folds,
                                     "initial": settings.initial.name if settings.initial else None,
                                     "initial_sha256": _initial(settings)},
        "note": "" if settings.initial is None else
            f"Started from {settings.initial.name}: these figures are out of fold only if those weights never saw the "
            "cases that were tested.",
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
    run = runs.write_run(settings.out, info, tables, told, files=weights, replace=settings.out.exists())
    if not stopped:
        shutil.rmtree(partial)
    say(f"wrote {settings.out}")
    return run


def _check_classes(table: pd.DataFrame, classes: tuple[str, ...]) -> None:
    lacking = [name for name in classes if name not in set(table["label"])]
    if lacking:
        raise DatasetError(f"The data set has no case of {', '.join(lacking)}; leave that class out or add cases.")
    if len(classes) < 2:
        raise DatasetError(f"Only the class {classes[0]!r} is left to train on; training needs two.")


def _recipe(settings: TrainingSettings) -> Recipe:
    recipe = RECIPES[settings.recipe]
    return replace(
        recipe,
        epochs=settings.epochs or recipe.epochs,
        batch_size=settings.batch_size or recipe.batch_size,
    )


def _initial(settings: TrainingSettings) -> str | None:
    """sha256 of the weights to start from; None without such a file (which is refused when it is read)."""
    path = settings.initial
    return runs.sha256(path) if path is not None and path.is_file() else None


def _same_settings(
    partial: Path, settings: TrainingSettings, recipe: Recipe, region: str, data: list[str | None]
) -> None:
    """Checkpoints are only taken up by the training that wrote them, from the same pictures in the same folds."""
    ignored = dict.fromkeys(("dataset", "out", "only", "cache"))
    text = json.dumps(
        {**asdict(settings), **ignored, "recipe_": asdict(recipe), "region_": region, "dataset_": data},
        default=str, sort_keys=True,
    )  # fmt: skip
    place = partial / "settings.json"
    begun = place.exists() and any(partial.glob("fold-*/state.npz"))
    if begun and place.read_text("utf-8") != text:
        raise SettingsError(
            f"{partial} holds checkpoints of a training with other settings, or of a manifest with other folds or another "
            "order of cases; remove it or choose another name."
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
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16" if settings.mixed_precision else "float32")
        try:
            self._build(recipe, settings)
        finally:
            keras.config.set_dtype_policy(policy)
        self.model: Any = None  # the network that is trained now, behind its scaling
        self.kind = ""
        self.progress: dict[str, Any] = {"epochs": 0, "seconds": 0.0, "images": 0, "curve": []}

    def _own(self) -> Any:
        size = self.architecture.input_size_px
        return self.architecture.build(input_size_px=size, outputs=len(self.classes), activation=None)

    def _build(self, recipe: Recipe, settings: TrainingSettings) -> None:
        import keras

        self.network = self._own()
        features = self.network.get_layer(self.architecture.feature_layer).output
        self.map_shape = tuple(int(n) for n in features.shape[1:3])
        supplied = set() if settings.initial is None else start_from(self.network, settings.initial)
        fixed = [v.path for layer in self.network.layers if not layer.trainable for v in layer.weights]
        if set(fixed) - supplied:
            raise SettingsError(
                f"Parts of {settings.architecture} are frozen ({fixed[0].partition('/')[0]} and others) and would stay "
                "random; give weights to start from that hold them."
            )
        if recipe.frozen_backbone:
            self._freeze()
        narrow = recipe.linear_share > 0 and len(self.architecture.dense) == 2 and self.architecture.pooling == "mean"
        self.linear: Any = None
        if narrow:
            pooled = self.network.get_layer(self.architecture.dense[0]).input
            output = keras.layers.Dense(len(self.classes), name="linear")(pooled)
            self.linear = keras.Model(self.network.input, output)
            self._end_linear()  # refuses a layer that is too narrow now, not after most epochs

    def _end_linear(self) -> None:
        start_as_linear(self.network, self.linear.get_layer("linear"), self.architecture.dense)

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
        self.place.mkdir(exist_ok=True)
        stages = self._stages()
        total = sum(epochs for _, _, epochs in stages)
        done = self._checkpoint()
        if done == total and (self.place / "table.parquet").exists():
            self.say(f"fold {self.number}: done already")
            return
        if done:
            self.say(f"fold {self.number}: going on after epoch {done}")
            self._load(stages)
        for path in (self.place / "table.parquet", *self.place.glob("weights.*")):  # of a call that was stopped
            path.unlink(missing_ok=True)
        before = 0
        for stage in stages:
            kind, cases, epochs = stage
            for epoch in range(max(before, self.progress["epochs"]), before + epochs):
                if kind != self.kind:
                    if self.kind == "linear":
                        self._end_linear()
                    self._trainer(stage, stages)
                self._epoch(self.model, cases, epoch, total)
            before += epochs
        self._write_weights()

    def keep(self) -> None:
        """Write the weights of the last whole epoch of a training that was stopped."""
        self._checkpoint()
        self._load(self._stages())
        (self.place / "table.parquet").unlink(missing_ok=True)
        self._write_weights()

    def _write_weights(self) -> None:
        if self.kind == "linear":
            self._end_linear()
        write_arrays(self.place / "weights.npz", {v.path: np.asarray(v) for v in self._variables()})

    def _state(self) -> list[Any]:
        """Everything that the next epoch depends on: weights, dropout's random states, the optimizer's moments."""
        model = self.model
        model.optimizer.build(model.trainable_variables)
        seeds = [v for v in model.variables if "seed_generator" in v.path]
        return [*model.weights, *seeds, *model.optimizer.variables]

    def _save(self) -> None:
        arrays = {f"v{number}": np.asarray(variable) for number, variable in enumerate(self._state())}
        written = self.place / "state.new.npz"
        np.savez(written, progress=np.array(json.dumps(self.progress)), **arrays)  # type: ignore[arg-type]
        os.replace(written, self.place / "state.npz")  # one file, so that state and progress never disagree

    def _checkpoint(self) -> int:
        """Read how far the last checkpoint came, in epochs."""
        if (self.place / "state.npz").exists():
            with np.load(self.place / "state.npz", allow_pickle=False) as stored:
                self.progress = json.loads(str(stored["progress"]))
        return int(self.progress["epochs"])

    def _load(self, stages: list[tuple[str, NDArray[np.int64], int]]) -> None:
        """Take up the network that the last checkpoint is of."""
        ends = np.cumsum([epochs for _, _, epochs in stages])
        stage = stages[int(np.searchsorted(ends, self.progress["epochs"]))]
        if stage[0] != self.kind:
            self._trainer(stage, stages)
        with np.load(self.place / "state.npz", allow_pickle=False) as stored:
            for number, variable in enumerate(self._state()):
                variable.assign(stored[f"v{number}"])

    def _variables(self) -> list[Any]:
        return [v for v in self.network.weights if "seed_generator" not in v.path]

    def _trainer(self, stage: tuple[str, NDArray[np.int64], int], stages: list[Any]) -> None:
        """The network behind its scaling, compiled. Pictures come as uint8: scaling runs where the network does."""
        import keras

        recipe, (kind, cases, _) = self.recipe, stage
        inner = self.linear if kind == "linear" else self.network
        mean, deviation = (np.array(values, np.float32) for values in SCALING[self.architecture.scaling])
        raw = keras.Input(self.prepared.stacks.shape[1:], dtype="uint8", name="raw")
        scaled = keras.layers.Rescaling((1 / deviation).tolist(), (-mean / deviation).tolist(), name="scaled")(raw)
        model = keras.Model(raw, keras.layers.Activation("linear", dtype="float32", name="logits")(inner(scaled)))
        peak = recipe.learning_rate
        if peak is None:
            peak = self._range_test(model, cases)
        steps = sum(-(-len(part) // recipe.batch_size) * epochs for name, part, epochs in stages if name == kind)
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
        self.model, self.kind = model, kind

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
            "seconds": round(seconds_before + seconds, 3),
        }
        names = {"loss": "loss", "accuracy": "accuracy", "val_loss": "test_loss", "val_accuracy": "test_accuracy"}
        curve = {names[name]: round(float(values[-1]), 5) for name, values in found.items() if name in names}
        if not np.isfinite(list(curve.values())).all():
            raise SettingsError(
                f"The loss of fold {self.number} is no number after epoch {epoch + 1}, so the training has diverged; "
                "choose another recipe or look for broken pictures."
            )
        self.progress["curve"].append({"epoch": epoch + 1, **curve})
        self._save()
        rate = self.progress["images"] / max(self.progress["seconds"], 1e-3)
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
        import keras

        arrays = read_arrays(self.place / "weights.npz")
        if self.settings.mixed_precision:
            self.network = self._own()
        assign(self.network, arrays)
        if keras.backend.backend() == "tensorflow":  # the form that starts fast
            export(self.network, outputs_of(self.architecture), self.place / "weights.xml")
        found = fold_table(self.network, self.settings.architecture, arrays, self.prepared, table, self.classes,
                           self.test, self.settings.seed)  # fmt: skip
        found.to_parquet(self.place / "table.new.parquet", index=False)
        os.replace(self.place / "table.new.parquet", self.place / "table.parquet")
        accuracy = float((found["true"] == found["predicted"]).mean())
        self.say(f"fold {self.number}: accuracy {accuracy:.3f} on {len(found)} test cases")


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
