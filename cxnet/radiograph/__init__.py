"""From the bytes of a file to a grey 8-bit radiograph, or one sentence that says why not.

The format is decided by the bytes, never by the name. Size limits are checked before anything is decoded. Of a
DICOM file only the technical tags of :data:`KEPT_TAGS` outlive reading; names, ids, dates and descriptions do not,
and no error message holds a value of the file.

Besides the 8 bits that a network gets, :class:`Depth` holds what the file has beyond them, for looking only.

Grey values of a DICOM file follow PS3.3: Modality LUT (C.11.1), then VOI LUT or window (C.11.2), then, last, the
inversion of MONOCHROME1 (C.7.6.3.1.2).

Decoders raise almost every type of error on a malformed file, so whatever they raise is a damaged file. Only calls of
decoders stand below that net; the grey values are computed outside it, where an unknown error shows.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import DamagedFile, OutOfScope, RadiographError, SettingsError, TooLarge, UnsupportedFormat
from cxnet.radiograph._archive import MAX_BYTES, is_archive, is_no_radiograph, members
from cxnet.radiograph._depth import AS_GIVEN, DEPTH_SIDE_PX, Depth, Window, depth_of_picture
from cxnet.radiograph._dicom import EXPORT, KEPT_TAGS, decode_dicom, looks_like_bare_dicom, numbers, read_dicom, render
from cxnet.radiograph._picture import (
    MAX_ASPECT,
    MAX_PIXELS,
    MIN_SIDE_PX,
    check_size,
    decode_picture,
    ends,
    grey,
    kind_of,
    scaled,
)
from cxnet.radiograph._view import directions

__all__ = [
    "AS_GIVEN",
    "DEPTH_SIDE_PX",
    "KEPT_TAGS",
    "MAX_ASPECT",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE_PX",
    "Depth",
    "Radiograph",
    "Window",
    "is_no_radiograph",
    "open_radiograph",
    "open_radiographs",
    "read_radiograph",
    "read_radiographs",
]

_decoding = threading.Lock()
_Decoded = TypeVar("_Decoded")


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A grey radiograph and the little that is kept about its file.

    Parameters
    ----------
    pixels : uint8 array (height, width)
        Bright bone, dark lungs as stored or windowed; read-only.
    sha256 : str
        Of the file's bytes.
    format : str
        "PNG", "JPEG", "WebP", "TIFF" or "DICOM".
    tags : mapping of str to str
        Technical DICOM tags out of :data:`KEPT_TAGS`; empty for other formats.
    pixel_spacing_mm : (float, float) or None
        Between rows and between columns, where the file says so.
    notes : tuple of str
        What a reader of the picture should know, a sentence each.
    depth : Depth or None
        What the file holds beyond 8 bits, for looking; None where that is nothing. It belongs to the file, so a copy with
        another checksum, as of edited pixels, has none.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    format: str
    tags: Mapping[str, str] = field(default_factory=dict)
    pixel_spacing_mm: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    depth: Depth | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.dtype != np.uint8 or self.pixels.size == 0:
            raise SettingsError(
                f"Expected uint8 pixels (height, width); received {self.pixels.dtype} {self.pixels.shape}."
            )
        pixels = np.array(self.pixels, order="C")
        pixels.setflags(write=False)
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))
        if self.depth is not None and self.depth.sha256 != self.sha256:
            object.__setattr__(self, "depth", None)

    @property
    def patient_left(self) -> str | None:
        """The edge of the picture towards the patient's left: "left", "right", "top" or "bottom".

        None where the file does not say. A view position (PA, AP) or an ImageLaterality tells what was exposed, not
        which side is where, so neither counts.

        References
        ----------
        DICOM PS3.3 C.7.6.1.1.1: Patient Orientation names where rows and columns run to; the first letter leads.
        """
        runs = directions(self.tags.get("PatientOrientation", "").split("\\"))
        if runs is None:
            return None
        along_rows, along_columns = runs
        if along_rows in "LR":
            return {"L": "right", "R": "left"}[along_rows]
        return {"L": "bottom", "R": "top"}.get(along_columns)

    @property
    def spacing_at_detector(self) -> bool:
        """Whether :attr:`pixel_spacing_mm` is said to hold at the detector, where the body is magnified.

        References
        ----------
        DICOM PS3.3 10.7.1.3: a Pixel Spacing equal to the Imager Pixel Spacing was not corrected for magnification.
        """
        at_detector = numbers(self.tags.get("ImagerPixelSpacing", "").split("\\"))
        return self.pixel_spacing_mm is not None and at_detector == list(self.pixel_spacing_mm)


def open_radiograph(path: Path | str) -> Radiograph:
    """Read a radiograph from a file; see :func:`read_radiograph`.

    Raises
    ------
    RadiographError
        If the path is no readable file, or its content is refused.
    """
    return read_radiograph(_content(Path(path)))


def open_radiographs(path: Path | str) -> Iterator[tuple[int | None, Radiograph | RadiographError]]:
    """Read a radiograph, or all of a zip archive, from a file; see :func:`read_radiographs`."""
    try:
        data = _content(Path(path))
    except RadiographError as error:
        yield None, error
    else:
        yield from read_radiographs(data)


def _content(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise RadiographError("This is a folder, not a file; give the files in it.")
        if path.stat().st_size > MAX_BYTES:
            raise TooLarge(_too_many_bytes(path.stat().st_size))
        return path.read_bytes()
    except OSError as error:
        raise RadiographError(f"The file cannot be read ({error.strerror}); check its path and permissions.") from None


def read_radiograph(data: bytes) -> Radiograph:
    """Read a frontal chest radiograph from the bytes of a file.

    Parameters
    ----------
    data : bytes
        PNG, JPEG, WebP, TIFF or DICOM (CR, DX, RG). Up to 50 MB and 40 million pixels.

    Returns
    -------
    Radiograph
        16-bit pictures are scaled to 8 bits, colour is made grey, alpha is composed over black, EXIF rotation is
        applied. What goes beyond 8 bits is in its `depth`.

    Raises
    ------
    UnsupportedFormat, DamagedFile, TooLarge, OutOfScope
        One sentence each: what, why, what to do.
    """
    if len(data) > MAX_BYTES:
        raise TooLarge(_too_many_bytes(len(data)))
    if not data:
        raise DamagedFile("The file is empty; export it again.")
    if is_archive(data):
        raise UnsupportedFormat("This is a zip archive, and one radiograph is wanted here; unpack it first.")
    notes: list[str] = []
    tags: dict[str, str] = {}
    spacing = depth = None
    sha256 = hashlib.sha256(data).hexdigest()
    if data[128:132] == b"DICM" or looks_like_bare_dicom(data):
        picture, encoded = _guarded("DICOM", lambda: read_dicom(data, notes))
        name, tags, spacing = "DICOM", picture.tags, picture.spacing
        apart = _told("DICOM", encoded.decode_apart) if encoded.apart else None
        stored = _guarded("DICOM", lambda: decode_dicom(picture, encoded, apart))
        if stored.ndim == 3:
            pixels = grey(stored, notes)
        else:
            pixels, depth = render(picture, stored, notes, sha256)
    else:
        kind, name = kind_of(data)
        decoded, white_is_zero = _guarded(name, lambda: decode_picture(data, kind, notes))
        if decoded.ndim == 3 or decoded.dtype == np.uint8:
            pixels = grey(decoded, notes)
        else:
            values, black, white = ends(decoded, notes)
            pixels = scaled(values, black, white)
            depth = depth_of_picture(values, black, white, sha256, white_is_zero)
    if int(pixels.min()) == int(pixels.max()):
        raise OutOfScope(
            "Every pixel of this picture has the same value, so there is nothing to read; choose another file."
        )
    height, width = pixels.shape
    check_size(width, height)
    return Radiograph(pixels, sha256, name, tags, spacing, tuple(notes), depth)


def read_radiographs(data: bytes) -> Iterator[tuple[int | None, Radiograph | RadiographError]]:
    """Read a radiograph, or those of a zip archive, one at a time; what cannot be used costs nothing else.

    Parameters
    ----------
    data : bytes
        As for :func:`read_radiograph`; or a zip archive of up to 50 MB, 500 files and 500 MB unpacked. Names count for
        nothing, so a study folder of extensionless files is read; ``DICOMDIR`` and what systems add (``__MACOSX``) are
        passed over.

    Yields
    ------
    (number, found) : (int or None, Radiograph or RadiographError)
        The number of the file in the archive, from 1; None for a file by itself and for what concerns an archive as a
        whole. Then the radiograph, or why there is none.
    """
    try:
        if not is_archive(data):
            yield None, read_radiograph(data)
            return
        for number, content in members(data):
            found: Radiograph | RadiographError
            try:
                found = content if isinstance(content, RadiographError) else read_radiograph(content)
            except RadiographError as error:
                found = error
            del content  # not held while others are
            yield number, found
    except RadiographError as error:
        yield None, error


def _guarded(name: str, decode: Callable[[], _Decoded]) -> _Decoded:
    """Run one decoder at a time, silently; its errors become sentences.

    Warnings and log lines of pydicom quote values, names and ids among them. The lock is there because a process has
    one set of warning filters; besides, one picture's memory is taken at a time. What another process decodes needs
    neither, and may take seconds, so it is not waited for here.
    """
    logger = logging.getLogger("pydicom")
    with _decoding, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # limits that Pillow warns of are checked before
        disabled, logger.disabled = logger.disabled, True
        try:
            return _told(name, decode)
        finally:
            logger.disabled = disabled


def _told(name: str, decode: Callable[[], _Decoded]) -> _Decoded:
    """Run a decoder; its errors become sentences that tell their type, not their text, which may hold names."""
    try:
        return decode()
    except RadiographError:
        raise
    except MemoryError:
        refusal: RadiographError = TooLarge(
            f"There is not enough memory to unpack the {name} file; export a smaller one."
        )
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":
            refusal = TooLarge(f"The {name} file unpacks to far more pixels than the limit; export a smaller one.")
        elif type(error).__name__ == "UnidentifiedImageError":
            refusal = DamagedFile(
                f"The {name} file is damaged, or stores its pixels in a way that is not read; export it again, as 8-bit "
                "or 16-bit grey."
            )
        else:
            refusal = DamagedFile(
                f"The {name} file is damaged or cut short and cannot be decoded ({type(error).__name__}); "
                f"{EXPORT if name == 'DICOM' else 'export it again'}."
            )
    raise refusal  # outside the handler, so that it carries no context


def _too_many_bytes(size: int) -> str:
    return f"The file has {size / 2**20:.0f} MB and the limit is {MAX_BYTES // 2**20} MB; export a smaller one."
