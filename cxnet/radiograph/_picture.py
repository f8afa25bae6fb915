"""PNG, JPEG, WebP and TIFF files to grey pictures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import DamagedFile, OutOfScope, TooLarge, UnsupportedFormat

MAX_PIXELS = 40_000_000
MIN_SIDE_PX = 32
MAX_ASPECT = 4.0


def check_size(width: int, height: int) -> None:
    """Refuse a picture with too many pixels to decode, or too few to be a radiograph."""
    if width * height > MAX_PIXELS:
        raise TooLarge(
            f"The picture has {width} x {height} pixels and the limit is {MAX_PIXELS // 10**6} million; export a smaller one."
        )
    if min(width, height) < MIN_SIDE_PX:
        raise OutOfScope(
            f"The picture has {width} x {height} pixels, too few for a chest radiograph; "
            f"each side needs at least {MIN_SIDE_PX}, so choose another file."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise OutOfScope(
            f"The picture has {width} x {height} pixels, too long and narrow for a chest radiograph; crop it to the chest."
        )


def kind_of(data: bytes) -> tuple[str, str]:
    """Pillow's name of the format and ours, by the first bytes."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", "WebP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF", "TIFF"
    raise UnsupportedFormat(
        "This is no PNG, JPEG, WebP, TIFF or DICOM file; export the radiograph in one of these formats."
    )


def decode_picture(data: bytes, kind: str, notes: list[str]) -> tuple[NDArray[Any], bool]:
    """(height, width) of any number type, or uint8 (height, width, 2 to 4), the last of 2 and 4 being alpha.

    Then whether these are 65535 less what the file stores, as of 16-bit TIFF files whose zero is white.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=[kind, "MPO"] if kind == "JPEG" else [kind]) as image:
        check_size(image.width, image.height)
        # not n_frames: to count the pages of a TIFF file, Pillow walks through all that it claims to hold
        if getattr(image, "is_animated", False):
            if kind == "TIFF":
                raise UnsupportedFormat(
                    "This TIFF file holds several pages and only one can be read; save the one to look at."
                )
            notes.append("The file holds several pictures; the first is shown.")
        # asked first, as Pillow turns a TIFF file while loading it, and forgets the tag
        if image.getexif().get(0x0112, 1) in range(2, 9):
            notes.append("Turned as the file's orientation tag says.")
        image.load()
        upright: Image.Image = image
        ImageOps.exif_transpose(upright, in_place=True)  # otherwise a copy, turned or not
        mode = upright.mode
        if mode.startswith(("I", "F")):
            found = _array(upright, mode)
            # Pillow turns pictures whose zero is white round if they have 8 bits, but not if they have 16
            white_is_zero = kind == "TIFF" and mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(262) == 0
            return (65535 - found, True) if white_is_zero else (found, False)
        if "transparency" in upright.info or mode in ("PA", "La", "RGBa"):
            return _array(upright, "RGBA"), False
        if mode in ("L", "LA", "RGB", "RGBA"):
            return _array(upright, mode), False
        if mode in ("1", "P", "CMYK", "YCbCr", "RGBX"):
            return _array(upright, "L" if mode == "1" else "RGB"), False
    raise UnsupportedFormat(f"The colour model {mode} is not read; save the picture as grey or RGB.")


def _array(image: Any, mode: str) -> NDArray[Any]:
    """The pixels in a colour model. Converted in blocks, as Pillow would hold two more copies of the whole picture."""
    found: NDArray[Any] | None = None
    for rows in blocks(image.height, image.width):
        part = image.crop((0, rows.start, image.width, min(rows.stop, image.height)))
        pixels = np.asarray(part if part.mode == mode else part.convert(mode))
        if found is None:
            found = np.empty((image.height, *pixels.shape[1:]), pixels.dtype)
        found[rows] = pixels
    assert found is not None  # a picture has at least one row
    return found


def grey(array: NDArray[Any], notes: list[str]) -> NDArray[np.uint8]:
    """uint8 arrays of :func:`decode_picture` as grey; luma of BT.601."""
    if array.ndim == 2:
        return array
    colours = array.shape[2] - (array.shape[2] in (2, 4))
    found = np.empty(array.shape[:2], np.uint8)
    transparent, coloured = False, 0
    for rows in blocks(len(array), array.shape[1]):
        part = array[rows, :, :colours]
        if colours < array.shape[2]:
            alpha = array[rows, :, colours:].astype(np.uint16)
            if alpha.min() < 255:
                transparent = True
                part = ((part * alpha + np.uint16(127)) // np.uint16(255)).astype(np.uint8)
        if colours == 1:
            found[rows] = part[..., 0]
            continue
        red, green, blue = np.moveaxis(part, 2, 0)
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        coloured += int((spread > 8).sum())
        luma = red * np.uint32(299) + green * np.uint32(587) + blue * np.uint32(114)
        found[rows] = (luma + np.uint32(500)) // np.uint32(1000)
    if transparent:
        notes.append("Transparent pixels were laid over black.")
    if coloured > 1e-4 * found.size:
        notes.append(
            "The picture has coloured pixels, so it may be a screenshot or hold annotations; it was made grey."
        )
    return found


def blocks(height: int, width: int) -> list[slice]:
    """Rows of about a million pixels each: what is computed on the way needs little memory then."""
    step = max(1, 2**20 // width)
    return [slice(top, top + step) for top in range(0, height, step)]


def ends(values: NDArray[Any], notes: list[str]) -> tuple[NDArray[Any], float, float]:
    """16-bit, 32-bit and float pictures, what is no number filled in, and the values that are 0 and 255 in 8 bits.

    Whole numbers from 0 are taken to have as many bits as the brightest needs, if these are 13 to 16; other pictures are
    stretched over their own range.
    """
    finite = np.isfinite(values)
    if not finite.all():
        if not finite.any():
            raise DamagedFile("The picture holds no finite value; export it again.")
        notes.append("Values that are no numbers were set to the darkest one.")
        values = np.where(finite, values, values[finite].min())
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 4096 <= high <= 65535 and np.issubdtype(values.dtype, np.integer):
        bits = int(high).bit_length()
        low, high = 0.0, float(2**bits - 1)
        if bits < 16:
            notes.append(f"Grey levels were read as {bits}-bit values, as the brightest one needs no more.")
    else:
        notes.append("Grey levels were stretched from the darkest to the brightest value of the picture.")
    return values, low, high


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """``low`` as 0 and ``high`` as 255; all 0 where they are the same."""
    span = high / 2 - low / 2  # halves, as the difference of two large floats may overflow
    if not span > 0:
        return np.zeros(values.shape, np.uint8)
    found = np.empty(values.shape, np.uint8)
    for rows in blocks(len(values), values.size // len(values)):
        levels = values[rows].astype(np.float64)
        levels /= 2
        levels -= low / 2
        levels /= span
        levels *= 255
        found[rows] = np.rint(levels, out=levels)
    return found
