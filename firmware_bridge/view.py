"""The live view of a line as text: a screenful, or one line. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from firmware_bridge.figures import (
    Reading,
    board_text,
    clock_text,
    load,
    loss_text,
    rate_text,
    resets_text,
    silence_text,
    size_text,
    times,
)
from firmware_bridge.news import Standing


def screenful(
    standing: Standing,
    reading: Reading,
    baud: int,
    trouble: str | None,
    said: Sequence[str],
    *,
    columns: int,
    rows: int,
) -> list[str]:
    """At most ``rows`` lines of at most ``columns`` characters. ``trouble``: why the port is not open; ``said``: what the
    board has logged, newest last."""
    hello = standing.hello
    counters = standing.counters
    where = standing.path or "not connected"
    lines = [
        f"{board_text(hello) if hello is not None else 'no Hello yet'}   {where}, {reading.at_s:.0f} s",
        f"rows   {rows_text(standing, reading)}",
        f"line   {line_text(reading, baud)}",
        f"loss   {loss_text(counters)}",
        f"clock  {clock_text(standing)}",
        f"       {resets_text(counters)}, opened {times(standing.n_opens)}",
    ]
    if trouble is not None:
        lines.append(trouble)
    elif hello is None:
        lines.append(silence_text(standing))
    if reading.values:
        table = tabulate(
            [(v.name, number(v.last), number(v.low), number(v.high), v.unit) for v in reading.values],
            headers=("channel", "last", "lowest", "highest", "unit"),
            tablefmt="plain",
            colalign=("left", "right", "right", "right", "left"),
            disable_numparse=True,
        ).splitlines()
        room = rows - len(lines) - len(said) - 1
        if len(table) > room:
            shown = max(room - 1, 1)
            table = [*table[:shown], f"… and {len(table) - shown} more channels"]
        lines += ["", *table]
    lines += said
    return [line if len(line) <= columns else line[: columns - 1] + "…" for line in lines[:rows]]


def one_line(standing: Standing, reading: Reading, baud: int) -> str:
    """All of it in one line."""
    if standing.hello is None and not standing.counters.n_rows:
        return silence_text(standing)
    values = ", ".join(f"{v.name} {number(v.last)} {v.unit}".rstrip() for v in reading.values)
    parts = (
        rows_text(standing, reading),
        line_text(reading, baud),
        loss_text(standing.counters),
        f"clock {clock_text(standing)}",
        values,
    )
    return " | ".join(part for part in parts if part)


def rows_text(standing: Standing, reading: Reading) -> str:
    stated = "" if standing.hello is None else f", {rate_text(standing.hello.rate_hz)} stated"
    return f"{reading.rows_per_s:.1f} a second{stated}"


def line_text(reading: Reading, baud: int) -> str:
    return f"{size_text(reading.bytes_per_s)}/s, {load(reading.bytes_per_s, baud):.0%} of {baud} baud"


def number(value: float) -> str:
    """Four digits of it."""
    return f"{value:.4g}"
