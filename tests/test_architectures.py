"""Every network of the table: it builds, its feature layer explains it, it can be stored."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxnet.architectures import ARCHITECTURES, build_auxiliary, pyramid_attention
from cxnet.classifier import Head, Prediction
from cxnet.explain.grad_cam import grad_cam
from cxnet.weights import assign, read_arrays, write_arrays

CLASSIFIERS = [name for name, row in ARCHITECTURES.items() if row.task == "classification"]
CLASSES = ("COVID-19", "Normal", "Pneumonia")

#: DenseNet-121; the pyramid's six convolutions to one map, of 7, 5 and 3 pixels, the first from 1,024 maps; the branches
#: to 256 maps; batch normalisation behind all of them and at the end.
ATTENDED = 7_037_504 + (49 * 1_024 + 49 + 2 * 25 + 2 * 9 + 6 * 4) + 2 * (1_024 * 256 + 4 * 256) + 4 * 256
#: Of three outputs at the table's input size. COVID-CXNet's figure is the paper's; the others are counted by hand or
#: follow from those of Keras' applications (without top: MobileNet 3,228,864, MobileNetV2 2,257,984, InceptionV3
#: 21,802,784, Xception 20,861,480, ResNet50 23,587,712, ResNet50V2 23,564,800) plus the head.
PARAMETERS = {
    "base-cnn-v1": 896 + 4 * 9_248 + 3_200 * 10 + 10 + 110 + 33,
    "base-cnn-v2": 896 + 4 * 9_248 + 3_200 * 10 + 10 + 110 + 33,
    "densenet121": 7_047_787,
    "covid-cxnet": 7_047_787,
    "covid-cxnet-lung": 7_047_787,
    "resnet50": 23_587_712 + 2_048 * 10 + 10 + 33,
    "xception": 20_861_480 + (2_048 + 1) * 1_024 + 102_400 * 3 + 3,
    "resnet50v2": 23_564_800 + (2_048 + 1) * 1_024 + 102_400 * 3 + 3,
    "xception-resnet50v2": 20_861_480 + 23_564_800 + (4_096 + 1) * 1_024 + 102_400 * 3 + 3,
    "mobilenet-v1": 3_228_864 + 3_075,
    "mobilenet-v2": 2_257_984 + 1_280 * 3 + 3,
    "inception-v3": 21_802_784 + 2_048 * 3 + 3,
    "xception-frozen": 20_861_480 + 2_048 * 3 + 3,
    "resnet50-frozen": 23_587_712 + 2_048 * 3 + 3,
    "deep-ct-net": ATTENDED + (16_384 + 1) * 64 + 195,
    # the network, and the auxiliary ones for 6 findings and for 2 classes, whose 8 outputs it hears
    "deep-cxr-net": 3 * ATTENDED + (16_384 + 1) * (6 + 2) + (16_384 + 8 + 1) * 64 + 195,
}
FEATURES = {
    "base-cnn-v1": (10, 10, 32),
    "base-cnn-v2": (10, 10, 32),
    "densenet121": (7, 7, 1024),
    "resnet50": (7, 7, 2048),
    "covid-cxnet": (10, 10, 1024),
    "covid-cxnet-lung": (10, 10, 1024),
    "xception": (10, 10, 1024),
    "resnet50v2": (10, 10, 1024),
    "xception-resnet50v2": (10, 10, 1024),
    "mobilenet-v1": (7, 7, 1024),
    "mobilenet-v2": (7, 7, 1280),
    "inception-v3": (8, 8, 2048),
    "xception-frozen": (10, 10, 2048),
    "resnet50-frozen": (7, 7, 2048),
    "deep-ct-net": (8, 8, 256),
    "deep-cxr-net": (8, 8, 256),
}


@lru_cache(maxsize=2)
def built(build: Any, size: int) -> Any:
    """A network for logits of three classes; rows that share a builder and a size share it."""
    import keras

    keras.utils.set_random_seed(3)
    return build(input_size_px=size, outputs=3, activation=None)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_explains_itself_and_can_be_stored(name: str, tmp_path: Path) -> None:
    """At the paper's input size."""
    import keras
    import tensorflow as tf

    row = ARCHITECTURES[name]
    size = row.input_size_px
    model = built(row.build, size)
    assert model.output.shape == (None, 3) and model.input.shape[1:] == (size, size, 3)
    assert model.count_params() == PARAMETERS[name]
    image = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
    names = [row.feature_layer, *([row.extra_layer] if row.extra_layer else [])]
    both = keras.Model(model.input, [*(model.get_layer(n).output for n in names), model.output])
    features, *extra, logits = (np.asarray(value) for value in both(image))
    assert features.shape[1:] == FEATURES[name]
    head = Head.of(row, {v.path: np.asarray(v) for v in model.weights})
    prediction = Prediction(CLASSES, logits[0], features[0], extra[0][0] if extra else None)
    maps = grad_cam(prediction, head)
    raw = features[0].reshape(-1, features.shape[-1]) @ head.map_weights(features[0], prediction.extra).T
    assert maps.shape == (3, *features.shape[1:3])
    assert np.ptp(raw, axis=0).min() > 0, "the map says nothing"

    # the gradient in closed form against automatic differentiation of the layers behind the feature layer
    with tf.GradientTape() as tape:
        x = tf.constant(features[:1])
        tape.watch(x)
        y = tf.reduce_mean(x, (1, 2)) if row.pooling == "mean" else tf.reshape(x, (1, -1))
        if extra:
            y = tf.concat([y, extra[0][:1]], 1)
        for layer in row.dense[:-1]:
            y = tf.nn.relu(y @ model.get_layer(layer).kernel + model.get_layer(layer).bias)
        y = y @ model.get_layer(row.dense[-1]).kernel + model.get_layer(row.dense[-1]).bias
        one = y[0, 1]
    np.testing.assert_allclose(
        y, logits[:1], atol=2e-4, err_msg="the table describes another head than the network has"
    )
    expected = np.asarray(tape.gradient(one, x))[0].mean(axis=(0, 1))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(head.map_weights(features[0], prediction.extra)[1], expected, atol=1e-5 * scale + 1e-12)

    # what is stored is taken up whole: every variable is spoilt before it is read back
    stored = {v.path: np.asarray(v) for v in model.weights}
    write_arrays(tmp_path / "w.npz", stored)
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 7.0, np.float32))
    assign(model, read_arrays(tmp_path / "w.npz"))
    for variable in model.weights:
        np.testing.assert_allclose(np.asarray(variable), stored[variable.path], rtol=1e-3, atol=1e-6)
    assert len(stored) == len(model.weights), "two variables share a name"


