"""``edge-node replay`` as a person meets it: lines as alerts come, tables at the end, one line for what is wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from arro3.io import read_parquet

from edge_node.assembly import Core
from edge_node.cli import main
from edge_node.replay_news import News
from edge_node.replay_report import Report
from edge_node.settling import Trace
from models.recording import RecordingWriter
from models.signal import NS_PER_S, Mode, SampleBlock, WindowSpec
from tests.edge_node.replays import CHANNELS, T0_S, at, core, replayed, signal, write_csv
from tests.fixtures.bundle_files import BUNDLE

pytestmark = pytest.mark.tflite_runtime

FAULT = (900, 1200)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    anomaly = np.zeros(2000, np.bool_)
    anomaly[slice(*FAULT)] = True
    return write_csv(
        tmp_path_factory.mktemp("log") / "pump.csv", signal(2000, faults=[FAULT]), anomaly=anomaly
    )


def replay(*arguments: object) -> int:
    return main(["replay", *map(str, arguments)])


def test_alerts_come_as_lines_and_a_summary_follows(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(log, "--model", BUNDLE, "--alerts-per-week", 500) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    line = re.compile(r"2023-11-14 22:\d\d:\d\dZ  (warning |critical)  (raised |updated|cleared)  pump: .+")
    n = sum(1 for text in lines if line.fullmatch(text))
    assert n >= 2
    assert lines[n].startswith("replayed ")
    assert re.match(
        r"2000 rows, 2023-11-14T22:13:20Z to 2023-11-14T22:46:39Z \(33 min\)",
        lines[n].split("  ")[-1].strip(),
    )
    assert "fixture version 1, cpu-float32" in said.out
    assert re.search(r"^level +500 alerts a week \(score ", said.out, re.M)
    assert re.search(r"^windows scored +199$", said.out, re.M)
    assert re.search(r"^alerts +1 machine$", said.out, re.M)
    assert re.search(r"^machine alerts a week +30\d \(1 in 33 min watched\)$", said.out, re.M)
    assert re.search(r"^Pressure +1 +\d\d%$", said.out, re.M)
    assert re.search(r"^faults detected, of 1 +1 +0\.\d +0$", said.out, re.M)
    precision = re.search(r"^precision +(\S+) +(\S+) +(\S+)$", said.out, re.M)
    assert precision is not None
    assert (
        float(precision[1]) > 0.5 > float(precision[2])
    )  # re-centring followed the fault, so the way back alerts


def test_labels_never_reach_the_pipeline(log: Path, tmp_path: Path) -> None:
    without = write_csv(tmp_path / "pump.csv", signal(2000, faults=[FAULT]))
    for name, path in (("a", log), ("b", without)):
        assert replay(path, "--model", BUNDLE, "--alerts-per-week", 500, "--output", tmp_path / name) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != b""


def test_labels_of_a_file_do_as_well(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--model", BUNDLE, "--alerts-per-week", 500)
    assert replay(log, *arguments) == 0
    by_column = capsys.readouterr().out
    unlabelled = write_csv(tmp_path / "pump.csv", signal(2000, faults=[FAULT]))
    assert replay(unlabelled, *arguments) == 0
    assert "against the labels" not in capsys.readouterr().out
    spans = tmp_path / "labels.csv"
    spans.write_text(f"start,end\n{T0_S + FAULT[0]},{T0_S + FAULT[1]}\n")
    assert replay(unlabelled, *arguments, "--labels", spans) == 0
    assert capsys.readouterr().out == by_column


def test_labels_by_log_are_those_of_all_logs_replayed(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One recording cut into two files, with a fault in the second."""
    arguments = ("--model", BUNDLE, "--alerts-per-week", 500, "--device", "pump")
    values, cut = signal(2000, faults=[FAULT]), 700
    parts = [write_csv(tmp_path / "one.csv", values[:cut])]
    times = T0_S + np.arange(cut, 2000)
    parts.append(write_csv(tmp_path / "two.csv", values[cut:], times_s=times))
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"one.csv": [], "two.csv": [[T0_S + FAULT[0], T0_S + FAULT[1]]]}))
    assert replay(log, *arguments) == 0
    by_column = capsys.readouterr().out
    assert replay(*parts, *arguments, "--labels", labels) == 0
    assert (
        capsys.readouterr().out.partition("against the labels")[2]
        == by_column.partition("against the labels")[2]
    )
    labels.write_text(json.dumps({"one.csv": [], "2.csv": []}))
    assert replay(*parts, *arguments, "--labels", labels) == 1
    assert f"has no labels of one log '{parts[1]}'" in capsys.readouterr().err


