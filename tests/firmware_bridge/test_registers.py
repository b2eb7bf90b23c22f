"""What registers mean, which are read together, what counters become, and when who is asked: pure."""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.registers import (
    BACKOFF_MAX_S,
    MAX_BITS,
    MAX_WORDS,
    Order,
    Patience,
    Rate,
    Register,
    Request,
    ValueType,
    plan,
    singly,
    turns,
    value_of,
)

# For each type struct's letter, and values at its ends; they look different in every order.
CODES: dict[str, tuple[str, list[int | float]]] = {
    "uint16": ("H", [0, 1, 0x1234, 0xFFFF]),
    "int16": ("h", [-0x8000, -2, 0x1234, 0x7FFF]),
    "uint32": ("I", [1, 0x12345678, 0xFFFFFFFF]),
    "int32": ("i", [-0x80000000, -2, 0x12345678]),
    "float32": ("f", [0.1, -230.5, 1e-30, math.inf]),
    "uint64": ("Q", [1, 0x123456789ABCDEF0, 2**64 - 1]),
    "int64": ("q", [-(2**63), -2, 2**63 - 1]),
    "float64": ("d", [0.1, -1e300, math.pi]),
}
ORDERS: tuple[Order, ...] = get_args(Order)
S = 1_000_000_000


def register(address: int = 0, type: ValueType = "uint16", **more: Any) -> Register:
    return Register(**{"slave": 1, "address": address, "type": type, **more})


def words_of(value: int | float, code: str, word_order: Order, byte_order: Order) -> list[int]:
    """What a device of these orders has in its registers: words in the order of addresses, as the wire carries them."""
    data = struct.pack(">" + code, value)
    pairs = [data[i : i + 2] for i in range(0, len(data), 2)]
    if word_order == "little":
        pairs.reverse()
    return [(pair[0] << 8 | pair[1]) if byte_order == "big" else (pair[1] << 8 | pair[0]) for pair in pairs]


def test_every_type_is_tried() -> None:
    assert {"bit", *CODES} == set(get_args(ValueType))


@pytest.mark.parametrize("byte_order", ORDERS)
@pytest.mark.parametrize("word_order", ORDERS)
@pytest.mark.parametrize("kind", list(CODES))
def test_words_become_the_number(kind: Any, word_order: Order, byte_order: Order) -> None:
    code, values = CODES[kind]
    of = register(type=kind, word_order=word_order, byte_order=byte_order)
    assert of.n_words == struct.calcsize(code) // 2
    for value in values:
        expected = struct.unpack(code, struct.pack(code, value))[0]
        assert value_of(of, words_of(value, code, word_order, byte_order)) == expected


@pytest.mark.parametrize(
    ("word_order", "byte_order", "words"),
    [
        ("big", "big", [0x4366, 0x8000]),  # "ABCD", as the standard would have it
        ("little", "big", [0x8000, 0x4366]),  # "CDAB"
        ("big", "little", [0x6643, 0x0080]),  # "BADC"
        ("little", "little", [0x0080, 0x6643]),  # "DCBA"
    ],
)
def test_the_orders_that_manuals_name(word_order: Order, byte_order: Order, words: list[int]) -> None:
    assert value_of(register(type="float32", word_order=word_order, byte_order=byte_order), words) == 230.5


