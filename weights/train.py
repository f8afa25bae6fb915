"""How the shipped weights were made, on two CPU cores: progressive sizes, a fixed time for each.

    python -m weights.train covid-cxnet --data DIR --out RUN   [--plan 112:14:1e-3,160:22:8e-4,...]
    python -m weights.train unet        --data DIR --out RUN   [--minutes 38]
    python -m weights.train convert     --out RUN              (writes the .npz, .xml and .bin files into RUN)

DIR holds ``manifest.csv`` (see weights/README.md). Needs PyTorch, which trains DenseNet-121 more than twice as
fast as TensorFlow on such a machine; the results are converted to Keras and OpenVINO. Fold 0 of
``grouped_folds(folds=5, seed=0)`` is never trained on. Stages end by the clock, so a rerun on another machine
gives other weights; a stopped run goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from cxnet.architectures import ARCHITECTURES
from cxnet.dataset import grouped_folds, read_manifest
from cxnet.enhance import Enhancement, clahe, resize
from tests.torch_densenet import DenseNet121
from tests.torch_unet import UNet

CLASSES = ("COVID-19", "Normal", "Pneumonia")
SIZE = 320
MEAN = np.float32([0.485, 0.456, 0.406])
DEVIATION = np.float32([0.229, 0.224, 0.225])


class CovidCxnet(nn.Module):
    """COVID-CXNet: DenseNet-121, 10-unit layer, dropout 0.2, three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.densenet = DenseNet121(14)
        self.densenet.classifier = nn.Identity()
        self.fc = nn.Linear(1024, 10)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(10, len(CLASSES))
        # From scratch, Adam's first steps kill most of the ten ReLU units; a linear output beside them keeps the
        # backbone learning, and the head learns at a tenth of the rate. It is dropped afterwards.
        self.auxiliary = nn.Linear(1024, len(CLASSES))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.densenet(x)
        return self.out(self.drop(torch.relu(self.fc(features)))), self.auxiliary(features)


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


