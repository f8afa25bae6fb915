"""From a downloaded collection to a manifest whose groups keep patients and copies together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxnet.dataset.duplicates import THRESHOLD, Fingerprint, Progress, fingerprints, joined, similar_pairs
from cxnet.dataset.layouts import COLUMNS, LAYOUTS, Skipped, find_layout
from cxnet.errors import DatasetError


@dataclass(frozen=True, eq=False)
class ImportResult:
    """What was found in a collection.

    Parameters
    ----------
    table : DataFrame
        ``file`` (absolute), ``label``, ``group``, ``source``, ``view``, ``patient``, ``findings`` and ``lung_mask``
        (absolute); str, empty where unknown.
    layout : str
        The layout that was read.
    notes : tuple of str
        What a user of the table should know, a sentence each.
    skipped : tuple of Skipped
        Files and rows that were left out, each with its reason.
    """

    table: pd.DataFrame
    layout: str
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def import_dataset(
    source: Path,
    layout: str = "auto",
    *,
    copies: bool = True,
    threshold: float = THRESHOLD,
    workers: int = 1,
    progress: Progress | None = None,
) -> ImportResult:
    """Read a collection of radiographs as it was published.

    Parameters
    ----------
    source : Path
        Its folder, or one that holds nothing but its folder.
    layout : str
        A key of :data:`cxnet.dataset.LAYOUTS`, or "auto".
    copies : bool
        Look for near-duplicates. Its time grows with the square of the pictures; leave it out for 100,000.
    threshold : float
        Similarity from which two pictures are copies, see :mod:`cxnet.dataset.duplicates`.
    workers : int
        As of :func:`cxnet.dataset.near_duplicates`.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    ImportResult
        Pictures of one patient, byte-identical files, near-duplicates, and what these join, share a group. Of
        byte-identical files the first is kept, or none where their labels differ.

    Raises
    ------
    DatasetError
        If no layout fits or no picture is left.
    """
    name, root = find_layout(source, layout)
    listing = LAYOUTS[name].read(root)
    notes = [f"Layout: {name}." if layout != "auto" else f"Layout: {name}, found by {LAYOUTS[name].looked_for}."]
    notes += listing.notes
    skipped = list(listing.skipped)

    found = fingerprints([Path(row["file"]) for row in listing.rows], workers=workers, progress=progress)
    rows: list[dict[str, str]] = []
    prints: list[Fingerprint] = []
    for row, print_ in zip(listing.rows, found, strict=True):
        if isinstance(print_, str):
            skipped.append(Skipped(row["file"], print_))
        else:
            rows.append(row)
            prints.append(print_)

    edges: list[tuple[int, int]] = []
    by_patient: dict[str, int] = {}
    by_content: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row["patient"]:
            edges.append((by_patient.setdefault(row["patient"], place), place))
        by_content.setdefault(prints[place].sha256, []).append(place)
    # Joined before any is dropped, so that the patients of all its occurrences are joined too.
    edges += [(places[0], place) for places in by_content.values() for place in places[1:]]
    kept = _without_copies(rows, by_content, skipped, notes)
    if not kept:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in _reasons(skipped).most_common(3))
        raise DatasetError(
            f"No radiograph of {Path(source).name} can be used as layout {name} ({reasons or 'no pictures found'}); "
            "check that the pictures are there."
        )
    if copies:
        pairs = similar_pairs(
            [prints[place].thumbnail for place in kept], threshold=threshold, workers=workers, progress=progress
        )
        near = [(kept[pair.first], kept[pair.second]) for pair in pairs]
        edges += near
        if near:
            notes.append(f"{len(near)} pair(s) of near-duplicates share their group.")
        differing = [(a, b) for a, b in near if rows[a]["label"] != rows[b]["label"]]
        if differing:
            a, b = (Path(rows[place]["file"]).name for place in differing[0])
            notes.append(
                f"{len(differing)} pair(s) of near-duplicates have different labels, the first is {a} and {b}; "
                "look at them."
            )
    else:
        notes.append("Near-duplicates were not looked for.")
    group = joined(len(rows), edges)
    # The layout's name keeps groups apart when manifests are put together.
    table = pd.DataFrame([rows[place] | {"group": f"{name}-{group[place]}"} for place in kept], columns=list(COLUMNS))
    notes += [f"{count} left out: {reason}." for reason, count in _reasons(listing.skipped).most_common()]
    return ImportResult(table, name, tuple(notes), tuple(skipped))


def _without_copies(
    rows: list[dict[str, str]], by_content: dict[str, list[int]], skipped: list[Skipped], notes: list[str]
) -> list[int]:
    """Places of the rows that stay once byte-identical files are dropped."""
    dropped: set[int] = set()
    repeats = contradictions = 0
    for places in by_content.values():
        if len(places) == 1:
            continue
        if len({rows[place]["label"] for place in places}) > 1:
            reason = "the same file stands elsewhere with another label"
            gone, contradictions = places, contradictions + len(places)
        else:
            reason = f"the same file as {rows[places[0]]['file']}"
            gone, repeats = places[1:], repeats + len(places) - 1
        dropped.update(gone)
        skipped += [Skipped(rows[place]["file"], reason) for place in gone]
    if repeats:
        notes.append(f"{repeats} file(s) were dropped because the same bytes stand in the data set already.")
    if contradictions:
        notes.append(f"{contradictions} file(s) were dropped because the same bytes stand there with another label.")
    return [place for place in range(len(rows)) if place not in dropped]


def _reasons(skipped: list[Skipped] | tuple[Skipped, ...]) -> Counter[str]:
    return Counter(entry.reason for entry in skipped)
