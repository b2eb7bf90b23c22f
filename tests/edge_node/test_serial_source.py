"""Boards and lines of text on a pty, read as the gateway reads them."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serial.tools import list_ports
from structlog.testing import capture_logs

from edge_node.config_schema import SerialSource
from edge_node.sources import SOURCES, Source
from edge_node.sources import serial as serial_source
from firmware_bridge import framing, transport
from firmware_bridge.board import Board
from firmware_bridge.protocol import BoardChannel, Counts, EventSeverity, Samples
from firmware_bridge.protocol import encode as encode_message
from firmware_bridge.simulator import Faults, Simulator
from models.recording import read_log
from models.signal import Channel, Clock, Device, DropReason, Mode, SampleBlock
from tests.brokers import free_port, wait_for
from tests.edge_node.daemons import metrics, summed
from tests.edge_node.daemons import running as daemon_running
from tests.edge_node.running_source import Collected, running
from tests.firmware_bridge.ptys import Cable

BOARD_CHANNELS = (BoardChannel("ax", "m/s2", 0.01), BoardChannel("ay", "m/s2", 0.02, 1.0))
PRESS = Device(
    device_id="press-4",
    machine="press",
    rate_hz=Fraction(1000),
    channels=(Channel(name="x", unit="m/s2"), Channel(name="y", unit="g", scale=0.5, offset=3.0, origin=2.0)),
)
OVEN = Device(
    device_id="oven",
    machine="oven",
    mode=Mode.IRREGULAR,
    channels=(Channel(name="temp"), Channel(name="hum")),
)
DEVICES = {d.device_id: d for d in (PRESS, OVEN)}
NAMES = {"x": "ax", "y": "ay"}


def ramp(index: NDArray[np.int64]) -> Counts:
    counts: NDArray[np.int32] = np.stack([index, -index], axis=1).astype("<i4")
    return counts


def build(link: Path | None, device: str = "press-4", **more: Any) -> Source:
    port = None if link is None else str(link)
    config = SerialSource(device=device, port=port, reconnect_min_s=0.02, reconnect_max_s=0.1, **more)
    return SOURCES["serial"](config, DEVICES)


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    plugged = Cable(tmp_path / "board")
    yield plugged
    plugged.unplug()


class Playing:
    """A board at the end of ``cable``, on a thread of its own."""

    def __init__(self, cable: Cable, **more: Any) -> None:
        self.cable = cable
        self.board = self.new(**more)
        self.paused = threading.Event()
        self._began_ns = time.monotonic_ns()
        self._stopping = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def new(self, *, rate_hz: Fraction = Fraction(1000), rows: int = 20, **more: Any) -> Board:
        return Board(BOARD_CHANNELS, rate_hz, ramp, rows=rows, **more)

    def reboot(self, **more: Any) -> int:
        """How many rows the boot before had."""
        with self._lock:
            n = self.board.index
            self.board, self._began_ns = self.new(**more), time.monotonic_ns()
        return n

    def do(self, what: Callable[[], Any]) -> Any:
        """``what``, while the board is not running."""
        with self._lock:
            return what()

    def event(self, text: str, severity: EventSeverity) -> None:
        self.do(lambda: self.cable.send(self.board.event(text, self._us, code=7, severity=severity)))

    def stop(self) -> int:
        """How many rows were sent."""
        self._stopping = True
        self._thread.join(20)
        return self.board.index

    @property
    def _us(self) -> int:
        return (time.monotonic_ns() - self._began_ns) // 1000

    def _run(self) -> None:
        while not self._stopping:
            if self.cable.master < 0 or not self.cable.waits(0.005):
                time.sleep(0.001)  # for those who wait for the lock
            with self._lock:
                if self.cable.master >= 0:
                    out = self.board.run(self._us)
                    if heard := self.cable.receive():
                        out += self.board.receive(heard, self._us)
                    self.cable.send(out)


@contextmanager
def playing(cable: Cable, **more: Any) -> Iterator[Playing]:
    board = Playing(cable, **more)
    try:
        yield board
    finally:
        board.stop()


def numbers(blocks: list[SampleBlock]) -> list[int]:
    """Row numbers of a ramp whose first channel is 0.01 of them."""
    return [round(float(v) * 100) for block in blocks for v in block.values[:, 0]]


def test_rows_come_in_si_units_with_their_time(cable: Cable) -> None:
    source = build(cable.link, channels=NAMES)
    with playing(cable), running(source) as got:
        wait_for(lambda: got.n_values() > 4000, "rows")
        reach = source.reach
    first, rows = got.blocks[0], np.concatenate([block.values for block in got.blocks])
    assert (first.device_id, first.channels, first.rate_hz) == ("press-4", ("x", "y"), Fraction(1000))
    n = np.arange(len(rows)) + numbers(got.blocks)[0]
    assert np.allclose(rows[:, 0], 0.01 * n)
    assert np.allclose(rows[:, 1], (-0.02 * n + 1.0) * 0.5 + 3.0 - 2.0)
    late = [b for b in got.blocks if b.clock is Clock.SYNCED]
    assert len(late) > 20
    assert all(abs(b.arrival_ns - (b.start_ns or 0)) < 2e9 for b in late)
    spacing = np.diff([b.start_ns or 0 for b in late]) / np.diff([numbers([b])[0] for b in late])
    assert np.abs(spacing - 1e6).max() < 0.06e6
    assert (reach.connected, reach.n_connects, reach.last_error) == (True, 1, None)
    counters = source.counters
    assert counters.n_samples == got.n_values()
    assert counters.n_blocks == len(got.blocks)
    assert not counters.sample_drops
    assert set(counters.message_drops) <= {DropReason.CUT_IN}


def test_one_channel_of_a_board_may_be_taken(cable: Cable) -> None:
    with capture_logs() as logs, playing(cable), running(build(cable.link, channels={"y": "ay"})) as got:
        wait_for(lambda: got.n_values() > 100, "rows")
    assert {b.channels for b in got.blocks} == {("y",)}
    assert any("not used of what the board sends: ax" in entry["event"] for entry in logs)


@pytest.mark.parametrize(
    ("device", "names", "expected"),
    [
        ("press-4", {}, 'board SIM-0001 has no channel "x": it has ax, ay'),
        (
            "press-4",
            {"x": "ax", "y": "axx"},
            'board SIM-0001 has no channel "axx": it has ax, ay; did you mean "ax"?',
        ),
        ("press-4", NAMES, "board SIM-0001 samples at 500 Hz, the configuration says rate_hz = 1000"),
    ],
)
def test_a_board_that_is_not_what_is_configured_says_why_and_is_counted(
    cable: Cable, device: str, names: dict[str, str], expected: str
) -> None:
    rate, reason = Fraction(1000), DropReason.UNKNOWN_CHANNEL
    if "Hz" in expected:
        rate, reason = Fraction(500), DropReason.WRONG_RATE
    source = build(cable.link, device, channels=names)
    with capture_logs() as logs, playing(cable, rate_hz=rate) as board, running(source) as got:
        wait_for(lambda: source.counters.sample_drops[reason] > 200, "refused rows")
        board.do(lambda: cable.send(board.board._frame(board.board._hello(board._us)) * 5))
        time.sleep(0.3)
        reach = source.reach
    assert not got.blocks
    assert set(source.counters.sample_drops) == {reason}
    assert not reach.connected
    assert reach.last_error is not None
    assert expected in reach.last_error
    assert len([entry for entry in logs if expected in entry["event"]]) == 1  # however often it says Hello


def test_a_plug_pulled_in_mid_frame_costs_what_passed_meanwhile_and_is_counted(cable: Cable) -> None:
    source = build(cable.link, channels=NAMES)
    with playing(cable) as board, running(source) as got:
        wait_for(lambda: got.n_values() > 1000, "rows")

        def pull() -> None:
            frame = framing.encode(encode_message(Samples(1, ramp(np.arange(20)), 0, 0), 1))
            cable.send(frame[:50])
            time.sleep(0.1)
            cable.unplug()

        for _ in range(3):
            board.do(pull)
            wait_for(lambda: not source.reach.connected, "the loss")
            time.sleep(0.2)
            board.do(lambda: (board.board.run(board._us), cable.plug()))
            n = got.n_values()
            wait_for(lambda n=n: got.n_values() > n + 1000, "rows again")
        board.stop()
        wait_for(lambda: numbers(got.blocks)[-1] == board.board.index - 1, "the last rows")
    seen = numbers(got.blocks)
    assert seen == sorted(set(seen))
    counters = source.counters
    lost = counters.sample_drops[DropReason.LOST] // 2
    assert lost >= 3 * 150
    assert len(seen) + lost == seen[-1] - seen[0] + 1
    assert counters.message_drops[DropReason.SHORT] == 3
    assert source.reach.n_connects == 4


def test_a_reboot_goes_on_with_new_numbers(cable: Cable) -> None:
    source = build(cable.link, channels=NAMES)
    with capture_logs() as logs, playing(cable, config_id=1) as board, running(source) as got:
        wait_for(lambda: got.n_values() > 2000, "rows")
        board.reboot(config_id=2)
        wait_for(lambda: got.n_values() > 6000, "rows again")
    seen = numbers(got.blocks)
    again = seen.index(0, 1) if seen[0] == 0 else seen.index(0)
    assert seen[again:] == list(range(len(seen) - again))
    assert not source.counters.sample_drops[DropReason.LOST]
    assert any("clock began anew" in entry["event"] for entry in logs)
    starts = [b.start_ns for b in got.blocks]
    assert starts == sorted(starts, key=lambda s: s or 0)


def test_what_a_board_says_is_logged_as_loud_as_it_is(cable: Cable) -> None:
    with capture_logs() as logs, playing(cable) as board, running(build(cable.link, channels=NAMES)) as got:
        wait_for(lambda: got.blocks, "rows")
        for severity in EventSeverity:
            board.event(f"as {severity.name}", severity)
        wait_for(lambda: any("as ERROR" in entry["event"] for entry in logs), "the events")
    said = {e["event"]: (e["log_level"], e["code"]) for e in logs if "the board says" in e["event"]}
    assert said == {f"the board says: as {s.name}": (s.name.lower(), 7) for s in EventSeverity}


def test_another_baud_rate_is_garbage_that_is_counted_and_told(
    cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_source, "HELLO_WAIT_NS", 500_000_000)
    source = build(cable.link)
    rng = np.random.default_rng(1)
    with capture_logs() as logs, running(source) as got:
        wait_for(lambda: source.reach.connected, "the line")
        for _ in range(40):
            cable.send(rng.choice(np.array([0, 0x80, 0xF8, 0xFE], np.uint8), 500).tobytes())
            time.sleep(0.02)
        wait_for(lambda: not source.reach.connected, "the trouble")
        reach = source.reach
    assert not got.blocks
    assert source.counters.message_drops.total() > 100
    assert reach.last_error is not None
    assert re.fullmatch(
        r"no Hello within \d+ s, in \d+ bytes: another baud rate, a bad cable, .*", reach.last_error
    )
    assert any("damaged frames" in entry["event"] and "baud" in entry["event"] for entry in logs)
    assert sum("no Hello" in entry["event"] for entry in logs) == 1


def test_a_silent_line_says_so(cable: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_source, "HELLO_WAIT_NS", 200_000_000)
    source = build(cable.link, channels=NAMES)
    with running(source) as got:
        wait_for(lambda: source.reach.last_error, "the trouble")
        assert "in 0 bytes: nothing is connected, or it does not send" in (source.reach.last_error or "")
        with playing(cable):
            wait_for(lambda: got.blocks, "rows")
            assert source.reach.connected
            assert source.reach.last_error is None


def test_a_port_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    source = build(tmp_path / "board", channels=NAMES)
    with capture_logs() as logs, running(source) as got:
        wait_for(lambda: source.reach.last_error, "the trouble")
        assert "there is no such port" in (source.reach.last_error or "")
        assert not source.reach.connected
        cable = Cable(tmp_path / "board")
        try:
            with playing(cable):
                wait_for(lambda: got.blocks, "rows")
        finally:
            cable.unplug()
    assert sum("no such port" in entry["event"] for entry in logs) == 1


def test_the_board_that_is_looked_for_is_found_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One says another serial number, one says nothing."""
    monkeypatch.setattr(serial_source, "HELLO_WAIT_NS", 500_000_000)
    cables = [Cable(tmp_path / f"b{i}") for i in range(3)]
    monkeypatch.setattr(
        list_ports, "comports", lambda: [SimpleNamespace(device=cable.device) for cable in cables]
    )
    source = build(None, board="C-3", channels=NAMES)
    with (
        capture_logs() as logs,
        playing(cables[0], serial="A-1"),
        playing(cables[2], serial="C-3"),
        running(source) as got,
    ):
        wait_for(lambda: got.blocks, "rows", 40)
        assert source.reach.connected
    for cable in cables:
        cable.unplug()
    said = [entry["event"] for entry in logs]
    assert any("this is board A-1, board = 'C-3' is looked for" in text for text in said)
    assert any("no Hello within" in text and "board = 'C-3' is looked for" in text for text in said)
    assert source.counters.sample_drops.keys() <= {DropReason.UNKNOWN_DEVICE}


