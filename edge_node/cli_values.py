"""What people write on command lines, as values."""

from __future__ import annotations

import argparse
import datetime as dt
import zoneinfo
from collections.abc import Callable

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


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


def probability(text: str) -> float:
    """An argparse type: numbers between 0 and 1."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
