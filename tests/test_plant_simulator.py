"""The simulated plant: the same plant with and without faults, each fault what it says, and payloads that a gateway reads."""

from __future__ import annotations

import threading
import time
import tomllib
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edge_node.config import load_config
from edge_node.config_schema import MqttSource, SerialSource
from edge_node.sources.mqtt import Route
from examples.plant_simulator import CLOCK_TOPIC, ClockReading, Order, main, payload, payloads, play, topic
from examples.simulated_plant import AXES, BOARD, PLANT, Fault, FaultKind, Plant, Sensor, VibrationBoard
from models.signal import NS_PER_S
from models.topics import filter_matches
from tests import brokers

CONFIG = Path(__file__).parents[1] / "examples" / "simulated_plant.toml"
EPOCH_NS = 1_760_000_000 * NS_PER_S
BEGINS_S = 50

FAULTS = {
    "pump-2-vibration": Fault(FaultKind.IMBALANCE, "pump-2-vibration", BEGINS_S),
    "fan-3-vibration": Fault(FaultKind.BEARING, "fan-3-vibration", BEGINS_S),
    "press-1-vibration": Fault(FaultKind.SILENT, "press-1-vibration", BEGINS_S, end_s=60),
    "press-1-process": Fault(
        FaultKind.OVERHEATING, "press-1-process", BEGINS_S, growth_s=100, channel="bearing temperature"
    ),
    "pump-2-process": Fault(FaultKind.STUCK, "pump-2-process", BEGINS_S, end_s=90, channel="pressure"),
}
HEALTHY, FAULTY = Plant(), Plant(tuple(FAULTS.values()))


def sensor(device: str) -> Sensor:
    return next(s for s in PLANT if s.device == device)


def reads(plant: Plant, device: str, second: int) -> NDArray[np.float32]:
    values = plant.second(sensor(device), second)
    assert values is not None
    return values


