"""A model is tried in a process of its own before the gateway loads it: ``python -m edge_node.model_probe``.

The static check of a graph should leave nothing that can crash a runtime, and golden vectors nothing that runs for ever;
where one of them has a hole, this process is what falls into it. It builds every graph for the CPU and runs its golden
vectors, under limits on memory, time and what it may write, and says how it went.

Invariant: whatever a model does to the process that tries it, the one that asked gets a reason or nothing is wrong. It is
no prison: a graph that took that process over could say that all is well. Only signatures keep those out.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from edge_node.model_store import Bundle, BundleRefused, check_on_cpu
from models import manifest as manifests
from models.refusals import RefusalReason
from models.runtime import runtime_name
from models.signal import ArtifactTarget
from models.tflite_check import check
from models.tflite_schema import ITEM_SIZE, ModelRejected

MAX_SAID_BYTES = 1 << 16
_REFUSED = 3
_OUT_OF_MEMORY = 4
_POLL_S = 0.02
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")  # of the environment: it may hold secrets
_NO_MEMORY = (b"bad_alloc", b"MemoryError", b"std::length_error", b"annot allocate memory", b"out of memory")


class ProbeFailed(Exception):
    """The model did not pass: ``reason`` and a text."""

    def __init__(self, reason: RefusalReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ProbeStopped(Exception):
    """Nobody wants to know any more."""


class _Task(msgspec.Struct):
    """What the process is given."""

    manifest: bytes
    artifacts: dict[ArtifactTarget, bytes]
    memory_mb: int
    timeout_s: float


class _Answer(msgspec.Struct):
    reason: RefusalReason
    text: str


def probe(bundle: Bundle, *, memory_mb: int, timeout_s: float, stop: threading.Event | None = None) -> None:
    """Tries the graphs of ``bundle``, which may take so much memory and time; waits for it, or until ``stop`` is set.

    Raises ProbeFailed with what is wrong, and ProbeStopped."""
    task = _Task(manifests.encode(bundle.manifest), dict(bundle.artifacts), memory_mb, timeout_s)
    try:
        with _memory("given") as given, _memory("said") as said, _memory("told") as told:
            given.write(msgspec.msgpack.encode(task))
            given.flush()
            given.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edge_node.model_probe"],
                stdin=given,
                stdout=said,
                stderr=told,
                env=environment(),
            )
            try:
                code = _wait(process, timeout_s, stop)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            _judge(code, _content(said), _content(told), timeout_s, memory_mb)
    except OSError as error:  # no memory, no processes, no descriptors: nothing is known of the graphs
        text = f"this gateway could not start a process to try it: {error.strerror}"
        raise ProbeFailed(RefusalReason.OVERLOADED, text) from error


def _memory(name: str) -> IO[bytes]:
    """A file without a disk, which may be full."""
    return os.fdopen(os.memfd_create(name), "w+b")


def _wait(process: subprocess.Popen[bytes], timeout_s: float, stop: threading.Event | None) -> int | None:
    """Its exit code; None where it took too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_S)
        if stop is not None and stop.is_set():
            raise ProbeStopped
    return None


def _judge(code: int | None, said: bytes, told: bytes, timeout_s: float, memory_mb: int) -> None:
    if code is None or code == -signal.SIGXCPU:
        text = f"the process that tried it had not ended after {timeout_s:g} s"
        raise ProbeFailed(RefusalReason.PROBE_HUNG, text)
    if code == 0:
        return
    if code == _REFUSED:
        answer = msgspec.json.decode(said, type=_Answer)
        raise ProbeFailed(answer.reason, answer.text)
    last = " ".join(told.decode("utf-8", "replace").strip().splitlines()[-1:])[:300]
    if code == _OUT_OF_MEMORY or any(sign in told for sign in _NO_MEMORY):
        text = f"the process that tried it wanted more than {memory_mb} MB for it"
        raise ProbeFailed(RefusalReason.PROBE_MEMORY, text)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
    text = f"the process that tried it ended {how}" + (f": {last}" if last else "")
    raise ProbeFailed(RefusalReason.PROBE_CRASHED, text)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(MAX_SAID_BYTES)


def environment() -> dict[str, str]:
    """Of a process that runs what came from elsewhere."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**kept, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


def _main() -> int:
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Task)
    manifest = manifests.decode(task.manifest)
    bundle = Bundle(
        manifest, task.artifacts, {}, Path(f"{manifest.model_id} version {manifest.version}"), True
    )
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(10)  # machines are being watched meanwhile
    try:
        runtime_name()
        _limit(task.memory_mb << 20, task.timeout_s)
        check_on_cpu(bundle)
    except BundleRefused as error:
        if error.reason is RefusalReason.BAD_GRAPH and _activation_bytes(bundle) > task.memory_mb << 20:
            return _OUT_OF_MEMORY  # runtimes put it in words of their own
        sys.stdout.buffer.write(msgspec.json.encode(_Answer(error.reason, str(error))))
        sys.stdout.flush()
        return _REFUSED
    except MemoryError:
        return _OUT_OF_MEMORY
    return 0


def _activation_bytes(bundle: Bundle) -> int:
    """What the largest of its graphs needs for what it computes, one row at a time where it may choose."""
    most = 0
    for model in bundle.artifacts.values():
        with suppress(ModelRejected):
            tensors = [t for t in check(model, allow_edge_tpu=True).tensors if not t.constant]
            most = max(most, sum(math.prod(map(abs, t.shape)) * ITEM_SIZE[t.dtype] for t in tensors))
    return most


def _limit(memory: int, timeout_s: float) -> None:
    """From here on: so much memory beyond what is in use, so much time, and nothing of note written."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    for what, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + memory),
        (resource.RLIMIT_CPU, math.ceil(timeout_s)),
        (resource.RLIMIT_FSIZE, MAX_SAID_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    sys.exit(_main())
