"""Trained weights: the manifest that describes them, and files that are used only if their checksum fits.

A network is one of ``weights/manifest.toml``, or a fold of a stored run, called ``<run>/fold-<k>``.

``weights/manifest.toml`` has one table per network. Each network is stored twice, with the same half-precision
values: ``<name>.npz`` (Keras variables by path: train on, convert, inspect) and ``<name>.xml`` + ``<name>.bin``
(OpenVINO: starts in a fraction of a second, without TensorFlow). Neither form can run code when it is read.
"""

from __future__ import annotations

import io
import struct
import tokenize
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.architectures import ARCHITECTURES, REGIONS, Architecture, Region
from cxnet.enhance import Enhancement
from cxnet.errors import DatasetError, WeightsError
from cxnet.runs import Run, find_run, sha256
from cxnet.writing import write_files

FOLDER = Path(__file__).resolve().parent.parent / "weights"


@dataclass(frozen=True)
class Card:
    """What is known about one set of weights: one table of the manifest, or one fold of a run.

    `sha256` is that of the trainable file and names the model wherever a number is reported. `held_out` holds
    what was measured on cases that the network was not trained on; `run` names the stored run and its fold where each
    of these cases can be seen. `region` says what of a radiograph the network is shown, `stem` how its files begin.
    """

    name: str
    title: str
    architecture: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    input_size_px: int
    scaling: str
    feature_layer: str | None
    trained_on: str
    training_run: str
    licence: str
    files: Mapping[str, str]
    held_out: Mapping[str, Any]
    folder: Path
    stem: str
    region: Region
    enhancement: Enhancement
    run: tuple[str, int] | None

    @property
    def sha256(self) -> str:
        return self.files[f"{self.stem}.npz"]

    @property
    def recipe(self) -> Architecture:
        """The architecture's row of :data:`cxnet.architectures.ARCHITECTURES`."""
        return ARCHITECTURES[self.architecture]

    def path(self, suffix: str) -> Path:
        """Path of one of the files (".npz", ".xml", ".bin") after checking its sha256.

        Raises
        ------
        WeightsError
            If the file is missing or its checksum differs from the manifest's.
        """
        name = f"{self.stem}{suffix}"
        path = self.folder / name
        if not path.is_file():
            raise WeightsError(f"The weights file {name} is missing; restore it from the repository.")
        if sha256(path) != self.files.get(name):
            raise WeightsError(
                f"The weights file {name} does not match the checksum that was stored with it, so it was changed or "
                "damaged; restore it from where it came."
            )
        return path


@cache
def cards(folder: Path = FOLDER) -> Mapping[str, Card]:
    """All cards of the manifest by name.

    Raises
    ------
    WeightsError
        If the manifest is missing or cannot be understood.
    """
    try:
        tables = tomllib.loads((folder / "manifest.toml").read_text("utf-8"))
        found = {name: _card(name, table, folder) for name, table in tables.items()}
    except FileNotFoundError:
        raise WeightsError(f"There is no manifest.toml in {folder}; restore it from the repository.") from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise WeightsError(f"weights/manifest.toml cannot be understood ({error}); restore it.") from error
    return MappingProxyType(found)


def _card(name: str, table: dict[str, Any], folder: Path) -> Card:
    if table["architecture"] not in ARCHITECTURES:
        raise KeyError(f"architecture {table['architecture']!r} is unknown")
    if table.get("region", "full") not in REGIONS:
        raise KeyError(f"region {table['region']!r} is unknown")
    return Card(
        name=name,
        title=table["title"],
        architecture=table["architecture"],
        classes=tuple(table["classes"]),
        channels=tuple(table["channels"]),
        input_size_px=int(table["input_size_px"]),
        scaling=table["scaling"],
        feature_layer=table.get("feature_layer"),
        trained_on=table["trained_on"],
        training_run=table["training_run"],
        licence=table["licence"],
        files=MappingProxyType(dict(table["files"])),
        held_out=MappingProxyType(dict(table.get("held_out", {}))),
        folder=folder,
        stem=name,
        region=table.get("region", "full"),
        enhancement=ARCHITECTURES[table["architecture"]].enhancement,
        run=(table["run"], int(table["fold"])) if "run" in table else None,
    )


