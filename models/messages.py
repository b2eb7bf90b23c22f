"""The messages a gateway publishes, as JSON by msgspec. A name here is the name on the wire and in the docs.

Invariants: a message is a function of the signal and the configuration alone, except ``Alert.delivery``, ``Alert.evidence``
and ``Status``, which hold all that depends on the run; integer nanoseconds have an RFC 3339 twin (``…_at``), because
JavaScript rounds integers above 2**53; binary arrays are base64 of little-endian float32.
"""

from __future__ import annotations

import base64
import hashlib
import math
from datetime import UTC, datetime
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.backtest import Backtest
from models.refusals import RefusalReason, ScoreRefusal
from models.requests import AlertLabel, Refusal
from models.signal import NS_PER_S, DeviceCondition

AlertState = Literal["raised", "updated", "cleared"]
AlertKind = Literal["machine", "sensor", "limit", "stale", "drift", "system"]
GatewayState = Literal["online", "stopped", "offline"]
ModelStage = Literal["shadow", "adopted", "refused", "rolled_back"]
Severity = Literal["info", "warning", "critical"]


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One channel's part in an alert: ``share`` of the score (0..1), and what was seen against what was expected."""

    channel: str
    feature: str
    share: float
    observed: float
    expected_low: float | None  # None: unbounded
    expected_high: float | None
    unit: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What of an alert depends on the run, but for its evidence: left out of every byte-for-byte comparison."""

    emitted_ns: int
    emitted_at: str
    latency_ms: float | None  # from the arrival of the last sample needed to emission; None: none was
    backend: str  # what scored: an artifact of the gateway's, or "cloud"
    delayed: bool = False
    scoring_ms: float | None = None  # of the batch that the window was in


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A change of an episode. ``message_id`` is the deduplication key; ``alert_id`` names the episode. ``score`` is the
    greatest of it; where an int8 output was at the end of its range it is a bound, and ``message`` says "at least"."""

    type: Literal["alert"] = "alert"
    alert_id: str
    seq: int
    message_id: str
    site: str
    gateway: str
    machine: str
    class_: str = msgspec.field(name="class")
    device: str
    state: AlertState
    kind: AlertKind
    severity: Severity
    message: str
    start_ns: int
    end_ns: int
    start_at: str
    end_at: str
    score: float | None
    p_value: float | None
    threshold: float | None
    contributions: tuple[Contribution, ...]
    features: str | None  # base64 float32[<=8, k] of the last windows above the level, where privacy allows
    model_id: str | None
    model_version: int | None
    clock: str
    evidence: (
        str | None
    )  # digest of the raw signal kept on the gateway (models.evidence); None: not all of it was kept
    delivery: Delivery | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one device over [start_ns, end_ns): what a fleet's model can be trained from.

    ``mean`` float64[k] and ``comoment`` float64[k(k+1)/2] (upper triangle, row by row: the sum of products of deviations)
    are of the features after re-centring over the ``n`` healthy windows; ``minimum``/``maximum`` of all windows.
    """

    type: Literal["summary"] = "summary"
    message_id: str
    site: str
    gateway: str
    machine: str
    class_: str = msgspec.field(name="class")
    device: str
    start_ns: int
    end_ns: int
    start_at: str
    end_at: str
    n: int
    mean: list[float]
    comoment: list[float]
    centre: list[float]
    minimum: list[float]
    maximum: list[float]
    excluded: dict[str, int]
    score_quantiles: dict[str, float]
    reservoir: str | None  # base64 float32[<=r, k]
    feature_names: tuple[str, ...]
    schema_id: str
    model_id: str | None
    model_version: int | None


class DeviceStateMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Retained: what a device is now."""

    type: Literal["device_state"] = "device_state"
    message_id: str
    site: str
    gateway: str
    machine: str
    class_: str = msgspec.field(name="class")
    device: str
    state: DeviceCondition
    since_ns: int
    since_at: str
    open_alerts: tuple[str, ...]
    acked: tuple[str, ...] = ()  # those of them that an operator has seen
    progress: float | None = None  # of learning, in steps of a tenth; None: the device does not learn a model


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A model as loaded on this gateway."""

    model_id: str
    version: int
    backend: str


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """Retained: what became of the last version of a model that this gateway was offered. ``shadow``: on trial beside
    the one in service, ``running``. ``version`` 0: it could not be told."""

    type: Literal["model_state"] = "model_state"
    message_id: str
    site: str
    gateway: str
    model_id: str
    state: ModelStage
    version: int
    running: int
    canary: bool  # it was offered to this gateway alone
    reason: RefusalReason | None
    text: str
    since_ns: int
    since_at: str


class ConnectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a source can deliver now, and what is wrong where something is."""

    connected: bool
    error: str | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Retained: the gateway itself. ``offline`` is the last will."""

    type: Literal["status"] = "status"
    site: str
    gateway: str
    state: GatewayState
    version: str
    boot_id: str
    config_hash: str
    updated_at: str
    started_at: str
    models: tuple[ModelStatus, ...] = ()
    backend: str = ""
    counters: dict[str, int] = {}
    connections: dict[str, ConnectionStatus] = {}  # "source {name}"
    recording_error: str | None = None  # why what comes in is not recorded any more, though it should be
    black_box_error: str | None = None  # why the black box does not record, though it should
    conflicts: tuple[str, ...] = ()  # boot ids of others that publish on this gateway's own topic now


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request, given when all that it asked for was done, or was refused for ``reason``; ``text`` says it in
    a sentence. It repeats what was asked, so that who hears only answers knows what operators said."""

    type: Literal["response"] = "response"
    message_id: str
    site: str
    gateway: str
    request: str
    transaction: str
    ok: bool
    reason: Refusal | None
    text: str
    at_ns: int
    at: str
    by: str | None = None
    note: str = ""
    alert_id: str | None = None
    label: AlertLabel | None = None
    device: str | None = None
    status: Status | None = None
    backtest: Backtest | None = None


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Never retained: rows of features that a sink is asked to score within ``deadline_ms`` of when it hears of them.
    ``transaction`` is the asker's own id, which the answer repeats."""

    type: Literal["score_request"] = "score_request"
    transaction: str
    site: str
    gateway: str
    model_id: str
    model_version: int
    schema_id: str
    deadline_ms: float
    n: int
    features: str  # base64 float32[n, k], as the model's normalisation takes them


