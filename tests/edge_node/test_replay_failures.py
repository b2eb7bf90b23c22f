"""``edge-node replay --events``: what of last year would have been announced, and what each budget would have cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.alert_history import History
from edge_node.assembly import Core
from edge_node.budgets import Budget, ask
from edge_node.cli import main
from edge_node.failures import Failure, Outcome
from edge_node.replay import as_received, play
from edge_node.replay_failures import FailureWatch, Findings
from edge_node.settling import Trace
from models.logs import LogOptions
from models.recording import read_log
from models.signal import NS_PER_S, SampleBlock
from tests.edge_node.replays import T0_S, at, core, signal, write_csv
from tests.fixtures.bundle_files import BUNDLE

pytestmark = pytest.mark.tflite_runtime

FAULTS = ((900, 1200), (3000, 3300))
N = 5000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("log") / "pump.csv", signal(N, faults=FAULTS))


def replay(*arguments: object) -> int:
    return main(["replay", *map(str, arguments)])


def failures(folder: Path, *seconds: float, header: str = "time,text") -> Path:
    file = folder / "failures.csv"
    lines = [f"{T0_S + second:.3f},seal {i}" for i, second in enumerate(seconds, 1)]
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def row(said: str, name: str) -> list[str]:
    (line,) = [line for line in said.splitlines() if line.startswith(name)]
    return re.split(r"  +", line)


def stamp(second: int) -> str:
    return str(np.datetime64(T0_S + second, "s")).replace("T", " ") + "Z"


def test_each_failure_is_caught_or_missed_and_says_by_what(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = failures(tmp_path, 1200, 2500, 3300, 9e6)
    level = ("--model", BUNDLE, "--alerts-per-week", 500)
    assert replay(log, *level, "--events", file, "--lead", "5m") == 0
    said = capsys.readouterr().out
    assert row(said, stamp(1200))[1:4] == ["pump", "seal 1", "caught"]
    assert row(said, stamp(1200))[5:] == ["Pressure", "1"]
    assert row(said, stamp(2500))[3:] == ["missed", "-", "-", "0"]
    assert row(said, stamp(3300))[3] == "caught"
    assert row(said, stamp(9_000_000))[3:] == ["not recorded", "-", "-", "-"]
    assert row(said, "failures caught   ")[1].startswith("2 of 3 (the same alerts at random times: 0.")
    assert row(said, "failures not recorded")[1] == "1"
    budget = row(said, "500 *")
    assert budget[4] == "2"
    n_raised = re.search(r"^alerts +(\d+) machine$", said, re.M)
    assert n_raised is not None
    assert budget[1] == n_raised[1]
    assert int(budget[3]) == int(budget[1]) - 2


def test_an_alert_before_the_lead_is_false_though_it_is_open(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = failures(tmp_path, 1190)
    assert replay(log, "--model", BUNDLE, "--alerts-per-week", 500, "--events", file, "--lead", "60s") == 0
    said = capsys.readouterr().out
    assert row(said, stamp(1190))[3] == "missed"
    assert re.search(
        r"an alert raised at 2023-11-14 22:2\d:\d\dZ, before its lead, was still open\)$", said, re.M
    )
    assert row(said, "failures within an earlier alert")[1] == "1"


def test_the_lead_is_a_week_unless_told_otherwise(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure days after the log's end has most of its lead before it."""
    file = failures(tmp_path, N + 6 * 86_400)
    arguments = (log, "--model", BUNDLE, "--alerts-per-week", 500, "--events", file)
    assert replay(*arguments) == 0
    said = capsys.readouterr().out
    assert row(said, stamp(N + 6 * 86_400))[3:5] == ["caught", "6 days"]
    assert "no longer than 7 days before it" in said
    assert replay(*arguments, "--lead", "5d") == 0
    assert row(capsys.readouterr().out, stamp(N + 6 * 86_400))[3] == "not recorded"


