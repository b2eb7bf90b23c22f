"""A model on trial: a pipeline beside the one in service that goes on from where that one stands, is given the same
blocks and ticks, and whose events nobody hears.

Invariant: nothing in the pipeline in service depends on it, but for a list of scores that it fills.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from edge_node.assembly import Core
from edge_node.inference import Scored, ScoringEngine
from edge_node.model_admission import Prepared
from edge_node.model_trial import Trial, check_runs
from edge_node.pipeline import Pipeline
from models.acceptance import Acceptance
from models.gating import with_gates
from models.manifest import Artifact
from models.runtime import GraphUnusable
from models.signal import ArtifactTarget, SampleBlock

_FEW = 32  # invocations from which a typical one is known


class Shadow:
    """The trial of ``candidate`` beside ``live``, from now on."""

    def __init__(
        self, site: str, gateway: str, live: Core, candidate: Prepared, trial: Trial, max_latency_ms: float
    ) -> None:
        """NotDrained where ``live`` cannot score what it has just now; ValueError where its devices cannot go on under the
        candidate's plans."""
        self.trial = trial
        self._live = live
        self._max_latency_ms = max_latency_ms
        self._device_ids = tuple(plan.device.device_id for plan in candidate.plans)
        known = {plan.device.device_id: plan for plan in live.plans}
        self._needed = with_gates(self._device_ids, {name: plan.gate for name, plan in known.items()})
        plans = [plan for plan in live.plans if plan.device.device_id in self._needed]
        live.score()
        pipeline = Pipeline(site, gateway, plans)
        pipeline.restore(live.pipeline.snapshot(self._needed))
        engines: dict[str, ScoringEngine] = {plan.engine: _Unscored() for plan in plans}
        self._core = Core(pipeline, engines, tuple(plans))
        self._core.adopt(candidate.plans, candidate.engines)
        self._runs = [plan.engine for plan in candidate.plans]
        self._heard = pipeline.tap(self._device_ids)
        self._heard_live = live.pipeline.tap(self._device_ids)
        self._compare()

    @property
    def complete(self) -> bool:
        """Whether there is enough to judge by, and no window is out for scoring."""
        return self.trial.complete and not self._core.pipeline.n_batches_out

    def push(self, blocks: Iterable[SampleBlock]) -> None:
        """The pipeline in service has just taken and scored ``blocks``. Raises NotAdmitted when the trial is over early."""
        mine = [block for block in blocks if block.device_id in self._needed]
        if mine:
            self._core.push(*mine)
            self._compare()

    def advance(self, now_ns: int) -> None:
        """It was told the time, too."""
        self._core.pipeline.advance(now_ns)
        self._core.score()
        self._compare()

    def accept(self, acceptance: Acceptance) -> None:
        """It was given this, too."""
        if acceptance.device_id in self._device_ids:
            self._core.pipeline.accept(acceptance)

    def judge(self, labelled_false: Collection[str]) -> str:
        """What there is to say for the candidate; raises NotAdmitted with what there is against it."""
        runs = [self._core.runs[name] for name in dict.fromkeys(self._runs) if name in self._core.runs]
        return self.trial.judge(runs, self._max_latency_ms, labelled_false)

    def close(self) -> None:
        """The trial is over."""
        self._live.pipeline.untap(self._heard_live)

    def _compare(self) -> None:
        self._core.pipeline.events()  # nobody hears them
        self._core.pipeline.take_verdicts()
        self.trial.hear(self._heard_live, self._heard)
        self._heard_live.clear()
        self._heard.clear()
        for device_id in self._device_ids:
            live, candidate = (core.pipeline.open_alerts(device_id) for core in (self._live, self._core))
            if live or candidate or self.trial.has_alerts:
                self.trial.see(device_id, live, candidate)
        runs = [self._core.runs[name] for name in dict.fromkeys(self._runs) if name in self._core.runs]
        check_runs(runs, self._max_latency_ms, n_failures=1, n_times=_FEW)


class _Unscored:
    """Stands for the engines of devices that are here for others' sake: a gate needs their samples, nobody their scores."""

    target: ArtifactTarget = "cpu-float32"
    backend = "none"
    step = 0.0

    def __init__(self) -> None:
        self.notices: list[str] = []

    @property
    def artifact(self) -> Artifact:
        raise LookupError("nothing is scored here")

    def run(self, inputs: NDArray[np.float32]) -> Scored:
        raise GraphUnusable("nothing is scored here")

    def close(self) -> None:
        """Nothing is held."""
