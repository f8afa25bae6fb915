"""Networks of stored folds: found by name, refused if changed, shown the part of the radiograph they were trained on."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from cxnet.__main__ import main
from cxnet.analysis import Settings, analyse, available_models, load_models, to_json, to_original
from cxnet.architectures import ARCHITECTURES, SCALING
from cxnet.classifier import Classifier
from cxnet.enhance import Enhancement
from cxnet.errors import WeightsError
from cxnet.explain.lime import LimeSettings
from cxnet.phantom import make_phantom
from cxnet.radiograph import Radiograph, open_radiograph
from cxnet.runs import find_run, sha256, write_run
from cxnet.verdict import audit
from cxnet.weights import card, keras_model, network_of, write_arrays

CLASSES = ("COVID-19", "Normal", "Pneumonia")
APP = str(Path(__file__).parents[1] / "app.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose networks are untrained, and a phantom beside them."""
    import keras

    root = tmp_path_factory.mktemp("runs")
    picture = root / "pictures" / "one.png"
    picture.parent.mkdir()
    cv2.imwrite(str(picture), make_phantom(5, 400, "consolidation").pixels)
    keras.utils.set_random_seed(4)
    row = ARCHITECTURES["base-cnn-v2"]
    model = row.build(input_size_px=row.input_size_px, outputs=3, activation=None)
    weights = root / "weights.npz"
    write_arrays(weights, {v.path: np.asarray(v) for v in model.weights})
    for region in ("full", "lung-mask", "lung-crop", "background"):
        info = {
            "title": f"Untrained, {region}", "architecture": "base-cnn-v2", "recipe": "none", "region": region,
            "channels": list(row.channels), "input_size_px": row.input_size_px, "classes": list(CLASSES),
            "enhancement": asdict(Enhancement(histogram_matching=True)), "dataset": {"cases": 5},
        }  # fmt: skip
        table = pd.DataFrame(
            {"case": [sha256(picture)], "file": ["one.png"], "true": ["Normal"], "predicted": ["Normal"]}
        )
        files = {"fold-2.npz": weights}
        write_run(
            root / f"untrained-{region}", info, {2: table}, {2: {"files": {"fold-2.npz": sha256(weights)}}}, files
        )
    table = pd.DataFrame({"case": ["a"], "true": ["Normal"], "predicted": ["Normal"]})
    write_run(root / "imported", {"classes": list(CLASSES)}, {0: table})
    return root


@pytest.fixture(autouse=True)
def there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXNET_RUNS", str(root))
    monkeypatch.setenv("CXNET_IMAGES", str(root / "pictures"))


def radiograph(root: Path) -> Radiograph:
    return open_radiograph(root / "pictures" / "one.png")


def test_a_fold_s_network_says_what_keras_says(root: Path) -> None:
    found = card("untrained-full/fold-2")
    assert (found.run, found.classes, found.region) == (("untrained-full", 2), CLASSES, "full")
    classifier = Classifier(found.name)
    stack = classifier.prepare(radiograph(root).pixels)
    mean, deviation = (np.array(values, np.float32) for values in SCALING[found.scaling])
    expected = np.asarray(keras_model(found)((stack[None].astype(np.float32) - mean) / deviation))
    np.testing.assert_allclose(classifier.logits(stack[None]), expected, atol=1e-4)
    matched = Enhancement(histogram_matching=True)
    np.testing.assert_array_equal(stack, classifier.prepare(radiograph(root).pixels, matched))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("untrained-full/fold-0", "came without the weights of its fold 0"),
        ("imported/fold-0", "came without the weights"),
        ("nobody/fold-0", "no run called"),
        ("../pictures/fold-0", "no run called"),
        ("untrained-full", "known are covid-cxnet, covid-cxnet-lung, and RUN/fold-K of a stored run"),
    ],
)
def test_networks_that_are_not_there(name: str, word: str) -> None:
    with pytest.raises(WeightsError, match=word):
        card(name)


@pytest.mark.parametrize("region", ["full", "lung-mask", "lung-crop", "background"])
def test_predict_says_what_analyse_says(root: Path, tmp_path: Path, region: str) -> None:
    name = f"untrained-{region}/fold-2"
    table = tmp_path / "p.csv"
    picture = root / "pictures" / "one.png"
    assert main(["predict", str(picture), "--model", name, "--csv", str(table)]) == 0
    row = pd.read_csv(table).iloc[0]
    analysis = analyse(radiograph(root), load_models(name), Settings(model=name))
    told = [row[f"probability_{cls}"] for cls in CLASSES]
    np.testing.assert_allclose(told, analysis.prediction.probabilities, atol=1e-6)


def test_a_run_of_an_unknown_architecture_costs_nothing_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "untrained-full", tmp_path / "newer")
    path = tmp_path / "newer" / "run.json"
    path.write_text(path.read_text().replace('"base-cnn-v2"', '"base-cnn-v9"'))
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    with pytest.raises(WeightsError, match="base-cnn-v9"):
        card("newer/fold-2")
    names = [known.name for known in available_models()]
    assert "covid-cxnet" in names and not any(name.startswith("newer") for name in names)


def test_changed_weights_are_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(root / "untrained-full", tmp_path / "changed")
    path = tmp_path / "changed" / "fold-2.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    with pytest.raises(WeightsError, match="checksum"):
        Classifier("changed/fold-2")


