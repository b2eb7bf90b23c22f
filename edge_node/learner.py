"""What a device without a model learns from: its own windows, as long as it takes. Pure.

Strategy: the first FLOOR_WINDOWS are kept as signal, to find how fine each channel is resolved; from then on rows of features
alone, and one raw window early and one late, for the worked examples. When there are ``target`` windows, it looks: while the
machine still moves (a thermal transient: the rows' beginning and end differ by more than their noise; ranges of telemetry may),
the oldest fifth is forgotten and it goes on; where neighbours resemble each other so much that the rows are worth fewer than
WARN_EFFECTIVE, more are wanted. Both end at MOST_TIMES what was wanted first: then what is there is taken, and a note says so.

Invariants: when it has enough, and of what, depends on the windows alone, not on how they were grouped; memory is bounded by
the windows wanted.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.plans import DevicePlan, LearnPlan
from models.features import FeatureSpec, describe, extract, learn_floors, min_scales
from models.healthy_rows import HealthyRows, effective_rows
from models.runs import Runs
from models.sample_size import WARN_EFFECTIVE
from models.sensor_checks import ChannelBaseline
from models.signal import NS_PER_S, WindowBatch
from models.time_policy import TimeTreatment

FLOOR_WINDOWS = 16
MOST_TIMES = 4  # what was wanted first: the longest that it takes, whatever the machine does
MORE = 1.25  # times as many windows, where those that there are resemble each other
TRANSIENT_SIGMAS = 3.0  # between the first fifth and the last, in units of the rows' noise
_PARTS = 5
_LONG_AGO_NS = -(1 << 62)

Floats = NDArray[np.float32]


class LearnerState(msgspec.Struct, kw_only=True):
    """Everything a :class:`Learner` remembers. ``raw`` float32[e, n, c] and ``raw_valid`` bool[e, n, c]: the first windows; once
    ``floors`` are known, one of the first and one of the last, and none."""

    raw: Floats
    raw_valid: NDArray[np.bool_]
    floors: tuple[float, ...]
    rows: Floats
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    n_seen: int
    target: int
    complete: bool
    note: str
    longest_ns: NDArray[np.int64]
    low: Floats
    high: Floats
    run_end_ns: int | None
    run_value: Floats
    run_start_ns: NDArray[np.int64]
    run_seen_ns: NDArray[np.int64]
    violated_to_ns: int


class Learner:
    """See the module's docstring; driven by :class:`~edge_node.lane.Lane` alone."""

    def __init__(self, plan: DevicePlan, learn: LearnPlan) -> None:
        self._plan, self._learn = plan, learn
        window, c = plan.window, len(plan.device.channels)
        infos = describe(learn.spec(()), plan.device.channels, window.rate_hz, window.n)
        # Telemetry is never steady: its range goes on widening whenever learning ends.
        self._steady = np.array([not (info.ranged and info.widens) for info in infos], dtype=np.bool_)
        self._overlap = window.overlap
        self.first_target = wanted_windows(window.n, window.hop)
        self._raw: list[Floats]
        self._raw_valid: list[NDArray[np.bool_]]
        self._floors: tuple[float, ...]
        self._parts: list[Floats]
        self._starts: list[int]
        self._ends: list[int]
        self.target = self.first_target
        self.complete = False  # there is enough: nothing more is taken until :meth:`go_on`
        self._note = ""
        self._runs = Runs(c, window)
        self._violated_to_ns = _LONG_AGO_NS  # end of the last window in which a limit was exceeded
        self._begin()

    def _begin(self) -> None:
        c = len(self._plan.device.channels)
        self._raw, self._raw_valid, self._parts = [], [], []
        self._starts, self._ends = [], []
        self._floors = ()
        self.n_seen = 0
        self._longest_ns = np.zeros(c, np.int64)
        self._low = np.full(c, np.inf, np.float32)
        self._high = np.full(c, -np.inf, np.float32)

    @property
    def n(self) -> int:
        """Windows that are kept."""
        return len(self._starts)

    @property
    def room(self) -> int:
        """How many windows it takes until it looks again."""
        return 0 if self.complete else max(1, self.target - self.n)

    @property
    def progress(self) -> float:
        """How far it is, 0 to 1."""
        return min(1.0, self.n / self.target)

    @property
    def left_s(self) -> float:
        """How long that takes yet, of running machine and sound sensors, unless it turns out that more is wanted."""
        return (self.target - self.n) * self._learn.step_ns(self._plan.window) / NS_PER_S

    def add(self, batch: WindowBatch) -> None:
        """Windows of a machine that runs, and whose sensors work; no more than there is :attr:`room` for."""
        starts, seen, _ = self._runs.push(batch)
        self._longest_ns = np.maximum(self._longest_ns, (seen - starts).max(axis=0))
        self._low = np.minimum(self._low, np.where(batch.valid, batch.values, np.inf).min(axis=(0, 1)))
        self._high = np.maximum(self._high, np.where(batch.valid, batch.values, -np.inf).max(axis=(0, 1)))
        i = min(batch.n, 0 if self._floors else FLOOR_WINDOWS - len(self._raw))
        if i:
            self._raw += list(batch.values[:i].copy())
            self._raw_valid += list(batch.valid[:i].copy())
            self._note_times(batch, 0, i)
            if len(self._raw) == FLOOR_WINDOWS:
                self._resolve()
        if i < batch.n:
            rate_hz = self._plan.window.rate_hz
            self._parts.append(extract(self._spec(), batch.values[i:], batch.valid[i:], rate_hz))
            self._note_times(batch, i, batch.n)
            whole = np.flatnonzero(batch.valid[i:].all(axis=(1, 2)))
            if whole.size:
                self._raw[1] = batch.values[i + int(whole[-1])].copy()
        if self.n >= self.target:
            self._look()

    def go_on(self) -> None:
        """What there was did not do: the oldest is forgotten, and more is wanted."""
        self.complete = False
        if self._still:
            self._begin()  # a channel that stood still says nothing of how fine it is resolved
        else:
            self._forget_oldest()

    def sound(
        self, start_ns: NDArray[np.int64], end_ns: NDArray[np.int64], violated: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Which of windows [w] hold nothing of a time at which a limit was exceeded, bool[w]; ``violated`` bool[w]: in the
        part of it that the window before had not shown."""
        ends = np.maximum.accumulate(np.where(violated, end_ns, self._violated_to_ns))
        self._violated_to_ns = int(ends[-1])
        fine: NDArray[np.bool_] = start_ns >= ends
        return fine

    def healthy(self) -> HealthyRows:
        """What was learned from, once it is :attr:`complete`."""
        plan = self._plan
        return HealthyRows(
            device=plan.device,
            window=plan.window,
            time=TimeTreatment.of(plan.time),
            spec=self._spec(),
            baselines=self._baselines(),
            examples=np.stack(self._raw),
            start_ns=np.array(self._starts, np.int64),
            end_ns=np.array(self._ends, np.int64),
            rows=self._rows(),
            set_aside={"forgotten": self.n_seen - self.n} if self.n_seen > self.n else {},
            notes=("fitted by the gateway itself", *((self._note,) if self._note else ()), *self._dead()),
        )

    def _dead(self) -> tuple[str, ...]:
        """What there is to say of channels that never moved, though others did."""
        still = zip(self._plan.device.channels, self._low, self._high, strict=True)
        names = [channel.name for channel, low, high in still if low == high]
        if not names:
            return ()
        return (
            f"{' and '.join(names)} never moved while this was learned, so any move is news: if a sensor was dead, repair it "
            "and have the device learn anew (stuck_s tells of one that stands still)",
        )

    def state(self) -> LearnerState:
        window, c = self._plan.window, len(self._plan.device.channels)
        return LearnerState(
            raw=np.stack(self._raw) if self._raw else np.zeros((0, window.n, c), np.float32),
            raw_valid=np.stack(self._raw_valid) if self._raw_valid else np.zeros((0, window.n, c), np.bool_),
            floors=self._floors,
            rows=self._rows(),
            start_ns=np.array(self._starts, np.int64),
            end_ns=np.array(self._ends, np.int64),
            n_seen=self.n_seen,
            target=self.target,
            complete=self.complete,
            note=self._note,
            longest_ns=self._longest_ns,
            low=self._low,
            high=self._high,
            run_end_ns=self._runs.end_ns,
            run_value=self._runs.value,
            run_start_ns=self._runs.start_ns,
            run_seen_ns=self._runs.seen_ns,
            violated_to_ns=self._violated_to_ns,
        )

    def restore(self, state: LearnerState) -> None:
        self._raw, self._raw_valid = list(state.raw), list(state.raw_valid)
        self._floors = state.floors
        self._parts = [state.rows] if len(state.rows) else []
        self._starts, self._ends = state.start_ns.tolist(), state.end_ns.tolist()
        self.n_seen, self.target, self.complete = state.n_seen, state.target, state.complete
        self._note, self._violated_to_ns = state.note, state.violated_to_ns
        self._longest_ns, self._low, self._high = state.longest_ns, state.low, state.high
        self._runs.resume(state.run_end_ns, state.run_value, state.run_start_ns, state.run_seen_ns)

    def _spec(self) -> FeatureSpec:
        return self._learn.spec(self._floors)

    def _resolve(self) -> None:
        """How fine each channel is resolved, from the windows that were kept as signal."""
        values, valid = np.stack(self._raw), np.stack(self._raw_valid)
        self._floors = learn_floors(values, valid)
        self._parts = [extract(self._spec(), values, valid, self._plan.window.rate_hz)]
        whole = values[valid.all(axis=(1, 2))]
        examples = whole if len(whole) else values  # else as windows are filled
        self._raw, self._raw_valid = [examples[0], examples[-1]], []

    def _note_times(self, batch: WindowBatch, begin: int, end: int) -> None:
        self._starts += batch.start_ns[begin:end].tolist()
        self._ends += batch.end_ns[begin:end].tolist()
        self.n_seen += end - begin

    def _look(self) -> None:
        """Is it enough?"""
        rows = self._rows()
        bad = ~np.isfinite(rows).all(axis=1)
        moves, few = self._moves(rows[~bad]), self._few(rows[~bad])
        if self.n_seen < MOST_TIMES * self.first_target and not self._still:
            if moves or bad.any():
                self._forget_oldest()
                return
            if few:
                self.target = math.ceil(self.target * MORE)
                return
        if moves:
            self._note = (
                "the machine was still on its way somewhere when learning ended: have it learn again later"
            )
        elif few:
            self._note = "few of the windows are independent of each other: false-alarm rates are rough"
        self.complete = True

    @property
    def _still(self) -> bool:
        """Whether no channel has ever changed."""
        return bool((self._low == self._high).all())

    def _moves(self, rows: Floats) -> bool:
        """Whether the beginning and the end of ``rows`` differ by more than their noise: that of windows that have no
        sample in common."""
        apart = rows[:: math.ceil(self._overlap)].astype(np.float64)
        noise = np.sqrt(np.mean(np.diff(apart, axis=0) ** 2, axis=0) / 2)
        part = len(rows) // _PARTS
        first, last = (r.mean(axis=0, dtype=np.float64) for r in (rows[:part], rows[-part:]))
        far = np.abs(last - first) > TRANSIENT_SIGMAS * np.maximum(noise, self._least())
        return bool((far & self._steady).any())

    def _few(self, rows: Floats) -> bool:
        wide = rows.astype(np.float64)
        inputs = (wide - wide.mean(axis=0)) / np.maximum(wide.std(axis=0), self._least())
        return effective_rows(inputs.astype(np.float32), self._overlap) < WARN_EFFECTIVE

    def _least(self) -> NDArray[np.float64]:
        return min_scales(self._spec(), len(self._plan.device.channels), self._plan.window.n)

    def _forget_oldest(self) -> None:
        n = max(1, self.n // _PARTS)
        self._parts = [self._rows()[n:]]
        del self._starts[:n], self._ends[:n]

    def _rows(self) -> Floats:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0] if self._parts else np.zeros((0, 0), np.float32)

    def _baselines(self) -> tuple[ChannelBaseline, ...]:
        known = np.isfinite(self._low)
        return tuple(
            ChannelBaseline(
                longest_run_s=int(run) / NS_PER_S if ok else 0.0,
                minimum=float(low) if ok else 0.0,
                maximum=float(high) if ok else 0.0,
            )
            for ok, run, low, high in zip(known, self._longest_ns, self._low, self._high, strict=True)
        )


def wanted_windows(n: int, hop: int) -> int:
    """How many windows of ``n`` samples, every ``hop``, are wanted first: WARN_EFFECTIVE that have no sample in common."""
    return math.ceil(WARN_EFFECTIVE * max(1.0, n / hop)) + 1
