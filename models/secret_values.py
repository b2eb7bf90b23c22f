"""Secrets, read where they are kept when they are needed: from a file, or from the environment. They never stand in the
configuration, and nothing that is raised here holds one."""

from __future__ import annotations

import os
from pathlib import Path


def read_secret(file: Path | None, variable: str | None) -> str | None:
    """The text of ``file`` without its line's end, else of the environment's ``variable``; None where neither is given.
    ValueError, without the secret, when it cannot be read or is empty."""
    if file is not None:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ValueError(f"this file cannot be read: {error.strerror}") from None
        text = data.decode("utf-8", "replace").rstrip("\r\n")
        if "\ufffd" in text:
            raise ValueError("this file is not UTF-8 text")
        if not text:
            raise ValueError("this file is empty")
        return text
    if variable is not None:
        value = os.environ.get(variable)
        if not value:
            raise ValueError("this environment variable is not set")
        return value
    return None
