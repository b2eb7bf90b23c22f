"""``edge-node check --test`` on serial ports and Modbus buses: what comes, and what does not, in one line each."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edge_node import probing
from edge_node.config_schema import SerialSource
from edge_node.sources import Reach
from tests.brokers import wait_for
from tests.edge_node.daemons import edge_node as words
from tests.firmware_bridge.boards import simulated
from tests.firmware_bridge.modbus_slaves import tcp

CONFIG = """
[gateway]
name = "g"

[[source]]
type = "serial"
device = "press"
port = "{board}"
{reading}

[[source]]
type = "modbus"
host = "127.0.0.1"
tcp_port = {port}
poll_s = 0.1
timeout_s = 0.3
{registers}

[[device]]
id = "press"
rate_hz = 1000
channels = ["x", "y", "z"]
unit = "m/s2"
"""
REGISTER = """
[[source.register]]
device = "meter-{slave}"
channel = "voltage"
slave = {slave}
address = 0
"""
METER = '[[device]]\nid = "meter-{slave}"\ninterval_s = 1\nchannels = ["voltage"]\n'


def config(folder: Path, board: Path, port: int, slaves: tuple[int, ...], reading: str = "") -> Path:
    path = folder / "gateway.toml"
    registers = "".join(REGISTER.format(slave=slave) for slave in slaves)
    meters = "".join(METER.format(slave=slave) for slave in slaves)
    path.write_text(CONFIG.format(board=board, port=port, registers=registers, reading=reading) + meters)
    return path


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = words("check", "-c", str(path), "--test")
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_samples_of_every_port_and_bus_come(tmp_path: Path) -> None:
    with simulated(tmp_path) as (board, _), tcp({1: {0: [230]}, 2: {0: [400]}}) as slaves:
        path = config(tmp_path, board, slaves.port, (1, 2))
        done = check(path)
    assert done.stdout.splitlines()[-3:] == [
        "source serial: samples come",
        "source modbus: samples come",
        f"{path}: ok, 3 devices, 2 sources",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("silent", [False, True])
def test_what_does_not_answer_is_named(tmp_path: Path, silent: bool) -> None:
    with tcp({1: {0: [230]}, 2: {0: [400]}}) as slaves:
        if silent:
            slaves.silent.add(2)
        else:
            slaves.stop()
        path = config(tmp_path, tmp_path / "nothing", slaves.port, (1, 2))
        done = check(path)
    serial, modbus, last = done.stdout.splitlines()[-3:]
    assert serial.startswith(f"source serial: {tmp_path}/nothing: there is no such port")
    assert ("slave 2" if silent else "refused") in modbus
    assert last == f"{path}: 2 of 2 connections cannot be used"
    assert (done.returncode, done.stderr) == (1, "")


def test_a_board_of_other_channels_is_named(tmp_path: Path) -> None:
    with simulated(tmp_path) as (board, _), tcp({1: {0: [230]}}) as slaves:
        path = config(tmp_path, board, slaves.port, (1,), 'channels = { x = "ax", y = "y", z = "z" }')
        done = check(path)
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("source serial: ")]
    assert "ax" in said
    assert done.returncode == 1


def test_a_defect_of_a_source_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        reach = Reach(False, 0, None)

        async def run(self, emit: object) -> None:
            raise RuntimeError("a defect")

    monkeypatch.setattr(probing, "SOURCES", {"serial": lambda config, devices: Broken()})
    line = probing._Line(SerialSource(name="s", device="press"), {})
    line.start()
    wait_for(lambda: line.answered, "the end")
    assert line.line() == "source s: failed by a defect: RuntimeError('a defect')"
    assert line.stop().exception(10) is not None
