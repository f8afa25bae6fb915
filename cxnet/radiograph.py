"""From the bytes of a file to a grey 8-bit radiograph, or one sentence that says why not.

The format is decided by the bytes, never by the name. Size limits are checked before anything is decoded. Of a
DICOM file only the technical tags of :data:`KEPT_TAGS` outlive reading; names, ids, dates and descriptions do not,
and no error message holds a value of the file.

Grey values of a DICOM file follow PS3.3: Modality LUT (C.11.1), then VOI LUT or window (C.11.2), then, last, the
inversion of MONOCHROME1 (C.7.6.3.1.2).
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import DamagedFile, OutOfScope, RadiographError, SettingsError, TooLarge, UnsupportedFormat

MAX_BYTES = 50 * 2**20
MAX_PIXELS = 40_000_000
MIN_SIDE_PX = 32
MAX_ASPECT = 4.0

#: The only DICOM tags that are kept.
KEPT_TAGS = (
    "Modality",
    "PresentationIntentType",
    "BodyPartExamined",
    "ViewPosition",
    "PatientOrientation",
    "ImageLaterality",
    "PhotometricInterpretation",
    "BitsStored",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "BurnedInAnnotation",
    "LossyImageCompression",
)

_RADIOGRAPHY = {"CR", "DX", "RG"}
_MODALITIES = {
    "CT": "CT", "MR": "magnetic resonance", "US": "ultrasound", "PT": "PET", "NM": "nuclear medicine",
    "MG": "mammography", "XA": "angiography", "RF": "fluoroscopy", "OT": "secondary capture",
    "SR": "report", "SEG": "segmentation", "IO": "intra-oral", "PX": "panoramic dental",
}  # fmt: skip
_LATERAL = {"LL", "RL", "LAT", "LATERAL", "LLD", "RLD", "LLO", "RLO", "LEFT LATERAL", "RIGHT LATERAL"}
_CHEST = ("CHEST", "THORAX", "LUNG", "PULMON", "TORSO", "RIB", "STERNUM", "HEART", "MEDIASTIN", "TORAX", "POUMON")
_OTHER_PARTS = (
    "ABDOMEN", "PELVIS", "LEG", "FOOT", "ANKLE", "KNEE", "HAND", "WRIST", "ELBOW", "SKULL", "HEAD", "NECK", "SPINE",
    "HIP", "FEMUR", "TIBIA", "FINGER", "TOE", "FOREARM", "HUMERUS", "SHOULDER", "BREAST", "JAW", "EXTREMITY",
)  # fmt: skip

_EXPORT = "export the radiograph as an uncompressed DICOM, PNG or JPEG file"
_dicom_lock = threading.Lock()


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
    """

    pixels: NDArray[np.uint8]
    sha256: str
    format: str
    tags: Mapping[str, str] = field(default_factory=dict)
    pixel_spacing_mm: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.dtype != np.uint8 or self.pixels.size == 0:
            raise SettingsError(
                f"Expected uint8 pixels (height, width); received {self.pixels.dtype} {self.pixels.shape}."
            )
        pixels = np.array(self.pixels, order="C")
        pixels.setflags(write=False)
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))


def open_radiograph(path: Path | str) -> Radiograph:
    """Read a radiograph from a file; see :func:`read_radiograph`.

    Raises
    ------
    RadiographError
        If the path is no readable file, or its content is refused.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise RadiographError("This is a folder, not a file; give the files in it.")
        if path.stat().st_size > MAX_BYTES:
            raise TooLarge(_too_many_bytes(path.stat().st_size))
        return read_radiograph(path.read_bytes())
    except FileNotFoundError:
        raise RadiographError("There is no such file; check its path.") from None
    except PermissionError:
        raise RadiographError("The file may not be read by this user; change its permissions.") from None


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
        applied.

    Raises
    ------
    UnsupportedFormat, DamagedFile, TooLarge, OutOfScope
        One sentence each: what, why, what to do.
    """
    if len(data) > MAX_BYTES:
        raise TooLarge(_too_many_bytes(len(data)))
    if not data:
        raise DamagedFile("The file is empty; export it again.")
    if data[128:132] == b"DICM" or _looks_like_bare_dicom(data):
        pixels, tags, spacing, notes = _read_dicom(data)
        name = "DICOM"
    else:
        pixels, name, notes = _read_picture(data)
        tags, spacing = {}, None
    height, width = pixels.shape
    if int(pixels.min()) == int(pixels.max()):
        raise OutOfScope(
            "Every pixel of this picture has the same value, so there is nothing to read; choose another file."
        )
    _check_size(width, height)
    return Radiograph(pixels, hashlib.sha256(data).hexdigest(), name, tags, spacing, tuple(notes))


