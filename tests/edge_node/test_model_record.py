"""Which versions a gateway may go to, by what it remembers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.model_record import (
    Kept,
    NotAdmitted,
    Record,
    adopted,
    check_version,
    gone_back,
    promoted,
    serves,
)
from models.manifest import ModelManifest, Rollback
from models.refusals import RefusalReason
from tests.edge_node.plant import device, served, window

BASE = served(device(), window()).manifest


def manifest(version: int, takes_back: int | None = None, issued_ns: int = 1) -> ModelManifest:
    rollback: Any = msgspec.UNSET
    if takes_back is not None:
        rollback = Rollback(takes_back=takes_back, issued_ns=issued_ns)
    return msgspec.structs.replace(BASE, version=version, rollback=rollback)


def admits(record: Record, m: ModelManifest, serving: int, *, canary: bool = False) -> bool:
    try:
        check_version(record, m, serving, canary=canary)
    except NotAdmitted:
        return False
    return True


def go(record: Record, m: ModelManifest, *, canary: bool = False) -> Record:
    return adopted(record, m, f"d{m.version}", 0, canary=canary)


def test_versions_grow() -> None:
    record = go(Record(), manifest(3))
    assert [admits(record, manifest(v), 3) for v in (1, 2, 3, 4)] == [False, False, False, True]
    assert not admits(record, manifest(4), 5)  # what the configuration names may be higher


def test_an_order_takes_back_the_version_that_it_names_and_is_carried_out_once() -> None:
    record = go(go(Record(), manifest(2)), manifest(5))
    assert not admits(record, manifest(2, takes_back=4), 5)
    order = manifest(2, takes_back=5, issued_ns=10)
    assert admits(record, order, 5)
    back = go(record, order)
    assert not admits(back, manifest(5), 2)
    assert not admits(back, manifest(4), 2)  # as was seen before
    again = go(back, manifest(6))
    assert not admits(again, order, 6)
    # Another order brings version 5's like back: the first one, played again, takes nothing back.
    third = go(again, manifest(4, takes_back=6, issued_ns=20))
    assert not admits(third, manifest(2, takes_back=4, issued_ns=10), 4)
    assert admits(third, manifest(2, takes_back=4, issued_ns=30), 4)


def test_an_order_is_a_way_forward_for_who_never_had_what_it_takes_back() -> None:
    record = go(Record(), manifest(1))
    order = manifest(3, takes_back=4)
    assert admits(record, order, 1)
    assert not admits(go(record, order), manifest(4), 3)


def test_what_is_rolled_back_here_is_banned_and_what_was_before_serves() -> None:
    record = go(go(Record(), manifest(2)), manifest(3))
    back = gone_back(record, RefusalReason.TOO_SLOW, 7, ban=True)
    assert (back.current, back.before) == (Kept(version=2, digest="d2"), None)
    with pytest.raises(NotAdmitted, match="version 3 was rolled back here before \\(too_slow\\)") as caught:
        check_version(back, manifest(3), 2, canary=False)
    assert caught.value.reason is RefusalReason.MISBEHAVED
    assert admits(back, manifest(4), 2)
    # Nothing that is banned is ever the one before.
    assert go(back, manifest(4)).before == Kept(version=2, digest="d2")


def test_a_canary_does_not_raise_what_stable_must_be_above() -> None:
    record = go(go(Record(), manifest(2)), manifest(5), canary=True)
    assert record.before == Kept(version=2, digest="d2")
    assert admits(record, manifest(3), 2)
    assert not admits(record, manifest(5), 5, canary=True)
    next_canary = go(record, manifest(6), canary=True)
    assert next_canary.before == Kept(version=2, digest="d2")  # not the canary of before
    ended = gone_back(next_canary, RefusalReason.TAKEN_BACK, 0, ban=False)
    assert ended.current == Kept(version=2, digest="d2")
    assert admits(ended, manifest(6), 2)  # for all
    assert not admits(ended, manifest(6), 2, canary=True)  # the canary, played again
    assert promoted(record).floor == 5
    assert not admits(promoted(record), manifest(4), 5)


def test_what_serves_at_a_start() -> None:
    assert not serves(Record(), 1)
    assert serves(go(Record(), manifest(2)), 1)
    assert not serves(go(Record(), manifest(2)), 2)
    taken_back = go(Record(), manifest(2, takes_back=5))
    assert serves(taken_back, 5)
    assert not serves(taken_back, 6)


@given(st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(1, 9), st.integers(0, 5)), max_size=25))
def test_it_never_goes_back_but_by_an_order_for_what_serves(
    offers: list[tuple[int, int | None, int]],
) -> None:
    record, serving, went = Record(), 1, [(1, None, 0)]
    for version, takes_back, issued_ns in offers:
        m = manifest(version, takes_back, issued_ns)
        if not admits(record, m, serving):
            continue
        record = go(record, m)
        went.append((version, takes_back, issued_ns))
        serving = version
    orders = [issued for (before, _, _), (v, _, issued) in pairwise(went) if v <= before]
    assert orders == sorted(set(orders))
    for (before, _, _), (version, takes_back, _) in pairwise(went):
        assert version > before or takes_back == before
    taken = [takes_back for _, takes_back, _ in went if takes_back is not None]
    for i, (version, _, _) in enumerate(went):
        earlier = [t for _, t, _ in went[:i] if t is not None]
        assert version not in earlier, (went, taken)
