"""Scoring a batch: one Engine per model and backend, on the CPU or on an Edge TPU.

The engine maps normalised float features to the graph's float output; quantising is its business, normalising
before and scoring after are ``models.scoring``'s, in float. Which artifact ran is in every result, because
each artifact has a residual scale and a calibration of its own. An Edge TPU is tried in a process of its own
first, since its library can end the process that loads it; with device "auto" any failure, then or later,
falls back to the CPU and says so.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_node.invoke import evaluate
from models.manifest import Artifact, ModelManifest
from models.runtime import Delegate, DelegateFailed, Graph, probe_delegate, runtime_name
from models.signal import ArtifactTarget
from models.tflite_check import check
from models.tflite_schema import EDGE_TPU_OPERATOR

ComputeDevice = Literal["cpu", "edgetpu", "auto"]
Precision = Literal["float32", "int8"]

DEFAULT_LIBRARY = "libedgetpu.so.1"


class EdgeTpuFailure(enum.StrEnum):
    """Why an Edge TPU cannot be used."""

    NO_ARTIFACT = "no_artifact"
    NOT_COMPILED = "not_compiled"
    ABSENT = "absent"
    NOT_A_DELEGATE = "not_a_delegate"
    REFUSED = "refused"
    PREPARE_FAILED = "prepare_failed"
    INVOKE_FAILED = "invoke_failed"
    CRASHED = "crashed"
    HUNG = "hung"
    MISCALCULATES = "miscalculates"


_REMEDIES = {
    EdgeTpuFailure.NO_ARTIFACT: 'train a model with --edgetpu, or set backend = "cpu"',
    EdgeTpuFailure.NOT_COMPILED: (
        "run edgetpu_compiler on the int8 model (train with --edgetpu on an x86-64 machine that has it): "
        "an Edge TPU runs nothing else"
    ),
    EdgeTpuFailure.ABSENT: (
        "install the Edge TPU runtime (package libedgetpu1-std), or name the library that you have"
    ),
    EdgeTpuFailure.NOT_A_DELEGATE: "name the Edge TPU runtime's library, usually libedgetpu.so.1",
    EdgeTpuFailure.REFUSED: (
        "plug the device in and look for USB id 1a6e:089a (18d1:9302 once initialised) in lsusb; give it a "
        "port with 900 mA, let this user open it (udev rule, group plugdev), and stop other users of it"
    ),
    EdgeTpuFailure.PREPARE_FAILED: (
        "compile the model again for the installed Edge TPU runtime, or update that runtime: they do not fit"
    ),
    EdgeTpuFailure.INVOKE_FAILED: (
        'check cable, power and heat of the device; with inference = "in_process" restart to use it again'
    ),
    EdgeTpuFailure.CRASHED: (
        "install a libedgetpu built for this TFLite runtime: the stock one crashes with TFLite 2.12 and later"
    ),
    EdgeTpuFailure.HUNG: "unplug the device, plug it in again, and look for its errors in dmesg",
    EdgeTpuFailure.MISCALCULATES: "train and compile the model again, or try another device: its examples come out wrong",
}


class EdgeTpuUnavailable(RuntimeError):
    """The Edge TPU cannot be used: ``kind``, what happened, and what to do (``remedy``)."""

    def __init__(self, kind: EdgeTpuFailure, text: str) -> None:
        self.kind = kind
        self.text = text
        self.remedy = _REMEDIES[kind]
        super().__init__(f"Edge TPU: {text}. To fix it: {self.remedy}")


class ArtifactMissing(LookupError):
    """The model was not published for the target that the configuration asks for; the text says what to
    change.
    """


class WorkerLost(RuntimeError):
    """A batch ended the process that scored it, again and again; ``kind`` says how."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class NotReady(RuntimeError):
    """The process that scores is being started again: the batch may be given once more, later."""


def failure_kind(error: Exception) -> str:
    """Under what a batch that failed with ``error`` is counted."""
    return str(error.kind) if isinstance(error, EdgeTpuUnavailable | WorkerLost) else "graph_unusable"


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What came out of the graph for w windows.

    ``output`` float32[w, k]: NaN rows where the input was not finite. ``saturated`` bool[w] (None: none is):
    some value of the window met an end of an int8 range, so its score is at least what it seems;
    ``n_saturated`` counts such values. Use the residual scale and the calibration of ``target``.
    """

    output: NDArray[np.float32]
    target: ArtifactTarget
    backend: str
    saturated: NDArray[np.bool_] | None
    n_saturated: int
    latency_ns: int


class ScoringEngine(Protocol):
    """What scores for one model, wherever that happens: here (:class:`Engine`), or in a process of its own
    (``worker_engine``)."""

    @property
    def target(self) -> ArtifactTarget:
        """The artifact that scores now. It can change with every :meth:`run`: a result names its own."""
        ...

    @property
    def backend(self) -> str:
        """On what it scores now, for people."""
        ...

    @property
    def artifact(self) -> Artifact:
        """The manifest's entry of ``target``: residual scale, calibration, golden vectors."""
        ...

    @property
    def step(self) -> float:
        """One quantisation step of the output in real values; 0 for a float graph."""
        ...

    @property
    def notices(self) -> Sequence[str]:
        """Why it does not score on what was asked for, the present reason last; empty when it does."""
        ...

    def run(self, inputs: NDArray[np.float32]) -> Scored:
        """The graph's output for normalised features float32[w, k], in bounded time.

        Raises ValueError for another shape; GraphUnusable, EdgeTpuUnavailable or WorkerLost for a batch that fails;
        NotReady where it may be scored later.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds; it is not run again."""
        ...


