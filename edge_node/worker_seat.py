"""One worker's place: a process that is kept up, with the models that it has to hold.

Strategy: a state machine without a thread. ``step`` takes what the worker says, buries the dead and starts a successor when
it is due; whoever uses the seat calls it often. A process is *up* once it has loaded every model and has tried each on its
worked examples; only then is it given batches. So the search for an Edge TPU that was lost is the start of a worker that
nobody waits for: it may hang or abort as often as it likes.

Invariants: every end of a process is counted, by reason. A model that twice ends the process which loads it
is refused, so that it does not keep the others from being scored. Not thread-safe.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_node.invoke import Evaluated
from edge_node.restarts import Restarts
from edge_node.worker_process import Spawner, WorkerFailed, WorkerProcess, failed
from edge_node.worker_wire import Failure, Kind, Message
from models.runtime import DelegateFailure

_MODEL_S_OWN = (DelegateFailure.PREPARE_FAILED, Failure.GRAPH_UNUSABLE, Failure.MISCALCULATES)
_MAX_KILLS = 2  # of processes, by one model


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds: how long a worker may be silent while it starts or loads, within a batch, and over a whole one."""

    start_s: float
    stall_s: float
    batch_s: float = 10.0


@dataclass(slots=True, eq=False)
class SeatedModel:
    """A model that a seat's workers hold. ``verify`` is given the outputs for ``trial`` [g, k] and the quantisation step,
    and raises ValueError where they are wrong. ``refusal``: why it is not loaded, where that is the model's own fault."""

    key: int
    model: bytes
    trial: NDArray[np.float32]
    verify: Callable[[NDArray[np.float32], float], None]
    loaded: bool = False
    refusal: WorkerFailed | None = None
    step: float = 0.0
    _n_kills: int = field(default=0, repr=False)

    @property
    def settled(self) -> bool:
        return self.loaded or self.refusal is not None

    def taken(self, step: float) -> None:
        self.loaded, self.step, self._n_kills = True, step, 0

    def kills(self) -> bool:
        """Count a process that ended while it loaded this; whether that is the model's fault."""
        self._n_kills += 1
        return self._n_kills >= _MAX_KILLS


