"""A backtest in a process of its own, at the lowest priority: ``python -m edge_node.backtest_process``.

It is given its task on standard input, which stays open for as long as the gateway wants to know: when it closes, however the
gateway ended, so does this. Invariants: it reads what was recorded and writes nothing; it uses the CPU, never an Edge TPU, which
is in service; it answers with a :class:`models.backtest.Backtest`, or a reason, of at most ``MAX_SAID_BYTES``.
"""

from __future__ import annotations

import os
import pickle
import resource
import struct
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_node.backtest_replay import Asked, NothingRecorded, Replay
from edge_node.inference import ArtifactMissing, Engine, Precision, ScoringEngine
from edge_node.model_store import Bundle, BundleRefused, check_golden
from models import manifest as manifests
from models.backtest import Backtest
from models.refusals import RefusalReason
from models.requests import Refusal
from models.runtime import GraphUnusable, RuntimeUnavailable, runtime_name
from models.signal import ArtifactTarget

MAX_SAID_BYTES = 1 << 16
NICENESS = 19
GIVEN_UP = 4  # exit status where nobody wants to know any more
_LENGTH = struct.Struct("<Q")


class Told(msgspec.Struct, kw_only=True):
    """What the process answers."""

    found: Backtest | None = None
    refusal: Refusal | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Graphs:
    """What an engine is built from."""

    manifest: bytes
    artifacts: Mapping[ArtifactTarget, bytes]
    precision: Precision
    is_candidate: bool


@dataclass(frozen=True, slots=True)
class Task:
    """What the process is given; ``graphs`` by engine."""

    asked: Asked
    graphs: Mapping[str, Graphs]
    memory_mb: int


def packed(task: Task) -> bytes:
    """``task`` for the process, which is of this program: that reads its own writing alone."""
    data = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def _main() -> int:
    given = sys.stdin.buffer
    (n,) = _LENGTH.unpack(given.read(_LENGTH.size))
    data = given.read(n)
    threading.Thread(target=_watch, args=(given.fileno(),), daemon=True).start()
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(NICENESS)
    runtime_name()
    task: Task = pickle.loads(data)
    _limit(task.memory_mb << 20)
    told = _told(task)
    sys.stdout.buffer.write(msgspec.json.encode(told))
    sys.stdout.flush()
    return 0


def _told(task: Task) -> Told:
    engines: dict[str, ScoringEngine] = {}
    for name, graphs in task.graphs.items():
        try:
            engines[name] = _engine(graphs)
        except (ArtifactMissing, BundleRefused, GraphUnusable, RuntimeUnavailable) as error:
            if not graphs.is_candidate:
                return Told(refusal=Refusal.BACKTEST_FAILED, text=f"the model in service: {error}")
            reason = error.reason if isinstance(error, BundleRefused) else RefusalReason.BAD_GRAPH
            reason = RefusalReason.NO_BACKEND if isinstance(error, ArtifactMissing) else reason
            return Told(refusal=Refusal.CANDIDATE_REFUSED, text=f"{reason}: {error}")
    try:
        found = Replay(task.asked, engines).run()
    except NothingRecorded as error:
        return Told(refusal=Refusal.NOTHING_RECORDED, text=str(error))
    except MemoryError:
        text = f"it wanted more than {task.memory_mb} MB, see [models] backtest_memory_mb"
        return Told(refusal=Refusal.BACKTEST_FAILED, text=text)
    return Told(found=found, text=found.text)


def _engine(graphs: Graphs) -> ScoringEngine:
    """It, its golden vectors checked."""
    manifest = manifests.decode(graphs.manifest)
    engine = Engine(manifest, graphs.artifacts, device="cpu", precision=graphs.precision)
    where = Path(f"{manifest.model_id} version {manifest.version}")
    check_golden(Bundle(manifest, graphs.artifacts, {}, where, True), engine)
    return engine


def _watch(given: int) -> None:
    """Ends the process when nobody holds the other end any more. Of the descriptor: a thread that waits in the buffered reader
    would abort the interpreter at its end."""
    os.read(given, 1)
    os._exit(GIVEN_UP)


def _limit(memory: int) -> None:
    """From here on: so much memory beyond what is in use, and nothing of note written."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    for what, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + memory),
        (resource.RLIMIT_FSIZE, MAX_SAID_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    sys.exit(_main())
