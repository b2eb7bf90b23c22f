"""A model expects windows made as in training: the manifest says how, and a gateway follows it or says that it does not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from cloud_sink.cli import main as cloud_sink
from edge_node.assembly import Core, assemble, assemble_bundle
from edge_node.cli import main as edge_node
from edge_node.config import load_config
from edge_node.daemon import Daemon
from edge_node.model_store import BundleRefused, load_bundle
from models import manifest as manifests
from models.recording import RecordingWriter
from models.signal import NS_PER_S, Channel, Mode, SampleBlock, WindowSpec
from models.time_policy import RecordedDevice, TimeOptions, TimeTreatment, default_policy
from tests.cloud_sink.recordings import START_NS, slow_signal
from tests.fixtures.bundle_files import BUNDLE

Capture = pytest.CaptureFixture[str]

EVERY_S, HOLD_S, MIN_VALID = 8, 10.0, 0.8
CHANNELS = ("pressure", "flow", "current")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of an hour of readings every eight seconds, on a grid of one."""
    path = tmp_path_factory.mktemp("log") / "press.csv"
    rows = slow_signal(900)[::EVERY_S]
    lines = ["t," + ",".join(CHANNELS)]
    for i, row in enumerate(rows.tolist()):
        lines.append(",".join(map(str, [START_NS // NS_PER_S + EVERY_S * i, *row])))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def model(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on a recording of the same readings, by a gateway that held them for as long as it took."""
    folder = tmp_path_factory.mktemp("model")
    device = RecordedDevice(
        device_id="press",
        machine="press",
        mode=Mode.IRREGULAR,
        rate_hz=Fraction(1),
        channels=tuple(Channel(name=name) for name in CHANNELS),
        time=TimeOptions(hold_s=HOLD_S, min_valid=MIN_VALID),
    )
    values = np.loadtxt(log, delimiter=",", skiprows=1)
    with RecordingWriter(folder / "press.jsonl", [device]) as recording:
        for row in values:
            t_ns = int(row[0]) * NS_PER_S
            recording.write(
                SampleBlock.irregular(
                    "press", CHANNELS, row[None, 1:], time_ns=np.array([t_ns]), arrival_ns=t_ns
                )
            )
    command = ["train", str(folder / "press.jsonl"), "--features", "slow", "-o", str(folder / "press")]
    assert cloud_sink(command) == 0
    return folder / "press"


def without_time(model: Path, folder: Path) -> Path:
    """``model`` as it was written before manifests said anything of time."""
    shutil.copytree(model, folder / "older")
    manifest = json.loads((folder / "older" / "manifest.json").read_text())
    del manifest["time"]
    (folder / "older" / "manifest.json").write_text(json.dumps(manifest))
    return folder / "older"


def config(folder: Path, model: Path, time: str = "", defaults: str = "") -> Path:
    path = folder / "gateway.toml"
    path.write_text(
        f"""[gateway]
name = "g"
metrics_port = 0
[defaults]
{defaults}
[[source]]
type = "replay"
paths = ["{model}/manifest.json"]
[[device]]
id = "press"
interval_s = 1
channels = ["pressure", "flow", "current"]
model = "{model}"
{time}
"""
    )
    return path


def time_of(core: Core) -> TimeTreatment:
    return TimeTreatment.of(core.plans[0].time)


def no_notice(text: str) -> None:
    raise AssertionError(text)


def test_the_manifest_says_how_training_treated_time(model: Path) -> None:
    manifest = load_bundle(model).manifest
    assert manifest.time == TimeTreatment(jitter_s=0.0, hold_s=HOLD_S, min_valid=MIN_VALID)


def test_a_replay_of_the_bundle_treats_time_like_training(
    log: Path, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    def scored(bundle: Path) -> int:
        assert edge_node(["replay", str(log), "--model", str(bundle)]) == 0
        found = re.search(r"^windows scored +(\d+)", capsys.readouterr().out, re.M)
        assert found is not None
        return int(found[1])

    assert scored(model) == load_bundle(model).manifest.training.n_windows
    assert scored(without_time(model, tmp_path)) == 0  # five seconds are not long enough


def test_a_device_that_says_nothing_of_time_follows_its_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    core = assemble(load_config(config(tmp_path, model)), on_notice=no_notice)
    assert time_of(core) == TimeTreatment(jitter_s=0.0, hold_s=HOLD_S, min_valid=MIN_VALID)
    assert core.plans[0].time.lateness_s == 2.0
    older = without_time(model, tmp_path / "old")
    core = assemble(load_config(config(tmp_path, older)), on_notice=no_notice)
    assert time_of(core) == TimeTreatment(jitter_s=0.0, hold_s=5.0, min_valid=0.9)


AGREE = f"time = {{ hold_s = {HOLD_S}, lateness_s = 9, jitter_s = 1 }}"  # an irregular device knows no jitter


@pytest.mark.parametrize("older", [False, True])
def test_a_device_that_agrees_or_cannot_be_compared_is_not_warned_of(
    model: Path, tmp_path: Path, older: bool
) -> None:
    path = config(tmp_path, without_time(model, tmp_path) if older else model, AGREE)
    core = assemble(load_config(path), on_notice=no_notice)
    assert (core.plans[0].time.hold_s, core.plans[0].time.lateness_s) == (HOLD_S, 9.0)


@pytest.mark.parametrize("inherited", [False, True])
def test_a_device_that_differs_is_warned_of_in_one_line(
    model: Path, tmp_path: Path, capsys: Capture, inherited: bool
) -> None:
    time = "time = { hold_s = 60, min_valid = 0.5 }"
    path = config(tmp_path, model, *(("", time) if inherited else (time, "")))
    line = 5 if inherited else 14
    where = "[defaults]" if inherited else '[[device]] "press"'
    said = (
        f"{path}:{line}: {where}: time.hold_s = 60.0: model press version 1 was trained with hold_s = 10, "
        "min_valid = 0.8: its windows are made in another way here, and may score otherwise. Leave that out to "
        "follow the model"
    )
    assert edge_node(["check", "-c", str(path)]) == 0
    assert [x for x in capsys.readouterr().out.splitlines() if "warning" in x] == [f"warning: {said}"]
    with capture_logs() as logs:
        Daemon(path)
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [("warning", said)]


def test_an_older_manifest_is_signed_as_it_was(tmp_path: Path) -> None:
    old = manifests.decode((BUNDLE / "manifest.json").read_bytes())
    assert b'"time"' not in manifests.signed_bytes(old)
    key = Ed25519PrivateKey.generate()
    signed = manifests.encode(manifests.sign(old, key))
    manifests.verify(manifests.decode(signed), (key.public_key(),))


@pytest.mark.parametrize(
    "change",
    [
        lambda time: time.update(hold_s=-1),
        lambda time: time.update(hold_s=1e10),
        lambda time: time.update(min_valid=1.5),
        lambda time: time.update(patience_s=1),
        lambda time: time.pop("jitter_s"),
    ],
)
def test_a_manifest_that_treats_time_impossibly_is_refused(
    model: Path, tmp_path: Path, change: Callable[[dict[str, float]], None]
) -> None:
    bundle = tmp_path / "m"
    shutil.copytree(model, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest["time"])
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleRefused, match=r"not a model manifest: .*time"):
        load_bundle(bundle)


@pytest.mark.parametrize("mode", Mode)
def test_only_what_a_mode_knows_makes_a_difference(mode: Mode) -> None:
    policy = default_policy(WindowSpec(n=4, hop=4, rate_hz=Fraction(1), mode=mode))
    other = TimeTreatment(jitter_s=policy.jitter_s + 1, hold_s=policy.hold_s + 1, min_valid=0.5)
    named = [name for name, _, _ in other.departures(policy, mode)]
    assert named == ["hold_s" if mode is Mode.IRREGULAR else "jitter_s", "min_valid"]
    assert list(other.departures(other.over(policy), mode)) == []


def test_a_bundle_is_assembled_as_it_was_trained(model: Path) -> None:
    assert time_of(assemble_bundle(load_bundle(model), "press", on_notice=no_notice)).hold_s == HOLD_S
