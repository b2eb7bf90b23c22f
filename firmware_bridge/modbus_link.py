"""An open Modbus bus, RTU on a serial line or TCP, through pymodbus: a question, its answer, or one line that says why there
is none.

The bus is opened here and handed to pymodbus, which would only say that it failed; that it is asked again, and when, is
for the caller to decide, so pymodbus does not try twice.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import termios
import threading
from dataclasses import dataclass
from typing import Any

import serial
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException

from firmware_bridge.registers import Request
from firmware_bridge.transport import LineSettings, PortName, PortUnavailable, open_port
from models.signal import DropReason

CONNECT_TIMEOUT_S = 3.0

_EXCEPTIONS = {
    1: "it does not know the function",
    2: "it has no such address",
    3: "it refuses the count",
    4: "it failed inside",
    6: "it is busy",
    10: "the gateway on the way has no path to it",
    11: "the device behind the gateway does not answer",
}
_BEHIND_GATEWAY = (10, 11)  # not the slave's own words: it is as dead as one that is silent
_FOR_SOME = (2, 3)
_GARBLED = {
    False: "what came is no answer of it: another baud rate or parity, a bad cable, two slaves of one number, or an answer "
    "later than timeout_s",
    True: "what answers there does not speak Modbus TCP",
}
_LOST = (OSError, serial.SerialException, termios.error)


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
class Fault:
    """Why a question has no answer. ``dead``: the slave cannot be reached; else it is there, and will not say.
    ``divisible``: of what was asked together, some may be answered."""

    reason: DropReason
    text: str
    dead: bool
    divisible: bool = False


class BusLost(Exception):
    """The bus cannot be reached, or not any more: one line that says why."""


class Link:
    """An open bus. All but :meth:`cancel` is for one thread."""

    def __init__(self, bus: Bus, n_tried: int = 0) -> None:
        """Opens ``bus``; where several ports fit, ``n_tried`` chooses. Raises BusLost."""
        self.where = str(bus)
        self._bus = bus
        self._cancelled = threading.Event()
        self._heard = False
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # what it would log, a Fault or BusLost says
        self._client: ModbusTcpClient | ModbusSerialClient
        if bus.host is not None:
            self._client = ModbusTcpClient(
                bus.host, port=bus.tcp_port, timeout=bus.timeout_s, retries=0, trace_packet=self._trace
            )
            self._client.socket = _connect(bus)
            return
        candidates = bus.port.candidates()
        if not candidates:
            raise BusLost(f"{bus}: not plugged in; `firmware-bridge list` shows the ports that are there")
        self.where = candidates[n_tried % len(candidates)]
        settings = LineSettings(baud=bus.baud, parity=bus.parity, stop_bits=bus.stop_bits)
        try:
            port = open_port(self.where, settings)
        except PortUnavailable as error:
            raise BusLost(str(error)) from error
        self._client = ModbusSerialClient(
            self.where, baudrate=bus.baud, timeout=bus.timeout_s, retries=0, trace_packet=self._trace
        )
        self._client.socket = _Cancellable(port, self._cancelled)

    def ask(self, request: Request) -> list[int] | Fault:
        """The words (or bits) that were asked for, ``request.count``, within ``timeout_s`` or little more. Raises
        BusLost."""
        client = self._client
        read = {
            1: client.read_coils,
            2: client.read_discrete_inputs,
            3: client.read_holding_registers,
            4: client.read_input_registers,
        }[request.function]
        self._heard = False
        try:
            reply = read(request.address, count=request.count, device_id=request.slave)
        except ConnectionException:
            raise BusLost(f"{self.where}: {self._gone}") from None
        except ModbusException:
            return self._unanswered(request)
        except _LOST as error:
            number = getattr(error, "errno", None)
            raise BusLost(f"{self.where}: {self._gone}: {os.strerror(number) if number else error}") from None
        if reply.isError():
            code = reply.exception_code
            text = f"{_where(request)}: refused: {_EXCEPTIONS.get(code, f'exception {code}')}"
            dead = code in _BEHIND_GATEWAY
            return Fault(DropReason.NO_ANSWER if dead else DropReason.REFUSED, text, dead, code in _FOR_SOME)
        is_bits = request.function in (1, 2)
        words = [int(word) for word in (reply.bits if is_bits else reply.registers)]
        if len(words) != (-(-request.count // 8) * 8 if is_bits else request.count):
            text = f"{_where(request)}: {len(words)} values came, and {request.count} were asked for"
            return Fault(DropReason.MALFORMED, text, dead=False)
        return words[: request.count]

    def renew(self) -> None:
        """A connection on which nobody answers may be dead without a sign: connects anew. Raises BusLost."""
        if self._bus.host is not None and not self._cancelled.is_set():
            self.close()
            self._client.socket = _connect(self._bus)

    def cancel(self) -> None:
        """Ends a question that waits, from any thread; none is answered from now on."""
        self._cancelled.set()
        sock = self._client.socket
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(*_LOST):
            self._client.close()  # type: ignore[no-untyped-call]

    @property
    def _gone(self) -> str:
        return "the connection was lost" if self._bus.host is not None else "the line was lost"

    def _unanswered(self, request: Request) -> Fault:
        if self._heard:
            text = f"{_where(request)}: {_GARBLED[self._bus.host is not None]}"
            return Fault(DropReason.MALFORMED, text, dead=True)
        text = f"{_where(request)}: no answer within {self._bus.timeout_s:g} s"
        return Fault(DropReason.NO_ANSWER, text, dead=True)

    def _trace(self, sending: bool, data: bytes) -> bytes:
        """Takes note of what comes that is no answer; over TCP an answer to an earlier question, which says so, is left
        out."""
        if not sending and (self._bus.host is None or data[2:4] != b"\0\0"):
            self._heard = True
        return data


class _Cancellable:
    """A serial port for pymodbus, which looks every few ms whether something has come."""

    def __init__(self, port: serial.Serial, cancelled: threading.Event) -> None:
        self._port, self._cancelled = port, cancelled

    @property
    def in_waiting(self) -> int:
        if self._cancelled.is_set():
            raise serial.SerialException("cancelled")
        n: int = self._port.in_waiting
        return n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


def loses_the_bus(request: Request) -> Fault:
    """Of a slave at whose question the bus is lost, and not by chance."""
    text = f"{_where(request)}: the connection is lost whenever it is asked"
    return Fault(DropReason.NO_ANSWER, text, dead=True)


def _connect(bus: Bus) -> socket.socket:
    assert bus.host is not None
    try:
        connection = socket.create_connection((bus.host, bus.tcp_port), timeout=CONNECT_TIMEOUT_S)
    except (OSError, UnicodeError) as error:
        raise BusLost(f"{bus}: {_why(error)}") from error
    connection.settimeout(bus.timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "no computer of this name is known"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S:g} s: is it switched on, and is this its address?"
    if error.errno == errno.ECONNREFUSED:
        return "refused: nothing listens there; is Modbus TCP switched on, and is this its port?"
    return os.strerror(error.errno) if error.errno else str(error)


def _where(request: Request) -> str:
    last = request.address + request.count - 1
    span = f"address {last}" if request.count == 1 else f"addresses {request.address} to {last}"
    return f"slave {request.slave}, function {request.function}, {span}"