def test_output_is_the_alerts_as_json_without_delivery(log: Path, tmp_path: Path) -> None:
    out = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in out:
        path.write_text("old\n")
        assert replay(log, "--model", BUNDLE, "--alerts-per-week", 500, "--output", path) == 0
    assert out[0].read_bytes() == out[1].read_bytes()
    alerts = [json.loads(text) for text in out[0].read_text().splitlines()]
    assert [a["state"] for a in alerts if a["state"] != "updated"] == ["raised", "cleared"]
    assert {a["delivery"] for a in alerts} == {None}
    assert {a["device"] for a in alerts} == {"pump"}


def test_scores_are_one_row_a_scored_window(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    assert replay(log, "--model", BUNDLE, "--alerts-per-week", 500, "--scores", path) == 0
    table = read_parquet(path).read_all()
    assert table.schema.names == ["device", "start_ns", "end_ns", "score", "p_value", "above", "alerting"]
    columns = {name: table.column(name).to_numpy() for name in table.schema.names[1:]}
    assert table.num_rows == 199
    assert (np.diff(columns["end_ns"]) > 0).all()
    assert (columns["end_ns"] - columns["start_ns"] == 20 * 10**9).all()
    during = (columns["end_ns"] > at(FAULT[0] + 40)) & (columns["end_ns"] <= at(FAULT[1]))
    assert columns["alerting"][during].all()
    assert columns["score"][during].min() > np.median(columns["score"])
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("option", "n_rows", "first"),
    [
        (("--rows", 500), 500, 0),
        (("--skip-rows", 1500), 500, 1500),
        (("--skip-rows", 100, "--rows", 300), 300, 100),
        (("--from", "2023-11-14T22:30:00Z"), 1000, 1000),
        (("--until", "2023-11-14T22:30:00Z"), 1000, 0),
        (("--from", "2023-11-14T23:30:00", "--timezone", "Europe/Berlin"), 1000, 1000),
    ],
)
def test_a_part_of_the_log(
    log: Path, option: tuple[object, ...], n_rows: int, first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(log, "--model", BUNDLE, *option) == 0
    found = re.search(r"^replayed +(\d+) rows, (\S+) to", capsys.readouterr().out, re.M)
    assert found is not None
    began = str(np.datetime64(T0_S + first, "s"))
    assert (int(found[1]), found[2]) == (n_rows, f"{began}Z")


def test_the_level_is_the_users(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(log, "--model", BUNDLE, "--p", 0.01) == 0
    assert "p <= 0.01" in capsys.readouterr().out
    assert replay(log, "--model", BUNDLE) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^level +1 alert a week \(score \S+\), extrapolated, verified only to \S+ alerts a week", said, re.M
    )


def test_every_alert_about_a_channel_is_counted_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = signal(2000, faults=[FAULT])
    values[300:400, 0] += 100.0  # beyond its limit, and out of its range
    values[1500:1700, 1] = values[1500, 1]  # frozen
    log = write_csv(tmp_path / "pump.csv", values)
    hot = round(float(values[:, 0].max()) - 50.0)
    limits = "".join(
        f'[[device.limit]]\nname = "{name}"\nchannel = "Temperature"\nabove = {hot - i}\n'
        for i, name in enumerate(("hot", "warm"))
    )
    assert replay(log, "-c", _config(tmp_path, limits)) == 0
    said = capsys.readouterr().out
    table = said[said.index("channel to blame") :].split("\n\n")[0].splitlines()
    assert re.split(r"  +", table[0]) == [
        "channel to blame",
        "machine alerts",
        "limit alerts",
        "sensor alerts",
        "mean share of machine alerts",
    ]
    counts = {row.split()[0]: row.split()[1:4] for row in table[2:]}
    assert {channel: n[1:] for channel, n in counts.items()} == {
        "Pressure": ["0", "1"],
        "Temperature": ["2", "0"],
    }
    n_alerts = re.search(r"^alerts +(.*)$", said, re.M)
    assert n_alerts is not None
    assert "2 limit" in n_alerts[1]
    assert "1 sensor" in n_alerts[1]


def test_alerts_without_a_machine_alert_have_a_table_of_channels_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = signal(600)
    values[400:, 0] += 100.0
    log = write_csv(tmp_path / "pump.csv", values)
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[gateway]\nname = "g"\n[[device]]\nid = "pump"\nmode = "irregular"\ninterval_s = 1\n'
        f'channels = ["Temperature", "Pressure"]\n[[device.limit]]\nname = "hot"\nchannel = "Temperature"\n'
        f"above = {round(float(values[:, 0].max()) - 50.0)}\n"
        '[[device]]\nid = "other"\nchannels = ["x"]\ninterval_s = 1\n'
    )
    assert replay(log, "-c", path) == 0
    said = capsys.readouterr().out
    assert re.search(r"^device +channel to blame +limit alerts$", said, re.M)
    assert re.search(r"^pump +Temperature +1$", said, re.M)
    assert "mean share" not in said


