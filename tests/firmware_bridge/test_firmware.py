"""The C header: compiles cleanly as C and as C++, is small, and does what the golden frames say."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.firmware_bridge import make_vectors, spec
from tests.firmware_bridge.compilers import (
    C99,
    FIRMWARE,
    HERE,
    SANITIZED,
    SANITIZER_ENV,
    WARNINGS,
    build,
    compiler,
)

VECTORS = json.loads(make_vectors.PATH.read_text(encoding="utf-8"))
MAX_CODE_BYTES = 4096

# Everything that a firmware may call, so that nothing is left out of what is compiled and measured.
EVERYTHING = """
#include "linewatch.h"
lw_result begin(lw_board *board, const lw_config *config) { return lw_begin(board, config); }
void push_i16(lw_board *board, const int16_t *row) { lw_push_i16(board, row); }
void push_i32(lw_board *board, const int32_t *row) { lw_push_i32(board, row); }
void push_f32(lw_board *board, const float *row) { lw_push_f32(board, row); }
void push_at(lw_board *board, const void *row, uint32_t us) { lw_push(board, LW_INT32, row, us); }
void poll_bytes(lw_board *board, const uint8_t *bytes, size_t n) { lw_poll(board, bytes, n); }
void event(lw_board *board, const char *text) { lw_event(board, LW_ERROR, 7, text); }
void skip(lw_board *board) { lw_skip(board, 3); }
lw_result set_rate(lw_board *board) { return lw_set_rate(board, 1, 2); }
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("firmware") / "everything.c"
    source.write_text(EVERYTHING, encoding="utf-8")
    return source


@pytest.mark.parametrize("level", ["-O0", "-Os", "-O3"])
@pytest.mark.parametrize(
    ("by", "language"),
    [
        ("cc", ("-std=c99",)),
        ("cc", ("-std=c17",)),
        ("g++", ("-x", "c++", "-std=c++11")),
        ("g++", ("-x", "c++", "-std=c++20")),
    ],
    ids=["c99", "c17", "c++11", "c++20"],
)
def test_compiles_without_a_warning(
    everything: Path, tmp_path: Path, by: str, language: tuple[str, ...], level: str
) -> None:
    build(everything, tmp_path / "everything.o", *language, *WARNINGS, level, "-c", by=by)


def test_takes_less_than_four_kilobytes_of_code(everything: Path, tmp_path: Path) -> None:
    flags = (*C99, "-Os", "-fno-asynchronous-unwind-tables", "-c")
    compiled = build(everything, tmp_path / "everything.o", *flags)
    done = subprocess.run([compiler("size"), str(compiled)], capture_output=True, text=True, check=True)
    code, data, zeroed = (int(x) for x in done.stdout.splitlines()[1].split()[:3])
    assert 0 < code < MAX_CODE_BYTES
    assert data == zeroed == 0, "all state belongs to the user"


def test_calls_nothing_but_functions_of_memory_and_strings(everything: Path, tmp_path: Path) -> None:
    compiled = build(everything, tmp_path / "everything.o", *C99, "-Os", "-fno-stack-protector", "-c")
    done = subprocess.run([compiler("nm"), "-u", str(compiled)], capture_output=True, text=True, check=True)
    called = {line.split()[-1] for line in done.stdout.splitlines()} - {"_GLOBAL_OFFSET_TABLE_"}
    assert called <= {"memcpy", "memset", "strlen", "strcmp"}


def test_the_first_stream_of_the_readme_compiles(tmp_path: Path) -> None:
    readme = (FIRMWARE / "README.md").read_text(encoding="utf-8")
    include, _, code = readme.split("```c\n", 1)[1].split("\n```", 1)[0].partition("\n")
    around = """
        extern uint16_t random_number(void);
        extern bool uart_write(void *user, const uint8_t *bytes, size_t n);
        extern uint32_t micros_now(void *user);
        extern bool sample_ready(void);
        extern const int16_t *sample(void);
        extern uint8_t received[];
        extern size_t n_received;
        void firmware(void);
    """
    source = tmp_path / "first.c"
    source.write_text(f"{include}\n{around}\nvoid firmware(void) {{\n{code}\n}}\n", encoding="utf-8")
    build(source, tmp_path / "first.o", *C99, "-Os", "-c")


