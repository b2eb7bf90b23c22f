"""Parts of what a pipeline remembers. Pure."""

from __future__ import annotations

from collections.abc import Collection

from edge_node.counters import Counters
from edge_node.pipeline import PipelineState, RestPart
from models import codec


def of_devices(snapshot: bytes, device_ids: Collection[str]) -> bytes:
    """What ``snapshot`` says of ``device_ids``. Raises msgspec.DecodeError when it is not a snapshot."""
    state = codec.unpack_state(snapshot, PipelineState)
    devices = {device_id: part for device_id, part in state.devices.items() if device_id in device_ids}
    rest = RestPart(retired=Counters(), parting=[], next_batch_id=state.rest.next_batch_id)
    return codec.pack_state(PipelineState(devices=devices, rest=rest))


def heard_devices(snapshot: bytes) -> set[str]:
    """The devices of which ``snapshot`` remembers samples. Raises msgspec.DecodeError when it is not a snapshot."""
    state = codec.unpack_state(snapshot, PipelineState)
    return {device_id for device_id, part in state.devices.items() if part.lane.counters.n_samples_in}


def learned_devices(snapshot: bytes) -> set[str]:
    """The devices of which ``snapshot`` remembers nothing that they learn from: those that learn have done so. Raises
    msgspec.DecodeError when it is not a snapshot."""
    state = codec.unpack_state(snapshot, PipelineState)
    return {device_id for device_id, part in state.devices.items() if part.lane.learner is None}