def _too_many_bytes(size: int) -> str:
    return f"The file has {size / 2**20:.0f} MB and the limit is {MAX_BYTES // 2**20} MB; export a smaller one."


def _check_size(width: int, height: int) -> None:
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


# ---------------------------------------------------------------------------------------------- PNG, JPEG, WebP, TIFF

_PICTURES = {"PNG": "PNG", "JPEG": "JPEG", "MPO": "JPEG", "WEBP": "WebP", "TIFF": "TIFF"}


def _read_picture(data: bytes) -> tuple[NDArray[np.uint8], str, list[str]]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    head = data[:16]
    known = {
        "PNG": head.startswith(b"\x89PNG\r\n\x1a\n"),
        "JPEG": head.startswith(b"\xff\xd8\xff"),
        "WEBP": head[:4] == b"RIFF" and head[8:12] == b"WEBP",
        "TIFF": head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    }
    kind = next((name for name, found in known.items() if found), None)
    if kind is None:
        raise UnsupportedFormat(
            "This is no PNG, JPEG, WebP, TIFF or DICOM file; export the radiograph in one of these formats."
        )
    shown = _PICTURES[kind]
    notes: list[str] = []
    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=[kind, "MPO"] if kind == "JPEG" else [kind]) as image:
            _check_size(image.width, image.height)
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and kind == "TIFF":
                raise UnsupportedFormat(
                    f"This TIFF file holds {frames} pages and only one can be read; save the one to look at."
                )
            if frames > 1:
                notes.append("The file holds several pictures; the first is shown.")
            image.load()
            orientation = image.getexif().get(0x0112, 1)
            if orientation in range(2, 9):
                turned = ImageOps.exif_transpose(image)
                notes.append("Turned as the camera's orientation tag says.")
            else:
                turned = image
            return _grey(turned, notes), shown, notes
    except RadiographError:
        raise
    except Image.DecompressionBombError:
        raise TooLarge(f"The {shown} file unpacks to far more pixels than the limit; export a smaller one.") from None
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        IndexError,
        TypeError,
        KeyError,
        EOFError,
    ) as error:
        raise _damaged(shown) from error
    except (ArithmeticError, AttributeError, RuntimeError, NotImplementedError, AssertionError, LookupError) as error:
        raise _damaged(shown) from error
    except Exception as error:
        if type(error).__module__ in ("struct", "zlib") or type(error).__name__ == "error":
            raise _damaged(shown) from error
        raise


def _damaged(shown: str) -> DamagedFile:
    return DamagedFile(f"The {shown} file is damaged or cut short and cannot be decoded; export it again.")


