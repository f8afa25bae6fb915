"""Training: what a run holds, that it goes on where it was stopped, what is refused, and the command line."""

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

from cxnet import runs
from cxnet.__main__ import main
from cxnet.architectures import ARCHITECTURES
from cxnet.enhance import CHANNELS
from cxnet.errors import CxnetError, DatasetError, SettingsError, WeightsError
from cxnet.training import RECIPES, TrainingSettings, train
from cxnet.weights import read_arrays
from tests.tiny_training import CLASSES, TINY, make_dataset, radiograph, silent, tiny  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 4  # of which "strong" gives three to a linear head


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
        train(half, stopping(f"epoch 1 of {EPOCHS}:", Killed))
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


def test_a_training_does_not_go_on_with_other_folds(settings: TrainingSettings, dataset: Path, tmp_path: Path) -> None:
    """Joined groups are named after their first row, so another order divides the cases anew."""
    folder = tmp_path / "turned"
    shutil.copytree(dataset, folder)
    started = replace(settings, dataset=folder / "manifest.csv", out=tmp_path / "run")
    with pytest.raises(Killed):
        train(started, stopping("epoch 2", Killed))
    pd.read_csv(folder / "manifest.csv")[::-1].to_csv(folder / "manifest.csv", index=False)
    with pytest.raises(SettingsError, match="another order of cases"):
        train(started, silent)


def test_frozen_parts_must_come_from_somewhere(
    whole: tuple[runs.Run, list[str]], settings: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(**options: Any) -> Any:
        model = TINY.build(**options)
        model.get_layer("conv1").trainable = False
        return model

    monkeypatch.setitem(ARCHITECTURES, "half-frozen", replace(TINY, build=build))
    start = replace(settings, architecture="half-frozen", out=tmp_path / "run", only=(0,), epochs=1)
    with pytest.raises(SettingsError, match=r"conv1 and others. and would stay random"):
        train(start, silent)
    initial = whole[0].folder / "fold-0.npz"
    run = train(replace(start, out=tmp_path / "other", initial=initial), silent)
    first, last = read_arrays(initial), read_arrays(run.folder / "fold-0.npz")
    np.testing.assert_array_equal(first["conv1/kernel"], last["conv1/kernel"])
    assert run.info["settings"]["initial_sha256"] == runs.sha256(initial)
    assert "out of fold only if those weights never saw" in run.info["note"]


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


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.slow), "jax"])
def test_other_backends(backend: str, settings: TrainingSettings, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed (it is optional)")
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from tests.test_training import TrainingSettings, runs, stopping, train\n"
        "from tests.tiny_training import ARCHITECTURES, TINY\n"
        "if __name__ == '__main__':\n"
        "    ARCHITECTURES['tiny'] = TINY\n"
        "    data, cache, out = map(Path, sys.argv[1:])\n"
        "    s = TrainingSettings(data, 'tiny', 'strong', out, folds=3, seed=7, epochs=2, batch_size=8, only=(0,), cache=cache)\n"
        "    assert train(s, stopping('epoch 1 of 2:', KeyboardInterrupt)).info['stopped']\n"
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
