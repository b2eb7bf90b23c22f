"""The feature log between the loop and the disk: bit for bit, whole up to any kill, within its bounds, everything counted."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.config import ConfigError, load_config
from edge_node.feature_log import FOLDER, FeatureLog
from edge_node.feature_rows import FeatureRows, as_block, column_names, of_block
from edge_node.segments import load, recover
from models.acceptance import Acceptance
from models.block_frames import ItemPacker, read_frames
from models.frames import whole_frames
from models.logs import LogItem
from models.signal import SampleBlock
from tests.brokers import wait_for
from tests.edge_node.disks import filled, small_disk
from tests.edge_node.test_backtest_features import Gateway, configured, eventful
from tests.edge_node.versions import good
from tests.fixtures.make_bundle import signal

N_CHANNELS = (1, 3, 32, 33, 70)


@st.composite
def logged(draw: st.DrawFn) -> tuple[list[FeatureRows], int]:
    """Rows of one device, of any bits, some with suspect channels."""
    n_channels = draw(st.sampled_from(N_CHANNELS))
    k = draw(st.integers(1, 5))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        m = draw(st.integers(1, 4))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        start = rng.integers(-(2**60), 2**60, m)
        raw = rng.integers(0, 2**32, (m, k), dtype=np.uint32).view(np.float32)
        suspect = rng.random((m, n_channels)) < 0.3 if draw(st.booleans()) else None
        length = rng.integers(0, 2**61, m)
        found.append(FeatureRows("d", 5, "device", start, start + length, raw, suspect))
    return found, n_channels


@given(logged())
@settings(deadline=None)
def test_rows_come_back_bit_for_bit(given: tuple[list[FeatureRows], int]) -> None:
    rows, n_channels = given
    k = rows[0].raw.shape[1]
    block = as_block(rows, n_channels, column_names(n_channels, [f"f{i}" for i in range(k)]))
    (frame,) = whole_frames(_reader(ItemPacker().pack([block])))
    (back,) = _unpacked(frame.payload)
    assert isinstance(back, SampleBlock)
    found = of_block(back, n_channels)
    assert found.device_id == "d"
    assert (found.arrival_ns, found.clock) == (5, "device")
    for name in ("start_ns", "end_ns", "raw"):
        ours = np.concatenate([getattr(r, name) for r in rows])
        assert getattr(found, name).tobytes() == ours.tobytes()
    none = np.zeros((0, n_channels), np.bool_)
    suspects = [np.zeros((r.n, n_channels), np.bool_) if r.suspect is None else r.suspect for r in rows]
    ours = np.concatenate([none, *suspects])
    theirs = np.zeros_like(ours) if found.suspect is None else found.suspect
    assert np.array_equal(ours, theirs)


def _reader(data: bytes) -> Any:
    from io import BytesIO

    return BytesIO(data).read


def _unpacked(payload: bytes) -> list[LogItem]:
    from arro3.io import read_parquet

    from models.block_parquet import items_of

    return [item for batch in read_parquet(payload) for item in items_of(Path("x"), batch)]


def rows_of(path: Path) -> list[tuple[bytes, bytes]]:
    """Start and values of each row, in order."""
    found: list[tuple[bytes, bytes]] = []
    for items in read_frames(path, lambda text: None):
        for item in items if isinstance(items, list) else ():
            if isinstance(item, SampleBlock):
                assert item.time_ns is not None
                found += [(t.tobytes(), v.tobytes()) for t, v in zip(item.time_ns, item.values, strict=True)]
            else:
                assert isinstance(item, Acceptance)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of several frames."""
    gateway = Gateway(tmp_path_factory.mktemp("whole"))
    for i in range(0, 600, 100):
        n = _recorded(gateway)
        gateway.run(signal(2000, seed=5)[i : i + 100])
        wait_for(lambda: _recorded(gateway) > n or not i, "the rows on disk")  # noqa: B023 (called at once)
    gateway.close()
    (path,) = [s.path for s in load(gateway.folder / FOLDER)]
    return path


def _recorded(gateway: Gateway) -> int:
    assert gateway.log.done is not None
    return gateway.log.done.n_recorded


