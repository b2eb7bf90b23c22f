"""The console script ``edge-node``."""

from models.console import run


def main() -> int:
    """Runs ``edge-node``; returns the exit code."""
    return run("edge_node.cli")


if __name__ == "__main__":
    raise SystemExit(main())
