"""A fleet's model takes the place of what devices learn by themselves, or are about to; without a broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink.cli import main as cloud_sink
from edge_node.adoption import Adoption
from edge_node.assembly import assemble
from edge_node.carry_over import carry_over
from edge_node.cli import main as edge_node
from edge_node.config import ConfigError, load_config
from edge_node.feature_log import FOLDER, FeatureLog
from edge_node.model_store import load_bundle
from edge_node.segments import load
from models.messages import Alert, DeviceStateMessage, ModelState
from models.refusals import RefusalReason
from models.signal import NS_PER_S, SampleBlock
from models.time_policy import TimeTreatment
from models.topics import ModelTopics
from tests.edge_node.test_feature_log import rows_of
from tests.edge_node.test_learning import (
    DEVICE,
    HOP,
    IN_PROCESS,
    N_LEARN,
    RATE,
    T0_NS,
    WINDOW,
    blocks,
    broken,
    vibration,
    written,
)
from tests.edge_node.versions import PUBLIC, Version, messages, signed
from tests.edge_node.versions import written as bundle_written

FLEET, OWN = "presses", "learned-press-4"
FEW = 30  # windows of a trial
MODELS = f'[models]\ntrusted_keys = ["{PUBLIC}"]\nshadow_windows = {FEW}\n'
STATE = f'{IN_PROCESS}state_dir = "state"\n'
UPLINK = '[uplink]\nhost = "127.0.0.1"\nport = 1\n'
ONE = f'{DEVICE}fleet_model = "{FLEET}"\nalert = {{ cooldown_s = 0 }}\n'
OTHER = ONE.replace("press-4", "press-5")


def trained(folder: Path, values: NDArray[np.float32], *options: str) -> Version:
    """What a sink trains from a table of ``values``, signed."""
    folder.mkdir(parents=True)
    table, out = folder / "healthy.csv", folder / FLEET
    time_s = T0_NS / NS_PER_S + np.arange(len(values)) / RATE
    lines = [f"{t:.3f},{x:.6f},{y:.6f}" for t, (x, y) in zip(time_s, values.tolist(), strict=True)]
    table.write_text("\n".join(["time,x,y", *lines]))
    given = ["--rate-hz", str(RATE), "--unit", "x=m/s2", "--unit", "y=m/s2", *options]
    assert cloud_sink(["train", str(table), "-o", str(out), *given]) == 0
    bundle = load_bundle(out)
    return signed((bundle.manifest, bundle.artifacts))


VIBRATION = ("--features", "vibration", "--window", str(WINDOW), "--hop", str(HOP))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A model of presses that run as these do."""
    return trained(tmp_path_factory.mktemp("fleet") / "a", vibration(60 * RATE, seed=9), *VIBRATION)


