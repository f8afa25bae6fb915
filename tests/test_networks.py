"""The shipped networks: the fast form against Keras, Grad-CAM against tf-keras-vis, CheXNet against PyTorch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cxnet.architectures import ARCHITECTURES, SCALING, build_covid_cxnet, build_unet
from cxnet.chexnet import from_torch, load_checkpoint
from cxnet.classifier import Classifier, Head, Prediction
from cxnet.engine import Network
from cxnet.enhance import CHANNELS
from cxnet.errors import SettingsError, WeightsError
from cxnet.explain.grad_cam import by_tf_keras_vis, grad_cam
from cxnet.phantom import make_phantom
from cxnet.weights import FOLDER, assign, card, cards, keras_model, read_arrays, write_arrays


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier("covid-cxnet")


@pytest.fixture(scope="module")
def stack(classifier: Classifier) -> np.ndarray:
    return classifier.prepare(make_phantom(3, 512, "consolidation").pixels)


@pytest.fixture(scope="module")
def reference():
    """The Keras model of the shipped classifier, giving logits."""
    return keras_model(card("covid-cxnet"))


def scaled(stack: np.ndarray) -> np.ndarray:
    mean, deviation = SCALING["imagenet"]
    return ((stack.astype(np.float32) - np.float32(mean)) / np.float32(deviation))[None]


def test_covid_cxnet_is_the_paper_s() -> None:
    model = build_covid_cxnet()
    assert (len(model.layers), model.count_params()) == (431, 7_047_787)
    assert model.get_layer("relu").output.shape == (None, 10, 10, 1024)


def test_unet_has_about_two_million_parameters() -> None:
    model = build_unet()
    assert 1.9e6 < model.count_params() < 2.1e6 and model.output.shape == (None, 256, 256, 1)


def test_the_fast_form_equals_keras(classifier: Classifier, stack: np.ndarray, reference) -> None:
    prediction = classifier.predict(stack)
    np.testing.assert_allclose(prediction.logits, np.asarray(reference(scaled(stack)))[0], atol=1e-4)


def test_the_lung_network_equals_keras() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 1), np.uint8)
    fast = Network(card("unet"))(picture)["logits"]
    model = keras_model(card("unet"))
    np.testing.assert_allclose(fast, np.asarray(model(picture.astype(np.float32) / 255)), atol=1e-3)


def test_grad_cam_equals_tf_keras_vis_for_every_class(classifier: Classifier, stack: np.ndarray) -> None:
    maps = grad_cam(classifier.predict(stack), classifier.head)
    compared = 0
    for target, ours in enumerate(maps):
        theirs = by_tf_keras_vis("covid-cxnet", "grad-cam", stack, target)
        assert ours.shape == theirs.shape == (10, 10)
        if theirs.max() > 0:
            np.testing.assert_allclose(ours / ours.max(), theirs / theirs.max(), atol=1e-4)
            compared += 1
        else:
            assert ours.max() <= 1e-6
    assert compared >= 1


@pytest.mark.parametrize("method", ["grad-cam++", "score-cam"])
def test_the_other_cams_give_a_map(stack: np.ndarray, method: str) -> None:
    cam = by_tf_keras_vis("covid-cxnet", method, stack, 0, score_cam_maps=3)
    assert cam.shape == (10, 10) and np.isfinite(cam).all() and cam.min() >= 0


def test_head_gradients_equal_finite_differences() -> None:
    rng = np.random.default_rng(0)
    layers = tuple((rng.normal(size=shape), rng.normal(size=shape[1])) for shape in ((7, 5), (5, 4), (4, 3)))
    pooled = rng.normal(size=7)

    def logits(x: np.ndarray) -> np.ndarray:
        for number, (kernel, bias) in enumerate(layers):
            x = x @ kernel + bias
            if number < 2:
                x = np.maximum(x, 0)
        return x

    step = 1e-6
    numeric = np.stack([(logits(pooled + step * e) - logits(pooled - step * e)) / (2 * step) for e in np.eye(7)], 1)
    np.testing.assert_allclose(Head(layers).gradients(pooled), numeric, atol=1e-6)


def test_grad_cam_finds_the_only_cell_that_matters() -> None:
    """A network that reads one map, which is on in one cell: all evidence is there, and none for the other class."""
    features = np.zeros((4, 5, 3), np.float32)
    features[1, 2, 0] = 2.0
    features[3, 3, 1] = 9.0  # not read by the first class
    head = Head(((np.array([[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]), np.zeros(2)),))
    first, second = grad_cam(Prediction(("a", "b"), np.zeros(2, np.float32), features), head)
    assert np.argwhere(first).tolist() == [[1, 2]] and first[1, 2] == pytest.approx(2 / 20)
    assert not second.any()


def test_every_card_is_whole_and_fits_its_architecture() -> None:
    total = 0
    for name, entry in cards().items():
        recipe = ARCHITECTURES[entry.architecture]
        assert entry.input_size_px == recipe.input_size_px and entry.channels == recipe.channels
        assert entry.scaling == recipe.scaling and entry.feature_layer == recipe.feature_layer
        assert len(entry.trained_on) > 40 and len(entry.training_run) > 40 and entry.licence, name
        for suffix in (".npz", ".xml", ".bin"):
            size = entry.path(suffix).stat().st_size
            assert size <= 16 * 2**20
            total += size
        for path, array in read_arrays(entry.path(".npz")).items():
            assert np.isfinite(array).all(), path
    assert total <= 150 * 2**20
    assert card("covid-cxnet").channels == CHANNELS


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    for file in FOLDER.glob("unet.*"):
        shutil.copy(file, tmp_path)
    shutil.copy(FOLDER / "manifest.toml", tmp_path)
    entry = cards(tmp_path)["unet"]
    Network(entry)
    data = bytearray((tmp_path / "unet.bin").read_bytes())
    data[1000] ^= 1
    (tmp_path / "unet.bin").write_bytes(data)
    with pytest.raises(WeightsError, match="checksum"):
        Network(entry)
    (tmp_path / "unet.bin").unlink()
    with pytest.raises(WeightsError, match="missing"):
        Network(entry)


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    model = build_unet(64, (4, 8))
    arrays = {variable.path: np.asarray(variable) + 1 for variable in model.weights}
    before = {variable.path: np.asarray(variable).copy() for variable in model.weights}
    last = model.weights[-1].path
    with pytest.raises(WeightsError, match=last):
        assign(model, {**arrays, last: np.zeros((9, 9))})
    for variable in model.weights:
        np.testing.assert_array_equal(np.asarray(variable), before[variable.path])
    write_arrays(tmp_path / "w.npz", arrays)
    assign(model, read_arrays(tmp_path / "w.npz"))
    for variable in model.weights:
        np.testing.assert_allclose(np.asarray(variable), arrays[variable.path], rtol=1e-3, atol=1e-3)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(WeightsError, match="known are"):
        card("resnet-9000")
    with pytest.raises(WeightsError, match="do not classify"):
        Classifier("unet")
    with pytest.raises(SettingsError):
        Prediction(("a",), np.zeros(2, np.float32), np.zeros((1, 1, 1), np.float32))


@pytest.fixture(scope="module")
def chexnet():
    """A CheXNet of random numbers in PyTorch, with running statistics that matter."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install -r requirements-backends.txt)")
    from tests.torch_densenet import DenseNet121

    generator = torch.Generator().manual_seed(0)
    model = DenseNet121(14).eval()
    for key, value in model.state_dict().items():
        if key.endswith(("running_var", "norm.weight")) or (".norm" in key and key.endswith("weight")):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif key.endswith(("running_mean", "bias")):
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return model


