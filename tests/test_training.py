"""Training: what a run holds, that it goes on where it was stopped, and the parts it is made of."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxnet import runs
from cxnet.__main__ import main
from cxnet.architectures import ARCHITECTURES, REGIONS, Architecture
from cxnet.enhance import CHANNELS, Enhancement
from cxnet.errors import CxnetError, DatasetError, SettingsError, WeightsError
from cxnet.lungs import LungMask, crop_to_lungs, look_at
from cxnet.phantom import make_phantom
from cxnet.training import (
    RECIPES,
    Augmentation,
    TrainingSettings,
    learning_rate_range_test,
    phases_of,
    prepare,
    start_as_linear,
    train,
)
from cxnet.weights import read_arrays

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ("COVID-19", "Normal", "Pneumonia")
EPOCHS = 4  # of which "strong" gives three to a linear head
NOISE = np.random.default_rng(5)


def build_tiny(input_size_px: int = 64, outputs: int = 3, activation: str | None = None) -> Any:
    """Everything that a resumed training could lose: batch normalisation, dropout, a narrow layer."""
    import keras

    layers = keras.layers
    image = keras.Input((input_size_px, input_size_px, 3), name="image")
    x = layers.Conv2D(8, 5, strides=4, padding="same", name="conv1")(image)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="conv2")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dropout(0.2, name="dropout1")(x)
    x = layers.Dense(10, activation="relu", name="fc")(x)
    x = layers.Dropout(0.2, name="dropout2")(x)
    return keras.Model(image, layers.Dense(outputs, activation=activation, name="output")(x), name="tiny")


TINY = Architecture(
    build=build_tiny, input_size_px=64, channels=CHANNELS, scaling="unit", feature_layer="conv2", pooling="mean",
    dense=("fc", "output"), paper="none",
)  # fmt: skip


def radiograph(seed: int, label: str) -> Any:
    """A phantom that is no copy of another: its own tilt, its own shading. The class shows in the finding."""
    finding: Any = {"COVID-19": "ground-glass", "Normal": "none", "Pneumonia": "consolidation"}[label]
    rng = np.random.default_rng(seed)
    pixels = make_phantom(seed, 128, finding).pixels
    shading = cv2.resize(rng.uniform(0, 255, (7, 7)).astype(np.float32), (128, 128), interpolation=cv2.INTER_CUBIC)
    return np.clip(0.65 * pixels + 0.35 * shading, 0, 255).astype(np.uint8)


def make_dataset(folder: Path, cases: int = 6, classes: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    """Cases of each class, two a group."""
    rows = []
    for number, label in enumerate(classes):
        for case in range(cases):
            name = f"{label[:2].lower()}{case}.png"
            cv2.imwrite(str(folder / name), radiograph(20 * number + case, label))
            rows.append({"file": name, "label": label, "group": f"{label[:2]}{case // 2}", "source": f"s{case % 2}"})
    table = pd.DataFrame(rows)
    table.to_csv(folder / "manifest.csv", index=False)
    return table


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Any:
    """The tiny network in the table, trained without tracing, which takes longer than its few steps."""
    import keras

    compile_ = keras.Model.compile

    def eagerly(self: Any, *values: Any, **options: Any) -> None:
        compile_(self, *values, **{**options, "run_eagerly": self.count_params() < 5_000, "jit_compile": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", TINY)
        patch.setattr(keras.Model, "compile", eagerly)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 radiographs, a copy of one of them that the manifest takes for another patient, and a broken file."""
    folder = tmp_path_factory.mktemp("dataset")
    table = make_dataset(folder)
    picture = cv2.imread(str(folder / "no0.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(folder / "copy.png"), cv2.resize(picture, (150, 150)))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    more = [("copy.png", "Normal", "another"), ("broken.png", "Pneumonia", "broken")]
    table = pd.concat(
        [table, pd.DataFrame([dict(zip(("file", "label", "group"), r, strict=True), source="s0") for r in more])]
    )
    table.to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def settings(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    folder = tmp_path_factory.mktemp("runs")
    return TrainingSettings(
        dataset / "manifest.csv", "tiny", "strong", folder / "whole", folds=3, seed=7, epochs=EPOCHS, batch_size=8,
        cache=folder / "cache",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(settings: TrainingSettings) -> tuple[runs.Run, list[str]]:
    said: list[str] = []
    return train(settings, said.append), said


def silent(sentence: str) -> None:
    """Says nothing."""


def stopping(at: str, error: type[BaseException]) -> Callable[[str], None]:
    def say(sentence: str) -> None:
        if at in sentence:
            raise error

    return say


class Killed(BaseException):
    """Nothing may tidy up after it."""


def assert_same_fold(one: runs.Run, other: runs.Run, fold: int) -> None:
    first, second = one.results(fold), other.results(fold)
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    for (a, b), (c, d) in zip(one.pictures(first), other.pictures(second), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    arrays, others = (read_arrays(run.folder / f"fold-{fold}.npz") for run in (one, other))
    assert arrays.keys() == others.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)
    told, again = (next(f for f in run.info["folds"] if f["number"] == fold) for run in (one, other))
    assert told["curve"] == again["curve"] and told["images"] == again["images"]


# -------------------------------------------------------------------------------------------------- a finished run


def test_a_run_has_every_readable_case_once(whole: tuple[runs.Run, list[str]], dataset: Path) -> None:
    run, said = whole
    table = run.results()
    manifest = pd.read_csv(dataset / "manifest.csv")
    assert runs.check(run) == [] and not run.info["stopped"]
    assert sorted(table["file"]) == sorted(set(manifest["file"]) - {"broken.png"})
    assert (
        table.set_index("file")["true"] == manifest.set_index("file")["label"].drop("broken.png")[table["file"]]
    ).all()
    assert list(table["case"]) == [runs.sha256(dataset / file) for file in table["file"]]
    assert run.info["dataset"]["cases"] == 19 and "broken.png" in run.info["dataset"]["left_out"][0]
    assert [s for s in said if s.startswith("left out")] == [f"left out: {run.info['dataset']['left_out'][0]}"]
    for fold in run.folds:
        assert set(run.results(fold)["true"]) == set(CLASSES)


def test_probabilities_maps_and_masks_of_a_run(whole: tuple[runs.Run, list[str]]) -> None:
    run, _ = whole
    table = run.results()
    logits = table[[f"logit {name}" for name in CLASSES]].to_numpy()
    probabilities = run.probabilities(table)
    assert probabilities is not None and run.classes == CLASSES and run.map_shape == (8, 8)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, odds / odds.sum(axis=1, keepdims=True), atol=1e-12)
    assert list(table["predicted"]) == [CLASSES[i] for i in probabilities.argmax(axis=1)]
    pictures = run.pictures(table)
    for heatmap, lungs in pictures:
        assert heatmap is not None and heatmap.shape == (8, 8) and np.isfinite(heatmap).all() and heatmap.min() >= 0
        assert lungs is not None and lungs.shape == (64, 64)
    assert np.mean([lungs.mean() > 0.1 for _, lungs in pictures if lungs is not None]) > 0.5, "no lungs were found"
    known = table[table["in_lung"].notna()]
    assert len(known) and known["in_lung"].between(0, 1).all() and (known["lift"] >= 0).all()
    assert [list(box) for box in table["region"]] == [[0, 1, 0, 1]] * len(table)


def test_what_a_run_says_of_itself(whole: tuple[runs.Run, list[str]], settings: TrainingSettings) -> None:
    run, said = whole
    info = json.loads((run.folder / "run.json").read_text("utf-8"))
    assert (info["architecture"], info["recipe"], info["region"]) == ("tiny", "strong", "full")
    assert (
        info["settings"]["seed"] == 7 and info["settings"]["epochs"] == EPOCHS and info["settings"]["initial"] is None
    )
    assert info["versions"].keys() >= {"cxnet", "keras", "backend", "python"} and info["channels"] == list(CHANNELS)
    for fold in info["folds"]:
        assert fold["epochs"] == EPOCHS == len(fold["curve"]) and not fold["stopped"]
        assert fold["curve"][0].keys() == {"epoch", "loss", "accuracy", "test_loss", "test_accuracy"}
        assert fold["seconds"] > 0 and fold["pipeline_images_per_second"] > 0
        assert f"fold-{fold['number']}.npz" in fold["files"]
        for name, checksum in fold["files"].items():
            assert runs.sha256(run.folder / name) == checksum
    assert not settings.out.with_name("whole.partial").exists()
    assert any("epoch 2 of 4" in sentence and "min left" in sentence for sentence in said)


def test_copies_and_groups_stay_on_one_side(whole: tuple[runs.Run, list[str]]) -> None:
    run, said = whole
    table = run.results()
    assert run.info["dataset"]["near_duplicate_pairs_joined"] == 1 and any(
        "near-duplicates stand in" in s for s in said
    )
    groups = table.set_index("file")["group"]
    assert groups["copy.png"] == groups["no0.png"] == groups["no1.png"] and groups.nunique() == 9
    assert (table.groupby("group")["fold"].nunique() == 1).all()


# ------------------------------------------------------------------------------------------------ stopped and resumed


def test_a_killed_training_goes_on_to_the_same_run(
    whole: tuple[runs.Run, list[str]], settings: TrainingSettings, dataset: Path
) -> None:
    """Killed within the linear stage, between the stages, and after the last epoch before anything was written."""
    again = replace(settings, out=settings.out.with_name("killed"), only=(0,), dataset=dataset)
    for epoch in (1, 3, EPOCHS):
        with pytest.raises(Killed):
            train(again, stopping(f"epoch {epoch} of {EPOCHS}:", Killed))
        assert not again.out.exists()
    assert_same_fold(whole[0], train(again, silent), 0)


def test_ctrl_c_leaves_a_usable_run_that_can_be_finished(
    whole: tuple[runs.Run, list[str]], settings: TrainingSettings
) -> None:
    again = replace(settings, out=settings.out.with_name("stopped"), only=(1, 0))
    run = train(again, stopping(f"fold 1, epoch 2 of {EPOCHS}:", KeyboardInterrupt))
    assert run.info["stopped"] and runs.check(run) == [] and run.folds == (1,)
    assert run.info["folds"][0]["epochs"] == 2 and run.info["folds"][0]["stopped"]
    assert len(run.results(1)) == len(whole[0].results(1))
    kernel = read_arrays(run.folder / "fold-1.npz")["fc/kernel"]
    np.testing.assert_array_equal(kernel[:, :3], -kernel[:, 3:6])  # of the linear output that was trained so far
    # stopped again, before the first epoch of the next fold is through: the fold that is done is kept
    run = train(again, stopping("fold 0, epoch 1", KeyboardInterrupt))
    assert run.info["stopped"] and [fold["number"] for fold in run.info["folds"]] == [0, 1]
    assert [fold["stopped"] for fold in run.info["folds"]] == [True, False]
    finished = train(again, silent)
    assert not finished.info["stopped"] and not again.out.with_name("stopped.partial").exists()
    for fold in (0, 1):
        assert_same_fold(whole[0], finished, fold)


def test_ctrl_c_before_anything_is_learned(settings: TrainingSettings) -> None:
    early = replace(settings, out=settings.out.with_name("early"), only=(2,))
    with pytest.raises(KeyboardInterrupt):
        train(early, stopping("left out", KeyboardInterrupt))
    assert not early.out.exists()


def test_a_half_done_folder_takes_no_other_training(settings: TrainingSettings, tmp_path: Path) -> None:
    half = replace(settings, out=settings.out.with_name("half"), only=(2,))
    with pytest.raises(Killed):
        train(half, stopping("epoch 1 of", Killed))
    for other in (
        replace(half, seed=8),
        replace(half, recipe="dialameh"),
        replace(half, region="background"),
        replace(half, epochs=5),
        replace(half, folds=2, only=(0,)),
    ):
        with pytest.raises(SettingsError, match="other settings"):
            train(other, silent)
    make_dataset(tmp_path)  # other pictures
    with pytest.raises(SettingsError, match="other settings"):
        train(replace(half, dataset=tmp_path), silent)
    shutil.rmtree(half.out.with_name("half.partial"))


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "vgg"}, "Unknown architecture 'vgg'; choose from base-cnn-v1"),
        ({"architecture": "unet"}, "Unknown architecture 'unet'"),
        ({"recipe": "good"}, "Unknown recipe 'good'; choose from haghanifar-base"),
        ({"region": "heart"}, "Unknown region 'heart'; choose from full"),
        ({"folds": 1}, "At least 2 folds"),
        ({"only": (3,)}, "from 0 to 2"),
        ({"only": (1, 1)}, "each fold once"),
        ({"epochs": 0}, "At least one epoch"),
        ({"batch_size": -3}, "At least one picture"),
        ({"seed": -1}, "A seed lies between"),
        ({"classes": ("Normal", "Normal")}, "given twice"),
        ({"recipe": "kurz"}, "freezes the backbone"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings: TrainingSettings, change: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        replace(settings, **change)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": Path("nowhere.csv")}, "no manifest at nowhere.csv"),
        ({"out": Path("Run One")}, "cannot be called 'Run One'"),
        ({"classes": ("Normal",)}, "Only the class 'Normal'"),
        ({"classes": ("Normal", "Tuberculosis")}, "no case of Tuberculosis"),
        ({"folds": 4}, "'COVID-19' has 3 group.s. .* 4 folds"),
        ({"mask_column": "outline"}, "no column 'outline'"),
        ({"initial": Path("nowhere.npz")}, "nowhere.npz cannot be read"),
        ({"initial": Path("nowhere.h5")}, "no checkpoint at nowhere.h5"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_trained_on(
    settings: TrainingSettings, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    said: list[str] = []
    changed = {"out": tmp_path / change["out"]} if "out" in change else change
    with pytest.raises(CxnetError, match=says) as caught:
        train(replace(settings, **{"out": tmp_path / "refused", **changed}), said.append)
    assert "\n" not in str(caught.value) and not any("epoch" in sentence for sentence in said)
    assert not [entry for entry in tmp_path.iterdir() if not entry.name.endswith(".partial")]


def test_a_finished_run_is_never_written_over(whole: tuple[runs.Run, list[str]], settings: TrainingSettings) -> None:
    before = (whole[0].folder / "run.json").read_bytes()
    with pytest.raises(DatasetError, match="already"):
        train(settings, silent)
    assert (whole[0].folder / "run.json").read_bytes() == before


def test_a_class_of_one_group_cannot_be_split(settings: TrainingSettings, tmp_path: Path) -> None:
    table = make_dataset(tmp_path, 4, CLASSES[:2])
    table["group"] = ["a", "a", "a", "a", "b", "c", "d", "e"]
    table.to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(DatasetError, match=r"'COVID-19' has 1 group\(s\)"):
        train(replace(settings, dataset=tmp_path, out=tmp_path / "run", folds=2), silent)


def test_a_fold_that_loses_a_class_to_broken_files_is_refused(settings: TrainingSettings, tmp_path: Path) -> None:
    table = make_dataset(tmp_path, 4, CLASSES[:2])
    for file in table["file"][:2]:
        (tmp_path / file).write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"no readable case of COVID-19; mend"):
        train(replace(settings, dataset=tmp_path, out=tmp_path / "run", folds=2), silent)


def test_weights_of_another_network_are_refused(settings: TrainingSettings, tmp_path: Path) -> None:
    np.savez(tmp_path / "alien.npz", **{"conv7/kernel": np.zeros((3, 3))})
    for path, says in (
        (tmp_path / "alien.npz", "alien.npz has no variable of this network"),
        (ROOT / "weights" / "unet.npz", "do not fit the network: output/kernel"),
    ):
        with pytest.raises(WeightsError, match=says):
            train(replace(settings, out=tmp_path / "run", initial=path), silent)


def test_the_order_of_the_manifest_does_not_mix_up_copies(
    settings: TrainingSettings, dataset: Path, tmp_path: Path
) -> None:
    """The same pictures in another order have the same checksum; pairs found earlier count rows, so they differ."""
    table = pd.read_csv(dataset / "manifest.csv")[::-1]
    shutil.copytree(dataset, tmp_path / "turned")
    table.to_csv(tmp_path / "turned" / "manifest.csv", index=False)
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        stopping("prepared 20 of", Killed)(sentence)

    with pytest.raises(Killed):
        train(replace(settings, dataset=tmp_path / "turned", out=tmp_path / "run"), say)
    assert said[0] == "looking for near-duplicates" and said[1].startswith("1 pairs")


# ------------------------------------------------------------------------------------------------------- all recipes


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(
    name: str, whole: tuple[runs.Run, list[str]], settings: TrainingSettings, tmp_path: Path
) -> None:
    initial = whole[0].folder / "fold-0.npz"
    start = replace(settings, recipe=name, epochs=1, only=(0,), out=tmp_path / "run", initial=initial)
    run = train(start, silent)
    fold = run.info["folds"][0]
    assert runs.check(run) == [] and fold["epochs"] == RECIPES[name].phases
    assert run.info["settings"]["initial"] == "fold-0.npz"
    assert ("range_test" in fold) == (RECIPES[name].learning_rate is None)
    first, last = read_arrays(initial), read_arrays(run.folder / "fold-0.npz")
    changed = {key.split("/")[0] for key in first if not np.array_equal(first[key], last[key])}
    head = {"fc", "output"}
    assert changed & head
    if RECIPES[name].frozen_backbone:
        assert changed <= head
    else:
        assert "conv1" in changed or RECIPES[name].learning_rate == 1e-5  # below half precision after three steps


def test_mixed_precision_is_undone_before_the_figures(settings: TrainingSettings, tmp_path: Path) -> None:
    import keras

    run = train(replace(settings, epochs=1, only=(0,), out=tmp_path / "run", mixed_precision=True), silent)
    assert keras.config.dtype_policy().name == "float32" and runs.check(run) == []
    logits = run.results()[[f"logit {name}" for name in CLASSES]].to_numpy(np.float32)
    rounded = (logits.view(np.uint32) & 0xFFFF) == 0  # bfloat16 has no more bits
    assert not rounded.all()


def test_a_training_that_diverges_says_so(
    settings: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "wild", replace(RECIPES["dialameh"], learning_rate=1e30))
    with pytest.raises(SettingsError, match="diverged"):
        train(replace(settings, recipe="wild", epochs=3, only=(0,), out=tmp_path / "run"), silent)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_other_backends(backend: str, settings: TrainingSettings, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed (it is optional)")
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from tests.test_training import ARCHITECTURES, TINY, TrainingSettings, runs, stopping, train\n"
        "if __name__ == '__main__':\n"
        "    ARCHITECTURES['tiny'] = TINY\n"
        "    data, cache, out = map(Path, sys.argv[1:])\n"
        "    s = TrainingSettings(data, 'tiny', 'strong', out, folds=3, seed=7, epochs=2, batch_size=8, only=(0,), cache=cache)\n"
        "    assert train(s, stopping('epoch 1 of', KeyboardInterrupt)).info['stopped']\n"
        "    run = train(s)\n"
        "    assert runs.check(run) == [] and len(run.results()) > 3\n"
        "    print(run.info['versions']['backend'])\n"
    )
    (tmp_path / "job.py").write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "job.py", settings.dataset, str(settings.cache), tmp_path / "run"],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == backend


# --------------------------------------------------------------------------------------------------------- phases


def test_rahimzadeh_s_eight_phases() -> None:
    """Table 2 and flowchart 3: 149 + 34 common in all, 250 normal and 200 further pneumonia each, 633 a phase."""
    labels = np.array(["COVID-19"] * 149 + ["Normal"] * 2000 + ["Pneumonia"] * 1634)
    sources = np.array(["cohen"] * 149 + ["rsna"] * 2000 + ["cohen"] * 34 + ["rsna"] * 1600)
    order = np.random.default_rng(0).permutation(len(labels))
    labels, sources = labels[order], sources[order]
    phases = phases_of(labels, sources, RECIPES["rahimzadeh"], np.random.default_rng(1))
    assert [len(phase) for phase in phases] == [633] * 8
    counts = np.bincount(np.concatenate(phases), minlength=len(labels))
    common = (labels == "COVID-19") | ((labels == "Pneumonia") & (sources == "cohen"))
    assert (counts[common] == 8).all() and (counts[~common] == 1).all() and common.sum() == 183
    for phase in phases:
        names, found = np.unique(labels[phase], return_counts=True)
        assert dict(zip(names, found, strict=True)) == {"COVID-19": 149, "Normal": 250, "Pneumonia": 234}


@given(
    st.lists(st.sampled_from("abc"), min_size=3, max_size=60), st.integers(1, 9), st.integers(0, 40), st.integers(0, 99)
)
def test_phases_use_every_case(labels: list[str], phases: int, common: int, seed: int) -> None:
    recipe = replace(RECIPES["rahimzadeh"], phases=phases, common_other=common)
    sources = np.array(labels)[::-1]
    parts = phases_of(np.array(labels), sources, recipe, np.random.default_rng(seed))
    counts = np.bincount(np.concatenate(parts), minlength=len(labels))
    assert len(parts) == phases and set(counts) <= {1, phases}
    names, totals = np.unique(labels, return_counts=True)
    rare = np.array(labels) == names[totals.argmin()]
    assert (counts[rare] == phases).all()
    assert phases == 1 or (counts[~rare] == phases).sum() <= common


# ------------------------------------------------------------------------------------------------------ augmentation


def picture(size: int = 40) -> Any:
    return np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)


@given(st.integers(0, 10_000))
def test_no_augmentation_changes_nothing(seed: int) -> None:
    stack = picture()
    changed = Augmentation()(stack, np.random.default_rng(seed))
    np.testing.assert_array_equal(changed, stack)
    assert changed is not stack and changed.dtype == np.uint8


def test_flips_are_mirror_images_half_of_the_time() -> None:
    stack = picture()
    wanted = [stack, stack[:, ::-1], stack[::-1], stack[::-1, ::-1]]
    counts = [0] * 4
    for seed in range(200):
        changed = Augmentation(flip_horizontal=True, flip_vertical=True)(stack, np.random.default_rng(seed))
        fits = [np.array_equal(changed, other) for other in wanted]
        assert sum(fits) == 1
        counts[fits.index(True)] += 1
    assert min(counts) > 25


def test_gain_multiplies_and_gamma_bends_the_grey_levels() -> None:
    stack = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    for seed in range(20):
        bright = Augmentation(gain=0.2)(stack, np.random.default_rng(seed))[0, :, 0].astype(float)
        factor = bright[100] / 100
        assert 0.79 < factor < 1.21
        np.testing.assert_allclose(bright, np.minimum(np.arange(256) * factor, 255), atol=2)
        bent = Augmentation(gamma=0.3)(stack, np.random.default_rng(seed))[0, :, 0].astype(float)
        assert bent[0] == 0 and bent[255] == 255 and (np.diff(bent) >= 0).all()
        exponent = np.log(bent[128] / 255) / np.log(128 / 255)
        assert np.exp(-0.31) < exponent < np.exp(0.31)


def test_geometry_stays_in_its_range() -> None:
    """A dot's place tells the transform: a shift by at most its share, a turn about the centre by at most its angle."""
    stack = np.zeros((101, 101, 1), np.uint8)
    stack[48:53, 78:83] = 255  # 30 right of the centre
    x, y = np.meshgrid(np.arange(101), np.arange(101))

    def centre(changed: Any) -> Any:
        mass = changed[:, :, 0].astype(float)
        return np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum() - 50

    moves, angles, radii = [], [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        moves.append(centre(Augmentation(shift=0.1)(stack, rng)) - [30, 0])
        place = centre(Augmentation(rotation_deg=15)(stack, rng))
        angles.append(np.degrees(np.arctan2(place[1], place[0])))
        radii.append(np.hypot(*place))
        zoomed = centre(Augmentation(zoom=0.2)(stack, rng))
        assert 30 * 0.79 < zoomed[0] < 30 * 1.21 and abs(zoomed[1]) < 0.2
    assert 9 < np.abs(moves).max() < 10.3 and 13 < np.abs(angles).max() < 15.2
    np.testing.assert_allclose(radii, 30, atol=0.3)


# ------------------------------------------------------------------------------------------------------- starting


def test_start_as_linear_is_exact() -> None:
    import keras

    keras.utils.set_random_seed(0)
    network = build_tiny()
    linear = keras.layers.Dense(3, name="linear")
    pooled = network.get_layer("fc").input
    other = keras.Model(network.input, linear(pooled))
    linear.bias.assign([0.5, -1.0, 2.0])
    images = np.random.default_rng(0).normal(size=(6, 64, 64, 3)).astype(np.float32)
    wanted = np.asarray(other(images))
    assert np.abs(np.asarray(network(images)) - wanted).max() > 0.1
    start_as_linear(network, linear, ("fc", "output"))
    np.testing.assert_allclose(np.asarray(network(images)), wanted, atol=1e-5)
    assert np.abs(network.get_layer("fc").kernel[:, 6:]).max() > 0, "units that are left stay random"
    six = keras.layers.Dense(6)
    six.build((None, 12))
    with pytest.raises(SettingsError, match="10 units cannot start as 6"):
        start_as_linear(network, six, ("fc", "output"))


@pytest.mark.parametrize("seed", range(3))
def test_the_range_test_finds_a_rate_that_learns(seed: int) -> None:
    """Adam moves each weight by about the rate a step, so weights of about 1 need a rate of 1e-3 to 1e-1."""
    import keras

    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(640, 10)).astype(np.float32)
    y = np.eye(2, dtype=np.float32)[(x @ rng.normal(size=10) > 0).astype(int)]
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(2)])
    start = model.get_weights()

    def batch(step: int) -> tuple[Any, Any]:
        at = 32 * (step % 20)
        return x[at : at + 32], y[at : at + 32]

    found = learning_rate_range_test(model, batch)
    assert 1e-3 < found["rate"] < 1e-1
    assert len(found["rates"]) == len(found["losses"]) <= 60 and found["rates"] == sorted(found["rates"])
    assert found["rates"][0] == 1e-6
    losses = []
    for rate in (1e-6, found["rate"]):
        model.set_weights(start)
        model.compile(
            keras.optimizers.Adam(rate), keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False
        )
        losses.append([float(np.ravel(model.train_on_batch(*batch(step)))[0]) for step in range(60)][-1])
    assert losses[1] < 0.6 * losses[0]


