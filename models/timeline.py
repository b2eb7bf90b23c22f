"""The event time of one device: puts rows where their time says, and begins anew when the device's clock was
set back.

Rows are filed in as large pieces as give the same as row by row: a uniform block in one piece; rows with
times of their own while each follows the one before; a block for several streams while no stream runs ahead
of another by more than the lateness.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bursts import Bursts, BurstState
from models.joining import Join, JoinState
from models.ledger import Ledger
from models.resampling import Grid, GridState
from models.sample_clock import CUT_NS
from models.signal import NS_PER_S, Mode, WindowSpec
from models.streams import Part
from models.time_policy import TimePolicy, to_ns


class ClockEvent(msgspec.Struct, frozen=True):
    """A device's event time began anew: the newest sample was at ``at_ns``, what follows starts at
    ``to_ns``."""

    kind: Literal["restart"]
    at_ns: int
    to_ns: int


class TimelineState(msgspec.Struct, frozen=True):
    clock_events: list[ClockEvent]
    join: JoinState | None
    bursts: BurstState | None
    grid: GridState | None


class Timeline:
    """Rows in, windows into the ledger."""

    def __init__(self, spec: WindowSpec, policy: TimePolicy, n_channels: int, ledger: Ledger) -> None:
        self.clock_events: list[ClockEvent] = []
        self._spec, self._policy, self._n_channels, self._ledger = spec, policy, n_channels, ledger
        self._num, self._period = spec.rate_hz.numerator, NS_PER_S * spec.rate_hz.denominator
        self._jitter_ns = max(to_ns(policy.jitter_s), CUT_NS)
        self._grid: Grid | None = None
        self._uniform: Join | Bursts | None = None
        self._join: Join | None = None
        self._begin()

    @property
    def newest_ns(self) -> int | None:
        """Event time of the newest sample."""
        return self._engine.newest_ns

    def follow(self, t_ns: int, values: NDArray[np.float32]) -> bool:
        """Files rows of all channels that just go on from what came before, as nearly all do; False, and nothing
        is done, when they are anything else. :meth:`catch_up` is then due before anything else is asked."""
        return self._join is not None and self._join.follow(t_ns, values)

    def catch_up(self) -> None:
        """Closes windows that :meth:`follow` has completed."""
        if self._join is not None:
            self._join.catch_up()

    def make_room(self) -> None:
        """What was closed has been taken."""
        if self._join is not None:
            self._join.make_room()

    def push_uniform(
        self,
        parts: tuple[Part, ...],
        t_ns: int,
        values: NDArray[np.float32],
        arrival_ns: int,
        jitter_ns: int = 0,
    ) -> None:
        """Files a block's rows, taken from ``t_ns``, give or take ``jitter_ns``, on at the device's rate."""
        n = len(values)
        done = 0
        while done < n:
            at_ns = t_ns + done * self._period // self._num
            m = n - done
            if len(parts) > 1:
                assert self._uniform is not None
                m = min(m, self._uniform.slack([part.columns for part in parts], at_ns))
            for part in parts:
                self._feed(part, at_ns, part.rows(values[done : done + m]), arrival_ns, jitter_ns=jitter_ns)
            done += m

    def push_timed(
        self, parts: tuple[Part, ...], times: NDArray[np.int64], values: NDArray[np.float32], arrival_ns: int
    ) -> None:
        """Files rows with times of their own, int64[n], in any order."""
        if self._grid is not None:
            for part in parts:
                self._feed_grid(list(part.columns), times, part.rows(values), arrival_ns)
        elif len(parts) == 1:
            self._feed_rows(parts[0], times, parts[0].rows(values), arrival_ns)
        else:
            for i in range(len(times)):
                for part in parts:
                    self._feed(part, int(times[i]), part.rows(values[i : i + 1]), arrival_ns, timed=True)

    def silence(self, elapsed_ns: int) -> None:
        """Nothing came for ``elapsed_ns``."""
        self._engine.silence(elapsed_ns)

    def state(self) -> TimelineState:
        uniform, grid = self._uniform, self._grid
        return TimelineState(
            list(self.clock_events),
            uniform.state() if isinstance(uniform, Join) else None,
            uniform.state() if isinstance(uniform, Bursts) else None,
            None if grid is None else grid.state(),
        )

    def restore(self, state: TimelineState) -> None:
        self.clock_events = list(state.clock_events)
        self._begin()
        if isinstance(self._uniform, Join) and state.join is not None:
            self._uniform.restore(state.join)
        elif isinstance(self._uniform, Bursts) and state.bursts is not None:
            self._uniform.restore(state.bursts)
        elif self._grid is not None and state.grid is not None:
            self._grid.restore(state.grid)

    @property
    def _engine(self) -> Join | Bursts | Grid:
        engine = self._uniform or self._grid
        assert engine is not None
        return engine

    def _begin(self) -> None:
        given = (self._spec, self._policy, self._n_channels, self._ledger)
        if self._spec.mode is Mode.IRREGULAR:
            self._grid = Grid(*given)
        elif self._spec.mode is Mode.BURST:
            self._uniform = Bursts(*given)
        else:
            self._uniform = self._join = Join(*given)

    def _restart(self, to_ns: int) -> None:
        newest_ns = self.newest_ns
        assert newest_ns is not None
        self._engine.finish()
        self.clock_events.append(ClockEvent("restart", newest_ns, to_ns))
        self._begin()

    def _feed(
        self,
        part: Part,
        t_ns: int,
        rows: NDArray[np.float32],
        arrival_ns: int,
        *,
        timed: bool = False,
        last_ns: int | None = None,
        jitter_ns: int = 0,
    ) -> None:
        done = 0
        while True:
            assert self._uniform is not None
            at_ns = t_ns + done * self._period // self._num
            done += self._uniform.push(
                part.columns,
                at_ns,
                rows[done:],
                n_present=part.n_present,
                timed=timed,
                last_ns=last_ns,
                arrival_ns=arrival_ns,
                jitter_ns=jitter_ns,
            )
            if done == len(rows):
                return
            self._restart(t_ns + done * self._period // self._num)

    def _feed_grid(
        self, columns: list[int], times: NDArray[np.int64], rows: NDArray[np.float32], arrival_ns: int
    ) -> None:
        breaks = np.flatnonzero(np.diff(times) <= CUT_NS) + 1
        for start, end in pairwise((0, *breaks.tolist(), len(times))):
            done = start
            while done < end:
                assert self._grid is not None
                run = slice(done, end)
                done += self._grid.push(columns, times[run], rows[run], arrival_ns=arrival_ns)
                if done < end:
                    self._restart(int(times[done]))

    def _feed_rows(
        self, part: Part, times: NDArray[np.int64], rows: NDArray[np.float32], arrival_ns: int
    ) -> None:
        """Each row follows the one before if it is one period later, within the jitter. What follows, and
        stays by the grid so that the clock needs no correction, goes in one piece."""
        n = len(times)
        steps = np.diff(times, prepend=times[0]).astype(np.float64)
        follows = (steps > 0) & (np.abs(steps - self._period / self._num) <= self._jitter_ns)
        i = 0
        while i < n:
            self._feed(part, int(times[i]), rows[i : i + 1], arrival_ns, timed=True)
            i += 1
            if i == n or not follows[i]:
                continue
            assert self._uniform is not None
            error = self._uniform.error(part.columns, int(times[i - 1]))
            if error is None:
                continue
            broken = np.flatnonzero(~follows[i:])
            end = i + int(broken[0]) if len(broken) else n
            since = (times[i:end] - times[i - 1]).astype(np.float64) * (self._num / self._period)
            walk = error / self._period + since - np.arange(1, end - i + 1)
            outside = np.flatnonzero(np.abs(walk) > 0.999)
            end = i + int(outside[0]) if len(outside) else end
            if end > i:
                last_ns = int(times[end - 1])
                self._feed(part, int(times[i]), rows[i:end], arrival_ns, timed=True, last_ns=last_ns)
                i = end
