"""Firmware that sends lines of text on a serial line: CSV, JSON, Influx line protocol, bare numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import structlog

from edge_node.config_schema import SerialSource
from edge_node.sources.arrivals import Arrivals
from edge_node.sources.payloads import Decoder
from edge_node.sources.serial_port import GARBAGE_HINT, SerialPort
from firmware_bridge.lines import LineDamage, LineSplitter
from models.signal import Device, DropReason, Mode, SampleBlock

SHOWN = 60  # characters of a line, in the log

log = structlog.get_logger("linewatch.sources.serial")


class SerialLines(SerialPort):
    """The ``serial`` source with ``protocol = "lines"``. Raises ValueError for an unknown time zone."""

    def __init__(self, config: SerialSource, devices: Mapping[str, Device]) -> None:
        super().__init__(config, log)
        self._splitter = LineSplitter(config.max_payload_bytes)
        # A line is bounded by the splitter; what is decoded at once is what was read at once.
        self._decoder = Decoder(
            msgspec.structs.replace(config, max_payload_bytes=1 << 62), devices, device=config.device
        )
        self._arrivals = Arrivals(devices)
        # Where rows get their times one by one, lines that may lack a channel have to keep their order.
        ordered = devices[config.device].mode is Mode.IRREGULAR
        self._joins = config.format == "csv" or (config.format == "influx" and not ordered)

    def lost(self, why: str) -> None:
        self._splitter.reset()
        self._count_damage()
        super().lost(why)

    def received(self, data: bytes, mono_ns: int, utc_ns: int) -> None:
        counters = self._counters
        counters.n_bytes += len(data)
        lines = self._splitter.feed(data)
        counters.n_messages += len(lines)
        if self._splitter.damage:
            self._count_damage()
        came: list[SampleBlock] = []
        for payload in self._payloads(lines):
            blocks, refused = self._decoder.decode(payload, utc_ns)
            came += blocks
            for refusal in refused:
                counters.message_drops[refusal.reason] += 1
                line = refusal.line or payload.decode()  # which the splitter has found to be UTF-8
                self._fault(refusal.reason, f"line {_cut(line)}: {refusal.text}")
        for block in self._arrivals.spread(came, utc_ns):
            self._put(block)

    def _payloads(self, lines: list[bytes]) -> Iterator[bytes]:
        if not self._joins:
            yield from lines
        elif lines:
            yield b"\n".join(lines)

    def _count_damage(self) -> None:
        for damage, n in self._splitter.damage.items():
            self._counters.message_drops[DropReason(damage)] += n
            if damage in (LineDamage.OVERSIZE, LineDamage.MALFORMED):
                what = "lines without an end"
                if damage is LineDamage.MALFORMED:
                    what = f"lines that are no text, such as {_cut(self._splitter.no_text)}"
                self._fault(DropReason(damage), f"{what}: {GARBAGE_HINT}")
        self._splitter.damage.clear()


def _cut(line: str | bytes) -> str:
    """``line`` as a log may hold it: on one line, not long."""
    text = repr(line)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
