"""The page as a file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edge_node.report.page import Replayed, page
from models.files import write_whole
from models.logs import LogError
from models.recording import file_device


def page_file(folder: Path, logs: list[Path]) -> Path:
    """Where the page of a replay of ``logs`` goes: named after the first of them."""
    name = file_device(logs[0])
    return folder / (f"{name}.html" if len(logs) == 1 else f"{name}-and-{len(logs) - 1}-more.html")


def make_folder(folder: Path) -> None:
    """``folder``, where it is not there yet. Raises LogError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogError(folder, f"cannot be made a folder for the page ({error.strerror})") from error


def write_page(file: Path, seen: Replayed) -> None:
    """The page, in place of what was there. Raises LogError."""
    style = (files("edge_node.report") / "style.css").read_text()
    try:
        write_whole(file, page(seen, style).encode("utf-8", "replace"))
    except OSError as error:
        raise LogError(file, f"cannot be written ({error.strerror})") from error
