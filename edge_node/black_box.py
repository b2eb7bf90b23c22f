"""The black box as the daemon's loop has it: what the pipeline is given is queued for the disk, and alerts get their evidence.

Strategy: :class:`~edge_node.recorder.Recorder` writes on a thread of its own; here it is decided where files begin (between
two turns, when nothing is under way, with what the pipeline remembers then) and when recording pauses: as soon as one block
could not be queued, up to the next beginning, so that within a file nothing is missing. Invariants: nothing here waits; every
value that the pipeline is given is recorded, queued, or dropped for a reason; nothing of it is ever published.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from edge_node.assembly import Core
from edge_node.config import Config
from edge_node.config_schema import BlackBox as Options
from edge_node.recorder import RETRY_S, Done, Recorder
from edge_node.ring import Begin, Item, segment_bytes
from edge_node.segments import FOLDER
from edge_node.tails import Tails
from models.block_frames import raw_bytes
from models.evidence import Mark
from models.messages import Alert
from models.signal import DropReason, SampleBlock

SEGMENT_S = 300.0  # of a file, and more where what the pipeline remembers is large
_STATE_BYTES = 1 << 16  # that may be written so often
_MOST_SEGMENT_S = 3600.0

log = structlog.get_logger("linewatch.black_box")


class BlackBox:
    """See the module's docstring. Of the loop's thread."""

    def __init__(
        self,
        state_dir: Path | None,
        config: Config,
        core: Core,
        *,
        now_s: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
        segment_s: float = SEGMENT_S,
    ) -> None:
        """Begins to record what ``core`` will be given; without a ``state_dir`` it never does, and says so."""
        self._folder = None if state_dir is None else state_dir / FOLDER
        self._now_s = now_s
        self._retry_s, self._segment_s = retry_s, segment_s
        self._recorder: Recorder | None = None
        self._ended: Recorder | None = None  # that may still be writing
        self._paused: DropReason | None = None
        self._tails = Tails(core.plans)
        self._n_dropped: Counter[DropReason] = Counter()
        self.n_pauses = 0  # because the disk was too slow
        if self._folder is None and config.black_box.enabled:
            log.info("no raw signal is kept: there is no state directory for a black box")
        self._take_up(config, core)

    # What the daemon calls in its turn.

    def write(self, item: Item) -> None:
        """``item``, which the pipeline is given next."""
        recorder = self._recorder
        if recorder is None:
            return
        if self._paused is None and recorder.put(item):
            if isinstance(item, SampleBlock):
                self._tails.push(item)
                self._n_raw_bytes += raw_bytes(item)
            return
        if self._paused is None:
            self._pause(recorder)
        if isinstance(item, SampleBlock):
            self._tails.lost(item)
            self._n_dropped[self._paused or DropReason.QUEUE_FULL] += item.n_samples

    def stamped(self, alert: Alert) -> Alert:
        """``alert``, which is being said, with its evidence; where it was said is noted in the black box."""
        recorder = self._recorder
        if recorder is None or alert.kind == "system":
            return alert
        evidence = self._tails.evidence(alert)
        if self._paused is not None:
            return alert
        mark = Mark(
            alert_id=alert.alert_id,
            seq=alert.seq,
            device=alert.device,
            kind=alert.kind,
            state=alert.state,
            start_ns=alert.start_ns,
            end_ns=alert.end_ns,
            said_ns=alert.delivery.emitted_ns if alert.delivery is not None else alert.end_ns,
            evidence=evidence,
        )
        if not recorder.put(mark):
            self._pause(recorder)
            return alert
        return msgspec.structs.replace(alert, evidence=evidence)

    def end_turn(self, core: Core) -> None:
        """All that was written has been pushed, scored and said: a file may begin here."""
        recorder = self._recorder
        if recorder is None:
            return
        if self._paused is None and recorder.failing is not None:
            self._pause(recorder)
        if self._paused is not None:
            if recorder.may_begin:
                self._begin(core, follows=False)
        elif core.plans is not self._plans:  # a model has taken over
            self._tails.go_on_with(core.plans)
            self._begin(core, follows=False)
        elif self._is_due():
            self._begin(core, follows=True)

    def go_on_with(self, config: Config, core: Core) -> None:
        """From here on the pipeline is that of ``core``."""
        self._tails.go_on_with(core.plans)
        self._take_up(config, core)

    def close(self) -> None:
        """Writes what is queued, and waits for that."""
        self._end()
        if self._ended is not None:
            self._ended.close()

    # What there is to say of it.

    @property
    def error(self) -> str | None:
        """Why it is not recorded, though it should be."""
        return None if self._recorder is None else self._recorder.error

    @property
    def done(self) -> Done | None:
        """None where it is not on."""
        return None if self._recorder is None else self._recorder.done

    def dropped(self, done: Done) -> Counter[DropReason]:
        """Values that were not recorded, by reason, when ``done`` was."""
        return self._n_dropped + done.dropped

    def _take_up(self, config: Config, core: Core) -> None:
        self._options: Options = config.black_box
        self._devices = [device.as_recorded() for device in config.devices]
        if not self._options.enabled:
            self._end()
            return
        if self._folder is None:
            return
        if self._recorder is None:
            self._recorder = Recorder(
                self._folder, self._options, now_s=self._now_s, retry_s=self._retry_s, after=self._ended
            )
            self._paused = None
        self._recorder.take_up(self._options)
        if self._paused is None:
            self._begin(core, follows=False)

    def _end(self) -> None:
        if self._recorder is not None:
            self._ended, self._recorder = self._recorder, None
            self._ended.end()

    def _is_due(self) -> bool:
        """Whether a new file is; where nothing comes only now and then, to spare the disk."""
        if self._n_raw_bytes >= self._most_bytes:
            return True
        return self._now_s() >= self._ends_s + (0.0 if self._n_raw_bytes else _MOST_SEGMENT_S)

    def _begin(self, core: Core, *, follows: bool) -> None:
        assert self._recorder is not None
        self._plans = core.plans
        state = core.pipeline.snapshot()
        self._recorder.begin(Begin(self._devices, state, follows))
        self._paused = None
        self._n_raw_bytes = 0
        self._most_bytes = segment_bytes(self._options, len(state))
        segment_s = self._segment_s * max(1.0, len(state) / _STATE_BYTES)
        self._ends_s = self._now_s() + min(segment_s, max(_MOST_SEGMENT_S, self._segment_s))

    def _pause(self, recorder: Recorder) -> None:
        self._paused = recorder.failing or DropReason.QUEUE_FULL
        if self._paused is DropReason.QUEUE_FULL:
            self.n_pauses += 1
            log.warning("the black box pauses: the disk is too slow for what comes")
