"""The feature log as the daemon's loop has it: features of every window that is to be scored go to the disk, for weeks.

Strategy: files, thread and bounds are the black box's own (:class:`~edge_node.recorder.Recorder`), in a folder of their own.
Arrays are gathered by device for ``flush_s`` and become one block each, a few devices a turn. A file begins with what each
device's judgement remembers then, so a backtest may begin with any of them. Invariants: nothing here waits; every value is
gathered, queued, recorded, or dropped for a reason; nothing of it is ever published.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import msgspec
import structlog

from edge_node.assembly import Core
from edge_node.config import Config
from edge_node.config_schema import BlackBox
from edge_node.feature_rows import FeatureRows, as_block, column_names
from edge_node.lane import Judgement
from edge_node.plans import DevicePlan
from edge_node.recorder import RETRY_S, Done, Recorder
from edge_node.ring import Begin, segment_bytes
from models import codec
from models.acceptance import Acceptance
from models.block_frames import raw_bytes
from models.signal import DropReason

FOLDER = "features"
FILE_S = 3600.0
_MOST_QUEUED = 4_000_000  # values that wait for the disk, 16 MB
_MOST_ROWS = 256  # of a device, that are gathered
_DEVICES_A_TURN = 16
_DISK_S = 5.0  # until what was handed over is written

log = structlog.get_logger("linewatch.feature_log")


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What a file begins with, by device that has a model."""

    devices: dict[str, Judgement]


def bounds_as_black_box(config: Config) -> BlackBox:
    """The bounds of the feature log, in the words of what keeps to them. Nothing of it is kept around alerts."""
    given = config.feature_log
    return BlackBox(
        enabled=given.enabled,
        hours=24 * given.days,
        max_bytes=given.max_bytes,
        keep_days=0.0,
        keep_bytes=0,
        min_free_bytes=config.black_box.min_free_bytes,
        flush_s=min(given.flush_s, _DISK_S),
        queue_samples=_MOST_QUEUED,
    )


