"""The networks, as Keras 3 builders that work under any Keras backend, in one literal table.

Importing this module does not import Keras; calling a builder does. Builders take ``input_size_px``, ``outputs`` and
``activation`` ("softmax", "sigmoid" or None for logits); those that contain a backbone of ``keras.applications`` also
take ``backbone_weights`` (None, "imagenet" where Keras can fetch it, or a Keras weights file). The input is float32
(n, size, size, 3), scaled as the table says.

References
----------
.. [1] Haghanifar A et al. COVID-CXNet. Multimed Tools Appl 2022. doi:10.1007/s11042-022-12156-z
.. [2] Huang G et al. Densely connected convolutional networks. CVPR 2017. doi:10.1109/CVPR.2017.243
.. [3] Rajpurkar P et al. CheXNet. arXiv:1711.05225
.. [4] Ronneberger O et al. U-Net. MICCAI 2015. doi:10.1007/978-3-319-24574-4_28
.. [5] Rahimzadeh M, Attar A. A modified deep convolutional neural network for detecting COVID-19 and pneumonia from
       chest X-ray images based on the concatenation of Xception and ResNet50V2. Inform Med Unlocked 2020.
       doi:10.1016/j.imu.2020.100360
.. [6] Kurz P et al. On the detection of SARS-CoV-2 induced pneumonia in X-ray thorax images with convolutional neural
       networks. 2020.
.. [7] Dialameh M et al. Screening COVID-19 based on CT/CXR images & building a publicly available CT-scan dataset of
       COVID-19. 2020. arXiv:2012.14204
.. [8] Li H et al. Pyramid attention network for semantic segmentation. arXiv:1805.10180
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from cxnet.enhance import CHANNELS, Enhancement

#: Mean and standard deviation of each channel, on the 0..255 scale, that a network's input is scaled by.
#: CheXNet was trained with ImageNet's figures, so COVID-CXNet uses them too. An equalised picture is uniform, so its
#: mean is 127.5 and its deviation 255 / sqrt(12). "caffe" and "symmetric" are what Keras' ImageNet weights expect.
SCALING: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": ((0.0,), (255.0,)),
    "symmetric": ((127.5,), (127.5,)),
    "caffe": ((103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "equalized": ((127.5,), (73.61,)),
}

_GREY = ("original", "original", "original")


def _backbone(name: str, image: Any, weights: str | None, prefix: str = "") -> Any:
    """A network of ``keras.applications`` without its top, whose layers have the same names each time.

    Keras numbers the unnamed layers of Xception and InceptionV3 by what was built before in the process. Here they
    are numbered by their place, so that stored weights find their layers.
    """
    import keras

    build = getattr(keras.applications, name)
    found = build(include_top=False, weights=weights, input_tensor=image)
    if name not in ("Xception", "InceptionV3") and not prefix:
        return found
    place = {layer.name: number for number, layer in enumerate(found.layers)}

    def renamed(layer: Any) -> Any:
        config = layer.get_config()
        unnamed = name in ("Xception", "InceptionV3") and not layer.name.startswith(("block", "mixed"))
        config["name"] = prefix + (f"{type(layer).__name__.lower()}_{place[layer.name]}" if unnamed else layer.name)
        return type(layer).from_config(config)

    copy = keras.models.clone_model(found, input_tensors=[image], clone_function=renamed)
    if weights is not None:
        copy.set_weights(found.get_weights())
    return copy


def build_base_cnn(input_size_px: int = 320, outputs: int = 3, activation: str | None = "softmax") -> Any:
    """The base model (Haghanifar et al. §4.1, Fig. 5 [1]_): five convolutions, two 10-unit layers, output.

    Returns
    -------
    keras.Model
        About 70,000 parameters at 320 px.

    Notes
    -----
    32 filters of 3 x 3 and ReLU in each convolution, no pooling, no batch normalisation, as printed. The paper is
    silent on stride, padding and input size. With stride 1 the first 10-unit layer alone would have 31 million
    parameters; here each convolution halves the picture (stride 2, same padding), so that 320 px end as
    10 x 10 x 32. The three fully connected layers of the text are read as 10, 10 and the output.
    """
    import keras

    layers = keras.layers
    x = image = keras.Input((input_size_px, input_size_px, 3), name="image")
    for number in range(1, 6):
        x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name=f"conv{number}")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(10, activation="relu", name="fc1")(x)
    x = layers.Dense(10, activation="relu", name="fc2")(x)
    return keras.Model(image, layers.Dense(outputs, activation=activation, name="output")(x), name="base-cnn")


def build_covid_cxnet(
    input_size_px: int = 320,
    outputs: int = 3,
    activation: str | None = "softmax",
    backbone_weights: str | None = None,
    backbone: str = "DenseNet121",
) -> Any:
    """COVID-CXNet (Haghanifar et al. §4.3, Fig. 8 [1]_): DenseNet-121 [2]_, 10-unit layer, dropout 0.2, output.

    Parameters
    ----------
    input_size_px : int
        Side of the square input; 320 in the paper.
    outputs : int
        Number of classes; 3 for Normal / Pneumonia / COVID-19.
    activation : str or None
        "softmax" for several classes, "sigmoid" for one output, None for logits.
    backbone_weights : str or None
        See the module. CheXNet checkpoints are read by :mod:`cxnet.chexnet`.
    backbone : str
        Another network of ``keras.applications`` for §4.2's comparison.

    Returns
    -------
    keras.Model
        With DenseNet-121 431 layers and 7,047,787 parameters for three outputs.

    Notes
    -----
    The paper does not name the 10-unit layer's activation; ReLU, as in the published code. Its networks of §4.2 end in
    the output alone; they have this head here, so that only the backbone differs.
    """
    import keras

    image = keras.Input((input_size_px, input_size_px, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D(name="mean")(_backbone(backbone, image, backbone_weights).output)
    x = keras.layers.Dense(10, activation="relu", name="fc")(x)
    x = keras.layers.Dropout(0.2, name="dropout")(x)
    x = keras.layers.Dense(outputs, activation=activation, name="output")(x)
    return keras.Model(image, x, name="covid-cxnet" if backbone == "DenseNet121" else backbone.lower())


def build_resnet50(**options: Any) -> Any:
    """ResNet-50 (Haghanifar et al. §4.2 [1]_) with the head of COVID-CXNet, which the paper's has not."""
    return build_covid_cxnet(backbone="ResNet50", **options)


