"""Each task of a gateway measured at both places: its real engines on worked examples, real requests to a real sink.

A task is what one model does for the devices that it watches. What it sends is what the encoders make of one window; that alerts
and summaries leave, too, is the same wherever scores are made, and not counted here. Nothing is sent to a sink of a task with a
device whose features may not leave.
"""

from __future__ import annotations

import statistics
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.assembly import Core
from edge_node.cloud_scoring import Inbox
from edge_node.config import Config
from edge_node.egress import Outgoing, outgoing
from edge_node.inference import EdgeTpuUnavailable, NotReady, ScoringEngine, WorkerLost
from edge_node.model_in_service import InService, in_service
from edge_node.placement import Needs, Prices, Side, Verdict, cost_per_month, judge
from edge_node.plans import DevicePlan, ServedModel
from models.broker_options import Broker
from models.manifest import ModelManifest
from models.messages import ScoreRequest, encode, pack_floats, unpack_floats
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Receipt
from models.runtime import GraphUnusable
from models.score_exchange import MAX_BYTES, Unreadable, read_reply, read_scores, reply
from models.topics import DEFAULT_PREFIX, GatewayTopics

N_EDGE, N_CLOUD = 100, 20  # windows that are scored to see how long that takes
WARM_UP = 5
CONNECT_S = 5.0
DAY_S = 86_400.0
SENSITIVE_STEP_S = (
    1.0  # a task whose windows come more often cannot wait for a sink of which nothing is known
)
_TOPIC_BYTES = 65_536


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One model's: what it needs, what was measured at both places, and where it should run. ``version``: that was measured, the
    configuration's; ``in_service``: another one serves here, or may; None: that one does."""

    model_id: str
    version: int
    in_service: InService | None
    n_devices: int
    windows_per_day: float
    model_bytes: int
    needs: Needs
    edge: Side
    cloud: Side
    verdict: Verdict


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies in ms of single windows, or why there are none, and what to look at then."""

    ms: tuple[float, ...] = ()
    why_not: str | None = None
    remedy: str | None = None
    backend: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.ms) if self.ms else None

    @property
    def high(self) -> float | None:
        """95 % took no longer."""
        return float(np.percentile(self.ms, 95)) if self.ms else None


def tasks(config: Config, core: Core, prices: Prices, *, ask_cloud: bool) -> tuple[Task, ...]:
    """Of every model of ``core``; ``ask_cloud``: real requests go to the broker of ``config``."""
    by_engine: dict[str, list[DevicePlan]] = {}
    for plan in core.plans:
        if plan.model is not None:
            by_engine.setdefault(plan.engine, []).append(plan)
    others = in_service(config, core)
    return tuple(
        _task(config, plans, core.engines[engine], prices, others, ask_cloud=ask_cloud)
        for engine, plans in by_engine.items()
    )


def _task(
    config: Config,
    plans: Sequence[DevicePlan],
    engine: ScoringEngine,
    prices: Prices,
    others: Mapping[str, InService],
    *,
    ask_cloud: bool,
) -> Task:
    model = plans[0].model
    assert model is not None
    steps = [
        max(plan.window.hop_ns / 1e9, config.device(plan.device.device_id).interval_s or 0.0)
        for plan in plans
    ]
    per_day = sum(DAY_S / step for step in steps)
    private = any(plan.privacy != "features" for plan in plans)
    topics = _topics(config)
    up, down = sizes(model, topics, config.models.cloud_deadline_ms)
    edge = at_the_edge(engine)
    if private:
        cloud = Measured(why_not='features of a device with privacy = "statistics" do not leave')
    elif not ask_cloud:
        cloud = Measured(why_not="ask a sink with --cloud")
    elif config.uplink is None:
        cloud = Measured(why_not="there is no [uplink]")
    else:
        cloud = in_the_cloud(config.uplink, topics, model, config.models.cloud_deadline_ms)
    allowed_ms = config.models.max_latency_ms
    artifact_bytes = engine.artifact.n_bytes
    needs = Needs(
        latency_sensitive=min(steps) < SENSITIVE_STEP_S if cloud.high is None else cloud.high > allowed_ms,
        private=private,
        requests_per_day=per_day,
        large_model=artifact_bytes > config.models.max_bytes
        or (edge.median is not None and edge.median > allowed_ms),
    )
    return Task(
        model_id=model.model_id,
        version=model.version,
        in_service=others.get(model.model_id),
        n_devices=len(plans),
        windows_per_day=per_day,
        model_bytes=artifact_bytes,
        needs=needs,
        edge=_side(edge, 0, 0, cost_per_month(prices, per_day, 0, cloud=False)),
        cloud=_side(cloud, up, down, cost_per_month(prices, per_day, up + down, cloud=True)),
        verdict=judge(needs),
    )


def sizes(model: ServedModel, topics: GatewayTopics, deadline_ms: float) -> tuple[int, int]:
    """Bytes, topics included, of the request to score one window, and of its answer."""
    rows = examples(model.manifest)[:1]
    request = _request(model, topics, rows, deadline_ms)
    residual = np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    answer = reply(
        request,
        residual,
        np.array([0.1234567]),
        model_id=model.model_id,
        model_version=model.version,
        backend="cpu-float32",
        latency_ms=12.345,
    )
    return outgoing(request, topics).n_bytes, len(encode(answer)) + len(topics.score_response.encode())


def at_the_edge(engine: ScoringEngine) -> Measured:
    """How long ``engine`` takes for one window: worked examples, again and again, the first runs aside."""
    artifact = engine.artifact
    inputs = np.stack([_floats(golden.inputs) for golden in artifact.golden])
    took = []
    try:
        for i in range(WARM_UP + N_EDGE):
            row = i % len(inputs)
            begin = time.perf_counter()
            engine.run(inputs[row : row + 1])
            took.append((time.perf_counter() - begin) * 1e3)
    except (NotReady, WorkerLost, EdgeTpuUnavailable, GraphUnusable) as error:
        return Measured(why_not=str(error), backend=engine.backend)
    return Measured(ms=tuple(took[WARM_UP:]), backend=engine.backend)


def in_the_cloud(broker: Broker, topics: GatewayTopics, model: ServedModel, deadline_ms: float) -> Measured:
    """How long it takes from a request, over a connection of its own to ``broker``, to scores that can be believed."""
    rows = examples(model.manifest)
    asker = _Asker(broker, topics)
    try:
        if (why := asker.begin()) is not None:
            return Measured(why_not=why)
        took, backend = [], ""
        for i in range(N_CLOUD + 1):
            row = rows[i % len(rows)][None]
            request = _request(model, topics, row, deadline_ms)
            begin = time.perf_counter()
            payload = asker.ask(request, deadline_ms / 1e3)
            ms = (time.perf_counter() - begin) * 1e3
            if payload is None:
                return _unanswered(asker.refusal, topics, model, deadline_ms)
            answer = read_reply(payload)
            if answer.reason is not None:
                return Measured(why_not=f"the sink does not score it: {answer.reason}: {answer.text}")
            read_scores(answer, *row.shape)
            backend = f"{answer.model_id} v{answer.model_version} on {answer.backend}"
            if i:  # the first one finds caches cold
                took.append(ms)
    except Unreadable as error:
        return Measured(why_not=f"an answer of the sink cannot be believed: {error}")
    finally:
        asker.close()
    return Measured(ms=tuple(took), backend=backend)


def _unanswered(
    refusal: str | None, topics: GatewayTopics, model: ServedModel, deadline_ms: float
) -> Measured:
    """``refusal``: why the broker did not take a request; None: it did."""
    if refusal is not None:
        why = f"the broker did not take a request on {topics.score_request}: {refusal}"
        return Measured(why_not=why, remedy="let the gateway publish it: examples/mosquitto/acl")
    return Measured(
        why_not=f"no sink answered within {deadline_ms:g} ms (cloud_deadline_ms)",
        remedy=f"run a sink whose sink.toml has [scoring] models with {model.model_id}, and [broker] prefix {topics.prefix}; "
        f"the broker must let it read {topics.score_request}, and write what the gateway reads, {topics.score_response} "
        "(examples/mosquitto/acl)",
    )


def examples(manifest: ModelManifest) -> NDArray[np.float32]:
    """Rows of features float32[g, k] that the manifest brings along."""
    return np.stack([_floats(golden.features) for golden in manifest.artifacts[0].golden])


class _Asker:
    """A session that asks, one request at a time."""

    def __init__(self, broker: Broker, topics: GatewayTopics) -> None:
        self._topics = topics
        self._inbox = Inbox(topics, self._hear)
        self._changed = threading.Condition()
        self._ready = False
        self._to_send: list[Outgoing] = []
        self._wanted = ""
        self._answer: bytes | None = None
        self.refusal: str | None = None  # why the broker did not take what was asked last
        self._connection = Connection(
            broker,
            self,
            label="plan",
            client_id=f"{topics.site}-{topics.gateway}-plan-{uuid.uuid4().hex[:8]}",
            max_packet_bytes=MAX_BYTES + _TOPIC_BYTES,
        )

    def begin(self) -> str | None:
        """Connects; why that failed."""
        self._connection.start()
        if not self._until(lambda: self._ready, CONNECT_S):
            return f"the broker cannot be reached: {self._connection.last_error or 'no answer'}"
        return None

    def ask(self, request: ScoreRequest, patience_s: float) -> bytes | None:
        """The payload of the answer to ``request``; None: there was none in time, or the broker did not take it."""
        with self._changed:
            self._wanted, self._answer, self.refusal = request.transaction, None, None
            self._to_send.append(outgoing(request, self._topics))
        self._connection.wake()
        self._until(lambda: self._answer is not None or self.refusal is not None, patience_s)
        return self._answer

    def close(self) -> None:
        self._connection.stop()

    def _until(self, condition: Callable[[], bool], patience_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, patience_s)

    def _hear(self, payload: bytes, retained: bool) -> None:
        try:
            answer = read_reply(payload)
        except Unreadable:
            return  # not to us, as far as anybody can tell
        with self._changed:
            if answer.transaction == self._wanted and not retained and self._answer is None:
                self._answer = payload
                self._changed.notify_all()

    def on_connected(self, link: Link) -> None:
        link.subscribe(list(self._inbox.filters))

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        self._inbox.hear(topic, payload, retained)

    def on_acked(self, mid: int, refusal: str | None) -> None:
        if refusal is not None:
            with self._changed:
                self.refusal = refusal
                self._changed.notify_all()

    def on_lost(self, blameless: bool) -> None:
        """What was asked is not answered."""

    def on_turn(self, link: Link) -> None:
        with self._changed:
            if link.answered and not self._ready:
                self._ready = True
                self._changed.notify_all()
            to_send, self._to_send = self._to_send, []
        for item in to_send:
            link.publish(item.topic, item.payload or b"", retain=False)


def _request(
    model: ServedModel, topics: GatewayTopics, rows: NDArray[np.float32], deadline_ms: float
) -> ScoreRequest:
    return ScoreRequest(
        transaction=uuid.uuid4().hex,
        site=topics.site,
        gateway=topics.gateway,
        model_id=model.model_id,
        model_version=model.version,
        schema_id=model.manifest.schema_id,
        deadline_ms=deadline_ms,
        n=len(rows),
        features=pack_floats(rows),
    )


def _side(measured: Measured, up: int, down: int, cost: float) -> Side:
    return Side(
        latency_ms=measured.median,
        latency_95_ms=measured.high,
        n_measured=len(measured.ms),
        unmeasured=measured.why_not,
        remedy=measured.remedy,
        bytes_up=up,
        bytes_down=down,
        cost_per_month=cost,
        runs=measured.backend,
    )


def _topics(config: Config) -> GatewayTopics:
    prefix = DEFAULT_PREFIX if config.uplink is None else config.uplink.prefix
    return GatewayTopics(prefix, config.gateway.site, config.gateway.name)


def _floats(text: str) -> NDArray[np.float32]:
    return unpack_floats(text, (-1,))
