"""``firmware-bridge``: list, monitor, record, forward, verify, simulate.

Exit codes: 0 done, 1 refused or failed (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import msgspec
from tabulate import tabulate

from firmware_bridge import ports
from firmware_bridge.batch_json import SUBSCRIPTION
from firmware_bridge.following import Follower
from firmware_bridge.forward import BOARD, NotForwardable, check_topic, forward
from firmware_bridge.monitor import monitor
from firmware_bridge.outlet import BrokerUnavailable, BrokerUrl, Outlet, broker_url, read_password
from firmware_bridge.protocol import BoardChannel
from firmware_bridge.recorder import NotRecordable, record
from firmware_bridge.simulator import VIBRATION, Faults, Simulator, vibration
from firmware_bridge.stopping import Stopping
from firmware_bridge.transport import LineSettings, PortName, PortUnavailable
from firmware_bridge.verify import verify
from models.logs import LogError
from models.messages import rfc3339
from models.signal import NS_PER_S

FAILED, USAGE = 1, 2
VERIFY_S = 20.0


class Refused(Exception):
    """What was asked cannot be done; one line that says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE)


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="firmware-bridge", description="Microcontrollers on serial ports: find, watch, judge, simulate."
    )
    top.add_argument("--version", action="version", version=importlib.metadata.version("linewatch"))
    commands = top.add_subparsers(dest="command", required=True, parser_class=_Parser)

    listing = commands.add_parser(
        "list",
        help="the serial ports, with what identifies them",
        description="Shows every serial port that is here.",
    )
    listing.add_argument("--json", action="store_true", help="one JSON array")
    listing.set_defaults(act=_list)

    watch = commands.add_parser(
        "monitor",
        help="watch a board live",
        description="Shows rates, losses, clock and last values of a board until it is stopped.",
    )
    _add_port(watch)
    watch.add_argument("--plain", action="store_true", help="a line a second, also on a terminal")
    watch.set_defaults(act=_monitor)

    recording = commands.add_parser(
        "record",
        help="write what a board sends to a log",
        description="Writes a board's rows, in the units that it states, to a log that cloud-sink train and edge-node "
        "replay read.",
    )
    _add_port(recording)
    recording.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=".jsonl or .parquet"
    )
    recording.add_argument(
        "--device", type=_name, help="what it is called there; default: the board's serial number"
    )
    recording.add_argument(
        "--interval-s", type=_seconds, metavar="S", help="from row to row, of an irregular board"
    )
    recording.set_defaults(act=_record)

    forwarding = commands.add_parser(
        "forward",
        help="publish what a board sends to a broker",
        description="Publishes a board's rows as JSON batches, which the mqtt source reads with "
        f"{SUBSCRIPTION}. What waits for the broker is bounded; the oldest is dropped, counted.",
    )
    _add_port(forwarding)
    forwarding.add_argument(
        "--mqtt",
        type=_broker,
        required=True,
        metavar="URL",
        help="mqtt://user@host:port/prefix; mqtts:// with TLS",
    )
    forwarding.add_argument(
        "--topic",
        type=_topic,
        default=BOARD,
        help=f"below the prefix; {BOARD} is the board's serial number, the default",
    )
    forwarding.add_argument("--qos", type=int, choices=(0, 1), default=0, help="default: %(default)s")
    forwarding.add_argument(
        "--queue-mb",
        type=_seconds,
        default=64.0,
        metavar="MB",
        help="what may wait for the broker; default: 64",
    )
    password = forwarding.add_mutually_exclusive_group()
    password.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is the password")
    password.add_argument("--password-env", metavar="NAME", help="of the environment variable that holds it")
    forwarding.set_defaults(act=_forward)

    verifying = commands.add_parser(
        "verify",
        help="judge a board",
        description="Watches a board, attaches to it late, and says PASS or FAIL with reasons. Exit code 0 or 1.",
    )
    _add_port(verifying)
    verifying.set_defaults(act=_verify)

    simulate = commands.add_parser(
        "simulate",
        help="a pty that behaves like a board",
        description="A vibration board (three axes) on a pty, until it is stopped. Faults come as often as asked, at "
        "times that --seed chooses.",
    )
    simulate.add_argument(
        "--link", type=Path, metavar="PATH", help="where the pty is found; default: a new folder"
    )
    simulate.add_argument("--rate-hz", type=_rate, default=Fraction(1000), metavar="HZ", help="default: 1000")
    simulate.add_argument(
        "--serial", default="SIM-0001", help="the board's serial number; default: %(default)s"
    )
    for name, what in (
        ("--noise", "bytes changed on the line, a second"),
        ("--drop", "frames lost on the line, a second"),
        ("--disconnect", "times the cable is pulled for a second, a minute"),
        ("--reboot", "times the board starts anew, a minute"),
    ):
        simulate.add_argument(
            name, type=_not_negative, default=0.0, metavar="N", help=f"{what}; default: none"
        )
    simulate.add_argument(
        "--drift-ppm", type=_number, default=0.0, metavar="PPM", help="how much too fast its clock is"
    )
    simulate.add_argument(
        "--worn-after", type=_seconds, metavar="S", help="the bearing is damaged from then on"
    )
    simulate.add_argument("--for", dest="for_s", type=_seconds, metavar="S", help="stop after this long")
    simulate.add_argument("--seed", type=int, default=1, help="of signal and faults; default: %(default)s")
    simulate.set_defaults(act=_simulate)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``firmware-bridge``; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        code: int = given.act(given)
    except (PortUnavailable, BrokerUnavailable, LogError, NotForwardable, NotRecordable, Refused) as error:
        print(f"firmware-bridge: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _list(given: argparse.Namespace) -> int:
    found = ports.ports()
    if given.json:
        print(msgspec.json.encode(found).decode())
        return 0
    if not found:
        print(ports.NONE)
        return 0
    rows = [tuple(value or "-" for value in dataclasses.astuple(port)) for port in found]
    headers = ("path", "USB serial", "vid:pid", "plugged into", "description")
    print(tabulate(rows, headers=headers, disable_numparse=True))
    return 0


def _monitor(given: argparse.Namespace) -> int:
    with Stopping() as stopping, _follower(given) as follower:
        return monitor(follower, given.baud, stopping, plain=given.plain, for_s=given.for_s, wait=given.wait)


def _record(given: argparse.Namespace) -> int:
    with Stopping() as stopping, _follower(given) as follower:
        return record(
            follower,
            given.output,
            stopping,
            device_id=given.device,
            interval_s=given.interval_s,
            for_s=given.for_s,
            wait=given.wait,
        )


def _forward(given: argparse.Namespace) -> int:
    url: BrokerUrl = given.mqtt
    topic = f"{url.prefix}/{given.topic}" if url.prefix else given.topic
    password = read_password(given.password_file, given.password_env)
    outlet = Outlet(url, password, qos=given.qos, queue_bytes=round(given.queue_mb * 1e6))
    with Stopping() as stopping, outlet:
        outlet.connect(wait=given.wait)
        with _follower(given) as follower:
            return forward(follower, outlet, topic, str(url), stopping, for_s=given.for_s, wait=given.wait)


def _verify(given: argparse.Namespace) -> int:
    name, settings = _line(given)
    with Stopping() as stopping:
        return verify(name, settings, stopping, for_s=given.for_s or VERIFY_S, wait=given.wait)


def _simulate(given: argparse.Namespace) -> int:
    link = _free_link(given.link)
    faults = Faults(
        noise_per_s=given.noise,
        drop_per_s=given.drop,
        disconnect_per_min=given.disconnect,
        reboot_per_min=given.reboot,
        drift_ppm=given.drift_ppm,
    )
    worn_s = float("inf") if given.worn_after is None else time.monotonic() + given.worn_after
    signal = vibration(given.rate_hz, given.seed, worn=lambda: time.monotonic() >= worn_s)
    simulator = Simulator(
        link, rate_hz=given.rate_hz, signal=signal, serial=given.serial, faults=faults, seed=given.seed
    )
    with Stopping(simulator.stop):
        print(
            f"board {given.serial} on {link}: {_channels(VIBRATION)} at {float(given.rate_hz):g} Hz",
            flush=True,
        )
        if given.worn_after is not None:
            at_ns = time.time_ns() + round(given.worn_after * NS_PER_S)
            print(f"its bearing is damaged from {rfc3339(at_ns)} on", flush=True)
        simulator.run(given.for_s)
    if given.link is None:
        link.parent.rmdir()
    counters = simulator.counters
    print(
        f"sent {counters.n_rows} rows, {counters.n_bytes} bytes; {counters.n_noise} bytes changed, {counters.n_dropped} frames "
        f"dropped, {counters.n_disconnects} disconnects, {counters.n_reboots} reboots, "
        f"{counters.n_unread_bytes} bytes that nobody read"
    )
    return 0


def _add_port(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "port",
        metavar="PORT",
        help="a path, a USB serial number, vid:pid, or where it is plugged in, as `firmware-bridge list` shows them",
    )
    command.add_argument("--baud", type=_baud, default=115200, metavar="N", help="default: %(default)s")
    for line in ("dtr", "rts"):
        command.add_argument(
            f"--{line}", choices=("on", "off"), help="set this control line; default: leave it"
        )
    command.add_argument(
        "--reset-on-open", action="store_true", help="let the port's opening reset a board that is wired so"
    )
    command.add_argument("--wait", action="store_true", help="wait for a port that is not there yet")
    command.add_argument("--for", dest="for_s", type=_seconds, metavar="S", help="stop after this long")


def _line(given: argparse.Namespace) -> tuple[PortName, LineSettings]:
    level = {"on": True, "off": False, None: None}
    settings = LineSettings(
        baud=given.baud, dtr=level[given.dtr], rts=level[given.rts], reset_on_open=given.reset_on_open
    )
    return ports.named(given.port), settings


def _follower(given: argparse.Namespace) -> Follower:
    return Follower(*_line(given))


def _free_link(link: Path | None) -> Path:
    """Where the pty will be found. Refused where something else is there."""
    if link is None:
        return Path(tempfile.mkdtemp(prefix="firmware-bridge-")) / "board"
    if not link.parent.is_dir():
        raise Refused(f"--link {link}: there is no folder {link.parent}")
    if link.is_symlink() and not link.exists():  # left behind by one that was killed
        return link
    if os.path.lexists(link):
        raise Refused(f"--link {link}: exists already; choose another name, or remove it")
    if not os.access(link.parent, os.W_OK):
        raise Refused(f"--link {link}: {link.parent} cannot be written to")
    return link


def _channels(channels: Sequence[BoardChannel]) -> str:
    return ", ".join(f"{c.name} in {c.unit}" if c.unit else c.name for c in channels)


def _rate(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a rate: a number or fraction above 0, at most 1000000"
        )
    return value


def _broker(text: str) -> BrokerUrl:
    try:
        return broker_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _topic(text: str) -> str:
    try:
        return check_topic(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _name(text: str) -> str:
    if not text or any(c in text for c in "/+#\0"):
        raise argparse.ArgumentTypeError(f"{text!r} can be no device: a name without / + #")
    return text


def _baud(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 50 <= int(text) <= 20_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a baud rate: a whole number from 50 to 20000000")
    return int(text)


def _seconds(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is less than 0")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
