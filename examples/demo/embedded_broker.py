"""``python -m examples.demo.embedded_broker PORT``: amqtt on 127.0.0.1, for a demo where no broker is installed.

It speaks MQTT 3.1.1 only, forgets everything when it ends and is slow: for nothing but a demo.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from amqtt import broker as amqtt_broker
from amqtt.broker import Broker
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler


class PatientHandler(BrokerProtocolHandler):
    """amqtt acknowledges what a client publishes before it passes it on, and drops what is left once the client is gone: who
    publishes and leaves at once would be heard by nobody. So here a client is gone once all that it said is passed on."""

    async def wait_disconnect(self) -> Any:
        found = await super().wait_disconnect()
        while self.session is not None and not self.session.delivered_message_queue.empty():
            await asyncio.sleep(0.01)
        return found


async def serve(port: int) -> None:
    """Serves until SIGTERM."""
    amqtt_broker.BrokerProtocolHandler = PatientHandler
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
