"""What a user reads whose gateway.toml is no TOML, or has wrong keys, types or ranges; word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_node.config import ConfigError, load_config

GATEWAY = '[gateway]\nname = "g1"\n'
PRESS = '[[device]]\nid = "press-4"\nrate_hz = 1000\nchannels = ["x", "y"]\n'
METER = '[[device]]\nid = "meter"\ninterval_s = 1\nchannels = ["current"]\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return path


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
        (
            '[gateway]\nname = "a"\nname = "b"\n',
            "gateway.toml:3: not valid TOML: Cannot overwrite a value: this key",
        ),
        (
            '[gateway]\nname = "a"\n\nsite =\n',
            "gateway.toml:4: not valid TOML: Invalid value: text needs quotes",
        ),
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
            device('backend = "tpu"\n'),
            [
                'gateway.toml:7: [[device]] "press-4": backend = "tpu": expected one of "auto", "cpu", "edgetpu"; '
                'did you mean "edgetpu"?'
            ],
        ),
        (
            device('backend = "CPU"\n'),
            [
                'gateway.toml:7: [[device]] "press-4": backend = "CPU": expected one of "auto", "cpu", "edgetpu"; '
                'did you mean "cpu"?'
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
                'gateway.toml:5: [[device]] "press-4": rate_hz = "1/0": expected a rate above 0 '
                'and at most 1e9: a number or a fraction such as "1/300"'
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
            [
                'gateway.toml:7: [[device.limit]] of "press-4": name is missing: expected a string',
                'gateway.toml:7: [[device.limit]] of "press-4": above or below is missing: expected a number',
            ],
        ),
        (
            device("summary_s = 1e10\n"),
            [
                'gateway.toml:7: [[device]] "press-4": summary_s = 10000000000.0: expected '
                "seconds, at least 0 "
                "and at most 1e+09"
            ],
        ),
        (
            GATEWAY + PRESS.replace("1000", '"1e999999999"'),
            [
                'gateway.toml:5: [[device]] "press-4": rate_hz = "1e999999999": expected a rate above 0 and '
                'at most 1e9: a number or a fraction such as "1/300"'
            ],
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
            [
                'gateway.toml:7: [[source]]: type is missing: expected one of "mqtt", "replay", "serial", "modbus"'
            ],
        ),
        (
            GATEWAY + PRESS + "[[source]]\ntype = 'mqt'\n",
            [
                'gateway.toml:8: [[source]]: type = "mqt": expected one of "mqtt", "replay", "serial", "modbus"; '
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
        'gateway.toml:8: [[device]] "press-4": hop = 0: expected a whole number at least 1 and '
        "at most 16777216",
        'gateway.toml:11: [[device]] "meter": interval_s = 0: expected a number at least 1e-06',
        'gateway.toml:14: [[device]] "meter": id = "meter": another device has this id (line 10)',
        'gateway.toml:17: [[device]] "meter": active_when = "press.x > 1": there is no device "press"; '
        'did you mean "press-4"?',
    ]


def test_a_problem_of_the_defaults_is_told_once_where_it_stands(tmp_path: Path) -> None:
    text = GATEWAY + '[defaults]\nactive_when = "lathe.x > 1"\n' + PRESS + METER
    assert errors(tmp_path, text) == [
        'gateway.toml:4: [defaults]: active_when = "lathe.x > 1": there is no device "lathe"'
    ]


# -- one mistake hides no other, and none is made of what follows from another

SOUND = """\
[gateway]
name = "g1"
[uplink]
host = "localhost"
[[source]]
type = "mqtt"
host = "127.0.0.1"
username = "u"
[[source.subscribe]]
topic = "plant/{device}/json"
time_unit = "ns"
[[source.subscribe]]
topic = "plant/meter"
device = "meter"
channel = "current"
[defaults]
alerts_per_week = 2
[[device]]
id = "press-4"
rate_hz = 1000
channels = ["x", { name = "y", scale = 2 }]
window_s = 1.0
active_when = "meter.current > 1"
model = "none"
alert = { n_raise = 2, m_raise = 3 }
[[device.limit]]
name = "hot"
channel = "x"
above = 5
[[device]]
id = "meter"
interval_s = 1
channels = ["current"]
"""
MISTAKES = [
    ('"g1"', '"g/1"'),
    ('host = "localhost"', 'hst = "localhost"'),
    ('type = "mqtt"\nhost = "127.0.0.1"', 'type = "mqtt"\nhost = 3'),
    ('username = "u"', 'password_env = "u"'),
    ('"plant/{device}/json"', '"plant/{device}x/json"'),
    ('time_unit = "ns"', 'time_unit = "ns"\ntimezone = "Mars"'),
    ('device = "meter"', 'device = "metre"'),
    ("alerts_per_week = 2", "alerts_per_week = 0"),
    ("rate_hz = 1000", "rate_hz = -1"),
    ("scale = 2", "scale = 0"),
    ('active_when = "meter.current > 1"', 'active_when = "meter"'),
    ('model = "none"', 'model = "nowhere"'),
    ("n_raise = 2", "n_raise = 4"),
    ('channel = "x"', 'channel = "q"'),
    ("above = 5", "abov = 5"),
    ('channels = ["current"]', 'channels = ["current", 4]'),
]


def test_mistakes_are_told_together_as_each_is_alone(tmp_path: Path) -> None:
    alone = [line for mistake in MISTAKES for line in errors(tmp_path, SOUND.replace(*mistake))]
    text = SOUND
    for mistake in MISTAKES:
        text = text.replace(*mistake)
    assert without_lines(errors(tmp_path, text)) == without_lines(alone)


def without_lines(found: list[str]) -> list[str]:
    return sorted(re.sub(r":\d+:", ":", line) for line in found)


def test_the_sound_configuration_is_one(tmp_path: Path) -> None:
    assert len(load_config(write(tmp_path, SOUND)).devices) == 2


def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    (line,) = errors(tmp_path, '[gateway]\nname = "g1"\nstate_dir = "state"\n' + PRESS)
    place = 'gateway.toml:3: [gateway]: state_dir = "state"'
    assert line == f"{place}: that is a file: name a directory"
