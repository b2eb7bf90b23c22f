"""Memory and CPU of the gateway's processes with 20 boards, idle and under load, beside a bare process on the same broker.

Idle: configured, connected, and nothing arrives. Under load: each board publishes 3 axes x 1 kHz, and the bare process
(``benchmarks/bare.py``) receives the same messages and forgets them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks import live, plant
from benchmarks.wire import ALERTS_QOS, BARE
from examples.demo.processes import Child

SETTLE_S, IDLE_S, LOAD_S = 5.0, 30.0, 60.0  # the status goes out twice a minute, idle too
MB = 1e6


def measure(*, quick: bool) -> dict[str, object]:
    """By process and state: share of one core (1: all of it), resident, proportional and unique memory in MB."""
    idle_s, load_s, settle_s = (1.0, 2.0, 0.5) if quick else (IDLE_S, LOAD_S, SETTLE_S)
    trained = plant.train(60 if quick else 600)
    graph = trained.manifest.artifact("cpu-float32")
    assert graph is not None  # it is published always
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = plant.write_model(trained, folder)
        with (
            live.broker(folder) as broker,
            live.gateway(folder, model, broker.port) as gateway,
            _bare(folder, model / graph.file, broker.port) as bare,
        ):
            processes = {
                "gateway": psutil.Process(gateway.child.pid),
                "bare": psutil.Process(bare.pid),
                "broker": psutil.Process(broker.pid),
            }
            time.sleep(settle_s)
            idle = _observed(processes, lambda: time.sleep(idle_s))
            with live.publisher(broker.port) as client:
                boards = live.Boards(client, live.N_DEVICES, settle_s + load_s)
                boards.play(settle_s)
                load = _observed(processes, lambda: boards.play(settle_s + load_s))
            live.wait_for(
                lambda: gateway.metric("linewatch_samples_in_total") == boards.n_samples,
                "the arrival of all that was published",
                gateway.child,
                bare,
            )
            counters = gateway.end().counters
    return {
        "devices": live.N_DEVICES,
        "rows_per_message": live.ROWS,
        "broker": live.mosquitto_version(),
        "idle_s": idle_s,
        "load_s": load_s,
        "samples_published": boards.n_samples,
        "samples_in": counters["samples_in"],
        "windows_scored": counters["windows_scored"],
        "idle": idle,
        "load": load,
        "gateway_over_bare": {
            "rss": load["gateway"]["rss_mb"] / load["bare"]["rss_mb"],
            "load_cpu": load["gateway"]["cpu_share"] / load["bare"]["cpu_share"],
        },
    }


@contextmanager
def _bare(folder: Path, graph: Path, port: int) -> Iterator[Child]:
    """The bare process, subscribed."""
    ready: list[bytes] = []
    command = [sys.executable, "-m", "benchmarks.bare", str(port), str(graph)]
    with (
        live.Listener(port, [(BARE, ALERTS_QOS)], lambda _topic, payload, _at: ready.append(payload)),
        Child("the bare process", command, folder / "bare.log") as child,
    ):
        live.wait_for(lambda: ready, "the bare process's being ready", child)
        yield child


def _observed(
    processes: Mapping[str, psutil.Process], wait: Callable[[], None]
) -> dict[str, dict[str, float]]:
    """CPU time of each of ``processes`` during ``wait`` as a share of one core, and its memory at the end of it."""
    began = time.perf_counter()
    before = {name: _cpu_s(process) for name, process in processes.items()}
    wait()
    after = {name: _cpu_s(process) for name, process in processes.items()}
    took_s = time.perf_counter() - began
    return {
        name: {"cpu_share": (after[name] - before[name]) / took_s, **_memory(process)}
        for name, process in processes.items()
    }


def _cpu_s(process: psutil.Process) -> float:
    """Of it and of the processes that it has started and that run."""
    times = [each.cpu_times() for each in _family(process)]
    return float(sum(t.user + t.system for t in times))


def _memory(process: psutil.Process) -> dict[str, float]:
    """Summed alike; proportional and unique memory where the system tells them."""
    found = [each.memory_full_info() for each in _family(process)]
    kinds = [kind for kind in ("rss", "pss", "uss") if hasattr(found[0], kind)]
    return {f"{kind}_mb": sum(getattr(each, kind) for each in found) / MB for kind in kinds}


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]
