"""The static check: our own graphs pass, damaged ones are refused, and what passes crashes no runtime."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import struct
from typing import Any

import pytest

from models.tflite_check import MAX_BYTES, ModelFault, ModelRejected, check, edge_tpu_check
from tests.fixtures.bundle_files import artifact
from tests.models import tflite_fuzz

pytestmark = pytest.mark.tflite_runtime

NAMES = ("cpu-float32", "cpu-int8", "static-int8")
needs_schema = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="the schema is part of ai-edge-litert"
)


def test_facts_of_a_float_graph() -> None:
    facts = check(artifact("cpu-float32"))
    assert [op.name for op in facts.ops] == ["FULLY_CONNECTED"] * 2
    assert facts.n_ops == 2
    assert not facts.static
    assert facts.input.shape == facts.output.shape == (-1, 10)
    assert facts.input.dtype == "float32"
    assert facts.n_constant_bytes == 4 * (4 * 10 + 4 + 10 * 4 + 10)
    weights = facts.tensors[facts.ops[0].inputs[1]]
    assert weights.constant
    assert weights.shape == (4, 10)


def test_facts_of_int8_graphs() -> None:
    dynamic, static = check(artifact("cpu-int8")), check(artifact("static-int8"))
    assert not dynamic.static
    assert static.static
    assert static.input.shape == (1, 10)
    assert static.input.dtype == "int8"
    assert static.input.scale == pytest.approx(24 / 255)
    assert static.n_constant_bytes == 4 * 10 + 4 * 4 + 10 * 4 + 10 * 4


def test_the_edge_tpu_operator_only_where_it_is_asked_for() -> None:
    model = artifact("edgetpu-int8")
    with pytest.raises(ModelRejected) as caught:
        check(model)
    assert caught.value.reason is ModelFault.UNSUPPORTED
    assert "edgetpu-custom-op" in caught.value.detail
    facts = check(model, allow_edge_tpu=True)
    assert [op.name for op in facts.ops] == ["edgetpu-custom-op"]
    assert edge_tpu_check(facts) == []


def test_a_static_int8_graph_maps_onto_the_edge_tpu() -> None:
    assert edge_tpu_check(check(artifact("static-int8"))) == []


def test_what_does_not_map_is_named() -> None:
    reasons = edge_tpu_check(check(artifact("cpu-float32")))
    assert "tensor 'input' is float32, not int8" in reasons
    assert "tensor 'input' has a dynamic batch, not 1" in reasons
    assert "tensor 'dense_0/weights' is float32, not int8" in reasons
    reasons = edge_tpu_check(check(artifact("cpu-int8")))
    assert reasons == [f"tensor {n!r} has a dynamic batch, not 1" for n in ("input", "dense_0", "output")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", ModelFault.NOT_TFLITE),
        (b"\x1c\0\0\0TFL3", ModelFault.NOT_TFLITE),
        (b"\x7fELF" + bytes(100), ModelFault.NOT_TFLITE),
        (b"TFL3" * 100, ModelFault.MALFORMED),
        (b"\xff\xff\xff\xffTFL3" + bytes(100), ModelFault.MALFORMED),
        (bytes(4) + b"TFL3" + bytes(100), ModelFault.MALFORMED),
    ],
)
def test_no_model_at_all(data: bytes, reason: ModelFault) -> None:
    with pytest.raises(ModelRejected) as caught:
        check(data)
    assert caught.value.reason is reason


def test_too_large() -> None:
    with pytest.raises(ModelRejected) as caught:
        check(bytes(MAX_BYTES + 1))
    assert caught.value.reason is ModelFault.TOO_LARGE
    model = artifact("cpu-float32")
    with pytest.raises(ModelRejected):
        check(model, max_bytes=len(model) - 1)
    check(model, max_bytes=len(model))


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_is_refused(name: str) -> None:
    model = artifact(name)
    for n in range(len(model)):
        with pytest.raises(ModelRejected):
            check(model[:n])


def test_weights_that_are_not_finite() -> None:
    model = bytearray(artifact("cpu-float32"))
    facts = check(bytes(model))
    weight = facts.tensors[facts.ops[0].inputs[1]]
    assert weight.n_bytes == 160
    at = next(i for i in range(0, len(model) - 164, 4) if model[i : i + 4] == struct.pack("<I", 160)) + 4
    model[at : at + 4] = struct.pack("<f", float("nan"))
    with pytest.raises(ModelRejected) as caught:
        check(bytes(model))
    assert caught.value.reason is ModelFault.NOT_FINITE


@pytest.mark.parametrize("name", NAMES)
def test_damage_never_escapes_as_another_exception(name: str) -> None:
    rng = random.Random(7)
    model = artifact(name)
    for _ in range(1500):
        case = rng.choice(tflite_fuzz.BYTE_MUTATIONS)(model, rng)
        with contextlib.suppress(ModelRejected):
            check(case)


@pytest.mark.parametrize("mutation", tflite_fuzz.BYTE_MUTATIONS, ids=lambda m: m.__name__)
def test_damaged_files_that_pass_do_not_crash_the_runtime(mutation: tflite_fuzz.Mutation) -> None:
    rng = random.Random(11)
    cases = [mutation(artifact(name), rng) for name in NAMES for _ in range(150)]
    passed = [c for c in cases if tflite_fuzz.passes(c)]
    assert bool(passed) == (mutation is not tflite_fuzz.truncation)
    assert tflite_fuzz.crashes(passed) == []


@needs_schema
def test_malformed_graphs_that_pass_do_not_crash_the_runtime() -> None:
    rng = random.Random(13)
    cases = [tflite_fuzz.graph_mutation(artifact(name), rng) for name in NAMES for _ in range(120)]
    passed = [c for c in cases if tflite_fuzz.passes(c)]
    assert 0 < len(passed) < len(cases) / 2
    assert tflite_fuzz.crashes(passed) == []


def test_the_crash_runner_sees_a_crash() -> None:
    good = artifact("cpu-float32")
    assert tflite_fuzz.crashes([good, good]) == []
    assert tflite_fuzz.crashes([good, tflite_fuzz.ABORT, good]) == [1]


def _edited(edit: Any, name: str = "cpu-int8") -> bytes:
    """The model after ``edit(tree, graph, schema)`` on the schema's objects."""
    import ai_edge_litert.schema_py_generated as schema
    import flatbuffers

    tree = schema.ModelT.InitFromPackedBuf(artifact(name), 0)
    edit(tree, tree.subgraphs[0], schema)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _set(path: str, value: Any) -> Any:
    def edit(tree: Any, graph: Any, schema: Any) -> None:
        *steps, last = path.split(".")
        target = tree if steps[0] == "tree" else graph
        for step in steps[1:]:
            target = target[int(step)] if step.isdigit() else getattr(target, step)
        setattr(target, last, value)

    return edit


