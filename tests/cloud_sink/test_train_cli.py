"""``cloud-sink train`` from the command line to a bundle that a gateway takes, on made and on recorded signals."""

from __future__ import annotations

import errno
import os
import re
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cloud_sink import quantise
from cloud_sink.bundle import BundleError, next_version, write_bundle
from cloud_sink.cli import REFUSED, USAGE, main
from edge_node.model_store import load_bundle
from models import manifest as manifests
from models.evidence import Mark
from models.features import extract
from models.manifest import ModelManifest
from models.messages import rfc3339
from models.recording import Beginning, RecordingWriter, read_log
from models.scoring import normalise
from models.signal import NS_PER_S, Channel, Device, Mode, SampleBlock
from models.time_policy import RecordedDevice
from models.windowing import Windower, default_policy
from tests.cloud_sink.recordings import START_NS, slow_signal, write_csv
from tests.data import data_path
from tests.femto import write_log

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("log") / "press.csv", slow_signal(900))


def train(*arguments: object, out: Path, features: str = "slow") -> int:
    return main(["train", *map(str, arguments), "--features", features, "-o", str(out)])


def manifest_of(out: Path) -> ModelManifest:
    return load_bundle(out).manifest


def at(seconds: float) -> str:
    return rfc3339(START_NS + round(seconds * NS_PER_S))


