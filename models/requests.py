"""What operators may ask of a gateway over MQTT, as JSON by msgspec, and why it may be refused. Pure.

A request is published on ``request/{name}`` of the gateway and answered on ``response/{name}``, by a
:class:`models.messages.Response`.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

AlertLabel = Literal["true_alarm", "false_alarm"]
RequestName = Literal["ack", "label", "accept_as_normal", "reload", "status", "backtest"]

_TEXT = r"^[^\x00-\x1f\x7f-\x9f]*\Z"  # one line: it goes into sentences and logs
TransactionId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}\Z")]
AlertId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
Person = Annotated[str, msgspec.Meta(pattern=_TEXT, min_length=1, max_length=64)]
Note = Annotated[str, msgspec.Meta(pattern=_TEXT, max_length=500)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Level = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every request says. ``transaction`` is of the asker's choice: the answer names it, and a request that comes
    again with it has no second effect. A request that names another ``site`` or ``gateway`` than its topic is refused."""

    type: Literal["request"] = "request"
    transaction: TransactionId
    site: Level | None = None
    gateway: Level | None = None


class AckRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``by`` has seen the open alert."""

    alert_id: AlertId
    by: Person
    note: Note = ""


class LabelRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an alert turned out to be. The latest label of an alert holds."""

    alert_id: AlertId
    label: AlertLabel
    by: Person
    note: Note = ""


class AcceptRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How ``device`` runs now is normal."""

    device: Level
    by: Person
    note: Note = ""


class ReloadRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take up the configuration anew, as on SIGHUP."""

    by: Person | None = None


class StatusRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say the status now."""

    by: Person | None = None


class BacktestRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Replay the last ``hours`` of what was recorded with a candidate of ``model_id`` beside the model in service. Its signed
    manifest, of ``n_bytes``, is published as a graph is: retained, on the topic of its digest ``sha256``. It is not adopted.
    """

    model_id: Level
    sha256: Sha256
    n_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    hours: Annotated[float, msgspec.Meta(gt=0, le=8784)] = 24.0
    by: Person | None = None


REQUESTS: dict[RequestName, type[Request]] = {
    "ack": AckRequest,
    "label": LabelRequest,
    "accept_as_normal": AcceptRequest,
    "reload": ReloadRequest,
    "status": StatusRequest,
    "backtest": BacktestRequest,
}


class Refusal(enum.StrEnum):
    """Why a request had no effect. Closed."""

    # before it is known what is asked
    RETAINED = "retained"  # it would be asked again on every connect
    OVERSIZE = "oversize"
    UNKNOWN_REQUEST = "unknown_request"
    MALFORMED = "malformed"
    WRONG_GATEWAY = "wrong_gateway"  # it names another than its topic
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"
    TRANSACTION_REUSED = "transaction_reused"  # for something else
    STOPPING = "stopping"
    # of what is asked
    UNKNOWN_ALERT = "unknown_alert"  # nor one of lately
    NOT_OPEN = "not_open"  # only an alert that is open can be acknowledged
    BAD_CONFIG = "bad_config"
    # of an acceptance
    UNKNOWN_DEVICE = "unknown_device"
    NO_MODEL = "no_model"
    NOTHING_OPEN = "nothing_open"  # and nothing is re-centred
    TOO_SOON = "too_soon"
    STILL_ANOMALOUS = "still_anomalous"
    INFERENCE_FAILED = "inference_failed"
    RECONFIGURED = "reconfigured"
    # of a backtest
    BUSY = "busy"  # with another one, or with what comes in
    CANDIDATE_REFUSED = (
        "candidate_refused"  # the text begins with the reason that an offer of it would have had
    )
    NOTHING_RECORDED = "nothing_recorded"
    BACKTEST_FAILED = "backtest_failed"
