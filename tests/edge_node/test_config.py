"""What a user reads who got gateway.toml wrong, word for word; and what a right one becomes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import msgspec
import pytest

from edge_node.config import Config, ConfigError, load_config, password
from edge_node.config_schema import MqttSource, TimeOptions
from edge_node.gating import GateSpec
from models.signal import Channel, Mode, WindowSpec
from models.windowing import TimePolicy

GATEWAY = '[gateway]\nname = "g1"\n'
PRESS = '[[device]]\nid = "press-4"\nrate_hz = 1000\nchannels = ["x", "y"]\n'
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


# -- the file itself


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "gateway.toml")
    assert str(caught.value) == f"{tmp_path}/gateway.toml: cannot be read: No such file or directory"


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "gateway.toml")
    assert str(caught.value) == f"{tmp_path}/gateway.toml: cannot be read: Is a directory"


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a comment\n"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    assert errors(tmp_path, text) == [
        "gateway.toml: the file is empty: expected [gateway] and at least one [[device]]"
    ]


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(b'[gateway]\nname = "Halle \xfc"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}:2: not UTF-8 text"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[gateway]\nname = "a"\nname = "b"\n', "gateway.toml:3: not valid TOML: Cannot overwrite a value"),
        ('[gateway]\nname = "a"\n\nsite =\n', "gateway.toml:4: not valid TOML: Invalid value"),
        ("[gateway]\n[[gateway", "gateway.toml:2: not valid TOML: "),
    ],
)
def test_not_toml(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = errors(tmp_path, text)
    assert line.startswith(expected)
    assert line.endswith(")")


# -- what the types say


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            device("wndow = 1024\n"),
            ['gateway.toml:7: [[device]] "press-4": wndow = 1024: unknown key; did you mean "window"?'],
        ),
        (
            device('zzz = "q"\n'),
            ['gateway.toml:7: [[device]] "press-4": zzz = "q": unknown key'],
        ),
        (
            GATEWAY + "[uplnk]\nhost = 'a'\n" + PRESS,
            ['gateway.toml:3: uplnk = {…}: unknown key; did you mean "uplink"?'],
        ),
        (
            device("alert = { cooldown = 5 }\n"),
            [
                'gateway.toml:7: [[device]] "press-4": alert.cooldown = 5: unknown key; did you '
                'mean "cooldown_s"?'
            ],
        ),
        (
            '[gateway]\nname = "g1"\nmetrics_port = 70000\n' + PRESS,
            [
                "gateway.toml:3: [gateway]: metrics_port = 70000: expected a whole number at least 0 "
                "and at most 65535"
            ],
        ),
        (
            '[gateway]\nname = "g1"\nmetrics_port = "9464"\n' + PRESS,
            [
                'gateway.toml:3: [gateway]: metrics_port = "9464": expected a whole number at least 0 '
                "and at most 65535"
            ],
        ),
        (
            "[gateway]\nname = ''\n" + PRESS,
            ['gateway.toml:2: [gateway]: name = "": expected a string that is not empty'],
        ),
        (
            '[gateway]\nname = "g1"\nlog_level = "inf0"\n' + PRESS,
            [
                'gateway.toml:3: [gateway]: log_level = "inf0": expected one of "debug", '
                '"error", "info", "warning"; '
                'did you mean "info"?'
            ],
        ),
        (
            device('mode = "continous"\n'),
            [
                'gateway.toml:7: [[device]] "press-4": mode = "continous": expected one of "continuous", '
                '"irregular", "burst"; did you mean "continuous"?'
            ],
        ),
        (
            device("p_threshold = 1.0\n"),
            [
                'gateway.toml:7: [[device]] "press-4": p_threshold = 1.0: expected a number '
                "above 0 and below 1"
            ],
        ),
        (
            device("alerts_per_week = true\n"),
            ['gateway.toml:7: [[device]] "press-4": alerts_per_week = true: expected a number above 0'],
        ),
        (
            device("alerts_per_week = inf\n"),
            ['gateway.toml:7: [[device]] "press-4": alerts_per_week = inf: expected a number above 0'],
        ),
        (
            device("active_settle_s = nan\n"),
            ['gateway.toml:7: [[device]] "press-4": active_settle_s = nan: expected a number at least 0'],
        ),
        (
            GATEWAY + PRESS.replace("1000", '"1/0"'),
            [
                'gateway.toml:5: [[device]] "press-4": rate_hz = "1/0": expected a rate above '
                "0: a number or a fraction "
                'such as "1/300"'
            ],
        ),
        (
            GATEWAY + PRESS.replace('["x", "y"]', '"x"'),
            ['gateway.toml:6: [[device]] "press-4": channels = "x": expected a list'],
        ),
        (
            GATEWAY + PRESS.replace('["x", "y"]', '[\n  "x",\n  { name = "y", scal = 2 },\n  7,\n]'),
            [
                'gateway.toml:8: [[device]] "press-4": channels[1].scal = 2: unknown key; did '
                'you mean "scale"?',
                'gateway.toml:9: [[device]] "press-4": channels[2] = 7: expected a string that '
                "is not empty or a table",
            ],
        ),
        (
            device("[[device.limit]]\nname = 'hot'\nchannel = 'x'\nabove = 5\nfor_s = -1\n"),
            ['gateway.toml:11: [[device.limit]] of "press-4": for_s = -1: expected a number at least 0'],
        ),
        (
            device("[[device.limit]]\nchannel = 'x'\n"),
            ['gateway.toml:7: [[device.limit]] of "press-4": name is missing: expected a string'],
        ),
        (
            "gateway = 3\n" + PRESS,
            ["gateway.toml:1: gateway = 3: expected a table"],
        ),
        (
            GATEWAY + "device = 3\n".replace("device", "[device]\nid"),
            ["gateway.toml:3: device = {…}: expected a list of tables"],
        ),
        (
            PRESS,
            ["gateway.toml: [gateway] is missing"],
        ),
        (
            GATEWAY,
            ["gateway.toml: [[device]] is missing: expected at least one"],
        ),
        (
            GATEWAY + "[[device]]\nrate_hz = 1\nchannels = ['x']\n",
            ["gateway.toml:3: [[device]]: id is missing: expected a string that is not empty"],
        ),
        (
            GATEWAY + PRESS + "[[source]]\nhost = 'a'\n",
            ['gateway.toml:7: [[source]]: type is missing: expected one of "mqtt", "replay"'],
        ),
        (
            GATEWAY + PRESS + "[[source]]\ntype = 'mqt'\n",
            [
                'gateway.toml:8: [[source]]: type = "mqt": expected one of "mqtt", "replay"; '
                'did you mean "mqtt"?'
            ],
        ),
    ],
)
def test_unknown_keys_types_and_ranges(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert errors(tmp_path, text) == expected


def test_several_problems_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        GATEWAY
        + "sitee = 'x'\n"
        + PRESS
        + "hop = 0\n"
        + METER.replace("1\n", "0\n")
        + METER
        + "active_when = 'press.x > 1'\n"
    )
    assert errors(tmp_path, text) == [
        'gateway.toml:3: [gateway]: sitee = "x": unknown key; did you mean "site"?',
        'gateway.toml:8: [[device]] "press-4": hop = 0: expected a whole number at least 1',
        'gateway.toml:11: [[device]] "meter": interval_s = 0: expected a number above 0',
        'gateway.toml:14: [[device]] "meter": id = "meter": another device has this id (line 10)',
        'gateway.toml:17: [[device]] "meter": active_when = "press.x > 1": there is no device "press"; '
        'did you mean "press-4"?',
    ]


def test_a_problem_of_the_defaults_is_told_once_where_it_stands(tmp_path: Path) -> None:
    text = GATEWAY + '[defaults]\nactive_when = "lathe.x > 1"\n' + PRESS + METER
    assert errors(tmp_path, text) == [
        'gateway.toml:4: [defaults]: active_when = "lathe.x > 1": there is no device "lathe"'
    ]


# -- what a right one becomes


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


def test_a_burst_is_stale_after_three_intervals(tmp_path: Path) -> None:
    text = device('mode = "burst"\ninterval_s = 600\nwindow = 100\ntime.lateness_s = 7\n')
    (bearing,) = load(tmp_path, text).devices
    window = bearing.window_without_model()
    assert window == WindowSpec(n=100, hop=50, rate_hz=Fraction(1000), mode=Mode.BURST)
    policy = bearing.time_policy(window)
    assert (policy.stale_after_s, policy.lateness_s) == (1800.0, 7.0)


def test_time_options_are_those_of_the_policy() -> None:
    assert TimeOptions.__struct_fields__ == TimePolicy.__struct_fields__


# -- secrets and the hash


UPLINK = '[uplink]\nhost = "mqtt.example.com"\nusername = "u"\npassword_file = "secret"\n'


def test_the_password_is_read_when_needed_and_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    config = load(tmp_path, GATEWAY + PRESS + UPLINK)
    assert config.uplink is not None
    assert password(config.uplink) == "hunter2"
    assert "hunter2" not in repr(config)
    (tmp_path / "secret").write_text("hunter3")
    assert password(config.uplink) == "hunter3"
    assert load(tmp_path, GATEWAY + PRESS + UPLINK).config_hash == config.config_hash
    (tmp_path / "secret").unlink()
    with pytest.raises(
        ConfigError, match=r"^password of mqtt.example.com: this file cannot be read: No such file"
    ):
        password(config.uplink)
    monkeypatch.setenv("LINEWATCH_TEST_PASSWORD", "hunter4")
    config = load(
        tmp_path,
        GATEWAY + PRESS + UPLINK.replace("file = ", "env = ").replace("secret", "LINEWATCH_TEST_PASSWORD"),
    )
    assert config.uplink is not None
    assert password(config.uplink) == "hunter4"
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
