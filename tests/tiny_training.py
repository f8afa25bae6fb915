"""A network and a data set so small that a training takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from cxnet.architectures import ARCHITECTURES, Architecture
from cxnet.enhance import CHANNELS
from cxnet.phantom import make_phantom

CLASSES = ("COVID-19", "Normal", "Pneumonia")


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


def silent(sentence: str) -> None:
    """Says nothing."""
