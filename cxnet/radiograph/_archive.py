"""The files of a zip archive, one at a time, with every ceiling set before anything is unpacked.

What an archive says of itself is not believed: bytes are counted while they are unpacked. Names are looked at only to
pass over what operating systems add; they are never used as paths and never told, as they may be patients' names.
"""

from __future__ import annotations

import io
import re
import stat
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath

from cxnet.errors import DamagedFile, RadiographError, TooLarge, UnsupportedFormat

MAX_BYTES = 50 * 2**20
MAX_FILES = 500
MAX_UNPACKED = 500 * 2**20
#: Radiographs shrink to a half, and rarely to a fiftieth; zeros to a thousandth.
MAX_RATIO = 200
_CHUNK = 2**20
#: Central directories hold names, so they could fill the memory too.
_MAX_DIRECTORY = 2**20

_DIRECTORY_ENTRY = b"PK\x01\x02"
#: The locator of a zip64 directory, which stands right before the end of the other: four bytes alone occur in pictures.
_ZIP64_END = re.compile(rb"PK\x06\x07.{16}PK\x05\x06", re.DOTALL)
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_ADDED_BY_SYSTEMS = {"dicomdir", ".ds_store", "thumbs.db", "desktop.ini"}

_AGAIN = "zip the radiographs again"


def is_archive(data: bytes) -> bool:
    """Whether the bytes begin as a zip archive, be it an empty one or part of a split one, and are no DICOM file."""
    return data[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08") and data[128:132] != b"DICM"


def is_no_radiograph(name: str) -> bool:
    """Whether a name is that of a folder or of what systems put beside radiographs: thumbnails, DICOMDIR."""
    path = PurePosixPath(name.replace("\\", "/"))
    return (
        name.endswith(("/", "\\"))
        or path.name.lower() in _ADDED_BY_SYSTEMS
        or path.name.startswith("._")
        or "__MACOSX" in path.parts
    )


def members(data: bytes) -> Iterator[tuple[int, bytes | RadiographError]]:
    """Number, from 1, and content of each file of an archive, or the sentence that says why it is not read.

    Parameters
    ----------
    data : bytes
        Of the archive, up to 50 MB.

    Yields
    ------
    (number, content) : (int, bytes or RadiographError)
        Folders and what systems add (``__MACOSX``, ``DICOMDIR``) have no number.

    Raises
    ------
    UnsupportedFormat, DamagedFile, TooLarge
        If the archive as a whole is refused, at once; or midway if it unpacks to more than it says.
    """
    archive, entries = _opened(data)
    with archive:
        reaching = _reaching_into_others(entries, archive.start_dir)
        files = [entry for entry in entries if not is_no_radiograph(entry.filename)]
        if not files:
            raise DamagedFile("The archive holds no file that could be a radiograph; zip the radiographs themselves.")
        left = MAX_UNPACKED
        for number, entry in enumerate(files, 1):
            try:
                if id(entry) in reaching:
                    raise DamagedFile(
                        f"It shares its bytes with another file, so the archive is damaged or made to harm; {_AGAIN}."
                    )
                found: bytes | RadiographError = _unpacked(archive, entry, left)
            except RadiographError as error:
                found = error
            left -= len(found) if isinstance(found, bytes) else min(MAX_BYTES, entry.file_size)
            yield number, found
            del found  # not held while the next one is unpacked
            if left <= 0 and number < len(files):
                raise TooLarge(_unpacks_to_too_much(f"so only its first {number} files were read"))


def _opened(data: bytes) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    if len(data) > MAX_BYTES:
        raise TooLarge(
            f"The archive has {len(data) / 2**20:.0f} MB and the limit is {MAX_BYTES // 2**20} MB; split it."
        )
    # Counted in the bytes, because opening the archive would already make an object of each entry.
    if data.count(_DIRECTORY_ENTRY) > MAX_FILES:
        raise TooLarge(f"The archive holds more than {MAX_FILES} files; split it.")
    if _ZIP64_END.search(data[-(2**17) :]):
        raise UnsupportedFormat(f"Archives in the zip64 format for giant files are not read; {_AGAIN} without it.")
    refusal: RadiographError
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # whatever a malformed archive makes of the reader
        refusal = DamagedFile(f"The archive is damaged or cut short ({type(error).__name__}); {_AGAIN}.")
    else:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
            refusal = TooLarge(_unpacks_to_too_much("so nothing of it was read"))
        else:
            return archive, entries
    raise refusal  # outside the handler, so that it carries no context


def _unpacks_to_too_much(what: str) -> str:
    return f"The archive unpacks to more than {MAX_UNPACKED // 2**20} MB, {what}; split it."


def _reaching_into_others(entries: list[zipfile.ZipInfo], directory: int) -> set[int]:
    """Ids of entries whose packed bytes run into the next entry or the directory: the trick of overlapping bombs."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    starts = [*(entry.header_offset for entry in ordered), directory]
    header = 30  # bytes before the name
    return {
        id(entry)
        for entry, (start, following) in zip(ordered, pairwise(starts), strict=True)
        if start + header + entry.compress_size > following
    }


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int) -> bytes:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise UnsupportedFormat("It is a link or a device, not a file; zip the radiograph itself.")
    if entry.flag_bits & _ENCRYPTED:
        raise UnsupportedFormat("It is locked with a password; unlock it and zip it again.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedFormat("It is packed by a method other than deflate; zip it again in the usual way.")
    found, most = bytearray(), min(MAX_BYTES, left)
    refusal: RadiographError | None = None
    try:
        with archive.open(entry) as stream:
            while chunk := stream.read(_CHUNK):
                found += chunk
                if len(found) > most:
                    refusal = TooLarge(f"It unpacks to more than {most // 2**20} MB; export a smaller one.")
                    break
                if len(found) > _CHUNK and len(found) > MAX_RATIO * entry.compress_size:
                    refusal = TooLarge(
                        f"It unpacks to more than {MAX_RATIO} times its size, as no radiograph does; choose another file."
                    )
                    break
    except Exception as error:  # whatever malformed bytes make of the reader
        refusal = DamagedFile(f"It is damaged or cut short in the archive ({type(error).__name__}); {_AGAIN}.")
    if refusal is None and len(found) != entry.file_size:
        refusal = DamagedFile(f"It is cut short in the archive; {_AGAIN}.")
    if refusal is not None:
        raise refusal
    return bytes(found)
