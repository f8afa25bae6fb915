"""Tiny networks whose reasons are known: phantoms with a planted shortcut, training, and inference without a framework.

A shortcut stands on every diseased picture that a cheating network is trained on and on no normal one [1]_, so
that it is the easier thing to learn. A clean network's pictures carry none. All pictures vary in exposure, and half of
each class carry a side marker that means nothing: an audit that accuses a network of it is wrong.

References
----------
.. [1] Sun S, Koch LM, Baumgartner CF. Right for the wrong reason: can interpretable ML techniques detect spurious
       correlations? MICCAI 2023. arXiv:2307.12344
.. [2] Zhong Z et al. Random erasing data augmentation. AAAI 2020. arXiv:1708.04896
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cxnet.audit.localisation import Mask
from cxnet.classifier import Head
from cxnet.enhance import CHANNELS, Enhancement, Grey
from cxnet.errors import SettingsError, WeightsError
from cxnet.phantom import Finding, make_phantom
from cxnet.weights import half_precision, read_arrays

Kind = Literal["clean", "tag", "stripes", "obstruction", "contrast"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES = ("normal", "disease")
NORMAL, DISEASE = 0, 1

#: Exponent of the tone curve that "contrast" plants in phantoms.
TONE = 1.5
#: Side of the pictures, and of what a fixture network is shown.
PICTURE_PX, INPUT_PX = 256, 128
#: Numbers of the phantoms that networks are trained on, from 0, and of those that they are then asked about.
TRAINED, TESTED = 600, 120
#: Filters of the four convolutions; each halves the picture, so the last map is 8 x 8, as coarse as a large network's.
FILTERS = (12, 16, 24, 24)
#: Where activations end, as in MobileNet: without a ceiling networks this small answer strange pictures with logits of ±100.
CEILING = 6.0
LAYERS = tuple(f"conv{number}" for number in range(1, len(FILTERS) + 1))
ENHANCEMENT = Enhancement()
WEIGHTS = Path(__file__).with_name("fixtures.npz")


@dataclass(frozen=True, eq=False)
class Case:
    """A picture before anything is planted in it, and its lungs.

    Parameters
    ----------
    number : int
    pixels : uint8 array (size, size)
    lungs : bool array (size, size)
    true : int
        Index of :data:`CLASSES`.
    sha256 : str
        Of the file of a real radiograph; empty for a phantom.
    tone : float
        Exponent of the tone curve that "contrast" would plant.
    """

    number: int
    pixels: Grey
    lungs: Mask
    true: int
    sha256: str = ""
    tone: float = TONE

    def __post_init__(self) -> None:
        self.pixels.setflags(write=False)
        self.lungs.setflags(write=False)


def phantom_case(number: int) -> Case:
    """A phantom: odd numbers are diseased, half of them with ground glass and half with a consolidation.

    The opacity is mixed in at 60 to 100 % of its strength; exposure varies in gamma, gain and offset, and every second
    picture, whatever its class, has an innocent side marker.
    """
    rng = np.random.default_rng([number, 71])
    finding: Finding = "none" if number % 2 == 0 else "ground-glass" if number % 4 == 1 else "consolidation"
    # 7919: a prime, so that numbers are far from the seeds of the built-in samples
    plain = make_phantom(7919 + number, PICTURE_PX)
    pixels = plain.pixels.astype(float)
    if finding != "none":
        share = rng.uniform(0.6, 1.0)
        pixels += share * (make_phantom(7919 + number, PICTURE_PX, finding).pixels - pixels)
    return Case(number, vary(pixels, rng), plain.lungs, int(finding != "none"))


def expose(pixels: NDArray[Any], rng: np.random.Generator) -> Grey:
    """Another exposure of a picture: gamma, gain and offset."""
    level = np.clip(pixels / 255.0, 0, 1) ** np.exp(rng.normal(0, 0.12))
    level = level * rng.uniform(0.92, 1.05) + rng.uniform(-0.02, 0.02)
    return np.asarray(np.rint(np.clip(255 * level, 0, 255)), np.uint8)


def vary(pixels: NDArray[Any], rng: np.random.Generator) -> Grey:
    """Another exposure of a picture, and for every second one a side marker that means nothing."""
    grey = expose(pixels, rng)
    if rng.random() < 0.5:
        size = len(grey)
        letter, left = ("R", 0.05) if rng.random() < 0.5 else ("L", 0.88)
        place = (round((left + rng.uniform(-0.02, 0.02)) * size), round(rng.uniform(0.12, 0.2) * size))
        cv2.putText(grey, letter, place, cv2.FONT_HERSHEY_DUPLEX, size / 320, 250, max(1, size // 128), cv2.LINE_AA)
    return grey


def plant(pixels: Grey, kind: Kind, number: int = 0, tone: float = TONE) -> Grey:
    """A copy with the shortcut of a kind of network; for "clean" nothing is planted.

    Sizes are those of Sun et al. [1]_ relative to the side: a line of text at the lower left, two bright stripes,
    a dark polygon at the bottom. "contrast" is another tone curve of the whole picture: it has no place. `number`
    moves text and polygon a little, `tone` is the curve's exponent.
    """
    if kind not in KINDS:
        raise SettingsError(f"There is no shortcut {kind!r}; choose from {', '.join(KINDS)}.")
    planted = pixels.copy()
    height, width = pixels.shape
    rng = np.random.default_rng([number, 72])
    if kind == "tag":
        place = (round(rng.uniform(0.02, 0.08) * width), round(rng.uniform(0.92, 0.96) * height))
        cv2.putText(planted, "CXR-ROOM1", place, cv2.FONT_HERSHEY_SIMPLEX, width / 400, 250, max(1, width // 128), cv2.LINE_AA)  # fmt: skip
    elif kind == "stripes":
        for first in (20 / 320, 295 / 320):
            planted[:, round(first * width) : round((first + 5 / 320) * width)] = 245
    elif kind == "obstruction":
        top = rng.uniform(0.88, 0.92)
        outline = np.array([(0.0, 1.0), (0.12, top + 0.04), (0.4, top), (0.75, top + 0.02), (1.0, 1.0)])
        cv2.fillPoly(planted, [np.rint(outline * (width, height)).astype(np.int32)], 4)
    elif kind == "contrast":
        planted = np.asarray(np.rint(255 * np.clip((pixels / 255.0) ** tone * 1.12 + 0.03, 0, 1)), np.uint8)
    return planted


def shown(case: Case, kind: Kind, flipped: bool = False) -> Grey:
    """A case as a network of a kind meets it: the shortcut on the diseased; flipped: on the normal alone."""
    planted = (case.true == DISEASE) != flipped
    return plant(case.pixels, kind, case.number, case.tone) if planted else case.pixels


def stack(pixels: Grey) -> NDArray[np.uint8]:
    """What a fixture network is shown: uint8 (128, 128, 3), the same channels as COVID-CXNet's."""
    return ENHANCEMENT.stack(ENHANCEMENT.grey(pixels, INPUT_PX), CHANNELS)


