"""The fuzz run of a gateway in its short form."""

from __future__ import annotations

from pathlib import Path

from tests.brokers import mosquitto_path
from tests.edge_node import fuzz_gateway


def test_nonsense_neither_ends_the_gateway_nor_keeps_it_from_its_work(tmp_path: Path) -> None:
    mosquitto_path()  # skips where it is missing
    report = fuzz_gateway.run(9, 1500, 6, tmp_path, quiet=True)
    assert report.n_bytes > 1_000_000
    assert len(report.by_topic) == 8
    assert sum(report.refused.values()) == report.n_models
