"""A fleet counted by parts, in any order, is the fleet counted at once."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sink.fleet import assembled, gathered, judged, sampled
from cloud_sink.summaries import SummaryTable
from cloud_sink.tallies import Rows, Tally, added, by_parts, joined, picked, rows_by_gateway, tallied
from tests.cloud_sink.test_fleet import rows_of, summed


def table(seed: int, n_gateways: int, n_spans: int) -> SummaryTable:
    """Of gateways with one to three devices, some spans without rows, some without a healthy window, one device far off."""
    generator = np.random.default_rng(seed)
    found = []
    for g in range(n_gateways):
        for d in range(1 + g % 3):
            for i in range(n_spans):
                keep = int(generator.integers(0, 9))
                centre = 1e4 if (g, d) == (1, 1) else 0.01 * g
                one = summed(
                    rows_of(40, int(generator.integers(1 << 30)), centre),
                    i,
                    keep=keep,
                    gateway=f"g{g}",
                    device=f"d{d}",
                )
                if generator.random() < 0.1:
                    one = msgspec.structs.replace(
                        one, n=0, comoment=[0.0] * len(one.comoment), reservoir=None
                    )
                found.append(one)
    return SummaryTable.of(found).distinct()


def parts_of(whole: SummaryTable, cuts: list[int]) -> list[SummaryTable]:
    """``whole`` cut where time goes on."""
    edges = sorted({0, len(whole), *(c % len(whole) for c in cuts)})
    return [whole.take(np.arange(a, b)) for a, b in zip(edges, edges[1:], strict=False)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 9),
    st.integers(2, 5),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.integers(0, 10_000),
    st.sampled_from([7, 60, 20_000]),
)
def test_by_parts_as_at_once(
    seed: int, n_gateways: int, n_spans: int, cuts: list[int], how: int, max_rows: int
) -> None:
    whole = table(seed, n_gateways, n_spans)
    parts = parts_of(whole, cuts)
    tree: list[Tally] = [tallied(part) for part in parts]
    generator = np.random.default_rng(how)
    while len(tree) > 1:  # any two, until there is one
        i, j = sorted(generator.choice(len(tree), 2, replace=False).tolist())
        tree.append(added([tree.pop(j), tree.pop(i)]))
    found = judged(tree[0])
    numbers = [rows_by_gateway(tallied(part).without_moments(), found.left_out) for part in parts]
    places = by_parts(sampled(tree[0], found, max_rows=max_rows), numbers)
    rows = joined([picked(part, found.left_out, here) for part, here in zip(parts, places, strict=True)])
    ours, wanted = assembled(found, rows), gathered(whole, max_rows=max_rows)

    assert list(ours.devices) == list(wanted.devices)
    assert ours.screened == wanted.screened
    assert (ours.n_windows, ours.n_gateways) == (wanted.n_windows, wanted.n_gateways)
    for a, b in [
        (ours.total, wanted.total),
        *zip(ours.weighed, wanted.weighed, strict=True),
        *zip(ours.devices.values(), wanted.devices.values(), strict=True),
    ]:
        unit = b.spread
        assert np.allclose(a.mean, b.mean, rtol=1e-12, atol=1e-12 * unit.max())
        assert np.allclose(a.comoment, b.comoment, rtol=0.0, atol=1e-12 * b.n * np.outer(unit, unit).max())
    assert np.array_equal(ours.row_device, wanted.row_device)
    # Where a device is bounded its rows move with its moments, which are the same to 1e-12; else they are as they came.
    assert np.allclose(ours.rows, wanted.rows, rtol=1e-6, atol=1e-9)
    assert (tree[0].start_ns, tree[0].end_ns) == (whole.start_ns.min(), whole.end_ns.max())
    assert tree[0].n_summaries == len(whole)


def test_a_sample_takes_no_more_than_it_may() -> None:
    whole = table(1, 9, 5)
    tally = tallied(whole)
    found = judged(tally)
    rows = picked(whole, found.left_out, sampled(tally, found, max_rows=60))
    counts = np.unique(rows.gateway, return_counts=True)[1]
    assert len(rows.rows) <= 60
    assert counts.max() <= 60 // 9 + 1


def test_one_device_alone_is_as_it_came() -> None:
    whole = SummaryTable.of([summed(rows_of(40, 1, 3.0))])
    one = tallied(whole)
    assert np.array_equal(one.mean, whole.mean)
    assert np.array_equal(one.comoment, whole.comoment)


def test_places_beyond_the_last_row_are_none() -> None:
    """A part that has become smaller between its two readings."""
    whole = SummaryTable.of([summed(rows_of(40, 1), keep=3)])
    rows = picked(whole, frozenset(), {"s1/g1": np.array([1, 2, 9])})
    assert np.array_equal(rows.rows, whole.reservoir[1:3])
    assert isinstance(joined([rows, rows]), Rows)
