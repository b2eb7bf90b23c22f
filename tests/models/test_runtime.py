"""models.runtime on the interpreter that is installed here, with the models of tests/fixtures/bundle."""

from __future__ import annotations

import logging
import subprocess
import sys
import types

import numpy as np
import pytest

from models import runtime
from models.runtime import (
    Delegate,
    DelegateFailed,
    DelegateFailure,
    Graph,
    GraphUnusable,
    RuntimeUnavailable,
    probe_delegate,
    runtime_name,
)
from models.tflite_check import check
from tests.fixtures.bundle_files import artifact
from tests.models.tflite_fuzz import ROOT

pytestmark = pytest.mark.tflite_runtime


@pytest.fixture
def float_graph() -> Graph:
    return Graph(artifact("cpu-float32"))


def rows(n: int, width: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def test_name_says_which_interpreter_and_version() -> None:
    name, version = runtime_name().split()
    assert name in ("ai-edge-litert", "tflite-runtime")
    assert version[0].isdigit()


def test_the_runtimes_greeting_does_not_reach_the_user_and_all_else_does() -> None:
    script = (
        "import os, numpy as np\n"
        "from models import runtime\n"
        "with runtime._without_greeting():\n"
        "    os.write(2, runtime._GREETING + b'\\nWARNING: keep me\\n')\n"
        "graph = runtime.Graph(runtime._PROBE)\n"
        "graph.run(np.zeros((3, 1), np.float32))\n"
        "os.write(2, b'the end')\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True, timeout=60)
    told = [x for x in done.stderr.splitlines() if not x.startswith(b"falling back to tflite-runtime")]
    assert told == [b"WARNING: keep me", b"the end"]
    assert done.stdout == b""


def test_a_process_without_standard_error_can_score() -> None:
    script = "from models import runtime; print(runtime.runtime_name())"
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True, timeout=60)
    assert done.stdout.decode().strip() == runtime_name()


def test_probe_model_passes_the_static_check() -> None:
    assert check(runtime._PROBE).n_ops == 1


def test_details_of_a_dynamic_float_graph(float_graph: Graph) -> None:
    assert float_graph.batch is None
    assert float_graph.input.shape == float_graph.output.shape == (-1, 10)
    assert float_graph.input.dtype == np.float32
    assert float_graph.input.scale == 0.0


def test_details_of_an_int8_graph() -> None:
    graph = Graph(artifact("cpu-int8"))
    assert graph.input.dtype == graph.output.dtype == np.int8
    assert graph.input.scale > 0
    assert -128 <= graph.input.zero_point <= 127


def test_a_row_does_not_depend_on_its_company(float_graph: Graph) -> None:
    inputs = rows(300)
    whole = float_graph.run(inputs)
    for n in (1, 2, 3, 5, 16, 31, 64, 257):
        assert np.array_equal(float_graph.run(inputs[:n]), whole[:n]), n
        assert np.array_equal(float_graph.run(inputs[-n:]), whole[-n:]), n


def test_no_rows(float_graph: Graph) -> None:
    assert float_graph.run(rows(0)).shape == (0, 10)


def test_output_is_ours_to_keep(float_graph: Graph) -> None:
    first = float_graph.run(rows(4))
    kept = first.copy()
    float_graph.run(rows(4, seed=1))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("shape", [(3, 9), (10,), (1, 2, 10)])
def test_wrong_shape_is_refused(float_graph: Graph, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        float_graph.run(np.zeros(shape, np.float32))
    assert float_graph.run(rows(2)).shape == (2, 10)


def test_wrong_dtype_is_refused(float_graph: Graph) -> None:
    with pytest.raises(ValueError, match="float64"):
        float_graph.run(rows(2).astype(np.float64))


def test_a_static_batch_takes_that_many_rows() -> None:
    static = Graph(artifact("static-int8"))
    assert static.batch == 1
    assert static.run(np.zeros((1, 10), np.int8)).shape == (1, 10)
    with pytest.raises(ValueError, match="shape"):
        static.run(np.zeros((2, 10), np.int8))


def test_compiled_for_an_edge_tpu_it_does_not_run_without_one() -> None:
    with pytest.raises(GraphUnusable, match="custom op"):
        Graph(artifact("edgetpu-int8"))


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys, models.runtime; print([m for m in sys.modules if 'litert' in m or 'tflite_r' in m])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Broken:
    """An interpreter as tflite-runtime's is with numpy 2: it imports, then fails at first use."""

    def __init__(self, **_: object) -> None:
        raise SystemError("initialization of _pywrap failed")


@pytest.fixture
def fresh_probe() -> object:
    runtime._runtime.cache_clear()
    yield
    runtime._runtime.cache_clear()


@pytest.mark.usefixtures("fresh_probe")
def test_a_runtime_that_fails_at_first_use_is_passed_over_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = types.ModuleType("broken_runtime")
    broken.Interpreter = _Broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_runtime", broken)
    monkeypatch.setattr(runtime, "_CANDIDATES", (("broken_runtime", "broken-runtime"), *runtime._CANDIDATES))
    with caplog.at_level(logging.WARNING, "linewatch.runtime"):
        name = runtime_name()
    assert name.split()[0] in ("ai-edge-litert", "tflite-runtime")
    assert "falling back" in caplog.text
    assert "broken-runtime: SystemError" in caplog.text


@pytest.mark.usefixtures("fresh_probe")
def test_no_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_CANDIDATES", (("no_such_runtime", "no-such-runtime"),))
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'linewatch\[edge\]'") as caught:
        runtime_name()
    assert "no-such-runtime: ModuleNotFoundError" in str(caught.value)
    assert np.__version__ in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"fail": "create"}, DelegateFailure.REFUSED, "no Edge TPU device"),
        ({"fail": "create-silently"}, DelegateFailure.REFUSED, "Failed to load"),
        ({"fail": "prepare"}, DelegateFailure.PREPARE_FAILED, "runtime version"),
        ({"fail": "invoke"}, DelegateFailure.INVOKE_FAILED, "USB transfer error"),
        ({"fail": "abort"}, DelegateFailure.CRASHED, "SIGABRT"),
        ({"fail": "hang"}, DelegateFailure.HUNG, "within"),
    ],
)
def test_each_way_a_delegate_fails(
    fake_edgetpu: str, options: dict[str, str], kind: DelegateFailure, text: str
) -> None:
    timeout_s = 5.0 if kind is DelegateFailure.HUNG else 60.0
    with pytest.raises(DelegateFailed, match=text) as caught:
        probe_delegate(fake_edgetpu, options, artifact("edgetpu-int8"), timeout_s=timeout_s)
    assert caught.value.kind is kind


