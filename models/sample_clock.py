"""Index and time of one uniform stream.

A stream's samples are numbered without holes for as long as its blocks follow each other (within the jitter),
so they are never interpolated or slipped. A sampling clock that is a little fast or slow makes the reported
times walk away from the grid of nominal samples since the epoch; what follows is only the mapping ``grid
index = sample index + offset``, one sample at a time. Windows choose their first sample by it; no sample is
lost or doubled.

Arithmetic is exact: ns times the rate's numerator (``num``), where a sample lasts ``period = 1e9 *
denominator``. All decisions are those of a row-by-row reading, so how a signal is cut into blocks changes
nothing: a slice of a block (cut times are rounded down to 1 ns) lies on the timeline of the block before it
and is recognised by that.
"""

from __future__ import annotations

import msgspec

from models.signal import NS_PER_S

SLIP_EVERY = 1000  # samples per sample of correction: 1000 ppm, ten times what a poor crystal needs
CUT_NS = 4  # a block may have been cut a few times, each time rounded down to 1 ns


class SampleClock(msgspec.Struct, kw_only=True):
    """Where the blocks of one uniform stream belong. ``head`` is the index of the next sample."""

    num: int
    denominator: int
    jitter_ns: int
    follow: bool  # follow a drifting clock; off inside bursts, which are too short to drift
    head: int
    ref_ns: int  # a reported time and the index it belongs to: the timeline of the newest block
    ref_index: int
    offsets: list[tuple[int, int]]  # (first sample index, offset), ascending; the first reaches back for ever
    last_slip: int | None = None
    drifting: bool = False
    overlap: tuple[int, int, int] | None = None  # (ns, index, next index) of a block that reaches back
    spliced: bool = False  # the sample at head comes from another timeline than the one before it

    @classmethod
    def starting(
        cls, t_ns: int, num: int, denominator: int, jitter_ns: int, *, follow: bool, index: int | None = None
    ) -> SampleClock:
        """The clock of a stream whose first sample was taken at ``t_ns`` (at grid index ``index``, by default
        the nearest)."""
        period = NS_PER_S * denominator
        first = (2 * t_ns * num + period) // (2 * period) if index is None else index
        return cls(
            num=num,
            denominator=denominator,
            jitter_ns=jitter_ns,
            follow=follow,
            head=first,
            ref_ns=t_ns,
            ref_index=first,
            offsets=[(first, 0)],
        )

    @property
    def period(self) -> int:
        return NS_PER_S * self.denominator

    def ahead(self, t_ns: int) -> int:
        """How much later than expected after the newest block ``t_ns`` is, in ns times ``num``."""
        return (t_ns - self.ref_ns) * self.num - (self.head - self.ref_index) * self.period

    def follows(self, t_ns: int) -> bool:
        """Whether rows from ``t_ns`` on just go on."""
        if self.overlap is not None or self.spliced:
            return False
        num = self.num
        ahead = (t_ns - self.ref_ns) * num - (self.head - self.ref_index) * NS_PER_S * self.denominator
        return -CUT_NS * num <= ahead <= CUT_NS * num

    def reaches_back(self, t_ns: int) -> bool:
        """Whether rows from ``t_ns`` on go on with rows that reached back."""
        if self.overlap is None:
            return False
        at_ns, at_index, following = self.overlap
        off = (t_ns - at_ns) * self.num - (following - at_index) * self.period
        return abs(off) <= CUT_NS * self.num

    def locate(self, t_ns: int, n: int, *, timed: bool = False, jitter_ns: int = 0) -> int:
        """Index of the first of ``n`` rows reported from ``t_ns`` on.

        ``head``: they follow. More: there is a gap. Less: they reach back over known samples, and
        :meth:`rejoin` is due when they reach past ``head`` again. ``timed``: every row has a time of its own,
        exact and going forward. ``jitter_ns``: how far their time alone may be off, if more than the stream's.
        """
        period, num, head = self.period, self.num, self.head
        ahead = self.ahead(t_ns)
        cut = CUT_NS * num
        if timed:
            self.overlap = None
        if self.overlap is not None and self.reaches_back(t_ns):
            at_ns, at_index, following = self.overlap
            if following < head:
                self.overlap = (at_ns, at_index, min(following + n, head))
            else:
                self.rejoin()
            return following
        if -cut <= ahead <= cut and not timed:
            self.overlap = None
            return head
        jitter = max(self.jitter_ns, jitter_ns, CUT_NS) * num
        offset = self.offsets[-1][1]
        absolute = t_ns * num - (head + offset) * period
        wander = jitter + 3 * period // 2
        back = ahead < -jitter or (timed and ahead <= -period)
        if not back and ahead <= jitter and -wander <= absolute <= wander:
            self.refer(t_ns, head)
            return head
        nearest = (2 * t_ns * num + period) // (2 * period) - offset
        if not back and (ahead > jitter or absolute > 0):
            index = max(head, nearest)
            self.refer(t_ns, index)
            return index
        if back:
            index = head + (2 * ahead + period) // (2 * period)
        else:
            index = nearest
        if index >= head:
            self.refer(t_ns, head)
            return head
        self.overlap = (t_ns, index, min(index + n, head))
        return index

    def rejoin(self) -> None:
        """The rows that reached back now go on past ``head``: theirs is the newest timeline. Where it is another one
        than before, what follows is not what came after the samples that are there: ``spliced``."""
        assert self.overlap is not None
        at_ns, at_index, _ = self.overlap
        off = (at_ns - self.ref_ns) * self.num - (at_index - self.ref_index) * self.period
        if not -CUT_NS * self.num <= off <= CUT_NS * self.num:
            self.refer(at_ns, at_index)
            self.spliced = True
        self.overlap = None

    def append(self, n: int) -> None:
        """``n`` rows were put at ``head``."""
        end = self.head + n
        self.spliced = False
        while self.drifting:
            at = self.head if self.last_slip is None else max(self.head, self.last_slip + SLIP_EVERY)
            if at >= end:
                break
            step = 1 if self.error > 0 else -1
            self.offsets.append((at, self.offsets[-1][1] + step))
            self.last_slip = at
            self._check_drift()
        self.head = end

    @property
    def error(self) -> int:
        """How much later than its place on the grid the newest timeline is, in ns times ``num``."""
        return self.ref_ns * self.num - (self.ref_index + self.offsets[-1][1]) * self.period

    @property
    def newest_ns(self) -> int:
        """Reported time of the sample before ``head``."""
        return self.ref_ns + (self.head - 1 - self.ref_index) * self.period // self.num

    def refer(self, t_ns: int, index: int) -> None:
        """Sample ``index`` was taken at ``t_ns``: the newest timeline goes through it."""
        self.ref_ns, self.ref_index, self.overlap = t_ns, index, None
        if self.follow:
            self._check_drift()

    def index_of(self, grid: int) -> int:
        """The first sample whose grid index is at least ``grid``."""
        offsets = self.offsets
        index = grid - offsets[0][1]
        for i in range(1, len(offsets)):
            start, offset = offsets[i]
            if index < start:
                return index
            index = max(grid - offset, start)
        return index

    def last_window_by(self, index: int, n: int, hop: int) -> int:
        """The last window of ``n`` samples, every ``hop``, that ends at or before sample ``index``."""
        k = (index - n + self.offsets[-1][1]) // hop
        if len(self.offsets) > 1:
            while self.index_of(k * hop) + n > index:
                k -= 1
            while self.index_of((k + 1) * hop) + n <= index:
                k += 1
        return k

    def last_window_begun(self, hop: int) -> int:
        """The last window, of one every ``hop`` samples, whose first sample came before ``head``."""
        return self.last_window_by(self.head, 1, hop)

    def trim(self, low: int) -> None:
        """Forgets offsets that only samples before index ``low`` had."""
        while len(self.offsets) > 1 and self.offsets[1][0] < low:
            del self.offsets[0]

    def _check_drift(self) -> None:
        # One sample of dead band: a correction leaves the error near 0, so noise cannot make it go back and
        # forth.
        self.drifting = abs(self.error) > self.period
