"""How a narrow head starts and how fast it may learn.

References
----------
.. [1] Smith LN. Cyclical learning rates for training neural networks. WACV 2017. doi:10.1109/WACV.2017.58
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cxnet.chexnet import load_checkpoint
from cxnet.errors import SettingsError, WeightsError
from cxnet.weights import assign, read_arrays


def start_as_linear(network: Any, linear: Any, dense: tuple[str, ...]) -> None:
    """Set a narrow ReLU layer and the output behind it so that together they equal a trained linear output.

    With ``z = x W + b``: the first units are ``relu(z)``, the next ``relu(-z)``, and ``relu(z) - relu(-z) = z``.
    Units that are left keep their random start and an output weight of 0.

    Parameters
    ----------
    network : keras.Model
        Has the layers `dense`: the narrow one and the output.
    linear : keras.layers.Dense
        Trained; as many units as there are outputs.

    Raises
    ------
    SettingsError
        If the layer has fewer than two units an output.
    """
    narrow, output = (network.get_layer(name) for name in dense)
    kernel, bias = (np.asarray(w) for w in linear.get_weights())
    count, units = kernel.shape[1], narrow.kernel.shape[1]
    if units < 2 * count:
        raise SettingsError(f"A layer of {units} units cannot start as {count} linear outputs; it needs {2 * count}.")
    first, offset = (np.asarray(w).copy() for w in narrow.get_weights())
    second, last = (np.zeros_like(np.asarray(w)) for w in output.get_weights())
    first[:, : 2 * count] = np.concatenate([kernel, -kernel], axis=1)
    offset[: 2 * count] = np.concatenate([bias, -bias])
    second[: 2 * count] = np.concatenate([np.eye(count), -np.eye(count)])
    narrow.set_weights([first, offset])
    output.set_weights([second, last])


def learning_rate_range_test(
    model: Any, batch: Callable[[int], tuple[Any, Any]], low: float = 1e-6, high: float = 1e-1, steps: int = 60
) -> dict[str, Any]:
    """Learning-rate range test (Smith 2017 [1]_ §3.3): raise the rate exponentially, see where the loss falls fastest.

    Parameters
    ----------
    model : keras.Model
        Logits; its weights are changed, so keep a copy.
    batch : callable
        Step → (pictures, one-hot labels).

    Returns
    -------
    dict
        "rates" and "losses" (smoothed) of the steps until the loss passed four times its minimum, and "rate": where
        the smoothed loss has its steepest descent after the first ten steps, as Haghanifar et al. §5.1 read it off their Fig. 10.
    """
    import keras

    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True)
    compiled = False if keras.backend.backend() == "tensorflow" else "auto"  # as in training
    model.compile(keras.optimizers.Adam(low), loss_of, metrics=[], jit_compile=compiled)
    rates, losses, smoothed = [], [], 0.0
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        model.optimizer.learning_rate = rate
        loss = float(np.asarray(model.train_on_batch(*batch(step))).ravel()[0])
        smoothed = 0.9 * smoothed + 0.1 * loss
        losses.append(smoothed / (1 - 0.9 ** (step + 1)))
        rates.append(rate)
        if not np.isfinite(loss) or losses[-1] > 4 * min(losses):
            break
    finite = [value for value in losses if np.isfinite(value)]
    first = min(
        10, len(finite) // 2
    )  # before, the smoothed loss is the mean of a few batches, and its noise falls faster
    fall = np.gradient(finite[first:], np.log(rates[first : len(finite)])) if len(finite) > 3 else np.zeros(1)
    rate = rates[first + int(np.argmin(fall))] if len(finite) > 3 else low
    return {
        "rate": float(rate),
        "rates": [float(f"{r:.4g}") for r in rates[: len(finite)]],
        "losses": [round(value, 5) for value in finite],
    }


def start_from(network: Any, path: Path) -> set[str]:
    """Set the weights to start from: a ``.npz`` of this package, in part or whole, or a CheXNet checkpoint.

    Returns
    -------
    set of str
        Paths of the variables that were set by a ``.npz``; none are told for a checkpoint.

    Raises
    ------
    WeightsError
        If the file cannot be read, a shape differs, or nothing in it belongs to the network.
    """
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        head = {v.path: np.asarray(v) for v in network.weights if v.path not in arrays}
        if len(head) == len(network.weights):
            raise WeightsError(f"{path.name} has no variable of this network; give weights of the same architecture.")
        assign(network, {**head, **arrays})
        return {v.path for v in network.weights} - set(head)
    load_checkpoint(path, network)
    return set()
