"""The gateway's end of one inference worker: one process, from its start to its burial.

Strategy: a fresh interpreter is started (never a fork of this process, which has threads) with one end of a socket pair and
a new memory area; a successor gets its own, since a worker that hangs in a driver may outlive its SIGKILL for a while and
must not write into what another uses. Nothing here waits without a bound, and nothing waits for the dead: they are buried
when they are found to be gone.

The watchdog: a worker sets a stamp whenever an invoke begins. One whose stamp stands still for ``stall_s`` while it owes an
answer hangs. Only time in which this process itself ran is counted, so that a machine that was suspended, or is
starved, is not taken for a worker that hangs.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.invoke import Evaluated
from edge_node.worker_wire import MAX_MESSAGE, Area, Failure, Kind, Message, blob, new_area, rows_at_once

_ROOT = Path(__file__).parents[1]
_SLICE_S = 0.02  # of the watchdog's waiting
_GRACE_S = 1.0  # for a worker that was asked to end


class WorkerFailed(Exception):
    """What a worker could not do: ``kind`` is a Failure or a DelegateFailure of the runtime, ``text`` the detail."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Spawner:
    """Starts workers, all from one thread that lives as long as they may: the kernel ends a worker with the *thread* that
    started it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, "worker-spawner")

    def start(self, control: int, area: int, library: str | None) -> subprocess.Popen[bytes]:
        """Raises OSError."""
        command = [sys.executable, "-P", "-m", "edge_node.worker", str(control), str(area), str(os.getpid())]
        if library is not None:
            command.append(library)
        path = os.pathsep.join(
            filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))
        )  # the same code as here

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(control, area),
                start_new_session=True,  # no terminal's signals
                env={**os.environ, "PYTHONPATH": path},
            )

        return self._threads.submit(start).result()

    def close(self) -> None:
        """Ends the thread, and with it whatever it started."""
        self._threads.shutdown()


class WorkerProcess:
    """A worker that was started. Not thread-safe."""

    def __init__(self, spawner: Spawner, library: str | None) -> None:
        """Starts it; it says READY when it can be given models. Raises WorkerFailed (NOT_STARTED)."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                area = new_area()
                try:
                    self._area = Area(area)
                    self._process = spawner.start(theirs.fileno(), area, library)
                finally:
                    os.close(area)
        except OSError as error:
            raise WorkerFailed(Failure.NOT_STARTED, str(error)) from error
        ours.setblocking(False)
        self._control = ours
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)
        self._n_requests = 0
        self._ends_s = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, key: int, model: bytes, trial: NDArray[np.float32]) -> None:
        """Ask for ``model`` to be loaded and tried on ``trial`` [g, k]. Raises WorkerFailed (CRASHED, HUNG, or NOT_STARTED
        where the system has no memory or descriptor for it)."""
        self._area.inputs(*trial.shape)[:] = trial
        try:
            descriptor = blob(model)
        except OSError as error:
            raise WorkerFailed(Failure.NOT_STARTED, str(error)) from error
        try:
            self._send(Message(Kind.LOAD, key, len(model), trial.shape[0]), descriptor)
        finally:
            os.close(descriptor)

    def tried(self, rows: int, width: int) -> NDArray[np.float32]:
        """What came out of the trial of the model that was just loaded."""
        return self._area.outputs(rows, width).copy()

    def unload(self, key: int) -> None:
        """Raises WorkerFailed (CRASHED)."""
        self._send(Message(Kind.UNLOAD, key))

    def receive(self, wait_s: float = 0.0) -> Message | None:
        """The next message, or None where none comes in time. Raises WorkerFailed (CRASHED)."""
        if wait_s > 0.0:
            self._poll.poll(wait_s * 1000.0)
        try:
            data = self._control.recv(MAX_MESSAGE)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data = b""
        if not data:
            raise self._crashed()
        return Message.unpack(data)

    def run(self, key: int, inputs: NDArray[np.float32], stall_s: float, total_s: float) -> Evaluated:
        """What the model ``key`` makes of ``inputs`` [w, k]. Raises WorkerFailed: HUNG where no invoke begins or ends within
        ``stall_s``, or all do not end within ``total_s``; CRASHED; or what the runtime says."""
        n, width = inputs.shape
        most = rows_at_once(width)
        ends_s = time.monotonic() + total_s
        if n <= most:
            return self._exchange(key, inputs, stall_s, ends_s)
        parts = [self._exchange(key, inputs[i : i + most], stall_s, ends_s) for i in range(0, n, most)]
        saturated = None
        if any(part.saturated is not None for part in parts):
            saturated = np.concatenate(
                [np.zeros(len(p.output), np.bool_) if p.saturated is None else p.saturated for p in parts]
            )
        output = np.concatenate([part.output for part in parts])
        return Evaluated(output, saturated, sum(part.n_saturated for part in parts))

    def kill(self) -> None:
        """End it at once. It is buried later."""
        self._control.close()
        self._process.kill()
        self._ends_s = time.monotonic()

    def end(self) -> None:
        """Ask it to end, so that a driver can put its device in order."""
        self._control.close()
        self._ends_s = time.monotonic() + _GRACE_S

    def buried(self, wait_s: float = 0.0) -> bool:
        """Whether it is gone, after :meth:`kill` or :meth:`end`; it is killed when it did not end in time."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            if time.monotonic() >= self._ends_s:
                self._process.kill()
            return False
        return True

    def _exchange(self, key: int, inputs: NDArray[np.float32], stall_s: float, ends_s: float) -> Evaluated:
        n, width = inputs.shape
        area = self._area
        area.inputs(n, width)[:] = inputs
        self._n_requests += 1
        request = self._n_requests
        self._send(Message(Kind.RUN, key, n, request))
        answer = self._answer(request, stall_s, ends_s)
        if answer.kind is Kind.FAILED:
            raise failed(answer.text)
        saturated = area.mask(n).copy() if answer.a else None
        return Evaluated(area.outputs(n, width).copy(), saturated, answer.a)

    def _answer(self, request: int, stall_s: float, ends_s: float) -> Message:
        stamp, stood_s = self._area.stamp, 0.0
        began_s = now_s = time.monotonic()
        while True:
            answer = self.receive(_SLICE_S)
            if answer is not None:
                if answer.b == request and answer.kind in (Kind.DONE, Kind.FAILED):
                    return answer
                continue
            before_s, now_s = now_s, time.monotonic()
            if (latest := self._area.stamp) != stamp:
                stamp, stood_s = latest, 0.0
                if now_s < ends_s:
                    continue
            stood_s += min(now_s - before_s, 2 * _SLICE_S)
            if stood_s >= stall_s or now_s >= ends_s:
                raise WorkerFailed(Failure.HUNG, f"no answer within {now_s - began_s:.1f} s")

    def _send(self, message: Message, descriptor: int | None = None) -> None:
        try:
            if descriptor is None:
                self._control.send(message.pack())
            else:
                socket.send_fds(self._control, [message.pack()], [descriptor])
        except BlockingIOError:
            raise WorkerFailed(Failure.HUNG, "it reads no requests") from None
        except (BrokenPipeError, ConnectionResetError):
            raise self._crashed() from None

    def _crashed(self) -> WorkerFailed:
        """How it ended, which is known a moment after its socket is closed."""
        try:
            status = self._process.wait(0.1)
        except subprocess.TimeoutExpired:
            return WorkerFailed(Failure.CRASHED, "it closed its connection")
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return WorkerFailed(Failure.CRASHED, f"the process ended ({how})")


def failed(text: str) -> WorkerFailed:
    """What a REFUSED or FAILED says."""
    kind, _, detail = text.partition(" ")
    return WorkerFailed(kind, detail)
