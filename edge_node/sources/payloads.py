"""What sensors send, as blocks: the payload formats and the one decoder in front of them.

Strategy: a :class:`Decoder` is built once per subscription from its :class:`PayloadSpec` and the devices;
``decode`` turns one payload into blocks of float32 in SI units. What cannot be read comes back as a value,
a :class:`Refusal` with a reason to count and a line to log: no payload raises.

Values that are not finite (NaN, infinities, JSON ``null``, the ``NaN`` literals that some encoders write,
numbers too large for float32) become NaN, a missing value, and are counted where samples are: by the
windowing.

This module is pure: the time of arrival is an argument.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
from line_protocol_parser import LineFormatError, parse_line
from numpy.typing import NDArray

from edge_node.sources.json_payload import JsonPayload, LayoutOf
from edge_node.sources.layout import (
    Layout,
    Refusal,
    TimeReader,
    Unreadable,
    number,
    rate_bounded,
    shown,
    text_number,
    uniform_block,
    untimed_block,
)
from edge_node.sources.payload_spec import PayloadSpec
from edge_node.sources.rows import Rows
from models.signal import Clock, Device, DropReason, SampleBlock

__all__ = ["PACKED_HEADER", "Decoder", "PayloadSpec", "Refusal", "encode_packed"]

# A packed float32 block: this header, then float32[n_rows, n_channels] row by row; everything little-endian.
#   bytes 0-2   b"LWB"
#   byte  3     version: 1
#   bytes 4-5   n_channels, uint16
#   bytes 6-7   flags, uint16: bit 0 set when the sender's clock is disciplined (NTP, PTP); the others 0
#   bytes 8-11  n_rows, uint32
#   bytes 12-19 sampling rate in Hz as a fraction: numerator, denominator, uint32 each
#   bytes 20-23 reserved: 0
#   bytes 24-31 Unix time of the first row in ns, int64; 0 when the sender has no clock
PACKED_HEADER = struct.Struct("<3sBHHIIIIq")
PACKED_MAGIC = b"LWB"
PACKED_VERSION = 1
PACKED_SYNCED = 1

_Decoded = tuple[list[SampleBlock], list[Refusal]]


class Decoder:
    """Decodes the payloads of one subscription.

    ``device`` and ``channel`` are fixed by the subscription, or None; ``renames`` maps the name of a device
    in the topic or the payload to its id. Raises ValueError for an unknown time zone.
    """

    def __init__(
        self,
        spec: PayloadSpec,
        devices: Mapping[str, Device],
        *,
        device: str | None = None,
        channel: str | None = None,
        renames: Mapping[str, str] | None = None,
    ) -> None:
        self._spec = spec
        self._devices = devices
        self._device = device
        self._channel = channel
        self._renames = dict(renames or {})
        self._channel_of = {key: name for name, key in spec.channels.items()}
        self._times = TimeReader(spec.time_unit, spec.timezone)
        self._layouts: dict[tuple[str, str | None], Layout] = {}
        formats: dict[str, Callable[[bytes, LayoutOf, int], _Decoded]] = {
            "json": JsonPayload(spec, self._times).decode,
            "number": self._number,
            "csv": self._csv,
            "influx": self._influx,
            "packed": self._packed,
        }
        self._read = formats[spec.format]

    def decode(
        self,
        payload: bytes,
        arrival_ns: int,
        *,
        device: str | None = None,
        channel: str | None = None,
        retained: bool = False,
    ) -> _Decoded:
        """Blocks of ``payload``, and what was refused; ``device`` and ``channel`` are what its topic says.

        A retained payload without a time of its own is refused: it was sent at some time before we
        subscribed.
        """
        spec = self._spec
        if len(payload) > spec.max_payload_bytes:
            text = f"{len(payload)} bytes, max_payload_bytes is {spec.max_payload_bytes}"
            return [], [Refusal(DropReason.OVERSIZE, text)]
        if not payload:
            return [], [Refusal(DropReason.MALFORMED, "an empty payload")]

        def layout_of(named: str | None) -> Layout:
            return self._layout(self._device or named or device, self._channel or channel)

        try:
            blocks, refused = self._read(payload, layout_of, arrival_ns)
        except Unreadable as error:
            return [], [error.refusal]
        if retained and any(b.clock is Clock.ARRIVAL for b in blocks):
            blocks = [b for b in blocks if b.clock is not Clock.ARRIVAL]
            refused.append(Refusal(DropReason.TOO_OLD, "retained, without a time of its own: of unknown age"))
        return blocks, refused

    def _layout(self, device: str | None, channel: str | None) -> Layout:
        if device is None:
            raise Unreadable(
                "no device: neither the topic nor the payload names one", DropReason.UNKNOWN_DEVICE
            )
        device = self._renames.get(device, device)
        layout = self._layouts.get((device, channel))
        if layout is not None:
            return layout
        known = self._devices.get(device)
        if known is None:
            raise Unreadable(f"no device {shown(device)} in the configuration", DropReason.UNKNOWN_DEVICE)
        keys = {
            name: self._spec.channels.get(name, name) for name in self._spec.channels or known.channel_names
        }
        if channel is not None:
            keys = {self._channel_of.get(channel, channel): self._spec.value_key}
        unknown = [name for name in keys if name not in known.channel_names]
        if unknown:
            text = (
                f"device {device} has no channel {shown(unknown[0])}: it has {', '.join(known.channel_names)}"
            )
            raise Unreadable(text, DropReason.UNKNOWN_CHANNEL)
        layout = self._layouts[device, channel] = Layout.of(known, keys)
        return layout

    def _number(self, payload: bytes, layout_of: LayoutOf, arrival_ns: int) -> _Decoded:
        layout = layout_of(None)
        if len(layout.channels) != 1:
            raise Unreadable(
                f"a bare number, and none of the channels {', '.join(layout.channels)} is named",
                DropReason.UNKNOWN_CHANNEL,
            )
        text = _text(payload).strip()
        if not text:
            raise Unreadable("an empty payload")
        value = text_number(text, layout.channels[0], self._spec)
        return [untimed_block(layout, np.array([[value]]), arrival_ns)], []

    def _csv(self, payload: bytes, layout_of: LayoutOf, arrival_ns: int) -> _Decoded:
        spec = self._spec
        lines = [line for line in _text(payload).splitlines() if line.strip()]
        columns = list(spec.columns)
        if spec.header and lines:
            columns = [cell.strip().strip('"') for cell in lines.pop(0).split(spec.separator)]
        rows = Rows(arrival_ns, spec.clock)
        for i, line in enumerate(lines, start=2 if spec.header else 1):
            try:
                self._csv_row(line.split(spec.separator), columns, layout_of, rows)
            except Unreadable as error:
                rows.refused.append(_of_line(error.refusal, i, line, lines))
        if not lines:
            raise Unreadable("no line of data")
        return rows.blocks(), rows.refused

    def _csv_row(self, cells: list[str], columns: list[str], layout_of: LayoutOf, rows: Rows) -> None:
        spec = self._spec
        named = None
        if spec.device_key is not None:
            named = cells[_position(columns, spec.device_key, cells)].strip()
        layout = layout_of(named)
        if not columns:
            columns = [spec.time_key, *layout.keys] if spec.time_key is not None else list(layout.keys)
        if len(cells) != len(columns):
            raise Unreadable(f"{len(cells)} columns, expected {len(columns)}: {spec.separator.join(columns)}")
        at = None
        if spec.time_key is not None:
            at = self._times.text(cells[_position(columns, spec.time_key, cells)])
        present = tuple(i for i, key in enumerate(layout.keys) if key in columns)
        if not present:
            raise Unreadable(f"no column of {', '.join(layout.keys)} among {shown(', '.join(columns))}")
        positions = [columns.index(layout.keys[i]) for i in present]
        written = [cells[p] for p in positions]
        try:
            joined = ",".join(written)
            if "_" in joined or not joined.isascii():
                raise ValueError("perhaps a number to Python alone")
            values = [float(text) for text in written]
        except ValueError:
            values = [text_number(cells[p].strip().strip('"'), columns[p], spec) for p in positions]
        rows.add(layout, present, at, values)

    def _influx(self, payload: bytes, layout_of: LayoutOf, arrival_ns: int) -> _Decoded:
        lines = [
            line for line in _text(payload).split("\n") if line.strip() and not line.lstrip().startswith("#")
        ]
        rows = Rows(arrival_ns, self._spec.clock)
        for i, line in enumerate(lines, start=1):
            try:
                self._influx_line(line.strip(), layout_of, rows)
            except Unreadable as error:
                rows.refused.append(_of_line(error.refusal, i, line, lines))
        if not lines:
            raise Unreadable("no line of data")
        return rows.blocks(), rows.refused

    def _influx_line(self, line: str, layout_of: LayoutOf, rows: Rows) -> None:
        spec = self._spec
        try:
            point = parse_line(line)
        except (LineFormatError, ValueError, OverflowError) as error:
            raise Unreadable(f"not line protocol: {error}") from None
        tags, fields, stamp = point["tags"], point["fields"], point["time"]
        if spec.measurement is not None and point["measurement"] != spec.measurement:
            return
        if any(tags.get(name) != value for name, value in spec.tags.items()):
            return
        named = None
        if spec.device_key is not None:
            named = tags.get(spec.device_key)
            if named is None:
                raise Unreadable(f"no tag {spec.device_key!r} that names the device")
        layout = layout_of(named)
        present = tuple(i for i, key in enumerate(layout.keys) if key in fields)
        if not present:
            raise Unreadable(f"no field of {', '.join(layout.keys)} among {shown(', '.join(fields))}")
        values = [self._influx_value(fields[layout.keys[i]], layout.keys[i]) for i in present]
        rows.add(layout, present, None if stamp is None else self._times.value(stamp), values)

    def _influx_value(self, value: object, key: str) -> float:
        if isinstance(
            value, bool
        ):  # t and f, true and false: text like any other until words say what it is worth
            return text_number("true" if value else "false", key, self._spec)
        return number(value, key, self._spec)

    def _packed(self, payload: bytes, layout_of: LayoutOf, arrival_ns: int) -> _Decoded:
        if len(payload) < PACKED_HEADER.size:
            raise Unreadable(f"{len(payload)} bytes, a packed block has a header of {PACKED_HEADER.size}")
        magic, version, n_channels, flags, n_rows, numerator, denominator, reserved, start_ns = (
            PACKED_HEADER.unpack_from(payload)
        )
        if magic != PACKED_MAGIC:
            raise Unreadable("not a packed block: it does not begin with 'LWB'")
        if version != PACKED_VERSION or flags & ~PACKED_SYNCED or reserved:
            raise Unreadable(
                f"a packed block of version {version}, flags {flags:#x}: this gateway reads version 1"
            )
        layout = layout_of(None)
        if n_channels != len(layout.channels):
            expected = f"expected {len(layout.channels)}: {', '.join(layout.channels)}"
            raise Unreadable(f"{n_channels} channels, {expected}")
        size = PACKED_HEADER.size + 4 * n_rows * n_channels
        if n_rows == 0 or len(payload) != size:
            raise Unreadable(f"{len(payload)} bytes, {n_rows} rows of {n_channels} channels are {size}")
        if numerator == 0 or denominator == 0:
            raise Unreadable(f"rate {numerator}/{denominator} Hz")
        rate = rate_bounded(Fraction(numerator, denominator))
        raw: NDArray[np.float32] = np.frombuffer(payload, dtype="<f4", offset=PACKED_HEADER.size)
        clock = Clock.SYNCED if flags & PACKED_SYNCED else self._spec.clock
        matrix = raw.reshape(n_rows, n_channels)
        return [uniform_block(layout, matrix, start_ns or None, rate, arrival_ns, clock)], []


def encode_packed(
    values: NDArray[np.floating], *, start_ns: int, rate_hz: Fraction, synced: bool = False
) -> bytes:
    """``values`` [n, c] as a packed float32 block, the payload that is fastest to read: what a sender
    writes."""
    matrix = np.ascontiguousarray(values, dtype="<f4")
    n_rows, n_channels = matrix.shape
    flags = PACKED_SYNCED if synced else 0
    rate = (rate_hz.numerator, rate_hz.denominator)
    header = PACKED_HEADER.pack(PACKED_MAGIC, PACKED_VERSION, n_channels, flags, n_rows, *rate, 0, start_ns)
    return header + matrix.tobytes()


def _text(payload: bytes) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 text: byte {error.start} is {payload[error.start]:#04x}") from None


def _of_line(refusal: Refusal, number: int, line: str, lines: list[str]) -> Refusal:
    return refusal if len(lines) == 1 else refusal._replace(number=number, line=line)


def _position(columns: list[str], name: str, cells: list[str]) -> int:
    """Where column ``name`` is; without column names the time comes first."""
    index = columns.index(name) if name in columns else -1
    if not 0 <= index < len(cells):
        raise Unreadable(f"no column {name!r} among {len(cells)} ({shown(', '.join(columns))})")
    return index
