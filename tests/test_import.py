"""Runs made of someone else's predictions: nothing is dropped, mixed up or stored by half without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxnet import batch, runs
from cxnet.__main__ import main
from cxnet.errors import DatasetError, SettingsError, WeightsError

DECISIONS = "case,true,predicted\n1,a,b\n2,b,b\n"


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "p.csv"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,fold,true,predicted\nx,0,a,a\ny,0,b,b\nx,1,a,b\n", r"Row 4 of p\.csv is of the case 'x' again; keep one"),
        ("case;true;predicted\n1;a;b\n", r"separated by semicolons \(';'\); save it with commas"),
        ("case;true;probability_a;probability_b\n1;a;0,2;0,8\n", "separated by semicolons"),
        ("case\ttrue\tpredicted\n1\ta\tb\n", "separated by tabs"),
        ("id,label,pred\n1,a,b\n", "but its columns are id, label, pred"),
        ("case,true,probability_a,probability_b\n1,a,0.9,0.8\n", r"Row 2 .* the sum 1\.7 instead of 1; only .* one class a case"),
        ("case,true,probability_a,probability_b\n1,a,-0.5,1.5\n", "Row 2 .* no numbers from 0 to 1"),
        ("case,true,probability_a,probability_b\n1,0,0.9,0.1\n", r"label '0' in true, which matches no column .*\(a, b\)"),
        ("case,true,predicted,probability_a,probability_b\n1,a,B,0.9,0.1\n", "label 'B' in predicted, which matches no"),
        ("case,true,predicted\n1,a,b,\n2,b,b,\n", "more fields than its first line"),
        ("case,true,probability_a,probability a,probability_b\n1,a,1,1,0\n", "column 'probability a' twice"),
        ("case,true,predicted\n1,,b\n2,b,b\n", "1 rows without a true class"),
        ("case,true,predicted,fold\n1,a,b,inf\n", "whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_told_by_its_cause_and_nothing_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        runs.import_predictions(write_csv(tmp_path, text), tmp_path / "theirs")
    assert main(["runs", "import", str(tmp_path / "p.csv"), "--out", str(tmp_path / "theirs")]) == 2
    assert capsys.readouterr().err == f"cxnet: {caught.value}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_a_file_that_is_not_there_is_not_called_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"There is no file .*none\.csv; give"):
        runs.import_predictions(tmp_path / "none.csv", tmp_path / "theirs")
    with pytest.raises(DatasetError, match="cannot be read as a CSV"):
        runs.import_predictions(tmp_path, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["a"], "'b' in true, which is not among the classes a; call it as"),
        (["a", "b", "a"], "not all different"),
    ],
)
def test_classes_that_cannot_be_are_refused_before_anything_is_stored(
    tmp_path: Path, classes: list[str], said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        runs.import_predictions(write_csv(tmp_path, DECISIONS), tmp_path / "theirs", classes)
    probable = "case,true,probability_a,probability_b\n1,a,0.9,0.1\n"
    with pytest.raises(DatasetError, match="one column a class"):
        runs.import_predictions(write_csv(tmp_path, probable), tmp_path / "theirs", ["a", "b", "c"])
    assert not (tmp_path / "theirs").exists()


def test_columns_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "case,true,predicted,heatmap,file, View angle\n1,a,b,h,1.png,3\n2,b,b,h,2.png,4\n"
    assert main(["runs", "import", str(write_csv(tmp_path, text)), "--out", str(tmp_path / "theirs")]) == 0
    assert capsys.readouterr().err == "cxnet: Columns of p.csv that are not used: heatmap, View angle.\n"
    said: list[str] = []
    runs.import_predictions(write_csv(tmp_path, DECISIONS), tmp_path / "plain", say=said.append)
    assert said == []


def test_decisions_against_the_probabilities_are_counted(tmp_path: Path) -> None:
    rows = [
        "1,a,b,0.9,0.1",
        "2,b,b,0.2,0.8",
        "3,a,a,0.5,0.5",
        "4,b,b,0.5,0.5",
        "5,b,a,0.4,0.6",
    ]  # ties are no contradiction
    text = "\n".join(["case,true,predicted,probability_a,probability_b", *rows])
    said: list[str] = []
    run = runs.import_predictions(write_csv(tmp_path, text), tmp_path / "theirs", note="By hand.", say=said.append)
    (sentence,) = said
    assert sentence.startswith("In 2 of 5 rows, predicted is not the class with the largest probability; both are kept")
    assert run.info["note"] == "By hand. In 2 of 5 rows, predicted is not the class with the largest probability."
    assert run.results()["predicted"].tolist() == ["b", "b", "a", "b", "a"]


def test_paths_may_be_text(tmp_path: Path) -> None:
    run = runs.import_predictions(str(write_csv(tmp_path, DECISIONS)), str(tmp_path / "theirs"))  # type: ignore[arg-type]
    found, problems = runs.list_runs(str(tmp_path))  # type: ignore[arg-type]
    assert [r.name for r in found] == [run.name] == ["theirs"] and problems == []


def test_an_imported_run_says_at_once_that_it_cannot_be_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXNET_IMAGES", raising=False)
    run = runs.import_predictions(write_csv(tmp_path, DECISIONS), tmp_path / "theirs")
    for images in ([], [tmp_path]):
        with pytest.raises(WeightsError, match=r"no network.*; audit the folder of its radiographs .*--model"):
            batch.plan(run.folder, images)
    with pytest.raises(SettingsError, match="or give the folder of its radiographs"):
        batch.plan(run.folder, model="covid-cxnet")


def test_what_holds_no_run_is_not_called_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", str(write_csv(tmp_path, DECISIONS))]) == 2
    assert "There is no run in" in capsys.readouterr().err
    assert main(["runs", "list", "--root", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["runs", "list", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "There is no run.\n"
