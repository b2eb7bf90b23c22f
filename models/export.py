"""Dense layers -> .tflite, float32 and full int8: the only writer of the TFLite schema.

The graph is dense layers and nothing else: normalisation and score stay in float on the host, because inside
an int8 graph they cost much of what the model can tell. Quantisation follows the TFLite 8-bit specification
(https://ai.google.dev/edge/litert/models/quantization_spec) with one scale per weight tensor, which NNAPI and
the Edge TPU take. Equal layers give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
from numpy.typing import NDArray

Activation = Literal["none", "relu"]
Range = tuple[float, float]

CARD_NAME = "linewatch"  # the metadata entry that holds a model card
_ALIGNMENT = 16  # the schema's force_align of a buffer's data
_BIAS_LIMIT = 2**30  # int32 with room for the accumulator
_LEAST_RESCALE = 2.0**-24  # input scale * weight scale / output scale


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """``activation(weights @ x + bias)``: ``weights`` float32[out, in], ``bias`` float32[out]."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: Activation = "none"


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A real value is ``(q - zero_point) * scale`` for q in -128..127."""

    scale: float
    zero_point: int

    @classmethod
    def over(cls, low: float, high: float) -> Quantisation:
        """The asymmetric int8 quantisation of [low, high], widened to hold 0, which it represents exactly.

        Raises ValueError for a range that is empty or not finite.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if not (math.isfinite(low) and math.isfinite(high) and high > low):
            raise ValueError(f"[{low}, {high}] is no range to quantise over")
        scale = float(np.float32((high - low) / 255))
        return cls(scale, max(-128, min(127, round(-128 - low / scale))))


def float_model(layers: Sequence[Dense], metadata: bytes | None = None) -> bytes:
    """A float32 .tflite of ``layers``: [batch, in] -> [batch, out] with a dynamic batch.

    ``metadata`` is stored as the entry ``linewatch``. Raises ValueError when the layers do not fit each other
    or hold a value that is not finite.
    """
    _check(layers)
    graph = _Graph(batch=None, dtype=schema.TensorType.FLOAT32)
    x = graph.activation("input", layers[0].weights.shape[1], None)
    for i, layer in enumerate(layers):
        weights = graph.constant(f"dense_{i}/weights", layer.weights.astype("<f4"), None)
        bias = graph.constant(f"dense_{i}/bias", layer.bias.astype("<f4"), None)
        y = graph.activation(_output_name(i, layers), layer.weights.shape[0], None)
        graph.dense((x, weights, bias), y, layer.activation)
        x = y
    return graph.pack(version=1, metadata=metadata)