@given(st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=60)
def test_a_file_cut_at_any_byte_is_a_beginning_of_it(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    data, all_rows = whole.read_bytes(), rows_of(whole)
    folder = tmp_path_factory.mktemp("cut")
    path = folder / whole.name
    path.write_bytes(data[: int(share * len(data))])
    found = rows_of(path)
    assert found == all_rows[: len(found)]
    kept, _ = recover(folder)  # what the next process does with it
    assert [rows_of(s.path) for s in kept] == ([found] if found else [])
    assert all(s.is_closed for s in kept)


def test_it_keeps_within_its_bytes_and_days(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.close()
    few = dataclasses.replace(gateway.config, feature_log=_options(gateway, max_bytes=20_000, days=1.0))
    gateway.log = FeatureLog(tmp_path, few, gateway.core, now_s=lambda: float(gateway.n), file_s=300.0)
    for i in range(12):
        n = _recorded(gateway)
        gateway.run(signal(4000, seed=i)[:400])
        wait_for(lambda: _recorded(gateway) > n, "rows on disk")  # noqa: B023
    assert gateway.log.done is not None
    assert gateway.log.done.removed["bytes"] > 0  # type: ignore[index]
    gateway.log.close()
    n_bytes = sum(p.stat().st_size for p in (tmp_path / FOLDER).iterdir())
    assert 5_000 < n_bytes <= 20_000
    short = dataclasses.replace(gateway.config, feature_log=_options(gateway, days=0.01))  # 864 s
    gateway.log = FeatureLog(tmp_path, short, gateway.core, now_s=lambda: float(gateway.n), file_s=300.0)
    for i in range(6):
        n = _recorded(gateway)
        gateway.run(signal(4000, seed=i)[:400])
        wait_for(lambda: _recorded(gateway) > n, "rows on disk")  # noqa: B023
    assert gateway.log.done.removed["hours"] > 0  # type: ignore[index]
    gateway.log.close()
    files = load(tmp_path / FOLDER)
    spans = [(s.contents.first_arrival_ns or 0, s.contents.last_arrival_ns or 0) for s in files]
    assert spans[-1][1] - spans[0][0] < 2000e9


def _options(gateway: Gateway, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(gateway.config.feature_log, **changes)


def test_a_full_disk_stops_it_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path, "1m") as disk:
        gateway = Gateway(tmp_path)
        gateway.close()
        core = gateway.core
        gateway.log = FeatureLog(disk, gateway.config, core, now_s=lambda: float(gateway.n), retry_s=0.1)
        gateway.run(signal(4000, seed=1)[:400])
        wait_for(lambda: _recorded(gateway) > 0, "rows on the disk")
        filler = filled(disk)
        scored = core.pipeline.counters().n_windows_scored

        def fails() -> bool:
            gateway.run(signal(4000, seed=2)[:400])
            if not (disk / "more").exists():
                filled(disk).rename(disk / "more")
            return gateway.log.error is not None

        wait_for(fails, "a failure")
        assert str(disk) in (gateway.log.error or "")
        gateway.run(signal(4000, seed=3)[:400])
        done = gateway.log.done
        assert done is not None
        assert gateway.log.dropped(done)["disk_full"] > 0  # type: ignore[index]
        assert core.pipeline.counters().n_windows_scored > scored
        filler.unlink(missing_ok=True)
        (disk / "more").unlink(missing_ok=True)
        n = _recorded(gateway)

        def again() -> bool:
            gateway.run(signal(4000, seed=4)[:100])
            return _recorded(gateway) > n and gateway.log.error is None

        wait_for(again, "rows on the disk again")
        done = gateway.log.done
        gateway.log.close()


def test_every_value_is_accounted_for(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    closed: list[int] = []
    for i in range(0, 3000, 500):
        gateway.run(eventful(3000)[i : i + 500])
        done = gateway.log.done
        assert done is not None
        closed.append(done.n_recorded + done.n_queued + sum(gateway.log.dropped(done).values()))
    width = len(gateway.log._columns["pump-1"][1])
    assert closed[-1] == width * gateway.core.pipeline.counters().n_windows_scored
    gateway.close()
    assert width * gateway.core.pipeline.counters().n_windows_scored == sum(
        s.contents.n_samples for s in load(tmp_path / FOLDER)
    )


def test_switched_off_it_writes_nothing(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.close()
    before = sorted(os.listdir(tmp_path / FOLDER))
    off = dataclasses.replace(gateway.config, feature_log=_options(gateway, enabled=False))
    gateway.log = FeatureLog(tmp_path, off, gateway.core)
    gateway.run(signal(4000, seed=1)[:400])
    assert gateway.log.done is None
    gateway.log.close()
    assert sorted(os.listdir(tmp_path / FOLDER)) == before


def test_what_its_table_says_is_checked(tmp_path: Path) -> None:
    configured(tmp_path, good(1))
    path = tmp_path / "gateway.toml"
    text = path.read_text()
    path.write_text(text.replace("[feature_log]\n", "[feature_log]\ndays = 0\nmax_byte = 5\n"))
    with pytest.raises(ConfigError) as found:
        load_config(path)
    assert "days" in str(found.value)
    assert 'did you mean "max_bytes"' in str(found.value)
