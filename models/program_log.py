"""How a program of ours logs: structured, for people on a terminal, else one JSON object a line; a thread that fails is an
entry like any other."""

from __future__ import annotations

import logging
import sys
import threading

import structlog

from models.broker_options import LogFormat, LogLevel
from models.journal import is_journal, with_priority


def set_up_logging(log_level: LogLevel, log_format: LogFormat, least: int = logging.DEBUG) -> None:
    """On standard error, from ``log_level`` on, and at ``least`` that one."""
    human = log_format == "human" or (log_format == "auto" and sys.stderr.isatty())
    level = max(least, getattr(logging, log_level.upper()))
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if human
        else structlog.processors.JSONRenderer()
    )
    if is_journal(2):
        render = with_priority(render)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    threading.excepthook = _log_thread_failure
    logging.basicConfig(handlers=[_Structured()], level=max(level, logging.WARNING), force=True)


def log_warnings_alone() -> None:
    """For a command whose standard output is an answer: warnings and worse, on what standard error is then."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=False)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


class _Structured(logging.Handler):
    """What libraries log, and models/, which knows no structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def _log_thread_failure(failed: threading.ExceptHookArgs) -> None:
    """A thread's traceback is a log entry like any other; whoever waits for the thread ends the program."""
    error = failed.exc_value
    if error is not None:
        name = failed.thread.name if failed.thread is not None else "a thread"
        structlog.get_logger("linewatch").critical(f"{name} failed", exc_info=error)
