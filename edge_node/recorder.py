"""The thread that writes the black box: what the loop has queued goes onto the disk every few seconds.

Strategy: the loop appends to a queue and never waits; once in ``flush_s`` the thread takes all of it, packs it, appends it
to the newest file and syncs. A file begins with what the pipeline remembered then, which only the loop can say: with
:class:`~edge_node.ring.Begin`. Where the disk fails nothing is written until it can be again (:attr:`Recorder.may_begin`) and the
loop has begun anew. Invariant: every value that was queued is counted as recorded, or as dropped for a reason.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from edge_node.block_queue import BLOCK_SAMPLES
from edge_node.config_schema import BlackBox
from edge_node.retention import Removal
from edge_node.ring import FULL, Begin, Holding, Item, Ring
from models.evidence import Mark
from models.logs import Tick
from models.signal import DropReason, SampleBlock

RETRY_S = 10.0
CLOSE_S = 10.0
_TICKS_S = 60.0  # so long nothing is written where only the clock ticks

Entry = Item | Mark | Begin

log = structlog.get_logger("linewatch.black_box")


@dataclass(frozen=True, slots=True)
class Done:
    """What has been done since this process began, and what there is. Counts of values, of bytes, of files."""

    holding: Holding = field(default_factory=Holding)
    n_queued: int = 0
    n_recorded: int = 0
    n_written_bytes: int = 0
    n_failures: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    removed: Counter[Removal] = field(default_factory=Counter)


class Recorder:
    """See the module's docstring. Public names are for the loop's thread."""

    def __init__(
        self,
        folder: Path,
        options: BlackBox,
        *,
        now_s: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
        after: Recorder | None = None,
        name: str = "the black box",
    ) -> None:
        """Begins to take up what is in ``folder``, once the one ``after`` which it comes has finished. The first that it is
        given is a :meth:`begin`. ``name``: what it is called in logs."""
        self._name = name
        self.folder = folder
        self._flush_s, self._max_samples = options.flush_s, options.queue_samples
        self._retry_s = retry_s
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque()
        self._n_taken_up = self._n_samples = 0
        self._wake = threading.Event()
        self._closing = False
        self.failing: DropReason | None = None  # why nothing is written
        self.error: str | None = None  # the same, in a line
        self._is_usable = False  # though it failed
        self._done = Done()
        self._n_in_hand = 0  # values that are being written
        self._ring = Ring(folder, options, now_s)
        self._is_recovered = False
        self._dropped: Counter[DropReason] = Counter()
        self._n_recorded = self._n_failures = 0
        self._after = after
        self._thread = threading.Thread(target=self._run, name=name.removeprefix("the "), daemon=True)
        self._thread.start()

    def put(self, item: Item | Mark) -> bool:
        """Appends ``item``; False when there is no room for it, or nothing is being written."""
        n = item.n_samples if isinstance(item, SampleBlock) else 0
        room = max(n, BLOCK_SAMPLES)
        with self._lock:
            if self.failing is not None or self._n_taken_up + room > self._max_samples:
                return False
            self._entries.append(item)
            self._n_taken_up += room
            self._n_samples += n
            is_much = self._n_taken_up * 4 > self._max_samples
        if is_much:
            self._wake.set()
        return True

    def begin(self, begin: Begin) -> None:
        """What is put from here on goes into a new file."""
        with self._lock:
            self.failing, self._is_usable = None, False
            self._entries.append(begin)

    def take_up(self, options: BlackBox) -> None:
        """Go on within other bounds."""
        self._flush_s, self._max_samples = options.flush_s, options.queue_samples
        self._ring.options = options

    @property
    def may_begin(self) -> bool:
        """Whether it is worth to :meth:`begin` after there was no room."""
        return (self.failing is None or self._is_usable) and self._n_taken_up * 2 <= self._max_samples

    @property
    def done(self) -> Done:
        """As of one instant."""
        with self._lock:
            return replace(self._done, n_queued=self._n_samples + self._n_in_hand)

    def end(self) -> None:
        """Writes what is queued and finishes the file, without being waited for."""
        self._closing = True
        self._wake.set()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """The same, but a disk that hangs is not waited for longer than ``timeout_s``."""
        self.end()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error(f"{self._name} is not finished: the disk of {self.folder} does not answer")

    # What follows is of the thread alone.

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # a defect of ours: the gateway watches on without
            log.error(f"{self._name} has failed", exc_info=error)
            text = f"it failed by a defect ({type(error).__name__}: {error}): nothing is recorded until a restart"
            with self._lock:
                n_lost = self._n_samples + self._n_in_hand
                self._entries.clear()
                self._n_taken_up = self._n_samples = self._n_in_hand = 0
                self.failing, self._is_usable = DropReason.UNWRITABLE, False
                self._dropped[DropReason.UNWRITABLE] += n_lost
                self._n_failures += 1
                self._done = replace(self._done, n_failures=self._n_failures, dropped=Counter(self._dropped))
            self.error = text

    def _serve(self) -> None:
        if self._after is not None:
            self._after._thread.join()
            self._after = None
        self._try()
        last_write_s = last_try_s = time.monotonic()
        while not self._closing:
            self._wake.wait(self._flush_s if self.failing is None else min(self._flush_s, self._retry_s))
            self._wake.clear()
            now_s = time.monotonic()
            if self.failing is not None or not self._is_recovered:
                if now_s - last_try_s >= self._retry_s:
                    last_try_s = now_s
                    self._try()
            elif self._has_more_than_ticks() or now_s - last_write_s >= _TICKS_S:
                last_write_s = last_try_s = now_s
                self._write(self._take())
        self._write(self._take())
        try:
            self._ring.end()
        except OSError as error:
            self._fail(error)
        self._publish()

    def _try(self) -> None:
        """Whether a file could be begun."""
        try:
            if not self._is_recovered:
                for text in self._ring.recover():
                    log.warning(text)
                self._is_recovered = True
            self._ring.probe()
        except OSError as error:
            self._fail(error)
        else:
            self._is_usable = True
        self._publish()

    def _has_more_than_ticks(self) -> bool:
        with self._lock:
            return any(not isinstance(entry, Tick) for entry in self._entries)

    def _take(self) -> list[Entry]:
        with self._lock:
            return self._take_locked()

    def _take_locked(self) -> list[Entry]:
        taken = list(self._entries)
        self._entries.clear()
        self._n_in_hand += self._n_samples
        self._n_taken_up = self._n_samples = 0
        return taken

    def _write(self, entries: Sequence[Entry]) -> None:
        """``entries`` onto the disk, cut where a new file begins."""
        pending: list[Item | Mark] = []
        n_before = self._n_recorded
        try:
            for entry in entries:
                if isinstance(entry, Begin):
                    self._append(pending)
                    pending = []
                    self._begin(entry)
                else:
                    pending.append(entry)
            self._append(pending)
        except OSError as error:
            self._fail(error)
        lost = _n_samples(entries) - (self._n_recorded - n_before)
        if lost:
            self._dropped[self.failing or DropReason.UNWRITABLE] += lost
        self._publish(n_in_hand=0)

    def _append(self, entries: Sequence[Item | Mark]) -> None:
        if entries and self._ring.is_open:
            self._ring.append(entries)
            self._n_recorded += _n_samples(entries)

    def _begin(self, begin: Begin) -> None:
        self._ring.begin(begin)
        if self.error is not None:
            log.info(f"{self._name} records again", folder=str(self.folder))
        self.error = None

    def _fail(self, error: OSError) -> None:
        self._n_failures += 1
        reason = DropReason.DISK_FULL if error.errno in FULL else DropReason.UNWRITABLE
        text = f"{self.folder}: {error.strerror}"
        if self.error is None:
            log.error(f"{self._name} stops: {text}; it is tried again every {self._retry_s:g} s")
        with self._lock:
            self.failing, self._is_usable = reason, False
            n_left = self._n_samples
            self._take_locked()
            self._n_in_hand -= n_left
            self._dropped[reason] += n_left
        self.error = text
        with contextlib.suppress(OSError):  # what cannot be removed stays
            self._ring.end()

    def _publish(self, n_in_hand: int | None = None) -> None:
        done = Done(
            holding=self._ring.holding(),
            n_recorded=self._n_recorded,
            n_written_bytes=self._ring.n_written,
            n_failures=self._n_failures,
            dropped=Counter(self._dropped),
            removed=Counter(self._ring.removed),
        )
        with self._lock:
            self._done = done
            self._n_in_hand = self._n_in_hand if n_in_hand is None else n_in_hand


def _n_samples(entries: Sequence[Entry]) -> int:
    return sum(entry.n_samples for entry in entries if isinstance(entry, SampleBlock))
