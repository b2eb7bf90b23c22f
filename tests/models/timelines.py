"""Timelines drawn in ASCII, played into a Windower.

Time runs to the right, one column a sample period (1 s at 1 Hz); a letter is a sample and its value. ``in``
lines arrive one after the other, each run of letters as one block when its last sample has been taken;
``now`` reads the gateway's clock at the column of its ``^``; ``out`` lines are the windows expected, in
order, with ``.`` where a value is not valid. ``?`` is a NaN. With several channels, lines say which: ``in
x``, ``out y``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np

from models.signal import NS_PER_S, Channel, Device, Mode, SampleBlock, WindowBatch, WindowSpec
from models.windowing import TimePolicy, Windower

T0_S = 1_700_000_000  # a multiple of every hop drawn here
EXACT = TimePolicy(
    lateness_s=4, stale_after_s=20, jitter_s=0.25, hold_s=2, min_valid=0.75, reset_after_s=10, max_age_s=None
)


def policy(**changes: Any) -> TimePolicy:
    fields = {name: getattr(EXACT, name) for name in EXACT.__struct_fields__}
    return TimePolicy(**(fields | changes))


def windower(
    channels: tuple[str, ...] = ("x",),
    *,
    n: int = 4,
    hop: int = 4,
    mode: Mode = Mode.CONTINUOUS,
    rate: Fraction = Fraction(1),
    policy: TimePolicy = EXACT,
) -> Windower:
    device = Device(
        device_id="d",
        machine="m",
        mode=mode,
        rate_hz=rate,
        channels=tuple(Channel(name=name) for name in channels),
    )
    return Windower(device, WindowSpec(n=n, hop=hop, rate_hz=rate, mode=mode), policy)


def blocks(
    channel: str, picture: str, *, timed: bool = False, arrival_s: float | None = None
) -> list[SampleBlock]:
    """The runs of letters in ``picture`` as blocks of ``channel``."""
    found = []
    for run in re.finditer(r"[^ .]+", picture):
        values = np.array([[np.nan if c == "?" else ord(c)] for c in run.group()], np.float32)
        start_ns = (T0_S + run.start()) * NS_PER_S
        arrival = T0_S + (run.end() if arrival_s is None else arrival_s)
        arrival_ns = round(arrival * NS_PER_S)
        if timed:
            times = start_ns + np.arange(len(values)) * NS_PER_S
            block = SampleBlock.irregular("d", (channel,), values, time_ns=times, arrival_ns=arrival_ns)
        else:
            block = SampleBlock.uniform(
                "d", (channel,), values, start_ns=start_ns, rate_hz=Fraction(1), arrival_ns=arrival_ns
            )
        found.append(block)
    return found


def play(target: Windower, picture: str, *, timed: bool = False) -> None:
    """Plays ``picture`` and checks the windows and the conservation of samples."""
    channels = target.device.channel_names
    drawn: dict[str, list[str]] = {name: [] for name in channels}
    expected: dict[str, list[str]] = {name: [] for name in channels}
    for line in picture.strip("\n").splitlines():
        head, _, columns = line.partition("|")
        verb, *names = head.split()
        name = names[0] if names else channels[0]
        if verb == "in":
            for block in blocks(name, columns, timed=timed):
                target.push(block)
                assert_conserved(target)
        elif verb == "now":
            target.advance((T0_S + columns.index("^")) * NS_PER_S)
        else:
            assert verb == "out", line
            expected[name].append(columns.rstrip())
        for batch in target.take():
            for name, windows in draw(target, batch).items():
                drawn[name] += windows
    assert drawn == expected, f"drawn {drawn}, expected {expected}"


def draw(target: Windower, batch: WindowBatch) -> dict[str, list[str]]:
    """The windows of ``batch`` as pictures, per channel."""
    drawn: dict[str, list[str]] = {}
    rate = target.spec.rate_hz
    assert batch.values.flags.c_contiguous or (batch.whole and not batch.values.flags.writeable)
    assert batch.values.dtype == np.float32
    for c, name in enumerate(target.device.channel_names):
        drawn[name] = []
        for i in range(batch.n):
            column = (int(batch.start_ns[i]) - T0_S * NS_PER_S) * rate / NS_PER_S
            letters = "".join(
                chr(int(v)) if ok else "."
                for v, ok in zip(batch.values[i, :, c], batch.valid[i, :, c], strict=True)
            )
            drawn[name].append(" " * int(column) + letters)
    return drawn


def assert_conserved(target: Windower) -> None:
    assert target.n_samples_in == target.n_windowed + sum(target.sample_drops.values())


def silent(target: Windower) -> list[str]:
    """The silent channels; ``stale`` says the same."""
    assert target.stale == bool(target.stale_channels)
    return list(target.stale_channels)
