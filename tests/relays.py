"""A TCP port that leads to another one, for tests that need a network which fails."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from tests.brokers import HOST, free_port


class Relay:
    """Leads to ``target`` as long as it is open. Connections may be cut in the middle of what they carry, refused, or held: then
    nothing of what clients send gets through from ``hold`` on, which is what they must send for it."""

    def __init__(self, target: int, *, hold: bytes = b"") -> None:
        self._target, self._hold = target, hold
        self.port = free_port()
        self.held = threading.Event()
        self._left: int | None = None  # bytes that may still pass
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.open()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def open(self) -> None:
        """Lets clients in."""
        self._listener = socket.create_server((HOST, self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Nobody is let in, and who is in is thrown out."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # which ends accept
            listener.close()
        self._close_all()

    def cut(self, after_bytes: int) -> None:
        """After so many bytes more all that is open is reset; what comes then gets through."""
        with self._lock:
            self._left = after_bytes

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection((HOST, self._target), timeout=2)
            except OSError:
                here.close()
                continue
            there.settimeout(None)
            for sock in (here, there):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {here, there}
            for a, b, hold in ((here, there, self._hold), (there, here, b"")):
                threading.Thread(target=self._pump, args=(a, b, hold), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, hold: bytes) -> None:
        before = b""
        try:
            while data := source.recv(4096):
                if hold and (self.held.is_set() or hold in before + data):
                    self.held.set()
                    continue
                before = (before + data)[-len(hold) :] if hold else b""
                with self._lock:
                    passing = data if self._left is None else data[: self._left]
                    if self._left is not None:
                        self._left -= len(passing)
                    ends = self._left == 0
                    if ends:
                        self._left = None
                target.sendall(passing)
                if ends:
                    self._close_all()
                    return
        except OSError:
            pass
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _close_all(self) -> None:
        with self._lock:
            found, self._open = self._open, set()
        for sock in found:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
