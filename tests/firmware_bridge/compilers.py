"""The C header of firmware_bridge/firmware, compiled by the machine's compiler.

Where there is none the tests that need it skip and say how to get it; with ``LINEWATCH_REQUIRE_SERVICES=1`` they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FIRMWARE = Path(__file__).parents[2] / "firmware_bridge" / "firmware"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
C99 = ("-std=c99", *WARNINGS)
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# What is allocated for the run of a test is not freed.
SANITIZER_ENV = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}


def compiler(name: str) -> str:
    """The path of ``name``; skips (or fails) the test where it is missing."""
    path = shutil.which(name)
    if path is None:
        package = {"cc": "gcc", "size": "binutils"}.get(name, name)
        how_to_get_it = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("LINEWATCH_REQUIRE_SERVICES") == "1":
            pytest.fail(how_to_get_it)
        pytest.skip(how_to_get_it)
    return path


def build(source: Path, target: Path, *flags: str, by: str = "cc") -> Path:
    """``source`` compiled to ``target``; a failure shows what the compiler says."""
    libraries = [flag for flag in flags if flag.startswith("-l")]
    options = [flag for flag in flags if not flag.startswith("-l")]
    command = [compiler(by), *options, f"-I{FIRMWARE / 'src'}", str(source), "-o", str(target), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return target
