"""Models that are trained again without anybody asking: looks for drift, trains a candidate, has it judged, offers it.

Strategy: the sink that leads starts commands of its own, one at a time, each in a process of its own
(:class:`cloud_sink.child.Child`): ``drift`` says what there is to know; where that is a reason, an attempt is noted, ``learn``
makes a bundle in a folder, ``evaluate`` has the gate judge it, and where that accepts, ``rollout`` offers it. Invariants: what is
begun is noted before it is done, and each step can be done again: whoever dies on the way is followed by one that goes on from
there, at most MAX_STARTS times. A version is rolled out once, so no two candidates come of one attempt.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec
import structlog
from sqlalchemy import or_, select

from cloud_sink import drift_alerts, influx, retraining_store, tables
from cloud_sink import rollout_store as rollouts
from cloud_sink.bundle import BundleError, read_manifest, write_bundle
from cloud_sink.child import Child
from cloud_sink.config import Config
from cloud_sink.evaluations import newest_of
from cloud_sink.events import Batch, EventStore
from cloud_sink.findings import Look
from cloud_sink.influx_queue import PointQueue
from cloud_sink.retrain_options import RetrainModel
from cloud_sink.retraining import HOUR_NS, Known, Wish, decide
from cloud_sink.retraining_store import FAILED, OFFERED, OPEN, TRAINED, TRAINING, Retraining
from models.log_limit import LogLimit
from models.messages import Alert

MAX_STARTS = 3
SAME_LOG_S = 3600.0

log = structlog.get_logger("linewatch.retrain")


@dataclass(frozen=True, slots=True)
class Model:
    """A ``[[retrain.model]]``, and what its bundle is called."""

    model_id: str
    class_: str
    asked: RetrainModel
    wish: Wish


class Work(NamedTuple):
    """What runs: ``attempt`` None: a look."""

    child: Child
    attempt: Retraining | None


class Retrainer:
    """See the module's docstring. :meth:`turn` is called by who leads, :meth:`stop` when it does not any more; from one
    thread."""

    def __init__(
        self,
        config: Config,
        events: EventStore,
        points: PointQueue | None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Raises BundleError."""
        self._config, self._events, self._points, self._now_ns = config, events, points, now_ns
        self._models = {m.model_id: m for m in map(_model, config.retrain.model)}
        self._work: Work | None = None
        self._mine: set[tuple[str, int, int]] = set()  # attempts, and starts, that are this process's
        self._looks_s = time.monotonic()
        self._log_limit = LogLimit(SAME_LOG_S)
        self.drifts: Counter[str] = Counter()  # raised, by what drifted: device, fleet
        self.results: Counter[str] = Counter()
        self.n_looks_failed = 0

    def turn(self) -> None:
        """Goes on with what there is to do, and waits for nothing. Raises EventsUnavailable, QueueError and OSError."""
        if not self._models:
            return
        if self._work is not None:
            if self._work.child.running:
                return
            work, self._work = self._work, None
            if work.attempt is None:
                self._looked(work.child)
            else:
                self._stepped(work.child, work.attempt)
            return
        for model in self._models.values():
            for attempt in retraining_store.retrainings(self._events, model.model_id):
                if attempt.state in OPEN and self._go_on(model, attempt):
                    return
        if time.monotonic() >= self._looks_s:
            self._looks_s = time.monotonic() + self._config.retrain.look_s
            self._start(("drift", "-c", str(self._config.path), "--json"), None)

    def stop(self) -> None:
        """Ends what runs: somebody goes on with it later. Bounded."""
        if self._work is not None:
            self._work.child.end()
            self._work = None

    def _start(self, command: tuple[str, ...], attempt: Retraining | None) -> None:
        limits = self._config.retrain
        child = Child(command, minutes=limits.minutes, memory_mb=limits.memory_mb, shows=attempt is not None)
        self._work = Work(child, attempt)

    def _looked(self, child: Child) -> None:
        if (why := child.failure) is not None:
            self.n_looks_failed += 1
            if self._log_limit.due(why, time.monotonic()) is not None:
                log.warning(f"drift cannot be looked for: {why}")
            return
        for look in msgspec.json.decode(child.output, type=list[Look]):
            model = self._models.get(look.model_id)
            if model is not None:  # else the bundle has been changed since the start
                self._tell(model, look)
                self._decide(model, look)

    def _tell(self, model: Model, look: Look) -> None:
        now_ns, rest_ns = self._now_ns(), round(model.wish.rest_hours * HOUR_NS)
        changed = drift_alerts.changes(
            look.drift,
            self._known_drifts(model.model_id, now_ns - rest_ns),
            model_id=model.model_id,
            class_=look.class_,
            now_ns=now_ns,
            rest_ns=rest_ns,
        )
        if not changed:
            return
        self._events.commit(Batch(now_ns, alerts=changed))
        if self._points is not None:
            self._points.put([line for line in influx.alert_lines(changed) if line])
        for alert in changed:
            if alert.state == "raised":
                self.drifts["fleet" if alert.device == drift_alerts.FLEET else "device"] += 1
                log.warning(alert.message, gateway=f"{alert.site}/{alert.gateway}", device=alert.device)
            else:
                log.info(alert.message, gateway=f"{alert.site}/{alert.gateway}", device=alert.device)

    def _known_drifts(self, model_id: str, since_ns: int) -> list[Alert]:
        a = tables.alerts.c
        wanted = select(a.payload).where(
            a.kind == "drift", a.model_id == model_id, or_(a.state != "cleared", a.end_ns >= since_ns)
        )
        with self._events.read() as connection:
            found = [msgspec.json.decode(row.payload, type=Alert) for row in connection.execute(wanted)]
        return [alert for alert in found if alert.clock == drift_alerts.CLOCK]

    def _decide(self, model: Model, look: Look) -> None:
        now_ns = self._now_ns()
        known = Known(
            look.served_ns,
            look.n_windows,
            look.drift.fleet,
            self._rolling_out(model.model_id),
            retraining_store.attempts(self._events, model.model_id),
        )
        decision = decide(model.wish, known, now_ns)
        if decision.cause is None:
            log.debug(f"{model.model_id} is not trained again: {decision.text}")
            return
        attempt = retraining_store.begin(
            self._events, model.model_id, decision.cause, decision.text, self._config.sink.name, now_ns
        )
        if attempt is not None:
            self._mine.add(_key(attempt))
            log.info(f"{model.model_id} is trained again: {decision.text}", attempt=attempt.number)

    def _rolling_out(self, model_id: str) -> str | None:
        for rollout in rollouts.rollouts(self._events, (*rollouts.OPEN, rollouts.PAUSED)):
            if rollout.plan.model_id == model_id:
                return f"version {rollout.plan.version}"
        return None

    def _go_on(self, model: Model, attempt: Retraining) -> bool:
        """Begins its next step; False where it has to wait."""
        if _key(attempt) not in self._mine:
            taken = self._take_over(attempt)
            if taken is None:
                return True
            attempt = taken
        if attempt.state == TRAINED:
            return self._offer(model, attempt)
        self._train(model, attempt)
        return True

    def _take_over(self, attempt: Retraining) -> Retraining | None:
        """Of one who is gone: it was killed, or stopped."""
        if attempt.starts >= MAX_STARTS:
            self._fail(attempt, f"it was begun {attempt.starts} times, and its sink was gone each time")
            return None
        log.info(
            f"{attempt.model_id}: attempt {attempt.number} goes on ({attempt.state})", begun_by=attempt.holder
        )
        taken = self._change(attempt, holder=self._config.sink.name, starts=attempt.starts + 1)
        if taken is not None:
            self._mine.add(_key(taken))
        return taken

    def _train(self, model: Model, attempt: Retraining) -> None:
        try:
            like = self._like(model)
        except BundleError as error:
            self._fail(attempt, str(error))
            return
        version = retraining_store.highest_version(self._events, model.model_id) + 1
        self._start(
            (
                "learn",
                *("-c", str(self._config.path)),
                *("--like", str(like)),
                *("-o", str(self._candidate(model.model_id))),
                *("--class", model.class_),
                *("--key", str(model.asked.key_file)),
                *("--days", str(model.asked.days)),
                *("--min-version", str(version)),
            ),
            attempt,
        )

    def _offer(self, model: Model, attempt: Retraining) -> bool:
        assert attempt.version is not None
        if self._was_offered(attempt):
            return True
        other = self._rolling_out(model.model_id)
        if other is not None:
            if self._log_limit.due(model.model_id, time.monotonic()) is not None:
                log.info(f"{model.model_id} version {attempt.version} waits: {other} is being rolled out")
            return False
        folder = self._candidate(model.model_id)
        try:
            there = read_manifest(folder)
        except BundleError:
            there = None
        if there is None or (there.model_id, there.version) != (attempt.model_id, attempt.version):
            self._change(attempt, state=TRAINING, version=None)  # on another computer's disk, or gone
            return True
        judged = newest_of(self._events, there)
        if judged is not None and judged.decision.verdict == "refuse":
            self._fail(
                attempt, f"the gate refuses version {there.version}: {'; '.join(judged.decision.reasons)}"
            )
            return True
        self._start(
            self._evaluate(model, folder) if judged is None else self._rollout(model, folder), attempt
        )
        return True

    def _evaluate(self, model: Model, folder: Path) -> tuple[str, ...]:
        asked = model.asked
        return (
            *("evaluate", "-c", str(self._config.path), str(folder)),
            *("--hours", str(asked.backtest_hours)),
            *("--days", str(asked.days)),
            *("--wait", str(asked.wait_s)),
            *("--min-gateways", str(asked.min_gateways)),
            *("--min-windows", str(asked.min_windows)),
            *("--alerts-per-week", str(asked.alerts_per_week)),
        )

    def _rollout(self, model: Model, folder: Path) -> tuple[str, ...]:
        asked = model.asked
        return (
            *("rollout", "-c", str(self._config.path), str(folder)),
            *(word for gateway in asked.canaries for word in ("--canary", gateway)),
            *("--hours", str(asked.hours)),
            *("--windows", str(asked.windows)),
            *("--alerts-per-week", str(asked.alerts_per_week)),
        )

    def _stepped(self, child: Child, attempt: Retraining) -> None:
        why = child.failure
        if attempt.state == TRAINED and child.name == "evaluate":
            if why is not None and not self._was_judged(attempt):
                self._fail(attempt, why)
        elif attempt.state == TRAINED:
            if not self._was_offered(attempt):
                self._fail(attempt, why or "it was not offered")
        elif why is not None:
            self._fail(attempt, why)
        else:
            try:
                version = read_manifest(self._candidate(attempt.model_id)).version
            except BundleError as error:
                self._fail(attempt, str(error))
            else:
                self._change(attempt, state=TRAINED, version=version)

    def _was_judged(self, attempt: Retraining) -> bool:
        """Whether the gate has decided: what, is seen at the next turn."""
        try:
            return newest_of(self._events, read_manifest(self._candidate(attempt.model_id))) is not None
        except BundleError:
            return False

    def _was_offered(self, attempt: Retraining) -> bool:
        """Notes it where its version is rolled out, or was."""
        states = retraining_store.rollout_states(self._events)
        if attempt.version is None or (attempt.model_id, attempt.version) not in states:
            return False
        if self._change(attempt, state=OFFERED, text="") is not None:
            self.results["offered"] += 1
            log.info(
                f"{attempt.model_id} version {attempt.version} is offered to canaries", attempt=attempt.number
            )
        return True

    def _fail(self, attempt: Retraining, why: str) -> None:
        if self._change(attempt, state=FAILED, text=why) is not None:
            self.results["failed"] += 1
            log.warning(f"{attempt.model_id} was not trained again: {why}", attempt=attempt.number)

    def _change(self, attempt: Retraining, **values: object) -> Retraining | None:
        return retraining_store.change(self._events, attempt, self._now_ns(), **values)

    def _like(self, model: Model) -> Path:
        """The bundle in service: as configured, or a newer one that was promoted. Raises BundleError."""
        like = read_manifest(model.asked.like)
        served = retraining_store.in_service(self._events, like)
        if served.version == like.version:
            return model.asked.like
        folder = Path(self._config.retrain.folder) / "served" / quote(model.model_id, safe="")
        write_bundle(folder, served, rollouts.artifacts_of(self._events, served))
        return folder

    def _candidate(self, model_id: str) -> Path:
        return Path(self._config.retrain.folder) / "candidates" / quote(model_id, safe="")


def _key(attempt: Retraining) -> tuple[str, int, int]:
    """Another sink that goes on with an attempt counts its starts up: then it is not any more whose it was."""
    return attempt.model_id, attempt.number, attempt.starts


def _model(asked: RetrainModel) -> Model:
    manifest = read_manifest(asked.like)
    wish = Wish(asked.every_days, asked.new_windows, asked.on_drift, asked.rest_hours)
    return Model(manifest.model_id, asked.class_ or manifest.class_, asked, wish)
