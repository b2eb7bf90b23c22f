"""What no type can say about gateway.toml: names, mappings, models, brokers, passwords; word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.config import ConfigError, load_config

# A valid configuration: [gateway] on line 1, the devices on lines 3 and 7, the source on line 11.
PLANT = """\
[gateway]
name = "g1"
[[device]]
id = "press-4"
rate_hz = 1000
channels = ["x", "y"]
[[device]]
id = "meter"
interval_s = 1
channels = ["current", "power"]
[[source]]
type = "mqtt"
host = "127.0.0.1"
[[source.subscribe]]
topic = "plant/{device}/raw"
"""


def errors(tmp_path: Path, text: str, **options: bool) -> list[str]:
    """The lines of the ConfigError for ``text``, without the folder."""
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, **options)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def press(extra: str) -> str:
    """``extra`` on line 7, of press-4."""
    return PLANT.replace('channels = ["x", "y"]\n', f'channels = ["x", "y"]\n{extra}\n')


def broker(extra: str) -> str:
    """``extra`` on line 14, of the source."""
    return PLANT.replace('host = "127.0.0.1"\n', f'host = "127.0.0.1"\n{extra}\n')


def test_features_of_a_private_device_are_not_scored_elsewhere(tmp_path: Path) -> None:
    uplink = '[uplink]\nhost = "127.0.0.1"\n'
    refused = (
        'cloud = "fallback": features would leave this gateway, which privacy = "statistics" forbids: set privacy = '
        '"features", or cloud = "never"'
    )
    own = press('privacy = "statistics"\ncloud = "fallback"') + uplink
    assert errors(tmp_path, own) == [f'gateway.toml:8: [[device]] "press-4": {refused}']
    (inherited,) = errors(
        tmp_path, press('privacy = "statistics"') + '[defaults]\ncloud = "fallback"\n' + uplink
    )
    assert refused in inherited
    assert inherited.startswith("gateway.toml:")
    (alone,) = errors(tmp_path, press('cloud = "fallback"'))
    assert alone.startswith('gateway.toml:7: [[device]] "press-4": cloud = "fallback": there is no [uplink]')


def subscription(text: str) -> str:
    """``text`` from line 15 on, in place of the subscription."""
    return PLANT.replace('topic = "plant/{device}/raw"\n', text)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            'active_when = "metre.current > 2"',
            'active_when = "metre.current > 2": there is no device "metre"; did you mean "meter"?',
        ),
        (
            'active_when = "meter.curent > 2"',
            'active_when = "meter.curent > 2": device "meter" has no channel "curent"; did you '
            'mean "current"?',
        ),
        (
            'active_when = "meter.current"',
            'active_when = "meter.current": expected a condition such as "press-4-power.current > 2.0"',
        ),
        (
            'active_when = "meter.current > lots"',
            'active_when = "meter.current > lots": "lots" is not a finite number',
        ),
        (
            'active_when = "meter.current > nan"',
            'active_when = "meter.current > nan": "nan" is not a finite number',
        ),
        (
            'active_when = "current > 2"',
            'active_when = "current > 2": "current" is no channel: expected device.channel',
        ),
        ("interval_s = 1", 'interval_s = 1.0: give either this or rate_hz (both only with mode = "burst")'),
        (
            "alerts_per_week = 1\np_threshold = 0.001",
            "p_threshold = 0.001: give either this or alerts_per_week",
        ),
        ("window = 1024\nwindow_s = 1", "window_s = 1.0: give either this or window"),
        (
            "window_s = 0.0101",
            "window_s = 0.0101: is 10.1 samples at 1000 Hz: expected a whole number of samples",
        ),
        ("window_s = 0.001", "window_s = 0.001: is 1 sample: expected at least 2"),
        ("window_s = 1e9", "window_s = 1000000000.0: is 1e+12 samples at 1000 Hz: expected at most 16777216"),
        ("alert.n_raise = 5", "alert.n_raise = 5: expected at most m_raise = 3"),
        (
            'active_when = "press-4.x => 2"',
            'active_when = "press-4.x => 2": "=>" is no comparison; did you mean ">="?',
        ),
        (
            'active_when = "press-4.x = 2"',
            'active_when = "press-4.x = 2": "=" is no comparison; did you mean "=="?',
        ),
        (
            'active_when = "press-4.x ≥ 2"',
            'active_when = "press-4.x ≥ 2": "≥" is no comparison; did you mean ">="?',
        ),
        (
            'active_when = "press-4.x >> 2"',
            'active_when = "press-4.x >> 2": ">>" is no comparison; expected one of >, >=, <, <=, ==, !=',
        ),
        ("window = 10\nhop = 11", "hop = 11: expected at most the window, 10 samples"),
    ],
)
def test_device(tmp_path: Path, extra: str, expected: str) -> None:
    line = 7 + extra.count("\n")
    assert errors(tmp_path, press(extra)) == [f'gateway.toml:{line}: [[device]] "press-4": {expected}']


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('["x", "y"]', '["x", "x"]', '6: [[device]] "press-4": channels[1]: channel "x" is listed twice'),
        (
            '["x", "y"]',
            "[]",
            '3: [[device]] "press-4": channels is missing: expected a list of at least one channel',
        ),
        (
            '["x", "y"]',
            '["x", { name = "y", scale = 0 }]',
            '6: [[device]] "press-4": channels[1].scale = 0.0: expected a number other than 0',
        ),
        (
            '["x", "y"]',
            '["x", { name = "y", valid_range = [5, 1] }]',
            '6: [[device]] "press-4": channels[1].valid_range = [5.0, 1.0]: expected [low, '
            "high] with low below high",
        ),
        (
            "rate_hz = 1000\n",
            "",
            '3: [[device]] "press-4": rate_hz or interval_s is missing: how often does the device sample?',
        ),
        (
            '"meter"',
            '"press-4"',
            '8: [[device]] "press-4": id = "press-4": another device has this id (line 4)',
        ),
        (
            '"meter"',
            '"a/b"',
            '8: [[device]] "a/b": id = "a/b": a device id \'a/b\' cannot be part of an MQTT '
            "topic: use 1 to 128 "
            "characters without '/', '+', '#', control characters or a leading '$'",
        ),
        (
            '"meter"',
            '"_gateway"',
            '8: [[device]] "_gateway": id = "_gateway": this name stands for the gateway itself',
        ),
        (
            '"g1"',
            '"g/1"',
            "2: [gateway]: name = \"g/1\": name 'g/1' cannot be part of an MQTT topic: use 1 to 128 "
            "characters without '/', '+', '#', control characters or a leading '$'",
        ),
    ],
)
def test_names_and_channels(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert errors(tmp_path, PLANT.replace(old, new)) == [f"gateway.toml:{expected}"]


def test_burst_needs_its_record_and_interval(tmp_path: Path) -> None:
    assert errors(tmp_path, press('mode = "burst"')) == [
        'gateway.toml:3: [[device]] "press-4": interval_s is missing: expected the seconds from '
        "one record of a burst "
        "to the next",
        'gateway.toml:3: [[device]] "press-4": window is missing: expected the samples of one '
        "record of a burst",
    ]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (
            "channel = 'z'\nabove = 1",
            '9: [[device.limit]] of "press-4": channel = "z": device "press-4" has no such channel',
        ),
        ("channel = 'x'", '7: [[device.limit]] of "press-4": above or below is missing: expected a number'),
        (
            "channel = 'x'\nabove = 1\nbelow = 2",
            '10: [[device.limit]] of "press-4": above = 1.0: nothing could be allowed: expected '
            "more than below = 2.0",
        ),
        (
            "channel = 'x'\nabove = 1\n[[device.limit]]\nname = 'hot'\nchannel = 'y'\nabove = 1",
            '12: [[device.limit]] of "press-4": name = "hot": another limit of this device has this name',
        ),
    ],
)
def test_limits(tmp_path: Path, limit: str, expected: str) -> None:
    assert errors(tmp_path, press(f"[[device.limit]]\nname = 'hot'\n{limit}")) == [f"gateway.toml:{expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("topic = 'a'", "14: device is missing: give device, device_key or a {device} level in the topic"),
        (
            "topic = 'a/{device}'\ndevice = 'meter'",
            '16: device = "meter": the device is named twice: give one of device, device_key '
            "and a {device} level in "
            "the topic",
        ),
        (
            "topic = 'a'\ndevice = 'metr'",
            '16: device = "metr": there is no such device; did you mean "meter"?',
        ),
        (
            "topic = '{device}'\ndevices = { a = 'metr' }",
            '16: devices.a = "metr": there is no such device; did you mean "meter"?',
        ),
        ("topic = 'a/#/{device}'", '15: topic = "a/#/{device}": "#" may only be the last level'),
        (
            "topic = 'a/{dev}/{device}'",
            '15: topic = "a/{dev}/{device}": "{dev}" is no level of a topic: "+", "#", '
            '"{device}" and "{channel}" '
            "stand alone",
        ),
        (
            "topic = '{device}/{device}'",
            '15: topic = "{device}/{device}": {device} may stand for one level only',
        ),
        (
            "topic = 'a'\ndevice = 'meter'\nformat = 'number'",
            "14: channel is missing: give channel or a {channel} level in the topic for a bare number",
        ),
        (
            "topic = '{channel}'\ndevice = 'meter'\nchannel = 'power'",
            '17: channel = "power": the channel is named twice: give either this or a {channel} '
            "level in the topic",
        ),
        (
            "topic = 'a'\ndevice = 'meter'\nchannels = { curent = 'I' }",
            '17: channels.curent = "I": device "meter" has no such channel; did you mean "current"?',
        ),
        (
            "topic = '{device}'\nchannels = { curent = 'I' }",
            '16: channels.curent = "I": no device has such a channel; did you mean "current"?',
        ),
        (
            "topic = 'a'\ndevice = 'meter'\nchannels = { current = 'I', power = 'I' }",
            '17: channels.power = "I": is mapped to channel "current" too',
        ),
        (
            "topic = '{device}'\ncolumns = ['x', 'y']",
            '16: columns: is only for format = "csv", and this one is "json"',
        ),
        (
            "topic = '{device}'\nrate_key = 'r'\nperiod_key = 'p'",
            "17: period_key: give either this or rate_key",
        ),
        (
            "topic = '{device}'\ntimezone = 'Europe/Berlin'",
            '16: timezone = "Europe/Berlin": is only for time_unit = "iso"',
        ),
        (
            "topic = '{device}'\ntime_unit = 'iso'\ntimezone = 'Europe/Ulm'",
            '17: timezone = "Europe/Ulm": unknown time zone: expected a name such as '
            '"Europe/Berlin" or "UTC"',
        ),
    ],
)
def test_subscription(tmp_path: Path, text: str, expected: str) -> None:
    line, problem = expected.split(": ", 1)
    assert errors(tmp_path, subscription(text)) == [f"gateway.toml:{line}: [[source.subscribe]]: {problem}"]


def test_a_channel_may_be_mapped_once(tmp_path: Path) -> None:
    text = subscription(
        "topic = 'a'\ndevice = 'meter'\nchannels = { current = 'I' }\n"
        "[[source.subscribe]]\ntopic = 'b'\ndevice = 'meter'\nchannel = 'current'\nformat = 'number'\n"
    )
    assert errors(tmp_path, text) == [
        'gateway.toml:21: [[source.subscribe]]: channel: channel "current" of device "meter" is '
        "already mapped from "
        'topic "a"'
    ]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            'username = "u"\npassword = "hunter2"',
            "15: [[source]]: password: unknown key: a password does not belong in this file: "
            "use password_file or "
            "password_env",
        ),
        (
            'username = "u"\npassword_file = "secret"',
            '15: [[source]]: password_file = "secret": this file cannot be read: No such file or directory',
        ),
        (
            'username = "u"\npassword_env = "LINEWATCH_NOT_SET"',
            '15: [[source]]: password_env = "LINEWATCH_NOT_SET": this environment variable is not set',
        ),
        (
            'tls = { ca_file = "ca.pem" }',
            '14: [[source]]: tls.ca_file = "ca.pem": this file cannot be read',
        ),
        (
            "reconnect_min_s = 90",
            "14: [[source]]: reconnect_min_s = 90.0: expected at most reconnect_max_s = 60",
        ),
    ],
)
def test_broker(tmp_path: Path, extra: str, expected: str) -> None:
    assert errors(tmp_path, broker(extra)) == [f"gateway.toml:{expected}"]


def test_password_needs_a_username(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    assert errors(tmp_path, broker('password_file = "secret"')) == [
        "gateway.toml:11: [[source]]: username is missing: a password needs one"
    ]


def test_sources_need_names_of_their_own_and_subscriptions(tmp_path: Path) -> None:
    text = PLANT + "[[source]]\ntype = 'mqtt'\nhost = 'other'\n"
    assert errors(tmp_path, text) == [
        'gateway.toml:16: [[source]]: name = "mqtt": another source has this name; give each a '
        "name of its own",
        "gateway.toml:16: [[source]]: [[source.subscribe]] is missing: which topics does this broker have?",
    ]


@pytest.mark.parametrize(
    ("uplink", "overlaps"),
    [
        ("host = 'localhost'\nprefix = 'plant'", True),
        ("host = '127.0.0.1'\nprefix = 'plant/press-4'", True),
        ("host = 'localhost'", False),
        ("host = 'localhost'\nport = 1884\nprefix = 'plant'", False),
        ("host = 'elsewhere'\nprefix = 'plant'", False),
    ],
)
def test_raw_topics_may_not_overlap_the_uplink(tmp_path: Path, uplink: str, overlaps: bool) -> None:
    text = PLANT + f"[uplink]\n{uplink}\n"
    if not overlaps:
        (tmp_path / "gateway.toml").write_text(text)
        assert load_config(tmp_path / "gateway.toml").uplink is not None
        return
    prefix = uplink.split("'")[3]
    assert errors(tmp_path, text) == [
        'gateway.toml:15: [[source.subscribe]]: topic = "plant/{device}/raw": overlaps what the '
        "uplink publishes on "
        f'the same broker, "{prefix}/#"'
    ]


def test_replay_source(tmp_path: Path) -> None:
    text = PLANT + "[[source]]\ntype = 'replay'\npaths = ['none-*.csv']\ndevice_id = 'metr'\n"
    assert errors(tmp_path, text) == [
        'gateway.toml:18: [[source]]: paths[0] = "none-*.csv": there is no such file',
        'gateway.toml:19: [[source]]: device_id = "metr": there is no such device; did you mean "meter"?',
    ]
