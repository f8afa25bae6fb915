"""Readers: every format gives the right grey levels or one sentence, and nothing of a patient gets through."""

from __future__ import annotations

import io
import logging
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
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


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("slope", [1, -1])
@pytest.mark.parametrize("voi", ["none", "window", "table"])
def test_a_bright_square_ends_bright(photometric: str, bits: int, signed: bool, slope: int, voi: str) -> None:
    values = square(bits, signed)
    middle = int(values.min()) + int(values.max())
    dark = (photometric == "MONOCHROME1") != (slope == -1)
    stored = middle - values if dark else values
    data = dicom(stored, bits, signed, PhotometricInterpretation=photometric, RescaleSlope=slope, RescaleIntercept=0)
    output = np.sort(np.unique(stored * slope))
    if voi == "window":
        data.WindowCenter, data.WindowWidth = float(output.mean()), float(2 * np.ptp(output))
    elif voi == "table":
        table = lookup_table(int(output[0]), np.linspace(1000, 60000, int(np.ptp(output)) + 1))
        data.VOILUTSequence = Sequence([table])
    pixels = read_radiograph(written(data)).pixels.astype(int)
    assert pixels[20:36, 20:36].mean() > pixels[:10].mean() + 60


@pytest.mark.parametrize("window", [(np.nan, 100), (2048, 0), (2048, np.nan), (-9e9, 1)])
def test_windows_that_cannot_work_fall_back_with_a_note(window: tuple[float, float]) -> None:
    data = dicom(square())
    data.WindowCenter, data.WindowWidth = (pydicom.valuerep.DSfloat(v, validation_mode=0) for v in window)
    found = read_radiograph(written(data))
    assert np.ptp(found.pixels) == 255 and any("Auto window" in note for note in found.notes)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_files_decode_exactly(syntax: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (64, 72))
    data = dicom(values)
    plain = read_radiograph(written(data)).pixels
    data.compress(syntax)
    np.testing.assert_array_equal(read_radiograph(written(data)).pixels, plain)


def test_jpeg_2000_decodes_exactly() -> None:
    values = np.random.default_rng(0).integers(0, 4096, (64, 72)).astype(np.uint16)
    data = dicom(values)
    plain = read_radiograph(written(data)).pixels
    data.PixelData = encapsulate([saved(Image.fromarray(values), "JPEG2000", irreversible=False, no_jp2=True)])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.BitsStored, data.HighBit = 16, 15
    np.testing.assert_array_equal(read_radiograph(written(data)).pixels, plain)


def test_jpeg_inside_dicom() -> None:
    data = dicom(RAMP, 8)
    data.PixelData = encapsulate([saved(Image.fromarray(RAMP), "JPEG", quality=98)])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert np.abs(read_radiograph(written(data)).pixels.astype(int) - RAMP).mean() < 3


def jpeg_lossless(values: np.ndarray) -> bytes:
    gdcm = pytest.importorskip("gdcm")
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain.dcm", Path(folder) / "packed.dcm"
        plain.write_bytes(written(dicom(values)))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(packed))
        assert writer.Write()
        return packed.read_bytes()


def test_jpeg_lossless_through_gdcm() -> None:
    values = np.random.default_rng(1).integers(0, 4096, (64, 72))
    plain = read_radiograph(written(dicom(values)))
    np.testing.assert_array_equal(read_radiograph(jpeg_lossless(values)).pixels, plain.pixels)


def test_dicom_scope_and_shape() -> None:
    deflated = dicom(square())
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert "Deflated" in refusal(written(deflated), UnsupportedFormat)
    assert "CT" in refusal(written(dicom(square(), Modality="CT")), OutOfScope)
    assert "lateral" in refusal(written(dicom(square(), ViewPosition="LL")), OutOfScope)
    assert "part of the body" in refusal(written(dicom(square(), BodyPartExamined="KNEE")), OutOfScope)
    described = dicom(square(), BodyPartExamined="", StudyDescription=f"Left knee {SECRET}")
    assert "description" in refusal(written(described), OutOfScope)
    refusal(written(dicom(square(), NumberOfFrames=3)), UnsupportedFormat)
    refusal(written(dicom(square(), Rows=60000, Columns=60000)), TooLarge)
    refusal(written(dicom(square(), Rows=128)), DamagedFile)
    empty = dicom(square())
    del empty.PixelData
    refusal(written(empty), DamagedFile)


def test_nothing_of_a_patient_survives(caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    good = written(dicom(square(), PatientAge="012Y", PixelSpacing=[0.2, 0.3]))
    found = read_radiograph(good)
    assert found.pixel_spacing_mm == (0.2, 0.3) and any("child" in note for note in found.notes)
    told = [repr(found), str(dict(found.tags)), str(found.notes)]
    for cut in range(140, len(good), 97):
        try:
            told.append(repr(read_radiograph(good[:cut])))
        except RadiographError as error:
            told += [
                str(error),
                repr(error.__cause__),
                repr(error.__context__) if not error.__suppress_context__ else "",
            ]
    told += [caplog.text, *capfd.readouterr()]
    assert not any(SECRET in text for text in told)
    assert set(found.tags) <= {
        "Modality",
        "BodyPartExamined",
        "ViewPosition",
        "PhotometricInterpretation",
        "BitsStored",
        "PixelSpacing",
    }


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