def test_rows_of_another_board_than_is_looked_for_are_counted_as_its_own(cable: Cable) -> None:
    """Those that came with its Hello, before the port is left."""
    source = build(cable.link, board="C-3", channels=NAMES)
    assert isinstance(source, serial_source.SerialBoard)
    other = Board(BOARD_CHANNELS, Fraction(1000), ramp, rows=20, serial="A-1")
    stream = other.run(100_000)
    other.skip(1)
    stream += other.run(200_000)
    taken: list[SampleBlock] = []
    source._emit = lambda block, /, *, kept=False: taken.append(block) is None
    with capture_logs() as logs:
        source.received(stream, time.monotonic_ns(), time.time_ns())
    assert not taken
    assert source.rejects() == "this is board A-1, board = 'C-3' is looked for"
    assert source.counters.sample_drops == {
        DropReason.UNKNOWN_DEVICE: (other.index - 20) * len(BOARD_CHANNELS)
    }
    assert sum(entry.get("reason") == "unknown_device" for entry in logs) == 1


def test_questions_that_a_board_does_not_take_are_counted_and_told(
    cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_UNSENT", 0)
    source = build(cable.link, channels=NAMES)
    with capture_logs() as logs, running(source):
        wait_for(lambda: source.counters.n_unsent > 3, "questions that are not sent")
    assert sum("the board does not take" in entry["event"] for entry in logs) == 1


def test_a_full_queue_is_counted(cable: Cable) -> None:
    source = build(cable.link, channels=NAMES)
    collected = Collected(capacity=3)
    with capture_logs() as logs, playing(cable), running(source, collected):
        wait_for(lambda: source.counters.sample_drops[DropReason.QUEUE_FULL] > 500, "dropped rows")
    counters = source.counters
    assert counters.n_samples == collected.n_values()
    assert sum("the gateway cannot keep up" in entry["event"] for entry in logs) == 1


# Lines of text


def lines_of(cable: Cable, device: str = "oven", **more: Any) -> Source:
    return build(cable.link, device, protocol="lines", **more)


def sent(cable: Cable, source: Source, *chunks: bytes) -> list[SampleBlock]:
    """What the source makes of ``chunks``, each read by itself, after the end of a line that it joined late."""
    with running(source) as got:
        wait_for(lambda: source.reach.connected, "the line")
        n = 0
        for chunk in (b"3.5,1\n", *chunks):
            cable.send(chunk)
            n += len(chunk)
            wait_for(lambda n=n: source.counters.n_bytes == n, "what was sent")
    return got.blocks


def values(blocks: list[SampleBlock]) -> list[list[float]]:
    return [row for block in blocks for row in np.round(block.values.astype(float), 3).tolist()]


@pytest.mark.parametrize(
    ("more", "chunks"),
    [
        ({"format": "csv"}, (b"21.5,40\n22.5,", b"41\r\n\n23.5,42\n")),
        (
            {"format": "csv", "separator": ";", "columns": ("", "hum", "temp")},
            (b"a;40;21.5\nb;41;22.5\nc;42;23.5\n",),
        ),
        (
            {"format": "json"},
            (b'{"temp": 21.5, "hum": 40}\n{"temp": 22.5,', b' "hum": 41}\n{"temp": 23.5, "hum": 42}\n'),
        ),
        (
            {"format": "influx", "measurement": "env"},
            (b"env temp=21.5,hum=40\nother temp=1,hum=2\nenv,a=b temp=22.5,hum=41\nenv temp=23.5,hum=42\n",),
        ),
    ],
)
def test_lines_of_each_format(cable: Cable, more: dict[str, Any], chunks: tuple[bytes, ...]) -> None:
    source = lines_of(cable, **more)
    blocks = sent(cable, source, *chunks)
    assert values(blocks) == [[21.5, 40], [22.5, 41], [23.5, 42]]
    assert {b.clock for b in blocks} == {Clock.ARRIVAL}
    assert dict(source.counters.message_drops) == {DropReason.CUT_IN: 1}
    assert source.counters.n_samples == 6


def test_bare_numbers_of_one_channel(cable: Cable) -> None:
    source = lines_of(cable, format="number", channels={"temp": "temp"})
    blocks = sent(cable, source, b"21.5\r\n22.5\r\n")
    assert values(blocks) == [[21.5], [22.5]]
    assert {b.channels for b in blocks} == {("temp",)}


def test_lines_with_a_time_of_their_own(cable: Cable) -> None:
    source = lines_of(cable, format="csv", time_key="t", time_unit="s", columns=("t", "temp", "hum"))
    [block] = sent(cable, source, b"1700000000,21.5,40\n1700000001.5,22.5,41\n")
    assert block.times().tolist() == [1_700_000_000_000_000_000, 1_700_000_001_500_000_000]
    assert block.clock is Clock.DEVICE


def test_rows_of_a_continuous_device_that_come_at_once_end_on_arrival(cable: Cable) -> None:
    [block] = sent(cable, lines_of(cable, "press-4", format="csv"), b"1,2\n3,4\n5,6\n")
    assert block.rate_hz == 1000
    assert block.start_ns == block.arrival_ns - 2_000_000


def test_bad_lines_are_counted_and_the_others_read(cable: Cable) -> None:
    source = lines_of(cable, format="csv", max_payload_bytes=64)
    with capture_logs() as logs:
        blocks = sent(
            cable,
            source,
            b"21.5,40\nhot,40\n1,2,3\n\xff\xfe\xfd\n" + b"9" * 100 + b"\n22.5,41\n",
            b"23.5,42\n7",
        )
    assert values(blocks) == [[21.5, 40], [22.5, 41], [23.5, 42]]
    drops = source.counters.message_drops
    assert drops[DropReason.MALFORMED] == 3
    assert drops[DropReason.OVERSIZE] == 1
    assert drops[DropReason.CUT_IN] == 1
    said = " ".join(entry["event"] for entry in logs)
    assert "lines without an end: another baud rate" in said


@pytest.mark.parametrize(
    ("form", "read", "expected"),
    [
        ("csv", b"1,2\n1,2\n1,2,3\n1,2\n", "line '1,2,3': 3 columns, expected 2: temp,hum"),
        ("csv", b"1,2,3\n", "line '1,2,3': 3 columns, expected 2: temp,hum"),
        ("csv", b"1,2\n" + b"7," * 90 + b"7\n", f"line '{'7,' * 28}...: 91 columns, expected 2: temp,hum"),
        ("influx", b"m temp=1,hum=2\nm other=1\n", "line 'm other=1': no field of temp, hum among 'other'"),
        ("json", b'{"temp": 1}\n{"other": 1}\n', "line '{\"other\": 1}': no key of temp, hum among 'other'"),
        ("json", "[\u202e\n".encode(), "line '[\\u202e': not JSON: "),
        (
            "csv",
            b"1,2\n\xfa\x00\n",
            "lines that are no text, such as b'\\xfa\\x00': another baud rate, a bad cable",
        ),
    ],
)
def test_a_line_that_is_refused_is_shown(cable: Cable, form: str, read: bytes, expected: str) -> None:
    with capture_logs() as logs:
        sent(cable, lines_of(cable, format=form), read)
    [said] = [entry["event"] for entry in logs if entry.get("reason") == DropReason.MALFORMED]
    assert said.startswith(expected)


def test_a_plug_pulled_in_mid_line_makes_no_number_of_two_halves(cable: Cable) -> None:
    source = lines_of(cable, format="csv")
    with running(source) as got:
        wait_for(lambda: source.reach.connected, "the line")
        cable.send(b"\n21.5,40\n22.")
        wait_for(lambda: source.counters.n_bytes == 12, "what was sent")
        cable.plug()
        wait_for(lambda: source.reach.n_connects == 2 and source.reach.connected, "the line again")
        cable.send(b"5,41\n23.5,42\n")
        wait_for(lambda: len(values(got.blocks)) == 2, "both whole rows")
    assert values(got.blocks) == [[21.5, 40], [23.5, 42]]
    assert dict(source.counters.message_drops) == {DropReason.SHORT: 1, DropReason.CUT_IN: 1}


# The real daemon


def daemon_config(folder: Path, port: int, source: str, rate_hz: int = 1000) -> Path:
    path = folder / "gateway.toml"
    path.write_text(
        f"""
[gateway]
name = "g1"
metrics_port = {port}
[[source]]
type = "serial"
device = "press-4"
reconnect_min_s = 0.05
reconnect_max_s = 0.2
{source}
[[device]]
id = "press-4"
rate_hz = {rate_hz}
channels = ["ax", "ay"]
window = 256
"""
    )
    return path


@contextmanager
def simulated(link: Path, **more: Any) -> Iterator[Simulator]:
    simulator = Simulator(link, channels=BOARD_CHANNELS, signal=ramp, **more)
    thread = threading.Thread(target=simulator.run)
    thread.start()
    try:
        yield simulator
    finally:
        simulator.stop()
        thread.join(20)


def balance(now: dict[str, float]) -> None:
    """samples in = windowed + dropped + queued."""
    assert summed(now, "samples_in_total") == summed(now, "samples_windowed_total") + summed(
        now, "samples_dropped_total"
    ) + summed(now, "samples_queued")


def reason(now: dict[str, float], name: str) -> float:
    return now.get(f'linewatch_samples_dropped_total{{reason="{name}"}}', 0.0)


def test_the_daemon_reads_a_board_with_faults_and_its_counters_balance(tmp_path: Path) -> None:
    """Noise, lost frames and a pulled plug: every row between the first and the last is there or counted as lost."""
    link, log, port = tmp_path / "board", tmp_path / "run.parquet", free_port()
    path = daemon_config(tmp_path, port, f'port = "{link}"')
    faults = Faults(noise_per_s=2, drop_per_s=2, disconnect_per_min=20, away_s=0.3, drift_ppm=80)
    with daemon_running(path, "--record", str(log)) as daemon:
        with simulated(link, faults=faults, rows=20, seed=3, first_us=2**32 - 5_000_000) as simulator:
            wait_for(lambda: summed(metrics(port), "samples_in_total") > 24_000, "rows", 60)
            wait_for(lambda: simulator.counters.n_disconnects >= 1, "a pulled plug", 30)
            n = summed(metrics(port), "samples_in_total")
            wait_for(lambda: summed(metrics(port), "samples_in_total") > n + 4000, "rows after it", 30)
        wait_for(
            lambda: not metrics(port)['linewatch_connected{connection="source serial"}'],
            "the end of the line",
        )
        now = metrics(port)
        balance(now)
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=20)
        assert daemon.returncode == 0
    assert "Traceback" not in said
    blocks = [item for item in read_log([log]) if isinstance(item, SampleBlock)]
    seen = numbers(blocks)
    assert seen == sorted(set(seen))
    assert len(seen) + reason(now, "lost") / 2 == seen[-1] - seen[0] + 1
    assert reason(now, "lost") > 0
    assert summed(now, "samples_in_total") == 2 * (seen[-1] - seen[0] + 1)
    assert np.allclose([v for b in blocks for v in b.values[:, 1]], [-0.02 * i + 1 for i in seen], atol=1e-3)
    damaged = summed(now, "source_messages_dropped_total")
    assert 0 < damaged < 100
    assert now['linewatch_source_frames_unsent_total{source="serial"}'] == 0
    assert summed(now, "samples_windowed_total") > 0.7 * summed(now, "samples_in_total")


