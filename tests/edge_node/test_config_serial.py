"""What no type can say about serial lines and Modbus in gateway.toml; word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.config import ConfigError, load_config
from edge_node.config_schema import ModbusSource, SerialSource

# The source is on line 11.
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
"""
SERIAL = PLANT + '[[source]]\ntype = "serial"\ndevice = "press-4"\n'  # up to line 13
MODBUS = PLANT + '[[source]]\ntype = "modbus"\n'  # up to line 12
REGISTER = '[[source.register]]\ndevice = "meter"\nchannel = "power"\nslave = 1\naddress = 7\n'
TCP = MODBUS + 'host = "10.0.0.7"\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return path


def errors(tmp_path: Path, text: str) -> list[str]:
    """The lines of the ConfigError for ``text``, without the file's name."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


WHICH = (
    "11: [[source]]: which port? Give usb_serial, vid_pid, by_path, board (the serial number in its Hello) "
    "or port; `firmware-bridge list` shows what is there"
)
PORT = 'port = "/dev/ttyUSB0"\n'  # line 14
LINES = f'{PORT}protocol = "lines"\n'  # lines 14 and 15


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", [WHICH]),
        (
            PORT + 'channels = { xx = "a" }',
            ['15: [[source]]: channels.xx = "a": device "press-4" has no such channel; did you mean "x"?'],
        ),
        (
            PORT + 'channels = { x = "a", y = "a" }',
            ['15: [[source]]: channels.y = "a": is mapped to channel "x" too'],
        ),
        (
            PORT + "reconnect_min_s = 20",
            ["15: [[source]]: reconnect_min_s = 20.0: expected at most reconnect_max_s = 10"],
        ),
        (
            PORT + 'format = "csv"\ncolumns = ["x", "y"]\nmax_payload_bytes = 100',
            [
                '15: [[source]]: format: is only for protocol = "lines", and this one is "framed"',
                '16: [[source]]: columns: is only for protocol = "lines", and this one is "framed"',
                '17: [[source]]: max_payload_bytes: is only for protocol = "lines", and this one is "framed"',
            ],
        ),
        (
            PORT + 'protocol = "frames"',
            [
                '15: [[source]]: protocol = "frames": expected one of "framed", "lines"; did you mean "framed"?'
            ],
        ),
        (
            PORT + "baud = 10",
            ["15: [[source]]: baud = 10: expected a whole number at least 50 and at most 20000000"],
        ),
        (PORT + "dtr = 1", ["15: [[source]]: dtr = 1: expected true or false"]),
        (
            'vid_pid = "1a86-7523"',
            [
                '14: [[source]]: vid_pid = "1a86-7523": expected vendor and product as lsusb shows them, such as "1a86:7523"'
            ],
        ),
        (
            PORT + "buad = 9600",
            ['15: [[source]]: buad = 9600: unknown key; did you mean "baud"?'],
        ),
        (
            LINES + 'board = "A-1"',
            ['16: [[source]]: board: is only for protocol = "framed": lines do not say whose they are'],
        ),
        (
            LINES + 'format = "packed"',
            ['16: [[source]]: format = "packed": a packed block is no line of text'],
        ),
        (
            LINES + 'format = "influx"\ncolumns = ["x", "y"]',
            ['17: [[source]]: columns: is only for format = "csv", and this one is "influx"'],
        ),
        (
            LINES + 'device_key = "id"',
            ['16: [[source]]: device_key = "id": all lines of a port are of its device'],
        ),
        (
            LINES + 'format = "csv"\nheader = true',
            [
                "17: [[source]]: header = true: who joins a line late has missed its first one: name the "
                "columns with columns = [...]"
            ],
        ),
        (
            LINES + 'format = "number"',
            [
                '16: [[source]]: format = "number": a bare number is of one channel, and here are 2: name one '
                "in channels = {...}"
            ],
        ),
        (
            LINES + 'timezone = "Europe/Berlin"',
            ['16: [[source]]: timezone = "Europe/Berlin": is only for time_unit = "iso"'],
        ),
        (
            LINES + 'time_key = "t"\ntime_unit = "iso"\ntimezone = "Europe/Berln"',
            [
                '18: [[source]]: timezone = "Europe/Berln": unknown time zone: expected a name such as '
                '"Europe/Berlin" or "UTC"'
            ],
        ),
        (
            LINES + 'rate_hz = 5\nrate_key = "r"',
            ["16: [[source]]: rate_hz: give either this or rate_key"],
        ),
    ],
)
def test_serial_sources(tmp_path: Path, extra: str, expected: list[str]) -> None:
    assert errors(tmp_path, f"{SERIAL}{extra}\n") == expected


def test_a_serial_source_of_no_device(tmp_path: Path) -> None:
    text = SERIAL.replace('device = "press-4"', 'device = "press4"') + PORT
    assert errors(tmp_path, text) == [
        '13: [[source]]: device = "press4": there is no such device; did you mean "press-4"?'
    ]
    text = SERIAL.replace('device = "press-4"\n', "") + PORT
    assert errors(tmp_path, text) == [
        "11: [[source]]: device is missing: expected a string that is not empty"
    ]


@pytest.mark.parametrize("key", ["port", "usb_serial", "by_path"])
def test_two_sources_of_one_port(tmp_path: Path, key: str) -> None:
    other = MODBUS.removeprefix(PLANT)
    text = f'{SERIAL}{key} = "a"\n{other}{key} = "a"\n{REGISTER}'
    assert errors(tmp_path, text) == [f'17: [[source]]: {key} = "a": source "serial" has this port already']


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            MODBUS + REGISTER,
            [
                "11: [[source]]: give either host (Modbus TCP) or a serial port: port, usb_serial, vid_pid or by_path"
            ],
        ),
        (
            TCP + PORT + REGISTER,
            [
                "11: [[source]]: give either host (Modbus TCP) or a serial port: port, usb_serial, vid_pid or by_path"
            ],
        ),
        (TCP, ["11: [[source]]: [[source.register]] is missing: what is to be read?"]),
        (
            TCP + REGISTER.replace("meter", "metre"),
            ['15: [[source.register]]: device = "metre": there is no such device; did you mean "meter"?'],
        ),
        (
            TCP + REGISTER.replace("power", "powr"),
            [
                '16: [[source.register]]: channel = "powr": device "meter" has no such channel; did you mean "power"?'
            ],
        ),
        (
            TCP + REGISTER + REGISTER,
            [
                '21: [[source.register]]: channel = "power": another register of this source is this channel of meter already'
            ],
        ),
        (
            TCP + REGISTER + 'function = 1\ntype = "float32"',
            ['20: [[source.register]]: type = "float32": function 1 reads single bits'],
        ),
        (
            TCP + REGISTER.replace("= 7", "= 65535") + 'type = "uint32"',
            ["18: [[source.register]]: address = 65535: the value reaches beyond 65535"],
        ),
        (TCP + REGISTER + "scale = 0", ["19: [[source.register]]: scale = 0.0: expected anything but 0"]),
        (
            TCP + REGISTER + "function = 2\ncounter = true",
            ["20: [[source.register]]: counter: a single bit counts nothing"],
        ),
        (
            MODBUS + 'port = "/dev/ttyS0"\n' + REGISTER.replace("slave = 1", "slave = 0"),
            [
                "17: [[source.register]]: slave = 0: no slave of a serial line has this number: 0 calls them all, and "
                "none answers"
            ],
        ),
        (
            TCP + REGISTER + "function = 5",
            ["19: [[source.register]]: function = 5: expected one of 1, 2, 3, 4"],
        ),
        (
            TCP + REGISTER.replace("= 7", "= 65536"),
            [
                "18: [[source.register]]: address = 65536: expected a whole number at least 0 and at most 65535"
            ],
        ),
        (
            TCP + REGISTER.replace("slave = 1", "slave = 256"),
            ["17: [[source.register]]: slave = 256: expected a whole number at least 0 and at most 255"],
        ),
        (
            TCP + REGISTER + 'word_order = "litle"',
            [
                '19: [[source.register]]: word_order = "litle": expected one of "big", "little"; did you mean "little"?'
            ],
        ),
        (
            TCP + 'baud = 19200\nparity = "N"\nstop_bits = 2\n' + REGISTER,
            [
                "14: [[source]]: baud = 19200: is only for a serial line, and this is TCP",
                '15: [[source]]: parity = "N": is only for a serial line, and this is TCP',
                "16: [[source]]: stop_bits = 2: is only for a serial line, and this is TCP",
            ],
        ),
        (
            MODBUS + 'port = "/dev/ttyS0"\ntcp_port = 1502\n' + REGISTER,
            ["14: [[source]]: tcp_port = 1502: is only for host, and this is a serial line"],
        ),
        (
            MODBUS + 'vid_pid = "1a86"\n' + REGISTER,
            [
                '13: [[source]]: vid_pid = "1a86": expected vendor and product as lsusb shows them, such as "1a86:7523"'
            ],
        ),
        (
            TCP + REGISTER + 'type = "unit16"',
            [
                '19: [[source.register]]: type = "unit16": expected one of "bit", "float32", "float64", "int16", '
                '"int32", "int64", "uint16", "uint32", "uint64"; did you mean "uint16"?'
            ],
        ),
        (
            TCP + REGISTER.replace("address", "adress"),
            ['18: [[source.register]]: adress = 7: unknown key; did you mean "address"?'],
        ),
        (
            TCP + "timeout_s = 100\n" + REGISTER,
            ["14: [[source]]: timeout_s = 100: expected a number at least 0.001 and at most 60"],
        ),
        (
            TCP + 'parity = "X"\n' + REGISTER,
            ['14: [[source]]: parity = "X": expected one of "E", "N", "O"'],
        ),
        (
            TCP + "poll_s = 0\n" + REGISTER,
            ["14: [[source]]: poll_s = 0: expected a number at least 0.001 and at most 86400"],
        ),
    ],
)
def test_modbus_sources(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert errors(tmp_path, f"{text}\n") == expected


def test_what_is_right_is_taken_as_it_stands(tmp_path: Path) -> None:
    other = (
        TCP.removeprefix(PLANT)
        + "tcp_port = 1502\npoll_s = 0.2\n"
        + REGISTER
        + 'type = "uint32"\ncounter = true\n'
    )
    text = (
        SERIAL
        + 'vid_pid = "1A86:7523"\nboard = "A-1"\nbaud = 921600\nchannels = { y = "ay" }\ndtr = false\n'
        + other
    )
    serial, modbus = load_config(write(tmp_path, text)).sources
    assert isinstance(serial, SerialSource)
    assert (serial.board, serial.baud, serial.channels, serial.dtr, serial.rts) == (
        "A-1",
        921600,
        {"y": "ay"},
        False,
        None,
    )
    assert isinstance(modbus, ModbusSource)
    assert (modbus.host, modbus.tcp_port, modbus.register[0].n_words) == ("10.0.0.7", 1502, 2)
