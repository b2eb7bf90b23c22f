"""A gateway's core and its adoption of models without a broker, for tests: what comes is put into its inbox, what it says
is kept, and signal is fed as the daemon feeds it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_node.adoption import Adoption
from edge_node.assembly import Core, assemble
from edge_node.config import Config, load_config
from edge_node.settling import Trace
from models.messages import Alert, ModelState
from models.signal import NS_PER_S, SampleBlock
from tests.edge_node.daemons import config as write_config
from tests.edge_node.versions import PUBLIC, Version, messages, signed, written
from tests.fixtures.make_bundle import signal

T0_S = 1_790_000_000
FEW = 40  # windows of a trial
OPTIONS = f"shadow_windows = {FEW}\nprobe_timeout_s = 20"


class Site:
    """A folder with a configuration that names ``version``, and the state of the gateway beside it."""

    def __init__(
        self, folder: Path, version: Version, *, models: str = OPTIONS, keys: bool = True, device: str = ""
    ) -> None:
        self.folder = folder
        self.bundle = written(folder / "bundle", signed(version))
        pinned = f'trusted_keys = ["{PUBLIC}"]\n' if keys else ""
        self.path = write_config(
            folder, 1883, bundle=self.bundle, gateway=f"[models]\n{pinned}{models}", extra=device
        )
        self.state: Path | None = folder / "state"

    @property
    def config(self) -> Config:
        return load_config(self.path)

    @property
    def shelf(self) -> Path:
        assert self.state is not None
        return self.state / "models" / "fixture"


class Gateway:
    """One life of the gateway of ``site``, on the running loop."""

    def __init__(self, site: Site, *, false: Callable[[], Collection[str]] = frozenset) -> None:
        self.said: list[ModelState] = []
        self.alerts: list[Alert] = []
        self.n_rows = 0
        self.crowded = False
        self.config = site.config
        self.core: Core = assemble(self.config, on_notice=lambda _: None)
        self.models = Adoption(
            self.config,
            self.core,
            site.state,
            publish=self.said.append,
            crowded=lambda: self.crowded,
            labelled_false=false,
            now_ns=lambda: (T0_S + self.n_rows) * NS_PER_S,
        )
        self.traces: list[Trace] = self.core.pipeline.tap(["pump-1"])

    @property
    def version(self) -> int:
        (model,) = self.core.models
        return model.version

    @property
    def states(self) -> list[tuple[str, int, str | None]]:
        """(state, version, reason) of all that was said."""
        return [(s.state, s.version, s.reason and s.reason.value) for s in self.said]

    def feed(self, values: NDArray[np.float32], *, at_once: int = 10) -> None:
        """A row a second, ``at_once`` rows a block, and a tick behind each block."""
        for i in range(0, len(values), at_once):
            part = values[i : i + at_once]
            time_ns = (T0_S + self.n_rows + np.arange(len(part))) * NS_PER_S
            self.n_rows += len(part)
            now_ns = int(time_ns[-1]) + 1
            names = ("Temperature", "Pressure")
            block = SampleBlock.irregular("pump-1", names, part, time_ns=time_ns, arrival_ns=now_ns)
            self.core.push(block)
            self.models.push([block])
            self.core.pipeline.advance(now_ns)
            self.core.score()
            self.models.advance(now_ns)
            self.alerts += [e.event for e in self.core.pipeline.events() if isinstance(e.event, Alert)]

    def offer(self, version: Version, gateway: str | None = None, *, retained: bool = False) -> None:
        """Publishes it: graphs are there for whoever wants them."""
        *blobs, (topic, manifest) = messages(version, gateway)
        self.blobs = dict(blobs)
        self.models.inbox.hear(topic, manifest, retained)

    async def until(
        self,
        condition: Callable[[], Any],
        what: str,
        *,
        feeding: Callable[[], NDArray[np.float32]] | None = None,
    ) -> None:
        """Lets time pass, graphs arrive, and signal if ``feeding``, until ``condition`` holds."""
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen; said: {self.said}"
            self.serve_blobs()
            if feeding is not None:
                self.feed(feeding())
            self.models.check()
            await asyncio.sleep(0.01)

    def serve_blobs(self) -> None:
        for topic, _ in self.models.inbox.filters:
            if topic in getattr(self, "blobs", {}):
                self.models.inbox.hear(topic, self.blobs[topic], True)

    async def decided(self, state: str, version: int, **more: Any) -> ModelState:
        """What is said once ``version`` has got that far."""
        await self.until(
            lambda: any((s.state, s.version) == (state, version) for s in self.said),
            f"{state} {version}",
            **more,
        )
        return next(s for s in reversed(self.said) if (s.state, s.version) == (state, version))

    async def adopt(self, version: Version, gateway: str | None = None) -> ModelState:
        """Offers it, and feeds healthy signal until it serves."""
        self.offer(version, gateway)
        return await self.decided("adopted", version[0].version, feeding=healthy())

    async def stop(self) -> None:
        await self.models.stop()


def healthy(seed: int = 77, at_once: int = 50) -> Callable[[], NDArray[np.float32]]:
    """More and more of one healthy signal."""
    position = 0
    whole = signal(40_000, seed)

    def more() -> NDArray[np.float32]:
        nonlocal position
        position += at_once
        return whole[position - at_once : position]

    return more


def run(story: Callable[[], Coroutine[Any, Any, None]] | Awaitable[None]) -> None:
    """Runs a test's coroutine."""
    asyncio.run(story() if callable(story) else story)  # type: ignore[arg-type]
