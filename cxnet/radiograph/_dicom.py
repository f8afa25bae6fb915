"""DICOM files to grey pictures (PS3.3 C.7.6.3, C.11.1, C.11.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import DamagedFile, OutOfScope, UnsupportedFormat
from cxnet.radiograph._codestream import PLUGINS, Encoded
from cxnet.radiograph._depth import AS_GIVEN, Depth, Scale, Window, reduced, tells_more, title_of
from cxnet.radiograph._elements import raw_value, read_elements
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

#: Windows, and lookup tables, of a file that are read.
MAX_WINDOWS = 8
#: A LINEAR window of width 1 is a step (PS3.3 C.11.2.1.2.1).
_NARROWEST = 1e-9
#: VOI LUT Functions that take centre and width as they are; any other is read as LINEAR, as the standard's default.
_WITHOUT_STEP = ("LINEAR_EXACT", "SIGMOID")

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
    voi_tables: list[_Table | None]
    voi_titles: list[str]
    centres: list[float]
    widths: list[float]
    window_titles: list[str]
    function: str
    tags: dict[str, str]
    spacing: tuple[float, float] | None


#: What is read of a data set; everything else is dropped while reading.
_READ_TAGS = (
    *KEPT_TAGS, "StudyDescription", "SeriesDescription", "ProtocolName", "AnatomicRegionSequence", "ViewCodeSequence",
    "PatientAge",
    "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation",
    "VOILUTFunction", "PixelData",
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
    dataset = read_elements(data, bare, _READ_TAGS)
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
    modality_items, voi_items = _items(dataset, "ModalityLUTSequence"), _items(dataset, "VOILUTSequence")
    modality_table = _table(modality_items[0], signed) if modality_items else None
    if modality_table is None and modality_items:
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
        [_table(item, voi_signed) for item in voi_items],
        [title_of(item.get("LUTExplanation"), "lookup table", number) for number, item in enumerate(voi_items, 1)],
        numbers(dataset.get("WindowCenter"))[:MAX_WINDOWS],
        numbers(dataset.get("WindowWidth"))[:MAX_WINDOWS],
        _window_titles(dataset),
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
    if 1e-30 < abs(slope) < 1e30 and abs(intercept) < 1e30:
        return slope, intercept
    notes.append("The file's rescale values cannot be used and were ignored.")
    return 1.0, 0.0


def _items(dataset: Any, name: str) -> list[Any]:
    """The items of a sequence, not too many."""
    return list((dataset.get(name) or [])[:MAX_WINDOWS])


def _window_titles(dataset: Any) -> list[str]:
    """What the windows are called: free text, of which little is told."""
    told = dataset.get("WindowCenterWidthExplanation")
    texts = [told] if isinstance(told, str) else list(told or [])[:MAX_WINDOWS]
    texts += [""] * (MAX_WINDOWS - len(texts))
    return [title_of(text, "window", number) for number, text in enumerate(texts, 1)]


def _table(item: Any, signed: bool) -> _Table | None:
    """The lookup table of an item; None where it is damaged.

    ``signed`` says whether the input of the table may be negative; then so is its first input (PS3.3 C.11.2.1.1). A
    file that types it as signed itself is believed.
    """
    descriptor, typed_signed = _words(item, "LUTDescriptor")
    words, _ = _words(item, "LUTData")
    if len(descriptor) != 3:
        return None
    count, first, bits = int(descriptor[0]) or 65536, int(descriptor[1]), int(descriptor[2])
    # entries of 8 bits are stored as bytes or, against the standard, as words with a zero byte each (C.11.1.1, note)
    entries = words.view(np.uint8) if bits == 8 and len(words) < count else words
    if not 8 <= bits <= 16 or len(entries) < count:
        return None
    if first >= 32768 and (signed or typed_signed):
        first -= 65536
    return _Table(first, entries[:count].astype(np.uint16))


def _words(item: Any, name: str) -> tuple[NDArray[np.uint16], bool]:
    """Up to 65,536 values of US, SS or OW as little-endian words, and whether the file types them as signed.

    Straight from the bytes: pydicom would make a number of each, however many of them there are.
    """
    value, kind, little = raw_value(item, name)
    if kind not in (None, "US", "SS", "OW", "OB", "UN"):
        return np.empty(0, "<u2"), False
    value = value[: min(len(value) // 2, 65536) * 2]
    return np.frombuffer(value, "<u2" if little else ">u2").astype("<u2"), kind == "SS"


def _padding(dataset: Any, signed: bool) -> tuple[int, int] | None:
    """Lowest and highest stored value that mark what is no image (PS3.3 C.7.5.1.1.2)."""
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    # typed as US or SS, not always as the pixels are
    whole = [end % 65536 - 65536 * (signed and end % 65536 >= 32768) for end in ends if isinstance(end, int)]
    return (min(whole), max(whole)) if isinstance(ends[0], int) else None


class _View(NamedTuple):
    """A way to show values: what becomes of each, which outputs are black and white, and how to do it again.

    A lookup table, or centre and width in the file's units; without either, values are shown as they are.
    """

    title: str
    shown: NDArray[np.float64]
    black: float
    white: float
    table: _Table | None = None
    window: tuple[float, float] | None = None


def render(
    picture: Dicom, stored: NDArray[Any], notes: list[str], sha256: str
) -> tuple[NDArray[np.uint8], Depth | None]:
    """The grey picture (rows, columns) of the stored values (rows, columns), and what they hold beyond 8 bits.

    Every step maps one value to one value, so it is done once for each value that occurs, not for each pixel.
    """
    lowest = int(stored.min())
    parts = blocks(len(stored), stored.shape[1])
    counts = np.zeros(int(stored.max()) - lowest + 1, np.intp)
    for rows in parts:
        counts += np.bincount((stored[rows].astype(np.int32) - lowest).ravel(), minlength=len(counts))
    found = np.flatnonzero(counts)
    levels = found
    if picture.padding is not None:
        image = (levels + lowest < picture.padding[0]) | (levels + lowest > picture.padding[1])
        levels = levels[image] if image.any() else levels
    values = np.asarray(levels + lowest, np.float64)
    if picture.modality_table is not None:
        values = picture.modality_table(values)
    else:
        values = values * picture.slope + picture.intercept
    views = _views(values, counts[levels], picture, stored.dtype, notes)
    grey = np.zeros(len(counts), np.uint8)  # padding stays black
    grey[levels] = scaled(views[0].shown, views[0].black, views[0].white)
    if picture.inverted:
        grey[levels] = 255 - grey[levels]
    pixels = np.empty(stored.shape, np.uint8)
    for rows in parts:
        pixels[rows] = grey[stored[rows].astype(np.int32) - lowest]

    padded = len(levels) < len(found)
    unit = 1.0 if picture.modality_table is not None else abs(picture.slope)
    scale = Scale.over(float(values.min()), float(values.max()), unit, padded, picture.inverted)
    if scale is None:
        return pixels, None
    windows = tuple(_window_of(view, scale, picture) for view in views)
    deep = np.zeros(len(counts), np.uint16)
    deep[levels] = scale.levels(values)
    if not tells_more(np.unique(deep[levels]), windows):
        return pixels, None
    kept = reduced(lambda rows: deep[stored[rows].astype(np.int32) - lowest], *stored.shape)
    return pixels, Depth(kept, scale.offset, scale.step, unit, scale.last, padded, windows, sha256)


def _views(
    values: NDArray[np.float64], counts: NDArray[np.intp], picture: Dicom, stored: np.dtype[Any], notes: list[str]
) -> list[_View]:
    """How the file wants its values to be shown: first the way that the network gets, then the others.

    The first lookup table, or else the first window. Where there is none, or one that cannot work, the 0.5 to 99.5
    percentile.
    """
    tables = [_by_table(values, *each) for each in zip(picture.voi_titles, picture.voi_tables, strict=True)]
    each_window = zip(picture.window_titles, picture.centres, picture.widths, strict=False)
    windows = [_by_window(values, *each, picture.function) for each in each_window]
    first = None
    if tables:
        first = tables[0]
        if first is None:
            notes.append("The file's VOI lookup table cannot be used.")
    if first is None and windows:
        first = windows[0]
        if first is None:
            notes.append("The file's window cannot be used.")
    others = [view for view in (*tables, *windows) if view is not None and view is not first]
    if first is not None:
        if others:
            notes.append(
                "The file offers several windows: the network gets the first, and the others can be seen in the viewer."
            )
        return [first, *others]
    return [_without_window(values, counts, picture, stored, bool(tables), notes), *others]


def _without_window(
    values: NDArray[np.float64],
    counts: NDArray[np.intp],
    picture: Dicom,
    stored: np.dtype[Any],
    has_table: bool,
    notes: list[str],
) -> _View:
    """How values are shown where no window of the file can work."""
    if not picture.widths and not has_table and picture.bits_stored == 8:
        # 8-bit pictures without a window are ready to be shown
        if picture.modality_table is not None:
            return _View(AS_GIVEN, values, float(values.min()), float(values.max()))
        lowest = -128 if stored.kind == "i" else 0
        ends = [picture.slope * end + picture.intercept for end in (lowest, lowest + 255)]
        return _View(AS_GIVEN, values, min(ends), max(ends))
    low, high = np.percentile(values, (0.5, 99.5), weights=counts, method="inverted_cdf")
    notes.append("Auto window: grey levels from the 0.5 to the 99.5 percentile.")
    if not high > low:
        low, high = values.min(), values.max()
    return _View(AS_GIVEN, np.clip(values, low, high), float(low), float(high))


def _by_table(values: NDArray[np.float64], title: str, table: _Table | None) -> _View | None:
    """Values after a VOI LUT; None where it is damaged or shows nothing.

    Its own lowest and highest output are black and white: tables often fill less than the bits that they claim.
    """
    shown = values if table is None else table(values)
    if table is None or not np.ptp(shown) > 0:
        return None
    return _View(title, shown, float(shown.min()), float(shown.max()), table)


def _by_window(values: NDArray[np.float64], title: str, centre: float, width: float, function: str) -> _View | None:
    """Values after a window; None where it cannot work or shows nothing."""
    # a width of less than 1 is one too, unless LINEAR (PS3.3 C.11.2.1.3)
    wide_enough = width > 0 if function in _WITHOUT_STEP else width >= 1
    if not (np.isfinite(centre) and np.isfinite(width) and wide_enough):
        return None
    shown = _window(values, centre, width, function)
    return _View(title, shown, 0.0, 1.0, window=(centre, width)) if np.ptp(shown) > 1 / 255 else None


def _window_of(view: _View, scale: Scale, picture: Dicom) -> Window:
    """The same way to show values, for all levels of a scale."""
    more = int(picture.function not in _WITHOUT_STEP)
    if view.table is not None:
        centre = width = None
        shown = view.table(scale.values())
    elif view.window is None:
        return scale.straight(view.title, view.black, view.white, more)
    else:
        centre, width = view.window
        if picture.function != "SIGMOID":
            middle, half = centre - more / 2, (max(width - 1, _NARROWEST) if more else width) / 2
            straight = scale.straight(view.title, middle - half, middle + half, more)
            return replace(straight, centre=centre, width=width)
        shown = _window(scale.values(), centre, width, picture.function)
    grey = np.clip((shown - view.black) / (view.white - view.black), 0, 1)
    curve = np.rint((1 - grey if picture.inverted else grey) * 65535).astype(np.uint16)
    return Window(view.title, centre=centre, width=width, more=more, curve=curve)


def _window(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """A window on the values after the Modality LUT, as 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    pydicom's own function scales its output range by the rescale slope too, which turns a picture with a negative
    slope upside down.
    """
    if function in _WITHOUT_STEP:
        with np.errstate(over="ignore"):  # a tiny width is a step
            places = (values - centre) / width
        shown = 1 / (1 + np.exp(-4 * np.clip(places, -175, 175))) if function == "SIGMOID" else places + 0.5
    else:
        shown = (values - (centre - 0.5)) / max(width - 1, _NARROWEST) + 0.5
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
