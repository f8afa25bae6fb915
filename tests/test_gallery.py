"""The gallery of stored cases: order, filters, pages, URL, pictures, and runs that others wrote."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from streamlit.testing.v1 import AppTest

from cxnet import overlay, runs
from cxnet.phantom import make_phantom
from pages import _gallery, _gallery_cards
from tests.stored_runs import LIME_FOUND_NOTHING, make_audit, make_run, open_page

CLASSES = ("normal", "pneumonia")
LUNGS = np.zeros((64, 64), np.bool_)
LUNGS[16:48, 8:28] = LUNGS[16:48, 36:56] = True
MAP = np.zeros((10, 10), np.float32)
MAP[2, 2] = 4.0
Write = Callable[..., runs.Run]


def table(z: list[float | None], **columns: list[Any]) -> pd.DataFrame:
    """Cases named by their number, predicted pneumonia with 0.9, 0.8, ..."""
    count = len(z)
    sure = np.linspace(0.9, 0.6, count)
    found: dict[str, Any] = {
        "case": [str(number) for number in range(count)],
        "true": ["normal"] * count,
        "predicted": ["pneumonia"] * count,
        "probability normal": 1 - sure,
        "probability pneumonia": sure,
        "map": [runs.pack_map(MAP)] * count,
        "lungs": [runs.pack_lungs(LUNGS)] * count,
        "in_lung": [0.25] * count,
        "lift": [0.5] * count,
        "z": z,
    }
    return pd.DataFrame(found | columns)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(*folds: pd.DataFrame, classes: tuple[str, ...] = CLASSES) -> runs.Run:
        info = {"classes": list(classes), "map_shape": [10, 10]}
        return runs.write_run(tmp_path / "one", info, dict(enumerate(folds)))

    return made


def page(run: runs.Run, **query: str) -> AppTest:
    """A script that shows a whole run, as a browser would open it."""
    script = f"""