def build_xception_resnet50v2(
    input_size_px: int = 300,
    outputs: int = 3,
    activation: str | None = "softmax",
    backbone_weights: str | None = None,
    backbones: tuple[str, ...] = ("Xception", "ResNet50V2"),
) -> Any:
    """Xception and ResNet50V2 side by side (Rahimzadeh & Attar §2.1, Fig. 1 [5]_).

    Both end in 10 x 10 x 2048 at 300 px; these are concatenated, mixed by a 1 x 1 convolution to 1,024 maps without
    activation, and classified.

    Notes
    -----
    The paper does not describe the classifier; here the maps are flattened and go to one dense layer, after dropout
    0.5. With a single backbone the concatenation is left out and the rest stays.
    """
    import keras

    layers = keras.layers
    image = keras.Input((input_size_px, input_size_px, 3), name="image")
    features = [_backbone(name, image, backbone_weights).output for name in backbones]
    x = layers.Concatenate(name="both")(features) if len(features) > 1 else features[0]
    x = layers.Conv2D(1024, 1, name="mix")(x)
    y = layers.Dropout(0.5, name="dropout")(layers.Flatten(name="flat")(x))
    y = layers.Dense(outputs, activation=activation, name="output")(y)
    return keras.Model(image, y, name="-".join(backbones).lower())


def build_xception(**options: Any) -> Any:
    """Xception alone, as compared in Rahimzadeh & Attar [5]_."""
    return build_xception_resnet50v2(backbones=("Xception",), **options)


def build_resnet50v2(**options: Any) -> Any:
    """ResNet50V2 alone, as compared in Rahimzadeh & Attar [5]_."""
    return build_xception_resnet50v2(backbones=("ResNet50V2",), **options)


def _build_kurz(backbone: str) -> Callable[..., Any]:
    def build(
        input_size_px: int = 224,
        outputs: int = 4,
        activation: str | None = "softmax",
        backbone_weights: str | None = None,
    ) -> Any:
        import keras

        image = keras.Input((input_size_px, input_size_px, 3), name="image")
        x = keras.layers.GlobalAveragePooling2D(name="mean")(_backbone(backbone, image, backbone_weights).output)
        x = keras.layers.Dropout(0.3, name="dropout")(x)
        return keras.Model(image, keras.layers.Dense(outputs, activation=activation, name="output")(x))

    build.__doc__ = f"""{backbone} with an extra head (Kurz et al. §5 [6]_): mean over places, dropout 0.3, output.

    The figure that shows the paper's extra layers cannot be read for more than this.
    """
    return build