class ScoreReply(msgspec.Struct, frozen=True, kw_only=True):
    """Never retained: the answer. ``residual`` and ``log_p`` are by the model that scored, ``model_id``, and by its own
    calibration; None of a request that was refused for ``reason``."""

    type: Literal["score_response"] = "score_response"
    transaction: str
    site: str
    gateway: str
    reason: ScoreRefusal | None
    text: str
    model_id: str | None = None
    model_version: int | None = None
    backend: str = ""
    latency_ms: float = 0.0  # from when the request was heard to when its answer was ready
    residual: str | None = None  # base64 float32[n, k]
    log_p: str | None = None  # base64 float32[n], natural logs


Event = Alert | Summary | DeviceStateMessage


def rfc3339(time_ns: int) -> str:
    """``time_ns`` as RFC 3339 UTC with all nine digits of the second: equal strings mean equal times."""
    seconds, ns = divmod(time_ns, NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def episode_id(gateway: str, device: str, kind: str, start_ns: int, subject: str = "") -> str:
    """Id of an episode: 16 hex digits of SHA-256 over who, what and when it began. ``subject`` tells apart episodes of
    one kind on one device (the channel of a sensor fault, the name of a limit)."""
    text = "\x1f".join((gateway, device, kind, subject, str(start_ns)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pack_floats(values: NDArray[np.floating]) -> str:
    """Base64 of ``values`` as little-endian float32, row by row."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def unpack_floats(text: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The inverse of :func:`pack_floats`; ValueError when the length does not fit ``shape`` (one may be -1)."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"is not base64 ({error})") from error
    if len(data) % 4:
        raise ValueError(f"has {len(data)} bytes, which are no whole float32 numbers")
    flat = np.frombuffer(data, dtype="<f4")
    fixed = math.prod(size for size in shape if size >= 0)
    if (flat.size % fixed if fixed else flat.size) if -1 in shape else flat.size != fixed:
        expected = " x ".join("n" if size < 0 else str(size) for size in shape)
        raise ValueError(f"has {flat.size} numbers, not {expected}")
    return flat.reshape(shape).astype(np.float32)


_encoder = msgspec.json.Encoder()


def encode(message: Event | Status | Response | ModelState | ScoreRequest | ScoreReply) -> bytes:
    """JSON of ``message``: keys in the order of the struct, so equal messages are equal bytes."""
    return _encoder.encode(message)
