"""From the bytes of a topic to a message that can be believed, or the reason why not. Pure.

Invariants: what a payload says of its gateway and device is what its topic says, which the broker's access rules vouch for;
every number is finite; nothing is larger, or later, than the limits allow. A lie that passes is bounded where it is used.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from cloud_sink.limits import Limits
from cloud_sink.summaries import SummaryTable
from models.messages import (
    Alert,
    DeviceStateMessage,
    ModelState,
    Response,
    Status,
    Summary,
    unpack_floats,
)
from models.signal import NS_PER_S

Message = Alert | DeviceStateMessage | ModelState | Response | Status | Summary


class Refusal(enum.StrEnum):
    """Why a message is not taken. Closed: every ``reason`` of the counter is one of these."""

    UNKNOWN_TOPIC = "unknown_topic"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"  # no JSON, or not of the message that the topic is for
    OTHER_NAME = "other_name"  # the payload names another gateway or device than the topic
    INCONSISTENT = "inconsistent"  # sizes that do not fit, or moments that no rows have
    NOT_FINITE = "not_finite"
    FUTURE = "future"
    TOO_OLD = "too_old"
    TOO_MANY_DEVICES = "too_many_devices"
    UNSTORABLE = "unstorable"  # a store takes it by no repetition
    NO_ROOM = "no_room"  # at QoS 0, while nothing can be stored


class Refused(ValueError):
    """A message is not taken; the text says what was wrong with it."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Place:
    """What a topic says: ``kind`` of message, whose, and of what (a device, a model, a request; "" for a status)."""

    kind: type[Message]
    site: str
    gateway: str
    of: str


_KINDS: dict[tuple[str, int], type[Message]] = {
    ("alert", 4): Alert,
    ("summary", 4): Summary,
    ("response", 4): Response,
    ("model", 4): ModelState,
    ("device", 5): DeviceStateMessage,
    ("status", 3): Status,
}
_SHARED = ("+/+/alert/+", "+/+/summary/+", "+/+/response/+")
_RETAINED = ("+/+/status", "+/+/device/+/state", "+/+/model/+")
MAX_NAME, MAX_TEXT = 600, 8_192  # bytes; an index of PostgreSQL takes four such names
MAX_FOLDER = 200  # bytes of a name on disk, as it is written there
_TEXTS = frozenset({"message", "note", "text"})
_VECTORS = frozenset({"features", "reservoir"})  # whose sizes are looked at elsewhere
_SMALL = frozenset({"seq", "version", "running", "model_version"})
_decoders = {kind: msgspec.json.Decoder(kind) for kind in _KINDS.values()}


def filters(prefix: str, group: str | None) -> list[tuple[str, int]]:
    """What a sink subscribes to, at QoS 1. What is retained every sink hears for itself: a shared subscription would give
    it nothing of what is there already. ``group`` None: nothing is shared."""
    share = "" if group is None else f"$share/{group}/"
    return [(f"{share}{prefix}/{f}", 1) for f in _SHARED] + [(f"{prefix}/{f}", 1) for f in _RETAINED]


def place_of(topic: str, prefix: str) -> Place:
    """Raises Refused (UNKNOWN_TOPIC)."""
    if topic.startswith(f"{prefix}/"):
        levels = topic[len(prefix) + 1 :].split("/")
        kind = _KINDS.get((levels[2] if len(levels) > 2 else "", len(levels)))
        if kind is not None and (kind is not DeviceStateMessage or levels[4] == "state"):
            return Place(kind, levels[0], levels[1], levels[3] if len(levels) > 3 else "")
    raise Refused(Refusal.UNKNOWN_TOPIC, f"{topic!r} is no topic of a gateway's")


def decode(place: Place, payload: bytes, now_ns: int, limits: Limits) -> Message:
    """The message at ``place``; a summary's arrays are looked at by :func:`believable`, many at once. Raises Refused."""
    if len(payload) > limits.max_message_bytes:
        text = f"{len(payload)} bytes, and [limits] max_message_bytes is {limits.max_message_bytes}"
        raise Refused(Refusal.TOO_LARGE, text)
    try:
        message: Message = _decoders[place.kind].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Refusal.UNREADABLE, f"no {place.kind.__name__}: {error}") from error
    _check_scalars(message)
    named = (message.site, message.gateway)
    if named != (place.site, place.gateway):
        raise Refused(Refusal.OTHER_NAME, f"the payload is of {'/'.join(named)}")
    if isinstance(message, Alert | Summary | DeviceStateMessage) and message.device != place.of:
        raise Refused(Refusal.OTHER_NAME, f"the payload is of device {message.device}")
    if isinstance(message, ModelState) and message.model_id != place.of:
        raise Refused(Refusal.OTHER_NAME, f"the payload is of model {message.model_id}")
    if isinstance(message, Alert | Summary):
        _check_times(message.start_ns, message.end_ns, now_ns, limits)
    if isinstance(message, ModelState | Response):
        at_ns = message.since_ns if isinstance(message, ModelState) else message.at_ns
        _check_not_future(at_ns, now_ns, limits)
    if isinstance(message, Alert) and message.features is not None:
        _check_vectors(message.features, 8, limits)
    return message


