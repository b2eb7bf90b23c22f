"""The simulated plant: the same plant with and without faults, each fault what it says, and payloads that a gateway reads."""

from __future__ import annotations

import subprocess
import sys
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
from edge_node.sources.payloads import encode_packed
from examples.plant_simulator import CLOCK_TOPIC, ClockReading, Order, main, payload, payloads, play, topic
from examples.simulated_plant import (
    AXES,
    BOARD,
    FLEET,
    PLANT,
    Fault,
    FaultKind,
    Plant,
    Sensor,
    VibrationBoard,
)
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
    return reads_of(plant, sensor(device), second)


def reads_of(plant: Plant, of: Sensor, second: int) -> NDArray[np.float32]:
    values = plant.second(of, second)
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
    order = Order(epoch_ns=EPOCH_NS, from_s=0, until_s=100, speed=1)
    topics = {where for where, _, _ in payloads(FAULTY, BEGINS_S, order)}
    assert topics == {topic(s) for s in PLANT} - {topic(sensor("press-1-vibration"))}


def test_boards_send_as_much_at_once_as_the_order_says_and_gauges_every_second() -> None:
    one, four = (Order(epoch_ns=EPOCH_NS, from_s=0, until_s=10, speed=1, batch_s=n) for n in (1, 4))
    batched = [sent for second in (0, 4, 8) for sent in payloads(HEALTHY, second, four)]
    each = [sent for second in range(10) for sent in payloads(HEALTHY, second, one)]
    process = [[s for s in all_ if "/process/" in s[0]] for all_ in (batched, each)]
    assert sorted(process[0]) == sorted(process[1])
    packed = [s for s in batched if s[0] == topic(sensor("press-1-vibration"))]
    assert [n for _, _, n in packed] == [12_000, 12_000, 6_000]
    header = len(encode_packed(np.zeros((0, 3)), start_ns=0, rate_hz=Fraction(1)))
    signal = b"".join(payload[header:] for _, payload, _ in packed)
    assert signal == b"".join(reads(HEALTHY, "press-1-vibration", s).tobytes() for s in range(10))


def test_the_fleet_is_of_one_kind_and_how_far_it_follows_its_load_is_said_in_the_order() -> None:
    names = tuple(board.machine for board in FLEET)
    assert not set(names) & {s.machine for s in PLANT}
    spread = {}
    for swing in (0.06, 0.35):
        plant = Order(epoch_ns=0, from_s=0, until_s=60, speed=1, machines=names, swing=swing).plant()
        assert [s.device for s in plant.sensors] == list(names)
        for board in plant.sensors:
            values = np.concatenate([v for s in range(60) if (v := plant.second(board, s)) is not None])
            assert values.shape == (60_000, 1)
            spread[board.device, swing] = np.std(values.reshape(60, -1).std(axis=1))
    assert all(spread[name, 0.35] > 3 * spread[name, 0.06] for name in names)


def test_another_day_has_other_noise_and_other_loads() -> None:
    (board,) = (b for b in FLEET if b.device == "blower-1")
    days = [
        np.concatenate([reads_of(Plant(sensors=FLEET, seed=n), board, s) for s in range(60)]) for n in (1, 3)
    ]
    loads = [day.reshape(60, -1).std(axis=1) for day in days]
    assert abs(np.corrcoef(loads[0], loads[1])[0, 1]) < 0.8


def test_a_play_that_is_stopped_says_where_it_was(tmp_path: Path) -> None:
    order = Order(epoch_ns=EPOCH_NS, from_s=0, until_s=10_000, speed=50, machines=("fan-3",))
    words = [sys.executable, "-m", "examples.plant_simulator", "--order", msgspec.json.encode(order).decode()]
    with brokers.broker(tmp_path) as broker, brokers.Subscriber(broker.port, "plant/#", CLOCK_TOPIC) as came:
        with subprocess.Popen([*words, "--port", str(broker.port)], cwd=CONFIG.parents[1]) as process:
            brokers.wait_for(lambda: came.messages, "the first message", timeout_s=30)
            process.terminate()
            assert process.wait(30) == 0
        brokers.wait_for(lambda: any(b'"ended":true' in m.payload for m in came.messages), "the end")
        played = [m for m in came.messages if m.topic != CLOCK_TOPIC]
    last = msgspec.json.decode(came.messages[-1].payload, type=ClockReading)
    assert (last.n_messages, last.n_bytes) == (len(played), sum(len(m.payload) for m in played))
    assert 0 < last.second < 10_000


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
        epoch_ns=EPOCH_NS, from_s=3, until_s=6, speed=100,
        machines=("fan-3",), faults=(Fault(FaultKind.SILENT, "fan-3-process", 5),),
    )  # fmt: skip
    with brokers.broker(tmp_path) as broker, brokers.Subscriber(broker.port, "plant/#", CLOCK_TOPIC) as came:
        assert main(["--port", str(broker.port), "--order", msgspec.json.encode(order).decode()]) == 0
        brokers.wait_for(lambda: any(b'"ended":true' in m.payload for m in came.messages), "the end")
        played = [(m.topic, m.payload) for m in came.messages if m.topic != CLOCK_TOPIC]
    expected = [(w, p) for s in (3, 4, 5) for w, p, _ in payloads(order.plant(), s, order)]
    assert played == expected
    assert len(expected) == 5
    last = msgspec.json.decode(came.messages[-1].payload, type=ClockReading)
    assert (last.second, last.n_messages, last.n_samples) == (6, 5, 2 * 2 + 3 * 3000)
    assert last.n_bytes == sum(len(p) for _, p in expected)


def test_a_broker_that_dies_ends_the_play_with_an_error(tmp_path: Path) -> None:
    order = Order(epoch_ns=EPOCH_NS, from_s=0, until_s=10_000, speed=50)
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
