"""What goes wrong around a radiograph: each gives one sentence, and nothing else is lost."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless, RLELossless
from streamlit.testing.v1 import AppTest

from cxnet import runs, wrong_reasons
from cxnet.__main__ import main
from cxnet.errors import DamagedFile, DatasetError, RadiographError, SettingsError, TooLarge, WeightsError
from cxnet.phantom import make_phantom
from cxnet.radiograph import MAX_BYTES, MAX_PIXELS, read_radiograph
from cxnet.radiograph import _codestream as codestream
from cxnet.radiograph._lossless import Layout
from cxnet.weights import card, read_arrays
from tests.test_radiograph import dicom, jpeg_lossless, saved, written
from tests.test_radiograph_fuzz import BASES, zipped

ROOT = Path(__file__).parents[1]

# --------------------------------------------------------------------------------------------------------- addresses

PAGES = ("analyse", "runs", "audit", "exam", "published", "teach", "about")
KEYS = (
    "run", "case", "model", "sample", "target", "fold", "view", "true", "predicted", "compare", "class", "at",
    "threshold", "panel", "page", "sort", "tier", "show", "zones", "plant", "strength", "cell", "paper", "table", "accept",
)  # fmt: skip
VALUES = {
    "long": "A" * 10_000,
    "digits": "9" * 5000,
    "nul": "\x00",
    "script": "<script>alert(1)</script>",
    "path": "../../../../etc/passwd",
    "absolute": "/etc/passwd",
    "number": "-1e999",
    "nan": "nan",
    "superscript": "²",
    "braces": "{0.__class__}%s%n",
    "fold": "covid-cxnet/fold-" + "9" * 5000,
    "escape": "..%2f..%2f%00",
    "sql": "' OR 1=1 --",
    "json": '{"$gt": ""}',
    "emoji": "🫁" * 50,
}


def _told(page: str, known: bool) -> int:
    """How often a page says that a link leads nowhere: the first has no such case, two show another run instead."""
    if page == "audit":
        return not (known and wrong_reasons.audits_of(ROOT / "runs" / "covid-cxnet"))
    return {"analyse": 1, "runs": not known}.get(page, 0)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("shifts", [range(3), pytest.param(range(3, len(VALUES)), marks=pytest.mark.slow)])
def test_any_address_gives_the_page(page: str, shifts: range) -> None:
    """Another hostile value in every key at once; every second time for a run that is there."""
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    if page != "analyse":
        at.switch_page(f"pages/{page}.py")
    for shift in shifts:
        at.query_params.clear()
        for number, key in enumerate(KEYS):
            at.query_params[key] = list(VALUES.values())[(number + 5 * shift) % len(VALUES)]
        if shift % 2:
            at.query_params["run"] = "covid-cxnet"
            at.query_params["fold"] = ["0", "1"]  # said twice
        at.run()
        assert not at.exception, (shift, at.exception)
        told = [each.value for each in (*at.error, *at.warning) if "link" in each.value or "no such case" in each.value]
        assert len(told) == _told(page, known=bool(shift % 2)), (shift, told)
        assert len(at.error) == (page == "analyse"), (shift, at.error)
        for shown in [*at.error, *at.markdown, *at.caption]:
            assert VALUES["script"] not in shown.value and VALUES["braces"] not in shown.value


# -------------------------------------------------------------------------------------------------- files and memory

#: Bytes of resident memory that reading one file may take beyond what the file and the program have.
MAX_PEAK = 400 * 2**20


def huge(kind: str) -> bytes:
    """A radiograph at the limits of 40 million pixels or 50 MB."""
    height, width = 5000, 8000
    deep = (np.add.outer(np.arange(height), np.arange(width)) % 65536).astype(np.uint16)
    grey = Image.fromarray((deep >> 5).astype(np.uint8))
    if kind == "png-16":
        return saved(Image.fromarray(deep), "PNG", compress_level=1)
    if kind == "png-rgba":
        return saved(Image.merge("RGBA", [grey] * 4), "PNG", compress_level=1)
    if kind == "jpeg-cmyk":
        return saved(Image.merge("CMYK", [grey] * 4), "JPEG")
    if kind == "tiff-strips":
        return saved(grey, "TIFF", tiffinfo={278: 1})
    if kind == "tiff-float":
        return saved(Image.fromarray(deep.astype(np.float32)), "TIFF", compression="tiff_deflate")
    if kind == "tiff-integer":
        return saved(Image.fromarray(deep.astype(np.int32)), "TIFF", compression="tiff_deflate")
    if kind == "dicom":
        return written(dicom(deep[:5000, :5000], 16))
    if kind in ("dicom-jpeg-ls", "dicom-rle"):
        data = dicom(deep, 16)
        data.compress(JPEGLSLossless if kind == "dicom-jpeg-ls" else RLELossless)
        return written(data)
    if kind == "dicom-jpeg-lossless":
        return jpeg_lossless(dicom(deep // 16, 12))
    if kind == "dicom-jpeg-lossless-16":  # noise takes as many bytes as there are
        return jpeg_lossless(dicom(np.random.default_rng(0).integers(0, 65536, (4000, 4500)), 16))
    if kind == "dicom-jpeg-lossless-small":
        return jpeg_lossless(dicom(deep[:2000, :3000] // 16, 12))
    if kind == "dicom-frames":
        return written(dicom(deep[:400, :400], 16, NumberOfFrames=2**31 - 1))
    raise ValueError(kind)


def peak_of(data: bytes, folder: Path) -> dict[str, object]:
    """Outcome, seconds and growth of resident memory, measured in a process of its own."""
    (folder / "0-warm").write_bytes(BASES["dicom"])
    (folder / "1-file").write_bytes(data)
    command = [sys.executable, "-m", "tests.test_radiograph_fuzz", str(folder)]
    child = subprocess.run(command, capture_output=True, timeout=120, cwd=ROOT, check=True)
    found: dict[str, object] = json.loads(child.stdout.splitlines()[1])
    return found


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("png-16", "Radiograph"),
        ("dicom-frames", "UnsupportedFormat"),
        *(
            pytest.param(kind, "Radiograph", marks=pytest.mark.slow)
            for kind in (
                "dicom", "png-rgba", "jpeg-cmyk", "tiff-strips", "tiff-float", "tiff-integer", "dicom-jpeg-ls", "dicom-rle",
                "dicom-jpeg-lossless", "dicom-jpeg-lossless-16",
            )
        ),
    ],
)  # fmt: skip
def test_the_largest_files_stay_below_a_ceiling_of_memory(kind: str, outcome: str, tmp_path: Path) -> None:
    data = huge(kind)
    found = peak_of(data, tmp_path)
    print(f"{kind}: {len(data) / 2**20:.0f} MB, {found}")
    assert found["outcome"] == outcome
    assert 0 <= found["growth"] < MAX_PEAK


def layout_of(rows: int, columns: int) -> Layout:
    return Layout(rows, columns, 1, 16, 12, 0, 0, 1, "MONOCHROME2")


def test_jpeg_lossless_takes_the_memory_that_was_foreseen(tmp_path: Path) -> None:
    """The process that decodes it, and this one at the same time."""
    data = huge("dicom-jpeg-lossless-small")
    found = peak_of(data, tmp_path)
    print(f"{len(data) / 2**20:.0f} MB, {found}")
    assert found["outcome"] == "Radiograph"
    foreseen = codestream._resident(len(data), layout_of(2000, 3000))
    assert 0.6 * foreseen < found["growth"] < foreseen + 48 * 2**20  # of this process 8 bytes a pixel


def test_an_archive_holds_one_file_at_a_time_in_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000)).astype(np.uint8)
    files = {str(k): written(dicom(np.roll(noise, k), 8)) for k in range(11)}
    data = zipped(files, 0)
    assert 40 * 2**20 < len(data) < 50 * 2**20
    found = peak_of(data, tmp_path)
    assert found["outcome"] == "Radiograph"
    assert 0 <= found["growth"] < 150 * 2**20  # the eleven pictures themselves are 42 MB, as the reader keeps them


# ------------------------------------------------------------------------------------------------------ killed workers


def decoder(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Have another program in the place of the one that decodes JPEG Lossless."""
    monkeypatch.setattr(codestream, "LOSSLESS", (sys.executable, "-c", program))