def test_a_delegate_that_works_passes_the_probe_and_runs(fake_edgetpu: str) -> None:
    model = artifact("edgetpu-int8")
    probe_delegate(fake_edgetpu, {}, model)
    graph = Graph(model, delegate=Delegate(fake_edgetpu))
    inputs = np.arange(-5, 5, dtype=np.int8)[None]
    assert np.array_equal(graph.run(inputs), inputs)  # the stand-in copies


def test_unplugged_between_two_invokes(fake_edgetpu: str) -> None:
    graph = Graph(artifact("edgetpu-int8"), delegate=Delegate(fake_edgetpu, {"invokes": "1"}))
    inputs = np.zeros((1, 10), np.int8)
    graph.run(inputs)
    with pytest.raises(DelegateFailed) as caught:
        graph.run(inputs)
    assert caught.value.kind is DelegateFailure.INVOKE_FAILED


@pytest.mark.parametrize("how", ["absent", "garbage", "not a delegate"])
def test_a_library_that_is_none(how: str) -> None:
    library = {"absent": "/nowhere/libedgetpu.so.1", "garbage": __file__, "not a delegate": "libc.so.6"}[how]
    with pytest.raises(DelegateFailed) as caught:
        Delegate(library)
    expected = DelegateFailure.NOT_A_DELEGATE if how == "not a delegate" else DelegateFailure.ABSENT
    assert caught.value.kind is expected
