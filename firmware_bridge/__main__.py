"""The console script ``firmware-bridge``."""

from __future__ import annotations

from collections.abc import Callable

from models.console import run


def main() -> int:
    """Runs ``firmware-bridge``; returns the exit code."""
    return run(_load)


def _load() -> Callable[[], int]:
    from firmware_bridge.cli import main as command

    return command


if __name__ == "__main__":
    raise SystemExit(main())