# In graph order the tensors are input, weights, bias, dense_0, weights, bias, output.
@needs_schema
@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("tree.version", 2, ModelFault.UNSUPPORTED),
        ("graph.inputs", [], ModelFault.UNSUPPORTED),
        ("graph.inputs", [0, 3], ModelFault.UNSUPPORTED),
        ("graph.inputs", [99], ModelFault.BAD_GRAPH),
        ("graph.outputs", [0], ModelFault.BAD_GRAPH),
        ("graph.outputs", [-1], ModelFault.BAD_GRAPH),
        ("graph.operators", [], ModelFault.BAD_GRAPH),
        ("graph.operators.0.inputs", [3, 1, 2], ModelFault.BAD_GRAPH),
        ("graph.operators.0.inputs", [0, 99, 2], ModelFault.BAD_GRAPH),
        ("graph.operators.0.inputs", [0], ModelFault.BAD_GRAPH),
        ("graph.operators.0.inputs", [0, -1, 2], ModelFault.BAD_GRAPH),
        ("graph.operators.0.inputs", [0, 4, 2], ModelFault.BAD_SHAPE),
        ("graph.operators.0.outputs", [0], ModelFault.BAD_GRAPH),
        ("graph.operators.0.outputs", [1], ModelFault.BAD_SHAPE),
        ("graph.operators.1.outputs", [3], ModelFault.BAD_GRAPH),
        ("graph.operators.0.opcodeIndex", 7, ModelFault.BAD_GRAPH),
        ("graph.operators.0.builtinOptions", None, ModelFault.UNSUPPORTED),
        ("graph.operators.0.builtinOptions.fusedActivationFunction", 4, ModelFault.UNSUPPORTED),
        ("graph.operators.0.builtinOptions.weightsFormat", 1, ModelFault.UNSUPPORTED),
        ("graph.operators.0.customOptions", [1], ModelFault.UNSUPPORTED),
        ("graph.operators.0.intermediates", [1], ModelFault.MALFORMED),
        ("graph.operators.0.largeCustomOptionsSize", 9, ModelFault.MALFORMED),
        ("tree.operatorCodes.0.builtinCode", 83, ModelFault.UNSUPPORTED),
        ("tree.operatorCodes.0.customCode", "evil", ModelFault.UNSUPPORTED),
        ("tree.operatorCodes.0.version", 99, ModelFault.UNSUPPORTED),
        ("graph.tensors.0.shape", [1, 11], ModelFault.BAD_SHAPE),
        ("graph.tensors.0.shape", None, ModelFault.BAD_SHAPE),
        ("graph.tensors.0.shape", [1, -10], ModelFault.BAD_SHAPE),
        ("graph.tensors.0.shapeSignature", [-1, -1], ModelFault.BAD_SHAPE),
        ("graph.tensors.0.shapeSignature", [2**30, 10], ModelFault.BAD_SHAPE),
        ("graph.tensors.1.shape", [10, 4], ModelFault.BAD_SHAPE),
        ("graph.tensors.0.type", 5, ModelFault.UNSUPPORTED),
        ("graph.tensors.3.type", 0, ModelFault.BAD_QUANTISATION),
        ("graph.tensors.0.buffer", 1, ModelFault.BAD_SHAPE),
        ("graph.tensors.1.buffer", 0, ModelFault.UNSUPPORTED),
        ("graph.tensors.1.buffer", 99, ModelFault.BAD_BUFFER),
        ("graph.tensors.1.isVariable", True, ModelFault.UNSUPPORTED),
        ("graph.tensors.1.name", None, ModelFault.UNSUPPORTED),
        ("graph.tensors.0.quantization", None, ModelFault.BAD_QUANTISATION),
        ("graph.tensors.0.quantization.scale", [0.0], ModelFault.BAD_QUANTISATION),
        ("graph.tensors.0.quantization.scale", [float("nan")], ModelFault.BAD_QUANTISATION),
        ("graph.tensors.0.quantization.scale", [1e20], ModelFault.BAD_QUANTISATION),
        ("graph.tensors.0.quantization.scale", [0.1, 0.1], ModelFault.BAD_QUANTISATION),
        ("graph.tensors.0.quantization.zeroPoint", [128], ModelFault.BAD_QUANTISATION),
        ("graph.tensors.1.quantization.zeroPoint", [1], ModelFault.BAD_QUANTISATION),
        ("graph.tensors.2.quantization.scale", [1.0], ModelFault.BAD_QUANTISATION),
        ("graph.tensors.1.quantization.quantizedDimension", 1, ModelFault.BAD_QUANTISATION),
        ("tree.buffers.1.data", [1, 2, 3], ModelFault.BAD_BUFFER),
        ("tree.buffers.0.data", [1], ModelFault.BAD_BUFFER),
        ("tree.buffers.1.offset", 4096, ModelFault.MALFORMED),
        ("tree.metadataBuffer", [42], ModelFault.BAD_BUFFER),
    ],
)
def test_each_thing_a_kernel_takes_for_granted(path: str, value: object, reason: ModelFault) -> None:
    with pytest.raises(ModelRejected) as caught:
        check(_edited(_set(path, value)))
    assert caught.value.reason is reason, caught.value


@needs_schema
def test_an_untouched_round_trip_passes() -> None:
    assert check(_edited(lambda *_: None)) == check(artifact("cpu-int8"))


@needs_schema
def test_two_subgraphs_are_refused() -> None:
    with pytest.raises(ModelRejected) as caught:
        check(_edited(lambda tree, graph, _: tree.subgraphs.append(graph)))
    assert caught.value.reason is ModelFault.MALFORMED
    assert "subgraphs has 2" in caught.value.detail


@needs_schema
@pytest.mark.parametrize(
    ("code", "dtype", "name"), [(6, 0, "DEQUANTIZE"), (19, 9, "RELU"), (114, 9, "QUANTIZE")]
)
def test_operators_at_the_end_of_an_int8_graph(code: int, dtype: int, name: str) -> None:
    from tests.models.tflite_models import with_last_operator

    model = with_last_operator(artifact("cpu-int8"), code, dtype)
    facts = check(model)
    assert facts.ops[-1].name == name
    assert tflite_fuzz.crashes([model]) == []
    unsupported = [r for r in edge_tpu_check(facts) if "operator" in r]
    assert unsupported == (["operator 2 (DEQUANTIZE) is not supported"] if name == "DEQUANTIZE" else [])
