"""The console script ``cloud-sink``."""

from __future__ import annotations

from collections.abc import Callable

from models.console import run


def main() -> int:
    """Runs ``cloud-sink``; returns the exit code."""
    return run(_load)


def _load() -> Callable[[], int]:
    from cloud_sink.cli import main as command

    return command


if __name__ == "__main__":
    raise SystemExit(main())
