"""LIME for radiographs: superpixels that respect the lungs, seeded samples, results while it runs.

The surrogate is the ``lime`` package's own (:class:`lime.lime_base.LimeBase`, ridge with alpha 1 and the cosine
kernel); for the same samples its weights are those of ``lime_image.LimeImageExplainer``. What differs is around it:
the sampler is seeded (the package seeds only its segmentation), perturbed pictures are made in one step, and the
default draws a balanced design and stops once the result has settled.

References
----------
.. [1] Ribeiro MT, Singh S, Guestrin C. "Why should I trust you?" KDD 2016. doi:10.1145/2939672.2939778
.. [2] Visani G et al. Statistical stability indices for LIME. J Oper Res Soc 2022. arXiv:2001.11757
.. [3] Plackett RL, Burman JP. The design of optimum multifactorial experiments. Biometrika 1946.
       doi:10.1093/biomet/33.4.305
.. [4] Achanta R et al. SLIC superpixels. IEEE TPAMI 2012. doi:10.1109/TPAMI.2012.120
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.errors import SettingsError

Stack = NDArray[np.uint8]
Predict = Callable[[Stack], NDArray[np.floating[Any]]]

#: Refit after this many samples; also the rhythm of partial results.
REFIT_EVERY = 16
#: Settled is what led at so many refits in a row.
EQUAL_REFITS = 8


@dataclass(frozen=True)
class LimeSettings:
    """How LIME samples.

    Parameters
    ----------
    samples : int
        Perturbed pictures at most; the picture itself is the first.
    design : {"balanced", "random"}
        "random" draws every superpixel on or off by a coin, as the ``lime`` package does. "balanced" takes rows of a
        Hadamard matrix [3]_, each followed by its complement: within a block every superpixel is on half of the
        time, any two are independent, and no interaction of two superpixels leaks into a weight.
    seed : int
    kernel_width : float
        Of the cosine kernel; 0.25 in the package.
    fill : {"blur", "mean", "black"}
        What hides a superpixel: the blurred picture, its own mean colour (the package's default), or 0. Blur is the
        default because flat or black patches have sharp edges, which look like findings to a network.
    batch_size : int
        Pictures a call of the network; small, so that cancelling is quick.
    stop_when_stable : bool
        Stop early, see :func:`explain_lime`.
    top_k : int
        Superpixels whose order must settle.
    """

    samples: int = 1000
    design: Literal["balanced", "random"] = "balanced"
    seed: int = 0
    kernel_width: float = 0.25
    fill: Literal["blur", "mean", "black"] = "blur"
    batch_size: int = 4
    stop_when_stable: bool = True
    top_k: int = 5

    def __post_init__(self) -> None:
        if not 16 <= self.samples <= 100_000:
            raise SettingsError(f"LIME needs from 16 to 100000 samples; received {self.samples}.")
        if self.design not in ("balanced", "random") or self.fill not in ("blur", "mean", "black"):
            raise SettingsError(f"LIME knows no design {self.design!r} with fill {self.fill!r}.")
        if not self.kernel_width > 0 or not 1 <= self.batch_size <= 256 or not 1 <= self.top_k <= 50:
            raise SettingsError("LIME needs a kernel width above 0, 1 to 256 pictures a batch and a top 1 to 50.")
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"LIME needs a seed from 0 to 2**32 - 1; received {self.seed}.")


@dataclass(frozen=True, eq=False)
class LimeExplanation:
    """Weights of all superpixels for one class, final or so far.

    Parameters
    ----------
    target_class : int
    weights, standard_errors : float64 array (superpixels,)
        In units of what the network gave (logits). Standard errors are those of a weighted ridge regression
        (Visani et al. [2]_): ``s² (X'WX + αI)⁻¹ X'WX (X'WX + αI)⁻¹``.
    intercept : float
    r2 : float
        Weighted R² of the surrogate on its own samples, the package's ``score``.
    r2_held_out : float or None
        Weighted R² with every sample predicted by a surrogate fitted without it (in closed form).
    samples : int
    stable, finished : bool
    segments : int32 array (height, width)
    """

    target_class: int
    weights: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    intercept: float
    r2: float
    r2_held_out: float | None
    samples: int
    stable: bool
    finished: bool
    segments: NDArray[np.int32]

    def heatmap(self) -> NDArray[np.float32]:
        """The weight of every pixel's superpixel, signed: float32 (height, width)."""
        return self.weights[self.segments].astype(np.float32)

    def top(self, k: int = 5) -> tuple[int, ...]:
        """The k superpixels with the largest weight by size, largest first."""
        return tuple(np.argsort(-np.abs(self.weights), kind="stable")[:k].tolist())


def superpixels(
    grey: NDArray[np.uint8], lungs: NDArray[np.bool_] | None = None, count: int = 60, seed: int = 0
) -> NDArray[np.int32]:
    """Connected SLIC superpixels [4]_ of the raw grey picture, each wholly inside or outside the lungs.

    Parameters
    ----------
    grey : uint8 array (height, width)
    lungs : bool array (height, width), optional
    count : int
        Superpixels aimed at before the outline splits some.
    seed : int
        Shifts the grid on which SLIC starts by up to half a cell; 0 leaves it.

    Returns
    -------
    int32 array (height, width)
        Labels from 0, none missing, in the order of first appearance.
    """
    from skimage.measure import label
    from skimage.segmentation import slic

    if grey.ndim != 2 or grey.dtype != np.uint8 or (lungs is not None and lungs.shape != grey.shape):
        raise SettingsError("Superpixels need a grey uint8 picture and a lung mask of the same shape.")
    if not 1 <= count <= grey.size:
        raise SettingsError(f"Superpixels must be from 1 to the number of pixels; received {count}.")
    picture = cv2.GaussianBlur(grey, (0, 0), 1.0).astype(np.float64) / 255
    pad = (
        0
        if seed == 0
        else int(np.random.default_rng(seed).integers(1, 1 + max(1, round((grey.size / count) ** 0.5 / 2))))
    )
    padded = np.pad(picture, ((pad, 0), (pad, 0)), mode="edge")
    segments = slic(padded, n_segments=count, compactness=0.1, channel_axis=None, start_label=0)[pad:, pad:]
    side = np.zeros(grey.shape, np.int64) if lungs is None else lungs.astype(np.int64)
    segments = label(segments * 2 + side + 1, connectivity=1, background=0) - 1
    return _merge_crumbs(segments, side, picture, max(4, round(0.2 * grey.size / count)))


def _merge_crumbs(
    segments: NDArray[np.integer[Any]], side: NDArray[np.int64], picture: NDArray[np.float64], least_area: int
) -> NDArray[np.int32]:
    """Give every superpixel under `least_area` to the most alike neighbour on its side of the outline."""
    flat = segments.ravel()
    count = int(flat.max()) + 1
    area = np.bincount(flat, minlength=count).astype(float)
    grey = np.bincount(flat, picture.ravel(), minlength=count)
    inside = np.zeros(count, np.int64)
    inside[flat] = side.ravel()
    neighbours: list[set[int]] = [set() for _ in range(count)]
    for a, b in ((segments[:, :-1], segments[:, 1:]), (segments[:-1], segments[1:])):
        for first, second in np.unique(np.stack([a[a != b], b[a != b]], axis=1), axis=0).tolist():
            neighbours[first].add(second)
            neighbours[second].add(first)
    into = np.arange(count)
    for crumb in np.argsort(area, kind="stable").tolist():
        if area[crumb] >= least_area:
            continue
        alike = [n for n in neighbours[crumb] if inside[n] == inside[crumb]]
        if not alike:
            continue  # an island within the other side stays what it is
        own = grey[crumb] / area[crumb]
        best = min(alike, key=lambda n: (abs(grey[n] / area[n] - own), n))
        into[into == crumb] = best
        area[best] += area[crumb]
        grey[best] += grey[crumb]
        for other in neighbours[crumb]:
            neighbours[other].discard(crumb)
            if other != best:
                neighbours[other].add(best)
                neighbours[best].add(other)
    merged = into[segments]
    _, first_seen, inverse = np.unique(merged, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first_seen))
    return np.asarray(rank[inverse].reshape(segments.shape), np.int32)


def _hadamard(least: int) -> NDArray[np.int8]:
    """Smallest Hadamard matrix of Paley's first construction with at least `least` rows; entries ±1."""
    q = max(3, least - 1)
    while q % 4 != 3 or any(q % d == 0 for d in range(2, int(q**0.5) + 1)):
        q += 1
    residues = np.full(q, -1)
    residues[np.unique(np.arange(1, q) ** 2 % q)] = 1
    residues[0] = 0
    jacobsthal = residues[(np.arange(q)[:, None] - np.arange(q)) % q]
    skew = np.block([[np.zeros((1, 1)), np.ones((1, q))], [-np.ones((q, 1)), jacobsthal]])
    return np.asarray(np.eye(q + 1) + skew, np.int8)


def draw_rows(count: int, settings: LimeSettings) -> NDArray[np.int64]:
    """Which superpixels each sample keeps: int64 (samples, count) of 0 and 1, the first row all 1."""
    if settings.design == "random":  # the very stream of the lime package
        rows = np.random.RandomState(settings.seed).randint(0, 2, settings.samples * count)
        rows = rows.reshape(settings.samples, count).astype(np.int64)
        rows[0] = 1
        return rows
    rng = np.random.default_rng(settings.seed)
    matrix = _hadamard(count + 1)
    # Signs first, so that the first row and column are all 1; then the columns after it are balanced.
    matrix = matrix * matrix[0] * (matrix[:, :1] * matrix[0, 0])
    blocks: list[NDArray[Any]] = [np.ones((1, count))]
    drawn = 1
    while drawn < settings.samples:
        order = rng.permutation(len(matrix))
        columns = 1 + rng.permutation(len(matrix) - 1)[:count]
        block = matrix[order][:, columns] * rng.choice((-1, 1), count)
        pairs = np.stack([block, -block], axis=1).reshape(-1, count)  # every row, then its complement
        blocks.append((pairs + 1) // 2)
        drawn += len(pairs)
    return np.concatenate(blocks)[: settings.samples].astype(np.int64)


def block_rows(count: int) -> int:
    """Samples of one complete block of the balanced design."""
    return 2 * len(_hadamard(count + 1))


def _filled(stack: Stack, segments: NDArray[np.int32], fill: str) -> Stack:
    """The picture in which everything is hidden."""
    if fill == "black":
        return np.zeros_like(stack)
    if fill == "blur":
        return np.asarray(cv2.GaussianBlur(stack, (0, 0), max(stack.shape[:2]) / 16), np.uint8).reshape(stack.shape)
    area = np.bincount(segments.ravel())
    means = [np.bincount(segments.ravel(), channel.ravel()) / area for channel in np.moveaxis(stack, -1, 0)]
    return np.stack(means, axis=-1).astype(np.uint8)[segments]  # truncated, as the lime package does


def explain_lime(
    stack: Stack,
    segments: NDArray[np.int32],
    predict: Predict,
    targets: Sequence[int],
    settings: LimeSettings | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[dict[int, LimeExplanation]]:
    """Explain classes of one picture; yields what is known so far, then the result.

    Parameters
    ----------
    stack : uint8 array (height, width, channels)
        The enhanced picture; superpixels are hidden in it without enhancing again.
    segments : int32 array (height, width)
        Labels from 0, none missing; see :func:`superpixels`.
    predict : callable
        uint8 (n, height, width, channels) → float (n, classes). Give logits.
    targets : sequence of int
        Classes; one pass through the network serves all of them.
    settings : LimeSettings, optional
    cancel : threading.Event, optional
        Set it to stop; the last yield then says ``finished=False``.

    Yields
    ------
    dict of int to LimeExplanation

    Raises
    ------
    SettingsError
        If the superpixels are misnumbered or fewer than two, or the network gives no finite (n, classes) array.

    Notes
    -----
    With ``stop_when_stable`` it stops, at the end of a refit and not before one complete block of the balanced
    design (twice the superpixels plus a few) or as many random samples, when for every class the same `top_k`
    superpixels led at the last :data:`EQUAL_REFITS` refits. Settled does not mean right: read the standard errors and R² too.
    """
    settings = settings or LimeSettings()
    count = int(segments.max()) + 1
    if segments.shape != stack.shape[:2] or count < 2 or len(np.unique(segments)) != count or segments.min() != 0:
        raise SettingsError("LIME needs at least two superpixels, numbered from 0 without gaps, on the picture's grid.")
    if not targets:
        raise SettingsError("LIME needs at least one class to explain.")
    rows = draw_rows(count, settings)
    hidden = _filled(stack, segments, settings.fill)
    outputs: list[NDArray[np.float64]] = []
    leaders: dict[int, list[frozenset[int]]] = {target: [] for target in targets}
    done = 0
    found: dict[int, LimeExplanation] = {}
    while done < len(rows):
        if cancel is not None and cancel.is_set():
            break
        batch = rows[done : done + settings.batch_size].astype(np.bool_)
        pictures = np.where(batch[:, segments][..., None], stack, hidden)
        output = np.asarray(predict(pictures), np.float64)
        if output.ndim != 2 or len(output) != len(batch) or output.shape[1] <= max(targets):
            raise SettingsError(f"The network must give (n, classes) numbers; received shape {output.shape}.")
        if not np.isfinite(output).all():
            raise SettingsError("The network gave a value that is not finite for a perturbed picture.")
        outputs.append(output)
        before, done = done, done + len(batch)
        complete = done == len(rows)
        if not complete and before // REFIT_EVERY == done // REFIT_EVERY:
            continue
        found = _fit(rows[:done], np.concatenate(outputs), targets, segments, settings.kernel_width)
        for target in targets:
            leaders[target].append(frozenset(found[target].top(settings.top_k)))
        stable = done > block_rows(count) and all(
            len(ls) >= EQUAL_REFITS and len(set(ls[-EQUAL_REFITS:])) == 1 for ls in leaders.values()
        )
        finished = complete or (stable and settings.stop_when_stable)
        found = {t: _marked(e, stable, finished) for t, e in found.items()}
        yield found
        if finished:
            return
    if outputs:  # cancelled
        found = _fit(rows[:done], np.concatenate(outputs), targets, segments, settings.kernel_width)
        yield found


def _marked(explanation: LimeExplanation, stable: bool, finished: bool) -> LimeExplanation:
    from dataclasses import replace

    return replace(explanation, stable=stable, finished=finished)


def _fit(
    rows: NDArray[np.int64],
    outputs: NDArray[np.float64],
    targets: Sequence[int],
    segments: NDArray[np.int32],
    kernel_width: float,
) -> dict[int, LimeExplanation]:
    from lime.lime_base import LimeBase

    # Cosine distance to the first row, all ones: 1 - sqrt(share of superpixels kept); 1 where nothing is kept.
    distances = 1.0 - np.sqrt(rows.mean(axis=1))
    distances[0] = 0.0
    kernel = np.sqrt(np.exp(-(distances**2) / kernel_width**2))
    base = LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / kernel_width**2)), random_state=0)
    count = rows.shape[1]
    # What the errors need, once for all classes: weighted ridge with an intercept that is not penalised.
    mean = kernel @ rows / kernel.sum()
    centred = rows - mean
    gram = (centred * kernel[:, None]).T @ centred
    inverse = np.linalg.inv(gram + np.eye(count))
    leverage = kernel * ((centred @ inverse) * centred).sum(axis=1) + kernel / kernel.sum()
    sandwich = np.einsum("ij,jk,ki->i", inverse, gram, inverse)
    freedom = len(rows) - count - 1
    result = {}
    for target in targets:
        intercept, pairs, score, _ = base.explain_instance_with_data(
            rows, outputs, distances, target, count, feature_selection="none"
        )
        weights = np.zeros(count)
        for superpixel, weight in pairs:
            weights[superpixel] = weight
        y = outputs[:, target]
        residual = y - intercept - rows @ weights
        spread = float(kernel @ (y - kernel @ y / kernel.sum()) ** 2)
        held_out = None
        if freedom > 0 and spread > 0:
            held_out = 1 - float(kernel @ (residual / np.maximum(1 - leverage, 1e-9)) ** 2) / spread
        variance = float(kernel @ residual**2) / max(1, freedom)
        result[target] = LimeExplanation(
            target_class=target,
            weights=weights,
            standard_errors=np.sqrt(np.maximum(variance * sandwich, 0)),
            intercept=float(intercept),
            r2=float(score),
            r2_held_out=held_out,
            samples=len(rows),
            stable=False,
            finished=False,
            segments=segments,
        )
    return result


def vsi(explanations: Sequence[LimeExplanation], k: int = 5) -> float | None:
    """Variables stability index [2]_: mean share of the top k that two runs have in common, 0 to 1.

    None for fewer than two runs.
    """
    tops = [set(e.top(k)) for e in explanations]
    pairs = [len(a & b) / k for a, b in combinations(tops, 2)]
    return float(np.mean(pairs)) if pairs else None


def csi(explanations: Sequence[LimeExplanation]) -> float | None:
    """Coefficients stability index [2]_: mean share of pairs of runs whose 95 % intervals of a weight overlap.

    None for fewer than two runs.
    """
    pairs = [
        float((np.abs(a.weights - b.weights) <= 1.96 * (a.standard_errors + b.standard_errors)).mean())
        for a, b in combinations(explanations, 2)
    ]
    return float(np.mean(pairs)) if pairs else None
