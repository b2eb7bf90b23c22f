"""A poller at real slaves for tests, and all that it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from firmware_bridge.modbus import Poller, Reading
from firmware_bridge.modbus_link import Bus, Fault
from firmware_bridge.registers import Register
from firmware_bridge.transport import PortName
from tests.brokers import HOST
from tests.firmware_bridge.modbus_slaves import SerialLine, Slaves

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
    """All that a poller tells, in order, until it is told to stop: that cuts a round short."""

    def __init__(self) -> None:
        self.all: list[Reading | tuple[int, Fault] | str] = []
        self.opened: list[str] = []
        self.stopping = False

    def read(self, reading: Reading) -> None:
        self._add(reading)

    def failed(self, slave: int, fault: Fault) -> None:
        self._add((slave, fault))

    def connected(self, what: str) -> None:
        self.opened.append(what)

    def lost(self, why: str) -> None:
        self._add(why)

    def _add(self, what: Reading | tuple[int, Fault] | str) -> None:
        if not self.stopping:
            self.all.append(what)

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
        told.stopping = True
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
