"""What operators ask of the gateway: read, checked, limited, remembered. What has an effect elsewhere is handed back.

Strategy: a request is named by its topic and by the transaction of its payload. The answer to each is remembered for a
while, so that one that comes again (QoS 1 delivers at least once) is answered with the same words and has no second
effect; of ``status``, which has none, nothing is. Every refusal is counted; it is answered where its transaction could be
read, and as long as the refusals do not come faster than requests may: who floods the gateway does not make it flood the
broker, at the cost of its own summaries.

Invariants: memory is bounded by ``MAX_ANSWERS`` and ``MAX_ALERTS``; what is not exactly a request of ours changes nothing.
Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, get_args, get_origin

import msgspec

from edge_node.acceptance import Verdict
from models import codec
from models.backtest import Backtest
from models.messages import Alert, DeviceStateMessage, Response, Status, episode_id, rfc3339
from models.requests import (
    REQUESTS,
    AcceptRequest,
    AckRequest,
    AlertLabel,
    BacktestRequest,
    LabelRequest,
    Refusal,
    ReloadRequest,
    Request,
    StatusRequest,
    TransactionId,
)

MAX_BYTES = 8_192  # a payload
MAX_ANSWERS = 512
MAX_ALERTS = 4_096  # of those that are over
_MAX_TEXT = 2_000

_NAME = re.compile(r"[a-z_]{1,32}\Z")


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a message. ``answer`` None: it follows once ``todo`` is done, or what was asked before is. ``publish``:
    it may be told to all who listen. ``again``: it was given before. ``acked``: the device of the alert that has been
    acknowledged."""

    answer: Response | None
    publish: bool = True
    again: bool = False
    todo: AcceptRequest | BacktestRequest | ReloadRequest | StatusRequest | None = None
    acked: str | None = None


@dataclass(slots=True)
class RequestCounters:
    """Messages by what they ask for ("unknown" too); refusals by reason; how many came again; refusals that nobody was
    told of, for there were too many, or nobody could be."""

    heard: Counter[str] = field(default_factory=Counter)
    refused: Counter[Refusal] = field(default_factory=Counter)
    n_repeated: int = 0
    n_untold: int = 0


class TokenBucket:
    """Lets ``burst`` through at once, and ``per_s`` a second in the long run."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._tokens = float(burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Whether one more may pass at ``now_s``, which never goes back."""
        passed_s = 0.0 if self._at_s is None else now_s - self._at_s
        self._at_s = now_s
        self._tokens = min(float(self._burst), self._tokens + passed_s * self._per_s)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """Who said something about an alert, and when."""

    by: str
    note: str
    at_ns: int


class Known(msgspec.Struct, kw_only=True):
    """An alert that was raised here."""

    device: str
    is_open: bool
    ack: Word | None = None
    label: AlertLabel | None = None
    labelled: Word | None = None


class _Remembered(msgspec.Struct, kw_only=True):
    """A request that has been taken up: a digest of it, and its answer (None: it is still to come)."""

    name: str
    transaction: str
    digest: bytes
    answer: Response | None = None


class _Envelope(msgspec.Struct):
    """What can be read of a request that is not as it should be."""

    transaction: TransactionId


class RequestsState(msgspec.Struct, kw_only=True):
    """Everything a :class:`Requests` remembers."""

    answers: list[_Remembered]
    alerts: dict[str, Known]


