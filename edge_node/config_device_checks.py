"""Rules on one ``[[device]]`` that no type can express."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_node.config_devices import (
    NO_MODEL,
    Rest,
    channels_of,
    in_samples,
    mode_of,
    parse_condition,
    rate_of,
)
from edge_node.config_schema import DeviceSection
from edge_node.config_validation import Problem, nearest, show
from models.signal import Mode
from models.topics import GATEWAY_DEVICE, check_level


def check_device(section: DeviceSection, known: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    """All that no type can say about ``section``. Paths start at the device; ``known``: device id ->
    channels."""
    if section.id == GATEWAY_DEVICE:
        yield Problem(("id",), "this name stands for the gateway itself", section.id, True)
    try:
        check_level(section.id, "a device id")
    except ValueError as error:
        yield Problem(("id",), str(error), section.id, True)
    yield from _check_channels(section)
    yield from _check_sampling(section)
    yield from _check_limits(section)
    if section.alerts_per_week is not None and section.p_threshold is not None:
        yield Problem(("p_threshold",), "give either this or alerts_per_week", section.p_threshold, True)
    if section.alert.n_raise > section.alert.m_raise:
        text = f"expected at most m_raise = {section.alert.m_raise}"
        yield Problem(("alert", "n_raise"), text, section.alert.n_raise, True)
    if section.active_when.strip():
        try:
            parse_condition(section.active_when, known)
        except ValueError as error:
            yield Problem(("active_when",), str(error), section.active_when, True)


def _check_channels(section: DeviceSection) -> Iterator[Problem]:
    if not section.channels:
        yield Problem((), "channels is missing: expected a list of at least one channel")
    seen: set[str] = set()
    for i, channel in enumerate(channels_of(section)):
        at: Rest = ("channels", i)
        if not channel.name:
            yield Problem(at, "a channel needs a name", channel.name, True)
        if channel.name in seen:
            yield Problem(at, f'channel "{channel.name}" is listed twice')
        seen.add(channel.name)
        if channel.scale == 0:
            yield Problem((*at, "scale"), "expected a number other than 0", channel.scale, True)
        if channel.valid_range is not None and not channel.valid_range[0] < channel.valid_range[1]:
            value = list(channel.valid_range)
            yield Problem((*at, "valid_range"), "expected [low, high] with low below high", value, True)
        for key in ("full_scale", "stuck_s"):
            number = getattr(channel, key)
            if number is not None and number <= 0:
                yield Problem((*at, key), "expected a number above 0", number, True)


def _check_sampling(section: DeviceSection) -> Iterator[Problem]:
    mode = mode_of(section)
    rate_hz = rate_of(section)
    if mode is Mode.BURST and section.interval_s is None:
        yield Problem(
            (), "interval_s is missing: expected the seconds from one record of a burst to the next"
        )
    if mode is not Mode.BURST and section.rate_hz is not None and section.interval_s is not None:
        text = 'give either this or rate_hz (both only with mode = "burst")'
        yield Problem(("interval_s",), text, section.interval_s, True)
    for key in ("window", "hop"):
        if getattr(section, key) is not None and getattr(section, f"{key}_s") is not None:
            yield Problem((f"{key}_s",), f"give either this or {key}", getattr(section, f"{key}_s"), True)
    if rate_hz is None:
        what = "rate_hz is missing" if mode is Mode.BURST else "rate_hz or interval_s is missing"
        yield Problem((), f"{what}: how often does the device sample?")
        return
    if mode is Mode.BURST and section.model in (None, NO_MODEL) and section.window is section.window_s:
        yield Problem((), "window is missing: expected the samples of one record of a burst")
    lengths: dict[str, int] = {}
    for key in ("window", "hop"):
        seconds = getattr(section, f"{key}_s")
        try:
            length = in_samples(getattr(section, key), seconds, rate_hz)
        except ValueError as error:
            yield Problem((f"{key}_s",), str(error), seconds, True)
            continue
        if length is not None:
            lengths[key] = length
    if lengths.get("window", 2) < 2:
        yield Problem(("window_s",), "is 1 sample: expected at least 2", section.window_s, True)
    if "window" in lengths and lengths.get("hop", 1) > lengths["window"]:
        key = "hop" if section.hop is not None else "hop_s"
        text = f"expected at most the window, {lengths['window']} samples"
        yield Problem((key,), text, getattr(section, key), True)


def _check_limits(section: DeviceSection) -> Iterator[Problem]:
    channels = [c.name for c in channels_of(section)]
    seen: set[str] = set()
    for i, limit in enumerate(section.limit):
        at: Rest = ("limit", i)
        if limit.name in seen:
            yield Problem((*at, "name"), "another limit of this device has this name", limit.name, True)
        seen.add(limit.name)
        if limit.channel not in channels:
            text = f'device "{section.id}" has no such channel{nearest(limit.channel, channels)}'
            yield Problem((*at, "channel"), text, limit.channel, True)
        if limit.above is None and limit.below is None:
            yield Problem(at, "above or below is missing: expected a number")
        elif limit.above is not None and limit.below is not None and limit.above <= limit.below:
            text = f"nothing could be allowed: expected more than below = {show(limit.below)}"
            yield Problem((*at, "above"), text, limit.above, True)
