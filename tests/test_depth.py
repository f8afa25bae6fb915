"""What a file holds beyond 8 bits: exact values, the windows as the standard says, and nothing of a patient."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxnet import overlay
from cxnet.errors import SettingsError
from cxnet.radiograph import AS_GIVEN, DEPTH_SIDE_PX, Depth, Radiograph, Window, read_radiograph
from cxnet.radiograph._depth import TITLES, reduced
from pages import _session, _viewer
from pages._viewer import Panel
from tests.test_radiograph import SECRET, dicom, lookup_table, saved, square, written

NOISE = np.random.default_rng(3).integers(0, 4096, (48, 64))


def depth_of(data: Dataset | bytes) -> tuple[Radiograph, Depth]:
    found = read_radiograph(data if isinstance(data, bytes) else written(data))
    assert found.depth is not None
    return found, found.depth


def values_of(depth: Depth) -> np.ndarray:
    return depth.offset + depth.step * depth.levels.astype(float)


def windowed(x: float, centre: float, width: float, function: str) -> float:
    """The pseudocode of PS3.3 C.11.2.1.2 and C.11.2.1.3, for outputs from 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(-4 * (x - centre) / width))
    c, w = (centre, width) if function == "LINEAR_EXACT" else (centre - 0.5, width - 1)
    return 0.0 if x <= c - w / 2 else 255.0 if x > c + w / 2 else ((x - c) / w + 0.5) * 255


def shown(depth: Depth, number: int = 0) -> np.ndarray:
    return np.clip(depth.windows[number].greys()[depth.levels], 0, 255)


