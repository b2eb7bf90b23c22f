"""Gateways as people name them: SITE/GATEWAY, or GATEWAY alone where one site has one of that name.

Invariant: what is done to a gateway is done to one, whose site is known: two sites may each have a gateway of a name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from models.cli_values import UsageError
from models.config_validation import nearest

if TYPE_CHECKING:
    from cloud_sink.config import Config
    from cloud_sink.events import EventStore


def canaries_of(given: Sequence[str], config: Config) -> tuple[str, ...]:
    """SITE/GATEWAY of each that ``--canary`` names, once. Raises UsageError; only for a name without a site is the database of
    ``config`` asked who is there."""
    from cloud_sink.events import EventsUnavailable, opened

    if all("/" in name for name in given):
        return full_names("--canary", given, ())
    try:
        with opened(config.store.events) as store:
            return full_names("--canary", given, known_gateways(store))
    except EventsUnavailable as error:
        raise UsageError(
            f"--canary: write SITE/GATEWAY, for nobody can be asked whose it is: {error}"
        ) from error


def full_names(option: str, given: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """SITE/GATEWAY of each of ``given``, once, in their order; of a name without a site that one of ``known`` which has it.
    Raises UsageError, which begins with ``option``."""
    return tuple(dict.fromkeys(_full_name(option, name, known) for name in given))


def _full_name(option: str, name: str, known: Collection[str]) -> str:
    if "/" in name:
        return name
    found = sorted(full for full in known if full.partition("/")[2] == name)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{option} {name}: there are {' and '.join(found)}: say which")
    raise UsageError(
        f"{option} {name}: no gateway of that name is known{nearest(name, known)} (cloud-sink gateways); write SITE/GATEWAY for "
        "one that has said nothing yet"
    )


def unheard(canaries: Iterable[str], config: Config) -> tuple[str, ...]:
    """In words, those of ``canaries`` (SITE/GATEWAY) that have never said anything, as far as the database of ``config`` can be
    asked."""
    from cloud_sink.events import EventsUnavailable, opened

    try:
        with opened(config.store.events) as store:
            return _unheard(canaries, known_gateways(store))
    except EventsUnavailable:
        return ()


def require_heard(canaries: Iterable[str], store: EventStore) -> None:
    """Raises UsageError where one of ``canaries`` has never said anything, and EventsUnavailable."""
    if wrong := _unheard(canaries, known_gateways(store)):
        raise UsageError("; ".join(wrong))


def _unheard(canaries: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    return tuple(
        f"--canary {name}: no gateway of that name has been heard{nearest(name, known)} (cloud-sink gateways)"
        for name in canaries
        if name not in known
    )


def known_gateways(store: EventStore) -> set[str]:
    """SITE/GATEWAY of all that have said anything. Raises EventsUnavailable."""
    from sqlalchemy import select, union

    from cloud_sink import tables

    wanted = union(
        *(select(t.c.site, t.c.gateway) for t in (tables.gateways, tables.devices, tables.model_states))
    )
    with store.read() as connection:
        return {f"{row.site}/{row.gateway}" for row in connection.execute(wanted)}
