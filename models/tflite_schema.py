"""The part of the TFLite schema that Linewatch's graphs use, and what a checked graph is.

After tensorflow/lite/schema/schema.fbs, version 3: field order is slot order, and a field that is not named
here is refused by the reader. This module is pure.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Literal

from models.flatbuffer import Field, Schema

DType = Literal["float32", "int8", "int32"]

DTYPES: dict[int, DType] = {0: "float32", 2: "int32", 9: "int8"}
ITEM_SIZE: dict[DType, int] = {"float32": 4, "int32": 4, "int8": 1}
OPERATORS = {6: "DEQUANTIZE", 9: "FULLY_CONNECTED", 19: "RELU", 28: "TANH", 114: "QUANTIZE"}
CUSTOM_OPERATOR = 32
EDGE_TPU_OPERATOR = "edgetpu-custom-op"  # what edgetpu_compiler turns a whole graph into
OPTIONS = {8: "FullyConnectedOptions", 38: "DequantizeOptions", 89: "QuantizeOptions"}
ACTIVATIONS = (0, 1, 3)  # none, relu, relu6

SCHEMA: Schema = {
    "Model": (
        Field("version", "u32"),
        Field("operator_codes", "[OperatorCode]", most=64),
        Field("subgraphs", "[SubGraph]", most=1),
        Field("description", "string"),
        Field("buffers", "[Buffer]", most=1024),
        Field("metadata_buffer", "[i32]", most=64),
        Field("metadata", "[Metadata]", most=64),
    ),
    "OperatorCode": (
        Field("deprecated_builtin_code", "i8"),
        Field("custom_code", "string"),
        Field("version", "i32", default=1),
        Field("builtin_code", "i32"),
    ),
    "SubGraph": (
        Field("tensors", "[Tensor]", most=512),
        Field("inputs", "[i32]", most=16),
        Field("outputs", "[i32]", most=16),
        Field("operators", "[Operator]", most=128),
        Field("name", "string"),
    ),
    "Tensor": (
        Field("shape", "[i32]", most=8),
        Field("type", "i8"),
        Field("buffer", "u32"),
        Field("name", "string"),
        Field("quantization", "Quantization"),
        Field("is_variable", "bool"),
        Field("sparsity", "union"),
        Field("shape_signature", "[i32]", most=8),
        Field("has_rank", "bool"),
    ),
    "Quantization": (
        Field("min", "[f32]"),
        Field("max", "[f32]"),
        Field("scale", "[f32]"),
        Field("zero_point", "[i64]"),
        Field("details_type", "u8"),
        Field("details", "union"),
        Field("quantized_dimension", "i32"),
    ),
    "Operator": (
        Field("opcode_index", "u32"),
        Field("inputs", "[i32]", most=16),
        Field("outputs", "[i32]", most=16),
        Field("builtin_options_type", "u8"),
        Field("builtin_options", "union"),
        Field("custom_options", "bytes"),
        Field("custom_options_format", "i8"),
        Field("mutating_variable_inputs", "bytes"),
        Field("intermediates", "[i32]", most=0),
    ),
    "FullyConnectedOptions": (
        Field("activation", "i8"),
        Field("weights_format", "i8"),
        Field("keep_num_dims", "bool"),
        Field("asymmetric_quantize_inputs", "bool"),
        Field("quantized_bias_type", "i8"),
    ),
    "QuantizeOptions": (),
    "DequantizeOptions": (),
    "Buffer": (Field("data", "bytes"),),
    "Metadata": (Field("name", "string"), Field("buffer", "u32")),
}


class ModelFault(enum.StrEnum):
    """Why a file was rejected."""

    TOO_LARGE = "too_large"
    NOT_TFLITE = "not_tflite"
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"
    BAD_GRAPH = "bad_graph"
    BAD_SHAPE = "bad_shape"
    BAD_BUFFER = "bad_buffer"
    BAD_QUANTISATION = "bad_quantisation"
    NOT_FINITE = "not_finite"


class ModelRejected(ValueError):
    """The file is not a graph that may be run here: ``reason``, and ``detail`` says where."""

    def __init__(self, reason: ModelFault, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor: ``shape`` has -1 where the batch is dynamic; ``scale`` is 0 when it is not quantised."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    constant: bool

    @property
    def n_bytes(self) -> int:
        """Size of the tensor's data, a dynamic batch counted as one row."""
        return abs(math.prod(self.shape)) * ITEM_SIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class OpFacts:
    """An operator: ``inputs`` and ``outputs`` index ``GraphFacts.tensors`` (-1: an input left out)."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What the check learned. ``static``: the batch is fixed. ``n_constant_bytes``: weights and biases in
    use.
    """

    tensors: tuple[TensorFacts, ...]
    input: TensorFacts
    output: TensorFacts
    ops: tuple[OpFacts, ...]
    static: bool
    n_constant_bytes: int

    @property
    def n_ops(self) -> int:
        return len(self.ops)
