"""Which radiographs are copies of one another, and which cases must therefore stay on one side of a split.

Public collections took over one another's pictures: re-encoded, resized, cropped, brightened. A copy in the training
half of one that is held out makes every score too good, so copies share a group.

Notes
-----
How it is done, for n pictures:

1. *Fingerprint*, O(n), one decoding each: a grey thumbnail of 96 x 96 pixels (9 kB).
2. *Candidates*, O(n²) multiply-adds by matrix products in blocks: the thumbnail without its local mean and contrast
   (which undoes gamma, brightness and enhancement) as a unit vector of 16 x 16 numbers, of the whole picture and of
   its central 94 and 88 %. A pair is a candidate where a vector of one correlates with a whole one of the other.
   About 1 in 300 pairs of different patients pass, because chests are alike.
3. *Confirmation* of each candidate, 1 to 2 ms: the central three quarters of one thumbnail are aligned with the other
   by an affine warp (enhanced correlation coefficient [1]_), and their correlation after alignment is the similarity.

20,000 pictures need about 180 MB for thumbnails, 60 MB for vectors, 500 MB for a block of products, minutes for
reading, and, extrapolated from the 15 s that 2,449 took, a quarter of an hour of two cores for the pairs; that part
grows with n².

Calibrated on 2,449 radiographs of four public collections: copies made from 300 of them (JPEG quality 30, halved,
224 x 224, cropped by up to 5 % a side, gamma 0.6 to 1.6, brightness + 40, all at once) score at least 0.92. Of 3
million pairs of different groups, 25 scored above 0.96 and were, by eye, true copies that the collections had hidden;
the next ones score below 0.80 and are different patients. The threshold lies between.

Not found: negatives, rotations of more than a few degrees, crops of more than about 8 % a side, a picture pasted into
a larger page. Two exposures of one patient are not copies; only patient identifiers can join them. Drawn phantoms of
different seeds do count as copies, as they share their anatomy.

References
----------
.. [1] Evangelidis GD, Psarakis EZ. Parametric image alignment using enhanced correlation coefficient maximization.
   IEEE TPAMI 2008;30(10):1858-65. doi:10.1109/TPAMI.2008.113
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.errors import RadiographError, SettingsError
from cxnet.radiograph import open_radiograph

#: Called with what is being done, how many are done, and of how many.
Progress = Callable[[str, int, int], None]

THUMBNAIL_PX = 96
#: Similarity from which two pictures count as copies; see the calibration above.
THRESHOLD = 0.87
#: Correlation of the coarse vectors from which a pair is looked at more closely.
CANDIDATE = 0.82
#: Below this, before the alignment, different anatomy is certain and the alignment is not tried.
_HOPELESS = 0.45
_CENTRES = (1.0, 0.94, 0.88)
_VECTOR_SIDE = 16
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of a picture to compare it with others.

    Parameters
    ----------
    sha256 : str
        Of the file's bytes.
    thumbnail : uint8 array (96, 96)
        Area means; both sides are scaled to 96, whatever the aspect. Read-only.
    """

    sha256: str
    thumbnail: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.thumbnail.shape != (THUMBNAIL_PX, THUMBNAIL_PX) or self.thumbnail.dtype != np.uint8:
            raise SettingsError(
                f"A fingerprint needs a uint8 thumbnail of {THUMBNAIL_PX} x {THUMBNAIL_PX}; received "
                f"{self.thumbnail.dtype} {self.thumbnail.shape}."
            )
        thumbnail = np.array(self.thumbnail, order="C")
        thumbnail.setflags(write=False)
        object.__setattr__(self, "thumbnail", thumbnail)


@dataclass(frozen=True, order=True)
class Duplicate:
    """A pair of pictures that are copies of one another.

    Parameters
    ----------
    first, second : int
        Their places in what was searched, first < second.
    similarity : float
        Correlation after alignment, at most 1.
    mirrored : bool
        One is the mirror image of the other.
    """

    first: int
    second: int
    similarity: float
    mirrored: bool = False


@dataclass(frozen=True)
class NearDuplicates:
    """Result of a search.

    Parameters
    ----------
    pairs : tuple of Duplicate
        Ordered by first, then second.
    skipped : tuple of (int, str)
        Place of each file that could not be read, and the sentence that says why.
    """

    pairs: tuple[Duplicate, ...]
    skipped: tuple[tuple[int, str], ...]


