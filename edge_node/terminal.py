"""SIGHUP says two things: that the configuration has changed, and that the terminal is gone."""

from __future__ import annotations

import errno
import os
import termios

_IN, _OUT, _ERR = 0, 1, 2


def hung_up() -> bool:
    """Whether the terminal that the log is written to is gone. What is written to it from here on goes nowhere, where
    it would raise OSError."""
    gone = [descriptor for descriptor in (_IN, _OUT, _ERR) if _is_gone(descriptor)]
    for descriptor in gone:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return _ERR in gone


def _is_gone(descriptor: int) -> bool:
    try:
        termios.tcgetattr(descriptor)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False
