"""What a network says of many radiographs, as the table of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet import runs
from cxnet.architectures import ARCHITECTURES, SCALING
from cxnet.audit import localisation_scores, upsample
from cxnet.classifier import Head, Prediction, softmax
from cxnet.dataset import dataset_checksum
from cxnet.explain.grad_cam import grad_cam
from cxnet.training.preparation import Prepared, cache_folder, prepare
from cxnet.weights import Card, keras_model, read_arrays


def fold_table(
    network: Any, architecture: str, arrays: Mapping[str, NDArray[Any]], prepared: Prepared, table: pd.DataFrame,
    classes: tuple[str, ...], cases: NDArray[np.int64], seed: int = 0, batch_size: int = 32,
) -> pd.DataFrame:  # fmt: skip
    """Predictions, Grad-CAM of the predicted class and first audit figures, one row a case (see :mod:`cxnet.runs`)."""
    import keras

    row = ARCHITECTURES[architecture]
    outputs = [network.get_layer(row.feature_layer).output, network.output]
    if row.extra_layer:
        outputs.append(network.get_layer(row.extra_layer).output)
    both = keras.Model(network.input, outputs)
    head = Head.of(row, arrays)
    mean, deviation = (np.array(values, np.float32) for values in SCALING[row.scaling])
    size = prepared.stacks.shape[1]
    records = []
    for first in range(0, len(cases), batch_size):
        part = cases[first : first + batch_size]
        results = both.predict_on_batch((prepared.stacks[part].astype(np.float32) - mean) / deviation)
        features, logits, *extra = (np.asarray(result, np.float32) for result in results)
        for at, case in enumerate(part):
            prediction = Prediction(classes, logits[at], features[at], extra[0][at] if extra else None)
            heatmap = grad_cam(prediction, head)[int(np.argmax(logits[at]))]
            lungs = prepared.lungs[case]
            scores = {
                score.name: score.value
                for score in localisation_scores(
                    upsample(heatmap, (size, size)), lungs, cell_px=size / heatmap.shape[0], seed=seed
                )
            }
            source = table.iloc[case]
            record = {"case": prepared.sha256[case]}
            record |= {name: source[name] for name in ("file", "group", "source", "view") if name in table.columns}
            record |= {"true": source["label"], "predicted": prediction.predicted}
            record |= {f"probability {c}": p for c, p in zip(classes, softmax(logits[at]), strict=True)}
            record |= {f"logit {c}": float(v) for c, v in zip(classes, logits[at], strict=True)}
            record |= {
                "map": runs.pack_map(heatmap),
                "lungs": runs.pack_lungs(prepared.outlines[case]),
                "region": prepared.boxes[case].tolist(),
                "in_lung": scores["in-lung energy"],
                "lift": scores["lift"],
                "z": scores["z against shifted copies"],
            }
            records.append(record)
    return pd.DataFrame(records)


def evaluate(
    card: Card,
    table: pd.DataFrame,
    folder: Path,
    out: Path,
    note: str = "",
    fold: int = 0,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
) -> runs.Run:
    """Store what a network that is there already says of a data set's radiographs, as a run of one fold.

    Parameters
    ----------
    card : Card
        Of a classifier.
    table : DataFrame
        Columns of a manifest: file (below `folder`), label, perhaps group, source, view. The caller answers for it that
        the network was not trained on them.
    out : Path
        The run's folder.
    note : str
        What a reader of the figures must know.

    Raises
    ------
    DatasetError
        If the run exists or no radiograph can be read.
    """
    prepared = prepare(
        table,
        folder,
        card.recipe,
        card.region,
        card.enhancement,
        cache or cache_folder(),
        say,
    )
    usable = np.array([number for number in range(len(table)) if number not in prepared.problems])
    arrays = read_arrays(card.path(".npz"))
    found = fold_table(keras_model(card), card.architecture, arrays, prepared, table, card.classes, usable)
    blob = len(found["map"].iloc[0]) // 2
    side = round(blob**0.5)
    info = {
        "title": card.title,
        "architecture": card.architecture,
        "recipe": "evaluated",
        "note": note,
        "region": card.region,
        "channels": list(card.channels),
        "input_size_px": card.input_size_px,
        "enhancement": asdict(card.enhancement),
        "classes": list(card.classes),
        "map": "Grad-CAM of the predicted class",
        "map_shape": [side, side],
        "dataset": {
            "sha256": dataset_checksum(table, folder), "cases": len(usable),
            "left_out": sorted(prepared.problems.values()),
        },
        "weights": {"name": card.name, "sha256": card.sha256},
    }  # fmt: skip
    return runs.write_run(out, info, {fold: found})
