"""The networks, as Keras 3 builders that work under any Keras backend, in one literal table.

Importing this module does not import Keras; calling a builder does.

References
----------
.. [1] Haghanifar A et al. COVID-CXNet. Multimed Tools Appl 2022. doi:10.1007/s11042-022-12156-z
.. [2] Huang G et al. Densely connected convolutional networks. CVPR 2017. doi:10.1109/CVPR.2017.243
.. [3] Rajpurkar P et al. CheXNet. arXiv:1711.05225
.. [4] Ronneberger O et al. U-Net. MICCAI 2015. doi:10.1007/978-3-319-24574-4_28
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

#: Mean and standard deviation of each channel, on the 0..255 scale, that a network's input is scaled by.
#: CheXNet was trained with ImageNet's figures, so COVID-CXNet uses them too.
SCALING: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": ((0.0,), (255.0,)),
}


def build_covid_cxnet(input_size_px: int = 320, outputs: int = 3, activation: str | None = "softmax") -> Any:
    """COVID-CXNet (Haghanifar et al. §4.3, Fig. 8 [1]_): DenseNet-121 [2]_, 10-unit layer, dropout 0.2, output.

    Parameters
    ----------
    input_size_px : int
        Side of the square input; 320 in the paper.
    outputs : int
        Number of classes; 3 for Normal / Pneumonia / COVID-19.
    activation : str or None
        "softmax" for several classes, "sigmoid" for one output, None for logits.

    Returns
    -------
    keras.Model
        431 layers and 7,047,787 parameters for three outputs. Input float32 (n, size, size, 3), scaled as
        ``SCALING["imagenet"]``.

    Notes
    -----
    The paper does not name the 10-unit layer's activation; ReLU, as in the published code.
    """
    import keras

    image = keras.Input((input_size_px, input_size_px, 3), name="image")
    backbone = keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=image)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(backbone.output)
    x = keras.layers.Dense(10, activation="relu", name="fc")(x)
    x = keras.layers.Dropout(0.2, name="dropout")(x)
    x = keras.layers.Dense(outputs, activation=activation, name="output")(x)
    return keras.Model(image, x, name="covid-cxnet")


def build_unet(input_size_px: int = 256, filters: tuple[int, ...] = (16, 32, 64, 128, 256)) -> Any:
    """U-Net [4]_ for lung fields: 1.94 M parameters, output is the logit of "lung" at every pixel.

    Departs from the paper: same padding, batch normalisation, a quarter of the filters.

    Returns
    -------
    keras.Model
        Input float32 (n, size, size, 1), the CLAHE picture divided by 255; output float32 (n, size, size, 1).
    """
    import keras

    layers = keras.layers

    def block(x: Any, count: int, name: str) -> Any:
        for step in (1, 2):
            x = layers.Conv2D(count, 3, padding="same", use_bias=False, name=f"{name}_conv{step}")(x)
            x = layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn{step}")(x)
            x = layers.ReLU(name=f"{name}_relu{step}")(x)
        return x

    image = keras.Input((input_size_px, input_size_px, 1), name="image")
    x, skips = image, []
    for level, count in enumerate(filters):
        if level:
            x = layers.MaxPooling2D(name=f"down{level}_pool")(x)
        x = block(x, count, f"down{level}")
        skips.append(x)
    for level in range(len(filters) - 2, -1, -1):
        x = layers.Conv2DTranspose(filters[level], 2, strides=2, name=f"up{level}_conv")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([skips[level], x])
        x = block(x, filters[level], f"merge{level}")
    return keras.Model(image, layers.Conv2D(1, 1, name="output")(x), name="unet")


@dataclass(frozen=True)
class Architecture:
    """One row of :data:`ARCHITECTURES`."""

    build: Callable[..., Any]
    input_size_px: int
    channels: tuple[str, ...]
    scaling: str
    feature_layer: str | None
    pooled_head: tuple[str, ...]
    task: Literal["classification", "segmentation"]
    paper: str


#: Feature layer: where Grad-CAM is taken. For DenseNet-121 that is the final ReLU (1,024 maps), not the last
#: convolution (32 growth maps). Pooled head: the dense layers that follow a global average of that layer.
ARCHITECTURES: dict[str, Architecture] = {
    "covid-cxnet": Architecture(
        build=build_covid_cxnet,
        input_size_px=320,
        channels=("original", "clahe", "beasf"),
        scaling="imagenet",
        feature_layer="relu",
        pooled_head=("fc", "output"),
        task="classification",
        paper="Haghanifar et al. 2022, §4.3, doi:10.1007/s11042-022-12156-z",
    ),
    "unet": Architecture(
        build=build_unet,
        input_size_px=256,
        channels=("clahe",),
        scaling="unit",
        feature_layer=None,
        pooled_head=(),
        task="segmentation",
        paper="Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28; Haghanifar et al. 2022, Fig. 9",
    ),
}
