"""DICOM files: grey levels as the standard says, frontal views of the chest only, and nothing of a patient."""

from __future__ import annotations

import logging
import math
from fractions import Fraction

import numpy as np
import pydicom
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxnet.errors import DamagedFile, OutOfScope, RadiographError, TooLarge, UnsupportedFormat
from cxnet.radiograph import read_radiograph
from cxnet.radiograph._view import CODES
from tests.test_radiograph import RAMP, SECRET, dicom, jpeg_lossless, lookup_table, refusal, saved, square, written

#: Every value of 16 bits once.
_EVERY_VALUE = np.arange(65536).reshape(256, 256)


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
    ("slope", "intercept"),
    [(0, 0), (np.nan, 0), (1, np.nan), (np.inf, 0), (1e300, 0), (1, -1e300), (5e-324, 0), (-1e-320, 0), (1e-30, 0)],
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


_EXTREME = st.one_of(
    st.floats(),
    st.sampled_from([0.0, 5e-324, -1e-320, 2.3e-308, 1e-31, 1.1e-30, 1e-16, 9e29, 1e30, 1e308, float("inf")]),
)


@settings(max_examples=60)
@given(
    slope=_EXTREME,
    intercept=_EXTREME,
    centre=_EXTREME,
    width=_EXTREME,
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)
@example(5e-324, 0.0, 0.0, 0.0, "LINEAR", "MONOCHROME2")  # half a step is 0
@example(1e-320, 0.0, 0.0, 0.0, "LINEAR", "MONOCHROME1")  # more levels than fit
@example(1.0, 0.0, 2048.0, 5e-324, "SIGMOID", "MONOCHROME2")
def test_no_number_of_a_file_breaks_its_reader(
    slope: float, intercept: float, centre: float, width: float, function: str, photometric: str
) -> None:
    file = dicom(_EVERY_VALUE, 16, VOILUTFunction=function, PhotometricInterpretation=photometric)
    numbers = {"RescaleSlope": slope, "RescaleIntercept": intercept, "WindowCenter": centre, "WindowWidth": width}
    for name, value in numbers.items():
        setattr(file, name, pydicom.valuerep.DSfloat(value, validation_mode=0))
    try:
        found = read_radiograph(written(file))
    except RadiographError:  # where all values become the same
        return
    assert np.ptp(found.pixels) > 0
    if found.depth is not None:
        assert 0 < found.depth.brightest <= 65535 and found.depth.levels.max() <= found.depth.brightest
        for window in found.depth.windows:
            assert np.isfinite(window.greys()).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("width", [0.9, 0.02, 5e-324])
@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_windows_narrower_than_1(function: str, width: float, photometric: str) -> None:
    """Of any width above 0 but for LINEAR (PS3.3 C.11.2.1.3): here values are tenths of a unit or less."""
    stored = np.random.default_rng(2).integers(0, 4096, (40, 40))
    file = dicom(stored, RescaleSlope=1 / 4096, RescaleIntercept=0, VOILUTFunction=function)
    file.WindowCenter, file.PhotometricInterpretation = 0.5, photometric
    file.WindowWidth = pydicom.valuerep.DSfloat(width, validation_mode=0)
    grey = []
    for x in stored.ravel() / 4096:
        steep = min(max((x - 0.5) / Fraction(width), Fraction(-100)), Fraction(100))
        share = (
            1 / (1 + math.exp(-4 * steep)) if function == "SIGMOID" else float(min(max(steep + Fraction(1, 2), 0), 1))
        )
        grey.append(255 * (1 - share if photometric == "MONOCHROME1" else share))
    found = read_radiograph(written(file))
    assert np.abs(found.pixels - np.reshape(grey, stored.shape)).max() <= 0.5 + 1e-6
    assert not any("window" in note for note in found.notes)
    assert found.depth is not None and (found.depth.windows[0].centre, found.depth.windows[0].width) == (0.5, width)
    level_shown = np.clip(found.depth.windows[0].greys()[found.depth.levels], 0, 255)
    # a step is drawn between two levels, so the value on the step itself may be either
    assert np.abs(level_shown - found.pixels)[stored != 2048].max() <= 0.51


def test_a_linear_window_narrower_than_1_cannot_be_used() -> None:
    found = read_radiograph(written(dicom(square(), WindowCenter=1000, WindowWidth=0.9)))
    assert "The file's window cannot be used." in found.notes


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


def test_what_a_file_leaves_of_the_grey_scale_stays_free() -> None:
    values = 1000 + 500 * (square() > 1000).astype(np.uint16)
    wide = read_radiograph(written(dicom(values, WindowCenter=2048, WindowWidth=4096)))
    assert set(np.unique(wide.pixels)) == {62, 93}  # PS3.3 C.11.2.1.2
    bright = np.where(square() > 1000, 150, 100).astype(np.uint8)
    ready = read_radiograph(written(dicom(bright, 8)))
    np.testing.assert_array_equal(ready.pixels, bright)  # as the same picture in a PNG file
    useless = read_radiograph(written(dicom(values, WindowCenter=2048, WindowWidth=1e7)))
    assert np.ptp(useless.pixels) == 255 and any("window cannot be used" in note for note in useless.notes)


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


