"""Windows of one device on their way from the windower to its alerts, and the silences between them.

What is nearly always empty (a fault, a violated limit, a machine at rest) is None when it is: most windows
cost nothing but their score. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signal import ScoredOn

MAX_CHUNK = 256

_INDEX = np.arange(MAX_CHUNK)
_INDEX.flags.writeable = False

_OF_ROWS = (
    "values",
    "valid",
    "raw",
    "features",
    "drifted",
    "low",
    "high",
    "residual",
    "score",
    "p",
    "saturated",
)

Stage = Literal["gated", "ready", "out", "done"]


class Chunk(msgspec.Struct, tag="windows", kw_only=True, eq=False):
    """Consecutive windows of one device, [w] of them, of which the rows ``rows`` int64[m] are scored.

    ``stage``: waiting for its gate, ready to be scored, out for scoring, or done with it. Per window:
    ``active`` (None: all are), ``faults``, ``fault_since_ns`` and ``reading`` in the channel's unit [w, c]
    (None: no fault), ``suspect`` [w, c]: the channel has stood still for longer than it should (None: none
    has), ``violated``, ``extreme`` and ``violated_since_ns`` [w, l] (None: no limit). Per row to score: everything from
    ``values`` on; ``valid`` may be None where all of ``values`` is; ``features`` are ``raw`` re-centred, and
    ``drifted`` as it says (None: none has), or ``raw`` by its place in the running range, of which ``low`` and ``high`` are
    the ends before the row, as ``raw`` has them (None: the model has no such range); ``saturated`` [m]: the score is
    at least this (None: all are as they are). No ``p`` is below ``least_p``.
    """

    device_id: str
    stage: Stage
    arrival_ns: int | None
    clock: str
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    rows: NDArray[np.int64]
    active: NDArray[np.bool_] | None = None
    faults: NDArray[np.uint8] | None = None
    fault_since_ns: NDArray[np.int64] | None = None
    reading: NDArray[np.float64] | None = None
    suspect: NDArray[np.bool_] | None = None
    violated: NDArray[np.bool_] | None = None
    extreme: NDArray[np.float64] | None = None
    violated_since_ns: NDArray[np.int64] | None = None
    values: NDArray[np.float32] | None = None
    valid: NDArray[np.bool_] | None = None
    raw: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    drifted: NDArray[np.int8] | None = None
    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None
    residual: NDArray[np.float32] | None = None
    score: NDArray[np.float32] | None = None
    p: NDArray[np.float64] | None = None
    saturated: NDArray[np.bool_] | None = None
    least_p: float = 0.0
    backend: ScoredOn | None = None
    latency_ns: int | None = None  # of the batch that it was scored in
    progress: float | None = None  # of learning, after these windows; None: the device does not learn

    @property
    def n(self) -> int:
        """Number of rows to score."""
        return self.rows.size

    @property
    def n_windows(self) -> int:
        return self.start_ns.size

    def split(self, i: int) -> Chunk:
        """The windows from ``i`` on, which this chunk then lacks. Only while it waits for its gate."""
        rest = Chunk(
            device_id=self.device_id,
            stage=self.stage,
            arrival_ns=self.arrival_ns,
            clock=self.clock,
            start_ns=self.start_ns[i:],
            end_ns=self.end_ns[i:],
            rows=all_rows(self.n - i),
        )
        self.start_ns, self.end_ns, self.rows = self.start_ns[:i], self.end_ns[:i], self.rows[:i]
        for name in (
            "faults",
            "fault_since_ns",
            "reading",
            "suspect",
            "violated",
            "extreme",
            "violated_since_ns",
            "values",
            "valid",
        ):
            array = getattr(self, name)
            if array is not None:
                setattr(rest, name, array[i:])
                setattr(self, name, array[:i])
        return rest

    def keep_rows(self, keep: NDArray[np.bool_]) -> None:
        """Score only the rows of which ``keep`` bool[m] is True."""
        self.rows = self.rows[keep]
        for name in _OF_ROWS:
            array = getattr(self, name)
            if array is not None:
                setattr(self, name, np.ascontiguousarray(array[keep]))

    def forget_rows(self) -> None:
        """Score none."""
        self.rows = self.rows[:0]
        self.values = self.valid = self.raw = self.features = self.drifted = self.low = self.high = None


class Silence(msgspec.Struct, tag="silence", kw_only=True, eq=False):
    """A device fell silent, or spoke again. Event time: of the last that ``channels`` said (or, where they never
    did, of when they should have spoken), and now."""

    kind: Literal["stale", "resumed"]
    start_ns: int
    end_ns: int
    channels: tuple[str, ...]  # that are silent
    arrival_ns: int
    clock: str


def all_rows(n: int) -> NDArray[np.int64]:
    """0 .. n-1, read-only, for n <= MAX_CHUNK."""
    return _INDEX[:n]
