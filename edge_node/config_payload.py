"""Rules on how payloads are written that no type can express: what belongs to which format."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_node.config_validation import Problem
from edge_node.sources.payload_spec import PayloadSpec
from edge_node.toml_positions import KeyPath

# Options of some formats: given with another they would be ignored, so they are refused.
_ONLY_FOR = {
    "time_key": ("json", "csv"),
    "device_key": ("json", "csv", "influx"),
    "rate_key": ("json",),
    "period_key": ("json",),
    "rows_key": ("json",),
    "value_key": ("json",),
    "columns": ("csv",),
    "header": ("csv",),
    "separator": ("csv",),
    "measurement": ("influx",),
    "tags": ("influx",),
}
_DEFAULTS = PayloadSpec()


def check_format(spec: PayloadSpec, at: KeyPath) -> Iterator[Problem]:
    """Options that do not go with the format, or with each other."""
    for key, wanted in _ONLY_FOR.items():
        if spec.format not in wanted and getattr(spec, key) != getattr(_DEFAULTS, key):
            formats = " or ".join(f'"{name}"' for name in wanted)
            text = f'is only for format = {formats}, and this one is "{spec.format}"'
            yield Problem((*at, key), text)
    given = [k for k in ("rate_key", "period_key", "rate_hz") if getattr(spec, k) is not None]
    if len(given) > 1:
        yield Problem((*at, given[1]), f"give either this or {given[0]}")
    if spec.timezone is not None and spec.time_unit != "iso":
        yield Problem((*at, "timezone"), 'is only for time_unit = "iso"', spec.timezone, True)
    yield from check_timezone(spec.timezone, at)


def check_timezone(name: str | None, at: KeyPath) -> Iterator[Problem]:
    if name is None:
        return
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        text = 'unknown time zone: expected a name such as "Europe/Berlin" or "UTC"'
        yield Problem((*at, "timezone"), text, name, True)