def pyramid_attention(x: Any, filters: int, name: str) -> Any:
    """Feature pyramid attention (Li et al. 2018, §3.1, Fig. 3 [8]_) on a square feature map.

    Three branches: a 1 x 1 convolution of the input; a pyramid of 7 x 7, 5 x 5 and 3 x 3 convolutions at a half, a
    quarter and an eighth of the size, summed on the way up, whose result weights the first branch pixel by pixel;
    and the mean of the input, added at every place.

    Notes
    -----
    The pyramid's convolutions have one map each, as in the paper's figure; sizes that cannot be halved again end the
    pyramid early, and going up is bilinear.
    """
    import keras

    layers = keras.layers

    def conv(y: Any, count: int, kernel: int, label: str) -> Any:
        y = layers.Conv2D(count, kernel, padding="same", use_bias=False, name=f"{name}_{label}_conv")(y)
        y = layers.BatchNormalization(name=f"{name}_{label}_bn")(y)
        return layers.ReLU(name=f"{name}_{label}_relu")(y)

    side = int(x.shape[1])
    down, levels = x, []
    for kernel in (7, 5, 3):
        if int(down.shape[1]) < 2:
            break
        down = layers.MaxPooling2D(name=f"{name}_pool{kernel}")(down)
        down = conv(down, 1, kernel, f"down{kernel}")
        levels.append((kernel, conv(down, 1, kernel, f"level{kernel}")))
    _, up = levels[-1]
    for _, level in levels[-2::-1]:
        up = layers.Resizing(int(level.shape[1]), int(level.shape[1]), name=f"{name}_up{int(level.shape[1])}")(up)
        up = layers.Add(name=f"{name}_sum{int(level.shape[1])}")([up, level])
    up = layers.Resizing(side, side, name=f"{name}_up{side}")(up)
    mean = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
    mean = conv(mean, filters, 1, "global")
    weighted = layers.Multiply(name=f"{name}_weighted")([conv(x, filters, 1, "main"), up])
    return layers.Add(name=f"{name}_attended")([weighted, mean])


def _attended(image: Any, weights: str | None, prefix: str = "") -> Any:
    """DenseNet-121, pyramid attention to 256 maps and batch normalisation, as in Dialameh et al. Fig. 3 [7]_."""
    import keras

    x = pyramid_attention(_backbone("DenseNet121", image, weights, prefix).output, 256, f"{prefix}attention")
    return keras.layers.BatchNormalization(name=f"{prefix}attended")(x)


def build_deep_ct_net(
    input_size_px: int = 256,
    outputs: int = 3,
    activation: str | None = "softmax",
    backbone_weights: str | None = None,
) -> Any:
    """Deep-CT-Net (Dialameh et al. §3.1, §4.2, Fig. 3 [7]_).

    DenseNet-121, pyramid attention [8]_, batch normalisation, flatten, fully connected layers.

    Notes
    -----
    The paper names neither the attention's width (256 here) nor the fully connected layers (64 units with ReLU,
    then the output). It equalises before it resizes; here pictures are resized first.
    """
    import keras

    layers = keras.layers
    image = keras.Input((input_size_px, input_size_px, 3), name="image")
    x = layers.Flatten(name="flat")(_attended(image, backbone_weights))
    x = layers.Dense(64, activation="relu", name="fc")(x)
    return keras.Model(image, layers.Dense(outputs, activation=activation, name="output")(x), name="deep-ct-net")


def build_auxiliary(
    input_size_px: int = 256, outputs: int = 6, activation: str | None = "sigmoid", prefix: str = "findings_"
) -> Any:
    """One of Deep-CXR-Net's auxiliary networks by itself, to be trained first; layer names start with `prefix`.

    Its variables, and those of the other one, are what ``train --initial`` wants for deep-cxr-net. No command trains it:
    its data (CheXpert's findings, Kaggle's pneumonia pictures) are not in a manifest's one label a case.
    """
    import keras

    layers = keras.layers
    image = keras.Input((input_size_px, input_size_px, 3), name="image")
    x = layers.Flatten(name=f"{prefix}flat")(_attended(image, None, prefix))
    x = layers.Dense(outputs, activation=activation, name=f"{prefix}output")(x)
    return keras.Model(image, x, name=f"deep-cxr-net-{prefix.strip('_')}")