def test_of_several_devices_a_failure_is_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, ill = signal(1500), signal(1500, seed=9, faults=[(900, 1200)])
    values = np.stack([sound, ill], axis=1).reshape(-1, 2)
    log = write_csv(
        tmp_path / "line.csv",
        values,
        times_s=np.repeat(T0_S + np.arange(1500), 2),
        devices=["pump", "fan"] * 1500,
    )
    channels = '[{ name = "Temperature", unit = "°C" }, { name = "Pressure", unit = "bar" }]'
    gateway = '[gateway]\nname = "g"\n' + "".join(
        f'[[device]]\nid = "{device}"\nmachine = "{machine}"\nmode = "irregular"\ninterval_s = 1\n'
        f'alerts_per_week = 500\nmodel = "{BUNDLE}"\nchannels = {channels}\n'
        for device, machine in (("pump", "line-1"), ("fan", "line-1"), ("spare", "line-2"))
    )
    config = tmp_path / "gateway.toml"
    config.write_text(gateway)
    file = tmp_path / "failures.csv"
    failed = T0_S + 1200
    file.write_text(
        f"time,device,machine\n{failed},pump,\n{failed},fan,\n{failed},,line-1\n{failed},,line-2\n{failed},,\n"
    )
    assert replay(log, "-c", config, "--events", file, "--lead", "10m") == 0
    said = capsys.readouterr().out
    assert f"({stamp(1200)}, line-2: no row of it lies in its lead)" in said
    rows = [re.split(r"  +", line) for line in said.splitlines() if line.startswith(stamp(1200))]
    assert [cells[1:3] for cells in rows] == [
        ["pump", "missed"],
        ["fan", "caught"],
        ["line-1", "caught"],
        ["line-2", "not recorded"],
        ["line-1", "caught"],  # the one machine that the log has
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--lead", "7d"), 2, "--lead says how long before a failure an alert counts: give --events, too"),
        (("--events", "none.csv"), 1, "none.csv: cannot be read (No such file or directory)"),
    ],
)
def test_what_is_wrong_is_one_line(
    log: Path, arguments: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(log, "--model", BUNDLE, *arguments) == code
    assert capsys.readouterr().err == f"edge-node replay: {said}\n"


def test_where_no_failure_lies_in_the_log_its_times_are_said(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(log, "--model", BUNDLE, "--events", failures(tmp_path, -9_000_000), "--lead", "1w") == 0
    said = capsys.readouterr().out
    assert row(said, "failures caught")[1].startswith("0 of 0")
    assert row(said, "the log") == ["the log", f"{stamp(0)} to {stamp(N - 1)}"]


def test_a_lead_is_a_length_of_time(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        replay(log, "--model", BUNDLE, "--events", failures(tmp_path, 1), "--lead", "a week")
    assert "'a week' is not a length of time such as 45s, 90m, 6h, 2d or 1w" in capsys.readouterr().err


class Run(NamedTuple):
    core: Core
    blocks: list[SampleBlock]
    traces: list[Trace]
    history: History
    budgets: list[Budget]


@pytest.fixture(scope="module")
def run(log: Path) -> Run:
    """One replay, of which any failures can be judged."""
    on = core()
    budgets, history = ask(on), History()
    read = read_log(log, LogOptions(device_id="pump"), warn=lambda text: None)
    items = list(as_received(read, on, recorded=False))
    traces: list[Trace] = []
    for step in play(items, on, recorded=False):
        for alert in step.alerts:
            history.add(alert)
        traces += step.traces
    blocks = [item for item in items if isinstance(item, SampleBlock)]
    return Run(on, blocks, traces, history, budgets)


@settings(max_examples=60, deadline=None)
@given(seconds=st.lists(st.integers(-5000, 15_000), max_size=8), lead_s=st.integers(1, 4000))
def test_caught_and_missed_are_the_failures_that_are_recorded_and_watched(
    run: Run, seconds: list[int], lead_s: int
) -> None:
    history, budgets = run.history, run.budgets
    failed = [Failure(at(second), ("pump",), "pump") for second in sorted(seconds)]
    watch = FailureWatch(run.core, failed, lead_s * NS_PER_S, budgets)
    for block in run.blocks:
        watch.block(block)
    for trace in run.traces:
        watch.trace(trace)
    found: Findings = watch.findings(history)
    recorded = [second for second in seconds if second >= 0 and second - lead_s <= N - 1]
    n_out = {outcome: sum(f.outcome is outcome for f in found.findings) for outcome in Outcome}
    assert n_out[Outcome.NOT_RECORDED] == len(seconds) - len(recorded)
    starts, ends = (min(t.start_ns[0] for t in run.traces), max(t.end_ns[-1] for t in run.traces))
    leads = ((at(second) - lead_s * NS_PER_S, at(second)) for second in recorded)
    n_unwatched = sum(min(end, ends) <= max(begin, starts) for begin, end in leads)
    assert n_out[Outcome.NOT_WATCHED] == n_unwatched
    assert found.n_caught + found.n_missed == len(recorded) - n_unwatched == len(found.judged)
    assert 0 <= found.chance <= len(recorded) + 1e-9
    for finding in found.findings:
        if finding.outcome is Outcome.CAUGHT:
            assert finding.lead_ns is not None
            assert 0 <= finding.lead_ns <= lead_s * NS_PER_S
            assert finding.n_counting > 0
        else:
            assert finding.alert is None
            assert finding.n_counting == 0
    (now,) = [point for point in found.points if point.in_service]
    assert (now.n_caught, now.n_false) == (found.n_caught, found.n_false)
    assert now.n_raised == sum(told.counts for told in history.alerts)
    # The budget in service is also one of those that were asked for.
    same = next(b for b in budgets if b.alerts_per_week == now.alerts_per_week)
    assert same.raised()["pump"].tolist() == history.raised()["pump"].tolist()
