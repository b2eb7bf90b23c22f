"""``firmware-bridge`` as processes on real ptys: boards that work, boards that do not, and ports that cannot be had."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.protocol import BoardChannel, Hello, Samples
from models.recording import inspect_log, read_log, recorded_devices
from models.signal import Mode, SampleBlock
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.firmware_bridge.boards import ROOT, OpenLine, Running, ended, running, simulated

CHANNELS = (BoardChannel("x", "m/s2", 0.01), BoardChannel("temperature", "°C", 0.1, -40.0))


def hello(config_id: int = 7, rate_hz: Fraction | None = Fraction(100)) -> Hello:
    return Hello(config_id, "test", "1.0", "T-1", CHANNELS, rate_hz, 0)


def samples(index: int = 0, n: int = 10, config_id: int = 7) -> Samples:
    counts = np.arange(index, index + n, dtype="<i2")[:, None] * np.array([1, 2], "<i2")
    return Samples(config_id, counts, index * 10_000, index)


# Ports that cannot be had: one line, exit code 1.


@pytest.mark.parametrize("arguments", [("monitor",), ("record", "-o", "log.jsonl"), ("verify",)])
def test_a_port_that_does_not_exist_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = ended(arguments[0], tmp_path / "nothing", *arguments[1:])
    assert done.returncode == 1
    assert done.stderr == (
        f"firmware-bridge: {tmp_path}/nothing: there is no such port; `firmware-bridge list` shows those that are there\n"
    )


def test_a_device_that_is_not_plugged_in_is_named_as_it_was_asked_for() -> None:
    done = ended("monitor", "dead:beef")
    assert (done.returncode, done.stdout) == (1, "")
    assert "vid pid dead:beef: not plugged in" in done.stderr


def test_a_file_is_no_port(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no port")
    done = ended("monitor", tmp_path / "file")
    assert done.returncode == 1
    assert f"{tmp_path}/file: this is no serial port" in done.stderr


def test_a_busy_port_says_how_to_find_who_has_it(tmp_path: Path) -> None:
    with simulated(tmp_path) as (board, _), running(tmp_path, "monitor", board, "--plain") as first:
        first.says("board SIM-0001")
        done = ended("record", board, "-o", tmp_path / "log.jsonl")
        assert done.returncode == 1
        assert (
            done.stderr
            == f"firmware-bridge: {board}: another program has it open; `fuser {board}` says which\n"
        )
        assert "line was lost" not in first.stop()
    assert not (tmp_path / "log.jsonl").exists()


# As another user, where the tests run as root: who may open everything.
UNPRIVILEGED = (
    "import grp, os, sys\n"
    "from firmware_bridge.cli import main\n"
    "if os.geteuid() == 0:\n"
    "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def test_a_port_that_is_not_permitted_names_the_group(tmp_path: Path) -> None:
    with OpenLine() as line:
        os.chmod(line.path, 0o660 if os.geteuid() == 0 else 0)
        group = Path(line.path).group()
        words = [sys.executable, "-c", UNPRIVILEGED, "monitor", line.path]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done
    fix = f"; add the user to the group that owns it: `sudo usermod -aG {group} $USER`, then log in again"
    if os.geteuid() != 0:
        fix = f": it is this user's, and its mode is 0000; `chmod u+rw {line.path}`"
    assert done.stderr == f"firmware-bridge: {line.path}: not permitted{fix}\n"


def test_a_port_is_waited_for_where_that_is_asked(tmp_path: Path) -> None:
    with running(tmp_path, "monitor", tmp_path / "board", "--wait", "--plain") as monitor:
        monitor.says("there is no such port")
        with simulated(tmp_path):
            monitor.says("board SIM-0001, linewatch simulator 1.0: x in m/s2, y in m/s2, z in m/s2; 1000 Hz")
            said = monitor.stop()
    assert said.count("there is no such port") == 1
    assert "opened once" in said


# monitor


def test_monitor_says_how_a_board_does_and_ends_with_a_summary(tmp_path: Path) -> None:
    with simulated(tmp_path) as (board, _), running(tmp_path, "monitor", board, "--plain") as monitor:
        line = monitor.says(r"\n\S+ ([\d.]+) a second, 1000 Hz stated \| .*? of 115200 baud \| (.*)\n")
        assert float(line[1]) > 0
        assert re.search(r"clock ±\d+\.\d\d ms, .* TimeSync answered \| x -?[\d.]+ m/s2, y .*, z ", line[2])
        said = monitor.stop(signal.SIGTERM)
    assert re.search(r"\n\d+ s: \d+ rows; lost 0 rows, 0 frames; 0 damaged; 0 resets; opened once\n$", said)


def test_monitor_draws_over_itself_on_a_terminal(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    with simulated(tmp_path) as (board, _):
        words = [sys.executable, "-m", "firmware_bridge.cli", "monitor", str(board), "--for", "2"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60", "LINES": "20"}
        process = subprocess.Popen(words, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        shown = b""
        while True:
            try:
                shown += os.read(master, 65536)
            except OSError:  # it has ended
                break
        os.close(master)
        assert process.wait(30) == 0
    text = shown.decode().replace("\r\n", "\n")
    assert text.startswith("\x1b[?25l")
    assert "\x1b[?25h" in text
    frames = text.split("\x1b[J")[1:]
    assert len(frames) >= 3
    last = frames[-1].split("\x1b[?25h")[0]
    assert re.search(
        r"SIM-0001, linewatch simulator 1\.0 .*\n(.*\n)*x +-?[\d.]+ +-?[\d.]+ +-?[\d.]+ +m/s2\n", last
    )
    assert max(map(len, last.splitlines())) <= 60


def test_a_board_that_comes_back_goes_on_and_what_was_lost_is_counted(tmp_path: Path) -> None:
    with simulated(tmp_path) as (board, first), running(tmp_path, "monitor", board, "--plain") as monitor:
        monitor.says("board SIM-0001")
        first.stop()
        monitor.says("the line was lost")
        with simulated(tmp_path, "--serial", "SIM-0002"):
            monitor.says("board SIM-0002")
            said = monitor.stop()
    assert "opened 2 times" in said


def test_a_line_that_ends_in_mid_frame_is_said_and_counted(tmp_path: Path) -> None:
    with OpenLine() as line, running(tmp_path, "monitor", line.path, "--plain") as monitor:
        monitor.says("open")
        line.send(hello(), samples())
        line.write(b"\0\x05half a frame")
        monitor.says("board T-1, test 1.0: x in m/s2, temperature in °C; 100 Hz")
        monitor.says("10 rows|x 0.09 m/s2, temperature -38.2 °C")
        line.close()
        monitor.says("the line was lost: ")
        said = monitor.stop()
    assert "10 rows; lost 0 rows, 0 frames; 1 damaged (1 short)" in said


def garbage(n: int, seed: int) -> bytes:
    """What a UART makes of another baud rate."""
    return random.Random(seed).randbytes(n)


def test_another_baud_rates_garbage_is_named(tmp_path: Path) -> None:
    with OpenLine() as line, running(tmp_path, "monitor", line.path, "--plain") as monitor:
        monitor.says("open")
        line.write(garbage(3000, 1))
        monitor.says(
            r"3000 bytes, but no intact frame \(\d+ damaged \(.*\)\): another baud rate, or firmware that"
        )
        line.send(hello(), samples())  # found all the same
        monitor.says("board T-1")
        assert "10 rows" in monitor.stop()


# record


def blocks_of(path: Path) -> list[SampleBlock]:
    return [item for item in read_log(path) if isinstance(item, SampleBlock)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_recording_says_what_its_board_was(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    with simulated(tmp_path) as (board, _):
        done = ended("record", board, "-o", path, "--for", 2, "--device", "press-4")
    assert done.returncode == 0, done
    (device,) = recorded_devices(path)
    assert (device.device_id, device.machine, device.mode) == ("press-4", "press-4", Mode.CONTINUOUS)
    assert device.rate_hz == 1000
    assert [(c.name, c.unit) for c in device.channels] == [("x", "m/s2"), ("y", "m/s2"), ("z", "m/s2")]
    blocks = blocks_of(path)
    n = sum(block.n for block in blocks)
    assert f"wrote {3 * n} values ({n} rows) of press-4 to {path}; lost 0 rows" in done.stdout
    assert n >= 1000
    for before, block in pairwise(blocks):
        assert abs(int(block.times()[0] - before.times()[0]) - before.n * 1_000_000) < 5_000_000
    values = np.concatenate([block.values for block in blocks]).astype(np.float64)
    assert np.allclose(values * 100, np.round(values * 100), atol=1e-3)  # counts of 0.01 m/s2
    assert 0.5 < values.std() < 2
    assert inspect_log(path).rate_hz == 1000


def test_training_and_replay_read_a_recording(tmp_path: Path) -> None:
    path, model = tmp_path / "log.parquet", tmp_path / "model"
    with simulated(tmp_path, "--rate-hz", 3200) as (board, _):
        assert ended("record", board, "-o", path, "--for", 4).returncode == 0
    train = ["cloud_sink.cli", "train", path, "--features", "vibration", "--window", 256, "-o", model]
    replay = ["edge_node.cli", "replay", path, "--model", model]
    for words in (train, replay):
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    n_rows = sum(block.n for block in blocks_of(path))
    assert re.search(rf"^replayed +{n_rows} rows", done.stdout)


def test_nothing_to_record_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with OpenLine() as line:
        done = ended("record", line.path, "-o", path, "--for", 1)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "firmware-bridge: nothing was recorded: nothing was received: is the board powered"
    )
    assert not path.exists()


def test_a_recording_overwrites_nothing_and_says_so_before_it_opens_the_port(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("mine")
    done = ended("record", tmp_path / "nothing", "-o", path)
    assert (done.returncode, path.read_text()) == (1, "mine")
    assert done.stderr == f"firmware-bridge: {path}: exists already: choose another name, or remove it\n"


def test_a_recording_ends_where_its_board_becomes_another_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with OpenLine() as line, running(tmp_path, "record", line.path, "-o", path) as recorder:
        recorder.says("open")
        line.send(hello(), samples(0), samples(10), hello(8, Fraction(200)), samples(0, 30, 8))
        assert recorder.process.wait(30) == 0
        said = recorder.said
    assert (
        "the recording ends here: it describes the board as it was, and what follows is of T-1, test 1.0"
        in said
    )
    blocks = blocks_of(path)
    assert sum(block.n for block in blocks) == 20
    assert np.allclose(np.concatenate([b.values for b in blocks])[:, 1], np.arange(20) * 0.2 - 40, atol=1e-5)


def test_an_irregular_board_is_recorded_with_its_interval(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with OpenLine() as line, running(tmp_path, "record", line.path, "-o", path) as recorder:
        recorder.says("open")
        line.send(hello(rate_hz=None))
        assert recorder.process.wait(30) == 1
        assert (
            "board T-1 sends at no fixed rate: say how far apart its rows are, with --interval-s"
            in recorder.said
        )
    options = ("-o", path, "--interval-s", 2)
    with OpenLine() as line, running(tmp_path, "record", line.path, *options) as recorder:
        recorder.says("open")
        line.send(hello(rate_hz=None), samples(0, 1), samples(1, 1))
        recorder.says("board T-1")
        time.sleep(0.5)
        recorder.stop()
    (device,) = recorded_devices(path)
    assert (device.mode, device.rate_hz, device.interval_s) == (Mode.IRREGULAR, Fraction(1, 2), 2.0)
    times = np.concatenate([block.times() for block in blocks_of(path)])
    assert times[1] - times[0] == pytest.approx(10_000_000, abs=1_000_000)


# verify


def test_a_good_board_passes(tmp_path: Path) -> None:
    with simulated(tmp_path, "--drift-ppm", 50) as (board, _):
        done = ended("verify", board, "--for", 8)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "PASS: board SIM-0001, linewatch simulator 1.0"
    verdicts = re.findall(r"^(\S.*?) +(PASS|FAIL) ", done.stdout, re.MULTILINE)
    assert [name for name, _ in verdicts] == [
        "port", "Hello, asked for", "Hello, by itself", "rate", "loss", "clock", "reset", "attaching late", "line load",
    ]  # fmt: skip


def test_a_bad_board_fails_with_its_reasons(tmp_path: Path) -> None:
    with simulated(tmp_path, "--drop", 3, "--noise", 3, "--reboot", 60) as (board, _):
        done = ended("verify", board, "--for", 8, "--baud", 75_000)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("FAIL: board SIM-0001")
    failed = last.split(": ")[2].split(", ")
    assert {"loss", "reset"} <= set(failed)
    assert "a watchdog, a brown-out, a loose supply?" in done.stdout


def test_a_line_without_a_board_fails() -> None:
    with OpenLine() as line:
        done = ended("verify", line.path, "--for", 1)
    assert done.returncode == 1
    assert re.search(r"Hello +FAIL +nothing was received: is the board powered", done.stdout)
    assert re.search(r"loss +- +could not be judged: no frame came", done.stdout)
    assert done.stdout.splitlines()[-1] == "FAIL: no board: Hello"


def test_of_a_port_that_sends_csv_no_loss_is_judged(tmp_path: Path) -> None:
    with OpenLine() as line, running(tmp_path, "verify", line.path, "--for", 2) as verify:
        for _ in range(40):
            line.write(b"1.5,2.5\n" * 20)
            time.sleep(0.1)
            if verify.process.poll() is not None:
                break
        verify.says(r"Hello +FAIL +\d+ bytes, but no intact frame")
        verify.says(r"loss +- +could not be judged: no frame came")


def test_an_interrupted_verify_gives_no_verdict(tmp_path: Path) -> None:
    with simulated(tmp_path) as (board, _), running(tmp_path, "verify", board) as verify:
        verify.says("watching")
        time.sleep(0.5)
        verify.process.send_signal(signal.SIGINT)
        assert verify.process.wait(30) == 1
        assert re.search(r"interrupted after \d+ s: no verdict\n$", verify.said)


# forward


def batches(payloads: list[bytes]) -> list[dict[str, object]]:
    return [json.loads(payload) for payload in payloads]


def n_forwarded(said: str) -> int:
    return int(re.findall(r"forwarded (\d+) rows? in \d+ message", said)[-1])


@pytest.mark.parametrize("qos", [0, 1])
def test_all_rows_are_forwarded_as_batches(tmp_path: Path, qos: int) -> None:
    with (
        broker(tmp_path) as mosquitto,
        Subscriber(mosquitto.port, "plant/#") as came,
        simulated(tmp_path) as (board, _),
    ):
        url = f"mqtt://127.0.0.1:{mosquitto.port}/plant"
        done = ended("forward", board, "--mqtt", url, "--qos", qos, "--for", 2)
        assert done.returncode == 0, done
        n = n_forwarded(done.stdout)
        wait_for(lambda: sum(len(b["x"]) for b in batches(came.on("plant/SIM-0001"))) >= n, "all rows")  # type: ignore[arg-type]
    got = batches(came.on("plant/SIM-0001"))
    assert sum(len(b["z"]) for b in got) == n  # type: ignore[arg-type]
    assert n > 500
    assert all(list(b) == ["t", "rate_hz", "x", "y", "z"] and b["rate_hz"] == 1000 for b in got)
    assert {len(str(value).partition(".")[2]) for b in got for value in b["x"]} <= {1, 2}  # type: ignore[attr-defined]
    assert f"{n} rows; lost 0 rows" in done.stdout


def test_a_broker_that_goes_away_costs_nothing_at_qos_1(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, simulated(tmp_path) as (board, _):
        url = f"mqtt://127.0.0.1:{mosquitto.port}"
        options = ("--mqtt", url, "--qos", 1, "--topic", "a/b")
        with running(tmp_path, "forward", board, *options) as forward:
            forward.says("forwarding to .*, topic a/b;")
            mosquitto.stop()
            forward.says("the connection was lost; rows wait")
            mosquitto.start()
            forward.says("the connection was lost; rows wait\n(.*\n)*.*: connected\n")
            said = forward.stop()
    n_rows = int(re.findall(r"\n\d+ s: (\d+) rows; lost 0 rows", said)[0])
    assert n_forwarded(said) == n_rows
    assert "dropped" not in said


def test_what_waits_for_a_broker_is_bounded_and_counted(tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    with simulated(tmp_path) as (board, _):
        done = ended("forward", board, "--mqtt", url, "--wait", "--queue-mb", 0.005, "--for", 3)
    assert done.returncode == 1
    waiting, dropped = re.findall(
        r"(\d+) rows not sent yet; (\d+) rows dropped: the queue was full", done.stdout
    )[-1]
    n_rows = int(re.findall(r"\n\d+ s: (\d+) rows; lost 0 rows", done.stdout)[0])
    assert int(waiting) + int(dropped) == n_rows
    assert "nothing was forwarded" in done.stderr


def test_no_broker_is_one_line(tmp_path: Path) -> None:
    port = free_port()
    done = ended("forward", tmp_path / "nothing", "--mqtt", f"mqtt://127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"firmware-bridge: mqtt://127.0.0.1:{port}: connection refused: no broker listens there\n"
    )


def test_a_password_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "right").write_text("s3cret\n")
    monkeypatch.setenv("FORWARD_PASSWORD", "s3cret")
    with broker(tmp_path, password=("reader", "s3cret")) as mosquitto, simulated(tmp_path) as (board, _):
        url = f"mqtt://reader@127.0.0.1:{mosquitto.port}"
        for option in (("--password-file", tmp_path / "right"), ("--password-env", "FORWARD_PASSWORD")):
            done = ended("forward", board, "--mqtt", url, *option, "--for", 1)
            assert done.returncode == 0, done
        done = ended("forward", board, "--mqtt", url, "--for", 1)
        assert done.returncode == 1
        assert "the broker refused the connection: Not authorized" in done.stderr


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mqtt://reader:s3cret@127.0.0.1", "use --password-file or --password-env"),
        ("127.0.0.1:1883", "is no broker's URL"),
        ("mqtt://127.0.0.1:99999", "is no broker's URL"),
        ("http://127.0.0.1", "write mqtt://user@host:port/prefix"),
    ],
)
def test_a_url_that_cannot_be_used_is_wrong_usage(url: str, why: str) -> None:
    done = ended("forward", "/dev/null", "--mqtt", url)
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


# list and simulate


def test_list_runs_here() -> None:
    assert ended("list").returncode == 0
    listed = json.loads(ended("list", "--json").stdout)
    assert all(set(port) == {"path", "usb_serial", "vid_pid", "by_path", "description"} for port in listed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_simulated_board_says_where_it_is_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, "simulate", "--serial", "A-7", "--rate-hz", "1/2") as process:
        path = Path(process.says(r"board A-7 on (\S+): x in m/s2, y in m/s2, z in m/s2 at 0.5 Hz\n")[1])
        wait_for(path.exists, "its pty")
        said = process.stop(number)
    assert re.search(
        r"\nsent \d+ rows, \d+ bytes; 0 bytes changed, 0 frames dropped, 0 disconnects, 0 reboots", said
    )
    assert not path.parent.exists()


def test_faults_come_as_asked_and_are_counted(tmp_path: Path) -> None:
    options = ("--noise", 30, "--drop", 30, "--reboot", 200, "--disconnect", 100, "--for", 5)
    with running(tmp_path, "simulate", "--link", tmp_path / "board", *options) as process:
        counted = process.says(
            r"; (\d+) bytes changed, (\d+) frames dropped, (\d+) disconnects, (\d+) reboots"
        )
    assert all(int(n) > 0 for n in counted.groups())


def test_a_simulated_board_takes_the_place_of_one_that_was_killed_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dead").symlink_to(tmp_path / "gone")
    for name, why in (("file", "exists already"), ("no/folder", "there is no folder")):
        done = ended("simulate", "--link", tmp_path / name, "--for", 0.1)
        assert (done.returncode, why in done.stderr) == (1, True)
    assert (tmp_path / "file").read_text() == "mine"
    assert ended("simulate", "--link", tmp_path / "dead", "--for", 0.1).returncode == 0


def test_what_nobody_reads_is_not_kept_for_who_comes_late(tmp_path: Path) -> None:
    with (
        simulated(tmp_path) as (board, process),
        running(tmp_path, "monitor", board, "--plain", "--wait") as monitor,
    ):
        assert isinstance(process, Running)
        monitor.says("board SIM-0001")
        monitor.stop()
        time.sleep(3)
        said = process.stop()
    assert int(re.findall(r"(\d+) bytes that nobody read", said)[0]) > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("simulate", "--rate-hz", "0"),
        ("simulate", "--noise", "-1"),
        ("monitor", "/dev/null", "--baud", "fast"),
        ("monitor", "/dev/null", "--for", "nan"),
        ("record", "/dev/null", "-o", "x.jsonl", "--device", "a/b"),
        ("forward", "/dev/null", "--mqtt", "mqtt://h", "--topic", "a/#"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_2(arguments: tuple[str, ...]) -> None:
    done = ended(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("firmware-bridge")
    assert done.stderr.count("\n") == 1
