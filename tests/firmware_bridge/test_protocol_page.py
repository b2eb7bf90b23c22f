"""docs/protocol.md says what the code does: layouts, numbers, and the load of a line."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge import framing, protocol
from firmware_bridge.protocol import AckStatus, EventSeverity, Format, Op, Samples, TimeSync, Type
from tests.firmware_bridge import make_vectors, spec

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
FIXED = {
    Type.HELLO: protocol._HELLO,
    Type.SAMPLES: protocol._SAMPLES,
    Type.TIME_SYNC: protocol._TIME_SYNC,
    Type.EVENT: protocol._EVENT,
    Type.COMMAND: protocol._COMMAND,
    Type.ACK: protocol._ACK,
}

FRAME = spec.frame(spec.body(make_vectors.SAMPLES | {"rows": [[1, 2, 3]] * 3}))


def table(heading: str, columns: int) -> list[list[str]]:
    """Rows of the first table under ``heading``, without its head."""
    section = PAGE.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    assert rows
    assert all(len(row) == columns for row in rows)
    return rows[2:]


def check_layout(rows: list[list[str]], begin: int, fmt: str) -> None:
    """The fixed fields are those of ``fmt``, one behind the other from ``begin``."""
    sizes = {"u8": "B", "u16": "H", "u32": "I"}
    at, found = begin, "<"
    for offset, size, type_, *_ in rows:
        if not size:
            assert offset in ("", str(at))
            continue
        assert int(offset) == at
        at += int(size)
        found += sizes[type_]
    assert found == fmt


def test_header() -> None:
    check_layout(table("## Header", 5), 0, protocol.HEADER.format)
    assert f"`{protocol.VERSION:x}` is {protocol.MAJOR}.{protocol.MINOR}" in PAGE


@pytest.mark.parametrize("type_", Type)
def test_layout(type_: Type) -> None:
    name = "".join(word.capitalize() for word in type_.name.split("_"))
    check_layout(table(f"### {name} ({type_})", 5), protocol.HEADER.size, FIXED[type_].format)
    assert [row[1] for row in table("## Messages", 4) if row[0] == str(int(type_))] == [name]


@pytest.mark.parametrize(
    ("heading", "field", "values"),
    [
        ("### Samples (2)", "format", Format),
        ("### Event (4)", "severity", EventSeverity),
        ("### Command (5)", "op", Op),
        ("### Ack (6)", "status", AckStatus),
    ],
)
def test_every_number_is_named(heading: str, field: str, values: type[enum.IntEnum]) -> None:
    [meaning] = [row[4] for row in table(heading, 5) if row[3] == field]
    for value in values:
        assert f"{value.value} {value.name.lower()}" in meaning


def test_every_key_of_the_golden_frames_is_described() -> None:
    described: dict[str, set[str]] = {}
    name = ""
    for array, keys, _ in table("## Golden frames", 3):
        name = array or name
        described.setdefault(name, set()).update(re.findall(r"`(\w+)`", keys))
    vectors = make_vectors.vectors()
    assert vectors.pop("protocol") == f"{protocol.MAJOR}.{protocol.MINOR}"
    assert described == {
        name: {key for vector in found for key in vector} - {"name"} for name, found in vectors.items()
    }


@pytest.mark.parametrize(
    ("read", "ends", "damage"),
    [
        (b"\x05abc\0", False, {"cut_in": 1}),
        (b"\0\x05abc\0", False, {"bad_cobs": 1}),
        (FRAME[:38], True, {"short": 1}),
        (FRAME[1:38], True, {}),
    ],
)
def test_what_the_begin_and_the_end_of_a_line_are_counted_as(
    read: bytes, ends: bool, damage: dict[str, int]
) -> None:
    decoder = framing.FrameDecoder()
    assert decoder.feed(read) == []
    if ends:
        decoder.reset()
    assert decoder.damage == damage


def test_limits_and_checksum() -> None:
    assert f"1 to {framing.MAX_BODY} bytes" in PAGE
    assert f"more than {framing._MAX_STUFFED} bytes" in PAGE
    assert f"1 to {protocol.MAX_CHANNELS} " in PAGE
    assert f"{spec.crc32(b'123456789'):08X}" in PAGE
    assert all(f"`{reason}`" in PAGE for reason in [*framing.Damage, *protocol.Cause])


def frame_bytes(n_channels: int, n_bytes: int, n_rows: int) -> int:
    """The formula of the page."""
    b = 24 + n_rows * n_channels * n_bytes
    return b + 1 + b // 254 + 2


@pytest.mark.parametrize("row", table("## Load of a line", 8), ids=lambda row: f"{row[0]}x{row[2]}")
def test_load_of_a_line(row: list[str]) -> None:
    n_channels, n_bytes, rate, n_rows, a_frame, a_second, baud = map(int, row[:7])
    assert a_frame == frame_bytes(n_channels, n_bytes, n_rows)
    assert a_second == a_frame * rate / n_rows
    assert row[7] == f"{100 * a_second / (baud / 10):.1f} %"
    # No frame of such rows is longer; one with no zero in it is as long, or one byte shorter where its header has some.
    counts = np.full(
        (n_rows, n_channels), 0x0101 if n_bytes == 2 else 0x01010101, "<i2" if n_bytes == 2 else "<i4"
    )
    solid = framing.encode(protocol.encode(Samples(0x0101, counts, 0x01010101, 0x01010101), 0x0101))
    assert a_frame - 1 <= len(solid) <= a_frame
    empty = framing.encode(protocol.encode(Samples(0, np.zeros_like(counts), 0, 0), 0))
    assert len(empty) <= a_frame


def test_the_worked_example() -> None:
    assert (
        f"One row a frame instead of 50 would be {frame_bytes(3, 2, 1)} bytes and {1000 * frame_bytes(3, 2, 1):,} a second"
        in (PAGE.replace("\n", " "))
    )
    assert (
        f"add {len(framing.encode(protocol.encode(TimeSync(1, True, 2**31, 2**31), 1)))} bytes twice a second"
        in PAGE
    )