@pytest.mark.parametrize("sanitized", [False, True], ids=["plain", "sanitized"])
def test_golden_frames(tmp_path: Path, sanitized: bool) -> None:
    flags = SANITIZED if sanitized else ("-Os",)
    program = build(HERE / "vectors_test.c", tmp_path / "vectors_test", *C99, *flags)
    lines = [line for vector in VECTORS["frames"] for line in _frame_lines(vector)]
    lines += [_stream_line(vector) for key in ("damaged", "streams") for vector in VECTORS[key]]
    assert len(lines) > 150
    done = subprocess.run(
        [str(program)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=SANITIZER_ENV,
    )
    assert done.stdout.splitlines() == [f"{len(lines)} done, 0 wrong"], done.stdout + done.stderr
    assert done.returncode == 0


def test_a_wrong_frame_is_noticed(tmp_path: Path) -> None:
    program = build(HERE / "vectors_test.c", tmp_path / "vectors_test", *C99)
    [right] = [v for v in VECTORS["frames"] if v["name"] == "event_info"]
    line = _event_line(right["frame"][:-4] + "0000", right)
    done = subprocess.run(
        [str(program)], input=line, capture_output=True, text=True, check=False, timeout=60, env=SANITIZER_ENV
    )
    assert done.stdout.splitlines() == ["event_info: another frame was sent", "1 done, 1 wrong"]
    assert done.returncode == 1


def test_the_library_folder_is_whole() -> None:
    """What Arduino and PlatformIO need to take the folder as a library."""
    properties = dict(
        line.split("=", 1) for line in (FIRMWARE / "library.properties").read_text().splitlines() if line
    )
    described = json.loads((FIRMWARE / "library.json").read_text())
    assert properties["name"] == described["name"]
    assert properties["version"] == described["version"]
    for header in (properties["includes"], described["headers"]):
        assert (FIRMWARE / "src" / header).is_file()
    for example in described["examples"]:
        for file in example["files"]:
            assert (FIRMWARE / example["base"] / file).is_file()
    for sketch in FIRMWARE.glob("examples/*/*.ino"):
        assert sketch.stem == sketch.parent.name
    assert (FIRMWARE / "LICENSE").read_text() == (FIRMWARE.parents[1] / "LICENSE").read_text()
    header = (FIRMWARE / "src" / "linewatch.h").read_text()
    names = [line.split("\t")[0] for line in (FIRMWARE / "keywords.txt").read_text().splitlines()]
    assert names
    assert [name for name in names if name not in header] == []


def _frame_lines(vector: dict[str, Any]) -> list[str]:
    name, frame = vector["name"], vector["frame"]
    lines = [f"frame {name} {frame} {vector['body']}"]
    if "refused" in vector:
        # A board reads what a host sends; only the rest of it is its own to judge.
        if (
            vector["refused"] != "malformed"
            or len(vector["body"]) < 8
            or int(vector["body"][2:4], 16) in (3, 5)
        ):
            lines.append(f"refused {name} {frame} {vector['refused']}")
        return lines
    m, seq = vector["message"], vector["seq"]
    if "answer" in vector:
        ack = {"type": "ack", "command_id": m["command_id"], "op": m["op"], "status": vector["answer"]}
        return [*lines, f"declined {name} {spec.frame(spec.body(ack, seq)).hex()} {frame} {seq}"]
    if m["type"] == "command":
        num, den = m["rate_hz"] or (0, 1)
        lines.append(f"command {name} {frame} {m['command_id']} {spec.OPS[m['op']]} {num} {den}")
    if "later" in vector:
        return lines
    match m["type"]:
        case "hello":
            num, den = m["rate_hz"] or (0, 1)
            words = [seq, m["config_id"], *map(_hex, (m["firmware"], m["version"], m["serial"]))]
            words += [num, den, m["now_us"], len(m["channels"])]
            for c in m["channels"]:
                words += [_hex(c["name"]), _hex(c["unit"]), _bits("<f", c["scale"]), _bits("<f", c["offset"])]
            lines.append(f"hello {name} {frame} {_join(words)}")
        case "samples":
            code, value = spec.FORMATS[m["format"]]
            words = [seq, m["config_id"], code, len(m["rows"][0]), len(m["rows"]), m["first_us"], m["index"]]
            words += [_bits(value, x) for row in m["rows"] for x in row]
            lines.append(f"samples {name} {frame} {_join(words)}")
        case "event":
            lines.append(_event_line(frame, vector))
        case "time_sync" if m["reply"]:
            question = spec.frame(spec.body(m | {"reply": False, "received_us": 0, "sent_us": 0}))
            lines.append(f"reply {name} {frame} {question.hex()} {seq} {m['received_us']} {m['sent_us']}")
        case "ack":
            rate = [100, 1] if m["op"] == "set_rate" else None
            asked = {"type": "command", "command_id": m["command_id"], "op": m["op"], "rate_hz": rate}
            request = spec.frame(spec.body(asked))
            lines.append(f"ack {name} {frame} {request.hex()} {seq} {spec.STATUSES[m['status']]}")
    return lines


def _event_line(frame: str, vector: dict[str, Any]) -> str:
    m = vector["message"]
    words = [vector["seq"], m["at_us"], m["code"], spec.SEVERITIES[m["severity"]], _hex(m["text"])]
    return f"event {vector['name']} {frame} {_join(words)}"


def _stream_line(vector: dict[str, Any]) -> str:
    # Where listening began is for the host to tell apart: here it is damage of whatever kind.
    damage = dict(vector["damage"])
    for _ in range(damage.pop("cut_in", 0)):
        damage["bad_cobs"] = damage.get("bad_cobs", 0) + 1
    counts = [damage.get(reason, 0) for reason in ("bad_crc", "bad_cobs", "short", "oversize")]
    bodies = vector.get("bodies", [])
    return f"stream {vector['name']} {vector['bytes']} {_join([*counts, len(bodies), *bodies])}"


def _join(words: list[Any]) -> str:
    return " ".join(str(word) for word in words)


def _hex(text: str) -> str:
    return text.encode().hex() or "-"


def _bits(value: str, x: float) -> int:
    data = struct.pack(value, x)
    return int.from_bytes(data, "little")
