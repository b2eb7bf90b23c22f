"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class FileIdentity(NamedTuple):
    """Which file or folder a name stands for. One that is made after the other was removed may get the same."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: str | Path | None) -> FileIdentity | None:
        """None: nothing is there, or it may not be seen."""
        try:
            found = os.stat(path or "")
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino)


def write_whole(file: Path, data: bytes) -> None:
    """``file`` as ``data``, all at once: before, or where this fails (OSError), it is what it was. Its name is on the disk once
    :func:`sync_folder` has returned."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        with fresh.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """What was created, renamed and removed in ``folder`` is on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