def fold_card(run: Run, fold: int) -> Card:
    """The card of the network that was trained for one fold of a run.

    Raises
    ------
    WeightsError
        If the run came without that fold's weights, or is of an architecture that is not known here.
    """
    info, stem = run.info, f"fold-{fold}"
    told: dict[str, Any] = next((entry for entry in info["folds"] if entry["number"] == fold), {})
    files = told.get("files", {})
    if not (run.folder / f"{stem}.npz").is_file() or f"{stem}.npz" not in files:
        raise WeightsError(f"The run {run.name} came without the weights of its fold {fold}; choose another network.")
    row = ARCHITECTURES.get(str(info.get("architecture")))
    if row is None:
        raise WeightsError(
            f"The run {run.name} is of the architecture {info.get('architecture')!r}, which this version of cxnet does not "
            "know; use the version that made it."
        )
    dataset, cases = info.get("dataset", {}), int(told.get("cases", 0))
    trained = int(dataset.get("cases", cases)) - cases
    return Card(
        name=f"{run.name}/{stem}",
        title=f"{info.get('title', run.name)}, fold {fold}",
        architecture=info["architecture"],
        classes=run.classes,
        channels=tuple(info["channels"]),
        input_size_px=int(info["input_size_px"]),
        scaling=row.scaling,
        feature_layer=row.feature_layer,
        trained_on=f"{trained} radiographs of the other folds of the run {run.name}. {info.get('note', '')}".strip(),
        training_run=f"Recipe {info['recipe']}, {told.get('epochs', 0)} epochs, {told.get('seconds', 0) / 60:.0f} minutes.",
        licence=info.get("licence", "As its maker states."),
        files=MappingProxyType(dict(files)),
        held_out=MappingProxyType({"cases": cases}),
        folder=run.folder,
        stem=stem,
        region=info.get("region", "full"),
        enhancement=Enhancement(**info["enhancement"]),
        run=(run.name, fold),
    )


def network_of(run: Run, fold: int) -> Card:
    """The card of the network that answered a fold's cases: the fold's own, or the shipped one that was evaluated.

    Raises
    ------
    WeightsError
        If its weights are not at hand, or the shipped ones are others by now.
    """
    told = run.info.get("weights")
    if not told:
        return fold_card(run, fold)
    known = card(str(told["name"]))
    if told.get("sha256") not in (None, known.sha256):
        raise WeightsError(
            f"The run {run.name} was made by other weights than the {known.name!r} that is here; restore these."
        )
    return known


def card(name: str) -> Card:
    """The card of one network of the manifest or, called ``<run>/fold-<k>``, of a stored run.

    Raises
    ------
    WeightsError
        If there are no weights of that name.
    """
    known = cards()
    run, _, fold = name.partition("/fold-")
    if fold.isdecimal() and len(fold) < 9:
        try:
            return fold_card(find_run(run), int(fold))
        except DatasetError as error:
            raise WeightsError(str(error)) from error
    if name not in known:
        classifiers = ", ".join(key for key, found in known.items() if found.recipe.task == "classification")
        raise WeightsError(
            f"There are no weights called {name!r}; known are {classifiers}, and RUN/fold-K of a stored run."
        )
    return known[name]


#: What NumPy and its zip reader raise on a malformed file.
_UNREADABLE = (
    ValueError, OSError, EOFError, LookupError, TypeError, AttributeError, RuntimeError, SyntaxError, MemoryError,
    OverflowError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """The variables of a ``.npz`` weights file as float32 arrays by Keras path; nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key].astype(np.float32) for key in archive.files}
    except _UNREADABLE as error:
        raise WeightsError(f"The weights file {path.name} cannot be read; restore it from the repository.") from error


def half_precision(array: NDArray[Any]) -> NDArray[Any]:
    """Kernels as float16; vectors (biases, batch norm) stay float32, where half precision could underflow."""
    return array.astype(np.float16 if array.ndim > 1 else np.float32)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write variables to a ``.npz`` weights file, kernels in half precision; it is whole or not there.

    Raises
    ------
    SettingsError
        If it cannot be written.
    """
    file = io.BytesIO()
    np.savez(file, **{key: half_precision(np.asarray(value)) for key, value in arrays.items()})  # type: ignore[arg-type]
    write_files(path.parent, {path.name: file.getvalue()})


def assign(model: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Set all variables of a Keras model from arrays by path.

    Raises
    ------
    WeightsError
        If a variable is missing or has another shape; the model is then unchanged.
    """
    for variable in model.weights:
        array = arrays.get(variable.path)
        if array is None or tuple(array.shape) != tuple(variable.shape):
            shape = None if array is None else tuple(array.shape)
            raise WeightsError(
                f"The weights do not fit the network: {variable.path} expected {tuple(variable.shape)}, received {shape}."
            )
    for variable in model.weights:
        variable.assign(arrays[variable.path])


def keras_model(card: Card, activation: str | None = None) -> Any:
    """The Keras model of a card with its weights; `activation` None gives logits. Imports Keras."""
    recipe = card.recipe
    options: dict[str, Any] = {"input_size_px": card.input_size_px}
    if recipe.task == "classification":
        options |= {"outputs": len(card.classes), "activation": activation}
    model = recipe.build(**options)
    assign(model, read_arrays(card.path(".npz")))
    return model
