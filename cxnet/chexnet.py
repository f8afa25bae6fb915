"""Start from a CheXNet checkpoint that the user supplies; none is shipped.

Two public layouts are read: Keras ``.h5`` weights of a DenseNet-121 (CheXNet-Keras) and PyTorch ``.pth.tar``
state dictionaries with torchvision's parameter names, in their old (``norm.1``) and new (``norm1``) spelling,
with or without the ``module.densenet121.`` prefix. The classification layer is left out: COVID-CXNet has its own.

References
----------
.. [1] Rajpurkar P et al. CheXNet. arXiv:1711.05225
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import WeightsError

Arrays = dict[str, NDArray[np.float32]]

_KERAS_EPSILON, _TORCH_EPSILON = 1.001e-5, 1e-5
_TORCH_BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_LAYERS = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}


def load_checkpoint(path: Path, model: Any) -> int:
    """Set the DenseNet-121 backbone of a Keras model from a CheXNet checkpoint.

    Parameters
    ----------
    path : Path
        A ``.h5`` / ``.hdf5`` or ``.pth.tar`` / ``.pth`` / ``.pt`` file.
    model : keras.Model
        Built by :func:`cxnet.architectures.build_covid_cxnet`.

    Returns
    -------
    int
        Number of variables that were set: 604 for DenseNet-121.

    Raises
    ------
    WeightsError
        If the file cannot be read, or lacks a variable of the backbone. The model is then unchanged.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no checkpoint at {path}; give the path of a CheXNet .h5 or .pth.tar file.")
    arrays = _from_keras(path) if path.suffix in (".h5", ".hdf5") else from_torch(_read_torch(path))
    own_head = ("fc/", "output/")
    wanted = [variable for variable in model.weights if not variable.path.startswith(own_head)]
    for variable in wanted:
        array = arrays.get(variable.path)
        if array is None or array.shape != tuple(variable.shape):
            found = "nothing" if array is None else str(array.shape)
            raise WeightsError(
                f"{path.name} is not a DenseNet-121 checkpoint of CheXNet: {variable.path} should have the shape "
                f"{tuple(variable.shape)}, found {found}."
            )
    for variable in wanted:
        variable.assign(arrays[variable.path])
    return len(wanted)


def from_torch(state: Mapping[str, Any]) -> Arrays:
    """Keras variables by path from a PyTorch state dictionary of DenseNet-121.

    Convolution kernels go from (out, in, height, width) to (height, width, in, out). PyTorch adds 1e-5 to a
    variance and Keras's DenseNet 1.001e-5: the difference is taken off the stored variance.
    """
    arrays: Arrays = {}
    for key, value in state.items():
        spelling = re.sub(r"\.(norm|conv|relu)\.(\d)\.", r".\1\2.", key)
        found = re.search(r"features\.(.+)\.(\w+)$", spelling)
        if not found or found[2] == "num_batches_tracked":
            continue
        layer = _keras_layer(found[1])
        if layer is None:
            continue
        array = np.asarray(value, dtype=np.float32)
        if array.ndim == 4:
            arrays[f"{layer}/kernel"] = array.transpose(2, 3, 1, 0)
        else:
            if found[2] == "running_var":
                array = np.maximum(array + np.float32(_TORCH_EPSILON - _KERAS_EPSILON), 0)
            arrays[f"{layer}/{_TORCH_BATCH_NORM[found[2]]}"] = array
    return arrays


def _keras_layer(torch_layer: str) -> str | None:
    """Keras's name of a torchvision layer: ``denseblock1.denselayer2.norm1`` → ``conv2_block2_0_bn``."""
    fixed = {"conv0": "conv1_conv", "norm0": "conv1_bn", "norm5": "bn"}
    if torch_layer in fixed:
        return fixed[torch_layer]
    if found := re.fullmatch(r"denseblock(\d)\.denselayer(\d+)\.(\w+)", torch_layer):
        return f"conv{int(found[1]) + 1}_block{found[2]}_{_LAYERS[found[3]]}" if found[3] in _LAYERS else None
    if found := re.fullmatch(r"transition(\d)\.(norm|conv)", torch_layer):
        return f"pool{int(found[1]) + 1}_{'bn' if found[2] == 'norm' else 'conv'}"
    return None


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path.name} is a PyTorch checkpoint and PyTorch is not installed; install it with pip install torch."
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)  # never unpickles code
    except Exception as error:  # torch raises many types for a file that is no checkpoint
        raise WeightsError(f"{path.name} cannot be read as a PyTorch checkpoint of plain tensors: {error}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path.name} holds no state dictionary; give a CheXNet .pth.tar file.")
    state = content.get("state_dict", content)
    return {str(key): value.numpy() for key, value in state.items() if hasattr(value, "numpy")}


def _from_keras(path: Path) -> Arrays:
    import h5py

    arrays: Arrays = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            # "conv1/conv/conv1/conv/kernel:0", "conv1_conv/conv1_conv/kernel:0": the layer stands before the last part
            *parents, variable = name.split(":")[0].split("/")
            layer = "_".join(parents[len(parents) // 2 :]) if parents[: len(parents) // 2] else "_".join(parents)
            arrays[f"{layer}/{variable}"] = np.asarray(item, dtype=np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.get("model_weights", file).visititems(visit)
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read as a Keras .h5 file: {error}") from error
    return arrays
