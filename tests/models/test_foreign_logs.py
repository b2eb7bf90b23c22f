"""Logs of other programs: CSV, JSON lines and Parquet as machines, loggers and spreadsheets write them."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import text_files
from models.logs import LogError, LogOptions, LogWarning
from models.recording import RecordingWriter, inspect_log, read_log
from models.signal import NS_PER_S, Mode, SampleBlock
from tests.data import data_path

UTC = LogOptions(timezone="UTC")
FIXTURES = Path(__file__).parent / "fixtures"  # written by pandas 2 and pyarrow: see their names
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(text: str | bytes, name: str = "log.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_text


def rows(path: Path, options: LogOptions = UTC) -> tuple[list[int], list[list[float]]]:
    """All rows of a log: times in whole seconds, values."""
    blocks = [item for item in read_log(path, options) if isinstance(item, SampleBlock)]
    times = [int(t) // NS_PER_S for block in blocks for t in block.times()]
    return times, [row for block in blocks for row in block.values.tolist()]


T0 = 1583077446  # 2020-03-01 15:44:06 UTC
CSV = "time,x,y\n2020-03-01 15:44:06,1,2\n2020-03-01 15:44:07,3,4\n"
WANT = ([T0, T0 + 1], [[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    "text",
    [
        CSV,
        CSV.replace("\n", "\r\n"),
        "\ufeff" + CSV,
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace(",", "|"),
        CSV.rstrip("\n"),
        CSV.replace("\n2", "\n\n2"),
        "# made by a logger\n" + CSV.replace("3,4", "3,4\n# a remark, with commas"),
        CSV.replace(",1,2", ', 1 ,"2"'),
        CSV.replace("x,y", '"x","y"').replace(",1,", ',"1",'),
        CSV.replace("2020-03-01 15:44:06", "2020-03-01T15:44:06Z").replace(":07", ":07+00:00"),
        CSV.replace("2020-03-01 ", "01.03.2020 "),
        CSV.replace("2020-03-01 ", "2020/03/01 "),
        CSV.replace("time,x,y", "time,x,y\n,bar,°C"),
        CSV.replace("time,x,y\n", ""),
        "time,x,y\n1583077446,1,2\n1583077447,3,4\n",
        "time,x,y\n1583077446.000,1e0,+2.\n1583077447.000,.3e1,4\n",
        "time_ms,x,y\n1583077446000,1,2\n1583077447000,3,4\n",
        "ts,x,y\n1583077446000000,1,2\n1583077447000000,3,4\n",
        "t,x,y\n1583077446000000000,1,2\n1583077447000000000,3,4\n",
        "date,time,x,y\n2020-03-01,15:44:06,1,2\n2020-03-01,15:44:07,3,4\n",
        "Datum Zeit;x;y\n01.03.2020 15:44:06;1,0;2,0\n01.03.2020 15:44:07;3,0;4,0\n",
        ",x,y\n2020-03-01 15:44:06,1,2\n2020-03-01 15:44:07,3,4\n",
        CSV.replace("x,y", "x,y,").replace("2\n", "2,\n").replace("4\n", "4,\n"),
    ],
)
@pytest.mark.filterwarnings("ignore::models.logs.LogWarning")
def test_the_same_rows_however_they_are_written(write: Write, text: str) -> None:
    assert rows(write(text)) == WANT


def test_channels_keep_their_names_and_labels_are_none(write: Write) -> None:
    text = "datetime;Volume Flow RateRMS;Temp °C;anomaly;changepoint\n2020-03-01 15:44:06;1;2;0.0;1.0\n"
    info = inspect_log(write(text.encode("cp1252")), UTC)
    assert info.channels == ("Volume Flow RateRMS", "Temp °C")
    assert info.label_columns == ("anomaly", "changepoint")
    assert info.time_column == "datetime"


@pytest.mark.parametrize("word", ["", "NaN", "nan", "NA", "null", "-", " ", "#N/A", "None"])
def test_a_missing_value_is_nan(write: Write, word: str) -> None:
    path = write(CSV.replace(",3,", f",{word},"))
    _, values = rows(path)
    assert np.isnan(values[1][0])
    assert values[1][1] == 4.0
    assert values[0] == [1.0, 2.0]


REFUSED = {
    "naive": (CSV, LogOptions(), "line 2, column 'time'.*no UTC offset.*--timezone"),
    "zone": (CSV, LogOptions(timezone="Europe/Berln"), "did you mean Europe/Berlin"),
    "word": (CSV.replace(",3,", ",three,"), UTC, "line 3, column 'x': 'three' is not a number"),
    "word after remarks": (
        "# a\n\n"
        + CSV.replace("\n2020-03-01 15:44:07", "\n# b\n\n2020-03-01 15:44:07").replace("4\n", "four\n"),
        UTC,
        "line 7, column 'y': 'four'",
    ),
    "few": (CSV.replace(",3,4", ",3"), UTC, "line 3: has 2 fields, expected 3"),
    "many": (CSV.replace(",3,4", ",3,4,5"), UTC, "line 3: has 4 fields, expected 3"),
    "time": (
        CSV.replace("2020-03-01 15:44:07", "yesterday"),
        UTC,
        "line 3, column 'time': 'yesterday' is not a time",
    ),
    "no time": (CSV.replace("2020-03-01 15:44:07", ""), UTC, "line 3, column 'time': the time is missing"),
    "mixed": (CSV.replace(":07", ":07Z"), UTC, "with and without a UTC offset"),
    "slashes": (CSV.replace("2020-03-01", "01/03/2020"), UTC, "month first or day first.*--time-format"),
    "no time column": ("x,y\n1,2\n3,4\n", UTC, "no column of times.*--time-column.*--rate-hz"),
    "time column": (CSV, LogOptions(time_column="when"), "no time column 'when': its columns are time, x, y"),
    "channel": (CSV, LogOptions(channels=("z",)), "no channel 'z'"),
    "text channel": ("time,x\n1583077446,on/off\n", LogOptions(channels=("x",)), "column 'x': 'on/off'"),
    "no channels": ("time;x\n2020-03-01 15:44:06;a\n", UTC, "no numeric column"),
    "empty": ("", UTC, "is empty"),
    "remarks only": ("# nothing\n", UTC, "no lines but comments"),
    "header only": ("time,x\n", UTC, ""),
    "utf-16": (CSV.encode("utf-16"), UTC, "UTF-16.*UTF-8"),
    "twice": (CSV.replace("x,y", "x,x"), UTC, "column 'x': the name occurs twice"),
    "rate": (
        "time,x\n" + "".join(f"{T0 + i},1\n" for i in range(200)),
        LogOptions(rate_hz=Fraction(1000)),
        "rows are 1 s apart, not 0.001 s.*--rate-hz",
    ),
}


@pytest.mark.parametrize("case", [name for name, what in REFUSED.items() if what[2]])
def test_what_cannot_be_read_is_named_with_a_remedy(write: Write, case: str) -> None:
    text, options, want = REFUSED[case]
    path = write(text)
    with pytest.raises(LogError, match=want) as caught:
        list(read_log(path, options))
    assert str(caught.value).startswith(str(path))


def test_a_header_alone_has_no_rows(write: Write) -> None:
    assert list(read_log(write("time,x\n"), LogOptions(timezone="UTC", channels=("x",)))) == []


def test_bad_lines_can_be_left_out_and_are_counted(write: Write) -> None:
    text = CSV + "2020-03-01 15:44:08,oops,1\n2020-03-01 15:44:09,5\n2020-03-01 15:44:10,5,6\nnever,5,6\n"
    warned: list[str] = []
    options = LogOptions(timezone="UTC", bad_lines="skip")
    blocks = [b for b in read_log(write(text), options, warn=warned.append) if isinstance(b, SampleBlock)]
    assert np.concatenate([b.values for b in blocks]).tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert len(warned) == 2
    assert "2 unreadable lines left out" in warned[0]
    assert "line 4, column 'x': 'oops'" in warned[0]
    assert "1 rows without a readable time" in warned[1]


def test_a_last_line_cut_short_is_left_out(write: Write) -> None:
    with pytest.warns(LogWarning, match="line 4: the last line is cut short"):
        assert rows(write(CSV + "2020-03-01 15:44:08,5")) == WANT


def test_what_is_no_number_is_left_out_and_said(write: Write) -> None:
    with pytest.warns(LogWarning, match="not columns of numbers: state"):
        assert rows(write("time,state,x\n1583077446,running,1\n")) == ([T0], [[1.0]])


def test_a_compressed_log(write: Write) -> None:
    assert rows(write(gzip.compress(CSV.encode()), "log.csv.gz")) == WANT
    broken = write(gzip.compress(CSV.encode())[:-12], "broken.csv.gz")
    with pytest.raises(LogError, match="cannot be read to its end"):
        rows(broken)


def test_devices_of_a_column(write: Write) -> None:
    text = "time,device,x\n1583077446,a,1\n1583077446,b,2\n1583077447,a,3\n"
    blocks = [b for b in read_log(write(text), LogOptions()) if isinstance(b, SampleBlock)]
    assert [(b.device_id, b.channels, b.values.ravel().tolist()) for b in blocks] == [
        ("a", ("x",), [1.0, 3.0]),
        ("b", ("x",), [2.0]),
    ]


def test_an_origin_is_subtracted_before_the_cast(write: Write) -> None:
    path = write("time,p\n1583077446,101325.001\n")
    _, values = rows(path, LogOptions(origins={"p": 101325.0}))
    assert values == [[pytest.approx(0.001, rel=1e-4)]]


def test_no_times_but_a_rate(write: Write) -> None:
    text = "x\n" + "".join(f"{i}\n" for i in range(10))
    options = LogOptions(rate_hz=Fraction(3), start_ns=T0 * NS_PER_S, block_rows=4)
    blocks = [b for b in read_log(write(text), options) if isinstance(b, SampleBlock)]
    assert [b.n for b in blocks] == [4, 4, 2]
    assert blocks[1].start_ns == T0 * NS_PER_S + 4 * NS_PER_S // 3
    assert all(b.rate_hz == 3 for b in blocks)


def _waveform(times_us: list[int]) -> str:
    return "time_us,x\n" + "".join(f"{T0 * 10**6 + t},{i}\n" for i, t in enumerate(times_us))


def test_a_rate_makes_uniform_blocks_that_are_cut_where_a_row_is_missing(write: Write) -> None:
    # ..........   ..........      one row missing after ten, a silence after twenty
    times = [1000 * i for i in range(31) if i != 10] + [90_000 + 1000 * i for i in range(5)]
    blocks = [
        b
        for b in read_log(write(_waveform(times)), LogOptions(rate_hz=Fraction(1000)))
        if isinstance(b, SampleBlock)
    ]
    starts = [(b.n, (b.start_ns or 0) - T0 * NS_PER_S) for b in blocks]
    assert starts == [(10, 0), (20, 11_000_000), (5, 90_000_000)]


def test_times_that_jitter_or_are_coarse_do_not_cut(write: Write) -> None:
    rng = np.random.default_rng(3)
    jittered = (1000 * np.arange(500) + rng.integers(0, 240, 500)).tolist()
    options = LogOptions(rate_hz=Fraction(1000))
    assert len(list(read_log(write(_waveform(jittered)), options))) == 1
    # 4 kHz in whole milliseconds
    coarse = [250 * i // 1000 * 1000 for i in range(4000)]
    path = write(_waveform(coarse))
    assert len(list(read_log(path, LogOptions(rate_hz=Fraction(4000))))) == 1
    info = inspect_log(path)
    assert (info.mode, info.rate_hz) == (Mode.CONTINUOUS, Fraction(4000))


def test_arrivals_follow_time_and_a_wild_time_does_not_carry_them_off(write: Write) -> None:
    lines = [f"{T0 + i},{i}\n" for i in range(100)]
    lines[50] = "4070908800,50\n"  # the year 2099
    blocks = [
        b for b in read_log(write("t,x\n" + "".join(lines)), LogOptions()) if isinstance(b, SampleBlock)
    ]
    assert max(b.arrival_ns for b in blocks) == (T0 + 99) * NS_PER_S
    assert sum(b.n for b in blocks) == 100


def test_silences_lie_between_blocks_and_blocks_are_short(write: Write) -> None:
    # a reading every 5 min for two weeks: a block of it all would seem older than it is when it arrives
    text = "t,x\n" + "".join(f"{T0 + 300 * i},{i}\n" for i in range(4032))
    blocks = [b for b in read_log(write(text), LogOptions()) if isinstance(b, SampleBlock)]
    assert max(int(np.ptp(b.times())) for b in blocks) <= 3600 * NS_PER_S
    text = "t,x\n" + "".join(f"{T0 + i + (7200 if i >= 50 else 0)},{i}\n" for i in range(100))
    blocks = [b for b in read_log(write(text), LogOptions(block_span_s=1e6)) if isinstance(b, SampleBlock)]
    assert [b.n for b in blocks] == [50, 50]


numbers = st.floats(width=32, allow_nan=True, allow_infinity=False)


@given(
    values=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=60),
    piece=st.integers(20, 400),
    separator=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    end=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_gives_back_float32_wherever_it_is_cut(
    tmp_path: Path,
    values: list[tuple[float, float]],
    piece: int,
    separator: str,
    decimal: str,
    end: str,
) -> None:
    if separator == ",":
        decimal = "."

    def text(number: float) -> str:
        return "" if np.isnan(number) else repr(number).replace(".", decimal)

    lines = [f"{T0 + i}{separator}{text(x)}{separator}{text(y)}" for i, (x, y) in enumerate(values)]
    path = tmp_path / "log.csv"
    path.write_text(end.join([separator.join("txy"), *lines, ""]), newline="")
    options = LogOptions(separator=separator, decimal="," if decimal == "," else ".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "PIECE", piece)
        patch.setattr("models.text_files.text_lines.__defaults__", (piece,))
        blocks = [b for b in read_log(path, options) if isinstance(b, SampleBlock)]
    got = np.concatenate([b.values for b in blocks])
    assert np.array_equal(got, np.array(values, dtype=np.float32), equal_nan=True)
    assert np.concatenate([b.times() for b in blocks]).tolist() == [
        (T0 + i) * NS_PER_S for i in range(len(values))
    ]


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """Peaks of Python's own memory (Arrow's lives for one piece at a time too) over a log and one eight
    times as long."""
    peaks = []
    for times in (4, 32):
        path = tmp_path / f"{times}.csv"
        with path.open("w") as file:
            file.write("t,x,y\n")
            for part in range(times):
                file.writelines(f"{T0 + part * 50_000 + i},0.123456,7.891011\n" for i in range(50_000))
        tracemalloc.start()
        n = sum(b.n for b in read_log(path, LogOptions()) if isinstance(b, SampleBlock))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert n == times * 50_000
    assert peaks[1] < 1.25 * peaks[0]


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


# Parquet, written by pandas and pyarrow


@pytest.mark.parametrize(
    ("name", "options", "first_s", "channels"),
    [
        ("pandas_tz_index", LogOptions(), 1709247600, ("x", "y")),  # midnight in Berlin
        ("pandas_naive", UTC, 1709251200, ("x", "y")),
        ("pyarrow_ms", LogOptions(), 1709251200, ("x",)),
    ],
)
@pytest.mark.filterwarnings("ignore::models.logs.LogWarning")
def test_parquet_tables(name: str, options: LogOptions, first_s: int, channels: tuple[str, ...]) -> None:
    path = FIXTURES / f"{name}.parquet"
    info = inspect_log(path, options)
    assert (info.format, info.channels, info.rate_hz) == ("parquet", channels, Fraction(1))
    times, values = rows(path, options)
    assert times == list(range(first_s, first_s + 50))
    assert np.allclose([row[0] for row in values], np.linspace(0, 1, 50))
    if "y" in channels:
        missing = [i for i, row in enumerate(values) if np.isnan(row[1])]
        assert missing == [7]


def test_parquet_with_integer_times_and_a_dictionary_of_devices() -> None:
    blocks = [b for b in read_log(FIXTURES / "pyarrow_int_ns.parquet") if isinstance(b, SampleBlock)]
    assert {b.device_id: b.n for b in blocks} == {"a": 25, "b": 25}
    assert blocks[0].channels == ("x", "on")
    assert int(blocks[1].times()[0]) == 1709251201 * NS_PER_S


def test_parquet_times_without_a_zone_are_refused() -> None:
    with pytest.raises(LogError, match=r"column 'time'.*no UTC offset"):
        list(read_log(FIXTURES / "pandas_naive.parquet"))


def test_what_is_no_parquet_is_named(write: Write) -> None:
    path = write("x,y\n", "log.parquet")
    with pytest.raises(LogError, match="not readable as Parquet"):
        list(read_log(path))
    whole = (FIXTURES / "pyarrow_ms.parquet").read_bytes()
    for hurt in (whole[:-30], whole[:4] + b"PAR1", whole[:-200] + bytes(196) + b"PAR1"):
        with pytest.raises(LogError, match="not readable as Parquet"):
            list(read_log(write(hurt, "log.parquet")))


@pytest.mark.parametrize(
    "source",
    ["text.csv", "rows.jsonl", "batches.jsonl", "block.jsonl", "block.parquet", "pyarrow_ms.parquet"],
)
def test_a_damaged_log_is_an_error_or_other_rows_but_never_a_crash(tmp_path: Path, source: str) -> None:
    """Bytes changed, cut out and put in at random."""
    if source.startswith("block"):
        with RecordingWriter(tmp_path / source) as log:
            for item in read_log(FIXTURES / "pyarrow_ms.parquet", LogOptions(block_rows=10)):
                log.write(item)
        whole = (tmp_path / source).read_bytes()
    elif source == "pyarrow_ms.parquet":
        whole = (FIXTURES / source).read_bytes()
    else:
        line = {
            "text.csv": "2020-03-01 15:44:06;1.5;2\r\n",
            "rows.jsonl": f'{{"t":{T0},"x":1.5,"y":"2"}}\n',
            "batches.jsonl": f'{{"t":{T0},"rate_hz":4,"x":[1,2],"y":[3,4]}}\n',
        }[source]
        whole = line.encode() * 50
    rng = np.random.default_rng(7)
    n_errors = 0
    for i in range(8 if source.endswith("parquet") else 150):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(len(data)))
            match int(rng.integers(3)):
                case 0:
                    data[at] = int(rng.integers(256))
                case 1:
                    del data[at : at + int(rng.integers(1, 30))]
                case _:
                    data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        path = tmp_path / f"{i}-{source}"
        path.write_bytes(data)
        try:
            list(read_log(path, UTC, warn=lambda text: None))
        except LogError:
            n_errors += 1
    assert n_errors > 0


def test_a_page_that_makes_arrow_abort_is_only_an_error(write: Write) -> None:
    """Found by changing bytes at random: read in this process, it would end it."""
    data = bytearray((FIXTURES / "pyarrow_ms.parquet").read_bytes())
    data[256] = 119
    with pytest.raises(LogError, match="damaged"):
        list(read_log(write(bytes(data), "log.parquet")))


# Real recordings


def test_skab_needs_nothing_but_its_zone() -> None:
    path = data_path("skab", "data", "valve1", "0.csv")
    with pytest.raises(LogError, match="no UTC offset"):
        list(read_log(path))
    info = inspect_log(path, UTC)
    assert (info.n_rows, info.mode, info.rate_hz) == (1147, Mode.IRREGULAR, Fraction(1))
    assert info.label_columns == ("anomaly", "changepoint")
    assert len(info.channels) == 8
    times, values = rows(path)
    lines = [line.split(";") for line in path.read_text().splitlines()[1:]]
    assert values == [[float(np.float32(cell)) for cell in line[1:9]] for line in lines]
    assert times[0] == 1583748873  # 2020-03-09 10:14:33


def test_every_nab_series_reads_whole() -> None:
    root = data_path("nab", "data")
    for path in sorted(root.glob("*/*.csv")):
        blocks = [b for b in read_log(path, UTC) if isinstance(b, SampleBlock)]
        assert sum(b.n for b in blocks) == path.read_bytes().count(b"\n") - (
            path.read_bytes()[-1:] == b"\n"
        ), path
        rate = inspect_log(path, UTC).rate_hz
        assert rate is not None
        assert rate.numerator == 1, path
