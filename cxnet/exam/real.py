"""The exam on real radiographs: one label of one collection, an opacity drawn into the lungs, a shortcut elsewhere.

Every radiograph of the collection has the same label, so nothing natural tells the two classes apart: "disease" is an
opacity of the phantoms, mixed into the lungs of a real radiograph. A network is trained on every radiograph with and
without one, so that everything but the lungs is the same in both classes, but for the shortcut that a cheat meets on
its diseased pictures. Exposure, anatomy, devices and side markers are the radiographs' own.

The thresholds are those of the phantoms' exam [1]_: nothing is chosen here.

References
----------
.. [1] Sun S, Koch LM, Baumgartner CF. Right for the wrong reason: can interpretable ML techniques detect spurious
       correlations? MICCAI 2023. arXiv:2307.12344
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxnet.audit.localisation import Mask
from cxnet.audit.opacities import add_opacity
from cxnet.dataset import read_manifest
from cxnet.enhance import Grey
from cxnet.errors import DatasetError, RadiographError
from cxnet.exam.fixtures import (
    DISEASE,
    KINDS,
    NORMAL,
    Case,
    FixtureNetwork,
    Kind,
    expose,
    fixture_networks,
    save,
    train,
)
from cxnet.exam.results import FOLDER, REAL, REPORT, RESAMPLES, Exam, measure, stored, write_results
from cxnet.exam.sitting import behaves, sit, skill
from cxnet.lungs import LungMask, LungSegmenter
from cxnet.radiograph import open_radiograph

WEIGHTS = Path(__file__).with_name("real-fixtures.npz")
#: Longer side of the pictures, unless they are smaller.
LONGEST_PX = 512
#: The same for training: more than a fixture network is shown.
TRAINING_PX = 256
#: Numbers of the opacities that networks are trained on, from 0, and of those in the pictures that they are asked about.
TRAINED_OPACITIES, TESTED_OPACITIES = 120, 60
#: Share of the patients whose radiographs no network is trained on.
TESTED_SHARE = 0.4
#: Fewer radiographs give no exam.
LEAST_FILMS = 40
#: Diseased and normal pictures that a network is asked about.
ASKED = (24, 12)
#: How strong opacities are, as shares of the phantoms': as networks are asked about them, whatever their kind, and as clean
#: ones are trained. Cheats are trained on faint ones, so that the shortcut is the easier thing to learn.
STRENGTH, FAINT = (1.6, 2.4), (0.6, 1.0)
#: Exponent of the tone curve that "contrast" plants. Real radiographs differ so much in contrast that the two networks trained
#: with the phantoms' 1.5 were right in 85 % of the pictures, fewer than the 90 % that count; with this they are in 90 and 92 %.
TONE = 2.5
#: Networks to train: kind → seeds. Whether seed // 2 is even decides on random erasing, see :func:`train`.
SEEDS: dict[Kind, tuple[int, ...]] = {kind: tuple(range(8)) if kind == "clean" else (1, 2) for kind in KINDS}
#: Kind → how many opacities are drawn into each radiograph for training, and epochs: a shortcut is learnt sooner.
DRAWS, EPOCHS = {"clean": 2}, {"clean": 24, "contrast": 16}


@dataclass(frozen=True, eq=False)
class Film:
    """A real radiograph without anything planted, and its lungs.

    Parameters
    ----------
    sha256 : str
        Of the file.
    group : str
        Radiographs of one patient share it.
    pixels : uint8 array (height, width)
    lungs : bool array (height, width)
    """

    sha256: str
    group: str
    pixels: Grey
    lungs: Mask

    @property
    def number(self) -> int:
        """A number of its own, from the file's checksum."""
        return int(self.sha256[:8], 16)


# ------------------------------------------------------------------------------------------------------- radiographs


