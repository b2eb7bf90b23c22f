"""Evidence from memory is evidence from all that came, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.tails import Tails
from models.evidence import evidence_of
from models.messages import Alert
from models.signal import NS_PER_S, SampleBlock
from tests.edge_node.outgoing_messages import alert
from tests.edge_node.plant import T0_S, block, device, plan, window

MB = 1 << 20


def said(
    start_s: float, end_s: float, state: str = "raised", seq: int = 0, name: str = "a", **more: Any
) -> Alert:
    start, end = (round((T0_S + s) * NS_PER_S) for s in (start_s, end_s))
    return alert(device="d", alert_id=name, seq=seq, state=state, start_ns=start, end_ns=end, **more)


def expected(blocks: Sequence[SampleBlock], of: Alert) -> str | None:
    return evidence_of(blocks, of.start_ns, of.end_ns)


def steps(n: int, rows: int = 10, begin: int = 0) -> list[SampleBlock]:
    """Blocks of ``rows`` at 1 Hz, one after the other."""
    rng = np.random.default_rng(begin)
    return [block(rng.normal(size=(rows, 2)), begin + i * rows) for i in range(n)]


def tails(max_bytes: int = MB) -> Tails:
    return Tails([plan(device(), window())], max_bytes)


def pushed(on: Tails, blocks: Sequence[SampleBlock]) -> Tails:
    for one in blocks:
        on.push(one)
    return on


def test_an_alert_of_the_last_rows_has_the_digest_of_all_of_them() -> None:
    blocks = steps(10)
    one = said(33, 77)
    assert pushed(tails(), blocks).evidence(one) == expected(blocks, one)


def test_what_began_before_the_first_row_or_without_any_has_none() -> None:
    on = pushed(tails(), steps(3))
    assert on.evidence(said(-1, 10)) is None
    assert on.evidence(said(40, 50)) is None
    assert Tails([]).evidence(said(0, 10)) is None


def test_what_is_dropped_from_memory_is_no_evidence_unless_its_episode_was_open() -> None:
    blocks = steps(400)
    on = tails(64 * 1024)
    pushed(on, blocks[:50])
    one = said(400, 490)
    assert on.evidence(one) == expected(blocks[:50], one)
    pushed(on, blocks[50:])
    assert on.n_bytes <= 64 * 1024
    late = said(400, 490, name="of another")
    assert on.evidence(late) is None
    update = said(400, 3900, "updated", 1)
    assert on.evidence(update) == expected(blocks, update)
    over = said(400, 4900, "cleared", 2)
    assert on.evidence(over) == expected(blocks, over)
    assert on.evidence(over) is None  # it is forgotten


def test_a_row_that_comes_after_others_of_its_time_were_dropped_leaves_no_evidence() -> None:
    blocks = steps(400)
    on = pushed(tails(64 * 1024), blocks[:50])
    assert on.evidence(said(400, 490)) is not None
    pushed(on, blocks[50:])
    on.push(block(np.ones((1, 2)), 450))
    assert on.evidence(said(400, 3900, "updated", 1)) is None


def test_a_block_that_begins_before_an_episode_of_which_nothing_is_hashed_is_evidence() -> None:
    blocks = steps(3)
    on = pushed(tails(), blocks)
    assert on.evidence(said(32, 33)) is None  # of a time of which nothing has come yet
    late = block(np.ones((8, 2)), 28, arrival_s=36)
    on.push(late)
    update = said(32, 34, "updated", 1)
    assert on.evidence(update) == expected([*blocks, late], update) is not None


def test_what_was_not_recorded_leaves_no_evidence_to_what_it_is_in() -> None:
    blocks = steps(10)
    on = pushed(tails(), blocks[:5])
    on.lost(blocks[5])
    pushed(on, blocks[6:])
    assert on.evidence(said(40, 70)) is None
    after = said(60, 90)
    assert on.evidence(after) == expected(blocks, after)


def test_a_row_of_a_clock_far_ahead_is_no_end_of_evidence() -> None:
    blocks = steps(900)
    on = pushed(tails(64 * 1024), blocks[:20])
    on.push(block(np.ones((1, 2)), 10**9, arrival_s=200))
    pushed(on, blocks[20:])
    one = said(8900, 8990)
    assert on.evidence(one) == expected(blocks, one)
    assert on.n_bytes <= 64 * 1024


def test_a_new_configuration_keeps_the_tails_of_devices_that_stay() -> None:
    blocks = steps(10)
    on = pushed(tails(), blocks[:5])
    on.go_on_with([plan(device(), window()), plan(device("other"), window())])
    pushed(on, blocks[5:])
    one = said(33, 77)
    assert on.evidence(one) == expected(blocks, one)
    on.go_on_with([])
    assert on.evidence(one) is None


starts = st.integers(0, 250)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-30, 10), st.integers(1, 12), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 200),
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.sampled_from([6_000, 20_000, MB]),
)
def test_evidence_is_of_all_that_came_or_none(
    shifts: list[tuple[int, int, bool]], start: int, lengths: list[int], max_bytes: int
) -> None:
    """However late, early and lossy: never another digest."""
    on, came, at = tails(max_bytes), [], 0
    n_each = max(1, len(shifts) // len(lengths))
    end, seq, lost = start, 0, False
    for i, (shift, rows, is_lost) in enumerate(shifts):
        one = block(np.full((rows, 2), i), at + shift, arrival_s=at + rows)
        came.append(one)
        if is_lost and i % 7 == 6:
            on.lost(one)
            lost = True
        else:
            on.push(one)
        at += rows
        if i % n_each == n_each - 1 and seq < len(lengths):
            end = max(end + lengths[seq], at - 5)
            message = said(start, end, "raised" if not seq else "updated", seq)
            found = on.evidence(message)
            assert found in (None, expected(came, message))
            if max_bytes == MB and not lost and start >= 40 and at < 300:
                assert found == expected(came, message)
            seq += 1


@pytest.mark.parametrize("n_open", [1, 200])
def test_episodes_that_never_end_are_not_remembered_without_bound(n_open: int) -> None:
    blocks = steps(10)
    on = pushed(tails(), blocks)
    for i in range(n_open):
        one = said(33, 77, name=f"a{i}")
        assert on.evidence(one) == expected(blocks, one)
