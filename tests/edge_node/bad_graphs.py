"""Graphs that mean harm, each to another part of whoever loads it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
import pytest

from models.export import Dense, float_model
from tests.fixtures.bundle_files import artifact

K = 10  # features of the fixture


def edited(edit: Callable[[Any], None], model: bytes | None = None) -> bytes:
    """``model`` (the fixture's) after ``edit`` of its schema's objects."""
    tree = schema.ModelT.InitFromPackedBuf(artifact("cpu-float32") if model is None else model, 0)
    edit(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def crashing() -> bytes:
    """A dense layer without weights: the static check refuses it. What a runtime that trusts it reads in their place, and so
    whether it crashes, is chance: :func:`crashing_runtime` leaves nothing to that."""

    def edit(tree: Any) -> None:
        tree.subgraphs[0].operators[0].inputs = [0, -1, 2]

    return edited(edit)


def crashing_runtime(monkeypatch: pytest.MonkeyPatch, folder: Path, model: bytes) -> None:
    """From now on the runtime of every process that finds its modules where this one does reads through a null pointer when
    it opens ``model``."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import ctypes, hashlib\n"
        "from models import runtime\n"
        "real = runtime.Graph.__init__\n"
        "def init(self, model, *args, **more):\n"
        f"    if hashlib.sha256(model).hexdigest() == {hashlib.sha256(model).hexdigest()!r}:\n"
        "        ctypes.string_at(0)\n"
        "    real(self, model, *args, **more)\n"
        "runtime.Graph.__init__ = init\n"
    )
    monkeypatch.syspath_prepend(str(folder))


def _static(rows: int) -> Callable[[Any], None]:
    def edit(tree: Any) -> None:
        for tensor in tree.subgraphs[0].tensors:
            if tensor.shapeSignature is not None and int(tensor.shapeSignature[0]) == -1:
                tensor.shape = [rows, int(tensor.shape[1])]
                tensor.shapeSignature = None

    return edit


def _through(width: int) -> bytes:
    zeros = np.zeros
    return float_model(
        [
            Dense(zeros((width, K), np.float32), zeros(width, np.float32)),
            Dense(zeros((K, width), np.float32), zeros(K, np.float32)),
        ]
    )


def hungry(rows: int = 4096) -> bytes:
    """A sound graph whose activations take a gigabyte: 4096 rows of 65,536 values."""
    return edited(_static(rows), _through(65_536))


def endless(rows: int = 1024, width: int = 1024, n: int = 120) -> bytes:
    """A sound graph that runs for minutes: one square layer, again and again over the same weights."""
    square = np.zeros((width, width), np.float32)
    zeros = np.zeros
    model = float_model(
        [
            Dense(zeros((width, K), np.float32), zeros(width, np.float32)),
            Dense(square, zeros(width, np.float32)),
            Dense(zeros((K, width), np.float32), zeros(K, np.float32)),
        ]
    )

    def edit(tree: Any) -> None:
        _static(rows)(tree)
        graph = tree.subgraphs[0]
        first, middle, last = graph.operators
        operators, output = [first], int(middle.outputs[0])
        like = graph.tensors[output]
        source = int(first.outputs[0])
        for i in range(n):
            tensor = schema.TensorT()
            tensor.name, tensor.shape, tensor.type, tensor.buffer = f"again_{i}", like.shape, like.type, 0
            graph.tensors.append(tensor)
            operator = schema.OperatorT()
            operator.opcodeIndex = middle.opcodeIndex
            operator.builtinOptionsType, operator.builtinOptions = (
                middle.builtinOptionsType,
                middle.builtinOptions,
            )
            operator.inputs = [source, *map(int, middle.inputs[1:])]
            source = len(graph.tensors) - 1
            operator.outputs = [source]
            operators.append(operator)
        last.inputs = [source, *map(int, last.inputs[1:])]
        graph.operators = [*operators, last]

    return edited(edit, model)