def test_covid_cxnet_has_the_paper_s_layers_and_parameters() -> None:
    """Haghanifar et al. §4.3: "431 layers and ≈ 7M parameters".

    Counted as Keras lists a model's layers (each convolution, batch normalisation, ReLU, padding, pooling and
    concatenation, and the input): 427 of DenseNet-121 without top, then mean, 10 units, dropout and output.
    """
    model = built(ARCHITECTURES["covid-cxnet"].build, 320)
    names = [layer.name for layer in model.layers]
    assert len(names) == 431 and names[427:] == ["mean", "fc", "dropout", "output"]
    assert 6.9e6 < model.count_params() < 7.1e6
    # 121 layers that have kernels, in the count of the DenseNet paper, one of them its replaced classifier
    assert sum(type(layer).__name__ == "Conv2D" for layer in model.layers) == 120


def test_numbering_does_not_depend_on_what_was_built_before() -> None:
    """Keras numbers unnamed layers through the process; stored weights must find theirs all the same."""
    row = ARCHITECTURES["xception"]
    first, second = ([v.path for v in row.build(input_size_px=96).weights] for _ in range(2))
    assert first == second


def test_pyramid_attention_weights_the_main_branch_pixel_by_pixel() -> None:
    """With a pyramid that gives zero, only the mean branch is left, which is the same at every place."""
    import keras

    x = keras.Input((8, 8, 5))
    model = keras.Model(x, pyramid_attention(x, 4, "attention"))
    for layer in model.layers:
        if "level" in layer.name and layer.name.endswith("_conv"):
            layer.set_weights([np.zeros_like(layer.get_weights()[0])])
    output = np.asarray(model(np.random.default_rng(0).normal(size=(1, 8, 8, 5)).astype(np.float32)))
    assert output.shape == (1, 8, 8, 4)
    np.testing.assert_allclose(output, np.broadcast_to(output[:, :1, :1], output.shape), atol=1e-6)


@pytest.mark.slow
def test_auxiliary_networks_of_deep_cxr_net_are_frozen() -> None:
    model = ARCHITECTURES["deep-cxr-net"].build(input_size_px=64)
    trainable = {v.path.split("/")[0] for v in model.trainable_variables}
    assert trainable and not any(name.startswith(("findings_", "pneumonia_")) for name in trainable)
    auxiliary = build_auxiliary(input_size_px=64)  # what training is given for the frozen half fits it
    shapes = {v.path: tuple(v.shape) for v in model.weights if v.path.startswith("findings_")}
    assert {v.path: tuple(v.shape) for v in auxiliary.weights} == shapes
    assert ARCHITECTURES["deep-cxr-net"].extra_layer == "told" and model.get_layer("told").output.shape == (None, 8)
