"""Maps against drawings whose right figures are known by hand, and the stored figures of the shipped networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxnet.audit import dilate, lesion_scores, lesion_summary, moved_copies, read_lesions
from cxnet.audit.lesions import ALIKE, BLOB, COLUMNS, LUNGS, MOVED, NULLS, UNIFORM, in_words
from cxnet.errors import DatasetError, SettingsError
from cxnet.runs import find_run
from cxnet.weights import card, network_of

SIZE = 48


def drawings() -> tuple[np.ndarray, np.ndarray]:
    """Two lungs, and an opacity that fills the lower third of the left one."""
    lungs = np.zeros((SIZE, SIZE), bool)
    lungs[9:39, 6:20] = lungs[9:39, 28:42] = True
    opacity = np.zeros_like(lungs)
    opacity[29:39, 6:20] = True
    return lungs, opacity


def test_an_even_map_scores_its_nulls_exactly() -> None:
    lungs, opacity = drawings()
    energy, pointing = lesion_scores(np.full(lungs.shape, 7.0), lungs, opacity, cell_px=4)
    assert energy.value == pytest.approx(140 / SIZE**2) == energy.null[UNIFORM] == energy.null[MOVED]
    assert pointing.value is None and "same everywhere" in str(pointing.reason)
    energy, pointing = lesion_scores(lungs.astype(float), lungs, opacity, cell_px=4)
    assert energy.value == pytest.approx(140 / 840) == energy.null[LUNGS]
    # all pixels of the lungs are hottest and share the hit
    assert pointing.value == pytest.approx(dilate(opacity, 2)[lungs].mean()) == pointing.null[LUNGS]


def test_the_drawing_itself_has_everything_and_no_moved_copy_has() -> None:
    lungs, opacity = drawings()
    energy, pointing = lesion_scores(opacity.astype(float), lungs, opacity, cell_px=4)
    assert energy.value == 1 == pointing.value
    assert set(energy.null) == set(NULLS) == set(pointing.null)
    assert energy.null[MOVED] < 0.6 and pointing.null[MOVED] < 0.8


def test_a_map_in_the_healthy_lung_is_below_every_null_that_knows_lungs() -> None:
    lungs, opacity = drawings()
    heatmap = np.zeros(lungs.shape)
    heatmap[12:18, 31:39] = 1
    energy, pointing = lesion_scores(heatmap, lungs, opacity, cell_px=4)
    assert energy.value == 0 == pointing.value
    assert energy.null[MOVED] > 0.1 and pointing.null[MOVED] > 0.1


def test_moved_copies_are_those_found_one_by_one() -> None:
    rng = np.random.default_rng(3)
    lungs, opacity = np.zeros((2, 12, 10), bool)
    lungs[2:10, 1:4] = lungs[2:10, 6:9] = opacity[6:9, 1:3] = True
    heatmap = rng.random((12, 10)) ** 3
    energies, hits = moved_copies(heatmap, lungs, opacity, cell_px=2)
    own, expected, pointed = heatmap[lungs].sum() / heatmap.sum(), [], []
    for down in range(12):
        for right in range(10):
            for flip in range(4):
                near = flip == 0 and min(down, 12 - down) < 2 and min(right, 10 - right) < 2
                turned = heatmap[:: -1 if flip & 1 else 1, :: -1 if flip & 2 else 1]
                copy = np.roll(turned, (down, right), (0, 1))
                if not near and abs(copy[lungs].sum() / copy.sum() - own) <= ALIKE:
                    expected.append(copy[opacity].sum() / copy.sum())
                    pointed.append(dilate(opacity, 1)[copy == copy.max()].mean())
    assert len(expected) > 20
    assert sorted(energies) == pytest.approx(sorted(expected), abs=1e-9)
    assert sorted(hits) == pytest.approx(sorted(pointed), abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
@settings(max_examples=20)
def test_neither_scale_nor_mirror_nor_negative_values_count(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    lungs, opacity = drawings()
    heatmap = rng.normal(0.5, 1, lungs.shape)
    first = lesion_scores(heatmap, lungs, opacity, cell_px=4)
    for other in (
        lesion_scores(heatmap * scale, lungs, opacity, cell_px=4),
        lesion_scores(np.maximum(heatmap, 0), lungs, opacity, cell_px=4),
        lesion_scores(heatmap[:, ::-1], lungs[:, ::-1], opacity[:, ::-1], cell_px=4),
    ):
        for one, two in zip(first, other, strict=True):
            assert one.value == pytest.approx(two.value, abs=1e-9)
            # a copy at the very limit of likeness may fall on its other side
            assert dict(one.null) == pytest.approx(dict(two.null), abs=1e-3)


def test_what_cannot_be_measured_has_a_reason() -> None:
    lungs, opacity = drawings()
    nothing = np.zeros_like(lungs)
    for scores, reason in (
        (lesion_scores(np.ones(lungs.shape), lungs, nothing, cell_px=4, name="devices"), "no devices"),
        (lesion_scores(-np.ones(lungs.shape), lungs, opacity, cell_px=4), "zero everywhere"),
    ):
        assert all(score.value is None and reason in str(score.reason) for score in scores)
    unlunged = lesion_scores(opacity.astype(float), nothing, opacity, cell_px=4, name="devices")[0]
    assert unlunged.value == 1 and set(unlunged.null) == {UNIFORM, BLOB}
    for bad in ((np.ones((4, 4)), lungs, opacity), (np.full(lungs.shape, np.nan), lungs, opacity), (lungs * 1.0, lungs * 1, opacity)):  # fmt: skip
        with pytest.raises(SettingsError):
            lesion_scores(*bad, cell_px=4)


def rows(values: list[float | None], moved: list[float | None], groups: list[str]) -> pd.DataFrame:
    told = {"network": "n", "method": "grad-cam", "region": "opacity", "figure": "energy"}
    table = [
        told | {"group": g, "value": v, UNIFORM: 0.1, MOVED: m} for g, v, m in zip(groups, values, moved, strict=True)
    ]
    return pd.DataFrame(table).reindex(columns=list(COLUMNS))


def test_summary_by_hand() -> None:
    found = lesion_summary(rows([0.2, 0.4, 0.6, 0.8, 1.0, None], [0.1, 0.3, 0.5, 0.7, 0.9, None], list("aabcde")))
    (row,) = found.to_dict("records")
    assert (row["cases"], row["patients"]) == (5, 4)
    assert row["value"] == pytest.approx(0.6) and 0.2 < row["low"] < 0.6 < row["high"] < 1
    assert row[UNIFORM] == pytest.approx(0.1) and np.isnan(row[BLOB])
    assert [row[name] for name in ("above", "above low", "above high")] == pytest.approx([0.1] * 3)
    assert in_words(found.iloc[0]).startswith("more of the map")


def test_patients_not_pictures_are_drawn() -> None:
    values = [0.0, 1.0] * 10
    alone = lesion_summary(rows(values, values, [str(k) for k in range(20)])).iloc[0]
    two = lesion_summary(rows(values, values, ["a", "b"] * 10)).iloc[0]
    assert two["low"] == 0 and two["high"] == 1 and alone["low"] > 0.2 and alone["high"] < 0.8


def test_few_cases_are_not_summarised() -> None:
    row = lesion_summary(rows([0.2] * 4, [0.1] * 4, list("abcd"))).iloc[0]
    assert np.isnan(row["value"]) and row["reason"] == "only 4 radiographs, fewer than 5"
    assert in_words(row).startswith("too few")
    alone = lesion_summary(rows([0.2] * 6, [0.1] * 6, ["a"] * 6)).iloc[0]
    assert alone["value"] == pytest.approx(0.2) and np.isnan(alone["low"]) and "fewer than two" in alone["reason"]


@pytest.mark.parametrize(("moved", "told"), [([0.5] * 6, "less of"), ([0.1, 0.3, 0.1, 0.3, 0.1, 0.3], "no more of")])
def test_what_a_row_says(moved: list[float], told: str) -> None:
    assert in_words(lesion_summary(rows([0.2] * 6, moved, list("abcdef"))).iloc[0]).startswith(told)


# ------------------------------------------------------------------------------------------------ stored figures


def test_stored_figures_are_of_unseen_cases_and_of_these_weights() -> None:
    table = read_lesions()
    assert set(table["network"]) >= {"covid-cxnet", "base-cnn-v2"}
    for network, part in table.groupby("network"):
        run = find_run(str(network))
        fold = run.table.set_index("case")["fold"]
        for model, own in part.groupby("model"):
            (number,) = set(fold[own["case"].unique()])
            assert network_of(run, int(number)).name == model and set(own["model_sha256"]) == {card(str(model)).sha256}
    figures = table[["value", *NULLS]].to_numpy()
    assert ((figures >= 0) & (figures <= 1) | np.isnan(figures)).all() and table["value"].notna().mean() > 0.5
    once = ["network", "case", "method", "region", "figure"]
    assert not table.duplicated(once).any()


def test_figures_of_other_weights_are_left_out(tmp_path: Path) -> None:
    table = read_lesions()
    changed = table.assign(model_sha256=table["model_sha256"].where(table["model"] != "covid-cxnet", "0" * 64))
    changed.to_csv(tmp_path / "lesions.csv", index=False)
    found = read_lesions(tmp_path / "lesions.csv")
    assert set(found["network"]) == set(table["network"]) - {"covid-cxnet"}
    table.assign(model="no-such-network").to_csv(tmp_path / "lesions.csv", index=False)
    assert read_lesions(tmp_path / "lesions.csv").empty


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", None, "no reason"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "lesions.csv"
    if text == "no reason":
        rows([None], [None], ["a"]).to_csv(path, index=False)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(DatasetError, match=r"lesions\.csv cannot be read"):
        read_lesions(path)


# ------------------------------------------------------------------------------------------------------ the page


def test_about_shows_intervals_reasons_and_right_answers() -> None:
    from streamlit.testing.v1 import AppTest

    at = AppTest.from_file(str(Path(__file__).parents[1] / "app.py"), default_timeout=60).run()
    at.switch_page("pages/about.py").run()
    assert not at.exception
    table = read_lesions()
    opacity = table[(table["region"] == "opacity") & (table["figure"] == "energy")]
    for network, told in (("covid-cxnet", "COVID-CXNet, 3 classes"), ("base-cnn-v2", "Base CNN v2, full frame")):
        shown = opacity[(opacity["network"] == network) & opacity["value"].notna()]
        assert any(
            f"**{told}**: {shown['case'].nunique()} radiographs with opacity drawn" in m.value for m in at.markdown
        )
    sentence = in_words(
        lesion_summary(opacity[(opacity["network"] == "covid-cxnet") & (opacity["method"] == "grad-cam")]).iloc[0]
    )
    assert any(f"Grad-CAM: {sentence}" in m.value for m in at.markdown)
    at.segmented_control(key="lesion-answers").set_value("right answers only")
    at.segmented_control(key="lesion-region").set_value("devices").run()
    assert not at.exception
    assert any("fewer than 5" in m.value for m in at.markdown)