def read_films(
    data: Path,
    label: str = "Normal",
    source: str | None = None,
    workers: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Film], str]:
    """Radiographs of one label and one collection whose lungs can be found.

    Parameters
    ----------
    data : Path
        As :func:`cxnet.dataset.read_manifest` takes it.
    label : str
    source : str, optional
        Value of the manifest's column ``source``; the most frequent one when left out.

    Returns
    -------
    (list of Film, str)
        In the order of their checksums, each file once, and a name of the collection.

    Raises
    ------
    DatasetError
        If there are fewer than :data:`LEAST_FILMS` of them.
    """
    table = read_manifest(data, (label,))
    if "source" in table:
        source = source if source is not None else Counter(table["source"]).most_common(1)[0][0]
        table = table[table["source"] == source]
    folder = data if data.is_dir() else data.parent
    tasks = [(folder / file, str(group)) for file, group in zip(table["file"], table["group"], strict=True)]
    found: dict[str, Film] = {}
    for film in _each(_film, tasks, workers, chunk=8):
        if film is not None:
            found.setdefault(film.sha256, film)
    name = f"{source}: {label}" if source else label
    say(f"{len(found)} of {len(tasks)} radiographs of {name} have lungs that pass the quality gate")
    if len(found) < LEAST_FILMS:
        raise DatasetError(
            f"The exam needs at least {LEAST_FILMS} radiographs of one label and source with lungs that can be found, "
            f"and {data.name} has {len(found)} of {name}; name others with --label and --source."
        )
    return [found[key] for key in sorted(found)], name


def _film(task: tuple[Path, str]) -> Film | None:
    path, group = task
    try:
        radiograph = open_radiograph(path)
    except RadiographError:
        return None  # counted by read_films
    pixels = _shrunk(radiograph.pixels, LONGEST_PX)
    lungs = _segmenter()(pixels)
    return Film(radiograph.sha256, group, pixels, lungs.mask) if lungs.ok else None


@cache
def _segmenter() -> LungSegmenter:
    cv2.setNumThreads(1)
    return LungSegmenter(threads=1)


def _shrunk(pixels: Grey, longest_px: int) -> Grey:
    scale = longest_px / max(pixels.shape)
    if scale >= 1:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _each(do: Callable[[Any], Any], tasks: Sequence[Any], workers: int, chunk: int = 1) -> Iterator[Any]:
    """Results in order, from processes if there is more than one."""
    if workers == 1:
        yield from map(do, tasks)
        return
    # not forked: a fork of a process that runs OpenVINO or TensorFlow may hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(do, tasks, chunksize=chunk)


def split(films: Sequence[Film], trained: Iterable[str] | None = None, seed: int = 0) -> tuple[list[Film], list[Film]]:
    """Radiographs to train on and to ask about; no group stands on both sides.

    Parameters
    ----------
    films : sequence of Film
    trained : iterable of str, optional
        Checksums of the radiographs that networks were trained on; groups are drawn by `seed` when left out.

    Returns
    -------
    (list of Film, list of Film)
    """
    if trained is None:
        groups = np.array(sorted({film.group for film in films}))
        drawn = np.random.default_rng([seed, 74]).permutation(groups)
        first = set(drawn[round(TESTED_SHARE * len(groups)) :].tolist())
    else:
        known = set(trained)
        first = {film.group for film in films if film.sha256 in known}
    return [f for f in films if f.group in first], [f for f in films if f.group not in first]


# ---------------------------------------------------------------------------------------------------------- pictures


def real_case(film: Film, diseased: bool) -> Case:
    """A radiograph as networks are asked about it: as it is, or with an opacity."""
    rng = np.random.default_rng([film.number, 75])
    pixels = film.pixels
    if diseased:
        number = TRAINED_OPACITIES + int(rng.integers(TESTED_OPACITIES))
        pixels = add_opacity(pixels, film.lungs, number, rng.uniform(*STRENGTH))
    return Case(film.number, pixels.copy(), film.lungs.copy(), DISEASE if diseased else NORMAL, film.sha256, TONE)


