"""The block log in frames: bit for bit, and whatever is cut off or damaged, all that was whole before it."""

from __future__ import annotations

import functools
import io
import tempfile
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.block_frames import (
    Contents,
    ItemPacker,
    end_frames,
    frames_head,
    head_frames,
    mark_frame,
    raw_bytes,
    read_frames,
    survey,
)
from models.block_log import packed_state, unpacked_state
from models.evidence import Mark
from models.frames import FrameKind, frame, whole_frames
from models.log_sizes import log_length
from models.logs import LogError, LogItem, LogOptions, LogWarning, Tick
from models.recording import (
    Beginning,
    RecordingWriter,
    is_block_log,
    log_beginning,
    read_log,
    recorded_devices,
)
from models.signal import Channel, SampleBlock
from models.time_policy import RecordedDevice
from tests.models.test_recording import acceptances, blocks, int64, key

DEVICE = RecordedDevice(device_id="d", machine="m", channels=(Channel(name="x", unit="g"),))
MARK = Mark(
    alert_id="a",
    seq=0,
    device="d",
    kind="machine",
    state="raised",
    start_ns=1,
    end_ns=9,
    said_ns=12,
    evidence="sha256:0",
)
STATE = b"what was remembered" * 40

Frames = list[list[LogItem] | Mark]


def some(n: int, begin: int = 0) -> list[LogItem]:
    rng = np.random.default_rng(begin)
    found: list[LogItem] = []
    for i in range(begin, begin + n):
        values = rng.normal(size=(3, 2)).astype(np.float32)
        found.append(
            SampleBlock.uniform(
                "d", ("x", "y"), values, start_ns=i * 3_000, rate_hz=Fraction(10**6), arrival_ns=i * 3_001
            )
        )
        found.append(Tick(i * 3_002))
    return found


def written(
    path: Path, frames: Frames, *, number: int = 7, follows: bool = True, end: bool = True
) -> list[int]:
    """A file of ``frames``; where its head and each of them ends."""
    packer, contents = ItemPacker(), Contents()
    data = head_frames(number, follows, (DEVICE,), packed_state(STATE))
    ends = [len(data)]
    for one in frames:
        if isinstance(one, Mark):
            data += mark_frame(one)
            contents.marks.append(one)
        else:
            data += packer.pack(one)
            contents.add(one)
        ends.append(len(data))
    path.write_bytes(data + (end_frames(contents, len(data)) if end else b""))
    return ends


def read(path: Path) -> Frames:
    return list(read_frames(path, lambda text: None))


def keys(frames: Frames) -> list[object]:
    return [one if isinstance(one, Mark) else [key(item) for item in one] for one in frames]


items = st.lists(st.one_of(blocks(), st.builds(Tick, int64), acceptances), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(items, min_size=1, max_size=3))
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, frames: list[list[LogItem]]) -> None:
    path = tmp_path / "0.blocks"
    written(path, [*frames, MARK])
    assert keys(read(path)) == keys([*frames, MARK])
    assert [key(item) for item in read_log(path)] == [key(item) for one in frames for item in one]
    closed = survey(path)
    written(path, [*frames, MARK], end=False)
    cut_short = survey(path)
    assert closed is not None
    assert cut_short is not None
    assert (closed.is_closed, cut_short.is_closed) == (True, False)
    assert closed.contents == cut_short.contents
    assert closed.contents.n_items == sum(map(len, frames))
    assert closed.contents.marks == [MARK]


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "0.blocks"
    written(path, [some(3)], number=12, follows=False)
    head = frames_head(path)
    assert (head.number, head.follows) == (12, False)
    assert is_block_log(path)
    assert recorded_devices(path) == (DEVICE,)
    state = log_beginning(path).state
    assert state is not None
    assert unpacked_state(path, state) == STATE
    assert log_length(path, LogOptions()) == 6


FRAMES: Frames = [some(4), MARK, some(1, 4), some(3, 5)]