def test_a_recording_becomes_a_bundle_that_a_gateway_takes(
    log: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "models" / "press-4"
    assert train(log, out=out) == 0
    names = [re.sub(r"-[0-9a-f]{12}\.", ".", p.name) for p in out.iterdir()]
    assert sorted(names) == ["cpu-float32.tflite", "cpu-int8.tflite", "manifest.json"]
    assert sorted(p.name for p in out.parent.iterdir()) == ["press-4"]
    manifest = manifest_of(out)
    assert (manifest.model_id, manifest.version, manifest.family) == ("press-4", 1, "mahalanobis")
    assert manifest.channel_names == ("pressure", "flow", "current")
    assert (manifest.window.n, manifest.window.hop, manifest.window.n_fast) == (60, 1, 10)
    assert manifest.window.mode is Mode.IRREGULAR
    assert manifest.training.n_windows == 841
    table = capsys.readouterr().out
    for text in (
        "windows used",
        "841",
        "set aside",
        "effective windows",
        "cross-fit false alarms",
        "extrapolated, verified only to",
        "score correlation",
        "batch 1",
        "batch 16",
        "cpu-int8",
    ):
        assert text in table


def test_int8_that_is_not_published_is_still_compared(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = slow_signal(1200)
    signal[900:1000, 0] += 0.5
    log = write_csv(tmp_path / "press.csv", signal, anomaly=np.arange(1200) // 100 == 9)
    monkeypatch.setattr(quantise, "MIN_CORRELATION", 1.01)
    assert train(log, "--edgetpu", out=tmp_path / "m") == 0
    manifest = manifest_of(tmp_path / "m")
    assert [a.target for a in manifest.artifacts] == ["cpu-float32"]
    said = capsys.readouterr()
    row = re.search(r"^cpu-int8 +not published +(\S+) +(\S+) +- +-$", said.out, re.M)
    assert row is not None
    assert row[1] == f"{manifest.metrics['score_correlation']:.3f}"
    assert row[2] == f"{manifest.metrics['auc_int8']:.3f}"
    assert 0.9 < float(row[1]) < 1.0
    assert "Edge TPU: no model for it, since it runs int8 alone" in said.err
    assert said.out.rstrip().endswith("(m version 1: cpu-float32)")


def test_without_an_edge_tpu_nothing_is_said_of_it(
    log: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "MIN_CORRELATION", 1.01)
    assert train(log, out=tmp_path / "m") == 0
    said = capsys.readouterr()
    assert "not published" in said.out
    assert "int8 not published" in said.err
    assert "Edge TPU" not in said.err + said.out


def test_all_that_was_asked_for_is_in_the_manifest(log: Path, tmp_path: Path) -> None:
    options = "--family linear-ae --window 30 --hop 5 --n-fast 6 --no-recentring --seed 4 --model-id press --class presses"
    assert (
        train(log, *options.split(), "--unit", "pressure=bar", "--origin", "flow=30", out=tmp_path / "m") == 0
    )
    manifest = manifest_of(tmp_path / "m")
    assert (manifest.model_id, manifest.class_, manifest.family) == ("press", "presses", "linear-ae")
    assert (manifest.window.n, manifest.window.hop, manifest.features.n_fast) == (30, 5, 6)
    assert manifest.recentring is None
    assert [(c.unit, c.origin) for c in manifest.channels] == [("bar", 0.0), ("", 30.0), ("", 0.0)]
    assert abs(manifest.channels[1].baseline.minimum) < 30


def test_a_device_that_the_log_does_not_name_is_called_as_asked(log: Path, tmp_path: Path) -> None:
    assert train(log, "--device", "press-4", out=tmp_path / "m") == 0
    assert manifest_of(tmp_path / "m").training.n_windows == 841


def test_a_device_that_the_log_names_otherwise_is_refused(tmp_path: Path, capsys: Capture) -> None:
    log = tmp_path / "all.csv"
    rows = "".join(f"{1_700_000_000 + i},{name},{i % 7}\n" for i in range(300) for name in ("own", "other"))
    log.write_text("t,device,x\n" + rows)
    assert train(log, "--device", "press-4", out=tmp_path / "m") == REFUSED
    assert "no device 'press-4' in it, only other, own" in one_line(capsys)


def test_values_that_were_dropped_are_told(log: Path, tmp_path: Path, capsys: Capture) -> None:
    assert train(log, out=tmp_path / "m") == 0
    said = capsys.readouterr().out
    assert re.search(r"^windows set aside +none$", said, re.M)
    assert re.search(r"^values dropped +none$", said, re.M)
    lines = log.read_text().splitlines(keepends=True)
    header, rows = lines[0], lines[1:]
    rows[300] = rows[300].split(",")[0] + ",1,nan,1\n"  # a value that is none
    rows.insert(500, rows[499])  # a row twice
    rows.append(rows[10])  # a row that comes at the end
    odd = tmp_path / "odd.csv"
    odd.write_text(header + "".join(rows))
    assert train(odd, out=tmp_path / "odd") == 0
    dropped = re.search(r"^values dropped +(.+)$", capsys.readouterr().out, re.M)
    assert dropped is not None
    assert dropped[1] == "3 duplicate, 3 late, 1 not_finite"


def test_a_table_that_devices_share_trains_each_on_its_own_columns(
    log: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The others' cells are empty: no channel of it, and nothing that was dropped."""
    header, *rows = log.read_text().splitlines()
    time, _, channels = header.partition(",")
    shared = [f"{time},device,{channels},speed"]
    for i, row in enumerate(rows):
        at, _, values = row.partition(",")
        shared += [f"{at},press,{values},", f"{at},fan,{',' * channels.count(',')},{i % 7}"]
    wide = tmp_path / "wide.csv"
    wide.write_text("\n".join(shared) + "\n")
    assert train(wide, "--device", "press", out=tmp_path / "press") == 0
    said = capsys.readouterr().out
    assert re.search(r"^windows set aside +none$", said, re.M)
    assert re.search(r"^values dropped +none$", said, re.M)
    assert manifest_of(tmp_path / "press").channel_names == ("pressure", "flow", "current")
    assert train(wide, "--device", "fan", out=tmp_path / "fan") == 0
    assert manifest_of(tmp_path / "fan").channel_names == ("speed",)


def test_a_second_training_is_the_next_version(log: Path, tmp_path: Path) -> None:
    for version in (1, 2):
        assert train(log, "--rows", 500, out=tmp_path / "m") == 0
        assert manifest_of(tmp_path / "m").version == version
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("options", "first_s", "n_windows"),
    [
        (["--rows", "500"], 0, 441),
        (["--from", at(200)], 200, 641),
        (["--from", at(200), "--until", at(600)], 200, 341),
        (["--from", "2023-11-14T23:16:40", "--timezone", "Europe/Berlin"], 200, 641),
    ],
)
def test_only_the_part_named_is_trained_on(
    log: Path, tmp_path: Path, options: list[str], first_s: int, n_windows: int
) -> None:
    assert train(log, *options, out=tmp_path / "m") == 0
    training = manifest_of(tmp_path / "m").training
    assert (training.start_ns, training.n_windows) == (START_NS + first_s * NS_PER_S, n_windows)


def test_what_was_not_healthy_is_excluded_and_counted(log: Path, tmp_path: Path, capsys: Capture) -> None:
    exclude = tmp_path / "exclude.csv"
    exclude.write_text(f"start,end\n{at(300)},{at(320)}\n")
    assert train(log, "--exclude", exclude, out=tmp_path / "m") == 0
    training = manifest_of(tmp_path / "m").training
    assert training.set_aside == {"excluded": 79}
    assert training.n_windows == 841 - 79
    assert "excluded" in capsys.readouterr().out


@pytest.mark.parametrize(("late_s", "warned"), [(0, False), (100_000, True)])
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--labels", "no label lies within the log"),
        ("--exclude", "no interval of --exclude lies within the recording"),
    ],
)
def test_intervals_that_mark_nothing_are_told(
    log: Path, tmp_path: Path, late_s: int, warned: bool, option: str, says: str, capsys: Capture
) -> None:
    marks = tmp_path / "marks.csv"
    marks.write_text(f"start,end\n{at(300 + late_s)},{at(310 + late_s)}\n")
    assert train(log, option, marks, out=tmp_path / "m") == 0
    assert (says in capsys.readouterr().err) is warned


def test_labelled_anomalies_are_left_out_and_tell_the_auc(tmp_path: Path, capsys: Capture) -> None:
    signal = slow_signal(1200)
    signal[900:1000, 0] += 0.5
    anomaly = np.zeros(1200, np.bool_)
    anomaly[900:1000] = True
    log = write_csv(tmp_path / "press.csv", signal, anomaly=anomaly)
    assert train(log, out=tmp_path / "m") == 0
    manifest = manifest_of(tmp_path / "m")
    assert manifest.channel_names == ("pressure", "flow", "current")
    assert manifest.training.set_aside == {"labelled_anomalous": 159}
    assert manifest.metrics["auc_float32"] > 0.95
    assert train(log, "--rows", 950, out=tmp_path / "named") == 0
    assert manifest_of(tmp_path / "named").training.set_aside == {}
    assert "labelled anomalous" in capsys.readouterr().err


def test_a_gap_is_counted_and_not_trained_across(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "press.csv", slow_signal(900))
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:400] + lines[500:]))
    assert train(log, out=tmp_path / "m") == 0
    training = manifest_of(tmp_path / "m").training
    assert training.set_aside.get("gap", 0) > 0
    assert training.n_windows < 841 - 100


