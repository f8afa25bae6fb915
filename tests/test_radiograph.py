"""Readers: every format gives the right grey levels or one sentence, and nothing of a patient gets through."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from cxnet.errors import DamagedFile, OutOfScope, RadiographError, TooLarge, UnsupportedFormat
from cxnet.radiograph import MAX_BYTES, open_radiograph, read_radiograph

SECRET = "ZZTESTPHI"
NOISE = np.random.default_rng(0).integers(0, 256, (64, 80), np.uint8)
RAMP = np.linspace(0, 255, 64 * 80).reshape(64, 80).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(values: np.ndarray, bits: int = 12, signed: bool = False, **tags) -> Dataset:
    """A DX file with the secret in every place where names use to stand."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    data.PatientName, data.PatientID, data.InstitutionName = SECRET, SECRET, SECRET
    data.StudyDescription, data.ImageComments, data.AccessionNumber = f"Chest {SECRET}", SECRET, SECRET
    data.add_new(0x00110010, "LO", SECRET)
    data.add_new(0x00111001, "LO", SECRET)
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.PhotometricInterpretation, data.SamplesPerPixel = "MONOCHROME2", 1
    data.Rows, data.Columns = values.shape
    data.BitsAllocated = 16 if bits > 8 else 8
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(signed)
    kind = ("<i" if signed else "<u") + str(data.BitsAllocated // 8)
    data.PixelData = values.astype(kind).tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def written(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def lookup_table(first: int, entries: np.ndarray, bits: int = 16, vr: str = "US") -> Dataset:
    """An item of a Modality or VOI LUT Sequence; 16-bit words as OW."""
    item = Dataset()
    typed = first % 65536 if vr == "US" else first
    item.add_new("LUTDescriptor", vr, [len(entries) % 65536, typed, bits])
    item.add_new("LUTData", "OW", np.asarray(entries).astype("<u2").tobytes())
    return item


def square(bits: int = 12, signed: bool = False) -> np.ndarray:
    values = np.full((64, 64), 2 ** (bits - 3))
    values[16:40, 16:40] = 3 * 2 ** (bits - 3)
    return values - (2 ** (bits - 2) if signed else 0)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_pictures_come_back_exactly(kind: str, options: dict) -> None:
    found = read_radiograph(saved(Image.fromarray(RAMP), kind, **options))
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.format.upper() == kind and len(found.sha256) == 64 and not found.tags
    with pytest.raises(ValueError, match="read-only"):
        found.pixels[0, 0] = 1


def test_jpeg_and_cmyk_are_close() -> None:
    for data in (
        saved(Image.fromarray(RAMP), "JPEG", quality=98),
        saved(Image.fromarray(RAMP).convert("CMYK"), "JPEG", quality=98),
    ):
        assert np.abs(read_radiograph(data).pixels.astype(int) - RAMP).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(kind: str) -> None:
    deep = np.linspace(0, 65535, RAMP.size).reshape(RAMP.shape).astype(np.uint16)
    found = read_radiograph(saved(Image.fromarray(deep), kind)).pixels
    np.testing.assert_array_equal(found, np.rint(deep / 257))
    shallow = read_radiograph(saved(Image.fromarray(deep // 32), kind))  # 11 of 16 bits used
    assert np.ptp(shallow.pixels) == 255 and shallow.notes


def test_colour_alpha_and_palette() -> None:
    grey = Image.fromarray(RAMP)
    np.testing.assert_array_equal(read_radiograph(saved(grey.convert("RGB"), "PNG")).pixels, RAMP)
    red = read_radiograph(saved(Image.fromarray(np.stack([RAMP, RAMP // 3, RAMP // 3], -1)), "PNG"))
    assert any("colour" in note for note in red.notes)
    alpha = np.full(RAMP.shape, 255, np.uint8)
    alpha[:32] = 0
    for mode in ("LA", "RGBA"):
        image = grey.convert(mode)
        image.putalpha(Image.fromarray(alpha))
        found = read_radiograph(saved(image, "PNG"))
        assert not found.pixels[:32].any() and (found.pixels[32:] == RAMP[32:]).all() and found.notes
    np.testing.assert_array_equal(read_radiograph(saved(grey.convert("P"), "PNG")).pixels, RAMP)
    assert set(np.unique(read_radiograph(saved(grey.convert("1"), "PNG")).pixels)) == {0, 255}


def test_float_tiff_with_holes_and_exif_rotation() -> None:
    values = RAMP.astype(np.float32)
    values[0, 0] = np.nan
    found = read_radiograph(saved(Image.fromarray(values), "TIFF"))
    assert np.abs(found.pixels.astype(int) - RAMP).max() <= 1 and any("no numbers" in note for note in found.notes)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_radiograph(saved(Image.fromarray(RAMP), "JPEG", quality=98, exif=exif))
    assert turned.pixels.shape == (80, 64)
    assert np.abs(turned.pixels.astype(int) - np.rot90(RAMP, -1)).mean() < 3


def bomb(side: int) -> bytes:
    packed = zlib.compressobj(9)
    body = b"".join(packed.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + packed.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def refusal(data: bytes, kind: type[RadiographError]) -> str:
    with pytest.raises(kind) as caught:
        read_radiograph(data)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and SECRET not in sentence
    return sentence


def test_what_is_refused_and_why() -> None:
    pages = io.BytesIO()
    Image.fromarray(RAMP).save(pages, "TIFF", save_all=True, append_images=[Image.fromarray(RAMP)])
    for data, kind in (
        (b"", DamagedFile),
        (b"hello" * 99, UnsupportedFormat),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedFormat),
        (b"%PDF-1.7 ...", UnsupportedFormat),
        (pages.getvalue(), UnsupportedFormat),
        (bomb(9000), TooLarge),
        (bytes(MAX_BYTES + 1), TooLarge),
        (saved(Image.new("L", (1, 1), 9), "PNG"), OutOfScope),
        (saved(Image.fromarray(np.tile(RAMP[:1], (1, 125))), "PNG"), OutOfScope),
        (saved(Image.new("L", (64, 64), 7), "PNG"), OutOfScope),
        (saved(Image.fromarray(NOISE), "PNG")[:300], DamagedFile),
    ):
        refusal(data, kind)


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "no-extension").write_bytes(saved(Image.fromarray(RAMP), "PNG"))
    (tmp_path / "lying.jpg").write_bytes(saved(Image.fromarray(RAMP), "PNG"))
    assert open_radiograph(tmp_path / "no-extension").format == open_radiograph(tmp_path / "lying.jpg").format == "PNG"
    for path in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(RadiographError):
            open_radiograph(path)


ORIENTED = {  # EXIF 2.3, tag 0x0112: what row 0 and column 0 of the stored picture are; here, how to make it upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientations(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read_radiograph(saved(Image.fromarray(NOISE), kind, exif=exif, **options))
    np.testing.assert_array_equal(found.pixels, ORIENTED[orientation](NOISE))
    assert any("orientation" in note for note in found.notes) == (orientation != 1)


def test_palette_with_transparency() -> None:
    image = Image.fromarray((RAMP // 16).astype(np.uint8), "L").convert("P")
    image.putpalette(bytes(16 * k for k in range(16) for _ in range(3)))
    found = read_radiograph(saved(image, "PNG", transparency=bytes([255] * 8 + [128] * 4 + [0] * 4)))
    index = RAMP // 16
    expected = np.where(index < 8, 16 * index, np.where(index < 12, np.rint(16.0 * index * 128 / 255), 0))
    np.testing.assert_array_equal(found.pixels, expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_without_content_are_out_of_scope(kind: str) -> None:
    for size in ((64, 64), (1, 1), (1, 10000), (31, 64)):
        refusal(saved(Image.new("L", size, 99), kind), OutOfScope)
    refusal(saved(Image.fromarray(np.resize(RAMP, (10000, 40))), kind), OutOfScope)
    refusal(written(dicom(np.full((64, 64), 99))), OutOfScope)


def white_is_zero(values: np.ndarray, order: str = "<") -> bytes:
    """A TIFF file whose zero is white, as scanners write it; Pillow writes none with 16 bits."""
    data = np.ascontiguousarray(values, f"{order}u2").tobytes()
    height, width = values.shape
    fields = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 0),
        (273, 0),
        (277, 1),
        (278, height),
        (279, len(data)),
    ]
    at = 8 + 2 + 12 * len(fields) + 4
    found = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8) + struct.pack(f"{order}H", len(fields))
    for tag, value in fields:
        found += struct.pack(f"{order}HHII", tag, 4, 1, at if tag == 273 else value)
    return found + struct.pack(f"{order}I", 0) + data


def test_a_deep_tiff_whose_zero_is_white_is_no_negative() -> None:
    deep = np.linspace(0, 65535, RAMP.size).reshape(RAMP.shape).astype(np.uint16)
    plain = read_radiograph(saved(Image.fromarray(deep), "TIFF"))
    turned = read_radiograph(white_is_zero(65535 - deep))
    np.testing.assert_array_equal(turned.pixels, plain.pixels)
    # Pillow does not know the other byte order: no picture rather than a negative
    assert "not read" in refusal(white_is_zero(deep, ">"), DamagedFile)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [13, 14, 15])
def test_the_bits_that_are_used_make_the_grey_scale(kind: str, bits: int) -> None:
    values = np.linspace(0, 2**bits - 1, RAMP.size).reshape(RAMP.shape).astype(np.uint16)
    found = read_radiograph(saved(Image.fromarray(values), kind))
    assert np.abs(found.pixels - 255 * (values / (2**bits - 1))).max() <= 0.5 and len(np.unique(found.pixels)) == 256
    assert any(f"{bits}-bit" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_12_of_16_bits_use_the_whole_grey_scale(kind: str) -> None:
    values = np.linspace(0, 4095, RAMP.size).reshape(RAMP.shape).astype(np.uint16)
    found = read_radiograph(saved(Image.fromarray(values), kind))
    np.testing.assert_array_equal(found.pixels, np.rint(values / 4095 * 255))
    assert any("stretched" in note for note in found.notes)


def test_errors_of_our_own_are_not_hidden(monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cxnet.radiograph.grey", broken)
    monkeypatch.setattr("cxnet.radiograph.render", broken)
    for data in (saved(Image.fromarray(RAMP), "PNG"), written(dicom(square()))):
        with pytest.raises(ZeroDivisionError):
            read_radiograph(data)


def jpeg_lossless(file: Dataset, process: str = "JPEGLosslessProcess14_1") -> bytes:
    """The file with its pixels as JPEG Lossless."""
    gdcm = pytest.importorskip("gdcm")
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain.dcm", Path(folder) / "packed.dcm"
        plain.write_bytes(written(file))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, process)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(packed))
        assert writer.Write()
        return packed.read_bytes()


def test_published_originals(data_folder: Path) -> None:
    found = {}
    for path in sorted((data_folder / "originals").iterdir()):
        if path.suffix == ".csv":
            continue
        if path.name.startswith("nema_rg3"):
            with pytest.raises(OutOfScope, match="part of the body"):
                open_radiograph(path)
            continue
        found[path.name] = open_radiograph(path)
    assert len(found) == 12
    first, second = (found[f"rsna_monochrome{k}.dcm"].pixels for k in (1, 2))
    np.testing.assert_array_equal(first, 255 - second)
