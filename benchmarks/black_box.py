"""What the black box costs the daemon's loop, its own thread and the disk; beside it the same blocks written by ``--record``,
which the loop does itself, and the bytes that the signal has.

Vibration as float32 of a simulation, which hardly compresses, and as counts of a 16-bit converter, which is what most boards
send. At rest: what a plant of slow sensors makes it write, and one of which only the clock ticks.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from benchmarks import plant
from edge_node.assembly import assemble
from edge_node.black_box import BlackBox
from edge_node.config import Config, load_config
from edge_node.config_schema import BlackBox as Options
from edge_node.ring import Begin, Ring
from models.logs import LogItem, Tick
from models.recording import RecordingWriter
from models.signal import NS_PER_S, SampleBlock

N_DEVICES = 20
SECONDS, PACE = 120, 4.0
STEP_S, TICK_S = 0.1, 0.25
COUNTS = 16 * 9.81 / 32768  # 16 bits over 16 g, in m/s2
SLOW_SENSORS = 3
DAY_S = 86_400.0


def measure(*, quick: bool) -> dict[str, object]:
    """CPU shares and bytes a day by kind of signal, and bytes a day at rest."""
    seconds, pace = (2, 20.0) if quick else (SECONDS, PACE)
    trained = plant.train(60 if quick else 600)
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = load_config(plant.write_config(folder, plant.write_model(trained, folder), N_DEVICES))
        options = msgspec.structs.replace(config.black_box, min_free_bytes=0)
        for signal, step in (("noise", None), ("counts", COUNTS)):
            turns = _turns(config, seconds, step)
            ours = _recorded(config, options, folder / signal, turns, pace)
            ours["record_cpu_share"] = _by_record(folder / f"{signal}.parquet", turns, seconds)
            ours |= {key: ours[key] / seconds for key in ("loop_cpu_share", "thread_cpu_share")}
            ours |= {
                f"{key}_per_day": ours.pop(key) / seconds * DAY_S for key in ("file_bytes", "signal_bytes")
            }
            found[signal] = ours
        rest = {
            what: _at_rest(options, folder / what, slow=slow, n_flushes=20 if quick else 2000)
            for what, slow in (("slow", True), ("ticks", False))
        }
    return {"devices": N_DEVICES, "rate_hz": int(plant.RATE_HZ), "signals": found, "rest_bytes_per_day": rest}


def _turns(config: Config, seconds: int, step: float | None) -> list[list[LogItem]]:
    """What the loop is given, a turn every STEP_S: a block of each board, and the clock."""
    rate = int(plant.RATE_HZ)
    n = round(STEP_S * rate)
    signals = [plant.vibration(seconds * rate, i) for i in range(N_DEVICES)]
    if step is not None:
        signals = [(np.round(values / step) * step).astype(np.float32) for values in signals]
    turns: list[list[LogItem]] = []
    for k in range(0, seconds * rate, n):
        at = plant.START_NS + k * NS_PER_S // rate
        arrival = at + round(STEP_S * NS_PER_S)
        turns.append([])
        for device, values in zip(config.devices, signals, strict=True):
            turns[-1].append(
                SampleBlock.uniform(
                    device.device.device_id,
                    plant.AXES,
                    values[k : k + n],
                    start_ns=at,
                    rate_hz=plant.RATE_HZ,
                    arrival_ns=arrival,
                )
            )
        turns[-1].append(Tick(arrival))
    return turns


def _recorded(
    config: Config, options: Options, folder: Path, turns: Sequence[Sequence[LogItem]], pace: float
) -> dict[str, float]:
    """``turns`` through a black box, ``pace`` times as fast as they came, without a pipeline that is given them, too."""
    core = assemble(config, on_notice=lambda text: None)
    boxed = msgspec.structs.replace(options, flush_s=options.flush_s / pace)
    box = BlackBox(folder, replace(config, black_box=boxed), core)
    (thread,) = (t for t in threading.enumerate() if t.name == "black box")
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    cpu_s, turn_s = 0.0, []
    begun_s = time.perf_counter()
    for i, turn in enumerate(turns):
        cpu, wall = time.thread_time(), time.perf_counter()
        for item in turn:
            box.write(item)
        box.end_turn(core)
        cpu_s += time.thread_time() - cpu
        turn_s.append(time.perf_counter() - wall)
        time.sleep(max(0.0, begun_s + (i + 1) * STEP_S / pace - time.perf_counter()))
    thread_s = time.clock_gettime(clock)
    done = box.done
    assert done is not None
    assert not box.dropped(done), "the disk is too slow for this pace"
    box.close()
    blocks = [item for turn in turns for item in turn if isinstance(item, SampleBlock)]
    return {
        "loop_cpu_share": cpu_s,
        "thread_cpu_share": thread_s,
        "turn_ms_p50": 1e3 * float(np.median(turn_s)),
        "turn_ms_max": 1e3 * max(turn_s),
        "file_bytes": float(sum(path.stat().st_size for path in (folder / "blackbox").iterdir())),
        "signal_bytes": float(sum(block.values.nbytes for block in blocks)),
    }


def _by_record(path: Path, turns: Sequence[Sequence[LogItem]], seconds: int) -> float:
    """Share of a core that the loop spends on writing the same to a recording."""
    writer = RecordingWriter(path)
    began_s = time.thread_time()
    for turn in turns:
        for item in turn:
            writer.write(item)
    spent_s = time.thread_time() - began_s
    writer.discard()
    return spent_s / seconds


def _at_rest(options: Options, folder: Path, *, slow: bool, n_flushes: int) -> float:
    """Bytes of files a day where a few sensors send a row a second, or none does."""
    every_s = options.flush_s if slow else 60.0
    ring = Ring(folder, options, time.monotonic)
    ring.recover()
    ring.begin(Begin((), b"", False))
    for i in range(n_flushes):
        at = plant.START_NS + round(i * every_s * NS_PER_S)
        items: list[LogItem] = [
            Tick(at + round(k * TICK_S * NS_PER_S)) for k in range(round(every_s / TICK_S))
        ]
        for k in range(round(every_s) if slow else 0):
            for device in range(SLOW_SENSORS):
                times = np.array([at + k * NS_PER_S])
                values = np.array([[20.0 + 0.01 * k, device]])
                items.append(
                    SampleBlock.irregular(
                        f"slow-{device}", ("a", "b"), values, time_ns=times, arrival_ns=int(times[0])
                    )
                )
        ring.append(items)
    ring.end()
    return ring.n_written / (n_flushes * every_s) * DAY_S
