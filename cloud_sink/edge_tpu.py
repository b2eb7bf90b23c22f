"""An int8 model for a Coral Edge TPU: checked, and compiled where Google's compiler is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from models.tflite_check import ModelRejected, check, edge_tpu_check

COMPILER = "edgetpu_compiler"
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class EdgeTpuReport:
    """``maps``: whether every operator and tensor is one that the Edge TPU takes; ``problems`` names those
    that are not. ``model`` is what to publish: compiled, or (``compiled`` False) as it was."""

    maps: bool
    compiled: bool
    model: bytes
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def prepare(model: bytes) -> EdgeTpuReport:
    """Checks the static int8 ``model`` and runs edgetpu_compiler on it where it is on PATH."""
    problems = tuple(edge_tpu_check(check(model)))
    if problems:
        return EdgeTpuReport(False, False, model, problems, ("not for the Edge TPU: " + "; ".join(problems),))
    program = shutil.which(COMPILER)
    if program is None:
        note = (
            f"{COMPILER} is not on PATH: the Edge TPU model is published uncompiled and runs only once it is "
            "compiled (x86-64, from Coral's package repository)"
        )
        return EdgeTpuReport(True, False, model, (), (note,))
    compiled, why_not = _compile(program, model)
    if compiled is None:
        return EdgeTpuReport(
            True, False, model, (), (f"the Edge TPU model is published uncompiled: {why_not}",)
        )
    return EdgeTpuReport(True, True, compiled, (), ())


def _compile(program: str, model: bytes) -> tuple[bytes | None, str]:
    """(compiled model, "") or (None, why not)."""
    with tempfile.TemporaryDirectory(prefix="linewatch-edgetpu-") as name:
        folder = Path(name)
        source = folder / "model.tflite"
        source.write_bytes(model)
        command = [program, "-s", "-o", str(folder), str(source)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return None, f"{COMPILER} did not end within {TIMEOUT_S:.0f} s"
        except OSError as error:
            return None, f"{COMPILER} could not be started: {error.strerror}"
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
            return None, f"{COMPILER} ended with {done.returncode}, saying: {said[0]}"
        result = folder / "model_edgetpu.tflite"
        if not result.exists():
            return None, f"{COMPILER} wrote no {result.name}"
        compiled = result.read_bytes()
    try:
        check(compiled, allow_edge_tpu=True)
    except ModelRejected as error:
        return None, f"what {COMPILER} wrote is not a model that a gateway would load: {error}"
    return compiled, ""
