"""``failures.csv`` as people write it, and what they are told when it is wrong: file, line, column, value, remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.failures import Failure
from edge_node.failures_file import read_failures
from models.logs import LogError
from models.signal import NS_PER_S

MACHINE_OF = {"pump": "line-1", "motor": "line-1", "fan": "line-2"}
NINE = 1_714_554_000 * NS_PER_S  # 2024-05-01T09:00:00Z


def read(tmp_path: Path, text: str, *present: str, timezone: str | None = None) -> list[Failure]:
    path = tmp_path / "failures.csv"
    path.write_text(text)
    return read_failures(path, MACHINE_OF, present=lambda: present or ("pump",), timezone=timezone)


def test_a_line_is_a_failure(tmp_path: Path) -> None:
    text = (
        "time,device,machine,text\n"
        "2024-05-01T09:00:00Z,fan,,\n"
        "# last week's are not in yet\n"
        '\n2024-05-01T08:00:00+02:00,,line-1,"belt, torn"\n'
    )
    assert read(tmp_path, text) == [
        Failure(NINE - 3 * 3600 * NS_PER_S, ("pump", "motor"), "line-1", "belt, torn"),
        Failure(NINE, ("fan",), "fan", ""),
    ]


@pytest.mark.parametrize(
    ("text", "timezone"),
    [
        ("Text;Time\nseal;2024-05-01 11:00\n", "Europe/Berlin"),
        ("when?,timestamp\nx,1714554000\n", None),
        ("time\n01.05.2024 09:00:00\n", "UTC"),
        ('time,text\n2024-05-01T09:00:00Z,"over\ntwo lines"\n', None),
    ],
)
def test_times_are_written_as_in_logs(tmp_path: Path, text: str, timezone: str | None) -> None:
    (failure,) = read(tmp_path, text, timezone=timezone)
    assert (failure.time_ns, failure.devices, failure.named) == (NINE, ("pump",), "pump")


def test_a_failure_without_a_name_is_of_the_one_machine(tmp_path: Path) -> None:
    (failure,) = read(tmp_path, "time\n2024-05-01T09:00:00Z\n", "pump", "motor")
    assert (failure.devices, failure.named) == (("pump", "motor"), "line-1")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (
            "time,text\n2024-05-01T09:00:00Z,a\nlast Tuesday,b\n",
            "line 3, column 'time'",
            "'last Tuesday' is not a time: write it as 2024-05-01T06:00:00Z",
        ),
        ("time\n2024-13-01T09:00:00Z\n", "line 2, column 'time'", "'2024-13-01T09:00:00Z' is not a time"),
        (
            "time\n05/01/2024 09:00\n",
            "line 2, column 'time'",
            "'05/01/2024 09:00' may be read in two ways: write",
        ),
        ("time,text\n2024-05-01T09:00:00Z,a\n,b\n", "line 3, column 'time'", "is empty: write"),
        (
            "time,text\n2024-05-01 09:00:00,a\n",
            "line 2, column 'time'",
            "have no UTC offset: say which zone they are in with --timezone",
        ),
        (
            "time,device\n2024-05-01T09:00:00Z,pump\n2024-05-01T09:00:00Z,pmup\n",
            "line 3, column 'device'",
            "no device is called 'pmup': the devices are pump, motor, fan",
        ),
        (
            "time,machine\n2024-05-01T09:00:00Z,line-3\n",
            "line 2, column 'machine'",
            "no machine is called 'line-3': the machines are line-1, line-2",
        ),
        (
            "time,device,machine\n2024-05-01T09:00:00Z,fan,line-1\n",
            "line 2, column 'machine'",
            "device 'fan' is of machine 'line-2', not of 'line-1': correct one of both",
        ),
        (
            'time,text\n2024-05-01T09:00:00Z,"two\nlines"\n2024-05-01T09:00:00Z,belt, torn\n',
            "line 4",
            "has 3 fields, and the columns are 2: '2024-05-01T09:00:00Z,belt, torn': quote a text",
        ),
        (
            "when,what\n2024-05-01T09:00:00Z,a\n",
            "line 1",
            "no column is named time: it has 'when', 'what': give",
        ),
        ("2024-05-01T09:00:00Z,a\n", "line 1", "no column is named time: it has no line of names: give"),
        ("time,text\n", "", "has no failure: give one line for each"),
        ("", "", "is empty"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, where: str, what: str) -> None:
    with pytest.raises(LogError) as refused:
        read(tmp_path, text)
    start = f"{tmp_path / 'failures.csv'}{', ' if where else ''}{where}: "
    assert str(refused.value).startswith(start)
    assert what in str(refused.value)


def test_whose_a_failure_is_must_be_clear(tmp_path: Path) -> None:
    with pytest.raises(
        LogError, match=r"line 2, column 'device': does not say whose .* has pump, fan: name a"
    ):
        read(tmp_path, "time\n2024-05-01T09:00:00Z\n", "pump", "fan")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"cannot be read \(No such file"):
        read_failures(tmp_path / "none.csv", MACHINE_OF, present=lambda: ())
