"""``edge-node run --record``: what the pipeline is given, written down for as long as the file can say what it means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from models.logs import LogError, LogItem
from models.recording import RecordingWriter
from models.signal import SampleBlock
from models.time_policy import RecordedDevice

log = structlog.get_logger("linewatch.record")


class Recording:
    """A recording that ends early rather than end the daemon or become wrong: what comes after that is counted."""

    def __init__(self, path: Path, devices: Sequence[RecordedDevice]) -> None:
        """Raises LogError."""
        self._path = path
        self._devices = _by_id(devices)
        self._writer: RecordingWriter | None = RecordingWriter(path, devices)
        self._is_empty = True
        self.error: str | None = None  # why it could not be written on, in one line
        self.n_recorded = 0
        self.n_unrecorded = 0

    def write(self, item: LogItem) -> None:
        """Appends ``item``; a log that cannot be written ends."""
        n = item.n_samples if isinstance(item, SampleBlock) else 0
        if self._writer is None:
            self.n_unrecorded += n
            return
        try:
            self._writer.write(item)
        except LogError as error:
            self._writer = None
            self._failed(error)
            self.n_unrecorded += n
            return
        self._is_empty = False
        self.n_recorded += n

    def go_on_with(self, devices: Sequence[RecordedDevice]) -> None:
        """From here on blocks are of ``devices``: the recording ends if it says something else of them."""
        if self._writer is None or _by_id(devices) == self._devices:
            return
        log.warning(
            f"the recording {self._path} ends here: it describes the devices as they were, and what follows is of "
            "others. Restart with a new --record file to record on",
            n_values=self.n_recorded,
        )
        try:
            self._finish()
        except LogError as error:
            self._failed(error)

    def close(self) -> None:
        """Finishes the file; one that nothing was written to is removed. Raises LogError."""
        if self._writer is not None:
            self._finish()
        elif self.error is not None:
            log.warning(
                f"the recording {self._path} is not whole: {self.error}",
                n_values=self.n_recorded,
                n_values_left_out=self.n_unrecorded,
            )

    def _failed(self, error: LogError) -> None:
        self.error = str(error)
        log.error("recording stopped", error=self.error, n_values=self.n_recorded)

    def _finish(self) -> None:
        writer, self._writer = self._writer, None
        assert writer is not None
        if self._is_empty:
            log.warning(f"nothing was recorded: {self._path} is removed")
            writer.discard()
        else:
            writer.close()


def _by_id(devices: Sequence[RecordedDevice]) -> dict[str, RecordedDevice]:
    return {device.device_id: device for device in devices}
