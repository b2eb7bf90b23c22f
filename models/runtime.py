"""The TFLite interpreter: the only module that imports one.

ai-edge-litert is preferred; tflite-runtime is a loud fallback (armv7l has nothing else). Which of them works
is found by *building an Interpreter*, because a broken pair (tflite-runtime with numpy 2) imports well and
fails at first use. Nothing is imported before the first call, and nothing is ever installed from here.

A model is loaded from bytes, never from a path: a file is memory-mapped, and truncating it would kill the
process. Run ``models.tflite_check`` on the bytes first: runtimes crash on malformed graphs.
"""

from __future__ import annotations

import base64
import ctypes
import enum
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("linewatch.runtime")

# (module, distribution), best first.
_CANDIDATES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
)
_INSTALL = "pip install 'linewatch[edge]' (or, on armv7l with Python 3.11, 'linewatch[tflite-runtime]')"


_PROBE_FAILED = 3
_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."

# One dense layer of width 1, as models.export writes it: what a working interpreter must be able to run.
_PROBE = base64.b64decode(
    "DAAAAFRGTDMAAAAAcv///xQAAABgAAAAeAAAACQCAAADAAAAAwAAAEgAAAAoAAAABAAAAOb///8EAAAABAAAAAAAAAAAAAAAAAAA"
    "AAAABgAIAAQABgAAAAQAAAAEAAAAAACAPwAAAAAAAAAAAAAAAHj///8VAAAATGluZXdhdGNoIGRlbnNlIG1vZGVsAAAAAQAAABQA"
    "AAAAAA4AGAAUABAADAAIAAQADgAAABQAAAAcAAAAZAAAAGgAAABsAAAABAAAAG1haW4AAAAAAQAAABQAAAAAAA4AFAAAABAADAAL"
    "AAQADgAAABQAAAAAAAAIEAAAABQAAAAEAAQABAAAAAEAAAADAAAAAwAAAAAAAAABAAAAAgAAAAEAAAADAAAAAQAAAAAAAAAEAAAA"
    "3AAAAIwAAABAAAAABAAAAEr///8AAAABDAAAABQAAAAcAAAAAgAAAP////8BAAAABgAAAG91dHB1dAAAAgAAAAEAAAABAAAAzv//"
    "/wAAAAEMAAAAAgAAABgAAAAMAAAAZGVuc2VfMC9iaWFzAAAAAAEAAAABAAAAAAAWABQAEAAAAAwACAAAAAAAAAAAAAcAFgAAAAAA"
    "AAEMAAAAAQAAABgAAAAPAAAAZGVuc2VfMC93ZWlnaHRzAAIAAAABAAAAAQAAAAAAFgAUABAAAAAAAAwAAAAAAAAACAAHABYAAAAA"
    "AAABDAAAABQAAAAcAAAAAgAAAP////8BAAAABQAAAGlucHV0AAAAAgAAAAEAAAABAAAAAQAAABAAAAAMAAwACwAAAAAABAAMAAAA"
    "CQAAAAAAAAk="
)


class RuntimeUnavailable(RuntimeError):
    """No TFLite interpreter works here; the text says what was tried and what to install."""


class DelegateFailure(enum.StrEnum):
    """What went wrong with an external delegate, by the step at which it showed."""

    ABSENT = "absent"  # the library cannot be found or loaded
    NOT_A_DELEGATE = "not_a_delegate"  # it lacks the external delegate's entry points
    REFUSED = "refused"  # it would not create a delegate: usually no device
    PREPARE_FAILED = "prepare_failed"  # it would not take the graph
    INVOKE_FAILED = "invoke_failed"  # an invoke failed: usually the device went away
    CRASHED = "crashed"  # it ended the process that tried it
    HUNG = "hung"  # it did not answer in time


