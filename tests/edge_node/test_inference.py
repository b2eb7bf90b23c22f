"""Engines on the committed bundle: CPU float and int8, a stand-in Edge TPU, and every way that one fails."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.inference import (
    ArtifactMissing,
    EdgeTpuFailure,
    EdgeTpuUnavailable,
    Engine,
)
from edge_node.invoke import MAX_ROWS
from models import manifest as manifests
from models.manifest import ModelManifest
from models.runtime import TensorInfo, dequantise, quantise, runtime_name
from models.signal import ArtifactTarget
from tests.fixtures.bundle_files import BUNDLE, artifact

pytestmark = pytest.mark.tflite_runtime

TARGETS: tuple[ArtifactTarget, ...] = ("cpu-float32", "cpu-int8", "edgetpu-int8")
ARTIFACTS = {target: artifact(target) for target in TARGETS}


@pytest.fixture(scope="module")
def manifest() -> ModelManifest:
    return manifests.decode((BUNDLE / "manifest.json").read_bytes())


def rows(n: int, scale: float = 1.0) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(n, 10), scale=scale).astype(np.float32)


def test_float_on_the_cpu(manifest: ModelManifest) -> None:
    engine = Engine(manifest, ARTIFACTS)
    scored = engine.run(rows(7))
    assert scored.output.shape == (7, 10)
    assert scored.output.dtype == np.float32
    assert scored.target == engine.target == engine.artifact.target == "cpu-float32"
    assert scored.backend == engine.backend == f"cpu-float32 ({runtime_name()})"
    assert scored.n_saturated == 0
    assert scored.saturated is None
    assert engine.notices == []
    assert engine.step == 0.0


def test_int8_is_close_to_float(manifest: ModelManifest) -> None:
    x = rows(200)
    as_float = Engine(manifest, ARTIFACTS).run(x)
    engine = Engine(manifest, ARTIFACTS, precision="int8")
    as_int8 = engine.run(x)
    assert as_int8.target == "cpu-int8"
    assert 0 < engine.step < 0.2
    assert np.abs(as_int8.output - as_float.output).max() < 5 * engine.step
    assert as_int8.n_saturated == 0
    assert as_int8.saturated is None


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_row_does_not_depend_on_its_company(manifest: ModelManifest, precision: str) -> None:
    engine = Engine(manifest, ARTIFACTS, precision=precision)  # type: ignore[arg-type]
    x = rows(300, scale=6.0)
    whole = engine.run(x)
    saturated = np.zeros(300, np.bool_) if whole.saturated is None else whole.saturated
    assert saturated.any() == (precision == "int8")
    for start, stop in itertools.pairwise((0, 1, 3, 10, 26, 57, 121, 300)):
        part = engine.run(x[start:stop])
        assert np.array_equal(part.output, whole.output[start:stop])
        mask = np.zeros(stop - start, np.bool_) if part.saturated is None else part.saturated
        assert np.array_equal(mask, saturated[start:stop])


def test_more_rows_than_one_invoke_takes(manifest: ModelManifest) -> None:
    engine = Engine(manifest, ARTIFACTS)
    x = rows(2 * MAX_ROWS + 3)
    assert np.array_equal(engine.run(x).output[-5:], engine.run(x[-5:]).output)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_no_rows(manifest: ModelManifest, precision: str) -> None:
    scored = Engine(manifest, ARTIFACTS, precision=precision).run(rows(0))  # type: ignore[arg-type]
    assert scored.output.shape == (0, 10)
    assert scored.saturated is None


def test_saturation_is_counted_per_window(manifest: ModelManifest) -> None:
    engine = Engine(manifest, ARTIFACTS, precision="int8")
    x = np.zeros((3, 10), np.float32)
    x[1, 4] = 1000.0  # far beyond the range of the input
    scored = engine.run(x)
    assert scored.saturated is not None
    assert scored.saturated.tolist() == [False, True, False]
    assert scored.n_saturated >= 1
    assert np.isfinite(scored.output).all()


def test_an_output_at_the_end_of_its_range_is_counted_though_no_input_is(manifest: ModelManifest) -> None:
    step = Engine(manifest, ARTIFACTS, precision="int8").step
    graph = Engine(manifest, ARTIFACTS).run(np.eye(10, dtype=np.float32)).output  # linear: a row an input
    x = np.zeros((3, 10), np.float32)
    x[1] = 11.5 * np.sign(graph[:, np.abs(graph).sum(axis=0).argmax()])  # all inputs drive one output
    assert np.abs(x).max() < 128 * step
    wanted = Engine(manifest, ARTIFACTS).run(x).output
    beyond = np.abs(wanted[1]) > 130 * step
    assert beyond.any()
    assert (np.abs(wanted[1][~beyond]) < 122 * step).all()
    scored = Engine(manifest, ARTIFACTS, precision="int8").run(x)
    assert scored.saturated is not None
    assert scored.saturated.tolist() == [False, True, False]
    assert scored.n_saturated == beyond.sum()


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_gives_nan_and_spares_the_others(
    manifest: ModelManifest, precision: str, bad: float
) -> None:
    engine = Engine(manifest, ARTIFACTS, precision=precision)  # type: ignore[arg-type]
    x = rows(4)
    clean = engine.run(x).output
    x[2, 3] = bad
    scored = engine.run(x)
    assert np.isnan(scored.output[2]).all()
    assert np.array_equal(scored.output[[0, 1, 3]], clean[[0, 1, 3]])
    assert scored.saturated is None


def test_wrong_width_is_refused(manifest: ModelManifest) -> None:
    with pytest.raises(ValueError, match=r"\(2, 9\).*\(w, 10\)"):
        Engine(manifest, ARTIFACTS).run(np.zeros((2, 9), np.float32))


def test_latency_is_measured_by_the_clock_that_is_given(manifest: ModelManifest) -> None:
    ticks = itertools.count(100, 42)
    engine = Engine(manifest, ARTIFACTS, clock=lambda: next(ticks))
    assert engine.run(rows(1)).latency_ns == 42


def test_a_precision_that_was_not_published_is_refused(manifest: ModelManifest) -> None:
    only_float = msgspec.structs.replace(
        manifest,
        artifacts=manifest.artifacts[:1],
        training=msgspec.structs.replace(manifest.training, notes=("int8 lost .12 AUC",)),
    )
    with pytest.raises(
        ArtifactMissing, match=r"no artifact cpu-int8, only cpu-float32 \(int8 lost .12 AUC\)"
    ):
        Engine(only_float, {"cpu-float32": ARTIFACTS["cpu-float32"]}, precision="int8")


def test_the_edge_tpu_runs_its_static_graph_row_by_row(manifest: ModelManifest, fake_edgetpu: str) -> None:
    engine = Engine(manifest, ARTIFACTS, device="edgetpu", delegate_library=fake_edgetpu)
    x = rows(9)
    scored = engine.run(x)
    assert scored.target == "edgetpu-int8"
    assert scored.backend == f"edgetpu-int8 ({fake_edgetpu}, {runtime_name()})"
    assert np.abs(scored.output - x).max() <= engine.step  # the stand-in copies its input
    assert engine.notices == []


def test_auto_uses_the_edge_tpu_where_it_works(manifest: ModelManifest, fake_edgetpu: str) -> None:
    engine = Engine(manifest, ARTIFACTS, device="auto", delegate_library=fake_edgetpu)
    assert engine.target == "edgetpu-int8"


FAILURES = [
    ({"fail": "create"}, EdgeTpuFailure.REFUSED, "1a6e:089a"),
    ({"fail": "create-silently"}, EdgeTpuFailure.REFUSED, "900 mA"),
    ({"fail": "prepare"}, EdgeTpuFailure.PREPARE_FAILED, "compile the model again"),
    ({"fail": "invoke"}, EdgeTpuFailure.INVOKE_FAILED, "cable"),
    ({"fail": "abort"}, EdgeTpuFailure.CRASHED, "stock one crashes"),
    ({"fail": "hang"}, EdgeTpuFailure.HUNG, "dmesg"),
]


@pytest.mark.parametrize(("options", "kind", "remedy"), FAILURES)
def test_each_failure_has_a_kind_and_a_remedy(
    manifest: ModelManifest, fake_edgetpu: str, options: dict[str, str], kind: EdgeTpuFailure, remedy: str
) -> None:
    with pytest.raises(EdgeTpuUnavailable) as caught:
        Engine(
            manifest,
            ARTIFACTS,
            device="edgetpu",
            delegate_library=fake_edgetpu,
            delegate_options=options,
            probe_timeout_s=4.0 if options["fail"] == "hang" else 60.0,
        )
    assert caught.value.kind is kind
    assert remedy in caught.value.remedy
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        ("/nowhere/libedgetpu.so.1", EdgeTpuFailure.ABSENT),
        (__file__, EdgeTpuFailure.ABSENT),
        ("libc.so.6", EdgeTpuFailure.NOT_A_DELEGATE),
    ],
)
def test_a_library_that_is_none(manifest: ModelManifest, library: str, kind: EdgeTpuFailure) -> None:
    with pytest.raises(EdgeTpuUnavailable) as caught:
        Engine(manifest, ARTIFACTS, device="edgetpu", delegate_library=library)
    assert caught.value.kind is kind


def test_a_model_without_an_edge_tpu_artifact(manifest: ModelManifest, fake_edgetpu: str) -> None:
    artifacts = {target: ARTIFACTS[target] for target in TARGETS[:2]}
    with pytest.raises(EdgeTpuUnavailable, match='--edgetpu, or set backend = "cpu"') as caught:
        Engine(manifest, artifacts, device="edgetpu", delegate_library=fake_edgetpu)
    assert caught.value.kind is EdgeTpuFailure.NO_ARTIFACT


def test_why_a_model_has_no_edge_tpu_artifact_is_said(manifest: ModelManifest, fake_edgetpu: str) -> None:
    notes = ("int8 not published: it lost .12 AUC",)
    unpublished = msgspec.structs.replace(
        manifest,
        artifacts=manifest.artifacts[:1],
        training=msgspec.structs.replace(manifest.training, notes=notes),
    )
    with pytest.raises(
        EdgeTpuUnavailable, match=r"no artifact for it \(int8 not published: it lost .12 AUC\)"
    ):
        Engine(unpublished, ARTIFACTS, device="edgetpu", delegate_library=fake_edgetpu)


def test_a_model_that_was_not_compiled(manifest: ModelManifest, fake_edgetpu: str) -> None:
    artifacts = {**ARTIFACTS, "edgetpu-int8": artifact("static-int8")}
    with pytest.raises(EdgeTpuUnavailable, match="edgetpu_compiler") as caught:
        Engine(manifest, artifacts, device="edgetpu", delegate_library=fake_edgetpu)
    assert caught.value.kind is EdgeTpuFailure.NOT_COMPILED


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_auto_falls_back_loudly(manifest: ModelManifest, precision: str) -> None:
    told: list[str] = []
    engine = Engine(
        manifest,
        ARTIFACTS,
        device="auto",
        precision=precision,  # type: ignore[arg-type]
        delegate_library="/nowhere/libedgetpu.so.1",
        on_notice=told.append,
    )
    assert engine.target == f"cpu-{precision}"
    assert engine.notices == told
    assert "cannot open shared object file" in told[0]
    assert f"Scoring on cpu-{precision}" in told[0]
    assert engine.run(rows(2)).target == f"cpu-{precision}"


def test_unplugged_while_running_auto_scores_the_batch_again_on_the_cpu(
    manifest: ModelManifest, fake_edgetpu: str
) -> None:
    told: list[str] = []
    engine = Engine(
        manifest,
        ARTIFACTS,
        device="auto",
        delegate_library=fake_edgetpu,
        delegate_options={"invokes": "6"},
        on_notice=told.append,
    )
    x = rows(4)
    assert engine.run(x).target == "edgetpu-int8"
    assert told == []
    scored = engine.run(x)  # the device goes at the third row
    assert scored.target == engine.target == "cpu-float32"
    assert np.array_equal(scored.output, Engine(manifest, ARTIFACTS).run(x).output)
    assert len(told) == 1
    assert "USB transfer error" in told[0]
    assert engine.run(x).target == "cpu-float32"
    assert len(told) == 1


def test_unplugged_while_running_edgetpu_raises(manifest: ModelManifest, fake_edgetpu: str) -> None:
    engine = Engine(
        manifest,
        ARTIFACTS,
        device="edgetpu",
        delegate_library=fake_edgetpu,
        delegate_options={"invokes": "2"},
    )
    with pytest.raises(EdgeTpuUnavailable) as caught:
        engine.run(rows(4))
    assert caught.value.kind is EdgeTpuFailure.INVOKE_FAILED
    assert "cable" in str(caught.value)


def test_auto_needs_a_cpu_artifact_to_fall_back_to(manifest: ModelManifest, fake_edgetpu: str) -> None:
    with pytest.raises(ArtifactMissing, match="cpu-float32"):
        Engine(
            manifest,
            {"edgetpu-int8": ARTIFACTS["edgetpu-int8"]},
            device="auto",
            delegate_library=fake_edgetpu,
        )


@given(
    st.lists(st.floats(-1e9, 1e9, width=32), min_size=1, max_size=20),
    st.floats(1e-3, 10),
    st.integers(-128, 127),
)
def test_quantising_is_within_half_a_step_or_flagged(
    values: list[float], scale: float, zero_point: int
) -> None:
    tensor = TensorInfo("t", 0, (-1, len(values)), np.dtype(np.int8), scale, zero_point)
    x = np.array([values], np.float32)
    q, clipped = quantise(x, tensor)
    back = dequantise(q, tensor).astype(np.float64)
    inside = ~clipped
    assert (np.abs(back - x)[inside] <= scale * 0.5001 + 1e-4 * scale).all()
    assert np.isin(q[clipped], (-128, 127)).all()
    outside = (x / scale + zero_point < -128.51) | (x / scale + zero_point > 127.51)
    assert clipped[outside].all()