def near_duplicates(
    paths: Sequence[Path],
    *,
    threshold: float = THRESHOLD,
    mirrored: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> NearDuplicates:
    """Find radiographs that are re-encoded, resized, slightly cropped, brightened or mirrored copies of one another.

    Parameters
    ----------
    paths : sequence of Path
    threshold : float
        Least similarity of a copy, between 0.5 and 1.
    mirrored : bool
        Look for left-right mirrored copies too; doubles the time of the comparison.
    workers : int
        Processes that read and threads that compare. More than one starts fresh processes, so a script that asks for
        them needs the usual ``if __name__ == "__main__"``.
    progress : callable, optional
        Called as ``progress(stage, done, total)`` in the calling thread.

    Returns
    -------
    NearDuplicates
        Files that cannot be read are skipped with their sentence.

    Raises
    ------
    SettingsError
        If the threshold or the number of workers cannot work.
    """
    found = fingerprints(paths, workers=workers, progress=progress)
    whole = [(place, print_) for place, print_ in enumerate(found) if isinstance(print_, Fingerprint)]
    pairs = similar_pairs(
        [print_.thumbnail for _, print_ in whole],
        threshold=threshold,
        mirrored=mirrored,
        workers=workers,
        progress=progress,
    )
    return NearDuplicates(
        tuple(Duplicate(whole[p.first][0], whole[p.second][0], p.similarity, p.mirrored) for p in pairs),
        tuple((place, print_) for place, print_ in enumerate(found) if isinstance(print_, str)),
    )


def fingerprints(
    paths: Sequence[Path], *, workers: int = 1, progress: Progress | None = None
) -> list[Fingerprint | str]:
    """Fingerprint of every file, or the sentence that says why it cannot be read."""
    if workers < 1:
        raise SettingsError(f"At least one worker is needed; received {workers}.")
    found: list[Fingerprint | str] = []

    def collect(results: Iterator[Fingerprint | str]) -> None:
        for result in results:
            found.append(result)
            if progress is not None:
                progress("reading", len(found), len(paths))

    if workers == 1 or len(paths) < 64:  # a fresh process costs as much as reading 64 pictures
        collect(map(_fingerprint, paths))
    else:  # processes: decoding holds a lock within one
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            collect(pool.map(_fingerprint, paths, chunksize=16))
    return found


def _fingerprint(path: Path) -> Fingerprint | str:
    try:
        radiograph = open_radiograph(path)
    except RadiographError as error:
        return str(error)
    return Fingerprint(radiograph.sha256, thumbnail(radiograph.pixels))


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey thumbnail, uint8 (96, 96), of a uint8 picture (height, width)."""
    return np.asarray(cv2.resize(pixels, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA), np.uint8)


def similar_pairs(
    thumbnails: Sequence[NDArray[np.uint8]],
    *,
    threshold: float = THRESHOLD,
    mirrored: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[Duplicate, ...]:
    """Pairs of thumbnails whose pictures are copies; parameters as of :func:`near_duplicates`."""
    if not 0.5 <= threshold <= 1 or workers < 1:
        raise SettingsError(
            f"The threshold lies between 0.5 and 1 and at least one worker is needed; received {threshold}, {workers}."
        )
    if len(thumbnails) < 2:
        return ()
    candidates = _candidates(thumbnails, mirrored, progress)
    best: dict[tuple[int, int], Duplicate] = {}

    def compare(candidate: tuple[int, int, float, bool]) -> Duplicate:
        whole, other, centre, flipped = candidate
        picture = thumbnails[whole][:, ::-1] if flipped else thumbnails[whole]
        first, second = sorted((whole, other))
        return Duplicate(first, second, _aligned_correlation(picture, thumbnails[other], centre), flipped)

    with ThreadPoolExecutor(workers) as pool:  # OpenCV lets other threads run meanwhile
        # In portions, as the pool makes an object for every call at once.
        portions = (candidates[start : start + 4096] for start in range(0, len(candidates), 4096))
        for done, pair in enumerate(chain.from_iterable(pool.map(compare, portion) for portion in portions), 1):
            key = (pair.first, pair.second)
            if pair.similarity >= threshold and (key not in best or pair.similarity > best[key].similarity):
                best[key] = pair
            if progress is not None:
                progress("comparing", done, len(candidates))
    return tuple(sorted(best.values()))


def _candidates(
    thumbnails: Sequence[NDArray[np.uint8]], mirrored: bool, progress: Progress | None
) -> list[tuple[int, int, float, bool]]:
    """(whole, other, centre, flipped): the whole of one, flipped or not, is like the central part of the other."""
    vectors = {centre: np.stack([_vector(t, centre) for t in thumbnails]) for centre in _CENTRES}
    flips = (False, True) if mirrored else (False,)
    count = len(thumbnails)
    found = []
    for start in range(0, count, _BLOCK):
        block = vectors[1.0][start : start + _BLOCK]
        for flipped in flips:
            queries = _flip(block) if flipped else block
            like = np.stack([queries @ vectors[centre].T for centre in _CENTRES])
            centre_index = like.argmax(axis=0)
            whole, other = np.nonzero(like.max(axis=0) >= CANDIDATE)
            for i, j in zip(whole.tolist(), other.tolist(), strict=True):
                centre = _CENTRES[centre_index[i, j]]
                # Wholes against wholes come twice, once from each side; one is enough.
                if start + i != j and (centre != 1.0 or start + i < j):
                    found.append((start + i, j, centre, flipped))
        if progress is not None:
            progress("searching", min(start + _BLOCK, count), count)
    return found


def _vector(picture: NDArray[np.uint8], centre: float) -> NDArray[np.float32]:
    """Unit vector (256,) of the central part, without local mean and contrast; zeros for a blank picture."""
    flat = _flattened(picture, sigma_px=9.0)
    # The outermost 4 % are left out: borders, markers, collimation.
    margin = round((1 - 0.92 * centre) / 2 * THUMBNAIL_PX)
    inner = flat[margin : THUMBNAIL_PX - margin, margin : THUMBNAIL_PX - margin]
    vector = cv2.resize(inner, (_VECTOR_SIDE, _VECTOR_SIDE), interpolation=cv2.INTER_AREA).ravel()
    vector = vector - vector.mean()
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 1e-6 else np.zeros_like(vector), np.float32)


def _flip(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors.reshape(-1, _VECTOR_SIDE, _VECTOR_SIDE)[:, :, ::-1].reshape(len(vectors), -1)


def _flattened(picture: NDArray[np.uint8], sigma_px: float) -> NDArray[np.float32]:
    """The picture without its local mean and contrast; four grey levels keep noise in blank parts small."""
    values = picture.astype(np.float32)
    detail = values - cv2.GaussianBlur(values, (0, 0), sigma_px)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), sigma_px))
    return np.asarray(detail / (contrast + 4), np.float32)


def _aligned_correlation(whole: NDArray[np.uint8], other: NDArray[np.uint8], centre: float) -> float:
    """Correlation of the middle of one thumbnail with what it fits best in the other.

    ``centre`` is the part of the other that the whole of the first is expected to show.
    """
    first = _fine(np.ascontiguousarray(whole))
    margin = THUMBNAIL_PX // 8
    middle = first[margin:-margin, margin:-margin]
    if middle.std() < 1e-3:
        return 0.0  # blank
    # Where the first is a crop, the other must be enlarged to match.
    side = round(THUMBNAIL_PX / centre)
    enlarged = _fine(cv2.resize(other, (side, side), interpolation=cv2.INTER_LINEAR))
    _, coarse, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(enlarged, middle, cv2.TM_CCOEFF_NORMED))
    if not coarse >= _HOPELESS:
        return max(float(coarse), 0.0)
    scale = THUMBNAIL_PX / side
    warp = np.array([[scale, 0, x * scale], [0, scale, y * scale]], np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    try:
        aligned, warp = cv2.findTransformECC(middle, _fine(other), warp, cv2.MOTION_AFFINE, stop, None, 1)
    except cv2.error:  # did not converge: nothing to align
        return float(coarse)
    stretch = np.linalg.svd(warp[:, :2], compute_uv=False)
    if stretch.max() > 1.25 or stretch.min() < 0.8:  # fits only because it was bent
        return float(coarse)
    return min(max(float(coarse), float(aligned)), 1.0)


def _fine(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(_flattened(picture, sigma_px=3.0), (0, 0), 0.7), np.float32)


def joined(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Number of the connected component of each of ``count`` items, from 0 in order of first appearance."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if count == 0:
        return np.zeros(0, np.int64)
    ends = np.asarray(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)
