"""Damaged files: each gives a radiograph or one sentence, soon, in little memory, and never ends the process.

A mutation is named by its base file and seed. ``python -m tests.test_radiograph_fuzz BASE FIRST LAST`` tries a range
and prints a line of JSON for each seed before it starts, so that the one that ends the process is known.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxnet.errors import RadiographError
from cxnet.radiograph import Radiograph, read_radiograph, read_radiographs
from cxnet.radiograph import _codestream as codestream
from cxnet.radiograph import _lossless as lossless
from cxnet.radiograph._archive import is_archive
from tests.test_radiograph import RAMP, SECRET, dicom, jpeg_lossless, lookup_table, saved, square, written

DEEP = np.linspace(0, 65535, RAMP.size).reshape(RAMP.shape).astype(np.uint16)
TEXTURE = np.random.default_rng(0).integers(0, 4096, (64, 72)).astype(np.uint16)

#: Bases that are decoded in a process of their own.
SPAWNS = {"dicom-jpeg-lossless"}

#: Mutations of each kind of file: in the default suite, and in the slow test. Starting a process takes some ten times
#: as long as reading a small file, so there are fewer of the files for which one is started or forked.
KINDS = ("png", "jpeg", "webp", "tiff", "dicom", "zip")
MUTATIONS, MANY_MUTATIONS = 500, 20_000
MUTATIONS_OF_SPAWNS, MANY_MUTATIONS_OF_SPAWNS = 30, 3000

#: Limits of one small file: seconds of this process, and bytes of resident memory above what all before it took.
MAX_SECONDS, MAX_GROWTH = 2.0, 200 * 2**20


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    return exif


def _encapsulated(codestream: bytes, values: np.ndarray, bits: int, syntax: str) -> bytes:
    data = dicom(values, bits)
    data.PixelData = encapsulate([codestream])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    return written(data)


def _compressed(syntax: str) -> bytes:
    data = dicom(TEXTURE)
    data.compress(syntax)
    return written(data)


def _rewritten(syntax: str) -> bytes:
    data = dicom(square())
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    return written(data)


class _Stream(io.RawIOBase):
    """A file that cannot be wound back: sizes and checksums then follow each member."""

    def __init__(self, found: io.BytesIO) -> None:
        self.write = found.write


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, streamed: bool = False) -> bytes:
    """A zip archive."""
    found = io.BytesIO()
    with zipfile.ZipFile(_Stream(found) if streamed else found, "w", method) as archive:  # type: ignore[arg-type]
        for name, content in files.items():
            archive.writestr(name, content)
    return found.getvalue()


def bases() -> dict[str, bytes]:
    """Small valid files, one for each way in which a reader may go."""
    grey = Image.fromarray(RAMP)
    palette = grey.convert("P")
    palette.info["transparency"] = bytes(range(256))
    tables = dicom(square(12, True), 12, True, RescaleSlope=1, RescaleIntercept=0, WindowCenter=[0, 9], WindowWidth=99)
    tables.VOILUTSequence = Sequence([lookup_table(-1024, np.arange(4096), 16)])
    mapped = dicom(square())
    mapped.ModalityLUTSequence = Sequence([lookup_table(0, np.arange(4096)[::-1], 16)])
    return {
        "png": saved(grey, "PNG"),
        "png-16": saved(Image.fromarray(DEEP), "PNG"),
        "png-palette": saved(palette, "PNG", exif=_exif()),
        "png-rgba": saved(grey.convert("RGBA"), "PNG"),
        "jpeg": saved(grey, "JPEG", exif=_exif()),
        "jpeg-cmyk": saved(grey.convert("CMYK"), "JPEG", progressive=True),
        "webp": saved(grey, "WEBP", exif=_exif()),
        "webp-lossless": saved(grey.convert("RGBA"), "WEBP", lossless=True),
        "webp-animated": saved(grey, "WEBP", save_all=True, append_images=[grey.rotate(90)]),
        "tiff": saved(grey, "TIFF", exif=_exif()),
        "tiff-deflate": saved(Image.fromarray(DEEP), "TIFF", compression="tiff_deflate"),
        "tiff-lzw": saved(grey.convert("RGB"), "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": saved(grey, "TIFF", compression="jpeg"),
        "tiff-group4": saved(grey.convert("1"), "TIFF", compression="group4"),
        "tiff-packbits": saved(grey, "TIFF", compression="packbits"),
        "dicom": written(dicom(square())),
        "dicom-8": written(dicom(RAMP, 8, PixelPaddingValue=0)),
        "dicom-tables": written(tables),
        "dicom-mapped": written(mapped),
        "dicom-implicit": _rewritten(ImplicitVRLittleEndian),
        "dicom-big-endian": _rewritten(ExplicitVRBigEndian),
        "dicom-rle": _compressed(RLELossless),
        "dicom-jpeg-ls": _compressed(JPEGLSLossless),
        "dicom-jpeg-2000": _encapsulated(
            saved(Image.fromarray(TEXTURE), "JPEG2000", no_jp2=True), TEXTURE, 16, JPEG2000Lossless
        ),
        "dicom-jpeg-lossless": jpeg_lossless(dicom(TEXTURE)),
        "dicom-jpeg": _encapsulated(saved(grey, "JPEG"), RAMP, 8, JPEGBaseline8Bit),
        "zip": zipped({"study/": b"", "study/IM1": written(dicom(square())), "b.png": saved(grey, "PNG")}),
        "zip-stored": zipped({"a.jpg": saved(grey, "JPEG"), "b.png": saved(grey, "PNG")}, zipfile.ZIP_STORED),
        "zip-streamed": zipped({"a.png": saved(grey, "PNG"), "b": written(dicom(RAMP, 8))}, streamed=True),
    }


# ------------------------------------------------------------------------------------------------------- mutations


def _png_fields(data: bytes) -> list[tuple[int, int]]:
    fields, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        fields += [(place, 4), (place + 4, 4), *((place + 8 + k, 4) for k in range(0, min(length, 16), 4))]
        place += 12 + length
    return fields


def _jpeg_fields(data: bytes) -> list[tuple[int, int]]:
    return [(found.start() + 2 + k, 2) for found in re.finditer(rb"\xff[\xc0-\xfe]", data) for k in (0, 3, 5)]


def _riff_fields(data: bytes) -> list[tuple[int, int]]:
    fields, place = [(4, 4)], 12
    while place + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, place + 4)
        fields += [(place, 4), (place + 4, 4), *((place + 8 + k, 3) for k in range(0, min(length, 15), 3))]
        place += 8 + length + length % 2
    return fields


def _tiff_fields(data: bytes) -> list[tuple[int, int]]:
    (place,) = struct.unpack_from("<I", data, 4)
    fields = [(4, 4)]
    (count,) = struct.unpack_from("<H", data, place) if place + 2 <= len(data) else (0,)
    for entry in range(min(count, 40)):
        at = place + 2 + 12 * entry
        fields += [(at, 2), (at + 2, 2), (at + 4, 4), (at + 8, 4)]
    return [*fields, (place, 2), (place + 2 + 12 * count, 4)]


def _dicom_fields(data: bytes) -> list[tuple[int, int]]:
    elements = [f.start() for f in re.finditer(rb"[\x02\x08\x10\x11\x28\xe0\xfe]\x00..[A-Z]{2}", data, re.DOTALL)]
    fields = [(at + k, 2) for at in elements for k in (0, 2, 4, 6, 8)] + [(at + 8, 4) for at in elements]
    fragments = [found.start() for found in re.finditer(rb"\xfe\xff\x00\xe0", data)]
    inner = [at + 8 for at in fragments]  # of a codestream or of the header of run lengths
    return fields + [(at + 4, 4) for at in fragments] + [(at + k, 4) for at in inner for k in range(0, 64, 4)]


def _zip_fields(data: bytes) -> list[tuple[int, int]]:
    """Of local headers, descriptors, the central directory and its end (APPNOTE 4.3)."""
    sizes = {
        b"PK\x03\x04": (2, 2, 2, 2, 2, 4, 4, 4, 2, 2),
        b"PK\x07\x08": (4, 4, 4),
        b"PK\x01\x02": (2, 2, 2, 2, 2, 2, 4, 4, 4, 2, 2, 2, 2, 2, 4, 4),
        b"PK\x05\x06": (2, 2, 2, 2, 4, 4, 2),
    }
    fields = []
    for found in re.finditer(rb"PK[\x01-\x07][\x02-\x08]", data):
        place = found.start() + 4
        for size in sizes.get(found[0], ()):
            fields.append((place, size))
            place += size
    return fields


_FIELDS = {
    "png": _png_fields,
    "jpeg": _jpeg_fields,
    "webp": _riff_fields,
    "tiff": _tiff_fields,
    "dicom": _dicom_fields,
    "zip": _zip_fields,
}
_LIES = (0, 1, 2, 3, 4, 7, 8, 16, 32, 255, 256, 65535, 65536, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


def mutated(files: dict[str, bytes], name: str, seed: int) -> bytes:
    """One to four changes: bytes, lengths and other fields of the format, cuts, splices, zeros."""
    rng = np.random.default_rng([seed, *name.encode()])
    data = bytearray(files[name])
    fields = _FIELDS[name.split("-")[0]](files[name])
    for _ in range(rng.integers(1, 5)):
        if len(data) < 8:
            break
        change = rng.choice(["bytes", "bit", "field", "field", "field", "cut", "zeros", "drop", "repeat", "splice"])
        at = int(rng.integers(0, len(data)))
        if rng.random() < 0.5:  # most of what can go wrong stands in the first kilobyte
            at = int(rng.integers(0, min(len(data), 1024)))
        size = int(min(2 ** rng.integers(0, 10), len(data) - at))
        if change == "bytes":
            data[at : at + size] = rng.bytes(size)
        elif change == "bit":
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif change == "field" and fields:
            place, width = fields[rng.integers(0, len(fields))]
            value = int(rng.choice(_LIES)) if rng.random() < 0.7 else int(rng.integers(0, 2**32))
            order = "little" if rng.random() < 0.5 else "big"
            if place + width <= len(data):
                data[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, order)
        elif change == "cut":
            del data[at:]
        elif change == "zeros":
            data[at : at + size] = bytes(size)
        elif change == "drop":
            del data[at : at + size]
        elif change == "repeat":
            data[at:at] = data[at : at + size] * int(rng.integers(1, 9))
        elif change == "splice":
            other = files[str(rng.choice(list(files)))]
            start = int(rng.integers(0, len(other)))
            data[at : at + size] = other[start : start + int(2 ** rng.integers(0, 10))]
    if name.startswith("png") and rng.random() < 0.7:
        _mend_checksums(data)
    return bytes(data)


def _mend_checksums(data: bytearray) -> None:
    """Make the CRCs right again, as most damage would end there otherwise."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + struct.unpack_from(">I", data, place)[0]
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