def test_a_recording_of_which_no_window_is_whole_is_trained_on(tmp_path: Path) -> None:
    """One value in 45 is missing, each window has 60 and needs nine tenths of them."""
    values = slow_signal(900)
    values[::45, 1] = np.nan
    log = write_csv(tmp_path / "lossy.csv", values)
    assert train(log, "--mode", "continuous", "--rate-hz", 1, out=tmp_path / "m") == 0
    assert manifest_of(tmp_path / "m").training.n_windows > 800


def test_trained_features_are_served_features(log: Path, tmp_path: Path) -> None:
    assert train(log, "--no-recentring", out=tmp_path / "m") == 0
    manifest = manifest_of(tmp_path / "m")
    device = Device(
        device_id="press",
        machine="x",
        mode=Mode.IRREGULAR,
        rate_hz=Fraction(1),
        channels=tuple(Channel(name=c) for c in manifest.channel_names),
    )
    windower = Windower(device, manifest.window, default_policy(manifest.window))
    for item in read_log(log):
        if isinstance(item, SampleBlock):
            for i in range(item.n):
                windower.push(item.slice(i, i + 1))
    windower.advance(START_NS + 902 * NS_PER_S)  # the clock closes the last one
    batches = windower.take()
    values = np.concatenate([b.values for b in batches])
    valid = np.concatenate([b.valid for b in batches])
    features = extract(manifest.features, values, valid, manifest.window.rate_hz)
    inputs = normalise(
        features, np.array(manifest.normalisation.centre), np.array(manifest.normalisation.scale)
    )
    assert len(inputs) == manifest.training.n_windows
    assert np.abs(inputs.mean(axis=0)).max() < 1e-4