@functools.cache
def sample() -> tuple[bytes, tuple[int, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.blocks"
        ends = written(path, FRAMES)
        return path.read_bytes(), tuple(ends)


def survivors(at: int) -> int:
    """How many of FRAMES are whole where byte ``at`` is the first that is not."""
    return sum(end <= at for end in sample()[1][1:])


def check_recovered(path: Path, at: int) -> None:
    """All that was whole before byte ``at`` is read, and nothing else."""
    n = survivors(at)
    found = survey(path)
    if at < sample()[1][0]:
        # The devices may be known where only the state is damaged; of the signal nothing is read.
        assert found is None or not found.contents.n_items
        return
    assert keys(read(path)) == keys(FRAMES[:n])
    assert found is not None
    expected = Contents()
    for one in FRAMES[:n]:
        if isinstance(one, Mark):
            expected.marks.append(one)
        else:
            expected.add(one)
    assert found.contents == expected
    assert found.end == sample()[1][n] or found.is_closed


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_at_any_byte_is_whole_up_to_its_last_whole_frame(
    tmp_path: Path, data: st.DataObject
) -> None:
    whole, _ = sample()
    at = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path / "0.blocks"
    path.write_bytes(whole[:at])
    check_recovered(path, at)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_byte_that_is_wrong_costs_what_comes_after_it(tmp_path: Path, data: st.DataObject) -> None:
    """Whoever looks from the end is told what was there; what is read ends before the damage."""
    whole, ends = sample()
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(whole)
    damaged[at] ^= flip
    path = tmp_path / "0.blocks"
    path.write_bytes(damaged)
    assert keys(read(path)) == keys(FRAMES[: survivors(at)])[: len(FRAMES)] or at < ends[0]
    path.write_bytes(damaged[: ends[-1]])  # cut short as well
    if at < ends[-1]:
        check_recovered(path, at)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise_holds_no_frame(data: bytes) -> None:
    assert list(whole_frames(io.BytesIO(data).read)) == []
    held = frame(FrameKind.MARK, b"{}") + data
    assert [one.payload for one in whole_frames(io.BytesIO(held).read)][:1] == [b"{}"]


def test_what_is_no_frame_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0.blocks"
    path.write_bytes(b"something else")
    assert survey(path) is None
    with pytest.raises(LogError, match="beginning is missing or damaged"):
        recorded_devices(path)
    with pytest.raises(LogError, match="cannot be read"):
        survey(tmp_path / "none.blocks")
    written(path, [some(1)], end=False)
    with path.open("ab") as file:
        file.write(b"torn")
    with pytest.warns(LogWarning, match="ends in something unfinished"):
        assert len(list(read_log(path))) == 2


@pytest.mark.parametrize("step", [None, 16 * 9.81 / 32768])
def test_noise_and_the_counts_of_a_converter_are_both_compressed(step: float | None) -> None:
    rng = np.random.default_rng(1)
    packer = ItemPacker()
    n_raw = n_packed = 0
    for i in range(4):
        values = rng.normal(size=(30_000, 3))
        if step is not None:
            values = np.round(values / step) * step
        block = SampleBlock.uniform(
            "d", ("x", "y", "z"), values, start_ns=i, rate_hz=Fraction(1000), arrival_ns=i
        )
        n_raw += raw_bytes(block)
        n_packed += len(packer.pack([block]))
    assert n_packed / n_raw < (0.9 if step is None else 0.5)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_exported_log_says_in_the_midst_of_what_it_begins(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    beginning = Beginning(
        state=packed_state(STATE), marks=(MARK, msgspec.structs.replace(MARK, seq=1, evidence=None, at=3))
    )
    with RecordingWriter(path, (DEVICE,), beginning) as writer:
        for item in some(2):
            writer.write(item)
        if suffix == "parquet":
            assert log_beginning(path) == beginning  # of the spool
    assert log_beginning(path) == beginning
    assert recorded_devices(path) == (DEVICE,)
    assert [key(item) for item in read_log(path)] == [key(item) for item in some(2)]
    plain = tmp_path / f"plain.{suffix}"
    with RecordingWriter(plain, (DEVICE,)) as writer:
        writer.write(Tick(1))
    assert log_beginning(plain) == Beginning()
