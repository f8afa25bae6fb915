"""Files that claim more than they hold, or hold more than they claim: each ends soon and in little memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxnet.errors import RadiographError
from cxnet.radiograph import read_radiograph
from tests.test_radiograph import RAMP, dicom, saved, square, written
from tests.test_radiograph_fuzz import MAX_GROWTH, MAX_SECONDS, TEXTURE, _compressed, _exif


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(side: int, content: bytes, *others: bytes) -> bytes:
    """A grey 8-bit PNG file that claims ``side`` x ``side`` pixels."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(others) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _tiff(entries: dict[int, tuple[int, int]], following: int = 0) -> bytes:
    """A little-endian TIFF file of one directory at 8 with (type, value) for each tag, then 5000 bytes of picture."""
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(entries.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following)
    return head + bytes(range(250)) * 20


def _tiff_of(width: int, height: int, following: int = 0, **more: int) -> bytes:
    named = {
        "compression": 259,
        "strip_bytes": 279,
        "tile_width": 322,
        "tile_height": 323,
        "tile": 324,
        "tile_bytes": 325,
    }
    entries = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (4, height)}
    entries |= {279: (4, 5000)} | {named[name]: (4, value) for name, value in more.items()}
    if "tile" not in more:
        entries[273] = (4, 14 + 12 * (len(entries) + 1))
    return _tiff(entries, following)


def _patched(data: bytes, found: bytes, offset: int, new: bytes) -> bytes:
    place = data.index(found) + offset
    return data[:place] + new + data[place + len(new) :]


def _chain_of_directories(count: int) -> bytes:
    first = _tiff_of(64, 64)
    start = len(first)
    links = b"".join(struct.pack("<HI", 0, start + 6 * (k + 1)) for k in range(count))
    return _tiff_of(64, 64, start) + links


def _dicom_of(codestream: bytes | list[bytes], syntax: str, values: np.ndarray = TEXTURE, bits: int = 16) -> bytes:
    data = dicom(values, bits)
    data.PixelData = encapsulate(codestream if isinstance(codestream, list) else [codestream], has_bot=False)
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    return written(data)


def _rle_bomb() -> bytes:
    run = b"\x81\0" * 2_000_000  # 128 bytes each
    return _dicom_of(struct.pack("<16I", 2, 64, 64 + len(run), *[0] * 13) + run * 2, RLELossless)


def _deflated_bomb() -> bytes:
    data = dicom(np.zeros((10_000, 10_000)))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return written(data)


def _nested(depth: int) -> bytes:
    plain = written(dicom(square()))
    start = b"\x08\x00\x18\x22SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"  # Anatomic Region Sequence
    return plain[: plain.index(b"\x10\x00\x10\x00")] + start * depth


def _many_elements(count: int) -> bytes:
    plain = written(dicom(square()))
    tags = b"".join(struct.pack("<HH2sH", 0x0029 + 2 * (k >> 16), k & 0xFFFF, b"LO", 0) for k in range(count))
    at = plain.index(b"\xe0\x7f\x10\x00")
    return plain[:at] + tags + plain[at:]