def build_deep_cxr_net(
    input_size_px: int = 256,
    outputs: int = 3,
    activation: str | None = "softmax",
    backbone_weights: str | None = None,
    findings: int = 6,
) -> Any:
    """Deep-CXR-Net (Dialameh et al. §3.2, §4.2, Fig. 4 [7]_): Deep-CT-Net that also hears two other networks.

    The outputs of a network for `findings` findings (sigmoid) and of one for pneumonia / normal (softmax), both of
    the same form, frozen, are concatenated to the flattened features before two fully connected layers.

    Notes
    -----
    The paper's auxiliary data are CheXpert and Kaggle-Pneumonia. The width of the first fully connected layer is not
    named; 64 with ReLU.
    """
    import keras

    layers = keras.layers
    image = keras.Input((input_size_px, input_size_px, 3), name="image")
    told = []
    for prefix, count, kind in (("findings_", findings, "sigmoid"), ("pneumonia_", 2, "softmax")):
        auxiliary = layers.Flatten(name=f"{prefix}flat")(_attended(image, None, prefix))
        told.append(layers.Dense(count, activation=kind, name=f"{prefix}output")(auxiliary))
    x = layers.Flatten(name="flat")(_attended(image, backbone_weights))
    extra = layers.Concatenate(name="told")(told)
    x = layers.Concatenate(name="all")([x, extra])
    x = layers.Dense(64, activation="relu", name="fc")(x)
    model = keras.Model(image, layers.Dense(outputs, activation=activation, name="output")(x), name="deep-cxr-net")
    for layer in model.layers:
        if layer.name.startswith(("findings_", "pneumonia_")):
            layer.trainable = False
    return model


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


#: What of a radiograph a network is shown.
#: "background" keeps everything but the lungs: what a network scores on it, it scores without seeing any lung.
Region = Literal["full", "lung-crop", "lung-mask", "background"]
REGIONS: tuple[Region, ...] = ("full", "lung-crop", "lung-mask", "background")


@dataclass(frozen=True)
class Architecture:
    """One row of :data:`ARCHITECTURES`.

    `feature_layer` is where Grad-CAM is taken. Between it and the logits stand `pooling` ("mean" over places, or
    "flatten"), then, where `extra_layer` is given, that layer's output joined behind, then the `dense` layers with
    ReLU between them: a head small enough for gradients in closed form.
    """

    build: Callable[..., Any]
    input_size_px: int
    channels: tuple[str, ...]
    scaling: str
    feature_layer: str | None
    pooling: Literal["mean", "flatten"] | None
    dense: tuple[str, ...]
    paper: str
    task: Literal["classification", "segmentation"] = "classification"
    region: Region = "full"
    enhancement: Enhancement = field(default_factory=Enhancement)
    extra_layer: str | None = None


_HAGHANIFAR = "Haghanifar et al. 2022, {}, doi:10.1007/s11042-022-12156-z"
_RAHIMZADEH = "Rahimzadeh & Attar 2020, §2.1, doi:10.1016/j.imu.2020.100360"
_KURZ = "Kurz et al. 2020, §5"
_DIALAMEH = "Dialameh et al. 2020, {}, arXiv:2012.14204"
_EQUALIZED = Enhancement(equalization=True, smoothing_sigma_px=0.8)  # a window of 3 is OpenCV's sigma 0.8

