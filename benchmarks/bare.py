"""``python -m benchmarks.bare PORT MODEL``: a gateway without a gateway.

It holds one interpreter of the model, and paho receives what the boards publish and forgets it: the floor of the daemon's
memory and of its CPU time. It publishes on "bare" when it is ready.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.wire import BARE, SAMPLES, SAMPLES_QOS, connect


def main(port: int, model: Path) -> None:
    """Until it is killed."""
    interpreter = Interpreter(model_content=model.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    tensor = interpreter.get_input_details()[0]
    interpreter.set_tensor(tensor["index"], np.zeros(tensor["shape"], tensor["dtype"]))
    interpreter.invoke()
    client = connect(port)
    client.on_connect = lambda c, *_: c.subscribe(SAMPLES.format("+"), SAMPLES_QOS)
    client.on_subscribe = lambda c, *_: c.publish(BARE, "ready", qos=1)
    client.on_message = lambda *_: None
    client.loop_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
