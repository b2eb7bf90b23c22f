"""What two results of one set differ in: each figure of each row, and what made them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from benchmarks.quality.report import key

Record = Mapping[str, Any]
LEAST = 5e-4  # of a figure: below it nothing is told


def changes(before: Record, after: Record) -> str:
    """A table of the figures that differ by LEAST or more, largest first, and of the settings that do. Rows that only one of
    the two has are named."""
    old, new = ({key(row): row for row in record["rows"]} for record in (before, after))
    found = []
    for who in new:
        for name, value in new[who].items():
            was = old.get(who, {}).get(name)
            if _number(value) and _number(was) and abs(value - was) >= LEAST:
                found.append((abs(value - was), " ".join(filter(None, who)), name, was, value, value - was))
    lines = [f"against the results of {before['at'][:10]}:"]
    lines += [f"  {name}: {a} before, {b} now" for name, a, b in _settings(before, after) if a != b]
    lines += [f"  only before: {' '.join(filter(None, who))}" for who in old if who not in new]
    lines += [f"  only now: {' '.join(filter(None, who))}" for who in new if who not in old]
    if not found:
        return "\n".join([*lines, "  no figure differs"])
    rows = [row[1:] for row in sorted(found, key=lambda row: -row[0])]
    told = tabulate(
        rows,
        headers=("who", "figure", "before", "now", "change"),
        floatfmt=("", "", ".4f", ".4f", "+.4f"),
        tablefmt="simple",
    )
    return "\n".join([*lines, told])


def _settings(before: Record, after: Record) -> list[tuple[str, object, object]]:
    found: list[tuple[str, object, object]] = [
        (name, before.get(name), after.get(name)) for name in ("quick", "seeds", "files")
    ]
    versions = [record["environment"]["versions"] for record in (before, after)]
    names = sorted({*versions[0], *versions[1]})
    return [*found, *((name, versions[0].get(name), versions[1].get(name)) for name in names)]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
