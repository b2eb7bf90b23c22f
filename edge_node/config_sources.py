"""Rules on brokers and recorded logs that no type can express."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import glob

from edge_node.config_payload import check_timezone
from edge_node.config_schema import (
    ModbusSource,
    MqttSource,
    MqttSubscription,
    ReplaySource,
    SerialSource,
    Source,
    Uplink,
)
from edge_node.config_serial import check_modbus, check_ports, check_serial
from edge_node.config_subscriptions import check_subscription, unknown_device
from models.broker_checks import check_broker, check_prefix, same_broker
from models.config_partial import Names, as_far_as_known, given
from models.config_validation import Problem
from models.toml_positions import KeyPath
from models.topics import filters_overlap


def check_uplink(uplink: Uplink) -> Iterator[Problem]:
    """All that no type can say about ``uplink``, of which parts may be UNKNOWN."""
    yield from as_far_as_known(
        check_broker(uplink, ("uplink",)), check_prefix(uplink.prefix, ("uplink", "prefix"))
    )


def check_sources(
    sources: Sequence[tuple[int, Source]], uplink: Uplink | None, known: Names
) -> Iterator[Problem]:
    """All that is wrong with the sources and between them, of which parts may be UNKNOWN; ``known``: device id -> its
    channels."""
    yield from as_far_as_known(
        check_ports([(i, s) for i, s in sources if isinstance(s, SerialSource | ModbusSource)])
    )
    names: set[str] = set()
    mapped: dict[tuple[str, str], str] = {}
    for i, source in sources:
        at: KeyPath = ("source", i)
        if isinstance(source, ReplaySource):
            yield from as_far_as_known(
                _check_name(source, at, names),
                _check_paths(source, at),
                _check_device_id(source, at, known),
                check_timezone(source.timezone, at),
            )
        elif isinstance(source, MqttSource):
            yield from as_far_as_known(
                _check_name(source, at, names),
                check_broker(source, at),
                _check_client_id(source, at, uplink),
                _check_subscriptions(source, at, known, mapped, uplink),
            )
        elif isinstance(source, SerialSource):
            yield from as_far_as_known(_check_name(source, at, names), check_serial(source, at, known))
        elif isinstance(source, ModbusSource):
            yield from as_far_as_known(_check_name(source, at, names), check_modbus(source, at, known))


def _check_name(source: Source, at: KeyPath, names: set[str]) -> Iterator[Problem]:
    if source.name in names:
        text = "another source has this name; give each a name of its own"
        yield Problem((*at, "name"), text, source.name, True)
    names.add(source.name)


def _check_client_id(source: MqttSource, at: KeyPath, uplink: Uplink | None) -> Iterator[Problem]:
    if uplink is None or not given(source.client_id):
        return
    if source.client_id == uplink.client_id and same_broker(source, uplink):
        text = "the uplink has this id on the same broker; each connection needs its own"
        yield Problem((*at, "client_id"), text, source.client_id, True)


def _check_subscriptions(
    source: MqttSource,
    at: KeyPath,
    known: Names,
    mapped: dict[tuple[str, str], str],
    uplink: Uplink | None,
) -> Iterator[Problem]:
    if not source.subscribe:
        yield Problem(at, "[[source.subscribe]] is missing: which topics does this broker have?")
    for j, subscription in enumerate(source.subscribe):
        where = (*at, "subscribe", j)
        yield from as_far_as_known(
            check_subscription(subscription, where, known, mapped),
            _check_overlap(subscription, where, source, uplink),
        )


def _check_overlap(
    sub: MqttSubscription, at: KeyPath, source: MqttSource, uplink: Uplink | None
) -> Iterator[Problem]:
    if uplink is None or not same_broker(source, uplink):
        return
    if filters_overlap(sub.filter, f"{uplink.prefix}/#"):
        text = f'overlaps what the uplink publishes on the same broker, "{uplink.prefix}/#"'
        yield Problem((*at, "topic"), text, sub.topic, True)


def _check_paths(source: ReplaySource, at: KeyPath) -> Iterator[Problem]:
    if not source.paths:
        yield Problem((*at, "paths"), "expected at least one file", [], True)
    for k, path in enumerate(source.paths):
        if not glob(str(path), recursive=True):
            yield Problem((*at, "paths", k), "there is no such file", str(path), True)


def _check_device_id(source: ReplaySource, at: KeyPath, known: Names) -> Iterator[Problem]:
    if given(source.device_id) and source.device_id not in known:
        yield unknown_device((*at, "device_id"), source.device_id, known)
