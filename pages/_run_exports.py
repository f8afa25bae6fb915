"""What leaves the page Runs: a matrix as SVG and PNG, tables as CSV."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from cxnet.statistics import Metric
from pages._matrix import unit_of

CELL_PX, HEAD_PX, SIDE_PX, EDGE_PX = 110, 96, 190, 20
ACCENT, INK, PAPER = (11, 110, 117), (21, 35, 42), (255, 255, 255)


def file_name(*parts: object) -> str:
    """A file name that every system takes."""
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", str(part)).strip("-.") or "x" for part in parts)


def csv(table: pd.DataFrame) -> bytes:
    """UTF-8 with the mark that spreadsheets want."""
    return table.to_csv(index=False).encode("utf-8-sig")


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    text: str
    size: int
    align: Literal["start", "middle", "end"] = "middle"
    bold: bool = False


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    side: float
    fill: tuple[int, int, int]


def _short(name: str, characters: int = 20) -> str:
    return name if len(name) <= characters else f"{name[: characters - 3]}..."


def _size(classes: Sequence[str]) -> tuple[int, int]:
    side = len(classes) * CELL_PX
    return max(560, SIDE_PX + side + EDGE_PX), HEAD_PX + 44 + side + 82


def _drawing(
    shares: Sequence[Sequence[Metric]], classes: Sequence[str], title: str, subtitle: str
) -> Iterator[_Text | _Box]:
    """Everything on the picture, the same for both formats."""
    counts = np.array([[share.numerator or 0 for share in line] for line in shares], np.int64)
    yield _Text(EDGE_PX, 32, title, 18, "start", True)
    yield _Text(EDGE_PX, 56, subtitle, 13, "start")
    middle = SIDE_PX + len(classes) * CELL_PX / 2
    yield _Text(middle, HEAD_PX - 10, "predicted", 13)
    yield _Text(SIDE_PX - 10, HEAD_PX + 30, "true", 13, "end")
    for number, name in enumerate(classes):
        x, y = SIDE_PX + number * CELL_PX + CELL_PX / 2, HEAD_PX + 44 + number * CELL_PX + CELL_PX / 2
        yield _Text(x, HEAD_PX + 14, _short(name, 15), 13, bold=True)
        yield _Text(x, HEAD_PX + 32, f"n = {int(counts[:, number].sum()):,}", 11)
        yield _Text(SIDE_PX - 10, y - 2, _short(name), 13, "end", True)
        yield _Text(SIDE_PX - 10, y + 16, f"n = {int(counts[number].sum()):,}", 11, "end")
    for row, line in enumerate(shares):
        for column, metric in enumerate(line):
            left, top = SIDE_PX + column * CELL_PX, HEAD_PX + 44 + row * CELL_PX
            share = metric.value or 0.0
            mix = np.array(PAPER) + 0.5 * share * (np.array(ACCENT) - np.array(PAPER))
            red, green, blue = (int(level) for level in mix.round())
            yield _Box(left + 2, top + 2, CELL_PX - 4, (red, green, blue))
            centre = left + CELL_PX / 2
            yield _Text(centre, top + 46, f"{metric.numerator or 0:,}", 20, bold=True)
            yield _Text(centre, top + 68, "no case" if metric.value is None else f"{100 * share:.1f} %", 13)
            if metric.low is not None and metric.high is not None:
                yield _Text(centre, top + 88, f"{100 * metric.low:.1f} to {100 * metric.high:.1f}", 11)
    foot = HEAD_PX + 44 + len(classes) * CELL_PX + 24
    yield _Text(EDGE_PX, foot, "Counts, shares of the row.", 12, "start")
    told = [unit_of(shares), "cxnet. For research and teaching, no medical device."]
    for number, line_of_text in enumerate(filter(None, told), 1):
        yield _Text(EDGE_PX, foot + 20 * number, line_of_text, 12, "start")


def matrix_svg(shares: Sequence[Sequence[Metric]], classes: Sequence[str], title: str, subtitle: str = "") -> bytes:
    """A confusion matrix with title, counts, shares and their intervals (:func:`cell_shares`) as SVG."""
    width, height = _size(classes)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" fill="rgb{PAPER}"/>',
    ]
    for item in _drawing(shares, classes, title, subtitle):
        if isinstance(item, _Box):
            lines.append(
                f'<rect x="{item.x:g}" y="{item.y:g}" width="{item.side:g}" height="{item.side:g}" rx="6" '
                f'fill="rgb{item.fill}" stroke="#6f858c"/>'
            )
        else:
            weight = ' font-weight="bold"' if item.bold else ""
            lines.append(
                f'<text x="{item.x:g}" y="{item.y:g}" font-size="{item.size}" text-anchor="{item.align}"{weight} '
                f'fill="rgb{INK}">{escape(item.text)}</text>'
            )
    return "\n".join([*lines, "</svg>\n"]).encode()


def matrix_png(
    shares: Sequence[Sequence[Metric]], classes: Sequence[str], title: str, subtitle: str = "", scale: int = 2
) -> bytes:
    """The picture of :func:`matrix_svg` as PNG."""
    width, height = _size(classes)
    picture = Image.new("RGB", (width * scale, height * scale), PAPER)
    draw = ImageDraw.Draw(picture)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for item in _drawing(shares, classes, title, subtitle):
        x, y = item.x * scale, item.y * scale
        if isinstance(item, _Box):
            side = item.side * scale
            draw.rounded_rectangle((x, y, x + side, y + side), 6 * scale, item.fill, (147, 167, 173), scale)
        else:
            font = ImageFont.load_default(item.size * scale)
            stroke = scale * 0.25 if item.bold else 0
            draw.text((x, y), item.text, INK, font, anchors[item.align], stroke_width=stroke, stroke_fill=INK)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
