"""Modbus slaves, over TCP and on a pty, read as the gateway reads them."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from edge_node.config import load_config
from edge_node.config_schema import ModbusRegister, ModbusSource
from edge_node.figures import connections
from edge_node.sources import SOURCES, Source
from models.recording import read_log
from models.signal import Channel, Clock, Device, DropReason, Mode, SampleBlock
from tests.brokers import HOST, Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import metrics, summed
from tests.edge_node.daemons import running as daemon_running
from tests.edge_node.running_source import Collected, running
from tests.firmware_bridge.closing_gateway import closing_gateway
from tests.firmware_bridge.modbus_slaves import Slaves, rtu, tcp

METER = Device(
    device_id="meter",
    machine="press",
    mode=Mode.IRREGULAR,
    channels=(
        Channel(name="voltage", unit="V"),
        Channel(name="power", unit="kW", scale=0.001, offset=1.0, origin=2.0),
        Channel(name="energy", unit="W"),
    ),
)
PUMP = Device(
    device_id="pump",
    machine="pump",
    rate_hz=Fraction(20),
    channels=(Channel(name="on"), Channel(name="pressure", unit="Pa", scale=100.0)),
)
DEVICES = {d.device_id: d for d in (METER, PUMP)}
WORDS = {1: {0: [2301], 10: [0, 5000], 20: [0, 0, 0, 7]}, 2: {0: [1013]}, 3: {0: [1]}}
VOLTAGE = ModbusRegister(device="meter", channel="voltage", slave=1, address=0, scale=0.1)
POWER = ModbusRegister(device="meter", channel="power", slave=1, address=10, type="int32")
ENERGY = ModbusRegister(device="meter", channel="energy", slave=1, address=20, type="uint64", counter=True)
ON = ModbusRegister(device="pump", channel="on", slave=2, address=2, function=2)
PRESSURE = ModbusRegister(device="pump", channel="pressure", slave=2, address=0, function=4)


def build(slaves: Slaves, *registers: ModbusRegister, **more: Any) -> Source:
    where = {"host": HOST, "tcp_port": slaves.port, "poll_s": 0.05, "timeout_s": 0.5}
    return SOURCES["modbus"](ModbusSource(register=registers, **{**where, **more}), DEVICES)


@pytest.fixture
def slaves() -> Iterator[Slaves]:
    with tcp(WORDS) as started:
        yield started


def of(got: Collected, device_id: str) -> list[SampleBlock]:
    return [block for block in got.blocks if block.device_id == device_id]


def said(logs: Any, text: str) -> list[str]:
    return [entry["event"] for entry in logs if text in entry["event"]]


def test_rows_are_of_their_devices_in_si_units(slaves: Slaves) -> None:
    """Whatever the order of the registers in the configuration and on the wire is."""
    source = build(slaves, PRESSURE, POWER, ON, VOLTAGE)
    with running(source) as got:
        wait_for(lambda: len(of(got, "pump")) >= 5, "rows")
        reach, whole = source.reach, Collected()
        whole.blocks = list(got.blocks)  # to be stopped cuts a round short
    for block in of(whole, "meter"):
        row = dict(zip(block.channels, block.values[0].tolist(), strict=True))
        assert row == pytest.approx({"voltage": 230.1, "power": 5000 * 0.001 + 1.0 - 2.0})
        assert block.time_ns is not None
    for block in of(whole, "pump"):
        row = dict(zip(block.channels, block.values[0].tolist(), strict=True))
        assert row == pytest.approx({"on": 1, "pressure": 101_400.0})
        assert block.rate_hz == 20
    for device in DEVICES:
        times = [int(block.times()[0]) for block in of(got, device)]
        assert times == sorted(set(times))
    for block in got.blocks:
        assert (block.n, block.clock, block.values.dtype) == (1, Clock.ARRIVAL, np.float32)
        assert 0 <= block.arrival_ns - int(block.times()[0]) < 2e9
    assert (reach.connected, reach.n_connects, reach.last_error) == (True, 1, None)
    counters = source.counters
    assert (counters.n_blocks, counters.n_samples) == (len(got.blocks), got.n_values())
    assert counters.n_messages >= len(of(got, "meter")) + len(of(got, "pump")) - 1
    assert not counters.message_drops
    assert not counters.sample_drops


def test_slaves_on_a_serial_line(tmp_path: Path) -> None:
    with rtu(tmp_path, WORDS) as (_, line):
        path = str(line.gateway.link)
        config = ModbusSource(port=path, parity="N", poll_s=0.05, register=(VOLTAGE, PRESSURE))
        with running(SOURCES["modbus"](config, DEVICES)) as got:
            wait_for(lambda: len(of(got, "pump")) >= 3, "rows")
    assert {b.channels: float(b.values[0, 0]) for b in got.blocks} == {
        ("voltage",): pytest.approx(230.1),
        ("pressure",): 101_400.0,
    }


def test_a_counter_comes_with_its_second_reading(slaves: Slaves) -> None:
    source = build(slaves, VOLTAGE, ENERGY)
    with running(source) as got:
        wait_for(lambda: len(got.blocks) >= 3, "rows")
        first, *others = got.blocks
    assert first.channels == ("voltage",)
    assert {b.channels for b in others} == {("voltage", "energy")}
    assert {float(b.values[0, 1]) for b in others} == {0.0}
    assert not source.counters.message_drops


def test_what_is_no_number_in_float32_is_missing(slaves: Slaves) -> None:
    slaves.set(1, 10, [0x7FC0, 0])
    nan = ModbusRegister(device="meter", channel="power", slave=1, address=10, type="float32")
    with running(build(slaves, VOLTAGE, nan)) as got:
        wait_for(lambda: got.blocks, "a row")
    assert np.isnan(got.blocks[0].values).tolist() == [[False, True]]


def test_a_silent_slave_is_named_and_counted_and_the_others_go_on(slaves: Slaves) -> None:
    slaves.silent.add(2)
    source = build(slaves, VOLTAGE, PRESSURE, timeout_s=0.1)
    silence = "slave 2, function 4, address 0: no answer within 0.1 s"
    with capture_logs() as logs, running(source) as got:
        wait_for(lambda: source.counters.message_drops[DropReason.NO_ANSWER] >= 3, "silence")
        wait_for(lambda: len(got.blocks) >= 10, "rows of the other")
        reach = source.reach
        assert connections({"modbus": reach})["source modbus"].error == silence
        assert reach.connected
        assert slaves.asked[2] - source.counters.message_drops[DropReason.NO_ANSWER] in (0, 1)
        slaves.silent.clear()
        wait_for(lambda: of(got, "pump"), "rows of the one that returned")
        wait_for(lambda: source.reach.last_error is None, "the end of the trouble")
    assert said(logs, "no answer") == [silence]  # once, however often it was asked
    assert said(logs, "answers all again") == ["slave 2 answers all again"]
    assert dict(source.counters.message_drops).keys() == {DropReason.NO_ANSWER}


def test_where_all_are_silent_nothing_is_reached(slaves: Slaves) -> None:
    slaves.silent |= {1, 2}
    source = build(slaves, VOLTAGE, PRESSURE, timeout_s=0.05)
    with running(source):
        wait_for(lambda: not source.reach.connected, "silence")
        wait_for(lambda: "more of 2 slaves" in (source.reach.last_error or ""), "both")
        assert source.reach.last_error == (
            "slave 1, function 3, address 0: no answer within 0.05 s (and 1 more of 2 slaves)"
        )
        slaves.silent.clear()
        wait_for(lambda: source.reach.connected and source.reach.last_error is None, "answers")


def test_a_refused_address_is_told_and_the_slave_is_reached(slaves: Slaves) -> None:
    missing = ModbusRegister(device="meter", channel="power", slave=1, address=1)
    source = build(slaves, VOLTAGE, missing)
    with capture_logs() as logs, running(source) as got:
        wait_for(lambda: len(got.blocks) >= 5, "rows")
        reach = source.reach
    refused = "slave 1, function 3, address 1: refused: it has no such address"
    assert {b.channels for b in got.blocks} == {("voltage",)}
    assert (reach.connected, reach.last_error) == (True, refused)
    assert set(source.counters.message_drops) == {DropReason.REFUSED}
    assert len(said(logs, "refused")) == 2  # of both together, then of the one


def test_a_bus_that_is_lost_says_so_and_comes_back(slaves: Slaves) -> None:
    source = build(slaves, VOLTAGE)
    with capture_logs() as logs, running(source) as got:
        wait_for(lambda: got.blocks, "rows")
        slaves.stop()
        wait_for(lambda: "nothing listens there" in (source.reach.last_error or ""), "the loss")
        assert not source.reach.connected
        slaves.start()
        n = len(got.blocks)
        wait_for(lambda: len(got.blocks) > n, "rows again")
        reach = source.reach
    assert (reach.connected, reach.n_connects, reach.last_error) == (True, 2, None)
    assert not source.counters.message_drops
    assert len(said(logs, "nothing listens there")) == 1
    assert len(said(logs, "bus open")) == 1


def test_a_slave_that_makes_the_connection_drop_is_named_and_counted() -> None:
    with closing_gateway({1}) as (gateway, bus):
        where = {"host": bus.host, "tcp_port": bus.tcp_port, "poll_s": 0.05}
        source = SOURCES["modbus"](ModbusSource(register=(VOLTAGE, PRESSURE), **where), DEVICES)
        named = "slave 1, function 3, address 0: the connection is lost whenever it is asked"
        with capture_logs() as logs, running(source) as got:
            wait_for(lambda: len(of(got, "pump")) >= 5, "rows of the other")
            wait_for(lambda: source.reach.connected and source.reach.last_error == named, "its name")
            assert source.counters.message_drops.keys() == {DropReason.NO_ANSWER}
            gateway.closes_at = set()
            wait_for(lambda: of(got, "meter"), "rows of the one that is healthy again")
    assert said(logs, "whenever") == [named]


def test_a_full_queue_is_counted(slaves: Slaves) -> None:
    source = build(slaves, VOLTAGE, POWER)
    collected = Collected(capacity=3)
    with capture_logs() as logs, running(source, collected):
        wait_for(lambda: source.counters.sample_drops[DropReason.QUEUE_FULL] >= 6, "dropped rows")
    assert source.counters.n_samples == collected.n_values() == 6
    assert len(said(logs, "the gateway cannot keep up")) == 1


def test_a_source_whose_slave_hangs_ends_when_it_is_told_to(slaves: Slaves) -> None:
    slaves.silent.add(1)
    with running(build(slaves, VOLTAGE, timeout_s=60.0)):
        wait_for(lambda: slaves.asked[1], "the question")
    # `running` has waited for its end, and not for a minute


def test_the_example_of_the_docs_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "modbus.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "gateway.toml"
    path.write_text('[gateway]\nname = "g1"\n' + example, encoding="utf-8")
    (source,) = load_config(path).sources
    assert isinstance(source, ModbusSource)
    assert [r.channel for r in source.register] == ["power", "consumption", "door"]


# The real daemon


def daemon_config(folder: Path, metrics_port: int, slaves: Slaves, uplink: str = "") -> Path:
    path = folder / "gateway.toml"
    path.write_text(
        f"""