@settings(max_examples=60)
@given(
    bits=st.sampled_from([10, 12, 16]),
    signed=st.booleans(),
    slope=st.sampled_from([1, -1, 0.5, -2.5]),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_values_are_kept_and_every_window_follows_the_standard(
    bits: int, signed: bool, slope: float, function: str, photometric: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lowest = -(2 ** (bits - 1)) if signed else 0
    stored = rng.integers(lowest, lowest + 2**bits, (40, 40))
    expected = stored * slope - 20
    centres = [float(each) for each in rng.choice(expected.ravel(), 3)]
    widths = [float(each) for each in rng.integers(2**bits // 8, 2**bits, 3)]
    file = dicom(stored, bits, signed, RescaleSlope=slope, RescaleIntercept=-20, PhotometricInterpretation=photometric)
    file.WindowCenter, file.WindowWidth, file.VOILUTFunction = centres, widths, function
    found, depth = depth_of(file)
    np.testing.assert_array_equal(values_of(depth), expected)
    assert np.sign(depth.step) == (-1 if photometric == "MONOCHROME1" else 1) and depth.unit == abs(slope)
    assert (depth.levels.min(), depth.levels.max()) == (0, depth.brightest) and not depth.padded
    assert [(each.centre, each.width) for each in depth.windows] == list(zip(centres, widths, strict=True))
    assert [each.title for each in depth.windows] == ["window 1", "window 2", "window 3"]
    for number, (centre, width) in enumerate(zip(centres, widths, strict=True)):
        grey = np.array([windowed(x, centre, width, function) for x in expected.ravel()]).reshape(expected.shape)
        grey = 255 - grey if photometric == "MONOCHROME1" else grey
        assert np.abs(shown(depth, number) - grey).max() < 0.01
    assert np.abs(shown(depth) - found.pixels).max() <= 0.51


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_lookup_tables_are_windows_too(photometric: str) -> None:
    file = dicom(NOISE, PhotometricInterpretation=photometric, RescaleSlope=2, RescaleIntercept=-100)
    values = NOISE * 2 - 100
    curved, step = (np.arange(8192) ** 2 >> 11), np.where(np.arange(8192) < 3000, 10, 900)
    tables = [lookup_table(65536 - 100, curved), lookup_table(65536 - 100, step)]
    tables[1].LUTExplanation = "Bone"
    file.VOILUTSequence = Sequence(tables)
    file.WindowCenter, file.WindowWidth = 3000, 2000
    found, depth = depth_of(file)
    assert [each.title for each in depth.windows] == ["lookup table 1", "bone", "window 1"]
    assert [each.curve is None for each in depth.windows] == [False, False, True]
    np.testing.assert_array_equal(values_of(depth), values)
    first, second = (table[NOISE * 2].astype(float) for table in (curved, step))
    by_hand = [
        (first - first.min()) / np.ptp(first) * 255,
        np.where(second > 10, 255.0, 0.0),
        np.clip((values - 2999.5) / 1999 + 0.5, 0, 1) * 255,
    ]
    for number, grey in enumerate(by_hand):
        turned = 255 - grey if photometric == "MONOCHROME1" else grey
        assert np.abs(shown(depth, number) - turned).max() < 0.01
    assert np.abs(shown(depth) - found.pixels).max() <= 0.51
    assert "The file offers several windows: the network gets the first, and the others can be seen in the viewer." in (
        found.notes
    )


def test_a_modality_lookup_table_gives_the_values() -> None:
    entries = np.arange(4096)[::-1] // 3 + 7
    _, depth = depth_of(dicom(NOISE, ModalityLUTSequence=Sequence([lookup_table(0, entries)])))
    np.testing.assert_array_equal(values_of(depth), entries[NOISE])
    assert depth.unit == 1 and depth.windows[0].title == AS_GIVEN


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_apart_from_every_value(photometric: str) -> None:
    stored = NOISE.copy()
    stored[:5] = -2000
    file = dicom(stored, 16, True, PhotometricInterpretation=photometric, WindowCenter=2048, WindowWidth=4096)
    file.add_new("PixelPaddingValue", "SS", -2000)
    found, depth = depth_of(file)
    assert depth.padded and not depth.levels[:5].any() and depth.levels[5:].min() == 1
    assert depth.levels.max() == depth.brightest and not found.pixels[:5].any()
    np.testing.assert_array_equal(values_of(depth)[5:], stored[5:])
    assert np.abs(shown(depth) - found.pixels)[5:].max() <= 0.51


def test_windows_that_cannot_work_are_not_offered() -> None:
    file = dicom(NOISE, WindowCenter=[2048, 2048, 1e6, 1000], WindowWidth=[0, 0, 100, 500])
    found, depth = depth_of(file)
    assert [each.title for each in depth.windows] == [AS_GIVEN, "window 4"]
    assert "The file's window cannot be used." in found.notes
    low, high = np.percentile(NOISE, (0.5, 99.5), method="inverted_cdf")
    base = depth.windows[0]
    assert (depth.offset + depth.step * base.low, depth.offset + depth.step * base.high) == (low, high)
    alone = read_radiograph(written(dicom(NOISE, WindowCenter=[2048, 2048], WindowWidth=[4096, 0])))
    assert alone.depth is not None and len(alone.depth.windows) == 1
    assert not any("several windows" in note for note in alone.notes)


@pytest.mark.parametrize("intercept", [0, 1e9])
def test_a_window_of_width_1_is_a_step(intercept: float) -> None:
    file = dicom(NOISE, RescaleSlope=1, RescaleIntercept=intercept, WindowCenter=2048 + intercept, WindowWidth=1)
    found, depth = depth_of(file)
    np.testing.assert_array_equal(found.pixels, np.where(NOISE >= 2048, 255, 0))
    np.testing.assert_array_equal(shown(depth), found.pixels)


def test_a_file_with_thousands_of_windows_offers_a_few() -> None:
    file = dicom(NOISE, WindowCenter=list(range(1000, 3000)), WindowWidth=[500] * 2000)
    assert len(depth_of(file)[1].windows) == 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_pictures(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (48, 64)).astype(np.uint16)
    for stored in (values, values // 16, values // 16 + 9000):
        found, depth = depth_of(saved(Image.fromarray(stored), kind))
        np.testing.assert_array_equal(values_of(depth), stored)
        assert np.abs(shown(depth) - found.pixels).max() <= 0.51 and depth.windows[0].title == AS_GIVEN
    assert (depth.windows[0].centre, depth.windows[0].width) == (8191.5, 16383)


def test_numbers_that_are_no_words() -> None:
    whole = (NOISE.astype(np.int64) * 400_000 - 10**9).astype(np.int32)
    fractions = (NOISE / 7).astype(np.float32) - 100
    huge = (NOISE.astype(np.float32) - 2000) * np.float32(1.6e35)
    for values in (whole, fractions, huge):
        found, depth = depth_of(saved(Image.fromarray(values), "TIFF"))
        wide = float(values.max()) - float(values.min())
        assert np.abs(values_of(depth) - values).max() <= wide / 65535 * 0.51
        assert np.abs(shown(depth) - found.pixels).max() <= 0.51
    hole = fractions.copy()
    hole[0, 0] = np.nan
    assert np.isfinite(values_of(depth_of(saved(Image.fromarray(hole), "TIFF"))[1])).all()


def test_a_tiff_file_whose_zero_is_white_is_told_in_its_own_values() -> None:
    stored = np.random.default_rng(0).integers(0, 65536, (48, 64)).astype(np.uint16)
    stored[0, :2] = 0, 65535
    data = saved(Image.fromarray(stored), "TIFF", tiffinfo={262: 0})
    found, depth = depth_of(data)
    upright = read_radiograph(saved(Image.fromarray(65535 - stored), "TIFF"))
    np.testing.assert_array_equal(found.pixels, upright.pixels)
    assert found.pixels[0, 0] == 255 and found.pixels[0, 1] == 0
    np.testing.assert_array_equal(values_of(depth), stored)
    assert depth.step < 0 and (depth.windows[0].centre, depth.windows[0].width) == (32767.5, 65535)
    assert np.abs(shown(depth) - found.pixels).max() <= 0.51


def test_values_that_a_table_maps_to_one_are_not_told_twice() -> None:
    """Both of a pair of stored values become one; 128 values are as good in 8 bits as at any depth."""
    entries = np.arange(256) // 2 * 2
    file = dicom(NOISE // 16, 8, ModalityLUTSequence=Sequence([lookup_table(0, entries)]))
    file.WindowCenter, file.WindowWidth = 128, 256
    assert read_radiograph(written(file)).depth is None


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray((NOISE // 16).astype(np.uint8)), "PNG"),
        saved(Image.fromarray((NOISE // 16).astype(np.uint8)).convert("RGB"), "PNG"),
        saved(Image.fromarray((NOISE // 16 * 257).astype(np.uint16)), "PNG"),
        written(dicom(NOISE // 16, 8)),
        written(dicom(NOISE // 16, 8, WindowCenter=128, WindowWidth=256)),
        written(dicom(square())),
        written(dicom(NOISE // 16, 12, WindowCenter=127.5, WindowWidth=255, VOILUTFunction="LINEAR_EXACT")),
    ],
)
def test_where_8_bits_show_all_there_is_nothing_more(data: bytes) -> None:
    assert read_radiograph(data).depth is None


def test_8_bits_that_a_window_cuts_are_there() -> None:
    stored = NOISE // 16
    found, depth = depth_of(dicom(stored, 8, WindowCenter=60, WindowWidth=41))
    assert len(np.unique(found.pixels)) <= 42
    np.testing.assert_array_equal(values_of(depth), stored)


def test_a_large_picture_is_kept_as_means_of_its_values() -> None:
    height, width = 1700, 2 * DEPTH_SIDE_PX
    stored = np.random.default_rng(1).integers(0, 4096, (height, width))
    _, depth = depth_of(dicom(stored, WindowCenter=2048, WindowWidth=4096))
    assert depth.levels.shape == (850, DEPTH_SIDE_PX) and depth.levels.nbytes <= 2 * DEPTH_SIDE_PX**2
    means = stored.reshape(850, 2, DEPTH_SIDE_PX, 2).mean((1, 3))
    assert np.abs(values_of(depth) - means).max() <= 0.51 * abs(depth.step)
    deep = np.random.default_rng(2).integers(0, 65536, (3000, 1111)).astype(np.uint16)
    at_once = cv2.resize(deep.astype(np.float32), (569, 1536), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced(lambda rows: deep[rows], 3000, 1111) - at_once).max() <= 0.52


def test_of_an_explanation_only_known_words_are_told() -> None:
    file = dicom(NOISE, WindowCenter=[2000, 2100, 2200], WindowWidth=[4000, 500, 900])
    file.WindowCenterWidthExplanation = ["normal ", f"{SECRET}^Anna", f"LUNG {SECRET}"]
    table = lookup_table(0, np.arange(4096) ** 2 >> 8)
    table.LUTExplanation = f"{SECRET} 19010203"
    file.VOILUTSequence = Sequence([table])
    found, depth = depth_of(file)
    assert [each.title for each in depth.windows] == ["lookup table 1", "normal", "window 2", "window 3"]
    sent = _viewer._data([Panel("a", "b", found.pixels, depth=depth)], np.ones(NOISE.shape, bool), found)
    assert SECRET not in json.dumps(sent) + repr(found) + str(found.notes)
    assert all(title == title.upper() and SECRET not in title for title in TITLES)
    one = dicom(NOISE, WindowCenter=2000, WindowWidth=900, WindowCenterWidthExplanation="HARDER")
    assert depth_of(one)[1].windows[0].title == "harder"


def test_depth_belongs_to_its_file_and_stays_as_it_is() -> None:
    found, depth = depth_of(dicom(NOISE, WindowCenter=2048, WindowWidth=4096, VOILUTFunction="SIGMOID"))
    assert replace(found, notes=("Seen.",)).depth is depth
    assert replace(found, pixels=255 - found.pixels, sha256="0" * 64).depth is None
    assert depth.windows[0].curve is not None
    for array in (depth.levels, depth.windows[0].curve):
        with pytest.raises(ValueError, match="read-only"):
            array.flat[0] = 1
    with pytest.raises(SettingsError):
        replace(depth, levels=depth.levels.astype(np.uint8))
    with pytest.raises(SettingsError):
        replace(depth, levels=np.zeros((2, DEPTH_SIDE_PX + 1), np.uint16))
    with pytest.raises(SettingsError):
        Window("", curve=np.zeros(256, np.uint16))


def test_a_session_counts_depth_as_part_of_the_radiograph() -> None:
    found, depth = depth_of(dicom(NOISE, WindowCenter=2048, WindowWidth=4096, VOILUTFunction="SIGMOID"))
    held = _session._arrays([{"upload": found}])
    assert {id(depth.levels), id(depth.windows[0].curve), id(found.pixels)} <= set(held)


# ----------------------------------------------------------------------------------------------- what the viewer sends


def words(source: str) -> np.ndarray:
    """The levels of a picture with the high bytes above the low ones."""
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    high, low = np.split(cv2.imdecode(data, cv2.IMREAD_UNCHANGED).astype(int), 2)
    return high * 256 + low


def sent_of(found: Radiograph, lungs: np.ndarray | None = None) -> dict[str, Any]:
    mask = np.zeros(found.pixels.shape, bool) if lungs is None else lungs
    panels = [
        Panel("Radiograph", "whole", found.pixels, depth=found.depth),
        Panel("As the model sees it", "small", np.ascontiguousarray(found.pixels[::2, ::2])),
        Panel("Grad-CAM", "map", found.pixels, np.eye(4, dtype=np.float32), depth=found.depth),
    ]
    return _viewer._data(panels, mask, found)


def test_levels_are_sent_once_without_loss() -> None:
    found, depth = depth_of(dicom(NOISE, WindowCenter=2048, WindowWidth=4096))
    sent = sent_of(found)
    assert [(entry["picture"], entry["deep"]) for entry in sent["panels"]] == [(0, True), (1, False), (0, True)]
    np.testing.assert_array_equal(words(sent["pictures"][0]), depth.levels)
    assert len(sent["pictures"]) == 2 and (sent["depth"]["offset"], sent["depth"]["step"]) == (depth.offset, depth.step)
    flat = sent_of(replace(found, depth=None))
    assert flat["depth"] is None and not any(entry["deep"] for entry in flat["panels"])
    assert flat["subject"] != sent["subject"]  # two files may look the same in 8 bits
    assert [each["view"]["curve"] for each in flat["windows"]] == [0] * 3


def test_only_one_radiograph_is_shown_at_its_depth() -> None:
    (one, _), (other, _) = (depth_of(dicom(values, WindowCenter=2048, WindowWidth=4096)) for values in (NOISE, NOISE.T))
    panels = [Panel(str(n), "", each.pixels, depth=each.depth) for n, each in enumerate((one, other))]
    sent = _viewer._data(panels, np.zeros(NOISE.shape, bool), one)
    assert [entry["deep"] for entry in sent["panels"]] == [True, False]


def test_windows_of_the_file_come_first_in_units_of_the_file() -> None:
    stored = np.minimum(NOISE, 4000)
    stored[0, :2] = 0, 4095
    lungs = np.zeros(NOISE.shape, bool)
    lungs[10:30, 10:50] = True
    found, _ = depth_of(dicom(stored, WindowCenter=[2048, 1024.5], WindowWidth=[4096, 201]))
    sent = sent_of(found, lungs)
    assert [(each["name"], each["title"]) for each in sent["windows"]] == [
        ("file-0", "window 1: C 2048 W 4096 (the network's)"),
        ("file-1", "window 2: C 1024.5 W 201"),
        *((name, _viewer.WINDOWS[name]) for name in ("full", "lungs", "bone", "auto")),
    ]
    view = {each["name"]: each["view"] for each in sent["windows"]}
    assert view["file-0"] == {"level": 127.5, "width": 255, "curve": 0}
    # of the first window, 0 is black and 4095 white; of the second, 924 and 1124
    assert view["file-1"] == pytest.approx({"level": 1024 / 4095 * 255, "width": 200 / 4095 * 255, "curve": 0})
    assert view["full"] == pytest.approx({"level": 127.5, "width": 255, "curve": 0})
    low, high = np.percentile(stored[lungs], (1, 99)) / 4095 * 255
    assert view["lungs"] == pytest.approx({"level": (low + high) / 2, "width": high - low, "curve": 0})
    assert len(sent["depth"]["curves"]) == 1


def test_what_is_no_straight_line_is_sent_as_a_table() -> None:
    table = lookup_table(0, np.arange(4096) ** 2 >> 8)
    file = dicom(NOISE, VOILUTSequence=Sequence([table]), WindowCenter=1000, WindowWidth=501)
    found, depth = depth_of(file)
    sent = sent_of(found)
    curves = sent["depth"]["curves"]
    np.testing.assert_array_equal(words(curves[0]["picture"]).ravel(), depth.windows[0].curve)
    view = {each["name"]: each["view"] for each in sent["windows"]}
    assert [view[name]["curve"] for name in ("file-0", "file-1")] == [0, 1]
    assert {view[name]["level"] for name in view} == {127.5}
    with_lungs = {each["name"]: each["view"] for each in sent_of(found, np.ones(NOISE.shape, bool))["windows"]}
    assert list(with_lungs) == ["file-0", "file-1", *_viewer.WINDOWS] and {**with_lungs, **view} == with_lungs
    straight = curves[view["file-1"]["curve"]]
    assert straight["picture"] is None
    ends = [depth.offset + depth.step * straight[end] for end in ("low", "high")]
    assert ends == pytest.approx([749.5, 1249.5])


@pytest.mark.parametrize(
    ("slope", "told"),
    [(1, "C 1000 W 500"), (0.5, "C 1000 W 500.5"), (0.0244, "C 999.96 W 500.46"), (10, "C 1000 W 500")],
)
def test_units_are_told_as_finely_as_the_file_has_them(slope: float, told: str) -> None:
    centre, width = (999.96, 500.46) if slope < 0.1 else (1000, 500.5 if slope < 1 else 500)
    found, _ = depth_of(dicom(NOISE, RescaleSlope=slope, RescaleIntercept=800, WindowCenter=centre, WindowWidth=width))
    title = sent_of(found)["windows"][0]["title"]
    assert title == f"window 1: {told}"


@pytest.mark.parametrize(
    ("unit", "last", "value", "told"),
    [
        (1.0, 4095, 8191.5, "8191.5"),  # half of the full range of a 14-bit PNG file
        (1.0, 4095, 16383.0, "16383"),
        (0.5, 4095, 0.25, "0.25"),
        (1.0, 4095, -0.25, "-0.3"),  # away from 0
        (1.0, 4095, -0.01, "0"),
        (1.0, 4 * 10**9, 1000002048.5, "1000002048.5"),
        (2e-12, 4095, 3.1416e-9, "3.1416e-9"),
        (2e-12, 4095, 8.19e-9, "8.19e-9"),
        (2e-12, 4095, 0.0, "0"),
        (1e-20, 65535, -6.5535e-16, "-6.5535e-16"),
        (1e28, 4095, 4.0954e31, "4.0954e+31"),
    ],
)
def test_numbers_of_any_size_are_told(unit: float, last: int, value: float, told: str) -> None:
    depth = Depth(np.eye(2, dtype=np.uint16), 0.0, unit, unit, last, False, (Window("a"),), "0" * 64)
    assert _viewer._in_units(depth, value) == told


def test_a_picture_of_tiny_floats_has_values_that_differ() -> None:
    stored = NOISE.copy()
    stored[0, :2] = 0, 4095
    found, _ = depth_of(saved(Image.fromarray((stored * 1e-30).astype(np.float32)), "TIFF"))
    sent = sent_of(found)
    assert sent["depth"]["digits"] == 5
    assert sent["windows"][0]["title"].endswith(": C 2.0475e-27 W 4.095e-27")


# ------------------------------------------------------------------------------------------------------------ windows


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]), st.integers(1, 700))
def test_percentiles_are_those_of_numpy(seed: int, kind: type, height: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, np.iinfo(kind).max + 1, (height, 7)).astype(kind)
    lungs, image = rng.random((2, height, 7)) < 0.6
    lungs[0, 0] = image[0, 0] = True
    found = overlay.windows(pixels, lungs, image)
    narrowest = overlay.NARROWEST_WINDOW if kind is np.uint8 else overlay.NARROWEST_WINDOW_16
    for name, values, shares in (
        ("lungs", pixels[lungs & image], (1, 99)), ("bone", pixels[image], (50, 99.5)), ("auto", pixels[image], (1, 99)),
    ):  # fmt: skip
        low, high = np.percentile(values, shares)
        assert found[name] == pytest.approx(((low + high) / 2, max(narrowest, high - low)))


def test_windows_of_a_picture_that_is_none() -> None:
    pixels = np.zeros((4, 4), np.uint16)
    with pytest.raises(SettingsError):
        overlay.windows(pixels, np.zeros((4, 4), bool), np.zeros((4, 4), bool))
    assert overlay.windows(pixels, np.zeros((4, 4), bool))["full"] == (32767.5, 65535)
