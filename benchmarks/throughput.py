"""Blocks in to events out, against the same features and invokes over all windows in memory.

The floor is what no gateway can do without: ``features.extract``, ``scoring.normalise`` and the graph, in large batches.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import plant
from benchmarks.timing import ratio, take_turns
from models import scoring
from models.features import extract
from models.signal import NS_PER_S, SampleBlock

ROWS = (100, 1000)
BATCH = 1024


def measure(*, quick: bool) -> dict[str, object]:
    """Ratio of the floor's CPU time to the pipeline's (1: nothing but the floor), and cost per sample by devices."""
    rounds = 3 if quick else 7
    trained = plant.train(60 if quick else 600)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = plant.write_model(trained, folder)
        n_rows = 6_000 if quick else 30_000
        sent = plant.blocks(20, n_rows, ROWS, plant.SEED, faulty=3)
        core = plant.build(plant.write_config(folder, model, 20))
        engine = next(iter(core.engines.values()))
        manifest = trained.manifest
        centre, scale = np.array(manifest.normalisation.centre), np.array(manifest.normalisation.scale)
        windows = _windows(sent)
        valid = np.ones(windows.shape, np.bool_)
        n_samples = sum(block.n_samples for block in sent)
        turn = iter(range(1_000_000))
        span_ns = n_rows * NS_PER_S // int(plant.RATE_HZ)  # each turn goes on where the one before ended

        def pipeline() -> float:
            _push(core, plant.later(sent, next(turn) * span_ns))
            return n_samples

        def floor() -> float:
            for i in range(0, len(windows), BATCH):
                part = slice(i, i + BATCH)
                features = extract(manifest.features, windows[part], valid[part], plant.RATE_HZ)
                scoring.scores(engine.run(scoring.normalise(features, centre, scale)).output)
            return n_samples

        timed = take_turns({"pipeline": pipeline, "floor": floor}, rounds)
        by_devices = _by_devices(folder, model, quick=quick)
        one_by_one = _by_devices(folder, model, quick=quick, turn=1)
    return {
        "devices": 20,
        "rows_per_block": list(ROWS),
        "features": len(centre),
        "floor_over_pipeline": ratio(timed["floor"], timed["pipeline"]),
        "samples_per_s": 1.0 / timed["pipeline"].unit_s,
        "pipeline": timed["pipeline"].as_dict(),
        "floor": timed["floor"].as_dict(),
        "ns_per_sample_by_devices": by_devices,
        "ns_per_sample_one_by_one": one_by_one,
    }


def _by_devices(folder: Path, model: Path, *, quick: bool, turn: int | None = None) -> dict[str, float]:
    """Nanoseconds a sample, CPU time, with the same number of samples in all. ``turn``: blocks pushed at once; None: as
    many as the daemon takes from a queue that is never empty."""
    sizes = (1, 10, 100) if quick else (1, 10, 100, 1000)
    # A turn of a thousand devices: a queue that is never empty has no small turn at its end.
    total = 200_000 if quick else 4_000_000
    runs = {}
    for n in sizes:
        core = plant.build(plant.write_config(folder, model, n))
        n_rows = total // n
        sent = plant.blocks(n, n_rows, ROWS, plant.SEED)
        runs[str(n)] = _Run(core, sent, n_rows * NS_PER_S // int(plant.RATE_HZ), turn)
    timed = take_turns(runs, 3)
    return {name: 1e9 * float(np.median(t.cpu)) for name, t in timed.items()}


def _push(core: plant.Core, blocks: list[SampleBlock], turn: int | None = None) -> None:
    """As the daemon does with a queue that is never empty; or with one that has ``turn`` blocks whenever it looks."""
    turn = turn or core.blocks_a_turn
    for i in range(0, len(blocks), turn):
        core.push(*blocks[i : i + turn])
        core.pipeline.events()


class _Run:
    """Pushes the same blocks again, later each time."""

    def __init__(self, core: plant.Core, sent: list[SampleBlock], span_ns: int, turn: int | None) -> None:
        self._core, self._sent, self._span_ns, self._turn = core, sent, span_ns, turn
        self._n = 0

    def __call__(self) -> float:
        _push(self._core, plant.later(self._sent, self._n * self._span_ns), self._turn)
        self._n += 1
        return sum(block.n_samples for block in self._sent)


def _windows(sent: list[SampleBlock]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """All windows of all devices, float32[w, n, c]."""
    streams: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]] = {}
    for block in sent:
        streams.setdefault(block.device_id, []).append(block.values)
    cut = []
    for parts in streams.values():
        signal = np.concatenate(parts)
        views = np.lib.stride_tricks.sliding_window_view(signal, plant.WINDOW.n, axis=0)[:: plant.WINDOW.hop]
        cut.append(views.transpose(0, 2, 1))
    return np.ascontiguousarray(np.concatenate(cut), dtype=np.float32)