@given(
    kind=st.sampled_from([k for k in CODES if not k.startswith("float")]),
    orders=st.tuples(st.sampled_from(ORDERS), st.sampled_from(ORDERS)),
    data=st.data(),
)
def test_whole_numbers_are_exact(kind: Any, orders: tuple[Order, Order], data: st.DataObject) -> None:
    n_bits = 8 * struct.calcsize(CODES[kind][0])
    low, high = (0, 2**n_bits - 1) if kind[0] == "u" else (-(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1)
    value = data.draw(st.integers(low, high))
    words = words_of(value, CODES[kind][0], *orders)
    assert value_of(register(type=kind, word_order=orders[0], byte_order=orders[1]), words) == value


@given(
    kind=st.sampled_from(["float32", "float64"]),
    words=st.lists(st.integers(0, 0xFFFF), min_size=4, max_size=4),
    orders=st.tuples(st.sampled_from(ORDERS), st.sampled_from(ORDERS)),
)
def test_any_words_are_a_float(kind: Any, words: list[int], orders: tuple[Order, Order]) -> None:
    of = register(type=kind, word_order=orders[0], byte_order=orders[1])
    value = value_of(of, words[: of.n_words])
    assert isinstance(value, float)
    if not math.isnan(value):
        assert words_of(value, CODES[kind][0], *orders) == words[: of.n_words]


@pytest.mark.parametrize(("function", "kind"), [(1, "bit"), (2, "uint16"), (3, "bit"), (4, "bit")])
def test_bits_are_0_or_1(function: Any, kind: Any) -> None:
    of = register(function=function, type=kind)
    assert of.n_words == 1
    assert (value_of(of, [0]), value_of(of, [1]), value_of(of, [0x8000])) == (0, 1, 1)


# Which are read together.


def spans(*registers: Register) -> list[tuple[int, int, int, int]]:
    return [(r.slave, r.function, r.address, r.count) for r in plan(registers)]


def test_only_neighbours_are_read_together() -> None:
    assert spans(register(0), register(1), register(3)) == [(1, 3, 0, 2), (1, 3, 3, 1)]
    assert spans(register(2), register(0, "uint32")) == [(1, 3, 0, 3)]
    assert spans(register(0, "uint32"), register(3)) == [(1, 3, 0, 2), (1, 3, 3, 1)]
    assert spans(register(0, "float64"), register(1), register(3, "uint32")) == [(1, 3, 0, 5)]  # they overlap
    assert spans(register(0), register(1, function=4), register(2, slave=2)) == [
        (1, 3, 0, 1),
        (1, 4, 1, 1),
        (2, 3, 2, 1),
    ]


def test_places_are_those_of_the_configuration() -> None:
    assert plan([register(5), register(4), register(4, "int16")]) == [Request(1, 3, 4, 2, (1, 2, 0))]
    assert plan([]) == []


@pytest.mark.parametrize(("function", "most"), [(1, MAX_BITS), (2, MAX_BITS), (3, MAX_WORDS), (4, MAX_WORDS)])
def test_a_read_is_no_longer_than_the_standard_allows(function: Any, most: int) -> None:
    assert most in (125, 2000)
    of = [register(i, function=function) for i in range(most + 1)]
    assert spans(*of) == [(1, function, 0, most), (1, function, most, 1)]


def test_a_value_is_never_cut_in_two() -> None:
    of = [register(2 * i, "uint32") for i in range(63)]
    assert spans(*of) == [(1, 3, 0, 124), (1, 3, 124, 2)]


@given(
    st.lists(
        st.builds(
            register,
            st.integers(0, 300),
            st.sampled_from(["uint16", "int32", "float64"]),
            slave=st.integers(1, 2),
            function=st.sampled_from([3, 4]),
        ),
        max_size=60,
    )
)
def test_every_register_is_read_once_and_nothing_else(registers: list[Register]) -> None:
    requests = plan(registers)
    assert sorted(i for r in requests for i in r.registers) == list(range(len(registers)))
    for request in requests:
        assert 1 <= request.count <= MAX_WORDS
        wanted: set[int] = set()
        for i in request.registers:
            of = registers[i]
            assert (of.slave, of.function) == (request.slave, request.function)
            wanted |= set(range(of.address, of.address + of.n_words))
        assert wanted == set(range(request.address, request.address + request.count))


def test_a_read_that_was_refused_is_divided() -> None:
    registers = [register(4), register(2, "float32")]
    (request,) = plan(registers)
    assert singly(request, registers) == [Request(1, 3, 2, 2, (1,)), Request(1, 3, 4, 1, (0,))]


# Counters.


def rates(of: Register, *readings: tuple[float, int]) -> list[float | None]:
    """``readings``: seconds and count."""
    rate = Rate(of)
    return [rate.step(count, round(s * S)) for s, count in readings]


def test_a_counter_becomes_its_increase_a_second() -> None:
    of = register(type="uint32", counter=True)
    assert rates(of, (0, 100), (2, 110), (2.5, 110), (3.5, 111)) == [None, 5.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "last", "first"),
    [
        ("uint16", 0xFFFE, 1),
        ("uint32", 2**32 - 2, 1),
        ("uint64", 2**64 - 2, 1),
        ("int16", 0x7FFE, -0x7FFF),
        ("int32", 2**31 - 2, 1 - 2**31),
    ],
)
def test_a_wrap_is_counted_on(kind: Any, last: int, first: int) -> None:
    assert rates(register(type=kind, counter=True), (0, last), (1, first)) == [None, 3.0]


