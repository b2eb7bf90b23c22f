"""How a board's columns become a device's channels: by name, scaled by both. This module is pure."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fractions import Fraction

import numpy as np

from edge_node.sources.layout import Layout
from firmware_bridge.protocol import Hello
from models.signal import Device, DropReason, Mode


class BoardMismatch(Exception):
    """The board does not send what the device is configured for; one line that says what to change, and what its
    samples are dropped as."""

    def __init__(self, text: str, reason: DropReason) -> None:
        super().__init__(text)
        self.reason = reason


def layout_of(
    device: Device, hello: Hello, names: Mapping[str, str]
) -> tuple[tuple[Layout, list[int]], list[str]]:
    """((layout that scales the board's counts to the device's SI values, which of the board's columns it takes), what
    a person should know in one line each). ``names``: channel -> what the board calls it; empty: its own name.

    BoardMismatch where a channel is missing, or the rates differ.
    """
    columns = {channel.name: i for i, channel in enumerate(hello.channels)}
    chosen = {c.name: names.get(c.name, c.name) for c in device.channels if not names or c.name in names}
    missing = [key for key in chosen.values() if key not in columns]
    if missing:
        near = get_close_matches(missing[0], columns, n=1, cutoff=0.5)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise BoardMismatch(
            f'device {device.device_id}: board {hello.serial} has no channel "{missing[0]}": it has '
            f'{", ".join(columns)}{hint} (map it with channels = {{channel = "name on the board"}})',
            DropReason.UNKNOWN_CHANNEL,
        )
    if hello.rate_hz is not None and device.mode is not Mode.IRREGULAR and hello.rate_hz != device.rate_hz:
        raise BoardMismatch(
            f"device {device.device_id}: board {hello.serial} samples at {_hz(hello.rate_hz)}, the configuration says "
            f"rate_hz = {_hz(device.rate_hz).removesuffix(' Hz')}",
            DropReason.WRONG_RATE,
        )
    taken = [columns[key] for key in chosen.values()]
    layout = Layout.of(device, chosen)
    scale = np.array([hello.channels[i].scale for i in taken])
    offset = np.array([hello.channels[i].offset for i in taken])
    combined = Layout.scaled(
        device, layout.channels, layout.keys, scale * layout.scale, offset * layout.scale + layout.shift
    )
    units = {c.name: c.unit for c in device.channels}
    plain = {c.name: c.scale == 1.0 for c in device.channels}
    remarks = [
        f'device {device.device_id}: channel "{name}" is in {units[name]} by the configuration, in '
        f"{hello.channels[i].unit} by the board: set its unit, or a scale"
        for name, i in zip(layout.channels, taken, strict=True)
        if plain[name] and units[name] and hello.channels[i].unit and units[name] != hello.channels[i].unit
    ]
    unused = [c.name for i, c in enumerate(hello.channels) if i not in taken]
    if unused:
        remarks.append(f"device {device.device_id}: not used of what the board sends: {', '.join(unused)}")
    return (combined, taken), remarks


def _hz(rate: Fraction) -> str:
    return f"{float(rate):g} Hz"