def _check_scalars(message: Message) -> None:
    """What no array and no column of a database takes: numbers of more bits, texts of no use, and NUL."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if name in _VECTORS:
            continue
        if isinstance(value, str):
            _check_text(name, value, MAX_TEXT if name in _TEXTS else MAX_NAME)
        elif isinstance(value, int):
            _check_int(name, value, 31 if name in _SMALL else 63)
        elif isinstance(value, dict):
            for key, one in value.items():
                _check_text(name, key, MAX_NAME)
                if isinstance(one, int):
                    _check_int(f"{name}.{key}", one, 53)
    if isinstance(message, Summary):
        for what, folder in (("class", message.class_), ("schema_id", message.schema_id)):
            # Quoted, three characters a byte but for letters and digits of ASCII.
            if sum(1 if c.isascii() and c.isalnum() else 3 * len(c.encode()) for c in folder) > MAX_FOLDER:
                raise Refused(
                    Refusal.INCONSISTENT, f"{what} is too long for a folder's name: {folder[:40]!r}..."
                )
        for feature in message.feature_names:
            _check_text("feature_names", feature, MAX_NAME)
        if len(message.excluded) > MAX_NAME:
            raise Refused(Refusal.INCONSISTENT, f"windows were left out for {len(message.excluded)} reasons")


def _check_text(name: str, value: str, most: int) -> None:
    if len(value.encode()) > most:
        raise Refused(Refusal.INCONSISTENT, f"{name} has {len(value.encode())} bytes, and {most} are enough")
    if "\x00" in value:
        raise Refused(Refusal.INCONSISTENT, f"{name} has a NUL in it")


def _check_int(name: str, value: int, n_bits: int) -> None:
    if not -(1 << n_bits) <= value < 1 << n_bits:
        raise Refused(Refusal.INCONSISTENT, f"{name} is {value}, which no gateway counts to")


def _check_not_future(at_ns: int, now_ns: int, limits: Limits) -> None:
    if at_ns > now_ns + limits.max_future_s * NS_PER_S:
        raise Refused(
            Refusal.FUTURE, f"it is of {(at_ns - now_ns) / 1e9:.0f} s from now: is the gateway's clock right?"
        )


def _check_times(start_ns: int, end_ns: int, now_ns: int, limits: Limits) -> None:
    if start_ns > end_ns:
        raise Refused(Refusal.INCONSISTENT, "it ends before it begins")
    if end_ns > now_ns + limits.max_future_s * NS_PER_S:
        raise Refused(
            Refusal.FUTURE, f"it ends {(end_ns - now_ns) / 1e9:.0f} s from now: is the gateway's clock right?"
        )
    if end_ns < now_ns - limits.max_age_days * 86_400 * NS_PER_S:
        raise Refused(
            Refusal.TOO_OLD,
            f"it ended {(now_ns - end_ns) / 86_400e9:.0f} days ago: is the gateway's clock right?",
        )


def _check_vectors(text: str, most: int, limits: Limits) -> None:
    try:
        values = unpack_floats(text, (-1,))
    except ValueError as error:
        raise Refused(Refusal.INCONSISTENT, f"features: {error}") from error
    if values.size > most * limits.max_features:
        raise Refused(Refusal.INCONSISTENT, f"features: {values.size} numbers")
    if not np.isfinite(values).all():
        raise Refused(Refusal.NOT_FINITE, "features hold numbers that are not finite")


def believable(
    summaries: Sequence[Summary], limits: Limits
) -> tuple[list[SummaryTable], list[tuple[int, Refused]]]:
    """``summaries`` as tables, one for each class and schema, and which of them are not taken, by index."""
    refused: list[tuple[int, Refused]] = []
    groups: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
    for i, summary in enumerate(summaries):
        try:
            _check_sizes(summary, limits)
        except Refused as error:
            refused.append((i, error))
        else:
            groups.setdefault((summary.class_, summary.schema_id, summary.feature_names), []).append(i)
    tables = []
    for indices in groups.values():
        table = SummaryTable.of([summaries[i] for i in indices])
        bad = table.faults()
        for j, text in bad.items():
            reason = Refusal.NOT_FINITE if "finite" in text else Refusal.INCONSISTENT
            refused.append((indices[j], Refused(reason, text)))
        keep = np.ones(len(indices), np.bool_)
        keep[list(bad)] = False
        if keep.any():
            tables.append(table if keep.all() else table.take(np.flatnonzero(keep)))
    return tables, refused


def _check_sizes(summary: Summary, limits: Limits) -> None:
    k = len(summary.feature_names)
    if not 0 < k <= limits.max_features:
        raise Refused(
            Refusal.INCONSISTENT, f"{k} features, and [limits] max_features is {limits.max_features}"
        )
    sizes = {
        "mean": (len(summary.mean), k),
        "comoment": (len(summary.comoment), k * (k + 1) // 2),
        "centre": (len(summary.centre), k),
    }
    for name, (found, wanted) in sizes.items():
        if found != wanted:
            raise Refused(Refusal.INCONSISTENT, f"{name} has {found} numbers, not {wanted}")
    for name, found in (("minimum", len(summary.minimum)), ("maximum", len(summary.maximum))):
        if found not in (0, k):
            raise Refused(Refusal.INCONSISTENT, f"{name} has {found} numbers, not {k}")
    if summary.n < 0 or any(n < 0 for n in summary.excluded.values()):
        raise Refused(Refusal.INCONSISTENT, "it counts less than no windows")
    if summary.reservoir is not None:
        try:
            rows = unpack_floats(summary.reservoir, (-1, k))
        except ValueError as error:
            raise Refused(Refusal.INCONSISTENT, f"reservoir {error}") from error
        if len(rows) > min(limits.max_reservoir, summary.n):
            text = f"a reservoir of {len(rows)} rows, of {summary.n} windows"
            raise Refused(Refusal.INCONSISTENT, text)
