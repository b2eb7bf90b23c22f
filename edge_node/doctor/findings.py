"""What a check finds, and how it is shown: a line each, what to do about it below. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Literal

import msgspec

Level = Literal["ok", "warn", "fail"]

NAME_WIDTH = 14
_COLOURS = {"ok": "32", "warn": "33", "fail": "31"}
_INDENT = 8 + NAME_WIDTH + 2  # of the text


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``text`` says what is there, or what is wrong; ``remedy`` what to do ("": nothing)."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    return Finding(check=check, level="ok", text=text)


def warn(check: str, text: str, remedy: str) -> Finding:
    return Finding(check=check, level="warn", text=text, remedy=remedy)


def fail(check: str, text: str, remedy: str) -> Finding:
    return Finding(check=check, level="fail", text=text, remedy=remedy)


def shown(finding: Finding, width: int, *, colours: bool, named: bool = True) -> Iterator[str]:
    """``finding`` in lines of at most ``width``; ``named``: with the name of its check."""
    level = f"{finding.level:<4}"
    if colours:
        level = f"\x1b[{_COLOURS[finding.level]}m{level}\x1b[0m"
    name = finding.check if named else ""
    first, *more = _wrapped(finding.text, width - _INDENT)
    yield f"  {level}  {name:<{NAME_WIDTH}}  {first}"
    yield from (f"{'':{_INDENT}}{line}" for line in more)
    for i, line in enumerate(_wrapped(finding.remedy, width - _INDENT - 2) if finding.remedy else ()):
        yield f"{'':{_INDENT}}{'  ' if i else '→ '}{line}"


def total(findings: list[Finding]) -> str:
    """How many there are of each level."""
    n = {level: sum(f.level == level for f in findings) for level in ("ok", "warn", "fail")}
    words = {"warn": "to look at", "fail": "to mend", "ok": "ok"}
    return ", ".join(f"{n[level]} {words[level]}" for level in ("fail", "warn", "ok") if n[level])


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 30), break_long_words=False, break_on_hyphens=False) or [""]