[gateway]
name = "g1"
site = "s1"
metrics_port = {metrics_port}
status_s = 0.5
{uplink}
[[source]]
type = "modbus"
host = "{HOST}"
tcp_port = {slaves.port}
poll_s = 0.05
timeout_s = 0.1
[[source.register]]
device = "meter"
channel = "voltage"
slave = 1
address = 0
scale = 0.1
[[source.register]]
device = "meter"
channel = "power"
slave = 1
address = 10
type = "int32"
[[source.register]]
device = "pump"
channel = "pressure"
slave = 3
address = 0
[[device]]
id = "meter"
interval_s = 0.05
channels = ["voltage", {{ name = "power", unit = "kW", scale = 0.001 }}]
window = 10
[[device]]
id = "pump"
rate_hz = 20
channels = ["pressure"]
window = 10
"""
    )
    return path


def test_the_daemon_reads_slaves_and_its_counters_balance(tmp_path: Path, slaves: Slaves) -> None:
    log, port = tmp_path / "run.jsonl", free_port()
    slaves.silent.add(3)
    with daemon_running(daemon_config(tmp_path, port, slaves), "--record", str(log)) as daemon:
        wait_for(lambda: summed(metrics(port), "windows_closed_total") >= 3, "windows", 60)
        slaves.stop()
        wait_for(
            lambda: metrics(port).get('linewatch_connected{connection="source modbus"}') == 0, "the loss", 30
        )
        slaves.start()
        n = summed(metrics(port), "samples_in_total")
        wait_for(lambda: summed(metrics(port), "samples_in_total") >= n + 20, "rows again", 60)
        now = metrics(port)
        silent = 'linewatch_source_messages_dropped_total{reason="no_answer",source="modbus"}'
        assert 1 <= now[silent] <= slaves.asked[3]
        assert summed(now, "samples_in_total") == summed(now, "samples_windowed_total") + summed(
            now, "samples_dropped_total"
        ) + summed(now, "samples_queued")
        daemon.send_signal(signal.SIGTERM)
        _, told = daemon.communicate(timeout=30)
        assert daemon.returncode == 0
    assert "Traceback" not in told
    lines = [json.loads(line) for line in told.splitlines()]
    assert sum("slave 3, function 3, address 0: no answer" in line["event"] for line in lines) == 1
    assert sum("nothing listens there" in line["event"] for line in lines) <= 1
    assert not [
        line for line in lines if "pymodbus" in str(line.get("logger", "")) or "retries" in line["event"]
    ]
    blocks = [item for item in read_log([log]) if isinstance(item, SampleBlock)]
    assert {b.device_id for b in blocks} == {"meter"}
    rows = np.concatenate([b.values for b in blocks])
    assert np.allclose(rows, [230.1, 5.0])


def test_the_status_names_the_slave_that_is_silent(tmp_path: Path, slaves: Slaves) -> None:
    slaves.silent.add(3)
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        uplink = f'[uplink]\nhost = "127.0.0.1"\nport = {mosquitto.port}\n'

        def connection() -> dict[str, Any] | None:
            states = [json.loads(m.payload) for m in seen.messages if m.topic.endswith("/status")]
            found: dict[str, Any] | None = states[-1]["connections"].get("source modbus") if states else None
            return found if found and found["error"] else None

        with daemon_running(daemon_config(tmp_path, 0, slaves, uplink)) as daemon:
            named = wait_for(connection, "the slave's name in the status", 60)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(30) == 0
    assert named["connected"]
    assert named["error"] == "slave 3, function 3, address 0: no answer within 0.1 s"
