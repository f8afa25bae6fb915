"""Grad-CAM from the forward pass that made the prediction, and its relatives through tf-keras-vis.

References
----------
.. [1] Selvaraju RR et al. Grad-CAM. ICCV 2017. doi:10.1109/ICCV.2017.74
.. [2] Chattopadhay A et al. Grad-CAM++. WACV 2018. doi:10.1109/WACV.2018.00097
.. [3] Wang H et al. Score-CAM. CVPR Workshops 2020. arXiv:1910.01279
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.architectures import SCALING
from cxnet.classifier import Head, Prediction
from cxnet.weights import card, keras_model

#: Score-CAM masks the picture with this many of the most active feature maps; all 1,024 take minutes on a CPU.
SCORE_CAM_MAPS = 32

_lock = threading.Lock()


def grad_cam(prediction: Prediction, head: Head) -> NDArray[np.float32]:
    """Grad-CAM [1]_ of every class: ReLU of the gradient-weighted sum of the feature maps.

    Parameters
    ----------
    prediction : Prediction
    head : Head
        The layers after the feature layer.

    Returns
    -------
    float32 array (classes, height, width)
        Raw values on the feature layer's grid, not stretched.

    Notes
    -----
    Equations 1 and 2 of the paper, on the logit. The head after the feature layer is small, so its gradient is had
    in closed form and no second pass through the network is needed.
    """
    features = prediction.features
    height, width, maps = features.shape
    weights = head.map_weights(features, prediction.extra)
    cams = features.reshape(-1, maps).astype(np.float64) @ weights.T
    return np.asarray(np.maximum(cams, 0).T.reshape(-1, height, width), np.float32)


@lru_cache(maxsize=2)
def _visualised(name: str, method: str) -> Any:
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.scorecam import Scorecam

    model = keras_model(card(name), activation=None)
    return {"grad-cam": Gradcam, "grad-cam++": GradcamPlusPlus, "score-cam": Scorecam}[method](model, clone=False)


def by_tf_keras_vis(
    name: str, method: str, stack: NDArray[np.uint8], target: int, score_cam_maps: int = SCORE_CAM_MAPS
) -> NDArray[np.float32]:
    """Grad-CAM [1]_ (as the reference), Grad-CAM++ [2]_ or Score-CAM [3]_ by tf-keras-vis, on the logit.

    The first call imports TensorFlow and takes several seconds.

    Parameters
    ----------
    name : str
        Name of the weights.
    method : {"grad-cam", "grad-cam++", "score-cam"}
    stack : uint8 array (size, size, 3)
    target : int
        Index of the class.
    score_cam_maps : int
        Feature maps that Score-CAM uses.

    Returns
    -------
    float32 array (height, width)
        Raw and not negative, on the feature layer's grid.
    """
    model_card = card(name)
    mean, deviation = SCALING[model_card.scaling]
    image = (stack.astype(np.float32) - np.array(mean, np.float32)) / np.array(deviation, np.float32)
    options: dict[str, Any] = {
        # The default picks the last convolution (32 growth maps of DenseNet-121), which is another heatmap.
        "penultimate_layer": model_card.feature_layer,
        "seek_penultimate_conv_layer": False,
        "expand_cam": False,
        "normalize_cam": False,
    }
    if method == "score-cam":
        options["max_N"] = score_cam_maps
    with _lock:  # Keras models are not safe to share between threads
        cam = _visualised(name, method)(lambda output: output[:, target], image[None], **options)
    return np.asarray(np.maximum(np.asarray(cam)[0], 0), np.float32)
