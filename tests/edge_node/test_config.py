"""What a right gateway.toml becomes: devices, budgets, secrets, the hash, a device with its model."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest

from edge_node.config import Config, ConfigError, load_config
from edge_node.config_schema import MqttSource
from models.features import FeatureSpec
from models.gating import GateSpec
from models.manifest import ModelManifest, Normalisation, TrainedChannel, TrainingReport
from models.secret_values import read_secret
from models.sensor_checks import ChannelBaseline
from models.signal import Channel, Mode, WindowSpec
from models.time_policy import TimeOptions, TimePolicy, default_policy

GATEWAY = '[gateway]\nname = "g1"\n'
PRESS = '[[device]]\nid = "press-4"\nrate_hz = 1000\nchannels = ["x", "y"]\n'
SKAB_CHANNELS = (
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Voltage",
    "Volume Flow RateRMS",
)
METER = '[[device]]\nid = "meter"\ninterval_s = 1\nchannels = ["current"]\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(tmp_path: Path, text: str) -> Config:
    return load_config(write(tmp_path, text))


def errors(tmp_path: Path, text: str, **options: bool) -> list[str]:
    """The lines of the ConfigError for ``text``, without the folder."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, **options)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def device(extra: str) -> str:
    """A configuration whose last lines, from line 7 on, are ``extra`` of its one device."""
    return GATEWAY + PRESS + extra


def test_the_smallest_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, GATEWAY + PRESS)
    assert (config.gateway.name, config.gateway.site, config.uplink, config.sources) == (
        "g1",
        "default",
        None,
        (),
    )
    (device,) = config.devices
    assert device.device.machine == "press-4"
    assert device.device.channels == (Channel(name="x"), Channel(name="y"))
    assert (device.device.mode, device.device.rate_hz) == (Mode.CONTINUOUS, Fraction(1000))
    assert (device.n, device.hop, device.model) == (10_000, 5_000, None)
    assert (device.alerts_per_week, device.p_threshold) == (1.0, None)
    assert device is config.device("press-4")


def test_defaults_are_inherited_and_overridden(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        GATEWAY
        + """
[defaults]
machine = "line"
unit = "A"
interval_s = 10
alerts_per_week = 2
window_s = 60
alert = { n_raise = 4, m_raise = 6, cooldown_s = 10 }
active_when = "m.x.current >= -2e1"
active_settle_s = 5

[[device]]
id = "m.x"
channels = ["current", { name = "power", unit = "W", scale = 2 }]
active_when = ""
[[device]]
id = "fast"
rate_hz = "25600/3"
window = 64
p_threshold = 1e-4
channels = ["a"]
machine = "press"
alert.m_raise = 5
""",
    )
    slow, fast = config.devices
    assert (slow.device.machine, slow.device.mode, slow.device.rate_hz) == (
        "line",
        Mode.IRREGULAR,
        Fraction(1, 10),
    )
    assert slow.device.channels == (
        Channel(name="current", unit="A"),
        Channel(name="power", unit="W", scale=2),
    )
    assert (slow.n, slow.hop, slow.alerts_per_week, slow.p_threshold) == (6, 3, 2.0, None)
    assert slow.gate is None
    assert (fast.device.machine, fast.device.mode, fast.device.rate_hz) == (
        "press",
        Mode.CONTINUOUS,
        Fraction(25600, 3),
    )
    assert (fast.n, fast.hop, fast.alerts_per_week, fast.p_threshold) == (64, 32, None, 1e-4)
    assert (fast.alert.n_raise, fast.alert.m_raise, fast.alert.cooldown_s) == (4, 5, 10)
    assert fast.gate == GateSpec(
        device_id="m.x", channel="current", comparison=">=", value=-20.0, settle_s=5.0
    )
    assert fast.gate.text == "m.x.current >= -20"
    # What training needs to leave out the windows in which the machine rests
    assert (fast.as_recorded().gate, fast.as_recorded().interval_s) == (fast.gate, None)
    assert (slow.as_recorded().gate, slow.as_recorded().interval_s) == (None, 10.0)


