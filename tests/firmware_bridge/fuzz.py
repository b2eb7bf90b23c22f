"""Random and mutated bytes through the decoders: ``make fuzz``.

Streams are made of frames of every kind, sound and senseless, and then damaged: bits flipped, bytes lost, inserted and
overwritten, frames spliced, cut, merged and repeated, noise between them. Which frames are left whole, with both
delimiters and all between, is known; the run fails where one of them is not decoded, where anything raises, where the
Session keeps more than it may, and where the C decoder, compiled with sanitizers, finds other frames.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from firmware_bridge import protocol
from firmware_bridge.framing import FrameDecoder
from firmware_bridge.held import MAX_BYTES
from firmware_bridge.session import Session
from firmware_bridge.session_items import Rows
from tests.firmware_bridge.compilers import C99, FIRMWARE, HERE, SANITIZED, SANITIZER_ENV
from tests.firmware_bridge.fuzz_streams import segment


class Lost(Exception):
    """An intact frame was not decoded, or a bound does not hold."""


@dataclass(slots=True)
class Report:
    n_bytes: int = 0
    n_sent: int = 0  # frames before they were damaged
    n_intact: int = 0
    n_found: int = 0
    damage: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)  # what the Session made of it
    refused: Counter[str] = field(default_factory=Counter)
    c_damage: Counter[str] | None = None  # None: no compiler
    c_answered: int = 0
    seconds: float = 0.0

    def lines(self) -> list[str]:
        def counts(found: Counter[str]) -> str:
            return ", ".join(f"{name} {n:,}" for name, n in sorted(found.items())) or "none"

        lines = [
            f"{self.n_bytes:,} bytes in {self.seconds:.0f} s",
            f"frames: {self.n_sent:,} made, {self.n_intact:,} left intact, all of them found; {self.n_found:,} found in all",
            f"damage: {counts(self.damage)}",
            f"refused: {counts(self.refused)}",
            f"session: {counts(self.items)}",
        ]
        if self.c_damage is None:
            return [*lines, "C decoder: not run, there is no compiler (cc)"]
        said = f"the same {self.n_found:,} frames; {counts(self.c_damage)}; a board sent {self.c_answered:,} frames"
        return [*lines, f"C decoder, with address and undefined-behaviour sanitizers: {said}"]


def run(n_bytes: int, seed: int, program: Path | None) -> Report:
    """Feeds ``n_bytes``; ``program`` is fuzz_decoder.c, compiled. Lost where a frame is."""
    rng, report, began = random.Random(seed), Report(), time.monotonic()
    decoder, session = FrameDecoder(), _Fed(rng, report)
    sink = None if program is None else _CDecoder(program)
    found: list[bytes] = []
    while report.n_bytes < n_bytes:
        stream, intact, n_sent = segment(rng)
        bodies: list[bytes] = []
        for chunk in _chunks(rng, stream):
            bodies += decoder.feed(chunk)
            session.feed(chunk)
        left = iter(bodies)
        for n, body in enumerate(intact):
            if body not in left:
                raise Lost(
                    f"seed {seed}, from byte {report.n_bytes:,}: intact frame {n} is lost: {body[:40].hex()}"
                )
        report.n_bytes += len(stream)
        report.n_sent += n_sent
        report.n_intact += len(intact)
        found += bodies
        if sink is not None:
            sink.write(stream)
    report.n_found = len(found)
    report.damage.update({str(k): n for k, n in decoder.damage.items()})
    if sink is not None:
        sink.compare(found, report)
    report.seconds = time.monotonic() - began
    return report


def _chunks(rng: random.Random, stream: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        n = rng.choice([1, 7, 64, 512, 4096, 4096, 32768])
        yield stream[at : at + n]
        at += n


class _Fed:
    """A Session on the line, and what must hold whatever it hears."""

    def __init__(self, rng: random.Random, report: Report) -> None:
        self._rng, self._report, self._session = rng, report, Session()
        self._now_ns = 10**9

    def feed(self, chunk: bytes) -> None:
        rng, session = self._rng, self._session
        self._now_ns += rng.choice([0, 10**5, 10**7, 10**7, 3 * 10**9 if rng.random() < 0.01 else 10**6])
        session.due(self._now_ns)
        for item in session.receive(
            chunk, self._now_ns, self._now_ns + rng.choice([10**18, 10**18, 10**18 + 5 * 10**9])
        ):
            self._report.items[type(item).__name__] += 1
            if isinstance(item, Rows):
                self._check(item)
        held = session._held
        if held.n_bytes > MAX_BYTES or len(held) > MAX_BYTES // 24:
            raise Lost(f"the Session holds {held.n_bytes} bytes in {len(held)} frames")
        if len(session._tokens) > 200:
            raise Lost(f"the Session waits for {len(session._tokens)} answers")
        if rng.random() < 0.002:
            session.disconnected()
        self._report.refused = Counter(
            {str(cause): session.counters.damage[cause] for cause in protocol.Cause}
        )

    def _check(self, rows: Rows) -> None:
        n, c = rows.counts.shape
        if n == 0 or c != len(rows.hello.channels):
            raise Lost(f"Rows of {rows.counts.shape} for {len(rows.hello.channels)} channels")
        if (rows.time_ns is None) != (rows.hello.rate_hz is not None):
            raise Lost("Rows with a time each and a rate, or with neither")
        if rows.time_ns is not None and len(rows.time_ns) != n:
            raise Lost(f"Rows: {n} of them, with {len(rows.time_ns)} times")


class _CDecoder:
    """fuzz_decoder.c: written to a file first, so that neither side waits for the other."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._stream = tempfile.TemporaryFile()  # noqa: SIM115 (closed by compare)

    def write(self, stream: bytes) -> None:
        self._stream.write(stream)

    def compare(self, found: list[bytes], report: Report) -> None:
        """Lost where the program finds other frames than ``found``, or ends by a sanitizer."""
        self._stream.seek(0)
        with self._stream, tempfile.TemporaryFile() as out:
            done = subprocess.run(
                [str(self._program)],
                stdin=self._stream,
                stdout=out,
                stderr=subprocess.PIPE,
                env=SANITIZER_ENV,
                check=False,
            )
            if done.returncode != 0:
                raise Lost(
                    f"the C decoder ended with {done.returncode}: {done.stderr.decode(errors='replace')}"
                )
            out.seek(0)
            data = out.read()
        at = 0
        for n, body in enumerate(found):
            size = int.from_bytes(data[at : at + 4], "little")
            if data[at + 4 : at + 4 + size] != body:
                raise Lost(
                    f"frame {n} is {body[:40].hex()} here and {data[at + 4 : at + 4 + size][:40].hex()} in C"
                )
            at += 4 + size
        n_frames, bad_crc, bad_cobs, short, oversize, answered, _, n_bytes = map(int, done.stderr.split())
        if (n_frames, at, n_bytes) != (len(found), len(data), report.n_bytes):
            raise Lost(f"{n_frames} frames of {n_bytes} bytes in C, {len(found)} of {report.n_bytes} here")
        report.c_damage = Counter(bad_crc=bad_crc, bad_cobs=bad_cobs, short=short, oversize=oversize)
        report.c_answered = answered
        if report.c_damage.total() != report.damage.total():
            raise Lost(f"damage is {report.c_damage.total()} pieces in C and {report.damage.total()} here")


def compiled(folder: Path) -> Path | None:
    """fuzz_decoder.c with sanitizers; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "fuzz_decoder"
    include, source = f"-I{FIRMWARE / 'src'}", str(HERE / "fuzz_decoder.c")
    subprocess.run([compiler, *C99, *SANITIZED, include, source, "-o", str(program)], check=True)
    return program


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.firmware_bridge.fuzz", description="Fuzz the decoders."
    )
    parser.add_argument("--bytes", type=int, default=10_000_000, help="how many to feed (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other bytes (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = run(options.bytes, options.seed, compiled(Path(folder)))
        except Lost as error:
            print(f"FAIL: {error}", file=sys.stderr)
            return 1
    print("\n".join(report.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
