"""Elements of a page. Texts are escaped by who writes them out, so nothing that a log or a file says becomes markup. Pure."""

from __future__ import annotations

from xml.etree.ElementTree import Element, tostring

Child = Element | str


def element(tag: str, *children: Child | None, **attributes: str | float | None) -> Element:
    """An element; None is no child, and no attribute. ``class_`` is class, ``aria_label`` aria-label."""
    made = Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else f"{value:.6g}"
            for name, value in attributes.items()
            if value is not None
        },
    )
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            if len(made):
                made[-1].tail = (made[-1].tail or "") + child
            else:
                made.text = (made.text or "") + child
        else:
            made.append(child)
    return made


def text_of(root: Element) -> str:
    """``root`` as a document."""
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"
