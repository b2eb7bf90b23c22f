"""The golden frames, against the package; tests/firmware_bridge/test_firmware.py holds the C header to the same."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from firmware_bridge import framing, protocol
from firmware_bridge.board import Board
from firmware_bridge.framing import FrameDecoder
from firmware_bridge.protocol import (
    Ack,
    AckStatus,
    BoardChannel,
    Command,
    Event,
    EventSeverity,
    Format,
    Hello,
    Message,
    Op,
    Refusal,
    Samples,
    TimeSync,
    Type,
)
from tests.firmware_bridge import make_vectors

VECTORS = json.loads(make_vectors.PATH.read_text(encoding="utf-8"))


def _named(key: str, which: str | None = None) -> list[Any]:
    return [pytest.param(v, id=v["name"]) for v in VECTORS[key] if which is None or which in v]


def _rate(x: list[int] | None) -> Fraction | None:
    return None if x is None else Fraction(*x)


def message_of(m: dict[str, Any]) -> Message:
    """The package's form of a vector's message."""
    match m["type"]:
        case "hello":
            channels = tuple(BoardChannel(**c) for c in m["channels"])
            named = (m["firmware"], m["version"], m["serial"])
            return Hello(m["config_id"], *named, channels, _rate(m["rate_hz"]), m["now_us"])
        case "samples":
            dtype = protocol.DTYPES[Format[m["format"].upper()]]
            return Samples(m["config_id"], np.array(m["rows"], dtype), m["first_us"], m["index"])
        case "time_sync":
            return TimeSync(m["token"], m["reply"], m["received_us"], m["sent_us"])
        case "event":
            return Event(m["at_us"], m["code"], EventSeverity[m["severity"].upper()], m["text"])
        case "command":
            op = Op[m["op"].upper()] if isinstance(m["op"], str) else m["op"]
            return Command(m["command_id"], op, _rate(m["rate_hz"]))
        case "ack":
            return Ack(m["command_id"], Op[m["op"].upper()], AckStatus[m["status"].upper()])
    raise AssertionError(m)


def same(a: Message | Refusal, b: Message | Refusal) -> bool:
    """Equal, to the bit and the type where they are samples."""
    if not (isinstance(a, Samples) and isinstance(b, Samples)):
        return a == b
    return (
        (a.config_id, a.first_us, a.index, a.counts.dtype, a.counts.shape)
        == (b.config_id, b.first_us, b.index, b.counts.dtype, b.counts.shape)
    ) and a.counts.tobytes() == b.counts.tobytes()


def test_the_file_is_what_the_script_writes() -> None:
    assert make_vectors.PATH.read_text(encoding="utf-8") == make_vectors.text(), (
        "run: python -m tests.firmware_bridge.make_vectors"
    )


def test_every_type_format_op_and_status_has_a_vector() -> None:
    messages = [v["message"] for v in VECTORS["frames"] if "message" in v]
    assert {m["type"].upper() for m in messages} == {t.name for t in Type}
    assert {m["format"].upper() for m in messages if "format" in m} == {f.name for f in Format}
    ops = {m["op"] for m in messages if m["type"] == "command"}
    assert {op.upper() for op in ops if isinstance(op, str)} == {op.name for op in Op}
    assert {op for op in ops if isinstance(op, int)} >= {0, max(Op) + 1, 255}
    assert {v["answer"] for v in VECTORS["frames"] if "answer" in v} == {"unsupported", "bad_argument"}
    assert {m["status"].upper() for m in messages if "status" in m} == {s.name for s in AckStatus}
    assert {m["severity"].upper() for m in messages if "severity" in m} == {s.name for s in EventSeverity}
    assert {v["refused"] for v in VECTORS["frames"] if "refused" in v} == set(protocol.Cause)
    counted = {d for key in ("damaged", "streams") for v in VECTORS[key] for d in v["damage"]}
    assert counted == set(framing.Damage)


@pytest.mark.parametrize("vector", _named("frames"))
def test_frame_holds_the_body(vector: dict[str, Any]) -> None:
    body, frame = bytes.fromhex(vector["body"]), bytes.fromhex(vector["frame"])
    assert framing.encode(body) == frame
    decoder = FrameDecoder()
    assert decoder.feed(frame) == [body]
    assert not decoder.damage


@pytest.mark.parametrize("vector", _named("frames", "message"))
def test_message_is_read_and_written(vector: dict[str, Any]) -> None:
    body, message = bytes.fromhex(vector["body"]), message_of(vector["message"])
    assert protocol.seq_of(body) == vector["seq"]
    assert same(protocol.parse(body), message)
    if "later" not in vector:
        assert protocol.encode(message, vector["seq"]) == body


@pytest.mark.parametrize("vector", _named("frames", "answer"))
def test_a_board_declines_what_it_cannot_do(vector: dict[str, Any]) -> None:
    m = vector["message"]
    board = Board(
        (BoardChannel("a", "", 1.0),), Fraction(1000), lambda index: np.zeros((len(index), 1), "<i2")
    )
    before = board.config_id, board.running, board.rate_hz
    [body] = FrameDecoder().feed(board.receive(bytes.fromhex(vector["frame"]), 0))
    op = message_of(m).op  # type: ignore[union-attr]
    assert protocol.encode(Ack(m["command_id"], op, AckStatus[vector["answer"].upper()]), 1) == body
    assert (board.config_id, board.running, board.rate_hz) == before


@pytest.mark.parametrize("vector", _named("frames", "refused"))
def test_what_cannot_be_read_is_refused_with_its_cause(vector: dict[str, Any]) -> None:
    refusal = protocol.parse(bytes.fromhex(vector["body"]))
    assert isinstance(refusal, Refusal)
    assert refusal.cause == vector["refused"]
    assert refusal.text


@pytest.mark.parametrize("vector", [*_named("damaged"), *_named("streams")])
@pytest.mark.parametrize("at_once", [1, 7, 100_000])
def test_damage_is_counted_and_frames_are_found(vector: dict[str, Any], at_once: int) -> None:
    decoder, data = FrameDecoder(), bytes.fromhex(vector["bytes"])
    bodies = [b for i in range(0, len(data), at_once) for b in decoder.feed(data[i : i + at_once])]
    assert [b.hex() for b in bodies] == vector.get("bodies", [])
    assert decoder.damage == Counter(vector["damage"])
