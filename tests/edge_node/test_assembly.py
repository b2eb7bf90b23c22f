"""Devices share an engine exactly when they share a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.assembly import MAX_WINDOWS_AT_ONCE, assemble
from edge_node.config import ConfigError, load_config
from edge_node.figures import windows
from edge_node.inference import Engine, Scored
from edge_node.plans import MAX_BATCHES_OUT, MAX_WAITING
from models.messages import Alert
from models.signal import NS_PER_S, DropReason, SampleBlock
from tests.edge_node.daemons import BUNDLE, channels, golden_window
from tests.fixtures.bundle_files import restate


def test_two_bundles_of_one_name_do_not_share_an_engine_and_one_bundle_does(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(BUNDLE, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["created_ns"] += 1
    (other / "manifest.json").write_text(json.dumps(manifest))
    channels = ", ".join(
        "{ " + ", ".join(f"{k} = {json.dumps(c[k])}" for k in ("name", "unit", "origin")) + " }"
        for c in manifest["channels"]
    )
    device = '[[device]]\nid = "{}"\ninterval_s = 1\nchannels = [{}]\nmodel = "{}"\n'
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[gateway]\nname = "g"\n'
        + "".join(
            device.format(name, channels, where)
            for name, where in (("a", BUNDLE), ("b", other), ("c", BUNDLE))
        )
    )
    core = assemble(load_config(path), on_notice=lambda text: None)
    a, b, c = (plan.engine for plan in core.plans)
    assert a == c
    assert a != b
    assert set(core.engines) == {a, b}


def test_an_empty_block_of_an_unknown_device_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[gateway]\nname = "g"\n[[device]]\nid = "a"\ninterval_s = 1\nchannels = ["x"]\nmodel = "none"\n'
    )
    core = assemble(load_config(path), on_notice=lambda text: None)
    empty = np.zeros((0, 1), np.float32)
    block = SampleBlock.irregular("b", ("x",), empty, time_ns=np.zeros(0, np.int64), arrival_ns=0)
    assert core.push(block) == 0


def _config(folder: Path, gateway: str = "", device: str = "", bundle: Path = BUNDLE) -> Path:
    """One device that ``bundle`` watches; lines to add to the tables."""
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    channels = ", ".join(
        "{ " + ", ".join(f"{k} = {json.dumps(c[k])}" for k in ("name", "unit", "origin")) + " }"
        for c in manifest["channels"]
    )
    path = folder / "gateway.toml"
    path.write_text(
        f'[gateway]\nname = "g"\n{gateway}\n'
        f'[[device]]\nid = "a"\ninterval_s = 1\nchannels = [{channels}]\nmodel = "{bundle}"\n{device}\n'
    )
    return path


def test_an_edge_tpu_that_computes_something_else_is_refused(tmp_path: Path, fake_edgetpu: str) -> None:
    """Worked examples of the CPU's graphs are checked when a bundle is loaded; the Edge TPU's once it is there."""
    other = tmp_path / "other"
    shutil.copytree(BUNDLE, other)
    path = _config(tmp_path, f'edgetpu_library = "{fake_edgetpu}"', 'backend = "edgetpu"', other)
    (engine,) = assemble(load_config(path), on_notice=lambda text: None).engines.values()
    assert engine.target == "edgetpu-int8"
    manifest = json.loads((other / "manifest.json").read_text())
    place = [a["target"] for a in manifest["artifacts"]].index(engine.target)
    golden = manifest["artifacts"][place]["golden"]
    golden[1]["output"] = golden[0]["output"]
    restate(manifest, place, 1)
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ConfigError, match=r"golden vector 1 does not come out on edgetpu-int8.*output differs"
    ):
        assemble(load_config(path), on_notice=lambda text: None)


def _rows(n: int, at_s: int = 0) -> SampleBlock:
    """``n`` seconds of the fixture's signal."""
    names = tuple(channels())
    means = golden_window().mean(axis=0)
    noise = np.random.default_rng(at_s).normal(size=(n, len(names)))
    times = (1_700_000_000 + at_s + np.arange(n, dtype=np.int64)) * NS_PER_S
    values = (means * (1 + 0.01 * noise)).astype(np.float32)
    return SampleBlock.irregular("a", names, values, time_ns=times, arrival_ns=int(times[-1]))


def test_what_saturates_shows_in_the_metric_and_in_the_alert(tmp_path: Path) -> None:
    core = assemble(load_config(_config(tmp_path, "", 'precision = "int8"')), on_notice=lambda text: None)
    window = golden_window()
    noise = np.random.default_rng(7).normal(size=(600, window.shape[1]))
    values = (window.mean(axis=0) + window.std(axis=0) * noise).astype(np.float32)
    values[300:] *= 3
    healthy, fault = (msgspec.structs.replace(_rows(300, i), values=values[i : i + 300]) for i in (0, 300))

    def saturated() -> float:
        (family,) = [f for f in windows(core.pipeline.counters()) if f.name == "saturated_outputs"]
        return family.values[()]

    core.push(healthy)
    assert saturated() == 0
    assert not [e.event for e in core.pipeline.events() if isinstance(e.event, Alert)]
    core.push(fault)
    n = saturated()
    assert n == core.pipeline.counters().n_saturated >= 29  # a value of each window at least
    alerts = [e.event for e in core.pipeline.events() if isinstance(e.event, Alert)]
    raised = next(a for a in alerts if a.kind == "machine")
    assert raised.state == "raised"
    assert "; score at least " in raised.message


def test_how_much_may_wait_is_as_configured(tmp_path: Path) -> None:
    path = _config(tmp_path, "max_waiting = 12\nmax_batches_out = 1")
    pipeline = assemble(load_config(path), on_notice=lambda text: None).pipeline
    pipeline.push(_rows(60))
    (out,) = pipeline.take_batches()
    for i in range(1, 20):
        pipeline.push(_rows(60, 60 * i))
        assert pipeline.take_batches() == []
        assert pipeline.counters().n_windows_pending <= 12 + out.n
    assert pipeline.counters().window_drops[DropReason.BACKPRESSURE] > 50


def test_by_default_as_much_waits_as_without_a_configuration(tmp_path: Path) -> None:
    gateway = load_config(_config(tmp_path)).gateway
    assert (gateway.max_waiting, gateway.max_batches_out) == (MAX_WAITING, MAX_BATCHES_OUT)


def test_a_backlog_is_scored_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = assemble(load_config(_config(tmp_path)), on_notice=lambda text: None)
    (engine,) = core.engines.values()
    n_held: list[int] = []

    def watched(inputs: NDArray[np.float32]) -> Scored:
        n_held.append(core.pipeline.counters().n_windows_pending)
        return Engine.run(engine, inputs)

    monkeypatch.setattr(engine, "run", watched)
    n = core.push(*[_rows(1000, 1000 * i) for i in range(100)])
    assert n == core.pipeline.counters().n_windows_closed == sum(n_held) > 5 * MAX_WINDOWS_AT_ONCE
    assert max(n_held) <= MAX_WINDOWS_AT_ONCE
