"""An engine whose model is in worker processes (``workers``), and looks like any other.

Bounds: ``run`` is synchronous, so whoever calls it stands still meanwhile: for as long as the work takes while a worker
shows signs of life; ``stall_s`` more where one hangs (0.4 s on a TPU, 0.8 s on the CPU); WAIT_S more where no worker
is up; all in all well below the seconds that a service manager's watchdog allows. A batch that no worker is up for is not
dropped but NotReady; one that ends MAX_KILLS workers of the CPU is WorkerLost, so that it cannot stop everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_node.inference import EdgeTpuUnavailable, NotReady, Scored, WorkerLost, unavailable
from edge_node.invoke import Evaluated
from edge_node.worker_process import WorkerFailed
from edge_node.worker_seat import Seat, SeatedModel
from edge_node.worker_wire import Failure
from models.manifest import Artifact, ModelManifest
from models.runtime import GraphUnusable
from models.signal import ArtifactTarget

WAIT_S = 1.0  # for a worker of the CPU that is being started again
MAX_KILLS = 2
_MAX_BLAMED = 64


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A model in the seat that is to run it."""

    seat: Seat
    model: SeatedModel
    target: ArtifactTarget

    @property
    def backend(self) -> str:
        through = "" if self.seat.library is None else f"{self.seat.library}, "
        return f"{self.target} ({through}{self.seat.runtime})"

    @property
    def usable(self) -> bool:
        return self.seat.usable(self.model)

    @property
    def ready(self) -> bool:
        """Whether it can be run at once: it is usable, and no other model is being loaded beside it."""
        return self.usable and not self.seat.busy

    def unavailable(self) -> EdgeTpuUnavailable:
        """Why an Edge TPU does not run it."""
        error = self.model.refusal or self.seat.failure
        if error is None:
            return unavailable(Failure.HUNG, "it is not ready yet")
        kind = Failure.CRASHED if error.kind == Failure.NOT_STARTED else error.kind
        kind = "prepare_failed" if kind == Failure.GRAPH_UNUSABLE else kind
        return unavailable(kind, error.text)


class WorkerEngine:
    """Runs one model in the workers that have it. Built by :meth:`edge_node.workers.Workers.engine`; ``lock``, ``step`` and
    ``leave`` are theirs."""

    def __init__(
        self,
        manifest: ModelManifest,
        cpu: Place | None,
        tpu: Place | None,
        absent: EdgeTpuUnavailable | None,
        clock: Callable[[], int],
        *,
        lock: threading.RLock,
        step: Callable[[], None],
        leave: Callable[[WorkerEngine], None],
    ) -> None:
        self._lock = lock
        self._step = step
        self._leave = leave
        self._manifest = manifest
        self._cpu = cpu
        self._tpu = tpu
        self._absent = absent
        self._clock = clock
        self._width = len(manifest.normalisation.centre)
        self._blamed: dict[
            int, tuple[NDArray[np.float32], int]
        ] = {}  # batches that ended a worker, and how many

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its model is."""
        return tuple(place for place in (self._cpu, self._tpu) if place is not None)

    @property
    def target(self) -> ArtifactTarget:
        return self._place.target

    @property
    def backend(self) -> str:
        return self._place.backend

    @property
    def artifact(self) -> Artifact:
        artifact = self._manifest.artifact(self.target)
        assert artifact is not None
        return artifact

    @property
    def step(self) -> float:
        return self._place.model.step

    @property
    def notices(self) -> tuple[str, ...]:
        if self._cpu is None or (self._tpu is None and self._absent is None):
            return ()
        if self._tpu is None:
            return (f"{self._absent}. Scoring on {self.backend} instead",)
        if self._tpu.usable:
            return ()
        return (f"{self._tpu.unavailable()}. Scoring on {self.backend} instead",)

    def run(self, inputs: NDArray[np.float32]) -> Scored:
        """As the protocol says. A batch that a TPU did not answer is scored again on the CPU, of the two at once."""
        if inputs.ndim != 2 or inputs.shape[1] != self._width:
            raise ValueError(f"inputs have shape {inputs.shape}, the model takes (w, {self._width})")
        begin = self._clock()
        with self._lock:
            self._step()
            place, done = self._run(inputs)
        latency_ns = self._clock() - begin
        return Scored(done.output, place.target, place.backend, done.saturated, done.n_saturated, latency_ns)

    def close(self) -> None:
        """The model is unloaded from the workers."""
        self._leave(self)

    @property
    def _place(self) -> Place:
        """Where it is scored now."""
        if self._tpu is not None and (self._cpu is None or self._tpu.usable):
            return self._tpu
        assert self._cpu is not None
        return self._cpu

    def _run(self, inputs: NDArray[np.float32]) -> tuple[Place, Evaluated]:
        place = self._place
        if place is self._tpu:
            if not place.usable:
                raise place.unavailable()
            if place.ready:
                try:
                    return place, place.seat.run(place.model, inputs)
                except WorkerFailed as error:
                    if self._cpu is None:
                        raise unavailable(error.kind, error.text) from error
                self._step()  # says so
            elif self._cpu is None:
                raise NotReady("the Edge TPU is loading another model")
        assert self._cpu is not None
        return self._cpu, self._run_on_cpu(self._cpu, inputs)

    def _run_on_cpu(self, cpu: Place, inputs: NDArray[np.float32]) -> Evaluated:
        while cpu.ready or cpu.seat.wait(lambda: cpu.ready or cpu.model.refusal is not None, WAIT_S):
            if cpu.model.refusal is not None:
                raise GraphUnusable(str(cpu.model.refusal))
            try:
                done = cpu.seat.run(cpu.model, inputs)
            except WorkerFailed as error:
                if error.kind == Failure.GRAPH_UNUSABLE:
                    raise GraphUnusable(error.text) from error
                self._blame(inputs, error)
                continue
            self._blamed.pop(id(inputs), None)
            return done
        failure = cpu.seat.last_failure
        raise NotReady("no worker is up" if failure is None else f"no worker is up: {failure.text}")

    def _blame(self, inputs: NDArray[np.float32], error: WorkerFailed) -> None:
        """Count a worker that ended with this batch in its hands. Raises WorkerLost where it has been too many."""
        _, n = self._blamed.pop(id(inputs), (inputs, 0))
        if n + 1 >= MAX_KILLS:
            raise WorkerLost(error.kind, f"a batch ended {MAX_KILLS} workers: {error.text}") from error
        if len(self._blamed) >= _MAX_BLAMED:
            del self._blamed[next(iter(self._blamed))]
        self._blamed[id(inputs)] = inputs, n + 1
