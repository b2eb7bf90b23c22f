"""CSV as machines, loggers and spreadsheets write it."""

from __future__ import annotations

import gzip
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import text_files
from models.logs import LogError, LogOptions, LogWarning
from models.recording import inspect_log, read_log
from models.signal import NS_PER_S, SampleBlock
from tests.models.log_text import T0, UTC, Write, rows, write

__all__ = ["write"]  # a fixture


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
    "underscore": (CSV.replace(",3,", ",3_0,"), UTC, "line 3, column 'x': '3_0' is not a number"),
    "digits": (CSV.replace(",3,", ",٣,"), UTC, "line 3, column 'x': '٣' is not a number"),
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


@pytest.mark.parametrize("name", ["log.csv", "log.txt"])
def test_a_binary_file_does_not_reach_the_terminal(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04\x1b[31m\x00\xff\x81" + bytes(range(128, 256)) * 20 + b"\nq\xe4\nw\xfc\n")
    with pytest.raises(LogError) as caught:
        inspect_log(path)
    said = str(caught.value).replace(str(path), "")
    assert said.isprintable()
    assert len(said) < 200
    assert r"its columns are PK\x03\x04\x1b[31m" in said


def test_a_cell_that_is_no_number_is_cut_short(write: Write) -> None:
    with pytest.raises(LogError) as caught:
        list(read_log(write(CSV + "2020-03-01 15:44:08,5,6\n2020-03-01 15:44:09,7," + "z" * 500 + "\n"), UTC))
    assert "'" + "z" * 60 + "' is not a number" in str(caught.value)


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