class Seat:
    """Keeps a worker for ``library`` (None: the CPU) up as long as there are models for it."""

    def __init__(self, spawner: Spawner, library: str | None, patience: Patience, restarts: Restarts) -> None:
        self.library = library
        self.models: dict[int, SeatedModel] = {}
        self.failure: WorkerFailed | None = None  # the first one since it was last up
        self.last_failure: WorkerFailed | None = None
        self.ends: Counter[str] = Counter()  # of processes, by reason
        self.n_changes = 0  # of what can be used
        self.runtime = ""  # what the last one that was ready said of itself
        self._spawner = spawner
        self._patience = patience
        self._restarts = restarts
        self._process: WorkerProcess | None = None
        self._dying: list[WorkerProcess] = []
        self._ready = False  # it has said READY
        self._loading: SeatedModel | None = None
        self._heard_s = 0.0  # when it last said something
        self._up_s: float | None = None  # since when it is up
        self._retry_s = 0.0

    @property
    def pid(self) -> int | None:
        """Of the process that is there, up or not."""
        return None if self._process is None else self._process.pid

    @property
    def up(self) -> bool:
        return self._up_s is not None

    def usable(self, model: SeatedModel) -> bool:
        """Whether ``model`` can be run now."""
        return self._up_s is not None and model.loaded

    @property
    def busy(self) -> bool:
        """Whether the process is loading a model, and scores nothing until it has."""
        return self._loading is not None

    @property
    def vacant(self) -> bool:
        """Whether there is nothing left of it: no model, no process."""
        return not self.models and self._process is None and not self._dying

    @property
    def next_s(self) -> float:
        """When something may happen next, on the monotonic clock."""
        return 0.0 if self._process is not None else self._retry_s

    def add(self, model: SeatedModel) -> None:
        """Have ``model`` loaded, by the process that is there or by the next one."""
        self.models[model.key] = model
        if self._ready and self._loading is None:
            self._load_next()
        self.step()

    def remove(self, model: SeatedModel) -> None:
        """Have ``model`` forgotten; a seat without models is empty."""
        if self.models.pop(model.key, None) is None:
            return
        if not self.models:
            self._leave()
        elif model.loaded and self._process is not None:
            model.loaded = False
            self._attempt(lambda process: process.unload(model.key))

    def step(self) -> None:
        """Take what the worker has said; start it, or give it up, where that is due."""
        self._dying = [process for process in self._dying if not process.buried()]
        if self._process is None:
            if self.models and time.monotonic() >= self._retry_s:
                self._start()
            return
        self._hear(0.0)
        silent_s = time.monotonic() - self._heard_s
        waits = self._process is not None and (self._up_s is None or self._loading is not None)
        if waits and silent_s >= self._patience.start_s:
            doing = "started" if self._loading is None else "loaded"
            self._lose(WorkerFailed(Failure.HUNG, f"it has not {doing} within {self._patience.start_s:g} s"))

    def wait(self, until: Callable[[], bool], wait_s: float) -> bool:
        """Step until ``until`` holds, for up to ``wait_s`` or until nothing happens before then; whether it does."""
        ends_s = time.monotonic() + wait_s
        while True:
            self.step()
            if until():
                return True
            now_s = time.monotonic()
            if not self.models or max(self.next_s, now_s) >= ends_s:
                return False
            if self._process is None:
                time.sleep(max(0.0, self.next_s - now_s))
            else:
                self._hear(min(0.05, ends_s - now_s))

    def run(self, model: SeatedModel, inputs: NDArray[np.float32]) -> Evaluated:
        """What ``model``, which is usable, makes of ``inputs``; not while the seat is busy. Raises WorkerFailed; unless it is
        the graph's (GRAPH_UNUSABLE), the process is given up."""
        assert self._process is not None
        try:
            return self._process.run(model.key, inputs, self._patience.stall_s, self._patience.batch_s)
        except WorkerFailed as error:
            if error.kind != Failure.GRAPH_UNUSABLE:
                self._lose(error)
            raise

    def close(self, wait_s: float) -> None:
        """End the process; what is not gone after ``wait_s`` is killed."""
        self.models.clear()
        self._leave()
        ends_s = time.monotonic() + wait_s
        for process in self._dying:
            if not process.buried(max(0.0, ends_s - time.monotonic())):
                process.kill()
                process.buried(1.0)
        self._dying.clear()

    def _start(self) -> None:
        for model in self.models.values():
            if model.refusal is not None and model.refusal.kind in _MODEL_S_OWN:
                model.refusal = None  # who knows what the next process finds
        self._heard_s = time.monotonic()
        try:
            self._process = WorkerProcess(self._spawner, self.library)
        except WorkerFailed as error:
            self._lose(error)

    def _hear(self, wait_s: float) -> None:
        """Take what has been said, after waiting for it for up to ``wait_s``."""

        def listen(process: WorkerProcess) -> None:
            message = process.receive(wait_s)
            while message is not None:
                self._heard_s = time.monotonic()
                self._take(process, message)
                if self._process is not process:
                    return
                message = process.receive()

        self._attempt(listen)

    def _take(self, process: WorkerProcess, message: Message) -> None:
        model = self._loading
        if message.kind is Kind.READY:
            self.runtime, self._ready = message.text, True
        elif model is None or message.key != model.key:
            return  # the answer to what is not waited for any more
        elif message.kind is Kind.LOADED:
            self._loading = None
            self._check(process, model, message)
        elif message.kind is Kind.REFUSED:
            self._loading = None
            error = failed(message.text)
            if error.kind not in _MODEL_S_OWN:
                self._lose(error)
                return
            model.refusal = error
            self.n_changes += 1
        self._load_next()

    def _check(self, process: WorkerProcess, model: SeatedModel, message: Message) -> None:
        step = float(message.text)
        if model.key not in self.models:
            process.unload(model.key)
            return
        try:
            model.verify(process.tried(len(model.trial), message.a), step)
        except ValueError as error:
            model.refusal = WorkerFailed(Failure.MISCALCULATES, str(error))
            self.n_changes += 1
            process.unload(model.key)
            return
        model.taken(step)
        self.n_changes += 1

    def _load_next(self) -> None:
        left = (m for m in self.models.values() if not m.loaded and m.refusal is None)
        model = next(left, None)
        if model is not None:
            self._loading = model
            self._heard_s = time.monotonic()
            self._attempt(lambda process: process.load(model.key, model.model, model.trial))
            return
        refusals = [m.refusal for m in self.models.values() if m.refusal is not None]
        if self.library is not None and refusals and len(refusals) == len(self.models):
            self._lose(refusals[0])  # a device of which nothing can be used
        elif self._up_s is None:
            self._up_s = time.monotonic()
            self.failure = None
            self.n_changes += 1

    def _attempt(self, act: Callable[[WorkerProcess], None]) -> None:
        assert self._process is not None
        try:
            act(self._process)
        except WorkerFailed as error:
            self._lose(error)

    def _lose(self, error: WorkerFailed) -> None:
        """The process is given up, for ``error``; the next one begins at once or later."""
        now_s = time.monotonic()
        error = WorkerFailed(
            error.kind, error.text
        )  # without the frames that hold the process and its memory
        if self._loading is not None and self.library is None and self._loading.kills():
            self._loading.refusal = error
        if self._process is not None:
            self._process.kill()
            self._dying.append(self._process)
        self.ends[error.kind] += 1
        self.n_changes += 1
        self.last_failure = error
        if self.failure is None:
            self.failure = error
        wait_s = self._restarts.failed(0.0 if self._up_s is None else now_s - self._up_s)
        self._empty()
        self._retry_s = now_s + wait_s
        if wait_s == 0.0 and self.models and error.kind != Failure.NOT_STARTED:
            self._start()

    def _leave(self) -> None:
        if self._process is not None:
            self._process.end()
            self._dying.append(self._process)
        self._empty()
        self.failure = None
        self._retry_s = 0.0

    def _empty(self) -> None:
        self._process = self._loading = self._up_s = None
        self._ready = False
        for model in self.models.values():
            model.loaded = False