class Engine:
    """Runs one model in this process. Not thread-safe: one per thread."""

    def __init__(
        self,
        manifest: ModelManifest,
        artifacts: Mapping[ArtifactTarget, bytes],
        *,
        device: ComputeDevice = "cpu",
        precision: Precision = "float32",
        delegate_library: str = DEFAULT_LIBRARY,
        delegate_options: Mapping[str, str] | None = None,
        probe_timeout_s: float = 30.0,
        on_notice: Callable[[str], None] | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Loads the artifact for ``device`` and ``precision`` (an Edge TPU is int8 whatever ``precision``
        says).

        ``artifacts`` have passed ``models.tflite_check``. ``on_notice`` is told of a fallback to the CPU; the
        texts are also in :attr:`notices`. Raises ArtifactMissing, EdgeTpuUnavailable (device "edgetpu" only),
        models.runtime.GraphUnusable and RuntimeUnavailable.
        """
        self._manifest = manifest
        self._artifacts = artifacts
        self._device = device
        self._clock = clock
        self._on_notice = on_notice
        self.notices: list[str] = []
        if device != "edgetpu":
            self._cpu = cpu_artifact(manifest, artifacts, precision)
        if device == "cpu":
            self._use_cpu()
            return
        try:
            self._use_edge_tpu(delegate_library, dict(delegate_options or {}), probe_timeout_s)
        except EdgeTpuUnavailable as error:
            self._fall_back(error)

    @property
    def artifact(self) -> Artifact:
        """The manifest's entry of what runs now: residual scale, calibration, golden vectors."""
        artifact = self._manifest.artifact(self.target)
        assert artifact is not None
        return artifact

    @property
    def step(self) -> float:
        """One quantisation step of the output in real values; 0 for a float graph."""
        return self._graph.output.scale

    def run(self, inputs: NDArray[np.float32]) -> Scored:
        """The graph's output for normalised features ``inputs`` float32[w, k], any w.

        A row's output does not depend on the other rows. Raises ValueError for another shape, GraphUnusable
        when the CPU's invoke fails, EdgeTpuUnavailable when the Edge TPU's does and the device is not "auto"
        (which runs the batch again on the CPU).
        """
        begin = self._clock()
        try:
            done = evaluate(self._graph, inputs)
        except DelegateFailed as error:
            self._fall_back(unavailable(error.kind, error.detail))
            done = evaluate(self._graph, inputs)
        latency_ns = self._clock() - begin
        return Scored(done.output, self.target, self.backend, done.saturated, done.n_saturated, latency_ns)

    def close(self) -> None:
        """Nothing: what is in this process goes with the engine."""

    def _use_cpu(self) -> None:
        self.target: ArtifactTarget
        self.target, model = self._cpu
        self._graph = Graph(model)
        self.backend = f"{self.target} ({runtime_name()})"

    def _use_edge_tpu(self, library: str, options: Mapping[str, str], timeout_s: float) -> None:
        model = edge_tpu_artifact(self._manifest, self._artifacts)
        try:
            probe_delegate(library, options, model, timeout_s=timeout_s)
            self._graph = Graph(model, delegate=Delegate(library, options))
        except DelegateFailed as error:
            raise unavailable(error.kind, error.detail) from error
        self.target = "edgetpu-int8"
        self.backend = f"edgetpu-int8 ({library}, {runtime_name()})"

    def _fall_back(self, error: EdgeTpuUnavailable) -> None:
        if self._device == "edgetpu":
            raise error
        self._use_cpu()
        notice = f"{error}. Scoring on {self.backend} instead"
        self.notices.append(notice)
        if self._on_notice is not None:
            self._on_notice(notice)


def unavailable(kind: str, detail: str) -> EdgeTpuUnavailable:
    """The failure of a delegate as one of the Edge TPU."""
    return EdgeTpuUnavailable(EdgeTpuFailure(kind), detail)


def cpu_artifact(
    manifest: ModelManifest, artifacts: Mapping[ArtifactTarget, bytes], precision: Precision
) -> tuple[ArtifactTarget, bytes]:
    """What of the model runs on a CPU in ``precision``. Raises ArtifactMissing."""
    target: ArtifactTarget = "cpu-int8" if precision == "int8" else "cpu-float32"
    model = artifacts.get(target)
    if model is None or manifest.artifact(target) is None:
        have = ", ".join(sorted(artifacts)) or "none"
        raise ArtifactMissing(
            f"model {manifest.model_id} has no artifact {target}, only {have}{_notes(manifest)}: "
            "change precision or backend"
        )
    return target, model


def edge_tpu_artifact(manifest: ModelManifest, artifacts: Mapping[ArtifactTarget, bytes]) -> bytes:
    """What of the model runs on an Edge TPU. Raises EdgeTpuUnavailable (NO_ARTIFACT, NOT_COMPILED)."""
    model, name = artifacts.get("edgetpu-int8"), manifest.model_id
    if model is None or manifest.artifact("edgetpu-int8") is None:
        text = f"model {name} has no artifact for it{_notes(manifest)}"
        raise EdgeTpuUnavailable(EdgeTpuFailure.NO_ARTIFACT, text)
    if all(op.name != EDGE_TPU_OPERATOR for op in check(model, allow_edge_tpu=True).ops):
        raise EdgeTpuUnavailable(EdgeTpuFailure.NOT_COMPILED, f"model {name} was published uncompiled")
    return model


def _notes(manifest: ModelManifest) -> str:
    """Why something was not published, where training said so."""
    return "".join(f" ({note})" for note in manifest.training.notes)
