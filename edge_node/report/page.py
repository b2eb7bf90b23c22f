"""The page of a replay, from its head to its last table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from edge_node.quality import Quality
from edge_node.replay_failures import Findings
from edge_node.replay_failures_text import minute
from edge_node.replay_report import QUALITY_HEADERS, quality_note, quality_rows
from edge_node.report.axes import Span
from edge_node.report.charts import channel_chart, definitions, score_chart
from edge_node.report.failures_section import failures_section
from edge_node.report.follow import DeviceSeen
from edge_node.report.lanes import MAX_LISTED, lanes
from edge_node.report.markup import Child, element, text_of
from edge_node.report.tables import pairs, table
from models.labels import Labels
from models.wording import duration

# Nothing of the page may load anything, whatever is written in it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True)
class Replayed:
    """All that a page is made of. ``name`` of the recording, ``logs`` that it is; ``facts`` as pairs; ``rows``: from the first
    to the last, ``span``: what the charts show."""

    name: str
    logs: tuple[str, ...]
    models: tuple[str, ...]
    facts: Sequence[tuple[str, str]]
    rows: Span
    span: Span
    devices: tuple[DeviceSeen, ...]
    labels: Labels | None
    findings: Findings | None
    quality: Quality | None


def page(seen: Replayed, style: str) -> str:
    """The whole document, with ``style`` in it."""
    several = len(seen.devices) > 1
    main = [
        _tiles(seen),
        failures_section(seen.findings) if seen.findings is not None else None,
        *(_device(device, i, seen, several=several) for i, device in enumerate(seen.devices)),
        _against_labels(seen.quality) if seen.quality is not None else None,
        element(
            "section",
            element("h2", "The replay", id="facts"),
            pairs([("recording", seen.logs[0]), *(("", log) for log in seen.logs[1:]), *seen.facts]),
            aria_labelledby="facts",
            class_="panel",
        ),
    ]
    return text_of(
        element(
            "html",
            element(
                "head",
                element("meta", charset="utf-8"),
                element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                element("meta", name="color-scheme", content="light dark"),
                element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
                element("title", f"{seen.name} · Linewatch replay"),
                element("link", rel="icon", href="data:,"),
                element("style", style),
            ),
            element(
                "body",
                element("a", "To the charts", href="#device-0", class_="skip"),
                _head(seen),
                definitions(seen.span, seen.devices),
                element("main", *main),
            ),
            lang="en",
        )
    )


def _head(seen: Replayed) -> Element:
    first, last = minute(seen.rows.first_ns), minute(seen.rows.last_ns)
    lasted = duration(seen.rows.last_ns - seen.rows.first_ns)
    models = ", ".join(seen.models) or "no model"
    return element(
        "header",
        element("h1", element("span", "Replay of ", class_="soft"), seen.name),
        element("p", f"{first} to {last} ({lasted}; all times are UTC)"),
        element("p", models),
        class_="top",
    )


def _tiles(seen: Replayed) -> Element:
    """The figures that one looks for first."""
    counted = [told for device in seen.devices for told in device.alerts if told.counts]
    n_other = sum(len(device.alerts) for device in seen.devices) - len(counted)
    tiles = []
    if (found := seen.findings) is not None:
        caught = f"{found.n_caught} of {len(found.judged)}"
        tiles.append((caught, f"failures caught; {found.chance:.1f} by the same alerts at random times"))
        tiles.append((str(found.n_false), "false alerts"))
    tiles.append((str(len(counted)), "alerts of machines, drift and limits"))
    tiles.append((str(n_other), "other alerts: sensors, silence"))
    tiles.append((_count(sum(device.n_rows for device in seen.devices)), "rows"))
    tiles.append((_count(sum(device.n_windows for device in seen.devices)), "windows scored"))
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for value, name in tiles),
        class_="tiles",
    )


def _device(device: DeviceSeen, index: int, seen: Replayed, *, several: bool) -> Element:
    name = f"device-{index}"
    lead_ns = seen.findings.lead_ns if seen.findings is not None else 0
    parts: list[Element | None] = [
        element(
            "h2",
            device.device,
            element("span", f" of {device.machine}", class_="soft")
            if device.machine != device.device
            else None,
            id=name,
        ),
    ]
    if several:
        parts.append(
            element(
                "p", f"{_count(device.n_rows)} rows, {_count(device.n_windows)} windows scored", class_="soft"
            )
        )
    if device.level is not None:
        parts.append(element("p", f"Alert level: {device.level.text()}", class_="soft"))
    parts.append(lanes(device, index, seen.span, seen.labels, lead_ns))
    if device.level is not None:
        parts.append(score_chart(device.score, device.level, seen.span, index))
    parts += [channel_chart(channel, seen.span, index) for channel in device.channels]
    if device.blame:
        parts += [element("h3", "What the alerts blame"), _blame(device)]
    parts += [element("h3", "Alerts"), _alerts(device, index)]
    return element("section", *parts, aria_labelledby=name, class_="panel device")


def _blame(device: DeviceSeen) -> Element:
    rows: list[list[Child]] = []
    for channel, n, share in device.blame:
        bar = element("span", element("span", style=f"width:{100 * (share or 0.0):.0f}%"), class_="bar")
        rows.append([channel, str(n), "-" if share is None else f"{share:.0%}", bar])
    headers = ("channel", "alerts that name it first", "mean share of machine alerts", "")
    return table(rows, headers, f"Channels of {device.device} to blame", class_="blame")


def _alerts(device: DeviceSeen, index: int) -> Element:
    if not device.alerts:
        return element("p", "No alert was raised.", class_="empty")
    shown = device.alerts[:MAX_LISTED]
    rows: list[list[Child]] = [
        [
            minute(told.raised_ns).rstrip("Z"),
            "still open" if told.cleared_ns is None else duration(told.cleared_ns - told.raised_ns),
            told.kind,
            element("span", told.severity, class_=f"severity {told.severity}"),
            told.message,
        ]
        for told in shown
    ]
    made = table(
        rows,
        ("raised at (UTC)", "open for", "kind", "severity", "said last"),
        f"Alerts of {device.device}",
        ids=[f"alert-{index}-{i}" for i in range(len(rows))],
        class_="alerts",
        stacked=True,
        long=True,
    )
    if len(shown) == len(device.alerts):
        return made
    rest = f"and {len(device.alerts) - len(shown)} more: --output writes them all"
    return element("div", made, element("p", rest, class_="soft"))


def _against_labels(quality: Quality) -> Element:
    return element(
        "section",
        element("h2", "Against the labels", id="labels"),
        table(quality_rows(quality), QUALITY_HEADERS, "Against the labels", class_="figures"),
        element("p", quality_note(quality), class_="soft"),
        aria_labelledby="labels",
        class_="panel",
    )


def _count(n: int) -> str:
    return f"{n:,}".replace(",", "\u202f")
