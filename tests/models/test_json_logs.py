"""JSON lines of other programs: rows and batches."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from models.logs import LogError, LogOptions, LogWarning
from models.recording import inspect_log, read_log
from models.signal import NS_PER_S, Mode, SampleBlock
from tests.models.log_text import T0, Write, rows, write

__all__ = ["write"]  # a fixture


# JSON lines


def test_json_rows(write: Write) -> None:
    text = (
        '{"time":"2020-03-01T15:44:06Z","x":1,"y":"2"}\n\n{"time":"2020-03-01T15:44:07Z","x":3.0,"y":4,"new":1}\n'
        '{"time":"2020-03-01T15:44:08Z","y":null}\n'
    )
    path = write(text, "log.jsonl")
    blocks = [b for b in read_log(path, LogOptions(channels=("x", "y"))) if isinstance(b, SampleBlock)]
    assert np.array_equal(
        blocks[0].values, np.array([[1, 2], [3, 4], [np.nan, np.nan]], dtype=np.float32), equal_nan=True
    )
    assert inspect_log(path).channels == ("x", "y", "new")


def test_json_batches_with_a_start_and_a_rate(write: Write) -> None:
    lines = [
        f'{{"t":{T0 * NS_PER_S + i * NS_PER_S},"rate_hz":4,"device":"a","x":[1,2,3,{i}],"y":[5,null,7,8]}}'
        for i in range(3)
    ]
    path = write("\n".join(lines) + "\n", "log.jsonl")
    blocks = [b for b in read_log(path) if isinstance(b, SampleBlock)]
    assert [(b.device_id, b.channels, b.start_ns, b.rate_hz) for b in blocks] == [
        ("a", ("x", "y"), (T0 + i) * NS_PER_S, Fraction(4)) for i in range(3)
    ]
    assert blocks[2].arrival_ns == (T0 + 2) * NS_PER_S + 3 * NS_PER_S // 4
    assert np.array_equal(
        blocks[1].values, np.array([[1, 5], [2, np.nan], [3, 7], [1, 8]], dtype=np.float32), equal_nan=True
    )
    info = inspect_log(path)
    assert (info.mode, info.rate_hz, info.channels) == (Mode.CONTINUOUS, Fraction(4), ("x", "y"))


def test_json_batches_with_a_period_or_with_times(write: Write) -> None:
    path = write(f'{{"t":{T0},"period_ms":250,"x":[1,2]}}\n', "log.jsonl")
    (block,) = read_log(path)
    assert isinstance(block, SampleBlock)
    assert block.rate_hz == 4
    path = write(f'{{"t":[{T0},{T0 + 3}],"x":[1,2]}}\n', "other.jsonl")
    (block,) = read_log(path)
    assert isinstance(block, SampleBlock)
    assert block.times().tolist() == [T0 * NS_PER_S, (T0 + 3) * NS_PER_S]


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("{", "line 2: no JSON object"),
        ("[1,2]", "line 2: no JSON object"),
        (f'{{"t":{T0},"x":"fast"}}', "line 2, column 'x': 'fast' is not a number"),
        (f'{{"t":{T0},"x":"6_0"}}', "line 2, column 'x': '6_0' is not a number"),
        (f'{{"t":{T0},"x":[1]}}', "line 2, column 'x'"),
        ('{"x":1}', "line 2, column 't': the time is missing"),
        ('{"t":"noon","x":1}', "line 2, column 't'"),
        ("\xff\xfe", "line 2: no JSON object"),
    ],
)
def test_a_bad_json_row_is_named_or_left_out(write: Write, line: str, want: str) -> None:
    good = f'{{"t":{T0},"x":1}}\n'
    path = write((good + line + "\n" + good).encode("latin-1"), "log.jsonl")
    with pytest.raises(LogError, match=want):
        list(read_log(path))
    warned: list[str] = []
    blocks = list(read_log(path, LogOptions(bad_lines="skip"), warn=warned.append))
    assert sum(b.n for b in blocks if isinstance(b, SampleBlock)) in (2, 3)
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("line", "want"),
    [
        (f'{{"t":{T0},"rate_hz":4,"x":[1,2],"y":[1]}}', "'y' is not a list as long as the others"),
        (f'{{"t":{T0},"x":[1,2],"y":[1,2]}}', "needs a rate"),
        (f'{{"t":{T0},"rate_hz":0,"x":[1],"y":[1]}}', "rate must be positive"),
        ('{"rate_hz":4,"x":[1],"y":[1]}', "the time is missing"),
        (f'{{"t":{T0},"rate_hz":4}}', "none of the channels"),
        (f'{{"t":{T0},"rate_hz":4,"x":["a"],"y":[1]}}', "could not convert"),
        (f'{{"t":{T0},"rate_hz":4,"x":["6_0"],"y":[1]}}', "'6_0' is not a number"),
        (f'{{"t":{T0},"rate_hz":4,"x":[[1]],"y":[1]}}', "'x' is not a list"),
    ],
)
def test_a_bad_json_batch_is_named_or_left_out(write: Write, line: str, want: str) -> None:
    good = f'{{"t":{T0},"rate_hz":4,"x":[1,2],"y":[3,4]}}\n'
    path = write(good + line + "\n" + good, "log.jsonl")
    with pytest.raises(LogError, match=f"line 2: .*{want}"):
        list(read_log(path))
    with pytest.warns(LogWarning, match="1 unreadable lines left out"):
        assert len(list(read_log(path, LogOptions(bad_lines="skip")))) == 2


def test_a_json_log_cut_short(write: Write) -> None:
    path = write(f'{{"t":{T0},"x":1}}\n{{"t":{T0 + 1},"x"', "log.jsonl")
    with pytest.warns(LogWarning, match="line 2: the last line is cut short"):
        assert rows(path, LogOptions()) == ([T0], [[1.0]])
