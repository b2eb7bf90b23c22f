"""What people write on command lines, as values: one reading of it for all three programs."""

from __future__ import annotations

import argparse
import datetime as dt
import re
import sys
import zoneinfo
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

from models import codec
from models.labels import Labels, label_columns, read_labels
from models.logs import LogOptions

USAGE = 2  # the exit code of a wrong call

_SPAN = re.compile(r"(\d+(?:\.\d+)?) ?([smhdw])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE)


class UsageError(Exception):
    """The command line contradicts itself or what it names; the text says what to change."""


def time_ns(option: str, text: str | None, timezone: str | None) -> int | None:
    """``text`` (RFC 3339, or in ``timezone``) as Unix UTC nanoseconds; None stays. UsageError names ``option``."""
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a time: write 2024-05-01T06:00:00Z") from None
    if moment.tzinfo is None:
        if timezone is None:
            raise UsageError(f"{option} {text!r} has no offset: add one (…Z, …+02:00) or give --timezone")
        try:
            moment = moment.replace(tzinfo=zoneinfo.ZoneInfo(timezone))
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise UsageError(
                f"--timezone {timezone!r} is not known: use UTC or a name such as Europe/Berlin"
            ) from None
    return (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000


def log_options_of(given: argparse.Namespace, origins: Iterable[tuple[str, str]] = ()) -> LogOptions:
    """How to read a log, from --device, --rate-hz, --separator, --skip-bad-lines, --time-column and --timezone;
    ``origins`` are pairs of channel and number. UsageError names the option."""
    rate_hz: Fraction | None = None
    if given.rate_hz is not None:
        try:
            rate_hz = codec.parse_rate(given.rate_hz)
        except ValueError as error:
            raise UsageError(f"--rate-hz: {error}") from error
    values: dict[str, float] = {}
    for channel, text in origins:
        try:
            values[channel] = float(text)
        except ValueError:
            raise UsageError(f"--origin {channel}={text}: {text!r} is not a number") from None
    separator = {"tab": "\t", "\\t": "\t"}.get(given.separator, given.separator)
    if separator is not None and len(separator) != 1:
        raise UsageError(f"--separator must be one character, not {separator!r}")
    return LogOptions(
        separator=separator,
        time_column=given.time_column,
        timezone=given.timezone,
        rate_hz=rate_hz,
        device_id=given.device,
        bad_lines="skip" if given.skip_bad_lines else "refuse",
        origins=values,
    )


def labels_of(given: argparse.Namespace, options: LogOptions, files: Sequence[Path]) -> Labels | None:
    """The labels of --labels, else of the logs' own columns; None where there are none. Raises LogError."""
    if given.labels is not None:
        return read_labels(given.labels, logs=files, timezone=given.timezone)
    return label_columns(files, options)


def count(least: int) -> Callable[[str], int]:
    """An argparse type: whole numbers of at least ``least``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return parse


def positive(text: str) -> float:
    """An argparse type: finite numbers above 0."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def not_negative(text: str) -> float:
    """An argparse type: finite numbers of at least 0."""
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def time_span(text: str) -> float:
    """An argparse type: a length of time as 45s, 90m, 6h, 2d or 1w, in seconds."""
    found = _SPAN.fullmatch(text.strip())
    if found is None or not 0 < float(found[1]) < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time such as 45s, 90m, 6h, 2d or 1w")
    return float(found[1]) * _SECONDS[found[2]]


def number(text: str) -> float:
    """An argparse type: finite numbers."""
    value = _number(text)
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def probability(text: str) -> float:
    """An argparse type: numbers between 0 and 1."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def channel_value(text: str) -> tuple[str, str]:
    """An argparse type: CHANNEL=VALUE."""
    channel, separator, value = text.partition("=")
    if not separator or not channel:
        raise argparse.ArgumentTypeError(f"{text!r} is not CHANNEL=VALUE")
    return channel, value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
