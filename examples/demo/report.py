"""The tables at the end of the demo, the picture of both days, and whether what was promised held. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from examples.demo.findings import (
    FALSE,
    NOTICED,
    QUIET,
    UNNOTICED,
    Day,
    Traffic,
    bytes_text,
    clock_text,
    strip,
)
from models.alerting import duration
from models.signal import NS_PER_S

LEAST_SAVED = 0.95
N_CELLS = 24  # of a strip


@dataclass(frozen=True, slots=True)
class Outcome:
    """A day and what was sent in it."""

    day: Day
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that had to be so, and whether it was."""

    text: str
    held: bool


def strips(before: Day, after: Day, gateways: Mapping[str, Sequence[str]]) -> list[str]:
    """Both days of every machine, side by side: a line a machine, a heading above and a legend below."""
    width = max(len(f"{g} {m}") for g, machines in gateways.items() for m in machines)
    lines = [f"{'':<{width}}  {'before':<{N_CELLS}}  after"]
    lines += [
        f"{f'{gateway} {machine}':<{width}}  {strip(before, machine, N_CELLS)}  {strip(after, machine, N_CELLS)}"
        for gateway, machines in gateways.items()
        for machine in machines
    ]
    cell = duration(round(before.length_s / N_CELLS * NS_PER_S))
    legend = f"{QUIET} quiet  {FALSE} false alarm  {NOTICED} fault, noticed  {UNNOTICED} fault, not noticed"
    return [*lines, f"{'':<{width}}  {legend}  ({cell} each)"]


def faults_table(before: Day, after: Day) -> str:
    """A line a fault: when it began, and after how long either model told."""
    rows = [
        (
            one.injected.title,
            clock_text(one.injected.fault.start_s),
            _noticed(one.delay_s),
            _noticed(other.delay_s),
        )
        for one, other in zip(before.findings, after.findings, strict=True)
    ]
    headers = ("fault", "begins", f"before: {_version(before)}", f"after: {_version(after)}")
    table: str = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return table


def table(before: Outcome, after: Outcome) -> str:
    """What an operator and a network see of either model."""
    both = (before, after)
    rows = [
        ("faults noticed", *(f"{o.day.n_found} of {len(o.day.findings)}" for o in both)),
        ("noticed after, median", *(_delay(o.day.median_delay_s) for o in both)),
        ("alerts", *(str(len(o.day.episodes)) for o in both)),
        ("of these false", *(str(len(o.day.false_alarms)) for o in both)),
        ("signal of the machines", *(bytes_text(o.traffic.raw_bytes) for o in both)),
        ("sent upstream", *(bytes_text(o.traffic.upstream_bytes) for o in both)),
        ("saved", *(f"{o.traffic.saved:.1%}" for o in both)),
    ]
    headers = ("", f"before: {_version(before.day)}", f"after: {_version(after.day)}")
    found: str = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return found


def notes(speed: float) -> list[str]:
    """How to read the tables."""
    return [
        "Times are of the plant. An alert that is raised while a fault lasts counts for it, whatever the alert blames.",
        f"What gateways do by their own clock they do {speed:g} times as often here: they send what they would in real time.",
    ]


def facts(whole: Traffic) -> list[tuple[str, str]]:
    """What was sent in all, as (name, text)."""
    parts = [
        f"{bytes_text(n)} in {whole.n_messages.get(kind, 0)} {kind.replace('_', ' ')} messages"
        for kind, n in sorted(whole.n_bytes.items(), key=lambda item: -item[1])
        if n
    ]
    arrived = (
        "all of it arrived"
        if whole.received_values == whole.raw_values
        else f"{whole.received_values:,} values of {whole.raw_values:,} arrived"
    )
    return [
        ("signal", f"{bytes_text(whole.raw_bytes)}: {whole.raw_values:,} values; {arrived}"),
        ("upstream", f"{bytes_text(whole.upstream_bytes)}, topics included: {', '.join(parts[:3])}"),
        *(("", ", ".join(parts[i : i + 4])) for i in range(3, len(parts), 4)),
        ("saved", f"{whole.saved:.1%} of the signal's bytes"),
    ]


def promises(
    before: Outcome, after: Outcome, whole: Traffic, *, adopted: Sequence[str], gateways: int, restarted: int
) -> list[Promise]:
    """What had to be so. ``adopted``: the gateways that run the newer version; ``restarted``: how many of all began anew."""
    n_before, n_after = len(before.day.false_alarms), len(after.day.false_alarms)
    n_faults = len(after.day.findings)
    return [
        Promise(
            f"{len(adopted)} of {gateways} gateways run the newer version, and {restarted or 'none'} of them began anew for it",
            len(adopted) == gateways and not restarted,
        ),
        Promise(
            f"it notices {after.day.n_found} of {n_faults} faults, where the first one noticed {before.day.n_found}",
            after.day.n_found == n_faults,
        ),
        Promise(
            f"false alarms went from {n_before} to {n_after} (at most a tenth had to be left)",
            n_before > 0 and n_after <= n_before / 10,
        ),
        Promise(
            f"{whole.saved:.1%} of the signal's bytes stayed where they were ({LEAST_SAVED:.0%} at least had to)",
            whole.saved >= LEAST_SAVED,
        ),
    ]


def _version(day: Day) -> str:
    return f"version {' and '.join(map(str, day.versions))}" if day.versions else "no alert"


def _noticed(delay_s: float | None) -> str:
    return "MISSED" if delay_s is None else _delay(delay_s)


def _delay(delay_s: float | None) -> str:
    return "" if delay_s is None else duration(round(delay_s * NS_PER_S))
