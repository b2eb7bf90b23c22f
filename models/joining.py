"""Joins the uniform streams of one device into windows on one grid.

Window k is the n samples that begin, on every stream, at its first sample with grid index k * hop. It closes
as soon as every channel has all of it, else when some stream is ``lateness`` past its end; always in order. A
window in which no stream has a sample never comes into being, so a gap costs nothing however long it is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.ledger import Ledger, window_times
from models.sample_clock import SampleClock
from models.signal import NS_PER_S, DropReason, WindowSpec
from models.stacking import stack
from models.time_policy import TimePolicy, to_ns
from models.tracks import Track, TrackState

_FOR_EVER = 1 << 62
_isfinite = math.isfinite
# The square of a value near the end of float32's range is infinite: Join.push then looks closer, and nobody need know.
warnings.filterwarnings("ignore", "overflow encountered in dot", RuntimeWarning)


class JoinState(msgspec.Struct, frozen=True):
    origin_ns: int
    k_next: int
    late_before: int
    late_since_ns: int | None
    began: bool
    tracks: list[TrackState]


class Join:
    """Windows of the streams of one device, or of one record of a burst device.

    ``origin_ns`` is where the grid begins: 0, the epoch, or the start of the record. In a record only windows
    that lie wholly within it come into being. ``before_close`` is called before a window closes.
    """

    def __init__(
        self,
        spec: WindowSpec,
        policy: TimePolicy,
        n_channels: int,
        ledger: Ledger,
        *,
        origin_ns: int = 0,
        record: bool = False,
    ) -> None:
        self.origin_ns = origin_ns
        self.tracks: dict[tuple[int, ...], Track] = {}
        self._sole: Track | None = None  # the only one, with all channels: what most devices have
        self.before_close: Callable[[], None] | None = None
        self.began = False  # a window has closed
        self._behind = False  # complete windows may not be closed yet
        self._n, self._hop = spec.n, spec.hop
        self._num, self._denominator = spec.rate_hz.numerator, spec.rate_hz.denominator
        self._period = NS_PER_S * spec.rate_hz.denominator
        self._n_channels = n_channels
        self._ledger = ledger
        self._record = record
        self._jitter_ns = to_ns(policy.jitter_s)
        self._lateness = -(-to_ns(policy.lateness_s) * self._num // (NS_PER_S * self._denominator))
        self._reset_ns = to_ns(policy.reset_after_s)
        self._k_next = 0
        self._late_before = 0  # grid index: what comes before is late
        self._late_since_ns: int | None = None

    @property
    def end_ns(self) -> int:
        """Event time at which the newest sample ends."""
        head = max(t.clock.head + t.clock.offsets[-1][1] for t in self.tracks.values())
        return self.origin_ns + head * NS_PER_S * self._denominator // self._num

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
        """Files float32[m, len(columns)] ``rows`` taken from ``t_ns`` on; ``n_present`` of the columns are in
        the block at all. ``timed``: the rows have times of their own; ``last_ns`` is the last one's where
        they follow each other. ``jitter_ns``: how far the time of these rows may be off, if more than the policy says.

        Returns how many were filed: all, or those before the one at which event time must begin anew because
        nothing but late samples has come for ``reset_after_s``.
        """
        track = self.tracks.get(columns)
        if track is None:
            track = self._begin(columns, t_ns - self.origin_ns)
        n = len(rows)
        clock = track.clock
        index = clock.locate(t_ns - self.origin_ns, n, timed=timed, jitter_ns=jitter_ns)
        if index > clock.head:
            self._close(gap_track=track, gap=index - clock.head)
            low = clock.index_of(self._k_next * self._hop)
            track.release(low)
            track.skip(index, low)
        done = 0
        if index < clock.head:
            again = min(n, clock.head - index)
            done = self._file_again(track, index, rows[:again], n_present, arrival_ns)
            if done < again:
                return done
            if done < n:
                clock.rejoin()
        if timed:
            clock.spliced = False  # each row has its own time, wherever it was
        if clock.spliced and done < n and self._ledger.needs_all:
            # No window may hold such a seam, and one that lacks a sample is none.
            self._ledger.drop(DropReason.DUPLICATE, n_present)
            track.skip(clock.head + 1, clock.head + 1)
            self._close()
            done += 1
        if done < n:
            late = track.closed_to - clock.head
            if late > 0:  # another stream, or the clock, has closed the windows of these rows
                if self._set_back(arrival_ns):
                    return done
                late = min(late, n - done)
                self._ledger.drop(DropReason.LATE, late * n_present)
                track.skip(clock.head + late, clock.head + late)
                done += late
            if done < n:
                self._late_since_ns = None
        while done < n:
            m = track.room(n - done)
            self._append(track, rows[done : done + m], n_present)
            done += m
            self._close()
        if last_ns is not None:
            clock.refer(last_ns - self.origin_ns, clock.head - 1)
        return n

    def follow(self, t_ns: int, rows: NDArray[np.float32]) -> bool:
        """Files rows of all channels as :meth:`push` would, if they are whole and just go on in the only stream
        there is; False, and nothing is done, if not. Closing windows is put off until :meth:`catch_up`, many at a
        time, or until their rows are in the way."""
        track = self._sole
        if track is None or not track.evenly_whole:
            return False
        clock = track.clock
        if clock.drifting or track.closed_to > clock.head or not clock.follows(t_ns - self.origin_ns):
            return False
        flat = rows.reshape(-1)
        # A sum of squares is finite only if all values are, and takes a third of the time to find out.
        if not _isfinite(flat.dot(flat)):
            return False
        if not track.append_whole(rows):
            self.catch_up()
            if track.room(len(rows)) < len(rows):
                return False
            track.append(rows, None)
        self._late_since_ns = None
        self._ledger.n_windowed += flat.size
        self._behind = True
        return True

    def catch_up(self) -> None:
        """Closes what :meth:`follow` has completed: due before any other method."""
        if self._behind:
            self._behind = False
            assert self._sole is not None
            if not self._close_whole(self._sole):
                self._close()

    def make_room(self) -> None:
        """What was closed has been taken: room for as much again, so that it can be taken in one piece."""
        if self._sole is not None:
            self._sole.make_room()

    def slack(self, streams: list[tuple[int, ...]], t_ns: int) -> int:
        """How many rows from ``t_ns`` on may be filed in each of ``streams`` in turn with the same result as
        row by row: none is complete, or out of its lateness, before the others have theirs."""
        lowest = _FOR_EVER
        for columns in streams:
            track = self.tracks.get(columns)
            if track is None or track.clock.drifting or not track.clock.follows(t_ns - self.origin_ns):
                return 1
            grid = track.clock.head + track.clock.offsets[-1][1]
            if track.clock.head < track.closed_to:
                return 1
            lowest = min(lowest, grid)
        highest = max(t.clock.head + t.clock.offsets[-1][1] for t in self.tracks.values())
        return max(1, self._lateness - (highest - lowest) - 2)

    def error(self, columns: tuple[int, ...], t_ns: int) -> int | None:
        """``SampleClock.error`` of a stream whose newest sample was taken at ``t_ns``; None where it was not,
        or is just being corrected."""
        track = self.tracks.get(columns)
        if track is None or track.clock.drifting or track.clock.ref_ns != t_ns - self.origin_ns:
            return None
        return track.clock.error

    @property
    def newest_ns(self) -> int | None:
        """Event time of the newest sample, as reported."""
        ends = [t.clock.newest_ns for t in self.tracks.values()]
        return self.origin_ns + max(ends) if ends else None

    def silence(self, elapsed_ns: int) -> None:
        """Nothing came for ``elapsed_ns``: closes windows as if event time had gone on, as far as there are
        samples."""
        if self.tracks:
            self._close(silence=elapsed_ns * self._num // (NS_PER_S * self._denominator))

    def finish(self) -> None:
        """Closes all that is open; what comes later for it is late."""
        if self.tracks:
            self._close(silence=_FOR_EVER)
            self._late_before = _FOR_EVER
            for track in self.tracks.values():
                track.release(track.clock.head)
                track.closed_to = _FOR_EVER

    def _begin(self, columns: tuple[int, ...], t_ns: int) -> Track:
        # The streams of a record begin together, however their clocks differ within the jitter.
        index = 0 if self._record and abs(t_ns) <= self._jitter_ns else None
        clock = SampleClock.starting(
            t_ns, self._num, self._denominator, self._jitter_ns, follow=not self._record, index=index
        )
        if not self.tracks:
            self._k_next = -(-clock.head // self._hop)
            self._late_before = clock.head
        track = self.tracks[columns] = Track(columns, clock, self._n)
        track.closed_to = self._late_before
        self._find_sole()
        return track

    def _set_back(self, arrival_ns: int) -> bool:
        if self._record:
            return False
        if self._late_since_ns is None or arrival_ns < self._late_since_ns:
            self._late_since_ns = arrival_ns
        return arrival_ns - self._late_since_ns >= self._reset_ns

    def _file_again(
        self, track: Track, index: int, rows: NDArray[np.float32], n_present: int, arrival_ns: int
    ) -> int:
        """Files rows that lie before the stream's head: they are late, fill holes, or are there already."""
        done = 0
        while done < len(rows):
            kept_from = max(track.clock.index_of(self._k_next * self._hop), track.low, track.closed_to)
            late = min(len(rows) - done, kept_from - index - done)
            if late > 0:
                if self._set_back(arrival_ns):
                    break
                self._ledger.drop(DropReason.LATE, late * n_present)
                done += late
            else:
                self._late_since_ns = None
                done += self._fill(track, index + done, rows[done:], n_present)
        return done

    def _fill(self, track: Track, index: int, rows: NDArray[np.float32], n_present: int) -> int:
        """Fills holes up to where the first open window may be complete; returns how many rows that took."""
        end = track.clock.index_of(self._k_next * self._hop) + self._n
        n = track.last_hole(index, min(end, index + len(rows))) + 1 - index
        if n <= 0:
            n = len(rows)
        n_new, n_there = track.fill(index, rows[:n])
        self._ledger.n_windowed += n_new
        self._ledger.drop(DropReason.DUPLICATE, n_there)
        self._ledger.drop(DropReason.NOT_FINITE, n * n_present - n_new - n_there)
        if n_new:
            self._close()
        return n

    def _append(self, track: Track, rows: NDArray[np.float32], n_present: int) -> None:
        finite = np.isfinite(rows)
        if finite.all():
            track.append(rows, None)
            self._ledger.n_windowed += rows.size
        else:
            track.append(rows, finite)
            n_finite = int(finite.sum())
            self._ledger.n_windowed += n_finite
            self._ledger.drop(DropReason.NOT_FINITE, len(rows) * n_present - n_finite)
        if track.first_hole is not None:  # one before the first open window does not matter
            track.release(track.clock.index_of(self._k_next * self._hop))

    def _close(self, *, gap_track: Track | None = None, gap: int = 0, silence: int = 0) -> None:
        sole = self._sole
        if sole is not None and not gap and not silence and sole.evenly_whole and self._close_whole(sole):
            return
        passed = self._k_next - 1
        while True:
            last = self._last_complete()
            for track in self.tracks.values():
                head = track.clock.head + (gap if track is gap_track else silence)
                passed = max(passed, track.clock.last_window_by(head - self._lateness, self._n, self._hop))
            last = max(last, passed)
            if last < self._k_next:
                return
            last = min(last, self._last_begun())
            if last < self._k_next:
                break
            if any(len(track.clock.offsets) > 1 for track in self.tracks.values()):
                last = self._k_next  # windows may not be spaced evenly: one at a time
            self._emit(last - self._k_next + 1)
            self._move_to(last + 1)
        if gap and passed >= self._k_next:
            self._move_to(passed + 1)

    def _move_to(self, k: int) -> None:
        first = k * self._hop
        self._k_next = k
        self._late_before = max(self._late_before, min(first, first - self._hop + self._n))
        for track in self.tracks.values():
            low = track.clock.index_of(first)
            end = track.clock.index_of(first - self._hop) + self._n
            track.closed_to = max(track.closed_to, min(low, end))
            track.release(low)

    def _last_complete(self) -> int:
        last = _FOR_EVER
        n_covered = 0
        for track in self.tracks.values():
            n_covered += len(track.columns)
            last = min(last, track.clock.last_window_by(track.complete_to, self._n, self._hop))
            if last < self._k_next or track.clock.index_of(self._k_next * self._hop) < track.low:
                return self._k_next - 1
        return last if n_covered == self._n_channels else self._k_next - 1

    def _last_begun(self) -> int:
        """The last window in which some stream may have a sample; in a record, the last that lies within it."""
        clocks = [t.clock for t in self.tracks.values()]
        if self._record:
            return max(clock.last_window_by(clock.head, self._n, self._hop) for clock in clocks)
        return max(clock.last_window_begun(self._hop) for clock in clocks)

    def _close_whole(self, track: Track) -> bool:
        """Closes the windows that are complete, where ``track`` is all there is and lacks nothing; False, and
        nothing is done, if the next window began before it."""
        clock, k, hop, n = track.clock, self._k_next, self._hop, self._n
        offset = clock.offsets[0][1]
        last = (clock.head - n + offset) // hop
        if last < k:
            return True
        start = k * hop - offset
        if start < track.low:
            return False
        if not self.began:
            self._begin_closing()
        w = last - k + 1
        starts, ends = window_times(k, w, n, hop, self._num, self._period, self.origin_ns)
        self._ledger.close(starts, ends, track.lent(start, w, n, hop), None)
        # What _move_to does, where samples are numbered evenly and none is missing.
        self._k_next = last + 1
        low = start + w * hop
        closed_to = min(low, low - hop + n)
        if closed_to > track.closed_to:
            track.closed_to = closed_to
        if closed_to + offset > self._late_before:
            self._late_before = closed_to + offset
        track.low = min(low, clock.head)
        return True

    def _begin_closing(self) -> None:
        if self.before_close is not None and not self.began:
            self.before_close()
        self.began = True

    def _emit(self, w: int) -> None:
        self._begin_closing()
        n, hop, k = self._n, self._hop, self._k_next
        pieces = [(t, t.clock.index_of(k * hop)) for t in self.tracks.values()]
        values, valid = stack(pieces, w, n, hop, self._n_channels)
        spans = window_times(k, w, n, hop, self._num, self._period, self.origin_ns)
        self._ledger.close(*spans, values, valid)

    def state(self) -> JoinState:
        return JoinState(
            self.origin_ns,
            self._k_next,
            self._late_before,
            self._late_since_ns,
            self.began,
            [t.state() for t in self.tracks.values()],
        )

    def restore(self, state: JoinState) -> None:
        self.origin_ns, self._k_next, self.began = state.origin_ns, state.k_next, state.began
        self._late_before, self._late_since_ns = state.late_before, state.late_since_ns
        self.tracks = {t.columns: Track.restored(t) for t in state.tracks}
        self._find_sole()

    def _find_sole(self) -> None:
        tracks = list(self.tracks.values())
        self._sole = tracks[0] if len(tracks) == 1 and len(tracks[0].columns) == self._n_channels else None