def test_the_daemon_reads_lines(tmp_path: Path) -> None:
    cable, port = Cable(tmp_path / "board"), free_port()
    path = daemon_config(tmp_path, port, f'port = "{cable.link}"\nprotocol = "lines"\nformat = "csv"')
    try:
        with daemon_running(path) as daemon:
            wait_for(lambda: metrics(port).get('linewatch_connected{connection="source serial"}'), "the line")
            cable.send(b"\n")
            for i in range(50):
                cable.send(b"".join(b"%d,%d\r\n" % (i * 20 + k, -k) for k in range(20)))
                time.sleep(0.02)
            cable.send(b"no,number\n")
            refused = 'linewatch_source_messages_dropped_total{reason="malformed",source="serial"}'
            wait_for(lambda: metrics(port).get(refused) == 1, "the bad line")
            wait_for(lambda: summed(metrics(port), "samples_queued") == 0, "an empty queue")
            now = metrics(port)
            assert summed(now, "source_messages_total") == 1001
            assert summed(now, "samples_in_total") == 2000
            balance(now)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0
    finally:
        cable.unplug()


def test_the_daemon_says_in_one_line_what_a_missing_port_is(tmp_path: Path) -> None:
    port = free_port()
    path = daemon_config(tmp_path, port, f'port = "{tmp_path}/none"')
    with daemon_running(path) as daemon:
        wait_for(lambda: 'linewatch_connected{connection="source serial"}' in metrics(port), "metrics")
        time.sleep(1.0)
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=20)
    assert "Traceback" not in said
    told = [json.loads(line) for line in said.splitlines() if "no such port" in line]
    assert len(told) == 1
    assert told[0]["event"] == (
        f"{tmp_path}/none: there is no such port; `firmware-bridge list` shows those that are there"
    )
