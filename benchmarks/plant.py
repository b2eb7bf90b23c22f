"""The plant that is measured: vibration boards of 3 axes at 1 kHz, and the model that watches them.

Window 1024, hop 512; 10 bands and 4 shape features an axis make 42 features, for which our own trainer fits
the autoencoder 42-24-8-24-42.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_sink.bundle import write_bundle
from cloud_sink.dataset import Dataset
from cloud_sink.fit import FitOptions, Trained, fit_dataset
from edge_node.assembly import Core, assemble
from edge_node.config import load_config
from models.features import FeatureSpec, describe, extract, learn_floors, min_scales
from models.sensor_checks import learn_baselines
from models.signal import NS_PER_S, Channel, Device, Mode, SampleBlock, WindowBatch, WindowSpec
from models.time_policy import TimeTreatment, default_policy

RATE_HZ = Fraction(1000)
AXES = ("x", "y", "z")
UNIT = "m/s2"
WINDOW = WindowSpec(n=1024, hop=512, rate_hz=RATE_HZ, mode=Mode.CONTINUOUS)
N_BANDS = 10
START_NS = 1_760_000_000 * NS_PER_S
MODEL_ID = "boards"
SEED = 7


def vibration(n: int, seed: int, *, fault: float = 0.0) -> NDArray[np.float32]:
    """float32[n, 3]: a machine's harmonics and its noise; ``fault`` adds an impact 87 times a second."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / float(RATE_HZ)
    load = 1 + 0.1 * np.sin(2 * np.pi * t / 7.3)
    axes = []
    for i in range(len(AXES)):
        x = 0.5 * rng.normal(size=n)
        for harmonic, amplitude in ((24.7, 1.0), (49.4, 0.4), (148.2, 0.2), (311.0, 0.1 + 0.1 * i)):
            x += load * amplitude * np.sin(2 * np.pi * harmonic * t + rng.uniform(0, 6.28))
        if fault:
            x += fault * np.exp(-60 * (t % (1 / 87))) * np.sin(2 * np.pi * 390 * t)
        axes.append(x)
    return np.stack(axes, axis=1).astype(np.float32)


