"""How networks are trained: one literal table of recipes, named after the papers, and the augmentation they use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training picture; each is drawn evenly from its range.

    Parameters
    ----------
    rotation_deg : float
        Up to this to either side.
    shift, zoom : float
        Shares of the side.
    flip_horizontal, flip_vertical : bool
        With probability one half.
    gain : float
        Share by which all grey levels are made brighter or darker.
    gamma : float
        Exponent ``exp(u)``, u up to this to either side.

    Notes
    -----
    The enhanced channels are changed together, after enhancement: a channel is not enhanced anew for each change, so that
    prepared pictures can be kept. Dialameh et al. §4.1 change first and equalise then. What moves in from outside is
    black.
    """

    rotation_deg: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip_horizontal: bool = False
    flip_vertical: bool = False
    gain: float = 0.0
    gamma: float = 0.0

    def __call__(self, stack: Pictures, rng: np.random.Generator) -> Pictures:
        """A changed copy of a picture (size, size, channels)."""
        size = stack.shape[0]
        angle, scale = rng.uniform(-1, 1) * self.rotation_deg, 1 + rng.uniform(-1, 1) * self.zoom
        move, flips = rng.uniform(-1, 1, 2) * self.shift * size, rng.random(2) < 0.5
        gain, exponent = 1 + rng.uniform(-1, 1) * self.gain, np.exp(rng.uniform(-1, 1) * self.gamma)
        affine = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, scale)
        affine[:, 2] += move
        if self.flip_horizontal and flips[0]:
            affine = affine @ np.array([[-1, 0, size - 1], [0, 1, 0], [0, 0, 1.0]])
        if self.flip_vertical and flips[1]:
            affine = affine @ np.array([[1, 0, 0], [0, -1, size - 1], [0, 0, 1.0]])
        changed = cv2.warpAffine(stack, affine, (size, size))
        if self.gain or self.gamma:
            levels = 255 * gain * (np.arange(256) / 255) ** exponent
            changed = cv2.LUT(changed, np.clip(np.rint(levels), 0, 255).astype(np.uint8))
        return np.asarray(changed, np.uint8).reshape(stack.shape)


@dataclass(frozen=True)
class Recipe:
    """Everything about a training that is not the network or the data.

    Parameters
    ----------
    learning_rate : float or None
        Peak; None finds it by the range test (Smith 2017).
    schedule : {"constant", "cosine"}
        "cosine" rises for the first 5 % of the steps and then falls to 1 % of the peak.
    phases : int
        More than one: consecutive balanced phases as in Rahimzadeh & Attar §2.2. Every phase has all cases of the
        rarest class and `common_other` of each class that shares a source with it; the others are divided among the
        phases. `epochs` is per phase.
    linear_share : float
        Share of the epochs that a network with a narrow ReLU layer is trained with a linear output in its place. The
        layer then starts as an exact copy of that output, see :func:`cxnet.training.start_as_linear`. Without it,
        from scratch, nine of COVID-CXNet's ten units die in the first steps.
    frozen_backbone : bool
        Only the layers after the feature layer learn; useless without pretrained weights, so these are demanded.
    """

    paper: str
    epochs: int
    batch_size: int
    optimizer: Literal["adam", "adamw", "nadam"] = "adam"
    learning_rate: float | None = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    class_weights: bool = False
    augmentation: Augmentation = Augmentation()
    histogram_matching: bool = False
    phases: int = 1
    common_other: int = 0
    linear_share: float = 0.0
    frozen_backbone: bool = False