class FeatureLog:
    """See the module's docstring. Of the loop's thread."""

    def __init__(
        self,
        state_dir: Path | None,
        config: Config,
        core: Core,
        *,
        now_s: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
        file_s: float = FILE_S,
    ) -> None:
        """Begins to keep what ``core`` will extract; without a ``state_dir`` it never does."""
        self._folder = None if state_dir is None else state_dir / FOLDER
        self._now_s, self._retry_s, self._file_s = now_s, retry_s, file_s
        self._recorder: Recorder | None = None
        self._ended: Recorder | None = None  # that may still be writing
        self._paused: DropReason | None = None
        self._gathered: dict[str, list[FeatureRows]] = {}
        self._n_rows: Counter[str] = Counter()  # in these
        self._due: list[str] = []  # devices whose rows are to be handed over
        self._n_dropped: Counter[DropReason] = Counter()
        self._n_raw_bytes = self._most_bytes = 0
        self._flush_at_s = self._ends_s = 0.0
        self._plans: tuple[DevicePlan, ...] = ()
        self._columns: dict[str, tuple[int, tuple[str, ...]]] = {}  # by device
        self.n_pauses = 0  # because the disk was too slow
        self._take_up(config, core)

    # What the daemon calls in its turn.

    def begin_turn(self, core: Core) -> None:
        """Where a device has learned its model since the last turn, or has another one whose features mean something else, a
        file begins with what is remembered of it, before any window of it has features."""
        if core.plans is self._plans:
            return
        before, self._plans = _schemas(self._plans), core.plans
        anew = self._recorder is not None and _schemas(core.plans) != before
        if anew:
            self._columns = {**_columns(core), **self._columns}  # what waits is of the models before
            self._gather(core)
            self._hand_over(list(self._gathered))
        self._columns = _columns(core)
        if anew and self._paused is None:
            self._begin(follows=True)

    def end_turn(self, core: Core) -> None:
        """All that was pushed has its features, as far as it will: they are taken, and a file may begin here."""
        recorder = self._recorder
        if recorder is None:
            return
        self._gather(core)
        if self._paused is None and recorder.failing is not None:
            self._pause(recorder)
        if self._paused is not None:
            self._hand_over(list(self._gathered))  # dropped: a file begins with what is remembered after them
            if recorder.may_begin:
                self._begin(follows=False)
            return
        now_s = self._now_s()
        if now_s >= self._flush_at_s:
            self._due, self._flush_at_s = list(self._gathered), now_s + self._flush_s
        now, self._due = self._due[:_DEVICES_A_TURN], self._due[_DEVICES_A_TURN:]
        self._hand_over(now)
        if self._n_raw_bytes >= self._most_bytes or now_s >= self._ends_s:
            self._hand_over(list(self._gathered))
            if self._paused is None and self._n_raw_bytes:
                self._begin(follows=True)

    def go_on_with(self, config: Config, core: Core) -> None:
        """From here on the pipeline is that of ``core``; what the one before has extracted is written as it was."""
        self.begin_turn(self._core)
        if self._recorder is not None:
            self._gather(self._core)
            self._hand_over(list(self._gathered))
        self._take_up(config, core)

    def close(self) -> None:
        """Writes what is gathered and queued, and waits for that."""
        self.begin_turn(self._core)
        if self._recorder is not None:
            self._gather(self._core)
            self._hand_over(list(self._gathered))
        self._end()
        if self._ended is not None:
            self._ended.close()

    # What there is to say of it.

    @property
    def error(self) -> str | None:
        """Why it is not written, though it should be."""
        return None if self._recorder is None else self._recorder.error

    @property
    def done(self) -> Done | None:
        """None where it is not on."""
        if self._recorder is None:
            return None
        done = self._recorder.done
        n_gathered = sum(self._n_values(rows) for some in self._gathered.values() for rows in some)
        return replace(done, n_queued=done.n_queued + n_gathered)

    def dropped(self, done: Done) -> Counter[DropReason]:
        """Values that were not written, by reason, when ``done`` was."""
        return self._n_dropped + done.dropped

    def _gather(self, core: Core) -> None:
        for item in core.pipeline.take_features():
            if isinstance(item, Acceptance):
                self._hand_over([item.device_id])
                if self._paused is None and self._recorder is not None and not self._recorder.put(item):
                    self._pause(self._recorder)
                continue
            some = self._gathered.setdefault(item.device_id, [])
            some.append(item)
            self._n_rows[item.device_id] += item.n
            if self._n_rows[item.device_id] >= _MOST_ROWS:
                self._hand_over([item.device_id])

    def _hand_over(self, device_ids: Iterable[str]) -> None:
        """What is gathered of these, to the recorder."""
        recorder = self._recorder
        assert recorder is not None
        for device_id in device_ids:
            self._n_rows.pop(device_id, None)
            for _, same in groupby(self._gathered.pop(device_id, ()), key=lambda rows: rows.clock):
                rows = list(same)
                block = as_block(rows, *self._columns[device_id])
                if self._paused is None and recorder.put(block):
                    self._n_raw_bytes += raw_bytes(block)
                    continue
                if self._paused is None:
                    self._pause(recorder)
                self._n_dropped[self._paused or DropReason.QUEUE_FULL] += block.n_samples

    def _n_values(self, rows: FeatureRows) -> int:
        return rows.n * len(self._columns[rows.device_id][1])

    def _take_up(self, config: Config, core: Core) -> None:
        self._core = core
        self._options = bounds_as_black_box(config)
        self._flush_s = config.feature_log.flush_s
        self._devices = [device.as_recorded() for device in config.devices]
        self._plans, self._columns = core.plans, _columns(core)
        if not self._options.enabled:
            self._end()
            return
        if self._folder is None:
            return
        core.pipeline.keep_features()
        if self._recorder is None:
            self._recorder = Recorder(
                self._folder,
                self._options,
                now_s=self._now_s,
                retry_s=self._retry_s,
                after=self._ended,
                name="the feature log",
            )
            self._paused = None
        self._recorder.take_up(self._options)
        if self._paused is None:
            self._begin(follows=False)

    def _end(self) -> None:
        if self._recorder is not None:
            self._ended, self._recorder = self._recorder, None
            self._ended.end()

    def _begin(self, *, follows: bool) -> None:
        assert self._recorder is not None
        remembered = Remembered(devices=self._core.pipeline.judgements())
        state = codec.pack_state(remembered)
        self._recorder.begin(Begin(self._devices, state, follows))
        self._paused = None
        self._n_raw_bytes = 0
        self._most_bytes = segment_bytes(self._options, len(state))
        now_s = self._now_s()
        self._ends_s, self._flush_at_s = now_s + self._file_s, now_s + self._flush_s

    def _pause(self, recorder: Recorder) -> None:
        self._paused = recorder.failing or DropReason.QUEUE_FULL
        if self._paused is DropReason.QUEUE_FULL:
            self.n_pauses += 1
            log.warning("the feature log pauses: the disk is too slow for what comes")
        self._hand_over(list(self._gathered))  # dropped


def _columns(core: Core) -> dict[str, tuple[int, tuple[str, ...]]]:
    """(channels, names of the columns) of each device that has a model."""
    return {
        plan.device.device_id: (
            len(plan.device.channels),
            column_names(len(plan.device.channels), [info.name for info in plan.model.infos]),
        )
        for plan in core.plans
        if plan.model is not None
    }


def _schemas(plans: Sequence[DevicePlan]) -> dict[str, str]:
    """What the features of each device that has a model mean."""
    return {p.device.device_id: p.model.manifest.schema_id for p in plans if p.model is not None}