#: For DenseNet-121 the feature layer is the final ReLU (1,024 maps), not the last convolution (32 growth maps).
ARCHITECTURES: dict[str, Architecture] = {
    "base-cnn-v1": Architecture(
        build=build_base_cnn, input_size_px=320, channels=_GREY, scaling="unit",
        feature_layer="conv5", pooling="flatten", dense=("fc1", "fc2", "output"),
        paper=_HAGHANIFAR.format("§4.1, table 5 (600 radiographs)"),
    ),
    "base-cnn-v2": Architecture(
        build=build_base_cnn, input_size_px=320, channels=CHANNELS, scaling="unit",
        feature_layer="conv5", pooling="flatten", dense=("fc1", "fc2", "output"),
        paper=_HAGHANIFAR.format("§4.1, table 5 (3,400 radiographs, enhanced)"),
    ),
    "densenet121": Architecture(
        build=build_covid_cxnet, input_size_px=224, channels=_GREY, scaling="imagenet",
        feature_layer="relu", pooling="mean", dense=("fc", "output"), paper=_HAGHANIFAR.format("§4.2"),
    ),
    "resnet50": Architecture(
        build=build_resnet50, input_size_px=224, channels=_GREY, scaling="caffe",
        feature_layer="conv5_block3_out", pooling="mean", dense=("fc", "output"), paper=_HAGHANIFAR.format("§4.2"),
    ),
    "covid-cxnet": Architecture(
        build=build_covid_cxnet, input_size_px=320, channels=CHANNELS, scaling="imagenet",
        feature_layer="relu", pooling="mean", dense=("fc", "output"), paper=_HAGHANIFAR.format("§4.3"),
    ),
    "covid-cxnet-lung": Architecture(
        build=build_covid_cxnet, input_size_px=320, channels=CHANNELS, scaling="imagenet",
        feature_layer="relu", pooling="mean", dense=("fc", "output"), region="lung-crop",
        paper=_HAGHANIFAR.format("§4.3, Fig. 9 and 21"),
    ),
    "xception": Architecture(
        build=build_xception, input_size_px=300, channels=_GREY, scaling="unit",
        feature_layer="mix", pooling="flatten", dense=("output",), paper=_RAHIMZADEH,
    ),
    "resnet50v2": Architecture(
        build=build_resnet50v2, input_size_px=300, channels=_GREY, scaling="unit",
        feature_layer="mix", pooling="flatten", dense=("output",), paper=_RAHIMZADEH,
    ),
    "xception-resnet50v2": Architecture(
        build=build_xception_resnet50v2, input_size_px=300, channels=_GREY, scaling="unit",
        feature_layer="mix", pooling="flatten", dense=("output",), paper=_RAHIMZADEH,
    ),
    "mobilenet-v1": Architecture(
        build=_build_kurz("MobileNet"), input_size_px=224, channels=_GREY, scaling="symmetric",
        feature_layer="conv_pw_13_relu", pooling="mean", dense=("output",), paper=_KURZ,
    ),
    "mobilenet-v2": Architecture(
        build=_build_kurz("MobileNetV2"), input_size_px=224, channels=_GREY, scaling="symmetric",
        feature_layer="out_relu", pooling="mean", dense=("output",), paper=_KURZ,
    ),
    "inception-v3": Architecture(
        build=_build_kurz("InceptionV3"), input_size_px=299, channels=_GREY, scaling="symmetric",
        feature_layer="mixed10", pooling="mean", dense=("output",), paper=_KURZ,
    ),
    "xception-frozen": Architecture(
        build=_build_kurz("Xception"), input_size_px=299, channels=_GREY, scaling="symmetric",
        feature_layer="block14_sepconv2_act", pooling="mean", dense=("output",), paper=_KURZ,
    ),
    "resnet50-frozen": Architecture(
        build=_build_kurz("ResNet50"), input_size_px=224, channels=_GREY, scaling="caffe",
        feature_layer="conv5_block3_out", pooling="mean", dense=("output",), paper=_KURZ,
    ),
    "deep-ct-net": Architecture(
        build=build_deep_ct_net, input_size_px=256, channels=_GREY, scaling="equalized", enhancement=_EQUALIZED,
        feature_layer="attended", pooling="flatten", dense=("fc", "output"), paper=_DIALAMEH.format("§3.1"),
    ),
    "deep-cxr-net": Architecture(
        build=build_deep_cxr_net, input_size_px=256, channels=_GREY, scaling="equalized", enhancement=_EQUALIZED,
        feature_layer="attended", pooling="flatten", dense=("fc", "output"), extra_layer="told",
        paper=_DIALAMEH.format("§3.2"),
    ),
    "unet": Architecture(
        build=build_unet, input_size_px=256, channels=("clahe",), scaling="unit",
        feature_layer=None, pooling=None, dense=(), task="segmentation",
        paper="Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28; Haghanifar et al. 2022, Fig. 9",
    ),
}  # fmt: skip
