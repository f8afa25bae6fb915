"""The elements of a DICOM file, none of them larger than a radiograph can need.

pydicom makes an object of each item of a sequence and of each value of an element: some 50 µs and 1 KB for an item of
eight bytes, 6 µs and 400 bytes for a value of two. So a file of a few hundred kilobytes could take seconds and
hundreds of megabytes. Here everything is bounded before pydicom takes it apart.
"""

from __future__ import annotations

import io
from typing import Any

from cxnet.errors import DamagedFile, TooLarge

#: Elements and items of a file, those of nested sequences included. Radiographs have a few hundred.
MAX_ELEMENTS = 5_000
#: Bytes of a text or of numbers. By the standard 8 window explanations, the longest that are read, have at most 520.
MAX_TEXT_BYTES = 1024

_SEQUENCES = ("AnatomicRegionSequence", "ViewCodeSequence", "ModalityLUTSequence", "VOILUTSequence")
#: Of these the beginning is enough: the first windows, the first words.
_CUT = {
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation",
    "StudyDescription", "SeriesDescription", "ProtocolName",
}  # fmt: skip
_CHARACTER_SET = (b"\x08\x00\x05\x00", b"\x00\x08\x00\x05")
_TOO_MANY = (
    f"The DICOM file has more than {MAX_ELEMENTS:,} elements, far more than a radiograph needs, or is damaged; "
    "export the radiograph without private data, or as a PNG file."
)


class _Counted(io.BytesIO):
    """A file that is read no further after :data:`MAX_ELEMENTS` elements and items.

    pydicom reads the head of each as eight bytes, and that of a fragment of the picture, which costs an eighth, as two
    times four. It takes apart sequences of undefined length at once, wanted or not, and so it does with character sets
    and the file's meta information, of which each eight bytes count as an element.
    """

    def __init__(self, data: bytes, counted: float = 0.0) -> None:
        super().__init__(data)
        self.counted = counted
        self._head = b""

    def read(self, size: int | None = -1) -> bytes:
        if self._head in _CHARACTER_SET or self._head[:2] == b"\x02\x00":
            self.counted += (size or 0) / 8
        self.counted += {8: 1, 4: 1 / 16}.get(size or 0, 0)
        if self.counted > MAX_ELEMENTS:
            raise TooLarge(_TOO_MANY)  # pydicom makes an OSError of it where it reads an item
        found = super().read(size)
        if size == 8:
            self._head = found[:4]
        return found


def read_elements(data: bytes, force: bool, names: tuple[str, ...]) -> Any:
    """The data set of a file: no more than the elements of these names, and none that is costly to take apart.

    Parameters
    ----------
    data : bytes
        The file.
    force : bool
        Whether it may lack the preamble.
    names : tuple of str
        Keywords of the elements that are read.

    Returns
    -------
    pydicom.FileDataset
        Sequences are taken apart. Apart from them, the pixel data and the data of lookup tables, no element has more than
        :data:`MAX_TEXT_BYTES`.

    Raises
    ------
    TooLarge
        If the file has more than :data:`MAX_ELEMENTS` elements.
    DamagedFile
        If an element is larger, or of another type, than it can be.
    Exception
        Whatever pydicom raises.
    """
    import pydicom
    from pydicom.dataelem import DataElement
    from pydicom.filereader import read_sequence
    from pydicom.tag import Tag

    source = _Counted(data)
    try:
        dataset = pydicom.dcmread(source, force=force, specific_tags=list(names))
        # first, as pydicom looks at some of these when it is given a sequence
        for name in names:
            if name in dataset and name not in _SEQUENCES:
                _check(dataset, name)
        for name in _SEQUENCES:
            raw = _raw(dataset, name)
            if raw is None:
                continue
            if raw.VR not in (None, "SQ", "UN"):
                raise _damaged(name)
            value = raw.value or b""
            source = _Counted(value, source.counted)
            encoding = dataset.original_character_set or "iso8859"
            items = read_sequence(source, raw.is_implicit_VR, raw.is_little_endian, len(value), encoding)
            dataset[Tag(name)] = DataElement(Tag(name), "SQ", items)
    except Exception:
        if source.counted > MAX_ELEMENTS:
            raise TooLarge(_TOO_MANY) from None
        raise
    for name in _SEQUENCES:
        for item in dataset.get(name) or []:
            for tag in [tag for tag in item.keys() if tag != Tag("LUTData")]:  # noqa: SIM118, a data set is no dict
                if not _is_short(item.get_item(tag)):
                    del item[tag]
    return dataset


def raw_value(item: Any, name: str) -> tuple[bytes, str | None, bool]:
    """The bytes of an element, its type where the file tells one, and whether it is little-endian; no bytes without it."""
    raw = _raw(item, name)
    return (b"", None, True) if raw is None else (raw.value or b"", raw.VR, raw.is_little_endian)


def _raw(dataset: Any, name: str) -> Any | None:
    """An element as it was read; None where there is none, or a sequence of undefined length."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    found = dataset.get_item(Tag(name)) if name in dataset else None
    return found if isinstance(found, RawDataElement) else None


def _check(dataset: Any, name: str) -> None:
    """Cut an element that is too long, or refuse it."""
    raw = _raw(dataset, name)
    if name == "PixelData":
        # any other type would be taken apart into values
        if raw is None or not (raw.VR is None or raw.VR == "UN" or raw.VR.startswith("O")):
            raise _damaged(name)
    elif not _is_short(raw):
        if raw is None or name not in _CUT:
            raise _damaged(name)
        value = raw.value[:MAX_TEXT_BYTES]
        whole, separator, _ = value.rpartition(b"\\")
        value = whole if separator else value
        dataset[raw.tag] = raw._replace(value=value, length=len(value))


def _is_short(element: Any) -> bool:
    from pydicom.dataelem import RawDataElement

    return isinstance(element, RawDataElement) and len(element.value or b"") <= MAX_TEXT_BYTES


def _damaged(name: str) -> DamagedFile:
    return DamagedFile(
        f"An element of the DICOM file ({name}) is larger than it can be, or of another type; export the file again."
    )