def amplitudes(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """[bins of 0.1 Hz, axes] of 10 s at 1 kHz."""
    return np.abs(np.fft.rfft(values - values.mean(axis=0), axis=0)) * 2 / len(values)


def ten_seconds(plant: Plant, device: str, second: int) -> NDArray[np.float32]:
    return np.concatenate([reads(plant, device, s) for s in range(second, second + 10)])


@pytest.mark.parametrize("device", [s.device for s in PLANT])
def test_a_second_reads_the_same_whenever_it_is_computed_and_unlike_any_other(device: str) -> None:
    first = reads(HEALTHY, device, 7)
    reads(HEALTHY, device, 8)
    assert np.array_equal(reads(Plant(), device, 7), first)
    assert first.shape == (sensor(device).rate_hz, len(sensor(device).channels))
    assert not np.array_equal(reads(HEALTHY, device, 8), first)
    assert not np.array_equal(reads(Plant(seed=1), device, 7), first)


@pytest.mark.parametrize("device", FAULTS)
def test_a_fault_changes_nothing_before_it_begins(device: str) -> None:
    for second in (0, BEGINS_S - 1):
        assert np.array_equal(reads(FAULTY, device, second), reads(HEALTHY, device, second))
    after = [FAULTY.second(sensor(device), s) for s in range(BEGINS_S, BEGINS_S + 20)]
    assert any(
        a is None or not np.array_equal(a, reads(HEALTHY, device, BEGINS_S + i)) for i, a in enumerate(after)
    )


def test_imbalance_pulls_across_the_shaft_at_its_own_frequency_and_nowhere_else() -> None:
    healthy = amplitudes(ten_seconds(HEALTHY, "pump-2-vibration", 60))
    faulty = amplitudes(ten_seconds(FAULTY, "pump-2-vibration", 60))
    shaft = slice(481, 492)  # 48.6 Hz, give or take its wandering
    growth = np.sqrt((faulty[shaft] ** 2).sum(axis=0) / (healthy[shaft] ** 2).sum(axis=0))
    assert growth == pytest.approx([4.0, 3.4, 1.3], rel=0.1)
    elsewhere = slice(600, None)
    assert np.allclose(faulty[elsewhere], healthy[elsewhere], atol=2e-3)


def test_bearing_damage_rings_the_housing_at_every_passing_element() -> None:
    board = sensor("fan-3-vibration")
    assert isinstance(board, VibrationBoard)
    healthy, faulty = (ten_seconds(p, board.device, 60)[:, 0] for p in (HEALTHY, FAULTY))
    spectrum = amplitudes(faulty[:, None])[:, 0]
    background = amplitudes(healthy[:, None])[:, 0]
    near_resonance = slice(3400, 4400)
    assert (spectrum[near_resonance] ** 2).sum() > 5 * (background[near_resonance] ** 2).sum()
    envelope = amplitudes(np.abs(faulty - healthy)[:, None])[:, 0]
    passing_hz = np.argmax(envelope[100:1000]) / 10 + 10
    assert passing_hz == pytest.approx(board.outer_race * board.shaft_hz, rel=0.02)


def test_overheating_rises_to_32_degrees_more() -> None:
    rise = [
        (reads(FAULTY, "press-1-process", s) - reads(HEALTHY, "press-1-process", s))[0]
        for s in (BEGINS_S, BEGINS_S + 50, BEGINS_S + 100, BEGINS_S + 500)
    ]
    assert np.allclose([r[0] for r in rise], [0, 16, 32, 32], atol=0.11)
    assert not np.any([r[1:] for r in rise])


def test_a_stuck_gauge_reads_what_it_read_then_until_it_is_repaired() -> None:
    pressure = [float(reads(FAULTY, "pump-2-process", s)[0, 1]) for s in range(BEGINS_S - 5, 100)]
    healthy = [float(reads(HEALTHY, "pump-2-process", s)[0, 1]) for s in range(BEGINS_S - 5, 100)]
    assert pressure[5:45] == [healthy[5]] * 40
    assert pressure[:6] + pressure[45:] == healthy[:6] + healthy[45:]
    assert len(set(healthy)) > 20


def test_a_silent_board_sends_nothing_and_the_others_go_on() -> None:
    assert FAULTY.second(sensor("press-1-vibration"), BEGINS_S) is None
    assert FAULTY.second(sensor("press-1-vibration"), 60) is not None
    order = Order(epoch_ns=EPOCH_NS, from_s=0, until_s=100, speed=1, quiet_speed=1, vibration_from_s=0)
    topics = {where for where, _, _ in payloads(FAULTY, BEGINS_S, order)}
    assert topics == {topic(s) for s in PLANT} - {topic(sensor("press-1-vibration"))}


def test_vibration_begins_when_the_order_says() -> None:
    order = Order(epoch_ns=0, from_s=0, until_s=9, speed=1, quiet_speed=1, vibration_from_s=5)
    assert {where.split("/")[2] for where, _, _ in payloads(HEALTHY, 4, order)} == {"process"}
    assert len(list(payloads(HEALTHY, 5, order))) == len(PLANT)


@pytest.mark.parametrize("device", [s.device for s in PLANT])
def test_the_gateway_of_the_example_reads_what_is_sent(device: str) -> None:
    config = load_config(CONFIG, need_models=False)
    (source,) = [s for s in config.sources if isinstance(s, MqttSource)]
    sent = payload(HEALTHY, sensor(device), 11, EPOCH_NS)
    assert sent is not None
    where = topic(sensor(device))
    devices = {d.device.device_id: d.device for d in config.devices}
    routes = [Route.of(s, devices) for s in source.subscribe if filter_matches(s.filter, where)]
    (route,) = routes
    named, channel = route.names_in(where)
    blocks, refused = route.decoder.decode(sent[0], EPOCH_NS, device=named, channel=channel, retained=False)
    assert not refused
    (block,) = blocks
    assert (block.device_id, block.channels) == (device, sensor(device).channels)
    assert np.array_equal(block.values, reads(HEALTHY, device, 11))
    assert block.n_samples == sent[1]
    start_ns = EPOCH_NS + 11 * NS_PER_S
    assert block.times()[0] == start_ns
    if device.endswith("vibration"):
        assert (block.rate_hz, block.channels) == (Fraction(1000), AXES)


def test_the_example_has_every_sensor_of_the_plant_with_its_machine() -> None:
    devices = {d["id"]: d["machine"] for d in tomllib.loads(CONFIG.read_text())["device"]}
    assert devices == {s.device: s.machine for s in (*PLANT, BOARD)}


def test_the_gateway_of_the_example_reads_the_board_that_its_first_lines_start() -> None:
    config = load_config(CONFIG, need_models=False)
    (source,) = [s for s in config.sources if isinstance(s, SerialSource)]
    (device,) = [d.device for d in config.devices if d.device.device_id == source.device]
    assert (source.device, device.machine, device.rate_hz) == (BOARD.device, BOARD.machine, BOARD.rate_hz)
    assert device.channel_names == BOARD.channels
    words = f"simulate --link {source.port} --serial {BOARD.serial} --rate-hz {BOARD.rate_hz}"
    assert f"#   firmware-bridge {words} " in CONFIG.read_text()


def test_what_is_played_arrives_in_order_and_is_counted(tmp_path: Path) -> None:
    order = Order(
        epoch_ns=EPOCH_NS, from_s=3, until_s=6, speed=100, quiet_speed=100, vibration_from_s=4,
        machines=("fan-3",), faults=(Fault(FaultKind.SILENT, "fan-3-process", 5),),
    )  # fmt: skip
    with brokers.broker(tmp_path) as broker, brokers.Subscriber(broker.port, "plant/#", CLOCK_TOPIC) as came:
        assert main(["--port", str(broker.port), "--order", msgspec.json.encode(order).decode()]) == 0
        brokers.wait_for(lambda: any(b'"ended":true' in m.payload for m in came.messages), "the end")
        played = [(m.topic, m.payload) for m in came.messages if m.topic != CLOCK_TOPIC]
    expected = [(w, p) for s in (3, 4, 5) for w, p, _ in payloads(order.plant(), s, order)]
    assert played == expected
    assert len(expected) == 4
    last = msgspec.json.decode(came.messages[-1].payload, type=ClockReading)
    assert (last.second, last.n_messages, last.n_samples) == (6, 4, 2 * 2 + 2 * 3000)
    assert last.n_bytes == sum(len(p) for _, p in expected)


def test_a_broker_that_dies_ends_the_play_with_an_error(tmp_path: Path) -> None:
    order = Order(epoch_ns=EPOCH_NS, from_s=0, until_s=10_000, speed=50, quiet_speed=50, vibration_from_s=0)
    client = Client(CallbackAPIVersion.VERSION2)
    with brokers.broker(tmp_path) as broker, brokers.Subscriber(broker.port, "plant/#") as came:

        def kill() -> None:
            brokers.wait_for(lambda: came.messages, "the first message")
            broker.kill()

        client.connect(brokers.HOST, broker.port)
        client.loop_start()
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(ConnectionError, match="the broker"):
            play(order.plant(), order, client)
        killer.join()
    client.loop_stop()


def test_no_broker_is_one_line_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", str(brokers.free_port()), "--minutes", "0.1"]) == 1
    assert capsys.readouterr().err.startswith("plant_simulator: 127.0.0.1:")


def test_played_by_itself_nothing_comes_from_the_future(tmp_path: Path) -> None:
    with brokers.broker(tmp_path) as broker, brokers.Subscriber(broker.port, "plant/json/process/#") as came:
        assert main(["--port", str(broker.port), "--minutes", "0.1", "--speed", "6"]) == 0
        brokers.wait_for(lambda: len(came.messages) == 12, "six seconds of two machines")
        now_ns = time.time_ns()
    times = sorted(msgspec.json.decode(m.payload)["t"] for m in came.messages)
    assert times[-1] <= now_ns - NS_PER_S
    assert times[-1] - times[0] == 5 * NS_PER_S
