"""``firmware-bridge``: list, monitor, record, forward, verify, simulate.

Exit codes: 0 done, 1 refused or failed (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tabulate import tabulate

from firmware_bridge import cli_simulate, cli_values, ports
from firmware_bridge.batch_json import SUBSCRIPTION
from firmware_bridge.cli_simulate import Refused
from firmware_bridge.following import Follower
from firmware_bridge.forward import BOARD, NotForwardable, forward
from firmware_bridge.monitor import monitor
from firmware_bridge.outlet import BrokerUnavailable, BrokerUrl, Outlet, read_password
from firmware_bridge.recorder import NotRecordable, record
from firmware_bridge.stopping import Stopping
from firmware_bridge.transport import LineSettings, PortName, PortUnavailable
from firmware_bridge.verify import verify
from models.cli_values import Parser, positive
from models.logs import LogError

FAILED = 1
VERIFY_S = 20.0


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="firmware-bridge", description="Microcontrollers on serial ports: find, watch, judge, simulate."
    )
    top.add_argument(
        "--version", action="version", version=f"%(prog)s {importlib.metadata.version('linewatch')}"
    )
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)

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
        "--device", type=cli_values.name, help="what it is called there; default: the board's serial number"
    )
    recording.add_argument(
        "--interval-s", type=positive, metavar="S", help="from row to row, of an irregular board"
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
        type=cli_values.broker,
        required=True,
        metavar="URL",
        help="mqtt://user@host:port/prefix; mqtts:// with TLS",
    )
    forwarding.add_argument(
        "--topic",
        type=cli_values.topic,
        default=BOARD,
        help=f"below the prefix; {BOARD} is the board's serial number, the default",
    )
    forwarding.add_argument("--qos", type=int, choices=(0, 1), default=0, help="default: %(default)s")
    forwarding.add_argument(
        "--queue-mb",
        type=positive,
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

    cli_simulate.add(commands)
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


def _add_port(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "port",
        metavar="PORT",
        help="a path, a USB serial number, vid:pid, or where it is plugged in, as `firmware-bridge list` shows them",
    )
    command.add_argument(
        "--baud", type=cli_values.baud, default=115200, metavar="N", help="default: %(default)s"
    )
    for line in ("dtr", "rts"):
        command.add_argument(
            f"--{line}", choices=("on", "off"), help="set this control line; default: leave it"
        )
    command.add_argument(
        "--reset-on-open", action="store_true", help="let the port's opening reset a board that is wired so"
    )
    command.add_argument("--wait", action="store_true", help="wait for a port that is not there yet")
    command.add_argument("--for", dest="for_s", type=positive, metavar="S", help="stop after this long")


def _line(given: argparse.Namespace) -> tuple[PortName, LineSettings]:
    level = {"on": True, "off": False, None: None}
    settings = LineSettings(
        baud=given.baud, dtr=level[given.dtr], rts=level[given.rts], reset_on_open=given.reset_on_open
    )
    return ports.named(given.port), settings


def _follower(given: argparse.Namespace) -> Follower:
    return Follower(*_line(given))


if __name__ == "__main__":
    raise SystemExit(main())
