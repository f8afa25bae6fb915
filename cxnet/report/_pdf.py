"""The report as a PDF with text that can be selected: the same sections as the HTML, the notice on each page."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.styles import ParagraphStyle  # type: ignore[import-untyped]
from reportlab.pdfbase import pdfmetrics  # type: ignore[import-untyped]
from reportlab.pdfbase.ttfonts import TTFont  # type: ignore[import-untyped]
from reportlab.platypus import Image, LongTable, Paragraph, SimpleDocTemplate, Spacer  # type: ignore[import-untyped]
from reportlab.platypus import Table as Grid

from cxnet import __version__
from cxnet.analysis import NOTICE
from cxnet.report._content import Block, Picture, Pictures, Section, Table, Text, visible

_MARGIN, _WIDTH, _HEIGHT = 40.0, 595.28, 841.89  # A4 in points
_INNER = _WIDTH - 2 * _MARGIN
_INK, _QUIET, _ACCENT, _LINE, _WARM = "#15232a", "#47585f", "#0b6e75", "#c5d0d4", "#fdf1e8"
_GAP = 10.0
_PADDING = 6.0  # of the library's frame, on each side
#: Shares of the width that the columns of a table get, by how many there are.
_SHARES = {
    2: (0.34, 0.66),
    3: (0.4, 0.3, 0.3),
    4: (0.16, 0.5, 0.17, 0.17),
    5: (0.1, 0.2, 0.26, 0.2, 0.24),
    6: (0.22, 0.15, 0.1, 0.08, 0.2, 0.25),
}
_writing = threading.Lock()  # the library's fonts and settings belong to the process


def write_pdf(title: str, subtitle: str, sections: Sequence[Section]) -> bytes:
    """The bytes of the file; the same sections give the same bytes: no dates, and an id made from the content."""
    with _writing:
        styles = _styles()
        story = [
            Paragraph(_text(title), styles["title"]),
            Paragraph(_text(subtitle), styles["quiet"]),
        ]
        for section in sections:
            story.append(Paragraph(_text(section.title), styles["heading"]))
            for block in section.blocks:
                story += _block(block, styles)
        buffer = io.BytesIO()
        document = SimpleDocTemplate(
            buffer, pagesize=(_WIDTH, _HEIGHT), topMargin=54, bottomMargin=44,
            leftMargin=_MARGIN - _PADDING, rightMargin=_MARGIN - _PADDING,
            title=title, subject=NOTICE, author="cxnet", creator=f"cxnet {__version__}", lang="en", invariant=1,
            pageCompression=1,
        )  # fmt: skip
        document.build(story, onFirstPage=_frame(title), onLaterPages=_frame(title))
        return buffer.getvalue()


def _frame(title: str) -> Any:
    """What stands on each page besides the text."""

    def draw(canvas: Any, document: Any) -> None:
        canvas.saveState()
        canvas.setStrokeColor(_ACCENT)
        canvas.setLineWidth(1.2)
        canvas.line(_MARGIN, _HEIGHT - 46, _WIDTH - _MARGIN, _HEIGHT - 46)
        canvas.setFillColor(_INK)
        canvas.setFont("Vera-Bold", 8)
        canvas.drawString(_MARGIN, _HEIGHT - 40, NOTICE)
        canvas.setFont("Vera", 7.5)
        canvas.setFillColor(_QUIET)
        canvas.drawString(_MARGIN, 30, title)
        canvas.drawRightString(_WIDTH - _MARGIN, 30, f"Page {document.page}")
        canvas.restoreState()

    return draw


@cache
def _styles() -> dict[str, Any]:
    for name, file in (("Vera", "Vera.ttf"), ("Vera-Bold", "VeraBd.ttf")):
        with resources.as_file(resources.files("reportlab") / "fonts" / file) as path:
            pdfmetrics.registerFont(TTFont(name, str(path)))
    plain = ParagraphStyle("plain", fontName="Vera", fontSize=9, leading=13, textColor=_INK, spaceAfter=4)
    return {
        "plain": plain,
        "quiet": ParagraphStyle("quiet", plain, textColor=_QUIET),
        "title": ParagraphStyle("title", plain, fontName="Vera-Bold", fontSize=16, leading=20),
        "heading": ParagraphStyle(
            "heading", plain, fontName="Vera-Bold", fontSize=12, leading=15, spaceBefore=14, spaceAfter=5, keepWithNext=1
        ),
        "caption": ParagraphStyle("caption", plain, fontName="Vera-Bold", spaceBefore=6, keepWithNext=1),
        "warning": ParagraphStyle("warning", plain, fontName="Vera-Bold", backColor=_WARM, borderPadding=5, spaceBefore=8, spaceAfter=10),
        "code": ParagraphStyle("code", plain, fontSize=8, leading=11, backColor="#eef2f3", borderPadding=5, spaceBefore=6),
        "cell": ParagraphStyle("cell", plain, fontSize=7.5, leading=9.5, spaceAfter=0),
        "head": ParagraphStyle("head", plain, fontName="Vera-Bold", fontSize=7.5, leading=9.5, spaceAfter=0),
        "picture": ParagraphStyle("picture", plain, fontSize=8, leading=10.5, spaceAfter=0),
    }  # fmt: skip


def _text(text: str) -> str:
    """Text that is nothing but text in a paragraph; a character that the font lacks is told by its number."""
    known = pdfmetrics.getFont("Vera").face.charToGlyph
    return escape("".join(c if ord(c) in known or c == "\n" else f"[U+{ord(c):04X}]" for c in visible(text)))


def _block(block: Block, styles: dict[str, Any]) -> list[Any]:
    if isinstance(block, Text):
        return [Paragraph(_text(block.text), styles[block.kind])]
    return _pictures(block, styles) if isinstance(block, Pictures) else _table(block, styles)


def _table(table: Table, styles: dict[str, Any]) -> list[Any]:
    rows = [[Paragraph(_text(cell), styles["cell"]) for cell in row] for row in table.rows]
    if table.columns:
        rows.insert(0, [Paragraph(_text(name), styles["head"]) for name in table.columns])
    if not rows:
        return []
    shares = _SHARES[len(rows[0])]
    drawn = LongTable(rows, [share * _INNER for share in shares], repeatRows=1 if table.columns else 0)
    drawn.setStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, _LINE),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 6),
            ("TOPPADDING", (0, 0), (-1, -1), 2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
        ]
    )
    return [Paragraph(_text(table.caption), styles["caption"]), drawn, Spacer(1, 6)]


def _pictures(block: Pictures, styles: dict[str, Any]) -> list[Any]:

    columns = block.columns
    width = (_INNER - (columns - 1) * _GAP) / columns
    cells = [_picture(picture, width, styles) for picture in block.items]
    cells += [[]] * (-len(cells) % columns)
    rows = [cells[k : k + columns] for k in range(0, len(cells), columns)]
    grid = Grid(rows, [width + _GAP] * (columns - 1) + [width], hAlign="LEFT")
    grid.setStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 0),
        ]
    )
    return [grid, Spacer(1, 4)]


def _picture(picture: Picture, width: float, styles: dict[str, Any]) -> list[Any]:
    """Picture, its colours, its title and badge, above one another."""
    height = width * picture.height_px / picture.width_px
    if height > 300:
        width, height = width * 300 / height, 300.0
    parts: list[Any] = [Image(io.BytesIO(picture.png), width, height, hAlign="LEFT")]
    if picture.colours is not None:
        low, high = (Paragraph(_text(end), styles["cell"]) for end in picture.ends)
        side, middle = 34.0, width - 68.0
        bar = Grid([[low, Image(io.BytesIO(picture.colours), middle - 6, 7), high]], [side, middle, side])
        bar.hAlign = "LEFT"
        bar.setStyle(
            [
                ("LEFTPADDING", (0, 0), (-1, -1), 3),
                ("RIGHTPADDING", (0, 0), (-1, -1), 3),
                ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
            ]
        )
        parts.append(bar)
    parts.append(Spacer(1, 3))
    parts.append(Paragraph(_text(picture.title), styles["head"]))
    parts.append(Paragraph(_text(picture.badge), styles["picture"]))
    return parts
