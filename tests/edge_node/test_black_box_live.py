"""The black box of the real daemon: what it kept says what the gateway said."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge_node.cli import main
from models.recording import recorded_devices
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import (
    N_ROWS,
    alerts,
    channels,
    config,
    connected,
    edge_node,
    feed,
    metrics,
    of_the_signal,
    rows,
    running,
    status,
    summed,
)
from tests.edge_node.disks import filled, small_disk

pytestmark = pytest.mark.tflite_runtime

BLACK_BOX = """
[black_box]
flush_s = 0.2
min_free_bytes = 0
"""


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(edge_node(*arguments), capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def configured(folder: Path, port: int, metrics_port: int, black_box: str = BLACK_BOX, **more: str) -> Path:
    path = config(folder, port, metrics_port, **more)
    path.write_text(path.read_text() + black_box)
    return path


def machine(seen: Subscriber) -> list[dict[str, Any]]:
    return [a for a in alerts(seen) if a["kind"] == "machine"]


def replayed(log: Path, path: Path, folder: Path) -> list[dict[str, Any]]:
    out = folder / f"{log.stem}-alerts.jsonl"
    run("replay", log, "-c", path, "--output", out)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_what_was_kept_around_an_alert_says_it_again(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = configured(tmp_path, mosquitto.port, port)
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, rows())
            raised = wait_for(lambda: machine(seen), "a machine alert")[0]
            assert raised["evidence"].startswith("sha256:")
            wait_for(
                lambda: (
                    metrics(port)["linewatch_black_box_samples_recorded_total"] == N_ROWS * len(channels())
                ),
                "all of it on disk",
            )
            # while the daemon runs
            (listed,) = [
                json.loads(x) for x in run("recordings", "list", "-c", path, "--json").stdout.splitlines()
            ]
            assert (listed["device"], listed["n_rows"], listed["state"]) == (
                "pump-1",
                N_ROWS,
                "being written",
            )
            assert raised["alert_id"] in listed["alerts"]
            live = tmp_path / "live.jsonl"
            run("recordings", "export", "-c", path, "--alert", raised["alert_id"], "-o", live)
            said = replayed(live, path, tmp_path)
            assert of_the_signal(raised) in said
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        wait_for(lambda: status(seen) == "stopped", "status stopped")
        all_said = [of_the_signal(a) for a in alerts(seen) if a["alert_id"] == raised["alert_id"]]
        # and when it does not
        after = tmp_path / "after.parquet"
        run("recordings", "export", "-c", path, "--alert", raised["alert_id"], "-o", after)
        again = replayed(after, path, tmp_path)
        assert [a for a in again if a["alert_id"] == raised["alert_id"]] == all_said
        for arguments in (["-c", path], [after]):
            text = run("recordings", "verify", *arguments).stdout
            assert raised["evidence"] in text
            assert "the same" in text
            assert "DIFFERENT" not in text
        assert "whole" in run("recordings", "list", "-c", path).stdout


def test_a_killed_daemon_has_lost_a_few_seconds(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = configured(tmp_path, mosquitto.port, port)
        sent = rows()
        recorded = "linewatch_black_box_samples_recorded_total"
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, sent[:1000])
            raised = wait_for(lambda: machine(seen), "a machine alert")[0]
            n = 1000 * len(channels())
            wait_for(lambda: metrics(port).get(recorded, 0) >= n, "the first thousand rows on the disk")
            wait_for(
                lambda: raised["alert_id"] in run("recordings", "list", "-c", path, "--json").stdout,
                "the mark of the alert on the disk",
            )
            feed(seen, sent[1000:1100])
            daemon.kill()
        (row,) = [json.loads(x) for x in run("recordings", "list", "-c", path, "--json").stdout.splitlines()]
        assert row["state"] == "cut short"
        assert row["n_rows"] * len(channels()) >= n
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, sent[1100:])
            wait_for(lambda: metrics(port).get(recorded, 0) > 0, "more on the disk")
            states = [
                json.loads(x)["state"]
                for x in run("recordings", "list", "-c", path, "--json").stdout.splitlines()
            ]
            assert states == ["whole", "being written"]
            daemon.send_signal(signal.SIGTERM)
            _, log = daemon.communicate(timeout=15)
        assert "was cut short" in log
        out = tmp_path / "alert.parquet"
        done = run("recordings", "export", "-c", path, "--alert", raised["alert_id"], "-o", out)
        assert of_the_signal(raised) in replayed(out, path, tmp_path)
        verified = run("recordings", "verify", out, "--alert", raised["alert_id"]).stdout
        assert raised["evidence"] in verified
        assert "wrote" in done.stdout


def test_a_full_disk_is_told_and_costs_nothing_but_the_black_box(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path, "1m") as disk,
        broker(tmp_path) as mosquitto,
        Subscriber(mosquitto.port, "linewatch/#") as seen,
    ):
        port = free_port()
        black_box = f"{BLACK_BOX}flush_s = 0.1\n".replace("flush_s = 0.2\n", "")
        path = configured(
            tmp_path, mosquitto.port, port, black_box, gateway='status_s = 1\nstate_dir = "state"'
        )
        (disk / "blackbox").mkdir()
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "blackbox").symlink_to(disk / "blackbox")
        filled(disk)
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, rows()[:200])  # the disk has shown that it is full before anything is alerted

            def told() -> dict[str, Any]:
                statuses = [m.payload for m in seen.messages if m.topic.endswith("/status")]
                return {} if not statuses else dict(json.loads(statuses[-1]))

            wait_for(lambda: told().get("black_box_error"), "the failure in the status")
            system = wait_for(
                lambda: [a for a in alerts(seen) if a["kind"] == "system" and "black box" in a["message"]],
                "an alert of it",
            )
            assert "the disk is full" in system[0]["message"]
            feed(seen, rows()[200:])
            raised = wait_for(lambda: machine(seen), "a machine alert none the less")[0]
            assert raised["evidence"] is None
            now = metrics(port)
            assert now["linewatch_black_box_failed"] == 1
            assert now['linewatch_black_box_samples_dropped_total{reason="disk_full"}'] > 0
            (disk / "filler").unlink()
            wait_for(lambda: metrics(port)["linewatch_black_box_failed"] == 0, "recording again", 30)
            wait_for(lambda: told()["black_box_error"] is None, "the end of it in the status")
            feed(seen, rows()[:200])
            wait_for(
                lambda: summed(metrics(port), "black_box_samples_recorded_total") > 0,
                "values on the disk",
            )
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0


def test_the_black_box_follows_the_configuration(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        port = free_port()
        path = configured(tmp_path, mosquitto.port, port)
        text, sent, n = path.read_text(), rows(), len(channels())
        recorded = "black_box_samples_recorded_total"

        def reload(text: str) -> None:
            path.write_text(text)
            before = len([m for m in seen.messages if m.topic.endswith("/status")])
            daemon.send_signal(signal.SIGHUP)
            wait_for(
                lambda: len([m for m in seen.messages if m.topic.endswith("/status")]) > before,
                "a new configuration",
            )

        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, sent[:50])
            wait_for(lambda: summed(metrics(port), recorded) == 50 * n, "fifty rows")
            reload(text.replace("interval_s = 1", "interval_s = 1\ntime = { lateness_s = 9 }"))
            wait_for(lambda: connected(port), "the source's connection")
            feed(seen, sent[50:80])
            wait_for(lambda: summed(metrics(port), recorded) == 80 * n, "thirty more")
            reload(text.replace("flush_s", "enabled = false\nflush_s"))
            wait_for(lambda: connected(port) and recorded not in metrics(port), "no black box")
            feed(seen, sent[80:90])
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0
        listed = [json.loads(x) for x in run("recordings", "list", "-c", path, "--json").stdout.splitlines()]
        assert [row["n_rows"] for row in listed] == [50, 30]
        files = sorted((tmp_path / "gateway-state" / "blackbox").iterdir())
        assert [recorded_devices(f)[0].time.lateness_s for f in files] == [None, 9]
        assert {f.stat().st_mode & 0o077 for f in (*files, files[0].parent)} == {0}
        assert not [m for m in seen.messages if "blackbox" in m.topic or b"black_box_values" in m.payload]


def test_what_cannot_be_given_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = configured(tmp_path, free_port(), 0), tmp_path / "x.parquet"

    def said(*arguments: str | Path, code: int = 1) -> str:
        assert main(["recordings", *map(str, arguments)]) == code
        done = capsys.readouterr()
        return done.out if not code else done.err

    for arguments, code, expected in (
        (("list", "-c", path), 1, "there is no black box in"),
        (("export", "-c", path, "--alert", "a", "-o", out), 1, "there is no black box in"),
        (("export", "-c", path, "--device", "pump-1", "-o", out), 2, "--device needs --from and --until"),
        (("verify",), 2, "give either -c FILE or exported logs"),
        (("verify", tmp_path / "none.parquet"), 1, "no such file"),
    ):
        (line,) = said(*arguments, code=code).splitlines()
        assert expected in line
    (tmp_path / "gateway-state" / "blackbox").mkdir(parents=True)
    assert "the black box is empty" in said("list", "-c", path, code=0)
    (tmp_path / "gateway-state" / "blackbox" / "0000000001.blocks").mkdir()
    warning, line = said("export", "-c", path, "--alert", "a", "-o", out).splitlines()
    assert "0000000001.blocks: cannot be read" in warning
    assert "there is no alert a in the black box" in line
