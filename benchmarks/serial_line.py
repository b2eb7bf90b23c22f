"""A board's framed protocol: bytes to rows, and what a whole line costs.

Decoding is measured on reads in memory; its floor is what cannot be done without, by the libraries that do it: ``cobs``
and ``zlib.crc32`` on each frame, which somebody has cut out already. The cost of a line is that of the real source on a
pty, at the sizes in which its bytes come there (:mod:`benchmarks.line_board`), beside a program that reads and forgets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog
from cobs import cobs

from benchmarks.line_board import RATE_HZ, ROWS, board
from benchmarks.timing import ratio, spread, take_turns
from edge_node.config_schema import SerialSource
from edge_node.sources.serial import SerialBoard
from examples.demo.processes import DemoError
from firmware_bridge.session import Session
from firmware_bridge.session_items import Rows
from models.signal import NS_PER_S, Channel, Device, SampleBlock

READS = (4096, 16384, 65536)
START_NS = 1_760_000_000 * NS_PER_S
PATIENCE_S = 20.0
N_AXES = 3


def measure(*, quick: bool) -> dict[str, object]:
    """By bytes a read: ratio of the floor's CPU time to the session's, and its speed; then CPU seconds a second of
    signal, of the source and of what reads and forgets."""
    stream = _stream(2 if quick else 40)
    pieces = [piece for piece in stream.split(b"\0") if piece]
    found: dict[str, object] = {}
    for size in READS:
        ours = _Ours([stream[i : i + size] for i in range(0, len(stream), size)])
        timed = take_turns({"ours": ours, "floor": _Floor(pieces, len(stream))}, 3 if quick else 15)
        per_byte_s = statistics.median(timed["ours"].cpu)
        found[str(size)] = {
            "floor_over_ours": ratio(timed["floor"], timed["ours"]),
            "mb_per_s": 1e-6 / per_byte_s,
            "samples_per_s": ours.n_samples / len(stream) / per_byte_s,
            "floor_mb_per_s": 1e-6 / statistics.median(timed["floor"].cpu),
            "spread": spread(timed["ours"].cpu),
        }
    return {
        "rate_hz": int(RATE_HZ),
        "channels": N_AXES,
        "rows_per_frame": ROWS,
        "by_bytes_per_read": found,
        "line": _line(rounds=1 if quick else 5, for_s=0.5 if quick else 4.0),
    }


def _stream(seconds: int) -> bytes:
    """What the board sends in that time."""
    sender = board()
    return b"".join(sender.run(us) for us in range(0, seconds * 1_000_000, 10_000))


class _Ours:
    """A session that begins with the first of ``reads``."""

    def __init__(self, reads: Sequence[bytes]) -> None:
        self.n_samples = 0
        self._reads = reads
        self._n_bytes = sum(map(len, reads))
        bytes_per_s = 2.05 * N_AXES * float(RATE_HZ)
        self._steps_ns = [round(len(read) / bytes_per_s * 1e9) for read in reads]

    def __call__(self) -> float:
        session, mono_ns, n = Session(), NS_PER_S, 0
        for read, step_ns in zip(self._reads, self._steps_ns, strict=True):
            mono_ns += step_ns
            for item in session.receive(read, mono_ns, START_NS + mono_ns):
                if isinstance(item, Rows):
                    n += item.counts.size
        assert n
        assert not session.counters.n_lost_rows
        assert not session.counters.damage
        self.n_samples = n
        return self._n_bytes


class _Floor:
    def __init__(self, pieces: Sequence[bytes], n_bytes: int) -> None:
        self._pieces, self._n_bytes = pieces, n_bytes

    def __call__(self) -> float:
        decode, crc32 = cobs.decode, zlib.crc32
        for piece in self._pieces:
            crc32(decode(piece))
        return self._n_bytes


def _line(*, rounds: int, for_s: float) -> dict[str, object]:
    """Shares of a core, in turn: the median over the rounds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    ours: list[_Cost] = []
    bare: list[_Cost] = []
    with tempfile.TemporaryDirectory() as name, _child(Path(name) / "board") as link:
        for _ in range(rounds):
            ours.append(asyncio.run(_source(link, for_s)))
            bare.append(_bare(link, for_s))
    return {
        "cpu_share": statistics.median(c.cpu_share for c in ours),
        "bare_cpu_share": statistics.median(c.cpu_share for c in bare),
        "cpu_shares": [c.cpu_share for c in ours],
        "bytes_per_read": statistics.median(c.bytes_per_read for c in ours),
        "bare_bytes_per_read": statistics.median(c.bytes_per_read for c in bare),
        "samples": sum(c.n for c in ours),
    }


class _Cost:
    """CPU time of this process from the making of it to :meth:`end`."""

    def __init__(self) -> None:
        self.n = 0  # samples
        self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()
        self.cpu_share = self.bytes_per_read = 0.0

    def end(self, n_bytes: int, n_reads: int) -> None:
        self.cpu_share = (time.process_time() - self._began_cpu_s) / (time.perf_counter() - self._began_s)
        self.bytes_per_read = n_bytes / max(1, n_reads)


class _Source(SerialBoard):
    """The source itself, which also counts reads."""

    n_reads = 0

    def received(self, data: bytes, mono_ns: int, utc_ns: int) -> None:
        self.n_reads += 1
        super().received(data, mono_ns, utc_ns)


async def _source(link: Path, for_s: float) -> _Cost:
    channels = tuple(Channel(name=axis, unit="m/s2") for axis in "xyz")
    device = Device(device_id="b", machine="b", rate_hz=RATE_HZ, channels=channels)
    source = _Source(SerialSource(device="b", port=str(link), baud=2_000_000), {"b": device})
    taken = [0]

    def emit(block: SampleBlock) -> bool:
        taken[0] += block.n_samples
        return True

    running = asyncio.create_task(source.run(emit))
    try:
        await _until_it_comes(taken)
        await asyncio.sleep(1.0)  # the burst of questions about its time is over
        before, n_bytes, n_reads = taken[0], source.counters.n_bytes, source.n_reads
        cost = _Cost()
        await asyncio.sleep(for_s)
        cost.end(source.counters.n_bytes - n_bytes, source.n_reads - n_reads)
        cost.n = taken[0] - before
        drops = source.counters.sample_drops
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    if drops:
        raise DemoError(f"the line lost samples: {dict(drops)}")
    return cost


async def _until_it_comes(taken: list[int]) -> None:
    for _ in range(round(PATIENCE_S / 0.01)):
        if taken[0]:
            return
        await asyncio.sleep(0.01)
    raise DemoError(f"no row came within {PATIENCE_S:.0f} s")


def _bare(link: Path, for_s: float) -> _Cost:
    """Reads what is there, and forgets it."""
    fd = os.open(link, os.O_RDONLY | os.O_NOCTTY)
    try:
        n_bytes = n_reads = 0
        cost, end_s = _Cost(), time.perf_counter() + for_s
        while time.perf_counter() < end_s:
            if not select.select([fd], [], [], 0.1)[0]:
                continue
            n_bytes += len(os.read(fd, 4096))
            n_reads += 1
        cost.end(n_bytes, n_reads)
        return cost
    finally:
        os.close(fd)


@contextlib.contextmanager
def _child(link: Path) -> Iterator[Path]:
    """The board, a process of its own."""
    command = [sys.executable, "-m", "benchmarks.line_board", str(link)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as child:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not link.is_symlink():
                if child.poll() is not None or time.monotonic() > deadline:
                    raise DemoError("the board did not start")
                time.sleep(0.01)
            yield link
        finally:
            child.kill()
