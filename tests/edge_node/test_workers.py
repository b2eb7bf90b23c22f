"""Engines in worker processes: the same bits as in this one; one process for all; nothing is left behind."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from edge_node.inference import ArtifactMissing, Engine, NotReady, Precision, Scored
from edge_node.worker_wire import new_area, rows_at_once
from edge_node.workers import Workers
from models.runtime import GraphUnusable, runtime_name
from tests.brokers import wait_for
from tests.edge_node.working import ARTIFACTS, gone, manifest, rows, settle

pytestmark = pytest.mark.tflite_runtime


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def same(a: Scored, b: Scored) -> bool:
    masks = [s.saturated if s.saturated is not None else np.zeros(len(s.output), np.bool_) for s in (a, b)]
    return (
        np.array_equal(a.output, b.output, equal_nan=True)
        and np.array_equal(*masks)
        and (a.n_saturated, a.target, a.backend) == (b.n_saturated, b.target, b.backend)
    )


def odd(n: int) -> NDArray[np.float32]:
    """Rows of which some are not finite and many saturate."""
    x = rows(n, scale=6.0)
    x[n // 2, 3], x[-1, 0] = np.nan, np.inf
    return x


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_worker_gives_the_same_bits(workers: Workers, precision: Precision) -> None:
    engine = workers.engine(manifest(), ARTIFACTS, precision=precision)
    here = Engine(manifest(), ARTIFACTS, precision=precision)
    assert (engine.target, engine.backend, engine.step) == (here.target, here.backend, here.step)
    assert engine.artifact == here.artifact
    assert engine.notices == ()
    for n in (0, 1, 2, 16, 300, rows_at_once(10) + 7):
        x = rows(n) if n < 2 else odd(n)
        assert same(engine.run(x), here.run(x)), n
    assert engine.run(odd(300)).saturated is None or precision == "int8"


def test_an_edge_tpu_gives_the_same_bits(workers: Workers, fake_edgetpu: str) -> None:
    engine = workers.engine(manifest(), ARTIFACTS, device="auto", delegate_library=fake_edgetpu)
    here = Engine(manifest(), ARTIFACTS, device="edgetpu", delegate_library=fake_edgetpu)
    assert engine.target == "edgetpu-int8"
    assert engine.backend == f"edgetpu-int8 ({fake_edgetpu}, {runtime_name()})"
    for n in (1, 40):
        assert same(engine.run(odd(n)), here.run(odd(n)))


def test_wrong_width_is_refused(workers: Workers) -> None:
    engine = workers.engine(manifest(), ARTIFACTS)
    with pytest.raises(ValueError, match=r"\(2, 9\).*\(w, 10\)"):
        engine.run(np.zeros((2, 9), np.float32))
    assert engine.run(rows(2)).output.shape == (2, 10)


def test_latency_is_that_of_the_way_there_and_back(workers: Workers) -> None:
    ticks = itertools.count(100, 42)
    engine = workers.engine(manifest(), ARTIFACTS, clock=lambda: next(ticks))
    assert engine.run(rows(1)).latency_ns == 42


def test_what_was_not_published_is_refused_and_leaves_no_process(workers: Workers) -> None:
    only_float = msgspec.structs.replace(manifest(), artifacts=manifest().artifacts[:1])
    with pytest.raises(ArtifactMissing, match="no artifact cpu-int8"):
        workers.engine(only_float, {"cpu-float32": ARTIFACTS["cpu-float32"]}, precision="int8")
    assert workers.pids() == {}


def test_what_the_runtime_refuses_is_refused_and_spares_the_others(workers: Workers) -> None:
    engine = workers.engine(manifest(), ARTIFACTS)
    broken = {"cpu-float32": ARTIFACTS["cpu-float32"][:200]}
    before = workers.pids()
    with pytest.raises(GraphUnusable, match="cannot be loaded"):
        workers.engine(manifest(), broken)  # type: ignore[arg-type]
    assert engine.run(rows(2)).output.shape == (2, 10)
    assert workers.pids() == before


def test_all_models_share_a_process_and_the_last_one_ends_it(workers: Workers, fake_edgetpu: str) -> None:
    engines = [
        workers.engine(manifest(), ARTIFACTS),
        workers.engine(manifest(), ARTIFACTS, precision="int8"),
        workers.engine(manifest(), ARTIFACTS, device="auto", delegate_library=fake_edgetpu),
        workers.engine(manifest(), ARTIFACTS, device="edgetpu", delegate_library=fake_edgetpu),
    ]
    targets = [engine.run(rows(3)).target for engine in engines]
    assert targets == ["cpu-float32", "cpu-int8", "edgetpu-int8", "edgetpu-int8"]
    pids = workers.pids()
    assert set(pids) == {"cpu", "edgetpu"}
    for engine in engines[1:]:
        engine.close()
    workers.step()
    assert workers.pids() == {"cpu": pids["cpu"]}
    assert engines[0].run(rows(3)).target == "cpu-float32"
    engines[0].close()
    engines[0].close()  # once more does nothing
    assert workers.pids() == {}
    assert workers.figures().ends == {}
    workers.close()
    assert gone(pids.values())


def test_many_models_come_and_go_and_nothing_piles_up(workers: Workers) -> None:
    staying = workers.engine(manifest(), ARTIFACTS)
    wanted = staying.run(rows(16)).output
    (pid,) = workers.pids().values()
    worker, us = psutil.Process(pid), psutil.Process()

    def swap(n: int) -> None:
        for _ in range(n):
            new = workers.engine(manifest(), ARTIFACTS, precision="int8")
            new.run(rows(16))
            assert np.array_equal(staying.run(rows(16)).output, wanted)
            new.close()

    swap(50)
    gc.collect()
    before = worker.num_fds(), us.num_fds(), worker.memory_info().rss
    swap(200)
    assert (worker.num_fds(), us.num_fds()) == before[:2]
    assert worker.memory_info().rss - before[2] < 4 << 20
    assert workers.pids() == {"cpu": pid}


def test_a_model_that_hangs_while_it_is_loaded_apart_stops_nobody(workers: Workers) -> None:
    serving = workers.engine(manifest(), ARTIFACTS)
    (pid,) = workers.pids().values()
    with ThreadPoolExecutor(1) as other:
        candidate = other.submit(
            workers.engine, manifest(), ARTIFACTS, precision="int8", group=workers.apart()
        )
        wait_for(lambda: "cpu-2" in workers.pids(), "its worker")
        hangs = workers.pids()["cpu-2"]
        os.kill(hangs, signal.SIGSTOP)
        try:
            for _ in range(20):
                assert serving.run(rows(3)).target == "cpu-float32"
            assert not candidate.done()
            assert workers.figures().up == {"cpu": False}
        finally:
            os.kill(hangs, signal.SIGCONT)
        takes_over = candidate.result()
    assert workers.pids() == {"cpu": pid, "cpu-2": hangs}
    serving.close()
    assert takes_over.run(rows(3)).target == "cpu-int8"
    wait_for(lambda: workers.step() or workers.pids() == {"cpu": hangs}, "the end of the first")
    assert workers.figures().ends == {}


def test_what_ended_with_a_worker_apart_stays_counted(workers: Workers) -> None:
    serving = workers.engine(manifest(), ARTIFACTS)
    candidate = workers.engine(manifest(), ARTIFACTS, group=workers.apart())
    os.kill(workers.pids()["cpu-2"], signal.SIGKILL)
    assert candidate.run(rows(3)).target == "cpu-float32"
    candidate.close()
    settle(workers, up={"cpu"})
    wait_for(lambda: workers.step() or len(workers.pids()) == 1, "its end")
    assert workers.figures().ends == {("cpu", "crashed"): 1}
    assert serving.run(rows(3)).target == "cpu-float32"


def test_while_a_stick_loads_another_model_the_cpu_scores(workers: Workers, fake_edgetpu: str) -> None:
    both = workers.engine(manifest(), ARTIFACTS, device="auto", delegate_library=fake_edgetpu)
    alone = workers.engine(manifest(), ARTIFACTS, device="edgetpu", delegate_library=fake_edgetpu)
    stick = workers.pids()["edgetpu"]
    with ThreadPoolExecutor(1) as other:
        os.kill(stick, signal.SIGSTOP)
        try:
            loaded = other.submit(
                workers.engine, manifest(), ARTIFACTS, device="edgetpu", delegate_library=fake_edgetpu
            )
            wait_for(lambda: both.places[1].seat.busy, "the loading")
            assert both.run(rows(3)).target == "cpu-float32"
            with pytest.raises(NotReady, match="loading another model"):
                alone.run(rows(3))
        finally:
            os.kill(stick, signal.SIGCONT)
        assert loaded.result().run(rows(3)).target == "edgetpu-int8"
    assert both.run(rows(3)).target == alone.run(rows(3)).target == "edgetpu-int8"
    figures = workers.figures()
    assert (figures.n_fallbacks, figures.ends) == (0, {})


def test_no_descriptor_for_a_model_is_a_failure_like_another(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = workers.engine(manifest(), ARTIFACTS)

    def exhausted(name: str, flags: int) -> int:
        if name == "linewatch-model":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return memfd_create(name, flags)

    memfd_create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", exhausted)
    with pytest.raises(GraphUnusable, match="Too many open files"):
        workers.engine(manifest(), ARTIFACTS, precision="int8", group=workers.apart())
    monkeypatch.undo()
    assert serving.run(rows(3)).target == "cpu-float32"


def test_a_worker_is_out_of_a_terminal_s_reach(workers: Workers) -> None:
    engine = workers.engine(manifest(), ARTIFACTS)
    (pid,) = workers.pids().values()
    assert os.getsid(pid) == pid != os.getsid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGTERM: to a whole service
        os.kill(pid, number)
    assert engine.run(rows(3)).output.shape == (3, 10)
    assert workers.pids() == {"cpu": pid}
    assert workers.figures().ends == {}


def test_the_memory_they_share_has_no_name(workers: Workers) -> None:
    named = set(os.listdir("/dev/shm"))
    workers.engine(manifest(), ARTIFACTS)
    (pid,) = workers.pids().values()
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "/memfd:linewatch-area (deleted)" in maps
    assert set(os.listdir("/dev/shm")) == named


def test_neither_side_can_take_the_memory_away() -> None:
    area = new_area()
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(area, size)
    os.close(area)
