"""Charts over time as SVG that stretches with its page, and labels beside it as text that does not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np

from edge_node.report.axes import Mark, Scale, Span, by_magnitude, straight
from edge_node.report.envelope import Outline
from edge_node.report.follow import ChannelSeen, DeviceSeen
from edge_node.report.markup import element
from models.calibration import AlertLevel
from models.wording import quantity, significant

WIDTH, HEIGHT = 4000, 1000  # of every chart, in units that stretch
_LEAST_SCORE = 1e-3  # times the level: what lies below says no more


def path(outline: Outline, scale: Scale, span: Span) -> str:
    """The outline as one line that touches the least and the greatest of every bin."""
    if not outline.time_ns.size:
        return ""
    length = max(1, span.last_ns - span.first_ns)
    x = np.round(np.clip((outline.time_ns - span.first_ns) / length, 0, 1) * WIDTH).astype(int)
    low = np.round((1 - scale.place(outline.low)) * HEIGHT).astype(int)
    high = np.round((1 - scale.place(outline.high)) * HEIGHT).astype(int)
    # From wherever it was, first to the nearer end.
    rising = np.diff(low + high, prepend=low[0] + high[0]) <= 0
    near, far = np.where(rising, low, high), np.where(rising, high, low)
    alone = outline.fresh & np.append(outline.fresh[1:], True)
    parts = []
    last_x = last_y = 0
    rows = zip(x.tolist(), near.tolist(), far.tolist(), outline.fresh.tolist(), alone.tolist(), strict=True)
    for at, y, then, fresh, is_dot in rows:
        parts.append(f"M{at} {y}" if fresh else f"l{at - last_x} {y - last_y}")
        if then != y or is_dot:
            parts.append(f"v{then - y}")
        last_x, last_y = at, then
    return "".join(parts)


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
    inside = element("path", class_="line", d=path(outline, scale, span))
    return _chart([channel.name, unit], said, scale, span, device, [inside])


def score_chart(outline: Outline, level: AlertLevel, span: Span, device: int) -> Element:
    """The score over time by magnitude, with the level above which windows count."""
    if not outline.time_ns.size:
        return element("p", "No window was scored.", class_="empty")
    least = max(float(outline.low.min()), _LEAST_SCORE * level.score_raise, 1e-12)
    greatest = max(float(outline.high.max()), level.score_raise)
    scale = by_magnitude(min(least, level.score_raise), greatest)
    raise_at, clear_at = (1 - scale.place([level.score_raise, level.score_clear])).tolist()
    y, name = round(raise_at * HEIGHT), f"above-{device}"
    d = path(outline, scale, span)
    inside = [
        element("clipPath", element("rect", width=str(WIDTH), height=str(y)), id=name),
        element("path", class_="level clear", d=f"M0 {round(clear_at * HEIGHT)}H{WIDTH}"),
        element("path", class_="line", d=d),
        element("path", class_="line above", d=d, clip_path=f"url(#{name})"),
        element("path", class_="level", d=f"M0 {y}H{WIDTH}"),
    ]
    n_above = int(np.count_nonzero(outline.high >= level.score_raise))
    said = (
        f"Score, logarithmic: up to {significant(float(outline.high.max()))}; alert level {significant(level.score_raise)}, "
        f"reached in {n_above} of {outline.time_ns.size} parts of the time"
    )
    mark = Mark(1 - raise_at, f"level {significant(level.score_raise)}")
    return _chart(["Score", "logarithmic"], said, scale, span, device, inside, mark)


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
    names: Sequence[str],
    said: str,
    scale: Scale,
    span: Span,
    device: int,
    inside: Sequence[Element],
    mark: Mark | None = None,
) -> Element:
    labels, lines = value_marks(scale)
    drawn = element(
        "svg",
        element("title", said),
        element("path", class_="grid", d=lines),
        element("use", href="#grid"),
        element("use", href=f"#marks-{device}"),
        *inside,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=said,
    )
    level = None
    if mark is not None:
        below = " below" if mark.at > 0.8 else ""
        level = element("span", mark.label, class_=f"level-name{below}", style=f"bottom:{100 * mark.at:.2f}%")
    caption = element(
        "figcaption",
        names[0],
        " " if names[1] else None,
        element("span", names[1], class_="soft") if names[1] else None,
    )
    return element(
        "figure",
        caption,
        element("div", labels, element("div", drawn, level, class_="area"), time_marks(span), class_="plot"),
        class_="chart",
    )
