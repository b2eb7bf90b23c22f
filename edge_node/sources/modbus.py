"""Modbus slaves, RTU or TCP: each round of readings becomes one row of each device.

The bus is polled on a thread of its own (:mod:`firmware_bridge.modbus`). A reading is the gateway's own, so its clock is
the time half-way between question and answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import numpy as np
import structlog

from edge_node.config_schema import ModbusSource
from edge_node.sources import Emit, Reach, SourceCounters, refuse
from edge_node.sources.layout import Layout, timed_block
from firmware_bridge.modbus import Poller, Reading
from firmware_bridge.modbus_link import Bus, Fault
from firmware_bridge.transport import PortName
from models.log_limit import LogLimit
from models.signal import Clock, Device, DropReason, SampleBlock

SAME_FAULT_LOG_S = 300.0

log = structlog.get_logger("linewatch.sources.modbus")


class ModbusBus:
    """The ``modbus`` source."""

    def __init__(self, config: ModbusSource, devices: Mapping[str, Device]) -> None:
        self._config = config
        self._log = log.bind(source=config.name)
        self._log_limit = LogLimit(SAME_FAULT_LOG_S)
        self._emit: Emit = refuse
        self._counters = SourceCounters()
        self._devices = devices
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self._n_failures = 0
        self._faults: dict[int, Fault] = {}  # by slave, what it last did not answer, until it answers all
        port = PortName(
            path=config.port, usb_serial=config.usb_serial, vid_pid=config.vid_pid, by_path=config.by_path
        )
        bus = Bus(
            host=config.host,
            tcp_port=config.tcp_port,
            port=port,
            baud=config.baud,
            parity=config.parity,
            stop_bits=config.stop_bits,
            timeout_s=config.timeout_s,
        )
        self._n_slaves = len({register.slave for register in config.register})
        self._poller = Poller(bus, config.register, config.poll_s, self)

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def counters(self) -> SourceCounters:
        return self._counters.copy()

    @property
    def reach(self) -> Reach:
        """Connected while the bus is open and some slave answers. The error names the first slave that does not answer all
        it is asked, and says how many others there are."""
        poller, faults = self._poller, self._faults.copy()
        n_dead = sum(fault.dead for fault in faults.values())
        error = poller.last_error
        if error is None and faults:
            error = min(faults.values(), key=lambda fault: not fault.dead).text
            if len(faults) > 1:
                error += f" (and {len(faults) - 1} more of {self._n_slaves} slaves)"
        return Reach(poller.is_open and n_dead < self._n_slaves, poller.n_opens, error, self._n_failures)

    async def run(self, emit: Emit) -> None:
        """Polls and emits rows until cancelled."""
        self._emit = emit
        self._poller.start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._poller.finished))
        finally:
            await asyncio.to_thread(self._poller.stop)

    def read(self, reading: Reading) -> None:
        arrival_ns = time.time_ns()
        registers = self._config.register
        if reading.whole and self._faults.pop(reading.slave, None) is not None:
            self._log.info(f"slave {reading.slave} answers all again")
        self._counters.n_messages += 1
        by_device: dict[str, list[int]] = {}
        for i in reading.values:
            by_device.setdefault(registers[i].device, []).append(i)
        for places in by_device.values():
            raw = np.array([[reading.values[i] for i in places]])
            times = np.array([reading.utc_ns], np.int64)
            self._put(timed_block(self._layout(tuple(places)), raw, times, arrival_ns, Clock.ARRIVAL))

    def failed(self, slave: int, fault: Fault) -> None:
        self._counters.message_drops[fault.reason] += 1
        self._faults[slave] = fault
        self._warn(fault.text, fault.text)

    def connected(self, what: str) -> None:
        if self._log_limit.due(("open", what), time.monotonic()) is not None:
            self._log.info("bus open", bus=what)

    def lost(self, why: str) -> None:
        self._n_failures += 1
        self._warn(why, why)

    def _layout(self, places: tuple[int, ...]) -> Layout:
        layout = self._layouts.get(places)
        if layout is None:
            registers = [self._config.register[i] for i in places]
            device = self._devices[registers[0].device]
            keys = {r.channel: r.channel for r in registers}
            layout = self._layouts[places] = Layout.of(device, keys)
        return layout

    def _put(self, block: SampleBlock) -> None:
        if self._emit(block):
            self._counters.n_blocks += 1
            self._counters.n_samples += block.n_samples
            return
        self._counters.sample_drops[DropReason.QUEUE_FULL] += block.n_samples
        self._warn(DropReason.QUEUE_FULL, "samples dropped: the gateway cannot keep up")

    def _warn(self, key: str, text: str) -> None:
        n_held = self._log_limit.due(key, time.monotonic())
        if n_held is not None:
            more = f" ({n_held} more since it was last logged)" if n_held else ""
            self._log.warning(text + more)
