"""Archives: every good file comes out, every other leaves a sentence without its name, and no bomb goes off."""

from __future__ import annotations

import io
import re
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import MediaStorageDirectoryStorage

from cxnet.errors import DamagedFile, RadiographError, TooLarge, UnsupportedFormat
from cxnet.radiograph import Radiograph, _archive, open_radiographs, read_radiograph, read_radiographs
from tests.test_radiograph import RAMP, dicom, saved, square, written
from tests.test_radiograph_fuzz import zipped

PNG, OTHER = saved(Image.fromarray(RAMP), "PNG"), saved(Image.fromarray(RAMP[::-1]), "PNG")
SECRET = "ZZTESTPHI"


def read(data: bytes) -> list[Radiograph | RadiographError]:
    """All that an archive comes to, its files being numbered from 1; raises what concerns the archive as a whole."""
    found = list(read_radiographs(data))
    for number, (told, each) in enumerate(found, 1):
        if told is None and isinstance(each, RadiographError):
            raise each
        assert told == number
    return [each for _, each in found]


def kinds(data: bytes) -> list[str]:
    return [type(each).__name__ for each in read(data)]


def test_a_study_folder_of_extensionless_files_is_read() -> None:
    index = dicom(square())
    index.SOPClassUID = MediaStorageDirectoryStorage
    scan = written(dicom(square()))
    data = zipped(
        {
            "DICOMDIR": written(index), f"{SECRET}/": b"", f"{SECRET}/IM1": scan, f"{SECRET}/a.png": PNG,
            "__MACOSX/._a.png": b"x", f"{SECRET}/.DS_Store": b"x", "Thumbs.db": b"x", "._b": b"x",
        }
    )  # fmt: skip
    first, second = read(data)
    assert isinstance(first, Radiograph) and isinstance(second, Radiograph)
    assert first.sha256 == read_radiograph(scan).sha256 and second.sha256 == read_radiograph(PNG).sha256
    with pytest.raises(UnsupportedFormat, match="DICOMDIR"):
        read_radiograph(written(index))


def test_one_bad_file_does_not_cost_the_others_and_no_name_is_told() -> None:
    inner = zipped({"a.png": PNG})
    data = zipped(
        {f"{SECRET}1.png": PNG, f"{SECRET}2": b"hello", f"{SECRET}3": b"", f"{SECRET}.zip": inner, "z": OTHER}
    )
    found = read(data)
    assert [type(each).__name__ for each in found] == [
        "Radiograph", "UnsupportedFormat", "DamagedFile", "UnsupportedFormat", "Radiograph"
    ]  # fmt: skip
    assert "archive" in str(found[3])
    assert not any(SECRET in repr(each) or SECRET in str(each) for each in found)


@pytest.mark.parametrize("name", ["../../../tmp/slip", "/etc/slip", "C:\\slip", "..\\slip", "a\x00b", "x" * 60_000])
def test_names_are_never_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kinds(zipped({name: PNG})) == ["Radiograph"]
    assert not list(tmp_path.rglob("*"))


