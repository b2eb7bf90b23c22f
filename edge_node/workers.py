"""The inference workers of a gateway, and the engines that use them.

Strategy: one worker for all models on the CPU, one for all on an Edge TPU (a stick can be opened by one process). A model
that is to take over while others score is loaded by another worker of the CPU (:meth:`Workers.apart`), in which it stays
when it does: nothing that is being scored waits for it, whatever it does. With
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
_LOOK_S = 0.005  # how often a worker that loads is listened to
CPU, EDGE_TPU = "cpu", "edgetpu"  # the workers' names
SHARED = 0


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """Of the workers now, by what they run on: whether all of them are up, and how many ended, by reason. ``n_fallbacks``:
    how often scoring went from an Edge TPU to the CPU; ``last``: why the last worker of the CPU ended."""

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
        self._seats: dict[tuple[str | None, int], Seat] = {}
        self._past: Counter[tuple[str, str]] = Counter()  # ends, of seats that are no more
        self._n_groups = 0
        self._engines: list[WorkerEngine] = []
        self._next_key = 0
        self._said: dict[str, WorkerEngine] = {}  # notices, each with an engine that it is of
        self._n_changes = 0  # of the seats, that were looked at
        self._n_fallbacks = 0

    def apart(self) -> int:
        """For :meth:`engine`: a ``group`` whose models are loaded by a worker of the CPU that scores for no other."""
        with self._lock:
            self._n_groups += 1
            return self._n_groups

    def engine(
        self,
        manifest: ModelManifest,
        artifacts: Mapping[ArtifactTarget, bytes],
        *,
        device: ComputeDevice = "cpu",
        precision: Precision = "float32",
        delegate_library: str = DEFAULT_LIBRARY,
        clock: Callable[[], int] = time.perf_counter_ns,
        group: int = SHARED,
    ) -> WorkerEngine:
        """What scores for the model; its worked examples have come out. As :class:`edge_node.inference.Engine`, and raises
        what that raises. With "auto" a TPU is waited for for AUTO_WAIT_S, one that is known to be lost not at all: it is
        taken up when it is there."""
        cpu = tpu = absent = None
        try:
            if device != "edgetpu":
                target, model = cpu_artifact(manifest, artifacts, precision)
                cpu = self._seated(manifest, target, model, (None, group), 2 * CPU_PATIENCE.start_s)
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
                    tpu = self._seated(manifest, "edgetpu-int8", model, (delegate_library, SHARED), wait_s)
                    if device == "edgetpu" and not tpu.usable:
                        raise tpu.unavailable()
        except (GraphUnusable, EdgeTpuUnavailable):
            self._release(cpu, tpu)
            raise
        engine = WorkerEngine(
            manifest, cpu, tpu, absent, clock, lock=self._lock, step=self.step, leave=self._leave
        )
        with self._lock:
            self._engines.append(engine)
            self._tell()
        return engine

    def step(self) -> None:
        """Look after the workers: call it a few times a second, also when there is nothing to score."""
        with self._lock:
            for place, seat in list(self._seats.items()):
                seat.step()
                if seat.vacant and place[1] != SHARED:
                    del self._seats[place]
                    self._past.update(_ends(seat))
            n_changes = sum(seat.n_changes for seat in self._seats.values())
            if n_changes != self._n_changes:
                self._n_changes = n_changes
                self._tell()

    def figures(self) -> WorkerFigures:
        with self._lock:
            ends = Counter(self._past)
            up: dict[str, bool] = {}
            for seat in self._seats.values():
                ends.update(_ends(seat))
                if seat.models:
                    up[_name(seat)] = up.get(_name(seat), True) and seat.up
            failures = [
                seat.last_failure
                for (library, _), seat in self._seats.items()
                if library is None and seat.models
            ]
            last = next((failure.text for failure in reversed(failures) if failure is not None), None)
            return WorkerFigures(up, dict(ends), self._n_fallbacks, last)

    def pids(self) -> dict[str, int]:
        """Of the workers that are there, up or not, by name: a second one of the CPU is "cpu-2"."""
        found: dict[str, int] = {}
        n: Counter[str] = Counter()
        with self._lock:
            for seat in self._seats.values():
                if seat.pid is not None:
                    name = _name(seat)
                    n[name] += 1
                    found[name if n[name] == 1 else f"{name}-{n[name]}"] = seat.pid
        return found

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
        where: tuple[str | None, int],
        wait_s: float,
    ) -> Place:
        """``model`` in the seat ``where`` (a library and a group), loaded if that can be had within ``wait_s``."""
        library = where[0]
        artifact = manifest.artifact(target)
        assert artifact is not None
        tried = trial(manifest, artifact)
        if tried.size > MOST_VALUES:
            raise GraphUnusable(f"model {manifest.model_id} takes {tried.shape[1]} features: too many")
        with self._lock:
            if (seat := self._seats.get(where)) is None:
                patience, waits_s = (
                    (CPU_PATIENCE, CPU_RESTARTS_S) if library is None else (TPU_PATIENCE, TPU_RESTARTS_S)
                )
                seat = self._seats[where] = Seat(self._spawner, library, patience, Restarts(*waits_s))
            seated = SeatedModel(self._next_key, model, tried, partial(check_trial, manifest, artifact))
            self._next_key += 1
            lost = library is not None and seat.failure is not None
            seat.add(seated)
        ends_s = time.monotonic() + (0.0 if lost else wait_s)
        while not self._settled(seat, seated, ends_s):  # others score meanwhile
            time.sleep(_LOOK_S)
        return Place(seat, seated, target)

    def _settled(self, seat: Seat, model: SeatedModel, ends_s: float) -> bool:
        """Whether nothing more is to be waited for."""
        with self._lock:
            seat.step()
            if model.settled or (seat.library is not None and seat.failure is not None):
                return True
            return not seat.models or max(time.monotonic(), seat.next_s) >= ends_s

    def _release(self, *places: Place | None) -> None:
        with self._lock:
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


def _ends(seat: Seat) -> dict[tuple[str, str], int]:
    return {(_name(seat), reason): n for reason, n in seat.ends.items()}