def test_the_gateways_cap_scales_the_budgets_of_devices_with_models(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    text = '[gateway]\nname = "g1"\nmax_alerts_per_week = 2\n'
    text += PRESS + 'model = "a"\nalerts_per_week = 3\n' + METER + 'model = "b"\n'
    text += METER.replace("meter", "c") + METER.replace("meter", "d") + "p_threshold = 0.1\n"
    config = load(tmp_path, text)
    assert [d.alerts_per_week for d in config.devices] == [1.5, 0.5, 0.5, None]
    assert [d.model for d in config.devices] == [tmp_path / "a", tmp_path / "b", None, None]


@pytest.mark.parametrize("model", ["learn", "not/yet"])
def test_recording_needs_no_model(tmp_path: Path, model: str) -> None:
    path = write(tmp_path, device(f'model = "{model}"\nwindow = 64\n'))
    (found,) = load_config(path, need_models=False).devices
    assert found.model == (None if model == "learn" else tmp_path / model)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('mode = "burst"\ninterval_s = 600\nwindow = 100\n', 6000.0),
        ('mode = "burst"\ninterval_s = 10\nwindow = 100\n', 600.0),
        ('mode = "burst"\ninterval_s = 600\nwindow = 100\nalert.update_s = 5\n', 5.0),
        ("window = 100\n", None),  # the hop decides
    ],
)
def test_alerts_of_a_burst_are_updated_every_ten_intervals(
    tmp_path: Path, text: str, expected: float | None
) -> None:
    (found,) = load(tmp_path, device(text)).devices
    assert found.alert.update_s == expected


def test_a_burst_is_stale_after_three_intervals(tmp_path: Path) -> None:
    text = device('mode = "burst"\ninterval_s = 600\nwindow = 100\ntime.lateness_s = 7\n')
    (bearing,) = load(tmp_path, text).devices
    window = bearing.window_without_model()
    assert window == WindowSpec(n=100, hop=50, rate_hz=Fraction(1000), mode=Mode.BURST)
    policy = bearing.time_policy(default_policy(window))
    assert (policy.stale_after_s, policy.lateness_s) == (1800.0, 7.0)


def test_time_options_are_those_of_the_policy() -> None:
    assert TimeOptions.__struct_fields__ == TimePolicy.__struct_fields__


# -- secrets and the hash


UPLINK = '[uplink]\nhost = "mqtt.example.com"\nusername = "u"\npassword_file = "secret"\n'


def password(config: Config) -> str | None:
    assert config.uplink is not None
    return read_secret(config.uplink.password_file, config.uplink.password_env)


def test_the_password_is_read_when_needed_and_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    config = load(tmp_path, GATEWAY + PRESS + UPLINK)
    assert config.uplink is not None
    assert password(config) == "hunter2"
    assert "hunter2" not in repr(config)
    (tmp_path / "secret").write_text("hunter3")
    assert password(config) == "hunter3"
    assert load(tmp_path, GATEWAY + PRESS + UPLINK).config_hash == config.config_hash
    (tmp_path / "secret").unlink()
    with pytest.raises(ValueError, match=r"^this file cannot be read: No such file or directory$"):
        password(config)
    monkeypatch.setenv("LINEWATCH_TEST_PASSWORD", "hunter4")
    config = load(
        tmp_path,
        GATEWAY + PRESS + UPLINK.replace("file = ", "env = ").replace("secret", "LINEWATCH_TEST_PASSWORD"),
    )
    assert config.uplink is not None
    assert password(config) == "hunter4"
    assert "hunter4" not in repr(config)


def test_a_password_in_the_file_is_not_repeated(tmp_path: Path) -> None:
    (line,) = errors(tmp_path, GATEWAY + PRESS + '[uplink]\nhost = "a"\npasword = "hunter2"\n')
    assert line == 'gateway.toml:9: [uplink]: pasword: unknown key; did you mean "password_env"?'