def test_a_reset_has_no_rate_and_the_next_reading_has() -> None:
    of = register(type="uint32", counter=True)
    assert rates(of, (0, 1000), (1, 5), (2, 8)) == [None, None, 3.0]
    of = register(type="float32", counter=True)
    assert rates(of, (0, 1e9), (1, 5), (2, 8)) == [None, None, 3.0]


def test_a_counter_of_64_bits_counts_where_floats_have_gaps() -> None:
    of = register(type="uint64", counter=True)
    words = [words_of(2**62 + n, "Q", "big", "big") for n in (0, 1, 3)]
    rate = Rate(of)
    assert [rate.step(value_of(of, some), i * S) for i, some in enumerate(words)] == [None, 1.0, 2.0]


def test_a_clock_that_stands_gives_no_rate() -> None:
    assert rates(register(counter=True), (1, 5), (1, 6), (2, 8)) == [None, None, 2.0]


@given(st.lists(st.integers(0, 2**14), min_size=1, max_size=30), st.integers(0, 0xFFFF))
def test_no_count_is_lost_over_wraps(steps: list[int], start: int) -> None:
    rate = Rate(register(counter=True))
    counts = itertools.accumulate(steps, initial=start)
    seen = [rate.step(count % 65536, i * S) for i, count in enumerate(counts)]
    assert seen == [None, *map(float, steps)]


# When who is asked.


def test_a_slave_that_fails_is_asked_ever_more_rarely() -> None:
    patience = Patience(0.5)
    assert patience.due(0)
    now, waits = 0, []
    for _ in range(12):
        patience.failed(now)
        assert patience.is_tried
        assert not patience.due(patience.not_before_ns - 1)
        waits.append((patience.not_before_ns - now) / S)
        now = patience.not_before_ns
        assert patience.due(now)
    assert waits == [1, 2, 4, 8, 16, 32, *[BACKOFF_MAX_S] * 6]
    patience.answered()
    assert patience.due(0)
    assert not patience.is_tried
    patience.failed(now)
    assert patience.not_before_ns == now + 1 * S


@given(st.floats(0.001, 86_400), st.integers(1, 2000))
def test_back_off_is_bounded_and_never_quicker_than_the_turn(poll_s: float, n: int) -> None:
    patience = Patience(poll_s)
    for _ in range(n):
        patience.failed(0)
    assert round(poll_s * S) <= patience.not_before_ns <= max(round(poll_s * S), 60 * S)


def test_those_that_answer_come_first_and_the_longest_overdue_before_the_others() -> None:
    patience = {slave: Patience(1.0) for slave in (1, 2, 3, 4)}
    patience[1].failed(3 * S)
    patience[3].failed(1 * S)
    assert turns(patience, 0) == [2, 4]
    assert turns(patience, 4 * S) == [2, 4, 3]
    assert turns(patience, 9 * S) == [2, 4, 3, 1]