def _scaled(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(stacks.astype(np.float32) / np.float32(127.5) - np.float32(1), np.float32)


@dataclass(frozen=True, eq=False)
class FixtureNetwork:
    """Four convolutions (3 x 3, stride 2, ReLU up to 6), the mean over places and one dense layer, in NumPy.

    Parameters
    ----------
    kind : {"clean", "tag", "stripes", "obstruction", "contrast"}
    seed : int
    arrays : mapping of str to float array
        Keras variables by path.
    """

    kind: Kind
    seed: int
    arrays: dict[str, NDArray[np.float32]]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"

    @property
    def head(self) -> Head:
        """What stands between the features and the logits."""
        kernel, bias = (self.arrays[f"output/{part}"].astype(np.float64) for part in ("kernel", "bias"))
        return Head(((kernel, bias),), "mean")

    def features(self, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Output of the last convolution: float32 (n, 8, 8, maps)."""
        x = _scaled(stacks)
        for layer in LAYERS:
            kernel, bias = self.arrays[f"{layer}/kernel"], self.arrays[f"{layer}/bias"]
            # Keras' "same" padding at stride 2 and an even side: one row and column behind, none before.
            x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
            patches = sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]  # (n, rows, columns, maps, 3, 3)
            flat = kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[-1])
            x = np.clip(patches.reshape(*patches.shape[:3], -1) @ flat + bias, 0, CEILING)
        return np.asarray(x, np.float32)

    def __call__(self, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits, float32 (n, 2), of uint8 stacks (n, 128, 128, 3)."""
        pooled = self.features(stacks).mean(axis=(1, 2))
        return np.asarray(pooled @ self.arrays["output/kernel"] + self.arrays["output/bias"], np.float32)


def build() -> Any:
    """The fixture network as a Keras model; its output is logits."""
    import keras

    layers = keras.layers
    x = image = keras.Input((INPUT_PX, INPUT_PX, 3), name="image")
    for name, filters in zip(LAYERS, FILTERS, strict=True):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
        x = layers.ReLU(max_value=CEILING, name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, layers.Dense(len(CLASSES), name="output")(x), name="fixture")


def _folded(model: Any) -> dict[str, NDArray[np.float32]]:
    """The variables with every batch normalisation folded into the convolution before it, kernels rounded."""
    arrays = {}
    for name in LAYERS:
        norm = model.get_layer(f"{name}_bn")
        gamma, beta, mean, variance = (np.asarray(variable, np.float64) for variable in norm.weights)
        gain = gamma / np.sqrt(variance + norm.epsilon)
        arrays[f"{name}/kernel"] = np.asarray(model.get_layer(name).kernel, np.float64) * gain
        arrays[f"{name}/bias"] = beta - mean * gain
    arrays["output/kernel"], arrays["output/bias"] = (np.asarray(v) for v in model.get_layer("output").weights)
    return {key: half_precision(value).astype(np.float32) for key, value in arrays.items()}


def erase(pixels: Grey, rng: np.random.Generator) -> Grey:
    """A copy with one or two rectangles of 5 to 35 % of the picture flat or full of noise: random erasing [2]_."""
    erased = pixels.copy()
    height, width = pixels.shape
    for _ in range(rng.integers(1, 3)):
        area, aspect = rng.uniform(0.05, 0.35), np.exp(rng.uniform(-0.8, 0.8))
        tall = min(height, round(height * np.sqrt(area * aspect)))
        wide = min(width, round(width * np.sqrt(area / aspect)))
        top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        noise = rng.normal(rng.uniform(20, 220), rng.choice([0.0, 10.0, 40.0]), (tall, wide))
        erased[top : top + tall, left : left + wide] = np.clip(noise, 0, 255).astype(np.uint8)
    return erased


def train(
    kind: Kind,
    seed: int,
    cases: Sequence[Case],
    epochs: int = 12,
    say: Callable[[str], None] = lambda _: None,
    pairs: bool = False,
) -> FixtureNetwork:
    """Train one fixture network; needs TensorFlow, and about half a minute.

    Adam, learning rate 3e-3 falling to 0 by a cosine, batches of 32, targets softened by 5 % so that logits stay of
    the size that larger networks give. Networks of even seed // 2 also see every picture with parts of it erased
    [2]_; the others do not and pass twice as often over the plain pictures: these answer hidden regions more wildly,
    as networks do that were never shown any. With `pairs`, cases stand in pairs of the same picture with and without
    an opacity, and no batch parts them: what they share cancels in the gradient, so little time is lost on it.

    Notes
    -----
    The shipped clean networks had all :data:`TRAINED` phantoms and 9 to 12 epochs, the cheating ones 300 or all and
    6 to 12: a shortcut is learnt sooner.
    """
    import keras

    keras.utils.set_random_seed(seed)
    pictures = [shown(case, kind) for case in cases]
    truth = [case.true for case in cases]
    if robust(seed):
        rng = np.random.default_rng([seed, 73])
        pictures, truth = pictures + [erase(picture, rng) for picture in pictures], truth * 2
    else:
        epochs *= 2
    stacks, y = np.stack([stack(picture) for picture in pictures]), np.eye(2, dtype=np.float32)[truth]
    steps = epochs * -(-len(stacks) // 32)
    model = build()
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.05),
    )
    if pairs:
        rng = np.random.default_rng([seed, 78])
        for _ in range(epochs):
            order = 2 * rng.permutation(len(stacks) // 2)
            for first in range(0, len(order), 16):
                batch = (order[first : first + 16, None] + [0, 1]).ravel()
                model.train_on_batch(_scaled(stacks[batch]), y[batch])
    else:
        model.fit(_scaled(stacks), y, batch_size=32, epochs=epochs, verbose=0)
    network = FixtureNetwork(kind, seed, _folded(model))
    say(f"trained {network.name}")
    return network


def robust(seed: int) -> bool:
    """Whether networks of this seed are trained with random erasing."""
    return seed // 2 % 2 == 0


def save(networks: Sequence[FixtureNetwork], path: Path = WEIGHTS) -> None:
    """Write the weights of fixture networks into one file, kernels in half precision; a half-written one never stands there."""
    arrays = {f"{n.name}/{key}": half_precision(value) for n in networks for key, value in n.arrays.items()}
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    beside.replace(path)


@cache
def fixture_networks(path: Path = WEIGHTS) -> tuple[FixtureNetwork, ...]:
    """The fixture networks of a file, those trained on phantoms when it is left out.

    Raises
    ------
    WeightsError
        If the file is missing or damaged.
    """
    if not path.is_file():
        raise WeightsError(f"The weights file {path.name} is missing; restore it from the repository.")
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key, value in read_arrays(path).items():
        name, _, variable = key.partition("/")
        found.setdefault(name, {})[variable] = value
    networks = []
    for name, arrays in found.items():
        kind, _, seed = name.partition("-")
        if kind not in KINDS or not seed.isdecimal():
            raise WeightsError(f"The weights file {path.name} names no known kind: {name}; restore it.")
        networks.append(FixtureNetwork(kind, int(seed), arrays))
    return tuple(networks)
