"""How the shipped weights were made, on two CPU cores: progressive sizes, a fixed time or number of epochs for each.

    python -m weights.train covid-cxnet       --data DIR --out RUN  [--plan 112:14:1e-3,160:22:8e-4,...]
    python -m weights.train covid-cxnet-lung  --data DIR --out RUN  --initial weights/covid-cxnet.npz --plan 224:2e:5e-4,320:2e:2e-4
    python -m weights.train mobilenet-v1      --data DIR --out RUN  --plan 112:12e:1e-3,224:3e:5e-4
    python -m weights.train unet              --data DIR --out RUN  [--minutes 38]
    python -m weights.train convert           --out RUN             (writes the .npz, .xml and .bin files into RUN)
    python -m weights.train run               --data DIR --out RUN --run runs/mobilenet-v1   (its folds as a stored run)

DIR holds ``manifest.csv`` (see weights/README.md). Needs PyTorch, which trains these networks about twice as fast as
TensorFlow on such a machine; the results are converted to Keras and OpenVINO. A plan is size:length:peak learning rate
for each stage; a length is in minutes, or in epochs with an "e". The first two hold out fold 0 of
``grouped_folds(folds=5, seed=0)``; mobilenet-v1 trains all five folds of ``python -m cxnet train``. Stages that end by
the clock give other weights on another machine. A call that was stopped begins its plan anew from the weights of its last
epoch; of mobilenet-v1 it begins the unfinished fold anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from cxnet import __version__, runs
from cxnet.architectures import ARCHITECTURES, SCALING, Architecture
from cxnet.chexnet import from_torch
from cxnet.dataset import dataset_checksum, grouped_folds, read_manifest
from cxnet.enhance import clahe
from cxnet.training import Prepared, fold_table, join_copies, prepare
from cxnet.training.preparation import cache_folder
from cxnet.weights import assign, read_arrays, write_arrays
from tests.torch_densenet import DenseNet121
from tests.torch_unet import UNet

CLASSES = ("COVID-19", "Normal", "Pneumonia")
LICENCE = (
    "Weights: MIT. Training pictures: covid-cxnet CC BY 4.0, nih-cxr14 open with attribution (NIH Clinical Center), "
    "covid-chestxray and gbc as their publishers state for each picture."
)


class CovidCxnet(nn.Module):
    """COVID-CXNet: DenseNet-121, 10-unit layer, dropout 0.2, three logits.

    From scratch, Adam's first steps kill most of the ten ReLU units; a linear output beside them keeps the backbone
    learning, and the head learns at a tenth of the rate. It is dropped afterwards. `initial` holds a trained
    network's Keras variables; such a head is alive and needs no help.
    """

    def __init__(self, initial: dict[str, np.ndarray] | None = None) -> None:
        super().__init__()
        self.densenet = DenseNet121(14)
        self.densenet.classifier = nn.Identity()
        self.fc = nn.Linear(1024, 10)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(10, len(CLASSES))
        if initial is None:
            self.auxiliary = nn.Linear(1024, len(CLASSES))
        else:
            self.load_state_dict(to_torch(self, initial), strict=False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = self.densenet(x)
        outputs = [self.out(self.drop(torch.relu(self.fc(features))))]
        return [*outputs, self.auxiliary(features)] if hasattr(self, "auxiliary") else outputs


class MobileNet(nn.Module):
    """MobileNetV1 (Howard et al. 2017, table 1) with Kurz et al.'s head: mean over places, dropout 0.3, logits.

    Layers have the names of ``keras.applications``, which pads right and below where it halves.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
        halving = {2, 4, 6, 12}
        self.strides = {"conv1": 2}
        self.norms = nn.ModuleDict()
        self.convolutions = nn.ModuleDict()
        self._add("conv1", nn.Conv2d(3, 32, 3, 2, bias=False), 2)
        inputs = 32
        for number, outputs in enumerate(widths, 1):
            stride = 2 if number in halving else 1
            depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=int(stride == 1), groups=inputs, bias=False)
            self._add(f"conv_dw_{number}", depthwise, stride)
            self._add(f"conv_pw_{number}", nn.Conv2d(inputs, outputs, 1, bias=False), 1)
            inputs = outputs
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(inputs, len(CLASSES))

    def _add(self, name: str, convolution: nn.Conv2d, stride: int) -> None:
        self.convolutions[name], self.strides[name] = convolution, stride
        self.norms[name] = nn.BatchNorm2d(convolution.out_channels, eps=1e-3)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        for name, convolution in self.convolutions.items():
            if self.strides[name] == 2:
                x = nn.functional.pad(x, (0, 1, 0, 1))
            x = nn.functional.relu6(self.norms[name](convolution(x)))
        return [self.out(self.drop(x.mean((2, 3))))]

    def keras_arrays(self) -> dict[str, np.ndarray]:
        arrays = {"output/kernel": self.out.weight.detach().numpy().T, "output/bias": self.out.bias.detach().numpy()}
        for name, convolution in self.convolutions.items():
            kernel = convolution.weight.detach().numpy().transpose(2, 3, 1, 0)  # (height, width, in, out)
            arrays[f"{name}/kernel"] = kernel.transpose(0, 1, 3, 2) if convolution.groups > 1 else kernel
            for ours, theirs in NORM.items():
                arrays[f"{name}_bn/{theirs}"] = getattr(self.norms[name], ours).detach().numpy()
        return arrays


NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def to_torch(model: CovidCxnet, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state of a network from Keras variables: the way back of :func:`cxnet.chexnet.from_torch`."""
    state = {}
    for key, value in model.state_dict().items():
        for name in from_torch({key: value}):
            array = np.float32(arrays[name])
            state[key] = torch.from_numpy(
                np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
            )
    for ours, theirs in (("fc", "fc"), ("out", "output")):
        state[f"{ours}.weight"] = torch.from_numpy(np.float32(arrays[f"{theirs}/kernel"]).T.copy())
        state[f"{ours}.bias"] = torch.from_numpy(np.float32(arrays[f"{theirs}/bias"]))
    return state


def covid_cxnet_arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Keras variables of a trained :class:`CovidCxnet`."""
    arrays = dict(from_torch(state))
    for ours, theirs in (("fc", "fc"), ("out", "output")):
        arrays[f"{theirs}/kernel"] = state[f"{ours}.weight"].numpy().T
        arrays[f"{theirs}/bias"] = state[f"{ours}.bias"].numpy()
    return arrays


def save(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def log(path: Path, **figures: Any) -> None:
    with path.open("a") as file:
        print(json.dumps(figures), file=file)
    print(figures, flush=True)


def batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(order) - size + 1, size):
        yield order[first : first + size]


def brightness(rng: np.random.Generator, gamma: float, gain: tuple[float, float], offset: float) -> np.ndarray:
    """A random grey-level table."""
    levels = (np.arange(256) / 255) ** np.exp(rng.uniform(-gamma, gamma))
    levels = levels * rng.uniform(*gain) + rng.uniform(-offset, offset)
    return np.clip(255 * levels, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Stage:
    """Part of a training: at one size, for some minutes or some epochs, to one peak of the learning rate."""

    size: int
    length: str
    peak: float

    def done(self, seconds: float, epochs: float) -> float:
        if self.length.endswith("e"):
            return epochs / float(self.length[:-1])
        return seconds / 60 / float(self.length)


def fit(
    model: nn.Module, prepared: Prepared, row: Architecture, true: np.ndarray, train: np.ndarray, test: np.ndarray,
    plan: list[Stage], place: Path, seed: int = 0, batch: int = 16,
) -> None:  # fmt: skip
    """AdamW, label smoothing 0.05, classes weighted by the root of their rarity; rotation ±10°, zoom ±12 %,
    shift ±4 %, mirroring, brightness and gamma before the channels are made. All stages but the first end on a
    cosine. What of a radiograph is seen was cut out before, so only grey pictures of that are kept."""
    rng = np.random.default_rng(seed)
    grey, side = prepared.stacks[..., row.channels.index("original")], row.input_size_px
    mean, deviation = (np.array(values, np.float32) for values in SCALING[row.scaling])

    def augmented(picture: np.ndarray) -> np.ndarray:
        middle = (side - 1) / 2
        affine = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-10, 10), rng.uniform(0.88, 1.12))
        affine[:, 2] += rng.uniform(-0.044, 0.044, 2) * side
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        picture = cv2.warpAffine(np.ascontiguousarray(picture), affine, (side, side), borderMode=cv2.BORDER_CONSTANT)
        return cv2.LUT(picture, brightness(rng, 0.35, (0.8, 1.2), 0.08))

    def images(cases: np.ndarray, size: int, augment: bool) -> torch.Tensor:
        stacks = []
        for case in cases:
            picture = np.ascontiguousarray(grey[case])
            stack = row.enhancement.stack(augmented(picture) if augment else picture, row.channels)
            if size != side:
                stack = cv2.resize(stack, (size, size), interpolation=cv2.INTER_AREA)
            stacks.append((stack.astype(np.float32) - mean) / deviation)
        tensor = torch.from_numpy(np.stack(stacks).transpose(0, 3, 1, 2).copy())
        return tensor.contiguous(memory_format=torch.channels_last)

    model = model.to(memory_format=torch.channels_last)
    checkpoint = place.with_suffix(".pt")
    if checkpoint.exists():
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
    weight = torch.tensor(len(train) / len(CLASSES) / np.bincount(true[train]), dtype=torch.float32).sqrt()
    loss_of = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.05)
    helped = hasattr(model, "auxiliary")
    slow = [p for name, p in model.named_parameters() if helped and not name.startswith("densenet")]
    kept = {id(p) for p in slow}
    optimiser = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if id(p) not in kept], "factor": 1.0}]
        + ([{"params": slow, "factor": 0.1}] if slow else []),
        weight_decay=0.02,
    )
    model.train()
    batch = min(batch, len(train))
    whole = len(train) // batch * batch  # an epoch; its last, smaller batch is left out
    for number, stage in enumerate(plan):
        start, epoch, seen, done = time.time(), 0, 0, 0.0
        while done < 1:
            losses = []
            for cases in batches(rng.permutation(train), batch):
                done = stage.done(time.time() - start, seen / whole)
                if done >= 1:
                    break
                rate = stage.peak * min(1.0, (seen + 1) / 640)
                rate *= 1 if number == 0 else 0.5 * (1 + np.cos(np.pi * done))
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["factor"] + 1e-6
                outputs = model(images(cases, stage.size, True))
                label = torch.from_numpy(true[cases])
                loss = torch.stack([loss_of(output, label) for output in outputs]).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
                seen += len(cases)
            epoch += 1
            done = stage.done(time.time() - start, seen / whole)
            model.eval()
            with torch.no_grad():
                parts = [test[i : i + 16] for i in range(0, len(test), 16)]
                logits = [model(images(part, stage.size, False))[0] for part in parts]
                probability = torch.softmax(torch.cat(logits), 1).numpy()
            model.train()
            figures = {
                "loss": float(np.mean(losses)),
                "auc": float(roc_auc_score(true[test], probability, multi_class="ovr")),
                "accuracy": float((probability.argmax(1) == true[test]).mean()),
            }
            log(place.with_suffix(".jsonl"), size=stage.size, epoch=epoch, seen=seen, **figures)
            save(model, checkpoint)
    model.eval()


