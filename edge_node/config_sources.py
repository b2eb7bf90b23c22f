"""Rules on brokers, subscriptions and recorded logs that no type can express."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from glob import glob

from edge_node.config_payload import check_format, check_timezone
from edge_node.config_schema import (
    CHANNEL_LEVEL,
    DEVICE_LEVEL,
    Broker,
    ModbusSource,
    MqttSubscription,
    ReplaySource,
    SerialSource,
    Source,
    Uplink,
)
from edge_node.config_serial import check_modbus, check_ports, check_serial
from edge_node.config_validation import Problem, nearest
from edge_node.toml_positions import KeyPath
from models.topics import check_level, filters_overlap

Channels = Mapping[str, tuple[str, ...]]  # device id -> its channels

_LOCAL = ("localhost", "127.0.0.1", "::1")


def check_broker(broker: Broker, path: KeyPath) -> Iterator[Problem]:
    """Credentials and certificates: present, readable and complete."""
    file, variable = broker.password_file, broker.password_env
    if file is not None and variable is not None:
        yield Problem((*path, "password_env"), "give either this or password_file", variable, True)
    if (file is not None or variable is not None) and broker.username is None:
        yield Problem(path, "username is missing: a password needs one")
    try:
        read_password(broker)
    except ValueError as error:
        key, value = ("password_file", str(file)) if file is not None else ("password_env", variable)
        yield Problem((*path, key), str(error), value, True)
    if broker.tls is not None:
        for key in ("ca_file", "cert_file", "key_file"):
            given = getattr(broker.tls, key)
            if given is not None and not os.access(given, os.R_OK):
                yield Problem((*path, "tls", key), "this file cannot be read", str(given), True)
        if broker.tls.key_file is not None and broker.tls.cert_file is None:
            yield Problem((*path, "tls"), "cert_file is missing: a key_file needs one")
    if broker.reconnect_min_s > broker.reconnect_max_s:
        text = f"expected at most reconnect_max_s = {broker.reconnect_max_s:g}"
        yield Problem((*path, "reconnect_min_s"), text, broker.reconnect_min_s, True)


def read_password(broker: Broker) -> str | None:
    """The broker's password, read now; None where it has none. ValueError, without the password, when it
    cannot be read."""
    if broker.password_file is not None:
        try:
            text = broker.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"this file cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("this file is not UTF-8 text") from None
        if not text:
            raise ValueError("this file is empty")
        return text
    if broker.password_env is not None:
        value = os.environ.get(broker.password_env)
        if not value:
            raise ValueError("this environment variable is not set")
        return value
    return None


def check_uplink(uplink: Uplink) -> Iterator[Problem]:
    yield from check_broker(uplink, ("uplink",))
    for level in uplink.prefix.split("/"):
        try:
            check_level(level, "a level of the prefix")
        except ValueError as error:
            yield Problem(("uplink", "prefix"), str(error), uplink.prefix, True)


def check_sources(
    sources: Sequence[tuple[int, Source]], uplink: Uplink | None, known: Channels
) -> Iterator[Problem]:
    """All that is wrong with the sources and between them; ``known``: device id -> channels."""
    yield from check_ports([(i, s) for i, s in sources if isinstance(s, SerialSource | ModbusSource)])
    names: set[str] = set()
    mapped: dict[tuple[str, str], str] = {}
    for i, source in sources:
        at: KeyPath = ("source", i)
        if source.name in names:
            text = "another source has this name; give each a name of its own"
            yield Problem((*at, "name"), text, source.name, True)
        names.add(source.name)
        if isinstance(source, ReplaySource):
            yield from _check_replay(source, at, known)
            continue
        if isinstance(source, SerialSource):
            yield from check_serial(source, at, known)
            continue
        if isinstance(source, ModbusSource):
            yield from check_modbus(source, at, known)
            continue
        yield from check_broker(source, at)
        if not source.subscribe:
            yield Problem(at, "[[source.subscribe]] is missing: which topics does this broker have?")
        shared = uplink if uplink is not None and same_broker(source, uplink) else None
        if shared is not None and source.client_id is not None and source.client_id == shared.client_id:
            text = "the uplink has this id on the same broker; each connection needs its own"
            yield Problem((*at, "client_id"), text, source.client_id, True)
        for j, subscription in enumerate(source.subscribe):
            where = (*at, "subscribe", j)
            yield from _check_subscription(subscription, where, known)
            yield from _check_mapped(subscription, where, mapped)
            if shared is not None and filters_overlap(subscription.filter, f"{shared.prefix}/#"):
                text = f'overlaps what the uplink publishes on the same broker, "{shared.prefix}/#"'
                yield Problem((*where, "topic"), text, subscription.topic, True)


def same_broker(a: Broker, b: Broker) -> bool:
    """Whether both are the same address, as far as names tell."""
    (one, port), (two, other) = a.address, b.address
    local = one.lower() in _LOCAL and two.lower() in _LOCAL
    return port == other and (local or one.lower() == two.lower())


def _check_replay(source: ReplaySource, at: KeyPath, known: Channels) -> Iterator[Problem]:
    if not source.paths:
        yield Problem((*at, "paths"), "expected at least one file", [], True)
    for k, path in enumerate(source.paths):
        if not glob(str(path), recursive=True):
            yield Problem((*at, "paths", k), "there is no such file", str(path), True)
    if source.device_id is not None and source.device_id not in known:
        yield _unknown_device((*at, "device_id"), source.device_id, known)
    yield from check_timezone(source.timezone, at)


def _unknown_device(path: KeyPath, name: str, known: Channels) -> Problem:
    return Problem(path, f"there is no such device{nearest(name, known)}", name, True)


def _check_subscription(sub: MqttSubscription, at: KeyPath, known: Channels) -> Iterator[Problem]:
    yield from _check_topic(sub, (*at, "topic"))
    levels = sub.topic.split("/")
    by_level = DEVICE_LEVEL in levels
    n_ways = (sub.device is not None) + by_level + (sub.device_key is not None)
    if n_ways == 0:
        yield Problem(at, "device is missing: give device, device_key or a {device} level in the topic")
    elif n_ways > 1:
        key = "device" if sub.device is not None else "device_key"
        text = "the device is named twice: give one of device, device_key and a {device} level in the topic"
        yield Problem((*at, key), text, getattr(sub, key), True)
    if sub.devices and sub.device is not None:
        text = "renames devices found in topics or payloads: of no use beside device"
        yield Problem((*at, "devices"), text)
    if sub.device is not None and sub.device not in known:
        yield _unknown_device((*at, "device"), sub.device, known)
    for name, device in sub.devices.items():
        if device not in known:
            yield _unknown_device((*at, "devices", name), device, known)
    yield from _check_channels(sub, at, known)
    yield from check_format(sub, at)


def _check_topic(sub: MqttSubscription, path: KeyPath) -> Iterator[Problem]:
    levels = sub.topic.split("/")
    for i, level in enumerate(levels):
        if level == "#" and i < len(levels) - 1:
            yield Problem(path, '"#" may only be the last level', sub.topic, True)
        elif level not in ("#", "+", DEVICE_LEVEL, CHANNEL_LEVEL) and set(level) & set("#+{}"):
            text = f'"{level}" is no level of a topic: "+", "#", "{{device}}" and "{{channel}}" stand alone'
            yield Problem(path, text, sub.topic, True)
    for level in (DEVICE_LEVEL, CHANNEL_LEVEL):
        if levels.count(level) > 1:
            yield Problem(path, f"{level} may stand for one level only", sub.topic, True)


def _check_channels(sub: MqttSubscription, at: KeyPath, known: Channels) -> Iterator[Problem]:
    by_level = CHANNEL_LEVEL in sub.topic.split("/")
    if sub.channel is not None and by_level:
        text = "the channel is named twice: give either this or a {channel} level in the topic"
        yield Problem((*at, "channel"), text, sub.channel, True)
    if sub.format == "number" and sub.channel is None and not by_level:
        text = "channel is missing: give channel or a {channel} level in the topic for a bare number"
        yield Problem(at, text)
    if sub.device is not None:
        candidates = known.get(sub.device)
        owner = f'device "{sub.device}" has'
    else:
        candidates = tuple(dict.fromkeys(c for channels in known.values() for c in channels))
        owner = "no device has"
    if candidates is None:
        return
    owner += " no such channel" if sub.device is not None else " such a channel"
    if sub.channel is not None and sub.channel not in candidates:
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
    if sub.device is None:
        return
    explicit = {c: (*at, "channels", c) for c in sub.channels}
    for channel, path in ({sub.channel: (*at, "channel")} if sub.channel is not None else explicit).items():
        owner = (sub.device, channel)
        if owner in mapped:
            text = (
                f'channel "{channel}" of device "{sub.device}" is already mapped from topic "{mapped[owner]}"'
            )
            yield Problem(path, text)
        mapped.setdefault(owner, sub.topic)
