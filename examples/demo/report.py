"""The table at the end of the demo. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from examples.demo.findings import Finding, Raised, bytes_text, clock_text
from examples.demo.scenario import Injected, Scenario
from examples.plant_simulator import ClockReading
from models.alerting import duration
from models.signal import NS_PER_S


@dataclass(frozen=True, slots=True)
class Upstream:
    """What the gateway published: messages and bytes of payload by type, and its own counters when it stopped."""

    n_messages: Mapping[str, int]
    n_bytes: Mapping[str, int]
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SentByBoard:
    """What the board says that it has sent."""

    machine: str
    n_bytes: int
    n_values: int

    @property
    def text(self) -> str:
        return f"{bytes_text(self.n_bytes)}: {self.n_values:,} values on the serial line of {self.machine}"


def fault_table(findings: Sequence[Finding]) -> str:
    """A line a fault; two where something else noticed it before the alert that had to come."""
    rows = []
    for finding in findings:
        began = clock_text(finding.injected.fault.start_s)
        if not finding.shown:
            rows.append((finding.injected.title, began, "MISSED", "", finding.injected.must, "", ""))
        for i, alert in enumerate(finding.shown):
            delay = _delay(finding.injected, alert)
            what = (finding.injected.title, began) if i == 0 else ("", "")
            rows.append(
                (
                    *what,
                    clock_text(alert.at_s),
                    delay,
                    alert.alert.kind,
                    _channel(alert),
                    f"{alert.latency_ms:.1f} ms",
                )
            )
        if finding.shown and finding.noticed is None:
            rows.append(("", "", "MISSED", "", finding.injected.must, "", ""))
    headers = ("fault", "began", "noticed", "after", "alert", "channel", "processing")
    table: str = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return table


def notes(scenario: Scenario) -> list[str]:
    """How to read the table."""
    found = [
        'Times are of the plant, minutes:seconds; "after" counts from the very beginning of a fault, however small.'
    ]
    if any(injected.must == "stale" for injected in scenario.injected):
        found.append(
            f"Silence is judged by the gateway's own clock, which runs at a {scenario.speed:g}th of the plant's speed here."
        )
    if scenario.worn is not None:
        machine = scenario.worn.board.machine
        found.append(
            f"{machine}'s board runs in real time, so its delay is in real seconds; its times say where the plant then was."
        )
    return found


def facts(
    scenario: Scenario,
    raised: Sequence[Raised],
    false_alarms: Sequence[Raised],
    sent: ClockReading,
    upstream: Upstream,
    by_board: SentByBoard | None = None,
) -> list[tuple[str, str]]:
    """What else there is to say, as (name, text)."""
    n_bytes = sum(upstream.n_bytes.values())
    n_in = sent.n_bytes + (by_board.n_bytes if by_board is not None else 0)
    parts = ", ".join(
        f"{bytes_text(upstream.n_bytes[kind])} in {upstream.n_messages[kind]} {kind.replace('_', ' ')} messages"
        for kind in sorted(upstream.n_bytes, key=lambda kind: -upstream.n_bytes[kind])
    )
    found = [
        (
            "false alarms",
            f"{len(false_alarms) or 'none'} in {duration(scenario.live_s * NS_PER_S)}, {len(scenario.devices)} devices",
        ),
        *(("", f"{clock_text(a.at_s)} {a.alert.kind} {a.alert.message}") for a in false_alarms),
        ("in", f"{bytes_text(sent.n_bytes)}: {sent.n_samples:,} values in {sent.n_messages:,} messages"),
        *((("", by_board.text),) if by_board is not None else ()),
        ("upstream", f"{bytes_text(n_bytes)}: {parts}"),
        ("saved", f"{1 - n_bytes / n_in:.1%}"),
    ]
    latencies = [a.latency_ms for a in raised]
    if latencies:
        found.append(
            (
                "processing",
                f"median {statistics.median(latencies):.1f} ms, longest {max(latencies):.1f} ms from last sample to alert",
            )
        )
    return [*found, ("accounted for", accounts(sent.n_samples, upstream.counters, by_board))]


def accounts(n_sent: int, counters: Mapping[str, int], by_board: SentByBoard | None = None) -> str:
    """Where the values went that were sent, by the gateway's own counters."""
    n_in = counters.get("source_samples.mqtt", 0)
    dropped = {
        name.partition(".")[2]: n for name, n in counters.items() if name.startswith("samples_dropped.") and n
    }
    text = "all values that were sent" if n_in == n_sent else f"{n_in:,} of {n_sent:,} values that were sent"
    if by_board is not None:
        n_read = counters.get(f"source_samples.{by_board.machine}", 0)
        text += f"; of the board's {n_read:,}, lost or not, and the {by_board.n_values - n_read:,} before its port was open"
    if dropped:
        text += "; dropped: " + ", ".join(f"{n:,} {reason}" for reason, n in sorted(dropped.items()))
    windows = {
        name.removeprefix("windows_"): n for name, n in counters.items() if name.startswith("windows_") and n
    }
    n_closed = windows.pop("closed", 0)
    parts = " + ".join(
        f"{n:,} {name.removeprefix('dropped.').replace('_', ' ')}" for name, n in windows.items()
    )
    return f"{text}; {n_closed:,} windows = {parts or 'none'}"


def _delay(injected: Injected, raised: Raised) -> str:
    if injected.began_ns is not None:
        return f"{duration(raised.alert.end_ns - injected.began_ns)} (real)"
    return duration(round((raised.at_s - injected.fault.start_s) * NS_PER_S))


def _channel(raised: Raised) -> str:
    contributions = raised.alert.contributions
    if not contributions:
        return "all"
    top = contributions[0]
    return top.channel if len(contributions) == 1 else f"{top.channel} ({top.share:.0%})"
