"""One radiograph end to end: library and command line agree, repeat exactly and survive bad files."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxnet.__main__ import main
from cxnet.analysis import Models, Settings, analyse, analyse_steps, dumps, load_models, panels, to_json, to_original
from cxnet.enhance import Enhancement
from cxnet.errors import SettingsError
from cxnet.explain.lime import LimeSettings
from cxnet.phantom import make_phantom
from cxnet.radiograph import Radiograph, read_radiograph
from tests.test_radiograph import dicom, written


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("radiographs") / "phantom.png"
    path.write_bytes(png(make_phantom(5, 400, "ground-glass").pixels))
    return path


@pytest.fixture(scope="module")
def radiograph(file: Path) -> Radiograph:
    return read_radiograph(file.read_bytes())


QUICK = Settings(methods=("grad-cam", "lime"), lime=LimeSettings(samples=96), superpixels=20)


def test_an_analysis_holds_everything_and_its_json_is_plain(radiograph: Radiograph, models: Models) -> None:
    analysis = analyse(radiograph, models, QUICK)
    content = json.loads(dumps(analysis))
    assert content == to_json(analysis)
    assert content["model"]["channels"] == ["original", "clahe", "beasf"] and len(content["model"]["sha256"]) == 64
    assert sum(content["prediction"]["probabilities"].values()) == pytest.approx(1)
    assert content["radiograph"]["sha256"] == radiograph.sha256
    names = {score["name"] for score in content["explanations"]["grad-cam"]["scores"]}
    assert any("energy" in name for name in names) and any("lift" in name for name in names)
    for method in ("grad-cam", "lime"):
        for score in content["explanations"][method]["scores"]:
            assert (score["value"] is None) == bool(score["reason"]), score
    assert content["explanations"]["lime"]["samples"] <= 96 and content["agreement"]


def test_the_same_seed_gives_the_same_text_with_partial_results_and_without(
    radiograph: Radiograph, models: Models
) -> None:
    first = dumps(analyse(radiograph, models, QUICK))
    *_, second = analyse_steps(radiograph, models, QUICK)
    assert first == dumps(second)
    assert dumps(analyse(radiograph, models, replace(QUICK, seed=1))) != first


def test_partial_results_grow_and_can_be_cancelled(radiograph: Radiograph, models: Models) -> None:
    cancel = threading.Event()
    settings = replace(QUICK, lime=LimeSettings(samples=1000, stop_when_stable=False))
    seen = []
    for analysis in analyse_steps(radiograph, models, settings, cancel):
        seen.append(analysis)
        if "lime" in analysis.explanations:
            cancel.set()
    assert "lime" not in seen[0].explanations and "grad-cam" in seen[0].explanations
    assert not seen[-1].complete and seen[-1].explanations["lime"].samples < 1000


def test_the_target_is_the_class_that_is_asked_for(radiograph: Radiograph, models: Models) -> None:
    for name in models.classifier.classes:
        analysis = analyse(radiograph, models, Settings(target=name))
        assert analysis.target == name == analysis.explanations["grad-cam"].target_class
    with pytest.raises(SettingsError, match="choose from"):
        analyse(radiograph, models, Settings(target="Asthma"))
    with pytest.raises(SettingsError, match="Unknown method"):
        Settings(methods=("tea leaves",))


def test_switches_reach_the_network(radiograph: Radiograph, models: Models) -> None:
    plain = analyse(radiograph, models, Settings())
    switched = analyse(radiograph, models, Settings(enhancement=Enhancement(equalization=True)))
    assert (plain.stack != switched.stack).any()
    assert (plain.prediction.logits != switched.prediction.logits).any()


def test_maps_and_panels_are_in_the_radiograph_s_frame(radiograph: Radiograph, models: Models) -> None:
    analysis = analyse(radiograph, models, Settings())
    assert to_original(analysis.explanations["grad-cam"].heatmap, analysis).shape == radiograph.pixels.shape
    spot = np.zeros((320, 320), np.float32)
    spot[80, 240] = 1
    where = np.unravel_index(to_original(spot, analysis).argmax(), radiograph.pixels.shape)
    assert abs(where[0] - 80 * 1.25) <= 2 and abs(where[1] - 240 * 1.25) <= 2
    for picture in panels(analysis).values():
        assert picture.dtype == np.uint8 and picture.shape[2] == 3


def test_the_command_line_gives_the_library_s_numbers(
    file: Path, radiograph: Radiograph, models: Models, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["analyse", str(file), "--methods", "grad-cam", "--out", str(out)]) == 0
    assert (out / "analysis.json").read_text("utf-8") == dumps(analyse(radiograph, models, Settings()))
    with np.load(out / "heatmaps.npz") as maps:
        expected = analyse(radiograph, models, Settings()).explanations["grad-cam"].heatmap
        np.testing.assert_array_equal(maps["grad-cam"], expected)
        assert maps["grad-cam"].dtype == np.float32
    assert {p.name for p in out.glob("*.png")} == {"radiograph.png", "as-the-model-sees-it.png", "grad-cam.png"}


def test_predict_gives_a_row_for_every_file(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(file.read_bytes()[:500])
    table = tmp_path / "new" / "table.csv"
    assert main(["predict", str(bad), str(file), str(tmp_path / "none.png"), "--csv", str(table)]) == 1
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [
        "file",
        "sha256",
        "probability_COVID-19",
        "probability_Normal",
        "probability_Pneumonia",
        "predicted_class",
        "error",
        "notes",
    ]
    assert [bool(row["error"]) for row in rows] == [True, False, True]
    assert rows[1]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert sum(float(rows[1][k]) for k in rows[1] if k.startswith("probability")) == pytest.approx(1, abs=1e-6)
    assert main(["predict", str(file), "--csv", str(table)]) == 0


def test_what_a_reader_of_a_picture_should_know_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    burned, empty = tmp_path / "burned.dcm", tmp_path / "empty.png"
    phantom = make_phantom(5, 400).pixels
    burned.write_bytes(written(dicom(phantom, bits=8, BurnedInAnnotation="YES")))
    empty.write_bytes(png(np.random.default_rng(0).integers(100, 130, (300, 300)).astype(np.uint8)))
    note, reason = "text is burned into the picture", "heck the mask of the lungs: no lung was found"
    for file, said in ((burned, note), (empty, reason)):
        assert main(["analyse", str(file), "--methods", "grad-cam", "--out", str(tmp_path / "out")]) == 0
        err = capsys.readouterr().err
        assert err.startswith(f"{file}: ") and said in err
    for model, told in (("covid-cxnet", ""), ("base-cnn-v2-lung-mask/fold-0", reason)):  # the first looks for no lungs
        table = tmp_path / "p.csv"
        assert main(["predict", str(burned), str(empty), "--model", model, "--csv", str(table)]) == 0
        with table.open() as stream:
            first, second = csv.DictReader(stream)
        assert list(first)[-1] == "notes" and note in first["notes"] and first["error"] == ""
        assert told in second["notes"] and bool(told) == bool(second["notes"])


def test_masks_of_one_name_are_refused_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lungs", "a.dcm", "a.png", "--out", "masks"]) == 2
    assert "in separate calls with another --out." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["analyse", "predict", "report", "audit"])
def test_help_says_which_networks_and_files_there_are(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal parts words at their hyphens
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "RUN/fold-K of a stored run" in told and "radiograph" in told.partition("options:")[0]


def test_lungs_writes_masks_in_the_original_s_size(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "text.png"
    bad.write_text("no picture")
    assert main(["lungs", str(file), str(bad), "--out", str(tmp_path / "masks")]) == 1
    mask = cv2.imread(str(tmp_path / "masks" / "phantom.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (400, 400) and set(np.unique(mask)) <= {0, 255} and mask.any()
    assert not (tmp_path / "masks" / "text.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["analyse"],
        ["analyse", "FILE", "--methods", "magic"],
        ["analyse", "FILE", "--target", "Asthma"],
        ["analyse", "FILE", "--model", "none"],
        ["analyse", "FILE", "--samples", "-3"],
        ["predict", "FILE"],
    ],
)
def test_wrong_use_exits_with_2(file: Path, tmp_path: Path, arguments: list[str], capsys) -> None:
    arguments = [str(file) if a == "FILE" else a for a in arguments]
    out = ["--out", str(tmp_path)] if arguments[:1] == ["analyse"] else []
    try:
        code = main(arguments + out)
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and capsys.readouterr().err


def test_a_bad_file_is_one_sentence_and_exit_code_1(tmp_path: Path, capsys) -> None:
    assert main(["analyse", str(tmp_path / "none.png"), "--out", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_analysis_without_tensorflow(file: Path, tmp_path: Path) -> None:
    """Grad-CAM must not import TensorFlow: that alone takes seconds."""
    code = (
        "import sys; from cxnet.__main__ import main; "
        f"assert main(['analyse', {str(file)!r}, '--methods', 'grad-cam', '--out', {str(tmp_path)!r}]) == 0; "
        "assert not {'tensorflow', 'keras', 'torch', 'lime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_output_that_nobody_reads_to_its_end_is_no_error() -> None:
    run = [sys.executable, "-m", "cxnet", "runs", "show", str(Path(__file__).parents[1] / "runs" / "covid-cxnet")]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1
