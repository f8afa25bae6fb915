"""How well drawn text, markers, arrows and frames are found.

    python -m benchmarks.markers --data DIR [--tuning] [--phantoms 20] [--plants 250]

DIR holds ``manifest.csv`` (file, lung_mask): human masks with 127 where arrows, text or large devices lie over the
picture. Half of the radiographs, chosen by the hash of their file name, was used for tuning (``--tuning`` shows
those); the figures are of the other half. Two things are measured:

* the regions marked 127, each on its own, and the area found on radiographs without one. Only what lies near the
  lungs was marked: a side marker in a corner counts as "found without being marked", so precision cannot be read
  from this.
* planted letters, words, digits, arrows and frames of known place, on phantoms and on radiographs. Here recall,
  overlap and, on phantoms, false alarms are exact.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cxnet.dataset import read_manifest
from cxnet.markers import Markers, find_markers
from cxnet.phantom import make_phantom
from cxnet.radiograph import open_radiograph

Grey = NDArray[np.uint8]
WORDS = {"letter": ["R", "L"], "word": ["PORTABLE", "AP", "ERECT", "SUPINE"], "digits": ["12:45", "2020", "03/14"]}
KINDS = [*WORDS, "arrow", "frame"]
EXPECTED = {"letter": "mark", "word": "text", "digits": "text", "arrow": "arrow", "frame": "frame"}
CONTRASTS = ((30, 50), (50, 80), (80, 120), (120, 256))


def tuning(name: str) -> bool:
    """Whether a radiograph belongs to the half on which thresholds were chosen."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def plant(pixels: Grey, kind: str, rng: np.random.Generator) -> tuple[Grey, NDArray[np.bool_], float] | None:
    """A picture with one thing drawn at a random place: picture, its pixels, and contrast in grey levels.

    None where the place is too uneven to speak of one contrast below 30 levels, or the drawing does not fit.
    """
    height, width = pixels.shape
    short = min(height, width)
    size = rng.uniform(0.03, 0.09) * short
    layer = np.zeros(pixels.shape, np.uint8)
    if kind in WORDS:
        text = str(rng.choice(WORDS[kind]))
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX]))
        size = size if kind == "letter" else size / 2
        thick = max(1, round(size / rng.uniform(6, 12)))
        scale = cv2.getFontScaleFromHeight(font, round(size), thick)
        (w, h), _base = cv2.getTextSize(text, font, scale, thick)
        if w + 8 >= width or h + 8 >= height:
            return None
        x, y = int(rng.integers(4, width - w - 3)), int(rng.integers(h + 4, height - 3))
        cv2.putText(layer, text, (x, y), font, scale, 255, thick, cv2.LINE_AA)
    else:
        size *= 2 if kind == "arrow" else 3
        x, y = (int(rng.integers(size + 4, n - size - 4)) for n in (width, height))
        if kind == "arrow":
            angle = rng.uniform(0, 2 * np.pi)
            outline = np.array([(0.7, 0), (0, 0.4), (0, 0.16), (-0.7, 0.16), (-0.7, -0.16), (0, -0.16), (0, -0.4)])
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            points = outline @ turn * size * 0.7 + (x, y)
            cv2.fillPoly(layer, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        else:
            corner = (int(x + size * rng.uniform(0.4, 1)), int(y + size * rng.uniform(0.4, 1)))
            cv2.rectangle(layer, (int(x - size / 2), int(y - size / 2)), corner, 255, max(2, round(short / 256)))
    drawn = layer > 127
    ring = cv2.dilate(drawn.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & (layer == 0)
    around = pixels[ring].astype(float)
    level = float(rng.integers(0, 256))
    contrast = float(np.percentile(np.abs(around - level), 10))  # where the drawing stands out least
    if contrast < CONTRASTS[0][0]:
        return None
    share = layer / 255.0
    painted = np.rint(pixels * (1 - share) + level * share).astype(np.uint8)
    return painted, drawn, contrast


def as_jpeg(pixels: Grey, quality: int = 92) -> Grey:
    """The picture after compression, as drawn-over radiographs arrive."""
    return np.asarray(
        cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE),
        np.uint8,
    )


def rate(hits: list[bool]) -> str:
    """Share with its 95 % Wilson interval."""
    if not hits:
        return "no cases"
    low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return f"{np.mean(hits):.2f} [{low:.2f}, {high:.2f}] of {len(hits)}"


def overlap(found: Markers, before: Markers, drawn: NDArray[np.bool_]) -> tuple[float, float, str | None]:
    """Share of the drawn pixels that the mask covers, IoU of boxes, and kind, of what was not found before."""
    rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
    x, y, r, b = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    best, kind = 0.0, None
    for marker in found.found:
        u, v, w, h = marker.box
        inner = max(0, min(r, u + w) - max(x, u)) * max(0, min(b, v + h) - max(y, v))
        iou = inner / ((r - x) * (b - y) + w * h - inner)
        if iou > best:
            best, kind = float(iou), marker.kind
    return float((found.mask & ~before.mask)[drawn].mean()), best, kind


def planted(name: str, pictures: list[Grey], count: int) -> None:
    """Detection rate of planted things by kind and by contrast."""
    rng = np.random.default_rng(0)
    hits: dict[str, list[bool]] = defaultdict(list)
    ious: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, list[bool]] = defaultdict(list)
    done = 0
    before = {k: find_markers(picture) for k, picture in enumerate(pictures)}
    while done < count:
        kind = KINDS[done % len(KINDS)]
        k = int(rng.integers(len(pictures)))
        made = plant(pictures[k], kind, rng)
        if made is None or before[k].mask[made[1]].any():
            continue
        done += 1
        picture, drawn, contrast = made
        covered, iou, guess = overlap(find_markers(as_jpeg(picture)), before[k], drawn)
        group = next(f"contrast {low}-{high - 1}" for low, high in CONTRASTS if low <= contrast < high)
        for key in (kind, group, "all"):
            hits[key].append(covered >= 0.5)
            if covered >= 0.5:
                ious[key].append(iou)
        if covered >= 0.5:
            kinds[kind].append(guess == EXPECTED[kind])
    print(f"\nplanted on {name}: half of the drawn pixels found; median IoU of the boxes; kind guessed right")
    for key in [*KINDS, *(f"contrast {low}-{high - 1}" for low, high in CONTRASTS), "all"]:
        iou = f"{np.median(ious[key]):.2f}" if ious[key] else "-"
        right = f"   kind {np.mean(kinds[key]):.2f}" if kinds[key] else ""
        print(f"  {key:18} {rate(hits[key])}   IoU {iou}{right}")


