"""What was adopted, after a restart, and with a new configuration."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node import model_record
from edge_node.assembly import assemble
from edge_node.carry_over import carry_over
from models.manifest import digest
from tests.edge_node.adopting import FEW, Gateway, Site, healthy, run
from tests.edge_node.versions import (
    KEY,
    back_to,
    good,
    signed,
    written,
)
from tests.fixtures.make_bundle import signal


def damaged_graph(place: Path) -> None:
    file = next(place.glob("*.tflite"))
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def cut_manifest(place: Path) -> None:
    file = place / "manifest.json"
    file.write_bytes(file.read_bytes()[:-100])


def another_model(place: Path) -> None:
    """Signed, and under the name of this one."""
    shutil.rmtree(place)
    written(place, signed(good(1)))


@pytest.mark.parametrize("damage", [damaged_graph, cut_manifest, another_model, shutil.rmtree])
def test_what_is_damaged_on_disk_is_set_aside(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        await gateway.adopt(signed(good(3)))
        await gateway.stop()
        (place,) = site.shelf.glob("v3-*")
        damage(place)
        again = Gateway(site)
        assert again.version == 2
        assert not place.exists()
        assert len(list(site.shelf.glob("damaged-*"))) == (damage is not shutil.rmtree)
        await again.adopt(signed(good(4)))
        await again.stop()
        for place in site.shelf.glob("v*"):
            damage(place)
        last = Gateway(site)
        assert last.version == 1  # what the configuration names
        await last.stop()

    run(story)


def test_where_nothing_can_be_tried_what_was_adopted_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passed when it was adopted, and it is what was signed."""
    site = Site(tmp_path, good(1))

    def no_process(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        await gateway.stop()
        with monkeypatch.context() as patched:
            patched.setattr("edge_node.model_probe.subprocess.Popen", no_process)
            again = Gateway(site)
            assert again.version == 2
            again.offer(signed(good(3)))
            assert (await again.decided("refused", 3)).reason == "overloaded"
        await again.stop()

    run(story)


def test_a_damaged_record_is_set_aside(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        await gateway.stop()
        record = site.shelf / "record.json"
        record.write_bytes(record.read_bytes()[:-40])
        again = Gateway(site)
        assert again.version == 1
        assert list(site.shelf.glob("damaged-*-record.json"))
        await again.adopt(signed(good(3)))
        await again.stop()

    run(story)


def test_a_gateway_that_ends_time_and_again_while_a_version_is_new(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        for n in range(1, model_record.MAX_STARTS + 1):
            doomed = Gateway(site)
            assert doomed.version == 2
            await doomed.until(
                lambda n=n: json.loads((site.shelf / "record.json").read_text())["n_starts"] == n,  # type: ignore[misc]
                "the count of starts",
            )  # and it is killed
        again = Gateway(site)
        said = await again.decided("rolled_back", 2)
        assert (said.reason, said.running) == ("restarts", 1)
        assert len(again.models.troubles()) == 1
        await again.stop()
        orderly = Gateway(site)
        assert (orderly.version, orderly.said) == (1, [])
        await orderly.stop()

    run(story)


def test_ends_in_good_order_do_not_count(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        await gateway.stop()
        for _ in range(model_record.MAX_STARTS + 1):
            again = Gateway(site)
            assert again.version == 2
            await again.stop()

    run(story)


def test_alerts_that_were_open_before_a_restart_are_not_held_against_it(tmp_path: Path) -> None:
    """The state of the devices comes back after the models: what is open then is not new."""
    site = Site(tmp_path, good(1), models="shadow_windows = 20\n", device="alert = { cooldown_s = 0 }")

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        fault = (signal(1000, seed=4) + np.array([15.0, 1.5])).astype(np.float32)
        gateway.feed(fault[:200])
        (alert,) = gateway.core.pipeline.open_alerts("pump-1")
        snapshot = gateway.core.pipeline.snapshot()
        await gateway.stop()
        again = Gateway(site)
        again.n_rows = gateway.n_rows
        again.core.pipeline.restore(snapshot)
        assert [a.alert_id for a in again.core.pipeline.open_alerts("pump-1")] == [alert.alert_id]
        for i in range(2):  # two more, and three are too many
            again.feed(signal(200, seed=i))
            again.feed(fault[:100])
            assert len([a for a in again.alerts if a.state == "raised"]) == i + 1
        await asyncio.sleep(0.1)
        assert again.version == 2
        again.feed(signal(200, seed=5))
        again.feed(fault[:100])
        assert (await again.decided("rolled_back", 2)).reason == "too_many_alerts"
        await again.stop()

    run(story)


def test_a_newer_bundle_of_the_configuration_goes_first(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        await gateway.stop()
        shutil.rmtree(site.bundle)
        written(site.bundle, signed(good(3)))
        again = Gateway(site)
        assert again.version == 3
        again.offer(signed(good(2)))
        assert (await again.decided("refused", 2)).reason == "not_newer"
        await again.adopt(signed(good(4)))
        gateway = Gateway(site)
        assert gateway.version == 4
        await again.stop()
        await gateway.stop()

    run(story)


def test_a_version_of_the_configuration_that_was_taken_back_stays_so(tmp_path: Path) -> None:
    site = Site(tmp_path, good(5))

    async def story() -> None:
        gateway = Gateway(site)
        gateway.offer(back_to(good(2), 5))
        await gateway.decided("adopted", 2, feeding=healthy())
        await gateway.stop()
        again = Gateway(site)
        assert again.version == 2
        await again.stop()

    run(story)


def reload(gateway: Gateway, site: Site) -> None:
    """As the daemon does on SIGHUP."""
    config = site.config
    core = assemble(config, on_notice=lambda _: None)
    gateway.models.take_over(config, core)
    assert carry_over(gateway.core, core, same_gateway=True) == 1
    gateway.core, gateway.config = core, config
    gateway.traces = core.pipeline.tap(["pump-1"])


def test_a_new_configuration_keeps_what_was_adopted(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        before = gateway.core.pipeline.counters()
        site.path.write_text(site.path.read_text().replace("shadow_windows = 40", "shadow_windows = 30"))
        reload(gateway, site)
        assert gateway.version == 2
        assert gateway.core.pipeline.counters() == before
        await gateway.adopt(signed(good(3)))
        assert gateway.version == 3
        await gateway.stop()

    run(story)


def test_a_trial_begins_anew_with_a_new_configuration(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        gateway.offer(signed(good(2)))
        await gateway.decided("shadow", 2)
        gateway.feed(signal(10 * FEW // 2, seed=1))
        reload(gateway, site)
        await gateway.decided("adopted", 2, feeding=healthy())
        assert gateway.states == [("shadow", 2, None), ("shadow", 2, None), ("adopted", 2, None)]
        await gateway.stop()

    run(story)


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_key_that_is_not_trusted_any_more_ends_what_it_signed(tmp_path: Path, on_disk: bool) -> None:
    site = Site(tmp_path, good(1))
    if not on_disk:
        site.state = None
    text = site.path.read_text()

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        site.path.write_text(text.replace("trusted_keys", "#trusted_keys"))
        config = site.config
        core = assemble(config, on_notice=lambda _: None)
        gateway.models.take_over(config, core)
        assert [m.version for m in core.models] == [1]
        site.path.write_text(text)
        config = site.config
        core = assemble(config, on_notice=lambda _: None)
        gateway.models.take_over(config, core)
        assert [m.version for m in core.models] == [2]  # it was kept
        await gateway.stop()

    run(story)


def test_what_is_on_the_shelf_is_what_was_signed(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        version = signed(good(2))
        await gateway.adopt(version)
        (place,) = site.shelf.glob("v2-*")
        assert place.name == f"v2-{digest(version[0])[:16]}"
        assert json.loads((place / "manifest.json").read_text())["signature"]
        assert site.shelf.stat().st_mode & 0o077 == 0
        assert KEY.public_key() in gateway.config.trusted_keys
        await gateway.stop()

    run(story)