def classes_of(table: pd.DataFrame) -> np.ndarray:
    return np.array([CLASSES.index(label) for label in table["label"]])


def train_covid_cxnet(name: str, data: Path, out: Path, plan: list[Stage], initial: Path | None) -> None:
    """Fold 0, full frame or (covid-cxnet-lung) cropped to the lungs."""
    torch.manual_seed(0)
    row = ARCHITECTURES[name]
    table = read_manifest(data / "manifest.csv", CLASSES)
    fold = grouped_folds(list(table["label"]), list(table["group"]))
    prepared = prepare(table, data, row, row.region, row.enhancement, cache_folder())
    model = CovidCxnet(initial and read_arrays(initial))
    train, test = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    fit(model, prepared, row, classes_of(table), train, test, plan, out / name)


def folds_of_mobilenet(data: Path, folds: int = 5) -> tuple[pd.DataFrame, np.ndarray, Prepared, int]:
    """The table, each case's fold, the pictures, and how many pairs of near-duplicates were put on one side."""
    row = ARCHITECTURES["mobilenet-v1"]
    table, copies = join_copies(read_manifest(data / "manifest.csv", CLASSES), data, cache_folder(), print)
    fold = grouped_folds(list(table["label"]), list(table["group"]), folds)
    return table, fold, prepare(table, data, row, row.region, row.enhancement, cache_folder()), copies


