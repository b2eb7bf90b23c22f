"""How long a log is, where that costs less than reading it: for people who wait."""

from __future__ import annotations

from pathlib import Path

from models.block_frames import SUFFIX, survey
from models.block_parquet import parquet_log_records
from models.json_lines import JsonLines
from models.logs import LogOptions
from models.recording import is_block_log, open_table
from models.tables import ParquetTable

SAMPLED_BYTES = 1 << 20


def log_length(path: Path, options: LogOptions) -> int | None:
    """Rows of a table, or blocks and ticks of a recording: counted in Parquet, in text estimated by its first lines. None for
    what is packed, for JSON lines that are batches of rows, and for a recording that was interrupted. Raises LogError."""
    if is_block_log(path):
        if path.suffix == SUFFIX:
            found = survey(path)
            return None if found is None or not found.is_closed else found.contents.n_items
        return parquet_log_records(path) if path.suffix == ".parquet" else _lines(path)
    if path.suffix == ".gz":
        return None
    table = open_table(path, options, lambda text: None)
    if isinstance(table, ParquetTable):
        return table.n_rows
    return None if isinstance(table, JsonLines) and table.batches else _lines(path)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        sample = file.read(SAMPLED_BYTES)
    n_bytes = path.stat().st_size
    n_sampled = sample.count(b"\n")
    if len(sample) >= n_bytes:
        return n_sampled
    return round(n_bytes * n_sampled / len(sample))