class Requests:
    """The memory and the rules; what is asked for is done by others."""

    def __init__(self, site: str, gateway: str, per_minute: float, burst: int) -> None:
        self.counters = RequestCounters()
        self._answers: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()
        self._alerts: OrderedDict[str, Known] = OrderedDict()
        self._changed = False
        self.configure(site, gateway, per_minute, burst)

    def configure(self, site: str, gateway: str, per_minute: float, burst: int) -> None:
        """From here on: whose requests these are, and how many of them may come."""
        self._site, self._gateway = site, gateway
        self._bucket = TokenBucket(per_minute / 60.0, burst)
        self._refusals = TokenBucket(per_minute / 60.0, burst)

    @property
    def labelled_false(self) -> Collection[str]:
        """The alerts that operators have called false alarms."""
        return frozenset(alert_id for alert_id, known in self._alerts.items() if known.label == "false_alarm")

    @property
    def acked(self) -> Collection[str]:
        """The open alerts that operators have seen."""
        return frozenset(alert_id for alert_id, known in self._alerts.items() if known.is_open and known.ack)

    @property
    def labels(self) -> dict[str, AlertLabel]:
        """What operators have called the alerts of lately."""
        return {alert_id: known.label for alert_id, known in self._alerts.items() if known.label is not None}

    def known(self, alert_id: str) -> Known | None:
        """What operators have said of an alert that is open or was lately."""
        return self._alerts.get(alert_id)

    def noted(self, alert: Alert) -> None:
        """``alert`` has been said."""
        known = self._alerts.get(alert.alert_id)
        self._changed |= known is None or alert.state == "cleared"
        if known is None:
            known = self._alerts[alert.alert_id] = Known(device=alert.device, is_open=True)
        known.is_open = alert.state != "cleared"
        if not known.is_open:
            self._alerts.move_to_end(alert.alert_id)
            over = [key for key, k in self._alerts.items() if not k.is_open]
            for key in over[: max(0, len(over) - MAX_ALERTS)]:
                del self._alerts[key]

    def stamped(self, state: DeviceStateMessage) -> DeviceStateMessage:
        """``state`` with those of its alerts that have been acknowledged; a message of its own for each of them."""
        acked = tuple(a for a in state.open_alerts if a in self._alerts and self._alerts[a].ack is not None)
        message_id = state.message_id.partition("-")[0] + (f"-{len(acked)}" if acked else "")
        return msgspec.structs.replace(state, acked=acked, message_id=message_id)

    def hear(
        self, name: str, payload: bytes, now_ns: int, now_s: float, refusal: Refusal | None = None
    ) -> Heard:
        """A message on ``request/{name}``; ``refusal``: why it is not to be taken up, whatever it says."""
        self.counters.heard[name if name in REQUESTS else "unknown"] += 1
        asked, transaction, problem = _read(name, payload)
        if refusal is not None:
            return self._refused(name, transaction, refusal, "it is refused unread", now_ns, now_s)
        if asked is None:
            kind = Refusal.MALFORMED if name in REQUESTS else Refusal.UNKNOWN_REQUEST
            return self._refused(name, transaction, kind, problem, now_ns, now_s)
        if (asked.site or self._site, asked.gateway or self._gateway) != (self._site, self._gateway):
            text = f"it names {asked.site or self._site}/{asked.gateway or self._gateway}, not the gateway of its topic"
            return self._refused(name, transaction, Refusal.WRONG_GATEWAY, text, now_ns, now_s)
        digest = hashlib.sha256(msgspec.json.encode(asked)).digest()
        before = self._answers.get((name, transaction))
        if before is not None and before.digest == digest:
            self.counters.n_repeated += 1
            return Heard(before.answer, publish=self._refusals.take(now_s), again=True)
        if before is not None:
            text = f"transaction {transaction} was another request"
            return self._refused(name, transaction, Refusal.TRANSACTION_REUSED, text, now_ns, now_s)
        if not self._bucket.take(now_s):
            text = "too many requests, see [gateway] max_requests_per_minute"
            return self._refused(name, transaction, Refusal.RATE_LIMITED, text, now_ns, now_s)
        if isinstance(asked, StatusRequest):
            return Heard(None, todo=asked)
        self._changed = True
        self._answers[name, transaction] = _Remembered(name=name, transaction=transaction, digest=digest)
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        if isinstance(asked, AcceptRequest | BacktestRequest | ReloadRequest):
            return Heard(None, todo=asked)
        assert isinstance(asked, AckRequest | LabelRequest)
        return self._on_alert(name, asked, now_ns)

    def told_status(self, asked: StatusRequest, status: Status, now_ns: int) -> Response:
        """The answer to ``asked``."""
        return self._answer(
            asked.transaction, "status", now_ns, None, "the status now", by=asked.by, status=status
        )

    def reloaded(self, asked: ReloadRequest, error: str | None, now_ns: int) -> Response:
        """The answer to ``asked``; ``error``: why the configuration was not taken up."""
        refusal = None if error is None else Refusal.BAD_CONFIG
        text = error or "the configuration has been taken up"
        return self._remember(self._answer(asked.transaction, "reload", now_ns, refusal, text, by=asked.by))

    def stopping(self, asked: ReloadRequest, now_ns: int) -> Response:
        """The answer to ``asked``, which will not be done any more."""
        return self._answer(
            asked.transaction, "reload", now_ns, Refusal.STOPPING, "the gateway stops", by=asked.by
        )

    def backtested(
        self, asked: BacktestRequest, found: Backtest | None, refusal: Refusal | None, text: str, now_ns: int
    ) -> Response:
        """The answer to ``asked``: what was ``found``, or why it was not done."""
        answer = self._answer(
            asked.transaction, "backtest", now_ns, refusal, text, by=asked.by, backtest=found
        )
        if refusal in _PASSING:  # who asks again may be answered otherwise
            self._answers.pop(("backtest", asked.transaction), None)
            return answer
        return self._remember(answer)

    def concluded(self, verdict: Verdict, now_ns: int) -> Response:
        """The answer to who said that a device runs normally."""
        word = verdict.acceptance
        return self._remember(
            self._answer(
                word.transaction,
                "accept_as_normal",
                now_ns,
                verdict.refusal,
                verdict.text,
                by=word.by,
                note=word.note,
                device=word.device_id,
            )
        )

    def take_changed(self) -> bool:
        """Whether :meth:`state` says something else than when this was asked last."""
        changed, self._changed = self._changed, False
        return changed

    def state(self) -> bytes:
        """All that is remembered, for :meth:`restore`."""
        return codec.pack_state(
            RequestsState(answers=list(self._answers.values()), alerts=dict(self._alerts))
        )

    def restore(self, data: bytes) -> None:
        """Go on from ``data``. A reload or a backtest that was asked for and not answered is taken up again if it is asked for
        again: its own answer went down with the process. Raises msgspec.DecodeError when ``data`` is no state."""
        state = codec.unpack_state(data, RequestsState)
        kept = [a for a in state.answers if a.answer is not None or a.name not in _ANSWERED_HERE]
        self._answers = OrderedDict(((a.name, a.transaction), a) for a in kept)
        self._alerts = OrderedDict(state.alerts)

    def _on_alert(self, name: str, asked: AckRequest | LabelRequest, now_ns: int) -> Heard:
        known = self._alerts.get(asked.alert_id)
        refusal, text, label = None, "", asked.label if isinstance(asked, LabelRequest) else None
        if known is None:
            refusal, text = (
                Refusal.UNKNOWN_ALERT,
                f"no alert {asked.alert_id} is open here, nor was one lately",
            )
        elif label is None and not known.is_open:
            refusal, text = Refusal.NOT_OPEN, f"the alert {asked.alert_id} is over"
        acked = None
        if known is not None and refusal is None:
            word = Word(by=asked.by, note=asked.note, at_ns=now_ns)
            if label is None:
                known.ack, acked, text = word, known.device, f"seen by {asked.by}"
            else:
                known.label, known.labelled = label, word
                text = f"called a {label.replace('_', ' ')} by {asked.by}"
        answer = self._answer(
            asked.transaction,
            name,
            now_ns,
            refusal,
            text,
            by=asked.by,
            note=asked.note,
            alert_id=asked.alert_id,
            label=label,
            device=None if known is None else known.device,
        )
        return Heard(self._remember(answer), acked=acked)

    def _refused(
        self, name: str, transaction: str, refusal: Refusal, text: str, now_ns: int, now_s: float
    ) -> Heard:
        answer = self._answer(transaction, name[:32], now_ns, refusal, text)
        can_be_told = bool(transaction) and _NAME.match(name) is not None
        publish = can_be_told and self._refusals.take(now_s)
        self.counters.n_untold += not publish
        return Heard(answer, publish=publish)

    def _answer(
        self,
        transaction: str,
        name: str,
        now_ns: int,
        refusal: Refusal | None,
        text: str,
        *,
        by: str | None = None,
        note: str = "",
        alert_id: str | None = None,
        label: AlertLabel | None = None,
        device: str | None = None,
        status: Status | None = None,
        backtest: Backtest | None = None,
    ) -> Response:
        if refusal is not None:
            self.counters.refused[refusal] += 1
        return Response(
            message_id=episode_id(self._gateway, name, "response", now_ns, transaction),
            site=self._site,
            gateway=self._gateway,
            request=name,
            transaction=transaction,
            ok=refusal is None,
            reason=refusal,
            text=text[:_MAX_TEXT],
            at_ns=now_ns,
            at=rfc3339(now_ns),
            by=by,
            note=note,
            alert_id=alert_id,
            label=label,
            device=device,
            status=status,
            backtest=backtest,
        )

    def _remember(self, answer: Response) -> Response:
        """``answer`` to a request that was taken up: to be given again to who asks again."""
        remembered = self._answers.get((answer.request, answer.transaction))
        if remembered is not None:
            remembered.answer = answer
            self._changed = True
        return answer


