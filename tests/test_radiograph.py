"""Readers: every format gives the right grey levels or one sentence, and nothing of a patient gets through."""

from __future__ import annotations

import io
import logging
import math
import struct
import tempfile
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
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


def to_8_bit(values: list[Fraction]) -> list[float]:
    low, high = min(values), max(values)
    return [float((value - low) / (high - low) * 255) for value in values]


def looked_up(value: int, first: int, entries: list[int]) -> int:
    """PS3.3 C.11.1.1 and C.11.2.1.1, word for word."""
    if value <= first:
        return entries[0]
    if value >= first + len(entries) - 1:
        return entries[-1]
    return entries[value - first]


@settings(max_examples=300)
@given(st.data())
def test_lookup_tables_follow_the_standard(data) -> None:
    draw = data.draw
    bits, signed = draw(st.sampled_from([8, 10, 12, 16])), draw(st.booleans())
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    stored = rng.integers(lowest, highest + 1, 40)
    picture = np.resize(stored, (40, 40))
    file = dicom(picture, bits, signed)
    file.file_meta.TransferSyntaxUID = draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
    file.PhotometricInterpretation = draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))

    def table(negative: bool, near: tuple[int, int]) -> tuple[Dataset, int, list[int]]:
        """A random table over some of the range of its input, with the descriptor typed as the standard asks."""
        least, most = (-32768, 32767) if negative else (0, 65535)
        first = min(max(draw(st.integers(near[0] - 10, near[1])), least), most)
        count = draw(st.one_of(st.integers(2, 300), st.sampled_from([4096, 65536])))
        depth = draw(st.sampled_from([8, 10, 12, 16]))
        entries = rng.integers(0, 2**depth, count)
        item = lookup_table(first, entries, depth, "SS" if negative and draw(st.booleans()) else "US")
        if depth == 8 and count % 2 == 0 and draw(st.booleans()):
            item.LUTData = entries.astype(np.uint8).tobytes()
        elif count * 2 < 65534 and draw(st.booleans()):
            del item.LUTData
            item.add_new("LUTData", "US", [int(entry) for entry in entries])
        return item, first, [int(entry) for entry in entries]

    way = draw(st.sampled_from(["none", "rescale", "table"]))
    if way == "none":
        values, negative, near = [int(v) for v in stored], signed, (lowest, highest)
    elif way == "rescale":
        slope, intercept = draw(st.sampled_from([1, -1, 2])), draw(st.integers(-3000, 3000))
        file.RescaleSlope, file.RescaleIntercept = slope, intercept
        values = [int(v) * slope + intercept for v in stored]
        near = min(lowest * slope, highest * slope) + intercept, max(lowest * slope, highest * slope) + intercept
        negative = near[0] < 0
    else:
        item, first, entries = table(signed, (lowest, highest))
        file.ModalityLUTSequence = Sequence([item])
        values = [looked_up(int(v), first, entries) for v in stored]
        negative, near = False, (min(entries), max(entries))
    item, first, entries = table(negative, near)
    file.VOILUTSequence = Sequence([item])
    outputs = [looked_up(v, first, entries) for v in values]
    assume(len(set(outputs)) > 1)
    expected = np.array(to_8_bit([Fraction(output) for output in outputs]))
    if file.PhotometricInterpretation == "MONOCHROME1":
        expected = 255 - expected
    found = read_radiograph(written(file))
    assert np.abs(found.pixels - np.resize(expected, (40, 40))).max() <= 0.5 + 1e-9
    assert not any("lookup" in note for note in found.notes)


def test_lookup_tables_that_cannot_work() -> None:
    cut = lookup_table(0, np.arange(4096))
    cut.LUTData = cut.LUTData[:100]
    shallow = lookup_table(0, np.arange(4096), 4)
    flat = lookup_table(0, np.full(4096, 7))
    bare = Dataset()
    for item in (cut, shallow, flat, bare):
        found = read_radiograph(written(dicom(square(), VOILUTSequence=Sequence([item]))))
        assert np.ptp(found.pixels) == 255 and any("VOI lookup" in note for note in found.notes)
        if item is not flat:
            refusal(written(dicom(square(), ModalityLUTSequence=Sequence([item]))), DamagedFile)


@pytest.mark.parametrize(
    ("slope", "intercept"), [(0, 0), (np.nan, 0), (1, np.nan), (np.inf, 0), (1e300, 0), (1, -1e300)]
)
def test_rescale_values_that_cannot_work_are_ignored_with_a_note(slope: float, intercept: float) -> None:
    plain = read_radiograph(written(dicom(square())))
    given = (pydicom.valuerep.DSfloat(v, validation_mode=0) for v in (slope, intercept))
    found = read_radiograph(
        written(dicom(square(), **dict(zip(("RescaleSlope", "RescaleIntercept"), given, strict=True))))
    )
    np.testing.assert_array_equal(found.pixels, plain.pixels)
    assert any("rescale" in note for note in found.notes)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("slope", [1, -1, 0.5])
