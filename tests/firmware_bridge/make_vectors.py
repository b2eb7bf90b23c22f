"""Writes firmware_bridge/vectors.json, the golden frames: ``python -m tests.firmware_bridge.make_vectors``.

``frames`` are intact: a body, its frame, and the message in it or why it is refused. A message with ``later`` is of a
newer minor version, with fields appended; it is read, and not written, by version 1.0. A Command with ``answer`` is not
obeyed: that is the status of the board's Ack. ``damaged`` are none: what
they are counted as. ``streams`` are bytes as one may come to hear them, with all bodies in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.firmware_bridge import spec

PATH = Path(__file__).parents[2] / "firmware_bridge" / "vectors.json"
MAX_STUFFED = 4117  # of a body of 4096 bytes and its CRC

XYZ = [
    {"name": "x", "unit": "m/s2", "scale": 0.002, "offset": 0.0},
    {"name": "y", "unit": "m/s2", "scale": 0.002, "offset": 0.0},
    {"name": "temperature", "unit": "°C", "scale": 0.0625, "offset": -40.0},
]
HELLO: dict[str, Any] = {
    "type": "hello",
    "config_id": 0xBEEF,
    "firmware": "press-node",
    "version": "2.4.1",
    "serial": "PN-0042",
    "channels": XYZ,
    "rate_hz": [25600, 1],
    "now_us": 123456,
}
SAMPLES: dict[str, Any] = {
    "type": "samples",
    "config_id": 0xBEEF,
    "format": "int16",
    "first_us": 1000000,
    "index": 600,
    "rows": [[1, -2, 300], [32767, -32768, 0], [4, 5, -6], [-1, -1, -1]],
}


def messages() -> dict[str, dict[str, Any]]:
    """Messages of version 1.0, by name."""
    many = [{"name": f"c{i:02}", "unit": "V", "scale": (i + 1) / 8, "offset": float(-i)} for i in range(64)]
    bare = [{"name": "a", "unit": "", "scale": 1.0, "offset": 0.0}]
    sync = {"type": "time_sync", "reply": True, "token": 0x1234}
    event = {"type": "event", "at_us": 5000, "code": 0, "severity": "info", "text": "booted"}
    command = {"type": "command", "command_id": 7, "op": "start", "rate_hz": None}
    ack = {"type": "ack", "command_id": 7, "op": "start", "status": "ok"}
    # With no zero in header and fields the whole of an Event is one run: as long as its text makes it.
    solid = {"type": "event", "at_us": 0x01010101, "code": 0x0101, "severity": "warning"}
    found = {
        "hello": HELLO,
        "hello_irregular": HELLO | {"rate_hz": None},
        "hello_fraction": HELLO | {"rate_hz": [25600, 3]},
        "hello_slow": HELLO | {"rate_hz": [1, 3600]},
        "hello_bare": HELLO
        | {"firmware": "", "version": "", "serial": "", "channels": bare, "config_id": 0, "now_us": 0},
        "hello_64_channels": HELLO | {"channels": many, "config_id": 0xFFFF},
        "hello_before_wrap": HELLO | {"now_us": 0xFFFFFFFF},
        "hello_utf8": HELLO | {"firmware": "Prüfstand", "serial": "№ 7"},
        "hello_long_text": HELLO | {"firmware": "f" * 255},
        "samples_int16": SAMPLES,
        "samples_int32": SAMPLES
        | {"format": "int32", "rows": [[-(2**31), 2**31 - 1], [0, -1], [65536, 256]]},
        "samples_float32": SAMPLES
        | {
            "format": "float32",
            "rows": [[0.0, -0.0, 1.5], [-3.4028234663852886e38, 1.1754943508222875e-38, 0.1]],
        },
        "samples_zeros": SAMPLES | {"rows": [[0, 0, 0]] * 50, "config_id": 0, "first_us": 0, "index": 0},
        "samples_no_zero_in_rows": SAMPLES | {"rows": [[0x0101, 0x0202, -1]] * 100},
        "samples_one_value": SAMPLES | {"rows": [[-2]]},
        "samples_64_channels": SAMPLES | {"rows": [[64 * r + c - 100 for c in range(64)] for r in range(3)]},
        "samples_before_wrap": SAMPLES | {"first_us": 0xFFFFFFFF, "index": 0xFFFFFFFE},
        "samples_after_wrap": SAMPLES | {"first_us": 3999, "index": 2},
        "samples_longest": SAMPLES | {"rows": [[i - 1000] for i in range(2038)]},
        "time_sync_request": sync | {"reply": False, "received_us": 0, "sent_us": 0},
        "time_sync_reply": sync | {"received_us": 250000, "sent_us": 250040},
        "time_sync_reply_across_wrap": sync | {"token": 0xFFFF, "received_us": 0xFFFFFFF8, "sent_us": 16},
        "time_sync_reply_zeros": sync | {"token": 0, "received_us": 0, "sent_us": 0},
        "event_debug": event | {"severity": "debug", "text": ""},
        "event_info": event,
        "event_warning": event | {"severity": "warning", "code": 0xFFFF, "text": "Übertemperatur 91 °C"},
        "event_error": event | {"severity": "error", "code": 17, "at_us": 0xFFFFFFFF, "text": "e" * 255},
        "command_start": command,
        "command_stop": command | {"op": "stop", "command_id": 0},
        "command_set_rate": command | {"op": "set_rate", "rate_hz": [51200, 3], "command_id": 0xFFFF},
        "command_identify": command | {"op": "identify"},
        "command_reboot": command | {"op": "reboot"},
        "ack_ok": ack,
        "ack_unsupported": ack | {"op": "reboot", "status": "unsupported"},
        "ack_bad_argument": ack | {"op": "set_rate", "status": "bad_argument"},
        "ack_busy": ack | {"op": "stop", "status": "busy", "command_id": 0xFFFF},
    }
    for n in (252, 253, 254, 255, 256):  # bytes of body and CRC, none of them zero
        found[f"run_of_{n}"] = solid | {"text": "r" * (n - 16)}
    return found


def declined() -> dict[str, tuple[dict[str, Any], str]]:
    """(Command, status of the Ack) of commands that are read, and that a board does not obey, whatever it can do."""
    command = {"type": "command", "command_id": 0x0207, "rate_hz": None}
    return {
        "command_of_op_0": (command | {"op": 0}, "unsupported"),
        "command_of_op_6": (command | {"op": 6}, "unsupported"),
        "command_of_op_255": (command | {"op": 255, "rate_hz": [100, 1]}, "unsupported"),
        "command_set_rate_0": (command | {"op": "set_rate"}, "bad_argument"),
    }


def refused() -> dict[str, tuple[bytes, str]]:
    """(body, cause) of intact frames that are not read."""
    hello, samples = spec.body(HELLO), spec.body(SAMPLES)
    sync = spec.body({"type": "time_sync", "reply": False, "token": 1, "received_us": 0, "sent_us": 0})
    event = spec.body({"type": "event", "at_us": 1, "code": 2, "severity": "info", "text": "text"})
    command = spec.body({"type": "command", "command_id": 1, "op": "start", "rate_hz": None})
    ack = spec.body({"type": "ack", "command_id": 1, "op": "start", "status": "ok"})

    def channels(*changed: dict[str, Any]) -> bytes:
        return spec.body(HELLO | {"channels": [XYZ[0] | c for c in changed]})

    found = {
        "type_0": (spec.header(0, 1) + b"xyz", "unknown_type"),
        "type_7": (spec.header(7, 1) + b"xyz", "unknown_type"),
        "type_255": (spec.header(255, 1), "unknown_type"),
        "later_minor_type_7": (spec.header(7, 1, 0x13) + bytes(40), "unknown_type"),
        "major_2": (spec.body(HELLO, version=0x20), "unknown_version"),
        "major_2_command": (b"\x20" + command[1:], "unknown_version"),
        "major_0": (b"\x01" + sync[1:], "unknown_version"),
        "major_15_type_7": (spec.header(7, 1, 0xFF), "unknown_version"),
        "no_header": (spec.header(3, 1)[:3], "malformed"),
        "one_byte": (b"\x10", "malformed"),
        "hello_of_no_channel": (spec.body(HELLO | {"channels": []}), "malformed"),
        "hello_of_65_channels": (
            spec.body(HELLO | {"channels": [XYZ[0] | {"name": str(i)} for i in range(65)]}),
            "malformed",
        ),
        "hello_of_two_of_a_name": (channels({}, {}), "malformed"),
        "hello_of_no_name": (channels({"name": ""}), "malformed"),
        "hello_of_scale_0": (channels({"scale": 0.0}), "malformed"),
        "hello_of_scale_nan": (channels({"scale": float("nan")}), "malformed"),
        "hello_of_offset_inf": (channels({"offset": float("inf")}), "malformed"),
        "hello_of_rate_1_0": (spec.body(HELLO | {"rate_hz": [1, 0]}), "malformed"),
        "hello_not_utf8": (hello.replace(b"press", b"pre\xffs"), "malformed"),
        "samples_of_no_row": (samples[:8] + bytes(2) + samples[10:], "malformed"),
        "samples_of_no_channel": (samples[:7] + b"\0" + samples[8:], "malformed"),
        "samples_of_format_4": (samples[:6] + b"\4" + samples[7:], "malformed"),
        "time_sync_of_kind_2": (sync[:4] + b"\2" + sync[5:], "malformed"),
        "event_not_utf8": (event[:-1] + b"\xc3", "malformed"),
        "command_of_rate_1_0": (command[:8] + spec.u32(1) + spec.u32(0), "malformed"),
        "ack_of_status_9": (ack[:-1] + b"\x09", "malformed"),
    }
    whole = {
        "hello": hello,
        "samples": samples,
        "time_sync": sync,
        "event": event,
        "command": command,
        "ack": ack,
    }
    return found | {f"{name}_cut": (body[:-1], "malformed") for name, body in whole.items()}


def damaged() -> dict[str, tuple[bytes, dict[str, int]]]:
    """(bytes, how often each damage is counted): no frame is in them."""
    a, b = spec.frame(spec.body(HELLO, 1)), spec.frame(spec.body(SAMPLES, 2))
    bare = b"\0"
    return {
        "bit_flipped": (a[:20] + bytes([a[20] ^ 4]) + a[21:], {"bad_crc": 1}),
        "crc_big_endian": (
            bare
            + spec.stuff(b"\x10\x03\x01\x01" + spec.crc32(b"\x10\x03\x01\x01").to_bytes(4, "big"))
            + bare,
            {"bad_crc": 1},
        ),
        "code_past_the_end": (bare + b"\x09\x10\x03\x01\x01\x02\x03" + bare, {"bad_cobs": 1}),
        "end_missing": (b[:-9] + bare, {"bad_cobs": 1}),
        "byte_missing_in_last_block": (b[:-4] + b[-3:], {"bad_cobs": 1}),
        "crc_alone": (bare + spec.stuff(spec.u32(spec.crc32(b""))) + bare, {"short": 1}),
        "three_bytes": (bare + spec.stuff(b"\x10\x03\x01") + bare, {"short": 1}),
        "code_alone": (b"\0\1\0", {"short": 1}),
        "too_long": (bare + spec.stuff(b"\x55" * 4101) + bare, {"oversize": 1}),
        "far_too_long": (bare + b"\x55" * 3 * MAX_STUFFED + bare, {"oversize": 1}),
        "zero_within": (bare + b"\x05\x10\x03\0\x01\x06abcd\0", {"bad_cobs": 2}),
        "delimiters_between_two_lost": (a[:-1] + b[1:], {"bad_crc": 1}),
    }


def streams() -> dict[str, tuple[bytes, list[bytes], dict[str, int]]]:
    """(bytes, bodies in them, damage)."""
    bodies = [spec.body(HELLO, 0), spec.body(SAMPLES, 1), spec.body(SAMPLES | {"index": 604}, 2)]
    a, b, c = (spec.frame(body) for body in bodies)
    return {
        "three": (a + b + c, bodies, {}),
        "one_delimiter_between": (a + b[1:] + c[1:], bodies, {}),
        "many_delimiters": (bytes(9) + a + bytes(300) + b + c, bodies, {}),
        "begun_within_the_first": (a[len(a) // 2 :] + b + c, bodies[1:], {"cut_in": 1}),
        "text_before": (b"boot: ok\r\n" + a + b + c, bodies, {"cut_in": 1}),
        "text_between": (a + b"assertion failed\r\n" + b + c, bodies, {"bad_cobs": 1}),
        "cut_short_and_then_whole": (a + b[:-12] + c, [bodies[0], bodies[2]], {"bad_cobs": 1}),
        "end_not_there_yet": (a + b + c[:-1], bodies[:2], {}),
        "too_long_before": (b"\0" + b"\x55" * 9000 + a + b, bodies[:2], {"oversize": 1}),
    }


def vectors() -> dict[str, Any]:
    frames: list[dict[str, Any]] = []
    for i, (name, message) in enumerate(messages().items()):
        seq = (0x0101, 0, 0xFFFF, 0x1000)[i % 4] if not name.startswith("run_of_") else 0x0101
        body = spec.body(message, seq)
        frames.append(_frame(name, body) | {"seq": seq, "message": message})
        if name in {
            "hello",
            "samples_int16",
            "time_sync_request",
            "event_info",
            "command_set_rate",
            "ack_ok",
        }:
            later = spec.body(message, seq, 0x11) + b"\0\xffappended\0"
            frames.append(_frame(f"{name}_later", later) | {"seq": seq, "message": message, "later": True})
    for name, (message, status) in declined().items():
        body = spec.body(message, 0x0101)
        frames.append(_frame(name, body) | {"seq": 0x0101, "message": message, "answer": status})
    severe = {"type": "event", "at_us": 1, "code": 2, "severity": "error", "text": "of a severity to come"}
    body = spec.body(severe, 9).replace(b"\x02\x00\x03", b"\x02\x00\x08")
    frames.append(_frame("event_of_severity_8", body) | {"seq": 9, "message": severe, "later": True})
    for name, (body, cause) in refused().items():
        frames.append(_frame(name, body) | {"refused": cause})
    return {
        "protocol": "1.0",
        "frames": frames,
        "damaged": [
            {"name": name, "bytes": data.hex(), "damage": counts}
            for name, (data, counts) in damaged().items()
        ],
        "streams": [
            {"name": name, "bytes": data.hex(), "bodies": [b.hex() for b in bodies], "damage": counts}
            for name, (data, bodies, counts) in streams().items()
        ],
    }


def _frame(name: str, body: bytes) -> dict[str, Any]:
    return {"name": name, "body": body.hex(), "frame": spec.frame(body).hex()}


def text() -> str:
    """The file: one vector a line."""
    found = vectors()
    lists = []
    for key in ("frames", "damaged", "streams"):
        lines = ",\n".join("  " + json.dumps(v, ensure_ascii=False) for v in found[key])
        lists.append(f' "{key}": [\n{lines}\n ]')
    return f'{{\n "protocol": "{found["protocol"]}",\n' + ",\n".join(lists) + "\n}\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    print(f"wrote {PATH}")