@pytest.mark.parametrize("process", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1"])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (12, True), (16, True)])
def test_jpeg_lossless_decodes_exactly(process: str, bits: int, signed: bool) -> None:
    lowest = -(2 ** (bits - 1)) if signed else 0
    file = dicom(np.random.default_rng(1).integers(lowest, lowest + 2**bits, (64, 72)), bits, signed)
    plain = read_radiograph(written(file))
    np.testing.assert_array_equal(read_radiograph(jpeg_lossless(file, process)).pixels, plain.pixels)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_jpeg_lossless_in_colour(photometric: str) -> None:
    file = dicom(RAMP, 8, PhotometricInterpretation=photometric, SamplesPerPixel=3, PlanarConfiguration=0)
    file.PixelData = np.stack([RAMP, RAMP // 2, RAMP // 3], -1).tobytes()
    plain = read_radiograph(written(file))
    np.testing.assert_array_equal(read_radiograph(jpeg_lossless(file)).pixels, plain.pixels)


def code(value: str, scheme: str = "SCT", meaning: str = "x") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def test_view_codes_are_those_of_the_standard() -> None:
    """PS3.16 CID 4010, as pydicom lists it with meanings, old codes and all."""
    from pydicom.sr._snomed_dict import mapping
    from pydicom.sr.codedict import codes

    listed = {name: getattr(codes.cid4010, name) for name in codes.cid4010.dir()}
    found: dict[str, set[str]] = {"frontal": set(), "lateral": set(), "oblique": set()}
    for each in listed.values():
        words = set(each.meaning.replace("-", " ").lower().split())
        both = {each.value, mapping["SCT"][each.value]}
        if "oblique" in words:
            found["oblique"] |= both
        elif words & {"lateral", "medial"}:
            found["lateral"] |= both
        elif words & {"frontal", "antero", "postero"}:
            found["frontal"] |= both
    assert {view: set(codes) for view, codes in CODES.items()} == found
    assert len(found["oblique"]) == 38 and len(found["frontal"]) == 6


def viewed(**tags: object) -> Dataset:
    """A file that says nothing of its view but what is given."""
    file = dicom(square(), StudyDescription=f"Chest {SECRET}")
    del file.ViewPosition
    for name, value in tags.items():
        setattr(file, name, value)
    return file


UNSAID = "The file does not say which view it is; cxnet is for frontal radiographs."


@pytest.mark.parametrize(
    ("view", "tags"),
    [
        *(("lateral", {"ViewPosition": each}) for each in ("LL", "RL", "LAT", "LEFT LATERAL", "XTABLE LATERAL")),
        *(("oblique", {"ViewPosition": each}) for each in ("RAO", "LAO", "RPO", "LPO", "RLO", "LLO", "PA OBLIQUE")),
        *(("lateral decubitus", {"ViewPosition": each}) for each in ("LLD", "RLD", "AP LLD")),
        *(
            (view, {"ViewCodeSequence": Sequence([code(value, scheme)])})
            for view, value, scheme in (
                ("lateral", "399067008", "SCT"),
                ("lateral", "R-10236", "SRT"),
                ("oblique", "399356000", "SCT"),
                ("oblique", "R-10212", "SNM3"),
            )
        ),
        ("lateral", {"ViewCodeSequence": Sequence([code("7", "99ACME", "Chest lateral view")]), "ViewPosition": "PA"}),
        *(("lateral", {"PatientOrientation": each}) for each in (["A", "F"], ["P", "F"], ["PL", "F"], ["F", "A"])),
    ],
)
def test_other_views_are_refused(view: str, tags: dict[str, object]) -> None:
    file = written(viewed(**tags))
    assert f" {view} view" in refusal(file, OutOfScope)


@pytest.mark.parametrize(
    "tags",
    [
        *({"ViewPosition": each} for each in ("PA", "AP", "AP SUPINE", "LORDOTIC", "AP_LORDOTIC", "FRONTAL")),
        {"ViewCodeSequence": Sequence([code("399348003")])},
        {"ViewCodeSequence": Sequence([code("R-40888", "SRT")])},
        {"ViewCodeSequence": Sequence([code("7", "99ACME", "postero-anterior")])},
        {"PatientOrientation": ["L", "F"]},
        {"PatientOrientation": ["H", "R"]},
        {"SeriesDescription": "view: PA"},
        {"ViewPosition": "PA", "StudyDescription": "Chest PA and lateral, bilateral"},
    ],
)
def test_frontal_views_are_read_without_a_note(tags: dict[str, object]) -> None:
    notes = read_radiograph(written(viewed(**tags))).notes
    assert not [note for note in notes if "view" in note]


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"ViewPosition": "SWIMMERS"},
        {"ViewCodeSequence": Sequence([code("399061009")])},  # axial
        {"ViewCodeSequence": Sequence([Dataset()])},
        *({"PatientOrientation": each} for each in ("PA", ["A", "P"], ["L", "R"], ["X", "F"], "")),
        {"StudyDescription": "Chest PA and lateral"},
    ],
)
def test_an_unsaid_view_is_a_note(tags: dict[str, object]) -> None:
    assert UNSAID in read_radiograph(written(viewed(**tags))).notes


@pytest.mark.parametrize("tag", ["SeriesDescription", "StudyDescription", "ProtocolName"])
def test_of_a_description_only_the_view_is_told(tag: str) -> None:
    for position in ("", "PA"):
        for text, view in ((f"{SECRET} Chest LAT", "a lateral"), (f"{SECRET} chest, oblique", "an oblique")):
            found = read_radiograph(written(viewed(ViewPosition=position, **{tag: text})))
            told = [note for note in found.notes if "view" in note]
            assert len(told) == 1 and f"description names {view} view" in told[0] and told[0].count(". ") == 0
            assert SECRET not in repr(found) + str(found.notes) + str(dict(found.tags))


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
