"""The computer, as the checks see it: files below ``root``, the user, the clock, and a few programs.

Invariant: nothing here raises for what is not there, or may not be read: that is None, or an empty list.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM_S = 5.0  # that a program has for its answer

_STA_UNSYNC = 0x40  # <linux/timex.h>


@dataclass(frozen=True, slots=True)
class Discipline:
    """What the kernel says of its clock: whether something keeps it, and how far off it may be."""

    synchronised: bool
    max_error_s: float


class _Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2) up to the fields that are read; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("max_error_us", ctypes.c_long),
        ("error_us", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 512),
    )


def kernel_discipline() -> Discipline | None:
    """Asked of the kernel, which every NTP client tells."""
    timex = _Timex()
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    return Discipline(not timex.status & _STA_UNSYNC, timex.max_error_us / 1e6)


def output_of(command: Sequence[str]) -> str | None:
    """What ``command`` prints; None where there is no such program, or it fails or does not end."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=PROGRAM_S, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """See the module's docstring."""

    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    groups: frozenset[int] = field(default_factory=lambda: frozenset((*os.getgroups(), os.getegid())))
    now_s: Callable[[], float] = time.time
    discipline: Callable[[], Discipline | None] = kernel_discipline
    output: Callable[[Sequence[str]], str | None] = output_of

    def path(self, of: str | Path) -> Path:
        """Where the absolute path ``of`` is."""
        return self.root / str(of).lstrip("/")

    def text(self, of: str | Path) -> str | None:
        """What the file says, without white space and NUL at its ends."""
        try:
            return self.path(of).read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
        except OSError:
            return None

    def number(self, of: str | Path, base: int = 10) -> int | None:
        """The number in the file."""
        text = self.text(of)
        try:
            return None if text is None else int(text, base)
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[Path]:
        """Paths as the computer has them (not below ``root``) that match the absolute ``pattern``, sorted."""
        found = []
        with contextlib.suppress(OSError):
            found = sorted(self.root.glob(pattern.lstrip("/")))
        return [Path("/") / path.relative_to(self.root) for path in found]

    def real(self, of: str | Path) -> Path:
        """The path with its links followed."""
        followed = Path(os.path.realpath(self.path(of)))
        return (
            Path("/") / followed.relative_to(self.root.resolve())
            if followed.is_relative_to(self.root.resolve())
            else followed
        )

    def stat(self, of: str | Path) -> os.stat_result | None:
        try:
            return self.path(of).stat()
        except OSError:
            return None

    def may(self, of: str | Path, mode: int) -> bool:
        """Whether the user may do ``mode`` (os.R_OK, os.W_OK, os.X_OK) with the file."""
        found = self.stat(of)
        if found is None:
            return False
        if self.uid == os.geteuid():
            return os.access(self.path(of), mode, effective_ids=True)  # which knows of access control lists
        if self.uid == 0:
            return True
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return (found.st_mode >> shift) & mode == mode
