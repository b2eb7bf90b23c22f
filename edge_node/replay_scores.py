"""Every score of a replay as Parquet: one row a scored window, written as they come, in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from arro3.core import Array, DataType, Field, RecordBatch, RecordBatchReader, Schema
from arro3.io import write_parquet

from edge_node.settling import Trace
from models.logs import LogError
from models.table_columns import ArrowRefusedError, arrow_errors

ROWS_A_BATCH = 65_536
_SCHEMA = Schema(
    [
        Field("device", DataType.utf8()),
        Field("start_ns", DataType.int64()),
        Field("end_ns", DataType.int64()),
        Field("score", DataType.float32()),
        Field("p_value", DataType.float64()),
        Field("above", DataType.bool()),
        Field("alerting", DataType.bool()),
    ]
)


class ScoresFile:
    """Writes traces to ``path``, replacing what is there at the end; a context manager. Raises LogError.

    Columns: device, start_ns and end_ns of the window, score, p_value, above (the raise level), alerting (a machine
    alert was open after it). Parquet is written by who asks for rows, so a thread does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._waiting: list[Trace] = []
        self._n_waiting = 0
        self._batches: queue.Queue[RecordBatch | None] = queue.Queue(maxsize=2)
        self._error: Exception | None = None
        try:
            self._part.open("wb").close()
        except OSError as error:
            raise LogError(path, f"cannot be written ({error.strerror})") from error
        self._thread = threading.Thread(target=self._write, name="scores", daemon=True)
        self._thread.start()

    def add(self, trace: Trace) -> None:
        """Keep ``trace``; raises LogError when an earlier one could not be written."""
        self._waiting.append(trace)
        self._n_waiting += trace.score.size
        if self._n_waiting >= ROWS_A_BATCH:
            self._hand_over()

    def close(self) -> None:
        """Finish the file."""
        if self._n_waiting:
            self._hand_over()
        self._put(None)
        self._thread.join()
        self._check()
        self._part.replace(self._path)

    def __enter__(self) -> ScoresFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self._put(None)
        self._thread.join()
        self._part.unlink(missing_ok=True)

    def _hand_over(self) -> None:
        batch = _batch(self._waiting)
        self._waiting, self._n_waiting = [], 0
        self._put(batch)
        self._check()

    def _put(self, batch: RecordBatch | None) -> None:
        while self._thread.is_alive():
            try:
                self._batches.put(batch, timeout=0.1)
                return
            except queue.Full:
                continue

    def _check(self) -> None:
        if self._error is not None:
            self._part.unlink(missing_ok=True)
            raise LogError(self._path, f"cannot be written ({self._error})") from self._error

    def _write(self) -> None:
        try:
            with arrow_errors():
                write_parquet(
                    RecordBatchReader.from_batches(_SCHEMA, self._taken()),
                    self._part,
                    compression="zstd(3)",
                    max_row_group_size=ROWS_A_BATCH,
                )
        except (ArrowRefusedError, OSError) as error:
            self._error = error

    def _taken(self) -> Iterator[RecordBatch]:
        while (batch := self._batches.get()) is not None:
            yield batch


def _batch(traces: list[Trace]) -> RecordBatch:
    devices = [trace.device_id for trace in traces for _ in range(trace.score.size)]
    columns = [
        Array(devices, type=DataType.utf8()),
        *(
            Array.from_numpy(np.concatenate([getattr(trace, name) for trace in traces]))
            for name in ("start_ns", "end_ns", "score", "p", "above", "alerting")
        ),
    ]
    return RecordBatch.from_arrays(columns, schema=_SCHEMA)