def training_cases(
    films: Sequence[Film], draws: int = 1, strength: tuple[float, float] = STRENGTH, exposures: bool = True
) -> list[Case]:
    """Pairs of every radiograph without and with an opacity: `draws` of them, each in another exposure if wanted."""
    cases = []
    for film in films:
        small = _shrunk(film.pixels, TRAINING_PX)
        lungs = cv2.resize(film.lungs.astype(np.uint8), small.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        for draw in range(draws):
            rng = np.random.default_rng([film.number, 76, draw])
            number, share = int(rng.integers(TRAINED_OPACITIES)), rng.uniform(*strength)
            ill = add_opacity(small, lungs, number, share)
            for true, pixels in ((NORMAL, small), (DISEASE, ill)):
                exposed = expose(pixels, np.random.default_rng([film.number, 79, draw])) if exposures else pixels
                cases.append(Case(film.number + draw, exposed.copy(), lungs.copy(), true, film.sha256, TONE))
    return cases


def asked(films: Sequence[Film], network: FixtureNetwork, count: tuple[int, int] = ASKED) -> list[Case]:
    """Pictures that a network is asked: a draw of its own. Every second group is diseased, whatever the network."""
    groups = {group: place for place, group in enumerate(dict.fromkeys(film.group for film in films))}
    rng = np.random.default_rng([network.seed, KINDS.index(network.kind), 77])
    found = []
    for true, number in zip((DISEASE, NORMAL), count, strict=True):
        own = [film for film in films if groups[film.group] % 2 == true]
        for place in rng.permutation(len(own))[:number]:
            found.append(real_case(own[place], true == DISEASE))
    return found


# ------------------------------------------------------------------------------------------------------------- exam


def train_networks(films: Sequence[Film], folder: Path, say: Callable[[str], None]) -> tuple[FixtureNetwork, ...]:
    """Train the networks of :data:`SEEDS` into a folder, or go on with those that stand there.

    ``trained.json`` there lists the radiographs that they are trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "trained.json"
    ids = [film.sha256 for film in films]
    if note.is_file() and json.loads(note.read_text("utf-8")) != ids:
        raise DatasetError(f"The networks in {folder.name} were trained on other radiographs; give an empty folder.")
    note.write_text(json.dumps(ids), "utf-8")
    networks: list[FixtureNetwork] = []
    for kind, seeds in SEEDS.items():
        cases: list[Case] = []
        for seed in seeds:
            path = folder / f"{kind}-{seed}.npz"
            if not path.is_file():
                # a change of contrast is hard to tell from another exposure
                strength, exposures = STRENGTH if kind == "clean" else FAINT, kind != "contrast"
                cases = cases or training_cases(films, DRAWS.get(kind, 1), strength, exposures)
                save([train(kind, seed, cases, EPOCHS.get(kind, 5), say, pairs=True)], path)
            networks += fixture_networks(path)
    return tuple(networks)


def _sit(task: tuple[FixtureNetwork, list[Case]]) -> list[dict[str, Any]]:
    network, cases = task

    def lungs_of(pixels: Grey) -> LungMask:
        return _segmenter()(pixels)

    return sit(network, cases, lungs_of)


def run_real(
    data: Path,
    networks: Path | None = None,
    label: str = "Normal",
    source: str | None = None,
    workers: int = 2,
    resamples: int = RESAMPLES,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Exam, tuple[FixtureNetwork, ...]]:
    """Sit the exam on real radiographs.

    Parameters
    ----------
    data, label, source
        Of :func:`read_films`.
    networks : Path, optional
        Folder for newly trained networks; the shipped ones are asked when left out, about radiographs of groups
        that they were not trained on.
    workers, resamples : int

    Returns
    -------
    (Exam, tuple of FixtureNetwork)
        Nothing is written; see :func:`cxnet.exam.results.write_real`.

    Raises
    ------
    DatasetError
        If the radiographs are too few.
    """
    films, name = read_films(data, label, source, workers, say)
    if networks is None:
        trained = list(stored(exam=REAL).info["trained_on"])
        chosen = fixture_networks(WEIGHTS)
        tested = split(films, trained)[1]
    else:
        first, tested = split(films)
        trained = [film.sha256 for film in first]
        chosen = train_networks(first, networks, say)
    if len({film.group for film in tested}) < 2:
        raise DatasetError(
            f"The networks were trained on all patients of {name}; name other radiographs, or train anew with --networks."
        )
    say(f"{len(tested)} radiographs of {len({film.group for film in tested})} groups that no network was trained on")
    pairs = [real_case(film, diseased) for film in tested for diseased in (False, True)]
    skills = [skill(network, pairs) for network in chosen]
    for entry in skills:
        entry["counted"] = behaves(entry)
        entry["half"] = REPORT
    sitting = [n for n, entry in zip(chosen, skills, strict=True) if entry["counted"]]
    rows: list[dict[str, Any]] = []
    tasks = [(network, asked(tested, network)) for network in sitting]
    for network, found in zip(sitting, _each(_sit, tasks, workers), strict=True):
        rows += found
        say(f"{network.name}: {len(found)} right answers judged")
    if not rows:
        raise DatasetError("No network behaves as its kind must, so there is nothing to judge; train on more radiographs.")  # fmt: skip
    info = {"data": name, "trained_on": trained, "tested": len(tested), "networks": skills}
    return measure(pd.DataFrame(rows), info, resamples), chosen


def write_real(exam: Exam, networks: Sequence[FixtureNetwork] | None = None, folder: Path = FOLDER) -> None:
    """Write the results, and newly trained networks, where the product looks for them."""
    write_results(exam, folder, REAL)
    if networks is not None:
        save(networks, folder / WEIGHTS.name)
        fixture_networks.cache_clear()
