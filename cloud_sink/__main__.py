"""The console script ``cloud-sink``."""

from models.console import run


def main() -> int:
    """Runs ``cloud-sink``; returns the exit code."""
    return run("cloud_sink.cli")


if __name__ == "__main__":
    raise SystemExit(main())
