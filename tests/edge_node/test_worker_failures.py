"""Workers that hang, abort, are killed or fail: every batch is scored or told to be lost, and what is lost comes back."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

import edge_node.workers
from edge_node.inference import (
    ComputeDevice,
    EdgeTpuFailure,
    EdgeTpuUnavailable,
    Engine,
    NotReady,
    WorkerLost,
)
from edge_node.worker_engine import WorkerEngine
from edge_node.worker_seat import Patience
from edge_node.worker_wire import rows_at_once
from edge_node.workers import Workers
from models.manifest import ModelManifest
from models.messages import pack_floats
from models.runtime import GraphUnusable
from tests.brokers import wait_for
from tests.edge_node.working import ARTIFACTS, Stick, gone, manifest, rows, settle

pytestmark = pytest.mark.tflite_runtime


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def workers(told: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr(edge_node.workers, "TPU_RESTARTS_S", (0.05, 0.05, 0.2))
    made = Workers(told.append)
    yield made
    made.close()


@pytest.fixture
def stick(fake_edgetpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stick:
    monkeypatch.setenv("FAKE_EDGETPU", str(tmp_path / "stick"))
    return Stick(fake_edgetpu, tmp_path / "stick")


def on(
    workers: Workers, stick: Stick, device: ComputeDevice, of: ModelManifest | None = None
) -> WorkerEngine:
    return workers.engine(of or manifest(), ARTIFACTS, device=device, delegate_library=stick.library)


def dies(workers: Workers, stick: Stick) -> None:
    os.kill(workers.pids()["edgetpu"], signal.SIGKILL)


DEATHS: list[tuple[str, Callable[[Workers, Stick], None], str, str]] = [
    ("hang", lambda workers, stick: stick.now("hang"), "hung", "no answer within 0.4 s"),
    ("abort", lambda workers, stick: stick.now("abort"), "crashed", "killed by SIGABRT"),
    ("invoke", lambda workers, stick: stick.now("invoke"), "invoke_failed", "USB transfer error"),
    ("killed", dies, "crashed", "killed by SIGKILL"),
]


@pytest.mark.parametrize(("name", "dies", "reason", "text"), DEATHS, ids=[d[0] for d in DEATHS])
def test_what_a_lost_stick_owes_is_scored_on_the_cpu_until_it_is_back(
    workers: Workers,
    stick: Stick,
    told: list[str],
    name: str,
    dies: Callable[[Workers, Stick], None],
    reason: str,
    text: str,
) -> None:
    engine, x = on(workers, stick, "auto"), rows(40)
    on_cpu = Engine(manifest(), ARTIFACTS).run(x).output
    assert engine.run(x).target == "edgetpu-int8"
    first = workers.pids()
    dies(workers, stick)
    scored = engine.run(x)
    assert np.array_equal(scored.output, on_cpu)
    assert scored.target == engine.target == engine.artifact.target == "cpu-float32"
    assert scored.backend == engine.backend
    assert engine.step == 0.0
    (notice,) = engine.notices
    assert text in notice
    assert "Scoring on cpu-float32" in notice
    assert told == [notice]
    figures = workers.figures()
    assert (figures.ends, figures.n_fallbacks) == ({("edgetpu", reason): 1}, 1)
    stick.now("works")
    settle(workers, up={"cpu", "edgetpu"})
    assert engine.run(x).target == engine.target == "edgetpu-int8"
    assert engine.notices == ()
    assert told == [notice, f"scoring on {engine.backend} again"]
    assert workers.pids()["cpu"] == first["cpu"]
    assert gone([first["edgetpu"]])


def test_a_stick_that_dies_within_a_batch_leaves_no_row_of_its_own(workers: Workers, stick: Stick) -> None:
    engine, n = on(workers, stick, "auto"), rows_at_once(10) + 900
    on_cpu = Engine(manifest(), ARTIFACTS).run(rows(n)).output
    stick.now(f"invoke{rows_at_once(10) + 500}")
    assert np.array_equal(engine.run(rows(n)).output, on_cpu)
    assert workers.figures().ends == {("edgetpu", "invoke_failed"): 1}


def test_a_stick_that_is_slow_does_not_hang(workers: Workers, stick: Stick) -> None:
    """A batch may take longer than the watchdog's patience, as long as there is progress."""
    engine = on(workers, stick, "auto")
    stick.now("slow")
    scored = engine.run(rows(200))
    assert scored.latency_ns > 1e9 * edge_node.workers.TPU_PATIENCE.stall_s
    assert scored.target == "edgetpu-int8"
    assert workers.figures().ends == {}


