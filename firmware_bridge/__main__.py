"""The console script ``firmware-bridge``."""

from models.console import run


def main() -> int:
    """Runs ``firmware-bridge``; returns the exit code."""
    return run("firmware_bridge.cli")


if __name__ == "__main__":
    raise SystemExit(main())
