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
from collections.abc import Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from cloud_sink import train_options
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
    train_options.add(
        commands.add_parser(
            "train",
            help="make a model from a recording of healthy running",
            description=train_options.DESCRIPTION,
        )
    )
    return top


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
        active_when=given.active_when,
        settle_s=given.settle_s,
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
        device_id=given.device,
        bad_lines="skip" if given.skip_bad_lines else "refuse",
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


if __name__ == "__main__":
    sys.exit(main())
