"""``make chaos`` in its short form: every kind of fault once or twice, and what was promised holds."""

from __future__ import annotations

from pathlib import Path

from tests.brokers import mosquitto_path
from tests.edge_node import chaos


def test_chaos(tmp_path: Path) -> None:
    mosquitto_path()  # skips where it is missing
    report = chaos.run(5, 30.0, tmp_path, quiet=True)
    assert sum(report.n_faults.values()) >= 6
    assert report.n_expected > 0
    assert report.n_lost == report.n_lost_lossy == 0
    assert report.n_looks > 5
