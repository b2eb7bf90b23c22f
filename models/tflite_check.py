"""A static check of a .tflite file before any runtime opens it.

Runtimes trust their input: a damaged or hostile file crashes the process. Here the file is first walked with
bounds (``models.flatbuffer``), then the graph is checked for everything its kernels take for granted: one
subgraph, one matrix in and one out, tensors defined before use and written once, shapes, types, buffer sizes
and quantisation that fit each operator, finite weights. What is not known to be safe is refused, so the list
of operators is short on purpose. A file that passes may still be the wrong one: only its digest tells. This
module is pure.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from models.flatbuffer import Malformed, Reader, Span, Table
from models.tflite_schema import (
    ACTIVATIONS,
    CUSTOM_OPERATOR,
    DTYPES,
    EDGE_TPU_OPERATOR,
    ITEM_SIZE,
    OPERATORS,
    OPTIONS,
    SCHEMA,
    DType,
    GraphFacts,
    ModelFault,
    ModelRejected,
    OpFacts,
    TensorFacts,
)

__all__ = ["GraphFacts", "ModelFault", "ModelRejected", "OpFacts", "TensorFacts", "check", "edge_tpu_check"]

MAX_BYTES = 16 << 20
MAX_ROWS = 4096
MAX_WIDTH = 65_536
EDGE_TPU_PARAMETER_BYTES = 8 << 20  # on-chip memory

_EDGE_TPU_OPERATORS = frozenset({"FULLY_CONNECTED", "QUANTIZE", "RELU", "TANH", EDGE_TPU_OPERATOR})
_MULTIPLIER = (2.0**-30, 2.0**15)  # what a kernel's fixed-point rescaling can express
_SCALE = (1e-30, 1e30)
_CASTS: dict[str, tuple[tuple[DType, DType], ...]] = {
    "RELU": (("float32", "float32"), ("int8", "int8")),
    "TANH": (("float32", "float32"),),
    "QUANTIZE": (("float32", "int8"), ("int8", "int8")),
    "DEQUANTIZE": (("int8", "float32"),),
    EDGE_TPU_OPERATOR: (("int8", "int8"),),
}


def check(model: bytes, *, max_bytes: int = MAX_BYTES, allow_edge_tpu: bool = False) -> GraphFacts:
    """The facts about ``model``; raises ModelRejected with the reason and the place.

    What passes runs in a TFLite interpreter without crashing it. ``allow_edge_tpu`` also admits the one
    custom operator that edgetpu_compiler writes, whose content only the Edge TPU's own library can judge.
    """
    _need(len(model) <= max_bytes, ModelFault.TOO_LARGE, f"{len(model)} bytes, at most {max_bytes}")
    _need(len(model) >= 16 and model[4:8] == b"TFL3", ModelFault.NOT_TFLITE, "no identifier TFL3 at byte 4")
    reader = Reader(model, SCHEMA)
    try:
        return _Check(model, reader, reader.root("Model"), allow_edge_tpu).facts()
    except Malformed as error:
        raise ModelRejected(ModelFault.MALFORMED, str(error)) from error


def edge_tpu_check(facts: GraphFacts) -> list[str]:
    """Why ``facts`` would not map onto an Edge TPU, a sentence per operator or tensor; empty when all of it
    does.

    After the model requirements at https://coral.ai/docs/edgetpu/models-intro/: full int8, constant sizes,
    supported operators, one row through a fully connected layer, parameters that fit on the chip.
    edgetpu_compiler has the last word.
    """
    reasons = [
        f"operator {i} ({op.name}) is not supported"
        for i, op in enumerate(facts.ops)
        if op.name not in _EDGE_TPU_OPERATORS
    ]
    for tensor in facts.tensors:
        if tensor.dtype == "float32":
            reasons.append(f"tensor {tensor.name!r} is float32, not int8")
        if not tensor.constant and tensor.shape[0] != 1:
            batch = "a dynamic batch" if tensor.shape[0] == -1 else f"a batch of {tensor.shape[0]}"
            reasons.append(f"tensor {tensor.name!r} has {batch}, not 1")
    if facts.n_constant_bytes > EDGE_TPU_PARAMETER_BYTES:
        most = EDGE_TPU_PARAMETER_BYTES
        reasons.append(
            f"{facts.n_constant_bytes} bytes of parameters, more than the {most} that fit on the chip"
        )
    return reasons


class _Check:
    def __init__(self, data: bytes, reader: Reader, root: Table, allow_edge_tpu: bool) -> None:
        self._data = data
        self._reader = reader
        self._root = root
        self._allow_edge_tpu = allow_edge_tpu
        self._codes: list[Table] = _vector(root, "operator_codes", "Model")
        self._buffers: list[Span] = [b["data"] or Span(0, 0) for b in _vector(root, "buffers", "Model")]

    def facts(self) -> GraphFacts:
        root = self._root
        _need(root["version"] == 3, ModelFault.UNSUPPORTED, f"schema version {root['version']}, not 3")
        _need(self._buffer(0, "Model").length == 0, ModelFault.BAD_BUFFER, "buffer 0 is not empty")
        for i in root["metadata_buffer"] or ():
            self._buffer(i, "Model.metadata_buffer")
        for entry in root["metadata"] or ():
            _need(entry["name"] is not None, ModelFault.UNSUPPORTED, "metadata without a name")
            self._buffer(entry["buffer"], "Model.metadata")
        subgraphs = _vector(root, "subgraphs", "Model")
        _need(len(subgraphs) == 1, ModelFault.UNSUPPORTED, f"{len(subgraphs)} subgraphs, not one")
        graph: Table = subgraphs[0]
        tensors = _vector(graph, "tensors", "SubGraph")
        self._tensors = tuple(self._tensor(t, f"tensor {i}") for i, t in enumerate(tensors))
        first, last = self._end(graph, "inputs"), self._end(graph, "outputs")
        self._rows = self._tensors[first].shape[0]
        self._activation(first, "input")
        self._defined = {first}
        ops = tuple(
            self._op(o, f"operator {i}") for i, o in enumerate(_vector(graph, "operators", "SubGraph"))
        )
        _need(last in self._defined and last != first, ModelFault.BAD_GRAPH, "nothing computes the output")
        used = {i for op in ops for i in op.inputs if i >= 0 and self._tensors[i].constant}
        return GraphFacts(
            tensors=self._tensors,
            input=self._tensors[first],
            output=self._tensors[last],
            ops=ops,
            static=self._rows != -1,
            n_constant_bytes=sum(self._tensors[i].n_bytes for i in used),
        )

    def _tensor(self, table: Table, path: str) -> TensorFacts:
        _need(table["name"] is not None, ModelFault.UNSUPPORTED, f"{path} has no name")
        path = f"{path} ({table['name']!r})"
        _need(table["type"] in DTYPES, ModelFault.UNSUPPORTED, f"{path} has type {table['type']}")
        plain = not table["is_variable"] and table["sparsity"] is None
        _need(plain, ModelFault.UNSUPPORTED, f"{path} is variable or sparse")
        shape, signature = table["shape"] or [], table["shape_signature"] or table["shape"] or []
        fits = 1 <= len(shape) <= 2 and all(1 <= n <= MAX_WIDTH for n in shape)
        fits = fits and len(signature) == len(shape) and signature[1:] == shape[1:]
        span = self._buffer(table["buffer"], path)
        constant = span.length > 0
        fits = fits and (signature[0] == shape[0] or (signature[0] == -1 and not constant))
        _need(fits, ModelFault.BAD_SHAPE, f"{path} has shape {shape} and signature {signature}")
        dtype = DTYPES[table["type"]]
        scale, zero_point = _quantisation(table["quantization"], dtype, path)
        facts = TensorFacts(table["name"], dtype, tuple(signature), scale, zero_point, constant)
        if constant:
            self._constant(facts, span, path)
        return facts

    def _constant(self, facts: TensorFacts, span: Span, path: str) -> None:
        text = f"{path} takes {facts.n_bytes} bytes, its buffer has {span.length}"
        _need(span.length == facts.n_bytes, ModelFault.BAD_BUFFER, text)
        _need(span.start % ITEM_SIZE[facts.dtype] == 0, ModelFault.BAD_BUFFER, f"{path} is not aligned")
        if facts.dtype == "float32":
            values = np.frombuffer(self._data, "<f4", span.length // 4, span.start)
            _need(bool(np.isfinite(values).all()), ModelFault.NOT_FINITE, f"{path} holds NaN or infinity")

    def _op(self, table: Table, path: str) -> OpFacts:
        index = table["opcode_index"]
        _need(index < len(self._codes), ModelFault.BAD_GRAPH, f"{path}: no operator code {index}")
        name = self._op_name(self._codes[index], path)
        path = f"{path} ({name})"
        inputs, outputs = _vector(table, "inputs", path), _vector(table, "outputs", path)
        counts = (2, 3) if name == "FULLY_CONNECTED" else (1,)
        _need(len(inputs) in counts and len(outputs) == 1, ModelFault.BAD_GRAPH, f"{path}: inputs or outputs")
        if len(inputs) == 3 and inputs[2] == -1:
            inputs = inputs[:2]  # no bias
        for i in (*inputs, *outputs):
            _need(0 <= i < len(self._tensors), ModelFault.BAD_GRAPH, f"{path}: no tensor {i}")
        _need(inputs[0] in self._defined, ModelFault.BAD_GRAPH, f"{path} reads what is not computed yet")
        _need(outputs[0] not in self._defined, ModelFault.BAD_GRAPH, f"{path} writes a tensor again")
        self._activation(outputs[0], path)
        options = self._options(table, name, path)
        x, *constants = (self._tensors[i] for i in inputs)
        y = self._tensors[outputs[0]]
        if name == "FULLY_CONNECTED":
            _dense(options, x, constants, y, path)
        else:
            _elementwise(name, x, y, path)
        self._defined.add(outputs[0])
        return OpFacts(name, tuple(table["inputs"]), tuple(outputs))

    def _op_name(self, code: Table, path: str) -> str:
        builtin = max(code["builtin_code"], code["deprecated_builtin_code"])
        custom, version = code["custom_code"], code["version"]
        if builtin == CUSTOM_OPERATOR and custom == EDGE_TPU_OPERATOR and self._allow_edge_tpu:
            return EDGE_TPU_OPERATOR
        known = builtin in OPERATORS and not custom and 1 <= version <= 16
        _need(known, ModelFault.UNSUPPORTED, f"{path} is {custom or builtin} version {version}")
        return OPERATORS[builtin]

    def _options(self, table: Table, name: str, path: str) -> Table:
        variables = table["mutating_variable_inputs"]
        plain = variables is None or variables.length == 0
        plain = plain and (name == EDGE_TPU_OPERATOR or table["custom_options"] is None)
        kind, at = table["builtin_options_type"], table["builtin_options"]
        wanted = {"FULLY_CONNECTED": (8,), "QUANTIZE": (0, 89), "DEQUANTIZE": (0, 38)}.get(name, (0,))
        plain = plain and kind in wanted and (at is not None) == (kind != 0)
        _need(plain, ModelFault.UNSUPPORTED, f"{path} has options that are not its own")
        return {} if kind == 0 else self._reader.table(at, OPTIONS[kind], f"{path} options")

    def _activation(self, index: int, path: str) -> None:
        tensor = self._tensors[index]
        fits = len(tensor.shape) == 2 and tensor.shape[0] == self._rows <= MAX_ROWS
        _need(fits, ModelFault.BAD_SHAPE, f"{path}: {tensor.name!r} has shape {tensor.shape}")
        runtime = not tensor.constant and tensor.dtype != "int32"
        _need(runtime, ModelFault.BAD_GRAPH, f"{path}: {tensor.name!r} is a constant or int32")

    def _end(self, graph: Table, which: str) -> int:
        indices: list[int] = _vector(graph, which, "SubGraph")
        _need(len(indices) == 1, ModelFault.UNSUPPORTED, f"{len(indices)} {which}, not one")
        _need(0 <= indices[0] < len(self._tensors), ModelFault.BAD_GRAPH, f"{which}: no tensor {indices[0]}")
        return indices[0]

    def _buffer(self, index: int, path: str) -> Span:
        _need(0 <= index < len(self._buffers), ModelFault.BAD_BUFFER, f"{path}: no buffer {index}")
        return self._buffers[index]


def _dense(options: Table, x: TensorFacts, constants: list[TensorFacts], y: TensorFacts, path: str) -> None:
    """``constants``: weights [out, in] and, where there is one, a bias [out]."""
    known = options["activation"] in ACTIVATIONS and options["weights_format"] == 0
    known = known and options["quantized_bias_type"] in (0, 2)
    _need(known, ModelFault.UNSUPPORTED, f"{path} has options {options}")
    weights = constants[0]
    same = weights.constant and x.dtype == weights.dtype == y.dtype
    _need(same, ModelFault.UNSUPPORTED, f"{path} mixes types, or its weights are not constant")
    fits = weights.shape == (y.shape[1], x.shape[1])
    _need(fits, ModelFault.BAD_SHAPE, f"{path}: {x.shape} by {weights.shape} to {y.shape}")
    if x.dtype == "int8":
        _need(weights.zero_point == 0, ModelFault.BAD_QUANTISATION, f"{path}: weights with a zero point")
        _rescale(x.scale * weights.scale / y.scale, path)
    for bias in constants[1:]:
        dtype = "float32" if x.dtype == "float32" else "int32"
        fits = bias.constant and bias.dtype == dtype and bias.shape == (y.shape[1],)
        _need(fits, ModelFault.BAD_SHAPE, f"{path}: bias {bias.dtype} {bias.shape}")
        exact = math.isclose(bias.scale, x.scale * weights.scale, rel_tol=1e-4) and bias.zero_point == 0
        _need(exact, ModelFault.BAD_QUANTISATION, f"{path}: the bias's scale is not input times weights")


def _elementwise(name: str, x: TensorFacts, y: TensorFacts, path: str) -> None:
    _need((x.dtype, y.dtype) in _CASTS[name], ModelFault.UNSUPPORTED, f"{path}: {x.dtype} to {y.dtype}")
    if name == EDGE_TPU_OPERATOR:
        return
    _need(x.shape == y.shape, ModelFault.BAD_SHAPE, f"{path}: {x.shape} to {y.shape}")
    if x.dtype == y.dtype == "int8":
        _rescale(x.scale / y.scale, path)


def _rescale(multiplier: float, path: str) -> None:
    low, high = _MULTIPLIER
    _need(low < multiplier < high, ModelFault.BAD_QUANTISATION, f"{path} rescales by {multiplier:.3g}")


def _quantisation(table: Table | None, dtype: DType, path: str) -> tuple[float, int]:
    scales = (table and table["scale"]) or []
    zero_points = (table and table["zero_point"]) or []
    if dtype == "float32":
        _need(not scales, ModelFault.BAD_QUANTISATION, f"{path} is float32 and has a scale")
        return 0.0, 0
    single = table is not None and len(scales) == 1 and len(zero_points) == 1
    _need(single, ModelFault.BAD_QUANTISATION, f"{path} needs one scale and one zero point")
    assert table is not None
    plain = table["details_type"] == 0 and table["details"] is None and table["quantized_dimension"] == 0
    scale, zero_point = float(scales[0]), int(zero_points[0])
    plain = plain and _SCALE[0] < scale < _SCALE[1] and -128 <= zero_point <= 127
    _need(plain, ModelFault.BAD_QUANTISATION, f"{path}: scale {scale}, zero point {zero_point}")
    return scale, zero_point


def _vector(table: Table, name: str, path: str) -> list[Any]:
    value: list[Any] | None = table[name]
    if value is None:
        raise ModelRejected(ModelFault.BAD_GRAPH, f"{path} has no {name}")
    return value


def _need(holds: bool, reason: ModelFault, detail: str) -> None:
    if not holds:
        raise ModelRejected(reason, detail)
