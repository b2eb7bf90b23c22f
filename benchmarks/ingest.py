"""JSON batches to arrays, against a bare msgspec decode of the same bytes."""

from __future__ import annotations

import msgspec

from benchmarks import plant
from benchmarks.timing import ratio, take_turns
from edge_node.sources.payload_spec import PayloadSpec
from edge_node.sources.payloads import Decoder
from models.signal import Channel, Device


class _Batch(msgspec.Struct):
    t: int
    rate_hz: int
    x: list[float]
    y: list[float]
    z: list[float]


def measure(*, quick: bool) -> dict[str, object]:
    """By rows a message: ratio of the bare decode's CPU time to ours, and samples a second."""
    device = Device(
        device_id="b", machine="b", rate_hz=plant.RATE_HZ, channels=tuple(Channel(name=a) for a in plant.AXES)
    )
    found: dict[str, object] = {}
    for rows in (10, 100, 1000):
        n = (5_000 if quick else 400_000) // rows
        signal = plant.vibration(rows, plant.SEED).astype(float).round(4)
        payload = msgspec.json.encode(
            {
                "t": plant.START_NS,
                "rate_hz": 1000,
                **{a: signal[:, i].tolist() for i, a in enumerate(plant.AXES)},
            }
        )
        decoder = Decoder(
            PayloadSpec(time_key="t", rate_key="rate_hz"), {"b": device}, device="b", channel=None, renames={}
        )
        bare = msgspec.json.Decoder(_Batch)
        timed = take_turns(
            {"ours": _Ours(decoder, payload, rows, n), "bare": _Bare(bare, payload, rows, n)}, 5
        )
        found[str(rows)] = {
            "bare_over_ours": ratio(timed["bare"], timed["ours"]),
            "samples_per_s": 1.0 / timed["ours"].unit_s,
        }
    return {"by_rows_per_message": found}


class _Ours:
    def __init__(self, decoder: Decoder, payload: bytes, rows: int, n: int) -> None:
        self._decoder, self._payload, self._rows, self._n = decoder, payload, rows, n

    def __call__(self) -> float:
        for _ in range(self._n):
            blocks, refused = self._decoder.decode(
                self._payload, plant.START_NS, device=None, channel=None, retained=False
            )
            assert len(blocks) == 1
            assert not refused
        return self._n * self._rows * 3


class _Bare:
    def __init__(self, decoder: msgspec.json.Decoder[_Batch], payload: bytes, rows: int, n: int) -> None:
        self._decoder, self._payload, self._rows, self._n = decoder, payload, rows, n

    def __call__(self) -> float:
        for _ in range(self._n):
            self._decoder.decode(self._payload)
        return self._n * self._rows * 3
