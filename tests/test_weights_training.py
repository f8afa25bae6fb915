"""The PyTorch networks that trained the shipped weights against the Keras networks that run them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxnet import runs
from cxnet.architectures import ARCHITECTURES
from cxnet.weights import FOLDER, assign, fold_card, keras_model, read_arrays

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install -r requirements-backends.txt)")
train = pytest.importorskip("weights.train")


def outputs(name: str, side: int, arrays: dict[str, np.ndarray], network: torch.nn.Module) -> tuple[np.ndarray, ...]:
    """Logits of the Keras network and of PyTorch's for the same pictures."""
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    model = ARCHITECTURES[name].build(input_size_px=side, outputs=3, activation=None)
    assign(model, arrays)
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return np.asarray(model(images)), theirs[0].numpy()


@pytest.mark.parametrize("side", [64, 224])
def test_mobilenet_is_the_keras_one(side: int) -> None:
    torch.manual_seed(0)
    network = train.MobileNet()
    for norm in network.norms.values():
        torch.nn.init.normal_(norm.bias, 0, 0.3)
        torch.nn.init.uniform_(norm.weight, 1, 3)
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.2, 1)
    keras, ours = outputs("mobilenet-v1", side, network.keras_arrays(), network)
    assert np.ptp(ours, axis=0).max() > 1e-3  # it does look at the picture
    np.testing.assert_allclose(keras, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


def test_a_trained_network_is_taken_up_and_given_back() -> None:
    arrays = read_arrays(FOLDER / "covid-cxnet.npz")
    network = train.CovidCxnet(arrays)
    keras, ours = outputs("covid-cxnet", 96, arrays, network)
    np.testing.assert_allclose(keras, ours, rtol=1e-4, atol=1e-4)
    again = train.covid_cxnet_arrays(network.state_dict())
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_stage_ends_by_epochs_or_by_minutes() -> None:
    assert train.Stage(112, "4e", 1e-3).done(seconds=9e9, epochs=2) == 0.5
    assert train.Stage(112, "4", 1e-3).done(seconds=60, epochs=9e9) == 0.25


def test_mobilenet_folds_become_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From pictures to a run whose networks answer as its table says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng, rows = np.random.default_rng(0), []
    for number in range(60):
        label = train.CLASSES[number % 3]  # fewer than 64 cases: no further processes
        coarse = rng.integers(0, 256, (6, 6), dtype=np.uint8)  # phantoms would count as near-duplicates
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.resize(coarse, (240, 240), interpolation=cv2.INTER_LINEAR))
        rows.append({"file": f"{number}.png", "label": label, "group": f"p{number}", "source": "phantom"})
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    plan, out, place = [train.Stage(32, "2e", 1e-3), train.Stage(48, "1e", 5e-4)], tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    train.train_mobilenet(tmp_path, out, plan, folds=2)
    train.train_mobilenet(tmp_path, out, plan, folds=2)  # all is done
    assert len((out / "mobilenet-v1.jsonl").read_text().splitlines()) == 2
    train.convert(out)
    train.write_run(tmp_path, out, place, plan, folds=2)
    run = runs.open_run(place)
    assert runs.check(run) == [] and len(run.table) == 60
    assert [len(entry["curve"]) for entry in run.info["folds"]] == [3] * 2
    for fold in range(2):
        table = run.results(fold)
        card = fold_card(run, fold)
        probability = run.probabilities(table)
        assert card.input_size_px == 224 and probability is not None
        prepared = train.folds_of_mobilenet(tmp_path, 2)[2]
        cases = [prepared.sha256.index(case) for case in table["case"]]
        scaled = (prepared.stacks[cases].astype(np.float32) - 127.5) / 127.5
        logits = np.asarray(keras_model(card)(scaled))
        np.testing.assert_allclose(logits, table[[f"logit {name}" for name in run.classes]], rtol=1e-3, atol=1e-3)
