"""What a page says of failures: each of them, what the alerts cost, and the same by budget, as a curve and as a table. Pure."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

from edge_node.failures import Outcome
from edge_node.replay_advice import WEEK_NS
from edge_node.replay_failures import Finding, Findings, Point
from edge_node.replay_failures_text import (
    blamed,
    budget_name,
    budget_note,
    budget_rows,
    minute,
    note,
    rule,
    summary,
)
from edge_node.report.axes import Mark, Scale, by_magnitude
from edge_node.report.charts import HEIGHT, WIDTH, value_marks
from edge_node.report.lanes import SIGNS
from edge_node.report.markup import element
from edge_node.report.tables import pairs, table
from models.wording import duration, significant

_NONE = 0.07  # where budgets without any alert stand, left of the axis by magnitude


def failures_section(found: Findings) -> Element:
    """The answer to whether they would have been caught."""
    rows = [_row(finding) for finding in found.findings]
    headers = (
        "failed at (UTC)",
        "outcome",
        "lead time",
        "to blame",
        "alerts that count",
        "device",
        "what",
        "note",
    )
    used = [i for i, name in enumerate(headers) if name not in ("what", "note") or any(r[i] for r in rows)]
    return element(
        "section",
        element("h2", "Failures", id="failures"),
        element("p", rule(found), class_="soft"),
        table(
            [[row[i] for i in used] for row in rows],
            [headers[i] for i in used],
            "Failures",
            ids=[f"failure-{k}" for k in range(len(rows))],
            stacked=True,
        ),
        pairs(summary(found)),
        element("h3", "Failures caught against alerts a week"),
        _curve(found),
        table(*budget_rows(found), "The same by budget of alerts", class_="figures"),
        element("p", budget_note(found), class_="soft"),
        aria_labelledby="failures",
        class_="panel",
    )


def _row(finding: Finding) -> list[Element | str]:
    failure = finding.failure
    kind = str(finding.outcome).replace(" ", "-")
    sign = element("span", SIGNS[finding.outcome], class_="sign", aria_hidden="true")
    return [
        minute(failure.time_ns).rstrip("Z"),
        element("span", sign, f" {finding.outcome}", class_=f"outcome {kind}"),
        duration(finding.lead_ns) if finding.lead_ns is not None else "",
        blamed(finding),
        str(finding.n_counting) if finding.outcome in (Outcome.CAUGHT, Outcome.MISSED) else "",
        failure.named,
        failure.text,
        note(finding),
    ]


def _curve(found: Findings) -> Element:
    """Failures caught over alerts a week, a point a budget, beside the same alerts at random times."""
    n = len(found.judged)
    if not n or not found.watched_ns:
        return element("p", "No failure lies in what was recorded and watched.", class_="empty")
    rates = [point.n_raised * WEEK_NS / found.watched_ns for point in found.points]
    some = [rate for rate in rates if rate > 0]
    across = by_magnitude(min(some, default=1.0), max(some, default=1.0))
    up = Scale(-0.06 * n, 1.06 * n)

    def place(rate: float) -> float:
        return 0.0 if rate <= 0 else _NONE + (1 - _NONE) * float(across.place(rate))

    def line(values: list[float]) -> str:
        spots = [
            f"{round(place(rate) * WIDTH)} {round((1 - float(up.place(value))) * HEIGHT)}"
            for rate, value in zip(rates, values, strict=True)
        ]
        return f"M{'L'.join(spots)}"

    said = (
        f"Of {n} failures, {found.n_caught} caught with {significant(_rate(found))} alerts a week as replayed; by budget: "
        + ", ".join(
            f"{point.n_caught} at {significant(rate, 2)} a week"
            for point, rate in zip(found.points, rates, strict=True)
        )
    )
    marks, lines = value_marks_of_count(n, up)
    drawn = element(
        "svg",
        element("title", said),
        element("path", class_="grid", d=lines),
        element("path", class_="chance", d=line([point.chance for point in found.points])),
        element("path", class_="line", d=line([float(point.n_caught) for point in found.points])),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=said,
    )
    dots = [
        _dot(point, rate, place(rate), float(up.place(point.n_caught)), n)
        for point, rate in zip(found.points, rates, strict=True)
    ]
    below = [Mark(_NONE + (1 - _NONE) * mark.at, mark.label) for mark in across.marks(6)]
    if len(some) < len(rates):
        below.insert(0, Mark(0.0, "none"))
    labels = [
        element("span", mark.label, class_="minor" if i % 2 else None, style=f"left:{100 * mark.at:.2f}%")
        for i, mark in enumerate(below)
    ]
    return element(
        "figure",
        element(
            "figcaption",
            element("span", class_="key line"),
            " failures caught ",
            element("span", class_="key chance"),
            " the same alerts at random times ",
            element("span", class_="key dot now"),
            " as replayed",
        ),
        element(
            "div",
            marks,
            element("div", drawn, *dots, class_="box"),
            element("div", *labels, class_="x", aria_hidden="true"),
            class_="plot",
        ),
        element("p", "alerts per device and week watched", class_="axis-name"),
        class_="chart tall",
    )


def value_marks_of_count(n: int, up: Scale) -> tuple[Element, str]:
    """Marks at whole numbers alone."""
    step = max(1, math.ceil(n / 5))
    whole = Scale(up.low, up.high)
    if step == 1:
        at = [Mark(float(up.place(i)), str(i)) for i in range(n + 1)]
        labels = [element("span", mark.label, style=f"bottom:{100 * mark.at:.2f}%") for mark in at]
        lines = "".join(f"M0 {round((1 - mark.at) * HEIGHT)}H{WIDTH}" for mark in at)
        return element("div", *labels, class_="y", aria_hidden="true"), lines
    return value_marks(whole)


def _dot(point: Point, rate: float, x: float, y: float, n: int) -> Element:
    said = (
        f"{budget_name(point)} a week allowed: {significant(rate, 2)} raised, {point.n_caught} of {n} caught, "
        f"{point.n_false} false alerts"
    )
    return element(
        "span",
        class_="dot now" if point.in_service else "dot",
        style=f"left:{100 * x:.2f}%;bottom:{100 * y:.2f}%",
        title=said,
    )


def _rate(found: Findings) -> float:
    point = next(point for point in found.points if point.in_service)
    return point.n_raised * WEEK_NS / found.watched_ns
