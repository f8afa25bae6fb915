"""The exam on real radiographs: stored figures follow from stored rows, and opacities and splits are what they claim."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from streamlit.testing.v1 import AppTest

from cxnet import exam
from cxnet.__main__ import main
from cxnet.dataset import read_manifest
from cxnet.errors import DatasetError
from cxnet.exam import real, sitting
from cxnet.exam.fixtures import DISEASE, NORMAL, fixture_networks, save
from cxnet.exam.real import Film, asked, split, training_cases
from cxnet.exam.results import PHANTOMS, REAL, REPORT, accused
from cxnet.exam.sitting import behaves
from cxnet.lungs import LungSegmenter
from cxnet.phantom import make_phantom
from cxnet.thresholds import thresholds

ROOT = Path(__file__).parents[1]
#: A row of the stored table: figures and names, never a picture.
COLUMNS = {
    "network", "kind", "seed", "half", "case", "answer", "usual", "logit", "z", "lift", "evidence_background",
    "evidence_marker", "evidence_border", "evidence_appearance", "evidence_opacity", "without_lungs", "moved",
    "determined", "verdict",
}  # fmt: skip


@pytest.fixture(scope="module")
def stored() -> exam.Exam:
    return exam.stored(exam=exam.REAL)


def film(seed: int, group: str = "a") -> Film:
    """A phantom that plays a radiograph."""
    drawn = make_phantom(seed, 256)
    return Film(hashlib.sha256(bytes([seed])).hexdigest(), group, drawn.pixels, drawn.lungs)


def test_real_radiographs_get_a_stronger_contrast_than_phantoms() -> None:
    diseased, drawn = exam.real_case(film(1), True), exam.phantom_case(1)
    assert (diseased.tone, drawn.tone) == (2.5, 1.5) == (real.TONE, exam.fixtures.TONE)
    for case in (diseased, drawn):
        expected = np.rint(255 * np.clip((case.pixels / 255.0) ** case.tone * 1.12 + 0.03, 0, 1))
        np.testing.assert_array_equal(exam.shown(case, "contrast"), expected)
    assert {case.tone for case in training_cases([film(1)])} == {real.TONE}


# ------------------------------------------------------------------------------------------------------------ results


def test_stored_areas_follow_from_the_stored_rows(stored: exam.Exam) -> None:
    rows = stored.cases[stored.cases["determined"]]
    assert 0 < (stored.cases["verdict"] == "undetermined").sum() > len(stored.cases) - len(rows)
    kinds = set(stored.cases["kind"]) - {"clean"}
    assert kinds == {"tag", "stripes", "obstruction", "contrast"} and len(stored.info["areas"]) == (1 + len(kinds)) * (
        2 * len(exam.DETECTORS) - 3
    )
    for entry in stored.info["areas"]:
        chosen = rows[rows["answer"] == entry["answer"]]
        if entry["kind"] != "all":
            chosen = chosen[chosen["kind"].isin([entry["kind"], "clean"])]
        values = exam.detector_values(chosen, entry["detector"], thresholds())
        assert entry["auc"] == pytest.approx(roc_auc_score(chosen["kind"] != "clean", np.maximum(values, -1e9))), entry
        assert entry["low"] <= entry["auc"] <= entry["high"]


@pytest.mark.parametrize(
    ("which", "clean", "cheats"), [(PHANTOMS, (80, 92), (183, 191)), (REAL, (25, 156), (154, 187))]
)
def test_how_often_answers_stay_when_the_lungs_are_hidden(
    which: str, clean: tuple[int, int], cheats: tuple[int, int]
) -> None:
    """The counts that the verdict's docstring gives."""
    rows = exam.stored(exam=which).cases
    rows = rows[(rows["half"] == REPORT) & (rows["answer"] == "disease")]
    stays = rows["without_lungs"] / rows["usual"] >= thresholds().most_without_lungs
    for chosen, told in ((rows["kind"] == "clean", clean), (rows["kind"] != "clean", cheats)):
        assert (stays[chosen].sum(), chosen.sum()) == told


def test_stored_verdicts_are_those_of_the_shipped_thresholds(stored: exam.Exam) -> None:
    assert stored.version == thresholds().version == exam.stored().version
    assert (exam.verdicts(stored.cases, thresholds()) == stored.cases["verdict"]).all()
    for entry in stored.info["shares"]:
        rows = stored.cases[(stored.cases["kind"] == entry["kind"]) & (stored.cases["answer"] == entry["answer"])]
        assert (entry["count"], entry["of"]) == ((rows["verdict"] == entry["verdict"]).sum(), len(rows))


