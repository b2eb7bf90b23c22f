"""Parquet files, whoever wrote them, in batches; and none of them ends this process.

Arrow's Parquet reader panics over a damaged file, and where a page is damaged the panic cannot be caught:
it aborts the process. So every file is read once by a process of its own before it is read here (20 million
rows a second).
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arro3.core import RecordBatch
from arro3.io import read_parquet

from models.logs import LogError
from models.table_columns import ArrowRefusedError, arrow_errors

_PROBE = """
import sys
from arro3.io import read_parquet
n_rows = int(sys.argv[2])
reader = read_parquet(sys.argv[1], batch_size=n_rows or 1)
print(sum(batch.num_rows for batch in reader) if n_rows else "")
"""


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """What Arrow says of an unreadable Parquet file, as a LogError."""
    try:
        with arrow_errors():
            yield
    except (ArrowRefusedError, OSError) as error:
        raise LogError(path, f"is not readable as Parquet ({error})") from error


def parquet_batches(path: Path, n_rows: int) -> Iterator[RecordBatch]:
    """The rows of ``path``, at most ``n_rows`` at a time. Raises LogError for a file that is torn, damaged
    or no Parquet."""
    _check(path, n_rows)
    with parquet_errors(path):
        reader = iter(read_parquet(path, batch_size=n_rows))
    while True:
        with parquet_errors(path):
            batch = next(reader, None)
        if batch is None:
            return
        yield batch


def parquet_n_rows(path: Path, n_rows: int) -> int:
    """How many rows ``path`` has. Raises LogError as :func:`parquet_batches` does, and costs nothing more where the file
    is also read by that, ``n_rows`` at a time."""
    return _check(path, n_rows)


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Names of the columns. Raises LogError as :func:`parquet_batches` does, of the index alone."""
    _check(path, 0)
    with parquet_errors(path):
        return tuple(read_parquet(path).schema.names)


def parquet_metadata(path: Path) -> dict[str, str]:
    """Key and value of what the file says of itself. Raises LogError as :func:`parquet_columns` does."""
    _check(path, 0)
    with parquet_errors(path):
        return dict(read_parquet(path).schema.metadata_str)


def _check(path: Path, n_rows: int) -> int:
    """A Parquet file begins and ends with its mark, and Arrow gets through it; its rows, where ``n_rows`` are read at a
    time and not its index alone."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            state = path.stat()
            file.seek(max(0, state.st_size - 4))
            tail = file.read(4)
    except OSError as error:
        raise LogError(path, f"cannot be read ({error.strerror})") from error
    if head != b"PAR1" or tail != b"PAR1":
        what = "its end is missing" if head == b"PAR1" else "it is something else"
        raise LogError(path, f"is not readable as Parquet ({what})")
    problem, n_found = _probe(path.resolve(), state.st_size, state.st_mtime_ns, n_rows)
    if problem:
        raise LogError(path, f"is not readable as Parquet ({problem})")
    return n_found


@functools.lru_cache(maxsize=1024)
def _probe(path: Path, size: int, mtime_ns: int, n_rows: int) -> tuple[str, int]:
    """What is wrong with the file as it is now ("" for nothing), and its rows; asked once for each state of a file."""
    command = [sys.executable, "-I", "-c", _PROBE, str(path), str(n_rows)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    if done.returncode == 0:
        return "", int(done.stdout.strip() or 0)
    said = [line for line in done.stderr.splitlines() if "Exception: " in line]
    return (said[-1].split("Exception: ", 1)[1] if said else "it is damaged"), 0
