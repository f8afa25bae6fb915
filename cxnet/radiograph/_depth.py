"""The grey levels of a file at their full depth, for looking; a network gets the 8-bit picture whatever is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet.errors import SettingsError
from cxnet.radiograph._picture import blocks

#: Longest side of what is kept for looking. A screen shows no more of a panel, and a session keeps many radiographs.
DEPTH_SIDE_PX = 1536
_TOP = 65535
#: Levels between black and white where a window is a step: rounding may leave none.
_STEEPEST = 1e-6

#: Title of the window of a file that brings none of its own.
AS_GIVEN = "as the network gets it"

#: What an explanation of a window may be told as. Explanations are free text and may hold a name, so no other is told.
TITLES = frozenset({
    "NORMAL", "HARDER", "HARD", "SOFTER", "SOFT", "STANDARD", "DEFAULT", "LUNG", "LUNGS", "BONE", "BONES", "RIBS",
    "MEDIASTINUM", "SOFT TISSUE", "CHEST", "THORAX", "WIDE", "NARROW",
})  # fmt: skip


def title_of(explanation: object, kind: str, number: int) -> str:
    """The explanation if it is one of :data:`TITLES`, else kind and number."""
    words = str(explanation or "").strip().upper()
    return words.lower() if words in TITLES else f"{kind} {number}"


@dataclass(frozen=True, eq=False)
class Window:
    """One way to show the levels of a :class:`Depth` as grey.

    Parameters
    ----------
    title : str
        One of :data:`TITLES` in small letters, "window 2", "lookup table 1", or :data:`AS_GIVEN`.
    low, high : float
        Levels that are shown as black and as white. They may lie outside 0 to 65535.
    centre, width : float or None
        In the file's units; None for a lookup table.
    more : int
        1 for files that count centre and width as PS3.3 C.11.2.1.2.1 does (LINEAR): the middle of black and white is half
        a unit below the centre, and their distance is a unit less than the width. Otherwise 0. The same for all windows
        of a file.
    curve : uint16 array (65536,) or None
        Grey of each level, 65535 as white, where it is no straight line: SIGMOID and lookup tables. Read-only.
    """

    title: str
    low: float = 0.0
    high: float = float(_TOP)
    centre: float | None = None
    width: float | None = None
    more: int = 0
    curve: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        if self.curve is not None:
            object.__setattr__(self, "curve", _read_only(self.curve, (_TOP + 1,)))

    def greys(self) -> NDArray[np.float64]:
        """Grey of each level: float64 (65536,), 0 black and 255 white; beyond them where the window clips."""
        if self.curve is not None:
            return np.asarray(self.curve / 257, np.float64)
        return (np.arange(_TOP + 1, dtype=np.float64) - self.low) / (self.high - self.low) * 255


@dataclass(frozen=True, eq=False)
class Depth:
    """What a radiograph's file holds beyond 8 bits.

    At most ``DEPTH_SIDE_PX`` squared levels of two bytes, 4.7 MB, and 0.13 MB for each window that is a curve; so the
    24 radiographs of a session take up to 113 MB and rarely more.

    Parameters
    ----------
    levels : uint16 array (height, width)
        Values after the Modality LUT, evenly from the darkest to the brightest that occurs; means of them (area) where the
        longest side would exceed :data:`DEPTH_SIDE_PX`. Bright is bone, also for MONOCHROME1. Read-only.
    offset, step : float
        ``offset + step * level`` is the value in the file's units; a negative step where their lowest is white
        (MONOCHROME1, and TIFF files whose zero is white).
    unit : float
        The smallest difference of two values that the file could tell apart. One unit is a power of two of levels, as
        large as fits, so every value of a file is kept exactly; but for floats, or more than 65,536 values.
    brightest : int
        Level of the brightest value.
    padded : bool
        Level 0 marks pixels that are no image (PS3.3 C.7.5.1.1.2), and 1 is the darkest value, not 0.
    windows : tuple of Window
        The first is that of the 8-bit picture which the network gets; then the file's others.
    sha256 : str
        Of the file's bytes.
    """

    levels: NDArray[np.uint16]
    offset: float
    step: float
    unit: float
    brightest: int
    padded: bool
    windows: tuple[Window, ...]
    sha256: str

    def __post_init__(self) -> None:
        if self.levels.ndim != 2 or not self.windows or max(self.levels.shape) > DEPTH_SIDE_PX:
            raise SettingsError(
                f"Levels (height, width) of up to {DEPTH_SIDE_PX} a side and a window are needed; "
                f"received {self.levels.shape} and {len(self.windows)} windows."
            )
        object.__setattr__(self, "levels", _read_only(self.levels, self.levels.shape))


def _read_only(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    if array.dtype != np.uint16 or array.shape != shape:
        raise SettingsError(f"Expected uint16 levels {shape}; received {array.dtype} {array.shape}.")
    found = np.ascontiguousarray(array)
    found.setflags(write=False)
    return found


class Scale(NamedTuple):
    """The straight line between a file's values and levels."""

    offset: float
    step: float
    first: int
    last: int

    @staticmethod
    def over(
        low: float, high: float, unit: float | None = None, padded: bool = False, inverted: bool = False
    ) -> Scale | None:
        """From the lowest to the highest value; None where they are the same, or too close to be told apart.

        As :attr:`Depth.unit` tells. That also makes the picture smaller when it is sent: of 12 bits, the other four stay 0.
        """
        first = int(padded)
        step = (high / 2 - low / 2) / ((_TOP - first) / 2)  # halves, as the difference of two floats may overflow
        if not step / 2 > 0:  # or below the smallest float
            return None
        if unit is not None and unit >= step:
            step = unit / 2 ** math.floor(math.log2(unit / step))
        last = min(first + round((high / 2 - low / 2) / (step / 2)), _TOP)
        return (
            Scale(low + step * last, -step, first, last) if inverted else Scale(low - step * first, step, first, last)
        )

    def place(self, value: float) -> float:
        """Where a value lies on the scale of levels."""
        return (value / 2 - self.offset / 2) / (self.step / 2)

    def levels(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Levels of values that the scale was made for."""
        places = values.astype(np.float64)
        places /= 2
        places -= self.offset / 2
        places /= self.step / 2
        return np.clip(np.rint(places, out=places), self.first, self.last, out=places).astype(np.uint16)

    def values(self) -> NDArray[np.float64]:
        """The value of every level: float64 (65536,)."""
        return self.offset + self.step * np.arange(_TOP + 1, dtype=np.float64)

    def straight(self, title: str, black: float, white: float, more: int = 0) -> Window:
        """The window between two values; on a scale that is turned over the higher one is black."""
        low, high = sorted((self.place(black), self.place(white)))
        high = max(high, low + _STEEPEST)
        return Window(title, low, high, black / 2 + white / 2 + more / 2, white - black + more, more)


def reduced(levels_of: Callable[[slice], NDArray[np.uint16]], height: int, width: int) -> NDArray[np.uint16]:
    """Levels (height, width), made a block of rows at a time, or means of them if there are too many.

    Columns first, block by block, then rows: the same as at once, and the whole picture is never held at two bytes.
    """
    factor = DEPTH_SIDE_PX / max(height, width)
    if factor >= 1:
        found = np.empty((height, width), np.uint16)
        for rows in blocks(height, width):
            found[rows] = levels_of(rows)
        return found
    rows_kept, columns_kept = (max(1, round(side * factor)) for side in (height, width))
    narrow = np.empty((height, columns_kept), np.float32)
    for rows in blocks(height, width):
        part = levels_of(rows).astype(np.float32)
        narrow[rows] = cv2.resize(part, (columns_kept, len(part)), interpolation=cv2.INTER_AREA)
    small = cv2.resize(narrow, (columns_kept, rows_kept), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(np.rint(small), 0, _TOP), np.uint16)


def tells_more(seen: NDArray[np.integer[Any]], windows: tuple[Window, ...]) -> bool:
    """Whether there is more to see than the 8-bit picture: other windows, or levels that share a grey in it.

    ``seen`` are the levels that occur, each once.
    """
    greys = np.rint(np.clip(windows[0].greys()[seen], 0, 255))
    return len(windows) > 1 or len(np.unique(greys)) < len(seen)


def depth_of_picture(
    values: NDArray[Any], black: float, white: float, sha256: str, white_is_zero: bool = False
) -> Depth | None:
    """What a picture of other numbers than bytes holds beyond 8 bits; None where that is nothing.

    Parameters
    ----------
    values : array (height, width)
        Finite numbers of any type.
    black, white : float
        Values that are 0 and 255 in the 8-bit picture.
    sha256 : str
        Of the file.
    white_is_zero : bool
        Whether the file stores 65535 less each value; then offset, step and window are told of what it stores.
    """
    unit = 1.0 if np.issubdtype(values.dtype, np.integer) else None
    scale = Scale.over(float(values.min()), float(values.max()), unit)
    if scale is None:
        return None
    seen = np.zeros(_TOP + 1, np.bool_)

    def levels_of(rows: slice) -> NDArray[np.uint16]:
        found = scale.levels(values[rows])
        seen[found.ravel()] = True
        return found

    levels = reduced(levels_of, *values.shape)
    window = scale.straight(AS_GIVEN, black, white)
    if not tells_more(np.flatnonzero(seen), (window,)):
        return None
    offset, step = scale.offset, scale.step
    if white_is_zero:
        assert window.centre is not None
        offset, step, window = _TOP - offset, -step, replace(window, centre=_TOP - window.centre)
    return Depth(levels, offset, step, unit or scale.step, scale.last, False, (window,), sha256)
