"""The inference workers of a gateway, and the engines that use them.

Strategy: one worker for all models on the CPU, one for all on an Edge TPU (a stick can be opened by one process). With
``backend = "auto"`` a model is loaded in both: the CPU's worker is the warm standby, so that a batch whose TPU hung, aborted
or failed is scored again within milliseconds of its being given up. The standby is in a worker as well, rather than in the
gateway: it is the one that serves ``backend = "cpu"`` anyway, and what the runtime's CPU kernels do to the process stays there.
A TPU that was lost is looked for by starting its worker again, with back-off; once that has loaded every model and its
worked examples come out, it is used again.

Whatever goes wrong is counted; engines say in ``notices`` what is wrong now, and nothing once it is right again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from edge_node.golden_checks import check_trial, trial
from edge_node.inference import (
    DEFAULT_LIBRARY,
    ComputeDevice,
    EdgeTpuUnavailable,
    Precision,
    cpu_artifact,
    edge_tpu_artifact,
)
from edge_node.restarts import Restarts
from edge_node.worker_engine import Place, WorkerEngine
from edge_node.worker_process import Spawner
from edge_node.worker_seat import Patience, Seat, SeatedModel
from edge_node.worker_wire import MOST_VALUES
from models.manifest import ModelManifest
from models.runtime import GraphUnusable
from models.signal import ArtifactTarget

AUTO_WAIT_S = 5.0  # for a TPU to be ready, at first
CPU_PATIENCE = Patience(start_s=10.0, stall_s=0.8)
TPU_PATIENCE = Patience(start_s=10.0, stall_s=0.4)
CPU_RESTARTS_S = (0.0, 0.25, 10.0)  # after the first failure, the second, and at most
TPU_RESTARTS_S = (1.0, 1.0, 60.0)
_END_S = 1.0
CPU, EDGE_TPU = "cpu", "edgetpu"  # the workers' names


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """Of the workers now, by name: whether each is up, and how many ended, by reason. ``n_fallbacks``: how often scoring
    went from an Edge TPU to the CPU; ``last``: why the last worker of the CPU ended."""

    up: Mapping[str, bool]
    ends: Mapping[tuple[str, str], int]
    n_fallbacks: int
    last: str | None


class Workers:
    """The workers of a gateway. Nothing is started before there is an engine for it; ``on_notice`` is told of every
    change of backend. May be used from several threads."""

    def __init__(self, on_notice: Callable[[str], None] = lambda text: None) -> None:
        self._lock = threading.RLock()
        self._on_notice = on_notice
        self._spawner = Spawner()
        self._seats: dict[str | None, Seat] = {}
        self._engines: list[WorkerEngine] = []
        self._next_key = 0
        self._said: dict[str, WorkerEngine] = {}  # notices, each with an engine that it is of
        self._n_changes = 0  # of the seats, that were looked at
        self._n_fallbacks = 0

    def engine(
        self,
        manifest: ModelManifest,
        artifacts: Mapping[ArtifactTarget, bytes],
        *,
        device: ComputeDevice = "cpu",
        precision: Precision = "float32",
        delegate_library: str = DEFAULT_LIBRARY,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> WorkerEngine:
        """What scores for the model; its worked examples have come out. As :class:`edge_node.inference.Engine`, and raises
        what that raises. With "auto" a TPU is waited for for AUTO_WAIT_S, one that is known to be lost not at all: it is
        taken up when it is there."""
        cpu = tpu = absent = None
        with self._lock:
            try:
                if device != "edgetpu":
                    target, model = cpu_artifact(manifest, artifacts, precision)
                    cpu = self._seated(manifest, target, model, None, 2 * CPU_PATIENCE.start_s)
                    if not cpu.usable:
                        error = cpu.model.refusal or cpu.seat.last_failure
                        raise GraphUnusable(f"model {manifest.model_id} cannot be loaded: {error}")
                if device != "cpu":
                    try:
                        model = edge_tpu_artifact(manifest, artifacts)
                    except EdgeTpuUnavailable as error:
                        if device == "edgetpu":
                            raise
                        absent = error
                    else:
                        wait_s = AUTO_WAIT_S if device == "auto" else 2 * TPU_PATIENCE.start_s
                        tpu = self._seated(manifest, "edgetpu-int8", model, delegate_library, wait_s)
                        if device == "edgetpu" and not tpu.usable:
                            raise tpu.unavailable()
            except (GraphUnusable, EdgeTpuUnavailable):
                self._release(cpu, tpu)
                raise
            engine = WorkerEngine(
                manifest, cpu, tpu, absent, clock, lock=self._lock, step=self.step, leave=self._leave
            )
            self._engines.append(engine)
            self._tell()
        return engine

    def step(self) -> None:
        """Look after the workers: call it a few times a second, also when there is nothing to score."""
        with self._lock:
            for seat in self._seats.values():
                seat.step()
            n_changes = sum(seat.n_changes for seat in self._seats.values())
            if n_changes != self._n_changes:
                self._n_changes = n_changes
                self._tell()

    def figures(self) -> WorkerFigures:
        with self._lock:
            ends: Counter[tuple[str, str]] = Counter()
            for seat in self._seats.values():
                ends.update({(_name(seat), reason): n for reason, n in seat.ends.items()})
            used = [seat for seat in self._seats.values() if seat.models]
            up = {_name(seat): seat.up for seat in used}
            last = self._seats[None].last_failure if None in self._seats else None
            return WorkerFigures(up, dict(ends), self._n_fallbacks, None if last is None else last.text)

    def pids(self) -> dict[str, int]:
        """Of the workers that are there, up or not, by name."""
        with self._lock:
            return {_name(s): s.pid for s in self._seats.values() if s.pid is not None}

    def close(self) -> None:
        """End all workers; engines are not run any more."""
        with self._lock:
            for seat in self._seats.values():
                seat.close(_END_S)
            self._engines.clear()
            self._spawner.close()

    def _leave(self, engine: WorkerEngine) -> None:
        """Unload what only ``engine`` needed."""
        with self._lock:
            if engine in self._engines:
                self._engines.remove(engine)
                self._release(*engine.places)

    def _seated(
        self,
        manifest: ModelManifest,
        target: ArtifactTarget,
        model: bytes,
        library: str | None,
        wait_s: float,
    ) -> Place:
        """``model`` in the seat for ``library``, loaded if that can be had within ``wait_s``."""
        seat = self._seats.get(library)
        if seat is None:
            patience, waits_s = (
                (CPU_PATIENCE, CPU_RESTARTS_S) if library is None else (TPU_PATIENCE, TPU_RESTARTS_S)
            )
            seat = self._seats[library] = Seat(self._spawner, library, patience, Restarts(*waits_s))
        artifact = manifest.artifact(target)
        assert artifact is not None
        verify = partial(check_trial, manifest, artifact)
        seated = SeatedModel(self._next_key, model, trial(manifest, artifact), verify)
        if seated.trial.size > MOST_VALUES:
            raise GraphUnusable(f"model {manifest.model_id} takes {seated.trial.shape[1]} features: too many")
        self._next_key += 1
        lost = library is not None and seat.failure is not None
        seat.add(seated)

        def done() -> bool:
            return seated.settled or (library is not None and seat.failure is not None)

        if not lost:
            seat.wait(done, wait_s)
        return Place(seat, seated, target)

    def _release(self, *places: Place | None) -> None:
        for place in places:
            if place is not None:
                place.seat.remove(place.model)

    def _tell(self) -> None:
        """Say what has become wrong, and what is right again."""
        now: dict[str, WorkerEngine] = {}
        for engine in self._engines:
            for notice in engine.notices:
                now.setdefault(notice, engine)
        for notice in now.keys() - self._said.keys():
            self._n_fallbacks += 1
            self._on_notice(notice)
        for notice in self._said.keys() - now.keys():
            engine = self._said[notice]
            if engine in self._engines and not engine.notices:
                self._on_notice(f"scoring on {engine.backend} again")
        self._said = now


def _name(seat: Seat) -> str:
    return CPU if seat.library is None else EDGE_TPU