# What goes wrong: one line, what, where and what to do; nothing is left behind.


def one_line(capsys: Capture) -> str:
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("cloud-sink")]
    assert captured.out == ""
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--features", "fast", "-o", "m"], "invalid choice: 'fast'"),
        (["--features", "slow"], "required: -o"),
        (["--features", "slow", "-o", "m", "--rows", "0"], "'0' is not a whole number of at least 1"),
        (["--features", "slow", "-o", "m", "--rate-hz", "fast"], "--rate-hz: 'fast' is not a rate"),
        (["--features", "slow", "-o", "m", "--unit", "bar"], "'bar' is not CHANNEL=VALUE"),
        (["--features", "slow", "-o", "m", "--origin", "flow=x"], "'x' is not a number"),
        (["--features", "slow", "-o", "m", "--from", "soon"], "--from 'soon' is not a time"),
        (["--features", "slow", "-o", "m", "--from", "2024-05-01"], "has no offset: add one"),
        (["--features", "slow", "-o", "m", "--separator", "ab"], "--separator must be one character"),
        (["--features", "slow", "-o", "m", "--model-id", "a/b"], "'a/b' cannot be a model's name"),
        (["--features", "slow", "-o", "m", "--alerts-per-week", "0"], "'0' is not a positive number"),
    ],
)
def test_a_wrong_call_is_exit_code_2(log: Path, arguments: list[str], says: str, capsys: Capture) -> None:
    try:
        code = main(["train", str(log), *arguments])
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert code == USAGE
    assert says in one_line(capsys)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rows", "50"], "about 50 samples make no window of 60: record for longer"),
        (["--rows", "200"], "effective ones, and a model needs 5: record about"),
        (
            ["--until", "2001-01-01T00:00:00Z"],
            "no rows in the part asked for: look at --rows, --from and --until",
        ),
        (
            ["--unit", "speed=m/s"],
            "--unit names 'speed', which is no channel of press: pressure, flow, current",
        ),
    ],
)
def test_a_recording_that_will_not_do_is_exit_code_1(
    log: Path, tmp_path: Path, options: list[str], says: str, capsys: Capture
) -> None:
    assert train(log, *options, out=tmp_path / "m") == REFUSED
    assert says in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--rate-hz", "1")])
def test_a_log_whose_newest_rows_come_first(
    log: Path, tmp_path: Path, options: tuple[str, ...], capsys: Capture
) -> None:
    header, *rows = log.read_text().splitlines(keepends=True)
    turned = tmp_path / "press.csv"
    turned.write_text(header + "".join(reversed(rows)))
    assert train(turned, *options, out=tmp_path / "m") == REFUSED
    assert "press.csv: times run backwards: sort the file by time" in one_line(capsys)


def test_a_bad_line_is_left_out_when_asked(log: Path, tmp_path: Path, capsys: Capture) -> None:
    lines = log.read_text().splitlines(keepends=True)
    bad = tmp_path / "press.csv"
    bad.write_text("".join([*lines[:400], "cut\n", *lines[400:]]))
    assert train(bad, out=tmp_path / "m") == REFUSED
    assert one_line(capsys).endswith("correct it, or leave such lines out with --skip-bad-lines")
    assert train(bad, "--skip-bad-lines", out=tmp_path / "m") == 0
    assert "1 unreadable lines left out" in capsys.readouterr().err
    assert manifest_of(tmp_path / "m").training.n_windows == 841


def test_a_log_without_rows(tmp_path: Path, capsys: Capture) -> None:
    log = tmp_path / "press.csv"
    log.write_text("t,pressure\n")
    for options in ((), ("--device", "press-4")):
        assert train(log, *options, out=tmp_path / "m") == REFUSED
        assert one_line(capsys) == f"cloud-sink: {log}: holds no rows"


