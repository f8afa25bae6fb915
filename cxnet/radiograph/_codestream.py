"""The compressed picture inside a DICOM file: checked against the data set, then decoded where it can do no harm."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import DamagedFile

#: Which of pydicom's plugins decodes which transfer syntax. GDCM decodes most of them, but on some malformed streams
#: it ends the process (an uncaught C++ exception), so it is asked only where nothing else can, in a process of its own.
PLUGINS = {
    "1.2.840.10008.1.2": "",  # implicit little endian
    "1.2.840.10008.1.2.1": "",  # explicit little endian
    "1.2.840.10008.1.2.2": "",  # explicit big endian
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "pillow",  # JPEG extended
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
}

#: Bytes that the child process may address: some times the largest picture.
_GDCM_BYTES = 4 * 2**30
_GDCM = f"""
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({_GDCM_BYTES}, {_GDCM_BYTES}))
except ImportError:  # not on Windows
    pass
import io, sys, numpy, pydicom
dataset = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read()), force=True)
found = io.BytesIO()
numpy.save(found, pydicom.pixels.pixel_array(dataset, decoding_plugin="gdcm"))
sys.stdout.buffer.write(found.getvalue())
"""
_GDCM_SECONDS = 60


def decode_pixels(data: bytes, dataset: Any, rows: int, columns: int, samples: int) -> NDArray[Any]:
    """Stored values (rows, columns) or, as RGB, (rows, columns, 3), of a transfer syntax in :data:`PLUGINS`.

    Raises
    ------
    DamagedFile
        If the pixel data are of another size than the data set says. Decoders believe the codestream and could be
        made to fill the memory.
    Exception
        Whatever pydicom and its plugins raise.
    """
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = PLUGINS[syntax]
    if plugin:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if syntax == RLELossless:
            fits = _unpacked_at_most(frame, rows * columns)
        else:
            fits = _size(frame) == (rows, columns, samples)
    else:  # less is found by pydicom; a byte or two more is padding, a row more a contradiction
        row = columns * samples * dataset.BitsAllocated // 8
        fits = len(dataset.PixelData) < (rows + 1) * row
    if not fits:
        raise DamagedFile("The picture in the DICOM file is not of the size that the file says; export it again.")
    if plugin == "gdcm":
        child = subprocess.run(
            [sys.executable, "-c", _GDCM], input=data, capture_output=True, timeout=_GDCM_SECONDS, check=True
        )
        return np.asarray(np.load(io.BytesIO(child.stdout), allow_pickle=False))
    # unlike the data set's attribute of that name, this turns YBR into RGB
    return np.asarray(pixel_array(dataset, decoding_plugin=plugin))


def _size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 codestream announces."""
    siz = stream.find(b"\xff\x4f\xff\x51")
    if not stream.startswith(b"\xff\xd8") and siz >= 0:  # ISO/IEC 15444-1 A.5.1
        right, bottom, left, top = struct.unpack_from(">4I", stream, siz + 8)
        return bottom - top, right - left, struct.unpack_from(">H", stream, siz + 40)[0]
    place = 2
    while place + 10 <= len(stream):  # ITU-T T.81 B.2.2, T.87 C.2.2
        if stream[place] != 0xFF:
            return None
        marker = stream[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack_from(">HHB", stream, place + 5)
        else:
            place += 2 + struct.unpack_from(">H", stream, place + 2)[0]
    return None


def _unpacked_at_most(frame: bytes, limit: int) -> bool:
    """Whether every segment of run lengths unpacks to ``limit`` bytes or little more (PS3.5 Annex G)."""
    count, *offsets = struct.unpack_from("<16I", frame)
    for start, end in pairwise([*offsets[:count], len(frame)]):
        segment = memoryview(frame)[start:end]
        place = unpacked = 0
        while place < len(segment):
            header = segment[place]
            if header < 128:
                unpacked += header + 1
                place += header + 2
            else:
                unpacked += 257 - header if header > 128 else 0
                place += 2 if header > 128 else 1
            if unpacked > limit + 1024:  # segments may be padded
                return False
    return True
