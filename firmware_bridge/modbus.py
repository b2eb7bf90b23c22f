"""Polling Modbus slaves, RTU on a serial line or TCP: one thread a bus.

Strategy: each round reads what is planned, slave by slave; a slave that does not answer costs one timeout and is then
asked ever more rarely. What was read is handed over as raw numbers with the time half-way between question and
answer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import serial
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from firmware_bridge.registers import Patience, Rate, Register, Request, plan, value_of
from firmware_bridge.transport import PortName

Client = ModbusSerialClient | ModbusTcpClient

_EXCEPTIONS = {
    1: "it does not know the function",
    2: "it has no such address",
    3: "it refuses the count",
    4: "it failed inside",
    6: "it is busy",
    10: "the gateway on the way has no path to it",
    11: "the device behind the gateway does not answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bus:
    """Where the slaves are: ``host`` and ``tcp_port``, or a serial ``port``."""

    host: str | None = None
    tcp_port: int = 502
    port: PortName = PortName()  # noqa: RUF009 (frozen)
    baud: int = 9600
    parity: str = "E"
    stop_bits: int = 1
    timeout_s: float = 0.5

    def __str__(self) -> str:
        return f"{self.host}:{self.tcp_port}" if self.host is not None else str(self.port)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a slave answered in one round: place of the register -> value. ``utc_ns``: half-way between question and
    answer. ``whole``: nothing that was asked is missing."""

    slave: int
    values: dict[int, float]
    utc_ns: int
    whole: bool


@dataclass(frozen=True, slots=True)
class _Refused:
    """The slave is there, and will not say."""

    why: str


class Taker(Protocol):
    """What a :class:`Poller` tells, on its thread."""

    def read(self, reading: Reading) -> None:
        """One slave's registers of one round."""

    def silent(self, slave: int, why: str) -> None:
        """A slave did not answer, or refused a request."""

    def connected(self, what: str) -> None:
        """The bus is open."""

    def lost(self, why: str) -> None:
        """The bus cannot be reached; it is tried again for ever."""


class Poller:
    """Reads ``registers`` every ``poll_s`` from :meth:`start` to :meth:`stop`."""

    def __init__(self, bus: Bus, registers: Sequence[Register], poll_s: float, taker: Taker) -> None:
        self.n_opens = 0
        self.is_open = False
        self.last_error: str | None = None
        self.finished: Future[None] = Future()
        self._bus, self._registers, self._poll_s, self._taker = bus, registers, poll_s, taker
        self._by_slave: dict[int, list[Request]] = {}
        for request in plan(registers):
            self._by_slave.setdefault(request.slave, []).append(request)
        self._patience = {slave: Patience(poll_s) for slave in self._by_slave}
        self._rates = {i: Rate(r) for i, r in enumerate(registers) if r.counter}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"modbus {bus}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            wait_s = self._poll_s
            while not self._stopping.is_set():
                why = self._connected()
                if self._stopping.is_set():
                    break
                self.last_error = why
                self._taker.lost(why)
                wait_s = min(2 * wait_s, 10.0) if not self.n_opens else min(self._poll_s, 10.0)
                self._stopping.wait(wait_s)
        except BaseException as error:  # a defect: whoever waits for the bus is told
            self.finished.set_exception(error)
            raise
        self.finished.set_result(None)

    def _connected(self) -> str:
        """Polls until the bus is lost; why that is."""
        client = self._client()
        if client is None:
            return f"{self._bus}: not plugged in; `firmware-bridge list` shows the ports that are there"
        try:
            if not client.connect():
                return f"{self._bus}: cannot be opened"
            self.n_opens += 1
            self.is_open, self.last_error = True, None
            self._taker.connected(str(self._bus))
            next_ns = time.monotonic_ns()
            while not self._stopping.is_set():
                self._round(client)
                next_ns = max(next_ns + round(self._poll_s * 1e9), time.monotonic_ns())
                self._stopping.wait((next_ns - time.monotonic_ns()) / 1e9)
                if not client.connected and not client.connect():
                    return f"{self._bus}: the connection was lost"
            return "stopped"
        except (OSError, serial.SerialException) as error:
            return f"{self._bus}: the line was lost: {error}"
        finally:
            self.is_open = False
            with contextlib.suppress(OSError, serial.SerialException):
                client.close()  # type: ignore[no-untyped-call]

    def _client(self) -> Client | None:
        bus = self._bus
        if bus.host is not None:
            return ModbusTcpClient(bus.host, port=bus.tcp_port, timeout=bus.timeout_s, retries=0)
        candidates = bus.port.candidates()
        if not candidates:
            return None
        return ModbusSerialClient(
            candidates[0],
            baudrate=bus.baud,
            parity=bus.parity,
            stopbits=bus.stop_bits,
            timeout=bus.timeout_s,
            retries=0,
        )

    def _round(self, client: Client) -> None:
        for slave, requests in self._by_slave.items():
            if self._stopping.is_set() or not self._patience[slave].due(time.monotonic_ns()):
                continue
            began_utc, began = time.time_ns(), time.monotonic_ns()
            values: dict[int, float] = {}
            why, answered = None, True
            for request in requests:
                words = self._read(client, request)
                if isinstance(words, _Refused):
                    why = words.why
                    continue
                if isinstance(words, str):
                    why, answered = words, False
                    break
                mono_ns = time.monotonic_ns()
                for i in request.registers:
                    self._take(i, words, request, mono_ns, values)
            if answered:
                self._patience[slave].answered()
            else:
                self._patience[slave].failed(time.monotonic_ns())
            if why is not None:
                self._taker.silent(slave, why)
            utc_ns = began_utc + (time.monotonic_ns() - began) // 2
            if values or why is None:
                self._taker.read(Reading(slave, values, utc_ns, why is None))

    def _take(
        self, i: int, words: list[int], request: Request, mono_ns: int, values: dict[int, float]
    ) -> None:
        register = self._registers[i]
        at = register.address - request.address
        raw: float | None = value_of(register, words[at : at + register.n_words])
        if i in self._rates:
            assert raw is not None
            raw = self._rates[i].step(raw, mono_ns)
        if raw is not None:
            values[i] = raw * register.scale + register.offset

    def _read(self, client: Client, request: Request) -> list[int] | _Refused | str:
        """The words, or why there are none: the slave refused, or did not answer."""
        read = {
            1: client.read_coils,
            2: client.read_discrete_inputs,
            3: client.read_holding_registers,
            4: client.read_input_registers,
        }[request.function]
        where = f"slave {request.slave}, function {request.function}, address {request.address}"
        try:
            reply: ModbusPDU = read(request.address, count=request.count, device_id=request.slave)
        except ModbusException as error:
            return f"{where}: no answer: {error.string}"
        if reply.isError():
            code = reply.exception_code
            return _Refused(f"{where}: refused: {_EXCEPTIONS.get(code, f'exception {code}')}")
        words: list[int] = [int(w) for w in (reply.bits if request.function in (1, 2) else reply.registers)]
        if len(words) < request.count:
            return _Refused(f"{where}: {len(words)} values in place of {request.count}")
        return words
