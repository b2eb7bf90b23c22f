"""What a replay says of failures, as tables for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tabulate import tabulate

from edge_node.failures import Outcome
from edge_node.replay_advice import WEEK_NS
from edge_node.replay_failures import Finding, Findings, Point
from models.alerting import duration
from models.messages import rfc3339
from models.wording import significant

_MAX_TEXT = 32


def failures_text(found: Findings, log_ns: tuple[int, int]) -> str:
    """Each failure, what they come to, and the same by budget. ``log_ns``: the times of the log's first row and its last,
    which are said where no failure lies in it."""
    rows = [_row(finding) for finding in found.findings]
    headers = ("failure", "device", "what", "outcome", "lead time", "to blame", "alerts")
    used = [i for i, name in enumerate(headers) if name != "what" or any(row[i] for row in rows)]
    parts = [_table([tuple(row[i] for i in used) for row in rows], tuple(headers[i] for i in used))]
    notes = list(_notes(found))
    if notes:
        parts[-1] += "\n" + "\n".join(notes)
    pairs = summary(found)
    if all(finding.outcome is Outcome.NOT_RECORDED for finding in found.findings):
        pairs.insert(1, ("the log", f"{minute(log_ns[0])} to {minute(log_ns[1])}"))
    parts.append(_table(pairs))
    budgets = _table(*budget_rows(found))
    parts.append(f"{budgets}\n({budget_note(found)})\n{rule(found)}")
    return "\n\n".join(parts)


def summary(found: Findings) -> list[tuple[str, str]]:
    """What the failures come to, as pairs of name and value."""
    caught = f"{found.n_caught} of {len(found.judged)} (the same alerts at random times: {found.chance:.1f})"
    pairs = [("failures caught", caught)]
    if found.n_covered:
        pairs.append(("failures within an earlier alert", str(found.n_covered)))
    for outcome in (Outcome.NOT_RECORDED, Outcome.NOT_WATCHED):
        if n_out := sum(f.outcome is outcome for f in found.findings):
            pairs.append((f"failures {outcome}", str(n_out)))
    false = str(found.n_false)
    if found.watched_ns:
        false += f" ({a_week(found.n_false, found.watched_ns)} a week)"
    if found.n_false_after:
        false += f", {found.n_false_after} of them within {duration(found.lead_ns)} after a failure"
    pairs.append(("false alerts", false))
    return pairs


def note(finding: Finding) -> str:
    """What a reader of one failure's row should know besides, or ""."""
    if finding.outcome is Outcome.NOT_RECORDED:
        return "no row of it lies in its lead"
    if finding.outcome is Outcome.NOT_WATCHED:
        return "nothing was scored in its lead: the device was still learning, its windows had holes, or its machine was at rest"
    if finding.open_since_ns is not None:
        return f"an alert raised at {minute(finding.open_since_ns)}, before its lead, was still open"
    return ""


def blamed(finding: Finding) -> str:
    """The channel that the first alert that counts blames, with the alert's kind where that is not the model's; "" for none."""
    if (alert := finding.alert) is None:
        return ""
    return alert.channel if alert.kind == "machine" else f"{alert.channel or '-'} ({alert.kind})"


def budget_note(found: Findings) -> str:
    """What a reader of :func:`budget_rows` should know."""
    said = "*: as replayed; a week: per device and week watched"
    if found.n_always:
        said += f"; {found.n_always} alerts of limits, which no budget changes, are in each"
    return said


def budget_name(point: Point) -> str:
    """How a budget is called in a table."""
    return "as set" if point.alerts_per_week is None else f"{point.alerts_per_week:.10g}"


def a_week(n: int, watched_ns: int) -> str:
    """``n`` alerts as a rate; "-" where nothing was watched."""
    return significant(n * WEEK_NS / watched_ns, 2) if watched_ns else "-"


def minute(time_ns: int) -> str:
    """A time for a table: "2023-11-14 22:30:00Z"."""
    at = rfc3339(time_ns)
    return f"{at[:10]} {at[11:19]}Z"


def _row(finding: Finding) -> tuple[str, ...]:
    failure = finding.failure
    text = failure.text if len(failure.text) <= _MAX_TEXT else f"{failure.text[: _MAX_TEXT - 1]}…"
    return (
        minute(failure.time_ns),
        failure.named,
        text,
        str(finding.outcome),
        duration(finding.lead_ns) if finding.lead_ns is not None else "-",
        blamed(finding) or "-",
        str(finding.n_counting) if finding.outcome in (Outcome.CAUGHT, Outcome.MISSED) else "-",
    )


def _notes(found: Findings) -> Iterator[str]:
    several = len({finding.failure.named for finding in found.findings}) > 1
    for finding in found.findings:
        if said := note(finding):
            whose = f", {finding.failure.named}" if several else ""
            yield f"({minute(finding.failure.time_ns)}{whose}: {said})"


def budget_rows(found: Findings) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """(rows, headers): what each budget comes to."""
    rows: list[tuple[str, ...]] = [
        (
            f"{budget_name(point)}{' *' if point.in_service else ''}",
            str(point.n_raised),
            a_week(point.n_raised, found.watched_ns),
            str(point.n_false),
            str(point.n_caught),
            f"{point.chance:.1f}",
            duration(point.median_lead_ns) if point.median_lead_ns is not None else "-",
        )
        for point in found.points
    ]
    headers = (
        "alerts a week allowed",
        "alerts",
        "a week",
        "false",
        f"failures caught, of {len(found.judged)}",
        "at random times",
        "median lead time",
    )
    return rows, headers


def rule(found: Findings) -> str:
    """What counts as caught, and what as false."""
    return (
        f"An alert counts for a failure when it is raised no longer than {duration(found.lead_ns)} before it; one that "
        "counts for none is false. Those of sensors and of silence do neither."
    )


def _table(rows: Sequence[tuple[str, ...]], headers: tuple[str, ...] = ()) -> str:
    style = "simple" if headers else "plain"
    return str(tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True))
