"""A gate over a whole recording answers as the gate of a gateway does, and forgets nothing."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.gating import Gate, GateHistory, GateSpec, Running
from models.signal import NS_PER_S, Mode, SampleBlock, WindowSpec
from models.time_policy import TimePolicy, between_records, default_policy

S = NS_PER_S
T0_S = 1_700_000_000
SPEC = GateSpec(device_id="meter", channel="Power", comparison=">", value=5.0)
WINDOW = WindowSpec(n=2, hop=1, rate_hz=Fraction(1), mode=Mode.CONTINUOUS)
PATIENT = msgspec.structs.replace(default_policy(WINDOW), stale_after_s=1e6, max_age_s=None)


def block(picture: str, at_s: int = 0) -> SampleBlock:
    """One sample a second: # runs, . rests, ? is not known, a blank is not there."""
    seen = [(at_s + i, c) for i, c in enumerate(picture) if c != " "]
    level = {"#": 9.0, ".": 0.0, "?": np.nan}
    return SampleBlock.irregular(
        "meter",
        ("Power",),
        np.array([[level[c]] for _, c in seen]),
        time_ns=np.array([(T0_S + t) * S for t, _ in seen]),
        arrival_ns=(T0_S + at_s + len(picture)) * S,
    )


def ran(*blocks: SampleBlock, settle_s: float = 0.0, policy: TimePolicy = PATIENT) -> Running:
    history = GateHistory(msgspec.structs.replace(SPEC, settle_s=settle_s), 0.0, policy, S)
    for item in blocks:
        history.push(item)
    return history.running()


def seconds(running: Running) -> list[tuple[int, int]]:
    return [(a // S - T0_S, b // S - T0_S) for a, b in running.intervals.tolist()]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ("....######......####", [(4, 10), (16, 20)]),
        ("####....", [(0, 4)]),
        ("........", []),
        ("", []),
        ("##??##..", [(0, 6)]),
    ],
)
def test_it_runs_from_the_first_sample_that_says_so_to_the_first_that_does_not(
    picture: str, expected: list[tuple[int, int]]
) -> None:
    assert seconds(ran(*[block(picture)] if picture else [])) == expected


def test_what_is_not_known_because_the_channel_was_silent_is_not_running() -> None:
    policy = msgspec.structs.replace(PATIENT, stale_after_s=10.0)
    whole = block("#####" + " " * 10 + "###" + " " * 6 + "##")
    assert seconds(ran(whole, policy=policy)) == [(0, 5), (15, 26)]
    assert seconds(ran(block("#####"), block("#####", 15), policy=policy)) == [(0, 5), (15, 20)]
    assert seconds(ran(whole)) == [(0, 26)]


def test_it_remembers_more_changes_than_a_gateway_needs() -> None:
    running = ran(block("#." * 10_000))
    assert len(running.intervals) == 10_000
    starts = np.array([T0_S, T0_S + 1, T0_S + 19_998]) * S
    assert running.active(starts, starts + S).tolist() == [True, False, True]


def test_records_far_apart_are_no_silence() -> None:
    burst = between_records(default_policy(WINDOW), 600.0)
    assert (burst.stale_after_s, burst.reset_after_s) == (1800.0, 1800.0)
    assert between_records(burst, None) == burst
    assert between_records(burst, 10.0) == burst


@settings(deadline=None)
@given(
    picture=st.text("#.?", min_size=1, max_size=60),
    order=st.randoms(use_true_random=False),
    cuts=st.lists(st.integers(1, 60)),
    jumble=st.booleans(),
    settle_s=st.integers(0, 6),
)
def test_it_answers_as_the_gate_of_a_gateway(
    picture: str, order: Random, cuts: list[int], jumble: bool, settle_s: int
) -> None:
    whole = block(picture)
    times = whole.times().copy()
    if jumble:
        times = times[order.sample(range(times.size), times.size)]
    timed = SampleBlock.irregular(
        "meter", ("Power",), whole.values, time_ns=times, arrival_ns=whole.arrival_ns
    )
    edges = [0, *sorted({c for c in cuts if c < timed.n}), timed.n]
    gate = Gate(msgspec.structs.replace(SPEC, settle_s=settle_s), 0.0, PATIENT, S)
    gate.push(timed)
    running = ran(*[timed.slice(a, b) for a, b in pairwise(edges)], settle_s=settle_s)
    starts, ends = np.array([(a, b) for a in range(-2, 62) for b in range(a + 1, 64)]).T
    asked = (T0_S + starts) * S, (T0_S + ends) * S
    assert running.active(*asked).tolist() == gate.active(*asked).tolist()
