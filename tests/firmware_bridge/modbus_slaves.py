"""Real Modbus slaves for tests, of pymodbus: on a TCP port of 127.0.0.1, or at the end of a serial line.

A slave can be silent, refuse addresses that it does not have, and answer with whatever a test makes of its answers; all
of them can stop, and start again.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pymodbus.pdu import ModbusPDU
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.brokers import HOST, free_port
from tests.firmware_bridge.ptys import Cable

Words = Mapping[int, list[int]]  # first address -> what is there from it on


class Slaves:
    """``slaves``: number -> its holding registers; its input registers hold one more each, its coils and discrete inputs
    are the bits of ``BITS``, from address 0. With ``line`` they are on that serial line, else on ``port``."""

    BITS = (True, False, True, True)

    def __init__(self, slaves: Mapping[int, Words], line: Path | None = None) -> None:
        self.port = free_port()
        self.line = line
        self.silent: set[int] = set()
        self.asked: Counter[int] = Counter()  # times that a slave was asked, even if it is silent
        self.requests: list[tuple[int, int, int, int]] = []  # slave, function, address, count
        self.n_connects = 0
        self.garble: Callable[[bytes], bytes] | None = None
        self.devices = [_device(number, words) for number, words in slaves.items()]
        self._server: ModbusTcpServer | ModbusSerialServer | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slaves")
        self._thread.start()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def stop(self) -> None:
        """As if all were switched off."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)

    def set(self, slave: int, address: int, words: list[int]) -> None:
        """Other holding registers from now on."""
        assert self._server is not None
        change = self._server.async_setValues(slave, 16, address, words)
        asyncio.run_coroutine_threadsafe(change, self._loop).result(10)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        traces = {"trace_packet": self._packet, "trace_pdu": self._pdu, "trace_connect": self._connect}
        server: ModbusTcpServer | ModbusSerialServer
        if self.line is None:
            server = ModbusTcpServer(self.devices, address=(HOST, self.port), **traces)  # type: ignore[arg-type]
        else:
            server = ModbusSerialServer(self.devices, port=str(self.line), **traces)  # type: ignore[arg-type]
        await server.serve_forever(background=True)
        self._server = server

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.shutdown()
            self._server = None
            await asyncio.sleep(0)

    def _connect(self, connected: bool) -> None:
        self.n_connects += connected

    def _pdu(self, sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        if not sending:
            self.asked[pdu.dev_id] += 1
            self.requests.append((pdu.dev_id, pdu.function_code, pdu.address, pdu.count))
        return pdu

    def _packet(self, sending: bool, data: bytes) -> bytes:
        if not sending:
            return data
        if data[6 if self.line is None else 0] in self.silent:
            return b""
        return data if self.garble is None else self.garble(data)


def _device(number: int, words: Words) -> SimDevice:
    bits = [SimData(0, values=list(Slaves.BITS), datatype=DataType.BITS)]
    holding = [SimData(at, values=list(some), datatype=DataType.REGISTERS) for at, some in words.items()]
    inputs = [
        SimData(at, values=[w + 1 for w in some], datatype=DataType.REGISTERS) for at, some in words.items()
    ]
    return SimDevice(number, (bits, bits, holding, inputs))


@contextmanager
def tcp(slaves: Mapping[int, Words]) -> Iterator[Slaves]:
    """Slaves behind one address."""
    started = Slaves(slaves)
    try:
        started.start()
        yield started
    finally:
        started.close()


class SerialLine:
    """Two ptys with a wire between them: ``gateway`` is where a gateway plugs in."""

    def __init__(self, folder: Path) -> None:
        self.gateway, self.slaves = Cable(folder / "gateway"), Cable(folder / "slaves")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="wire")
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(10)
        self.gateway.unplug()
        self.slaves.unplug()

    def _carry(self) -> None:
        while not self._stopping.is_set():
            for one, other in ((self.gateway, self.slaves), (self.slaves, self.gateway)):
                with suppress(OSError, ValueError):  # unplugged meanwhile
                    if select.select([one.master], [], [], 0.001)[0]:
                        os.write(other.master, os.read(one.master, 4096))


@contextmanager
def rtu(folder: Path, slaves: Mapping[int, Words]) -> Iterator[tuple[Slaves, SerialLine]]:
    """Slaves on one serial line, and the line."""
    line = SerialLine(folder)
    started = Slaves(slaves, line.slaves.link)
    try:
        started.start()
        yield started, line
    finally:
        started.close()
        line.close()
