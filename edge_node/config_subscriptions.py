"""Rules on one ``[[source.subscribe]]`` that no type can express."""

from __future__ import annotations

from collections.abc import Iterator

from edge_node.config_payload import check_format
from edge_node.config_schema import CHANNEL_LEVEL, DEVICE_LEVEL, MqttSubscription
from models.config_partial import Names, as_far_as_known, given
from models.config_validation import Problem, nearest
from models.toml_positions import KeyPath


def check_subscription(
    sub: MqttSubscription, at: KeyPath, known: Names, mapped: dict[tuple[str, str], str]
) -> Iterator[Problem]:
    """All that no type can say about ``sub``, of which parts may be UNKNOWN. ``known``: device id -> its channels;
    ``mapped``: (device, channel) -> the topic that brings it, to which those of ``sub`` are added."""
    yield from as_far_as_known(
        _check_topic(sub, (*at, "topic")),
        _check_ways(sub, at),
        _check_device(sub, at, known),
        _check_devices(sub, at, known),
        _check_channel(sub, at),
        _check_channels(sub, at, known),
        check_format(sub, at),
        _check_mapped(sub, at, mapped),
    )


def unknown_device(path: KeyPath, name: str, known: Names) -> Problem:
    """That there is no device ``name``, as said at ``path``."""
    return Problem(path, f"there is no such device{nearest(name, known)}", name, True)


def _check_ways(sub: MqttSubscription, at: KeyPath) -> Iterator[Problem]:
    levels = sub.topic.split("/")
    n_ways = given(sub.device) + (DEVICE_LEVEL in levels) + given(sub.device_key)
    if n_ways == 0 and any(_is_misplaced(level) for level in levels):
        return  # perhaps that was to name it
    if n_ways == 0:
        yield Problem(at, "device is missing: give device, device_key or a {device} level in the topic")
    elif n_ways > 1:
        key = "device" if given(sub.device) else "device_key"
        text = "the device is named twice: give one of device, device_key and a {device} level in the topic"
        yield Problem((*at, key), text, getattr(sub, key), True)


def _check_device(sub: MqttSubscription, at: KeyPath, known: Names) -> Iterator[Problem]:
    if given(sub.device) and sub.device not in known:
        yield unknown_device((*at, "device"), sub.device, known)


def _check_devices(sub: MqttSubscription, at: KeyPath, known: Names) -> Iterator[Problem]:
    if sub.devices and given(sub.device):
        text = "renames devices found in topics or payloads: of no use beside device"
        yield Problem((*at, "devices"), text)
    for name, device in sub.devices.items():
        if device not in known:
            yield unknown_device((*at, "devices", name), device, known)


def _check_topic(sub: MqttSubscription, path: KeyPath) -> Iterator[Problem]:
    levels = sub.topic.split("/")
    for i, level in enumerate(levels):
        if level == "#" and i < len(levels) - 1:
            yield Problem(path, '"#" may only be the last level', sub.topic, True)
        elif _is_misplaced(level):
            text = f'"{level}" is no level of a topic: "+", "#", "{{device}}" and "{{channel}}" stand alone'
            yield Problem(path, text, sub.topic, True)
    for level in (DEVICE_LEVEL, CHANNEL_LEVEL):
        if levels.count(level) > 1:
            yield Problem(path, f"{level} may stand for one level only", sub.topic, True)


def _is_misplaced(level: str) -> bool:
    """Whether a level holds what only a whole level may be."""
    return level not in ("#", "+", DEVICE_LEVEL, CHANNEL_LEVEL) and bool(set(level) & set("#+{}"))


def _check_channel(sub: MqttSubscription, at: KeyPath) -> Iterator[Problem]:
    by_level = CHANNEL_LEVEL in sub.topic.split("/")
    if given(sub.channel) and by_level:
        text = "the channel is named twice: give either this or a {channel} level in the topic"
        yield Problem((*at, "channel"), text, sub.channel, True)
    if sub.format == "number" and not given(sub.channel) and not by_level:
        text = "channel is missing: give channel or a {channel} level in the topic for a bare number"
        yield Problem(at, text)


def _check_channels(sub: MqttSubscription, at: KeyPath, known: Names) -> Iterator[Problem]:
    if given(sub.device):
        candidates = known.get(sub.device)
        owner = f'device "{sub.device}" has'
    else:
        candidates = tuple(dict.fromkeys(c for channels in known.values() for c in channels))
        owner = "no device has"
    if candidates is None:
        return
    owner += " no such channel" if given(sub.device) else " such a channel"
    if given(sub.channel) and sub.channel not in candidates:
        yield Problem((*at, "channel"), owner + nearest(sub.channel, candidates), sub.channel, True)
    seen: dict[str, str] = {}
    for channel, key in sub.channels.items():
        if channel not in candidates:
            yield Problem((*at, "channels", channel), owner + nearest(channel, candidates), key, True)
        elif key in seen:
            yield Problem((*at, "channels", channel), f'is mapped to channel "{seen[key]}" too', key, True)
        seen.setdefault(key, channel)


def _check_mapped(
    sub: MqttSubscription, at: KeyPath, mapped: dict[tuple[str, str], str]
) -> Iterator[Problem]:
    """A channel of a named device may come from one subscription only: two would mix their samples."""
    if not given(sub.device):
        return
    explicit = {c: (*at, "channels", c) for c in sub.channels}
    for channel, path in ({sub.channel: (*at, "channel")} if given(sub.channel) else explicit).items():
        owner = (sub.device, channel)
        if owner in mapped:
            text = (
                f'channel "{channel}" of device "{sub.device}" is already mapped from topic "{mapped[owner]}"'
            )
            yield Problem(path, text)
        mapped.setdefault(owner, sub.topic)
