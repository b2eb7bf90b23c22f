"""Damaged .tflite files, and a runner that tells which of them crash an interpreter.

``python -m tests.models.tflite_fuzz COUNT [SEED [PYTHON]]`` makes COUNT cases of each kind from three models,
and prints how many pass the static check, how many of those crash the interpreter (must be 0), and how many
of the rejected ones would have. ``graph_mutation`` needs ai-edge-litert's schema; the others need nothing.
"""

from __future__ import annotations

import collections
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.tflite_check import ModelRejected, check

ROOT = Path(__file__).resolve().parents[2]
_INTS = (-(2**31), -129, -128, -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 127, 128, 255, 65_535, 2**20, 2**31 - 1)


def truncation(model: bytes, rng: random.Random) -> bytes:
    return model[: rng.randrange(len(model))]


def bit_flips(model: bytes, rng: random.Random) -> bytes:
    data = bytearray(model)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def word_changes(model: bytes, rng: random.Random) -> bytes:
    """A few aligned 32-bit words (offsets, lengths, indices) replaced by telling values or by each other."""
    data = bytearray(model)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = 4 * rng.randrange(len(data) // 4)
        if rng.random() < 0.3:
            source = 4 * rng.randrange(len(data) // 4)
            data[at : at + 4] = data[source : source + 4]
        else:
            data[at : at + 4] = struct.pack("<i", rng.choice(_INTS))
    return bytes(data)


def graph_mutation(model: bytes, rng: random.Random) -> bytes:
    """A well-formed file with a malformed graph: one to three fields changed through the schema's objects."""
    import ai_edge_litert.schema_py_generated as schema
    import flatbuffers

    while True:
        tree = schema.ModelT.InitFromPackedBuf(model, 0)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choice(_MUTATIONS)(tree, rng, schema)
        builder = flatbuffers.Builder(1024)
        try:
            builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
        except (TypeError, ValueError, struct.error, AttributeError):
            continue  # the schema itself cannot say that
        return bytes(builder.Output())


def _graph(tree: Any) -> Any:
    return tree.subgraphs[0]


def _ints(values: Any) -> list[int]:
    return [] if values is None else [int(v) for v in values]


def _set_index(values: Any, rng: random.Random, n: int) -> list[int]:
    changed = _ints(values)
    choice = rng.random()
    if choice < 0.1 or not changed:
        return []
    if choice < 0.2:
        return [*changed, rng.randrange(n)]
    if choice < 0.3 and len(changed) > 1:
        return changed[:-1]
    changed[rng.randrange(len(changed))] = rng.choice((*range(-2, n + 2), 2**31 - 1, -(2**31)))
    return changed


def _op_inputs(tree: Any, rng: random.Random, schema: Any) -> None:
    op = rng.choice(_graph(tree).operators)
    op.inputs = _set_index(op.inputs, rng, len(_graph(tree).tensors))


def _op_outputs(tree: Any, rng: random.Random, schema: Any) -> None:
    op = rng.choice(_graph(tree).operators)
    op.outputs = _set_index(op.outputs, rng, len(_graph(tree).tensors))


def _graph_ends(tree: Any, rng: random.Random, schema: Any) -> None:
    which = rng.choice(("inputs", "outputs"))
    setattr(_graph(tree), which, _set_index(getattr(_graph(tree), which), rng, len(_graph(tree).tensors)))


def _shape(tree: Any, rng: random.Random, schema: Any) -> None:
    tensor = rng.choice(_graph(tree).tensors)
    which = rng.choice(("shape", "shape", "shapeSignature"))
    values = getattr(tensor, which)
    choice = rng.random()
    if values is None or choice < 0.1:
        setattr(tensor, which, None if choice < 0.05 else [rng.choice(_INTS)])
    elif choice < 0.3:
        setattr(tensor, which, [*_ints(values), rng.choice((1, 2, -1, 0))])
    elif choice < 0.4:
        setattr(tensor, which, _ints(values)[::-1])
    else:
        changed = _ints(values)
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice(_INTS)
        setattr(tensor, which, changed)


def _tensor_type(tree: Any, rng: random.Random, schema: Any) -> None:
    rng.choice(_graph(tree).tensors).type = rng.choice((0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 9, 9, 9, 13, 17))


def _tensor_flags(tree: Any, rng: random.Random, schema: Any) -> None:
    tensor = rng.choice(_graph(tree).tensors)
    choice = rng.randrange(5)
    if choice == 0:
        tensor.isVariable = True
    elif choice == 1:
        tensor.sparsity = schema.SparsityParametersT()
    elif choice == 2:
        tensor.hasRank = not tensor.hasRank
    elif choice == 3:
        tensor.name = rng.choice((None, "", "x" * 5000))
    else:
        tensor.externalBuffer = rng.choice((1, 7))


def _tensor_buffer(tree: Any, rng: random.Random, schema: Any) -> None:
    rng.choice(_graph(tree).tensors).buffer = rng.choice((*range(len(tree.buffers) + 2), 2**32 - 1))


def _quantisation(tree: Any, rng: random.Random, schema: Any) -> None:
    tensor = rng.choice(_graph(tree).tensors)
    if tensor.quantization is None or rng.random() < 0.15:
        tensor.quantization = rng.choice((None, schema.QuantizationParametersT()))
        return
    parameters = tensor.quantization
    scale = rng.choice((0.0, -1.0, 1e-38, 1e38, float("nan"), float("inf"), 1e-8, 1.0, 300.0))
    choice = rng.randrange(6)
    if choice == 0:
        parameters.scale = [scale]
    elif choice == 1:
        parameters.scale = rng.choice((None, [], [scale, scale], [0.5] * 16))
    elif choice == 2:
        parameters.zeroPoint = [rng.choice((*_INTS, 2**62))]
    elif choice == 3:
        parameters.zeroPoint = rng.choice((None, [], [0, 0], [0] * 16))
    elif choice == 4:
        parameters.quantizedDimension = rng.choice(_INTS)
    else:
        parameters.detailsType = rng.choice((1, 2))


def _options(tree: Any, rng: random.Random, schema: Any) -> None:
    op = rng.choice(_graph(tree).operators)
    choice = rng.randrange(6)
    if choice == 0:
        op.builtinOptions, op.builtinOptionsType = None, rng.choice((0, 8, 11))
    elif choice == 1:
        op.builtinOptionsType = rng.choice((0, 1, 2, 5, 8, 11, 17, 38, 89, 120))
    elif choice == 2 and op.builtinOptions is not None:
        op.builtinOptions.fusedActivationFunction = rng.choice((0, 1, 2, 3, 4, 5, 6, -1, 127))
    elif choice == 3 and op.builtinOptions is not None:
        op.builtinOptions.weightsFormat = rng.choice((0, 1, 2, 127))
    elif choice == 4 and op.builtinOptions is not None:
        op.builtinOptions.keepNumDims = True
        op.builtinOptions.asymmetricQuantizeInputs = True
        op.builtinOptions.quantizedBiasType = rng.choice((0, 2, 4, 7, 9))
    else:
        op.customOptions = [1, 2, 3]
        op.intermediates = rng.choice((None, [0], [-1, 99]))
        op.mutatingVariableInputs = rng.choice((None, [True], []))


def _operator_code(tree: Any, rng: random.Random, schema: Any) -> None:
    choice = rng.randrange(4)
    code = tree.operatorCodes[0]
    if choice == 0:
        code.builtinCode = rng.choice((0, 3, 6, 9, 14, 18, 19, 22, 25, 28, 32, 41, 114, 127, 200, 9999, -1))
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    elif choice == 1:
        code.version = rng.choice((*_INTS, 2, 6, 9, 12))
    elif choice == 2:
        code.customCode = rng.choice(("edgetpu-custom-op", "nothing", ""))
    else:
        rng.choice(_graph(tree).operators).opcodeIndex = rng.choice((0, 1, 2, 2**32 - 1))


def _elementwise(tree: Any, rng: random.Random, schema: Any) -> None:
    """An operator that needs no options, put in or in place of another."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = rng.choice((6, 19, 28, 114, 0, 14, 22))
    code.version = rng.choice((1, 1, 2))
    tree.operatorCodes.append(code)
    graph = _graph(tree)
    op = schema.OperatorT()
    op.opcodeIndex = len(tree.operatorCodes) - 1
    n = len(graph.tensors)
    if rng.random() < 0.5:
        twin = schema.TensorT()
        model = rng.choice(graph.tensors)
        twin.name, twin.shape, twin.type = "twin", model.shape, rng.choice((model.type, 0, 9))
        twin.shapeSignature, twin.quantization = model.shapeSignature, model.quantization
        graph.tensors.append(twin)
        op.inputs, op.outputs = _ints(graph.outputs)[:1] or [0], [n]
        graph.outputs = [n]
    else:
        op.inputs, op.outputs = [rng.randrange(n)], [rng.randrange(n)]
    graph.operators.insert(rng.randrange(len(graph.operators) + 1) if rng.random() < 0.5 else 999, op)


def _structure(tree: Any, rng: random.Random, schema: Any) -> None:
    graph = _graph(tree)
    choice = rng.randrange(8)
    if choice == 0:
        graph.operators.reverse()
    elif choice == 1:
        graph.operators.append(rng.choice(graph.operators))
    elif choice == 2:
        tree.subgraphs.append(graph)
    elif choice == 3 and len(graph.tensors) > 1:
        graph.tensors.pop()
    elif choice == 4:
        tree.buffers.pop()
        tree.buffers = tree.buffers or [schema.BufferT()]
    elif choice == 5:
        graph.operators = (
            graph.operators[:1] if rng.random() < 0.7 else graph.operators[1:] or graph.operators
        )
    elif choice == 6:
        tree.version = rng.choice((0, 1, 2, 4))
    else:
        setattr(rng.choice((tree, graph)), rng.choice(("metadataBuffer", "description", "name")), None)


def _buffer_data(tree: Any, rng: random.Random, schema: Any) -> None:
    buffer = rng.choice(tree.buffers)
    data = _ints(buffer.data)
    choice = rng.randrange(5)
    if choice == 0:
        buffer.data = data[: rng.randrange(len(data) + 1)]
    elif choice == 1:
        buffer.data = data + [0] * rng.choice((1, 4, 64))
    elif choice == 2:
        buffer.data = None
    elif choice == 3 and len(data) >= 4:
        at = 4 * rng.randrange(len(data) // 4)
        data[at : at + 4] = list(struct.pack("<f", rng.choice((float("nan"), float("inf"), -3e38, 0.0))))
        buffer.data = data
    else:
        buffer.offset, buffer.size = rng.choice(((2, 64), (1, 0), (2**40, 2**40)))


def _metadata(tree: Any, rng: random.Random, schema: Any) -> None:
    entry = schema.MetadataT()
    entry.name = rng.choice(("min_runtime_version", "x", None))
    entry.buffer = rng.choice((0, 1, 99, 2**32 - 1))
    tree.metadata = [entry]
    if rng.random() < 0.3:
        tree.metadataBuffer = [rng.choice(_INTS)]


_MUTATIONS = (
    _op_inputs,
    _op_outputs,
    _graph_ends,
    _shape,
    _shape,
    _tensor_type,
    _tensor_flags,
    _tensor_buffer,
    _quantisation,
    _options,
    _operator_code,
    _elementwise,
    _structure,
    _buffer_data,
    _metadata,
)

Mutation = Callable[[bytes, random.Random], bytes]
BYTE_MUTATIONS: tuple[Mutation, ...] = (truncation, bit_flips, word_changes)


ABORT = b"abort"  # a case at which the runner ends itself, to test that this is seen


def passes(model: bytes) -> bool:
    try:
        check(model)
    except ModelRejected:
        return False
    return True


def crashes(cases: Sequence[bytes], python: str = sys.executable, timeout_s: float = 300.0) -> list[int]:
    """Indices of ``cases`` that end a process of ``python`` which loads, resizes and invokes them."""
    crashed: list[int] = []
    start = 0
    while start < len(cases):
        payload = b"".join(struct.pack("<I", len(c)) + c for c in cases[start:])
        done = subprocess.run(
            [python, "-m", "tests.models.tflite_fuzz", "run"],
            input=payload,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            timeout=timeout_s,
            check=False,
        )
        reached = done.stdout.count(b"\n")  # a line before each case, and one after the last
        if done.returncode == 0 and reached == len(cases) - start + 1:
            break
        if reached == 0:
            raise RuntimeError(f"the runner did not start (exit status {done.returncode})")
        crashed.append(start + reached - 1)
        start += reached
    return crashed


def _run() -> int:
    import numpy as np

    from models.runtime import Graph, GraphUnusable

    while True:
        sys.stdout.write("\n")
        sys.stdout.flush()
        header = sys.stdin.buffer.read(4)
        if not header:
            return 0
        model = sys.stdin.buffer.read(struct.unpack("<I", header)[0])
        if model == ABORT:
            os.abort()
        try:
            graph = Graph(model)
            for rows in (1, 3) if graph.batch is None else (graph.batch,):
                if rows * graph.input.shape[1] <= 1 << 24:
                    graph.run(np.ones((rows, graph.input.shape[1]), graph.input.dtype))
        except (GraphUnusable, MemoryError, ValueError, TypeError, UnicodeDecodeError):
            continue


def main(count: int, seed: int = 0, python: str = sys.executable) -> int:
    from tests.models.tflite_models import float_seed, int8_seed

    rng = random.Random(seed)
    bad = 0
    for mutation in (*BYTE_MUTATIONS, graph_mutation):
        tally: collections.Counter[str] = collections.Counter()
        for model in (float_seed(), int8_seed(None), int8_seed(1)):
            cases = [c for c in (mutation(model, rng) for _ in range(count)) if c != model]
            passed = [c for c in cases if passes(c)]
            rejected = [c for c in cases if not passes(c)]
            tally["cases"] += len(cases)
            tally["pass the check"] += len(passed)
            tally["of these crash"] += len(crashes(passed, python))
            if python == sys.executable:  # tflite-runtime hangs on some
                tally["rejected that would crash"] += len(crashes(rejected))
        bad += tally["of these crash"]
        print(mutation.__name__, dict(tally), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        sys.exit(_run())
    sys.exit(main(*map(int, sys.argv[1:3]), *sys.argv[3:4]))
