"""A device that learns its model by itself: from its first window to its first alert, over a restart, and in replay."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.assembly import Core, assemble
from edge_node.cli import main
from edge_node.config import load_config
from edge_node.learner import MOST_TIMES, Learner, wanted_windows
from examples.simulated_plant import AXES, PLANT, Fault, FaultKind, Plant
from models import manifest as manifests
from models import messages
from models.acceptance import Acceptance
from models.messages import Alert, DeviceStateMessage
from models.recording import RecordingWriter
from models.signal import NS_PER_S, DropReason, SampleBlock
from tests.edge_node.versions import KEY
from tests.edge_node.versions import written as bundle_written

RATE, WINDOW, HOP = 1000, 256, 128
T0_NS = 1_790_000_000 * NS_PER_S
WANTED = wanted_windows(WINDOW, HOP)
N_LEARN = (WANTED - 1) * HOP + WINDOW  # samples until there is enough
IN_PROCESS = 'inference = "in_process"\n'
DEVICE = f"""
[[device]]
id = "press-4"
machine = "press 4"
channels = [{{ name = "x", unit = "m/s2" }}, {{ name = "y", unit = "m/s2" }}]
rate_hz = {RATE}
window = {WINDOW}
hop = {HOP}
model = "learn"
"""


def vibration(n: int, seed: int = 0, start: int = 0) -> NDArray[np.float32]:
    """A machine that is well: a tone and noise on two axes."""
    t = np.arange(start, start + n) / RATE
    tone = np.sin(2 * math.pi * 49.0 * t)
    return (np.stack([tone, 0.5 * tone], axis=1) + np.random.default_rng(seed).normal(0, 0.3, (n, 2))).astype(
        np.float32
    )


def broken(n: int, seed: int = 0, start: int = 0) -> NDArray[np.float32]:
    """The same with a bearing that rings."""
    t = np.arange(start, start + n) / RATE
    return vibration(n, seed, start) + np.outer(np.sin(2 * math.pi * 340.0 * t), [1.5, 0.7]).astype(
        np.float32
    )


def written(folder: Path, device: str = DEVICE, before: str = "", gateway: str = IN_PROCESS) -> Path:
    path = folder / "gateway.toml"
    path.write_text(f'[gateway]\nname = "g1"\nsite = "s1"\n{gateway}{before}{device}')
    return path


def blocks(
    values: NDArray[np.float32], size: int, start: int = 0, device: str = "press-4"
) -> list[SampleBlock]:
    found = []
    for i in range(0, len(values), size):
        part = values[i : i + size]
        first_ns = T0_NS + (start + i) * NS_PER_S // RATE
        arrival_ns = first_ns + len(part) * NS_PER_S // RATE
        found.append(
            SampleBlock.uniform(
                device,
                ("x", "y")[: part.shape[1]],
                part,
                start_ns=first_ns,
                rate_hz=Fraction(RATE),
                arrival_ns=arrival_ns,
            )
        )
    return found


def heard(core: Core, given: Sequence[SampleBlock]) -> tuple[list[Alert], list[DeviceStateMessage]]:
    alerts, states = [], []
    for block in given:
        core.push(block)
        for event in core.pipeline.events():
            if isinstance(event.event, Alert):
                alerts.append(event.event)
            elif isinstance(event.event, DeviceStateMessage):
                states.append(event.event)
    return alerts, states


def core_of(path: Path) -> Core:
    return assemble(load_config(path), on_notice=lambda text: None)


def test_a_device_learns_then_scores_then_says_what_is_wrong(tmp_path: Path) -> None:
    core = core_of(written(tmp_path))
    n_well = N_LEARN + 60 * RATE
    alerts, states = heard(core, blocks(vibration(n_well), 100))
    assert [alert.message for alert in alerts] == []
    (model,) = core.models
    assert (model.model_id, model.version) == ("learned-press-4", 0)
    said = [(s.state.value, s.progress) for s in states]
    assert said == [*(("learning", i / 10) for i in range(11)), ("normal", None)]
    fault = broken(20 * RATE, seed=1, start=n_well)
    alerts, states = heard(core, blocks(fault, 100, n_well))
    assert [(a.kind, a.state) for a in alerts][:1] == [("machine", "raised")]
    assert alerts[0].end_ns - (T0_NS + n_well * NS_PER_S // RATE) < 10 * NS_PER_S
    assert alerts[0].contributions[0].channel == "x"
    counters = core.pipeline.counters()
    assert counters.window_drops == {DropReason.LEARNING: WANTED}
    assert counters.n_windows_closed == counters.n_windows_scored + counters.n_windows_pending + WANTED


def model_of(core: Core) -> bytes:
    return manifests.encode(core.bundles["press-4"].manifest)


def test_how_the_signal_comes_changes_neither_the_model_nor_the_alerts(tmp_path: Path) -> None:
    n_well = N_LEARN + 5 * RATE
    signal = np.concatenate([vibration(n_well), broken(5 * RATE, 1, n_well)])
    found = []
    for size in (37, 1000, len(signal)):
        core = core_of(written(tmp_path))
        alerts, _ = heard(core, blocks(signal, size))
        found.append((model_of(core), [messages.encode(alert) for alert in alerts]))
        assert alerts
    assert found[1:] == found[:1] * 2


@pytest.mark.parametrize("at", [3000, 9000, N_LEARN - 50, N_LEARN + 500])
def test_what_was_learned_survives_a_restart(tmp_path: Path, at: int) -> None:
    path, signal = written(tmp_path), vibration(N_LEARN + RATE)
    whole = core_of(path)
    heard(whole, blocks(signal, 100))
    first, second = core_of(path), core_of(path)
    first.teacher = None  # as in the daemon: somebody else makes the model, later
    heard(first, blocks(signal[:at], 100))
    second.pipeline.restore(first.pipeline.snapshot())
    heard(second, blocks(signal[at:], 100, at))
    assert model_of(second) == model_of(whole)
    assert second.pipeline.counters() == whole.pipeline.counters()


def test_windows_wait_for_a_model_that_takes_its_time_but_not_without_bound(tmp_path: Path) -> None:
    core = core_of(written(tmp_path, gateway=f"{IN_PROCESS}max_waiting = 40\n"))
    teacher, core.teacher = core.teacher, None
    heard(core, blocks(vibration(N_LEARN + 30 * HOP), 100))
    assert core.pipeline.learned == ["press-4"]
    assert core.pipeline.counters().n_windows_pending == 30
    heard(core, blocks(vibration(20 * HOP), 100, N_LEARN + 30 * HOP))
    counters = core.pipeline.counters()
    assert (counters.n_windows_pending, counters.window_drops[DropReason.BACKPRESSURE]) == (40, 10)
    core.teacher = teacher
    core.score()
    assert core.pipeline.counters().n_windows_scored == 40


def test_a_machine_that_is_still_warming_up_is_learned_from_once_it_is_warm(tmp_path: Path) -> None:
    n = 2 * N_LEARN
    gain = 1.0 + 2.0 * np.exp(-np.arange(n) / (0.2 * N_LEARN))
    signal = vibration(n) * gain[:, None].astype(np.float32)
    core = core_of(written(tmp_path))
    heard(core, blocks(signal, 100))
    training = core.bundles["press-4"].manifest.training
    assert training.set_aside["forgotten"] >= WANTED // 5
    assert not any("still on its way" in note for note in training.notes)
    assert training.end_ns - T0_NS > 1.2 * N_LEARN * NS_PER_S / RATE


def test_a_machine_that_never_settles_is_learned_from_in_the_end_and_it_is_said(tmp_path: Path) -> None:
    n = MOST_TIMES * (N_LEARN + 10 * HOP)
    signal = vibration(n) * np.linspace(1.0, 60.0, n)[:, None].astype(np.float32)
    core = core_of(written(tmp_path))
    heard(core, blocks(signal, 1000))
    training = core.bundles["press-4"].manifest.training
    assert any("still on its way" in note for note in training.notes)
    assert training.n_windows + training.set_aside["forgotten"] <= 1.1 * MOST_TIMES * WANTED


def test_rest_faults_gaps_and_exceeded_limits_are_not_learned_from(tmp_path: Path) -> None:
    rules = 'active_when = "press-4.y > -100"\n[[device.limit]]\nname = "hit"\nchannel = "x"\nabove = 50\n'
    core = core_of(written(tmp_path, DEVICE + rules))
    signal = vibration(N_LEARN + 40 * HOP)
    signal[2000:4000, 1] = -200.0  # at rest
    signal[6000, 0] = 100.0  # hit
    given = blocks(signal, 100)
    del given[90:95]  # a gap
    heard(core, given)
    drops = core.pipeline.counters().window_drops
    assert drops[DropReason.INACTIVE] >= 14
    assert drops[DropReason.GAP] >= 3
    (channel, other) = core.bundles["press-4"].manifest.channels
    assert channel.baseline.maximum < 50
    assert other.baseline.minimum > -100
    assert core.bundles["press-4"].manifest.training.n_windows == WANTED
    assert drops[DropReason.LEARNING] in (WANTED + 2, WANTED + 3)  # with those that the hit is in


def test_a_machine_in_which_nothing_moves_is_learned_from_when_it_does(tmp_path: Path) -> None:
    notices: list[str] = []
    core = assemble(load_config(written(tmp_path)), on_notice=notices.append)
    heard(core, blocks(np.full((N_LEARN + RATE, 2), 0.25, np.float32), 100))
    assert core.models == ()
    assert "nothing ever changes" in notices[0]
    core.pipeline.counters()
    heard(core, blocks(vibration(8 * N_LEARN), 100, N_LEARN + RATE))
    assert [model.version for model in core.models] == [0]


@pytest.mark.parametrize("kind", [FaultKind.BEARING, FaultKind.IMBALANCE])
def test_a_board_of_the_simulated_plant_alerts_minutes_after_its_first_sample(
    tmp_path: Path, kind: FaultKind
) -> None:
    board = next(s for s in PLANT if s.device == "press-1-vibration")
    text = (
        '[[device]]\nid = "press-1-vibration"\nrate_hz = 1000\nchannels = ["x", "y", "z"]\nmodel = "learn"\n'
    )
    core, begins_s = core_of(written(tmp_path, text)), 180
    plant = Plant([Fault(kind, board.device, begins_s, growth_s=60.0)])
    alerts: list[Alert] = []
    for second in range(begins_s + 60):
        values = plant.second(board, second)
        assert values is not None
        start_ns = T0_NS + second * NS_PER_S
        block = SampleBlock.uniform(
            board.device,
            AXES,
            values,
            start_ns=start_ns,
            rate_hz=Fraction(1000),
            arrival_ns=start_ns + NS_PER_S,
        )
        alerts += heard(core, [block])[0]
    raised = [a for a in alerts if a.state == "raised"]
    assert [a.kind for a in raised] == ["machine"]
    assert begins_s < (raised[0].end_ns - T0_NS) / NS_PER_S < begins_s + 60


def test_commands_say_what_will_be_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert main(["check", "-c", str(path)]) == 0
    out = capsys.readouterr().out
    assert "learned-press-4, learned here (vibration): from 13 s of running, or more" in out
    assert "no model named" not in out
    assert main(["plan", "-c", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 device makes its model here: these figures are of the time from then on" in out
    assert "budget  1 false alarm a week" in out


def test_a_plan_counts_what_a_device_will_have_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = core_of(written(tmp_path))
    heard(core, blocks(vibration(N_LEARN), 1000))
    bundle, folder = core.bundles["press-4"], tmp_path / "learned"
    folder.mkdir()
    manifest = manifests.sign(bundle.manifest, KEY)
    bundle_written(folder / "press-4", (manifest, bundle.artifacts))
    found = []
    for model in ("learn", str(folder / "press-4")):
        path = written(tmp_path, DEVICE.replace('"learn"', f'"{model}"'))
        assert main(["plan", "--json", "-c", str(path)]) == 0
        found.append(json.loads(capsys.readouterr().out))
    ours, theirs = found
    assert (ours["n_models"], ours["n_devices"]) == (1, 1)
    for of in ("summary", "alert"):
        one, other = (next(m for m in plan["messages"] if m["kind"] == of) for plan in found)
        assert one["n"] == other["n"]
        assert one["mean_bytes"] == pytest.approx(other["mean_bytes"], rel=0.05)
    for key in ("state_bytes", "model_bytes", "feature_log_bytes"):
        assert ours[key] == pytest.approx(theirs[key], rel=0.15), key


def test_a_device_that_names_no_model_is_told_how_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = DEVICE.replace('model = "learn"\n', "")
    path = written(tmp_path, bare + DEVICE.replace("press-4", "press-5").replace('"learn"', '"none"'))
    assert main(["check", "-c", str(path)]) == 0
    assert 'no model named for press-4: model = "learn" has this gateway make one' in capsys.readouterr().out


def test_a_silence_while_a_model_is_made_comes_after_the_windows_before_it(tmp_path: Path) -> None:
    gated = DEVICE + 'active_when = "press-4.y > -100"\n'
    n = N_LEARN + 30 * HOP
    signal = np.concatenate([vibration(n - 10 * HOP), broken(10 * HOP, 1)])
    silent_ns = T0_NS + n * NS_PER_S // RATE + 120 * NS_PER_S
    found = []
    for waits in (False, True):
        core = core_of(written(tmp_path, gated))
        teacher = core.teacher
        if waits:
            core.teacher = None
        alerts, _ = heard(core, blocks(signal, 100))
        core.pipeline.advance(silent_ns)
        alerts += heard(core, [])[0]
        if waits:
            assert core.pipeline.learned == ["press-4"]
            other = core_of(written(tmp_path, gated))  # and over a restart
            other.pipeline.restore(core.pipeline.snapshot())
            core = other
        core.teacher = teacher
        core.score()
        alerts += [e.event for e in core.pipeline.events() if isinstance(e.event, Alert)]
        again = blocks(vibration(RATE), 100, n + 200 * RATE)
        found.append([messages.encode(a) for a in [*alerts, *heard(core, again)[0]]])
        assert core.pipeline.conditions() == {"press-4": "anomalous"}
    assert found[0] == found[1]
    assert len(found[0]) == 3  # wrong, silent, and heard again


def test_a_device_whose_windows_always_have_a_hole_learns_all_the_same(tmp_path: Path) -> None:
    slow = DEVICE.replace(f"rate_hz = {RATE}\nwindow = {WINDOW}\nhop = {HOP}", "rate_hz = 1")
    values = np.random.default_rng(0).normal([60.0, 8.0], 0.5, (4000, 2)).astype(np.float32)
    values[::20, 1] = np.nan
    core = core_of(written(tmp_path, slow))
    for i in range(0, len(values), 50):
        start_ns = T0_NS + i * NS_PER_S
        heard(
            core,
            [
                SampleBlock.uniform(
                    "press-4",
                    ("x", "y"),
                    values[i : i + 50],
                    start_ns=start_ns,
                    rate_hz=Fraction(1),
                    arrival_ns=start_ns + 50 * NS_PER_S,
                )
            ],
        )
    manifest = core.bundles["press-4"].manifest
    assert (manifest.features.set, manifest.window.n, manifest.training.n_windows) == (
        "slow",
        60,
        wanted_windows(60, 1),
    )
    assert core.pipeline.counters().n_windows_scored > 800


def requests_a_minute(n: int, seed: int) -> NDArray[np.float32]:
    """Counts with a day in them and noise, and the load that goes with them."""
    rng = np.random.default_rng(seed)
    day = 1.0 + 0.6 * np.sin(2 * math.pi * np.arange(n) / 400)
    count = rng.poisson(200 * day)
    return np.stack([count, 0.2 * count + rng.normal(0, 2.0, n)], axis=1).astype(np.float32)


def minutes(values: NDArray[np.float32], start: int) -> list[SampleBlock]:
    given = []
    for i in range(0, len(values), 20):
        part = values[i : i + 20]
        first_ns = T0_NS + 60 * (start + i) * NS_PER_S
        arrival_ns = first_ns + 60 * len(part) * NS_PER_S
        rate = Fraction(1, 60)
        block = SampleBlock.uniform(
            "press-4", ("x", "y"), part, start_ns=first_ns, rate_hz=rate, arrival_ns=arrival_ns
        )
        given.append(block)
    return given


def test_telemetry_is_learned_with_its_range_and_a_new_extreme_is_said(tmp_path: Path) -> None:
    device = DEVICE.replace(
        f"rate_hz = {RATE}\nwindow = {WINDOW}\nhop = {HOP}", "interval_s = 60\nwindow = 20"
    )
    device = device.replace("[[device]]", '[[device]]\nmode = "continuous"\nfeatures = "telemetry"')
    path = written(tmp_path, device.replace("m/s2", ""))
    core = core_of(path)
    wanted = wanted_windows(20, 1)
    n = wanted + 19
    alerts, _ = heard(core, minutes(requests_a_minute(n, 0), 0))
    manifest = core.bundles["press-4"].manifest
    assert (manifest.features.set, manifest.window.n, manifest.window.hop) == ("telemetry", 20, 1)
    assert (manifest.recentring, manifest.training.n_windows) == (None, wanted)
    assert manifest.training.notes == ("fitted by the gateway itself",)  # a day is no warming up
    plan = core.plans[0]
    assert (plan.alert.n_raise, plan.alert.m_raise) == (1, 1)  # a new extreme is in one window alone
    later = requests_a_minute(1000, 1)
    alerts, _ = heard(core, minutes(later, n))
    n_before = len([a for a in alerts if a.state == "raised"])
    spike = requests_a_minute(40, 2)
    spike[20:22] *= 8
    alerts, _ = heard(core, minutes(spike, n + 1000))
    raised = [a for a in alerts if a.state == "raised"]
    assert [a.kind for a in raised] == ["machine"]
    assert n_before <= 2
    fresh = core_of(path)  # and a restart goes on from where the range stood
    fresh.teacher.serve(fresh, "press-4", core.bundles["press-4"])  # type: ignore[union-attr]
    fresh.pipeline.restore(core.pipeline.snapshot())
    assert fresh.pipeline.snapshot() == core.pipeline.snapshot()


def test_of_bursts_each_is_a_window_and_learning_takes_as_long_as_they_are_apart(tmp_path: Path) -> None:
    device = DEVICE.replace(
        f"window = {WINDOW}\nhop = {HOP}", 'window = 512\ninterval_s = 60\nmode = "burst"'
    )
    core = core_of(written(tmp_path, device))
    plan = core.plans[0]
    assert (plan.window.n, plan.window.hop) == (512, 512)
    assert plan.learn is not None
    learner = Learner(plan, plan.learn)
    assert learner.target == wanted_windows(512, 512) == 51
    assert learner.left_s == 51 * 60.0


def test_what_failed_while_it_was_learned_was_not_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "press.parquet"
    with RecordingWriter(log) as writer:
        for block in blocks(vibration(40_000), 1000):
            writer.write(block)
    events = tmp_path / "failures.csv"
    failed = [T0_NS // NS_PER_S + second for second in (5, 35)]
    events.write_text("time,device\n" + "".join(f"{second},press-4\n" for second in failed))
    config = str(written(tmp_path))
    asked = ["--device", "press-4", "--events", str(events), "--lead", "4s"]
    assert main(["replay", str(log), "-c", config, *asked]) == 0
    said = capsys.readouterr().out
    outcomes = re.findall(r"^\d{4}-\S+ \S+Z +press-4 +(not watched|missed|caught) ", said, re.M)
    assert (outcomes[0], len(outcomes)) == ("not watched", 2)
    assert outcomes[1] in ("missed", "caught")
    assert re.search(r"^failures caught +[01] of 1 ", said, re.M)
    assert "the device was still learning" in said


def test_a_page_of_a_device_that_learned_has_scores_a_level_and_all_budgets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, events = tmp_path / "press.parquet", tmp_path / "failures.csv"
    with RecordingWriter(log) as writer:
        for block in blocks(np.concatenate([vibration(30_000), broken(5_000, 1, 30_000)]), 1000):
            writer.write(block)
    events.write_text(f"time,device\n{T0_NS // NS_PER_S + 34},press-4\n")
    asked = ["--device", "press-4", "--events", str(events), "--lead", "5s", "--report", str(tmp_path / "r")]
    assert main(["replay", str(log), "-c", str(written(tmp_path)), *asked]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^level +1 alert a week \(score ", said, re.M)
    assert re.search(r"^failures caught +1 of 1 ", said, re.M)
    assert re.search(r"^1 \*  ", said, re.M)
    more = re.findall(r"^([\d.]+)  +\d+  ", said, re.M)  # budgets, and what they raise
    assert len(more) >= 2
    (page,) = (tmp_path / "r").glob("*.html")
    assert "score" in page.read_text()


@pytest.mark.parametrize(
    ("n", "drops", "told"),
    [
        (
            5_000,
            (),
            r"press-4: nothing was scored, for it still learns: \d+% is there, and [\d.]+ s of running are wanted yet",
        ),
        (30_000, (7,), r"press-4: nothing was scored, for all of its windows have samples missing"),
    ],
)
def test_a_replay_in_which_nothing_was_scored_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], n: int, drops: tuple[int, ...], told: str
) -> None:
    log = tmp_path / "press.parquet"
    with RecordingWriter(log) as writer:
        for i, block in enumerate(blocks(vibration(n), 100)):
            writer.write(block.slice(0, 80) if drops and i % 2 else block)
    assert main(["replay", str(log), "-c", str(written(tmp_path)), "--device", "press-4"]) == 0
    captured = capsys.readouterr()
    assert re.search(told, captured.out + captured.err), captured


def test_no_two_devices_share_what_they_have_learned(tmp_path: Path) -> None:
    names = ("press-4", "press 4", "press?4", "泵-1", "阀-1")
    devices = "".join(DEVICE.replace('id = "press-4"', f'id = "{name}"') for name in names)
    learned = [plan.learn.model_id for plan in core_of(written(tmp_path, devices)).plans if plan.learn]
    assert learned[0] == "learned-press-4"
    assert len(set(learned)) == len(names)


@pytest.mark.parametrize("size", [37, 100, 1000, 5000])
def test_a_limit_that_was_exceeded_as_the_machine_began_to_run_is_no_part_of_it(
    tmp_path: Path, size: int
) -> None:
    """However the signal is cut: also where the window that shows it is one of rest."""
    device = DEVICE + 'active_when = "press-4.y > -100"\n'
    device += '[[device.limit]]\nname = "hit"\nchannel = "x"\nabove = 50.0\n'
    values = vibration(N_LEARN + 40 * HOP)
    values[4000:6100, 1] = -200.0
    values[6200, 0] = 100.0
    core = core_of(written(tmp_path, device))
    heard(core, blocks(values, size))
    (channel,) = [c for c in core.bundles["press-4"].manifest.channels if c.name == "x"]
    assert channel.baseline.maximum < 50.0


def test_what_waits_for_a_model_is_shed_by_the_window(tmp_path: Path) -> None:
    core = core_of(written(tmp_path, gateway=f"{IN_PROCESS}max_waiting = 100\n"))
    core.teacher = None  # it is made elsewhere, meanwhile
    heard(core, blocks(vibration(N_LEARN), 1000))
    for block in blocks(vibration(120 * HOP, 1, N_LEARN), 60 * HOP, N_LEARN):
        core.push(block)
    counters = core.pipeline.counters()
    assert (counters.n_windows_pending, counters.window_drops[DropReason.BACKPRESSURE]) == (100, 20)


@pytest.mark.parametrize("n_after", [0, 200])
def test_what_is_accepted_while_a_model_is_made_is_of_that_model(tmp_path: Path, n_after: int) -> None:
    """So that a replay, in which the model is there at once, answers the same."""
    n = N_LEARN + n_after * HOP
    values = np.concatenate([vibration(N_LEARN), broken(n - N_LEARN, 5, N_LEARN)])
    answers = []
    for at_once in (True, False):
        core = core_of(written(tmp_path))
        teacher = core.teacher
        core.teacher = teacher if at_once else None
        alerts, _ = heard(core, blocks(values, 100))
        core.pipeline.accept(
            Acceptance(
                transaction="r1", device_id="press-4", by="Anna", arrival_ns=T0_NS + n * NS_PER_S // RATE
            )
        )
        if not at_once:
            assert core.pipeline.take_verdicts() == []
            waiting = core.pipeline.snapshot()
            core = core_of(written(tmp_path))
            core.pipeline.restore(waiting)  # it waits through a restart
        core.score()
        verdicts = [(v.refusal, v.text) for v in core.pipeline.take_verdicts()]
        alerts += [e.event for e in core.pipeline.events() if isinstance(e.event, Alert)]
        alerts += heard(core, blocks(broken(20 * RATE, 7, n), 100, n))[0]
        answers.append((verdicts, [(a.kind, a.state, a.start_ns) for a in alerts]))
    assert answers[0] == answers[1]
    assert len(answers[0][0]) == 1
