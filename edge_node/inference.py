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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.manifest import Artifact, ModelManifest
from models.runtime import (
    Delegate,
    DelegateFailed,
    Graph,
    dequantise,
    probe_delegate,
    quantise,
    runtime_name,
)
from models.signal import ArtifactTarget
from models.tflite_check import check
from models.tflite_schema import EDGE_TPU_OPERATOR

ComputeDevice = Literal["cpu", "edgetpu", "auto"]
Precision = Literal["float32", "int8"]

MAX_ROWS = 4096  # rows of one invoke of a dynamic graph: bounds the interpreter's memory
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
    EdgeTpuFailure.INVOKE_FAILED: "check cable, power and heat of the device, then restart to use it again",
    EdgeTpuFailure.CRASHED: (
        "install a libedgetpu built for this TFLite runtime: the stock one crashes with TFLite 2.12 and later"
    ),
    EdgeTpuFailure.HUNG: "unplug the device, plug it in again, and look for its errors in dmesg",
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


class Engine:
    """Runs one model. Not thread-safe: one per thread."""

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
        self._cpu_target: ArtifactTarget = "cpu-int8" if precision == "int8" else "cpu-float32"
        if device != "edgetpu":
            self._require(self._cpu_target)
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
            output, saturated, n_saturated = self._run(inputs)
        except DelegateFailed as error:
            self._fall_back(_unavailable(error))
            output, saturated, n_saturated = self._run(inputs)
        latency_ns = self._clock() - begin
        return Scored(output, self.target, self.backend, saturated, n_saturated, latency_ns)

    def _run(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, int]:
        graph = self._graph
        width = graph.input.shape[1]
        if inputs.ndim != 2 or inputs.shape[1] != width:
            raise ValueError(f"inputs have shape {inputs.shape}, the model takes (w, {width})")
        finite = np.isfinite(inputs)
        broken = None if finite.all() else ~finite.all(axis=1)
        given = inputs if broken is None else np.where(finite, inputs, np.float32(0))
        saturated, n_saturated = None, 0
        if graph.input.dtype == np.int8:
            raw, clipped = quantise(given, graph.input)
            result = _invoke(graph, raw)
            at_end = (result == -128) | (result == 127)
            output = dequantise(result, graph.output)
            n_saturated = int(np.count_nonzero(clipped)) + int(np.count_nonzero(at_end))
            if n_saturated:
                saturated = clipped.any(axis=1) | at_end.any(axis=1)
        else:
            output = _invoke(graph, np.ascontiguousarray(given, dtype=np.float32))
        if broken is not None:
            output[broken] = np.nan
        return output, saturated, n_saturated

    def _use_cpu(self) -> None:
        self.target: ArtifactTarget = self._cpu_target
        self._graph = Graph(self._require(self.target))
        self.backend = f"{self.target} ({runtime_name()})"

    def _use_edge_tpu(self, library: str, options: Mapping[str, str], timeout_s: float) -> None:
        model = self._artifacts.get("edgetpu-int8")
        name = self._manifest.model_id
        if model is None or self._manifest.artifact("edgetpu-int8") is None:
            text = f"model {name} has no artifact for it{self._notes()}"
            raise EdgeTpuUnavailable(EdgeTpuFailure.NO_ARTIFACT, text)
        if all(op.name != EDGE_TPU_OPERATOR for op in check(model, allow_edge_tpu=True).ops):
            raise EdgeTpuUnavailable(EdgeTpuFailure.NOT_COMPILED, f"model {name} was published uncompiled")
        try:
            probe_delegate(library, options, model, timeout_s=timeout_s)
            self._graph = Graph(model, delegate=Delegate(library, options))
        except DelegateFailed as error:
            raise _unavailable(error) from error
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

    def _require(self, target: ArtifactTarget) -> bytes:
        model = self._artifacts.get(target)
        if model is None or self._manifest.artifact(target) is None:
            have = ", ".join(sorted(self._artifacts)) or "none"
            raise ArtifactMissing(
                f"model {self._manifest.model_id} has no artifact {target}, only {have}{self._notes()}: "
                "change precision or backend"
            )
        return model

    def _notes(self) -> str:
        """Why something was not published, where training said so."""
        return "".join(f" ({note})" for note in self._manifest.training.notes)


def _invoke(graph: Graph, inputs: NDArray[Any]) -> NDArray[Any]:
    n = inputs.shape[0]
    rows = graph.batch or MAX_ROWS
    if n == rows or (graph.batch is None and n <= rows):
        return graph.run(inputs)
    output = np.empty((n, graph.output.shape[1]), graph.output.dtype)
    for start in range(0, n, rows):
        part = inputs[start : start + rows]
        short = rows - part.shape[0] if graph.batch is not None else 0
        padded = np.pad(part, ((0, short), (0, 0))) if short else part
        output[start : start + rows] = graph.run(padded)[: part.shape[0]]
    return output


def _unavailable(error: DelegateFailed) -> EdgeTpuUnavailable:
    return EdgeTpuUnavailable(EdgeTpuFailure(error.kind.value), error.detail)
