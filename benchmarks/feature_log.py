"""What the feature log takes on disk and in the daemon's loop, and how fast a backtest goes over it.

``python -m benchmarks.feature_log``: boards of 3 axes at 1 kHz through the real pipeline, with the log on; beside it, the bytes
that the features have in memory, and those of the signal that they were made from. Then both models of a backtest over it.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks import plant
from edge_node.assembly import Core, assemble
from edge_node.backtest_replay import Asked, Replay
from edge_node.config import load_config
from edge_node.feature_log import FOLDER, FeatureLog
from edge_node.feature_rows import FeatureRows, as_block, column_names
from models.block_frames import ItemPacker
from models.signal import NS_PER_S, SampleBlock

N_DEVICES = 20
MINUTES = 10
STEP_S = 1.0
SLOW_SENSORS, SLOW_CHANNELS, SLOW_FEATURES, SLOW_HOP_S = 3, 2, 10, 10


def measure(*, minutes: int = MINUTES) -> dict[str, object]:
    """Bytes and microseconds a window; windows a second of a backtest, of both models."""
    trained = plant.train(60 if minutes < MINUTES else 600)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = plant.write_config(folder, plant.write_model(trained, folder), N_DEVICES)
        path.write_text(path.read_text() + "[black_box]\nmin_free_bytes = 0\n")
        config = load_config(path)
        core = assemble(config, on_notice=lambda text: None)
        now = [0.0]
        log = FeatureLog(folder, config, core, now_s=lambda: now[0])
        (thread,) = (t for t in threading.enumerate() if t.name == "feature log")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        loop_s, core_s = _run(core, log, now, minutes)
        thread_s = time.clock_gettime(clock)
        log.close()
        n = core.pipeline.counters().n_windows_scored
        n_features = len(trained.manifest.normalisation.centre)
        files = sum(p.stat().st_size for p in (folder / FOLDER).iterdir())
        windows_per_s = _backtest(folder, core)
    hop_s = plant.WINDOW.hop_ns / NS_PER_S
    return {
        "windows": n,
        "features": n_features,
        "bytes_a_window": round(files / n, 1),
        "feature_bytes_a_window": 4 * n_features,
        "signal_bytes_a_window": 4 * len(plant.AXES) * plant.WINDOW.hop,
        "mb_a_day_and_device": round(files / n * 86_400 / hop_s / 1e6, 2),
        "slow_bytes_a_window": _slow(),
        "loop_us_a_window": round(1e6 * loop_s / n, 2),
        "thread_us_a_window": round(1e6 * thread_s / n, 2),
        "pipeline_us_a_window": round(1e6 * core_s / n, 1),
        "backtest_windows_per_s": windows_per_s,
    }


def _run(core: Core, log: FeatureLog, now: list[float], minutes: int) -> tuple[float, float]:
    """CPU seconds of the log in the loop, and of all else there."""
    rate = int(plant.RATE_HZ)
    step = round(STEP_S * rate)
    signals = [plant.vibration(60 * rate, i) for i in range(N_DEVICES)]
    loop_s = core_s = 0.0
    for k in range(round(minutes * 60 / STEP_S)):
        now[0] = k * STEP_S
        at = plant.START_NS + round(now[0] * NS_PER_S)
        begin = k * step % (60 * rate)
        began = time.thread_time()
        for plan, values in zip(core.plans, signals, strict=True):
            core.push(
                SampleBlock.uniform(
                    plan.device.device_id,
                    plant.AXES,
                    values[begin : begin + step],
                    start_ns=at,
                    rate_hz=plant.RATE_HZ,
                    arrival_ns=at + round(STEP_S * NS_PER_S),
                )
            )
        between = time.thread_time()
        log.end_turn(core)
        loop_s += time.thread_time() - between
        core_s += between - began
        core.pipeline.events()
        if k % 60 == 5:  # what a minute has handed over is written, as it would be in real time
            _written(log)
    return loop_s, core_s


def _written(log: FeatureLog) -> None:
    recorder = log._recorder
    assert recorder is not None
    recorder._wake.set()
    while recorder.done.n_queued:
        time.sleep(0.01)


def _backtest(folder: Path, core: Core) -> float:
    asked = Asked(
        folder=folder / "blackbox",
        features=folder / FOLDER,
        from_ns=0,
        max_s=600.0,
        site="s",
        gateway="g",
        served=core.plans,
        candidate=tuple(core.plans),
        model_id=plant.MODEL_ID,
        version=1,
        against=1,
        sha256="0" * 64,
        labels={},
        max_batches_out=16,
        max_waiting=8192,
    )
    return Replay(asked, core.engines).run().windows_per_s


def _slow() -> float:
    """Bytes a window where a few sensors send a row a second, written once a minute."""
    rng = np.random.default_rng(1)
    names = column_names(SLOW_CHANNELS, [f"feature {i}" for i in range(SLOW_FEATURES)])
    packer, n_bytes, n = ItemPacker(), 0, 0
    for minute in range(200):
        blocks = []
        for device in range(SLOW_SENSORS):
            start = plant.START_NS + (minute * 60 + np.arange(0, 60, SLOW_HOP_S)) * NS_PER_S
            raw = (rng.normal(size=(start.size, SLOW_FEATURES)) + 40).astype(np.float32)
            end = start + 60 * NS_PER_S
            rows = FeatureRows(f"slow-{device}", int(end[-1]), "device", start, end, raw)
            blocks.append(as_block([rows], SLOW_CHANNELS, names))
            n += rows.n
        n_bytes += len(packer.pack(blocks))
    return round(n_bytes / n, 1)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
