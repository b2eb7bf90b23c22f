"""Tables of a page: wide ones scroll by themselves, by keyboard too. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from edge_node.report.markup import Child, element


def table(
    rows: Sequence[Sequence[Child]],
    headers: Sequence[str],
    name: str,
    *,
    ids: Sequence[str] = (),
    class_: str = "",
    stacked: bool = False,
    long: bool = False,
) -> Element:
    """``rows`` under ``headers``; the first cell of each is its heading. ``name``: for people who do not see it.
    ``stacked``: on narrow pages each row is a block of its own, its cells below each other.
    ``long``: there may be many rows, which scroll beyond a screenful."""
    head = element("tr", *(element("th", text, scope="col") for text in headers))
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, data_name=headers[i]) for i, cell in enumerate(row[1:], 1)),
            id=ids[k] if ids else None,
            tabindex="-1" if ids else None,
        )
        for k, row in enumerate(rows)
    ]
    return element(
        "div",
        element(
            "table",
            element("thead", head),
            element("tbody", *body),
            class_=f"{class_}{' stacked' * stacked}" or None,
        ),
        class_="scroll long" if long else "scroll",
        role="region",
        aria_label=name,
        tabindex="0",
    )


def pairs(rows: Sequence[tuple[str, str]]) -> Element:
    """Names and values; a name that is empty goes on with the one before."""
    entries: list[Element] = []
    for name, value in rows:
        if name:
            entries.append(element("div", element("dt", name)))
        entries[-1].append(element("dd", value))
    return element("dl", *entries, class_="facts")
