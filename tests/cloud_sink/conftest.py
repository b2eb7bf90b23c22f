"""Fixtures of the sink's tests. Databases are imported where they are used: the environment with tflite-runtime, which has none,
reads this file, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cloud_sink.events import EventStore
    from tests.postgres import Postgres


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    from tests.postgres import postgres

    with postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], EventStore]]:
    """Opens one event database, an empty one, as often as it is called: in SQLite, and in a real PostgreSQL."""
    from cloud_sink.events import EventStore

    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'events.sqlite'}"
    else:
        url = request.getfixturevalue("server").url(f"test{time.time_ns()}")
    made: list[EventStore] = []

    def one() -> EventStore:
        made.append(EventStore(url))
        made[-1].create()
        return made[-1]

    yield one
    for store in made:
        store.close()
