"""``python -m cloud_sink.bounded MEGABYTES COMMAND ...``: ``cloud-sink COMMAND ...`` with so much memory at most, which ends
when whoever started it does.

Invariant: standard input is a pipe that its parent holds and never writes to; its end is the parent's, also of one that was
killed."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Sequence

REFUSED = 1
ORPHANED = 75


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    megabytes, *command = arguments
    threading.Thread(target=_end_with_parent, daemon=True).start()
    n_bytes = int(megabytes) << 20
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    os.nice(10)
    from cloud_sink.cli import main as run

    try:
        return run(command)
    except MemoryError:
        print(f"cloud-sink: {command[0]} needs more than {megabytes} MB: raise memory_mb", file=sys.stderr)
        return REFUSED


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