def verdict(data: bytes) -> str:
    """What a file comes to; any error that is no sentence passes through. Of an archive, what the best file comes to."""
    if is_archive(data):
        return _archive_verdict(data)
    try:
        found: Radiograph | RadiographError = read_radiograph(data)
    except RadiographError as error:
        found = error
    return _checked(found)


def _archive_verdict(data: bytes) -> str:
    found = list(read_radiographs(data))
    assert found
    assert [number for number, _ in found[:-1]] == list(range(1, len(found)))
    return max((_checked(each) for _, each in found), key=lambda kind: kind == "Radiograph")


def _checked(found: Radiograph | RadiographError) -> str:
    if isinstance(found, RadiographError):
        sentence = str(found)
        assert sentence.endswith(".") and "\n" not in sentence and sentence.count(". ") == 0, sentence
        assert found.__cause__ is None and (found.__context__ is None or found.__suppress_context__)
        return type(found).__name__
    assert isinstance(found, Radiograph) and found.pixels.dtype == np.uint8 and found.pixels.ndim == 2
    assert min(found.pixels.shape) >= 32 and np.ptp(found.pixels) > 0 and not found.pixels.flags.writeable
    assert all(note.endswith(".") for note in found.notes) and len(found.notes) == len(set(found.notes))
    return "Radiograph"


