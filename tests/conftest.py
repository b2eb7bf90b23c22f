"""Fixtures for more than one package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The environment with tflite-runtime has no scikit-learn and no exporter: there, what is not for it is not even
    imported."""
    if config.option.markexpr != "tflite_runtime" or not collection_path.name.startswith("test_"):
        return None
    marked = collection_path.is_file() and "mark.tflite_runtime" in collection_path.read_text(
        encoding="utf-8"
    )
    return None if marked or collection_path.is_dir() else True


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
