"""What the commands say and decide, without ports: figures, the view, a board's verdict, batches for the mqtt source."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from edge_node.sources.payloads import Decoder, PayloadSpec
from firmware_bridge import following, ports
from firmware_bridge.batch_json import batch
from firmware_bridge.figures import Figures, dropped_text, loss_text, summary
from firmware_bridge.following import Follower
from firmware_bridge.forward import NotForwardable, check_topic, topic_of
from firmware_bridge.news import Came, Gone, Opened, Standing
from firmware_bridge.outlet import BrokerUnavailable, broker_url, read_password
from firmware_bridge.protocol import BoardChannel, Cause, Event, EventSeverity, Hello, Refusal
from firmware_bridge.session_items import Greeting, Item, Logged, Lost, Reset, Rows, SessionCounters
from firmware_bridge.telling import SILENT_S, Teller
from firmware_bridge.transport import LineSettings, PortName
from firmware_bridge.verdict import Check, Late, Seen, Track, judge
from firmware_bridge.view import one_line, screenful
from models.signal import NS_PER_S, Channel, Clock, Device, Mode

CHANNELS = (BoardChannel("x", "m/s2", 0.01), BoardChannel("bearing", "°C", 0.1, -40.0))
T_NS = 1_760_000_000 * NS_PER_S


def hello(
    rate_hz: Fraction | None = Fraction(1000),
    channels: tuple[BoardChannel, ...] = CHANNELS,
    *,
    serial: str = "S-1",
    config_id: int = 1,
) -> Hello:
    return Hello(config_id, "fw", "2.1", serial, channels, rate_hz)


def rows(
    values: object = ((1, 2), (3, 4)),
    dtype: str = "<i2",
    *,
    of: Hello | None = None,
    index: int = 0,
    us: int = 0,
) -> Rows:
    counts = np.array(values, dtype)
    of = of or hello()
    time_ns = None if of.rate_hz is not None else T_NS + np.arange(len(counts)) * NS_PER_S
    return Rows(of, counts, T_NS, time_ns, T_NS + NS_PER_S, Clock.SYNCED, 1e5, index, us)


def counted(**more: Any) -> Standing:
    """As of a good board, but for some counters."""
    good = {"n_bytes": 60_000, "n_frames": 200, "n_rows": 10_000, "n_asked": 20, "n_exchanges": 20}
    return standing(counters=SessionCounters(**{**good, **more}))


def standing(**more: Any) -> Standing:
    """As of a good board, but for some of it."""
    if "counters" not in more:
        return dataclasses.replace(counted(), **more)
    good = {"hello": hello(), "error_ns": 2e5, "skew_ppm": 12.0, "path": "/dev/p", "n_opens": 1}
    return Standing(**{**good, "n_dropped_rows": 0, "n_dropped_news": 0, "n_unsent": 0, **more})


# Figures and the view.


def test_rates_are_of_the_last_seconds_and_extremes_of_the_last_reading() -> None:
    figures = Figures(0.0)
    counters = SessionCounters()
    for second in range(1, 11):
        counters.n_rows += 100 if second <= 5 else 200
        counters.n_bytes += 1000
        figures.take(rows([[second, 400], [-second, 500]]))
        reading = figures.read(counters, float(second))
    assert (reading.rows_per_s, reading.bytes_per_s) == (200, 1000)
    x, bearing = reading.values
    assert (x.name, x.unit, x.last, x.low, x.high) == ("x", "m/s2", -0.1, -0.1, 0.1)
    assert (bearing.last, bearing.low, bearing.high) == pytest.approx((10, 0, 10))


def test_a_screenful_has_room_for_what_it_shows() -> None:
    channels = tuple(BoardChannel(f"channel number {i}", "m/s2") for i in range(64))
    figures = Figures(0.0)
    figures.take(rows([list(range(64))], of=hello(channels=channels)))
    shown = standing(hello=hello(channels=channels))
    reading = figures.read(shown.counters, 1.0)
    lines = screenful(shown, reading, 115200, None, ("said",), columns=40, rows=20)
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 40
    assert lines[-1] == "said"
    assert any(line.startswith("… and ") and line.endswith(" more channels") for line in lines)


def test_a_line_says_rates_losses_clock_and_values() -> None:
    figures = Figures(0.0)
    figures.take(rows())
    counters = SessionCounters(
        n_bytes=5760, n_frames=9, n_rows=1000, n_lost_rows=64, n_lost_frames=1, n_asked=3, n_exchanges=3,
        damage=Counter({"bad_crc": 2, "cut_in": 1}),
    )  # fmt: skip
    shown = standing(counters=counters)
    assert one_line(shown, figures.read(counters, 1.0), 115200) == (
        "1000.0 a second, 1000 Hz stated | 5.76 kB/s, 50% of 115200 baud | lost 64 rows, 1 frame; 2 damaged (2 bad_crc) | "
        "clock ±0.20 ms, 12.0 ppm slow, 3 of 3 TimeSync answered | x 0.03 m/s2, bearing -39.6 °C"
    )
    assert summary(shown, 1.0) == (
        "1 s: 1000 rows; lost 64 rows, 1 frame; 2 damaged (2 bad_crc); 0 resets; opened once"
    )


def test_rows_without_a_hello_and_repeated_ones_are_said() -> None:
    text = loss_text(SessionCounters(n_unexplained_rows=5, n_repeated_rows=1))
    assert text == "lost 0 rows, 0 frames; 0 damaged; 5 rows without a Hello; 1 row repeated"


def test_everything_is_told_once() -> None:
    teller = Teller()

    def tell(item: Item) -> str | None:
        return teller.tell(Came(item, 0), 0.0)

    assert teller.tell(Gone("/dev/p: busy"), 0.0) == "/dev/p: busy"
    assert teller.tell(Gone("/dev/p: busy"), 0.0) is None
    assert teller.tell(Opened("/dev/p", 0), 1.0) == "/dev/p: open"
    assert teller.trouble is None
    assert tell(Greeting(hello(), True)) == "board S-1, fw 2.1: x in m/s2, bearing in °C; 1000 Hz"
    assert tell(Greeting(hello(), False)) is None
    assert (
        tell(Logged(Event(0, 7, EventSeverity.ERROR, "no sensor"), 0))
        == "the board says (error 7): no sensor"
    )
    assert tell(Refusal(Cause.MALFORMED, "nonsense")) == "nonsense"
    assert tell(Refusal(Cause.MALFORMED, "nonsense")) is None
    assert tell(rows()) is None


def test_a_silent_board_is_explained_once_an_opening() -> None:
    teller, silent = Teller(), standing(hello=None, counters=SessionCounters())
    teller.tell(Opened("/dev/p", 0), 10.0)
    assert teller.hint(silent, 10.0 + SILENT_S / 2) is None
    assert teller.hint(standing(), 10.0 + SILENT_S) is None
    assert "nothing was received: is the board powered" in (teller.hint(silent, 10.0 + SILENT_S) or "")
    assert teller.hint(silent, 100.0) is None


def test_rows_that_nobody_takes_are_dropped_and_counted() -> None:
    follower = Follower(PortName(path="/dev/null"), LineSettings(), max_waiting=10)
    follower._put([Came(rows(index=i), 0) for i in range(0, 10, 2)])
    assert len(follower.take(0.0)) == 2  # of four values each
    assert follower.standing().n_dropped_rows == 6
    follower._put([Came(rows(), 0)])
    assert len(follower.take(0.0)) == 1


def test_other_news_that_nobody_takes_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_NEWS", 2)
    follower = Follower(PortName(path="/dev/null"), LineSettings())
    follower._put([Came(item, 0) for item in (Reset(1), Lost(3, 1), rows(), Reset(2), Reset(3), Lost(4, 1))])
    assert len(follower.take(0.0)) == 4
    found = follower.standing()
    assert (found.n_dropped_rows, found.n_dropped_news) == (2, 1)
    dropped = "; 2 rows, 1 piece of news dropped here"
    assert dropped_text(found) == dropped
    assert f"{dropped}: this computer could not keep up" in summary(found, 3.0)
    assert not dropped_text(standing())


def test_questions_that_are_not_sent_are_told() -> None:
    assert "not sent" not in summary(standing(), 3.0)
    assert summary(standing(n_unsent=2), 3.0).endswith("; 2 frames not sent: the board does not take them")


# The verdict.


def track(ppm: float = 0.0) -> Track:
    """Of 1000 Hz, by a clock that is so much too fast."""
    found = Track()
    for i in range(100):
        found.take(rows(index=100 * i, us=round(100_000 * i * (1 + ppm * 1e-6))))
    return found


def seen(**more: Any) -> Seen:
    """Of a good board, but for some of it."""
    late = Late(1.0, hello_s=0.01, n_passed_rows=1000, n_rows=100)
    good = {"seconds": 10.0, "standing": standing(), "hellos_s": [3.0, 6.0, 9.0], "n_new_hellos": 1}
    return Seen(**{**good, "answer_s": 0.012, "acked": True, "track": track(), "late": late, **more})


def check(name: str, of: Seen, baud: int = 115200) -> Check:
    return next(check for check in judge(of, baud) if check.name == name)


def test_a_good_board_passes_all() -> None:
    checks = judge(seen(), 115200)
    assert [c.name for c in checks if not c.passed] == []
    assert len(checks) == 9


@pytest.mark.parametrize(
    ("name", "wrong", "why"),
    [
        (
            "port",
            {"troubles": ["/dev/p: the line was lost", "again"]},
            "lost 2 times: /dev/p: the line was lost",
        ),
        ("Hello, asked for", {"answer_s": None, "acked": False}, "is our TX on the board's RX?"),
        ("Hello, asked for", {"answer_s": None}, "acknowledged, but no Hello"),
        ("Hello, asked for", {"acked": False}, "but no Ack"),
        ("Hello, by itself", {"hellos_s": []}, "none in 10 s;"),
        ("Hello, by itself", {"hellos_s": [], "seconds": 3.0}, "watch for 10 s or more: --for"),
        ("Hello, by itself", {"hellos_s": [2.0], "seconds": 15.0}, "at most 13.0 s apart: more than 10 s"),
        ("rate", {"track": track(2000)}, "997.992 Hz, 1000 Hz stated: -2008 ppm, more than 1000"),
        ("rate", {"track": Track()}, "too few to measure"),
        ("loss", {"standing": counted(n_lost_rows=3)}, "the board itself left them out"),
        ("loss", {"standing": counted(damage=Counter(bad_crc=1))}, "another baud rate, a bad cable"),
        ("loss", {"standing": counted(n_unexplained_rows=1)}, "1 row without a Hello"),
        ("clock", {"standing": standing(error_ns=None, skew_ppm=None)}, "none of 20 TimeSync answered"),
        ("clock", {"standing": counted(n_exchanges=10)}, "fewer than 90%"),
        ("clock", {"standing": standing(error_ns=9e6)}, "more than 5 ms"),
        ("clock", {"standing": standing(skew_ppm=-20_000.0)}, "are these microseconds?"),
        ("reset", {"standing": counted(n_resets=2)}, "began anew 2 times"),
        ("reset", {"n_new_hellos": 2}, "began anew 1 time"),
        (
            "reset",
            {"standing": counted(n_resets=1, n_set=1), "set_us": 700_000},
            "its clock was set once while it ran, at most by 700 ms: does the firmware set its microseconds?",
        ),
        (
            "reset",
            {"standing": counted(n_resets=3, n_set=2), "set_us": 20_000},
            "a loose supply?; its clock was set 2 times while it ran, at most by 20 ms",
        ),
        ("attaching late", {"late": Late(1.0, "/dev/p: gone")}, "did not open again: /dev/p: gone"),
        ("attaching late", {"late": Late(1.0, hello_s=0.1, another=True, n_rows=9)}, "try --dtr off"),
        (
            "attaching late",
            {"late": Late(1.0, hello_s=0.1, n_resets=1, n_rows=9)},
            "opening the port resets it",
        ),
        (
            "attaching late",
            {"late": Late(1.0, hello_s=0.1, n_set=1, n_rows=9)},
            "went on, but its clock was set",
        ),
        ("attaching late", {"late": Late(1.0, n_rows=9)}, "no Hello within 10 s"),
        ("attaching late", {"late": Late(1.0, hello_s=0.1)}, "then no rows"),
        ("line load", {"standing": counted(n_bytes=100_000)}, "87%, more than 80%"),
    ],
)
def test_each_fault_fails_its_own_check(name: str, wrong: dict[str, Any], why: str) -> None:
    of = seen(**wrong)
    failed = check(name, of)
    assert not failed.passed
    assert why in failed.text
    assert [c.name for c in judge(of, 115200) if not c.passed] == [name]


def test_a_clock_that_was_set_did_not_begin_anew() -> None:
    of = seen(standing=counted(n_resets=1, n_set=1), set_us=20_000)
    assert "anew" not in check("reset", of).text
    found = standing(counters=SessionCounters(n_resets=3, n_set=1))
    assert "2 resets, a clock that was set once; opened once" in summary(found, 3.0)
    assert "0 resets; opened once" in summary(standing(), 3.0)
    teller = Teller()
    for off_us, was_set, text in (
        (700_000, True, "the board's clock was set ahead by 700 ms"),
        (-20_000, True, "the board's clock was set back by 20 ms"),
        (-900_000, False, "the board's clock began anew"),  # another configuration came with it
    ):
        assert teller.tell(Came(Reset(off_us, was_set), 0), 0.0) == text


def test_damage_of_joining_and_types_of_a_newer_minor_version_are_no_loss() -> None:
    assert check("loss", seen(standing=counted(damage=Counter(cut_in=1, unknown_type=4)))).passed


def test_a_line_that_carries_more_than_its_baud_rate_is_not_bound_by_it() -> None:
    over = check("line load", seen(standing=counted(n_bytes=1_000_000)))
    assert over.passed
    assert "native USB" in over.text


@pytest.mark.parametrize("damage", [Counter(), Counter(oversize=1), Counter(cut_in=1)])
def test_where_no_frame_came_nothing_is_said_of_losses(damage: Counter[str]) -> None:
    csv = standing(hello=None, counters=SessionCounters(n_bytes=500, damage=damage))
    loss = {c.name: c for c in judge(seen(standing=csv, late=None), 115200)}["loss"]
    assert (loss.passed, loss.text) == (None, "could not be judged: no frame came")


def test_no_board_is_judged_by_what_came() -> None:
    silent = standing(hello=None, counters=SessionCounters(n_bytes=500, damage=Counter(bad_cobs=20)))
    checks = judge(seen(standing=silent, late=None), 115200)
    assert [(c.name, c.passed) for c in checks] == [
        ("port", True), ("Hello", False), ("loss", None), ("line load", True),
    ]  # fmt: skip
    assert "another baud rate, or firmware that does not speak this protocol" in checks[1].text


def test_a_rate_is_measured_over_wraps_of_its_numbers_and_within_one_configuration() -> None:
    track = Track()
    track.take(rows(index=5, us=10, of=hello(config_id=9)))
    for i in range(50):
        track.take(rows(index=(2**32 - 2000 + 100 * i) % 2**32, us=100_000 * i))
    assert track.rate_hz == pytest.approx(1000)


# Batches.


def read(payload: bytes, device: Device) -> Any:
    spec = PayloadSpec(time_key="t", rate_key="rate_hz")
    blocks, refused = Decoder(spec, {device.device_id: device}, device=device.device_id, channel=None).decode(
        payload, T_NS
    )
    assert refused == []
    (block,) = blocks
    return block


def device(mode: Mode = Mode.CONTINUOUS, rate_hz: Fraction = Fraction(1000)) -> Device:
    channels = (Channel(name="x"), Channel(name="bearing"))
    return Device(device_id="d", machine="d", mode=mode, rate_hz=rate_hz, channels=channels)


def test_a_batch_is_short_and_the_mqtt_source_reads_it() -> None:
    sent = rows([[57, 29], [-7, 401]])
    payload = batch(sent)
    assert payload == b'{"t":1760000000000000000,"rate_hz":1000,"x":[0.57,-0.07],"bearing":[-37.1,0.1]}'
    block = read(payload, device())
    assert (block.start_ns, block.rate_hz) == (T_NS, 1000)
    assert np.array_equal(block.values, sent.to_si().astype(np.float32))


def test_a_rate_that_is_no_whole_number_is_exact() -> None:
    block = read(batch(rows(of=hello(Fraction(1000, 3)))), device(rate_hz=Fraction(1000, 3)))
    assert block.rate_hz == Fraction(1000, 3)


def test_an_irregular_boards_rows_have_a_time_each() -> None:
    block = read(batch(rows(of=hello(None))), device(Mode.IRREGULAR, Fraction(1)))
    assert block.times().tolist() == [T_NS, T_NS + NS_PER_S]


def test_floats_are_exact_and_nan_is_missing() -> None:
    values = [[0.1, math.nan], [1e-30, 3.25]]
    plain = hello(channels=(BoardChannel("x"), BoardChannel("bearing")))
    block = read(batch(rows(values, "<f4", of=plain)), device())
    assert np.array_equal(block.values, np.array(values, np.float32), equal_nan=True)


def test_a_topic_is_named_after_the_board() -> None:
    assert topic_of("plant/{board}/vibration", hello()) == "plant/S-1/vibration"
    assert topic_of("plant/press", hello(serial="")) == "plant/press"
    for serial in ("", "a/b", "a+b"):
        with pytest.raises(NotForwardable, match="give --topic"):
            topic_of("{board}", hello(serial=serial))
    for topic in ("", "a/#", "+"):
        with pytest.raises(ValueError, match="is no topic"):
            check_topic(topic)


def test_a_brokers_url() -> None:
    url = broker_url("mqtts://me%40plant@broker.example/a/b/")
    assert (url.host, url.port, url.tls, url.username, url.prefix) == (
        "broker.example",
        8883,
        True,
        "me@plant",
        "a/b",
    )
    assert broker_url("mqtt://h").port == 1883
    assert str(url) == "mqtts://broker.example:8883"


def test_a_password_that_cannot_be_read_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokerUnavailable, match=r"--password-file .*nothing: No such file"):
        read_password(tmp_path / "nothing", None)
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(BrokerUnavailable, match="is not text"):
        read_password(tmp_path / "binary", None)
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(BrokerUnavailable, match="the environment has no such variable"):
        read_password(None, "NOT_THERE")
    assert read_password(None, None) is None


# Ports.


class _Found:
    """As pyserial describes a port."""

    def __init__(self, path: str, **more: Any) -> None:
        self.device = path
        self.serial_number = self.vid = self.pid = self.location = None
        self.description = "n/a"
        self.__dict__.update(more)


def test_ports_are_listed_with_what_identifies_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from firmware_bridge.cli import main

    usb = {
        "serial_number": "A5XK3RJT",
        "vid": 0x0403,
        "pid": 0x6001,
        "location": "1-1.4",
        "description": "FT232R USB UART",
    }
    found = [_Found("/dev/ttyUSB0", **usb), _Found("/dev/ttyS0")]
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: found)
    assert main(["list"]) == 0
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["/dev/ttyS0", "-", "-", "-", "-"]
    assert second.split(maxsplit=4) == ["/dev/ttyUSB0", "A5XK3RJT", "0403:6001", "1-1.4", "FT232R USB UART"]
    found.clear()
    assert main(["list"]) == 0
    assert capsys.readouterr().out.startswith("no serial port is here: plug the board in")
    assert main(["list", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/dev/ttyACM0", PortName(path="/dev/ttyACM0")),
        ("socket://10.0.0.7:4000", PortName(path="socket://10.0.0.7:4000")),
        ("1a86:7523", PortName(vid_pid="1a86:7523")),
        ("1-1.4", PortName(by_path="1-1.4")),
        ("1-1.4:1.0", PortName(by_path="1-1.4:1.0")),
        ("pci-0000:00:14.0-usb-0:2:1.0", PortName(by_path="pci-0000:00:14.0-usb-0:2:1.0")),
        ("A5XK3RJT", PortName(usb_serial="A5XK3RJT")),
    ],
)
def test_a_port_is_called_what_list_shows(text: str, name: PortName) -> None:
    assert ports.named(text) == name