def refused_file(data: bytes, kind: type[RadiographError]) -> str:
    with pytest.raises(kind) as caught:
        read_radiograph(data)
    assert str(caught.value).count(". ") == 0 and caught.value.__cause__ is None and caught.value.__context__ is None
    return str(caught.value)


ENDS = {
    "killed at once": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "killed midway": "import os, signal, sys; sys.stdin.buffer.read(); os.write(1, b'12'); os.kill(os.getpid(), signal.SIGKILL)",
    "too little": "import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write(bytes(100))",
    "too much": "import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write(bytes(10**6))",
    "nothing": "",
}


@pytest.mark.parametrize("program", ENDS.values(), ids=ENDS)
def test_a_decoder_that_ends_costs_one_file(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        decoder(patch, program)
        assert "cannot be decoded" in refused_file(BASES["dicom-jpeg-lossless"], DamagedFile)
    assert read_radiograph(BASES["dicom-jpeg-lossless"]).pixels.size


@pytest.mark.parametrize("side", [64, 1500])  # more than a pipe holds: the child never reads it
def test_a_hung_decoder_is_ended(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(codestream, "seconds_for", lambda _: 0.5)
    noise = np.random.default_rng(0).integers(0, 4096, (side, side))
    data, start = jpeg_lossless(dicom(noise)), time.monotonic()
    refused_file(data, DamagedFile)
    assert time.monotonic() - start < 5


def test_a_decoder_that_wants_much_memory_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures may take little, though the ceiling of large ones is higher."""
    program = Path(codestream.LOSSLESS[-1]).read_text("utf-8")
    line = "    import gdcm "
    assert program.count(line) == 1
    decoder(monkeypatch, program.replace(line, f"    kept = bytes(20 * 2**20)\n{line}"))
    read_radiograph(BASES["dicom-jpeg-lossless"])
    decoder(monkeypatch, program.replace(line, f"    kept = bytes(100 * 2**20)\n{line}"))
    refused_file(BASES["dicom-jpeg-lossless"], DamagedFile)


def test_others_need_not_wait_for_a_slow_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more than two are at work."""
    program = f"""
import os, pathlib, time
folder = pathlib.Path({str(tmp_path)!r})
(folder / str(os.getpid())).touch()
while not (folder / "go").exists():
    time.sleep(0.02)
"""
    decoder(monkeypatch, program)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(refused_file, BASES["dicom-jpeg-lossless"], DamagedFile) for _ in range(3)]
        try:
            while len(list(tmp_path.iterdir())) < 2 and not any(each.done() for each in waiting):
                time.sleep(0.02)
            start = time.monotonic()
            for name in ("png", "dicom", "dicom-rle"):
                assert read_radiograph(BASES[name]).pixels.size
            assert time.monotonic() - start < 3 and not any(each.done() for each in waiting)
            assert len(list(tmp_path.iterdir())) == 2
        finally:
            (tmp_path / "go").touch()
        assert all("cannot be decoded" in each.result() for each in waiting)
    assert len(list(tmp_path.iterdir())) == 4


def test_jpeg_lossless_that_takes_too_much_memory_is_refused() -> None:
    """In colour; the largest grey picture, in the largest file, stays below the ceiling."""
    assert codestream._resident(MAX_BYTES, layout_of(1000, MAX_PIXELS // 1000)) < codestream.MAX_RESIDENT <= MAX_PEAK
    values = np.zeros((64, 64), np.uint8)
    file = dicom(values, 8, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0)
    file.Rows, file.Columns = 6320, 6320
    start = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 17, 8, 6320, 6320, 3) + bytes(20 * 2**20)
    file.PixelData = encapsulate([start])
    file["PixelData"].is_undefined_length = True
    file.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    assert "too much memory" in refused_file(written(file), TooLarge)


# ------------------------------------------------------------------------------------------------ weights and runs


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.putenv, ("CXNET_UNPICKLED=1",)


def test_weights_that_hold_objects_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "trap.npz"
    np.savez(path, allow_pickle=True, a=np.array([_Trap()], dtype=object))
    with pytest.raises(WeightsError, match=r"trap\.npz cannot be read"):
        read_arrays(path)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match=r"raw\.npz cannot be read"):
        read_arrays(tmp_path / "raw.npz")


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(60, dtype=np.float32).reshape(6, 10), b=np.ones(3, np.float16))
    whole, path = buffer.getvalue(), tmp_path / "w.npz"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, len(data)))
            data[at : at + int(rng.integers(1, 5))] = rng.bytes(int(rng.integers(0, 5)))
        path.write_bytes(data if rng.random() < 0.8 else data[: int(rng.integers(0, len(data)))])
        try:
            found = read_arrays(path)
        except WeightsError as error:
            assert str(error).count(". ") == 0
            refused += 1
        else:
            assert all(array.dtype == np.float32 for array in found.values())
    assert refused > 100
    np.save(path.with_suffix(".npy"), np.ones(3))
    path.with_suffix(".npy").rename(path)
    with pytest.raises(WeightsError):
        read_arrays(path)


