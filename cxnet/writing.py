"""Files that are whole or not there: what stood in a folder stays if the disk is full or the program is ended."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cxnet.errors import SettingsError


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a folder: all of them are whole before the first one is moved to its place.

    Parameters
    ----------
    folder : Path
        Made if it is missing, and its parents.
    files : mapping of str to bytes
        Contents by file name; a file of that name is replaced.

    Raises
    ------
    SettingsError
        If a file cannot be written; then the folder holds what it held before, and no folder was made.

    Notes
    -----
    A process that is killed outright leaves a folder ``.cxnet-*`` beside the files, and if that happens in the moment
    in which they are moved, some of them are the new ones: each is whole, but they may not belong together.
    """
    folder = Path(folder)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".cxnet-") as partial:
            for name, content in files.items():
                (Path(partial) / name).write_bytes(content)
            for name in files:  # the one thing that could stop the moves when some of them are done
                if (folder / name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            for name in files:
                os.replace(Path(partial) / name, folder / name)
    except BaseException as error:
        for place in missing:
            with suppress(OSError):
                place.rmdir()
        if isinstance(error, OSError):
            raise refusal(error, folder) from error
        raise


def refusal(error: OSError, place: Path | None = None) -> SettingsError:
    """What the file system refused, as one sentence; `place` is what the user knows, the error's own if left out."""
    where = place or error.filename or "A file"
    what = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check path and permissions"
    why = os.strerror(error.errno) if error.errno else type(error).__name__
    return SettingsError(f"{where} cannot be read or written ({why}); {what} and try again.")