def test_quiet_alerts_beside_scores_that_tell_say_what_to_try(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(log, "--model", BUNDLE, "--p", 1e-12) == 0
    said = capsys.readouterr().out
    assert re.search(r"^alerts +none$", said, re.M)
    hint = re.search(
        r"none lasts above the level: with --alerts-per-week (\S+) there would be alerts\.$", said
    )
    assert hint is not None
    budget = float(hint[1])
    for allowed, alerted in ((budget, True), (budget * 0.9, False)):
        assert replay(log, "--model", BUNDLE, "--alerts-per-week", allowed) == 0
        assert (re.search(r"^alerts +none$", capsys.readouterr().out, re.M) is None) is alerted


def _config(tmp_path: Path, more: str = "") -> Path:
    path = tmp_path / "gateway.toml"
    channels = '[{ name = "Temperature", unit = "°C" }, { name = "Pressure", unit = "bar" }]'
    path.write_text(
        '[gateway]\nname = "g"\n[[device]]\nid = "pump"\nmachine = "line-1"\nmode = "irregular"\ninterval_s = 1\n'
        f'alerts_per_week = 500\nmodel = "{BUNDLE}"\nchannels = {channels}\n{more}'
    )
    return path


def test_a_configuration_decides_names_limits_and_level(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = '[[device.limit]]\nname = "low"\nchannel = "Pressure"\nbelow = 2.0\nfor_s = 30\n'
    assert replay(log, "-c", _config(tmp_path, limit)) == 0
    said = capsys.readouterr().out
    assert "line-1: Pressure" in said
    assert re.search(r"^alerts +\d limit, 1 machine$", said, re.M)
    assert replay(log, "-c", _config(tmp_path), "--alerts-per-week", 7) == 0
    assert re.search(r"^level +7 alerts a week", capsys.readouterr().out, re.M)


def test_origins_are_subtracted_as_a_source_would(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config without a model but with a limit: the limit is in the channel's unit, the origin included."""
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[gateway]\nname = "g"\n[[device]]\nid = "pump"\nmode = "irregular"\ninterval_s = 1\n'
        'channels = [{ name = "Temperature" }, { name = "Pressure", origin = 3.0 }]\n'
        '[[device.limit]]\nname = "low"\nchannel = "Pressure"\nbelow = 2.0\nfor_s = 30\n'
    )
    assert replay(log, "-c", config) == 0
    with_origin = capsys.readouterr().out
    config.write_text(config.read_text().replace("origin = 3.0", "origin = 0.0"))
    assert replay(log, "-c", config) == 0
    without = capsys.readouterr().out
    moments = [re.findall(r"^2023.*?(?=pump)", text, re.M) for text in (with_origin, without)]
    assert moments[0] == moments[1] != []


def test_a_log_of_several_devices_needs_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [("a", "b")[i % 2] for i in range(600)]
    path = write_csv(tmp_path / "line.csv", signal(600), devices=names)
    assert replay(path, "--model", BUNDLE) == 2
    assert "holds 2 devices: choose one with --device: a, b" in capsys.readouterr().err
    assert replay(path, "--model", BUNDLE, "--device", "c") == 2
    assert "--device c" in capsys.readouterr().err
    assert replay(path, "--model", BUNDLE, "--device", "b") == 0
    assert re.search(r"^replayed +300 rows", capsys.readouterr().out, re.M)
    config = _config(tmp_path)
    assert replay(path, "-c", config) == 0
    said = capsys.readouterr()
    assert "rows of a, b were left out: the configuration has pump" in said.err
    assert replay(path, "-c", config, "--device", "a") == 2
    assert "gateway.toml has pump" in capsys.readouterr().err


def test_the_device_of_a_recording_is_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.parquet"
    values = signal(600).astype(np.float32)
    with RecordingWriter(path) as log:
        for i in range(0, 600, 10):
            times = np.array([at(i + j) for j in range(10)])
            log.write(
                SampleBlock.irregular(
                    "press-4", CHANNELS, values[i : i + 10], time_ns=times, arrival_ns=at(i + 9)
                )
            )
    assert replay(path, "--model", BUNDLE, "--output", tmp_path / "o.jsonl") == 0
    assert re.search(r"^windows scored +59$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nothing*.csv", "--model", "{bundle}"), 1, "nothing*.csv: no such file"),
        (("{log}", "--model", "{tmp}"), 1, "manifest.json: No such file"),
        (("{log}", "-c", "{tmp}/none.toml"), 1, "none.toml"),
        (("{log}", "--model", "{bundle}", "--labels", "{tmp}/none.csv"), 1, "none.csv"),
        (
            ("{log}", "--model", "{bundle}", "--output", "{tmp}/no/such.jsonl"),
            1,
            "such.jsonl: cannot be written",
        ),
        (
            ("{log}", "--model", "{bundle}", "--output", "/dev/full", "--p", "0.05"),
            1,
            "/dev/full: cannot be written",
        ),
        (
            ("{log}", "--model", "{bundle}", "--scores", "{tmp}/no/such.parquet"),
            1,
            "such.parquet: cannot be written",
        ),
        (("{tmp}/none.csv", "--model", "none", "--scores", "{tmp}/s.csv"), 2, "a name that ends in .parquet"),
        (("{log}", "--model", "{bundle}", "--output", "{log}"), 2, "is a log to replay"),
        (("{log}", "--model", "{bundle}", "--skip-rows", "2000"), 1, "no rows in the part asked for"),
        (("{log}", "--model", "{bundle}", "--from", "yesterday"), 2, "write 2024-05-01T06:00:00Z"),
        (("{log}", "--model", "{bundle}", "--from", "2024-05-01T06:00:00"), 2, "has no offset"),
        (
            ("{log}", "--model", "{bundle}", "--from", "2024-05-01", "--timezone", "Mars"),
            2,
            "'Mars' is not known",
        ),
        (("{log}", "--model", "{bundle}", "--rate-hz", "fast"), 2, "--rate-hz"),
        (("{log}", "--model", "{bundle}", "--separator", ",,"), 2, "one character"),
        (("{log}", "--model", "{bundle}", "--time-column", "when"), 1, "when"),
        (("{bad}", "--model", "{bundle}"), 1, "line 4"),
        (
            ("{other}", "--model", "{bundle}"),
            1,
            "no channel 'Pressure', which model fixture has: its channels are Temp",
        ),
    ],
)
def test_what_is_wrong_is_one_line(
    log: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(
        f"t,Temperature,Pressure\n{T0_S},40,3\n{T0_S + 1},41,3\n{T0_S + 2},hot,3\n{T0_S + 3},40,3\n"
    )
    other = tmp_path / "other.csv"
    other.write_text("t,Temperature\n" + "".join(f"{T0_S + i},40\n" for i in range(60)))
    names = {
        "log": str(log),
        "bundle": str(BUNDLE),
        "tmp": str(tmp_path),
        "bad": str(bad),
        "other": str(other),
    }
    before = log.read_bytes()
    assert replay(*(a.format(**names) for a in arguments)) == code
    found = capsys.readouterr()
    assert said in found.err
    assert found.err.count("\n") == 1
    assert found.err.startswith("edge-node replay: ")
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "m", "-c", "x"),
        ("--model", "m", "--p", "0.1", "--alerts-per-week", "3"),
        ("--model", "m", "--p", "2"),
        ("--model", "m", "--rows", "0"),
        ("--model", "m", "--speed", "3"),
        ("--model", "m", "--alerts-per-week", "nan"),
        (),
    ],
)
def test_wrong_usage_is_two(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        replay("x.csv", *arguments)
    assert stop.value.code == 2
    assert "edge-node replay" in capsys.readouterr().err


def test_a_bad_line_is_left_out_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "pump.csv", signal(300))
    lines = path.read_text().splitlines(keepends=True)
    lines[100] = "never,40,3\n"
    path.write_text("".join(lines))
    assert replay(path, "--model", BUNDLE) == 1
    assert "--skip-bad-lines" in capsys.readouterr().err
    assert replay(path, "--model", BUNDLE, "--skip-bad-lines") == 0
    said = capsys.readouterr()
    assert "1 row" in said.err
    assert re.search(r"^replayed +299 rows", said.out, re.M)


