"""What the times of a run of frames say of their numbers: where one time does not explain all of it, and where rows under
old numbers are new all the same. ``steps`` are from frame to frame, µs modulo 2^32. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from firmware_bridge.frame_shape import PACE, PACE_US, FrameShape
from firmware_bridge.protocol import U32
from firmware_bridge.runs import Run


def breaks_of_pace(shape: FrameShape, steps: Sequence[int]) -> list[int]:
    """Of a board with a rate, the frames before which a run is to be cut: before each, where any is off the pace."""
    in_pace = shape.least_us <= min(steps) <= max(steps) <= shape.most_us
    return [] if in_pace else list(range(1, len(steps) + 1))


def breaks_of_time(
    run: Run, steps: Sequence[int], before_us: int | None, leap_us: int, in_place: Callable[[int], bool]
) -> list[int]:
    """Of a board without a rate, the frames before which a run is to be cut: where time goes back, and where it goes on by
    more than ``leap_us``, unless all of it merely came late and ends ``in_place``, where it should now. ``before_us``: of
    the row before; what comes after a clock that was set back has not come late."""
    first_us = run.first_us
    steps_there = [0 if before_us is None else (first_us[0] - before_us) % U32, *steps]
    set_back = (i for i, us in enumerate(steps_there) if U32 // 2 <= us < U32 - leap_us)
    end = next(set_back, len(first_us))
    breaks: list[int] = []
    for i in range(len(steps), 0, -1):
        if steps[i - 1] >= U32 // 2:
            breaks.append(i)
        elif steps[i - 1] > leap_us and (i > end or not in_place(first_us[end - 1])):
            breaks.append(i)
            end = min(end, i)
    return breaks[::-1]


def n_until_newer(
    run: Run, shape: FrameShape, steps: Sequence[int], newest_us: int, before: tuple[int, int]
) -> int:
    """Rows of ``run``, which has old numbers, before the first frame that is newer all the same: later than all ``before``
    it, and not by what its number says. There the board counts anew. ``newest_us``: of the last row of ``run``;
    ``before``: number and time of the newest row so far."""
    index, at_us = before
    ahead = (run.index - 1 - index + U32 // 2) % U32 - U32 // 2
    for i, end_us in enumerate(accumulate(steps, initial=newest_us - sum(steps))):
        passed_us = shape.us(ahead + (i + 1) * shape.n_rows)  # by the number of the last row
        slack_us = 0.0 if shape.hello.rate_hz is None else PACE_US + PACE * abs(passed_us)
        if end_us - at_us > max(0.0, passed_us + slack_us):
            return i * shape.n_rows
    return len(run.counts)
