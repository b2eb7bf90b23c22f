"""Models that come over the uplink and serve: adopted, watched, rolled back, as canaries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node import model_track
from edge_node.inference import Scored
from edge_node.plans import NotDrained
from models.publication import withdrawal
from models.runtime import GraphUnusable
from tests.edge_node.adopting import FEW, Gateway, Site, healthy, run
from tests.edge_node.versions import (
    TOPICS,
    back_to,
    calm,
    good,
    messages,
    narrow,
    signed,
)
from tests.fixtures.make_bundle import signal

NO_REST = "alert = { cooldown_s = 0 }"


def folders(site: Site) -> list[str]:
    return sorted(path.name.split("-")[0] for path in site.shelf.iterdir())


def flapping() -> Callable[[], NDArray[np.float32]]:
    """Calm, and ordinary running now and then."""
    n = 0

    def more() -> NDArray[np.float32]:
        nonlocal n
        n += 1
        return calm(60, seed=n) if n % 2 else signal(4000, seed=n)[80:170]

    return more


def test_it_serves_and_the_one_before_is_kept(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        before = gateway.core.pipeline.counters().n_windows_scored
        for version in (2, 3, 4):
            said = await gateway.adopt(signed(good(version, version)))
            assert (said.running, gateway.version, said.reason) == (version, version, None)
        assert "windows on trial" in said.text
        assert folders(site) == ["record.json", "v3", "v4"]
        assert len(gateway.core.engines) == 1
        assert gateway.models.adoptions == {"fixture": 3}
        counters = gateway.core.pipeline.counters()
        assert counters.n_windows_scored - before == counters.n_windows_closed > 3 * FEW
        starts = np.concatenate([trace.start_ns for trace in gateway.traces])
        assert np.array_equal(np.diff(starts), np.full(len(starts) - 1, 10 * 10**9))
        await gateway.stop()
        again = Gateway(site)
        assert (again.version, again.states) == (4, [("adopted", 4, None)])
        await again.stop()

    run(story)


def test_without_keys_nothing_is_taken(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1), keys=False)

    async def story() -> None:
        gateway = Gateway(site)
        assert gateway.models.inbox.filters == ()
        gateway.offer(signed(good(2)))
        await asyncio.sleep(0.3)
        assert (gateway.said, gateway.version) == ([], 1)
        await gateway.stop()

    run(story)


def test_where_nothing_can_be_written_it_lasts_as_long_as_the_process(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))
    site.state = None

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        await gateway.adopt(signed(good(3)))
        gateway.said.clear()
        gateway.offer(back_to(good(2), 3))
        await gateway.decided("adopted", 2, feeding=healthy())
        assert not gateway.models.troubles()
        await gateway.stop()
        again = Gateway(site)
        assert again.version == 1
        await again.stop()

    run(story)


def test_a_disk_that_is_full_is_a_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        assert site.state is not None
        site.state.mkdir()
        (site.state / "models").write_text("not a directory")
        await gateway.adopt(signed(good(2)))
        (trouble,) = gateway.models.troubles()
        assert "cannot be kept" in trouble.text
        (site.state / "models").unlink()
        await gateway.adopt(signed(good(3)))
        assert not gateway.models.troubles()
        await gateway.stop()

    run(story)


def test_a_version_goes_back_by_a_signed_order_alone_and_once(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        second, third = signed(good(2)), signed(good(3))
        await gateway.adopt(second)
        await gateway.adopt(third)
        gateway.offer(second)  # an attacker with an old manifest
        assert (await gateway.decided("refused", 2)).reason == "not_newer"
        gateway.offer(back_to(good(2), 4))  # an order for another version
        await gateway.until(lambda: len(gateway.said) == 6, "a second refusal")
        assert gateway.states[-1] == ("refused", 2, "not_newer")
        order = back_to(good(2), 3)
        gateway.said.clear()
        gateway.offer(order)
        assert (await gateway.decided("adopted", 2, feeding=healthy())).running == 2
        gateway.said.clear()
        gateway.offer(third)  # what was taken back, played again
        assert (await gateway.decided("refused", 3)).reason == "misbehaved"
        await gateway.adopt(signed(good(4)))
        gateway.said.clear()
        gateway.offer(order)  # the order, played again
        assert (await gateway.decided("refused", 2)).reason == "not_newer"
        assert gateway.version == 4
        await gateway.stop()

    run(story)


def test_a_canary_goes_before_until_it_is_taken_back(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        said = await gateway.adopt(signed(good(3)), "s1/g1")
        assert said.canary
        gateway.models.inbox.hear(*messages(signed(good(2)))[-1], True)  # heard again on a reconnect: known
        gateway.offer(signed(good(4)))  # waits: the canary is there
        await asyncio.sleep(0.5)
        assert (gateway.version, gateway.states[-1]) == (3, ("adopted", 3, None))
        gateway.models.inbox.hear(*withdrawal(TOPICS, "s1/g1"), False)
        said = await gateway.decided("rolled_back", 3)
        assert (said.reason, said.running, said.canary) == ("taken_back", 2, True)
        await gateway.decided("adopted", 4, feeding=healthy())
        assert not gateway.models.troubles()
        gateway.said.clear()
        gateway.offer(signed(good(3)), "s1/g1")  # the withdrawn canary, played again
        assert (await gateway.decided("refused", 3)).reason == "not_newer"
        await gateway.stop()

    run(story)


def test_a_canary_that_is_for_all_now_is_not_tried_again(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)), "s1/g1")
        gateway.said.clear()
        gateway.offer(signed(good(2)))
        said = await gateway.decided("adopted", 2)
        assert not said.canary
        gateway.models.inbox.hear(*withdrawal(TOPICS, "s1/g1"), False)
        await asyncio.sleep(0.5)
        assert gateway.states == [("adopted", 2, None)]
        await gateway.stop()
        again = Gateway(site)
        assert (again.version, again.said[-1].canary) == (2, False)
        await again.stop()

    run(story)


def test_a_canary_that_is_for_all_and_taken_back_in_one_breath_stays(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)), "s1/g1")
        gateway.said.clear()
        for heard in (messages(signed(good(2)))[-1], withdrawal(TOPICS, "s1/g1")):  # as a sink promotes it
            gateway.models.inbox.hear(*heard, False)
        await gateway.decided("adopted", 2)
        await asyncio.sleep(0.5)
        assert (gateway.version, gateway.states) == (2, [("adopted", 2, None)])
        await gateway.stop()
        again = Gateway(site)
        assert (again.version, again.said[-1].canary) == (2, False)
        await again.stop()

    run(story)


def test_a_canary_that_was_taken_back_while_nobody_listened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_track, "CANARY_PATIENCE_S", 0.3)
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        await gateway.adopt(signed(good(3)), "s1/g1")
        await gateway.stop()
        again = Gateway(site)
        assert again.version == 3
        stable, canary = (messages(signed(good(n)), g)[-1] for n, g in ((2, None), (3, "s1/g1")))
        for heard in (stable, canary):  # both are there
            again.models.inbox.hear(*heard, True)
        await asyncio.sleep(0.6)
        again.feed(signal(100, seed=1))
        await asyncio.sleep(0.1)
        assert again.version == 3
        again.models.inbox.hear(*stable, True)  # after a reconnect: the canary is not
        await again.until(lambda: again.version == 2, "the end of the canary", feeding=healthy())
        assert (await again.decided("rolled_back", 3)).reason == "taken_back"
        await again.stop()

    run(story)


def test_what_misbehaves_is_rolled_back_and_never_served_again(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1), device=NO_REST)

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        gateway.offer(signed(narrow(3)))
        await gateway.decided("adopted", 3, feeding=lambda: calm(50, seed=gateway.n_rows))
        said = await gateway.decided("rolled_back", 3, feeding=flapping())
        assert (said.reason, said.running, gateway.version) == ("too_many_alerts", 2, 2)
        assert "alerts since it took over" in said.text
        (trouble,) = gateway.models.troubles()
        assert said.text in trouble.text
        assert gateway.models.rollbacks == {("fixture", "too_many_alerts"): 1}
        gateway.said.clear()
        gateway.offer(signed(narrow(3)))
        assert (await gateway.decided("refused", 3)).reason == "misbehaved"
        await gateway.stop()
        again = Gateway(site)
        assert again.version == 2
        again.offer(signed(narrow(3)))
        assert (await again.decided("refused", 3)).reason == "misbehaved"
        await again.adopt(signed(good(4)))
        assert not again.models.troubles()
        await again.stop()

    run(story)


def test_a_swap_waits_until_no_window_is_out(tmp_path: Path) -> None:
    """As while a process that scores is being started again."""
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        real, n = gateway.core.pipeline.adopt, 0

        def adopt(plans: Any) -> None:
            nonlocal n
            n += 1
            if n < 4:
                raise NotDrained
            real(plans)

        gateway.core.pipeline.adopt = adopt  # type: ignore[method-assign]
        await gateway.adopt(signed(good(2)))
        assert (n, gateway.version) == (4, 2)
        await gateway.stop()

    run(story)


def test_inference_that_fails_after_the_swap(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        await gateway.adopt(signed(good(2)))
        (engine,) = gateway.core.engines.values()

        def fail(_: NDArray[np.float32]) -> Scored:
            raise GraphUnusable("out of order")

        engine.run = fail  # type: ignore[method-assign]
        said = await gateway.decided("rolled_back", 2, feeding=healthy())
        assert (said.reason, gateway.version) == ("inference_failed", 1)  # what the configuration names
        scored = gateway.core.pipeline.counters().n_windows_scored
        gateway.feed(signal(100, seed=2))
        assert gateway.core.pipeline.counters().n_windows_scored == scored + 10
        await gateway.stop()

    run(story)


def test_a_newer_offer_ends_a_trial_and_rubbish_does_not(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        gateway.offer(signed(good(2)))
        await gateway.decided("shadow", 2)
        gateway.models.inbox.hear(TOPICS.stable, b"rubbish", False)
        await gateway.decided("refused", 0)
        gateway.feed(signal(10 * FEW // 2, seed=1))
        gateway.offer(signed(good(3)))
        await gateway.decided("shadow", 3)
        await gateway.decided("adopted", 3, feeding=healthy())
        states = [
            ("shadow", 2, None),
            ("refused", 0, "bad_manifest"),
            ("shadow", 3, None),
            ("adopted", 3, None),
        ]
        assert gateway.states == states
        await gateway.stop()

    run(story)
