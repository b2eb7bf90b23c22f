"""What holds for any signal, any clock and any cutting into blocks."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.signal import NS_PER_S, Mode, SampleBlock, WindowBatch, samples_to_ns
from models.windowing import Windower
from tests.models.timelines import T0_S, assert_conserved, policy, windower

RATES = (Fraction(1), Fraction(3), Fraction(1, 7), Fraction(1000), Fraction(44100, 7))
CHANNELS = ("x", "y", "z")

Event = SampleBlock | int  # a block, or the clock's reading


def seconds(rate: Fraction, samples: float) -> float:
    return float(samples / rate)


@st.composite
def signals(draw: st.DrawFn) -> tuple[Windower, list[Event]]:
    """A device and what happens to it: mostly a stream that goes on, with everything that can go wrong."""
    mode = draw(st.sampled_from(list(Mode)))
    rate = draw(st.sampled_from(RATES))
    n = draw(st.integers(2, 9))
    hop = draw(st.integers(1, 12))
    w = windower(
        CHANNELS,
        n=n,
        hop=hop,
        mode=mode,
        rate=rate,
        policy=policy(
            lateness_s=seconds(rate, draw(st.sampled_from((0, 3, 20)))),
            # odd, so that no block lies within the rounding of 1 ns of it
            jitter_s=seconds(rate, draw(st.sampled_from((0, 0.3071, 2.0133)))),
            hold_s=seconds(rate, draw(st.sampled_from((0, 2, 30)))),
            stale_after_s=seconds(rate, draw(st.sampled_from((8, 40)))),
            reset_after_s=seconds(rate, draw(st.sampled_from((0, 15, 60)))),
            max_future_s=seconds(rate, 500),
            max_age_s=draw(st.sampled_from((None, seconds(rate, 5000)))),
            min_valid=draw(st.sampled_from((0.0, 0.6, 1.0))),
        ),
    )
    sets = draw(
        st.sampled_from((((0, 1, 2),), ((0,), (1, 2)), ((0,), (1,), (2,)), ((0, 1), (1, 2), (2, 0, 1))))
    )
    timed = draw(st.sampled_from((False, True, mode is Mode.IRREGULAR)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    drift = draw(st.sampled_from((0.0, 0.0005, -0.004, 0.02)))
    start_ns = T0_S * NS_PER_S + draw(st.integers(0, 10**9))
    now = 0.0  # in samples
    positions = dict.fromkeys(sets, 0.0)
    events: list[Event] = []
    for _ in range(draw(st.integers(1, 25))):
        chosen = sets[int(rng.integers(len(sets)))]
        rows = int(rng.choice((1, 2, 5, 17, 60)))
        kind = rng.random()
        if kind < 0.15:
            positions[chosen] += rng.choice((1.0, 1.5, 4.0, 30.0, 1e4))
        elif kind < 0.3:
            positions[chosen] -= rng.choice((1.0, 2.5, 7.0, 40.0, 900.0))
        elif kind < 0.4:
            now += float(rng.choice((3, 10, 60)))
            events.append(start_ns + samples_to_ns(int(now), rate))
            continue
        wobble = float(rng.choice((0.0, 0.0, 0.2, -1.3)))
        at_ns = start_ns + round((positions[chosen] + wobble) / rate * NS_PER_S)
        positions[chosen] += rows * (1 + drift)
        now = max(now + rows / 3, positions[chosen])
        values = rng.integers(0, 3, (rows, len(chosen))).astype(np.float32)
        values[rng.random(values.shape) < rng.choice((0.0, 0.0, 0.1))] = np.nan
        names = tuple(CHANNELS[c] for c in chosen)
        arrival_ns = start_ns + samples_to_ns(int(now), rate)
        if timed:
            steps = np.cumsum(rng.choice((1.0, 1.0, 1.0, 0.9, 1.2, 0.0, -2.0, 3.0), rows)) - 1
            times = at_ns + np.round(steps * float(NS_PER_S / rate)).astype(np.int64)
            events.append(SampleBlock.irregular("d", names, values, time_ns=times, arrival_ns=arrival_ns))
        else:
            events.append(
                SampleBlock.uniform("d", names, values, start_ns=at_ns, rate_hz=rate, arrival_ns=arrival_ns)
            )
    return w, events


Window = tuple[int, int, bytes, bytes]


def fresh(w: Windower) -> Windower:
    return Windower(w.device, w.spec, w.policy)


def step(w: Windower, event: Event) -> None:
    if isinstance(event, int):
        w.advance(event)
    else:
        w.push(event)
    assert_conserved(w)


def bits(batches: Iterable[WindowBatch]) -> list[Window]:
    """Every window, bit for bit."""
    return [
        (int(b.start_ns[i]), int(b.end_ns[i]), b.values[i].tobytes(), b.valid[i].tobytes())
        for b in batches
        for i in range(b.n)
    ]


def play(w: Windower, events: Iterable[Event]) -> list[Window]:
    """The windows of ``events``, which do not change once they are taken."""
    batches: list[WindowBatch] = []
    windows: list[Window] = []
    for event in events:
        step(w, event)
        new = w.take()
        batches += new
        windows += bits(new)
    assert bits(batches) == windows
    return windows


def cut(events: list[Event], rng: np.random.Generator, mean: float) -> list[Event]:
    pieces: list[Event] = []
    for event in events:
        if isinstance(event, int):
            pieces.append(event)
            continue
        start = 0
        while start < event.n:
            end = min(event.n, start + int(rng.geometric(1 / mean)))
            pieces.append(event.slice(start, end))
            start = end
    return pieces


def times_of(w: Windower) -> list[int]:
    times = [t for event in w.take_clock_events() for t in (event.at_ns, event.to_ns)]
    return [*times, w.last_event_ns or 0]


@settings(max_examples=300, deadline=None)
@given(signals(), st.integers(0, 2**32), st.sampled_from((1.0, 3.0, 20.0)))
def test_any_cutting_gives_bit_identical_windows_and_counts(
    signal: tuple[Windower, list[Event]], seed: int, mean: float
) -> None:
    whole, events = signal
    pieces = fresh(whole)
    expected = play(whole, events)
    assert whole.n_closed == len(expected) + sum(whole.window_drops.values())
    assert play(pieces, cut(events, np.random.default_rng(seed), mean)) == expected
    assert pieces.sample_drops == whole.sample_drops
    assert pieces.window_drops == whole.window_drops
    assert pieces.stale_channels == whole.stale_channels
    assert times_of(pieces) == pytest.approx(times_of(whole), rel=0, abs=4)  # a cut rounds time down to 1 ns


@settings(max_examples=150, deadline=None)
@given(signals(), st.integers(0, 25))
def test_a_restored_windower_has_the_same_future(signal: tuple[Windower, list[Event]], at: int) -> None:
    straight, events = signal
    before, after = fresh(straight), fresh(straight)
    expected = play(straight, events)
    windows = play(before, events[:at])
    for event in events[at : at + 1]:
        step(before, event)  # its windows are waiting when the state is saved
    after.restore(before.snapshot())
    assert after.snapshot() == before.snapshot()
    windows += bits(after.take()) + play(after, events[at + 1 :])
    assert windows == expected
    assert after.snapshot() == straight.snapshot()


@settings(max_examples=200, deadline=None)
@given(
    mode=st.sampled_from(list(Mode)),
    n=st.integers(2, 9),
    hop=st.integers(1, 12),
    lateness=st.sampled_from((0, 3, 30)),
    reset=st.sampled_from((0, 15, 200)),
    blocks=st.lists(
        st.tuples(
            st.one_of(st.just(None), st.integers(-60, 60), st.sampled_from((-3000, 3000))),
            st.integers(1, 40),
            st.sampled_from((("x", "y", "z"), ("x",), ("y", "z"))),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_a_valid_sample_is_always_the_one_of_its_time(
    mode: Mode,
    n: int,
    hop: int,
    lateness: int,
    reset: int,
    blocks: list[tuple[int | None, int, tuple[str, ...]]],
) -> None:
    """Blocks on an exact grid of 10 Hz, in any order, again and again, whatever the clock does: the value
    says when and on which channel it was taken."""
    rate = Fraction(10)
    hold = 3
    given = policy(
        lateness_s=lateness / 10, jitter_s=0.01, hold_s=hold / 10, reset_after_s=reset / 10, min_valid=0.1
    )
    w = windower(CHANNELS, n=n, hop=hop, mode=mode, rate=rate, policy=given)
    position = dict.fromkeys(CHANNELS, 50_000)
    arrival = 60_000
    seen: set[float] = set()
    for jump, rows, channels in blocks:
        first = position[channels[0]] + (0 if jump is None else jump)
        index = np.arange(first, first + rows)
        values = np.stack([index * 4.0 + CHANNELS.index(c) for c in channels], axis=1)
        seen.update(values.ravel().tolist())
        for c in channels:
            position[c] = first + rows
        arrival += rows
        w.push(
            SampleBlock.uniform(
                "d",
                channels,
                values,
                start_ns=T0_S * NS_PER_S + samples_to_ns(first, rate),
                rate_hz=rate,
                arrival_ns=T0_S * NS_PER_S + samples_to_ns(arrival, rate),
            )
        )
    w.advance(T0_S * NS_PER_S + samples_to_ns(arrival + 100_000, rate))
    assert_conserved(w)
    for b in w.take():
        first_index = (b.start_ns - T0_S * NS_PER_S) // 100_000_000
        time = first_index[:, None, None] + np.arange(n)[None, :, None] + np.zeros((1, 1, 3), np.int64)
        expected = time * 4.0 + np.arange(3)
        values = b.values.astype(np.float64)
        assert set(values[b.valid].tolist()) <= seen
        if mode is Mode.IRREGULAR:
            age = (expected - values) / 4
            assert ((age >= 0) & (age <= hold))[b.valid].all()
        else:
            assert (values == expected)[b.valid].all()