def test_windows_follow_the_standard(function: str, slope: float) -> None:
    stored = np.random.default_rng(2).integers(0, 4096, (40, 40))
    centre, width = 1800 * slope, 2100.0
    file = dicom(stored, RescaleSlope=slope, RescaleIntercept=-20, WindowCenter=centre, WindowWidth=width)
    file.VOILUTFunction = function
    outputs = []
    for x in (float(v) * slope - 20 for v in stored.ravel()):  # the pseudocode of C.11.2.1.2 and C.11.2.1.3
        if function == "SIGMOID":
            outputs.append(255 / (1 + math.exp(-4 * (x - centre) / width)))
        else:
            c, w = (centre, width) if function == "LINEAR_EXACT" else (centre - 0.5, width - 1)
            outputs.append(0.0 if x <= c - w / 2 else 255.0 if x > c + w / 2 else ((x - c) / w + 0.5) * 255)
    assert np.abs(read_radiograph(written(file)).pixels - np.reshape(outputs, stored.shape)).max() <= 0.5 + 1e-6


def test_bits_beyond_those_stored_are_ignored() -> None:
    plain = read_radiograph(written(dicom(square()))).pixels
    overlaid = square()
    overlaid[:5] |= 0xF000
    np.testing.assert_array_equal(read_radiograph(written(dicom(overlaid))).pixels, plain)
    refusal(written(dicom(square() << 4, HighBit=15)), UnsupportedFormat)
    negative = read_radiograph(written(dicom(square(12, True) & 0xFFF, 12, True)))
    np.testing.assert_array_equal(negative.pixels, plain)


@pytest.mark.parametrize(("signed", "value", "vr"), [(False, 0, "US"), (True, -2000, "SS"), (True, 63536, "US")])
def test_padding_is_black_and_no_part_of_the_range(signed: bool, value: int, vr: str) -> None:
    values = square(12, signed)
    values[:4] = value if value < 32768 else value - 65536
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        file = dicom(values, 16, signed, PhotometricInterpretation=photometric)
        file.add_new("PixelPaddingValue", vr, value)
        pixels = read_radiograph(written(file)).pixels
        assert not pixels[:4].any() and set(np.unique(pixels[4:])) == {0, 255}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_byte_orders_agree(syntax: str) -> None:
    def file() -> Dataset:
        return dicom(square(), VOILUTSequence=Sequence([lookup_table(0, np.arange(4096) ** 2 >> 8)]))

    changed = file()
    changed.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        changed.PixelData = np.frombuffer(changed.PixelData, "<u2").astype(">u2").tobytes()
        table = changed.VOILUTSequence[0]
        table.LUTData = np.frombuffer(table.LUTData, "<u2").astype(">u2").tobytes()
    np.testing.assert_array_equal(read_radiograph(written(changed)).pixels, read_radiograph(written(file())).pixels)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colour_in_dicom(photometric: str) -> None:
    colour = np.stack([RAMP, RAMP // 2, RAMP // 3], -1)
    image = Image.fromarray(colour)
    raw = np.asarray(image.convert("YCbCr")) if photometric == "YBR_FULL" else colour
    file = dicom(RAMP, 8, PhotometricInterpretation=photometric, SamplesPerPixel=3, PlanarConfiguration=0)
    file.PixelData = raw.tobytes()
    found = read_radiograph(written(file))
    assert np.abs(found.pixels.astype(int) - np.asarray(image.convert("L"))).max() <= 2
    assert any("colour" in note for note in found.notes)


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


def test_what_a_file_leaves_of_the_grey_scale_stays_free() -> None:
    values = 1000 + 500 * (square() > 1000).astype(np.uint16)
    wide = read_radiograph(written(dicom(values, WindowCenter=2048, WindowWidth=4096)))
    assert set(np.unique(wide.pixels)) == {62, 93}  # PS3.3 C.11.2.1.2
    bright = np.where(square() > 1000, 150, 100).astype(np.uint8)
    ready = read_radiograph(written(dicom(bright, 8)))
    np.testing.assert_array_equal(ready.pixels, bright)  # as the same picture in a PNG file
    useless = read_radiograph(written(dicom(values, WindowCenter=2048, WindowWidth=1e7)))
    assert np.ptp(useless.pixels) == 255 and any("window cannot be used" in note for note in useless.notes)


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


@pytest.mark.parametrize(
    "window",
    [(np.nan, 100), (2048, 0), (2048, -50), (2048, np.nan), (2048, np.inf), (np.inf, 50), (-9e9, 1), (1e300, 1e300)],
)
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
