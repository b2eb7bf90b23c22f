"""README's commands for the bench, as it gives them."""

from __future__ import annotations

import shlex
from pathlib import Path

from models.recording import read_log
from models.signal import SampleBlock
from tests.brokers import Subscriber, broker, wait_for
from tests.firmware_bridge.boards import ROOT, ended, running


def commands(board: Path) -> dict[str, list[str]]:
    """What README tells to run, by its second word: the arguments, for a board that is elsewhere."""
    block = (
        (ROOT / "README.md").read_text().split("### Microcontrollers")[1].split("```sh\n")[1].split("```")[0]
    )
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert {line[0] for line in lines} == {"firmware-bridge"}
    return {line[1]: [word.replace("/tmp/board", str(board)) for word in line[1:]] for line in lines}


def test_every_command_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    board = tmp_path / "board"
    told = commands(board)
    with running(tmp_path, *told.pop("simulate")):
        wait_for(board.exists, "the board's pty")
        assert ended(*told.pop("list")).returncode == 0
        assert (
            "; lost 0 rows, 0 frames; 0 damaged;" in ended(*told.pop("monitor"), "--for", 2, "--plain").stdout
        )
        verified = ended(*told.pop("verify"), "--for", 8)
        assert "PASS" in verified.stdout.splitlines()[-1], verified.stdout
        log = tmp_path / "bench.parquet"
        recorded = ended(*[str(log) if word == log.name else word for word in told.pop("record")], "--for", 2)
        assert recorded.returncode == 0, recorded.stderr
        assert sum(item.n for item in read_log(log) if isinstance(item, SampleBlock)) > 1000
        with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "plant/#") as heard:
            forward = [
                word.replace("127.0.0.1", f"127.0.0.1:{mosquitto.port}") for word in told.pop("forward")
            ]
            done = ended(*forward, "--for", 2)
            assert done.returncode == 0, done.stderr
            wait_for(lambda: heard.on("plant/SIM-0001"), "a batch")
    assert not told, f"not tried: {told}"
