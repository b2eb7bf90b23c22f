"""A Modbus TCP gateway for tests that closes the connection instead of answering: where some unit is asked, or once it
has answered so much."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from firmware_bridge.modbus_link import Bus
from tests.brokers import HOST

_HEADER = struct.Struct(">HHHB")  # transaction, protocol, length of what follows, unit


class ClosingGateway:
    """Each unit holds its number in every register. ``closes_at``: units it would rather not be asked for; ``most``:
    answers that a connection is good for."""

    def __init__(self, closes_at: set[int], most: int | None = None) -> None:
        self.closes_at, self.most = closes_at, most
        self.n_closed: Counter[int] = Counter()  # by the unit that was asked

    def serve(self, request: socketserver.StreamRequestHandler) -> None:
        n_answers = 0
        while n_answers != self.most and (head := request.rfile.read(_HEADER.size)):
            transaction, _, length, unit = _HEADER.unpack(head)
            function, _, count = struct.unpack(">BHH", request.rfile.read(length - 1))
            if unit in self.closes_at:
                self.n_closed[unit] += 1
                return
            words = struct.pack(f">{count}H", *[unit] * count)
            answer = struct.pack(">BB", function, len(words)) + words
            request.wfile.write(_HEADER.pack(transaction, 0, 1 + len(answer), unit) + answer)
            n_answers += 1


@contextmanager
def closing_gateway(closes_at: set[int], most: int | None = None) -> Iterator[tuple[ClosingGateway, Bus]]:
    """The gateway, and where it is."""
    gateway = ClosingGateway(closes_at, most)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            gateway.serve(self)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="closing gateway")
        thread.start()
        try:
            yield gateway, Bus(host=HOST, tcp_port=server.server_address[1], timeout_s=1.0)
        finally:
            server.shutdown()
            thread.join(10)
