"""What counts as caught, what as false, and what chance would have caught: held against the plainest way to count it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.failures import Failure, Times, Watched, by_chance, judge

LEAD = 100


def failure(time_ns: int, *devices: str) -> Failure:
    return Failure(time_ns, devices or ("a",), "/".join(devices or ("a",)))


def times(**by_device: list[int]) -> Times:
    return {device: np.array(sorted(at), np.int64) for device, at in by_device.items()}


def watched(*stretches: tuple[int, int], gap_ns: int | None = 10) -> Watched:
    of = Watched(gap_ns)
    for start, end in stretches:
        of.add(np.array([start]), np.array([end]))
    return of


def test_the_first_alert_within_the_lead_is_what_catches() -> None:
    found = judge([failure(1000)], times(a=[850, 930, 960, 1001]), LEAD)
    assert found.caught.tolist() == [True]
    assert (found.first_ns.tolist(), found.n_counting.tolist()) == ([930], [2])
    assert found.false["a"].tolist() == [850, 1001]  # too early, and too late


@pytest.mark.parametrize(("raised", "caught"), [(899, False), (900, True), (1000, True), (1001, False)])
def test_both_ends_of_the_lead_are_in_it(raised: int, caught: bool) -> None:
    found = judge([failure(1000)], times(a=[raised]), LEAD)
    assert found.caught.tolist() == [caught]
    assert found.n_false == (not caught)


def test_an_alert_may_count_for_two_failures() -> None:
    found = judge([failure(1000), failure(1050)], times(a=[980]), LEAD)
    assert found.caught.tolist() == [True, True]
    assert found.n_false == 0


def test_an_alert_counts_for_the_devices_of_its_failure_alone() -> None:
    alerts = times(a=[990], b=[950], c=[960])
    found = judge([failure(1000, "a", "b")], alerts, LEAD)
    assert found.first_device == ("b",)
    assert found.n_counting.tolist() == [2]
    assert found.false["c"].tolist() == [960]


instants = st.integers(0, 2000)
alerts_of = st.dictionaries(st.sampled_from("abc"), st.lists(instants, max_size=12))
failures_of = st.lists(
    st.tuples(instants, st.sets(st.sampled_from("abc"), min_size=1)).map(
        lambda f: failure(f[0], *sorted(f[1]))
    ),
    max_size=6,
)


@given(alerts_of, failures_of, st.integers(1, 500))
def test_counts_are_those_of_looking_at_every_pair(
    alerts: dict[str, list[int]], failures: list[Failure], lead: int
) -> None:
    found = judge(failures, times(**alerts), lead)
    pairs = [(device, at) for device, of in alerts.items() for at in of]

    def counts(pair: tuple[str, int], of: Failure) -> bool:
        return pair[0] in of.devices and of.time_ns - lead <= pair[1] <= of.time_ns

    for k, of in enumerate(failures):
        counting = [at for device, at in pairs if counts((device, at), of)]
        assert found.n_counting[k] == len(counting)
        assert bool(found.caught[k]) == bool(counting)
        assert found.first_ns[k] == min(counting, default=0)
    assert found.n_false == sum(not any(counts(pair, of) for of in failures) for pair in pairs)


@given(alerts_of, failures_of, st.integers(1, 500), st.integers(0, 500))
def test_a_longer_lead_catches_no_fewer_and_has_no_more_false_alerts(
    alerts: dict[str, list[int]], failures: list[Failure], lead: int, more: int
) -> None:
    short, long = (judge(failures, times(**alerts), n) for n in (lead, lead + more))
    assert not (short.caught & ~long.caught).any()
    assert long.n_false <= short.n_false


def test_chance_is_the_part_of_the_time_that_lies_in_the_lead() -> None:
    of = {"a": watched((0, 1000))}
    chance = by_chance([failure(500)], times(a=[10]), LEAD, of)
    assert chance == pytest.approx([0.1])
    # Two alerts far apart catch it twice as often; two at once no oftener than one.
    assert by_chance([failure(500)], times(a=[10, 700]), LEAD, of) == pytest.approx([0.2])
    assert by_chance([failure(500)], times(a=[10, 10]), LEAD, of) == pytest.approx([0.1])


def test_nobody_is_alerted_by_chance_while_nothing_is_watched() -> None:
    of = {"a": watched((0, 500), (5000, 5500))}
    assert by_chance([failure(3000)], times(a=[10]), LEAD, of) == pytest.approx([0.0])
    assert by_chance([failure(5050)], times(a=[10]), LEAD, of) == pytest.approx([0.05])
    assert by_chance([failure(400)], times(a=[]), LEAD, of) == pytest.approx([0.0])
    assert by_chance([failure(400)], times(a=[10]), LEAD, {}) == pytest.approx([0.0])


@settings(deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=8), st.integers(0, 999), st.integers(1, 400))
def test_chance_is_how_many_of_all_shifts_would_have_caught_it(
    alerts: list[int], failed: int, lead: int
) -> None:
    of = {"a": watched((0, 1000))}
    (chance,) = by_chance([failure(failed)], times(a=alerts), lead, of)
    shifted = (np.array(alerts)[None, :] + np.arange(1000)[:, None]) % 1000
    # Of whole numbers one more lies in a closed interval than it is long: one end is left out.
    hit = ((shifted > max(failed - lead, 0)) & (shifted <= failed)).any(axis=1)
    assert chance == pytest.approx(hit.mean(), abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), max_size=30), st.data())
def test_what_is_watched_does_not_depend_on_how_windows_came(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Windows with gaps of up to 40 between them, of which those beyond 10 part them."""
    starts, ends, now = [], [], 0
    for gap, length in steps:
        starts.append(now + gap)
        now += gap + length
        ends.append(now)
    one, many = Watched(10), Watched(10)
    one.add(np.array(starts, np.int64), np.array(ends, np.int64))
    cut = data.draw(st.integers(0, len(starts)))
    many.add(np.array(starts[:cut], np.int64), np.array(ends[:cut], np.int64))
    many.add(np.array(starts[cut:], np.int64), np.array(ends[cut:], np.int64))
    joined = sum(gap for gap, _ in steps[1:] if gap <= 10)
    assert one.total_ns == many.total_ns == sum(length for _, length in steps) + joined
    at = np.arange(0, now + 50, 7)
    assert one.positions(at).tolist() == many.positions(at).tolist()


def test_a_clock_that_was_set_back_is_not_watched_twice() -> None:
    of = watched((1000, 2000), (1500, 1800), (2000, 2100))
    assert of.total_ns == 1100