def test_the_hash_is_of_what_is_said_not_of_how(tmp_path: Path) -> None:
    one = load(tmp_path, GATEWAY + PRESS + METER)
    same = GATEWAY + 'site = "default"\n[defaults]\nmachine = "press-4" # comment\n' + PRESS + METER
    same = same.replace('rate_hz = 1000\nchannels = ["x", "y"]', 'channels = ["x", "y"]\nrate_hz = "1000"')
    other = load(tmp_path, same)
    assert len(one.config_hash) == 64
    assert one.config_hash != other.config_hash  # the meter's machine differs
    explicit = same.replace("[defaults]\nmachine", "[defaults]\n#machine")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert load(moved, explicit).config_hash == one.config_hash
    assert load(tmp_path, GATEWAY + PRESS + METER + "summary_s = 301\n").config_hash != one.config_hash


# -- with its model


def manifest(**changes: object) -> ModelManifest:
    trained = ModelManifest(
        model_id="press",
        version=3,
        family="mahalanobis",
        created_ns=0,
        schema_id="0" * 12,
        features=FeatureSpec(set="vibration"),
        channels=tuple(
            TrainedChannel(
                name=name,
                unit="g",
                origin=0.0,
                baseline=ChannelBaseline(longest_run_s=0.0, minimum=0, maximum=0),
            )
            for name in ("y", "x")
        ),
        window=WindowSpec(n=64, hop=32, rate_hz=Fraction(1000), mode=Mode.CONTINUOUS),
        recentring=None,
        normalisation=Normalisation(centre=(), scale=(), start_centre=()),
        output_kind="whitened",
        artifacts=(),
        training=TrainingReport(
            start_ns=0, end_ns=0, n_windows=0, set_aside={}, n_effective=0, cross_fit_far=0, far_level=0
        ),
    )
    return msgspec.structs.replace(trained, **changes)


def with_model(tmp_path: Path, extra: str = "") -> Config:
    (tmp_path / "m").mkdir(exist_ok=True)
    (tmp_path / "m" / "manifest.json").write_text("{}")
    return load(tmp_path, device('unit = "g"\nmodel = "m"\n' + extra))


def test_a_device_takes_windows_and_the_order_of_channels_from_its_model(tmp_path: Path) -> None:
    config = with_model(tmp_path, "time.stale_after_s = 5\n")
    (press,) = config.devices
    assert (press.n, press.hop) == (None, None)
    settled = config.settle(press, manifest())
    assert settled.window == manifest().window
    assert settled.device.channel_names == ("y", "x")
    assert settled.time.stale_after_s == 5