@pytest.mark.parametrize("spelling", ["new", "old"])
def test_a_pytorch_checkpoint_gives_pytorch_s_features(tmp_path: Path, chexnet, spelling: str) -> None:
    import re

    import torch

    state = dict(chexnet.state_dict())
    if spelling == "old":
        state = {
            re.sub(r"(norm|conv)(\d)\.(\w+)$", r"\1.\2.\3", key) if "denselayer" in key else key: value
            for key, value in state.items()
        }
    path = tmp_path / "model.pth.tar"
    torch.save({"epoch": 1, "state_dict": {f"module.densenet121.{key}": value for key, value in state.items()}}, path)
    model = build_covid_cxnet(96)
    assert load_checkpoint(path, model) == 604
    import keras

    image = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)
    ours = np.asarray(keras.Model(model.input, model.get_layer("relu").output)(image))
    with torch.no_grad():
        theirs = torch.relu(chexnet.features(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))).numpy()
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=1e-4 * max(1.0, theirs.max()))


@pytest.mark.parametrize("layout", ["layer_layer", "layer/part"])
def test_a_keras_checkpoint_is_read_in_both_spellings(tmp_path: Path, layout: str) -> None:
    """The layouts that Keras 2 wrote: ``conv1/conv/conv1/conv/kernel:0`` and ``conv1_conv/conv1_conv/kernel:0``."""
    import h5py

    donor = build_covid_cxnet(64)
    rng = np.random.default_rng(1)
    values = {v.path: rng.random(tuple(v.shape), np.float32) for v in donor.weights}
    path = tmp_path / "chexnet.h5"
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            layer, variable = name.rsplit("/", 1)
            if layer in ("fc", "output"):
                continue
            if layout == "layer/part" and layer.startswith("conv1_"):
                layer = layer.replace("_", "/")
            file[f"{layer}/{layer}/{variable}:0"] = value
        file["predictions/predictions/kernel:0"] = np.zeros((1024, 14), np.float32)
    model = build_covid_cxnet(64)
    load_checkpoint(path, model)
    for variable in model.weights:
        if not variable.path.startswith(("fc/", "output/")):
            np.testing.assert_array_equal(np.asarray(variable), values[variable.path])


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    model = build_covid_cxnet(64)
    with pytest.raises(WeightsError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.h5", model)
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_checkpoint(tmp_path / "text.h5", model)
    assert from_torch({"classifier.weight": np.zeros((2, 2))}) == {}