def test_a_feature_set_for_another_kind_of_signal(log: Path, tmp_path: Path, capsys: Capture) -> None:
    assert train(log, "--window", 64, "--hop", 8, features="vibration", out=tmp_path / "v") == 0
    assert "vibration features of readings at 1 Hz say little: --features slow" in capsys.readouterr().err
    assert train(log, out=tmp_path / "s") == 0
    assert "--features" not in capsys.readouterr().err
    fast = tmp_path / "fast.csv"
    values = np.random.default_rng(0).normal(size=5000)
    rows = "".join(f"{1_700_000_000 + i / 200:.3f},{x:.4f}\n" for i, x in enumerate(values))
    fast.write_text("t,x\n" + rows)
    assert train(fast, out=tmp_path / "f") == 0
    assert "slow features of a signal at 200 Hz miss its spectrum" in capsys.readouterr().err


def test_a_channel_that_never_changes_is_named(tmp_path: Path, capsys: Capture) -> None:
    signal = slow_signal(900)
    signal[:, 1] = 32.0
    log = write_csv(tmp_path / "press.csv", signal)
    assert train(log, out=tmp_path / "m") == 0
    said = capsys.readouterr().err
    assert "channel 'flow' never changes in training" in said
    assert said.count("never changes") == 1


def test_an_extrapolated_level_says_what_would_verify_it(log: Path, tmp_path: Path, capsys: Capture) -> None:
    assert train(log, out=tmp_path / "m") == 0
    said = capsys.readouterr().out
    assert (
        "To verify a level of 1 alert a week takes about 7 days of healthy running that is judged, and this holds 11.2 min"
        in said
    )
    assert "mild faults may be missed" in said
    assert train(log, "--alerts-per-week", 5000, out=tmp_path / "n") == 0
    assert "To verify" not in capsys.readouterr().out


def test_naive_times_need_a_zone(tmp_path: Path, capsys: Capture) -> None:
    log = write_csv(tmp_path / "press.csv", slow_signal(500), offset="")
    assert train(log, out=tmp_path / "m") == REFUSED
    line = one_line(capsys)
    assert "press.csv, line 2" in line
    assert "--timezone" in line
    assert train(log, "--timezone", "UTC", out=tmp_path / "m") == 0


def test_a_log_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    assert train(tmp_path / "none.csv", out=tmp_path / "m") == REFUSED
    assert "none.csv" in one_line(capsys)
    assert train(tmp_path / "*.csv", out=tmp_path / "m") == REFUSED
    assert one_line(capsys).endswith("*.csv: no such file: name log files")


def test_a_recording_that_was_cut_short_is_trained_on_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    writer = RecordingWriter(path)
    for i in range(0, 900, 100):
        writer.write(
            SampleBlock.uniform(
                "press",
                ("p", "q", "r"),
                slow_signal(900)[i : i + 100],
                start_ns=START_NS + i * NS_PER_S,
                rate_hz=Fraction(1),
                arrival_ns=START_NS + (i + 100) * NS_PER_S,
            )
        )
    del writer
    assert not path.exists()
    assert train(path, out=tmp_path / "m") == 0
    assert train(tmp_path / "*.parquet", out=tmp_path / "m") == 0


