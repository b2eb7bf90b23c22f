"""The command line of the sink: ``cloud-sink train`` makes a model from a recording.

Exit codes: 0 done, 1 refused (the recording, the target), 2 called wrongly. An error is one line: what,
where, what to do.
"""

from __future__ import annotations

import argparse
import datetime as dt
import glob
import re
import sys
import time
import zoneinfo
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from models import codec
from models.labels import Labels, label_columns, read_labels
from models.logs import LogError, LogOptions
from models.signal import Mode

REFUSED, USAGE = 1, 2

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of ``cloud-sink``."""
    top = _Parser(
        prog="cloud-sink",
        description="Trains, and later gathers and publishes, the models that gateways run.",
    )
    top.add_argument("--version", action="version", version=f"cloud-sink {version('linewatch')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_train(
        commands.add_parser(
            "train", help="make a model from a recording of healthy running", description=_TRAIN
        )
    )
    return top


_TRAIN = """Makes a model bundle from a recording of healthy running: a directory with manifest.json
and .tflite files that edge-node takes as it is. Windows, features and re-centring are the gateway's own.
False-alarm rates are by cross-fit over blocks of time, never in-sample."""


def _add_train(train: argparse.ArgumentParser) -> None:
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
        "--features", choices=("slow", "vibration"), required=True, help="slow: around 1 Hz; vibration: kHz"
    )
    what.add_argument(
        "--family",
        choices=("mahalanobis", "linear-ae", "ae"),
        default="mahalanobis",
        help="default: %(default)s",
    )
    what.add_argument(
        "--window",
        metavar="N",
        type=_count(2),
        help="samples; default 60 slow, 1024 vibration, the record of a burst",
    )
    what.add_argument(
        "--hop",
        metavar="N",
        type=_count(1),
        help="samples; default 1 slow, 512 vibration, the record of a burst",
    )
    what.add_argument(
        "--n-fast",
        metavar="N",
        type=_count(0),
        default=10,
        help="slow: the window's tail for fast features, samples; default: %(default)s",
    )
    what.add_argument(
        "--recentring",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="follow slow drift of slow features, bounded (default: yes)",
    )
    what.add_argument(
        "--seed",
        type=_count(0),
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
    part = train.add_argument_group("the healthy part")
    part.add_argument("--rows", type=_count(1), metavar="N", help="only the first N rows")
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
        "--labels",
        type=Path,
        metavar="FILE",
        help="known anomalies, to test the model with (default: label columns of the log); left out of "
        "training unless the healthy part is named",
    )
    read = train.add_argument_group("reading the log")
    read.add_argument("--device", metavar="ID", help="which device of a log of several")
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
        type=_pair,
        metavar="CHANNEL=UNIT",
        help="as in the gateway's config; repeatable; default: as recorded",
    )
    read.add_argument(
        "--origin",
        action="append",
        default=[],
        type=_pair,
        metavar="CHANNEL=VALUE",
        help="subtracted before float32, as in the gateway's config; repeatable; default: as recorded",
    )
    alerts = train.add_argument_group("what is printed")
    alerts.add_argument(
        "--alerts-per-week",
        type=float,
        default=1.0,
        metavar="N",
        help="budget to print the alert level of; default: %(default)s",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``cloud-sink``; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        return _train(given)
    except _Usage as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return USAGE
    except LogError as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("cloud-sink: interrupted; nothing was written", file=sys.stderr)
        return 130


class _Usage(Exception):
    """The command line contradicts itself or the log."""


def _train(given: argparse.Namespace) -> int:
    # scikit-learn takes a second to import: --help and usage errors need not wait for it.
    from cloud_sink import training
    from cloud_sink.bundle import BundleError
    from cloud_sink.cutting import DatasetError, Request
    from cloud_sink.train import FitError

    if not 0 < given.alerts_per_week < float("inf"):
        raise _Usage("--alerts-per-week must be a positive number")
    model_id = given.model_id or given.out.absolute().name
    if not _NAME.fullmatch(model_id):
        raise _Usage(
            f"{model_id!r} cannot be a model's name: use letters, digits, '.', '_', '-', or give --model-id"
        )
    options = _options(given)
    logs = _paths(given.logs)
    request = Request(
        logs=logs,
        options=options,
        feature_set=given.features,
        n=given.window,
        hop=given.hop,
        n_fast=given.n_fast,
        mode=Mode(given.mode) if given.mode else None,
        device=given.device,
        n_rows=given.rows,
        from_ns=_time("--from", given.from_, given.timezone),
        until_ns=_time("--until", given.until, given.timezone),
        exclude=tuple(read_labels(path, timezone=given.timezone) for path in given.exclude),
        labels=_labels(given, options, logs),
        units=dict(given.unit),
        wear=frozenset(given.wear),
    )
    try:
        training.run(
            request,
            out=given.out,
            family=given.family,
            model_id=model_id,
            class_=given.class_,
            created_ns=time.time_ns(),
            seed=given.seed,
            recentring=given.recentring,
            edge_tpu=given.edgetpu,
            alerts_per_week=given.alerts_per_week,
        )
    except (BundleError, DatasetError, FitError) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    return 0


def _options(given: argparse.Namespace) -> LogOptions:
    rate_hz: Fraction | None = None
    if given.rate_hz is not None:
        try:
            rate_hz = codec.parse_rate(given.rate_hz)
        except ValueError as error:
            raise _Usage(f"--rate-hz: {error}") from error
    origins = {}
    for channel, text in given.origin:
        try:
            origins[channel] = float(text)
        except ValueError:
            raise _Usage(f"--origin {channel}={text}: {text!r} is not a number") from None
    separator = {"tab": "\t", "\\t": "\t"}.get(given.separator, given.separator)
    if separator is not None and len(separator) != 1:
        raise _Usage(f"--separator must be one character, not {separator!r}")
    return LogOptions(
        separator=separator,
        time_column=given.time_column,
        timezone=given.timezone,
        rate_hz=rate_hz,
        origins=origins,
    )


def _paths(logs: Sequence[str]) -> tuple[Path, ...]:
    """Files in the order given; a glob's are sorted."""
    found: list[Path] = []
    for log in logs:
        matches = sorted(glob.glob(log)) if not Path(log).exists() and glob.has_magic(log) else [log]
        if not matches:
            raise _Usage(f"no file matches {log}")
        found += map(Path, matches)
    return tuple(found)


def _labels(given: argparse.Namespace, options: LogOptions, logs: tuple[Path, ...]) -> Labels | None:
    if given.labels is not None:
        return read_labels(given.labels, key=str(logs[0]), timezone=given.timezone)
    return label_columns(logs, options)


def _time(option: str, text: str | None, timezone: str | None) -> int | None:
    """``text`` as Unix UTC nanoseconds."""
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise _Usage(f"{option} {text!r} is not a time: write 2024-05-01T06:00:00Z") from None
    if moment.tzinfo is None:
        if timezone is None:
            raise _Usage(f"{option} {text!r} has no offset: add one (…Z, …+02:00) or give --timezone")
        try:
            moment = moment.replace(tzinfo=zoneinfo.ZoneInfo(timezone))
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise _Usage(
                f"--timezone {timezone!r} is not known: use UTC or a name such as Europe/Berlin"
            ) from None
    return (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000


def _count(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return parse


def _pair(text: str) -> tuple[str, str]:
    channel, separator, value = text.partition("=")
    if not separator or not channel:
        raise argparse.ArgumentTypeError(f"{text!r} is not CHANNEL=VALUE")
    return channel, value


if __name__ == "__main__":
    sys.exit(main())