def test_globs_join_the_days_of_one_log(log: Path, tmp_path: Path) -> None:
    lines = log.read_text().splitlines(keepends=True)
    for name, part in (("day-2.csv", lines[1001:]), ("day-1.csv", lines[1:1001])):
        (tmp_path / name).write_text("".join([lines[0], *part]))
    arguments = ("--model", BUNDLE, "--alerts-per-week", 500, "--device", "pump", "--output")
    assert replay(tmp_path / "day-*.csv", *arguments, tmp_path / "days") == 0
    assert replay(log, *arguments, tmp_path / "whole") == 0
    assert (tmp_path / "days").read_bytes() == (tmp_path / "whole").read_bytes()


def test_nothing_but_results_is_printed(log: Path) -> None:
    command = [sys.executable, "-m", "edge_node.cli", "replay", str(log), "--model", str(BUNDLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    complaints = [x for x in done.stderr.splitlines() if not x.startswith("falling back to tflite-runtime")]
    assert complaints == []
    assert done.stdout.startswith(("2023-", "replayed"))


def test_only_updates_with_news_are_lines(log: Path) -> None:
    first = next(a for a in replayed(log) if a.state == "raised")
    end = first.start_ns
    news = News()

    def told(state: str, after_s: float, severity: str = "warning", channel: str = "x") -> bool:
        blamed = msgspec.structs.replace(first.contributions[0], channel=channel)
        changes = {
            "state": state,
            "end_ns": end + round(after_s * 1e9),
            "severity": severity,
            "contributions": (blamed,),
        }
        return news.is_in(msgspec.structs.replace(first, **changes))

    assert told("raised", 60)
    assert [told("updated", t) for t in (70, 110, 119, 120, 130, 239, 240)] == [False] * 3 + [True] + [
        False
    ] * 2 + [True]
    assert told("updated", 250, severity="critical")
    assert not told("updated", 260, severity="critical")
    assert told("updated", 270, severity="critical", channel="y")
    assert news.n_left_out == 6
    assert told("cleared", 280)


def test_between_bursts_the_machine_is_watched_too() -> None:
    plan = dataclasses.replace(
        core().plans[0], window=WindowSpec(n=100, hop=100, rate_hz=Fraction(1000), mode=Mode.BURST)
    )
    on = Core(core().pipeline, core().engines, (plan,))
    report = Report(on, None)
    for first in (0, 50):
        ends = at(0) + np.arange(first, first + 50) * 10 * NS_PER_S + NS_PER_S // 10
        no = np.zeros(50, np.bool_)
        report.trace(Trace("pump", ends - NS_PER_S // 10, ends, np.ones(50, np.float32), np.ones(50), no, no))
    assert "0 (0 in 17 min watched)" in report.text()
