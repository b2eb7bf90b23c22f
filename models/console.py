"""How the console scripts begin: Ctrl-C is quiet from the first moment on. Importing this costs next to nothing.

What the commands import takes some tenths of a second, in which there is nothing to clean up, and in which an exception
would come out of the middle of somebody's C extension, with his traceback.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from types import FrameType

INTERRUPTED = 130


def run(module: str) -> int:
    """Imports ``module`` and runs its ``main``; returns the exit code, ``INTERRUPTED`` where Ctrl-C ended it."""
    # Who started us may have had SIGINT ignored (nohup, a job in the background): so it stays.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    command: Callable[[], int] = importlib.import_module(module).main
    try:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return command()
    except KeyboardInterrupt:
        return INTERRUPTED


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
