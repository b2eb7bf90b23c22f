"""A replay that scores nothing, or alerts on nothing though scores rose, says why and what to try."""

from __future__ import annotations

import re
import signal as signals
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_node.cli import main
from tests.edge_node.replays import CHANNELS, signal, write_csv
from tests.fixtures.bundle_files import BUNDLE

pytestmark = pytest.mark.tflite_runtime

Capture = pytest.CaptureFixture[str]
PUMP = f"""[gateway]
name = "g"
[[device]]
id = "pump"
mode = "irregular"
interval_s = 1
alerts_per_week = 500
model = "{BUNDLE}"
channels = [{{ name = "{CHANNELS[0]}", unit = "°C" }}, {{ name = "{CHANNELS[1]}", unit = "bar" }}]
"""


def replay(*arguments: object) -> int:
    return main(["replay", *map(str, arguments)])


def config(tmp_path: Path, more: str = "") -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(PUMP + more)
    return path


@pytest.mark.parametrize("options", [(), ("--rate-hz", "1")])
def test_a_log_whose_newest_rows_come_first_is_refused(
    tmp_path: Path, options: tuple[str, ...], capsys: Capture
) -> None:
    log = write_csv(tmp_path / "pump.csv", signal(300))
    header, *rows = log.read_text().splitlines(keepends=True)
    log.write_text(header + "".join(reversed(rows)))
    for arguments in (("--model", BUNDLE), ("-c", config(tmp_path))):
        assert replay(log, *arguments, *options) == 1
        assert "times run backwards: sort the file by time" in capsys.readouterr().err


def test_a_log_that_is_shorter_than_a_window(tmp_path: Path, capsys: Capture) -> None:
    log = write_csv(tmp_path / "pump.csv", signal(12))
    assert replay(log, "--model", BUNDLE) == 0
    assert "pump: a window needs 20 rows (20 s), and the log has 12" in capsys.readouterr().err
    log = write_csv(tmp_path / "pump.csv", signal(120))
    assert replay(log, "--model", BUNDLE) == 0
    assert capsys.readouterr().err == ""


def test_a_gate_on_a_device_that_the_log_lacks(tmp_path: Path, capsys: Capture) -> None:
    gated = config(
        tmp_path,
        'active_when = "meter.current > 2"\n[[device]]\nid = "meter"\nmode = "irregular"\ninterval_s = 1\n'
        'window_s = 20\nchannels = [{ name = "current" }]\n',
    )
    log = write_csv(tmp_path / "pump.csv", signal(300))
    assert replay(log, "-c", gated) == 0
    said = capsys.readouterr()
    assert "active_when watches meter.current, and the log has no row of meter" in said.err


def test_a_log_of_a_device_that_is_not_configured(tmp_path: Path, capsys: Capture) -> None:
    named = write_csv(tmp_path / "april.csv", signal(300), devices=["other"] * 300)
    assert replay(named, "-c", config(tmp_path)) == 0
    said = capsys.readouterr().err
    assert "rows of other were left out: the configuration has pump" in said
    assert "or replay with --model BUNDLE --device other" in said
    assert replay(named, "--model", BUNDLE, "--device", "other") == 0
    assert capsys.readouterr().err == ""


def test_a_log_that_names_no_device_among_several_configured(tmp_path: Path, capsys: Capture) -> None:
    log = write_csv(tmp_path / "march.csv", signal(300))
    two = config(tmp_path, PUMP.partition("[[device]]")[2].replace("pump", "fan").join(["[[device]]", ""]))
    assert replay(log, "-c", two) == 0
    said = capsys.readouterr().err
    assert "rows of march were left out: the configuration has fan, pump" in said
    assert "say whose it is with --device" in said
    assert replay(log, "-c", two, "--device", "fan") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("day", "warned"), [("2023-11-14", False), ("2020-11-14", True)])
def test_labels_of_another_time(tmp_path: Path, day: str, warned: bool, capsys: Capture) -> None:
    log = write_csv(tmp_path / "pump.csv", signal(300))
    labels = tmp_path / "labels.csv"
    labels.write_text(f"start,end\n{day}T22:14:00Z,{day}T22:15:00Z\n")
    assert replay(log, "--model", BUNDLE, "--labels", labels) == 0
    assert ("no label lies within the log" in capsys.readouterr().err) is warned


def test_a_part_without_anomalies_of_a_log_that_labels_itself(tmp_path: Path, capsys: Capture) -> None:
    anomaly = np.arange(900) >= 800
    log = write_csv(tmp_path / "pump.csv", signal(900), anomaly=anomaly)
    assert replay(log, "--model", BUNDLE) == 0
    assert capsys.readouterr().err == ""
    assert replay(log, "--model", BUNDLE, "--rows", "500") == 0
    said = capsys.readouterr().err
    assert (
        "no row of the part asked for is labelled anomalous: there is nothing to compare alerts with" in said
    )
    assert "time zone" not in said


