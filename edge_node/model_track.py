"""One model on its way into service: offered, tried, adopted, watched, and taken back.

Strategy: a track lives on the gateway's loop. What takes long (graphs, probes, disks) runs in threads, on values that
nothing changes; what is in service changes in :meth:`Track._swap` alone, between two turns of the loop, and so between two
windows. Invariants: one version at a time is considered, and what fails leaves the one in service as it is; every outcome
is said once, with its reason; the record in memory is of what serves, the one on disk follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

import msgspec
import structlog

from edge_node import model_admission as admission
from edge_node import model_record as records
from edge_node.assembly import Core
from edge_node.config_devices import DEFAULT_ALERTS_PER_WEEK
from edge_node.model_admission import Prepared
from edge_node.model_attempt import Attempt, between_windows
from edge_node.model_home import ModelHome
from edge_node.model_inbox import Heard
from edge_node.model_offers import Offer, Offers
from edge_node.model_probe import ProbeStopped
from edge_node.model_record import Kept, NotAdmitted, Record
from edge_node.model_restoring import Restored, kept_bundle
from edge_node.model_shelf import Shelf
from edge_node.model_store import Bundle
from edge_node.model_watch import Watch
from edge_node.plans import DevicePlan
from models import manifest as manifests
from models.manifest import ModelManifest
from models.messages import Alert, ModelStage, ModelState
from models.refusals import RefusalReason
from models.signal import NS_PER_S

CLOCK_SET_S = 300.0  # a clock that has moved on by so much more than time has was set
BLOB_PATIENCE_S = 60.0
CANARY_PATIENCE_S = 10.0  # between what is retained of one model
PROVED_S = 600.0  # a gateway that has lived for so long with a version is not ended by it
BACK_AGAIN_S = 10.0  # between attempts to go back
# What may come out otherwise the next time that the same manifest is heard.
_PASSING = frozenset(
    {
        RefusalReason.NO_BLOB,
        RefusalReason.CORRUPT,
        RefusalReason.NO_BACKEND,
        RefusalReason.NO_RUNTIME,
        RefusalReason.OVERLOADED,
        RefusalReason.TOO_FEW_WINDOWS,
        RefusalReason.LOST_ALERTS,  # somebody may label them
    }
)

log = structlog.get_logger("linewatch.models")


class Track:
    """See the module's docstring. ``restored``: what serves when the track begins. ``record``: what is remembered;
    ``bundle``: its current one, in service; None: what the configuration names serves."""

    def __init__(self, home: ModelHome, shelf: Shelf, restored: Restored) -> None:
        self._home = home
        self.model_id = shelf.model_id
        self.shelf = shelf
        self.record = restored.record
        self.bundle = restored.bundle
        self.said: ModelState | None = None
        self.trouble: str | None = None  # what an operator must know of the last outcome
        self.unkept: str | None = None  # why a restart forgets what serves
        self._bundles: dict[str, Bundle] = {}  # those of the record that are in memory, by digest
        self._remember(restored.bundle)
        self.attempt = Attempt(home)
        self._offers = Offers()
        self._stands_in_for: ModelManifest | None = self._before_canary()
        self._considered: Offer | None = None
        self._task: asyncio.Task[None] | None = None
        self._back: asyncio.Task[None] | None = None
        self._back_again_s = 0.0
        self._looked: tuple[int, float] | None = None  # wall clock and monotonic clock, when last looked at
        self._set_by_ns = 0
        self._watch = self._new_watch(None)
        self._since_s = time.monotonic()
        self._retained_s: dict[bool, float] = {}  # canary or not -> when it was heard that it is there
        self._writing = asyncio.Lock()
        self._begin(restored)

    @property
    def plans(self) -> list[DevicePlan]:
        """What runs this model now, or would if a version of it were published."""
        return [p for p in self._home.core.plans if p.track == self.model_id]

    @property
    def serving(self) -> int:
        """The version that scores now; 0: what the devices have learned, or are about to."""
        models = [p.model for p in self.plans if p.model is not None]
        return max((m.version for m in models if m.model_id == self.model_id), default=0)

    @property
    def _told(self) -> str:
        """That, for people."""
        if self.serving == 0 and any(plan.learn is not None for plan in self.plans):
            return "what is learned here"
        return f"version {self.serving}"

    @property
    def on_canary(self) -> bool:
        """Whether a canary serves."""
        return self._current is not None and self._current.canary

    @property
    def remembered(self) -> Bundle | None:
        """The current one of the record, served or not, if it is in memory."""
        current = self.record.current
        return None if current is None else self._bundles.get(current.digest)

    @property
    def _current(self) -> Kept | None:
        """What serves, if it was adopted."""
        return None if self.bundle is None else self.record.current

    def go_on(self, restored: Restored) -> None:
        """A new configuration has been taken up, with what is ``restored`` in service: what was considered is so anew."""
        if restored.bundle is not self.bundle:
            self.bundle, self.record = restored.bundle, restored.record
            self._remember(restored.bundle)
            self._stands_in_for, self._watch = self._before_canary(), self._new_watch(None)
        self.record = restored.record
        self.break_off()
        self.pursue()

    async def hear(self, heard: Heard) -> None:
        """A manifest came, or went (an empty payload)."""
        if heard.payload == b"":
            if heard.canary:
                self._end_canary("the canary of this gateway was taken back")
            return
        if heard.retained:
            self._retained_s[heard.canary] = time.monotonic()
        version = 0
        try:
            if heard.payload is None:
                limit = self._home.config.models.max_bytes
                text = f"the manifest has {heard.n_bytes} bytes, and [models] max_bytes is {limit}"
                raise NotAdmitted(RefusalReason.TOO_LARGE, text)
            keys = self._home.config.trusted_keys
            manifest = await asyncio.to_thread(admission.screen, heard.payload, self.model_id, keys)
            version = manifest.version
            if not self.plans:
                return  # a configuration without this model was taken up meanwhile
            if not self._is_settled(manifest, canary=heard.canary):
                offer = Offer(manifest, manifests.digest(manifest), heard.canary)
                self._check_version(offer)
                self._offers.put(offer)
        except NotAdmitted as refused:
            self._refuse(version, refused, canary=heard.canary)
            return
        self.pursue()

    def pursue(self) -> None:
        """Consider what is wanted now."""
        wanted = self._offers.wanted
        if self._back is not None or (wanted is not None and wanted == self._considered):
            return
        if not self.plans:
            self.break_off()
            return
        self.break_off()
        if wanted is None:
            return
        try:
            self._check_version(wanted)
        except NotAdmitted as refused:
            self._offers.drop(wanted)
            self._refuse(wanted.manifest.version, refused, canary=wanted.canary)
            return
        self._considered = wanted
        self._task = self._home.spawn(self._consider(wanted))

    def break_off(self) -> None:
        """Stop considering."""
        task, self._task, self._considered = self._task, None, None
        if task is not None:
            task.cancel()

    def advance(self, now_ns: int) -> None:
        """What the pipeline in service was told of the time."""
        self.attempt.advance(now_ns)
        now_s = time.monotonic()
        now_ns -= self._clock_set_by(now_ns, now_s)
        self._miss_canary(now_s)
        if self.record.n_starts and now_s - self._since_s >= PROVED_S:
            self._prove()
        if self._watch is None or self._back is not None or now_s < self._back_again_s or not self.plans:
            return
        if now_ns - self.record.adopted_ns > self._home.config.models.watch_s * NS_PER_S:
            self._watch = None
            return
        engines = {plan.engine for plan in self.plans}
        runs = [run for name, run in self._home.core.runs.items() if name in engines]
        try:
            self._watch.step(runs, self._open_alerts(), now_ns)
        except NotAdmitted as misbehaved:
            self._go_back(misbehaved.reason, str(misbehaved), ban=True)

    def _clock_set_by(self, now_ns: int, now_s: float) -> int:
        """By how much the clock was set since the gateway started: a version is watched for as long as it serves."""
        last_ns, last_s = self._looked or (now_ns, now_s)
        moved_ns = now_ns - last_ns - round((now_s - last_s) * NS_PER_S)
        if abs(moved_ns) > CLOCK_SET_S * NS_PER_S:
            self._set_by_ns += moved_ns
        self._looked = (now_ns, now_s)
        return self._set_by_ns

    def stop(self) -> None:
        """The gateway stops, in order: what serves is not what ended it."""
        self.break_off()
        if self.record.n_starts:
            self._prove()

    def _begin(self, restored: Restored) -> None:
        current = self._current
        if restored.given_up is not None:
            version = restored.given_up.version
            self._home.rollbacks[self.model_id, RefusalReason.RESTARTS] += 1
            self.trouble = (
                f"version {version} was rolled back to {self._told}: the gateway ended {records.MAX_STARTS} times "
                "within minutes while it was new"
            )
            canary = restored.given_up.canary
            self._say("rolled_back", version, self.trouble, RefusalReason.RESTARTS, canary=canary)
        elif current is not None:
            text = f"version {current.version} scores, which was adopted before"
            self._say("adopted", current.version, text, canary=current.canary)
        if restored.given_up is not None or self.record.n_starts:
            self._home.spawn(self._write(self.record))

    def _before_canary(self) -> ModelManifest | None:
        """What a canary that serves stands in for."""
        if not self.on_canary:
            return None
        with contextlib.suppress(NotAdmitted):
            if self.record.before is not None:
                return self._kept(self.record.before).manifest
        bundle = self._home.core.bundles.get(self.plans[0].device.device_id)
        return None if bundle is None else bundle.manifest

    def _is_settled(self, manifest: ModelManifest, *, canary: bool) -> bool:
        """Whether ``manifest`` is what serves, or will serve when the canary is gone: then that is noted."""
        before = self._stands_in_for
        if before is not None and not canary and manifests.same_model(manifest, before):
            self._offers.settled(canary=False)
            return True
        running = self.plans[0].model
        if running is None or not manifests.same_model(manifest, running.manifest):
            return False
        self._offers.settled(canary=canary)
        if self.on_canary and not canary:
            self._stands_in_for = None
            self._note(records.promoted(self.record))
            text = f"version {manifest.version} scores, and is for all gateways now"
            self._say("adopted", manifest.version, text)
        return True

    def _check_version(self, offer: Offer) -> None:
        serving = self.serving
        if not offer.canary and self.on_canary:
            serving = 0 if self._stands_in_for is None else self._stands_in_for.version
        records.check_version(self.record, offer.manifest, serving, canary=offer.canary)

    async def _consider(self, offer: Offer) -> None:
        core = self._home.core
        try:
            prepared = await self._prepare(offer)
            try:
                text = await self._try_out(offer, prepared)
                replaced = await between_windows(lambda: self._swap(prepared, core))
            except BaseException:
                self._home.retire(prepared.engines.values())
                raise
        except NotAdmitted as refused:
            if self._considered is offer:
                self._task = self._considered = None
            if refused.reason not in _PASSING:
                self._offers.refused.add(offer.digest)
            self._offers.drop(offer)
            self._refuse(offer.manifest.version, refused, canary=offer.canary)
            return
        except ProbeStopped:
            return
        await self._adopted(offer, prepared, replaced, text)

    async def _adopted(
        self, offer: Offer, prepared: Prepared, replaced: ModelManifest | None, text: str
    ) -> None:
        self._task = self._considered = None  # whoever breaks off now comes too late
        self._offers.settled(canary=offer.canary)
        if not offer.canary:
            self._stands_in_for = None
        elif self._stands_in_for is None:
            self._stands_in_for = replaced
        remembered = self.record
        if self.bundle is None:  # what was remembered did not serve: there is nothing to go back to
            remembered = msgspec.structs.replace(remembered, current=None, before=None)
        record = records.adopted(
            remembered, offer.manifest, offer.digest, self._home.now_ns(), canary=offer.canary
        )
        assert prepared.bundle is not None
        self.record, self.bundle, self.trouble = record, prepared.bundle, None
        self._remember(prepared.bundle)
        self._watch = self._new_watch(self._open_alerts())
        self._home.adoptions[self.model_id] += 1
        await self._write(record, keep=True)
        version = offer.manifest.version
        self._say("adopted", version, f"version {version} scores now: {text}", canary=offer.canary)

    async def _prepare(self, offer: Offer) -> Prepared:
        manifest = offer.manifest
        admission.check_sizes(manifest, self._home.config.models.max_bytes)
        blobs = await self._home.fetch(self.model_id, manifest, BLOB_PATIENCE_S)
        bundle = await asyncio.to_thread(admission.examine, manifest, blobs)
        return await self._home.prepare(self.plans, lambda _: bundle)

    async def _try_out(self, offer: Offer, prepared: Prepared) -> str:
        version, n = offer.manifest.version, self._home.config.models.shadow_windows
        budgets = {plan.device.device_id: self._budget(plan) for plan in prepared.plans}

        def begun() -> None:
            text = f"version {version} is on trial for {n} windows of every device"
            self._say("shadow", version, text, canary=offer.canary)

        alone = {plan.device.device_id for plan in self.plans if plan.model is None}
        return await self.attempt.run(prepared, budgets, begun, alone)

    def _swap(self, prepared: Prepared, prepared_for: Core) -> ModelManifest | None:
        """The one place where what is in service changes; returns what was. Raises NotAdmitted when it was prepared for a
        configuration that is no more."""
        if self._home.core is not prepared_for or not self.plans:
            raise NotAdmitted(RefusalReason.OVERLOADED, "a new configuration was taken up meanwhile")
        running = self.plans[0].model
        retired = self._home.core.adopt(prepared.plans, prepared.engines)
        self._home.retire(retired)
        return None if running is None else running.manifest

    def _end_canary(self, text: str) -> None:
        self._offers.end_canary()
        self._retained_s.pop(True, None)
        if self.on_canary:
            self._go_back(RefusalReason.TAKEN_BACK, text, ban=False)
        else:
            self.pursue()

    def _miss_canary(self, now_s: float) -> None:
        """A canary that was taken back while nobody listened is missing among what is retained."""
        stable_s, canary_s = self._retained_s.get(False), self._retained_s.get(True)
        if stable_s is None or now_s - stable_s < CANARY_PATIENCE_S:
            return
        del self._retained_s[False]
        if self.on_canary and (canary_s is None or abs(canary_s - stable_s) > CANARY_PATIENCE_S):
            self._end_canary("there is no canary for this gateway any more")

    def _go_back(self, reason: RefusalReason, text: str, *, ban: bool) -> None:
        self.break_off()
        if self._back is None:
            self._back = self._home.spawn(self._back_to_before(reason, text, ban=ban))

    async def _back_to_before(self, reason: RefusalReason, text: str, *, ban: bool) -> None:
        """Serve again what served before, or else what the configuration names."""
        current, before = self._current, self.record.before
        assert current is not None
        bundle = None
        try:
            if before is not None:
                try:
                    bundle = await asyncio.to_thread(self._kept, before)
                except NotAdmitted as error:
                    log.error(
                        f"model {self.model_id} version {before.version} cannot be served again: {error}"
                    )
                    before = None
            core = self._home.core
            configured = core.bundles
            prepared = await self._home.prepare(
                self.plans, lambda device: configured.get(device) if bundle is None else bundle, probed=True
            )
            try:
                await between_windows(lambda: self._swap(prepared, core))
            except NotAdmitted:
                self._home.retire(prepared.engines.values())
                raise
        except (NotAdmitted, ProbeStopped) as error:
            self.trouble = f"version {current.version} cannot be rolled back: {error}"
            log.error(f"model {self.model_id}: {self.trouble}")
            self._back, self._back_again_s = None, time.monotonic() + BACK_AGAIN_S
            return
        record = msgspec.structs.replace(self.record, before=before)
        self.record = records.gone_back(record, reason, self._home.now_ns(), ban=ban)
        self.bundle, self._stands_in_for, self._watch = bundle, None, None
        self._home.rollbacks[self.model_id, reason] += 1
        said = f"version {current.version} was rolled back to {self._told}: {text}"
        self.trouble = said if ban else None
        self._back = None
        await self._write(self.record)
        self._say("rolled_back", current.version, said, reason, canary=current.canary)
        self.pursue()

    def _kept(self, kept: Kept) -> Bundle:
        """The bundle ``kept``, from memory or from the shelf; NotAdmitted."""
        found = self._bundles.get(kept.digest)
        return kept_bundle(self._home.config, self.shelf, kept) if found is None else found

    def _remember(self, bundle: Bundle | None) -> None:
        """``bundle`` is the current one; no other than the one before is needed beside it."""
        if bundle is not None:
            self._bundles[manifests.digest(bundle.manifest)] = bundle
        named = {kept.digest for kept in (self.record.current, self.record.before) if kept is not None}
        self._bundles = {digest: b for digest, b in self._bundles.items() if digest in named}

    def _budget(self, plan: DevicePlan) -> float:
        budget = self._home.config.device(plan.device.device_id).alerts_per_week
        return DEFAULT_ALERTS_PER_WEEK if budget is None else budget

    def _open_alerts(self) -> Iterable[Alert]:
        for plan in self.plans:
            yield from self._home.core.pipeline.open_alerts(plan.device.device_id)

    def _new_watch(self, known: Iterable[Alert] | None) -> Watch | None:
        """For the version that was adopted last; ``known``: alerts that are not its own."""
        if self._current is None:
            return None
        budget = sum(self._budget(plan) for plan in self.plans)
        limit = self._home.config.models.max_latency_ms
        return Watch(budget, self.record.adopted_ns, limit, known)

    def _prove(self) -> None:
        self._note(msgspec.structs.replace(self.record, n_starts=0))

    def _note(self, record: Record) -> None:
        """``record`` from now on: at once, for what is heard next may depend on it; and on disk soon."""
        self.record = record
        self._home.spawn(self._write(record))

    async def _write(self, record: Record, *, keep: bool = False) -> None:
        """``record`` to disk; ``keep``: with the bundle that serves."""
        bundle = self.bundle if keep else None
        async with self._writing:
            try:
                await asyncio.to_thread(self.shelf.keep, record, bundle)
            except OSError as error:
                why = error.strerror or error
                self.unkept = (
                    f"model {self.model_id} cannot be kept ({why}): a restart forgets what became of it"
                )
                log.error(self.unkept)
            else:
                self.unkept = None

    def _refuse(self, version: int, refused: NotAdmitted, *, canary: bool) -> None:
        self._home.refusals[self.model_id, refused.reason] += 1
        what = f"version {version}" if version else "what was offered"
        self._say("refused", version, f"{what} was refused: {refused}", refused.reason, canary=canary)

    def _say(
        self,
        state: ModelStage,
        version: int,
        text: str,
        reason: RefusalReason | None = None,
        *,
        canary: bool = False,
    ) -> None:
        self.said = self._home.say(self.model_id, state, version, self.serving, canary, reason, text)
