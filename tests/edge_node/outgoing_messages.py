"""Messages for tests of the way out."""

from __future__ import annotations

from typing import Any

import msgspec

from models.messages import Alert, DeviceStateMessage, ModelState, Status, Summary, rfc3339
from models.signal import DeviceCondition
from models.topics import GatewayTopics

TOPICS = GatewayTopics("lw", "plant", "gw-1")
BOOT = "boot-of-ours"
AT = 1_770_000_000_000_000_000


def status(state: Any = "online", boot_id: str = BOOT, **more: Any) -> Status:
    fields: dict[str, Any] = {
        "site": "plant",
        "gateway": "gw-1",
        "state": state,
        "version": "0.1.0",
        "boot_id": boot_id,
        "config_hash": "c0ffee",
        "updated_at": rfc3339(AT),
        "started_at": rfc3339(AT),
    }
    return Status(**(fields | more))


def alert(n: int = 0, state: Any = "raised", **more: Any) -> Alert:
    fields: dict[str, Any] = {
        "alert_id": f"a{n}",
        "seq": 0,
        "message_id": f"a{n}-0",
        "site": "plant",
        "gateway": "gw-1",
        "machine": "press",
        "class_": "",
        "device": "press-4",
        "state": state,
        "kind": "machine",
        "severity": "warning",
        "message": "press: x vibration 3.1 times normal",
        "start_ns": AT,
        "end_ns": AT + 1,
        "start_at": rfc3339(AT),
        "end_at": rfc3339(AT + 1),
        "score": 1.0,
        "p_value": 0.001,
        "threshold": 0.5,
        "contributions": (),
        "features": None,
        "model_id": None,
        "model_version": None,
        "clock": "synced",
        "evidence": None,
        "delivery": None,
    }
    return Alert(**(fields | more))


def summary(n: int = 0, **more: Any) -> Summary:
    fields: dict[str, Any] = {
        "message_id": f"s{n}",
        "site": "plant",
        "gateway": "gw-1",
        "machine": "press",
        "class_": "",
        "device": "press-4",
        "start_ns": AT,
        "end_ns": AT + 1,
        "start_at": rfc3339(AT),
        "end_at": rfc3339(AT + 1),
        "n": 1,
        "mean": [0.0],
        "comoment": [0.0],
        "centre": [0.0],
        "minimum": [0.0],
        "maximum": [0.0],
        "excluded": {},
        "score_quantiles": {},
        "reservoir": None,
        "feature_names": ("x",),
        "schema_id": "abc",
        "model_id": None,
        "model_version": None,
    }
    return Summary(**(fields | more))


def device_state(
    state: DeviceCondition = DeviceCondition.NORMAL, device: str = "press-4"
) -> DeviceStateMessage:
    return DeviceStateMessage(
        message_id=f"d-{device}-{state}",
        site="plant",
        gateway="gw-1",
        machine="press",
        class_="",
        device=device,
        state=state,
        since_ns=AT,
        since_at=rfc3339(AT),
        open_alerts=(),
    )


def model_state(state: Any = "adopted", **more: Any) -> ModelState:
    fields: dict[str, Any] = {
        "message_id": f"m-{state}",
        "site": "plant",
        "gateway": "gw-1",
        "model_id": "pump",
        "state": state,
        "version": 2,
        "running": 2,
        "canary": False,
        "reason": None,
        "text": "version 2 scores now",
        "since_ns": AT,
        "since_at": rfc3339(AT),
    }
    return ModelState(**(fields | more))


def message_ids(payloads: list[bytes]) -> list[str]:
    """Which messages these are."""
    return [str(msgspec.json.decode(payload)["message_id"]) for payload in payloads]


def states(payloads: list[bytes]) -> list[str]:
    """What these status or device state messages say."""
    return [str(msgspec.json.decode(payload)["state"]) for payload in payloads]