def _grey(image: Any, notes: list[str]) -> NDArray[np.uint8]:
    """Any Pillow mode as 8-bit grey."""
    mode = image.mode
    if mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return _to_8_bit(np.asarray(image), notes)
    if mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    elif mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    elif mode == "1":
        image = image.convert("L")
    elif mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    array = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        alpha = array[..., -1:].astype(np.uint32)
        if alpha.min() < 255:
            notes.append("Transparent pixels were laid over black.")
            array = np.concatenate([(array[..., :-1] * alpha + 127) // 255, alpha], axis=-1).astype(np.uint8)
        array = array[..., 0] if image.mode == "LA" else array[..., :3]
    if array.ndim == 2:
        return np.asarray(array, np.uint8)
    if array.ndim != 3 or array.shape[2] != 3:
        raise UnsupportedFormat(f"The colour model {mode} is not read; save the picture as grey or RGB.")
    spread = array.max(axis=2).astype(int) - array.min(axis=2)
    if (spread > 8).mean() > 1e-4:
        notes.append(
            "The picture has coloured pixels, so it may be a screenshot or hold annotations; it was made grey."
        )
    elif not spread.any():
        return np.ascontiguousarray(array[..., 0])
    return np.asarray(np.rint(array @ np.array([0.299, 0.587, 0.114])), np.uint8)


def _to_8_bit(values: NDArray[Any], notes: list[str]) -> NDArray[np.uint8]:
    """16-bit, 32-bit and float pictures as 8-bit: the full 16-bit range, or the picture's own where that is unused."""
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    if not finite.all():
        if not finite.any():
            raise DamagedFile("The picture holds no finite value; export it again.")
        notes.append("Values that are no numbers were set to the darkest one.")
        numbers = np.where(finite, numbers, numbers[finite].min())
    low, high = float(numbers.min()), float(numbers.max())
    if low >= 0 and 65535 / 16 <= high <= 65535 and np.issubdtype(values.dtype, np.integer):
        low, high = 0.0, 65535.0
    else:
        notes.append("Grey levels were stretched from the darkest to the brightest value of the picture.")
    if high == low:
        return np.zeros(numbers.shape, np.uint8)
    # halves first: the difference of two large floats may overflow
    return np.asarray(np.rint((numbers / 2 - low / 2) / (high / 2 - low / 2) * 255), np.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep decoders from printing values of the file; limits that Pillow warns of are checked before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ------------------------------------------------------------------------------------------------------------- DICOM


def _looks_like_bare_dicom(data: bytes) -> bool:
    """A data set without preamble: it starts with a low group, and an element or two later names its modality."""
    return data[:2] in (b"\x08\x00", b"\x02\x00") and b"\x08\x00\x60\x00" in data[:4096]


def _read_dicom(
    data: bytes,
) -> tuple[NDArray[np.uint8], dict[str, str], tuple[float, float] | None, list[str]]:
    logger = logging.getLogger("pydicom")
    with _dicom_lock, _quiet():  # pydicom's warnings and log lines quote values: names and ids among them
        disabled, logger.disabled = logger.disabled, True
        try:
            return _decode_dicom(data)
        except RadiographError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            # pydicom and its codecs raise almost every type on malformed files. The type is told, the text and the
            # cause are not: they may quote the patient.
            kind = type(error).__name__
        finally:
            logger.disabled = disabled
    raise DamagedFile(f"The DICOM file is damaged or contradicts itself and cannot be decoded ({kind}); {_EXPORT}.")


def _decode_dicom(data: bytes) -> tuple[NDArray[np.uint8], dict[str, str], tuple[float, float] | None, list[str]]:
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    bare = data[128:132] != b"DICM"
    # Asked of the raw header, because reading the data set would already inflate it.
    syntax_element = data.find(b"\x02\x00\x10\x00UI", 132, 4096)
    if syntax_element > 0 and data[syntax_element + 8 :].startswith(DeflatedExplicitVRLittleEndian.encode()):
        raise UnsupportedFormat(f"Deflated DICOM files are not read, as they can unpack without limit; {_EXPORT}.")
    dataset = pydicom.dcmread(io.BytesIO(data), force=bare)
    notes: list[str] = []
    _check_scope(dataset, notes)
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    frames, samples = _whole(dataset, "NumberOfFrames", 1), _whole(dataset, "SamplesPerPixel", 1)
    if frames > 1:
        raise UnsupportedFormat(
            f"This DICOM file holds {frames} frames and only single pictures are read; export one of them."
        )
    if "PixelData" not in dataset:
        raise DamagedFile("The DICOM file holds no picture; export it again.")
    _check_size(columns, rows)
    if samples not in (1, 3):
        raise UnsupportedFormat(f"A DICOM picture with {samples} samples a pixel is not read; {_EXPORT}.")
    if bare and "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        notes.append("The DICOM file has no header; it was read as implicit little endian.")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        raise UnsupportedFormat(
            f"The DICOM file does not say how its pixels are stored (no transfer syntax); {_EXPORT}."
        )
    try:
        stored = dataset.pixel_array
    except (NotImplementedError, ImportError):
        syntax = pydicom.uid.UID(dataset.file_meta.TransferSyntaxUID)
        raise UnsupportedFormat(
            f"The DICOM transfer syntax {syntax.name if syntax.is_transfer_syntax else ''} is not read; {_EXPORT}."
        ) from None
    if stored.shape[:2] != (rows, columns):
        raise DamagedFile(f"The DICOM file says {columns} x {rows} pixels but holds others; {_EXPORT}.")
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if stored.ndim == 3:
        notes.append("The picture is in colour, so it may be a screenshot or hold annotations; it was made grey.")
        grey = _to_8_bit_range(stored[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114]), None)
    else:
        if photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise UnsupportedFormat(f"The photometric interpretation of this DICOM file is not read; {_EXPORT}.")
        padding = _padding(dataset, stored)
        values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
        if not np.isfinite(values).all():
            values = stored.astype(np.float64)
            notes.append("The file's rescale values are no numbers and were ignored.")
        shown = _windowed(values, dataset, padding, notes)
        grey = _to_8_bit_range(shown, padding)
        if photometric == "MONOCHROME1":
            grey = 255 - grey
        if padding is not None:
            grey[padding] = 0
    tags = {name: _plain(dataset.get(name)) for name in KEPT_TAGS if dataset.get(name) not in (None, "")}
    return grey, {k: v for k, v in tags.items() if v}, _spacing(dataset), notes


def _whole(dataset: Any, name: str, default: int | None = None) -> int:
    value = dataset.get(name)
    if value in (None, ""):
        if default is None:
            raise DamagedFile("The DICOM file does not say how large its picture is; export it again.")
        return default
    return int(value)


def _plain(value: Any) -> str:
    """A tag's value as short text; whitelisted tags hold codes and numbers, anything else is dropped."""
    parts = [value] if isinstance(value, (str, int, float)) else list(value)
    text = "\\".join(str(part) for part in parts)
    allowed = text.replace("\\", "").replace(".", "").replace("-", "").replace("_", "").replace(" ", "")
    return text if len(text) <= 40 and (not allowed or allowed.isalnum()) else ""


def _check_scope(dataset: Any, notes: list[str]) -> None:
    """Refuse everything but frontal chest radiographs, as far as the tags say."""
    modality = str(dataset.get("Modality", "") or "").upper()
    if modality and modality not in _RADIOGRAPHY:
        what = _MODALITIES.get(modality)
        named = f"a {what} picture (Modality {modality})" if what else "of another modality"
        raise OutOfScope(
            f"This DICOM file is {named}; only frontal chest radiographs (CR, DX, RG) are read, so choose one of these."
        )
    if not modality:
        notes.append("The DICOM file names no modality; make sure that this is a radiograph.")
    if str(dataset.get("ViewPosition", "") or "").upper().strip() in _LATERAL:
        raise OutOfScope(
            "This is a lateral view; the networks know frontal views (PA, AP) only, so choose one of these."
        )
    part = str(dataset.get("BodyPartExamined", "") or "").upper()
    # Descriptions are looked at for this decision and never kept: they may hold anything.
    described = [str(dataset.get(n, "") or "") for n in ("StudyDescription", "SeriesDescription", "ProtocolName")]
    for code in dataset.get("AnatomicRegionSequence", None) or []:
        described.append(str(code.get("CodeMeaning", "") or ""))
    words = " ".join(described).upper()
    chest = any(name in part for name in _CHEST)
    if part and not chest:
        raise OutOfScope(
            "This is a radiograph of another part of the body (Body Part Examined is not the chest); choose a chest radiograph."
        )
    if not part and not any(name in words for name in _CHEST):
        found = set("".join(c if c.isalpha() else " " for c in words).split())
        if found & set(_OTHER_PARTS):
            raise OutOfScope(
                "This is a radiograph of another part of the body, by its description; choose a chest radiograph."
            )
        notes.append("The DICOM file does not say which part of the body it shows.")
    if str(dataset.get("PresentationIntentType", "") or "").upper() == "FOR PROCESSING":
        notes.append(
            "Raw detector data (FOR PROCESSING): it looks unlike the pictures that the networks were trained on."
        )
    if str(dataset.get("BurnedInAnnotation", "") or "").upper() == "YES":
        notes.append("The file says that text is burned into the picture; it may name the patient.")
    age = str(dataset.get("PatientAge", "") or "")
    if len(age) == 4 and age[:3].isdigit() and (age[3] in "DWM" or (age[3] == "Y" and int(age[:3]) < 18)):
        notes.append("The patient is a child; the networks were trained on adults.")


def _padding(dataset: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Pixels that the file marks as no image (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    mask = np.asarray((stored >= low) & (stored <= high), np.bool_)
    return mask if mask.any() and not mask.all() else None


def _windowed(
    values: NDArray[np.float64], dataset: Any, padding: NDArray[np.bool_] | None, notes: list[str]
) -> NDArray[np.float64]:
    """VOI LUT or window; where there is none, or one that cannot work, the 0.5 to 99.5 percentile."""
    from pydicom.pixels.processing import apply_voi

    if dataset.get("VOILUTSequence"):
        try:
            shown = np.asarray(apply_voi(values.astype(np.int64), dataset), np.float64)
            if np.isfinite(shown).all() and np.ptp(shown) > 0:
                return shown
        except (ValueError, IndexError, AttributeError, TypeError, NotImplementedError, KeyError):
            pass
        notes.append("The file's VOI lookup table cannot be used.")
    centres, widths = (_numbers(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centres and widths:
        centre, width = centres[0], widths[0]
        if np.isfinite(centre) and np.isfinite(width) and width >= 1:
            shown = _window(values, centre, width, str(dataset.get("VOILUTFunction", "") or "LINEAR").upper())
            if np.ptp(shown) > 0:
                if len(centres) > 1:
                    notes.append("The file offers several windows; the first is used.")
                return shown
        notes.append("The file's window cannot be used.")
    if not widths and not dataset.get("VOILUTSequence") and dataset.get("BitsStored") == 8:
        return values  # 8-bit pictures without a window are ready to be shown
    low, high = np.percentile(values if padding is None else values[~padding], (0.5, 99.5))
    notes.append("Auto window: grey levels from the 0.5 to the 99.5 percentile.")
    return np.asarray(np.clip(values, low, high), np.float64) if high > low else values


def _window(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """A window on the values after the Modality LUT, as 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    pydicom's own function scales its output range by the rescale slope too, which turns a picture with a negative
    slope upside down.
    """
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        shown = (values - centre) / width + 0.5
    else:
        shown = (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5
    return np.asarray(np.clip(shown, 0, 1), np.float64)


def _numbers(value: Any) -> list[float]:
    if value in (None, ""):
        return []
    try:
        return [
            float(v)
            for v in (
                value
                if isinstance(value, (list, tuple)) or (hasattr(value, "__iter__") and not isinstance(value, str))
                else [value]
            )
        ]
    except (TypeError, ValueError):
        return []


def _to_8_bit_range(values: NDArray[np.float64], padding: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Scale to 0..255 by the range outside the padding."""
    inside = values if padding is None else values[~padding]
    low, high = float(inside.min()), float(inside.max())
    if high == low:
        return np.zeros(values.shape, np.uint8)
    return np.asarray(np.rint(np.clip((values - low) / (high - low), 0, 1) * 255), np.uint8)


def _spacing(dataset: Any) -> tuple[float, float] | None:
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = _numbers(dataset.get(name))
        if len(spacing) == 2 and all(0.01 <= s <= 10 for s in spacing):
            return spacing[0], spacing[1]
    return None
