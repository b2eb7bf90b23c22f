"""A new configuration without the model, while that is looked at or taken back: the gateway goes on."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_node import model_admission
from edge_node.assembly import assemble
from models.refusals import RefusalReason
from models.signal import NS_PER_S
from tests.edge_node.adopting import Gateway, Site, run
from tests.edge_node.versions import good, signed


def slow(work: Callable[..., Any]) -> Callable[..., Any]:
    def later(*given: Any, **named: Any) -> Any:
        done = work(*given, **named)
        time.sleep(0.4)
        return done

    return later


def without_model(gateway: Gateway, site: Site) -> None:
    """The device goes on without one."""
    text = re.sub(r"(?m)^(model|alerts_per_week) *=.*$", "", site.path.read_text())
    site.path.write_text(text)
    core = assemble(site.config, on_notice=lambda _: None)
    gateway.models.take_over(site.config, core)
    gateway.core.close()
    gateway.core, gateway.config = core, site.config


@pytest.mark.parametrize("under_way", ["screened", "taken back"])
def test_a_reload_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under_way: str) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        if under_way == "screened":
            monkeypatch.setattr(model_admission, "screen", slow(model_admission.screen))
            gateway.offer(signed(good(2, 2)))
        else:
            await gateway.adopt(signed(good(2, 2)))
            monkeypatch.setattr(model_admission, "prepare", slow(model_admission.prepare))
            (track,) = gateway.models._tracks.values()
            track._go_back(RefusalReason.TOO_MANY_ALERTS, "it raises too many", ban=True)
        await asyncio.sleep(0.2)
        without_model(gateway, site)
        await asyncio.sleep(0.8)
        gateway.models.check()  # raises what ended a part of it
        await gateway.stop()

    run(story)


def test_a_clock_that_is_set_is_no_time_in_service(tmp_path: Path) -> None:
    async def story() -> None:
        gateway = Gateway(Site(tmp_path, good(1)))
        (track,) = gateway.models._tracks.values()
        second, day = NS_PER_S, 86_400 * NS_PER_S
        start_ns, now_s = 1_790_000_000 * second, 100.0
        assert track._clock_set_by(start_ns, now_s) == 0
        assert track._clock_set_by(start_ns + second, now_s + 1) == 0
        assert track._clock_set_by(start_ns + 2 * second + day, now_s + 2) == day
        assert track._clock_set_by(start_ns + 3 * second + day, now_s + 3) == day
        assert track._clock_set_by(start_ns + 4 * second, now_s + 4) == 0
        await gateway.stop()

    run(story)
