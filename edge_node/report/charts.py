"""Charts over time as SVG that stretches with its page, and labels beside it as text that does not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from edge_node.report.axes import Scale, Span, by_magnitude, straight
from edge_node.report.envelope import Outline
from edge_node.report.follow import ChannelSeen, DeviceSeen
from edge_node.report.markup import Child, element
from models.calibration import AlertLevel
from models.wording import quantity, significant

WIDTH, HEIGHT = 4000, 1000  # of every chart, in units that stretch
_LEAST_SCORE = 1e-3  # times the level: what lies below says no more


def shapes(outline: Outline, scale: Scale, span: Span) -> tuple[str, str]:
    """The outline as paths: areas from the least to the greatest of every bin, and lines of stretches in which they are
    one in all bins (dots where there is nothing beside it). Lines are not to be filled, for they enclose nothing."""
    length = max(1, span.last_ns - span.first_ns)
    x = np.round(np.clip((outline.time_ns - span.first_ns) / length, 0, 1) * WIDTH).astype(int)
    low = np.round((1 - scale.place(outline.low)) * HEIGHT).astype(int)
    high = np.round((1 - scale.place(outline.high)) * HEIGHT).astype(int)
    areas, lines = [], []
    for i, j in pairwise([*np.flatnonzero(outline.fresh).tolist(), x.size]):
        there = _line(x[i:j], high[i:j], "M")
        if (low[i:j] != high[i:j]).any():
            areas.append(f"{there}{_line(x[i:j][::-1], low[i:j][::-1], 'L')}z")
        else:
            lines.append(there if j - i > 1 else f"{there}h0")
    return "".join(areas), "".join(lines)


def _drawn(
    outline: Outline, scale: Scale, span: Span, class_: str = "", clip: str | None = None
) -> list[Element]:
    return [
        element("path", class_=f"line {kind}{class_}".rstrip(), d=d, clip_path=clip)
        for kind, d in zip(("area ", ""), shapes(outline, scale, span), strict=True)
        if d
    ]


def _line(x: NDArray[np.int_], y: NDArray[np.int_], begin: str) -> str:
    steps = zip(np.diff(x).tolist(), np.diff(y).tolist(), strict=True)
    return f"{begin}{x[0]} {y[0]}" + "".join(f"l{dx} {dy}" for dx, dy in steps)


def definitions(span: Span, devices: Sequence[DeviceSeen]) -> Element:
    """What all charts share: the lines of the time axis, and of every device its alerts and failures."""
    lines = "".join(f"M{round(mark.at * WIDTH)} 0V{HEIGHT}" for mark in span.marks())
    shared = [element("path", id="grid", class_="grid", d=lines or "M0 0")]
    for i, device in enumerate(devices):
        alerts = [t for t in device.alerts if t.counts]
        bands = [_band(span, t.raised_ns, t.cleared_ns) for t in alerts]
        d = "".join(f"M{a} 0H{b}V{HEIGHT}H{a}z" for a, b in merged(bands))
        marks = [element("path", class_="band", d=d)] if d else []
        for _, finding in device.failures:
            if span.has(finding.failure.time_ns):
                x = round(span.place(finding.failure.time_ns) * WIDTH)
                kind = str(finding.outcome).replace(" ", "-")
                marks.append(element("path", class_=f"failed {kind}", d=f"M{x} 0V{HEIGHT}"))
        shared.append(element("g", *marks, id=f"marks-{i}"))
    return element("svg", element("defs", *shared), class_="defs", width="0", height="0", aria_hidden="true")


def channel_chart(channel: ChannelSeen, span: Span, device: int) -> Element:
    """One signal over time; ``device`` is the index of its device on the page."""
    outline, unit = channel.outline, channel.unit
    if not outline.time_ns.size:
        return element("p", f"{channel.name}: no values", class_="empty")
    low, high = float(outline.low.min()), float(outline.high.max())
    scale = straight(low, high)
    said = f"{channel.name}: from {quantity(low, unit)} to {quantity(high, unit)}"
    inside = _drawn(outline, scale, span)
    caption: list[Child | None] = [
        channel.name,
        " " if unit else None,
        element("span", unit, class_="soft") if unit else None,
    ]
    return _chart(caption, said, scale, span, device, inside)


def score_chart(outline: Outline, level: AlertLevel, span: Span, device: int) -> Element:
    """The score over time by magnitude, with the level above which windows count."""
    if not outline.time_ns.size:
        return element("p", "No window was scored.", class_="empty")
    least = max(float(outline.low.min()), _LEAST_SCORE * level.score_raise, 1e-12)
    greatest = max(float(outline.high.max()), level.score_raise)
    scale = by_magnitude(min(least, level.score_raise), greatest)
    raise_at, clear_at = (1 - scale.place([level.score_raise, level.score_clear])).tolist()
    y, name = round(raise_at * HEIGHT), f"above-{device}"
    inside = [
        element("clipPath", element("rect", width=str(WIDTH), height=str(y)), id=name),
        element("path", class_="level clear", d=f"M0 {round(clear_at * HEIGHT)}H{WIDTH}"),
        *_drawn(outline, scale, span),
        *_drawn(outline, scale, span, "above", f"url(#{name})"),
        element("path", class_="level", d=f"M0 {y}H{WIDTH}"),
    ]
    n_above = int(np.count_nonzero(outline.high >= level.score_raise))
    said = (
        f"Score, logarithmic: up to {significant(float(outline.high.max()))}; alert level {significant(level.score_raise)}, "
        f"reached in {n_above} of {outline.time_ns.size} parts of the time"
    )
    caption: list[Child | None] = [
        "Score ",
        element("span", "logarithmic ", class_="soft"),
        element("span", class_="key level"),
        element("span", f" anomalous from {significant(level.score_raise)} ", class_="soft"),
        element("span", class_="key level clear"),
        element("span", f" normal below {significant(level.score_clear)}", class_="soft"),
    ]
    return _chart(caption, said, scale, span, device, inside)


def time_marks(span: Span) -> Element:
    """The labels below a time axis; on narrow pages every other one is left out."""
    labels = [
        element("span", mark.label, class_="minor" if i % 2 else None, style=f"left:{100 * mark.at:.2f}%")
        for i, mark in enumerate(span.marks())
        if mark.at < 0.985
    ]
    return element("div", *labels, class_="x", aria_hidden="true")


def value_marks(scale: Scale) -> tuple[Element, str]:
    """The labels beside a vertical axis, and the path of their lines."""
    marks = scale.marks()
    labels = [element("span", mark.label, style=f"bottom:{100 * mark.at:.2f}%") for mark in marks]
    lines = "".join(f"M0 {round((1 - mark.at) * HEIGHT)}H{WIDTH}" for mark in marks)
    return element("div", *labels, class_="y", aria_hidden="true"), lines or "M0 0"


def merged(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """``pairs`` of begin and end in any order, those that meet as one."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(pairs):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found


def _band(span: Span, first_ns: int, last_ns: int | None) -> tuple[int, int]:
    a = round(span.place(first_ns) * WIDTH)
    b = WIDTH if last_ns is None else round(span.place(last_ns) * WIDTH)
    return a, max(b, a + 4)


def _chart(
    caption: Sequence[Child | None],
    said: str,
    scale: Scale,
    span: Span,
    device: int,
    inside: Sequence[Element],
) -> Element:
    labels, lines = value_marks(scale)
    drawn = element(
        "svg",
        element("title", said),
        element("path", class_="grid", d=lines),
        element("use", href="#grid"),
        *inside,
        element("use", href=f"#marks-{device}"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=said,
    )
    return element(
        "figure",
        element("figcaption", *caption),
        element("div", labels, element("div", drawn, class_="box"), time_marks(span), class_="plot"),
        class_="chart",
    )