@pytest.mark.parametrize("name", ["covid-cxnet/fold-" + "9" * 5000, "../x/fold-1", "covid-cxnet/fold-²", "\x00"])
def test_a_name_that_no_network_has(name: str) -> None:
    with pytest.raises(WeightsError):
        card(name)


CASES = pd.DataFrame({"case": [f"c{k}" for k in range(40)], "true": ["a", "b"] * 20, "predicted": ["a"] * 40})


@pytest.fixture
def stored(tmp_path: Path) -> runs.Run:
    maps = [runs.pack_map(np.full((4, 4), k)) for k in range(40)]
    lungs = [runs.pack_lungs(np.ones((64, 64), np.bool_))] * 40
    return runs.write_run(
        tmp_path / "one", {"classes": ["a", "b"], "map_shape": [4, 4]}, {0: CASES.assign(map=maps, lungs=lungs)}
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.sampled_from(["schema", "classes", "folds", "map_shape", "number", "whole"]), JSON)
def test_any_run_json_is_opened_or_refused(tmp_path_factory: pytest.TempPathFactory, key: str, value: object) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-run"
    if not folder.exists():
        runs.write_run(folder, {"classes": ["a", "b"], "map_shape": [4, 4]}, {0: CASES})
        (folder / "whole.json").write_bytes((folder / "run.json").read_bytes())
    info = json.loads((folder / "whole.json").read_text("utf-8"))
    if key == "number":
        info["folds"][0]["number"] = value
    elif key == "whole":
        info = value
    else:
        info[key] = value
    (folder / "run.json").write_text(json.dumps(info), "utf-8")
    try:
        run = runs.open_run(folder)
        _ = run.folds, run.classes, run.map_shape, run.table
    except DatasetError as error:
        assert "\n" not in str(error)