from functools import cache
from pathlib import Path
from cxnet.runs import open_run
from pages._gallery import gallery
run = open_run(Path({str(run.folder)!r}))
gallery(run, run.results())
"""
    at = AppTest.from_string(script, default_timeout=60)
    for key, value in query.items():
        at.query_params[key] = value
    at.run()
    assert not at.exception
    return at


def cards(at: AppTest) -> list[dict[str, Any]]:
    """Of the gallery; the page Runs has a matrix too."""
    (found,) = (told["cards"] for part in at.get("bidi_component") if "cards" in (told := json.loads(part.proto.json)))
    cards: list[dict[str, Any]] = found
    return cards


def cases(at: AppTest) -> list[str]:
    return [card["href"].rpartition("case=")[2] for card in cards(at)]


def query(at: AppTest) -> dict[str, str]:
    return {key: value if isinstance(value, str) else value[-1] for key, value in at.query_params.items()}


def box(at: AppTest, label: str) -> Any:
    return next(found for found in at.selectbox if found.label == label)


def picture(card: dict[str, Any]) -> NDArray[np.uint8]:
    """The painted card, red-green-blue."""
    kind, _, data = card["picture"].partition(",")
    assert kind == "data:image/jpeg;base64"
    levels = np.frombuffer(base64.b64decode(data), np.uint8)
    return np.asarray(cv2.imdecode(levels, cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8)


# ----------------------------------------------------------------------------------------------------------- order


def test_orders_known_by_hand_with_undefined_figures_last_both_ways() -> None:
    rows = table([0.5, None, -2.0, float("inf"), 1.5, -2.0], lift=[3, 1, 2, None, 1, 0])
    assert _gallery.in_order(rows, "z-up")["case"].tolist() == ["2", "5", "0", "4", "1", "3"]
    assert _gallery.in_order(rows, "z-down")["case"].tolist() == ["4", "0", "2", "5", "1", "3"]
    assert _gallery.in_order(rows, "lift-up")["case"].tolist() == ["5", "1", "4", "2", "0", "3"]
    assert _gallery.in_order(rows, "confidence-up")["case"].tolist() == ["5", "4", "3", "2", "1", "0"]
    assert _gallery.in_order(rows, "stored")["case"].tolist() == list("012345")


def test_confidence_is_the_probability_of_the_predicted_class() -> None:
    rows = table([0, 0, 0], predicted=["pneumonia", "normal", "third"])
    assert _gallery.confidence(rows).tolist()[:2] == pytest.approx([0.9, 0.25])
    assert np.isnan(_gallery.confidence(rows).iloc[2])


def test_only_orders_that_the_rows_have_are_offered() -> None:
    rows = table([None, None], cam_lime=[0.1, None], lift=["many", "few"])
    assert _gallery.orders_of(rows) == [
        "confidence-down", "confidence-up", "cam-lime-up", "cam-lime-down", "stored",
    ]  # fmt: skip
    assert _gallery.orders_of(rows[["case", "true", "predicted"]]) == ["stored"]


# ------------------------------------------------------------------------------------- choices, pages and their URL


def test_most_suspicious_first_and_another_order_by_choice(write: Write) -> None:
    at = page(write(table([0.5, None, -2.0])))
    assert cases(at) == ["2", "0", "1"]
    assert query(at) == {}
    box(at, "Sort").set_value("confidence-up").run()
    assert cases(at) == ["2", "1", "0"]
    assert query(at) == {"sort": "confidence-up"}


def test_a_filter_is_there_only_with_two_values(write: Write) -> None:
    run = write(table([1, 2, 3], source=["a", "b", None], view=["PA", "PA", "PA"]))
    at = page(run)
    assert [found.label for found in at.selectbox] == ["Sort", "Source"]
    assert box(at, "Source").options == ["all", "a", "b", "not stated"]
    box(at, "Source").set_value("not stated").run()
    assert cases(at) == ["2"]
    assert "1 that match, out of 3" in at.markdown[0].value
    assert cases(page(run, source="b")) == ["1"]


def test_filters_that_leave_nothing_say_so(write: Write) -> None:
    at = page(write(table([1, 2], source=["a", "b"], view=["AP", "PA"])), source="a", view="PA")
    assert "No case matches" in at.info[0].value
    assert not at.get("bidi_component")


def test_pages(write: Write) -> None:
    at = page(write(table([float(n) for n in range(30)])))
    assert cases(at) == [str(n) for n in range(24)]
    at.get("pagination")[0].set_value(2).run()
    assert cases(at) == [str(n) for n in range(24, 30)]
    assert query(at) == {"page": "2"}
    box(at, "Sort").set_value("z-down").run()  # another order starts on its first page
    assert cases(at)[0] == "29"
    assert query(at) == {"sort": "z-down"}
    assert at.get("pagination")[0].value == 1


def test_a_link_shows_the_same_cards(write: Write) -> None:
    at = page(write(table([float(n) for n in range(30)])), sort="z-down", cards="12", page="3")
    assert cases(at) == ["5", "4", "3", "2", "1", "0"]
    assert at.get("pagination")[0].value == 3


def test_back_and_forward_are_followed(write: Write) -> None:
    at = page(write(table([float(n) for n in range(30)])), cards="12", page="3")
    at.query_params.pop("page")
    at.query_params["sort"] = "z-down"
    at.run()
    assert not at.exception
    assert cases(at) == [str(n) for n in range(29, 17, -1)]
    assert (box(at, "Sort").value, at.get("pagination")[0].value) == ("z-down", 1)


def test_other_rows_start_on_their_first_page(write: Write) -> None:
    run = write(table([float(n) for n in range(60)]))
    script = f"""
from functools import cache
from pathlib import Path
import streamlit as st
from cxnet.runs import open_run
from pages._gallery import gallery
run = open_run(Path({str(run.folder)!r}))
gallery(run, run.results().iloc[30:] if st.checkbox("second half") else run.results().iloc[:30])
"""
    at = AppTest.from_string(script, default_timeout=60)
    at.query_params["page"] = "2"
    at.run()
    assert cases(at)[0] == "24"
    at.checkbox[0].check().run()
    assert not at.exception
    assert cases(at)[0] == "30"
    assert query(at) == {}


@pytest.mark.parametrize("page_number", ["-1", "99", "<script>"])
def test_hostile_urls_are_ignored(write: Write, page_number: str) -> None:
    run = write(table([float(n) for n in range(30)], source=["a", "b"] * 15))
    at = page(run, page=page_number, sort="<script>", cards="100000", source="'; drop", view="PA", verdict="x")
    assert cases(at) == [str(n) for n in range(24)]
    assert query(at) == {}


def test_no_row(write: Write) -> None:
    run = write(table([1.0]))
    script = f"""
