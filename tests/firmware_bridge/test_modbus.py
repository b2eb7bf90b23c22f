"""Polling real slaves over TCP and on a serial line: values, dead slaves, refusals, and buses that are lost and found."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import serial

from firmware_bridge.modbus import Poller, Reading
from firmware_bridge.modbus_link import Bus, BusLost, Fault, Link
from firmware_bridge.registers import Register
from firmware_bridge.transport import PortName
from models.signal import DropReason
from tests.brokers import HOST, free_port, wait_for
from tests.firmware_bridge.modbus_slaves import SerialLine, Slaves, rtu, tcp

POLL_S = 0.02
WORDS = {
    1: {0: [230, 0xFFFE], 10: [0x4366, 0x8000], 20: [0x8000, 0x4366]},
    2: {5: [7, 8]},
    3: {0: [1]},
    4: {0: [1]},
}
ONE = (Register(slave=1, address=0),)
BOTH = (*ONE, Register(slave=2, address=5))


class Told:
    """All that a poller tells, in order."""

    def __init__(self) -> None:
        self.all: list[Reading | tuple[int, Fault] | str] = []
        self.opened: list[str] = []

    def read(self, reading: Reading) -> None:
        self.all.append(reading)

    def failed(self, slave: int, fault: Fault) -> None:
        self.all.append((slave, fault))

    def connected(self, what: str) -> None:
        self.opened.append(what)

    def lost(self, why: str) -> None:
        self.all.append(why)

    def readings(self, slave: int = 1) -> list[Reading]:
        return [t for t in self.all if isinstance(t, Reading) and t.slave == slave]

    def faults(self, slave: int = 1) -> list[Fault]:
        return [t[1] for t in self.all if isinstance(t, tuple) and t[0] == slave]

    def losses(self) -> list[str]:
        return [t for t in self.all if isinstance(t, str)]


@contextmanager
def polling(bus: Bus, registers: Sequence[Register] = ONE) -> Iterator[tuple[Told, Poller]]:
    told = Told()
    poller = Poller(bus, registers, POLL_S, told, backoff_s=(0.02, 0.1))
    poller.start()
    try:
        yield told, poller
    finally:
        poller.stop(20)
        assert poller.finished.done()
        assert poller.finished.exception() is None


def at(slaves: Slaves, timeout_s: float = 1.0) -> Bus:
    return Bus(host=HOST, tcp_port=slaves.port, timeout_s=timeout_s)


def on(line: SerialLine, timeout_s: float = 1.0) -> Bus:
    """A pty knows no parity, and says so when it is opened again."""
    return Bus(port=PortName(path=str(line.gateway.link)), timeout_s=timeout_s, parity="N")


class Plant:
    """Slaves and how they are reached, over TCP or on a line."""

    def __init__(self, slaves: Slaves, bus: Callable[..., Bus]) -> None:
        self.slaves, self.bus = slaves, bus


@pytest.fixture(params=["tcp", "rtu"])
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plant]:
    if request.param == "tcp":
        with tcp(WORDS) as slaves:
            yield Plant(slaves, lambda timeout_s=1.0: at(slaves, timeout_s))
    else:
        with rtu(tmp_path, WORDS) as (slaves, line):
            yield Plant(slaves, lambda timeout_s=1.0: on(line, timeout_s))


@pytest.fixture
def slaves() -> Iterator[Slaves]:
    with tcp(WORDS) as started:
        yield started


def test_values_are_what_the_slaves_hold(plant: Plant) -> None:
    registers = (
        Register(slave=1, address=0, scale=0.1, offset=-1.0),
        Register(slave=1, address=1, type="int16"),
        Register(slave=1, address=0, function=4),
        Register(slave=1, address=10, type="float32"),
        Register(slave=1, address=20, type="float32", word_order="little"),
        Register(slave=1, address=0, function=1),
        Register(slave=1, address=1, function=1),
        Register(slave=1, address=3, function=2, type="bit"),
        Register(slave=2, address=5, type="uint32"),
    )
    with polling(plant.bus(), registers) as (told, _):
        wait_for(lambda: len(told.readings(2)) >= 3, "readings")
    assert told.readings(1)[0].values == {
        0: pytest.approx(22.0),
        1: -2,
        2: 231,
        3: 230.5,
        4: 230.5,
        5: 1,
        6: 0,
        7: 1,
    }
    assert told.readings(2)[0].values == {8: 7 * 65536 + 8}
    assert all(isinstance(t, Reading) and t.whole for t in told.all)
    times = [r.utc_ns for r in told.readings(1)]
    assert times == sorted(times)
    asked = plant.slaves.requests
    assert set(asked) == {
        (1, 1, 0, 2),
        (1, 2, 3, 1),
        (1, 3, 0, 2),
        (1, 3, 10, 2),
        (1, 3, 20, 2),
        (1, 4, 0, 1),
        (2, 3, 5, 2),
    }


def test_a_counter_has_a_rate_from_its_second_reading_on(slaves: Slaves) -> None:
    registers = (*ONE, Register(slave=1, address=10, type="uint32", counter=True, scale=2.0))
    with polling(at(slaves), registers) as (told, _):
        wait_for(lambda: len(told.readings()) >= 3, "readings")
        slaves.set(1, 10, [0x4366, 0x8009])
        wait_for(lambda: [r for r in told.readings() if r.values.get(1)], "the step")
        wait_for(lambda: told.readings()[-1].values[1] == 0, "rest")
    first, *others = told.readings()
    assert (first.values, first.whole) == ({0: 230}, True)
    assert all(r.whole for r in others)
    (rate,) = [r.values[1] for r in others if r.values[1]]
    assert rate > 0


# Slaves that do not answer.


def test_one_dead_slave_does_not_hold_up_the_others(plant: Plant) -> None:
    plant.slaves.silent.add(2)
    with polling(plant.bus(0.1), BOTH) as (told, poller):
        wait_for(lambda: len(told.readings(1)) >= 60, "rounds of the live slave", 60)
        n_asked = plant.slaves.asked[2]
        assert poller.is_open
    assert all(r.whole for r in told.readings(1))
    assert not told.readings(2)
    assert 2 <= n_asked <= 12
    for fault in told.faults(2):
        assert fault.dead
        assert fault.reason is DropReason.NO_ANSWER
        assert fault.text == "slave 2, function 3, address 5: no answer within 0.1 s"
    assert not told.losses()


def test_a_dead_slave_that_returns_is_read_at_every_turn(plant: Plant) -> None:
    plant.slaves.silent.add(2)
    with polling(plant.bus(0.1), BOTH) as (told, _):
        wait_for(lambda: len(told.faults(2)) >= 2, "failures")
        plant.slaves.silent.clear()
        wait_for(lambda: len(told.readings(2)) >= 10, "readings")
    since = told.all[told.all.index(told.readings(2)[0]) :]
    assert {type(t) for t in since} == {Reading}


def test_of_several_dead_slaves_one_a_round_costs_its_timeout(slaves: Slaves) -> None:
    slaves.silent |= {1, 3, 4}
    registers = [Register(slave=n, address=5 if n == 2 else 0) for n in (1, 2, 3, 4)]
    with polling(at(slaves, 0.1), registers) as (told, _):
        wait_for(lambda: len(told.readings(2)) >= 40, "rounds of the live slave", 60)
    at_round = [i for i, t in enumerate(told.all) if isinstance(t, Reading)]
    n_between = [b - a - 1 for a, b in itertools.pairwise(at_round)]
    assert n_between[0] <= 3  # what is new to it
    assert max(n_between[1:]) <= 1
    assert all(len(told.faults(n)) >= 2 for n in (1, 3, 4))


def test_a_connection_on_which_nobody_answers_is_made_anew(slaves: Slaves) -> None:
    slaves.silent.add(1)
    with polling(at(slaves, 0.05)) as (told, poller):
        wait_for(lambda: slaves.n_connects >= 3, "a new connection")
        slaves.silent.clear()
        wait_for(lambda: told.readings(), "a reading")
        assert poller.n_opens == 1
    assert not told.losses()


def test_pymodbus_adds_no_lines_to_the_log(slaves: Slaves, caplog: pytest.LogCaptureFixture) -> None:
    slaves.silent.add(1)
    with polling(at(slaves, 0.02)) as (told, _):
        wait_for(lambda: len(told.faults()) >= 4, "failures")
        slaves.stop()
        wait_for(lambda: len(told.losses()) >= 3, "losses")
    assert not [r for r in caplog.records if r.name.startswith("pymodbus") and "request" not in r.message]


# Slaves that answer, and do not say.


def test_refused_is_not_dead(plant: Plant) -> None:
    """One address that the slave does not have costs neither its neighbours nor the turns of the slave."""
    registers = (*ONE, Register(slave=1, address=1), Register(slave=1, address=2))
    with polling(plant.bus(), registers) as (told, poller):
        wait_for(lambda: len(told.readings()) >= 20, "readings")
        assert poller.is_open
    faults, readings = told.faults(), told.readings()
    first, *others = faults
    assert first.text == (
        "slave 1, function 3, addresses 0 to 2: refused: it has no such address; each is asked alone from now on"
    )
    assert {f.text for f in others} == {"slave 1, function 3, address 2: refused: it has no such address"}
    assert all(f.reason is DropReason.REFUSED and not f.dead for f in faults)
    assert all(r.values == {0: 230, 1: 0xFFFE} and not r.whole for r in readings)
    assert abs(len(others) - len(readings)) <= 1  # it is asked at every turn


def answer(data: bytes, body: bytes) -> bytes:
    """The TCP answer ``data`` with another body."""
    return data[:4] + (len(body) + 1).to_bytes(2, "big") + data[6:7] + body


@pytest.mark.parametrize(
    ("body", "reason", "dead", "text"),
    [
        (b"\x83\x01", DropReason.REFUSED, False, "refused: it does not know the function"),
        (b"\x83\x03", DropReason.REFUSED, False, "refused: it refuses the count"),
        (b"\x83\x04", DropReason.REFUSED, False, "refused: it failed inside"),
        (b"\x83\x06", DropReason.REFUSED, False, "refused: it is busy"),
        (b"\x83\x63", DropReason.REFUSED, False, "refused: exception 99"),
        (b"\x83\x0a", DropReason.NO_ANSWER, True, "refused: the gateway on the way has no path to it"),
        (b"\x83\x0b", DropReason.NO_ANSWER, True, "refused: the device behind the gateway does not answer"),
        (b"\x03\x04\0\1\0\2", DropReason.MALFORMED, False, "2 values came, and 1 were asked for"),
        (b"\x03\x00", DropReason.MALFORMED, False, "0 values came, and 1 were asked for"),
    ],
)
def test_what_a_slave_answers_in_place_of_values(
    slaves: Slaves, body: bytes, reason: DropReason, dead: bool, text: str
) -> None:
    slaves.garble = lambda data: answer(data, body)
    with polling(at(slaves)) as (told, _):
        wait_for(lambda: len(told.faults()) >= 2, "failures")
        slaves.garble = None
        wait_for(lambda: told.readings(), "a reading")
    assert told.faults()[0] == Fault(
        reason, f"slave 1, function 3, address 0: {text}", dead, body == b"\x83\x03"
    )
    assert told.readings()[-1].values == {0: 230}


def test_garbage_is_told_from_silence(plant: Plant) -> None:
    plant.slaves.garble = lambda data: bytes(b ^ 0x55 for b in data)
    with polling(plant.bus(0.1)) as (told, _):
        wait_for(lambda: len(told.faults()) >= 2, "failures")
        plant.slaves.garble = None
        wait_for(lambda: told.readings(), "a reading")
    fault = told.faults()[0]
    assert fault.reason is DropReason.MALFORMED
    assert fault.dead
    expected = "does not speak Modbus TCP" if plant.slaves.line is None else "another baud rate or parity"
    assert expected in fault.text


def test_whatever_comes_the_next_good_answer_is_taken(plant: Plant) -> None:
    """Every other answer is damaged. On a serial line, where a CRC guards it, no wrong value is ever taken."""
    rng, turn = random.Random(1), iter(range(10**9))

    def damage(data: bytes) -> bytes:
        if next(turn) % 2:
            return data
        if rng.random() < 0.3:
            return rng.randbytes(rng.randrange(1, 40))
        at = rng.randrange(len(data))
        return rng.choice([data[:at], data[at:], data[:at] + rng.randbytes(2) + data[at:], data + data])

    plant.slaves.garble = damage
    with polling(plant.bus(0.05)) as (told, _):
        wait_for(lambda: len(told.readings()) >= 30, "readings", 60)
        plant.slaves.garble = None
        n = len(told.all)
        wait_for(lambda: len(told.all) >= n + 5, "readings")
    assert told.faults()
    assert all(isinstance(t, Reading) and t.values == {0: 230} for t in told.all[-2:])
    if plant.slaves.line is not None:
        assert all(r.values == {0: 230} for r in told.readings())


# The bus.


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
    os.chmod(device, 0o620)
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