# -------------------------------------------------------------------------------------------------- regions and cache


def test_regions_show_what_they_say() -> None:
    phantom = make_phantom(3, 256)
    lungs = LungMask(phantom.lungs)
    pixels = np.maximum(phantom.pixels, 1)
    shown = {region: look_at(pixels, lungs, region) for region in REGIONS}
    np.testing.assert_array_equal(shown["full"][0], pixels)
    inside, outside = shown["lung-mask"][0] > 0, shown["background"][0] > 0
    assert inside[phantom.lungs].all() and not outside[phantom.lungs].any()
    np.testing.assert_array_equal(inside, ~outside)  # with its rim, each pixel is in one of the two
    far = cv2.dilate(phantom.lungs.astype(np.uint8), np.ones((25, 25))) == 0
    assert not inside[far].any() and outside[far].all()
    picture, crop = shown["lung-crop"]
    assert crop == crop_to_lungs(phantom.lungs)
    np.testing.assert_array_equal(picture, pixels[crop.top : crop.bottom, crop.left : crop.right])
    # a point of the square input goes back to where it was in the radiograph
    rows, columns = np.mgrid[0:256, 0:256].astype(np.float32)
    for values, axis in ((columns, 0), (rows, 1)):
        part = values[crop.top : crop.bottom, crop.left : crop.right]
        small = cv2.resize(part, (64, 64), interpolation=cv2.INTER_AREA)
        back = np.einsum("ij,jyx->iyx", crop.affine(64), np.stack([*np.mgrid[0:64, 0:64][::-1], np.ones((64, 64))]))
        np.testing.assert_allclose(back[axis], small, atol=0.75)
    nothing = LungMask(np.zeros((256, 256), np.bool_))
    for region in REGIONS:
        np.testing.assert_array_equal(look_at(pixels, nothing, region)[0], pixels)


