"""Explanations of one prediction: maps of where a network found evidence for a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import SettingsError

#: Name → title, in the order in which they are shown.
METHODS = {
    "grad-cam": "Grad-CAM",
    "grad-cam++": "Grad-CAM++",
    "score-cam": "Score-CAM",
    "lime": "LIME",
}


@dataclass(frozen=True, eq=False)
class Explanation:
    """One map for one class, in the frame that the network saw.

    Parameters
    ----------
    method : str
        A key of :data:`METHODS`.
    target_class : str
    heatmap : float32 array (size, size)
        Raw, never stretched for display. Not negative for the CAMs; signed for LIME, in logits a superpixel.
    r2 : float or None
        Local fidelity R². For LIME the surrogate's weighted score; None for methods without a surrogate.
    r2_held_out : float or None
        The same on perturbations that the surrogate was not fitted to.
    samples : int or None
        Perturbed pictures that LIME used.
    stable : bool or None
        Whether LIME's top superpixels had settled.
    finished : bool
        False for a partial or cancelled explanation.
    segments : int32 array (size, size) or None
    weights, standard_errors : float64 array (superpixels,) or None
    """

    method: str
    target_class: str
    heatmap: NDArray[np.float32]
    r2: float | None = None
    r2_held_out: float | None = None
    samples: int | None = None
    stable: bool | None = None
    finished: bool = True
    segments: NDArray[np.int32] | None = None
    weights: NDArray[np.float64] | None = None
    standard_errors: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"Unknown method {self.method!r}; choose from {', '.join(METHODS)}.")
        if self.heatmap.ndim != 2 or not np.isfinite(self.heatmap).all():
            raise SettingsError(f"A heatmap is a finite array (height, width); received {self.heatmap.shape}.")
        for name in ("heatmap", "segments", "weights", "standard_errors"):
            array = getattr(self, name)
            if array is not None:
                array = np.array(array)
                array.setflags(write=False)
                object.__setattr__(self, name, array)

    @property
    def signed(self) -> bool:
        """Whether negative values mean evidence against the class."""
        return self.method == "lime"
