"""Models that come over the uplink, into service without a restart: all of a gateway's tracks, and what they share.

Invariant: everything here runs on the gateway's loop but for what is handed to threads, and nothing here waits on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from edge_node import model_admission as admission
from edge_node.assembly import Core
from edge_node.config import Config
from edge_node.gateway_alerts import Trouble
from edge_node.inference import ScoringEngine
from edge_node.model_admission import Prepared
from edge_node.model_figures import families
from edge_node.model_inbox import ModelInbox
from edge_node.model_probe import ProbeFailed, probe
from edge_node.model_record import NotAdmitted
from edge_node.model_restoring import restore
from edge_node.model_shelf import Shelf
from edge_node.model_store import Bundle
from edge_node.model_track import Track
from edge_node.plans import DevicePlan
from edge_node.running_sources import raise_failure
from edge_node.self_taught import SelfTaught
from models.acceptance import Acceptance
from models.log_limit import LogLimit
from models.manifest import ModelManifest
from models.messages import ModelStage, ModelState, episode_id, rfc3339
from models.metrics import Family
from models.refusals import RefusalReason
from models.signal import SampleBlock
from models.topics import DEFAULT_PREFIX, ModelTopics

PAUSE_S = 0.2  # between rounds of what was heard: bounds what a flood of manifests can cost
SAME_LOG_S = 60.0
STOP_S = 5.0

log = structlog.get_logger("linewatch.models")


class Adoption:
    """See the module's docstring; ``state``: where what is adopted is kept (None: nowhere). An
    :class:`edge_node.model_home.ModelHome`."""

    def __init__(
        self,
        config: Config,
        core: Core,
        state: Path | None,
        *,
        publish: Callable[[ModelState], None],
        crowded: Callable[[], bool] = lambda: False,
        labelled_false: Callable[[], Collection[str]] = frozenset,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """On the loop. Serves in ``core``, to which nothing was pushed yet, what was adopted before."""
        self.config = config
        self.core = core
        self.adoptions: Counter[str] = Counter()
        self.refusals: Counter[tuple[str, RefusalReason]] = Counter()
        self.rollbacks: Counter[tuple[str, RefusalReason]] = Counter()
        self.crowded = crowded
        self.labelled_false = labelled_false
        self.now_ns = now_ns
        self._state = state
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None
        self._probing = asyncio.Semaphore(1)
        self._news = asyncio.Event()
        self._waiting: dict[asyncio.Event, dict[str, tuple[str, int]]] = {}  # who wants graphs -> which
        self._n_said = 0
        self._log_limit = LogLimit(SAME_LOG_S)
        self.inbox = ModelInbox(self._wake)
        self._tracks: dict[str, Track] = {}
        self._self_taught = SelfTaught(self, state, self._stop)
        self.take_over(config, core)
        self._listener = self.spawn(self._listen())

    def take_over(self, config: Config, core: Core) -> None:
        """A new configuration, and its core, to which nothing was pushed yet: what was adopted goes on serving in it, where
        it still may."""
        self.config, self.core = config, core
        self._self_taught.take_over(config, core)
        before, self._tracks = self._tracks, {}
        served = dict.fromkeys(plan.track for plan in core.plans if plan.track is not None)
        for model_id in served:
            track = before.pop(model_id, None)
            shelf = Shelf(self._state, model_id) if track is None else track.shelf
            restored = restore(
                config,
                core,
                shelf,
                shelf.load() if track is None else track.record,
                None if track is None else track.remembered,
                starting=track is None,
                now_ns=self.now_ns(),
                stop=self._stop,
            )
            if track is None:
                self._tracks[model_id] = Track(self, shelf, restored)
            else:
                self._tracks[model_id] = track
                track.go_on(restored)
        for track in before.values():
            track.break_off()
        self._aim()

    def push(self, blocks: Sequence[SampleBlock]) -> None:
        """What the pipeline in service has just been given, and has scored."""
        if not self._stop.is_set():
            for track in self._tracks.values():
                track.attempt.push(blocks)

    def advance(self, now_ns: int) -> None:
        """What it was told of the time."""
        if not self._stop.is_set():
            self._self_taught.step()
            for track in self._tracks.values():
                track.advance(now_ns)

    def accept(self, acceptance: Acceptance) -> None:
        """What an operator told it."""
        for track in self._tracks.values():
            track.attempt.accept(acceptance)

    def check(self) -> None:
        """DaemonFailed when a task failed: by a defect."""
        raise_failure("taking up models", self._failure)

    async def stop(self) -> None:
        """Ends all that is under way; what serves is remembered."""
        self._stop.set()
        for track in self._tracks.values():
            track.stop()
        await asyncio.sleep(0)
        writing = [task for task in self._tasks if task is not self._listener]
        if writing:
            await asyncio.wait(writing, timeout=STOP_S)
        for task in self._tasks:
            task.cancel()

    @property
    def states(self) -> list[ModelState]:
        """What was said last of each model, for another uplink."""
        return [track.said for track in self._tracks.values() if track.said is not None]

    def troubles(self) -> list[Trouble]:
        """What an operator must know of."""
        found = [
            Trouble(f"learning/{device_id}", text, 1, math.inf)
            for device_id, text in self._self_taught.trouble.items()
        ]
        found += [
            Trouble(f"model_kept/{model_id}", text, 1, math.inf)
            for model_id, text in self._self_taught.unkept.items()
        ]
        for model_id, track in self._tracks.items():
            if (text := track.trouble) is not None:
                found.append(Trouble(f"model/{model_id}/{text}", f"model {model_id}: {text}", 1, math.inf))
            if (text := track.unkept) is not None:
                found.append(Trouble(f"model_kept/{model_id}", text, 1, math.inf))
        return found

    def families(self) -> list[Family]:
        """What is counted."""
        models = [plan.model for plan in self.core.plans if plan.model is not None]
        serving: dict[str, int] = {}
        for model in models:
            serving[model.model_id] = max(model.version, serving.get(model.model_id, 0))
        trials = {model_id: track.attempt.n_windows for model_id, track in self._tracks.items()}
        return families(self.adoptions, self.refusals, self.rollbacks, serving, trials)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def retire(self, engines: Iterable[ScoringEngine]) -> None:
        for engine in engines:
            self.spawn(asyncio.to_thread(engine.close))

    def bundle_of(self, device_id: str) -> Bundle | None:
        """What scores for a device now: adopted, or as configured; None where nothing does."""
        plan = next((p for p in self.core.plans if p.device.device_id == device_id), None)
        if plan is None or plan.model is None:
            return None
        track = self._tracks.get(plan.model.model_id)
        adopted = None if track is None else track.bundle
        return self.core.bundles.get(device_id) if adopted is None else adopted

    async def fetch(self, model_id: str, manifest: ModelManifest, patience_s: float) -> Mapping[str, bytes]:
        return await self.fetch_blobs(model_id, {a.sha256: a.n_bytes for a in manifest.artifacts}, patience_s)

    async def fetch_blobs(
        self, model_id: str, sizes: Mapping[str, int], patience_s: float
    ) -> Mapping[str, bytes]:
        """What is published of ``model_id`` under these digests, of these sizes; its bytes are whatever came. Raises
        NotAdmitted."""
        digests = set(sizes)
        topics = ModelTopics(self._prefix, model_id)
        came = asyncio.Event()
        self._waiting[came] = {topics.blob(sha256): (sha256, n) for sha256, n in sizes.items()}
        self.inbox.want(self._wanted())
        try:
            async with asyncio.timeout(patience_s):
                while len(blobs := self.inbox.blobs(digests)) < len(digests):
                    await came.wait()
                    came.clear()
        except TimeoutError:
            lacking = ", ".join(topics.blob(sha256) for sha256 in sorted(digests - blobs.keys()))
            text = f"nothing of the size that the manifest says came on {lacking} within {patience_s:g} s"
            raise NotAdmitted(RefusalReason.NO_BLOB, text) from None
        finally:
            del self._waiting[came]
            self.inbox.want(self._wanted())
        return blobs

    async def probe(self, bundle: Bundle) -> None:
        """Tries a bundle in a process of its own, one at a time. Raises NotAdmitted and ProbeStopped."""
        limits = self.config.models
        async with self._probing:
            try:
                await asyncio.to_thread(
                    probe,
                    bundle,
                    memory_mb=limits.probe_memory_mb,
                    timeout_s=limits.probe_timeout_s,
                    stop=self._stop,
                )
            except ProbeFailed as error:
                raise NotAdmitted(error.reason, str(error)) from error

    async def prepare(
        self, plans: Sequence[DevicePlan], bundles: Callable[[str], Bundle | None], *, probed: bool = False
    ) -> Prepared:
        async with contextlib.AsyncExitStack() as held:
            if not probed:
                await held.enter_async_context(self._probing)
            work = asyncio.ensure_future(
                asyncio.to_thread(
                    admission.prepare,
                    self.config,
                    plans,
                    bundles,
                    workers=self.core.workers,
                    stop=self._stop,
                    on_notice=log.warning,
                    probed=probed,
                )
            )
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                work.add_done_callback(_close_unwanted)
                raise

    def say(
        self,
        model_id: str,
        state: ModelStage,
        version: int,
        running: int,
        canary: bool,
        reason: RefusalReason | None,
        text: str,
    ) -> ModelState:
        gateway, now_ns = self.config.gateway, self.now_ns()
        self._n_said += 1
        subject = f"{state}/{version}/{self._n_said}"
        message = ModelState(
            message_id=episode_id(gateway.name, model_id, "model", now_ns, subject),
            site=gateway.site,
            gateway=gateway.name,
            model_id=model_id,
            state=state,
            version=version,
            running=running,
            canary=canary,
            reason=reason,
            text=text,
            since_ns=now_ns,
            since_at=rfc3339(now_ns),
        )
        tell = log.info if state in ("shadow", "adopted") else log.warning
        n_held = self._log_limit.due(f"{model_id} {state} {version} {reason}", time.monotonic())
        if n_held is not None:  # anybody may offer rubbish, as fast as he likes
            tell(f"model {model_id}: {text}", state=state, version=version, running=running, n_held=n_held)
        self._publish(message)
        return message

    @property
    def _prefix(self) -> str:
        return DEFAULT_PREFIX if self.config.uplink is None else self.config.uplink.prefix

    def _wanted(self) -> dict[str, tuple[str, int]]:
        return {topic: blob for wants in self._waiting.values() for topic, blob in wants.items()}

    def _aim(self) -> None:
        """Hear of the models that run here, where there is a key to trust."""
        heard = []
        for model_id in self._tracks if self.config.trusted_keys else ():
            try:
                ModelTopics(self._prefix, model_id)
            except ValueError as error:
                log.warning(f"nothing is taken over MQTT for model {model_id}: {error}")
            else:
                heard.append(model_id)
        limit = self.config.models.max_bytes if self.config.trusted_keys else 0
        gateway = self.config.gateway
        self.inbox.aim(self._prefix, f"{gateway.site}/{gateway.name}", heard, limit)

    async def _listen(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            for heard in self.inbox.take():
                if (track := self._tracks.get(heard.model_id)) is not None:
                    await track.hear(heard)
            await asyncio.sleep(PAUSE_S)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._awake)

    def _awake(self) -> None:
        self._news.set()
        for came in self._waiting:
            came.set()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._failure is None:
            self._failure = error


def _close_unwanted(work: asyncio.Future[Prepared]) -> None:
    """Nobody waited for what was prepared."""
    if not work.cancelled() and work.exception() is None:
        work.result().close()
