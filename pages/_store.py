"""Which stored runs there are, and where the radiographs of their cases lie. No network is loaded here.

Two environment variables of the server say where to look beside the product's own runs:

CXNET_RUNS     folders of runs, separated like a PATH
CXNET_IMAGES   folders of radiographs, separated like a PATH; a case's file is looked for below each of them

A file is shown only if its sha256 is the case's id, so that neither a stale copy nor another file can pass for it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import streamlit as st

from cxnet import runs
from cxnet.errors import CxnetError
from cxnet.radiograph import Radiograph, read_radiograph


def image_folders() -> list[Path]:
    """Folders that are searched for radiographs."""
    return [Path(entry).expanduser() for entry in os.environ.get("CXNET_IMAGES", "").split(os.pathsep) if entry]


def listing() -> tuple[dict[str, runs.Run], list[str]]:
    """All runs by name (the first folder wins), and a sentence for each that cannot be opened."""
    found: dict[str, runs.Run] = {}
    problems: list[str] = []
    for root in runs.folders():
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            stored = folder / "run.json"
            if folder.name.startswith(".") or folder.name in found or not stored.is_file():
                continue
            try:
                found[folder.name] = _opened(str(folder), stored.stat().st_mtime_ns)
            except CxnetError as error:
                problems.append(str(error))
    return found, problems


@st.cache_resource(max_entries=64, show_spinner=False)
def _opened(folder: str, changed_ns: int) -> runs.Run:
    """One object a run for all sessions: its table is read once. Treated as read-only."""
    return runs.open_run(Path(folder))


def image_path(file: object, case: str) -> Path | None:
    """Where the radiograph of a case lies, if it is at hand and unchanged."""
    if not isinstance(file, str):
        return None
    for root in image_folders():
        path = root / file
        try:
            there = root.resolve() in path.resolve().parents and path.is_file()
        except (OSError, ValueError):  # no name that a file can have
            continue
        if there and _checksum(str(path), path.stat().st_mtime_ns) == case:
            return path
    return None


@st.cache_data(max_entries=200_000, show_spinner=False)
def _checksum(path: str, changed_ns: int) -> str:
    return runs.sha256(Path(path))


def radiograph(file: object, case: str) -> Radiograph | None:
    """The radiograph of a case, decoded; None if it is not at hand.

    Raises
    ------
    CxnetError
        If the file cannot be used as a radiograph.
    """
    path = image_path(file, case)
    return None if path is None else read_radiograph(path.read_bytes())


def say_unknown_run(found: Collection[str], what: str) -> None:
    """Say so if the URL names a run that is not among these; the page then shows the first."""
    asked = st.query_params.get("run")
    if asked is not None and asked not in found:
        st.warning(f"The link names a run that {what}; another is shown.", icon=":material/link_off:")
