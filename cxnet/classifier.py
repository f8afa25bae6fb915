"""Classify a radiograph: probabilities and the feature map that explains them, from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.engine import Network
from cxnet.enhance import Enhancement, Grey
from cxnet.errors import SettingsError, WeightsError
from cxnet.weights import Card, card


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Softmax over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float64)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of one radiograph.

    Parameters
    ----------
    classes : tuple of str
    logits : float32 array (classes,)
    features : float32 array (height, width, maps)
        Output of the feature layer, from the same forward pass.
    """

    classes: tuple[str, ...]
    logits: NDArray[np.float32]
    features: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.logits.shape != (len(self.classes),) or self.features.ndim != 3:
            raise SettingsError(
                f"Expected {len(self.classes)} logits and features (height, width, maps); received "
                f"{self.logits.shape} and {self.features.shape}."
            )
        for name in ("logits", "features"):
            array = getattr(self, name).copy()
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits, (classes,); not calibrated."""
        return softmax(self.logits)

    @property
    def predicted(self) -> str:
        """The class with the largest probability."""
        return self.classes[int(np.argmax(self.logits))]


@dataclass(frozen=True, eq=False)
class Head:
    """The dense layers between the mean of the feature maps and the logits; ReLU between them.

    Parameters
    ----------
    layers : tuple of (kernel, bias)
        float64 arrays (inputs, units) and (units,).
    """

    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]

    def gradients(self, pooled: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Exact gradient of every logit with respect to the pooled features: float64 (classes, maps)."""
        x = pooled.astype(np.float64)
        active = []
        for number, (kernel, bias) in enumerate(self.layers):
            x = x @ kernel + bias
            if number < len(self.layers) - 1:
                active.append(x > 0)
                x = np.maximum(x, 0)
        gradient = self.layers[-1][0].T
        for (kernel, _), on in zip(self.layers[-2::-1], active[::-1], strict=True):
            gradient = (gradient * on) @ kernel.T
        return np.asarray(gradient, np.float64)


class Classifier:
    """A shipped network that is ready to run. Thread-safe.

    Parameters
    ----------
    name : str
        A name of ``weights/manifest.toml``, such as "covid-cxnet".

    Raises
    ------
    WeightsError
        If there are no such weights, they are damaged, or they do not classify.
    """

    def __init__(self, name: str = "covid-cxnet") -> None:
        self.card: Card = card(name)
        if self.card.recipe.task != "classification":
            raise WeightsError(f"The weights {name!r} do not classify; choose a classification network.")
        self._network = Network(self.card)
        with np.load(self.card.path(".npz"), allow_pickle=False) as arrays:
            self.head = Head(
                tuple(
                    (arrays[f"{layer}/kernel"].astype(np.float64), arrays[f"{layer}/bias"].astype(np.float64))
                    for layer in self.card.recipe.pooled_head
                )
            )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    def prepare(self, pixels: Grey, enhancement: Enhancement | None = None) -> NDArray[np.uint8]:
        """The network's input as uint8 (size, size, 3), before scaling; channels in the order of its card."""
        enhancement = enhancement or Enhancement()
        return enhancement.stack(enhancement.grey(pixels, self.card.input_size_px))

    def logits(self, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits, float32 (n, classes), of stacks (n, size, size, 3)."""
        return self._network(stacks)["logits"]

    def predict(self, stack: NDArray[np.uint8]) -> Prediction:
        """Prediction of one stack (size, size, 3)."""
        results = self._network(stack[None])
        return Prediction(self.classes, results["logits"][0], results["features"][0])
