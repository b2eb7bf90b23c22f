"""Rules on serial lines that no type can express."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_node.config_schema import SerialSource
from edge_node.config_validation import Problem, nearest
from edge_node.sources.payload_spec import PayloadSpec
from edge_node.toml_positions import KeyPath

Channels = Mapping[str, tuple[str, ...]]  # device id -> its channels

_NAMES = ("port", "usb_serial", "vid_pid", "by_path", "board")
_FOR_LINES = tuple(
    name for name in PayloadSpec.__struct_fields__ if name not in ("channels", "max_payload_bytes")
)
_DEFAULTS = PayloadSpec()


def check_serial(source: SerialSource, at: KeyPath, known: Channels) -> Iterator[Problem]:
    """All that is wrong with one serial source; ``known``: device id -> channels."""
    if all(getattr(source, name) is None for name in _NAMES):
        text = (
            "which port? Give usb_serial, vid_pid, by_path, board (the serial number in its Hello) or port; "
            "`firmware-bridge list` shows what is there"
        )
        yield Problem(at, text)
    if source.device not in known:
        text = f"there is no such device{nearest(source.device, known)}"
        yield Problem((*at, "device"), text, source.device, True)
    for channel, key in source.channels.items():
        if source.device in known and channel not in known[source.device]:
            text = f'device "{source.device}" has no such channel{nearest(channel, known[source.device])}'
            yield Problem((*at, "channels", channel), text, key, True)
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