def test_a_batch_that_takes_for_ever_is_given_up(
    workers: Workers, stick: Stick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_node.workers, "TPU_PATIENCE", Patience(start_s=10.0, stall_s=0.4, batch_s=0.5))
    engine = on(workers, stick, "auto")
    stick.now("slow")
    assert engine.run(rows(1000)).target == "cpu-float32"
    assert workers.figures().ends == {("edgetpu", "hung"): 1}


def test_a_stick_that_is_lost_while_nothing_is_scored_is_told(
    workers: Workers, stick: Stick, told: list[str]
) -> None:
    engine = on(workers, stick, "auto")
    stick.now("create")
    dies(workers, stick)
    settle(workers, up={"cpu"})
    assert "killed by SIGKILL" in told[0]
    wait_for(lambda: workers.step() or workers.figures().ends.get(("edgetpu", "refused"), 0) > 2, "attempts")
    assert len(told) == 1  # one loss, however often it is looked for
    assert engine.run(rows(2)).target == "cpu-float32"


def test_a_search_that_hangs_does_not_hold_up_scoring(workers: Workers, stick: Stick) -> None:
    engine = on(workers, stick, "auto")
    stick.now("hang")
    assert engine.run(rows(2)).target == "cpu-float32"
    wait_for(lambda: workers.step() or "edgetpu" in workers.pids(), "a search")
    for _ in range(200):  # a search that was waited for would take seconds every time
        assert engine.run(rows(2)).target == "cpu-float32"


@pytest.mark.parametrize("how", ["create", "abort"])
def test_a_stick_that_comes_later_is_used(workers: Workers, stick: Stick, told: list[str], how: str) -> None:
    stick.now(how)
    engine = on(workers, stick, "auto")
    assert engine.run(rows(2)).target == "cpu-float32"
    assert told == list(engine.notices)
    stick.now("works")
    settle(workers, up={"cpu", "edgetpu"})
    assert engine.run(rows(2)).target == "edgetpu-int8"
    assert engine.notices == ()


FAILURES = [
    ("create", EdgeTpuFailure.REFUSED),
    ("create-silently", EdgeTpuFailure.REFUSED),
    ("prepare", EdgeTpuFailure.PREPARE_FAILED),
    ("invoke", EdgeTpuFailure.INVOKE_FAILED),
    ("abort", EdgeTpuFailure.CRASHED),
]


@pytest.mark.parametrize(("how", "kind"), FAILURES)
def test_only_the_edge_tpu_will_do(workers: Workers, stick: Stick, how: str, kind: EdgeTpuFailure) -> None:
    stick.now(how)
    with pytest.raises(EdgeTpuUnavailable) as caught:
        on(workers, stick, "edgetpu")
    assert caught.value.kind is kind
    assert workers.pids() == {}


def test_a_stick_that_hangs_at_the_start(
    workers: Workers, stick: Stick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_node.workers, "TPU_PATIENCE", Patience(start_s=2.0, stall_s=0.4))
    stick.now("hang")
    with pytest.raises(EdgeTpuUnavailable, match="dmesg") as caught:
        on(workers, stick, "edgetpu")
    assert caught.value.kind is EdgeTpuFailure.HUNG


def test_without_a_cpu_to_fall_back_to_a_batch_fails_and_the_stick_comes_back(
    workers: Workers, stick: Stick
) -> None:
    engine = on(workers, stick, "edgetpu")
    stick.now("invoke")
    for _ in range(2):
        with pytest.raises(EdgeTpuUnavailable) as caught:
            engine.run(rows(2))
        assert caught.value.kind is EdgeTpuFailure.INVOKE_FAILED
    stick.now("works")
    settle(workers, up={"edgetpu"})
    assert engine.run(rows(2)).target == "edgetpu-int8"


