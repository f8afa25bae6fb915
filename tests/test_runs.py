"""The run store: what is written is what is read, and what is damaged is refused with a reason."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxnet import runs
from cxnet.__main__ import main
from cxnet.errors import CxnetError, DatasetError, SettingsError
from cxnet.statistics import check_folds

CLASSES = ("COVID-19", "Normal", "Pneumonia")


def table(cases: int, first: int = 0, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), cases)
    columns = {
        "case": [f"{first + n:064x}" for n in range(cases)],
        "group": [f"g{(first + n) // 2}" for n in range(cases)],
        "source": rng.choice(["a", "b"], cases),
        "true": rng.choice(CLASSES, cases),
        "predicted": np.array(CLASSES)[probabilities.argmax(1)],
        **{f"probability {name}": probabilities[:, i] for i, name in enumerate(CLASSES)},
        "map": [runs.pack_map(np.full((2, 3), first + n)) for n in range(cases)],
        "lungs": [runs.pack_lungs(np.arange(4096).reshape(64, 64) % (n + 2) == 0) for n in range(cases)],
    }
    return pd.DataFrame(columns)


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    info = {"classes": list(CLASSES), "map_shape": [2, 3]}
    return runs.write_run(tmp_path / "one", info, {0: table(2100), 1: table(40, 2100, 1)})


def test_what_is_written_is_read(run: runs.Run) -> None:
    assert run.name == "one" and run.folds == (0, 1) and run.classes == CLASSES and runs.check(run) == []
    whole = run.results()
    assert len(whole) == 2140 and len(run.results(1)) == 40 and "map" not in whole.columns
    pd.testing.assert_frame_equal(
        run.results(0)[["case", "true", "predicted", "source"]], table(2100)[["case", "true", "predicted", "source"]]
    )
    np.testing.assert_array_equal(
        run.probabilities(run.results(1)), table(40, 2100, 1)[[f"probability {c}" for c in CLASSES]].to_numpy()
    )


def test_maps_are_those_of_their_cases_across_row_groups_and_folds(run: runs.Run) -> None:
    rows = run.results().iloc[[2120, 5, 1999, 2000, 999, 1000, 2139]]
    found = run.pictures(rows)
    for (heatmap, lungs), (_, row) in zip(found, rows.iterrows(), strict=True):
        number = int(row["case"], 16)
        assert heatmap is not None and lungs is not None
        assert heatmap.shape == (2, 3) and (heatmap == np.float16(number)).all()
        within = number if number < 2100 else number - 2100
        np.testing.assert_array_equal(lungs, np.arange(4096).reshape(64, 64) % (within + 2) == 0)


@given(st.integers(0, 2**32 - 1))
def test_lungs_survive_packing(seed: int) -> None:
    mask = np.random.default_rng(seed).random((64, 64)) < 0.3
    np.testing.assert_array_equal(runs.unpack_lungs(runs.pack_lungs(mask)), mask)


def test_a_run_is_never_changed(run: runs.Run) -> None:
    with pytest.raises(DatasetError, match="already"):
        runs.write_run(run.folder, {"classes": list(CLASSES)}, {0: table(4)})
    assert len(run.results()) == 2140


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        runs.write_run(tmp_path / "x", {"classes": list(CLASSES), "bad": float("nan")}, {0: table(4)})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SettingsError, match="free some space"):
        runs.write_run(tmp_path / "x", {"classes": list(CLASSES)}, {0: table(4)})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="check path"):
        runs.write_run(tmp_path / "file" / "x", {"classes": list(CLASSES)}, {0: table(4)})


@pytest.mark.parametrize("name", ["A", "a b", ".x", "x" * 81, "ä"])
def test_names_that_cannot_be_folders_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError):
        runs.write_run(tmp_path / "in" / name, {"classes": list(CLASSES)}, {0: table(4)})


def test_a_changed_file_is_noticed(run: runs.Run) -> None:
    table(39, 2100, 5).to_parquet(run.path(1))
    assert any("checksum" in sentence for sentence in runs.check(runs.open_run(run.folder)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "run.json").unlink(), "run.json is missing"),
        (lambda f: (f / "run.json").write_text("{"), "cannot be understood"),
        (lambda f: (f / "run.json").write_text("[1]"), "cannot be understood"),
        (lambda f: (f / "run.json").write_text('{"schema": 99, "classes": ["a"], "folds": []}'), "schema 99"),
        (lambda f: (f / "run.json").write_text('{"schema": 1, "classes": ["a"], "folds": [7]}'), "cannot be understood"),
        (lambda f: (f / "fold-1.parquet").unlink(), "fold-1.parquet is missing"),
        (lambda f: (f / "fold-1.parquet").write_bytes(b"PAR1 no parquet PAR1"), "fold-1.parquet cannot be read"),
        (lambda f: pd.DataFrame({"x": [1]}).to_parquet(f / "fold-0.parquet"), "lacks"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_refused_in_one_sentence_and_the_others_still_list(run: runs.Run, damage, said: str) -> None:
    runs.write_run(run.folder.with_name("two"), {"classes": list(CLASSES)}, {0: table(4)})
    damage(run.folder)
    with pytest.raises(CxnetError) as caught:
        _ = runs.open_run(run.folder).table
    assert said in str(caught.value) and "\n" not in str(caught.value)
    found, problems = runs.list_runs(run.folder.parent)
    assert "two" in [r.name for r in found]
    assert len(problems) <= 1


def test_an_unknown_class_in_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Pneumonia"):
        _ = runs.write_run(tmp_path / "x", {"classes": ["COVID-19", "Normal"]}, {0: table(40)}).table


def test_overlapping_folds_are_told(tmp_path: Path) -> None:
    both = {0: table(20), 1: table(20, 19)}
    problems = runs.check(runs.write_run(tmp_path / "x", {"classes": list(CLASSES)}, both))
    assert any("more than one row" in p for p in problems) and any("more than one fold" in p for p in problems)


def write_csv(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_import_of_probabilities(tmp_path: Path) -> None:
    source = write_csv(
        tmp_path / "p.csv",
        "case,fold,true,probability_a,probability_b\n1,0,a,0.7,0.3\n2,0,b,0.6,0.4\n3,1,b,0.1,0.9\n",
    )
    run = runs.import_predictions(source, tmp_path / "theirs", note="by hand")
    assert run.results()["predicted"].tolist() == ["a", "a", "b"] and run.folds == (0, 1)
    np.testing.assert_allclose(run.probabilities(run.results()), [[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    assert run.pictures(run.results()) == [(None, None)] * 3
    assert run.info["imported_from"] == "p.csv" and runs.check(run) == []


def test_the_command_imports_and_shows_a_run_without_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_csv(tmp_path / "p.csv", "case,true,predicted\n1,a,b\n2,b,b\n")
    assert main(["runs", "import", str(source), "--out", str(tmp_path / "theirs")]) == 0
    assert "accuracy: 0.500\n" in capsys.readouterr().out  # without an interval: nobody knows whose cases they are
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    for command in ("show", "check"):
        assert main(["runs", command, "theirs"]) == 0
    assert main(["runs", "list"]) == 0
    assert "theirs" in capsys.readouterr().out
    assert main(["runs", "show", "nobody"]) == 2


def test_import_of_decisions_without_folds(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "p.csv", "case,true,predicted,source\n1,a,b,x\n2,b,b,y\n")
    run = runs.import_predictions(source, tmp_path / "theirs", classes=("b", "a"))
    assert run.classes == ("b", "a") and run.folds == (0,) and run.probabilities(run.results()) is None
    assert run.results()["source"].tolist() == ["x", "y"]


@pytest.mark.parametrize("missing", ["NA", "n/a", "NaN", " null ", "None", "none", ""])
def test_import_takes_spellings_of_nothing_for_unknown(tmp_path: Path, missing: str) -> None:
    rows = [f"{n},{n % 2},{'None' if n % 3 else 'NA'},NA,{missing},{missing},{missing}" for n in range(12)]
    rows[0] = "NA,0,NA,None,p,x,PA"  # a case and classes may be called so
    text = "\n".join(["case,fold,true,predicted,group,source,view", *rows])
    run = runs.import_predictions(write_csv(tmp_path / "p.csv", text + "\n"), tmp_path / "theirs")
    table = run.results()
    assert run.classes == ("NA", "None") and "NA" in set(table["case"]) and set(table["predicted"]) == {"NA", "None"}
    for column, known in (("group", "p"), ("source", "x"), ("view", "PA")):
        assert sorted(table[column]) == [""] * 11 + [known]
    assert runs.check(run) == []
    reason = check_folds(table).intervals_reason
    assert reason == "some patients are not known"


def test_unknown_patients_cross_no_folds(tmp_path: Path) -> None:
    """Nor do those of a run that was stored with "NA" in it."""
    for number, blank in enumerate(("", None, "NA", float("nan"))):
        parts = {fold: table(6, 6 * fold).drop(columns=["map", "lungs"]) for fold in (0, 1)}
        for part in parts.values():
            part["group"] = part["group"].astype(object)
            part.loc[:2, "group"] = blank
        assert runs.check(runs.write_run(tmp_path / f"r{number}", {"classes": list(CLASSES)}, parts)) == []
        for part in parts.values():
            part.loc[3, "group"] = "the same"
        (problem,) = runs.check(runs.write_run(tmp_path / f"s{number}", {"classes": list(CLASSES)}, parts))
        assert problem.startswith("1 groups are in more than one fold")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,true\n1,a\n", "lacks the column"),
        ("case,true,predicted\n", "no row"),
        ("", "cannot be read"),
        ("case,true,predicted\n1,a,a\n", "only the class"),
        ("case,true,predicted\n,a,b\n", "without a case id"),
        ("case,true,probability_a,probability_b\n1,a,x,0.5\n", "Row 2"),
        ("case,true,probability_a,probability_b\n1,a,0.9,0.5\n", "Row 2"),
        ("case,true,probability_a,probability_b\n1,c,0.5,0.5\n", "one column a class"),
        ("case,true,predicted,fold\n1,a,b,one\n", "whole number"),
        ("case,true,predicted,fold\n1,a,b,1.5\n", "whole number"),
    ],
)
def test_import_of_what_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        runs.import_predictions(write_csv(tmp_path / "p.csv", text), tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_run_json_names_its_schema_and_checksums(run: runs.Run) -> None:
    info = json.loads((run.folder / "run.json").read_text())
    assert info["schema"] == runs.SCHEMA
    assert [fold["sha256"] for fold in info["folds"]] == [runs.sha256(run.path(fold)) for fold in run.folds]
