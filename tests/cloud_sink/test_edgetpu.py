"""compile_for_edge_tpu with no compiler, and with stand-ins that behave as edgetpu_compiler does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cloud_sink.edgetpu import compile_for_edge_tpu
from tests.fixtures.bundle_files import BUNDLE, artifact

PROLOGUE = f"""#!{sys.executable}
import shutil, sys
print("Edge TPU Compiler version 16.0.384591198")
out = sys.argv[sys.argv.index("-o") + 1]
"""


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    def install(body: str) -> None:
        program = tmp_path / "edgetpu_compiler"
        program.write_text(PROLOGUE + body)
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


def test_what_does_not_map_is_not_compiled() -> None:
    result = compile_for_edge_tpu(artifact("cpu-float32"))
    assert result.compiled is None
    assert "tensor 'input' is float32, not int8" in result.reasons
    assert "does not map" in result.text


@pytest.mark.usefixtures("on_path")
def test_without_a_compiler_it_says_so_plainly() -> None:
    result = compile_for_edge_tpu(artifact("static-int8"))
    assert result.compiled is None
    assert result.reasons == ()
    assert "edgetpu_compiler is not on PATH" in result.text
    assert "published uncompiled" in result.text


def test_a_compiler_is_used(on_path: object) -> None:
    on_path(f"shutil.copy({str(BUNDLE / 'edgetpu-int8.tflite')!r}, out + '/model_edgetpu.tflite')")  # type: ignore[operator]
    result = compile_for_edge_tpu(artifact("static-int8"))
    assert result.compiled == artifact("edgetpu-int8")
    assert result.reasons == ()
    assert "compiled by edgetpu_compiler 16.0.384591198" in result.text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("print('Internal compiler error. Aborting!'); sys.exit(1)", "Internal compiler error"),
        ("", "exit status 0"),
        ("open(out + '/model_edgetpu.tflite', 'wb').write(b'garbage')", "does not pass the check"),
        ("shutil.copy(sys.argv[-1], out + '/model_edgetpu.tflite')", "mapped no operator"),
        ("import time; time.sleep(60)", "did not finish"),
    ],
)
def test_a_compiler_that_fails_is_named(on_path: object, body: str, text: str) -> None:
    on_path(body)  # type: ignore[operator]
    result = compile_for_edge_tpu(artifact("static-int8"), timeout_s=2.0 if "sleep" in body else 60.0)
    assert result.compiled is None
    assert text in result.text
    assert len(result.reasons) == 1
