"""One of the two models of a backtest, over all stretches of signal and of features: what it goes on from, what it made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edge_node.assembly import Core
from edge_node.backtest_compare import Made
from edge_node.feature_log import Remembered
from edge_node.inference import ScoringEngine
from edge_node.lane import Judgement
from edge_node.pipeline import Pipeline
from edge_node.plans import DevicePlan, NotDrained
from edge_node.runs import Runs
from models import codec
from models.messages import Alert
from models.requests import AlertLabel

_MOST_TIMES = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be replayed, and with what. ``served`` and ``candidate``: plans of the same devices, which run the model, and
    of those that gate them (alike in both); what arrived from ``from_ns`` on; no longer than ``max_s``. ``folder`` of the black
    box, ``features`` of the feature log (None: there is none)."""

    folder: Path
    from_ns: int
    max_s: float
    site: str
    gateway: str
    served: tuple[DevicePlan, ...]
    candidate: tuple[DevicePlan, ...]
    model_id: str
    version: int
    against: int
    sha256: str
    labels: Mapping[str, AlertLabel]
    max_batches_out: int
    max_waiting: int
    features: Path | None = None

    @property
    def devices(self) -> frozenset[str]:
        """Those that run the model."""
        return frozenset(
            p.device.device_id
            for p in self.served
            if p.model is not None and p.model.manifest.model_id == self.model_id
        )

    @property
    def watched(self) -> frozenset[str]:
        """Those, and the ones that gate them."""
        return frozenset(p.device.device_id for p in self.served)


class Unusable(Exception):
    """What a pipeline remembered cannot be gone on from."""


@dataclass(slots=True)
class Line:
    """See the module's docstring. ``core``: of the stretch that is being replayed."""

    asked: Asked
    plans: tuple[DevicePlan, ...]
    engines: Mapping[str, ScoringEngine]
    made: Made = field(default_factory=Made)
    times: list[int] = field(default_factory=list)  # ns a window, of the last batches of each stretch
    n_failed: int = 0
    core: Core | None = None

    def take(self) -> None:
        """What has come out."""
        assert self.core is not None
        devices = self.asked.devices
        self.core.score()
        for event in self.core.pipeline.events():
            if isinstance(event.event, Alert) and event.event.device in devices:
                self.made.alert(event.event)
        for trace in self.core.pipeline.take_traces():
            if trace.device_id in devices:
                self.made.trace(trace)

    def end(self) -> None:
        """The stretch is over, and what it leaves open is decided by what is known."""
        if self.core is not None:
            self.core.pipeline.finish()
            self.take()
            self._leave()

    def begin(self, snapshot: bytes | None, reached: Collection[str] = ()) -> None:
        """A stretch of signal begins, where a pipeline with the model in service remembered ``snapshot``. Devices of
        ``reached`` have come there already, in features: of them only what is remembered of the signal is taken from it.
        Raises Unusable; then it has begun without."""
        carried = self._carried(reached)
        if snapshot is None:
            self._start(self._built(self.plans), carried)
            return
        core = self._built(self.asked.served)
        try:
            core.pipeline.restore(snapshot, only=self.asked.watched)
            if carried:
                core.score()  # what had its features then, those have seen
            self._adopt(core)
        except (msgspec.DecodeError, NotDrained, ValueError) as error:
            self._start(self._built(self.plans), carried)
            raise Unusable from error
        self._start(core, carried)

    def begin_features(self, remembered: bytes, reached: Collection[str]) -> bool:
        """A stretch of features begins, where a gateway ``remembered`` that; devices of ``reached`` go on as they are. Whether
        the model in service could go on from something."""
        carried: dict[str, Judgement] = {}
        if self.core is not None:  # what waits there for its gate is in features to come
            carried = self._carried(self.asked.devices)
        carried = {device_id: one for device_id, one in carried.items() if device_id in reached}
        core = self._built(self.asked.served)
        try:
            found = codec.unpack_state(remembered, Remembered).devices
            kept = core.pipeline.judge_on(
                {d: found[d] for d in self.asked.devices & found.keys() - carried.keys()}
            )
            self._adopt(core)
        except (msgspec.DecodeError, NotDrained, ValueError):
            core, kept = self._built(self.plans), set()
        self._start(core, carried)
        return bool(kept or carried)

    def featured_ns(self, device_id: str) -> int | None:
        """Start of the last window of a device that was judged."""
        if self.core is None:
            return None
        return self.core.pipeline.featured_ns(device_id)

    def _carried(self, reached: Collection[str]) -> dict[str, Judgement]:
        """What this stretch, which ends here, leaves of the judgement of ``reached``."""
        if self.core is None:
            return {}
        if not reached:
            self.end()
            return {}
        self.take()
        found = self.core.pipeline.judgements()
        self._leave()
        return {device_id: one for device_id, one in found.items() if device_id in reached}

    def _adopt(self, core: Core) -> None:
        if self.plans is not self.asked.served:
            changed = [p for p in self.plans if p.device.device_id in self.asked.devices]
            core.adopt(changed, {p.engine: self.engines[p.engine] for p in changed})

    def _start(self, core: Core, carried: Mapping[str, Judgement] | None = None) -> None:
        core.pipeline.judge_on(carried or {})
        core.pipeline.events()  # said before
        core.pipeline.take_verdicts()
        core.pipeline.trace_scores()
        self.core = core

    def _leave(self) -> None:
        assert self.core is not None
        own = {
            p.engine for p in self.plans if p.model is not None and p.model.model_id == self.asked.model_id
        }
        runs: list[Runs] = [run for name, run in self.core.runs.items() if name in own]
        self.times = (self.times + [ns for run in runs for ns in run.ns_a_window])[-_MOST_TIMES:]
        self.n_failed += sum(run.n_failed for run in runs)
        self.core = None

    def _built(self, plans: tuple[DevicePlan, ...]) -> Core:
        asked = self.asked
        pipeline = Pipeline(
            asked.site,
            asked.gateway,
            plans,
            max_batches_out=asked.max_batches_out,
            max_waiting=asked.max_waiting,
        )
        used = {plan.engine for plan in plans if plan.engine}
        return Core(pipeline, {name: self.engines[name] for name in used}, plans)