BASES = bases()


@pytest.mark.parametrize("name", BASES)
def test_bases_are_read(name: str) -> None:
    assert verdict(BASES[name]) == "Radiograph"


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_give_a_radiograph_or_a_sentence(kind: str) -> None:
    names = [name for name in BASES if name.split("-")[0] == kind and name not in SPAWNS]
    start = time.process_time()
    found = [verdict(mutated(BASES, names[seed % len(names)], seed)) for seed in range(MUTATIONS)]
    assert "Radiograph" in found and "DamagedFile" in found
    assert time.process_time() - start < MUTATIONS * MAX_SECONDS / 10  # each one's time is measured in the slow test


def test_mutated_jpeg_lossless_files() -> None:
    found = {verdict(mutated(BASES, "dicom-jpeg-lossless", seed)) for seed in range(MUTATIONS_OF_SPAWNS)}
    assert "DamagedFile" in found


_BEGINNINGS = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff",
    "webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "tiff": b"II*\0",
    "dicom": bytes(128) + b"DICM",
    "dicom-bare": b"\x08\x00\x60\x00CS\x02\x00DX",
    "zip": b"PK\x03\x04",
    "zip-end": b"PK\x05\x06",
}


@settings(max_examples=300)
@given(st.sampled_from(sorted(_BEGINNINGS)), st.binary(max_size=400))
@example("zip-end", bytes(18))
def test_any_bytes_after_any_beginning(kind: str, rest: bytes) -> None:
    assert verdict(_BEGINNINGS[kind] + rest) in {"DamagedFile", "UnsupportedFormat", "TooLarge", "OutOfScope"}


