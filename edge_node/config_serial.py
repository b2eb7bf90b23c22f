"""Rules on serial lines and Modbus that no type can express."""

from __future__ import annotations

from collections.abc import Iterator

from edge_node.config_partial import Names
from edge_node.config_schema import ModbusSource, SerialSource
from edge_node.config_validation import Problem, nearest
from edge_node.sources.payload_spec import PayloadSpec
from edge_node.toml_positions import KeyPath

_NAMES = ("port", "usb_serial", "vid_pid", "by_path", "board")
_FOR_LINES = tuple(
    name for name in PayloadSpec.__struct_fields__ if name not in ("channels", "max_payload_bytes")
)
_DEFAULTS = PayloadSpec()


def check_serial(source: SerialSource, at: KeyPath, known: Names) -> Iterator[Problem]:
    """All that is wrong with one serial source; ``known``: device id -> channels."""
    if all(getattr(source, name) is None for name in _NAMES):
        text = (
            "which port? Give usb_serial, vid_pid, by_path, board (the serial number in its Hello) or port; "
            "`firmware-bridge list` shows what is there"
        )
        yield Problem(at, text)
    yield from _check_device(source.device, (*at, "device"), known)
    for channel, key in source.channels.items():
        yield from _check_channel(source.device, channel, (*at, "channels", channel), key, known)
    if source.reconnect_min_s > source.reconnect_max_s:
        text = f"expected at most reconnect_max_s = {source.reconnect_max_s:g}"
        yield Problem((*at, "reconnect_min_s"), text, source.reconnect_min_s, True)
    if source.protocol == "framed":
        for name in _FOR_LINES:
            if getattr(source, name) != getattr(_DEFAULTS, name):
                yield Problem((*at, name), 'is only for protocol = "lines", and this one is "framed"')
    elif source.board is not None:
        yield Problem((*at, "board"), 'is only for protocol = "framed": lines do not say whose they are')
    elif source.format == "packed":
        yield Problem((*at, "format"), "a packed block is no line of text", "packed", True)


def check_modbus(source: ModbusSource, at: KeyPath, known: Names) -> Iterator[Problem]:
    """All that is wrong with one Modbus source; ``known``: device id -> channels."""
    serial_names = [name for name in _NAMES[:4] if getattr(source, name) is not None]
    if (source.host is None) == (not serial_names):
        text = "give either host (Modbus TCP) or a serial port: port, usb_serial, vid_pid or by_path"
        yield Problem(at, text)
    if not source.register:
        yield Problem(at, "[[source.register]] is missing: what is to be read?")
    seen: set[tuple[str, str]] = set()
    for j, register in enumerate(source.register):
        where = (*at, "register", j)
        owner = (register.device, register.channel)
        yield from _check_device(register.device, (*where, "device"), known)
        yield from _check_channel(*owner, (*where, "channel"), register.channel, known)
        if owner in seen:
            text = f"another register of this source is this channel of {register.device} already"
            yield Problem((*where, "channel"), text, register.channel, True)
        seen.add(owner)
        if register.is_bit and register.type not in ("bit", "uint16"):
            yield Problem(
                (*where, "type"), f"function {register.function} reads single bits", register.type, True
            )
        if register.address + register.n_words > 65536:
            yield Problem((*where, "address"), "the value reaches beyond 65535", register.address, True)
        if register.scale == 0:
            yield Problem((*where, "scale"), "expected anything but 0", register.scale, True)


def _check_device(device: str, path: KeyPath, known: Names) -> Iterator[Problem]:
    if device not in known:
        yield Problem(path, f"there is no such device{nearest(device, known)}", device, True)


def _check_channel(device: str, channel: str, path: KeyPath, value: str, known: Names) -> Iterator[Problem]:
    if device in known and channel not in known[device]:
        text = f'device "{device}" has no such channel{nearest(channel, known[device])}'
        yield Problem(path, text, value, True)
