"""Manifests, layouts of public collections, copies of radiographs, and splits that keep groups whole."""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from cxnet.dataset import (
    THRESHOLD,
    check_groups,
    dataset_checksum,
    grouped_folds,
    import_dataset,
    near_duplicates,
    read_manifest,
    similar_pairs,
    thumbnail,
    write_manifest,
)
from cxnet.dataset.duplicates import joined
from cxnet.errors import DatasetError, SettingsError
from cxnet.phantom import make_phantom


def patient(seed: int) -> np.ndarray:
    """A phantom with anatomy of its own: those of make_phantom are as alike as copies, being drawn by one rule."""
    rng = np.random.default_rng(seed)
    shadows = sum(
        cv2.GaussianBlur(rng.normal(0, 1, (256, 256)), (0, 0), s) * s * gain for s, gain in ((4, 60), (12, 60))
    )
    return np.clip(make_phantom(seed, 256).pixels + shadows, 0, 255).astype(np.uint8)


PHANTOMS = [patient(seed) for seed in range(12)]


def save(path: Path, seed: int, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PHANTOMS[seed] if pixels is None else pixels
    ending = ".jpg" if path.suffix == ".jfif" else path.suffix
    path.write_bytes(cv2.imencode(ending, picture)[1].tobytes())
    return path


def write_csv(path: Path, header: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def crop(pixels: np.ndarray, top: float, bottom: float, left: float, right: float) -> np.ndarray:
    height, width = pixels.shape
    rows = slice(round(top * height), height - round(bottom * height))
    return np.ascontiguousarray(pixels[rows, round(left * width) : width - round(right * width)])


COPIES = {
    "JPEG": lambda p: jpeg(p, 30),
    "half the size": lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "crop of 3 % a side": lambda p: crop(p, 0.03, 0.03, 0.03, 0.03),
    "crop of 3 % at two sides": lambda p: crop(p, 0.03, 0, 0.03, 0),
    "gamma": lambda p: np.rint(255 * (p / 255) ** 0.65).astype(np.uint8),
    "brightness": lambda p: np.clip(p.astype(int) + 25, 0, 255).astype(np.uint8),
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
    "all": lambda p: jpeg(
        cv2.resize(
            np.rint(255 * (crop(p, 0.02, 0.01, 0, 0.03) / 255) ** 1.3).astype(np.uint8),
            None,
            fx=0.6,
            fy=0.6,
            interpolation=cv2.INTER_AREA,
        ),
        40,
    ),
}

# ------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found_and_only_its_original(name: str) -> None:
    originals = [thumbnail(p) for p in PHANTOMS]
    copies = [thumbnail(COPIES[name](p)) for p in PHANTOMS]
    found = {(pair.first, pair.second): pair for pair in similar_pairs(originals + copies)}
    count = len(PHANTOMS)
    assert set(found) == {(i, i + count) for i in range(count)}
    assert all(pair.mirrored == (name == "mirrored") and pair.similarity >= THRESHOLD for pair in found.values())


def test_mirrored_copies_are_left_alone_on_request() -> None:
    pair = [thumbnail(PHANTOMS[0]), thumbnail(PHANTOMS[0][:, ::-1])]
    assert len(similar_pairs(pair)) == 1 and similar_pairs(pair, mirrored=False) == ()


def test_an_identical_picture_has_similarity_one_and_blank_ones_match_nothing() -> None:
    blank = np.full((96, 96), 90, np.uint8)
    found = similar_pairs([thumbnail(PHANTOMS[0]), blank, thumbnail(PHANTOMS[0]), blank])
    assert [(pair.first, pair.second) for pair in found] == [(0, 2)]
    assert found[0].similarity == pytest.approx(1, abs=1e-3)


def test_pairs_do_not_depend_on_the_number_of_workers_or_the_order() -> None:
    pictures = [thumbnail(p) for p in [*PHANTOMS[:4], *(COPIES["all"](p) for p in PHANTOMS[:4])]]
    one = similar_pairs(pictures)
    assert similar_pairs(pictures, workers=3) == one
    backwards = similar_pairs(pictures[::-1])
    last = len(pictures) - 1
    assert {(p.first, p.second) for p in one} == {(last - p.second, last - p.first) for p in backwards}


def test_bad_files_are_skipped_with_their_sentence_and_places_stay(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    paths = [tmp_path / "text.png", save(tmp_path / "a.png", 1), tmp_path / "absent.png", save(tmp_path / "b.jpg", 1)]
    told: list[tuple[str, int, int]] = []
    found = near_duplicates(paths, progress=lambda *news: told.append(news))
    assert [(pair.first, pair.second) for pair in found.pairs] == [(1, 3)]
    assert [place for place, _ in found.skipped] == [0, 2] and all(text.endswith(".") for _, text in found.skipped)
    assert [news for news in told if news[0] == "reading"] == [("reading", done, 4) for done in (1, 2, 3, 4)]
    assert told[-1][0] == "comparing" and told[-1][1] == told[-1][2]


def test_settings_of_the_search_are_checked() -> None:
    for call in (
        lambda: similar_pairs([], threshold=1.2),
        lambda: similar_pairs([], threshold=0.1),
        lambda: near_duplicates([], workers=0),
    ):
        with pytest.raises(SettingsError):
            call()


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_joined_is_reachability_numbered_by_first_appearance(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = graph
    reach = np.eye(count, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for middle in range(count):  # Warshall's algorithm
        reach |= reach[:, [middle]] & reach[[middle], :]
    found = joined(count, pairs)
    assert np.array_equal(found[:, None] == found[None, :], reach)
    assert list(dict.fromkeys(found.tolist())) == list(range(found.max() + 1))


# ------------------------------------------------------------------------------------------------------------ layouts


def by_name(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    return {Path(row["file"]).name: row for row in table.to_dict("records")}


def test_folders(tmp_path: Path) -> None:
    save(tmp_path / "NORMAL" / "deep" / "a.png", 0)
    save(tmp_path / "COVID" / "b.JPG".lower(), 1)
    save(tmp_path / "COVID" / "masks" / "b.png", 2)
    save(tmp_path / "Sarcoidosis" / "c.jpeg", 3)
    save(tmp_path / ".hidden" / "d.png", 4)
    (tmp_path / "COVID" / "readme.txt").write_text("x")
    result = import_dataset(tmp_path)
    assert result.layout == "folders" and "folders" in result.notes[0]
    found = by_name(result.table)
    assert {name: row["label"] for name, row in found.items()} == {
        "a.png": "Normal",
        "b.jpg": "COVID-19",
        "c.jpeg": "Sarcoidosis",
    }
    assert len(set(result.table["group"])) == 3 and any("COVID is called COVID-19" in note for note in result.notes)


def test_folders_below_train_and_test_are_put_together(tmp_path: Path) -> None:
    save(tmp_path / "train" / "NORMAL" / "a.png", 0)
    save(tmp_path / "train" / "PNEUMONIA" / "b.png", 1)
    save(tmp_path / "test" / "NORMAL" / "c.jpg", 0)  # leaks from train to test
    result = import_dataset(tmp_path)
    found = by_name(result.table)
    assert sorted(result.table["label"]) == ["Normal", "Normal", "Pneumonia"]
    assert found["a.png"]["group"] == found["c.jpg"]["group"] != found["b.png"]["group"]
    assert any("split by group" in note for note in result.notes)


def test_one_class_is_read_where_it_is_asked_for_and_not_guessed(tmp_path: Path) -> None:
    save(tmp_path / "Normal" / "a.png", 0)
    with pytest.raises(DatasetError, match="Data_Entry_2017"):
        import_dataset(tmp_path)
    assert list(import_dataset(tmp_path, "folders").table["label"]) == ["Normal"]


def test_radiography_database(tmp_path: Path) -> None:
    root = tmp_path / "COVID-19_Radiography_Dataset"  # one folder further in, as the archive unpacks
    for seed, name in enumerate(["COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"]):
        save(root / name / "images" / f"{name}-1.png", seed)
        save(root / name / "masks" / f"{name}-1.png", 9)
        (root / f"{name}.metadata.xlsx").write_bytes(b"PK")
    (root / "Normal" / "masks" / "Normal-1.png").unlink()
    result = import_dataset(tmp_path)
    found = by_name(result.table)
    assert result.layout == "covid-19-radiography-database"
    assert {name: row["label"] for name, row in found.items()} == {
        "COVID-1.png": "COVID-19",
        "Lung_Opacity-1.png": "Other",
        "Normal-1.png": "Normal",
        "Viral Pneumonia-1.png": "Pneumonia",
    }
    assert found["Normal-1.png"]["lung_mask"] == ""
    assert Path(found["COVID-1.png"]["lung_mask"]) == (root / "COVID" / "masks" / "COVID-1.png").resolve()


def test_covid_chestxray_dataset(tmp_path: Path) -> None:
    rows = [
        ("2", "Pneumonia/Viral/COVID-19", "PA", "X-ray", "a.png"),
        ("2", "Pneumonia/Viral/COVID-19", "AP Supine", "X-ray", "b.png"),
        ("3", "Pneumonia/Viral/SARS", "AP", "X-ray", "c.png"),
        ("4", "No Finding", "PA", "X-ray", "d.png"),
        ("5", "Tuberculosis", "PA", "X-ray", "e.png"),
        ("6", "Pneumonia", "L", "X-ray", "lateral.png"),
        ("7", "Pneumonia/Viral/COVID-19", "Axial", "CT", "ct.png"),
        ("8", "todo", "PA", "X-ray", "todo.png"),
        ("9", "Pneumonia", "PA", "X-ray", "absent.png"),
    ]
    for seed, row in enumerate(rows[:-1]):
        save(tmp_path / "images" / row[4], seed)
    header = "patientid,offset,finding,view,modality,folder,filename,clinical_notes,"  # the original ends so too
    write_csv(tmp_path / "metadata.csv", header, *(f'{p},0,{f},{v},{m},images,{n},"a, b",' for p, f, v, m, n in rows))
    result = import_dataset(tmp_path)
    found = by_name(result.table)
    assert result.layout == "covid-chestxray-dataset"
    assert {name[0]: (row["label"], row["view"], row["patient"]) for name, row in found.items()} == {
        "a": ("COVID-19", "PA", "ieee-2"),
        "b": ("COVID-19", "AP", "ieee-2"),
        "c": ("Pneumonia", "AP", "ieee-3"),
        "d": ("Normal", "PA", "ieee-4"),
        "e": ("Other", "PA", "ieee-5"),
    }
    assert found["a.png"]["group"] == found["b.png"]["group"] and len(set(result.table["group"])) == 4
    assert {entry.file: entry.reason for entry in result.skipped} == {
        "lateral.png": "view L, not frontal",
        "ct.png": "modality CT, not X-ray",
        "todo.png": "the finding is not stated",
        "absent.png": "the file is not there",
    }


def test_flat_findings_of_an_early_clone(tmp_path: Path) -> None:
    findings = {
        "COVID-19": "COVID-19", "COVID-19, ARDS": "COVID-19", "SARS": "Pneumonia", "Streptococcus": "Pneumonia",
        "ARDS": "Other", "No Finding": "Normal", "Pneumonia/Bacterial/E.Coli": "Pneumonia",
    }  # fmt: skip
    lines = []
    for seed, finding in enumerate(findings):
        save(tmp_path / "images" / f"{seed}.png", seed)
        lines.append(f'{seed},"{finding}",PA,X-ray,images,{seed}.png')
    write_csv(tmp_path / "metadata.csv", "patientid,finding,view,modality,folder,filename", *lines)
    found = by_name(import_dataset(tmp_path).table)
    assert {finding: found[f"{seed}.png"]["label"] for seed, finding in enumerate(findings)} == findings


def test_covid_cxnet(tmp_path: Path) -> None:
    folder = tmp_path / "chest_xray_images" / "covid19"
    for seed, name in enumerate(["001.jpeg", "260.jpg", "261.jfif", "262.png", "263.png"]):
        save(folder / name, seed)
    save(tmp_path / "chest_xray_images" / "normal" / "260.jpg", 7)
    write_csv(
        tmp_path / "metadata.csv",
        "filename,patient_id,sex,view,label",
        "260.jpg,10,male,PA,COVID-19",
        "261.jfif,10,male,,COVID-19",
        "263.png,11,male,L,COVID-19",
    )
    result = import_dataset(tmp_path)
    assert result.layout == "covid-cxnet" and [entry.file for entry in result.skipped] == ["263.png"]
    covid = by_name(result.table[result.table["label"] == "COVID-19"])
    assert {name: (row["patient"], row["view"]) for name, row in covid.items()} == {
        "001.jpeg": ("", ""),
        "260.jpg": ("cxnet-10", "PA"),
        "261.jfif": ("cxnet-10", ""),
        "262.png": ("", ""),
    }
    normal = result.table[result.table["label"] == "Normal"].iloc[0]
    assert normal["patient"] == "" and normal["group"] != covid["260.jpg"]["group"] == covid["261.jfif"]["group"]


@pytest.mark.parametrize("trailing", ["", ","])
def test_nih(tmp_path: Path, trailing: str) -> None:
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    write_csv(
        tmp_path / "Data_Entry_2017_v2020.csv",
        header,
        f"00000001_000.png,No Finding,0,1,58,M,PA,2682,2749,0.143,0.143{trailing}",
        f"00000001_001.png,Infiltration|Pneumonia,1,1,58,M,AP,2682,2749,0.143,0.143{trailing}",
        f"00000002_000.png,Pneumothorax,0,2,80,M,PA,2500,2048,0.171,0.171{trailing}",
        f"00000003_000.png,Mass,0,3,80,M,PA,2500,2048,0.171,0.171{trailing}",
    )
    save(tmp_path / "images_001" / "images" / "00000001_000.png", 0)
    save(tmp_path / "images_001" / "images" / "00000001_001.png", 1)
    save(tmp_path / "images_002" / "images" / "00000002_000.png", 2)
    result = import_dataset(tmp_path)
    assert result.layout == "nih"
    assert result.table[["label", "view", "patient", "findings"]].to_numpy().tolist() == [
        ["Normal", "PA", "nih-00000001", ""],
        ["Pneumonia", "AP", "nih-00000001", "Infiltration|Pneumonia"],
        ["Other", "PA", "nih-00000002", "Pneumothorax"],
    ]
    assert [entry.file for entry in result.skipped] == ["00000003_000.png"]
    assert result.table["group"].nunique() == 2


def test_what_fits_nothing_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"chest_xray_images.*COVID/images.*one per class"):
        import_dataset(tmp_path)
    with pytest.raises(DatasetError, match="choose auto"):
        import_dataset(tmp_path, "imagenet")
    with pytest.raises(DatasetError, match=r"a metadata\.csv"):
        import_dataset(tmp_path, "covid-chestxray-dataset")
    with pytest.raises(DatasetError, match="no folder"):
        import_dataset(tmp_path / "absent")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DatasetError, match="No radiograph"):
        import_dataset(tmp_path)


def test_identical_files_are_kept_once_and_contradictions_not_at_all(tmp_path: Path) -> None:
    save(tmp_path / "A" / "1.png", 0)
    save(tmp_path / "A" / "2.png", 0)
    save(tmp_path / "A" / "3.png", 1)
    save(tmp_path / "B" / "4.png", 1)
    save(tmp_path / "B" / "5.png", 2)
    result = import_dataset(tmp_path)
    assert sorted(by_name(result.table)) == ["1.png", "5.png"]
    assert {Path(entry.file).name for entry in result.skipped} == {"2.png", "3.png", "4.png"}
    assert sum("dropped" in note for note in result.notes) == 2


def test_a_chain_of_patients_copies_and_identical_files_is_one_group(tmp_path: Path) -> None:
    """a and b are one patient, c is a copy of b, and d, of c's patient, is in one group with a; so is e by its bytes."""
    header = "Image Index,Finding Labels,Patient ID"
    rows = [("a", 1, 0), ("b", 1, 1), ("c", 2, 1), ("d", 2, 2), ("e", 3, 2), ("f", 3, 3), ("g", 4, 4)]
    write_csv(
        tmp_path / "Data_Entry_2017.csv", header, *(f"{name}.png,No Finding,{patient}" for name, patient, _ in rows)
    )
    for name, _, seed in rows:
        pixels = COPIES["gamma"](PHANTOMS[seed]) if name == "c" else None
        save(tmp_path / "images" / f"{name}.png", seed, pixels)
    found = by_name(import_dataset(tmp_path).table)
    assert sorted(found) == ["a.png", "b.png", "c.png", "d.png", "f.png", "g.png"]  # e is d again
    assert len({found[f"{name}.png"]["group"] for name in "abcdf"}) == 1
    assert found["g.png"]["group"] != found["a.png"]["group"]
    apart = by_name(import_dataset(tmp_path, copies=False).table)
    assert apart["a.png"]["group"] != apart["d.png"]["group"]


# ---------------------------------------------------------------------------------------------------------- manifests


def test_import_write_and_read_again(tmp_path: Path) -> None:
    save(tmp_path / "data" / "A" / "1.png", 0)
    save(tmp_path / "data" / "B" / "2, ä.png", 1)
    table = import_dataset(tmp_path / "data").table
    for manifest, files in {
        tmp_path / "manifest.csv": ["data/A/1.png", "data/B/2, ä.png"],
        tmp_path / "new" / "manifest.csv": [str(tmp_path.resolve() / f) for f in ("data/A/1.png", "data/B/2, ä.png")],
    }.items():
        write_manifest(table, manifest)
        again = read_manifest(manifest)
        assert [Path(f).as_posix() for f in again["file"]] == [Path(f).as_posix() for f in files]
        assert again.drop(columns="file").equals(table.drop(columns="file"))
        assert os.listdir(manifest.parent).count("manifest.csv") == 1
        assert not [name for name in os.listdir(manifest.parent) if name.startswith(".cxnet")]
    assert len(read_manifest(tmp_path / "manifest.csv", ("A",))) == 1
    assert len(read_manifest(tmp_path)) == 2  # the folder of a manifest stands for it


def test_a_folder_per_class_is_read_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "Normal" / "1.png", 0)
    save(tmp_path / "Pneumonia" / "2.png", 0)
    table = read_manifest(tmp_path)
    assert list(table["label"]) == ["Normal", "Pneumonia"] and table["group"].nunique() == 2
    assert all((tmp_path / file).is_file() for file in table["file"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="one per class"):
        read_manifest(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no table"),
        ("file,label\na.png,x\n", "lacks the column.* group"),
        ("file,label,group\na.png,,1\n", "without a label, the first is line 2"),
        ("file,label,group\na.png,x,1\nb.png,x,2\n", "1 pictures .* b.png"),
        ("file,label,group\na.png,y,1\n", "no case of x; its labels are y"),
    ],
)
def test_manifests_that_lack_something_say_what(tmp_path: Path, text: str, words: str) -> None:
    save(tmp_path / "a.png", 0)
    (tmp_path / "manifest.csv").write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=words):
        read_manifest(tmp_path / "manifest.csv", ("x",))
    with pytest.raises(DatasetError, match="no manifest"):
        read_manifest(tmp_path / "absent.csv")
    with pytest.raises(DatasetError, match="needs the column"):
        write_manifest(pd.DataFrame({"file": ["a.png"]}), tmp_path / "out.csv")


def test_the_checksum_is_what_its_definition_says_and_moves_with_the_data(tmp_path: Path) -> None:
    first, second = save(tmp_path / "in" / "a.png", 0), save(tmp_path / "out" / "b.png", 1)
    table = pd.DataFrame({"file": ["a.png", str(second)], "label": ["ä", "y"], "group": ["1", "2"]})
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
    lines = [f'["a.png", "\\u00e4", "1", "{digests[0]}"]', f'["b.png", "y", "2", "{digests[1]}"]']
    checksum = dataset_checksum(table, tmp_path / "in")
    assert checksum == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert dataset_checksum(table.iloc[::-1], tmp_path / "in") == checksum
    (tmp_path / "in").rename(tmp_path / "moved")
    assert dataset_checksum(table, tmp_path / "moved") == checksum
    for column, value in (("label", "z"), ("group", "9")):
        assert dataset_checksum(table.assign(**{column: value}), tmp_path / "moved") != checksum
    save(tmp_path / "moved" / "a.png", 2)
    assert dataset_checksum(table, tmp_path / "moved") != checksum
    second.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        dataset_checksum(table, tmp_path / "moved")


# -------------------------------------------------------------------------------------------------------------- folds


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20))
def test_a_group_in_two_folds_is_refused_and_nothing_else(cases: list[tuple[int, int]]) -> None:
    table = pd.DataFrame({"group": [str(group) for group, _ in cases]}, index=range(50, 50 + len(cases)))
    fold = [side for _, side in cases]
    if len(set(cases)) == len({group for group, _ in cases}):
        check_groups(table, fold)
        check_groups(table, ["train" if side else "test" for side in fold])
    else:
        with pytest.raises(DatasetError, match="stand in several folds"):
            check_groups(table, np.array(fold))


