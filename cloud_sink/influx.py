"""What came in as points for dashboards, in InfluxDB's line protocol. Pure.

Strategy: one encoder for every version of the database. Tags are what a dashboard chooses by, and few: no id, no text.
Invariants: the same message gives the same points, so that writing it again changes nothing; two different messages give points
of different keys: where they could share measurement, tags and time (two alerts of one window), the time has up to a
millisecond added that follows from the message's id.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from cloud_sink.summaries import SummaryTable
from models.messages import Alert, ModelState, Status
from models.signal import NS_PER_S

ALERT, SCORE, HEALTH, EGRESS, MODEL = (
    "linewatch_alert",
    "linewatch_score",
    "linewatch_health",
    "linewatch_egress",
    "linewatch_model",
)
_SPREAD_NS = 1_000_000
_COUNTERS = {  # of a status -> the field that holds their sum
    "samples_in": "samples_in",
    "samples_dropped": "samples_dropped",
    "windows_scored": "windows_scored",
    "windows_dropped": "windows_dropped",
    "events_queued": "events_queued",
    "events_dropped": "events_dropped",
}

Value = float | int | str | bool | None


def line(measurement: str, tags: dict[str, str], fields: dict[str, Value], time_ns: int) -> str:
    """One point; fields that are None or not finite are left out, and so is a tag that is empty. "" where no field is left."""
    told = [f"{_key(name)}={text}" for name, value in fields.items() if (text := _value(value)) is not None]
    if not told:
        return ""
    chosen = "".join(f",{_key(name)}={_tag(value)}" for name, value in tags.items() if value)
    return f"{_key(measurement)}{chosen} {','.join(told)} {time_ns}"


def alert_lines(alerts: Iterable[Alert]) -> Iterator[str]:
    """A point for each change of an episode."""
    for a in alerts:
        yield line(
            ALERT,
            {
                "site": a.site,
                "gateway": a.gateway,
                "machine": a.machine,
                "class": a.class_,
                "device": a.device,
                "kind": a.kind,
                "severity": a.severity,
            },
            {
                "alert_id": a.alert_id,
                "seq": a.seq,
                "state": a.state,
                "raised": int(a.state == "raised"),
                "open": int(a.state != "cleared"),
                "score": a.score,
                "p_value": a.p_value,
                "duration_s": (a.end_ns - a.start_ns) / NS_PER_S,
                "message": a.message,
            },
            a.end_ns + _spread(a.message_id),
        )


def score_lines(table: SummaryTable) -> Iterator[str]:
    """A point for each summary: how the scores of its windows lay."""
    for i in range(len(table)):
        q = table.score_quantiles[i]
        yield line(
            SCORE,
            {
                "site": str(table.site[i]),
                "gateway": str(table.gateway[i]),
                "machine": str(table.machine[i]),
                "class": table.class_,
                "device": str(table.device[i]),
            },
            {
                "q50": float(q[0]),
                "q90": float(q[1]),
                "q99": float(q[2]),
                "highest": float(q[3]),
                "windows": int(table.n[i]),
                "excluded": int(table.n_excluded[i]),
                "model_version": int(table.model_version[i]),
            },
            int(table.end_ns[i]),
        )


def status_lines(statuses: Iterable[Status]) -> Iterator[str]:
    """The gateway itself, and what it has sent upstream by type."""
    for s in statuses:
        at_ns = _ns(s.updated_at)
        if at_ns is None:
            continue
        tags = {"site": s.site, "gateway": s.gateway}
        fields: dict[str, Value] = {
            "state": s.state,
            "online": int(s.state == "online"),
            "version": s.version,
            "boot_id": s.boot_id,
            "sources": len(s.connections),
            "sources_connected": sum(c.connected for c in s.connections.values()),
            "black_box_failed": int(s.black_box_error is not None),
        }
        if s.counters:
            for name, field in _COUNTERS.items():
                fields[field] = sum(
                    n for key, n in s.counters.items() if key == name or key.startswith(f"{name}.")
                )
        # An offline is the will that a status of before was left with: it happened later than that.
        yield line(HEALTH, tags, fields, at_ns + (1 if s.state == "offline" else 0))
        for key, n in s.counters.items():
            if key.startswith("egress_bytes."):
                kind = key.removeprefix("egress_bytes.")
                delivered = s.counters.get(f"events_delivered.{kind}")
                yield line(EGRESS, tags | {"type": kind}, {"bytes": n, "delivered": delivered}, at_ns)


def model_lines(states: Iterable[ModelState]) -> Iterator[str]:
    for m in states:
        yield line(
            MODEL,
            {"site": m.site, "gateway": m.gateway, "model_id": m.model_id},
            {
                "state": m.state,
                "version": m.version,
                "running": m.running,
                "canary": m.canary,
                "reason": None if m.reason is None else m.reason.value,
                "text": m.text,
            },
            m.since_ns + _spread(m.message_id),
        )


def _spread(message_id: str) -> int:
    return int.from_bytes(hashlib.sha256(message_id.encode()).digest()[:8], "little") % _SPREAD_NS


def _ns(rfc3339: str) -> int | None:
    """Nanoseconds of a time as :func:`models.messages.rfc3339` writes it; None for what is none."""
    try:
        seconds = datetime.strptime(rfc3339[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        return int(seconds.timestamp()) * NS_PER_S + int(rfc3339[20:29] or 0)
    except ValueError:
        return None


_TAG = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ ", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
_STRING = str.maketrans({'"': r"\"", "\\": r"\\", "\n": " ", "\r": " "})  # a point is a line


def _tag(value: str) -> str:
    """Escaped; a backslash at the end would escape what follows, and there is no way to write one."""
    return value.translate(_TAG).rstrip("\\") or "_"


_key = _tag


def _value(value: Value) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value}i"
        case float():
            return repr(value) if math.isfinite(value) else None
        case str():
            return f'"{value.translate(_STRING)}"'
    return None