def test_prepared_pictures_with_masks_of_the_manifest(tmp_path: Path) -> None:
    table = make_dataset(tmp_path, 1)
    masks = ["co.png", "", "gone.png"]
    table["outline"] = masks
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, 16:48] = mask[32:96, 80:112] = 255
    cv2.imwrite(str(tmp_path / "co.png"), mask)

    def ready(region: Any) -> Any:
        return prepare(table, tmp_path, TINY, region, Enhancement(), tmp_path / "cache", silent, "outline")

    crop = ready("lung-crop")
    assert list(crop.problems) == [2] and "gone.png cannot be read" in crop.problems[2]
    np.testing.assert_array_equal(crop.outlines[0], mask[::2, ::2] > 0)
    whole = crop_to_lungs(mask > 0)
    np.testing.assert_allclose(crop.boxes[0] * 128, [whole.top, whole.bottom, whole.left, whole.right])
    assert crop.stacks.shape == (3, 64, 64, 3) and not crop.stacks[2].any() and crop.stacks[1].any()
    assert crop.outlines[1].any(), "without a mask the radiograph is segmented"
    background = ready("background")
    grey = background.stacks[0, :, :, 0]  # enhancement lifts black a little
    assert not grey[background.lungs[0]].any() and grey.any()
    kept = sorted(entry.name for entry in (tmp_path / "cache").iterdir())
    assert len(kept) == 2
    np.testing.assert_array_equal(ready("background").stacks, background.stacks)
    cv2.imwrite(str(tmp_path / "co.png"), 255 - mask)  # another mask under the same name is not taken from the cache
    assert not np.array_equal(ready("background").stacks, background.stacks)


