"""The console script ``edge-node``."""

from __future__ import annotations

from collections.abc import Callable

from models.console import run


def main() -> int:
    """Runs ``edge-node``; returns the exit code."""
    return run(_load)


def _load() -> Callable[[], int]:
    from edge_node.cli import main as command

    return command


if __name__ == "__main__":
    raise SystemExit(main())