class Gateway:
    """One life of a gateway in ``folder``, on the running loop, fed as the daemon feeds it."""

    def __init__(self, folder: Path, devices: str = ONE) -> None:
        self.said: list[ModelState] = []
        self.alerts: list[Alert] = []
        self.states: list[tuple[str, str]] = []
        self.now_ns, self.n = T0_NS, 0
        self.blobs: dict[str, bytes] = {}
        self.config = load_config(written(folder, devices, MODELS + UPLINK, STATE))
        self.core = assemble(self.config, on_notice=lambda text: None)
        self.models = Adoption(
            self.config,
            self.core,
            folder / "state",
            publish=self.said.append,
            now_ns=lambda: self.now_ns,
        )
        self.log = FeatureLog(folder / "state", self.config, self.core)

    @property
    def serving(self) -> dict[str, tuple[str, int] | None]:
        return {
            p.device.device_id: None if p.model is None else (p.model.model_id, p.model.version)
            for p in self.core.plans
        }

    @property
    def told(self) -> list[tuple[str, str, int]]:
        return [(s.model_id, s.state, s.version) for s in self.said]

    def feed(self, n: int, make: Callable[..., NDArray[np.float32]] = vibration) -> None:
        """``n`` more samples of every device."""
        values = make(n, seed=self.n, start=self.n)
        for device_id in self.serving:
            for block in blocks(values, 1000, self.n, device_id):
                self._take(block)
        self.n += n

    async def stop(self) -> None:
        await self.models.stop()
        self.log.close()

    def _take(self, block: SampleBlock) -> None:
        self.log.begin_turn(self.core)
        self.core.push(block)
        self.models.push([block])
        self.now_ns = block.arrival_ns
        self.models.advance(self.now_ns)
        self.core.score()
        for event in self.core.pipeline.events():
            if isinstance(event.event, Alert):
                self.alerts.append(event.event)
            elif isinstance(event.event, DeviceStateMessage):
                self.states.append((event.event.device, event.event.state.value))
        self.log.end_turn(self.core)

    def offer(self, version: Version, gateway: str | None = None) -> None:
        *blobs, (topic, manifest) = messages(version, gateway, ModelTopics("linewatch", FLEET))
        self.blobs |= dict(blobs)
        self.models.inbox.hear(topic, manifest, True)

    async def until(self, condition: Callable[[], object], what: str, *, feeding: bool = False) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen; said: {self.told}"
            for topic, _ in self.models.inbox.filters:
                if topic in self.blobs:
                    self.models.inbox.hear(topic, self.blobs[topic], True)
            if feeding:
                self.feed(HOP)
            self.models.check()
            self.models.advance(self.now_ns)
            await asyncio.sleep(0.01)

    async def taken_over(self, version: int) -> None:
        await self.until(
            lambda: self.told[-1:] == [(FLEET, "adopted", version)], f"takeover by {version}", feeding=True
        )
        assert set(self.serving.values()) == {(FLEET, version)}

    async def learn(self) -> None:
        self.feed(N_LEARN)
        await self.until(lambda: None not in self.serving.values(), "a model of its own", feeding=True)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


def test_it_takes_the_place_of_what_was_learned_and_that_comes_back(tmp_path: Path, fleet: Version) -> None:
    async def first() -> None:
        gateway = Gateway(tmp_path)
        await gateway.learn()
        assert gateway.serving == {"press-4": (OWN, 0)}
        gateway.offer(signed(fleet, version=3))
        await gateway.taken_over(3)
        assert gateway.told == [(OWN, "adopted", 0), (FLEET, "shadow", 3), (FLEET, "adopted", 3)]
        counters = gateway.core.pipeline.counters()
        assert counters.n_windows_closed == sum(
            (counters.n_windows_scored, counters.n_windows_pending, *counters.window_drops.values())
        )
        gateway.feed(10 * RATE)
        assert gateway.alerts == []
        gateway.feed(10 * RATE, broken)
        assert (gateway.alerts[0].state, gateway.alerts[0].model_id) == ("raised", FLEET)
        n_scored = gateway.core.pipeline.counters().n_windows_scored
        await gateway.stop()
        files = [rows_of(segment.path) for segment in load(tmp_path / "state" / FOLDER)]
        assert [len(rows) > 0 for rows in files] == [
            True,
            True,
        ]  # features of either mean something of their own
        assert sum(map(len, files)) == n_scored

    async def second() -> None:
        gateway = Gateway(tmp_path)  # a restart: what was adopted serves
        assert gateway.serving == {"press-4": (FLEET, 3)}
        track = gateway.models._tracks[FLEET]
        track._go_back(RefusalReason.TOO_MANY_ALERTS, "it alerts too often", ban=True)
        await gateway.until(lambda: gateway.serving == {"press-4": (OWN, 0)}, "back to its own")
        await gateway.until(lambda: (FLEET, "rolled_back", 3) in gateway.told, "a word")
        assert "rolled back to what is learned here: it alerts too often" in gateway.said[-1].text
        await gateway.stop()

    run(first)
    run(second)


