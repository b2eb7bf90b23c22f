"""A device that learns its model by itself: from its first window to its first alert, over a restart, and in replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.assembly import Core, assemble
from edge_node.config import load_config
from edge_node.learner import wanted_windows
from models.messages import Alert, DeviceStateMessage
from models.signal import NS_PER_S, DropReason, SampleBlock

RATE, WINDOW, HOP = 1000, 256, 128
T0_NS = 1_790_000_000 * NS_PER_S
WANTED = wanted_windows(WINDOW, HOP)
N_LEARN = (WANTED - 1) * HOP + WINDOW  # samples until there is enough
DEVICE = f"""
[[device]]
id = "press-4"
machine = "press 4"
channels = [{{ name = "x", unit = "m/s2" }}, {{ name = "y", unit = "m/s2" }}]
rate_hz = {RATE}
window = {WINDOW}
hop = {HOP}
model = "learn"
"""


def vibration(n: int, seed: int = 0, start: int = 0) -> NDArray[np.float32]:
    """A machine that is well: a tone and noise on two axes."""
    t = np.arange(start, start + n) / RATE
    tone = np.sin(2 * math.pi * 49.0 * t)
    return (np.stack([tone, 0.5 * tone], axis=1) + np.random.default_rng(seed).normal(0, 0.3, (n, 2))).astype(
        np.float32
    )


def broken(n: int, seed: int = 0, start: int = 0) -> NDArray[np.float32]:
    """The same with a bearing that rings."""
    t = np.arange(start, start + n) / RATE
    return vibration(n, seed, start) + np.outer(np.sin(2 * math.pi * 340.0 * t), [1.5, 0.7]).astype(
        np.float32
    )


def written(folder: Path, device: str = DEVICE, before: str = "", gateway: str = "") -> Path:
    path = folder / "gateway.toml"
    path.write_text(
        f'[gateway]\nname = "g1"\nsite = "s1"\ninference = "in_process"\n{gateway}{before}{device}'
    )
    return path


def blocks(
    values: NDArray[np.float32], size: int, start: int = 0, device: str = "press-4"
) -> list[SampleBlock]:
    found = []
    for i in range(0, len(values), size):
        part = values[i : i + size]
        first_ns = T0_NS + (start + i) * NS_PER_S // RATE
        arrival_ns = first_ns + len(part) * NS_PER_S // RATE
        found.append(
            SampleBlock.uniform(
                device,
                ("x", "y")[: part.shape[1]],
                part,
                start_ns=first_ns,
                rate_hz=Fraction(RATE),
                arrival_ns=arrival_ns,
            )
        )
    return found


def heard(core: Core, given: Sequence[SampleBlock]) -> tuple[list[Alert], list[DeviceStateMessage]]:
    alerts, states = [], []
    for block in given:
        core.push(block)
        for event in core.pipeline.events():
            if isinstance(event.event, Alert):
                alerts.append(event.event)
            elif isinstance(event.event, DeviceStateMessage):
                states.append(event.event)
    return alerts, states


def core_of(path: Path) -> Core:
    return assemble(load_config(path), on_notice=lambda text: None)


def test_a_device_learns_then_scores_then_says_what_is_wrong(tmp_path: Path) -> None:
    core = core_of(written(tmp_path))
    n_well = N_LEARN + 60 * RATE
    alerts, states = heard(core, blocks(vibration(n_well), 100))
    assert [alert.message for alert in alerts] == []
    (model,) = core.models
    assert (model.model_id, model.version) == ("learned-press-4", 0)
    said = [(s.state.value, s.progress) for s in states]
    assert said == [*(("learning", i / 10) for i in range(11)), ("normal", None)]
    fault = broken(20 * RATE, seed=1, start=n_well)
    alerts, states = heard(core, blocks(fault, 100, n_well))
    assert [(a.kind, a.state) for a in alerts][:1] == [("machine", "raised")]
    assert alerts[0].end_ns - (T0_NS + n_well * NS_PER_S // RATE) < 10 * NS_PER_S
    assert alerts[0].contributions[0].channel == "x"
    counters = core.pipeline.counters()
    assert counters.window_drops == {DropReason.LEARNING: WANTED}
    assert counters.n_windows_closed == counters.n_windows_scored + counters.n_windows_pending + WANTED
