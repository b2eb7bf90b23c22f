"""What the demo plays: how long, how fast, what goes wrong when, and which alert must say so. Pure.

Seconds of a scenario count from the moment the plant is watched; the plant's own second 0 is the beginning of
the healthy history before that.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass

from examples.simulated_plant import BOARD, PLANT, Fault, FaultKind, Sensor, SerialBoard
from models.messages import AlertKind


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault and what is expected of the gateway: an alert of kind ``must``; one of a kind in ``may`` is no false alarm
    either. ``began_ns``: when a fault in real time began, Unix UTC; its ``fault`` says where the plant then was."""

    title: str
    fault: Fault
    must: AlertKind
    may: tuple[AlertKind, ...] = ()
    began_ns: int | None = None


@dataclass(frozen=True, slots=True)
class WornBoard:
    """A board in real time: ``record_s`` of it are recorded, and its machine's bearing is damaged ``worn_s`` after it was
    started to be watched."""

    board: SerialBoard
    title: str
    record_s: float
    worn_s: float

    def injected(self, began_ns: int, plant_s: float) -> Injected:
        """The fault, once it is known when it begins, and where the plant is then."""
        return Injected(
            self.title, Fault(FaultKind.BEARING, self.board.device, plant_s), "machine", (), began_ns
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """``history_s`` of healthy running, vibration in its last ``vibration_s``; then ``live_s`` at ``speed`` times real time with
    ``injected``. Only ``machines`` take part, and ``worn``."""

    history_s: int
    vibration_s: int
    live_s: int
    speed: float
    injected: tuple[Injected, ...]
    machines: tuple[str, ...]
    worn: WornBoard | None = None

    @property
    def n_faults(self) -> int:
        return len(self.injected) + (self.worn is not None)

    @property
    def n_machines(self) -> int:
        return len(self.machines) + (self.worn is not None)

    @property
    def devices(self) -> dict[str, str]:
        """Machine of each device."""
        found = {sensor.device: sensor.machine for sensor in self.sensors}
        return found if self.worn is None else {**found, self.worn.board.device: self.worn.board.machine}

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        return tuple(sensor for sensor in PLANT if sensor.machine in self.machines)

    @property
    def plant_faults(self) -> tuple[Fault, ...]:
        """The faults, at the plant's own seconds."""
        later = self.history_s
        return tuple(
            dataclasses.replace(
                i.fault,
                start_s=i.fault.start_s + later,
                end_s=None if i.fault.end_s is None else i.fault.end_s + later,
            )
            for i in self.injected
        )


FULL = Scenario(
    history_s=3600,
    vibration_s=360,
    live_s=600,
    speed=20.0,
    machines=("press-1", "pump-2", "fan-3"),
    worn=WornBoard(BOARD, "compressor-4: bearing damage, by serial line", record_s=12.0, worn_s=12.0),
    injected=(
        Injected(
            "pump-2: unbalanced impeller",
            Fault(FaultKind.IMBALANCE, "pump-2-vibration", 60, growth_s=60, end_s=400),
            "machine",
        ),
        Injected(
            "fan-3: bearing damage, growing",
            Fault(FaultKind.BEARING, "fan-3-vibration", 120, growth_s=300),
            "machine",
        ),
        Injected(
            "press-1: bearing heats up",
            Fault(FaultKind.OVERHEATING, "press-1-process", 180, growth_s=320, channel="bearing temperature"),
            "limit",
            may=("machine", "drift"),
        ),
        Injected(
            "pump-2: pressure gauge sticks",
            Fault(FaultKind.STUCK, "pump-2-process", 240, end_s=420, channel="pressure"),
            "sensor",
        ),
        Injected(
            "press-1: vibration board falls silent",
            Fault(FaultKind.SILENT, "press-1-vibration", 330),
            "stale",
        ),
    ),
)

# Two machines and four faults: for the tests, and for those in a hurry.
SHORT = Scenario(
    history_s=900,
    vibration_s=180,
    live_s=320,
    speed=20.0,
    machines=("pump-2",),
    worn=WornBoard(BOARD, "compressor-4: bearing damage, by serial line", record_s=12.0, worn_s=8.0),
    injected=(
        Injected(
            "pump-2: unbalanced impeller",
            Fault(FaultKind.IMBALANCE, "pump-2-vibration", 40, growth_s=40, end_s=130),
            "machine",
        ),
        Injected(
            "pump-2: pressure gauge sticks",
            Fault(FaultKind.STUCK, "pump-2-process", 80, end_s=180, channel="pressure"),
            "sensor",
        ),
        Injected(
            "pump-2: vibration board falls silent", Fault(FaultKind.SILENT, "pump-2-vibration", 160), "stale"
        ),
    ),
)


def gateway_config(template: str, scenario: Scenario, *, port: int, version: str, board_port: str) -> str:
    """``template`` (``examples/simulated_plant.toml``) for ``scenario``: with the broker at ``port``, the uplink in MQTT
    ``version`` and the board at ``board_port``; and as the plant is played ``speed`` times as fast, a device is silent after
    that much less time."""
    head, *devices = template.split("[[device]]\n")
    kept = [device for device in devices if _value("id", device) in scenario.devices]
    before, serial = head.rsplit("[[source]]", 1)
    if scenario.worn is None:
        head = before
    else:
        head = f"{before}[[source]]{serial}".replace(_value("port", serial), board_port)
    text = "[[device]]\n".join([head, *kept])
    text = text.replace("port = 1883", f"port = {port}").replace(
        'version = "3.1.1"', f'version = "{version}"'
    )
    stale_s = float(_value("stale_after_s", text))
    return text.replace(f"stale_after_s = {stale_s:g}", f"stale_after_s = {stale_s / scenario.speed:g}")


def units_of(config: str, device: str) -> dict[str, str]:
    """Channel -> unit of ``device`` in a configuration."""
    (section,) = [d for d in tomllib.loads(config)["device"] if d["id"] == device]
    channels = [
        c if isinstance(c, dict) else {"name": c, "unit": section["unit"]} for c in section["channels"]
    ]
    return {channel["name"]: channel["unit"] for channel in channels}


def _value(key: str, text: str) -> str:
    found = re.search(rf'{key} = "?([^",}}\s]+)', text)
    assert found is not None, f"no {key} in the template"
    return found[1]
