"""Frames on a byte stream, whatever happens to it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from firmware_bridge import framing
from firmware_bridge.framing import MAX_BODY, Damage, FrameDecoder
from tests.firmware_bridge import spec

# On a busy machine nothing is quick.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MAX_STUFFED = 4117

# Few values, zeros and ends of blocks among them, make the rare cases common; runs cross the blocks of COBS.
_runs = st.builds(
    lambda n, byte: bytes([byte]) * n, st.integers(1, 600), st.sampled_from([0, 1, 2, 254, 255])
)
_bodies = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.lists(st.one_of(_runs, st.binary(max_size=20)), min_size=1, max_size=6).map(b"".join).filter(bool),
)
_stuffed = st.one_of(st.binary(max_size=60), _runs, _bodies.map(spec.frame), _bodies.map(spec.stuff))
_streams = st.lists(_stuffed, max_size=10).map(b"".join)
_cuts = st.lists(st.integers(0, 4000), max_size=12)


def chunked(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted(c % (len(stream) + 1) for c in cuts)
    return [stream[a:b] for a, b in zip([0, *ends], [*ends, len(stream)], strict=True)]


def decoded(chunks: list[bytes]) -> tuple[list[bytes], Counter[Damage]]:
    decoder = FrameDecoder()
    bodies = [body for chunk in chunks for body in decoder.feed(chunk)]
    assert decoder.n_frames == len(bodies)
    assert decoder.n_bytes == sum(map(len, chunks))
    return bodies, decoder.damage


@settings(UNHURRIED)
@given(_bodies)
@example(bytes(MAX_BODY))
@example(b"\1" * MAX_BODY)
def test_a_frame_is_what_the_specification_says(body: bytes) -> None:
    frame = framing.encode(body)
    assert frame == spec.frame(body)
    assert frame[0] == frame[-1] == 0
    assert 0 not in frame[1:-1]
    assert decoded([frame]) == ([body], Counter())


@pytest.mark.parametrize("n", [0, MAX_BODY + 1])
def test_a_body_that_no_frame_can_hold_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {MAX_BODY} bytes, not {n}"):
        framing.encode(bytes(n))


@settings(UNHURRIED, max_examples=300)
@given(_streams, _cuts)
@example(b"\x55" * (MAX_STUFFED + 1) + b"\0", [MAX_STUFFED + 1])
@example(b"\0" + b"\x55" * (MAX_STUFFED + 1) + b"\0", [MAX_STUFFED + 2])
@example(b"\1" * MAX_STUFFED + b"\0", [9])
def test_any_bytes_in_any_chunking_give_the_same(stream: bytes, cuts: list[int]) -> None:
    assert decoded(chunked(stream, cuts)) == decoded([stream])


@settings(UNHURRIED, max_examples=300)
@given(_streams)
def test_what_is_found_is_what_the_specification_finds(stream: bytes) -> None:
    bodies, damage = decoded([b"\0", stream])
    assert bodies == spec.decode(b"\0" + stream)
    pieces = [piece for piece in stream.split(b"\0")[:-1] if piece]
    assert damage.total() - (len(stream.rsplit(b"\0", 1)[-1]) > MAX_STUFFED) == len(pieces) - len(bodies)
    assert Damage.CUT_IN not in damage


@settings(UNHURRIED, max_examples=200)
@given(st.lists(_bodies, max_size=8), _cuts)
def test_frames_survive_any_chunking(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(framing.encode, bodies))
    assert decoded(chunked(stream, cuts)) == (bodies, Counter())


_edits = st.lists(
    st.tuples(
        st.sampled_from(["change", "drop", "insert"]), st.integers(0, 2000), st.binary(min_size=1, max_size=4)
    ),
    min_size=1,
    max_size=8,
)


def edited(frame: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """``frame`` with bytes changed, dropped and inserted, at its delimiters as well."""
    out = bytearray(frame)
    for what, at, data in edits:
        at %= len(out) + 1
        end = at if what == "insert" else at + len(data)
        out[at:end] = b"" if what == "drop" else data
    return bytes(out)


@settings(UNHURRIED, max_examples=500)
@given(st.lists(_bodies, min_size=1, max_size=6), st.integers(0, 5), _edits, _cuts)
@example([b"a", b"b", b"c"], 1, [("drop", 0, b"x")], [])  # the delimiter before
@example([b"a", b"b", b"c"], 1, [("drop", 7, b"x")], [])  # the delimiter behind
@example([b"a", b"b", b"c"], 1, [("drop", 0, b"longer than the frame")], [])
@example([b"a", b"b", b"c"], 0, [("change", 0, b"\1\1\1\1")], [])
def test_whatever_befalls_one_frame_every_other_is_found(
    bodies: list[bytes], hurt: int, edits: list[tuple[str, int, bytes]], cuts: list[int]
) -> None:
    hurt %= len(bodies)
    frames = list(map(framing.encode, bodies))
    frames[hurt] = edited(frames[hurt], edits)
    found, _ = decoded(chunked(b"".join(frames), cuts))
    others = bodies[:hurt] + bodies[hurt + 1 :]
    # Without a delimiter, or with what was undone, it may still be one.
    assert found in (others, bodies)


@settings(UNHURRIED)
@given(_streams, st.lists(_bodies, min_size=1, max_size=4), _streams)
def test_frames_between_anything_are_found(before: bytes, bodies: list[bytes], after: bytes) -> None:
    found, _ = decoded([before, b"".join(map(framing.encode, bodies)), after])
    n = len(bodies)
    assert any(found[i : i + n] == bodies for i in range(len(found) - n + 1))


@settings(UNHURRIED, max_examples=50)
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=20), st.integers(0, 255))
def test_memory_is_bounded_by_one_frame(sizes: list[int], byte: int) -> None:
    decoder = FrameDecoder()
    for n in sizes:
        assert decoder.feed(bytes([byte]) * n) == []
        assert len(decoder._tail) <= MAX_STUFFED
    assert decoder.damage.total() <= 1


def test_what_is_too_long_is_counted_once_and_the_next_frame_is_found() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"\0")
    for _ in range(100):
        assert decoder.feed(b"\x55" * 1000) == []
    assert decoder.feed(framing.encode(b"next")) == [b"next"]
    assert decoder.damage == {Damage.OVERSIZE: 1}


def test_a_frame_with_a_longer_body_than_any_is_oversize_though_its_checksum_is_right() -> None:
    frame = b"\0" + spec.stuff(bytes(MAX_BODY + 1) + spec.u32(spec.crc32(bytes(MAX_BODY + 1)))) + b"\0"
    assert decoded([b"\0", frame]) == ([], Counter({Damage.OVERSIZE: 1}))


def test_the_end_of_a_frame_that_began_before_us_is_no_damage_of_the_line() -> None:
    first, second = framing.encode(b"first one"), framing.encode(b"second")
    assert decoded([first[5:] + second]) == ([b"second"], Counter({Damage.CUT_IN: 1}))
    assert decoded([first[1:] + second]) == ([b"first one", b"second"], Counter())


def test_after_a_reset_the_stream_is_a_new_one() -> None:
    first, second = framing.encode(b"first one"), framing.encode(b"second")
    decoder = FrameDecoder()
    decoder.feed(first + second[:5])
    decoder.reset()
    assert decoder.damage == {Damage.SHORT: 1}
    assert decoder.feed(first[5:] + second) == [b"second"]
    assert decoder.damage == {Damage.SHORT: 1, Damage.CUT_IN: 1}
    decoder.reset()
    assert decoder.damage.total() == 2
