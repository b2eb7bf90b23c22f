"""What people write on command lines means the same to both ends."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from models.cli_values import (
    USAGE,
    Parser,
    UsageError,
    channel_value,
    count,
    labels_of,
    log_options_of,
    not_negative,
    number,
    positive,
    probability,
    time_ns,
)
from models.logs import LogOptions


def given(**changes: Any) -> argparse.Namespace:
    fields = ("device", "rate_hz", "separator", "time_column", "timezone", "labels")
    return argparse.Namespace(**{**dict.fromkeys(fields), "skip_bad_lines": False, **changes})


@pytest.mark.parametrize(
    ("text", "timezone", "seconds"),
    [
        ("2024-05-01T06:00:00Z", None, 1_714_543_200),
        ("2024-05-01T06:00:00+02:00", None, 1_714_536_000),
        ("2024-05-01T06:00:00", "Europe/Berlin", 1_714_536_000),
        ("2024-05-01", "UTC", 1_714_521_600),
        ("2024-05-01T06:00:00Z", "Europe/Berlin", 1_714_543_200),
        ("1969-12-31T23:59:59Z", None, -1),
    ],
)
def test_times(text: str, timezone: str | None, seconds: int) -> None:
    assert time_ns("--from", text, timezone) == seconds * 1_000_000_000
    assert time_ns("--from", "2024-05-01T06:00:00.000001Z", None) == 1_714_543_200_000_001_000
    assert time_ns("--from", None, timezone) is None


@pytest.mark.parametrize(
    ("text", "timezone", "says"),
    [
        ("soon", None, "--until 'soon' is not a time: write 2024-05-01T06:00:00Z"),
        ("2024-05-01", None, "--until '2024-05-01' has no offset: add one"),
        ("2024-05-01", "Mars/Base", "--timezone 'Mars/Base' is not known"),
        ("2024-05-01", "/etc/passwd", "--timezone '/etc/passwd' is not known"),
    ],
)
def test_times_that_are_none(text: str, timezone: str | None, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        time_ns("--until", text, timezone)
    assert str(caught.value).startswith(says)


def test_how_to_read_a_log() -> None:
    assert log_options_of(given()) == LogOptions()
    options = log_options_of(
        given(
            device="a",
            rate_hz="1/300",
            separator="tab",
            time_column="t",
            timezone="UTC",
            skip_bad_lines=True,
        ),
        [("x", "1.5"), ("y", "-2")],
    )
    assert options == LogOptions(
        device_id="a",
        rate_hz=Fraction(1, 300),
        separator="\t",
        time_column="t",
        timezone="UTC",
        bad_lines="skip",
        origins={"x": 1.5, "y": -2.0},
    )


@pytest.mark.parametrize(
    ("changes", "origins", "says"),
    [
        ({"rate_hz": "fast"}, [], "--rate-hz: 'fast' is not a rate"),
        ({"separator": "ab"}, [], "--separator must be one character, not 'ab'"),
        ({"separator": ""}, [], "--separator must be one character, not ''"),
        ({}, [("x", "low")], "--origin x=low: 'low' is not a number"),
    ],
)
def test_how_no_log_can_be_read(changes: dict[str, str], origins: list[tuple[str, str]], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        log_options_of(given(**changes), origins)
    assert str(caught.value).startswith(says)


def test_labels_are_those_named_or_the_logs_own(tmp_path: Path) -> None:
    log, labels = tmp_path / "a.csv", tmp_path / "labels.csv"
    rows = "".join(f"{1_700_000_000 + i},1.5,{int(i == 3)}\n" for i in range(6))
    log.write_text(f"t,x,anomaly\n{rows}")
    labels.write_text("start,end\n2023-11-14T22:13:20Z,2023-11-14T22:13:22Z\n")
    own = labels_of(given(), LogOptions(), [log])
    named = labels_of(given(labels=labels), LogOptions(), [log])
    assert own is not None
    assert named is not None
    assert own != named
    log.write_text(rows.replace(",0\n", "\n").replace(",1\n", "\n").join(("t,x\n", "")))
    assert labels_of(given(), LogOptions(), [log]) is None


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (count(1), {"1": 1, "07": 7}, ("0", "1.5", "x", "")),
        (count(0), {"0": 0}, ("-1",)),
        (positive, {"0.5": 0.5, "1e3": 1000.0}, ("0", "-1", "nan", "inf", "x")),
        (not_negative, {"0": 0.0, "2.5": 2.5}, ("-0.1", "nan", "inf", "x")),
        (number, {"-1.5": -1.5, "0": 0.0}, ("nan", "inf", "-inf", "x")),
        (probability, {"0.01": 0.01}, ("0", "1", "nan", "x")),
        (channel_value, {"x=1": ("x", "1"), "x=a=b": ("x", "a=b"), "x=": ("x", "")}, ("x", "=1")),
    ],
)
def test_values(kind: Callable[[str], Any], good: dict[str, Any], bad: tuple[str, ...]) -> None:
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="is not"):
            kind(text)


def test_a_wrong_call_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="edge-node")
    parser.add_argument("--rows", type=count(1))
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--rows", "no"])
    assert caught.value.code == USAGE
    assert capsys.readouterr().err == (
        "edge-node: argument --rows: 'no' is not a whole number of at least 1 (see edge-node --help)\n"
    )
