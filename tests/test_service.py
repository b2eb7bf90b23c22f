"""What makes a service of the gateway: systemd itself reads the unit, judges its sandbox and makes its user; and models run under
the one restriction of it that a runtime with a compiler of its own would not bear.

Without systemd's programs these skip and say how to get them; with ``LINEWATCH_REQUIRE_SERVICES=1`` they fail instead.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edge_node.cli import parser
from edge_node.supervision import FEEDS

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "systemd" / "linewatch-edge-node.service"
DROP_IN = PACKAGING / "systemd" / "linewatch-edge-node.service.d" / "systemd-254.conf"
PROGRAM = "/opt/linewatch/bin/edge-node"
LEAST_EXPOSURE = 15  # tenths: systemd counts from 0, a service shut in, to 10

MODELS = """
import ctypes, sys
import numpy as np
from pathlib import Path
from edge_node.inference import Engine
from edge_node.model_store import check_golden, load_bundle

PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    raise SystemExit(77)
bundle = load_bundle(Path(sys.argv[1]))
for precision in ("float32", "int8"):
    engine = Engine(bundle.manifest, bundle.artifacts, precision=precision)
    check_golden(bundle, engine)
    width = len(bundle.manifest.normalisation.centre)
    print(precision, np.isfinite(engine.run(np.ones((300, width), np.float32)).output).all())
import mmap
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    print("restricted")
"""


def systemd(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What ``program`` of systemd says; skips (or fails) the test where it is missing."""
    if shutil.which(program) is None:
        how = f"{program} is not installed: apt-get install systemd"
        if os.environ.get("LINEWATCH_REQUIRE_SERVICES") == "1":
            pytest.fail(how)
        pytest.skip(how)
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def version() -> int:
    found = re.match(r"systemd (\d+)", systemd("systemd-analyze", "--version").stdout)
    assert found is not None
    return int(found[1])


def installed(folder: Path, *changes: tuple[str, str]) -> Path:
    """The unit as it is installed in ``folder``, where its program exists; with ``changes``."""
    unit = folder / UNIT.name
    text = UNIT.read_text()
    for old, new in ((PROGRAM, sys.executable), *changes):
        assert old in text
        text = text.replace(old, new)
    unit.write_text(text)
    if version() >= 254:
        shutil.copytree(DROP_IN.parent, folder / DROP_IN.parent.name)
    return unit


def verified(unit: Path) -> str:
    """What systemd has to say against ``unit``."""
    done = systemd("systemd-analyze", "verify", "--man=no", unit)
    return done.stderr if done.returncode == 0 else f"{done.stderr}exit code {done.returncode}"


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    assert verified(installed(tmp_path)) == ""


@pytest.mark.parametrize(
    "change", [("WatchdogSec=", "WatchdogSek="), ("@system-service", "@no-such-set"), (" -c ", " -c\n")]
)
def test_systemd_would_say_so_otherwise(tmp_path: Path, change: tuple[str, str]) -> None:
    assert verified(installed(tmp_path, change)) != ""


def test_the_sandbox_is_tight(tmp_path: Path) -> None:
    def judged(folder: str, *changes: tuple[str, str]) -> int:
        (tmp_path / folder).mkdir()
        unit = installed(tmp_path / folder, *changes)
        options = ("--offline=true", f"--threshold={LEAST_EXPOSURE}", "--no-pager")
        return systemd("systemd-analyze", "security", *options, unit).returncode

    assert judged("ours") == 0
    assert judged("without one line", ("MemoryDenyWriteExecute=yes\n", "")) == 0  # of little weight
    assert judged("without system calls", ("SystemCallFilter=@system-service\n", "")) != 0


def test_the_user_is_made_and_may_open_ports(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = systemd(
        "systemd-sysusers", f"--root={tmp_path}", PACKAGING / "systemd" / "linewatch.sysusers.conf"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^linewatch:.*:/usr/sbin/nologin$", (tmp_path / "etc/passwd").read_text(), re.M)
    groups = (tmp_path / "etc/group").read_text()
    assert re.search(r"^dialout:.*:linewatch$", groups, re.M)
    assert re.search(r"^plugdev:.*:linewatch$", groups, re.M)


def test_models_run_where_no_memory_is_both_written_and_executed() -> None:
    bundle = ROOT / "tests" / "fixtures" / "bundle"
    done = subprocess.run(
        [sys.executable, "-c", MODELS, str(bundle)], capture_output=True, text=True, timeout=60
    )
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3 has)")
    assert done.stdout.splitlines() == ["float32 True", "int8 True", "restricted"], done.stderr
    assert "MemoryDenyWriteExecute=yes" in UNIT.read_text()


def option(name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", UNIT.read_text(), re.M)
    assert found is not None, name
    return found[1]


def test_what_it_starts_is_what_the_command_line_takes() -> None:
    program, *arguments = shlex.split(option("ExecStart"))
    assert program == PROGRAM
    given = parser().parse_args(arguments)
    assert given.command == "run"
    assert given.config.is_absolute()


def test_the_watchdog_leaves_time_to_load_models() -> None:
    """A reload may begin just before the watchdog would be fed, and an Edge TPU that hangs is given up after 30 s."""
    given_s = float(option("WatchdogSec").removesuffix("s"))
    assert given_s * (FEEDS - 1) / FEEDS > 2 * 30


def test_all_of_it_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    files = {Path(file) for target in listed.values() for file in target}
    assert {p.relative_to(ROOT) for p in PACKAGING.rglob("*") if p.is_file()} <= files
    assert all((ROOT / file).is_file() for file in files)
