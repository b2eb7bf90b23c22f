"""Small models for the tests, from the exporter (which needs ai-edge-litert's schema)."""

from __future__ import annotations

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np

from models.export import Dense, float_model, int8_model

RANGES = [(-8.0, 8.0), (0.0, 30.0), (-20.0, 20.0)]


def layers(width: int = 6, hidden: int = 4, seed: int = 0) -> list[Dense]:
    rng = np.random.default_rng(seed)

    def dense(n_out: int, n_in: int, activation: str) -> Dense:
        weights = rng.normal(size=(n_out, n_in), scale=n_in**-0.5).astype(np.float32)
        return Dense(
            weights, rng.normal(size=n_out, scale=0.1).astype(np.float32), "relu" if activation else "none"
        )

    return [dense(hidden, width, "relu"), dense(width, hidden, "")]


def float_seed() -> bytes:
    return float_model(layers(), metadata=b'{"card": 1}')


def int8_seed(batch: int | None) -> bytes:
    return int8_model(layers(), RANGES, batch)


FLOAT32, INT8, DEQUANTIZE = 0, 9, 6  # the schema's numbers


def with_last_operator(model: bytes, code: int, dtype: int) -> bytes:
    """``model``, full int8, with the builtin operator ``code`` after its last one, whose output is of ``dtype``."""
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    graph = tree.subgraphs[0]
    operator_code = schema.OperatorCodeT()
    operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
    tree.operatorCodes.append(operator_code)
    last = int(graph.outputs[0])
    before, tensor = graph.tensors[last], schema.TensorT()
    tensor.name, tensor.type = "last", dtype
    tensor.shape, tensor.shapeSignature = before.shape, before.shapeSignature
    if dtype == INT8:
        tensor.quantization = before.quantization
    graph.tensors.append(tensor)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(tree.operatorCodes) - 1
    operator.inputs, operator.outputs = [last], [len(graph.tensors) - 1]
    graph.operators.append(operator)
    graph.outputs = operator.outputs
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
