"""The compressed picture inside a DICOM file: checked against the data set, then decoded where it can do no harm."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from contextlib import suppress
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxnet.errors import DamagedFile, TooLarge
from cxnet.radiograph._lossless import Layout

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

#: What decodes JPEG Lossless; its arguments are a memory limit and a :class:`Layout`. ``-P``: nothing is imported from
#: where this process happens to run.
LOSSLESS = (sys.executable, "-P", str(Path(__file__).with_name("_lossless.py")))
#: Bytes of resident memory that decoding JPEG Lossless may take, by :func:`_resident`; 40 million pixels of 12 bits
#: fit, and some 20 million of 16 bits or 35 million in colour.
MAX_RESIDENT = 400 * 2**20
_two_at_a_time = threading.BoundedSemaphore(2)


class Encoded:
    """The picture of a data set, of the size that the data set says, still to be decoded.

    Parameters
    ----------
    dataset : pydicom.Dataset
        With one frame in a transfer syntax of :data:`PLUGINS`; where :attr:`apart`, its pixel data are taken away.
    rows, columns, samples : int
        As the data set says.

    Raises
    ------
    DamagedFile
        If the pixel data are of another size than the data set says. Decoders believe the codestream and could be
        made to fill the memory.
    TooLarge
        If decoding takes too much memory.
    """

    def __init__(self, dataset: Any, rows: int, columns: int, samples: int) -> None:
        from pydicom.encaps import get_frame
        from pydicom.uid import JPEGLosslessSV1, RLELossless

        self._dataset = dataset
        syntax = dataset.file_meta.TransferSyntaxUID
        self._plugin = PLUGINS[syntax]
        #: Whether :meth:`decode_apart` comes first.
        self.apart = self._plugin == "gdcm"
        if self._plugin:
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
        if not self.apart:
            return
        photometric = str(dataset.get("PhotometricInterpretation", "") or "MONOCHROME2")
        self._layout = Layout(
            rows,
            columns,
            samples,
            int(dataset.BitsAllocated),
            int(dataset.get("BitsStored") or dataset.BitsAllocated),
            int(dataset.get("PixelRepresentation") or 0),
            int(dataset.get("PlanarConfiguration") or 0),
            int(syntax == JPEGLosslessSV1),
            "YBR_FULL" if photometric.startswith("YBR") else photometric,  # it is never stored at half the width
        )
        if _resident(len(frame), self._layout) > MAX_RESIDENT:
            raise TooLarge(
                f"To decode this JPEG Lossless picture of {columns} x {rows} pixels would take too much memory; "
                "export it uncompressed."
            )
        self._frame = frame
        del dataset.PixelData

    def decode_apart(self) -> NDArray[np.uint8]:
        """The raw values, from a process of its own; slow, so nothing else should have to wait for it.

        Raises
        ------
        DamagedFile
            If that process ends, takes too long or gives another number of bytes.
        """
        layout, frame = self._layout, self._frame
        del self._frame
        memory = 64 * 2**20 + 3 * len(frame) + 6 * layout.size  # half as much again as was measured
        with _two_at_a_time:
            child = subprocess.Popen(
                [*LOSSLESS, str(memory), *map(str, layout)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            clock = threading.Timer(seconds_for(layout.size), child.kill)
            clock.start()
            # not a bytearray, which is filled with zeros while the child still needs its memory
            found, whole = np.empty(layout.size, np.uint8), False
            try:
                with suppress(BrokenPipeError), child:
                    assert child.stdin is not None and isinstance(child.stdout, BufferedReader)
                    child.stdin.write(frame)
                    del frame  # before the child needs most memory
                    child.stdin.close()
                    whole = child.stdout.readinto(found.data) == len(found) and not child.stdout.read(1)
            finally:
                clock.cancel()
        if child.returncode != 0 or not whole:
            raise DamagedFile(
                "The JPEG Lossless picture in the DICOM file cannot be decoded; export it again, uncompressed."
            )
        return found

    def decode(self, apart: NDArray[np.uint8] | None) -> NDArray[Any]:
        """Stored values (rows, columns) or, as RGB, (rows, columns, 3).

        Parameters
        ----------
        apart : uint8 array (bytes,) or None
            What :meth:`decode_apart` gave, if it comes first.

        Raises
        ------
        Exception
            Whatever pydicom and its plugins raise.
        """
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.pixels.utils import pixel_array
        from pydicom.uid import ExplicitVRLittleEndian

        if apart is None:
            # unlike the data set's attribute of that name, this turns YBR into RGB
            return np.asarray(pixel_array(self._dataset, decoding_plugin=self._plugin))
        layout = self._layout
        options: dict[str, Any] = {
            "rows": layout.rows,
            "columns": layout.columns,
            "samples_per_pixel": layout.samples,
            "bits_allocated": layout.bits_allocated,
            "bits_stored": layout.bits_stored,
            "pixel_representation": layout.signed,
            "planar_configuration": layout.planar,
            "photometric_interpretation": layout.photometric,
            "number_of_frames": 1,
            "pixel_keyword": "PixelData",
            "view_only": True,  # no second copy
        }
        found, _ = get_decoder(ExplicitVRLittleEndian).as_array(apart.data, **options)
        return np.asarray(found)


def _resident(compressed: int, layout: Layout) -> int:
    """Bytes of resident memory that :data:`LOSSLESS` takes, as measured with GDCM 3.2.

    GDCM gives the picture as text: of all 16 bits this may take four bytes for each one, as some values are UTF-8 of
    rare characters.
    """
    copies = 7 if layout.bits_stored == 16 else 3
    return 45 * 2**20 + 2 * compressed + copies * layout.size


def seconds_for(unpacked: int) -> float:
    """After how many seconds decoding that many bytes is given up: some five times what a busy core takes."""
    return 10 + unpacked / 2e6


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