class DelegateFailed(RuntimeError):
    """An external delegate does not work: ``kind`` says at which step."""

    def __init__(self, kind: DelegateFailure, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class GraphUnusable(RuntimeError):
    """The interpreter refused the model, or an invoke failed; the text is the runtime's."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output: ``shape`` has -1 for a dynamic batch; ``scale`` is 0 for a float tensor.

    A quantised value q stands for ``(q - zero_point) * scale``.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int


def quantise(values: NDArray[np.float32], tensor: TensorInfo) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """int8 of finite real ``values``, and where they were clipped to the ends of the range."""
    steps = np.rint(values.astype(np.float64) / tensor.scale) + tensor.zero_point
    clipped: NDArray[np.bool_] = (steps < -128) | (steps > 127)
    return np.clip(steps, -128, 127).astype(np.int8), clipped


def dequantise(values: NDArray[np.int8], tensor: TensorInfo) -> NDArray[np.float32]:
    """Real float32 values of int8 ``values``."""
    return ((values.astype(np.float64) - tensor.zero_point) * tensor.scale).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Runtime:
    name: str
    version: str
    interpreter: Any
    load_delegate: Any


def can_write_graphs() -> bool:
    """Whether ``models.export`` works here: it takes the schema that comes with ai-edge-litert."""
    try:
        return importlib.util.find_spec("ai_edge_litert.schema_py_generated") is not None
    except ModuleNotFoundError:
        return False


def runtime_name() -> str:
    """Name and version of the interpreter in use ("ai-edge-litert 2.3.0"). Raises RuntimeUnavailable."""
    runtime = _runtime()
    return f"{runtime.name} {runtime.version}"


class Delegate:
    """An external delegate (libedgetpu) from a shared library. Keep it as long as a Graph uses it: Graph
    does.
    """

    def __init__(self, library: str, options: Mapping[str, str] | None = None) -> None:
        """Loads ``library`` with ``options``. Raises DelegateFailed (ABSENT, NOT_A_DELEGATE, REFUSED)."""
        _check_library(library)
        try:
            self.native = _runtime().load_delegate(library, dict(options or {}))
        except ValueError as error:
            raise DelegateFailed(DelegateFailure.REFUSED, _one_line(error)) from error
        except OSError as error:
            raise DelegateFailed(DelegateFailure.ABSENT, _one_line(error)) from error
        self.library = library


class Graph:
    """A model with one input and one output matrix, ready to run. Not thread-safe: one per thread.

    ``batch`` is None when the number of rows is free, else every call takes exactly that many.
    """

    def __init__(self, model: bytes, *, n_threads: int = 1, delegate: Delegate | None = None) -> None:
        """Raises RuntimeUnavailable, GraphUnusable, or DelegateFailed (PREPARE_FAILED) when ``delegate`` is
        given.
        """
        self._delegate = delegate
        delegates = [delegate.native] if delegate is not None else None
        try:
            self._interpreter = _runtime().interpreter(
                model_content=model, experimental_delegates=delegates, num_threads=n_threads
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            if delegate is not None:
                raise DelegateFailed(DelegateFailure.PREPARE_FAILED, _one_line(error)) from error
            raise GraphUnusable(_one_line(error)) from error
        self.input = _only(self._interpreter.get_input_details(), "input")
        self.output = _only(self._interpreter.get_output_details(), "output")
        self.batch = None if self.input.shape[0] == -1 else self.input.shape[0]
        self._rows = int(self._interpreter.get_input_details()[0]["shape"][0])

    def run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Output [w, k'] for ``inputs`` [w, k] of the input's dtype; w is free, or equal to ``batch``.

        Raises ValueError for another shape or dtype, GraphUnusable when the invoke fails, or DelegateFailed
        (INVOKE_FAILED) when it ran on a delegate.
        """
        rows = inputs.shape[0] if inputs.ndim == 2 else -1
        if inputs.ndim != 2 or inputs.shape[1:] != self.input.shape[1:] or (self.batch not in (None, rows)):
            raise ValueError(f"inputs have shape {inputs.shape}, the graph takes {self.input.shape}")
        if inputs.dtype != self.input.dtype:
            raise ValueError(f"inputs are {inputs.dtype}, the graph takes {self.input.dtype}")
        if rows == 0:
            return np.empty((0, *self.output.shape[1:]), self.output.dtype)
        try:
            if rows != self._rows:
                self._rows = -1  # whatever fails below, the next call resizes
                self._interpreter.resize_tensor_input(self.input.index, list(inputs.shape), strict=True)
                self._interpreter.allocate_tensors()
                self._rows = rows
            self._interpreter.set_tensor(self.input.index, inputs)
            self._interpreter.invoke()
            output: NDArray[Any] = self._interpreter.get_tensor(self.output.index)
        except (RuntimeError, ValueError) as error:
            if self._delegate is not None:
                raise DelegateFailed(DelegateFailure.INVOKE_FAILED, _one_line(error)) from error
            raise GraphUnusable(_one_line(error)) from error
        return output


def probe_delegate(
    library: str, options: Mapping[str, str], model: bytes, *, timeout_s: float = 30.0
) -> None:
    """Loads ``library``, gives it ``model`` and invokes once, all in a process of its own.

    Delegates can end the process that loads them (a libedgetpu built for another TFLite does), and this is
    how to find out first. Raises DelegateFailed (any kind but INVOKE_FAILED mid-run), RuntimeUnavailable.
    """
    _check_library(library)
    runtime_name()
    command = [sys.executable, "-m", "models.runtime", library, json.dumps(dict(options))]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise DelegateFailed(DelegateFailure.HUNG, f"no answer within {timeout_s:g} s") from error
    if done.returncode == 0:
        return
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    answer = lines[-1].partition(" ") if lines else ("", "", "")
    if done.returncode == _PROBE_FAILED and answer[0] in tuple(DelegateFailure):
        raise DelegateFailed(DelegateFailure(answer[0]), answer[2])
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    if done.returncode < 0:
        how = f"killed by {signal.Signals(-done.returncode).name}"
    else:
        how = f"exit status {done.returncode}"
    raise DelegateFailed(
        DelegateFailure.CRASHED, " ".join([f"the process that tried it ended ({how})", *last])
    )


def _probe_main(library: str, options: str) -> int:
    try:
        graph = Graph(sys.stdin.buffer.read(), delegate=Delegate(library, json.loads(options)))
        graph.run(np.zeros((graph.batch or 1, graph.input.shape[1]), graph.input.dtype))
    except DelegateFailed as error:
        print(error.kind, error.detail)
        return _PROBE_FAILED
    return 0


@functools.cache
def _runtime() -> _Runtime:
    problems: list[str] = []
    for module, distribution in _CANDIDATES:
        try:
            loaded = importlib.import_module(module)
            with _without_greeting():
                interpreter = loaded.Interpreter(model_content=_PROBE)
                interpreter.allocate_tensors()
                interpreter.invoke()
            runtime = _Runtime(
                distribution,
                importlib.metadata.version(distribution),
                loaded.Interpreter,
                loaded.load_delegate,
            )
        except (
            ImportError,
            AttributeError,
            OSError,
            RuntimeError,
            SystemError,
            TypeError,
            ValueError,
        ) as error:
            problems.append(f"{distribution}: {type(error).__name__}: {_one_line(error)}")
            continue
        if problems:
            log.warning("falling back to %s %s (%s)", runtime.name, runtime.version, "; ".join(problems))
        return runtime
    raise RuntimeUnavailable(
        f"no TFLite interpreter works with numpy {np.__version__} on {platform.machine()}, "
        f"Python {platform.python_version()} ({'; '.join(problems)}). Install one: {_INSTALL}"
    )


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Keeps the line that the runtimes greet a process with, once, from standard error.

    Python has no switch for it, and the C++ one is not exported. Whatever else is written meanwhile, by native code
    or another thread, is passed on when the block ends.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    with tempfile.TemporaryFile() as spool:
        os.dup2(spool.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            spool.seek(0)
            for line in spool:
                if line.strip() != _GREETING:
                    os.write(2, line)


def _check_library(library: str) -> None:
    # The runtimes' own loader leaves a half-built object behind, whose destructor fails, when one of these
    # does not hold.
    try:
        loaded = ctypes.CDLL(library)
    except OSError as error:
        raise DelegateFailed(DelegateFailure.ABSENT, _one_line(error)) from error
    for symbol in ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"):
        if not hasattr(loaded, symbol):
            raise DelegateFailed(DelegateFailure.NOT_A_DELEGATE, f"{library} has no symbol {symbol}")


def _only(details: list[dict[str, Any]], what: str) -> TensorInfo:
    if len(details) != 1:
        raise GraphUnusable(f"the graph has {len(details)} {what}s, not one")
    (detail,) = details
    scale, zero_point = detail["quantization"]
    shape = tuple(int(n) for n in detail["shape_signature"])
    if len(shape) != 2:
        raise GraphUnusable(f"the graph's {what} has shape {shape}, not a matrix")
    return TensorInfo(
        detail["name"], int(detail["index"]), shape, np.dtype(detail["dtype"]), float(scale), int(zero_point)
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(_probe_main(*sys.argv[1:]))
