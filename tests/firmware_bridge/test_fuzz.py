"""The fuzz run in short (``make fuzz`` is the long one), and whether it would notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_bridge import framing
from firmware_bridge.framing import Damage
from tests.firmware_bridge import fuzz
from tests.firmware_bridge.compilers import C99, HERE, SANITIZED, build


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(HERE / "fuzz_decoder.c", tmp_path_factory.mktemp("fuzz") / "fuzz_decoder", *C99, *SANITIZED)


@pytest.mark.parametrize("seed", [11, 12])
def test_no_intact_frame_is_lost_and_both_decoders_find_the_same(program: Path, seed: int) -> None:
    report = fuzz.run(400_000, seed, program)
    assert report.n_bytes >= 400_000
    assert report.n_sent > report.n_intact > 500
    assert report.n_found >= report.n_intact
    assert set(Damage) - {Damage.CUT_IN} <= {Damage(name) for name, n in report.damage.items() if n}
    assert all(report.refused.values())
    assert set(report.items) >= {"Rows", "Greeting", "Reset", "Lost", "Logged", "Ack", "Refusal"}
    assert report.c_answered > 0
    assert "the same" in report.lines()[-1]


def test_a_decoder_that_loses_a_frame_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(framing.FrameDecoder):
        def feed(self, data: bytes) -> list[bytes]:
            bodies = super().feed(data)
            return bodies[1:] if len(bodies) > 20 else bodies

    monkeypatch.setattr(fuzz, "FrameDecoder", Forgetful)
    with pytest.raises(fuzz.Lost, match="intact frame"):
        fuzz.run(400_000, 1, None)


def test_decoders_that_differ_are_found_out(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Inventive(framing.FrameDecoder):
        def feed(self, data: bytes) -> list[bytes]:
            return [*super().feed(data), *([b"invented"] if len(data) == 7 else [])]

    monkeypatch.setattr(fuzz, "FrameDecoder", Inventive)
    with pytest.raises(fuzz.Lost, match="in C"):
        fuzz.run(100_000, 1, program)