def train_covid_cxnet(data: Path, out: Path, plan: list[tuple[int, float, float]]) -> None:
    """AdamW, label smoothing 0.05, classes weighted by the root of their rarity; rotation ±10°, zoom ±12 %,
    shift ±4 %, mirroring, brightness and gamma before the three channels are made. Each stage of the plan is
    (size in px, minutes, peak learning rate); all but the first end on a cosine."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    table = read_manifest(data / "manifest.csv", CLASSES)
    fold = grouped_folds(list(table["label"]), list(table["group"]))
    true = np.array([CLASSES.index(label) for label in table["label"]])
    grey = np.stack([resize(cv2.imread(str(data / file), cv2.IMREAD_GRAYSCALE), SIZE) for file in table["file"]])
    train, test = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    enhancement = Enhancement()

    def augmented(picture: np.ndarray) -> np.ndarray:
        middle = (SIZE - 1) / 2
        affine = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-10, 10), rng.uniform(0.88, 1.12))
        affine[:, 2] += rng.uniform(-14, 14, 2)
        if rng.random() < 0.5:
            picture = np.ascontiguousarray(picture[:, ::-1])
        picture = cv2.warpAffine(picture, affine, (SIZE, SIZE), borderMode=cv2.BORDER_CONSTANT)
        return cv2.LUT(picture, brightness(rng, 0.35, (0.8, 1.2), 0.08))

    def images(cases: np.ndarray, size: int, augment: bool) -> torch.Tensor:
        stacks = []
        for case in cases:
            stack = enhancement.stack(augmented(grey[case]) if augment else grey[case])
            if size != SIZE:
                stack = cv2.resize(stack, (size, size), interpolation=cv2.INTER_AREA)
            stacks.append((stack.astype(np.float32) / 255 - MEAN) / DEVIATION)
        tensor = torch.from_numpy(np.stack(stacks).transpose(0, 3, 1, 2).copy())
        return tensor.contiguous(memory_format=torch.channels_last)

    model = CovidCxnet().to(memory_format=torch.channels_last)
    checkpoint = out / "covid-cxnet.pt"
    if checkpoint.exists():
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
    weight = torch.tensor(len(train) / len(CLASSES) / np.bincount(true[train]), dtype=torch.float32).sqrt()
    loss_of = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.05)
    head = [p for name, p in model.named_parameters() if not name.startswith("densenet")]
    optimiser = torch.optim.AdamW(
        [{"params": model.densenet.parameters(), "factor": 1.0}, {"params": head, "factor": 0.1}], weight_decay=0.02
    )
    for stage, (size, minutes, peak) in enumerate(plan):
        start, epoch, seen = time.time(), 0, 0
        while time.time() - start < 60 * minutes:
            losses = []
            for cases in batches(rng.permutation(train), 16):
                done = min(1.0, (time.time() - start) / (60 * minutes))
                if done >= 1:
                    break
                rate = peak * min(1.0, (seen + 1) / 640) * (1 if stage == 0 else 0.5 * (1 + np.cos(np.pi * done)))
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["factor"] + 1e-6
                outputs, label = model(images(cases, size, True)), torch.from_numpy(true[cases])
                loss = (loss_of(outputs[0], label) + loss_of(outputs[1], label)) / 2
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
                seen += len(cases)
            epoch += 1
            model.eval()
            with torch.no_grad():
                parts = [test[i : i + 16] for i in range(0, len(test), 16)]
                probability = torch.cat([torch.softmax(model(images(p, size, False))[0], 1) for p in parts]).numpy()
            model.train()
            figures = {
                "loss": float(np.mean(losses)),
                "auc": float(roc_auc_score(true[test], probability, multi_class="ovr")),
                "accuracy": float((probability.argmax(1) == true[test]).mean()),
            }
            log(out / "covid-cxnet.jsonl", size=size, epoch=epoch, seen=seen, **figures)
            save(model, checkpoint)


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
    """Write the trainable and the fast form of both networks."""
    from cxnet import engine, weights
    from cxnet.architectures import build_covid_cxnet, build_unet
    from cxnet.chexnet import from_torch

    state = torch.load(out / "covid-cxnet.pt", weights_only=True)
    arrays = from_torch(state)
    for ours, keras in (("fc", "fc"), ("out", "output")):
        arrays[f"{keras}/kernel"] = state[f"{ours}.weight"].numpy().T
        arrays[f"{keras}/bias"] = state[f"{ours}.bias"].numpy()
    weights.write_arrays(out / "covid-cxnet.npz", arrays)
    model = build_covid_cxnet(activation=None)
    weights.assign(model, weights.read_arrays(out / "covid-cxnet.npz"))
    engine.export(model, engine.outputs_of(ARCHITECTURES["covid-cxnet"]), out / "covid-cxnet.xml")

    state = torch.load(out / "unet.pt", weights_only=True)
    statistics = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
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
            for theirs, name in statistics.items():
                arrays[f"{keras}_bn{step}/{name}"] = state[f"{ours}.{norm}.{theirs}"].numpy()
    weights.write_arrays(out / "unet.npz", arrays)
    model = build_unet()
    weights.assign(model, weights.read_arrays(out / "unet.npz"))
    engine.export(model, engine.outputs_of(ARCHITECTURES["unet"]), out / "unet.xml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["covid-cxnet", "unet", "convert"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plan", default="96:16:1e-3,128:16:1e-3,192:12:5e-4,320:13:2e-4")
    parser.add_argument("--minutes", type=float, default=38)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "convert":
        convert(options.out)
    elif options.data is None:
        parser.error("--data is needed to train")
    elif options.what == "unet":
        train_unet(options.data, options.out, options.minutes)
    else:
        stages = [part.split(":") for part in options.plan.split(",")]
        train_covid_cxnet(options.data, options.out, [(int(s), float(m), float(r)) for s, m, r in stages])


if __name__ == "__main__":
    main()
