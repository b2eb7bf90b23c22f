"""Drift as alerts of kind ``drift`` that the sink itself has raised: one a device, and one of a fleet as a whole. Pure.

``clock`` is ``sink`` in them, which tells them from those of gateways. Nobody publishes them: a gateway's topics are its own.
An episode is raised once, cleared when the drift is gone (or another version is in service), and after that not raised again
for a while, so that what comes and goes is no flood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from cloud_sink.findings import Drift, Finding, Key
from models.messages import Alert, episode_id, rfc3339

CLOCK = "sink"
SINK, FLEET = "_sink", "_fleet"  # as site and gateway, and as device, of what is of no gateway's


def changes(
    drift: Drift, known: Sequence[Alert], *, model_id: str, class_: str, now_ns: int, rest_ns: int
) -> list[Alert]:
    """What is to be stored, ``known`` being the sink's own drift alerts of ``model_id`` that are open or not long over."""
    found = {key: (fs, _text(fs)) for key, fs in _by_device(drift.findings)}
    if drift.fleet is not None:
        found[SINK, SINK, FLEET] = (drift.findings, f"the fleet of {model_id}: {drift.fleet}")
    told: list[Alert] = []
    quiet: set[Key] = set()
    for alert in known:
        key = (alert.site, alert.gateway, alert.device)
        if alert.state != "cleared":
            quiet.add(key)
            if key not in found:
                told.append(_cleared(alert, now_ns))
        elif now_ns - alert.end_ns < rest_ns:
            quiet.add(key)
    for key, (findings, text) in found.items():
        if key not in quiet:
            told.append(_raised(key, findings, text, model_id, class_))
    return told


def _by_device(findings: Sequence[Finding]) -> Iterator[tuple[Key, tuple[Finding, ...]]]:
    for key in sorted({(f.site, f.gateway, f.device) for f in findings}):
        yield key, tuple(f for f in findings if (f.site, f.gateway, f.device) == key)


def _text(findings: Sequence[Finding]) -> str:
    first = findings[0]
    what = "; ".join(f.text for f in findings)
    return f"{first.machine or first.device} has drifted since version {first.version} was taken on: {what}"


def _raised(key: Key, findings: Sequence[Finding], text: str, model_id: str, class_: str) -> Alert:
    end_ns = max(f.end_ns for f in findings)
    start_ns = min(end_ns, *(f.since_ns for f in findings))
    alert_id = episode_id(f"{key[0]}/{key[1]}", key[2], "drift", end_ns, f"sink/{model_id}")
    fleet = key[2] == FLEET
    return Alert(
        alert_id=alert_id,
        seq=0,
        message_id=f"{alert_id}-0",
        site=key[0],
        gateway=key[1],
        machine=class_ if fleet else findings[0].machine,
        class_=class_,
        device=key[2],
        state="raised",
        kind="drift",
        severity="warning",
        message=text,
        start_ns=start_ns,
        end_ns=end_ns,
        start_at=rfc3339(start_ns),
        end_at=rfc3339(end_ns),
        score=max(f.size for f in findings),
        p_value=None,
        threshold=None,
        contributions=(),
        features=None,
        model_id=model_id,
        model_version=max(f.version for f in findings),
        clock=CLOCK,
        evidence=None,
        delivery=None,
    )


def _cleared(alert: Alert, now_ns: int) -> Alert:
    seq = alert.seq + 1
    return msgspec.structs.replace(
        alert,
        state="cleared",
        seq=seq,
        message_id=f"{alert.alert_id}-{seq}",
        severity="info",
        message=f"over: {alert.message}",
        end_ns=max(now_ns, alert.end_ns),
        end_at=rfc3339(max(now_ns, alert.end_ns)),
    )
