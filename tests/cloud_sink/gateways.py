"""Gateways that are not there: what they would publish."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from models.messages import Alert, Response, Status, Summary, pack_floats, rfc3339
from models.requests import AlertLabel

NS = 1_000_000_000
DAY = 86_400 * NS
K = 6
NAMES = tuple(f"f{i}" for i in range(K))


def summary(
    i: int, *, gateway: str = "g1", device: str = "d1", n: int = 40, seed: int | None = None, **more: Any
) -> Summary:
    """Of the ``i``-th ten seconds of yesterday."""
    rows = np.random.default_rng(i if seed is None else seed).normal(size=(n, K))
    mean = rows.mean(axis=0)
    centred = rows - mean
    start_ns = (time.time_ns() // DAY - 1) * DAY + i * 10 * NS
    fields: dict[str, Any] = {
        "message_id": f"{gateway}-{device}-{i}",
        "site": "s1",
        "gateway": gateway,
        "machine": "press",
        "class_": "press",
        "device": device,
        "start_ns": start_ns,
        "end_ns": start_ns + 10 * NS,
        "start_at": rfc3339(start_ns),
        "end_at": rfc3339(start_ns + 10 * NS),
        "n": n,
        "mean": mean.tolist(),
        "comoment": (centred.T @ centred)[np.triu_indices(K)].tolist(),
        "centre": [0.0] * K,
        "minimum": rows.min(axis=0).tolist(),
        "maximum": rows.max(axis=0).tolist(),
        "excluded": {"anomalous": 2},
        "score_quantiles": {"q0.5": 1.0, "q0.9": 2.0, "q0.99": 3.0, "q1": 4.0},
        "reservoir": pack_floats(rows[:4]),
        "feature_names": NAMES,
        "schema_id": "0123456789abcdef",
        "model_id": "press",
        "model_version": 1,
    }
    return Summary(**(fields | more))


def alert(
    i: int, *, seq: int = 0, state: Any = "raised", gateway: str = "g1", device: str = "d1", **more: Any
) -> Alert:
    start_ns = (time.time_ns() // DAY - 1) * DAY + i * 10 * NS
    fields: dict[str, Any] = {
        "alert_id": f"{gateway}-{i:08x}",
        "seq": seq,
        "message_id": f"{gateway}-{i:08x}-{seq}",
        "site": "s1",
        "gateway": gateway,
        "machine": "press",
        "class_": "press",
        "device": device,
        "state": state,
        "kind": "machine",
        "severity": "warning",
        "message": "press: pressure 2.1 bar",
        "start_ns": start_ns,
        "end_ns": start_ns + (seq + 1) * NS,
        "start_at": rfc3339(start_ns),
        "end_at": rfc3339(start_ns + (seq + 1) * NS),
        "score": 4.0 + seq,
        "p_value": 1e-4,
        "threshold": 3.0,
        "contributions": (),
        "features": None,
        "model_id": "press",
        "model_version": 1,
        "clock": "arrival",
        "evidence": None,
        "delivery": None,
    }
    return Alert(**(fields | more))


def status(gateway: str = "g1", state: Any = "online", **more: Any) -> Status:
    now = rfc3339(time.time_ns())
    fields: dict[str, Any] = {
        "site": "s1",
        "gateway": gateway,
        "state": state,
        "version": "0.1.0",
        "boot_id": "b" * 12,
        "config_hash": "c" * 64,
        "updated_at": now,
        "started_at": now,
        "counters": {"egress_bytes.alert": 1_000_000, "egress_bytes.summary": 500_000},
    }
    return Status(**(fields | more))


def label(
    alert_id: str, value: AlertLabel, *, gateway: str = "g1", at_ns: int | None = None, **more: Any
) -> Response:
    at_ns = time.time_ns() if at_ns is None else at_ns
    fields: dict[str, Any] = {
        "message_id": f"label-{alert_id}-{at_ns}",
        "site": "s1",
        "gateway": gateway,
        "request": "label",
        "transaction": "t",
        "ok": True,
        "reason": None,
        "text": "done",
        "at_ns": at_ns,
        "at": rfc3339(at_ns),
        "by": "Anna",
        "alert_id": alert_id,
        "label": value,
        "device": "d1",
    }
    return Response(**(fields | more))


def topic_of(message: Any) -> str:
    root = f"linewatch/{message.site}/{message.gateway}"
    match message:
        case Alert():
            return f"{root}/alert/{message.device}"
        case Summary():
            return f"{root}/summary/{message.device}"
        case Response():
            return f"{root}/response/{message.request}"
        case _:
            return f"{root}/status"
