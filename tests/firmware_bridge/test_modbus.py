"""Polling real slaves over TCP and on a serial line: values, dead slaves, refusals, garbage."""

from __future__ import annotations

import itertools
import random

import pytest

from firmware_bridge.modbus import Reading
from firmware_bridge.modbus_link import Fault
from firmware_bridge.registers import Register
from models.signal import DropReason
from tests.brokers import wait_for
from tests.firmware_bridge.modbus_polling import BOTH, ONE, Plant, at, polling
from tests.firmware_bridge.modbus_slaves import Slaves


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
    with polling(plant.bus(0.5), BOTH) as (told, _):
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
