"""``python -m examples.demo.embedded_broker PORT``: amqtt on 127.0.0.1, for a demo where no broker is installed.

It speaks MQTT 3.1.1 only, forgets everything when it ends and is slow: for nothing but a demo.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from amqtt.broker import Broker


async def serve(port: int) -> None:
    """Serves until SIGTERM."""
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await broker.start()
    await stopping.wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