def test_one_network_a_run_is_offered(root: Path) -> None:
    names = [known.name for known in available_models()]
    assert names[0] == "covid-cxnet" and len(set(names)) == len(names)
    assert {"untrained-full/fold-2", "untrained-lung-crop/fold-2"} <= set(names)
    assert not any(name.startswith("imported") for name in names)


@pytest.mark.parametrize("region", ["lung-mask", "lung-crop", "background"])
def test_what_the_network_is_shown(root: Path, region: str) -> None:
    name = f"untrained-{region}/fold-2"
    analysis = analyse(radiograph(root), load_models(name), Settings(model=name))
    mask, crop = analysis.lungs.mask, analysis.crop
    assert mask.any()
    grey = analysis.stack[:, :, 0]
    inside = cv2.erode(analysis.model_lungs.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    outside = cv2.dilate(analysis.model_lungs.astype(np.uint8), np.ones((41, 41), np.uint8)) == 0
    shown = to_original(np.ones(grey.shape), analysis)
    if region == "lung-crop":
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert 0 < crop.top <= rows[0] and crop.bottom >= rows[-1] + 1
        assert crop.left <= columns[0] and crop.right >= columns[-1] + 1
        assert shown[: crop.top].max() == 0 and shown[crop.top : crop.bottom, crop.left : crop.right].min() == 1
        assert analysis.model_lungs.mean() > 1.3 * mask.mean()
    else:
        dark, light = (outside, inside) if region == "lung-mask" else (inside, outside)
        assert np.ptp(grey[dark]) == 0  # blackened, then moved by the histogram as one level
        assert np.ptp(grey[light]) > 50
        assert shown.min() == 1
    told = to_json(analysis)
    assert told["model"]["region"] == region
    assert told["shown"] == {"top": crop.top, "bottom": crop.bottom, "left": crop.left, "right": crop.right}
    assert told["settings"]["enhancement"]["histogram_matching"] is True


def test_a_link_opens_a_case_with_the_network_that_never_saw_it(root: Path) -> None:
    at = AppTest.from_file(APP, default_timeout=60)
    at.query_params["run"] = "untrained-full"
    at.query_params["case"] = sha256(root / "pictures" / "one.png")
    at.run()
    assert not at.exception and not at.error
    assert at.session_state["set-model"] == "untrained-full/fold-2"
    assert at.session_state["case"] == f"run:untrained-full:{sha256(root / 'pictures' / 'one.png')}"
    assert next(box for box in at.checkbox if box.label.startswith("Match histogram")).value is True
    assert at.query_params["run"] in ("untrained-full", ["untrained-full"])


def test_the_network_of_a_run_is_its_fold_s_or_the_one_that_was_evaluated() -> None:
    assert network_of(find_run("untrained-full"), 2).name == "untrained-full/fold-2"
    assert network_of(find_run("covid-cxnet"), 0).name == "covid-cxnet"
    with pytest.raises(WeightsError, match="came without"):
        network_of(find_run("imported"), 0)


@pytest.mark.parametrize(
    ("run", "case", "word"),
    [
        ("nobody", "0" * 64, "not here"),
        ("untrained-full", "0" * 64, "no such case"),
        ("imported", "a", "not at hand"),
        ("<script>", "'\x00", "not here"),
    ],
)
def test_a_link_that_cannot_be_followed_says_why(run: str, case: str, word: str) -> None:
    at = AppTest.from_file(APP, default_timeout=60)
    at.query_params["run"], at.query_params["case"] = run, case
    at.run()
    assert not at.exception
    assert len(at.error) == 1 and word in at.error[0].value
    assert "synthetic sample" in at.info[0].value
    assert at.query_params["case"] in (case, [case])  # once the folder is set, a reload is enough
    at.button(key="open-normal").click().run()
    assert not at.exception and not at.error
    assert "case" not in at.query_params


def test_a_network_that_sees_a_crop_is_audited_in_the_crop(root: Path) -> None:
    name = "untrained-lung-crop/fold-2"
    models = load_models(name)
    analysis = analyse(radiograph(root), models, Settings(model=name))
    found = audit(analysis, models)
    assert found.causal.base.predicted == int(np.argmax(analysis.prediction.logits))
    chosen = analysis.prediction.probabilities[CLASSES.index(analysis.target)]
    assert found.causal.base.probability == pytest.approx(chosen, abs=1e-4)
    assert found.verdict.region == "lung-crop" and "border" in found.verdict.asked
    # lungs-only hides all but the lungs' hull: in the crop that is less than in the whole picture
    assert found.causal.region("lungs-only").reason is None


def test_lime_edits_nothing_outside_the_lungs_of_a_network_that_sees_them_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "base-cnn-v2-lung-mask/fold-0"
    models = load_models(name)
    shown: list[np.ndarray] = []
    answer = models.classifier.logits

    def logits(pictures: np.ndarray) -> np.ndarray:
        shown.extend(pictures)
        return answer(pictures)

    monkeypatch.setattr(models.classifier, "logits", logits)
    radiograph = Radiograph(make_phantom(3, 256).pixels, "3" * 64, "synthetic")
    settings = Settings(model=name, methods=("grad-cam", "lime"), lime=LimeSettings(samples=40))
    found = analyse(radiograph, models, settings)
    outside = ~found.model_lungs
    assert len(shown) >= 30 and outside.any()
    assert all((picture[outside] == found.stack[outside]).all() for picture in shown)
    assert any((picture != found.stack).any() for picture in shown)  # and the lungs are edited
