"""Text logs as bytes: whole lines in pieces of a few megabytes, whatever the length of the file."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from models.logs import LogError

PIECE = 4 << 20


def open_bytes(path: Path) -> IO[bytes]:
    """``path`` for reading, unpacked when it ends in ``.gz``. Raises LogError."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise LogError(path, f"cannot be read ({error.strerror})") from error
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file


def text_lines(path: Path, file: IO[bytes], size: int = PIECE) -> Iterator[bytes]:
    """The rest of ``file`` in pieces of whole lines, about ``size`` bytes each; the last may lack its
    newline."""
    rest = b""
    while data := read_bytes(path, file, size):
        cut = data.rfind(b"\n") + 1
        if not cut:
            rest += data
            if len(rest) > 16 * size:
                raise LogError(path, "has no line end in 64 MB", remedy="is this a text log?")
            continue
        yield rest + data[:cut]
        rest = data[cut:]
    if rest:
        yield rest


def read_bytes(path: Path, file: IO[bytes], size: int) -> bytes:
    """At most ``size`` bytes. Raises LogError."""
    try:
        return file.read(size)
    except (OSError, EOFError) as error:  # a .gz that ends early is an EOFError
        raise LogError(path, f"cannot be read to its end ({error})") from error
