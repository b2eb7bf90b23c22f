"""Windows that time alone has closed keep the clock that they had, in replay as live, whatever clock comes next."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from edge_node.assembly import Core
from edge_node.inference import Engine
from edge_node.replay import play
from models import messages
from models.logs import Tick
from models.messages import Alert
from models.signal import Clock, Mode, SampleBlock
from tests.edge_node.plant import T0_S, Identity, Plant, S, device, healthy, plan

# So many rows that replay scores what waits of them just when ticks begin to come.
N_ROWS = 2600


def rows(first: int, n: int, fault_from: int, clock: Clock) -> SampleBlock:
    values = healthy(n, seed=first)
    values[max(0, fault_from - first) :] *= 1.3
    times = (np.arange(n, dtype=np.int64) + T0_S + first) * S
    names = ("Pressure", "Current")
    return SampleBlock.irregular("d", names, values, time_ns=times, arrival_ns=int(times[-1]), clock=clock)


def recording(fault_from: int) -> list[SampleBlock | Tick]:
    """A fault begins, the stream pauses, and goes on with a disciplined clock."""
    items: list[SampleBlock | Tick] = [
        rows(first, 20, fault_from, Clock.DEVICE) for first in range(0, N_ROWS, 20)
    ]
    items += [Tick((T0_S + N_ROWS - 1 + k) * S) for k in range(1, 9)]
    return [*items, rows(N_ROWS + 9, 20, fault_from, Clock.SYNCED)]


def core() -> Core:
    plans = Plant(plan(device("d", mode=Mode.IRREGULAR)))
    return Core(plans.pipeline, {p.engine: cast(Engine, Identity()) for p in plans.plans}, plans.plans)


def live(items: list[SampleBlock | Tick]) -> list[bytes]:
    gateway = core()
    said = []
    for item in items:
        if isinstance(item, Tick):
            gateway.pipeline.advance(item.now_ns)
            gateway.score()
        else:
            gateway.push(item)
        said += gateway.pipeline.events()
    gateway.pipeline.finish()
    gateway.score()
    said += gateway.pipeline.events()
    return [messages.encode(e.event) for e in said if isinstance(e.event, Alert)]


@pytest.mark.parametrize("fault_from", range(N_ROWS - 60, N_ROWS - 10, 2))
def test_replay_says_the_clock_that_live_said(fault_from: int) -> None:
    items = recording(fault_from)
    said = live(items)
    assert said
    replayed = [messages.encode(a) for step in play(items, core(), recorded=True) for a in step.alerts]
    assert replayed == said
