"""The gateway's configuration in the firmware's README is whole, and is for the board that stands above it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.firmware_bridge.boards import ROOT
from tests.firmware_bridge.compilers import FIRMWARE

PAGE = (FIRMWARE / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_example_passes_the_check(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(block("toml"))
    assert len(block("toml").splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-m", "edge_node.cli", "check", "-c", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{path}: ok, 1 device, 1 source"


def test_the_example_expects_what_the_board_above_it_sends() -> None:
    [device], code = tomllib.loads(block("toml"))["device"], block("c")
    channels = re.findall(r'\{"(\w+)", "([^"]+)", [\d.]+f, [\d.]+f\}', code)
    assert [(c["name"], c["unit"]) for c in device["channels"]] == channels
    assert f"config.rate_num = {device['rate_hz']}; config.rate_den = 1;" in code