def test_windows_that_no_model_was_meant_for_are_not_dropped(tmp_path: Path, capsys: Capture) -> None:
    path = config(tmp_path)
    path.write_text("".join(line for line in PUMP.splitlines(keepends=True) if "model" not in line))
    log = write_csv(tmp_path / "pump.csv", signal(300))
    assert replay(log, "-c", path) == 0
    said = capsys.readouterr().out
    assert re.search(r"^windows without model +\d+, for limits and sensor checks only$", said, re.M)
    assert re.search(r"^windows dropped +none$", said, re.M)


def test_columns_of_other_devices_are_no_lost_values(tmp_path: Path, capsys: Capture) -> None:
    """A table that devices share has empty cells; what a device has beside its channels is still counted."""
    log = tmp_path / "both.csv"
    lines = [f"t,device,{','.join(CHANNELS)},speed"]
    for i, (temperature, pressure) in enumerate(signal(300).tolist()):
        at = 1_700_000_000 + i
        lines += [f"{at},pump,{temperature:.4f},{pressure:.4f},", f"{at},fan,,,{i}"]
    log.write_text("\n".join(lines) + "\n")
    assert replay(log, "-c", config(tmp_path), "--device", "pump") == 0
    assert re.search(r"^values dropped +none$", capsys.readouterr().out, re.M)
    log.write_text(log.read_text().replace(",\n", ",7\n", 1))
    assert replay(log, "-c", config(tmp_path), "--device", "pump") == 0
    assert re.search(r"^values dropped +300 unknown_channel$", capsys.readouterr().out, re.M)


def test_a_log_without_rows(tmp_path: Path, capsys: Capture) -> None:
    log = tmp_path / "pump.csv"
    log.write_text(f"t,{','.join(CHANNELS)}\n")
    assert replay(log, "--model", BUNDLE) == 1
    assert capsys.readouterr().err == f"edge-node replay: {log}: holds no rows\n"


def test_scores_that_rose_without_an_alert_say_what_would_raise_the_first(
    tmp_path: Path, capsys: Capture
) -> None:
    log = write_csv(tmp_path / "pump.csv", signal(1200, faults=[(900, 1200)]))
    assert replay(log, "--model", BUNDLE, "--p", 1e-12) == 0
    said = capsys.readouterr().out
    assert re.search(r"^alerts +none$", said, re.M)
    hint = re.search(
        r"^pump: no machine alert, but scores rose to (\S+), and training saw none above (\S+); the level is (\S+)\. "
        r"The first alert would come with --alerts-per-week (\S+)\.$",
        said,
        re.M,
    )
    assert hint is not None
    highest, seen, level, budget = map(float, hint.groups())
    assert seen < highest
    assert float(re.search(r"^level .*score (\S+)\)$", said, re.M)[1]) == level  # type: ignore[index]
    for allowed, alerted in ((budget, True), (budget * 0.9, False)):
        assert replay(log, "--model", BUNDLE, "--alerts-per-week", allowed) == 0
        said = capsys.readouterr().out
        assert (re.search(r"^alerts +none$", said, re.M) is None) is alerted
        assert ("no machine alert" in said) is not alerted


def test_a_healthy_log_and_one_with_alerts_need_no_other_level(tmp_path: Path, capsys: Capture) -> None:
    healthy = write_csv(tmp_path / "pump.csv", signal(1200))
    faulty = write_csv(tmp_path / "fault.csv", signal(1200, faults=[(900, 1200)]))
    for log, level in ((healthy, 1), (faulty, 500)):
        assert replay(log, "--model", BUNDLE, "--alerts-per-week", level) == 0
        assert "no machine alert" not in capsys.readouterr().out


def test_an_interrupted_replay_says_so(tmp_path: Path) -> None:
    """At real time, so that it is under way when it is interrupted."""
    log, alerts = write_csv(tmp_path / "pump.csv", signal(300, faults=[(40, 300)])), tmp_path / "alerts.jsonl"
    command = [
        sys.executable,
        "-m",
        "edge_node.cli",
        "replay",
        str(log),
        "--model",
        str(BUNDLE),
        "--speed",
        "10",
    ]
    with subprocess.Popen(
        [*command, "--p", "0.05", "--output", str(alerts)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as replaying:
        assert replaying.stdout is not None
        assert "raised" in replaying.stdout.readline()
        replaying.send_signal(signals.SIGINT)
        _, said = replaying.communicate(timeout=60)
    assert replaying.returncode == 130
    assert "interrupted; the log was not replayed to its end" in said
    assert "Traceback" not in said
    assert alerts.read_text().count("\n") >= 1