def train_mobilenet(data: Path, out: Path, plan: list[Stage], folds: int = 5) -> None:
    """Five folds, with near-duplicates on one side, as ``python -m cxnet train`` divides them."""
    row = ARCHITECTURES["mobilenet-v1"]
    table, fold, prepared, _ = folds_of_mobilenet(data, folds)
    for number in range(folds):
        if (out / f"fold-{number}.npz").exists():
            continue
        for ending in (".pt", ".jsonl"):
            (out / f"fold-{number}{ending}").unlink(missing_ok=True)
        torch.manual_seed(number)
        model, test = MobileNet(), np.flatnonzero(fold == number)
        start = time.time()
        fit(model, prepared, row, classes_of(table), np.flatnonzero(fold != number), test, plan,
            out / f"fold-{number}", seed=number, batch=32)  # fmt: skip
        write_arrays(out / f"fold-{number}.npz", model.keras_arrays())
        log(out / "mobilenet-v1.jsonl", fold=number, seconds=round(time.time() - start))


def train_unet(data: Path, out: Path, minutes: float) -> None:
    """AdamW on cross-entropy + soft Dice without "ignore" pixels; rotation ±15°, zoom, stretch, shift, mirroring,
    brightness, blur and soft bright blobs that hide part of a lung. 128 px for the first 60 % of the time."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    table = read_manifest(data / "manifest.csv")
    table = table[table["lung_mask"] != ""].reset_index(drop=True)
    train = np.flatnonzero(grouped_folds(list(table["source"]), list(table["group"])) != 0)
    read = [[cv2.imread(str(data / f), cv2.IMREAD_GRAYSCALE) for f in table[c]] for c in ("file", "lung_mask")]
    pictures = [cv2.resize(p, (256, 256), interpolation=cv2.INTER_AREA) for p in read[0]]
    masks = [cv2.resize(m, (256, 256), interpolation=cv2.INTER_NEAREST) for m in read[1]]

    def augmented(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        affine = cv2.getRotationMatrix2D((127.5, 127.5), rng.uniform(-15, 15), rng.uniform(0.75, 1.2))
        affine[0, 1] += rng.uniform(-0.08, 0.08)
        affine[:, 2] += rng.uniform(-20, 20, 2)
        if rng.random() < 0.5:
            picture, mask = (np.ascontiguousarray(a[:, ::-1]) for a in (picture, mask))
        stretch = rng.uniform(0.85, 1.15)
        affine[0] *= stretch
        affine[0, 2] += 127.5 * (1 - stretch)
        border = cv2.BORDER_CONSTANT if rng.random() < 0.7 else cv2.BORDER_REPLICATE
        picture = cv2.warpAffine(picture, affine, (256, 256), borderMode=border)
        mask = cv2.warpAffine(mask, affine, (256, 256), flags=cv2.INTER_NEAREST)
        picture = cv2.LUT(picture, brightness(rng, 0.6, (0.65, 1.2), 0.12))
        if rng.random() < 0.2:
            picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 1.6))
        if rng.random() < 0.3:
            for _ in range(rng.integers(1, 4)):
                blob = np.zeros((256, 256), np.float32)
                centre = (int(rng.integers(40, 216)), int(rng.integers(60, 220)))
                axes = (int(rng.integers(8, 35)), int(rng.integers(8, 35)))
                cv2.ellipse(blob, centre, axes, rng.uniform(0, 180), 0, 360, 1, -1)
                blob = cv2.GaussianBlur(blob, (0, 0), 8) * rng.uniform(0.2, 0.8)
                picture = (picture * (1 - blob) + 210 * blob).astype(np.uint8)
        return picture, mask

    model = UNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    start, epoch = time.time(), 0
    while time.time() - start < 60 * minutes:
        losses = []
        for cases in batches(rng.permutation(train), 8):
            done = min(1.0, (time.time() - start) / (60 * minutes))
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * (1 + np.cos(np.pi * done)) + 1e-6
            pairs = [augmented(pictures[case], masks[case]) for case in cases]
            size = 128 if done < 0.6 else 256
            enhanced = [cv2.resize(clahe(p), (size, size), interpolation=cv2.INTER_AREA) for p, _ in pairs]
            drawn = np.stack([cv2.resize(m, (size, size), interpolation=cv2.INTER_NEAREST) for _, m in pairs])[:, None]
            image = torch.from_numpy(np.stack(enhanced)[:, None].astype(np.float32) / 255)
            lung, seen = (torch.from_numpy(a.astype(np.float32)) for a in (drawn == 255, drawn != 127))
            logit = model(image.contiguous(memory_format=torch.channels_last))
            entropy = (nn.functional.binary_cross_entropy_with_logits(logit, lung, reduction="none") * seen).mean()
            soft = torch.sigmoid(logit) * seen
            overlap, total = (soft * lung).sum((1, 2, 3)), (soft + lung * seen).sum((1, 2, 3))
            loss = entropy + 1 - ((2 * overlap + 1) / (total + 1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        epoch += 1
        log(out / "unet.jsonl", epoch=epoch, loss=float(np.mean(losses)))
        save(model, out / "unet.pt")


def convert(out: Path) -> None:
    """Write the trainable and the fast form of what was trained there (mobilenet-v1: of each fold)."""
    from cxnet import engine, weights

    def both(arrays: dict[str, np.ndarray], architecture: str, name: str) -> None:
        row = ARCHITECTURES[architecture]
        options = {} if row.task == "segmentation" else {"outputs": len(CLASSES), "activation": None}
        weights.write_arrays(out / f"{name}.npz", arrays)
        model = row.build(input_size_px=row.input_size_px, **options)
        weights.assign(model, weights.read_arrays(out / f"{name}.npz"))
        engine.export(model, engine.outputs_of(row), out / f"{name}.xml")

    for name in ("covid-cxnet", "covid-cxnet-lung", "unet"):
        if (out / f"{name}.pt").exists():
            state = torch.load(out / f"{name}.pt", weights_only=True)
            both(unet_arrays(state) if name == "unet" else covid_cxnet_arrays(state), name, name)
    for path in sorted(out.glob("fold-?.npz")):
        both(dict(weights.read_arrays(path)), "mobilenet-v1", path.stem)


def write_run(data: Path, out: Path, place: Path, plan: list[Stage], folds: int = 5, note: str = "") -> None:
    """What the five networks of mobilenet-v1 say of the radiographs that each has not seen, with their weights."""
    import keras

    row = ARCHITECTURES["mobilenet-v1"]
    table, fold, prepared, copies = folds_of_mobilenet(data, folds)
    log = [json.loads(line) for line in (out / "mobilenet-v1.jsonl").read_text().splitlines()]
    tables, told, files = {}, {}, {}
    for number in range(folds):
        arrays = read_arrays(out / f"fold-{number}.npz")
        model = row.build(input_size_px=row.input_size_px, outputs=len(CLASSES), activation=None)
        assign(model, arrays)
        cases = np.flatnonzero(fold == number)
        tables[number] = fold_table(model, "mobilenet-v1", arrays, prepared, table, CLASSES, cases)
        mine = {path.name: path for path in (out / f"fold-{number}{ending}" for ending in (".npz", ".xml", ".bin"))}
        files |= mine
        lines = [json.loads(line) for line in (out / f"fold-{number}.jsonl").read_text().splitlines()]
        curve = [
            {"epoch": at, "size_px": line["size"], "loss": round(line["loss"], 5), "test_accuracy": round(line["accuracy"], 5)}
            for at, line in enumerate(lines, 1)
        ]  # fmt: skip
        told[number] = {
            "epochs": len(lines), "seconds": next(entry["seconds"] for entry in log if entry["fold"] == number),
            "curve": curve, "files": {name: runs.sha256(path) for name, path in mine.items()},
        }  # fmt: skip
    info = {
        "title": "MobileNetV1",
        "architecture": "mobilenet-v1",
        "recipe": "weights/train.py",
        "settings": {"plan": [asdict(stage) for stage in plan], "batch_size": 32, "seed": 0, "folds": folds, "initial": None},
        "region": row.region,
        "channels": list(row.channels),
        "input_size_px": row.input_size_px,
        "enhancement": asdict(row.enhancement),
        "classes": list(CLASSES),
        "map": "Grad-CAM of the predicted class",
        "map_shape": [round((len(tables[0]["map"].iloc[0]) // 2) ** 0.5)] * 2,
        "dataset": {
            "sha256": dataset_checksum(read_manifest(data / "manifest.csv", CLASSES), data), "cases": len(table), "groups": int(table["group"].nunique()),
            "near_duplicate_pairs_joined": copies, "left_out": sorted(prepared.problems.values()),
        },
        "versions": {
            "cxnet": __version__, "keras": keras.version(), "trained with": f"torch {torch.__version__}",
            "python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
        "stopped": False,
        "note": f"From scratch, where the paper freezes ImageNet's weights; small pictures first. {note}".strip(),
        "licence": LICENCE,
    }  # fmt: skip
    found = runs.write_run(place, info, tables, told, files).table
    print(f"accuracy {(found['true'] == found['predicted']).mean():.3f} of {len(found)}")


def unet_arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Keras variables of a trained U-Net."""
    blocks = {f"down.{i}": f"down{i}" for i in range(5)} | {f"merge.{i}": f"merge{3 - i}" for i in range(4)}
    arrays = {f"up{3 - i}_conv/kernel": state[f"up.{i}.weight"].numpy().transpose(2, 3, 1, 0) for i in range(4)}
    arrays |= {f"up{3 - i}_conv/bias": state[f"up.{i}.bias"].numpy() for i in range(4)}
    arrays |= {
        "output/kernel": state["out.weight"].numpy().transpose(2, 3, 1, 0),
        "output/bias": state["out.bias"].numpy(),
    }
    for ours, keras in blocks.items():
        for step, (convolution, norm) in enumerate(((0, 1), (3, 4)), 1):
            arrays[f"{keras}_conv{step}/kernel"] = state[f"{ours}.{convolution}.weight"].numpy().transpose(2, 3, 1, 0)
            for theirs, name in NORM.items():
                arrays[f"{keras}_bn{step}/{name}"] = state[f"{ours}.{norm}.{theirs}"].numpy()
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["covid-cxnet", "covid-cxnet-lung", "mobilenet-v1", "unet", "convert", "run"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plan", default="96:16:1e-3,128:16:1e-3,192:12:5e-4,320:13:2e-4")
    parser.add_argument("--initial", type=Path, help="a covid-cxnet to go on from (.npz)")
    parser.add_argument("--run", type=Path, metavar="runs/NAME")
    parser.add_argument("--note", default="", help="what a reader of the run must know besides")
    parser.add_argument("--minutes", type=float, default=38)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = [Stage(int(s), length, float(r)) for s, length, r in (part.split(":") for part in options.plan.split(","))]
    if options.what == "convert":
        convert(options.out)
    elif options.data is None:
        parser.error("--data is needed")
    elif options.what == "run":
        write_run(options.data, options.out, options.run, plan, note=options.note)
    elif options.what == "unet":
        train_unet(options.data, options.out, options.minutes)
    elif options.what == "mobilenet-v1":
        train_mobilenet(options.data, options.out, plan)
    else:
        train_covid_cxnet(options.what, options.data, options.out, plan, options.initial)


if __name__ == "__main__":
    main()
