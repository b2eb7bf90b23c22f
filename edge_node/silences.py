"""When a device falls silent and when it speaks again, in event time, whatever the blocks it speaks in. Pure."""

from __future__ import annotations

import numpy as np

from edge_node.chunk import Silence
from models.signal import NS_PER_S, SampleBlock
from models.time_policy import TimePolicy
from models.windowing import Windower


def fell_silent(windower: Windower, now_ns: int, clock: str) -> Silence:
    """The silence that ``windower``, which is stale, has noticed at ``now_ns``: from the last usable value of any silent
    channel on, whoever else goes on talking; or, where there was none, from when they should have spoken."""
    silent, channels = windower.stale_channels, windower.device.channel_names
    patience_ns = round(windower.policy.stale_after_s * NS_PER_S)
    last_ns, arrival_ns = windower.last_event_ns, windower.last_arrival_ns
    if last_ns is None or arrival_ns is None:  # nothing ever came
        start, end = now_ns - patience_ns, now_ns
    else:
        end = last_ns + max(now_ns - arrival_ns, 0)
        since_ns = windower.silent_since_ns(silent)
        start = end - windower.unheard_ns(silent) if since_ns is None else since_ns
    return Silence(
        kind="stale",
        start_ns=start,
        end_ns=end,
        channels=silent if len(silent) < len(channels) else (),
        arrival_ns=now_ns,
        clock=clock,
    )


def spoke_again(row: SampleBlock) -> Silence:
    """The end of a silence with ``row``, a block of one."""
    at_ns = int(row.times()[0])
    return Silence(
        kind="resumed",
        start_ns=at_ns,
        end_ns=at_ns,
        channels=(),
        arrival_ns=row.arrival_ns,
        clock=row.clock.value,
    )


def row_that_ends(block: SampleBlock, silent: tuple[str, ...], policy: TimePolicy) -> int | None:
    """The row of ``block`` by which every ``silent`` channel has had a usable value; None: not in it."""
    if not silent or not set(silent) <= set(block.channels):
        return None
    usable = np.isfinite(block.values[:, [block.channels.index(name) for name in silent]])
    times = block.times()
    timely = times <= block.arrival_ns + round(policy.max_future_s * NS_PER_S)
    if policy.max_age_s is not None:
        timely &= times >= block.arrival_ns - round(policy.max_age_s * NS_PER_S)
    usable &= timely[:, None]
    return int(usable.argmax(axis=0).max()) if usable.any(axis=0).all() else None