def radiographs(data: Path, tune: bool) -> Iterator[tuple[Grey, NDArray[np.uint8]]]:
    """Pictures with a human mask, of one half."""
    table = read_manifest(data / "manifest.csv")
    for row in table[table["lung_mask"] != ""].itertuples():
        if tuning(str(row.file)) == tune:
            mask = cv2.imread(str(data / str(row.lung_mask)), cv2.IMREAD_GRAYSCALE)
            yield open_radiograph(data / str(row.file)).pixels, np.asarray(mask, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tuning", action="store_true", help="the half on which thresholds were chosen")
    parser.add_argument("--phantoms", type=int, default=20)
    parser.add_argument("--plants", type=int, default=250)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    first = 0 if options.tuning else 1000
    findings = ("none", "ground-glass", "consolidation")
    phantoms = [
        make_phantom(first + k, (512, 768, 1024)[k % 3], findings[k % 3])  # type: ignore[arg-type]
        for k in range(options.phantoms)
    ]
    alarms = [len(find_markers(phantom.pixels).found) for phantom in phantoms]
    print(f"clean phantoms: {np.mean(alarms):.2f} false alarms a picture ({rate([a > 0 for a in alarms])} with any)")
    large = make_phantom(first, 1024, shortcut="text").pixels
    times = []
    for _ in range(20):
        start = time.thread_time()
        find_markers(large)
        times.append(time.thread_time() - start)
    print(f"1024 px on one core: median {1e3 * np.median(times):.0f} ms")
    planted("phantoms", [phantom.pixels for phantom in phantoms], options.plants)
    if options.data is None:
        return
    cases = list(radiographs(options.data, options.tuning))
    regions: list[bool] = []
    clean: list[tuple[float, int]] = []
    for pixels, mask in cases:
        found = find_markers(pixels)
        ignored = (mask == 127).astype(np.uint8)
        if not ignored.any():
            clean.append((float(found.mask.mean()), len(found.found)))
            continue
        count, labels, stats, _centres = cv2.connectedComponentsWithStats(ignored)
        regions += [float(found.mask[labels == k].mean()) >= 0.5 for k in range(1, count) if stats[k, 4] >= 20]
    areas, counts = np.array(clean).T
    print(f"\nradiographs: {len(cases)}, of which {len(cases) - len(clean)} with marked regions")
    print(f"  marked regions of which half is found: {rate(regions)}")
    print(f"  radiographs without a marked region ({len(clean)}): found area median {np.median(areas):.2%}, ", end="")
    print(f"mean {areas.mean():.2%}; things found median {np.median(counts):.0f}, mean {counts.mean():.1f}")
    print("  (side markers and text far from the lungs were not marked: this is not a false-alarm rate)")
    planted("radiographs", [pixels for pixels, mask in cases if not (mask == 127).any()], options.plants)


if __name__ == "__main__":
    main()
