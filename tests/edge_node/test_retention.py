"""Which files stay: bounds of the ring, of what is near alerts, and of the file system."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.retention import MAX_WHOLE_S, Bounds, Piece, Removal, Wanted, judge, stretch
from models.evidence import Mark

S = 1_000_000_000
HOUR = 3600 * S
NOW = 1_000 * HOUR


def bounds(**more: Any) -> Bounds:
    fields: dict[str, Any] = {
        "ring_ns": 6 * HOUR,
        "ring_bytes": 100,
        "keep_ns": 48 * HOUR,
        "keep_bytes": 30,
        "before_ns": 60 * S,
        "after_ns": 60 * S,
    }
    return Bounds(**(fields | more))


def piece(
    number: int, age_h: float, n_bytes: int = 10, device: str = "d", marks: tuple[Mark, ...] = ()
) -> Piece:
    """A file of half an hour that ended ``age_h`` ago."""
    last = NOW - round(age_h * HOUR)
    return Piece(number, n_bytes, last - HOUR // 2, last, last, {device: (last - HOUR // 2, last)}, marks)


def mark(age_h: float, duration_s: float = 10, device: str = "d", name: str = "a") -> Mark:
    end = NOW - round(age_h * HOUR)
    start = end - round(duration_s * S)
    return Mark(
        alert_id=name,
        seq=0,
        device=device,
        kind="machine",
        state="raised",
        start_ns=start,
        end_ns=end,
        said_ns=end,
        evidence=None,
    )


def gone(pieces: list[Piece], marks: list[Mark], lacking: int = 0, **more: Any) -> dict[int, str]:
    of = bounds(**more)
    verdict = judge(pieces, Wanted(stretch(m, of) for m in marks), of, NOW, lacking)
    numbers = [p.number for p in (*verdict.ring, *verdict.kept)] + [p.number for p, _ in verdict.gone]
    assert sorted(numbers) == [p.number for p in pieces]
    return {p.number: reason.value for p, reason in verdict.gone}


def test_the_ring_is_bounded_by_hours_and_by_bytes_the_oldest_first() -> None:
    pieces = [piece(i, 9 - i) for i in range(9)]
    assert gone(pieces, []) == {0: "hours", 1: "hours", 2: "hours"}
    assert gone(pieces, [], ring_bytes=35) == {0: "hours", 1: "hours", 2: "hours"} | dict.fromkeys(
        (3, 4, 5), "bytes"
    )


def test_what_is_near_an_alert_stays_longer_within_bounds_of_its_own() -> None:
    pieces = [piece(i, 9 - i) for i in range(9)]
    near = [mark(8.2), mark(7.2, device="other")]
    assert gone(pieces, near) == {0: "hours", 2: "hours"}
    assert gone(pieces, near, keep_bytes=5) == {0: "hours", 1: "keep_bytes", 2: "hours"}
    assert gone(pieces, near, keep_ns=7 * HOUR) == {0: "hours", 1: "keep_days", 2: "hours"}
    assert gone(pieces, [mark(8.2), mark(7.2)], keep_bytes=15) == {0: "hours", 1: "keep_bytes"}


def test_margins_reach_into_the_files_around() -> None:
    pieces = [piece(i, 8.5 - i / 2) for i in range(4)]
    edge = mark(8.0)  # ends where file 1 ends
    assert gone(pieces, [edge]) == {0: "hours", 3: "hours"}
    assert gone(pieces, [edge], after_ns=0) == {0: "hours", 2: "hours", 3: "hours"}
    assert gone(pieces, [edge], before_ns=HOUR, after_ns=0) == {2: "hours", 3: "hours"}


def test_the_file_in_which_an_alert_was_said_is_near_it_whatever_is_in_it() -> None:
    held = piece(1, 8, device="other", marks=(mark(500),))
    assert gone([piece(0, 9), held], []) == {0: "hours"}


def test_a_long_episode_is_kept_around_its_messages() -> None:
    whole = stretch(mark(1, MAX_WHOLE_S), bounds())
    assert whole.until_ns - whole.from_ns == MAX_WHOLE_S * S + 120 * S
    long = stretch(mark(1, MAX_WHOLE_S + 1), bounds())
    assert long.until_ns - long.from_ns == 120 * S


def test_where_the_disk_lacks_room_what_is_near_no_alert_goes_first() -> None:
    pieces = [piece(0, 8), *(piece(i, 4 - i) for i in range(1, 4))]
    near = [mark(8.2), mark(3.2)]
    assert gone(pieces, near, lacking=15) == {2: "free_space", 3: "free_space"}
    assert gone(pieces, near, lacking=25) == {0: "free_space", 2: "free_space", 3: "free_space"}
    assert gone(pieces, near, lacking=99) == dict.fromkeys(range(4), "free_space")
    assert gone([*pieces[1:]], [], lacking=5) == {1: "free_space"}


ages = st.lists(st.floats(0, 60), max_size=30)


@settings(max_examples=200, deadline=None)
@given(ages, ages, st.integers(0, 200), st.integers(0, 60), st.integers(0, 60))
def test_bounds_hold_whatever_there_is(
    of_pieces: list[float], of_marks: list[float], ring_bytes: int, keep_bytes: int, lacking: int
) -> None:
    pieces = [piece(i, age) for i, age in enumerate(sorted(of_pieces, reverse=True))]
    of = bounds(ring_bytes=ring_bytes, keep_bytes=keep_bytes)
    wanted = Wanted(stretch(mark(age), of) for age in of_marks)
    verdict = judge(pieces, wanted, of, NOW, lacking)
    assert sum(p.n_bytes for p in verdict.ring) <= ring_bytes
    assert sum(p.n_bytes for p in verdict.kept) <= keep_bytes
    assert all(wanted.is_near(p) for p in verdict.kept)
    assert all(NOW - p.ran_ns <= of.ring_ns for p in verdict.ring)
    freed = sum(p.n_bytes for p, _ in verdict.gone)
    assert freed >= lacking or len(verdict.gone) == len(pieces)
    assert all(reason in Removal for _, reason in verdict.gone)