def test_one_fold_per_case() -> None:
    with pytest.raises(DatasetError, match="2 cases and 1 folds"):
        check_groups(pd.DataFrame({"group": ["1", "2"]}), [0])


def test_folds_are_those_of_scikit_learn_and_keep_groups() -> None:
    rng = np.random.default_rng(0)
    groups = [str(g) for g in rng.integers(0, 60, 200)]
    labels = [("a", "b", "c")[int(g) % 3] for g in groups]
    fold = grouped_folds(labels, groups, 4, seed=3)
    check_groups(pd.DataFrame({"group": groups}), fold)
    splitter = StratifiedGroupKFold(4, shuffle=True, random_state=3)
    for number, (_, test) in enumerate(splitter.split(labels, labels, groups)):
        assert np.array_equal(np.flatnonzero(fold == number), test)
    with pytest.raises(DatasetError, match="use fewer folds"):
        grouped_folds(["a"] * 6 + ["b"] * 3, [*"123456", *"777"], 3)


# ---------------------------------------------------------------------------------------------------------- real data


def test_copies_of_real_radiographs_are_found_and_others_are_not(data_folder: Path) -> None:
    """NIH pictures of different patients are never copies; copies made of them always are."""
    with open(data_folder / "cxr" / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "nih-cxr14"]
    patients = list({row["patient"]: row for row in rows}.values())[:250]
    pixels = [cv2.imread(str(data_folder / "cxr" / row["file"]), cv2.IMREAD_GRAYSCALE) for row in patients]
    thumbnails = [thumbnail(p) for p in pixels]
    assert similar_pairs(thumbnails, workers=2) == ()
    names = list(COPIES)
    for place, p in enumerate(pixels):
        copy = thumbnail(COPIES[names[place % len(names)]](p))
        assert len(similar_pairs([thumbnails[place], copy])) == 1, (patients[place]["file"], names[place % len(names)])
