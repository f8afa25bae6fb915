"""DICOM files to grey pictures (PS3.3 C.7.6.3, C.11.1, C.11.2)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import DamagedFile, OutOfScope, UnsupportedFormat
from cxnet.radiograph._codestream import PLUGINS, Encoded
from cxnet.radiograph._picture import blocks, check_size, scaled
from cxnet.radiograph._view import check_view

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
_CHEST = ("CHEST", "THORAX", "LUNG", "PULMON", "TORSO", "RIB", "STERNUM", "HEART", "MEDIASTIN", "TORAX", "POUMON")
_OTHER_PARTS = (
    "ABDOMEN", "PELVIS", "LEG", "FOOT", "ANKLE", "KNEE", "HAND", "WRIST", "ELBOW", "SKULL", "HEAD", "NECK", "SPINE",
    "HIP", "FEMUR", "TIBIA", "FINGER", "TOE", "FOREARM", "HUMERUS", "SHOULDER", "BREAST", "JAW", "EXTREMITY",
)  # fmt: skip

EXPORT = "export the radiograph as an uncompressed DICOM, PNG or JPEG file"


@dataclass(frozen=True)
class _Table:
    """A lookup table: ``entries[k]`` for the input ``first + k``, the outer ones beyond (PS3.3 C.11.1.1, C.11.2.1.1).

    pydicom's functions are not used: they index with the type of the entries, which wraps for 8-bit tables and for
    more than 65535 inputs, and take the second descriptor value as it is typed rather than as its input is signed.
    """

    first: int
    entries: NDArray[np.uint16]

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        # Values are no integers after a broken rescale slope; the standard is silent, so the nearest entry is taken.
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return np.asarray(self.entries[index], np.float64)


@dataclass(frozen=True)
class Dicom:
    """What is needed of a data set beside its pixels, as plain values: reading them fails no more."""

    shape: tuple[int, ...]  # (rows, columns) or (rows, columns, 3)
    inverted: bool
    bits_stored: int
    padding: tuple[int, int] | None
    slope: float
    intercept: float
    modality_table: _Table | None
    has_voi_table: bool
    voi_table: _Table | None
    centres: list[float]
    widths: list[float]
    function: str
    tags: dict[str, str]
    spacing: tuple[float, float] | None


#: What is read of a data set; everything else is dropped while reading.
_READ_TAGS = (
    *KEPT_TAGS, "StudyDescription", "SeriesDescription", "ProtocolName", "AnatomicRegionSequence", "ViewCodeSequence",
    "PatientAge",
    "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PixelData",
)  # fmt: skip


def looks_like_bare_dicom(data: bytes) -> bool:
    """A data set without preamble: it starts with a low group, and an element or two later names its modality."""
    return data[:2] in (b"\x08\x00", b"\x02\x00") and b"\x08\x00\x60\x00" in data[:4096]


def read_dicom(data: bytes, notes: list[str]) -> tuple[Dicom, Encoded]:
    """Read a file but for its pixels, or refuse it by its tags; besides, raises whatever pydicom raises."""
    import pydicom
    from pydicom.uid import (
        UID,
        DeflatedExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEGExtended12Bit,
        MediaStorageDirectoryStorage,
    )

    # Looked for in the raw bytes, because reading the header would already inflate the rest without limit.
    if DeflatedExplicitVRLittleEndian.encode() in data:
        raise UnsupportedFormat(f"Deflated DICOM files are not read, as they can unpack without limit; {EXPORT}.")
    bare = data[128:132] != b"DICM"
    dataset = pydicom.dcmread(io.BytesIO(data), force=bare, specific_tags=list(_READ_TAGS))
    if getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise UnsupportedFormat(
            "This is the index of a folder of DICOM files (DICOMDIR) and holds no picture; choose the other files."
        )
    _check_scope(dataset, notes)
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    frames, samples = _whole(dataset, "NumberOfFrames", 1), _whole(dataset, "SamplesPerPixel", 1)
    allocated, signed = _whole(dataset, "BitsAllocated"), _whole(dataset, "PixelRepresentation", 0) == 1
    stored_bits = _whole(dataset, "BitsStored", allocated)
    photometric = str(dataset.get("PhotometricInterpretation", "") or "MONOCHROME2")
    if frames > 1:
        raise UnsupportedFormat(
            f"This DICOM file holds {frames} frames and only single pictures are read; export one of them."
        )
    if not dataset.get("PixelData"):
        raise DamagedFile("The DICOM file holds no picture; export it again.")
    check_size(columns, rows)
    if samples not in (1, 3):
        raise UnsupportedFormat(f"A DICOM picture with {samples} samples a pixel is not read; {EXPORT}.")
    if allocated not in ((8, 16) if samples == 1 else (8,)):
        raise UnsupportedFormat(f"A DICOM picture with {allocated} bits a sample is not read; {EXPORT}.")
    if not 1 <= stored_bits <= allocated:
        raise DamagedFile(f"The DICOM file contradicts itself about the bits of a pixel; {EXPORT}.")
    if samples == 1 and photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedFormat(f"The photometric interpretation of this DICOM file is not read; {EXPORT}.")
    if bare and "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        notes.append("The DICOM file has no header; it was read as implicit little endian.")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        raise UnsupportedFormat(
            f"The DICOM file does not say how its pixels are stored (no transfer syntax); {EXPORT}."
        )
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax not in PLUGINS or (syntax == JPEGExtended12Bit and stored_bits != 8):
        raise UnsupportedFormat(
            f"The DICOM transfer syntax {syntax.name if syntax.is_transfer_syntax else ''} is not read; {EXPORT}."
        )
    # once allowed; pydicom would drop the top bits
    if not syntax.is_encapsulated and _whole(dataset, "HighBit", stored_bits - 1) != stored_bits - 1:
        raise UnsupportedFormat(f"The bits of a pixel lie in an unusual place in this DICOM file; {EXPORT}.")
    slope, intercept = _rescale(dataset, notes)
    modality_table = _table(dataset, "ModalityLUTSequence", signed)
    if modality_table is None and dataset.get("ModalityLUTSequence"):
        raise DamagedFile(f"The modality lookup table of the DICOM file is damaged; {EXPORT}.")
    if modality_table is not None:
        voi_signed = False
    else:
        lowest = -(2 ** (stored_bits - 1)) if signed else 0
        voi_signed = min(slope * lowest, slope * (lowest + 2**stored_bits - 1)) + intercept < 0
    tags = {name: _plain(dataset.get(name)) for name in KEPT_TAGS if dataset.get(name) not in (None, "")}
    picture = Dicom(
        (rows, columns) if samples == 1 else (rows, columns, 3),
        photometric == "MONOCHROME1",
        stored_bits,
        _padding(dataset, signed),
        slope,
        intercept,
        modality_table,
        bool(dataset.get("VOILUTSequence")),
        _table(dataset, "VOILUTSequence", voi_signed),
        numbers(dataset.get("WindowCenter")),
        numbers(dataset.get("WindowWidth")),
        str(dataset.get("VOILUTFunction", "") or "LINEAR").upper(),
        {name: value for name, value in tags.items() if value},
        _spacing(dataset),
    )
    return picture, Encoded(dataset, rows, columns, samples)


def decode_dicom(picture: Dicom, encoded: Encoded, apart: NDArray[np.uint8] | None) -> NDArray[Any]:
    """Stored values: integer (rows, columns), or uint8 (rows, columns, 3); or whatever pydicom and its plugins raise."""
    stored = encoded.decode(apart)
    if stored.shape != picture.shape:
        raise DamagedFile(f"The DICOM file says other pixels than it holds; {EXPORT}.")
    return stored


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
    check_view(dataset, notes)
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


def _rescale(dataset: Any, notes: list[str]) -> tuple[float, float]:
    """Slope and intercept (PS3.3 C.11.1); 1 and 0 where there are none, or none that work."""
    found = [numbers(dataset.get(name)) for name in ("RescaleSlope", "RescaleIntercept")]
    slope, intercept = (numbers[0] if numbers else default for numbers, default in zip(found, (1.0, 0.0), strict=True))
    if 0 < abs(slope) < 1e30 and abs(intercept) < 1e30:
        return slope, intercept
    notes.append("The file's rescale values cannot be used and were ignored.")
    return 1.0, 0.0


def _table(dataset: Any, name: str, signed: bool) -> _Table | None:
    """The first lookup table of a sequence; None where there is none, or a damaged one.

    ``signed`` says whether the input of the table may be negative; then so is its first input (PS3.3 C.11.2.1.1). A
    file that types it as signed itself is believed.
    """
    sequence = dataset.get(name)
    if not sequence:
        return None
    item = sequence[0]
    implicit, little = dataset.original_encoding
    descriptor = _words(item.get("LUTDescriptor"), little)
    words = _words(item.get("LUTData"), little)
    if len(descriptor) != 3:
        return None
    count, first, bits = int(descriptor[0]) or 65536, int(descriptor[1]), int(descriptor[2])
    # entries of 8 bits are stored as bytes or, against the standard, as words with a zero byte each (C.11.1.1, note)
    entries = words.view(np.uint8) if bits == 8 and len(words) < count else words
    if not 8 <= bits <= 16 or len(entries) < count:
        return None
    typed_signed = not implicit and item["LUTDescriptor"].VR == "SS"
    if first >= 32768 and (signed or typed_signed):
        first -= 65536
    return _Table(first, entries[:count].astype(np.uint16))


def _words(value: Any, little: bool) -> NDArray[np.uint16]:
    """Values of US, SS or OW as little-endian words."""
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) // 2 * 2], "<u2" if little else ">u2").astype("<u2")
    return np.array([int(number) % 65536 for number in numbers(value)], "<u2")


def _padding(dataset: Any, signed: bool) -> tuple[int, int] | None:
    """Lowest and highest stored value that mark what is no image (PS3.3 C.7.5.1.1.2)."""
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    # typed as US or SS, not always as the pixels are
    whole = [end % 65536 - 65536 * (signed and end % 65536 >= 32768) for end in ends if isinstance(end, int)]
    return (min(whole), max(whole)) if isinstance(ends[0], int) else None


def render(picture: Dicom, stored: NDArray[Any], notes: list[str]) -> NDArray[np.uint8]:
    """The grey picture (rows, columns) of the stored values (rows, columns).

    Every step maps one value to one value, so it is done once for each value that occurs, not for each pixel.
    """
    lowest = int(stored.min())
    parts = blocks(len(stored), stored.shape[1])
    counts = np.zeros(int(stored.max()) - lowest + 1, np.intp)
    for rows in parts:
        counts += np.bincount((stored[rows].astype(np.int32) - lowest).ravel(), minlength=len(counts))
    levels = np.flatnonzero(counts)
    if picture.padding is not None:
        image = (levels + lowest < picture.padding[0]) | (levels + lowest > picture.padding[1])
        levels = levels[image] if image.any() else levels
    values = np.asarray(levels + lowest, np.float64)
    if picture.modality_table is not None:
        values = picture.modality_table(values)
    else:
        values = values * picture.slope + picture.intercept
    shown, black, white = _windowed(values, counts[levels], picture, stored.dtype, notes)
    grey = np.zeros(len(counts), np.uint8)  # padding stays black
    grey[levels] = scaled(shown, black, white)
    if picture.inverted:
        grey[levels] = 255 - grey[levels]
    found = np.empty(stored.shape, np.uint8)
    for rows in parts:
        found[rows] = grey[stored[rows].astype(np.int32) - lowest]
    return found


def _windowed(
    values: NDArray[np.float64], counts: NDArray[np.intp], picture: Dicom, stored: np.dtype[Any], notes: list[str]
) -> tuple[NDArray[np.float64], float, float]:
    """Values after VOI LUT or window, and which of them are black and white.

    Where there is no window, or one that cannot work, the 0.5 to 99.5 percentile. A table's own lowest and highest output
    are black and white: tables often fill less than the bits that they claim.
    """
    if picture.has_voi_table:
        shown = values if picture.voi_table is None else picture.voi_table(values)
        if picture.voi_table is not None and np.ptp(shown) > 0:
            return shown, float(shown.min()), float(shown.max())
        notes.append("The file's VOI lookup table cannot be used.")
    if picture.centres and picture.widths:
        centre, width = picture.centres[0], picture.widths[0]
        if np.isfinite(centre) and np.isfinite(width) and width >= 1:
            shown = _window(values, centre, width, picture.function)
            if np.ptp(shown) > 1 / 255:
                if len(picture.centres) > 1:
                    notes.append("The file offers several windows; the first is used.")
                return shown, 0.0, 1.0
        notes.append("The file's window cannot be used.")
    if not picture.widths and not picture.has_voi_table and picture.bits_stored == 8:
        # 8-bit pictures without a window are ready to be shown
        if picture.modality_table is not None:
            return values, float(values.min()), float(values.max())
        lowest = -128 if stored.kind == "i" else 0
        ends = [picture.slope * end + picture.intercept for end in (lowest, lowest + 255)]
        return values, min(ends), max(ends)
    low, high = np.percentile(values, (0.5, 99.5), weights=counts, method="inverted_cdf")
    notes.append("Auto window: grey levels from the 0.5 to the 99.5 percentile.")
    if not high > low:
        low, high = values.min(), values.max()
    return np.clip(values, low, high), float(low), float(high)


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


def numbers(value: Any) -> list[float]:
    """A tag's value as floats; none where one of them is no number."""
    if value in (None, ""):
        return []
    try:
        return [float(number) for number in ([value] if isinstance(value, (str, int, float)) else value)]
    except (TypeError, ValueError):
        return []


def _spacing(dataset: Any) -> tuple[float, float] | None:
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = numbers(dataset.get(name))
        if len(spacing) == 2 and all(0.01 <= s <= 10 for s in spacing):
            return spacing[0], spacing[1]
    return None