def test_a_run_json_that_is_nested_without_end(stored: runs.Run) -> None:
    (stored.folder / "run.json").write_text("[" * 200_000)
    with pytest.raises(DatasetError, match="cannot be understood"):
        runs.open_run(stored.folder)


def test_a_damaged_table_is_one_sentence(stored: runs.Run) -> None:
    path = stored.path(0)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, len(data)))
            if rng.random() < 0.5:  # where it is described
                at = int(rng.integers(len(data) - 1500, len(data)))
            data[at : at + int(rng.integers(1, 5))] = rng.bytes(int(rng.integers(0, 5)))
        path.write_bytes(data if rng.random() < 0.9 else data[: int(rng.integers(0, len(data)))])
        run = runs.open_run(stored.folder)
        try:
            run.pictures(run.table.head(3))
        except DatasetError as error:
            assert "\n" not in str(error) and "the run" in str(error).lower()
            refused += 1
    assert refused > 100


# ---------------------------------------------------------------------------------------------------------- full disks


SMALL = 64 * 2**10  # bytes


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A disk of 64 kB; for root only."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("a small disk can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def limited(folder: Path) -> Iterator[None]:
    """A process that may write no file of more than 64 kB; anybody can have that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def torn(folder: Path) -> Iterator[None]:
    """A disk that is full after the first half of any file below the folder; needs no rights, as it is acted."""
    whole = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if folder not in path.parents:
            return whole(path, data)
        whole(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        yield


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def radiograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("radiograph") / "one.png"
    path.write_bytes(cv2.imencode(".png", make_phantom(3, 320).pixels)[1].tobytes())
    return path


COMMANDS = {
    "analyse": ["analyse", "{file}", "--methods", "grad-cam", "--out", "{out}"],
    "report": ["report", "{file}", "--methods", "grad-cam", "--out", "{out}"],
    "lungs": ["lungs", "{file}", "--out", "{out}"],
    "predict": ["predict", "{file}", "--csv", "{out}/predictions.csv"],
}


def refused(command: str, folder: Path, radiograph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that cannot write says so in one line, and the folder is as it was."""
    before = files_of(folder)
    assert main([each.format(file=radiograph, out=folder) for each in COMMANDS[command]]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left" in said and "free some space" in said
    assert files_of(folder) == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_fills_up_keeps_what_was_there(
    command: str, tmp_path: Path, radiograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("analysis.json", "report.html", "predictions.csv", "one.png"):
        (tmp_path / name).write_bytes(b"earlier")
    with torn(tmp_path):
        refused(command, tmp_path, radiograph, capsys)


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, radiograph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path):
        (tmp_path / "one.png").write_bytes(b"earlier")
        with (tmp_path / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        refused("lungs", tmp_path, radiograph, capsys)


@pytest.mark.parametrize(("disk", "number"), [(mounted, errno.ENOSPC), (limited, errno.EFBIG)])
def test_a_run_on_a_full_disk_leaves_no_run(
    disk: Callable[[Path], AbstractContextManager[None]], number: int, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0)
    big = CASES.assign(map=[noise.bytes(4000) for _ in range(40)])
    with disk(tmp_path):
        kept = runs.write_run(tmp_path / "kept", {"classes": ["a", "b"]}, {0: CASES})
        before = files_of(tmp_path)
        for replace, name in ((False, "new"), (True, "kept")):
            with pytest.raises(SettingsError, match=re.escape(os.strerror(number))):
                runs.write_run(tmp_path / name, {"classes": ["a", "b"]}, {0: big}, replace=replace)
        assert files_of(tmp_path) == before
        assert len(runs.open_run(kept.folder).table) == 40
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