def test_it_takes_over_from_devices_that_still_learn_after_a_trial_of_their_own(
    tmp_path: Path, fleet: Version
) -> None:
    async def story() -> None:
        gateway = Gateway(tmp_path, ONE + OTHER)
        gateway.feed(20 * HOP)
        gateway.offer(signed(fleet, version=1))
        await gateway.taken_over(1)
        assert gateway.told == [(FLEET, "shadow", 1), (FLEET, "adopted", 1)]
        assert f"{2 * FEW} windows on trial" in gateway.said[-1].text
        gateway.feed(5 * RATE)
        assert set(gateway.states[-2:]) == {("press-4", "normal"), ("press-5", "normal")}
        assert gateway.core.pipeline.learning() == {}
        await gateway.stop()

    run(story)


def test_one_that_these_machines_are_not_like_is_refused_and_they_learn_on(
    tmp_path: Path, fleet: Version
) -> None:
    other = trained(tmp_path / "other", 3 * vibration(60 * RATE, seed=9), *VIBRATION)

    async def story() -> None:
        gateway = Gateway(tmp_path)
        gateway.feed(20 * HOP)
        gateway.offer(signed(other, version=1))
        await gateway.until(lambda: (FLEET, "refused", 1) in gateway.told, "refusal", feeding=True)
        assert gateway.said[-1].reason is RefusalReason.OTHER_SCORES
        await gateway.learn()
        assert gateway.serving == {"press-4": (OWN, 0)}
        gateway.offer(signed(fleet, version=2))
        await gateway.taken_over(2)
        await gateway.stop()

    run(story)


def test_a_device_that_had_learned_nothing_learns_anew_when_it_is_rolled_back(
    tmp_path: Path, fleet: Version
) -> None:
    async def story() -> None:
        gateway = Gateway(tmp_path)
        gateway.offer(signed(fleet, version=1))
        await gateway.taken_over(1)
        gateway.feed(10 * RATE, broken)
        (alert,) = gateway.alerts
        assert gateway.states[-1] == ("press-4", "anomalous")
        track = gateway.models._tracks[FLEET]
        track._go_back(RefusalReason.TOO_SLOW, "it takes too long", ban=True)
        await gateway.until(lambda: (FLEET, "rolled_back", 1) in gateway.told, "rollback")
        gateway.feed(HOP)
        ended = gateway.alerts[-1]
        assert (ended.alert_id, ended.state) == (alert.alert_id, "cleared")
        assert "the model that said this scores no more" in ended.message
        assert gateway.states[-1] == ("press-4", "learning")
        assert 0 < gateway.core.pipeline.learning()["press-4"][0] < 0.1
        snapshot = gateway.core.pipeline.snapshot()
        n_scored = gateway.core.pipeline.counters().n_windows_scored
        await gateway.stop()
        files = [segment.path for segment in load(tmp_path / "state" / FOLDER)]
        assert sum(len(rows_of(path)) for path in files) == n_scored
        again = Gateway(tmp_path)  # and so it does after a restart
        again.core.pipeline.restore(snapshot)
        assert again.serving == {"press-4": None}
        again.n = gateway.n
        await again.learn()
        assert again.serving == {"press-4": (OWN, 0)}
        again.offer(signed(fleet, version=1))
        await again.until(lambda: (FLEET, "refused", 1) in again.told, "refusal of what misbehaved")
        await again.stop()

    run(story)


def test_a_canary_takes_over_and_is_taken_back(tmp_path: Path, fleet: Version) -> None:
    async def story() -> None:
        gateway = Gateway(tmp_path)
        gateway.offer(signed(fleet, version=2), gateway="s1/g1")
        await gateway.taken_over(2)
        topic = ModelTopics("linewatch", FLEET).canary("s1/g1")
        gateway.models.inbox.hear(topic, b"", False)
        await gateway.until(lambda: gateway.serving == {"press-4": None}, "what it had before")
        gateway.offer(signed(fleet, version=1))
        await gateway.taken_over(1)
        await gateway.stop()

    run(story)


