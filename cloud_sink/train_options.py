"""The options of ``cloud-sink train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from cloud_sink import signing
from models.cli_values import channel_value, count, not_negative, positive
from models.signal import Mode

DESCRIPTION = """Makes a model bundle from a recording of healthy running: a directory with manifest.json
and .tflite files that edge-node takes as it is. Windows, features and re-centring are the gateway's own.
False-alarm rates are by cross-fit over blocks of time, never in-sample."""


def add(train: argparse.ArgumentParser) -> None:
    """Adds the options of ``cloud-sink train`` to its parser."""
    train.add_argument(
        "logs",
        nargs="+",
        metavar="LOG",
        help="CSV, JSON lines, Parquet or a recording of edge-node; globs work",
    )
    train.add_argument(
        "-o",
        dest="out",
        metavar="DIR",
        required=True,
        type=Path,
        help="the bundle to write; a newer version replaces the older",
    )
    what = train.add_argument_group("the model")
    what.add_argument(
        "--features",
        choices=("slow", "vibration", "telemetry"),
        help="slow: around 1 Hz; vibration: kHz; telemetry: counts and loads whose normal is not steady; needed without --like",
    )
    what.add_argument(
        "--like",
        metavar="DIR",
        type=Path,
        help="a bundle whose features, windows and amplitude floors it is to have, so that a gateway which serves that one "
        "can adopt it between two windows",
    )
    what.add_argument(
        "--family",
        choices=("mahalanobis", "linear-ae", "ae", "wide-ae"),
        default="mahalanobis",
        help="default: %(default)s; wide-ae is for a sink that scores ([scoring] models), larger than a gateway would run",
    )
    what.add_argument(
        "--window",
        metavar="N",
        type=count(2),
        help="samples; default 60 slow and telemetry, 1024 vibration, the record of a burst",
    )
    what.add_argument(
        "--hop",
        metavar="N",
        type=count(1),
        help="samples; default 1 slow and telemetry, 512 vibration, the record of a burst",
    )
    what.add_argument(
        "--n-fast",
        metavar="N",
        type=count(0),
        help="slow: the window's tail for fast features, samples; default: 10",
    )
    what.add_argument(
        "--recentring",
        action=argparse.BooleanOptionalAction,
        help="follow slow drift of slow features, bounded (default: yes)",
    )
    what.add_argument(
        "--seed",
        type=count(0),
        default=0,
        metavar="N",
        help="of networks and int8 probes; default: %(default)s",
    )
    what.add_argument(
        "--edgetpu",
        action="store_true",
        help="also a model for a Coral Edge TPU, checked, and compiled where edgetpu_compiler is on PATH",
    )
    what.add_argument("--model-id", metavar="ID", help="default: the name of DIR")
    what.add_argument(
        "--class",
        dest="class_",
        default="",
        metavar="NAME",
        help="class of machines it is for; default: as recorded",
    )
    signing.add_key(what, required=False)
    part = train.add_argument_group("the healthy part")
    part.add_argument("--rows", type=count(1), metavar="N", help="only the first N rows")
    part.add_argument("--from", dest="from_", metavar="TIME", help="RFC 3339, or in --timezone; inclusive")
    part.add_argument("--until", metavar="TIME", help="exclusive")
    part.add_argument(
        "--exclude",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="intervals that were not healthy: CSV with start,end",
    )
    part.add_argument(
        "--active-when",
        metavar="CONDITION",
        help='only while its machine runs: "DEVICE.CHANNEL > VALUE", or "CHANNEL > VALUE" of its own; "" for always; '
        "default: as recorded",
    )
    part.add_argument(
        "--settle-s",
        type=not_negative,
        metavar="S",
        help="windows count from this long after it starts to run; default: as recorded, else 0",
    )
    part.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="known anomalies, to test the model with (default: label columns of the log); left out of "
        "training unless the healthy part is named",
    )
    read = train.add_argument_group("reading the log")
    read.add_argument(
        "--device", metavar="ID", help="which device of a log of several; or what to call the one"
    )
    read.add_argument(
        "--mode", choices=[m.value for m in Mode], help="default: as recorded, else found from the times"
    )
    read.add_argument(
        "--rate-hz",
        metavar="RATE",
        help="sampling rate, also as a fraction (1/300); default: as recorded, else found from the times",
    )
    read.add_argument("--timezone", metavar="ZONE", help="of times without an offset: UTC, Europe/Berlin, …")
    read.add_argument("--time-column", metavar="NAME")
    read.add_argument("--separator", metavar="C", help="of CSV; default: found")
    read.add_argument(
        "--skip-bad-lines", action="store_true", help="leave out lines that cannot be read, and count them"
    )
    read.add_argument(
        "--wear",
        action="append",
        default=[],
        metavar="CHANNEL",
        help="a wear indicator, never re-centred; repeatable; default: as recorded",
    )
    read.add_argument(
        "--unit",
        action="append",
        default=[],
        type=channel_value,
        metavar="CHANNEL=UNIT",
        help="as in the gateway's config; repeatable; default: as recorded",
    )
    read.add_argument(
        "--origin",
        action="append",
        default=[],
        type=channel_value,
        metavar="CHANNEL=VALUE",
        help="subtracted before float32, as in the gateway's config; repeatable; default: as recorded",
    )
    alerts = train.add_argument_group("what is printed")
    alerts.add_argument(
        "--alerts-per-week",
        type=positive,
        default=1.0,
        metavar="N",
        help="budget to print the alert level of; default: %(default)s",
    )
