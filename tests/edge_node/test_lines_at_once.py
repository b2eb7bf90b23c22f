"""Firmware that sends several lines at once, none with a time: the real daemon keeps every row, live and in its log."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from models.recording import read_log
from models.signal import SampleBlock
from tests.brokers import free_port, wait_for
from tests.edge_node.daemons import metrics, summed
from tests.edge_node.daemons import running as daemon_running
from tests.firmware_bridge.ptys import Cable

CONFIG = """
[gateway]
name = "g1"
metrics_port = {port}
[[source]]
type = "serial"
device = "meter"
protocol = "lines"
format = "{format}"
port = "{link}"
[[device]]
id = "meter"
{time}
channels = ["current", "power"]
window_s = 1
"""
LINES = {
    "csv": "{},{}\n",
    "json": '{{"current": {}, "power": {}}}\n',
    "influx": "m current={},power={}\n",
}


@pytest.mark.parametrize("form", LINES)
@pytest.mark.parametrize("time", ["interval_s = 0.1", "rate_hz = 50"])
def test_no_row_of_a_read_is_taken_for_another(tmp_path: Path, form: str, time: str) -> None:
    cable, port, log = Cable(tmp_path / "port"), free_port(), tmp_path / "run.jsonl"
    path = tmp_path / "gateway.toml"
    path.write_text(CONFIG.format(port=port, format=form, link=cable.link, time=time))
    n = 0
    try:
        with daemon_running(path, "--record", str(log)) as daemon:
            wait_for(lambda: metrics(port).get('linewatch_connected{connection="source serial"}'), "the line")
            cable.send(b"\n")
            for _ in range(6):
                cable.send("".join(LINES[form].format(n + i, -n - i) for i in range(5)).encode())
                n += 5
                wait_for(lambda n=n: summed(metrics(port), "source_messages_total") == n, "what was sent")
            wait_for(lambda: summed(metrics(port), "samples_in_total") == 2 * n, "the samples")
            wait_for(lambda: summed(metrics(port), "samples_queued") == 0, "an empty queue")
            now = metrics(port)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0
    finally:
        cable.unplug()
    blocks = [item for item in read_log([log]) if isinstance(item, SampleBlock)]
    assert [float(v) for b in blocks for v in b.values[:, 0]] == list(range(n))
    if "interval_s" in time:
        assert now.get('linewatch_samples_dropped_total{reason="duplicate"}', 0) == 0
        assert np.diff(np.concatenate([b.times() for b in blocks])).min() > 0
    else:
        assert all(b.n == 1 or int(b.times()[-1]) == b.arrival_ns for b in blocks)
        assert max(b.n for b in blocks) == 5