def test_a_reload_goes_on_with_it(tmp_path: Path, fleet: Version) -> None:
    async def story() -> None:
        gateway = Gateway(tmp_path)
        gateway.offer(signed(fleet, version=1))
        await gateway.taken_over(1)
        again = assemble(gateway.config, on_notice=lambda text: None)
        gateway.models.take_over(gateway.config, again)
        assert carry_over(gateway.core, again, same_gateway=True) == 1
        assert [(m.model_id, m.version) for m in again.models] == [(FLEET, 1)]
        await gateway.stop()

    run(story)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--features", "vibration", "--window", "512", "--hop", "128"), "window = 256"),
        (
            ("--features", "slow", "--window", "256", "--hop", "128"),
            'its features are of the set "slow", and "vibration" is learned here',
        ),
    ],
)
def test_one_of_other_windows_or_features_is_refused_by_line(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    other = trained(tmp_path / "other", vibration(60 * RATE, seed=9), *options)

    async def story() -> None:
        gateway = Gateway(tmp_path)
        gateway.offer(signed(other, version=1))
        await gateway.until(lambda: (FLEET, "refused", 1) in gateway.told, "refusal")
        assert gateway.said[-1].reason is RefusalReason.WRONG_SCHEMA
        assert said in gateway.said[-1].text
        await gateway.stop()

    run(story)


def test_one_of_another_treatment_of_time_says_which(tmp_path: Path, fleet: Version) -> None:
    async def story() -> None:
        gateway = Gateway(tmp_path)
        manifest, _ = fleet
        assert isinstance(manifest.time, TimeTreatment)
        loose = msgspec.structs.replace(manifest.time, min_valid=0.5)
        gateway.offer(signed(fleet, version=1, time=loose))
        await gateway.until(lambda: (FLEET, "refused", 1) in gateway.told, "refusal")
        assert "it was trained with min_valid = 0.5 where 1 is used here" in gateway.said[-1].text
        await gateway.stop()

    run(story)


def test_commands_say_that_it_serves(
    tmp_path: Path, fleet: Version, capsys: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        gateway = Gateway(tmp_path)
        gateway.offer(signed(fleet, version=4))
        await gateway.taken_over(4)
        await gateway.stop()

    path = written(tmp_path, ONE, MODELS + UPLINK, STATE)
    assert edge_node(["check", "-c", str(path)]) == 0
    assert f"until {FLEET} is published" in capsys.readouterr().out
    run(story)
    assert edge_node(["check", "-c", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{FLEET} v4, adopted here, serves in place of what is learned here" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MODELS + ONE, "no model that is published is ever taken here: add an [uplink]"),
        (UPLINK + ONE, "name the public key that it is signed with in [models] trusted_keys"),
        (
            MODELS + UPLINK + ONE.replace('"learn"', '"none"'),
            'it takes the place of what a device learns by itself: set model = "learn", or leave it out',
        ),
        (MODELS + UPLINK + ONE.replace(FLEET, "all presses"), "no model can be published under this name"),
    ],
)
def test_a_fleets_model_that_could_never_take_over_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(f'[gateway]\nname = "g1"\nsite = "s1"\n{IN_PROCESS}{text}')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (line,) = str(caught.value).splitlines()
    n = path.read_text()[: path.read_text().index("fleet_model")].count("\n") + 1
    assert f'gateway.toml:{n}: [[device]] "press-4": fleet_model = ' in line
    assert said in line


def test_a_fleets_model_that_another_device_is_configured_with_is_named_there(
    tmp_path: Path, fleet: Version
) -> None:
    bundle = bundle_written(tmp_path / "presses", fleet)
    configured = DEVICE.replace("press-4", "press-5").replace('"learn"', f'"{bundle}"')
    path = written(tmp_path, ONE + configured, MODELS + UPLINK)
    with pytest.raises(ConfigError) as caught:
        assemble(load_config(path), on_notice=lambda text: None)
    assert 'fleet_model = "presses": press-5 has this model already: name it here too' in str(caught.value)
