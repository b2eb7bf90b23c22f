"""What a bad graph does to the process that tries it, it does to that process alone."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from edge_node.model_probe import ProbeFailed, ProbeStopped, probe
from edge_node.model_store import Bundle, read_bundle
from models.refusals import RefusalReason
from tests.edge_node.bad_graphs import crashing, crashing_runtime, endless, hungry
from tests.fixtures.bundle_files import BUNDLE

GOOD = read_bundle(BUNDLE)


def with_graph(data: bytes) -> Bundle:
    return dataclasses.replace(GOOD, artifacts={**GOOD.artifacts, "cpu-float32": data})


def failure(bundle: Bundle, *, memory_mb: int = 256, timeout_s: float = 20.0) -> ProbeFailed:
    with pytest.raises(ProbeFailed) as caught:
        probe(bundle, memory_mb=memory_mb, timeout_s=timeout_s)
    return caught.value


def test_a_good_model_passes_in_little_memory() -> None:
    probe(GOOD, memory_mb=16, timeout_s=20.0)


def test_a_graph_that_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing_runtime(monkeypatch, tmp_path / "site", crashing())
    error = failure(with_graph(crashing()))
    assert (error.reason, "SIGSEGV" in str(error)) == (RefusalReason.PROBE_CRASHED, True)


def children() -> set[int]:
    """Processes that this one has begun: services of other tests may be among them."""
    return {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}


def test_a_graph_that_takes_too_much_memory() -> None:
    error = failure(with_graph(hungry()))
    assert error.reason is RefusalReason.PROBE_MEMORY


def test_a_graph_that_takes_too_long() -> None:
    before = children()
    error = failure(with_graph(endless()), memory_mb=1024, timeout_s=1.0)
    assert error.reason is RefusalReason.PROBE_HUNG
    assert children() <= before


def test_a_graph_that_is_none() -> None:
    assert failure(with_graph(bytes(1000))).reason is RefusalReason.BAD_GRAPH


def test_golden_vectors_that_do_not_come_out() -> None:
    other = dataclasses.replace(GOOD, artifacts={**GOOD.artifacts, "cpu-int8": GOOD.artifacts["cpu-float32"]})
    error = failure(other)
    assert error.reason in (
        RefusalReason.BAD_GRAPH,
        RefusalReason.GOLDEN_MISMATCH,
        RefusalReason.PROBE_CRASHED,
    )


def test_it_is_stopped_when_nobody_wants_to_know() -> None:
    before = children()
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    begin = time.monotonic()
    with pytest.raises(ProbeStopped):
        probe(with_graph(endless()), memory_mb=1024, timeout_s=60.0, stop=stop)
    assert time.monotonic() - begin < 30
    assert children() <= before


def test_it_knows_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither environment nor working directory: a module there would be run in place of ours."""
    monkeypatch.setenv("UPLINK_PASSWORD", "secret")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msgspec.py").write_text("raise SystemExit(99)")
    from edge_node.model_probe import environment

    assert "secret" not in environment().values()
    probe(GOOD, memory_mb=64, timeout_s=20.0)
