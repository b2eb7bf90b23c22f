"""When there were alerts, failures and labelled anomalies: a lane each, above the charts of a device. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args
from xml.etree.ElementTree import Element

from edge_node.alert_history import Told
from edge_node.failures import Outcome
from edge_node.replay_failures import Finding
from edge_node.replay_failures_text import minute
from edge_node.report.axes import Span
from edge_node.report.charts import WIDTH, merged, time_marks
from edge_node.report.follow import DeviceSeen
from edge_node.report.markup import element
from models.labels import Labels
from models.messages import AlertKind
from models.wording import duration

MAX_LISTED = 100  # alerts of a device that the page lists; all are drawn

SIGNS = {Outcome.CAUGHT: "✓", Outcome.MISSED: "✕", Outcome.NOT_RECORDED: "–", Outcome.NOT_WATCHED: "–"}


def lanes(device: DeviceSeen, index: int, span: Span, labels: Labels | None, lead_ns: int) -> Element:
    """The lanes of ``device``, the ``index``-th of the page. Alerts that are listed lead to their row, failures to theirs."""
    rows = []
    if any(span.has(found.failure.time_ns) for _, found in device.failures):
        rows.append(_lane("failures", _failures(device.failures, span, lead_ns)))
    for kind in get_args(AlertKind):
        of_kind = [(i, told) for i, told in enumerate(device.alerts) if told.kind == kind]
        if of_kind:
            rows.append(_lane(kind, _alerts(of_kind, index, span)))
    if labels is not None:
        rows.append(_lane("labels", _labels(labels, span)))
    return element(
        "figure",
        element("figcaption", "Failures and alerts ", element("span", "by kind", class_="soft")),
        *rows,
        element("div", time_marks(span), class_="lane"),
        class_="lanes",
    )


def at(place: float, width: float | None = None) -> str:
    """The style of what lies there."""
    said = f"left:{100 * place:.2f}%"
    return said if width is None else f"{said};width:{100 * width:.2f}%"


def _lane(name: str, marks: Sequence[Element]) -> Element:
    return element(
        "div", element("span", name, class_="name"), element("div", *marks, class_="track"), class_="lane"
    )


def _failures(findings: Sequence[tuple[int, Finding]], span: Span, lead_ns: int) -> list[Element]:
    marks = []
    for k, finding in findings:
        failure = finding.failure
        if not span.has(failure.time_ns):
            continue
        begin, end = span.place(failure.time_ns - lead_ns), span.place(failure.time_ns)
        kind = str(finding.outcome).replace(" ", "-")
        said = f"{minute(failure.time_ns)} {failure.text or 'failure'}: {finding.outcome}"
        marks.append(element("span", class_=f"lead {kind}", style=at(begin, end - begin)))
        marks.append(
            element(
                "a",
                SIGNS[finding.outcome],
                class_=f"sign {kind}",
                style=at(end),
                href=f"#failure-{k}",
                title=said,
                aria_label=said,
            )
        )
    return marks


def _alerts(alerts: Sequence[tuple[int, Told]], index: int, span: Span) -> list[Element]:
    marks = []
    rest = []
    for i, told in alerts:
        begin = span.place(told.raised_ns)
        end = 1.0 if told.cleared_ns is None else span.place(told.cleared_ns)
        if i >= MAX_LISTED:
            rest.append((round(begin * WIDTH), round(end * WIDTH)))
            continue
        said = f"{minute(told.raised_ns)} {told.severity}: {told.channel or told.kind}"
        marks.append(
            element(
                "a",
                class_=f"mark {told.severity}",
                style=at(begin, end - begin),
                href=f"#alert-{index}-{i}",
                title=said,
                aria_label=said,
            )
        )
    for first, last in merged(rest):
        marks.append(element("span", class_="mark", style=at(first / WIDTH, (last - first) / WIDTH)))
    return marks


def _labels(labels: Labels, span: Span) -> list[Element]:
    pairs = []
    for first_ns, last_ns in labels.intervals.tolist():
        if first_ns <= span.last_ns and last_ns > span.first_ns:
            pairs.append((round(span.place(first_ns) * WIDTH), round(span.place(last_ns) * WIDTH)))
    length_ns = span.last_ns - span.first_ns
    return [
        element(
            "span",
            class_="labelled",
            style=at(first / WIDTH, (last - first) / WIDTH),
            title=f"labelled anomalous for {duration((last - first) * length_ns // WIDTH)}",
        )
        for first, last in merged(pairs)
    ]
