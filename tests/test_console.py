"""Ctrl-C while a command is still importing what it needs, sent from within an import: no traceback, and 130."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.metadata import version

import pytest

INTERRUPTED_IMPORT = """
import importlib.abc, os, signal, sys

package, at, *sys.argv[1:] = sys.argv[1:]

class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == at:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
from importlib import import_module
main = import_module(package + ".__main__").main
raise SystemExit(main())
"""


@pytest.mark.parametrize("at", ["numpy", "numpy._core.multiarray", "msgspec", "argparse"])
@pytest.mark.parametrize("package", ["edge_node", "cloud_sink", "firmware_bridge"])
def test_ctrl_c_during_the_imports_is_quiet(package: str, at: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, package, at, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_during_a_late_import_is_quiet() -> None:
    """What only some commands need is imported once the command line is read."""
    command = [
        sys.executable,
        "-c",
        INTERRUPTED_IMPORT,
        "edge_node",
        "edge_node.daemon",
        "run",
        "-c",
        "none.toml",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("package", ["edge_node", "cloud_sink", "firmware_bridge"])
def test_an_ignored_ctrl_c_stays_ignored(package: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, package, "numpy", "--version"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a child inherits
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == 0
    assert version("linewatch") in done.stdout


@pytest.mark.parametrize("package", ["edge_node", "cloud_sink", "firmware_bridge"])
def test_a_package_is_its_command(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", package, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert f"usage: {package.replace('_', '-')} " in done.stdout
