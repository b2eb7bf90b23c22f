"""Labels from files of intervals, NAB's windows and columns of the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.labels import label_columns, merge, read_labels
from models.logs import LogError, LogOptions
from models.recording import RecordingWriter, read_log
from models.signal import NS_PER_S, SampleBlock
from tests.data import data_path

UTC = LogOptions(timezone="UTC")
pairs = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8)


@given(intervals=pairs, queries=st.lists(st.tuples(st.integers(-2, 52), st.integers(1, 9)), min_size=1))
def test_intervals_against_a_list_of_moments(
    intervals: list[tuple[int, int]], queries: list[tuple[int, int]]
) -> None:
    labels = merge(np.array(intervals, dtype=np.int64).reshape(-1, 2))
    moments = {t for start, end in intervals for t in range(start, end)}
    starts = np.array([start for start, _ in queries])
    ends = starts + [length for _, length in queries]
    assert labels.at(starts).tolist() == [int(t) in moments for t in starts]
    want = [any(t in moments for t in range(a, b)) for a, b in zip(starts, ends, strict=True)]
    assert labels.overlap(starts, ends).tolist() == want
    gaps = labels.intervals[1:, 0] - labels.intervals[:-1, 1]
    assert (gaps > 0).all()  # disjoint, sorted, and what touches is one


@pytest.mark.parametrize(
    "text",
    [
        "start,end\n2020-03-01 15:00:00,2020-03-01 16:00:00\n2020-03-02,\n",
        "what;end;start\nrub;2020-03-01 16:00;2020-03-01 15:00\nwear;;2020-03-02 00:00\n",
        "2020-03-01T15:00:00Z,2020-03-01T16:00:00Z\n2020-03-02T00:00:00Z,\n",
        "# made by hand\nstart,end\n\n1583074800,1583078400\n1583107200,\n",
        "from,to\n01.03.2020 15:00:00,01.03.2020 16:00:00\n02.03.2020,\n",
    ],
)
def test_interval_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    labels = read_labels(path, timezone="UTC")
    open_end = np.iinfo(np.int64).max
    assert labels.intervals.tolist() == [
        [1583074800 * NS_PER_S, 1583078400 * NS_PER_S],
        [1583107200 * NS_PER_S, open_end],
    ]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("start,end\n2020-03-01,2020-03-02\n2020-03-05,2020-03-04\n", "line 3: ends .* before it starts"),
        (
            "start,end\n2020-03-01,2020-03-02\nlater,2020-03-04\n",
            "line 3, column 'start': 'later' is not a time",
        ),
        ("start,end\n2020-03-01,2020-03-02\n2020-03-05\n", "line 3: has 1 fields"),
        ("start\n2020-03-01\n", "give start and end"),
        (
            "alpha,beta\n2020-03-01,2020-03-02\n",
            "has the columns alpha, beta: name two of them start and end",
        ),
        ("start,length\n2020-03-01,2020-03-02\n", "has the columns start, length"),
    ],
)
def test_what_is_wrong_in_an_interval_file_is_named(tmp_path: Path, text: str, want: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(LogError, match=want):
        read_labels(path, timezone="UTC")


def test_labels_by_log_are_those_of_all_logs(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(
        '{"day/1.csv": [[100, 200]], "day/2.csv": [[400, 500], [150, 250]], "day/3.csv": [], "night/1.csv": [[0, 9]]}'
    )

    def seconds(*logs: Path | str) -> list[list[int]]:
        return (read_labels(path, logs=logs).intervals // NS_PER_S).tolist()

    assert seconds("/data/day/1.csv") == [[100, 200]]
    assert seconds("/data/day/1.csv", Path("/data/day/2.csv"), "3.csv") == [[100, 250], [400, 500]]
    assert seconds("day/3.csv") == []
    with pytest.raises(LogError, match=r"no labels of one log '/data/day/4\.csv'.*it has none like it"):
        seconds("/data/day/1.csv", "/data/day/4.csv")
    with pytest.raises(LogError, match=r"no labels of one log '1\.csv'.*it has day/1\.csv, night/1\.csv"):
        seconds("day/2.csv", "1.csv")
    path.write_text('{"day/1.csv": [[100, 200]], "day/2.csv": 5}')
    with pytest.raises(LogError, match=r"is no list of \[start, end\]"):
        seconds("day/1.csv", "day/2.csv")


def test_naive_intervals_need_a_zone(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("start,end\n2020-03-01,2020-03-02\n")
    with pytest.raises(LogError, match="no UTC offset"):
        read_labels(path)


def test_label_columns_hold_until_the_next_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("t,x,anomaly,changepoint\n" + "".join(
        f"{1583077446 + 2 * i},{i},{int(i in (2, 3, 7, 9))},{int(i == 2)}\n" for i in range(10)
    ))  # fmt: skip
    labels = label_columns(path, LogOptions())
    assert labels is not None
    seconds = (labels.intervals / NS_PER_S - 1583077446).tolist()
    assert seconds == [[4, 8], [14, 16], [18, 20]]
    assert (labels.changepoints / NS_PER_S - 1583077446).tolist() == [4]
    (block,) = read_log(path)
    assert isinstance(block, SampleBlock)
    assert block.channels == ("x",)


def test_no_label_columns_are_none(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("t,x\n1583077446,1\n")
    assert label_columns(path) is None
    with RecordingWriter(tmp_path / "log.jsonl") as log:
        for item in read_log(path):
            log.write(item)
    assert label_columns(tmp_path / "log.jsonl") is None


def test_a_label_column_of_another_name(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("t,x,broken\n1583077446,1,0\n1583077447,1,1\n1583077448,1,0\n")
    labels = label_columns(path, LogOptions(label_columns=("broken",)))
    assert labels is not None
    assert labels.intervals.tolist() == [[1583077447 * NS_PER_S, 1583077448 * NS_PER_S]]


def test_the_columns_of_every_skab_recording_come_back_row_by_row() -> None:
    paths = sorted(data_path("skab", "data").glob("[ov]*/*.csv"))
    assert len(paths) == 17
    for path in paths:
        labels = label_columns(path, UTC)
        assert labels is not None
        cells = [line.split(";") for line in path.read_text().splitlines()[1:]]
        times = np.concatenate([b.times() for b in read_log(path, UTC) if isinstance(b, SampleBlock)])
        assert labels.at(times).tolist() == [float(row[-2]) != 0 for row in cells], path
        assert np.isin(times, labels.changepoints).tolist() == [float(row[-1]) != 0 for row in cells], path


def test_nab_windows_by_file() -> None:
    path = data_path("nab", "labels", "combined_windows.json")
    log = data_path("nab", "data", "realKnownCause", "nyc_taxi.csv")
    labels = read_labels(path, logs=[log], timezone="UTC")
    assert len(labels.intervals) == 5
    assert str(labels.intervals[0, 0].astype("datetime64[ns]")) == "2014-10-30T15:30:00.000000000"
    same = read_labels(path, logs=["nyc_taxi.csv"], timezone="UTC")
    assert np.array_equal(labels.intervals, same.intervals)
    none = read_labels(path, logs=["artificialNoAnomaly/art_noisy.csv"], timezone="UTC")
    assert none.intervals.shape == (0, 2)
    assert not none.at(np.array([0])).any()
    with pytest.raises(LogError, match=r"no labels of one log 'taxi\.csv'"):
        read_labels(path, logs=["taxi.csv"], timezone="UTC")
    with pytest.raises(LogError, match="say of which"):
        read_labels(path, timezone="UTC")
