"""Classify a radiograph: probabilities and the feature map that explains them, from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cxnet.architectures import Architecture
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
    extra : float32 array (n,), optional
        What else the head hears (Deep-CXR-Net: its auxiliary networks' outputs).
    """

    classes: tuple[str, ...]
    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    extra: NDArray[np.float32] | None = None

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
    """What stands between the feature maps and the logits: pooling, then dense layers with ReLU between them.

    Parameters
    ----------
    layers : tuple of (kernel, bias)
        float64 arrays (inputs, units) and (units,).
    pooling : {"mean", "flatten"}
        Mean over places, or all values row by row.
    """

    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    pooling: Literal["mean", "flatten"] = "mean"

    @classmethod
    def of(cls, architecture: Architecture, arrays: Mapping[str, NDArray[Any]]) -> Head:
        """The head of an architecture, from its variables by path."""
        layers = tuple(
            (arrays[f"{layer}/kernel"].astype(np.float64), arrays[f"{layer}/bias"].astype(np.float64))
            for layer in architecture.dense
        )
        if architecture.pooling is None:
            raise SettingsError("A segmentation network has no classification head; choose a classifier.")
        return cls(layers, architecture.pooling)

    def gradients(self, pooled: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Exact gradient of every logit with respect to the first dense layer's input: float64 (classes, inputs)."""
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

    def map_weights(
        self, features: NDArray[np.floating[Any]], extra: NDArray[np.floating[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Grad-CAM's weight of each feature map for each logit: the gradient's mean over places.

        Parameters
        ----------
        features : array (height, width, maps)
        extra : array (n,), optional
            Further inputs of the first dense layer, behind the pooled features.

        Returns
        -------
        float64 array (classes, maps)
        """
        height, width, maps = features.shape
        pooled = features.mean(axis=(0, 1), dtype=np.float64) if self.pooling == "mean" else features.ravel()
        if extra is not None:
            pooled = np.concatenate([pooled, extra])
        if self.pooling == "mean":
            return np.asarray(self.gradients(pooled)[:, :maps] / (height * width), np.float64)
        gradients = self.gradients(pooled)[:, : height * width * maps]
        return np.asarray(gradients.reshape(len(gradients), -1, maps).mean(axis=1), np.float64)


class Classifier:
    """A network that is ready to run. Thread-safe.

    Parameters
    ----------
    name : str or Card
        A name of ``weights/manifest.toml``, such as "covid-cxnet", or of a stored fold, such as "base-cnn-v2/fold-0".
    threads : int, optional
        See :class:`cxnet.engine.Network`.

    Raises
    ------
    WeightsError
        If there are no such weights, they are damaged, or they do not classify.
    """

    def __init__(self, name: str | Card = "covid-cxnet", threads: int | None = None) -> None:
        self.card = card(name) if isinstance(name, str) else name
        if self.card.recipe.task != "classification":
            raise WeightsError(f"The weights {self.card.name!r} do not classify; choose a classification network.")
        self._network = Network(self.card, threads)
        with np.load(self.card.path(".npz"), allow_pickle=False) as arrays:
            self.head = Head.of(self.card.recipe, arrays)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    def prepare(self, pixels: Grey, enhancement: Enhancement | None = None) -> NDArray[np.uint8]:
        """The network's input as uint8 (size, size, 3), before scaling; channels in the order of its card."""
        enhancement = enhancement or self.card.enhancement
        return enhancement.stack(enhancement.grey(pixels, self.card.input_size_px), self.card.channels)

    def logits(self, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits, float32 (n, classes), of stacks (n, size, size, 3)."""
        return self._network(stacks)["logits"]

    def predict(self, stack: NDArray[np.uint8]) -> Prediction:
        """Prediction of one stack (size, size, 3)."""
        results = self._network(stack[None])
        extra = results["extra"][0] if "extra" in results else None
        return Prediction(self.classes, results["logits"][0], results["features"][0], extra)
