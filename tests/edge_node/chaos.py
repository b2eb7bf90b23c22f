"""The real gateway between real brokers, broken at random moments: ``make chaos``.

Four devices send the same kind of signal, with faults in it: two through a broker at QoS 1, one at QoS 0, one over a serial
line (a pty). Meanwhile, at moments that a printed seed decides, the gateway is killed, either broker is killed or frozen, the
file system that holds the gateway's state is filled, and connections are cut in the middle of a packet. The run fails unless

- every alert that the same signal brings in an undisturbed run has arrived, with its id, for the devices at QoS 1, and no other,
  and just as many of their windows were scored;
- for the other two, every alert whose windows lie outside of the gaps;
- the three equations of conservation held whenever somebody looked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_node.assembly import assemble
from edge_node.config import load_config
from models.messages import Alert
from models.signal import SampleBlock
from tests.brokers import Broker, free_port
from tests.edge_node.chaos_parts import Feeder, SerialLine, Sink
from tests.edge_node.daemons import BUNDLE, NS, channels, edge_node, golden_window, metrics, summed
from tests.relays import Relay

ROWS_PER_S = 50  # of event time and a row a second: this many times as fast as life
KEPT, LOSSY = ("pump-1", "pump-2"), ("fan-1", "line-1")
FAULT_EVERY, FAULT_ROWS = 400, 120
WINDOW_ROWS = 20
CHECKPOINT_S = 1.0
DURABLE = ("persistence true", "autosave_interval 1", "autosave_on_changes true", "max_inflight_messages 100")
FAULTS = (
    "kill gateway",
    "kill plant",
    "freeze plant",
    "kill cloud",
    "freeze cloud",
    "fill disk",
    "cut source",
    "cut uplink",
)


class Lost(Exception):
    """What was promised does not hold."""


@dataclass(slots=True)
class Report:
    """Of one run. ``n_expected``: alert messages of an undisturbed run that had to arrive; ``n_duplicated``: arrivals beyond the
    first of each."""

    seed: int
    seconds: float
    n_rows: int = 0
    n_faults: dict[str, int] = field(default_factory=dict)
    n_expected: int = 0
    n_delivered: int = 0
    n_duplicated: int = 0
    n_lost: int = 0
    n_delayed: int = 0
    n_expected_lossy: int = 0
    n_lost_lossy: int = 0
    n_looks: int = 0


def signal_of(device: int, n: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Rows float64[n, c] with a fault every so often, at another place for each device."""
    window = golden_window()
    rng = np.random.default_rng((seed, device))
    mean, spread = window.mean(axis=0), window.std(axis=0) + 1e-3
    rows = mean + spread * rng.standard_normal((n, mean.size))
    for begin in range(200 + 90 * device, n, FAULT_EVERY):
        rows[begin : begin + FAULT_ROWS] += 12 * spread
    return np.asarray(rows, np.float64)


def undisturbed(config: Path, rows: dict[str, Any], start_ns: int) -> tuple[list[Alert], dict[str, int]]:
    """When nothing is in the way: the alerts of all devices, and how many windows of each are scored."""
    core = assemble(load_config(config), on_notice=lambda _: None)
    for device_id, values in rows.items():
        times = start_ns + np.arange(len(values)) * NS
        names = tuple(channels())
        # As the gateway gets them: one row a message.
        for i in range(len(values)):
            core.push(
                SampleBlock.irregular(
                    device_id, names, values[i : i + 1], time_ns=times[i : i + 1], arrival_ns=int(times[i])
                )
            )
    alerts = [e.event for e in core.pipeline.events() if isinstance(e.event, Alert)]
    return alerts, {name: c.n_windows_scored for name, c in core.pipeline.counters_by_device().items()}


def write_config(folder: Path, plant: int, cloud: int, tty: str, port: int, state: Path) -> Path:
    units = json.loads((BUNDLE / "manifest.json").read_text())["channels"]
    listed = ", ".join(
        "{ " + ", ".join(f"{k} = {json.dumps(c[k])}" for k in ("name", "unit", "origin")) + " }"
        for c in units
    )
    path = folder / "gateway.toml"
    path.write_text(
        f"""
[gateway]
name = "g1"
site = "s1"
metrics_port = {port}
checkpoint_s = {CHECKPOINT_S}
status_s = 2
state_dir = "{state}"
[uplink]
host = "127.0.0.1"
port = {cloud}
reconnect_min_s = 0.1
reconnect_max_s = 0.5
keepalive_s = 2
[defaults]
interval_s = 1
channels = [{listed}]
model = "{BUNDLE}"
alerts_per_week = 1
alert = {{ cooldown_s = 0 }}  # else what a gap does to one alert reaches the next
[[source]]
type = "mqtt"
name = "plant"
host = "127.0.0.1"
port = {plant}
max_inflight = 100
reconnect_min_s = 0.1
reconnect_max_s = 0.5
keepalive_s = 2
[[source.subscribe]]
topic = "kept/{{device}}"
time_key = "t"
qos = 1
[[source.subscribe]]
topic = "lossy/{{device}}"
time_key = "t"
[[source]]
type = "serial"
name = "line"
device = "line-1"
protocol = "lines"
format = "json"
time_key = "t"
port = "{tty}"
"""
        + "".join(f'[[device]]\nid = "{name}"\n' for name in (*KEPT, *LOSSY))
    )
    return path