from functools import cache
from pathlib import Path
from cxnet.runs import open_run
from pages._gallery import gallery
run = open_run(Path({str(run.folder)!r}))
gallery(run, run.results().iloc[:0])
"""
    at = AppTest.from_string(script, default_timeout=60).run()
    assert not at.exception
    assert at.info[0].value == "There is no case here."


# ------------------------------------------------------------------------------------------ CAM-LIME disagreement

DISAGREEMENT = "CAM-LIME disagreement first"


def test_disagreement_comes_from_the_stored_audit(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", folds=2)
    rows = run.results().iloc[5:100]
    assert _gallery.with_agreement(run, rows) is rows  # no audit
    make_audit(run)
    assert _gallery.with_agreement(run, rows) is rows  # an audit without LIME
    audit = make_audit(run, "fast", lime=True).set_index("case")
    found = _gallery.with_agreement(run, rows)
    assert found["case"].tolist() == rows["case"].tolist()
    known = audit.loc[found["case"], ["cam_lime", "lime_r2", "cam_lime_reason"]]
    pd.testing.assert_frame_equal(found[known.columns], known.reset_index(drop=True), check_dtype=False)
    own = rows.assign(cam_lime=0.5)
    assert _gallery.with_agreement(run, own) is own
    (run.folder / "audit-fast.parquet").write_bytes(b"torn")
    assert _gallery.with_agreement(run, rows) is rows


def test_a_cell_is_sorted_by_disagreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    monkeypatch.setattr(runs, "FOLDER", tmp_path / "there are no others")
    audit = make_audit(make_run(tmp_path, "one", folds=2), lime=True)
    cell = {"run": "one", "true": "normal", "predicted": "normal"}
    at = open_page("runs", **cell, cards="96")
    assert query(at) == {**cell, "cards": "96"}  # z is still the default
    box(at, "Sort").set_value("cam-lime-up").run()
    assert not at.exception and query(at) == {**cell, "cards": "96", "sort": "cam-lime-up"}
    own = audit[(audit["true"] == "normal") & (audit["predicted"] == "normal")].set_index("case")["cam_lime"]
    shown = cases(at)
    defined = own.sort_values().dropna()
    assert shown[: len(defined)] == defined.index.tolist()
    assert len(defined) < len(own) and set(shown[len(defined) :]) == set(own.index[own.isna()])
    lines = [card["lines"] for card in cards(at)]
    assert lines[0][1].startswith(f"CAM-LIME agreement −{abs(defined.iloc[0]):.2f} · R² 0.")
    assert lines[-1][1] == f"CAM-LIME agreement —: {LIME_FOUND_NOTHING}"
    link = open_page("runs", **cell, cards="96", sort="cam-lime-up")
    assert cases(link) == shown


def test_disagreement_is_offered_only_with_lime(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", folds=1)
    make_audit(run)
    at = page(run, sort="cam-lime-up")
    assert DISAGREEMENT not in box(at, "Sort").options and query(at) == {}
    assert "superpixels" not in box(at, "Sort").help
    make_audit(run, lime=True, seed=1)
    at = page(run, sort="cam-lime-up")
    assert DISAGREEMENT in box(at, "Sort").options and query(at) == {"sort": "cam-lime-up"}
    assert "superpixels" in box(at, "Sort").help


# ----------------------------------------------------------------------------------------------------------- cards


def test_what_a_card_tells(write: Write) -> None:
    columns = {"verdict": ["shortcut"], "cam_lime": [-0.31], "background_probability": [0.875], "view": ["PA"]}
    first, second = table([-1.26], source=["rsna"], **columns), table([3.0])
    (card,) = cards(page(write(first, second), verdict="shortcut"))
    assert card.pop("picture")
    assert card == {
        "href": "./?run=one&case=0",
        "alt": "Outline of the lungs, without the radiograph, with the Grad-CAM map for pneumonia, stretched to its own maximum",
        "right": False,
        "predicted": "pneumonia",
        "probability": "0.900",
        "true": "normal",
        "lines": [
            "25 % in the lungs · lift 0.50 · z −1.3",
            "CAM-LIME agreement −0.31",
            "background alone 0.875",
            "shortcut",
        ],
        "origin": "rsna · PA · fold 0",
    }


def test_undefined_figures_say_why(write: Write) -> None:
    none = {"in_lung": [None], "lift": [None], "z": [None]}
    told = [
        ({"lift": [None]}, ["25 % in the lungs · lift — · z +1.0", "—: undefined for this case"]),
        ({**none, "map": [None]}, ["No figures of the map: no map is stored"]),
        ({**none, "lungs": [None]}, ["No figures of the map: no lung outline is stored"]),
        ({**none, "lungs": [runs.pack_lungs(LUNGS & ~LUNGS)]}, ["No figures of the map: no lung was found"]),
        ({**none, "map": [runs.pack_map(-MAP)]}, ["No figures of the map: the map has no positive evidence"]),
        ({**none, "map": [runs.pack_map(MAP * np.nan)]}, ["No figures of the map: the stored map is damaged"]),
        ({**none, "region": [[0.0, 2.0, 0.0, 1.0]]}, ["No figures of the map: the stored map is damaged"]),
        (none, ["No figures of the map: undefined for this case"]),
    ]
    run = write(pd.concat([table([1.0]).assign(**columns) for columns, _ in told]))
    assert [card["lines"] for card in cards(page(run, sort="stored"))] == [lines for _, lines in told]


@pytest.mark.parametrize("region", ["all", 3, ["a", 1, 0, 1], [0.5, 0.5, 0, 1], [0, 1, 0, float("nan")], [0, 1]])
def test_regions_that_are_none(region: object) -> None:
    assert _gallery_cards._region(region) is None


def test_a_run_with_decisions_only(write: Write) -> None:
    at = page(write(table([1.0])[["case", "true", "predicted"]]))
    (card,) = cards(at)
    assert (card["picture"], card["probability"]) == ("", "—")
    assert card["lines"] == ["No figures of the map: no map is stored"]
    assert "does not say which files" in at.info[0].value


HOSTILE = "<img src=x onerror=alert(1)>"


def test_text_of_a_run_is_never_markup(write: Write) -> None:
    columns = {name: [HOSTILE, "javascript:alert(1)//"] for name in ("true", "predicted", "case", "source", "verdict")}
    at = page(write(table([1.0, 2.0], **columns), classes=tuple(columns["true"])))
    first, second = cards(at)
    assert first["predicted"] == first["true"] == HOSTILE  # as data; the script sets it as textContent
    assert first["href"] == "./?run=one&case=%3Cimg+src%3Dx+onerror%3Dalert%281%29%3E"
    assert second["href"].startswith("./?run=one&case=javascript%3A")
    (grid,) = at.get("bidi_component")
    for part in (grid.proto.html_content, grid.proto.js_content, grid.proto.css_content):
        assert "onerror" not in part
    assert not any(word in grid.proto.js_content for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval("))
    shown = [found.value for found in (*at.markdown, *at.info, *at.error)]
    assert not any("onerror" in words for words in shown)


def test_long_texts_are_cut() -> None:
    assert _gallery_cards.text("x" * 5000) == "x" * 119 + "…"
    assert [_gallery_cards.text(value) for value in (None, np.nan, pd.NA, 3)] == ["", "", "", "3"]


def test_maps_that_cannot_be_read_give_one_sentence(write: Write) -> None:
    at = page(write(table([1.0, 2.0], map=[b"123", b"123"])))
    assert len(cards(at)) == 2
    assert [found.value for found in at.error] == [
        "The maps of the run one cannot be read; write or fetch the run again."
    ]


# -------------------------------------------------------------------------------------------------------- pictures


def test_the_map_covers_what_the_network_saw_and_no_more() -> None:
    grey = np.full((200, 100), 90, np.uint8)
    found = _gallery_cards.paint(grey, np.ones((10, 10), np.float32), None, (0.25, 0.75, 0.5, 1.0))
    covered = np.zeros((200, 100), np.bool_)
    covered[50:150, 50:] = True
    assert (found[~covered] == 90).all()
    expected = overlay.blend(np.full((1, 1), 90, np.uint8), np.ones((1, 1)), _gallery_cards.OPACITY)[0, 0]
    assert (found[covered] == expected).all()


def test_hottest_cell_lies_where_the_map_says() -> None:
    heatmap = np.zeros((10, 10), np.float32)
    heatmap[1, 8] = 1.0
    found = _gallery_cards.paint(None, heatmap, None, (0.0, 1.0, 0.0, 1.0))
    row, column = np.unravel_index(found.sum(axis=2).argmax(), found.shape[:2])
    assert (int(row) * 10 // 256, int(column) * 10 // 256) == (1, 8)


@pytest.mark.parametrize("shape", [(3000, 1000), (1, 4000), (50, 40)])
def test_pictures_are_at_most_256_px_and_keep_their_shape(shape: tuple[int, int]) -> None:
    height, width = _gallery_cards.paint(np.zeros(shape, np.uint8), MAP, LUNGS, (0.0, 0.001, 0.0, 0.001)).shape[:2]
    assert max(height, width) == min(256, max(shape))
    assert height == max(1, round(shape[0] * min(1, 256 / max(shape))))


@cache
def phantom(seed: int) -> NDArray[np.uint8]:
    return make_phantom(seed, 256).pixels


def stored(folder: Path, name: str, seed: int) -> str:
    """Write a phantom's PNG; its checksum."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", phantom(seed))[1].tobytes())
    return runs.sha256(path)


