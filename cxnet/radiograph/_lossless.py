"""A program: decodes the JPEG Lossless codestream on its input to the raw values on its output.

GDCM ends the process on some malformed streams, so it has a process of its own; that one imports GDCM and nothing
else, not even this package, as each import would count towards the memory that one radiograph takes.
"""

from __future__ import annotations

import sys
from typing import Any, BinaryIO, NamedTuple


class Layout(NamedTuple):
    """How the values lie, as the data set says; as program arguments, numbers but for the last."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: int
    planar: int
    process_14_1: int  # first-order prediction, the usual JPEG Lossless
    photometric: str

    @property
    def size(self) -> int:
        """Bytes of the picture."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8


def limit(memory: int) -> None:
    """Let this process have that many more bytes of data, and leave no core file: it would hold the picture."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def decode(layout: Layout, source: BinaryIO, target: BinaryIO) -> None:
    """Write the values of the codestream; fewer than ``layout.size`` bytes, or another number, where it is damaged."""
    import gdcm  # type: ignore[import-untyped]

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(source.read())
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image: Any = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((layout.columns, layout.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(layout.photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if layout.samples > 1:
        image.SetPlanarConfiguration(layout.planar)
    syntax = gdcm.TransferSyntax
    image.SetTransferSyntax(
        syntax(syntax.JPEGLosslessProcess14_1 if layout.process_14_1 else syntax.JPEGLosslessProcess14)
    )
    image.SetPixelFormat(
        gdcm.PixelFormat(
            layout.samples, layout.bits_allocated, layout.bits_stored, layout.bits_stored - 1, layout.signed
        )
    )
    text = image.GetBuffer()  # two bytes for each one of the picture, so it is encoded in blocks
    for start in range(0, len(text), 2**20):
        target.write(text[start : start + 2**20].encode("utf-8", "surrogateescape"))
    target.flush()


if __name__ == "__main__":
    limit(int(sys.argv[1]))
    *numbers, photometric = sys.argv[2:]
    decode(Layout._make([*map(int, numbers), photometric]), sys.stdin.buffer, sys.stdout.buffer)
