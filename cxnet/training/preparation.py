"""Radiographs made ready once for a network and a region, kept on disk so that training never waits for them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.architectures import Architecture, Region
from cxnet.enhance import Enhancement
from cxnet.errors import DatasetError, RadiographError
from cxnet.lungs import LungMask, LungSegmenter, look_at
from cxnet.radiograph import read_radiograph
from cxnet.runs import LUNG_GRID


@dataclass(frozen=True, eq=False)
class Prepared:
    """All cases of a data set as a network sees them.

    Parameters
    ----------
    stacks : uint8 memory map (cases, size, size, channels)
    lungs : bool array (cases, size, size)
        Lung mask in the network's frame.
    outlines : bool array (cases, 64, 64)
        Lung mask of the whole radiograph.
    boxes : float32 array (cases, 4)
        top, bottom, left, right of the network's frame as shares of the radiograph.
    sha256 : tuple of str
        Of each file.
    problems : dict from int to str
        Cases that could not be read, and why; their arrays are zero.
    """

    stacks: NDArray[np.uint8]
    lungs: NDArray[np.bool_]
    outlines: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    sha256: tuple[str, ...]
    problems: dict[int, str]


def cache_folder() -> Path:
    """Where prepared pictures are kept unless a folder is named: ``$XDG_CACHE_HOME/cxnet``."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cxnet"


def prepare(
    table: pd.DataFrame,
    folder: Path,
    architecture: Architecture,
    region: Region,
    enhancement: Enhancement,
    cache: Path,
    say: Callable[[str], None] = print,
    mask_column: str | None = None,
) -> Prepared:
    """Read, segment and enhance all cases, or open what an earlier call with the same input has kept.

    Parameters
    ----------
    table : DataFrame
        Column ``file``, below `folder`; with `mask_column` also the path of a mask picture (over 127 is lung), taken
        where it is not empty instead of segmenting.
    cache : Path
        Holds pictures of the data set: keep it as private as these.

    Raises
    ------
    DatasetError
        If there is no such column of masks or no case can be read.
    """
    if mask_column is not None and mask_column not in table.columns:
        raise DatasetError(
            f"The manifest has no column {mask_column!r} with lung masks; name one of {', '.join(table.columns)}."
        )
    masks = _masks(table, mask_column)
    segmenter = LungSegmenter() if "" in masks else None
    size = architecture.input_size_px
    checksums = [_checksum(folder / file) for file in table["file"]]
    key = {
        "version": 1,
        "files": checksums,
        "size": size,
        "channels": architecture.channels,
        "region": region,
        "enhancement": asdict(enhancement),
        "lungs": [segmenter and segmenter.card.sha256, [mask and _checksum(folder / mask) for mask in masks]]
        if mask_column
        else segmenter and segmenter.card.sha256,
    }
    place = cache / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    if (place / "problems.json").is_file():
        return _open(place, tuple(checksums))
    # two trainings may prepare the same pictures at a time
    partial = place.with_name(f"{place.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    count = len(table)
    stacks = np.lib.format.open_memmap(
        partial / "stacks.npy", "w+", np.uint8, (count, size, size, len(architecture.channels))
    )
    lungs, outlines = np.zeros((count, size, size), np.bool_), np.zeros((count, LUNG_GRID, LUNG_GRID), np.bool_)
    boxes = np.zeros((count, 4), np.float32)
    problems: dict[int, str] = {}

    def one(number: int) -> None:
        row = table.iloc[number]
        try:
            pixels = read_radiograph((folder / row["file"]).read_bytes()).pixels
        except RadiographError as error:
            problems[number] = f"{row['file']}: {error}"
            return
        if masks[number]:
            path = folder / masks[number]
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
            if mask is None:
                problems[number] = f"{row['file']}: its mask {masks[number]} cannot be read."
                return
            resized = cv2.resize(mask, pixels.shape[::-1], interpolation=cv2.INTER_LINEAR)
            found = LungMask(resized > 127, source=str(mask_column))
        else:
            assert segmenter is not None
            found = segmenter(pixels)
        shown, crop = look_at(pixels, found, region)
        stacks[number] = enhancement.stack(enhancement.grey(shown, size), architecture.channels)
        within = np.ascontiguousarray(found.mask[crop.top : crop.bottom, crop.left : crop.right])
        lungs[number] = LungMask(within).resized(size)
        outlines[number] = found.resized(LUNG_GRID)
        height, width = pixels.shape
        boxes[number] = crop.top / height, crop.bottom / height, crop.left / width, crop.right / width

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(one, range(count)), 1):
            if done % 200 == 0 or done == count:
                say(f"prepared {done} of {count} radiographs")
    if len(problems) == count:
        raise DatasetError(f"No radiograph can be read; the first problem is {problems[0]}")
    stacks.flush()
    np.savez_compressed(partial / "lungs.npz", lungs=np.packbits(lungs), outlines=outlines, boxes=boxes)
    (partial / "problems.json").write_text(json.dumps(problems), "utf-8")
    if not (place / "problems.json").is_file():
        shutil.rmtree(place, ignore_errors=True)  # what an earlier version left half done
        with contextlib.suppress(OSError):  # the other one was faster
            os.replace(partial, place)
    shutil.rmtree(partial, ignore_errors=True)
    return _open(place, tuple(checksums))


def _masks(table: pd.DataFrame, column: str | None) -> list[str]:
    """Path of each case's mask, empty where there is none."""
    if column is None:
        return [""] * len(table)
    return ["" if pd.isna(value) else str(value).strip() for value in table[column]]


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def _open(place: Path, checksums: tuple[str, ...]) -> Prepared:
    stacks: Any = np.load(place / "stacks.npy", mmap_mode="r")
    count, size = stacks.shape[:2]
    with np.load(place / "lungs.npz", allow_pickle=False) as stored:
        lungs = np.unpackbits(stored["lungs"], count=count * size * size).astype(np.bool_).reshape(count, size, size)
        outlines, boxes = stored["outlines"], stored["boxes"]
    problems = json.loads((place / "problems.json").read_text("utf-8"))
    return Prepared(stacks, lungs, outlines, boxes, checksums, {int(k): v for k, v in problems.items()})