def test_the_aims_of_the_exam(stored: exam.Exam) -> None:
    areas = {(e["answer"], e["kind"], e["detector"]): e["auc"] for e in stored.info["areas"]}
    assert areas["disease", "all", "two keys"] >= 0.9 and areas["normal", "all", "two keys"] >= 0.9
    clean = stored.cases[stored.cases["kind"] == "clean"]
    accused = (clean["verdict"] == "wrong reason").groupby(clean["answer"]).mean()
    assert accused["disease"] <= 0.05 and accused["normal"] <= 0.05
    assert stored.info["accused"]["count"] == (clean["verdict"] == "wrong reason").sum()
    assert stored.info["accused"]["of"] == len(clean)


def test_only_networks_that_do_what_their_kind_must_are_judged(stored: exam.Exam) -> None:
    networks = pd.DataFrame(stored.info["networks"])
    assert networks["counted"].tolist() == [behaves(entry) for entry in stored.info["networks"]]
    assert set(stored.cases["network"]) == set(networks["name"][networks["counted"]])
    assert set(networks["name"]) == {network.name for network in fixture_networks(real.WEIGHTS)}
    assert networks[networks["counted"]].groupby("kind").size().min() >= 2


def test_the_table_holds_no_picture_and_no_radiograph_that_was_trained_on(stored: exam.Exam) -> None:
    assert set(stored.cases.columns) == COLUMNS
    assert not stored.cases.map(lambda value: isinstance(value, bytes | np.ndarray | list)).to_numpy().any()
    assert stored.cases["case"].str.fullmatch("[0-9a-f]{64}").all()
    assert not set(stored.cases["case"]) & set(stored.info["trained_on"])


@pytest.mark.parametrize(
    ("kind", "accuracy", "flipped", "counts"),
    [
        ("clean", 0.9, 0.9, True),
        ("clean", 0.89, 0.89, False),
        ("tag", 1.0, 0.49, True),
        ("tag", 1.0, 0.5, False),
        ("tag", 0.8, 0.0, False),
    ],
)
def test_what_a_network_must_do_to_count(kind: str, accuracy: float, flipped: float, counts: bool) -> None:
    assert behaves({"kind": kind, "accuracy": accuracy, "accuracy_flipped": flipped}) == counts


def test_share_of_the_accused_by_hand() -> None:
    table = pd.DataFrame({"network": ["clean-0", "clean-1"] * 2, "case": ["a", "a", "b", "b"], "verdict": "none found"})
    none = accused(table)
    assert (none["count"], none["of"], none["low"]) == (0, 4, 0.0)
    assert none["high"] == pytest.approx(0.4899, abs=1e-4)  # Wilson, 0 of 4
    half = accused(table.assign(verdict=["wrong reason", "none found"] * 2), 200)  # one network, always
    assert (half["count"], half["low"], half["high"]) == (2, 0.0, 1.0)


# ----------------------------------------------------------------------------------------------------------- pictures


def test_pictures_for_training_come_in_pairs_that_differ_in_the_lungs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "expose", lambda pixels, rng: pixels)
    normal, diseased = training_cases([film(4)])
    assert (normal.true, diseased.true) == (NORMAL, DISEASE)
    changed = normal.pixels != diseased.pixels
    assert changed.any() and not changed[~normal.lungs].any()


@given(st.lists(st.integers(0, 9), min_size=5, max_size=40), st.integers(0, 5))
def test_no_group_is_trained_on_and_asked_about(groups: list[int], seed: int) -> None:
    empty = np.zeros((2, 2), np.uint8)
    films = [Film(f"{place:064x}", str(group), empty, empty > 0) for place, group in enumerate(groups)]
    first, rest = split(films, seed=seed)
    assert not {f.group for f in first} & {f.group for f in rest}
    assert sorted(f.sha256 for f in first + rest) == [f.sha256 for f in films]
    # a list of what was trained on gives the same split, even when some of the films are gone
    again = split(films, [f.sha256 for f in first])
    assert again == (first, rest)


