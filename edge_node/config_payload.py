"""Rules on how payloads are written that no type can express: what belongs to which format."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_node.sources.payload_spec import PayloadSpec
from models.config_partial import as_far_as_known, given, sure
from models.config_validation import Problem
from models.toml_positions import KeyPath

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
    """Options that do not go with the format, or with each other; parts of ``spec`` may be UNKNOWN."""
    yield from as_far_as_known(
        _check_options(spec, at),
        _check_rate(spec, at),
        _check_time(spec, at),
        check_timezone(spec.timezone, at),
    )


def _check_options(spec: PayloadSpec, at: KeyPath) -> Iterator[Problem]:
    for key, wanted in _ONLY_FOR.items():
        if spec.format not in wanted and getattr(spec, key) != getattr(_DEFAULTS, key):
            formats = " or ".join(f'"{name}"' for name in wanted)
            text = f'is only for format = {formats}, and this one is "{spec.format}"'
            yield Problem((*at, key), text)


def _check_rate(spec: PayloadSpec, at: KeyPath) -> Iterator[Problem]:
    ways = [key for key in ("rate_key", "period_key", "rate_hz") if given(getattr(spec, key))]
    if len(ways) > 1:
        yield Problem((*at, ways[1]), f"give either this or {ways[0]}")


def _check_time(spec: PayloadSpec, at: KeyPath) -> Iterator[Problem]:
    if given(spec.timezone) and spec.time_unit != "iso":
        yield Problem((*at, "timezone"), 'is only for time_unit = "iso"', spec.timezone, True)


def check_timezone(name: str | None, at: KeyPath) -> Iterator[Problem]:
    """That the time zone at ``at`` is one, where there is one."""
    if name is None:
        return
    try:
        ZoneInfo(sure(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        text = 'unknown time zone: expected a name such as "Europe/Berlin" or "UTC"'
        yield Problem((*at, "timezone"), text, name, True)
