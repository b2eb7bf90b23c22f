"""Where each key of a TOML document stands: the line of every table, key and list item, by its path.

A path is what leads to the value in ``tomllib``'s result: ``("device", 0, "channels", 1, "unit")``. The
syntax is read by tree-sitter's TOML grammar; whether the document is valid is for tomllib to say, before
this is asked.
"""

from __future__ import annotations

import tomllib

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

KeyPath = tuple[str | int, ...]

_KEYS = ("bare_key", "quoted_key", "dotted_key")


class Positions:
    """Lines of one valid TOML document, counted from 1."""

    def __init__(self, source: bytes) -> None:
        self._lines: dict[KeyPath, int] = {}
        self._tables: dict[KeyPath, int] = {}  # arrays of tables: how many elements so far
        root = Parser(Language(tree_sitter_toml.language())).parse(source).root_node
        for node in root.named_children:
            if node.type == "pair":
                self._pair((), node)
            elif node.type in ("table", "table_array_element"):
                self._table(node)

    def line(self, path: KeyPath) -> int | None:
        """Line of ``path``, else of the nearest table or key around it; None when none of it is in the
        document."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None

    def __contains__(self, path: KeyPath) -> bool:
        return path in self._lines

    def _table(self, node: Node) -> None:
        header, *rest = node.named_children
        parts = _parts(header)
        path: KeyPath = ()
        for i, part in enumerate(parts):
            path = (*path, part)
            last = i == len(parts) - 1
            if last and node.type == "table_array_element":
                self._note(path, node)
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
            self._note(path, node)
        for child in rest:
            if child.type == "pair":
                self._pair(path, child)

    def _pair(self, prefix: KeyPath, node: Node) -> None:
        key, value = (n for n in node.named_children if n.type != "comment")
        path = prefix
        for part in _parts(key):
            path = (*path, part)
            self._note(path, node)
        self._value(path, value)

    def _value(self, path: KeyPath, node: Node) -> None:
        if node.type == "inline_table":
            for child in node.named_children:
                if child.type == "pair":
                    self._pair(path, child)
        elif node.type == "array":
            items = (n for n in node.named_children if n.type != "comment")
            for i, item in enumerate(items):
                self._note((*path, i), item)
                self._value((*path, i), item)

    def _note(self, path: KeyPath, node: Node) -> None:
        self._lines.setdefault(path, node.start_point.row + 1)


def _parts(node: Node) -> list[str]:
    """The parts of a key, unquoted."""
    if node.type == "dotted_key":
        return [part for child in node.named_children if child.type in _KEYS for part in _parts(child)]
    text = (node.text or b"").decode()
    return [text] if node.type == "bare_key" else [next(iter(tomllib.loads(f"{text} = 0")))]