def test_a_model_that_comes_out_wrong_on_the_stick_stays_on_the_cpu(workers: Workers, stick: Stick) -> None:
    """The other models stay where they are."""
    good = on(workers, stick, "auto")
    artifacts = list(manifest().artifacts)
    place = [a.target for a in artifacts].index("edgetpu-int8")
    golden = list(artifacts[place].golden)
    golden[1] = msgspec.structs.replace(golden[1], output=pack_floats(rows(1) * 9))
    artifacts[place] = msgspec.structs.replace(artifacts[place], golden=tuple(golden))
    wrong = msgspec.structs.replace(manifest(), artifacts=tuple(artifacts))
    engine = on(workers, stick, "auto", wrong)
    assert engine.target == "cpu-float32"
    assert "output differs by" in engine.notices[0]
    assert engine.run(rows(2)).target == "cpu-float32"
    assert good.run(rows(2)).target == "edgetpu-int8"


def test_a_worker_that_was_killed_between_two_batches_costs_none(workers: Workers) -> None:
    engine, x = workers.engine(manifest(), ARTIFACTS), rows(20)
    wanted = engine.run(x).output
    for n in range(1, 3):
        os.kill(workers.pids()["cpu"], signal.SIGKILL)
        assert np.array_equal(engine.run(x).output, wanted)
        assert workers.figures().ends == {("cpu", "crashed"): n}
    assert workers.figures().last == "the process ended (killed by SIGKILL)"
    assert engine.notices == ()


def test_a_worker_that_hangs_is_replaced_and_the_batch_scored(workers: Workers) -> None:
    engine, x = workers.engine(manifest(), ARTIFACTS), rows(20)
    wanted = engine.run(x).output
    hangs = workers.pids()["cpu"]
    os.kill(hangs, signal.SIGSTOP)
    assert np.array_equal(engine.run(x).output, wanted)
    assert workers.figures().ends == {("cpu", "hung"): 1}
    assert workers.pids()["cpu"] != hangs
    assert gone([hangs])


def test_restarts_leave_nothing_behind(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_node.workers, "CPU_RESTARTS_S", (0.0, 0.05, 0.1))
    engine, us = workers.engine(manifest(), ARTIFACTS), psutil.Process()
    gc.collect()
    before, pids = us.num_fds(), set()
    for _ in range(4):
        pids.add(workers.pids()["cpu"])
        os.kill(workers.pids()["cpu"], signal.SIGKILL)
        assert engine.run(rows(2)).output.shape == (2, 10)
    workers.step()
    assert us.num_fds() == before
    assert len(pids) == 4
    assert gone(pids)  # buried, too


@pytest.mark.parametrize(("how", "kind"), [("abort", "crashed"), ("hang", "hung")])
def test_a_batch_that_ends_two_workers_is_lost_and_no_other(
    workers: Workers, poison: str, monkeypatch: pytest.MonkeyPatch, how: str, kind: str
) -> None:
    monkeypatch.setenv("LD_PRELOAD", poison)
    monkeypatch.setenv("POISON", how)
    monkeypatch.setenv("POISON_ROWS", "13")
    engine = workers.engine(manifest(), ARTIFACTS)
    wanted = engine.run(rows(12)).output
    bad = rows(13)
    with pytest.raises(WorkerLost) as caught:
        engine.run(bad)
    assert caught.value.kind == kind
    assert "a batch ended 2 workers" in str(caught.value)
    assert workers.figures().ends == {("cpu", kind): 2}
    assert np.array_equal(engine.run(rows(12)).output, wanted)


def test_a_model_that_ends_its_worker_is_refused_and_the_others_are_served(
    workers: Workers, poison: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", poison)
    monkeypatch.setenv("POISON_BYTES", str(len(ARTIFACTS["cpu-int8"])))
    engine = workers.engine(manifest(), ARTIFACTS)
    with pytest.raises(GraphUnusable, match=r"cannot be loaded.*SIGABRT"):
        workers.engine(manifest(), ARTIFACTS, precision="int8")
    assert workers.figures().ends == {("cpu", "crashed"): 2}
    settle(workers, up={"cpu"})
    assert engine.run(rows(2)).output.shape == (2, 10)


def test_while_no_worker_starts_batches_wait(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = workers.engine(manifest(), ARTIFACTS)
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nowhere/python")
        os.kill(workers.pids()["cpu"], signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(NotReady, match="No such file"):
                engine.run(rows(2))
        assert workers.figures().up == {"cpu": False}
        assert workers.figures().ends[("cpu", "not_started")] > 1
    settle(workers, up={"cpu"})
    assert engine.run(rows(2)).output.shape == (2, 10)
