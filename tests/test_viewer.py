"""What the viewer sends to a browser: sides and spacing as the file tells them, every picture once, no patient."""

from __future__ import annotations

import base64
import io
import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from streamlit.testing.v1 import AppTest

from cxnet.analysis import Analysis, Models
from cxnet.explain import Explanation
from cxnet.lungs import Crop
from cxnet.radiograph import Depth, Radiograph, Window, read_radiograph
from pages import _panels, _viewer
from pages._viewer import KEYS, WHOLE, Panel, key_name

PATIENT = "ZZTESTPHI"

#: OHIF Viewer, platform/core/src/defaults/hotkeyBindings.ts as of commit 00f012e, in the browser's names of keys.
OHIF = {
    "zoom-in": "+",
    "zoom-out": "-",
    "fit": "=",
    "rotate-right": "r",
    "rotate-left": "l",
    "flip-horizontal": "h",
    "flip-vertical": "v",
    "invert": "i",
    "reset": " ",
    "window-full": "1",
    "window-lungs": "2",
    "window-bone": "3",
    "window-auto": "4",
    "cancel": "Escape",
}


def dicom(pixels: np.ndarray, **tags: Any) -> bytes:
    """A radiograph as a DICOM file that names a patient."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = f"{PATIENT}^A", PATIENT, "19010203"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def ramp(height: int = 100, width: int = 120) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, written ``#rrggbb`` or ``rgb(r, g, b)`` (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        if colour.startswith("#"):
            levels = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        else:
            levels = [int(level) for level in re.findall(r"[0-9]+", colour)]
        assert len(levels) == 3, f"{colour} is no opaque colour"
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in np.array(levels) / 255)
        return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def decoded(source: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    ("orientation", "edge"),
    [
        (["L", "F"], "right"),  # as a radiograph hangs
        (["R", "F"], "left"),  # mirrored
        (["LP", "FA"], "right"),  # oblique; the first letter leads
        (["F", "L"], "bottom"),  # stored on its side
        (["H", "R"], "top"),
        (["L", "R"], None),  # a contradiction
        (["LEFT", "F"], None),  # no code
        (None, None),
    ],
)
def test_the_side_of_the_patient(orientation: list[str] | None, edge: str | None) -> None:
    tags = {"ImageLaterality": "R"} if orientation is None else {"PatientOrientation": orientation}
    assert read_radiograph(dicom(ramp(), **tags)).patient_left == edge
    # a file that says it was taken from the side is refused before anybody asks
    assert Radiograph(ramp(), "0" * 64, "DICOM", {"PatientOrientation": r"A\F"}).patient_left is None


@pytest.mark.parametrize(
    ("tags", "spacing", "at_detector"),
    [
        ({}, None, False),
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3), False),
        ({"ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3), True),
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": ["0.200", "0.30"]}, (0.2, 0.3), True),
        ({"PixelSpacing": [0.18, 0.27], "ImagerPixelSpacing": [0.2, 0.3]}, (0.18, 0.27), False),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3), True),
    ],
)
def test_where_the_spacing_holds(tags: dict[str, Any], spacing: tuple[float, float] | None, at_detector: bool) -> None:
    found = read_radiograph(dicom(ramp(), **tags))
    assert found.pixel_spacing_mm == spacing and found.spacing_at_detector is at_detector
    sent = _viewer._data([Panel("a", "b", found.pixels)], np.zeros((100, 120), bool), found)["spacing"]
    assert sent is None if spacing is None else sent["mm"] == list(spacing[::-1]) and sent["detector"] is at_detector


def test_keys_are_unique_and_ohif_s_are_ohif_s() -> None:
    keys = [key for entry in KEYS for key in entry.keys]
    assert len(set(keys)) == len(keys) and len({entry.action for entry in KEYS}) == len(KEYS)
    assert {entry.action: entry.keys[0] for entry in KEYS if entry.ohif} == OHIF
    assert key_name(" ") == "Space" and key_name("r") == "r"


def test_the_browser_knows_every_action() -> None:
    script = _viewer._JS
    table = script[script.index("const actions = {") : script.index('box.addEventListener("keydown"')]
    known = set(re.findall(r'^    "?([a-z-]+)"?: \(\) =>', table, re.MULTILINE))
    assert known == {entry.action for entry in KEYS}
    page = (Path(_viewer.__file__).parent / "viewer.html").read_text("utf-8")
    assert set(re.findall(r'data-action="([a-z-]+)"', page)) <= known
    assert "http" not in script + page and "innerHTML" not in script


def test_a_picture_is_sent_once_and_nothing_of_the_patient() -> None:
    found = read_radiograph(dicom(ramp(), PatientOrientation=["L", "F"], PixelSpacing=[0.5, 0.5]))
    heatmap = np.array([[0, 1], [2, 4]], np.float32)
    panels = [
        Panel("Radiograph", "as it is", found.pixels),
        Panel("Grad-CAM", "a map", found.pixels, heatmap),
        Panel("LIME", "a map", found.pixels, heatmap - 2, signed=True, reference=4.0),
    ]
    data = _viewer._data(panels, np.ones((100, 120), bool), found)
    assert [entry["picture"] for entry in data["panels"]] == [0, 0, 0]
    np.testing.assert_array_equal(decoded(data["pictures"][0]), found.pixels)
    assert decoded(data["panels"][1]["map"]).tolist() == [[0, 64], [128, 255]]
    assert decoded(data["panels"][2]["map"]).tolist() == [[64, 96], [128, 192]]
    assert [line["share"] for line in data["panels"][1]["contours"]] == [0.25, 0.5, 0.75]
    assert data["radiograph"] is None  # no box may be drawn unless it is asked for
    assert _viewer._data(panels, np.ones((100, 120), bool), found, boxes=True)["radiograph"] == found.sha256
    assert "contours" not in data["panels"][2] and data["patientLeft"] == "right"
    text = json.dumps(data)
    assert PATIENT not in text and "19010203" not in text
    other = _viewer._data(
        [Panel("a", "b", np.ascontiguousarray(found.pixels[:, ::-1]))], np.ones((100, 120), bool), None
    )
    assert other["subject"] != data["subject"] and other["radiograph"] is None and other["patientLeft"] is None


def test_contours_lie_where_the_map_has_the_share() -> None:
    heatmap = np.tile(np.linspace(0, 2, 101, dtype=np.float32), (50, 1))
    for entry in _viewer._contours(heatmap):
        (line,) = entry["lines"]
        # the centre of pixel k is at (k + 0.5) / 101
        np.testing.assert_allclose(line[::2], (100 * entry["share"] + 0.5) / 101, atol=1e-4)


def test_important_superpixels_get_their_sign_inside() -> None:
    segments = np.zeros((40, 60), np.int32)
    segments[:, 20:40], segments[:, 40:] = 1, 2
    sent = _viewer._superpixels(segments, np.array([4.0, -2.0, 0.5]))
    assert sent["size"] == [60, 40] and sent["borders"] == [20, 0, 20, 40, 40, 0, 40, 40]
    assert [(segments[row, column], sign) for column, row, sign in sent["signs"]] == [(0, 1), (1, -1)]
    assert _viewer._superpixels(segments, np.zeros(3))["signs"] == []


def test_maps_of_a_network_that_sees_a_part_stay_in_that_part() -> None:
    radiograph = Radiograph(ramp(), "0" * 64, "synthetic")
    explanations = {
        "grad-cam": Explanation("grad-cam", "Normal", np.ones((8, 8), np.float32)),
        "lime": Explanation(
            "lime", "Normal", np.ones((8, 8), np.float32), segments=np.zeros((8, 8), np.int32), weights=np.ones(1)
        ),
    }
    score = SimpleNamespace(name="in-lung energy", value=0.5, reason=None)
    analysis = SimpleNamespace(
        radiograph=radiograph, stack=np.zeros((8, 8, 1), np.uint8), crop=Crop(10, 60, 30, 90), explanations=explanations,
        card=SimpleNamespace(channels=("original",)), scores={"grad-cam": (score,), "lime": (score,)}, target="Normal",
        prediction=SimpleNamespace(features=np.ones((2, 2, 3), np.float32)),
    )  # fmt: skip
    head = SimpleNamespace()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_panels, "grad_cam", lambda *_: np.ones((1, 2, 2), np.float32))
        models = SimpleNamespace(classifier=SimpleNamespace(head=head))
        whole, seen, cam, lime = _panels.panels(cast(Analysis, analysis), cast(Models, models), "original", False)
        analysis.radiograph = Radiograph(ramp(), "0" * 64, "DICOM", {"ViewPosition": "AP"})
        told = _panels.panels(cast(Analysis, analysis), cast(Models, models), "original", False)[0]
        deep = Depth(np.eye(4, dtype=np.uint16), 0, 1, 1, 1, False, (Window("window 1"),), "0" * 64)
        analysis.radiograph = Radiograph(ramp(), "0" * 64, "DICOM", depth=deep)
        depths = [
            panel.depth for panel in _panels.panels(cast(Analysis, analysis), cast(Models, models), "original", False)
        ]
    # what the network sees stays as it gets it
    assert depths == [deep, None, deep, deep]
    assert whole.badge == "" and told.badge == "view AP, as the file says" and "view AP" in told.description
    part = (0.25, 0.1, 0.75, 0.6)
    assert whole.frame == WHOLE and seen.frame == part and cam.heatmap_frame == lime.heatmap_frame == part
    assert cam.frame == WHOLE and lime.segments is not None and "cut to the lungs" in seen.description


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "#ffffff") == pytest.approx(4.48, abs=0.005)  # known to fail by a hair
    assert contrast("#93a7ad", "#f8fafb") < 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_charts_stand_out_from_the_page(theme: str) -> None:
    config = tomllib.loads((Path(_viewer.__file__).parents[1] / ".streamlit" / "config.toml").read_text("utf-8"))
    colours, palette = config["theme"][theme], _panels.THEMES[theme]
    for ground in (colours["backgroundColor"], colours["secondaryBackgroundColor"]):
        assert min(contrast(palette.accent, ground), contrast(palette.quiet, ground)) >= 3
        assert min(contrast(palette.ink, ground), contrast(colours["textColor"], ground)) >= 4.5
        assert contrast(colours["primaryColor"], ground) >= 4.5  # it is text of links too
    assert contrast(palette.accent, palette.quiet) >= 1.5


def test_a_large_radiograph_is_sent_reduced_to_means() -> None:
    side = 2 * _viewer.LONGEST_SIDE_PX
    pixels = np.zeros((side // 2, side), np.uint8)
    pixels[::2] = 200
    data = _viewer._data([Panel("a", "b", pixels)], np.zeros(pixels.shape, bool), Radiograph(pixels, "0" * 64, "PNG"))
    picture = decoded(data["pictures"][0])
    assert picture.shape == (side // 4, side // 2) and (picture == 100).all()
    assert data["size"] == [side, side // 2] and data["fromFile"] is True
    assert _viewer._data([Panel("a", "b", pixels)], np.zeros(pixels.shape, bool), None)["fromFile"] is False


def _curve() -> None:
    from pages import _published_panels

    _published_panels._curve(0.1, 0.9, 0.8, 1 / 3)


def test_the_curve_of_precision_has_a_table() -> None:
    at = AppTest.from_function(_curve).run()
    assert not at.exception
    found = dict(at.table[0].value.itertuples(index=False))
    assert found["10 % (chosen)"] == "33.3 %"  # 0.09 of 0.09 + 0.18
    assert found["50 %"] == "81.8 %"  # 0.45 of 0.45 + 0.10


def test_sensitivities_have_a_table() -> None:
    at = AppTest.from_file(str(Path(_viewer.__file__).parents[1] / "app.py"), default_timeout=60).run()
    assert not at.exception
    table = at.table[0].value
    assert (table["Sensitivity"].astype(float) - table["Found"] / table["Radiographs"]).abs().max() <= 0.0005