@settings(max_examples=300)
@given(st.sampled_from([name for name in BASES if name not in SPAWNS]), st.data())
def test_any_change_of_a_valid_file(name: str, data: st.DataObject) -> None:
    file = bytearray(BASES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(file), 2000) - 1))
        new = data.draw(st.binary(max_size=8))
        file[at : at + data.draw(st.integers(0, 8))] = new
    verdict(bytes(file))


# ------------------------------------------------------------------------------------------------------- measuring


def _resident(name: str, process: int | str = "self") -> int:
    """``VmRSS``, resident bytes now, or ``VmHWM``, their maximum since the last reset; 0 where the system is not Linux."""
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:  # or where the process has ended
        found = None
    return int(found[1]) * 1024 if found else 0


class _Together(threading.Thread):
    """The most resident memory that this process and those it started had at one time, looked at all the time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self.most = 0

    def run(self) -> None:
        while not self._done.wait(0.002):
            children = [child for task in Path("/proc/self/task").glob("*/children") for child in self._read(task)]
            if children:
                self.most = max(self.most, _resident("VmRSS") + sum(_resident("VmRSS", int(c)) for c in children))

    @staticmethod
    def _read(task: Path) -> list[str]:
        try:
            return task.read_text().split()
        except OSError:
            return []

    def end(self) -> int:
        self._done.set()
        self.join()
        return self.most


def _measured(data: bytes) -> str:
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, start, together = _resident("VmRSS"), time.process_time(), _Together()
    together.start()
    try:
        outcome = verdict(data)
    except Exception as error:
        outcome = f"! {type(error).__name__}: {error}"
    seconds = time.process_time() - start
    most = max(together.end(), _resident("VmHWM"))
    return json.dumps({"outcome": outcome, "seconds": seconds, "growth": most - before})


class _Forked:
    """What the reader needs of ``subprocess.Popen``: the decoder of JPEG Lossless in a copy of this process.

    GDCM is loaded already, so that a file takes milliseconds.
    """

    longest = 0.0

    def __init__(self, command: list[str], **_: object) -> None:
        self._start = time.monotonic()
        reads, writes = os.pipe(), os.pipe()
        self._process = os.fork()
        if self._process == 0:
            ended = 1
            try:
                os.close(reads[1])
                os.close(writes[0])
                for stream in (1, 2):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
                memory, *numbers, photometric = command[len(codestream.LOSSLESS) :]
                lossless.limit(int(memory) + _resident("VmData"))
                layout = lossless.Layout._make([*map(int, numbers), photometric])
                lossless.decode(layout, os.fdopen(reads[0], "rb"), os.fdopen(writes[1], "wb"))
                ended = 0
            finally:
                os._exit(ended)
        os.close(reads[0])
        os.close(writes[1])
        self.stdin, self.stdout = os.fdopen(reads[1], "wb"), os.fdopen(writes[0], "rb")
        self.returncode: int | None = None

    def __enter__(self) -> _Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        try:
            self.stdin.close()
        finally:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
            _Forked.longest = max(_Forked.longest, time.monotonic() - self._start)

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self._process, signal.SIGKILL)


def _try(name: str, seeds: range) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    codestream.subprocess = SimpleNamespace(Popen=_Forked, PIPE=None, DEVNULL=None)  # type: ignore[attr-defined]
    for seed in seeds:
        data = mutated(BASES, name, seed)
        print(json.dumps({"seed": seed}), flush=True)
        line = json.loads(_measured(data))
        line["seconds"] = max(line["seconds"], _Forked.longest / 4)  # by the clock, on a busy machine
        _Forked.longest = 0.0
        print(json.dumps(line), flush=True)


def _campaign(name: str, count: int) -> tuple[list[str], dict[str, int], float]:
    """Failures, how often each outcome came, and the longest time."""
    failures, outcomes, longest, first = [], {}, 0.0, 0
    each = 0.25  # seconds, on a busy machine
    while first < count:
        command = [sys.executable, "-m", "tests.test_radiograph_fuzz", name, str(first), str(count)]
        try:
            child = subprocess.run(
                command, capture_output=True, timeout=count * each + 60, cwd=Path(__file__).parents[1]
            )
            lines, ended, told = child.stdout, child.returncode, child.stderr
        except subprocess.TimeoutExpired as error:
            lines, ended, told = error.stdout or b"", "hang", error.stderr or b""
        if SECRET.encode() in told or b"Traceback" in told:
            failures.append(f"{name}: written to stderr: {told[-300:]!r}")
        seed = first
        for line in map(json.loads, lines.decode().splitlines()):
            seed = line.get("seed", seed)
            if "outcome" in line:
                kind = line["outcome"].split(":")[0]
                outcomes[kind] = outcomes.get(kind, 0) + 1
                longest = max(longest, line["seconds"])
                if kind[0] == "!" or line["seconds"] > MAX_SECONDS or line["growth"] > MAX_GROWTH:
                    failures.append(f"{name} {seed}: {line}")
        if ended != 0:
            failures.append(f"{name} {seed}: the process ended with {ended}: {told[-200:]!r}")
        first = seed + 1 if ended != 0 else count
    return failures, outcomes, longest


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_20_000_mutated_files(kind: str) -> None:
    names = [name for name in BASES if name.split("-")[0] == kind]
    count = -(-MANY_MUTATIONS // len([name for name in names if name not in SPAWNS]))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(
            pool.map(lambda name: _campaign(name, MANY_MUTATIONS_OF_SPAWNS if name in SPAWNS else count), names)
        )
    for name, (_, outcomes, longest) in zip(names, results, strict=True):
        print(f"{name}: longest {longest:.2f} s, {outcomes}")
    failures = [line for found, _, _ in results for line in found]
    assert not failures, "\n".join(failures)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        for path in sorted(Path(sys.argv[1]).iterdir()):
            print(_measured(path.read_bytes()), flush=True)
        sys.exit()
    _try(sys.argv[1], range(int(sys.argv[2]), int(sys.argv[3])))
