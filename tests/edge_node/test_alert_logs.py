"""How loudly the daemon logs an alert."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_node.daemon import Daemon


@pytest.mark.parametrize(
    ("severity", "level"), [("info", "info"), ("warning", "warning"), ("critical", "error")]
)
def test_an_alert_is_logged_as_loudly_as_it_is_severe_and_its_end_quietly(
    tmp_path: Path, severity: str, level: str
) -> None:
    readings = [20] * 30 + [90] * 30 + [20] * 30
    rows = "".join(f"2024-05-01T06:{i // 60:02}:{i % 60:02}Z,{t}\n" for i, t in enumerate(readings))
    (tmp_path / "log.csv").write_text(f"time,bearing\n{rows}")
    path = tmp_path / "gateway.toml"
    path.write_text(
        f"""
[gateway]
name = "g"
metrics_port = 0
[[source]]
type = "replay"
paths = ["log.csv"]
speed = "max"
device_id = "press"
[[device]]
id = "press"
interval_s = 1
channels = ["bearing"]
[[device.limit]]
name = "hot"
channel = "bearing"
above = 85
severity = "{severity}"
"""
    )
    with capture_logs() as logs:
        asyncio.run(Daemon(path).run(end_with_sources=True))
    said = [(entry["state"], entry["log_level"]) for entry in logs if "alert" in entry]
    assert said == [("raised", level), ("cleared", "info")]
