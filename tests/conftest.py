"""Fixtures for more than one package."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

# A shell has what it starts with "&" ignore Ctrl-C, and its children inherit that: those that tests interrupt must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The environment with tflite-runtime has no scikit-learn and no exporter: there, what is not for it is not even
    imported."""
    if config.option.markexpr != "tflite_runtime" or not collection_path.name.startswith("test_"):
        return None
    marked = collection_path.is_file() and "mark.tflite_runtime" in collection_path.read_text(
        encoding="utf-8"
    )
    return None if marked or collection_path.is_dir() else True


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that a test runs in this process sets up its log, and leaves that to whoever runs next."""
    hook = threading.excepthook
    yield
    threading.excepthook = hook
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def fake_edgetpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the stand-in for libedgetpu.so.1, built from tests/edge_node/fake_edgetpu.c."""
    return _built("fake_edgetpu.c", tmp_path_factory.mktemp("edgetpu"))


@pytest.fixture(scope="session")
def poison(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of what makes workers that it is preloaded into die: tests/edge_node/poison.c."""
    return _built("poison.c", tmp_path_factory.mktemp("poison"))


def _built(name: str, folder: Path) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip(f"no C compiler (cc) to build {name}")
    source = Path(__file__).parent / "edge_node" / name
    library = folder / f"lib{source.stem}.so"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl"], check=True)
    return str(library)
