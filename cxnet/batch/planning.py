"""What an audit of a run, a folder or a file has to do: which radiograph is shown to which network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cxnet.errors import DatasetError, SettingsError, WeightsError
from cxnet.runs import Run, folders, open_run, sha256
from cxnet.weights import Card, card, network_of
from cxnet.wrong_reasons import TIERS, Tier

SUFFIXES = frozenset({"", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".dcm", ".dicom"})
MOST_LIME_SEEDS = 20
#: The next step where a run cannot be audited.
_INSTEAD = "the folder of its radiographs instead, with a network that is here (--model)"


@dataclass(frozen=True)
class Task:
    """One radiograph to audit.

    Parameters
    ----------
    case : str
        sha256 of the file as it must be.
    path, file : str
        Where it lies, and its name below its folder.
    model, model_sha256 : str
        Name of the network, and the checksum that its weights must have.
    tier : {"full", "fast"}
    runs : str
        Folder of the run whose fold the network is; "" for a shipped network.
    known : tuple of (str, value)
        Columns that are known beforehand: fold, group, source, view, true.
    lime_seeds : int
        How often LIME explains it too, each time with other samples; 0 for not at all.
    """

    case: str
    path: str
    file: str
    model: str
    model_sha256: str
    tier: Tier
    runs: str = ""
    known: tuple[tuple[str, Any], ...] = ()
    lime_seeds: int = 0


@dataclass(frozen=True)
class Plan:
    """What there is to audit.

    Parameters
    ----------
    tasks : tuple of Task
        By network, then by case.
    classes : tuple of str
    notes : tuple of str
        What is left out and why, a sentence each.
    run : str or None
        Name of the run.
    stored : mapping of case to str
        The class that the run's table calls for each case.
    """

    tasks: tuple[Task, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    run: str | None
    stored: Mapping[str, str]


def plan(
    source: Path,
    images: Sequence[Path] = (),
    model: str | None = None,
    tier: Tier = "fast",
    *,
    lime_seeds: int = 0,
) -> Plan:
    """What an audit of a run, a folder or a file has to do.

    Parameters
    ----------
    source : Path
        A stored run or its name, a folder of radiographs (searched below, too) or one file.
    images : sequence of Path
        Where a run's radiographs lie: those that ``CXNET_IMAGES`` names when empty.
    model : str, optional
        For folders and files: "covid-cxnet" when left out. A run is asked through its own networks only.
    tier : {"fast", "full"}
    lime_seeds : int
        As :class:`Task` has it.

    Raises
    ------
    SettingsError
        If the tier is unknown, LIME cannot run so often, or a model is given for a run.
    WeightsError
        If there is no network to ask.
    DatasetError
        If there is nothing to audit.
    """
    if tier not in TIERS:
        raise SettingsError(f"There is no tier {tier!r}; choose fast or full.")
    if not 0 <= lime_seeds <= MOST_LIME_SEEDS:
        raise SettingsError(f"LIME can run with up to {MOST_LIME_SEEDS} seeds a case; received {lime_seeds}.")
    source = _named(Path(source))
    if (source / "run.json").is_file():
        if model is not None:
            raise SettingsError(
                "A run is audited with the networks that made it; leave --model out, or give the folder of its "
                "radiographs instead of the run."
            )
        found = _plan_run(open_run(source.resolve()), images, tier)
    else:
        found = _plan_files(source, model or "covid-cxnet", tier)
    return replace(found, tasks=tuple(replace(task, lime_seeds=lime_seeds) for task in found.tasks))


def _named(source: Path) -> Path:
    """The folder of the run of this name, unless something here is called so."""
    if source.exists() or source != Path(source.name):
        return source
    found = (root / source for root in folders() if (root / source / "run.json").is_file())
    return next(found, source)


def _networks(run: Run) -> tuple[dict[int, Card], list[str]]:
    """The network of each fold that has one, and why the others have none."""
    if not run.info.get("architecture") and not run.info.get("weights"):
        raise WeightsError(
            f"The run {run.name} stores answers but no network, so nothing can be asked again; audit {_INSTEAD}."
        )
    found, notes = {}, []
    for fold in run.folds:
        try:
            found[fold] = network_of(run, fold)
        except WeightsError as error:
            notes.append(str(error))
    if not found:
        raise WeightsError(notes[0])
    return found, notes


def _plan_run(run: Run, images: Sequence[Path], tier: Tier) -> Plan:
    networks, notes = _networks(run)
    table = run.table
    if "file" not in table.columns:
        raise DatasetError(
            f"The run {run.name} does not say which files its cases are, so they cannot be found; audit {_INSTEAD}."
        )
    roots = [Path(folder) for folder in images] or [
        Path(p).expanduser() for p in os.environ.get("CXNET_IMAGES", "").split(os.pathsep) if p
    ]
    if not roots:
        raise DatasetError("An audit asks the network again; say with --images DIR where the run's radiographs lie.")
    columns = [name for name in ("fold", "group", "source", "view", "true") if name in table.columns]
    tasks, absent = [], 0
    for row in table.to_dict("records"):
        network = networks.get(row["fold"])
        if network is None:
            continue
        path = _at_hand(roots, row["file"])
        if path is None:
            absent += 1
            continue
        known = tuple((name, _plain(row[name])) for name in columns)
        home = str(run.folder.parent) if network.folder == run.folder else ""
        tasks.append(
            Task(str(row["case"]), str(path), str(row["file"]), network.name, network.sha256, tier, home, known)
        )
    if absent:
        notes.append(f"The radiographs of {absent} of {len(table)} cases are not at hand.")
    if not tasks:
        raise DatasetError(
            f"None of the run's {len(table)} radiographs lies below {', '.join(map(str, roots))}; give --images the "
            "folder of the data set's manifest."
        )
    tasks.sort(key=lambda task: (task.model, task.case))
    stored = dict(zip(table["case"].astype(str), table["predicted"].astype(str), strict=True))
    return Plan(_once(tasks, notes), run.classes, tuple(notes), run.name, stored)


def _at_hand(roots: Sequence[Path], file: object) -> Path | None:
    """Where a run's file lies. Whether it is unchanged is seen when it is read."""
    if not isinstance(file, str):
        return None
    for root in roots:
        path = root / file
        if root.resolve() in path.resolve().parents and path.is_file():
            return path.resolve()
    return None