def test_a_device_that_agrees_with_its_model_is_settled(tmp_path: Path) -> None:
    config = with_model(tmp_path, 'window = 64\nhop_s = 0.032\nfeatures = "vibration"\n')
    assert config.settle(config.devices[0], manifest()).window.n == 64


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("window = 128", "9: window = 128: model press version 3 has windows of 64 samples"),
        ("window_s = 0.128", "9: window_s = 0.128: model press version 3 has windows of 64 samples, 0.064 s"),
        ("hop_s = 1\n", "9: hop_s = 1: model press version 3 has a hop of 32 samples, 0.032 s"),
        ("hop = 64", "9: hop = 64: model press version 3 has a hop of 32 samples"),
        ('features = "slow"', '9: features = "slow": model press version 3 has the feature set "vibration"'),
        (
            'mode = "irregular"',
            '9: mode = "irregular": model press version 3 was trained on continuous signals',
        ),
    ],
)
def test_a_device_that_differs_from_its_model_is_named_by_line(
    tmp_path: Path, extra: str, expected: str
) -> None:
    config = with_model(tmp_path, extra)
    with pytest.raises(ConfigError) as caught:
        config.settle(config.devices[0], manifest())
    line, problem = expected.split(": ", 1)
    assert str(caught.value) == f'{tmp_path}/gateway.toml:{line}: [[device]] "press-4": {problem}'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "1000",
            "2000",
            '5: [[device]] "press-4": rate_hz = 2000: model press version 3 was trained at 1000 Hz',
        ),
        (
            "rate_hz = 1000",
            "interval_s = 2",
            '5: [[device]] "press-4": interval_s = 2: model press version 3 was trained on a sample every 0.001 s\n'
            '{path}:3: [[device]] "press-4": mode = "irregular": model press version 3 was trained on continuous signals',
        ),
        (
            '"y"',
            '"z"',
            '6: [[device]] "press-4": channels: lacks "y", which model press version 3 was trained on; has "z", '
            "which it was not",
        ),
        (
            '"y"',
            '{ name = "y", unit = "m/s2" }',
            '6: [[device]] "press-4": channels: channel "y" has the unit "m/s2": '
            'model press version 3 was trained with "g"',
        ),
        (
            '"y"',
            '{ name = "y", unit = "g", origin = 1 }',
            '6: [[device]] "press-4": channels: channel "y" has the origin 1: '
            "model press version 3 was trained with 0",
        ),
        (
            '"y"',
            '{ name = "y", unit = "g", wear = true }',
            '6: [[device]] "press-4": channels: channel "y" has wear = true: '
            "model press version 3 was trained with false",
        ),
    ],
)
def test_the_signal_must_be_the_models(tmp_path: Path, old: str, new: str, expected: str) -> None:
    with_model(tmp_path)
    path = tmp_path / "gateway.toml"
    path.write_text(path.read_text().replace(old, new))
    config = load_config(path)
    with pytest.raises(ConfigError) as caught:
        config.settle(config.devices[0], manifest())
    assert str(caught.value) == f"{path}:{expected.replace('{path}', str(path))}"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (
            ["Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Volt", "Flow"],
            'lacks "Voltage", "Volume Flow RateRMS", which model press version 3 was trained on; has "Volt" (did you '
            'mean "Voltage"?), "Flow" (did you mean "Volume Flow RateRMS"?), which it was not',
        ),
        (
            [f"c{i}" for i in range(9)],
            'lacks "Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature" and 2 more, which '
            'model press version 3 was trained on; has "c0", "c1", "c2", "c3", "c4" and 4 more, which it was not',
        ),
        ([*SKAB_CHANNELS[:-1]], 'lacks "Volume Flow RateRMS", which model press version 3 was trained on'),
        ([*SKAB_CHANNELS, "Label"], 'has "Label", which model press version 3 was not trained on'),
    ],
)
def test_channels_that_differ_are_named(tmp_path: Path, own: list[str], expected: str) -> None:
    path = tmp_path / "gateway.toml"
    with_model(tmp_path)
    path.write_text(path.read_text().replace('["x", "y"]', json.dumps(own)))
    config = load_config(path)
    template = manifest().channels[0]
    trained = tuple(msgspec.structs.replace(template, name=name) for name in SKAB_CHANNELS)
    with pytest.raises(ConfigError) as caught:
        config.settle(config.devices[0], manifest(channels=trained))
    assert str(caught.value) == f'{path}:6: [[device]] "press-4": channels: {expected}'


# -- subscriptions


def test_topics_become_filters(tmp_path: Path) -> None:
    text = """
[[source]]
type = "mqtt"
host = "h"
tls = {}
subscribe = [{ topic = "a/{device}/+/{channel}/#", format = "number" }]
"""
    (source,) = load(tmp_path, GATEWAY + PRESS + text).sources
    assert isinstance(source, MqttSource)
    assert source.subscribe[0].filter == "a/+/+/+/#"
    assert source.address == ("h", 8883)
    assert msgspec.structs.replace(source, tls=None).address == ("h", 1883)
    assert msgspec.structs.replace(source, port=1).address == ("h", 1)
