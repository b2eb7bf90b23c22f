"""Whether the service manager's watchdog may be fed: only while windows really move. Pure.

Strategy: a loop that turns proves nothing, for it may turn without getting on. So what waits must have moved since the watchdog
was last fed: values that wait for the pipeline, windows that wait for a score. Where nothing waits, a plant at rest, that is
fine as well. Invariant: windows that wait for their gate, which may lawfully take long, hold up nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.pipeline import Pipeline
from models.signal import DropReason


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a gateway has got: values that wait for its pipeline, and values taken so far; windows that wait for a score,
    and windows so far that need none any more."""

    n_queued: int
    n_taken: int
    n_unscored: int
    n_settled: int

    @classmethod
    def of(cls, pipeline: Pipeline, n_queued: int) -> Progress:
        """Now. Windows that were shed because too many wait are not settled: that goes on while scoring hangs."""
        counters = pipeline.counters()
        shed = counters.window_drops.get(DropReason.BACKPRESSURE, 0)
        return cls(
            n_queued=n_queued,
            n_taken=counters.n_samples_in,
            n_unscored=pipeline.n_unscored,
            n_settled=counters.n_windows_scored + sum(counters.window_drops.values()) - shed,
        )


class Watchdog:
    """Asked from time to time, several times within the time after which the process is restarted."""

    def __init__(self) -> None:
        self._fed: Progress | None = None
        self.n_withheld = 0  # times that it was not fed

    def may_be_fed(self, now: Progress) -> bool:
        """Whether what waits has moved since this was last true; counts may also have begun anew."""
        before = self._fed
        moves = before is None or (
            (now.n_queued == 0 or now.n_taken != before.n_taken)
            and (now.n_unscored == 0 or now.n_settled != before.n_settled)
        )
        if moves:
            self._fed = now
        else:
            self.n_withheld += 1
        return moves
