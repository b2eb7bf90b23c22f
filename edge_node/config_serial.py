"""Rules on serial lines and Modbus that no type can express."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edge_node.config_payload import check_format
from edge_node.config_schema import ModbusSource, SerialSource
from edge_node.sources.payload_spec import PayloadSpec
from models.config_partial import Names
from models.config_validation import Problem, nearest
from models.toml_positions import KeyPath

_VID_PID = re.compile("[0-9a-fA-F]{4}:[0-9a-fA-F]{4}")
_NAMES = ("port", "usb_serial", "vid_pid", "by_path", "board")
_FOR_LINES = tuple(name for name in PayloadSpec.__struct_fields__ if name != "channels")


def check_serial(source: SerialSource, at: KeyPath, known: Names) -> Iterator[Problem]:
    """All that is wrong with one serial source; ``known``: device id -> channels."""
    if all(getattr(source, name) is None for name in _NAMES):
        text = (
            "which port? Give usb_serial, vid_pid, by_path, board (the serial number in its Hello) or port; "
            "`firmware-bridge list` shows what is there"
        )
        yield Problem(at, text)
    yield from _check_vid_pid(source.vid_pid, at)
    yield from _check_device(source.device, (*at, "device"), known)
    called: dict[str, str] = {}
    for channel, key in source.channels.items():
        path = (*at, "channels", channel)
        yield from _check_channel(source.device, channel, path, key, known)
        if key in called:
            yield Problem(path, f'is mapped to channel "{called[key]}" too', key, True)
        called.setdefault(key, channel)
    if source.reconnect_min_s > source.reconnect_max_s:
        text = f"expected at most reconnect_max_s = {source.reconnect_max_s:g}"
        yield Problem((*at, "reconnect_min_s"), text, source.reconnect_min_s, True)
    if source.protocol == "lines":
        yield from _check_lines(source, at, known)
        return
    defaults = SerialSource(device=source.device)
    for name in _FOR_LINES:
        if getattr(source, name) != getattr(defaults, name):
            yield Problem((*at, name), 'is only for protocol = "lines", and this one is "framed"')


def _check_lines(source: SerialSource, at: KeyPath, known: Names) -> Iterator[Problem]:
    if source.board is not None:
        yield Problem((*at, "board"), 'is only for protocol = "framed": lines do not say whose they are')
    if source.format == "packed":
        yield Problem((*at, "format"), "a packed block is no line of text", "packed", True)
        return
    yield from check_format(source, at)
    if source.device_key is not None:
        yield Problem((*at, "device_key"), "all lines of a port are of its device", source.device_key, True)
    if source.header:
        text = "who joins a line late has missed its first one: name the columns with columns = [...]"
        yield Problem((*at, "header"), text, True, True)
    n_channels = len(source.channels or known.get(source.device, ()))
    if source.format == "number" and n_channels > 1:
        text = f"a bare number is of one channel, and here are {n_channels}: name one in channels = {{...}}"
        yield Problem((*at, "format"), text, "number", True)


def check_ports(sources: Sequence[tuple[int, SerialSource | ModbusSource]]) -> Iterator[Problem]:
    """Two sources cannot have one port."""
    owners: dict[tuple[str, str], str] = {}
    for i, source in sources:
        for key in ("port", "usb_serial", "by_path"):
            value = getattr(source, key)
            if value is None:
                continue
            if (key, value) in owners:
                text = f'source "{owners[key, value]}" has this port already'
                yield Problem(("source", i, key), text, value, True)
            owners.setdefault((key, value), source.name)


def check_modbus(source: ModbusSource, at: KeyPath, known: Names) -> Iterator[Problem]:
    """All that is wrong with one Modbus source; ``known``: device id -> channels."""
    serial_names = [name for name in _NAMES[:4] if getattr(source, name) is not None]
    if (source.host is None) == (not serial_names):
        text = "give either host (Modbus TCP) or a serial port: port, usb_serial, vid_pid or by_path"
        yield Problem(at, text)
    elif source.host is not None:
        yield from _check_unset(source, ("baud", "parity", "stop_bits"), at, "a serial line, and this is TCP")
    else:
        yield from _check_unset(source, ("tcp_port",), at, "host, and this is a serial line")
    yield from _check_vid_pid(source.vid_pid, at)
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
        if source.host is None and register.slave == 0:
            text = "no slave of a serial line has this number: 0 calls them all, and none answers"
            yield Problem((*where, "slave"), text, 0, True)
        if register.counter and (register.is_bit or register.type == "bit"):
            yield Problem((*where, "counter"), "a single bit counts nothing")
        if register.scale == 0:
            yield Problem((*where, "scale"), "expected anything but 0", register.scale, True)


def _check_unset(source: ModbusSource, names: Sequence[str], at: KeyPath, what: str) -> Iterator[Problem]:
    """Nobody shall think that an option does something here that only does so elsewhere."""
    for name in names:
        if getattr(source, name) != getattr(ModbusSource(), name):
            yield Problem((*at, name), f"is only for {what}", getattr(source, name), True)


def _check_vid_pid(value: str | None, at: KeyPath) -> Iterator[Problem]:
    if value is not None and not _VID_PID.fullmatch(value):
        text = 'expected vendor and product as lsusb shows them, such as "1a86:7523"'
        yield Problem((*at, "vid_pid"), text, value, True)


def _check_device(device: str, path: KeyPath, known: Names) -> Iterator[Problem]:
    if device not in known:
        yield Problem(path, f"there is no such device{nearest(device, known)}", device, True)


def _check_channel(device: str, channel: str, path: KeyPath, value: str, known: Names) -> Iterator[Problem]:
    if device in known and channel not in known[device]:
        text = f'device "{device}" has no such channel{nearest(channel, known[device])}'
        yield Problem(path, text, value, True)
