"""How an engine has scored so far. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

RUNS_REMEMBERED = 64


@dataclass(slots=True)
class Runs:
    """Batches, those that failed, and of the last ones the time that a window took, in ns."""

    n: int = 0
    n_failed: int = 0
    ns_a_window: deque[int] = field(default_factory=lambda: deque(maxlen=RUNS_REMEMBERED))