# ------------------------------------------------------------------------------------------------------ command line


def test_help_of_training() -> None:
    done = subprocess.run([sys.executable, "-m", "cxnet", "train", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--dataset" in done.stdout and "--recipe" in done.stdout


def test_from_a_folder_to_a_checked_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in CLASSES[:2]:
        (tmp_path / "pictures" / label).mkdir(parents=True)
    for number in range(8):
        label = CLASSES[number % 2]
        cv2.imwrite(str(tmp_path / "pictures" / label / f"{number}.png"), radiograph(100 + number, label))
    manifest, out, other = tmp_path / "manifest.csv", tmp_path / "mine", tmp_path / "theirs"
    assert main(["dataset", "import", str(tmp_path / "pictures"), "--out", str(manifest)]) == 0
    assert "8 radiographs of 8 groups" in capsys.readouterr().out
    wanted = ["--architecture", "base-cnn-v2", "--recipe", "haghanifar-base", "--folds", "2", "--epochs", "1"]
    places = ["--dataset", str(manifest), "--out", str(out), "--cache", str(tmp_path / "cache")]
    assert main(["train", *wanted, *places]) == 0
    text = capsys.readouterr().out
    assert "the range test gives a learning rate of" in text and "8 cases in 2 fold(s)" in text
    assert main(["runs", "show", str(out)]) == 0
    assert "8 cases in 2 fold(s)" in capsys.readouterr().out
    assert main(["runs", "check", str(out)]) == 0
    assert capsys.readouterr().out == "The run is whole.\n"
    assert runs.open_run(out).map_shape == (10, 10)

    table = runs.open_run(out).results()
    theirs = table[["case", "fold", "true", "predicted", "group"]]
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    assert main(["runs", "import", str(tmp_path / "theirs.csv"), "--out", str(other)]) == 0
    assert "8 cases in 2 fold(s)" in capsys.readouterr().out
    assert list(runs.open_run(other).results()["predicted"]) == list(table["predicted"])
    assert main(["train", *wanted, *places]) == 2
    assert "already" in capsys.readouterr().err
    assert main(["train", *wanted[:3], "nonsense", *places]) == 2
    assert "Unknown recipe 'nonsense'" in capsys.readouterr().err
