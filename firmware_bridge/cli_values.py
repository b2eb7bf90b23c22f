"""What people write on ``firmware-bridge``'s command line, beside :mod:`models.cli_values`, as values."""

from __future__ import annotations

import argparse
from fractions import Fraction

from firmware_bridge.forward import check_topic
from firmware_bridge.outlet import BrokerUrl, broker_url


def rate(text: str) -> Fraction:
    """An argparse type: rows a second, exact."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a rate: a number or fraction above 0, at most 1000000"
        )
    return value


def broker(text: str) -> BrokerUrl:
    """An argparse type: a broker's URL."""
    try:
        return broker_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def topic(text: str) -> str:
    """An argparse type: a topic to publish to."""
    try:
        return check_topic(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def name(text: str) -> str:
    """An argparse type: one level of a topic."""
    if not text or any(c in text for c in "/+#\0"):
        raise argparse.ArgumentTypeError(f"{text!r} can be no device: a name without / + #")
    return text


def baud(text: str) -> int:
    """An argparse type: a baud rate."""
    if not text.isascii() or not text.isdigit() or not 50 <= int(text) <= 20_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a baud rate: a whole number from 50 to 20000000")
    return int(text)
