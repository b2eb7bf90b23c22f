"""A Modbus bus that is not there, is lost, is found again, or hangs: real sockets, and a pty."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import serial

from firmware_bridge.modbus import Poller, Reading
from firmware_bridge.modbus_link import Bus, BusLost, Link
from firmware_bridge.registers import Register
from firmware_bridge.transport import PortName
from tests.brokers import HOST, free_port, wait_for
from tests.firmware_bridge.modbus_polling import BOTH, ONE, POLL_S, WORDS, Plant, Told, at, on, polling
from tests.firmware_bridge.modbus_slaves import SerialLine, Slaves, rtu


def test_slaves_that_are_switched_off_are_found_again(slaves: Slaves) -> None:
    """The bus is lost, not the slaves: they are asked as soon as it is there again."""
    with polling(at(slaves), BOTH) as (told, poller):
        for _ in range(2):
            n = len(told.readings(2))
            wait_for(lambda n=n: len(told.readings(2)) >= n + 3, "readings")
            slaves.stop()
            wait_for(lambda: not poller.is_open and "refused" in (poller.last_error or ""), "the loss")
            n = len(told.losses())
            wait_for(lambda n=n: len(told.losses()) >= n + 3, "attempts")
            slaves.start()
            wait_for(lambda: poller.is_open and poller.last_error is None, "the bus")
        wait_for(lambda: isinstance(told.all[-1], Reading), "readings")
    where = f"{HOST}:{slaves.port}"
    refused = f"{where}: refused: nothing listens there; is Modbus TCP switched on, and is this its port?"
    assert refused in told.losses()
    assert all(
        text == refused or text.startswith(f"{where}: the connection was lost") for text in told.losses()
    )
    assert poller.n_opens == 3
    assert not told.faults(1) + told.faults(2)


def test_a_line_that_is_pulled_out_is_found_again_under_another_name(tmp_path: Path) -> None:
    with rtu(tmp_path, WORDS) as (_, line), polling(on(line), BOTH) as (told, poller):
        wait_for(lambda: told.readings(2), "readings")
        line.gateway.unplug()
        wait_for(lambda: not poller.is_open and "no such port" in (poller.last_error or ""), "the loss")
        line.gateway.plug()
        n = len(told.readings(2))
        wait_for(lambda: len(told.readings(2)) >= n + 3, "readings")
        assert poller.n_opens == 2
    path = line.gateway.link
    assert told.losses()[0].startswith(f"{path}: the line was lost")
    assert told.losses()[-1] == (
        f"{path}: there is no such port; `firmware-bridge list` shows those that are there"
    )


def test_what_was_read_before_the_bus_was_lost_is_told(slaves: Slaves) -> None:
    def cut(data: bytes) -> bytes:
        if data[7] == 4:
            slaves.garble = None
            slaves._loop.create_task(slaves._stop())
            return b""
        return data

    slaves.garble = cut
    registers = (*ONE, Register(slave=1, address=0, function=4))
    with polling(at(slaves, 10.0), registers) as (told, _):
        wait_for(lambda: told.losses(), "the loss")
    reading = told.all[0]
    assert isinstance(reading, Reading)
    assert (reading.values, reading.whole) == ({0: 230}, False)


@pytest.mark.parametrize(
    ("bus", "text"),
    [
        (
            {"port": PortName(path="/dev/ttyNONE")},
            "/dev/ttyNONE: there is no such port; `firmware-bridge list` shows those that are there",
        ),
        (
            {"port": PortName(usb_serial="NONE")},
            "usb serial NONE: not plugged in; `firmware-bridge list` shows the ports that are there",
        ),
        ({"port": PortName(path="/dev/null")}, "/dev/null: this is no serial port; "),
        ({"host": "a" * 70}, f"{'a' * 70}:502: no computer of this name is known"),
    ],
)
def test_a_bus_that_is_not_there_is_one_clear_line(bus: dict[str, Any], text: str) -> None:
    with polling(Bus(**bus)) as (told, poller):
        wait_for(lambda: len(told.losses()) >= 3, "attempts")
        assert not poller.is_open
    assert all(line.startswith(text) and "\n" not in line for line in told.losses())
    assert not told.opened


def test_a_port_that_another_program_has_is_waited_for(tmp_path: Path) -> None:
    with rtu(tmp_path, WORDS) as (_, line):
        path = str(line.gateway.link)
        other = serial.Serial(path, exclusive=True)
        with polling(on(line)) as (told, _):
            wait_for(lambda: len(told.losses()) >= 2, "attempts")
            other.close()
            wait_for(lambda: told.readings(), "readings")
        assert set(told.losses()) == {f"{path}: another program has it open; `fuser {path}` says which"}


def test_without_permission_the_line_names_the_fix(tmp_path: Path) -> None:
    """As nobody; only root can become that."""
    if os.geteuid() != 0:
        pytest.skip("only root can open a port as somebody else")
    line = SerialLine(tmp_path)
    device = line.gateway.device
    os.chmod(device, 0o660)
    program = (
        "import grp, os, sys\n"  # while the interpreter may still be read
        "from firmware_bridge.modbus_link import Bus, BusLost, Link, PortName\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    Link(Bus(port=PortName(path=sys.argv[1])))\n"
        "except BusLost as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, device], capture_output=True, text=True, timeout=60, check=True
    )
    line.close()
    assert done.stdout.startswith(f"{device}: not permitted; add the user to the group that owns it: `sudo ")
    assert done.stdout.count("\n") == 1


def test_settings_that_a_port_does_not_know_are_named(tmp_path: Path) -> None:
    with rtu(tmp_path, WORDS) as (_, line):
        bus = dataclasses.replace(on(line), parity="E")
        Link(bus).close()
        try:
            Link(bus).close()  # a pty refuses parity where there is nothing else to set
        except BusLost as error:
            said = str(error)
        else:
            pytest.skip("the ptys of this system take any parity")
    assert said == (
        f"{line.gateway.link}: 9600 baud, parity E, stop bits 1: not possible here; another adapter may know it"
    )


def test_a_port_that_nobody_listens_on_is_tried_until_somebody_does() -> None:
    slaves = Slaves(WORDS)
    try:
        with polling(at(slaves)) as (told, _):
            wait_for(lambda: len(told.losses()) >= 3, "attempts")
            slaves.start()
            wait_for(lambda: told.readings(), "readings")
    finally:
        slaves.close()


def test_stop_ends_a_read_that_hangs(plant: Plant) -> None:
    """Nobody waits for a minute: the poller could only have ended because it was told to."""
    plant.slaves.silent.add(1)
    told = Told()
    poller = Poller(plant.bus(60.0), BOTH, POLL_S, told)
    poller.start()
    wait_for(lambda: plant.slaves.asked[1], "the question")
    poller.stop(20)
    assert poller.finished.done()
    assert poller.finished.exception() is None
    assert not told.all


def test_a_poller_that_was_never_started_can_be_stopped() -> None:
    Poller(Bus(host=HOST, tcp_port=free_port()), ONE, POLL_S, Told()).stop()