def test_groups_are_diseased_or_normal_whatever_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "add_opacity", lambda pixels, *_: pixels)
    plain = film(5)
    films = [Film(f"{place:064x}", str(place // 2), plain.pixels, plain.lungs) for place in range(8)]
    true: dict[str, set[int]] = {}
    for network in exam.fixture_networks()[:3]:
        for case in asked(films, network):
            group = next(f.group for f in films if f.sha256 == case.sha256)
            true.setdefault(group, set()).add(case.true)
    assert len(true) == 4 and all(len(found) == 1 for found in true.values())


# ----------------------------------------------------------------------------------------------------------- sitting


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight phantoms of two collections as a manifest with pictures."""
    tmp_path = tmp_path_factory.mktemp("collection")
    rows = ["file,label,group,source"]
    for seed in range(8):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), make_phantom(seed, 224).pixels)
        rows.append(f"{seed}.png,{'Other' if seed == 7 else 'Normal'},{seed},{'b' if seed == 6 else 'a'}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return tmp_path


def test_the_whole_exam_on_a_small_collection(
    collection: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = collection / "networks"
    networks.mkdir()
    for network in exam.fixture_networks():
        if network.name in ("clean-4", "tag-1"):  # networks that stand there are not trained again
            save([network], networks / f"{network.name}.npz")
    monkeypatch.setattr(real, "SEEDS", {"clean": (4,), "tag": (1,)})
    monkeypatch.setattr(real, "LEAST_FILMS", 6)
    monkeypatch.setattr(sitting, "LEAST_ACCURACY", 0.5)
    written: list[exam.Exam] = []
    monkeypatch.setattr(exam, "write_real", lambda found, networks: written.append(found))
    command = ["exam", "--data", str(collection), "--networks", str(networks), "--workers", "1", "--write"]
    assert main(command) == 0
    out = capsys.readouterr()
    assert "Exam on a: Normal with thresholds version" in out.out
    assert "6 of 6 radiographs" in out.err and "2 radiographs of 2 groups" in out.err
    found = written[0]
    assert set(found.cases.columns) == COLUMNS
    ids = {hashlib.sha256((collection / f"{seed}.png").read_bytes()).hexdigest() for seed in range(6)}
    trained = set(json.loads((networks / "trained.json").read_text("utf-8")))
    assert trained == set(found.info["trained_on"]) < ids
    assert set(found.cases["case"]) <= ids - trained
    # the same networks are not asked about other radiographs as if they had been trained on them
    (networks / "trained.json").write_text("[]", "utf-8")
    assert main(command) == 2
    assert "trained on other radiographs" in capsys.readouterr().err


def test_too_few_radiographs_and_networks_without_data_are_refused(
    collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DatasetError, match="needs at least 40 radiographs"):
        exam.read_films(collection, source="b")
    with pytest.raises(DatasetError, match="has no case of Sick"):
        exam.read_films(collection, label="Sick")
    assert main(["exam", "--networks", str(collection)]) == 2
    assert "--data" in capsys.readouterr().err


def test_a_stored_network_gives_its_stored_rows(stored: exam.Exam, data_folder: Path) -> None:
    rows = stored.cases[stored.cases["answer"] == "disease"].groupby("kind").first()
    table = read_manifest(data_folder / "cxr", ("Normal",))
    files = {hashlib.sha256((data_folder / "cxr" / file).read_bytes()).hexdigest(): file for file in table["file"]}
    segmenter = LungSegmenter()
    for kind, row in rows.iterrows():
        network = next(n for n in fixture_networks(real.WEIGHTS) if n.name == row["network"])
        opened = real._film((data_folder / "cxr" / files[row["case"]], "group"))
        assert opened is not None and opened.sha256 == row["case"]
        figures, verdict = exam.judge_case(network, exam.real_case(opened, True), row["usual"], lungs_of=segmenter)
        assert verdict.name == row["verdict"], kind
        for name, value in figures.items():
            if pd.isna(row[name]):
                assert value is None
            else:
                assert value == pytest.approx(row[name], abs=0.02), (kind, name)


# -------------------------------------------------------------------------------------------------------------- page


def test_page_shows_the_stored_figures(stored: exam.Exam) -> None:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).switch_page("pages/exam.py").run()
    at.segmented_control(key="exam-which").set_value(exam.REAL).run()
    assert not at.exception and not at.warning
    entry = next(e for e in stored.info["areas"] if e["detector"] == "two keys" and e["kind"] == "all")
    assert at.metric[0].value == f"{entry['auc']:.3f}"
    innocent, caught = (stored.cases[(stored.cases["kind"] == "clean") == clean] for clean in (True, False))
    accused = innocent[innocent["answer"] == "disease"]
    assert at.metric[2].value == f"{(accused['verdict'] == 'wrong reason').sum()} of {len(accused)}"
    told = f"{(innocent['verdict'] == 'wrong reason').sum()} of {len(innocent)}"
    assert any(told in caption.value for caption in at.caption)
    caught = caught[caught["answer"] == "disease"]
    assert at.metric[1].value == f"{(caught['verdict'] == 'wrong reason').sum()} of {len(caught)}"
    worst = caught.groupby("kind")["verdict"].apply(lambda verdicts: (verdicts == "wrong reason").mean()).idxmin()
    own = caught.loc[caught["kind"] == worst, "verdict"]
    told = (
        f"of {len(own)} right “diseased” answers of networks that read it, {(own == 'wrong reason').sum()} are called "
    )
    told += f"*wrong reason* and {(own == 'none found').sum()} *none found*."
    assert worst == "contrast" and any(told in markdown.value for markdown in at.markdown)