def int8_model(
    layers: Sequence[Dense], ranges: Sequence[Range], batch: int | None = None, metadata: bytes | None = None
) -> bytes:
    """A full-int8 .tflite of ``layers``: int8 in, int8 out, int32 biases; ``batch`` None is dynamic, 1 for
    the Edge TPU.

    ``ranges`` are the (low, high) in real values of the input and of each layer's output: ``len(layers) + 1``
    of them, wide enough for what must not saturate. Raises ValueError when they, or the layers, do not fit.
    """
    _check(layers)
    if len(ranges) != len(layers) + 1:
        raise ValueError(f"{len(layers)} layers need {len(layers) + 1} ranges, not {len(ranges)}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    quantisations = [Quantisation.over(*r) for r in ranges]
    graph = _Graph(batch=batch, dtype=schema.TensorType.INT8)
    x = graph.activation("input", layers[0].weights.shape[1], quantisations[0])
    for i, layer in enumerate(layers):
        q_weights, q_bias, scale = _quantised(layer, quantisations[i].scale, quantisations[i + 1].scale)
        weights = graph.constant(f"dense_{i}/weights", q_weights, Quantisation(scale, 0))
        bias_scale = float(np.float32(quantisations[i].scale * scale))
        bias = graph.constant(f"dense_{i}/bias", q_bias, Quantisation(bias_scale, 0))
        y = graph.activation(_output_name(i, layers), layer.weights.shape[0], quantisations[i + 1])
        graph.dense((x, weights, bias), y, layer.activation)
        x = y
    return graph.pack(version=4, metadata=metadata)


def _quantised(
    layer: Dense, input_scale: float, output_scale: float
) -> tuple[NDArray[np.int8], NDArray[np.int32], float]:
    # Symmetric weights. The scale is widened where a bias would not fit its int32, and where the weights are
    # so small that no kernel could express the rescaling: there they are nothing beside one step of the
    # output.
    largest = float(np.max(np.abs(layer.weights)))
    bias = layer.bias.astype(np.float64)
    for_bias = float(np.max(np.abs(bias))) / (input_scale * _BIAS_LIMIT)
    for_kernel = _LEAST_RESCALE * output_scale / input_scale
    scale = float(np.float32(max(largest / 127, for_bias, for_kernel)))
    weights = np.clip(np.rint(layer.weights.astype(np.float64) / scale), -127, 127).astype(np.int8)
    return weights, np.rint(bias / (input_scale * scale)).astype("<i4"), scale


def _check(layers: Sequence[Dense]) -> None:
    if not layers:
        raise ValueError("a model needs at least one layer")
    width: int | None = None
    for i, layer in enumerate(layers):
        if layer.weights.ndim != 2 or layer.bias.shape != layer.weights.shape[:1] or not layer.weights.size:
            raise ValueError(
                f"layer {i}: weights {layer.weights.shape} and bias {layer.bias.shape} do not fit"
            )
        if width is not None and layer.weights.shape[1] != width:
            raise ValueError(f"layer {i} takes {layer.weights.shape[1]} values, the one before gives {width}")
        with np.errstate(over="ignore"):
            kept = (layer.weights.astype(np.float32), layer.bias.astype(np.float32))
        if not all(np.isfinite(a).all() for a in kept):
            raise ValueError(f"layer {i} holds values that are not finite in float32")
        width = layer.weights.shape[0]


def _output_name(i: int, layers: Sequence[Dense]) -> str:
    return "output" if i == len(layers) - 1 else f"dense_{i}"


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose bytes lie on the boundary that the schema asks for; the generated packer ignores it."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802 (the generated name)
        data: bytes | None = self.data
        vector = None
        if data is not None:
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head = builder.Head() - len(data)
            builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class _Graph:
    """The one subgraph under construction."""

    def __init__(self, batch: int | None, dtype: int) -> None:
        self._batch = batch
        self._dtype = dtype
        self._buffers: list[Any] = [_AlignedBuffer()]  # buffer 0 is "no data"
        self._tensors: list[Any] = []
        self._operators: list[Any] = []

    def activation(self, name: str, width: int, quantisation: Quantisation | None) -> int:
        tensor = self._tensor(name, [self._batch or 1, width], self._dtype, quantisation)
        tensor.shapeSignature = [self._batch or -1, width]
        return self._add(tensor)

    def constant(self, name: str, values: NDArray[Any], quantisation: Quantisation | None) -> int:
        kinds = {"f": schema.TensorType.FLOAT32, "i1": schema.TensorType.INT8, "i4": schema.TensorType.INT32}
        kind = kinds["f" if values.dtype.kind == "f" else f"i{values.dtype.itemsize}"]
        tensor = self._tensor(name, list(values.shape), kind, quantisation)
        buffer = _AlignedBuffer()
        buffer.data = np.ascontiguousarray(values).tobytes()
        tensor.buffer = len(self._buffers)
        self._buffers.append(buffer)
        return self._add(tensor)

    def dense(self, inputs: tuple[int, int, int], output: int, activation: Activation) -> None:
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = (
            schema.ActivationFunctionType.RELU if activation == "relu" else schema.ActivationFunctionType.NONE
        )
        operator = schema.OperatorT()
        operator.inputs = list(inputs)
        operator.outputs = [output]
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = options
        self._operators.append(operator)

    def pack(self, version: int, metadata: bytes | None) -> bytes:
        """The finished file; input is the first activation, output the last operator's."""
        code = schema.OperatorCodeT()
        code.builtinCode = schema.BuiltinOperator.FULLY_CONNECTED
        code.deprecatedBuiltinCode = code.builtinCode
        code.version = version
        subgraph = schema.SubGraphT()
        subgraph.tensors = self._tensors
        subgraph.operators = self._operators
        subgraph.inputs = [self._operators[0].inputs[0]]
        subgraph.outputs = [self._operators[-1].outputs[0]]
        subgraph.name = "main"
        model = schema.ModelT()
        model.version = 3
        model.description = "Linewatch dense model"
        model.operatorCodes = [code]
        model.subgraphs = [subgraph]
        model.buffers = self._buffers
        if metadata is not None:
            buffer = _AlignedBuffer()
            buffer.data = metadata
            entry = schema.MetadataT()
            entry.name = CARD_NAME
            entry.buffer = len(self._buffers)
            self._buffers.append(buffer)
            model.metadata = [entry]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, name: str, shape: list[int], kind: int, quantisation: Quantisation | None) -> Any:
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = shape
        tensor.type = kind
        tensor.hasRank = True
        if quantisation is not None:
            parameters = schema.QuantizationParametersT()
            parameters.scale = [quantisation.scale]
            parameters.zeroPoint = [quantisation.zero_point]
            tensor.quantization = parameters
        return tensor

    def _add(self, tensor: Any) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1