def test_links_and_devices_are_refused() -> None:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
            info = zipfile.ZipInfo("a")
            info.create_system, info.external_attr = 3, (kind | 0o777) << 16
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *_, **__: None)  # the same name three times
                archive.writestr(info, "/etc/passwd")
        archive.writestr("b.png", PNG)
    assert kinds(found.getvalue()) == ["UnsupportedFormat"] * 3 + ["Radiograph"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_two_files() -> None:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        archive.writestr("a.png", PNG)
        archive.writestr("a.png", OTHER)
    first, second = read(found.getvalue())
    assert isinstance(first, Radiograph) and isinstance(second, Radiograph) and first.sha256 != second.sha256


def _patched_entry(data: bytes, offset: int, form: str, value: int) -> bytes:
    """The first entry of the central directory with another field."""
    found = bytearray(data)
    struct.pack_into(form, found, data.index(b"PK\x01\x02") + offset, value)
    return bytes(found)


FLAGS, METHOD, CRC, PACKED, UNPACKED, OFFSET = (8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (42, "<I")


@pytest.mark.parametrize(
    ("field", "value", "kind", "said"),
    [
        (FLAGS, 0x1, UnsupportedFormat, "password"),
        (FLAGS, 0x41, UnsupportedFormat, "password"),
        (METHOD, 12, UnsupportedFormat, "deflate"),
        (METHOD, 14, UnsupportedFormat, "deflate"),
        (METHOD, 99, UnsupportedFormat, "deflate"),
        (CRC, 1, DamagedFile, "damaged"),
        (PACKED, 1, DamagedFile, "damaged|cut short"),
        (PACKED, 2**31, DamagedFile, "shares its bytes"),
        (UNPACKED, 1, DamagedFile, "damaged"),
        (UNPACKED, 2**20, DamagedFile, "cut short"),
        (OFFSET, 2**31, DamagedFile, "damaged|shares"),
        (OFFSET, 1, DamagedFile, "damaged|shares"),
    ],
)
def test_what_an_archive_says_of_a_file_is_not_believed(field, value: int, kind, said: str) -> None:
    data = _patched_entry(zipped({"a.png": PNG, "b.png": OTHER}), *field, value)
    first, second = read(data)
    assert isinstance(second, Radiograph)
    assert isinstance(first, kind)
    with pytest.raises(RadiographError, match=said):
        raise first


def test_a_bomb_stops_where_it_is_noticed() -> None:
    bomb = zipped({"a": bytes(40 * 2**20), "b.png": PNG})
    assert len(bomb) < 10**5
    lying = _patched_entry(bomb, *UNPACKED, 1000)
    tracemalloc.start()
    found = [read(bomb), read(lying)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "200 times" in str(found[0][0])
    for first, second in found:
        assert isinstance(first, RadiographError) and isinstance(second, Radiograph)
    assert peak < 16 * 2**20


def test_a_file_over_the_limit_is_refused_while_it_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "MAX_BYTES", 2 * 2**20)
    noise = np.random.default_rng(0).integers(0, 4, 3 * 2**20).astype(np.uint8).tobytes()
    data = zipped({"a": noise, "b.png": PNG})
    first, second = read(data)
    assert isinstance(first, TooLarge) and isinstance(second, Radiograph)


def test_the_whole_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped({f"{number}": PNG for number in range(6)})
    monkeypatch.setattr(_archive, "MAX_UNPACKED", 3 * len(PNG) + 10)
    with pytest.raises(TooLarge, match="nothing of it was read"):
        read(data)
    lying = bytearray(data)
    for at in [place.start() for place in re.finditer(b"PK\x01\x02", data)]:
        struct.pack_into("<I", lying, at + 24, 1)  # says that each unpacks to one byte
    assert not any(isinstance(each, Radiograph) for each in read(bytes(lying)))  # cut short, so refused


def test_too_many_files_are_refused_before_the_directory_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped({str(number): b"" for number in range(_archive.MAX_FILES + 1)})
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(TooLarge, match="more than 500 files"):
        read(data)
    with pytest.raises(TooLarge, match="60 MB"):
        read(b"PK\x03\x04" + bytes(60 * 2**20))


def quoted_bomb(count: int, kernel: bytes) -> bytes:
    """Files that share one kernel: each quotes the header of the next and goes on as that (Fifield, WOOT 2019)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(kernel) + packer.flush()
    content, stream, data, told = kernel, body, body, []
    for number in reversed(range(count)):
        fields = struct.pack("<3I", zlib.crc32(content), len(stream), len(content))
        header = (
            struct.pack("<4s5H", b"PK\x03\x04", 20, 0, 8, 0, 0) + fields + struct.pack("<2H", 3, 0) + b"%03d" % number
        )
        data = header + data
        told.append((number, fields, len(data)))
        block = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF)  # stored, not the last
        content, stream, data = header + content, block + header + stream, block + data
    data = data[5:]
    entries = b"".join(
        struct.pack("<4s6H", b"PK\x01\x02", 20, 20, 0, 8, 0, 0) + fields
        + struct.pack("<5H2I", 3, 0, 0, 0, 0, 0, len(data) - behind) + b"%03d" % number
        for number, fields, behind in told
    )  # fmt: skip
    return data + entries + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(entries), len(data), 0)


def test_files_that_overlap_are_refused() -> None:
    data = quoted_bomb(30, bytes(10_000))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # a proper bomb: another reader unpacks all of it
        assert archive.testzip() is None and sum(e.file_size for e in archive.infolist()) > 30 * 10_000
    found = read(data)
    assert len(found) == 30
    refused = [each for each in found if "shares its bytes" in str(each)]
    assert len(refused) == 29  # the last holds the kernel alone


def test_archives_that_are_none() -> None:
    whole = zipped({"a.png": PNG, "b.png": OTHER})
    for cut in (4, 30, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DamagedFile, match="archive is damaged or cut short"):
            read(whole[:cut])
    for nothing in ({}, {"folder/": b"", "__MACOSX/x": b"x"}):
        with pytest.raises(DamagedFile, match="holds no file"):
            read(zipped(nothing))
    with pytest.raises(UnsupportedFormat, match="zip64"):
        end = whole.index(b"PK\x05\x06")
        lie = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, 2**40, 2**40)
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
        read(whole[:end] + lie + locator + whole[end:])
    with pytest.raises(UnsupportedFormat, match="unpack it first"):
        read_radiograph(whole)


def test_a_file_on_disk_is_one_radiograph_or_an_archive(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(PNG)
    (tmp_path / "two").write_bytes(zipped({"a": PNG, "b": b"x", "c": OTHER}))
    (tmp_path / "three").write_bytes(zipped({"a": PNG})[:50])

    def told(name: str) -> list[tuple[int | None, str]]:
        return [(number, type(found).__name__) for number, found in open_radiographs(tmp_path / name)]

    assert told("one") == [(None, "Radiograph")]
    assert told("two") == [(1, "Radiograph"), (2, "UnsupportedFormat"), (3, "Radiograph")]
    assert told("three") == [(None, "DamagedFile")]
    assert told("none") == [(None, "RadiographError")]


CONTENTS = st.one_of(st.just(PNG), st.just(OTHER), st.binary(max_size=60))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=60)
@example([("a", b"PK\x06\x06", False)])
@example([("a", b"PK\x06\x07" + PNG, False), ("b", PNG, True)])
@given(st.lists(st.tuples(st.text(max_size=20), CONTENTS, st.booleans()), max_size=8, unique_by=lambda each: each[0]))
def test_any_archive_gives_what_its_files_give(files: list[tuple[str, bytes, bool]]) -> None:
    found = io.BytesIO()
    expected = []
    with zipfile.ZipFile(found, "w") as archive:
        for name, content, packed in files:
            try:
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
                archive.writestr(info, content)
            except (UnicodeEncodeError, IndexError):  # no name that zipfile writes
                continue
            if _archive.is_no_radiograph(info.filename):
                continue
            try:
                expected.append(read_radiograph(content).sha256)
            except RadiographError as error:
                expected.append(str(error))
    data = found.getvalue()
    if not expected:
        with pytest.raises(DamagedFile):
            read(data)
        return
    assert [each.sha256 if isinstance(each, Radiograph) else str(each) for each in read(data)] == expected
