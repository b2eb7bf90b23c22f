"""Models that devices of this gateway have learned by themselves, into service and back after a restart.

A device that has learned enough waits with its windows (:attr:`Pipeline.learned`). Its model is fitted off the loop and goes the
way of any other: checked, probed, its worked examples run, put on a shelf of its own, adopted between two windows. It is on
disk before it serves, so that no checkpoint names a model that is not there, and not before it has proved itself, for what is
there serves after a restart. Nobody has signed it, and nobody need: it was never offered from elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import structlog

from edge_node import model_admission as admission
from edge_node.assembly import Core
from edge_node.config import Config
from edge_node.learned_shelf import keep, learned_before, learned_shelf
from edge_node.model_attempt import between_windows
from edge_node.model_home import ModelHome
from edge_node.model_probe import ProbeStopped
from edge_node.model_record import NotAdmitted
from edge_node.model_shelf import Shelf
from edge_node.model_store import Bundle, BundleRefused
from edge_node.plans import DevicePlan
from edge_node.teaching import learned_bundle
from models.log_limit import LogLimit
from models.refusals import RefusalReason
from models.sample_size import FitError
from models.signal import NS_PER_S
from models.wording import duration

_QUARTERS = 4
SAME_LOG_S = 60.0

log = structlog.get_logger("linewatch.models")


class SelfTaught:
    """See the module's docstring; ``state``: the state directory (None: nothing is kept)."""

    def __init__(self, home: ModelHome, state: Path | None, stop: threading.Event) -> None:
        self._home = home
        self._state = state
        self._stop = stop
        self._bundles: dict[str, Bundle] = {}  # by device
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, float] = {}  # by device: how far it was when last looked at
        self._log_limit = LogLimit(SAME_LOG_S)
        self.trouble: dict[str, str] = {}  # by device: why it does not score by what it has learned
        self.unkept: dict[str, str] = {}  # by model: why a restart forgets it

    def take_over(self, config: Config, core: Core) -> None:
        """Serves in ``core``, to which nothing was pushed yet, what its devices have learned before, where it still fits."""
        core.teacher = None  # it takes too long for the loop
        for task in self._tasks.values():
            task.cancel()
        self._tasks = {}
        for plan in core.plans:
            if plan.learn is None or plan.model is not None:
                continue
            device_id, shelf = plan.device.device_id, self._shelf(plan)
            try:
                bundle = self._bundles.get(device_id) or learned_before(shelf)
                if bundle is None:
                    continue
                prepared = admission.prepare(
                    config,
                    [plan],
                    lambda _, bundle=bundle: bundle,  # type: ignore[misc]
                    workers=core.workers,
                    stop=self._stop,
                    on_notice=log.warning,
                    probed=True,  # it was when it was learned, and its worked examples run again
                    apart=False,
                )
            except NotAdmitted as error:
                log.error(f"what {device_id} has learned cannot be served again, so it learns anew: {error}")
                self._bundles.pop(device_id, None)
                continue
            self._serve(core, device_id, bundle)
            for engine in core.adopt(prepared.plans, prepared.engines):
                engine.close()

    def step(self) -> None:
        """Makes models of what has been learned enough; once a tick."""
        core = self._home.core
        learning = core.pipeline.learning()
        for device_id in self.trouble.keys() - learning:
            del self.trouble[device_id]  # a fleet's model scores
        self._seen = {device_id: last for device_id, last in self._seen.items() if device_id in learning}
        for device_id, (progress, left_s) in learning.items():
            self._tell(device_id, progress, left_s)
        for device_id in core.pipeline.learned:
            if device_id not in self._tasks and not self._stop.is_set():
                self._tasks[device_id] = self._home.spawn(self._teach(device_id, core))

    def _tell(self, device_id: str, progress: float, left_s: float) -> None:
        """Say in the log how far a device is: as it begins, at every quarter, and where more is wanted than was."""
        last, self._seen[device_id] = self._seen.get(device_id), progress
        quarter = int(_QUARTERS * progress)
        if last is not None and progress >= last and quarter == int(_QUARTERS * last):
            return
        if quarter == _QUARTERS:
            return  # what becomes of it is said next
        n_held: int | None = 0
        left = f"about {duration(round(left_s * NS_PER_S))}"
        if last is None:
            percent = int(100 * progress)  # it may go on with what a checkpoint held
            there = f", and has {percent} % of them" if percent else ""
            wanted = f"{left} of running are wanted, more while that is not steady"
            text = f"it learns what is normal from its own windows{there}: {wanted}"
        elif progress > last:
            text = f"{25 * quarter} % of what it learns from is there, {left} of running are wanted yet"
        else:
            text = f"what it has learned from was not steady, or too much alike: {left} more are wanted"
            n_held = self._log_limit.due(device_id, time.monotonic())
        if n_held is not None:
            log.info(f"{device_id}: {text}")

    async def _teach(self, device_id: str, core: Core) -> None:
        plan = core.plan_of(device_id)
        assert plan.learn is not None
        learn, healthy = plan.learn, core.pipeline.healthy(device_id)
        try:
            bundle = await asyncio.to_thread(learned_bundle, healthy, learn)
            prepared = await self._home.prepare([plan], lambda _: bundle)

            def swap() -> bool:
                if self._home.core is not core:
                    raise NotAdmitted(RefusalReason.OVERLOADED, "a new configuration was taken up meanwhile")
                waits = (
                    device_id in core.pipeline.learned
                )  # else a fleet's model has taken over: this is what to go back to
                unused = core.adopt(prepared.plans, prepared.engines) if waits else prepared.engines.values()
                self._home.retire(unused)
                self._serve(core, device_id, bundle)
                return waits

            try:
                # Once it has proved itself: what is kept is served after a restart without a probe.
                await asyncio.to_thread(self._keep, self._shelf(plan), bundle)
                serves = await between_windows(swap)
            except BaseException:
                self._home.retire(prepared.engines.values())
                raise
        except ProbeStopped:
            return
        except (FitError, NotAdmitted, BundleRefused) as error:
            if isinstance(error, NotAdmitted) and error.reason is RefusalReason.OVERLOADED:
                log.warning(f"what {device_id} has learned cannot take over yet, it is tried again: {error}")
                return
            if self._home.core is core and device_id in core.pipeline.learned:
                self.trouble[device_id] = (
                    f"what {device_id} has learned makes no model yet, it learns on: {error}"
                )
                log.warning(self.trouble[device_id])
                core.pipeline.learn_on(device_id)
                self._seen[device_id] = core.pipeline.learning()[device_id][0]  # why it fell is said already
        else:
            n = bundle.manifest.training.n_windows
            level = prepared.plans[0].levels["cpu-float32"].text()
            text = (
                f"{device_id} scores now, by what it has learned from {n} of its windows; alerts at {level}"
            )
            for note in bundle.manifest.training.notes[1:]:
                log.warning(f"{device_id}: {note}")
            if serves:
                self._home.say(learn.model_id, "adopted", 0, 0, False, None, text)
        finally:
            if self._tasks.get(device_id) is asyncio.current_task():
                del self._tasks[device_id]

    def _serve(self, core: Core, device_id: str, bundle: Bundle) -> None:
        core.bundles[device_id] = self._bundles[device_id] = bundle
        self.trouble.pop(device_id, None)

    def _keep(self, shelf: Shelf, bundle: Bundle) -> None:
        try:
            keep(shelf, bundle)
        except OSError as error:
            why = error.strerror or error
            text = f"model {shelf.model_id} cannot be kept ({why}): after a restart it is learned anew"
            self.unkept[shelf.model_id] = text
            log.error(text)

    def _shelf(self, plan: DevicePlan) -> Shelf:
        assert plan.learn is not None
        return learned_shelf(self._state, plan.learn)
