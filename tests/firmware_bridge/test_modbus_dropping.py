"""A connection that is closed whenever one slave is asked costs that slave its turns, and no other."""

from __future__ import annotations

import pytest

from firmware_bridge.modbus_link import Fault
from firmware_bridge.registers import Register
from models.signal import DropReason
from tests.brokers import wait_for
from tests.firmware_bridge.closing_gateway import closing_gateway
from tests.firmware_bridge.modbus_polling import polling


def asking(*slaves: int) -> tuple[Register, ...]:
    return tuple(Register(slave=slave, address=0) for slave in slaves)


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (1, 2, 3)])
def test_a_slave_that_makes_the_connection_drop_does_not_starve_the_others(order: tuple[int, ...]) -> None:
    bad = {1, 3}
    with closing_gateway(bad) as (gateway, bus), polling(bus, asking(*order)) as (told, poller):
        wait_for(lambda: len(told.readings(2)) >= 10 and told.faults(1), "readings of the healthy one")
        assert not told.readings(1)
        assert told.readings(2)[0].values == {order.index(2): 2}
        fault = Fault(
            DropReason.NO_ANSWER,
            "slave 1, function 3, address 0: the connection is lost whenever it is asked",
            dead=True,
        )
        assert set(told.faults(1)) == {fault}
        gateway.closes_at = set()
        wait_for(lambda: all(told.readings(slave) for slave in order), "those that are healthy again")
        assert poller.is_open


def test_what_a_slave_said_before_the_connection_dropped_is_told_and_it_waits_all_the_same() -> None:
    registers = (*asking(1), Register(slave=1, address=9, function=4), *asking(2))
    with closing_gateway(set(), most=1) as (_, bus), polling(bus, registers) as (told, _):
        wait_for(lambda: told.readings(2), "the other")
    assert all((r.values, r.whole) == ({0: 1}, False) for r in told.readings(1))
    assert told.faults(1)
    assert told.faults(1)[0].text.startswith("slave 1, function 4, address 9: ")


def test_a_gateway_that_closes_what_is_idle_is_no_slaves_fault() -> None:
    """It closes after each round: the first question of the next has no answer, and is asked anew."""
    with closing_gateway(set(), most=2) as (_, bus), polling(bus, asking(1, 2)) as (told, poller):
        wait_for(lambda: min(len(told.readings(1)), len(told.readings(2))) >= 5, "readings")
        assert poller.n_opens >= 5
        assert told.losses()
    assert not told.faults(1) + told.faults(2)


def test_where_every_slave_makes_it_drop_it_is_the_bus() -> None:
    """Which is tried for ever, with no longer waits than any bus; each of its slaves has its turn."""
    with closing_gateway({1, 2}) as (gateway, bus), polling(bus, asking(1, 2)) as (told, _):
        wait_for(lambda: min(gateway.n_closed[1], gateway.n_closed[2]) >= 12, "attempts")
        assert told.faults(1)
        assert told.faults(2)
        gateway.closes_at = {1}
        wait_for(lambda: told.readings(2), "the one that is healthy again")