class Gateway:
    """The daemon: started, killed, looked at."""

    def __init__(self, config: Path, port: int, log: Path) -> None:
        self._config, self._port, self._log = config, port, log
        self._process: subprocess.Popen[bytes] | None = None
        self.gaps: list[tuple[float, float]] = []  # monotonic times in which it may have received nothing
        self.n_looks = 0
        self.dropped: dict[str, float] = {}  # by device and reason, when last looked at

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(edge_node("run", "-c", self._config), stderr=log, stdout=log)
        deadline = time.monotonic() + 30
        while metrics(self._port).get('linewatch_connected{connection="source plant"}') != 1.0:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise Lost(f"the gateway does not come up: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait(30) != 0:
            raise Lost(f"the gateway ended badly: {self._log.read_text()[-2000:]}")

    def wait_for_windows(self, expected: dict[str, int], timeout_s: float) -> None:
        """Until so many windows of each device were scored, each once, over all restarts."""
        deadline = time.monotonic() + timeout_s
        while True:
            values = metrics(self._port)
            found = {
                name: values.get(f'linewatch_device_windows_scored_total{{device="{name}"}}', 0)
                for name in expected
            }
            if found == expected:
                return
            if time.monotonic() > deadline:
                raise Lost(f"windows scored: {found}, not {expected}; {self.dropped}")
            time.sleep(0.2)

    def look(self) -> None:
        """The equations, as they stand now."""
        values = metrics(self._port)
        if not values:
            return
        self.n_looks += 1
        self.dropped = {
            k: v for k, v in values.items() if k.startswith("linewatch_device_") and "dropped" in k and v
        }
        for name, parts in (
            ("samples_in", ("samples_windowed_total", "samples_queued", "samples_dropped_total")),
            ("windows_closed", ("windows_scored_total", "windows_pending", "windows_dropped_total")),
        ):
            whole, sum_ = summed(values, f"{name}_total"), sum(summed(values, part) for part in parts)
            if whole != sum_:
                raise Lost(f"{name} {whole} is not {sum_}")
        said = summed(values, "events_published_total") + summed(values, "events_republished_total")
        became = sum(
            summed(values, f"events_{part}")
            for part in ("delivered_total", "superseded_total", "dropped_total", "queued")
        )
        if said != became:
            raise Lost(f"{said} events were said, and {became} are accounted for")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system that can be filled; None where none can be mounted."""
    place = folder / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """A file that leaves no room."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65_536)
    return ballast


@dataclass
class Plant:
    """All parts of a run."""

    plant: Broker
    cloud: Broker
    source_proxy: Relay
    uplink_proxy: Relay
    gateway: Gateway
    feeder: Feeder
    disk: Path | None
    rng: random.Random

    def strike(self, fault: str) -> None:
        """Do ``fault``, and undo it."""
        pause_s = self.rng.uniform(0.1, 1.5)
        begun_s = time.monotonic()
        what, _, whom = fault.partition(" ")
        if fault == "kill gateway":
            self.gateway.kill()
            time.sleep(pause_s)
            self.gateway.start()
        elif fault == "fill disk":
            assert self.disk is not None
            ballast = fill(self.disk)
            time.sleep(pause_s)
            ballast.unlink()
            time.sleep(6.0)  # until checkpoints are written again
        elif what == "cut":
            (self.source_proxy if whom == "source" else self.uplink_proxy).cut(self.rng.randrange(1, 400))
            time.sleep(pause_s)
        else:
            broker = self.plant if whom == "plant" else self.cloud
            if what == "kill":
                with self.feeder.quiet() if whom == "plant" else contextlib.nullcontext():
                    broker.kill()
                time.sleep(pause_s)
                broker.start()
            else:
                broker.freeze()
                time.sleep(pause_s + 2.5)
                broker.thaw()
        if whom in ("gateway", "plant", "source"):
            # What had come since the last checkpoint, and what comes until the connection stands again.
            self.gateway.gaps.append((begun_s - 2 * CHECKPOINT_S - 0.5, time.monotonic() + 3.0))


def run(seed: int, seconds: float, folder: Path, *, quiet: bool = False) -> Report:
    """One run of about ``seconds``. Raises Lost."""
    rng = random.Random(seed)
    report = Report(seed, seconds)
    n = round(seconds * ROWS_PER_S)
    start_ns = (time.time_ns() // NS - n - 60) * NS
    rows = {name: signal_of(i, n, seed) for i, name in enumerate((*KEPT, *LOSSY))}
    with contextlib.ExitStack() as stack:
        brokers = []
        for name in ("plant", "cloud"):
            (folder / name).mkdir()
            broker = Broker(folder / name, *DURABLE, f"persistence_location {folder / name}/")
            broker.start()
            stack.callback(broker.kill)
            brokers.append(broker)
        plant, cloud = brokers
        proxies = [stack.enter_context(Relay(b.port)) for b in brokers]
        line = stack.enter_context(SerialLine())
        disk = stack.enter_context(small_disk(folder))
        port = free_port()
        state = (disk or folder) / "state"
        config = write_config(folder, proxies[0].port, proxies[1].port, line.path, port, state)
        expected, windows = undisturbed(config, rows, start_ns)
        sink = stack.enter_context(Sink(cloud.port))
        feeder = stack.enter_context(Feeder(plant.port, line, rows, start_ns, KEPT, ROWS_PER_S))
        gateway = Gateway(config, port, folder / "gateway.log")
        gateway.start()
        stack.callback(gateway.kill)
        parts = Plant(plant, cloud, proxies[0], proxies[1], gateway, feeder, disk, rng)
        possible = [fault for fault in FAULTS if disk is not None or fault != "fill disk"]
        order = rng.sample(possible, len(possible))
        feeder.start()
        counts: Counter[str] = Counter()
        while not feeder.done:
            time.sleep(rng.uniform(0.3, 2.0))
            gateway.look()
            if feeder.done:
                break
            fault = order[sum(counts.values()) % len(order)]
            if not quiet:
                print(f"{time.strftime('%H:%M:%S')} {feeder.progress:5.0%}  {fault}", flush=True)
            parts.strike(fault)
            counts[fault] += 1
            gateway.look()
        feeder.finish(60.0)
        of_kept = {a.message_id for a in expected if a.device in KEPT}
        sink.wait_for(of_kept, 60.0)
        gateway.wait_for_windows({name: windows[name] for name in KEPT}, 30.0)
        gateway.look()
        gateway.stop()
        report.n_rows, report.n_faults, report.n_looks = n * len(rows), dict(counts), gateway.n_looks
        judge(report, expected, sink, feeder, gateway)
    return report


def judge(report: Report, expected: list[Alert], sink: Sink, feeder: Feeder, gateway: Gateway) -> None:
    """Fills in ``report``; raises Lost."""
    arrived = sink.alerts()
    ids: Counter[str] = Counter(a["message_id"] for a in arrived)
    kept = {a.message_id for a in expected if a.device in KEPT}
    report.n_expected, report.n_delivered = len(kept), len(kept & ids.keys())
    report.n_lost = report.n_expected - report.n_delivered
    report.n_duplicated = sum(n - 1 for n in ids.values())
    report.n_delayed = len({a["message_id"] for a in arrived if a["delivery"]["delayed"]})
    extra = {a["message_id"]: a for a in arrived if a["device"] in KEPT and a["kind"] == "machine"}
    extra = {i: a for i, a in extra.items() if i not in kept}
    outside = []
    for alert in expected:
        if alert.device in LOSSY and alert.state == "raised":
            sent = feeder.sent_between(alert.start_ns - 2 * WINDOW_ROWS * NS, alert.end_ns + WINDOW_ROWS * NS)
            if not any(begin < sent[1] and end > sent[0] for begin, end in gateway.gaps):
                outside.append(alert)
    report.n_expected_lossy = len(outside)
    # What a gap has left in the re-centring may move the first window of an episode.
    said = [a for a in arrived if a["device"] in LOSSY and a["kind"] == "machine"]
    missing = [
        e
        for e in outside
        if not any(
            a["device"] == e.device and a["start_ns"] <= e.end_ns and a["end_ns"] >= e.start_ns for a in said
        )
    ]
    report.n_lost_lossy = len(missing)
    if report.n_lost or extra:
        lost = sorted(a.message for a in expected if a.message_id in kept - ids.keys())
        new = [(a["device"], a["state"], a["message_id"], a["start_at"]) for a in extra.values()]
        raise Lost(
            f"of devices at QoS 1 {report.n_lost} alerts are lost: {lost}; and {len(extra)} new: {new}; {report}"
        )
    if missing:
        raise Lost(f"alerts outside of every gap are lost: {[a.message for a in missing]}; {report}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--keep", help="a folder for the logs, in place of one that is removed")
    parser.add_argument("--json", type=Path, help="write the report there")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}, {given.seconds:g} s", flush=True)
    with contextlib.ExitStack() as stack:
        name = given.keep or stack.enter_context(tempfile.TemporaryDirectory())
        try:
            report = run(seed, given.seconds, Path(name))
        except Lost as error:
            print(f"FAILED (seed {seed}): {error}", file=sys.stderr)
            return 1
    for key, value in asdict(report).items():
        print(f"{key:20} {value}")
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