def _plain(value: Any) -> Any:
    """A cell of a table as JSON knows it; None for a missing one."""
    if value is None or value != value:
        return None
    return value.item() if isinstance(value, np.generic) else value


def _plan_files(source: Path, model: str, tier: Tier) -> Plan:
    network = card(model)
    if network.recipe.task != "classification":
        raise WeightsError(f"The weights {model!r} do not classify; choose a classification network.")
    if source.is_file():
        root, paths = source.parent, [source]
    elif source.is_dir():
        root = source
        paths = [p for p in sorted(source.rglob("*")) if p.is_file() and p.suffix.lower() in SUFFIXES]
        paths = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    else:
        raise DatasetError(
            f"There is neither a run nor a folder nor a file at {source}; give one that exists, or a name of "
            "`python -m cxnet runs list`."
        )
    if not paths:
        raise DatasetError(f"There is no radiograph in {source}; give a folder of PNG, JPEG, TIFF or DICOM files.")
    home = str(network.folder.parent) if network.run and network.stem != network.name else ""
    notes: list[str] = []
    tasks = []
    for path in paths:
        name = str(path.relative_to(root))
        try:
            tasks.append(Task(sha256(path), str(path.resolve()), name, network.name, network.sha256, tier, home))
        except OSError as error:
            notes.append(f"Left out, as it cannot be read ({error.strerror or type(error).__name__}): {name}.")
    if not tasks:
        raise DatasetError(f"No file of {source} can be read; see its permissions. {notes[0]}")
    tasks.sort(key=lambda task: (task.case, task.file))
    return Plan(_once(tasks, notes), network.classes, tuple(notes), None, {})


def _once(tasks: list[Task], notes: list[str]) -> tuple[Task, ...]:
    """Each pair of case and fold once."""
    found = {(task.case, dict(task.known).get("fold")): task for task in reversed(tasks)}
    if len(found) < len(tasks):
        notes.append(f"Left out as copies of other files: {len(tasks) - len(found)}.")
    return tuple(reversed(found.values()))
