"""What one sink of a group does for all of them: it judges rollouts, carries out what was decided, and has models trained again.

Strategy: a thread, once in ``every_s``, takes or keeps the lease; who does not have it does nothing. A decision is written before
it is carried out, and what is carried out, retained messages, can be done again: a sink that dies on the way is followed by
another one that begins where it had got to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

import structlog

from cloud_sink import rollout_store as rollouts
from cloud_sink.config import Config
from cloud_sink.events import EventStore, EventsUnavailable
from cloud_sink.features_store import FeatureStore
from cloud_sink.publishing import NotPublished, Outranked, send
from cloud_sink.retraining_runs import Retrainer
from cloud_sink.rollout import judge
from cloud_sink.rollout_store import Rollout
from cloud_sink.watched import WatchedThread
from models.log_limit import LogLimit
from models.manifest import encode
from models.publication import publication, withdrawal
from models.signal import NS_PER_S
from models.topics import ModelTopics

STOP_S = 5.0
BEGINNING_NS = 20 * NS_PER_S  # until then whoever began it is about to publish it
SAME_LOG_S = 600.0

log = structlog.get_logger("linewatch.rollout")


class Leader:
    """See the module's docstring. ``every_s``: how often."""

    def __init__(
        self,
        config: Config,
        events: EventStore,
        features: FeatureStore,
        *,
        retrainer: Retrainer,
        every_s: float,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config, self._events, self._features = config, events, features
        self._retrainer = retrainer
        self._every_s, self._now_ns = every_s, now_ns
        self._offered_again: set[tuple[str, int]] = set()
        self._stop = threading.Event()
        self._log_limit = LogLimit(SAME_LOG_S)
        self._thread = WatchedThread(self._run, "rollouts")
        self.leads = False

    @property
    def failure(self) -> BaseException | None:
        """What ended its thread that nobody foresaw."""
        return self._thread.failure

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Bounded: what it is about goes on elsewhere, or at the next start."""
        self._stop.set()
        self._thread.join(STOP_S)
        self._retrainer.stop()

    def turn(self) -> None:
        """Judges what there is to judge, once. Raises EventsUnavailable and OSError (StoreError, QueueError)."""
        now_ns = self._now_ns()
        until_ns = now_ns + round(4e9 * self._every_s) + 60_000_000_000
        self.leads = rollouts.lease(self._events, self._config.sink.name, now_ns, until_ns)
        if not self.leads:
            self._retrainer.stop()
            return
        for rollout in rollouts.rollouts(self._events, rollouts.OPEN):
            try:
                self._go_on(rollout, now_ns)
            except NotPublished as error:  # of this one: others go on
                if self._log_limit.due(rollout.plan.model_id, time.monotonic()) is not None:
                    log.warning(f"the rollout of {rollout.plan.model_id} waits: {error}")
        self._retrainer.turn()

    def _go_on(self, rollout: Rollout, now_ns: int) -> None:
        if rollout.state == rollouts.CANARY:
            rollout = self._judged(rollout, now_ns)
        if rollout.state == rollouts.PROMOTING:
            self._promote(rollout)
        elif rollout.state == rollouts.ROLLING_BACK:
            self._roll_back(rollout)

    def _judged(self, rollout: Rollout, now_ns: int) -> Rollout:
        plan = rollout.plan
        reports = rollouts.reports(self._events, self._features, rollout)
        self._offer_again(rollout, [r.gateway for r in reports if r.state is None], now_ns)
        verdict = judge(plan, reports, now_ns)
        if verdict.action == "wait":
            if verdict.reasons != rollout.reasons:
                self._change(rollout, rollouts.CANARY, rollouts.CANARY, verdict.reasons, rollout.changed_ns)
            return rollout
        after = rollouts.PROMOTING if verdict.action == "promote" else rollouts.ROLLING_BACK
        if self._change(rollout, rollouts.CANARY, after, verdict.reasons, now_ns):
            tell = log.info if verdict.action == "promote" else log.warning
            tell(
                f"{plan.model_id} version {plan.version}: {after.replace('_', ' ')}",
                why="; ".join(verdict.reasons),
            )
        return rollouts.rollout_of(self._events, plan.model_id, plan.version)

    def _offer_again(self, rollout: Rollout, silent: list[str], now_ns: int) -> None:
        """Whoever began it may have died before it was published: once in the life of a sink, it goes out again to canaries that
        have said nothing of it."""
        plan, key = rollout.plan, (rollout.plan.model_id, rollout.plan.version)
        if not silent or key in self._offered_again or now_ns - plan.began_ns < BEGINNING_NS:
            return
        topics = ModelTopics(self._config.broker.prefix, plan.model_id)
        artifacts = rollouts.artifacts_of(self._events, rollout.manifest)
        for gateway in silent:
            messages = list(publication(rollout.manifest, artifacts, topics, gateway=gateway))
            with suppress(Outranked):  # then it ends as one that this one says nothing of
                self._send(messages, [topics.canary(gateway)])
        self._offered_again.add(key)

    def _change(
        self, rollout: Rollout, before: str, after: str, reasons: tuple[str, ...], at_ns: int
    ) -> bool:
        plan = rollout.plan
        return rollouts.change(self._events, plan.model_id, plan.version, (before,), after, reasons, at_ns)

    def _promote(self, rollout: Rollout) -> None:
        plan, topics = rollout.plan, ModelTopics(self._config.broker.prefix, rollout.plan.model_id)
        artifacts = rollouts.artifacts_of(self._events, rollout.manifest)
        messages = list(publication(rollout.manifest, artifacts, topics))
        messages += [withdrawal(topics, gateway) for gateway in plan.canaries]
        try:
            self._send(messages, [topics.stable], self._own(rollout, topics))
        except Outranked as error:
            self._change(rollout, rollouts.PROMOTING, rollouts.ROLLING_BACK, (str(error),), self._now_ns())
            log.warning(f"{plan.model_id} version {plan.version} cannot be promoted: {error}")
            return
        self._done(rollout, rollouts.PROMOTING, rollouts.PROMOTED)

    def _roll_back(self, rollout: Rollout) -> None:
        topics = ModelTopics(self._config.broker.prefix, rollout.plan.model_id)
        messages = [withdrawal(topics, gateway) for gateway in rollout.plan.canaries]
        self._send(messages, own=self._own(rollout, topics))
        self._done(rollout, rollouts.ROLLING_BACK, rollouts.ROLLED_BACK)

    def _own(self, rollout: Rollout, topics: ModelTopics) -> dict[str, bytes]:
        """What of canaries is to be taken back: what somebody has published there since stays."""
        payload = encode(rollout.manifest)
        return {topics.canary(gateway): payload for gateway in rollout.plan.canaries}

    def _send(
        self,
        messages: list[tuple[str, bytes]],
        manifests: Sequence[str] = (),
        own: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        client_id = f"linewatch-rollout-{self._config.sink.name}"
        send(self._config.broker, messages, client_id=client_id, manifests=manifests, own=own)

    def _done(self, rollout: Rollout, before: str, after: str) -> None:
        self._change(rollout, before, after, rollout.reasons, self._now_ns())
        plan = rollout.plan
        log.info(
            f"{plan.model_id} version {plan.version} is {after.replace('_', ' ')}", canaries=plan.canaries
        )

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.turn()
            except (EventsUnavailable, OSError) as error:
                if self._log_limit.due(type(error).__name__, time.monotonic()) is not None:
                    log.warning(f"rollouts wait: {error}")
