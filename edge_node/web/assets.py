"""The files of the page, as they lie in the package: read once, small, each with a tag of its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

_KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file and what it is."""

    kind: str
    body: bytes
    etag: str


def load_assets() -> dict[str, Asset]:
    """By path; "/" is index.html."""
    found: dict[str, Asset] = {}
    _load(files("edge_node.web") / "static", "", found)
    found["/"] = found.pop("/index.html")
    return found


def _load(folder: Traversable, path: str, found: dict[str, Asset]) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            _load(entry, f"{path}/{entry.name}", found)
        elif (kind := _KINDS.get(entry.name.rpartition(".")[2])) is not None:
            body = entry.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[f"{path}/{entry.name}"] = Asset(kind, body, etag)
