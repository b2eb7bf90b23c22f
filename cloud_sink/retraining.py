"""When a model is trained again: on a schedule, on enough new windows, or on drift; and when it has to rest. Pure.

Invariants: between the beginnings of two attempts lies the rest at least, whatever came of the first, and after each one in a
row that led to nothing twice as long as before, up to MOST_RESTS times; while a version of the model is being rolled out there
is none at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.signal import NS_PER_S

HOUR_NS = 3600 * NS_PER_S
DAY_NS = 24 * HOUR_NS
MOST_RESTS = 16

Cause = Literal["schedule", "windows", "drift"]
Result = Literal["open", "served", "nothing"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: every so many days, after so many new windows (None: not), on drift; ``rest_hours`` between attempts."""

    every_days: float | None
    new_windows: int | None
    on_drift: bool
    rest_hours: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt of before: when it began, and what came of it: ``served`` (its version went to all gateways), ``nothing`` (it
    failed, was refused or taken back), or ``open``."""

    began_ns: int
    result: Result


@dataclass(frozen=True, slots=True)
class Known:
    """``served_ns``: when the version in service was made; ``n_windows``: healthy windows summed up since then, or since the
    last attempt; ``drift``: what has drifted, in words, or None; ``rolling_out``: what is, or None; ``attempts``: in any
    order."""

    served_ns: int
    n_windows: int
    drift: str | None
    rolling_out: str | None
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Decision:
    """``cause`` None: nothing is to be done; ``text`` says why, either way."""

    cause: Cause | None
    text: str


def rest_ns(wish: Wish, attempts: Sequence[Attempt]) -> int:
    """How long after the beginning of the last attempt the next one may begin."""
    in_vain = 0
    for attempt in sorted(attempts, key=lambda a: a.began_ns, reverse=True):
        if attempt.result != "nothing":
            break
        in_vain += 1
    times = min(1 << max(0, in_vain - 1), MOST_RESTS)
    return round(wish.rest_hours * HOUR_NS) * times


def decide(wish: Wish, known: Known, now_ns: int) -> Decision:
    """Whether an attempt is to begin at ``now_ns``. Drift counts before new windows, and these before the schedule."""
    if any(a.result == "open" for a in known.attempts):
        return Decision(None, "an attempt is under way")
    if known.rolling_out is not None:
        return Decision(None, f"{known.rolling_out} is being rolled out")
    last_ns = max((a.began_ns for a in known.attempts), default=None)
    cause = _cause(wish, known, known.served_ns if last_ns is None else max(last_ns, known.served_ns), now_ns)
    if cause.cause is None or last_ns is None:
        return cause
    wait_ns = last_ns + rest_ns(wish, known.attempts) - now_ns
    if wait_ns > 0:
        return Decision(None, f"{cause.text}; it rests for {wait_ns / HOUR_NS:.2g} hours more")
    return cause


def _cause(wish: Wish, known: Known, since_ns: int, now_ns: int) -> Decision:
    if wish.on_drift and known.drift is not None:
        return Decision("drift", known.drift)
    if wish.new_windows is not None and known.n_windows >= wish.new_windows:
        return Decision("windows", f"{known.n_windows} new windows")
    days = (now_ns - since_ns) / DAY_NS
    if wish.every_days is not None and days >= wish.every_days:
        return Decision("schedule", f"{days:.3g} days since the last time")
    return Decision(None, "there is no reason")