def lies() -> dict[str, tuple[bytes, set[str]]]:
    """Files that claim more than they hold or hold more than they claim, and what may come of each."""
    grey = Image.fromarray(RAMP)
    rows = zlib.compress(b"".join(b"\0" + RAMP[0, :64].tobytes() for _ in range(64)))
    jls, j2k = _compressed(JPEGLSLossless), saved(Image.fromarray(TEXTURE), "JPEG2000", no_jp2=True)
    huge = struct.pack(">HH", 65535, 65535)
    jpeg = saved(grey, "JPEG")
    webp, lossless = saved(grey, "WEBP"), saved(grey, "WEBP", lossless=True, exif=_exif())
    bomb = zlib.compress(bytes(2**28), 9)
    damaged, large, pages = {"DamagedFile"}, {"TooLarge"}, {"UnsupportedFormat"}
    return {
        "png of 40000 x 40000": (_png(40000, bomb), large),
        "png of 64 x 64 that unpacks to 256 MB": (_png(64, bomb), {"DamagedFile", "OutOfScope", "Radiograph"}),
        "png with a text of 256 MB": (_png(64, rows, _chunk(b"zTXt", b"a\0\0" + bomb)), {"DamagedFile", "Radiograph"}),
        "png with a profile of 256 MB": (
            _png(64, rows, _chunk(b"iCCP", b"a\0\0" + bomb)),
            {"DamagedFile", "Radiograph"},
        ),
        "png with a wrong CRC in its header": (_patched(saved(grey, "PNG"), b"IHDR", 17, b"\0\0\0\0"), damaged),
        "png with wrong data": (_patched(saved(grey, "PNG"), b"IDAT", 40, b"\0\xff\0\xff"), damaged),
        "png of one text after another": (
            _png(64, rows, _chunk(b"tEXt", b"a\0b") * 100_000),
            {"DamagedFile", "Radiograph"},
        ),
        "jpeg of 65535 x 65535": (_patched(jpeg, b"\xff\xc0", 5, huge), large),
        "jpeg cut in half": (jpeg[: len(jpeg) // 2], damaged),
        "jpeg of 6000 x 6000 with the data of 64 x 80": (
            _patched(jpeg, b"\xff\xc0", 5, struct.pack(">HH", 6000, 6000)),
            {"DamagedFile", "Radiograph"},
        ),
        "webp of 16383 x 16383": (_patched(webp, b"VP8 ", 14, b"\xff\x3f\xff\x3f"), {"TooLarge", "DamagedFile"}),
        "webp canvas of 2^24": (_patched(lossless, b"VP8X", 12, b"\xff" * 6), {"TooLarge", "DamagedFile"}),
        "webp canvas of 16384": (_patched(lossless, b"VP8X", 12, b"\xff\x3f\0" * 2), {"TooLarge", "DamagedFile"}),
        "tiff": (_tiff_of(64, 64), {"Radiograph"}),
        "tiff of 2^31 x 2^31": (_tiff_of(2**31, 2**31), {"TooLarge", "DamagedFile"}),
        "tiff of 60000 x 60000": (_tiff_of(60000, 60000), large),
        "tiff of 6000 x 6000 with 5000 bytes": (_tiff_of(6000, 6000), damaged),
        "tiff of 6000 x 6000, deflated": (_tiff_of(6000, 6000, compression=8), damaged),
        "tiff strip of 4 GB": (_tiff_of(64, 64, strip_bytes=2**32 - 1, compression=5), damaged),
        "tiff tile of 65520 x 65520": (
            _tiff_of(64, 64, compression=5, tile_width=65520, tile_height=65520, tile=100, tile_bytes=500),
            damaged,
        ),
        "tiff page that names itself next": (_tiff_of(64, 64, 8), {"Radiograph"}),
        "tiff with two pages in a circle": (_tiff_of(64, 64, 5200) + bytes(400), pages | damaged),
        "tiff with 500,000 pages": (_chain_of_directories(500_000), pages),
        "dicom with too few pixels": (written(dicom(square(), Rows=2000, Columns=2000)), damaged),
        "dicom with too many pixels": (written(dicom(square(), Rows=40)), damaged),
        "dicom of 65535 x 65535": (written(dicom(square(), Rows=65535, Columns=65535)), large),
        "dicom of 0 x 0": (written(dicom(square(), Rows=0, Columns=0)), {"OutOfScope"}),
        "dicom with more bits than allocated": (written(dicom(square(), BitsStored=20, HighBit=19)), damaged),
        "dicom with no bits": (written(dicom(square(), BitsStored=0)), damaged),
        "dicom whose JPEG-LS is 65535 x 65535": (_patched(jls, b"\xff\xf7", 5, huge), damaged),
        "dicom whose JPEG 2000 is 65535 x 65535": (
            _dicom_of(_patched(j2k, b"\xff\x51", 6, b"\0\0\xff\xff" * 2), JPEG2000Lossless),
            damaged,
        ),
        "dicom whose JPEG is 65535 x 65535": (
            _dicom_of(_patched(jpeg, b"\xff\xc0", 5, huge), JPEGBaseline8Bit, RAMP, 8),
            damaged,
        ),
        "dicom whose run lengths unpack to 512 MB": (_rle_bomb(), damaged),
        "dicom with empty fragments": (_dicom_of([b"\0\0"], JPEG2000Lossless), damaged),
        "dicom without fragments": (_patched(jls, b"\xfe\xff\x00\xe0", 0, b"\xfe\xff\xdd\xe0\0\0\0\0"), damaged),
        "dicom, deflated, of 200 MB": (_deflated_bomb(), {"UnsupportedFormat"}),
        "dicom with sequences nested 100,000 deep": (_nested(100_000), damaged),
        "dicom with 300,000 elements": (_many_elements(300_000), {"TooLarge"}),
    }


#: Bytes of each file below, and what reading it may take: seconds of a core, and bytes beyond the file's own.
COSTLY_BYTES, COSTLY_SECONDS, COSTLY_MEMORY = 2_000_000, 0.5, 40 * 2**20
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
_ANY_LENGTH = 2**32 - 1


def _element(keyword: str, value: bytes, kind: bytes = b"", length: int | None = None) -> bytes:
    """An element of implicit type or, with ``kind``, of an explicit one whose length has four bytes."""
    tag, size = tag_for_keyword(keyword), len(value) if length is None else length
    assert tag is not None
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind + b"\0\0" * bool(kind) + struct.pack("<I", size) + value


def _with(element: bytes, syntax: str = ImplicitVRLittleEndian, instead: bool = False) -> bytes:
    """A radiograph with an element before its pixel data, or instead of them."""
    data = dicom(square())
    data.file_meta.TransferSyntaxUID = syntax
    plain = written(data)
    at = plain.index(b"\xe0\x7f\x10\x00")
    return plain[:at] + element + plain[at:] * (not instead)


def _of_one_item(keyword: str, *elements: bytes) -> bytes:
    content = b"".join(elements)
    return _element(keyword, _ITEM + struct.pack("<I", len(content)) + content)


def costly() -> dict[str, tuple[bytes, str]]:
    """DICOM files of 2 MB that would take seconds if each value or item became an object, and what comes of each."""
    size, explicit = COSTLY_BYTES, ExplicitVRLittleEndian
    values, items = b"9\\" * (size // 2), (_ITEM + bytes(4)) * (size // 8)
    damaged, large, read = "DamagedFile", "TooLarge", "Radiograph"
    descriptor, entries = _element("LUTDescriptor", struct.pack("<3H", 2, 0, 16)), _element("LUTData", b"\0\0\1\0")
    meta = written(dicom(square()))
    return {
        **{f"values of {each}": (_with(_element(each, values)), read)
           for each in ("WindowCenter", "WindowCenterWidthExplanation", "StudyDescription")},
        **{f"values of {each}": (_with(_element(each, values)), damaged)
           for each in ("RescaleSlope", "PixelSpacing", "PatientOrientation", "ViewPosition", "BitsStored")},
        "values of SpecificCharacterSet": (_with(_element("SpecificCharacterSet", values)), large),
        "items of VOILUTSequence": (_with(_element("VOILUTSequence", items)), large),
        "items of ViewCodeSequence": (_with(_element("ViewCodeSequence", items, b"SQ"), explicit), large),
        "items until an end": (_with(_element("ModalityLUTSequence", items + _END, length=_ANY_LENGTH)), large),
        "items that are not wanted": (_with(_element("OtherPatientIDsSequence", items + _END, length=_ANY_LENGTH)), large),
        "items of a slope": (_with(_element("RescaleSlope", items, b"SQ"), explicit), damaged),
        "items of the pixels": (_with(_element("PixelData", items, b"SQ"), explicit, True), damaged),
        "values of the pixels": (_with(_element("PixelData", values, b"UC"), explicit, True), damaged),
        "entries": (_with(_of_one_item("VOILUTSequence", descriptor, _element("LUTData", bytes(size)))), read),
        "descriptors": (_with(_of_one_item("VOILUTSequence", _element("LUTDescriptor", values), entries)), read),
        "values of a table's title": (
            _with(_of_one_item("VOILUTSequence", descriptor, entries, _element("LUTExplanation", values))), read),
        "values of a code": (_with(_of_one_item("ViewCodeSequence", _element("CodeMeaning", values))), read),
        "values in the header": (meta[:132] + _element("MediaStorageSOPClassUID", values, b"UC") + meta[132:], large),
        "fragments": (
            _with(_element("PixelData", items + _END, b"OB", _ANY_LENGTH), explicit, True)
            .replace(explicit.encode(), RLELossless.encode()), large),
    }  # fmt: skip


def _outcome(data: bytes) -> str:
    try:
        return type(read_radiograph(data)).__name__
    except RadiographError as error:
        return type(error).__name__


def test_files_that_cost_more_than_they_weigh() -> None:
    failures = []
    for name, (data, expected) in costly().items():
        started = time.process_time()
        found = _outcome(data)
        seconds = time.process_time() - started
        if found != expected or seconds > COSTLY_SECONDS:
            failures.append(f"{name}: {found} after {seconds:.2f} s")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", ["values of WindowCenter", "items of VOILUTSequence", "values in the header"])
def test_files_that_hold_more_than_they_weigh(name: str) -> None:
    data, expected = costly()[name]
    tracemalloc.start()
    try:
        assert _outcome(data) == expected
        assert tracemalloc.get_traced_memory()[1] < COSTLY_MEMORY
    finally:
        tracemalloc.stop()


def test_a_file_with_every_element_that_is_read_is_far_from_the_limits() -> None:
    """A large private sequence, fragments and a long list of windows, as a scanner may write them."""
    data = dicom(square(), WindowCenter=list(range(1000, 3000)), WindowWidth=[500] * 2000)
    item = Dataset()
    item.PatientID = "x"
    data.add_new(0x00290010, "LO", "CXNET")
    data.add_new(0x00291010, "SQ", Sequence([item] * 500))
    data[0x00291010].is_undefined_length = True
    data.compress(RLELossless)
    pixels = data.PixelData
    fragments = list(generate_fragments(pixels))[1:]
    whole = b"".join(fragments)
    data.PixelData = encapsulate([whole], fragments_per_frame=len(whole) // 2, has_bot=False)
    found = read_radiograph(written(data))
    np.testing.assert_array_equal(
        found.pixels, read_radiograph(written(dicom(square(), WindowCenter=1000, WindowWidth=500))).pixels
    )


def test_files_that_lie(tmp_path: Path) -> None:
    files = lies()
    for number, (data, _) in enumerate(files.values()):
        (tmp_path / f"{number:03}").write_bytes(data)
    command = [sys.executable, "-m", "tests.test_radiograph_fuzz", str(tmp_path)]
    child = subprocess.run(command, capture_output=True, timeout=120, cwd=Path(__file__).parents[1])
    found = [json.loads(line) for line in child.stdout.splitlines()]
    results = [line for line in found if "outcome" in line]
    failures = [
        f"{name}: {line}"
        for (name, (_, allowed)), line in zip(files.items(), results, strict=False)
        if line["outcome"] not in allowed or line["seconds"] > MAX_SECONDS or line["growth"] > MAX_GROWTH
    ]
    assert not failures, "\n".join(failures)
    assert child.returncode == 0 and len(results) == len(files), (list(files)[len(results)], child.stderr[-300:])
