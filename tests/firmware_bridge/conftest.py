"""What several tests of Modbus start with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.firmware_bridge.modbus_polling import WORDS, Plant, at, on
from tests.firmware_bridge.modbus_slaves import Slaves, rtu, tcp


@pytest.fixture(params=["tcp", "rtu"])
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plant]:
    if request.param == "tcp":
        with tcp(WORDS) as slaves:
            yield Plant(slaves, lambda timeout_s=1.0: at(slaves, timeout_s))
    else:
        with rtu(tmp_path, WORDS) as (slaves, line):
            yield Plant(slaves, lambda timeout_s=1.0: on(line, timeout_s))


@pytest.fixture
def slaves() -> Iterator[Slaves]:
    with tcp(WORDS) as started:
        yield started
