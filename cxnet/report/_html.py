"""The report as one HTML file: no script, no request, light, and ready for A4."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence

from cxnet.analysis import NOTICE
from cxnet.report._content import Block, Picture, Pictures, Section, Table, Text, visible

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
html { background: #eef2f3; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #15232a; background: #fff;
  width: min(100%, 60rem); margin: 0 auto; padding: 0 clamp(1rem, 4vw, 3rem) 2rem; display: table;
  table-layout: fixed; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.notice { display: table-header-group; break-inside: avoid; }
.notice p { margin: 0 0 1rem; padding: .6rem 0; border-bottom: 2px solid #0b6e75; font-weight: 600; }
main { display: block; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; padding-bottom: .2rem; border-bottom: 1px solid #c5d0d4;
  break-after: avoid; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
.quiet { color: #47585f; }
.warning { border-left: 4px solid #b34606; background: #fdf1e8; padding: .5rem .8rem; font-weight: 600; }
pre { background: #eef2f3; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .82rem; margin: .8rem 0 1.2rem; }
caption { text-align: left; font-weight: 600; padding: .2rem 0; font-size: .95rem; break-after: avoid; }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem .25rem 0; border-bottom: 1px solid #d9e1e4;
  overflow-wrap: break-word; }
tbody th { font-weight: 400; width: 34%; color: #33444b; }
.figures tbody th { width: auto; color: inherit; }
.long { overflow-wrap: anywhere; }
@media screen { .many { min-width: 44rem; } }
tr { break-inside: avoid; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem;
  margin: .8rem 0 1.4rem; }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; padding-top: .3rem; }
.scale { display: grid; grid-template-columns: auto 1fr auto; gap: .4rem; align-items: center; font-size: .8rem;
  padding-top: .3rem; }
.scale img { height: .7rem; }
a { color: #0b6e75; }
@page { size: A4; margin: 14mm 14mm 16mm; }
@media print {
  html { background: #fff; font-size: 8.5pt; }
  body { width: 100%; padding: 0; font-size: 1rem; }
  .wide { overflow: visible; }
  .pictures { grid-template-columns: repeat(var(--columns), 1fr); break-inside: avoid; }
}
"""
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<meta name="robots" content="noindex">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
"""
_DOI = re.compile(r"\bdoi:(10\.[0-9]{4,9}/[-._;()/:A-Za-z0-9]+[A-Za-z0-9])")


def write_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The text of the file; the same sections give the same text."""
    body = "\n".join(
        f"<section>\n<h2>{escape(s.title)}</h2>\n" + "\n".join(map(_block, s.blocks)) + "\n</section>" for s in sections
    )
    return (
        f"{_HEAD}<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<header class="notice"><p>{escape(NOTICE)}</p></header>\n'
        f'<main>\n<h1>{escape(title)}</h1>\n<p class="quiet">{escape(subtitle)}</p>\n{body}\n</main>\n</body>\n</html>\n'
    )


def escape(text: str) -> str:
    """Text that is nothing but text in HTML: marked up, and without characters that cannot be seen."""
    return html.escape(visible(text))


def _block(block: Block) -> str:
    if isinstance(block, Text):
        if block.kind == "code":
            return f"<pre><code>{escape(block.text)}</code></pre>"
        kind = ' class="warning"' if block.kind == "warning" else ""
        return f"<p{kind}>{_linked(block.text)}</p>"
    if isinstance(block, Pictures):
        pictures = "\n".join(map(_picture, block.items))
        return f'<div class="pictures" style="--columns: {block.columns}">\n{pictures}\n</div>'
    return _table(block)


def _linked(text: str) -> str:
    """Escaped text; DOIs become links, the only ones of a report."""
    return _DOI.sub(r'<a href="https://doi.org/\1">doi:\1</a>', escape(text))


def _table(table: Table) -> str:
    head = ""
    if table.columns:
        cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
        head = f"<thead><tr>{cells}</tr></thead>\n"
    rows = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(_cell(cell) for cell in rest) + "</tr>"
        for first, *rest in table.rows
    )
    kind = "pairs" if not table.columns else "figures many" if len(table.columns) > 4 else "figures"
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(table.caption)}"><table class="{kind}">\n'
        f"<caption>{escape(table.caption)}</caption>\n{head}"
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _cell(text: str) -> str:
    kind = ' class="long"' if any(len(word) > 30 for word in text.split()) else ""
    return f"<td{kind}>{_linked(text)}</td>"


def _picture(picture: Picture) -> str:
    scale = ""
    if picture.colours is not None:
        low, high = picture.ends
        scale = (
            f'<div class="scale"><span>{escape(low)}</span><img alt="Colours from {escape(low)} to {escape(high)}" '
            f'src="{_data(picture.colours)}"><span>{escape(high)}</span></div>'
        )
    alt = escape(f"{picture.title}: {picture.badge}")
    return (
        f'<figure><img alt="{alt}" width="{picture.width_px}" height="{picture.height_px}" src="{_data(picture.png)}">'
        f"{scale}<figcaption><strong>{escape(picture.title)}</strong><br>{escape(picture.badge)}</figcaption></figure>"
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