@cache
def train(seconds: int = 600) -> Trained:
    """The model, fitted on healthy vibration; fitted once for all who ask in one process."""
    signal = vibration(seconds * int(RATE_HZ), SEED)
    starts = np.arange(0, len(signal) - WINDOW.n + 1, WINDOW.hop)
    values = np.stack([signal[s : s + WINDOW.n] for s in starts])
    valid = np.ones(values.shape, np.bool_)
    start_ns = START_NS + starts * (NS_PER_S // int(RATE_HZ))
    end_ns = start_ns + WINDOW.window_ns
    device = _device("board")
    spec = FeatureSpec(set="vibration", n_bands=N_BANDS, floors=learn_floors(values, valid))
    dataset = Dataset(
        device=device,
        window=WINDOW,
        time=TimeTreatment.of(default_policy(WINDOW)),
        spec=spec,
        infos=describe(spec, device.channels, RATE_HZ, WINDOW.n),
        min_scale=min_scales(spec, len(AXES), WINDOW.n),
        baselines=learn_baselines([WindowBatch("board", start_ns, end_ns, values, valid)], WINDOW),
        examples=values[:: max(1, len(values) // 16)],
        start_ns=start_ns,
        end_ns=end_ns,
        features=extract(spec, values, valid, RATE_HZ),
        used=np.ones(len(values), np.bool_),
        anomalous=None,
        set_aside={},
        sample_drops={},
    )
    return fit_dataset(
        dataset, FitOptions(family="ae", model_id=MODEL_ID, version=1, created_ns=START_NS, seed=SEED)
    )


def write_model(trained: Trained, folder: Path) -> Path:
    """The bundle as a directory in ``folder``."""
    path = folder / MODEL_ID
    write_bundle(path, trained.manifest, trained.artifacts)
    return path


def write_config(
    folder: Path,
    model: Path,
    n_devices: int,
    *,
    port: int | None = None,
    metrics_port: int = 0,
    format_: str = "packed",
    more: str = "",
    device_more: str = "",
    black_box: bool = True,
) -> Path:
    """A gateway's configuration with ``n_devices`` boards; with ``port``, one that reads from and publishes
    to the broker there."""
    lines = ["[gateway]", 'name = "bench"', f"metrics_port = {metrics_port}", more, ""]
    if port is not None:
        lines += ["[uplink]", 'host = "127.0.0.1"', f"port = {port}", ""]
        lines += ["[[source]]", 'type = "mqtt"', 'host = "127.0.0.1"', f"port = {port}", ""]
        lines += ["[[source.subscribe]]", 'topic = "plant/{device}"', f'format = "{format_}"', ""]
    lines += [] if black_box else ["[black_box]", "enabled = false", ""]
    lines += [
        "[defaults]",
        f"rate_hz = {RATE_HZ}",
        f"channels = [{', '.join(repr(a) for a in AXES)}]",
        f'unit = "{UNIT}"',
        f"window = {WINDOW.n}",
        f"hop = {WINDOW.hop}",
        f'model = "{model}"',
        "alerts_per_week = 1",
        device_more,
        "",
    ]
    for i in range(n_devices):
        lines += ["[[device]]", f'id = "{device_id(i)}"', f'machine = "machine-{i}"', ""]
    path = folder / f"gateway-{n_devices}.toml"
    path.write_text("\n".join(lines))
    return path


def build(config: Path) -> Core:
    """The core that the daemon would run."""
    return assemble(load_config(config), on_notice=lambda text: None)


def device_id(i: int) -> str:
    return f"board-{i:04d}"


def blocks(
    n_devices: int, n_rows: int, rows: tuple[int, int], seed: int, *, faulty: int | None = None
) -> list[SampleBlock]:
    """What ``n_devices`` boards send in ``n_rows`` sampling periods, in order of arrival: blocks of a random
    number of rows within ``rows``, anew each, out of step. Device ``faulty`` has a fault in its last third."""
    rng = np.random.default_rng(seed)
    pool = vibration(n_rows + 4096, seed)
    sick = vibration(n_rows + 4096, seed, fault=4.0)
    period_ns = NS_PER_S // int(RATE_HZ)
    sent: list[SampleBlock] = []
    for i in range(n_devices):
        start_ns = START_NS + int(rng.integers(0, NS_PER_S))
        offset = int(rng.integers(0, 4096))
        healthy = pool[offset : offset + n_rows]
        done = 0
        while done < n_rows:
            m = min(n_rows - done, int(rng.integers(rows[0], rows[1] + 1)))
            source = sick[offset : offset + n_rows] if i == faulty and done > n_rows * 2 // 3 else healthy
            first_ns = start_ns + done * period_ns
            sent.append(
                SampleBlock.uniform(
                    device_id(i),
                    AXES,
                    source[done : done + m].copy(),
                    start_ns=first_ns,
                    rate_hz=RATE_HZ,
                    arrival_ns=first_ns + m * period_ns + 2_000_000,
                )
            )
            done += m
    sent.sort(key=lambda block: block.arrival_ns)
    return sent


def later(sent: list[SampleBlock], by_ns: int) -> list[SampleBlock]:
    """The same blocks, ``by_ns`` later."""
    return [
        msgspec.structs.replace(b, start_ns=(b.start_ns or 0) + by_ns, arrival_ns=b.arrival_ns + by_ns)
        for b in sent
    ]


def _device(name: str) -> Device:
    channels = tuple(Channel(name=axis, unit=UNIT) for axis in AXES)
    return Device(device_id=name, machine=name, mode=Mode.CONTINUOUS, rate_hz=RATE_HZ, channels=channels)
