"""An int8 .tflite for the Edge TPU: what would not map onto it, and edgetpu_compiler where there is one.

The compiler is a program of Coral's own apt repository, for x86-64 only; nothing here installs it. Without it
the model stays as it is, and the text says so: an Edge TPU runs only what the compiler wrote.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from models.tflite_check import ModelRejected, check, edge_tpu_check
from models.tflite_schema import EDGE_TPU_OPERATOR

PROGRAM = "edgetpu_compiler"


@dataclass(frozen=True, slots=True)
class EdgeTpuResult:
    """``compiled``: the compiled model, None where there is none. ``reasons``: what keeps operators or
    tensors off the Edge TPU. ``text``: one line for the user.
    """

    compiled: bytes | None
    reasons: tuple[str, ...]
    text: str


def compile_for_edge_tpu(model: bytes, *, program: str = PROGRAM, timeout_s: float = 300.0) -> EdgeTpuResult:
    """Checks ``model`` (full int8, batch 1) statically and compiles it where ``program`` is on PATH.

    Raises ModelRejected when ``model`` is no graph of ours. A compiler that fails is a result, not an
    exception.
    """
    reasons = tuple(edge_tpu_check(check(model)))
    if reasons:
        return EdgeTpuResult(None, reasons, f"Edge TPU: does not map: {'; '.join(reasons)}")
    path = shutil.which(program)
    if path is None:
        text = (
            f"Edge TPU: all operators and tensors map, but {program} is not on PATH (an x86-64 program of "
            "Coral's apt repository): the int8 model is published uncompiled, and runs on the CPU until then"
        )
        return EdgeTpuResult(None, (), text)
    with tempfile.TemporaryDirectory(prefix="linewatch-edgetpu-") as directory:
        source = Path(directory, "model.tflite")
        source.write_bytes(model)
        command = [path, "-s", "-o", directory, str(source)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return _failed(program, f"did not finish within {timeout_s:g} s")
        log = (done.stdout + done.stderr).decode("utf-8", "replace")
        target = Path(directory, "model_edgetpu.tflite")
        if done.returncode != 0 or not target.is_file():
            last = " ".join(log.split()[-40:])
            return _failed(program, f"failed with exit status {done.returncode}: {last}")
        compiled = target.read_bytes()
    return _judge(program, compiled, log)


def _judge(program: str, compiled: bytes, log: str) -> EdgeTpuResult:
    try:
        facts = check(compiled, allow_edge_tpu=True)
    except ModelRejected as error:
        return _failed(program, f"wrote a file that does not pass the check: {error}")
    on_tpu = sum(op.name == EDGE_TPU_OPERATOR for op in facts.ops)
    left = [op.name for op in facts.ops if op.name != EDGE_TPU_OPERATOR]
    if not on_tpu:
        return _failed(program, "mapped no operator onto the Edge TPU")
    reasons = tuple(f"{program} left operator {name} on the CPU" for name in left)
    version = re.search(r"Edge TPU Compiler version (\S+)", log)
    made_by = f"{program} {version.group(1)}" if version else program
    text = f"Edge TPU: compiled by {made_by}, {len(compiled)} bytes"
    return EdgeTpuResult(compiled, reasons, "; ".join((text, *reasons)))


def _failed(program: str, what: str) -> EdgeTpuResult:
    text = f"{program} {what}"
    return EdgeTpuResult(None, (text,), f"Edge TPU: {text}; the int8 model is published uncompiled")
