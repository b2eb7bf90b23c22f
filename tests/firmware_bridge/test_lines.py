"""Lines of text on a byte stream, whatever happens to it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.lines import LineDamage, LineSplitter

MAX = 40

_pieces = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.binary(max_size=20),
    st.sampled_from([b"\n", b"\r\n", b"\r", b"12.5,3\n", b"x" * (MAX - 1), b"x" * MAX, b"x" * (MAX + 1)]),
)
_streams = st.lists(_pieces, max_size=20).map(b"".join)


def split(chunks: list[bytes], max_bytes: int = MAX) -> tuple[list[bytes], Counter[LineDamage]]:
    splitter = LineSplitter(max_bytes)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    assert splitter.n_lines == len(lines)
    assert splitter.n_bytes == sum(map(len, chunks))
    return lines, splitter.damage


@settings(max_examples=300, deadline=None)
@given(_streams, st.lists(st.integers(0, 400), max_size=12))
def test_any_chunking_gives_the_same(stream: bytes, cuts: list[int]) -> None:
    ends = sorted(c % (len(stream) + 1) for c in cuts)
    whole = split([stream])
    assert split([stream[a:b] for a, b in zip([0, *ends], [*ends, len(stream)], strict=True)]) == whole
    assert split([stream[i : i + 1] for i in range(len(stream))]) == whole


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=10)),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n\r"]),
)
def test_lines_are_what_lies_between_their_ends(texts: list[str], end: str) -> None:
    stream = (end + "".join(text + end for text in texts)).encode()
    assert split([stream]) == ([text.encode() for text in texts], Counter())


@settings(max_examples=300, deadline=None)
@given(_streams)
def test_every_line_that_comes_out_is_one_line_of_text(stream: bytes) -> None:
    lines, damage = split([stream])
    for line in lines:
        assert 0 < len(line) <= MAX
        assert len(line.decode().splitlines()) == 1
    pieces = [p for p in stream.replace(b"\r", b"\n").split(b"\n")[:-1] if p]
    blank = sum(p.isspace() and len(p) <= MAX for p in pieces[1:])
    blank += bool(pieces) and pieces[0].isspace() and stream[:1] in b"\r\n"
    assert len(lines) + damage.total() == len(pieces) - blank


def test_the_first_piece_is_not_delivered() -> None:
    """1.5 of 21.5 is a number too."""
    assert split([b"1.5,7\n22.5,8\n"]) == ([b"22.5,8"], Counter({LineDamage.CUT_IN: 1}))
    assert split([b"\r\n22.5,8\r\n"]) == ([b"22.5,8"], Counter())


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b"1.5\x002", b"1\x1b[0m", b"1.5\x7f", "1.5\u20282".encode(), "1\x852".encode(), b"1\x0b2"],
)
def test_what_is_no_text_is_counted_and_the_next_line_read(line: bytes) -> None:
    assert split([b"\n" + line + b"\n1,2\n"]) == ([b"1,2"], Counter({LineDamage.MALFORMED: 1}))


def test_tabs_and_any_script_are_text() -> None:
    text = "1\t2 °C, Größe 温度".encode()
    assert split([b"\n" + text + b"\n"])[0] == [text]


def test_a_line_that_never_ends_takes_no_memory_and_counts_once() -> None:
    splitter = LineSplitter(MAX)
    splitter.feed(b"\n")
    for _ in range(1000):
        assert splitter.feed(b"y" * 30) == []
        assert len(splitter._tail) <= MAX
    assert splitter.feed(b"y\n1,2\n") == [b"1,2"]
    assert splitter.damage == {LineDamage.OVERSIZE: 1}


@pytest.mark.parametrize(("n", "whole"), [(MAX, True), (MAX + 1, False)])
def test_how_long_a_line_may_be(n: int, whole: bool) -> None:
    lines, damage = split([b"\n" + b"z" * n, b"\n"])
    assert lines == ([b"z" * n] if whole else [])
    assert damage == (Counter() if whole else Counter({LineDamage.OVERSIZE: 1}))


def test_a_stream_that_ends_within_a_line_and_another_that_begins() -> None:
    splitter = LineSplitter(MAX)
    assert splitter.feed(b"\n1,2\n3,") == [b"1,2"]
    splitter.reset()
    assert splitter.feed(b"4\n5,6\n") == [b"5,6"]
    assert splitter.damage == {LineDamage.SHORT: 1, LineDamage.CUT_IN: 1}
    splitter.reset()  # between lines: nothing is cut off
    assert splitter.damage.total() == 2
