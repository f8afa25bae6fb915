"""Files that are whole or not there, whatever stops the writing."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxnet import analysis, report
from cxnet.errors import SettingsError
from cxnet.writing import refusal, write_files
from tests.test_hostile import files_of

OLD = {"a.json": b"old a", "b.png": b"old b", "other.txt": b"not ours"}
NEW = {"a.json": b"new a" * 1000, "b.png": b"new b" * 1000, "c.npz": b"new c" * 1000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in OLD.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def stop_at(patch: pytest.MonkeyPatch, nth: int, error: BaseException) -> None:
    """The `nth` file that is written gets half of its bytes, then the error."""
    whole, left = Path.write_bytes, [nth]

    def write_bytes(path: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0]:
            return whole(path, data)
        whole(path, data[: len(data) // 2])
        raise error

    patch.setattr(Path, "write_bytes", write_bytes)


@settings(max_examples=30)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}\.[a-z]{3}", fullmatch=True), st.binary(max_size=99), max_size=5))
def test_what_is_written_stands_there(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("written") / "made" / "for it"
    write_files(folder, files)
    assert files_of(folder) == files
    write_files(folder, dict.fromkeys(files, b"again"))
    assert files_of(folder) == dict.fromkeys(files, b"again")
    assert len(list(folder.iterdir())) == len(files)


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_files(tmp_path / "out", NEW)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_write_that_fails_midway_changes_nothing(folder: Path, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, nth, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(SettingsError) as caught:
        write_files(folder, NEW)
    told = f"{folder} cannot be read or written (No space left on device); free some space and try again."
    assert str(caught.value) == told
    assert files_of(folder) == OLD and len(list(folder.iterdir())) == len(OLD)


def test_a_folder_made_for_nothing_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 2, OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)))
    with pytest.raises(SettingsError, match="free some space"):
        write_files(folder / "new" / "newer", NEW)
    assert files_of(folder) == OLD and not (folder / "new").exists()


def test_a_user_who_stops_it_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_files(folder, NEW)
    assert files_of(folder) == OLD and len(list(folder.iterdir())) == len(OLD)


def test_a_limit_of_the_system_changes_nothing(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the third of these is the first that does not fit
    try:
        with pytest.raises(SettingsError, match="File too large"):
            write_files(folder, {"a.json": b"new", "b.png": b"new", "c.npz": bytes(5000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_of(folder) == OLD and len(list(folder.iterdir())) == len(OLD)


def test_a_process_that_is_killed_leaves_the_old_files(folder: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from cxnet.writing import write_files\n"
        "whole = pathlib.Path.write_bytes\n"
        "def write_bytes(path, data):\n"
        "    whole(path, data[:2])\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if path.name == 'b.png' else whole(path, data)\n"
        "pathlib.Path.write_bytes = write_bytes\n"
        "write_files(pathlib.Path(sys.argv[1]), {'a.json': b'new', 'b.png': b'new'})\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=Path(__file__).parents[1])
    assert ended.returncode == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == OLD


def test_a_folder_in_the_way_stops_all_files(folder: Path) -> None:
    (folder / "c.npz").mkdir()
    with pytest.raises(SettingsError, match=r"\(Is a directory\); check path and permissions"):
        write_files(folder, NEW)
    assert files_of(folder) == OLD and len(list(folder.iterdir())) == len(OLD) + 1


def test_a_file_where_the_folder_should_be_is_one_sentence(folder: Path) -> None:
    for place in (folder / "a.json", folder / "a.json" / "deeper"):
        with pytest.raises(SettingsError, match="check path and permissions"):
            write_files(place, NEW)
    assert files_of(folder) == OLD


def test_an_error_that_names_a_file_says_which() -> None:
    assert str(refusal(PermissionError(errno.EACCES, "Permission denied", "/x/y"))).startswith("/x/y cannot be read")
    assert str(refusal(OSError())).startswith("A file cannot be read or written (OSError); check path")


# ---------------------------------------------------------------------------------------- analyses and reports


@pytest.fixture(scope="module")
def analysed() -> analysis.Analysis:
    found = report.synthetic_radiograph("normal", 256)
    return analysis.analyse(found, analysis.load_models(), analysis.Settings(methods=("grad-cam",)))


@pytest.mark.parametrize(
    ("write", "name"), [(analysis.write, "analysis.json"), (report.write, report.HTML_NAME)], ids=["analysis", "report"]
)
def test_results_are_written_all_or_none(
    write: Callable[[analysis.Analysis, Path], None],
    name: str,
    analysed: analysis.Analysis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / name).write_bytes(b"earlier")
    with monkeypatch.context() as patch:
        stop_at(patch, 3, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(SettingsError, match="No space left on device"):
            write(analysed, tmp_path)
    assert files_of(tmp_path) == {name: b"earlier"} and len(list(tmp_path.iterdir())) == 1
    write(analysed, tmp_path)
    assert len(files_of(tmp_path)) >= 3 and (tmp_path / name).read_bytes() != b"earlier"
