"""The inference worker: ``python -m edge_node.worker CONTROL AREA PARENT [LIBRARY]``, started by ``worker_process``.

It holds graphs and runs them on rows that lie in shared memory, one request after the other, in a process of its own: a
TFLite runtime or an Edge TPU's library that aborts or hangs then costs a restart, not the gateway. With LIBRARY its graphs
run on that delegate.

Invariants: it ends when the gateway does, however that ends: the kernel kills it with the thread that started it, even in
the middle of an invoke, and the end of the control socket ends it otherwise. A terminal's Ctrl-C and a service manager's
SIGTERM to all processes are not for it: what is being drained must still be scored. It writes no file, no core dump
either, for a driver that aborts at each attempt would fill the disk.

Imports numpy and the runtime alone, to start in a tenth of a second.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_node.invoke import MAX_ROWS, evaluate
from edge_node.worker_wire import MAX_MESSAGE, Area, Failure, Kind, Message, read_blob
from models.runtime import Delegate, DelegateFailed, Graph, GraphUnusable, runtime_name

# An invoke sets the stamp that the watchdog looks at, so it has to be short beside the watchdog's patience: slow graphs
# take fewer rows at once.
_INVOKE_S = 0.05
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class _Loaded:
    graph: Graph
    most: int  # rows of one invoke

    @property
    def width(self) -> int:
        return self.graph.input.shape[1]


class Worker:
    """Answers requests until the gateway closes ``control``."""

    def __init__(self, control: socket.socket, area: Area, library: str | None) -> None:
        self._control = control
        self._area = area
        self._library = library
        self._loaded: dict[int, _Loaded] = {}

    def serve(self) -> None:
        self._say(Message(Kind.READY, text=runtime_name()))
        while True:
            data, descriptors = self._receive()
            if not data:
                return
            message = Message.unpack(data)
            if message.kind is Kind.RUN:
                self._run(message)
            elif message.kind is Kind.LOAD:
                self._load(message, descriptors[0])
            else:
                self._loaded.pop(message.key, None)

    def _receive(self) -> tuple[bytes, array.array[int]]:
        descriptors = array.array("i")
        data, extra, _, _ = self._control.recvmsg(MAX_MESSAGE, socket.CMSG_LEN(descriptors.itemsize))
        for level, kind, payload in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(payload)
        return data, descriptors

    def _run(self, message: Message) -> None:
        loaded, rows = self._loaded[message.key], message.a
        area = self._area
        inputs = area.inputs(rows, loaded.width)
        area.touch()
        try:
            done = evaluate(loaded.graph, inputs, most=loaded.most, before=area.touch)
        except (DelegateFailed, GraphUnusable) as error:
            self._say(Message(Kind.FAILED, message.key, b=message.b, text=_told(error)))
            return
        area.outputs(rows, loaded.width)[:] = done.output
        if done.saturated is not None:
            area.mask(rows)[:] = done.saturated
        self._say(Message(Kind.DONE, message.key, done.n_saturated, message.b))

    def _load(self, message: Message, descriptor: int) -> None:
        """Load a model, and try it on the rows in the area: the first invoke is the slowest, and what comes out is checked."""
        model = read_blob(descriptor, message.a)
        area = self._area
        area.touch()
        try:
            delegate = Delegate(self._library) if self._library is not None else None
            graph = Graph(model, delegate=delegate)
            width, rows = graph.input.shape[1], message.b
            inputs = area.inputs(rows, width).copy()
            loaded = _Loaded(graph, MAX_ROWS)
            area.outputs(rows, width)[:] = evaluate(graph, inputs, before=area.touch).output
            if graph.batch is None and rows:
                loaded = _Loaded(graph, _rows_of_an_invoke(graph, inputs))
        except (DelegateFailed, GraphUnusable) as error:
            self._say(Message(Kind.REFUSED, message.key, text=_told(error)))
            return
        self._loaded[message.key] = loaded
        self._say(Message(Kind.LOADED, message.key, width, text=repr(graph.output.scale)))

    def _say(self, message: Message) -> None:
        self._control.send(message.pack())


def _rows_of_an_invoke(graph: Graph, inputs: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> int:
    """As many as take about _INVOKE_S, by the fastest of three tries."""
    took_s = []
    for _ in range(3):
        began = time.perf_counter()
        evaluate(graph, inputs)
        took_s.append(time.perf_counter() - began)
    return max(1, min(MAX_ROWS, int(_INVOKE_S * inputs.shape[0] / min(took_s))))


def _told(error: DelegateFailed | GraphUnusable) -> str:
    if isinstance(error, DelegateFailed):
        return f"{error.kind} {error.detail}"
    return f"{Failure.GRAPH_UNUSABLE} {error}"


def _end_with(parent: int) -> None:
    """Have the kernel end us with the thread that started us."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(0)


def main(arguments: Sequence[str]) -> int:
    # What the runtime tells (that it is not the first choice), the gateway has logged for itself, in its own form.
    logging.disable(logging.WARNING)
    control, area, parent = map(int, arguments[:3])
    _end_with(parent)
    with socket.socket(fileno=control) as connection:
        mapped = Area(area)
        os.close(area)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # the gateway is gone
            Worker(connection, mapped, arguments[3] if len(arguments) > 3 else None).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
