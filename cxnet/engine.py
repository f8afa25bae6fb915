"""Run networks fast: export a Keras model to OpenVINO once, then load and run it without TensorFlow."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.architectures import SCALING, Architecture
from cxnet.weights import Card, half_precision, keras_model


def _openvino() -> Any:
    """OpenVINO without the package that keeps an id in the home folder and reports its use to its maker."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def outputs_of(architecture: Architecture) -> dict[str, str]:
    """What is asked of a network, output name → layer name: "logits", for classifiers "features", perhaps "extra"."""
    if architecture.task != "classification":
        return {"logits": "output"}
    layers = {"features": str(architecture.feature_layer), "logits": architecture.dense[-1]}
    return layers | ({"extra": architecture.extra_layer} if architecture.extra_layer else {})


def export(model: Any, outputs: dict[str, str], path: Path) -> None:
    """Write a Keras model as OpenVINO ``.xml`` and ``.bin`` with the very values of the trainable file.

    Parameters
    ----------
    model : keras.Model
        One image input.
    outputs : dict
        Output name → layer name.
    path : Path
        Of the ``.xml`` file to write.

    Notes
    -----
    The variables enter the traced graph as parameters and are put back as constants afterwards. Otherwise the
    converter folds batch normalisation into the kernels before they are rounded to half precision, and the
    exported network would differ from the trainable one (by 6e-3 in the features of DenseNet-121, against 1e-5).
    """
    import keras
    import tensorflow as tf

    ov = _openvino()
    from openvino import opset13 as op

    network = keras.Model(model.input, [model.get_layer(layer).output for layer in outputs.values()])
    trainable = list(network.trainable_variables)
    variables = trainable + list(network.non_trainable_variables)

    def call(image: Any, *values: Any) -> dict[str, Any]:
        results, _ = network.stateless_call(
            list(values[: len(trainable)]), list(values[len(trainable) :]), image, training=False
        )
        results = results if isinstance(results, (list, tuple)) else [results]
        return dict(zip(outputs, results, strict=True))

    signature = [tf.TensorSpec(model.input.shape, tf.float32, name="image")]
    signature += [tf.TensorSpec(v.shape, tf.float32, name=f"variable{i}") for i, v in enumerate(variables)]
    graph = ov.convert_model(tf.function(call, input_signature=signature, autograph=False))
    parameters = {name: node for node in graph.get_parameters() for name in node.output(0).get_names()}
    for i, variable in enumerate(variables):
        parameter = parameters.get(f"variable{i}")
        if parameter is None:  # not needed for these outputs
            continue
        constant = op.convert(op.constant(half_precision(np.asarray(variable))), "f32")
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(constant.output(0))
        graph.remove_parameter(parameter)
    graph.validate_nodes_and_infer_types()
    ov.save_model(graph, path, compress_to_fp16=False)


class Network:
    """A network in OpenVINO on the CPU. Thread-safe: calls run one after another.

    Parameters
    ----------
    card : Card
        Its ``.xml`` and ``.bin`` are loaded after their checksums were compared. Where it has only the trainable form,
        that is converted first, which needs TensorFlow and some seconds.
    threads : int, optional
        As many as there are cores when left out; 1 where other processes use the other cores.
    """

    def __init__(self, card: Card, threads: int | None = None) -> None:
        ov = _openvino()
        core = ov.Core()
        if f"{card.stem}.xml" in card.files:
            card.path(".bin")
            graph = core.read_model(card.path(".xml"))
        else:
            with tempfile.TemporaryDirectory() as folder:
                export(keras_model(card), outputs_of(card.recipe), Path(folder) / "network.xml")
                graph = core.read_model(Path(folder) / "network.xml")
        mean, deviation = SCALING[card.scaling]
        steps = ov.preprocess.PrePostProcessor(graph)
        image = steps.input("image")
        image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        image.model().set_layout(ov.Layout("NHWC"))
        image.preprocess().convert_element_type(ov.Type.f32).mean(list(mean)).scale(list(deviation))
        # f32 everywhere: maps and probabilities must not depend on what the CPU offers.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            # Pinned, the threads of every process would share the first cores.
            options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        self._request = core.compile_model(steps.build(), "CPU", options).create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for uint8 images of shape (n, height, width, channels)."""
        with self._lock:
            results = self._request.infer({"image": np.ascontiguousarray(images)})
            return {output.get_any_name(): np.array(value) for output, value in results.items()}