def test_radiographs_at_hand_are_shown_and_changed_files_are_not(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    first, second = stored(images, "a/1.png", 1), stored(images, "a/2.png", 2)
    monkeypatch.setenv("CXNET_IMAGES", str(images))
    run = write(
        table([1.0, 2.0], case=[first, second], file=["a/1.png", "a/2.png"], map=[None, None], lungs=[None] * 2)
    )
    at = page(run)
    assert not at.info
    for card, seed in zip(cards(at), (1, 2), strict=True):
        assert card["alt"] == "Chest radiograph without a map"
        small = cv2.resize(phantom(seed), (256, 256), interpolation=cv2.INTER_AREA)
        assert np.abs(picture(card).mean(axis=2) - small).mean() < 4
    stored(images, "a/2.png", 3)
    at.run()
    assert [card["picture"] != "" for card in cards(at)] == [True, False]
    assert at.info[0].value.startswith("1 of these 2 radiographs")


def test_without_radiographs_it_says_how_to_point_to_them(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXNET_IMAGES", raising=False)
    run = write(table([1.0], file=["a.png"]))
    at = page(run)
    assert "`CXNET_IMAGES=/path/to/the/folder`" in at.info[0].value
    (card,) = cards(at)
    assert picture(card).shape == (256, 256, 3)
    monkeypatch.setenv("CXNET_IMAGES", str(tmp_path))
    assert "None of these radiographs" in page(run).info[0].value


def test_file_names_that_lead_nowhere(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = stored(tmp_path, "outside.png", 1)
    (tmp_path / "images").mkdir()
    monkeypatch.setenv("CXNET_IMAGES", str(tmp_path / "images"))
    names = ["../outside.png", str(tmp_path / "outside.png"), "a\0b", "x" * 5000, "", "."]
    found = cards(page(write(table([1.0] * 6, file=names, case=[outside] * 6))))
    assert [card["alt"].split(",")[0] for card in found] == ["Outline of the lungs"] * 6


def test_pictures_are_kept_for_the_session_and_bounded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gallery_cards, "PAINTED_KEPT", 15)
    run = write(table([float(n) for n in range(30)]))
    asked: list[int] = []
    read = runs.Run.pictures

    def pictures(self: runs.Run, rows: pd.DataFrame) -> Any:
        asked.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(runs.Run, "pictures", pictures)
    at = page(run, cards="12")
    at.get("pagination")[0].set_value(2).run()
    at.get("pagination")[0].set_value(1).run()
    assert asked == [12, 12, 9]  # 3 of the first page were still there
    assert len(at.session_state["gallery-painted"]) == 15
