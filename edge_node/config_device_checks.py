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
from models.config_partial import as_far_as_known, given
from models.config_validation import Problem, nearest, show
from models.sensor_checks import LimitSpec
from models.signal import Channel, Mode
from models.topics import GATEWAY_DEVICE, check_level


def check_device(section: DeviceSection, known: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    """All that no type can say about ``section``, of which parts may be UNKNOWN. Paths start at the device; ``known``:
    device id -> channels."""
    yield from as_far_as_known(
        _check_id(section),
        _check_channels(section),
        _check_rate(section),
        _check_lengths(section),
        _check_limits(section),
        _check_budget(section),
        _check_alert(section),
        _check_active(section, known),
        _check_cloud(section),
    )


def _check_id(section: DeviceSection) -> Iterator[Problem]:
    if section.id == GATEWAY_DEVICE:
        yield Problem(("id",), "this name stands for the gateway itself", section.id, True)
    try:
        check_level(section.id, "a device id")
    except ValueError as error:
        yield Problem(("id",), str(error), section.id, True)


def _check_budget(section: DeviceSection) -> Iterator[Problem]:
    if given(section.alerts_per_week) and given(section.p_threshold):
        yield Problem(("p_threshold",), "give either this or alerts_per_week", section.p_threshold, True)


def _check_alert(section: DeviceSection) -> Iterator[Problem]:
    if section.alert.n_raise > section.alert.m_raise:
        text = f"expected at most m_raise = {section.alert.m_raise}"
        yield Problem(("alert", "n_raise"), text, section.alert.n_raise, True)


def _check_active(section: DeviceSection, known: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    if section.active_when.strip():
        try:
            parse_condition(section.active_when, known)
        except ValueError as error:
            yield Problem(("active_when",), str(error), section.active_when, True)


def _check_cloud(section: DeviceSection) -> Iterator[Problem]:
    if section.cloud == "fallback" and section.privacy != "features":
        text = (
            f"features would leave this gateway, which privacy = {show(section.privacy)} forbids: "
            'set privacy = "features", or cloud = "never"'
        )
        yield Problem(("cloud",), text, section.cloud, True)


def _check_channels(section: DeviceSection) -> Iterator[Problem]:
    if not section.channels:
        yield Problem((), "channels is missing: expected a list of at least one channel")
    seen: set[str] = set()
    for i, channel in enumerate(channels_of(section)):
        at: Rest = ("channels", i)
        yield from as_far_as_known(
            _check_name(channel, at, seen), _check_scaling(channel, at), _check_ranges(channel, at)
        )


def _check_name(channel: Channel, at: Rest, seen: set[str]) -> Iterator[Problem]:
    if not channel.name:
        yield Problem(at, "a channel needs a name", channel.name, True)
    if channel.name in seen:
        yield Problem(at, f'channel "{channel.name}" is listed twice')
    seen.add(channel.name)


def _check_scaling(channel: Channel, at: Rest) -> Iterator[Problem]:
    if channel.scale == 0:
        yield Problem((*at, "scale"), "expected a number other than 0", channel.scale, True)


def _check_ranges(channel: Channel, at: Rest) -> Iterator[Problem]:
    for key in ("full_scale", "stuck_s"):
        number = getattr(channel, key)
        if given(number) and number <= 0:
            yield Problem((*at, key), "expected a number above 0", number, True)
    if given(channel.valid_range) and not channel.valid_range[0] < channel.valid_range[1]:
        value = list(channel.valid_range)
        yield Problem((*at, "valid_range"), "expected [low, high] with low below high", value, True)


def _check_rate(section: DeviceSection) -> Iterator[Problem]:
    bursts = mode_of(section) == Mode.BURST
    if bursts and not given(section.interval_s):
        yield Problem(
            (), "interval_s is missing: expected the seconds from one record of a burst to the next"
        )
    if not bursts and given(section.rate_hz) and given(section.interval_s):
        text = 'give either this or rate_hz (both only with mode = "burst")'
        yield Problem(("interval_s",), text, section.interval_s, True)
    if rate_of(section) is None:
        what = "rate_hz is missing" if bursts else "rate_hz or interval_s is missing"
        yield Problem((), f"{what}: how often does the device sample?")
    elif (
        bursts
        and section.model in (None, NO_MODEL)
        and not given(section.window)
        and not given(section.window_s)
    ):
        yield Problem((), "window is missing: expected the samples of one record of a burst")


def _check_lengths(section: DeviceSection) -> Iterator[Problem]:
    for key in ("window", "hop"):
        if given(getattr(section, key)) and given(getattr(section, f"{key}_s")):
            yield Problem((f"{key}_s",), f"give either this or {key}", getattr(section, f"{key}_s"), True)
    rate_hz = rate_of(section)
    if rate_hz is None:
        return
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
        key = "hop" if given(section.hop) else "hop_s"
        text = f"expected at most the window, {lengths['window']} samples"
        yield Problem((key,), text, getattr(section, key), True)


def _check_limits(section: DeviceSection) -> Iterator[Problem]:
    seen: set[str] = set()
    for i, limit in enumerate(section.limit):
        at: Rest = ("limit", i)
        yield from as_far_as_known(
            _check_limit_name(limit, at, seen),
            _check_limit_channel(limit, at, section),
            _check_limit_bounds(limit, at),
        )


def _check_limit_name(limit: LimitSpec, at: Rest, seen: set[str]) -> Iterator[Problem]:
    if limit.name in seen:
        yield Problem((*at, "name"), "another limit of this device has this name", limit.name, True)
    seen.add(limit.name)


def _check_limit_channel(limit: LimitSpec, at: Rest, section: DeviceSection) -> Iterator[Problem]:
    channels = [c.name for c in channels_of(section)]
    if limit.channel not in channels:
        text = f'device "{section.id}" has no such channel{nearest(limit.channel, channels)}'
        yield Problem((*at, "channel"), text, limit.channel, True)


def _check_limit_bounds(limit: LimitSpec, at: Rest) -> Iterator[Problem]:
    if not given(limit.above) and not given(limit.below):
        yield Problem(at, "above or below is missing: expected a number")
    elif given(limit.above) and given(limit.below) and limit.above <= limit.below:
        text = f"nothing could be allowed: expected more than below = {show(limit.below)}"
        yield Problem((*at, "above"), text, limit.above, True)
