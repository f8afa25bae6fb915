"""The page Teach: planted shortcuts, reading first, and tales with their sources."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from cxnet.errors import SettingsError
from cxnet.phantom import make_phantom
from cxnet.radiograph import Radiograph
from pages import _cheats, _lessons, _session
from pages._lessons import FINDINGS, PLANTS, TALES, Answered, finding_of, plant, planted, synthetic_reading, tally

APP = str(Path(__file__).parents[1] / "app.py")
#: Rows and columns, as shares of each side, outside of which a shortcut changes nothing.
PLACES = {
    "tag": (slice(0.0, 0.2), slice(0.0, 0.45)),
    "polygon": (slice(0.65, 1.0), slice(0.67, 1.0)),
}


@given(st.sampled_from(list(PLANTS)), st.integers(40, 90), st.integers(40, 90), st.integers(0, 255), st.floats(0, 1))
def test_plants_in_any_shape(kind: Any, height: int, width: int, level: int, strength: float) -> None:
    pixels = np.full((height, width), level, np.uint8)
    pixels.setflags(write=False)
    found = plant(pixels, kind, strength)
    assert found.shape == pixels.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(plant(pixels, kind, 0.0), pixels)
    whole = np.abs(plant(pixels, kind).astype(int) - pixels)
    part = np.abs(found.astype(int) - pixels)
    assert (part <= whole).all()
    np.testing.assert_allclose(part, strength * whole, atol=0.5)


@pytest.mark.parametrize("kind", PLANTS)
def test_a_plant_stays_in_its_place(kind: Any) -> None:
    pixels = np.full((300, 400), 100, np.uint8)
    changed = plant(pixels, kind) != pixels
    assert changed.any()
    if kind in PLACES:
        rows, columns = (
            slice(int(s.start * side), int(s.stop * side)) for s, side in zip(PLACES[kind], changed.shape, strict=True)
        )
        assert changed[rows, columns].sum() == changed.sum()
    if kind == "border":
        assert not changed[8:-8, 8:-8].any()
        assert changed[0].all() and changed[:, -1].all()
    if kind == "contrast":
        assert changed.all()


def test_known_levels() -> None:
    pixels = np.full((64, 64), 100, np.uint8)
    assert plant(pixels, "border")[0, 0] == 245
    assert plant(pixels, "border", 0.5)[0, 0] == 172  # 100 + 0.5 * 145, to even
    assert plant(pixels, "polygon")[-1, -1] == 6


@pytest.mark.parametrize(("kind", "strength"), [("smile", 1.0), ("tag", 1.1), ("tag", -0.1)])
def test_nonsense_is_refused(kind: Any, strength: float) -> None:
    with pytest.raises(SettingsError):
        plant(np.zeros((64, 64), np.uint8), kind, strength)


def test_a_planted_radiograph_is_another_one() -> None:
    radiograph = Radiograph(make_phantom(1, 128).pixels, "0" * 64, "synthetic")
    found = planted(radiograph, "tag", 1.0)
    assert found.sha256 != radiograph.sha256
    assert not found.pixels.flags.writeable
    assert planted(radiograph, "tag", 1.0).sha256 == found.sha256


def test_readings_are_the_same_for_everyone_and_of_all_findings() -> None:
    first, again = synthetic_reading(3), synthetic_reading(3)
    assert first.radiograph.sha256 == again.radiograph.sha256
    assert FINDINGS[finding_of(3)] in first.truth
    assert {finding_of(number) for number in range(9)} == set(FINDINGS)


def test_tally() -> None:
    answers = [
        Answered(1, "Normal", "certain", "Normal", "Normal"),
        Answered(2, "Normal", "unsure", "Pneumonia", "Pneumonia"),
        Answered(3, "Normal", "a guess", "Pneumonia", None),
    ]
    assert "**1 of 3**" in tally(answers)
    assert "Of 2 with a known class you named **1** and the network **2**" in tally(answers)
    assert "known class" not in tally(answers[2:])


def test_tales_have_sources() -> None:
    assert len({tale.doi for tale in TALES}) == len(TALES) == 8
    for tale in TALES:
        assert re.fullmatch(r"10\.\d{4,}/\S+", tale.doi)
        assert re.search(r"\b20(18|19|20|21)\b", tale.citation)
        assert 2 <= len(re.findall(r"[.?!](?:\s|$)", tale.text)) <= 5


def open_page(**query: str) -> AppTest:
    at = AppTest.from_file(APP, default_timeout=120)
    for key, value in query.items():
        at.query_params[key] = value
    at.switch_page("pages/teach.py").run()
    assert not at.exception
    return at


def test_a_link_plants_and_the_figures_are_the_networks() -> None:
    at = open_page(plant="polygon", strength="50", sample="ground-glass")
    assert at.selectbox(key="set-teach-plant").value == "polygon"
    assert at.select_slider(key="set-teach-strength").value == 50
    pixels = _session.SAMPLES_BY_NAME["ground-glass"].make(_session.SAMPLE_SIZE_PX).pixels
    classifier = _session.models("covid-cxnet").classifier
    table = at.table[0].value
    for column, picture in (("Before", pixels), ("After", plant(pixels, "polygon", 0.5))):
        direct = classifier.predict(classifier.prepare(picture)).probabilities
        assert [float(p) for p in table[column]] == pytest.approx(direct.tolist(), abs=6e-4)
    at.select_slider(key="set-teach-strength").set_value(0).run()
    assert not at.exception
    assert list(at.table[0].value["After"]) == list(at.table[0].value["Before"])
    assert at.query_params["strength"] == "0"


def test_no_framework_for_training_is_loaded() -> None:
    code = "import sys, pages._lessons, pages._whatif; print('tensorflow' in sys.modules)"
    root = Path(APP).parent
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout.strip() == "False"


def test_a_hostile_link_is_ignored() -> None:
    at = open_page(plant="<script>", strength="1e9", sample="../x")
    assert at.selectbox(key="set-teach-plant").value == "tag"
    assert at.select_slider(key="set-teach-strength").value == 100


def test_nothing_is_told_before_the_reader_commits() -> None:
    at = AppTest.from_file(APP, default_timeout=120)
    at.session_state["teach-tab"] = "Read first"
    at.switch_page("pages/teach.py").run()
    assert not at.exception
    assert at.button(key="commit").disabled
    assert "analyses" not in at.session_state or not at.session_state["analyses"]
    classes = at.radio(key="reading-answer").options
    at.radio(key="reading-answer").set_value(classes[1]).run()
    assert "analyses" not in at.session_state or not at.session_state["analyses"]
    shown = " ".join(m.value for m in at.markdown)
    assert "The network says" not in shown
    assert _lessons.synthetic_reading(0).truth not in shown
    at.button(key="commit").click().run()
    assert not at.exception
    shown = " ".join(m.value for m in at.markdown)
    assert f"You said **{classes[1]}** (a guess). The network says **" in shown
    assert _lessons.synthetic_reading(0).truth in shown
    (only,) = at.session_state["readings"].values()
    assert (f"agreed on **{int(only.agreed)} of 1**") in shown
    at.button(key="next").click().run()
    assert not at.exception
    assert any("Reading 2" in m.value for m in at.markdown)
    assert at.button(key="commit").disabled
    assert "The network says" not in " ".join(m.value for m in at.markdown)


# ---------------------------------------------------------------------------------------------------- a known cheat


def test_the_known_cheat_follows_its_shortcut_and_the_clean_one_does_not() -> None:
    normal = _cheats.PICTURES[3]
    for kind in ("tag", "contrast"):
        cheat, clean = (
            [_cheats.look(who, there, normal).probability for there in ("clean", kind)] for who in (kind, "clean")
        )
        assert cheat[0] < 0.3 and cheat[1] > 0.5 and max(clean) < 0.5, kind
    assert _cheats.look("tag", "tag", normal).verdict == "wrong reason"


def test_the_page_shows_a_known_cheat() -> None:
    at = AppTest.from_file(APP, default_timeout=120)
    at.session_state["teach-tab"] = "A known cheat"
    at.switch_page("pages/teach.py").run()
    assert not at.exception and not at.error
    at.selectbox(key="set-cheat-kind").set_value("stripes").run()
    assert not at.exception
    table = at.table[0].value
    assert table["Shortcut"].tolist() == ["without", "with it"] * 2
    looks = [
        _cheats.look(who, there, _cheats.PICTURES[3]) for who in ("stripes", "clean") for there in ("clean", "stripes")
    ]
    assert table["Probability of disease"].tolist() == [f"{one.probability:.3f}" for one in looks]
    assert table["Answer"].tolist() == ["normal", "disease", "normal", "normal"]
    assert table["The audit's verdict on it"].tolist() == [one.verdict for one in looks]
    assert "wrong reason" in table["The audit's verdict on it"].tolist()