def test_a_log_of_several_devices_needs_a_choice(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "all.jsonl"
    writer = RecordingWriter(path)
    for i, (device, channels) in enumerate((("press", ("p", "q")), ("pump", ("v",)))):
        block = SampleBlock.uniform(
            device,
            channels,
            slow_signal(500, seed=i)[:, : len(channels)],
            start_ns=START_NS,
            rate_hz=Fraction(1),
            arrival_ns=START_NS + 500 * NS_PER_S,
        )
        writer.write(block)
    writer.close()
    assert train(path, out=tmp_path / "m") == REFUSED
    assert "holds 2 devices: choose one with --device: press, pump" in one_line(capsys)
    assert train(path, "--device", "pump", out=tmp_path / "m") == 0
    assert manifest_of(tmp_path / "m").channel_names == ("v",)


def test_a_target_that_is_something_else_is_left_alone(log: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    assert train(log, out=tmp_path / "m") == REFUSED
    assert "is not empty and holds no model" in one_line(capsys)
    (tmp_path / "file").write_text("mine")
    assert train(log, out=tmp_path / "file") == REFUSED
    assert "is not a directory" in one_line(capsys)
    assert (tmp_path / "m" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_another_model_is_not_overwritten(log: Path, tmp_path: Path, capsys: Capture) -> None:
    assert train(log, "--rows", 500, out=tmp_path / "m") == 0
    capsys.readouterr()
    assert train(log, "--model-id", "pump", out=tmp_path / "m") == REFUSED
    assert "holds model m, not pump" in one_line(capsys)
    assert manifest_of(tmp_path / "m").version == 1


def test_an_unwritable_directory_is_named_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(BundleError, match=f"{tmp_path} cannot be written to"):
        next_version(tmp_path / "a" / "b", "press")


@pytest.mark.parametrize("of", ["manifest.json", "cpu-int8"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_what_was_there(
    log: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, step: str, of: str
) -> None:
    assert train(log, "--rows", 500, out=tmp_path / "m") == 0
    capsys.readouterr()
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        if step == "fsync" and f"/.{of}" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        if step == "replace" and target.name.startswith(of):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    assert train(log, "--rows", 600, out=tmp_path / "m") == REFUSED
    monkeypatch.undo()
    assert "No space left on device" in one_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()} == before


def test_a_failure_while_writing_a_first_version_leaves_nothing(
    log: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    assert train(log, "--rows", 500, out=tmp_path / "m") == REFUSED
    assert "No space left on device" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_writes_nothing(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cloud_sink.training.fit_dataset", interrupt)
    assert train(log, out=tmp_path / "m") == 130
    assert "interrupted" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_written_whole(log: Path, tmp_path: Path) -> None:
    assert train(log, "--rows", 500, out=tmp_path / "m") == 0
    old = load_bundle(tmp_path / "m")
    write_bundle(tmp_path / "copy", old.manifest, old.artifacts)
    assert manifests.decode((tmp_path / "copy" / "manifest.json").read_bytes()) == old.manifest
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o755


# Recorded signals.


@pytest.mark.parametrize("name", ["valve1/0", "other/2", "other/13"])
def test_skab(name: str, tmp_path: Path, capsys: Capture) -> None:
    log = data_path("skab", "data", f"{name}.csv")
    assert train(log, "--timezone", "UTC", "--rows", 400, out=tmp_path / "m") == 0
    manifest = manifest_of(tmp_path / "m")
    assert len(manifest.channels) == 8
    assert manifest.training.n_effective >= 5
    assert {"auc_float32", "auc_int8"} <= set(manifest.metrics)
    assert abs(manifest.metrics["auc_float32"] - manifest.metrics["auc_int8"]) < 0.1
    assert "effective windows are few" in capsys.readouterr().err


def test_nab(tmp_path: Path) -> None:
    log = data_path("nab", "data", "realKnownCause", "ambient_temperature_system_failure.csv")
    labels = data_path("nab", "labels", "combined_windows.json")
    options = ["--timezone", "UTC", "--rows", "1500", "--labels", labels]
    assert train(log, *options, out=tmp_path / "m") == 0
    manifest = manifest_of(tmp_path / "m")
    assert manifest.channel_names == ("value",)
    assert manifest.metrics["auc_float32"] > 0.5


def test_femto_bursts_are_windows_of_one_record(tmp_path: Path) -> None:
    log = tmp_path / "bearing.jsonl"
    write_log(data_path("femto", "Bearing1_2_every3rd.npz"), log, n_records=120)
    options = ["--rows", 100 * 2560, "--unit", "x=g", "--unit", "y=g", "--edgetpu"]
    assert train(log, *options, out=tmp_path / "m", features="vibration") == 0
    manifest = manifest_of(tmp_path / "m")
    assert (manifest.window.n, manifest.window.hop, manifest.window.mode) == (2560, 2560, Mode.BURST)
    assert manifest.training.n_windows == 100
    assert manifest.recentring is None
    assert manifest.artifact("edgetpu-int8") is not None


def test_of_a_log_of_several_devices_the_chosen_one_says_rate_and_mode(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "plant.jsonl"
    slow = slow_signal(12_000).astype(np.float32)
    fast = np.random.default_rng(0).normal(size=(60, 1000, 2)).astype(np.float32)
    with RecordingWriter(path) as writer:
        for i in range(0, 12_000, 1000):  # more than is looked at to tell a rate
            times = START_NS + np.arange(i, i + 1000, dtype=np.int64) * NS_PER_S
            writer.write(
                SampleBlock.irregular(
                    "meter",
                    ("pressure", "flow", "current"),
                    slow[i : i + 1000],
                    time_ns=times,
                    arrival_ns=START_NS + 12_000 * NS_PER_S,
                )
            )
        for i, second in enumerate(fast):
            start_ns = START_NS + i * NS_PER_S
            writer.write(
                SampleBlock.uniform(
                    "board",
                    ("x", "y"),
                    second,
                    start_ns=start_ns,
                    rate_hz=Fraction(1000),
                    arrival_ns=START_NS + 12_000 * NS_PER_S,
                )
            )
    out = tmp_path / "board"
    assert train(path, "--device", "board", features="vibration", out=out) == 0
    window = manifest_of(out).window
    assert (window.mode, window.rate_hz, window.n) == (Mode.CONTINUOUS, Fraction(1000), 1024)
    assert train(path, "--device", "press-9", out=tmp_path / "none") == REFUSED
    assert "no device 'press-9' in it, only board, meter" in capsys.readouterr().err


def test_a_newer_model_like_the_one_in_service(log: Path, tmp_path: Path, capsys: Capture) -> None:
    """Another recording gives other floors, and so another schema: a gateway could not swap between two windows."""
    first, plain, like = (tmp_path / name / "press-4" for name in ("first", "plain", "like"))
    newer = write_csv(tmp_path / "newer.csv", slow_signal(1200, seed=8))
    assert train(log, "--window", 40, "--class", "press", out=first) == 0
    assert train(newer, "--window", 40, out=plain) == 0
    assert main(["train", str(newer), "--like", str(first), "-o", str(like)]) == 0
    ours, other, ours_anew = manifest_of(first), manifest_of(plain), manifest_of(like)
    assert manifests.departures(ours, other) == ["other amplitude floors of flow, current"]
    assert other.schema_id != ours.schema_id
    assert manifests.departures(ours, ours_anew) == []
    assert (ours_anew.schema_id, ours_anew.version, ours_anew.class_) == (ours.schema_id, 2, "press")
    assert ours_anew.normalisation != ours.normalisation
    capsys.readouterr()
    assert (
        main(["train", str(newer), "--like", str(first), "--hop", "2", "-o", str(tmp_path / "c")]) == REFUSED
    )
    assert "it is not like press-4 version 1: hop 2 instead of 1" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    assert main(["train", str(newer), "-o", str(tmp_path / "c")]) == USAGE
    assert "--like" in capsys.readouterr().err
    assert main(["train", str(newer), "--like", str(tmp_path), "-o", str(tmp_path / "c")]) == REFUSED
    assert "manifest.json cannot be read" in capsys.readouterr().err


def test_what_was_exported_around_an_alert_is_not_taken_for_healthy(tmp_path: Path, capsys: Capture) -> None:
    values = slow_signal(900).astype(np.float32)
    values[400:430] += 50.0
    channels = tuple(Channel(name=n) for n in ("pressure", "flow", "current"))
    device = RecordedDevice(device_id="press", machine="press", channels=channels)
    at_ns = START_NS + np.arange(900, dtype=np.int64) * NS_PER_S
    mark = Mark(
        alert_id="a1",
        seq=0,
        device="press",
        kind="machine",
        state="raised",
        start_ns=int(at_ns[395]),
        end_ns=int(at_ns[500]),
        said_ns=int(at_ns[500]),
        evidence=None,
    )
    log = tmp_path / "around.jsonl"
    with closing(RecordingWriter(log, [device], Beginning(marks=(mark,)))) as writer:
        writer.write(
            SampleBlock.irregular(
                "press", device.channel_names, values, time_ns=at_ns, arrival_ns=int(at_ns[-1])
            )
        )
    assert train(log, out=tmp_path / "m") == 0
    assert "left out, since alerts were raised then: a1 (2023-11-14T22:19:55Z)" in capsys.readouterr().err
    report = manifest_of(tmp_path / "m").training
    assert report.set_aside["excluded"] >= 105
    assert train(log, "--rows", 900, out=tmp_path / "n") == 0
    assert "Was it healthy?" in capsys.readouterr().err
    assert manifest_of(tmp_path / "n").training.n_windows > report.n_windows
