"""``firmware-bridge simulate``: a board on a pty."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from firmware_bridge import cli_values
from firmware_bridge.protocol import BoardChannel
from firmware_bridge.simulator import VIBRATION, Faults, Simulator, vibration
from firmware_bridge.stopping import Stopping
from models.cli_values import not_negative, number, positive
from models.messages import rfc3339
from models.signal import NS_PER_S


class Refused(Exception):
    """What was asked cannot be done; one line that says why."""


def add(commands: Any) -> None:
    """Adds the command to ``firmware-bridge``."""
    simulate = commands.add_parser(
        "simulate",
        help="a pty that behaves like a board",
        description="A vibration board (three axes) on a pty, until it is stopped. Faults come as often as asked, at "
        "times that --seed chooses.",
    )
    simulate.add_argument(
        "--link", type=Path, metavar="PATH", help="where the pty is found; default: a new folder"
    )
    simulate.add_argument(
        "--rate-hz", type=cli_values.rate, default=Fraction(1000), metavar="HZ", help="default: 1000"
    )
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
            name, type=not_negative, default=0.0, metavar="N", help=f"{what}; default: none"
        )
    simulate.add_argument(
        "--drift-ppm",
        type=number,
        default=0.0,
        metavar="PPM",
        help="how much too fast its clock is",
    )
    simulate.add_argument(
        "--worn-after", type=positive, metavar="S", help="the bearing is damaged from then on"
    )
    simulate.add_argument("--for", dest="for_s", type=positive, metavar="S", help="stop after this long")
    simulate.add_argument("--seed", type=int, default=1, help="of signal and faults; default: %(default)s")
    simulate.set_defaults(act=_simulate)


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
