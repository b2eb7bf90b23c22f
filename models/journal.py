"""What is logged to systemd's journal carries its level at the head of its line (sd-daemon(3)), so that ``journalctl -p warning``
finds alerts and leaves out the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping

import structlog

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def is_journal(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``descriptor`` is the stream that systemd has connected to its journal."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def with_priority(render: structlog.typing.Processor) -> structlog.typing.Processor:
    """``render`` with the level before its line."""

    def rendered(logger: structlog.typing.WrappedLogger, name: str, event: structlog.typing.EventDict) -> str:
        priority = _PRIORITIES.get(str(event.get("level")), 6)
        return f"<{priority}>{render(logger, name, event)!s}"

    return rendered
