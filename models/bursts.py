"""Records of a burst device: each contiguous run of samples is windowed on its own, from its first sample on.

The silence between records is expected. A record begins with the first block that does not follow within the
jitter; a stream that begins within the jitter of a record's start belongs to it. A record gives floor((length
- n) / hop) + 1 windows; one that is cut short, with no window in it, counts as one window dropped as GAP. A
record is over when a window of a later one is complete, when a later one began ``lateness`` ago, or when
nothing has come for ``lateness``.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.joining import Join, JoinState
from models.ledger import Ledger
from models.sample_clock import CUT_NS
from models.signal import NS_PER_S, DropReason, WindowSpec
from models.time_policy import TimePolicy, to_ns

MAX_OPEN = 8  # records; past it the oldest is over


class RecordState(msgspec.Struct, frozen=True):
    over: bool
    join: JoinState


class BurstState(msgspec.Struct, frozen=True):
    records: list[RecordState]
    late_since_ns: int | None


class Bursts:
    """Windows of the records of one burst device."""

    def __init__(self, spec: WindowSpec, policy: TimePolicy, n_channels: int, ledger: Ledger) -> None:
        self._spec, self._policy, self._n_channels, self._ledger = spec, policy, n_channels, ledger
        self._jitter_ns = max(to_ns(policy.jitter_s), CUT_NS)
        self._num, self._period = spec.rate_hz.numerator, NS_PER_S * spec.rate_hz.denominator
        self._lateness_ns = to_ns(policy.lateness_s)
        self._reset_ns = to_ns(policy.reset_after_s)
        self._records: list[Join] = []  # oldest first; the newest stays when it is over
        self._over = False  # the newest is over
        self._late_since_ns: int | None = None

    def push(
        self,
        columns: tuple[int, ...],
        t_ns: int,
        rows: NDArray[np.float32],
        *,
        n_present: int,
        timed: bool,
        last_ns: int | None = None,
        arrival_ns: int,
        jitter_ns: int = 0,
    ) -> int:
        """As :meth:`models.joining.Join.push`."""
        n = len(rows)
        done = 0
        while done < n:
            at_ns = t_ns + done * self._period // self._num
            m = min(n - done, self._n_until_next(at_ns))
            record = self._record_of(columns, at_ns)
            if record is None and self._records and at_ns <= self._records[-1].origin_ns:
                if self._late_since_ns is None or arrival_ns < self._late_since_ns:
                    self._late_since_ns = arrival_ns
                if arrival_ns - self._late_since_ns >= self._reset_ns:
                    return done
                self._ledger.drop(DropReason.LATE, m * n_present)
                done += m
                continue
            self._late_since_ns = None
            if record is None:
                record = self._begin(at_ns)
            record.push(
                columns,
                at_ns,
                rows[done : done + m],
                n_present=n_present,
                timed=timed,
                last_ns=last_ns,
                arrival_ns=arrival_ns,
                jitter_ns=jitter_ns,
            )
            done += m
            watermark_ns = record.end_ns - self._lateness_ns
            while self._records[0] is not record and watermark_ns >= self._records[0].end_ns:
                self._end_before(self._records[1])
        return n

    def _n_until_next(self, t_ns: int) -> int:
        """How many rows from ``t_ns`` on there are before a later record that has begun: a row goes to the
        latest."""
        starts = [r.origin_ns - self._jitter_ns for r in self._records]
        later = [start for start in starts if start > t_ns]
        return 1 << 62 if not later else -(-(later[0] - t_ns) * self._num // self._period)

    def slack(self, streams: list[tuple[int, ...]], t_ns: int) -> int:
        """As :meth:`models.joining.Join.slack`, of the newest record."""
        return self._records[-1].slack(streams, t_ns) if self._records else 1

    def error(self, columns: tuple[int, ...], t_ns: int) -> int | None:
        """As :meth:`models.joining.Join.error`, of the newest record."""
        return self._records[-1].error(columns, t_ns) if self._records else None

    @property
    def newest_ns(self) -> int | None:
        """As :attr:`models.joining.Join.newest_ns`."""
        return self._records[-1].newest_ns if self._records else None

    def silence(self, elapsed_ns: int) -> None:
        """Nothing came for ``elapsed_ns``."""
        if self._records and not self._over and elapsed_ns >= self._lateness_ns:
            self.finish()

    def finish(self) -> None:
        """Ends every record."""
        if self._records:
            self._end_before(self._records[-1])
            if not self._over:
                self._end(self._records[0])
                self._over = True

    def state(self) -> BurstState:
        newest = len(self._records) - 1
        return BurstState(
            [RecordState(self._over and i == newest, r.state()) for i, r in enumerate(self._records)],
            self._late_since_ns,
        )

    def restore(self, state: BurstState) -> None:
        self._late_since_ns = state.late_since_ns
        self._over = bool(state.records) and state.records[-1].over
        self._records = []
        for saved in state.records:
            self._records.append(self._new(saved.join.origin_ns))
            self._records[-1].restore(saved.join)

    def _record_of(self, columns: tuple[int, ...], t_ns: int) -> Join | None:
        jitter = self._jitter_ns
        for record in reversed(self._records):
            since_ns = t_ns - record.origin_ns
            if since_ns < -jitter:
                continue
            track = record.tracks.get(columns)
            if track is None:
                if t_ns <= record.end_ns + jitter:
                    return record
                continue
            clock = track.clock
            if clock.ahead(since_ns) <= jitter * clock.num or clock.reaches_back(since_ns):
                return record
        return None

    def _begin(self, t_ns: int) -> Join:
        if len(self._records) >= MAX_OPEN:
            self._end_before(self._records[1])
        if self._over:
            self._records.pop()
            self._over = False
        self._records.append(self._new(t_ns))
        return self._records[-1]

    def _new(self, origin_ns: int) -> Join:
        record = Join(
            self._spec, self._policy, self._n_channels, self._ledger, origin_ns=origin_ns, record=True
        )
        record.before_close = lambda: self._end_before(record)
        return record

    def _end_before(self, record: Join) -> None:
        while self._records[0] is not record:
            self._end(self._records[0])
            del self._records[0]

    def _end(self, record: Join) -> None:
        record.before_close = None
        record.finish()
        if not record.began:
            self._ledger.drop_windows(DropReason.GAP, 1)