RECIPES: dict[str, Recipe] = {
    "haghanifar-base": Recipe(
        paper="Haghanifar et al. 2022, §5.1 and §3.2: Adam, learning rate by the range test (about 1e-4), 100 to 120 "
        "epochs, classes weighted (here by the root of their rarity), rotation, brightness and scale altered. The ranges "
        "are not printed: 10 degrees, 10 % brightness, 10 % zoom.",
        epochs=120, batch_size=32, learning_rate=None, class_weights=True,
        augmentation=Augmentation(rotation_deg=10, zoom=0.1, gain=0.1),
    ),
    "haghanifar-pretrained": Recipe(
        paper="Haghanifar et al. 2022, §5.2 and §3.2: fine-tuned for 20 epochs, batch 32, rotation, brightness and scale "
        "altered by ranges that are not printed (10 degrees, 10 %, 10 %)",
        epochs=20, batch_size=32, learning_rate=1e-4,
        augmentation=Augmentation(rotation_deg=10, zoom=0.1, gain=0.1),
    ),
    "haghanifar-covid-cxnet": Recipe(
        paper="Haghanifar et al. 2022, §5.3: 30 epochs for three classes (10 for two), batch 16, label smoothing, "
        "zoom and brightness besides the usual augmentation, histogram matching for three classes. The ranges are not "
        "printed: 10 degrees, 10 % zoom, 10 % brightness, smoothing 0.1; 5 % shift and mirroring are added here.",
        epochs=30, batch_size=16, learning_rate=1e-4, label_smoothing=0.1, histogram_matching=True,
        augmentation=Augmentation(rotation_deg=10, shift=0.05, zoom=0.1, flip_horizontal=True, gain=0.1),
    ),
    "rahimzadeh": Recipe(
        paper="Rahimzadeh & Attar 2020, table 2 and §2.2: Nadam 1e-4, eight balanced phases of 100 epochs, batch 20 "
        "(30 for the single networks), flips, 5 % zoom and shift, rotation 0 to 360 degrees",
        epochs=100, batch_size=20, optimizer="nadam", learning_rate=1e-4, phases=8, common_other=34,
        augmentation=Augmentation(rotation_deg=180, shift=0.05, zoom=0.05, flip_horizontal=True, flip_vertical=True),
    ),
    "kurz": Recipe(
        paper="Kurz et al. 2020, table 2: Adam 0.001, dropout 0.3, 60 epochs, frozen, rotation 10 degrees",
        epochs=60, batch_size=32, learning_rate=1e-3, frozen_backbone=True,
        augmentation=Augmentation(rotation_deg=10),
    ),
    "dialameh": Recipe(
        paper="Dialameh et al. 2020, §4: Adam 1e-5, rotation 15 degrees, 5 % translation; epochs are not printed: 60",
        epochs=60, batch_size=16, learning_rate=1e-5,
        augmentation=Augmentation(rotation_deg=15, shift=0.05),
    ),
    "strong": Recipe(
        paper="cxnet's own, for training from scratch: AdamW with warm-up and cosine, classes weighted by rarity",
        epochs=45, batch_size=32, optimizer="adamw", learning_rate=1e-3, schedule="cosine", weight_decay=0.02,
        label_smoothing=0.05, class_weights=True, linear_share=0.8,
        augmentation=Augmentation(
            rotation_deg=10, shift=0.05, zoom=0.12, flip_horizontal=True, gain=0.2, gamma=0.35
        ),
    ),
}  # fmt: skip


def phases_of(
    labels: NDArray[Any], sources: NDArray[Any], recipe: Recipe, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Cases of each consecutive phase (Rahimzadeh & Attar §2.2, flowchart 3).

    Parameters
    ----------
    labels, sources : arrays (cases,)
    recipe : Recipe
        `phases` and `common_other`.

    Returns
    -------
    list of int64 arrays
        Indices. All cases of the rarest class are in every phase; so are up to `common_other` cases of other classes
        from the rarest class's sources; every further case is in exactly one phase.

    Notes
    -----
    The paper takes 250 normal and 200 pneumonia cases a phase, which its data allow; here the rest is divided evenly.
    """
    if recipe.phases == 1:
        return [np.arange(len(labels))]
    names, counts = np.unique(labels, return_counts=True)
    rare = labels == names[counts.argmin()]
    shared = np.flatnonzero(~rare & np.isin(sources, np.unique(sources[rare])))
    common = rng.permutation(shared)[: recipe.common_other]
    rest = np.setdiff1d(np.flatnonzero(~rare), common)
    parts: list[list[int]] = [[] for _ in range(recipe.phases)]
    for name in names:
        cases = rng.permutation(rest[labels[rest] == name])
        for number, part in enumerate(np.array_split(cases, recipe.phases)):
            parts[number] += part.tolist()
    always = [*np.flatnonzero(rare).tolist(), *common.tolist()]
    return [np.sort(np.array(always + part, np.int64)) for part in parts]
