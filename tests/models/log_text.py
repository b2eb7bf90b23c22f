"""What the tests of foreign logs share: text into a file, a log into rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.logs import LogOptions
from models.recording import read_log
from models.signal import NS_PER_S, SampleBlock

UTC = LogOptions(timezone="UTC")
FIXTURES = Path(__file__).parent / "fixtures"  # written by pandas 2 and pyarrow: see their names
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(text: str | bytes, name: str = "log.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_text


def rows(path: Path, options: LogOptions = UTC) -> tuple[list[int], list[list[float]]]:
    """All rows of a log: times in whole seconds, values."""
    blocks = [item for item in read_log(path, options) if isinstance(item, SampleBlock)]
    times = [int(t) // NS_PER_S for block in blocks for t in block.times()]
    return times, [row for block in blocks for row in block.values.tolist()]


T0 = 1583077446  # 2020-03-01 15:44:06 UTC