def _read(name: str, payload: bytes) -> tuple[Request | None, str, str]:
    """The request, its transaction ("" where it cannot be read), and what is wrong where it is none."""
    problem = f"there is no request {name[:32]!r}"
    if name in _decoders:
        try:
            asked = _decoders[name].decode(payload)
        except _UNREADABLE as error:
            problem = f"{error}{_choices(name, str(error))}"
        else:
            return asked, asked.transaction, ""
    try:
        return None, _envelope.decode(payload).transaction, problem
    except _UNREADABLE:
        return None, "", problem


def _choices(name: str, problem: str) -> str:
    """What may stand where ``problem`` says that something may not."""
    key = problem.rpartition("$.")[2].rstrip("`")
    fields = {str(kind): msgspec.structs.fields(struct) for kind, struct in REQUESTS.items()}[name]
    found = next((f.type for f in fields if f.encode_name == key), None)
    allowed = get_args(found) if get_origin(found) is Literal else ()
    return f": expected {' or '.join(map(repr, allowed))}" if allowed else ""


_ANSWERED_HERE = ("reload", "backtest")  # by this process, not by what the pipeline remembers
_PASSING = (Refusal.BUSY, Refusal.STOPPING)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decoders = {str(name): msgspec.json.Decoder(kind) for name, kind in REQUESTS.items()}
_envelope = msgspec.json.Decoder(_Envelope)
