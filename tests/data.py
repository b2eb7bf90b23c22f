"""Recorded data for tests: read from ``LINEWATCH_DATA`` or beside the checkout, never copied into the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("LINEWATCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def data_path(*parts: str) -> Path:
    """A file or folder of the recorded data; skips the test, saying so, where it is absent."""
    path = ROOT.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"recorded data not here ({'/'.join(parts)}): set LINEWATCH_DATA to a folder that has it")
    return path
