"""Fixtures for more than one package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fake_edgetpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the stand-in for libedgetpu.so.1, built from tests/edge_node/fake_edgetpu.c."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the stand-in for libedgetpu")
    source = Path(__file__).parent / "edge_node" / "fake_edgetpu.c"
    library = tmp_path_factory.mktemp("edgetpu") / "libfake.so"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return str(library)
