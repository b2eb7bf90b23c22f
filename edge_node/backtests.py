"""Backtests that a sink or an operator asks for: one at a time, beside the machines that are being watched.

Strategy: a candidate is as trusted as any that is offered: its manifest is fetched by digest, signed by a pinned key, its
graphs are checked, fit the devices and pass the probe; then a process of its own at low priority replays what was recorded
with it (``backtest_process``). Invariants: nothing here changes what is in service, and a candidate is not adopted; what is asked
is answered once, also when the gateway stops; no process outlives the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec
import structlog

from edge_node import model_admission as admission
from edge_node.adoption import Adoption
from edge_node.backtest_process import MAX_SAID_BYTES, Graphs, Task, Told, packed
from edge_node.backtest_replay import Asked
from edge_node.feature_log import FOLDER as FEATURES
from edge_node.inference import Precision
from edge_node.model_probe import ProbeStopped, environment
from edge_node.model_record import NotAdmitted
from edge_node.model_store import Bundle
from edge_node.plans import DevicePlan
from edge_node.segments import FOLDER
from models import manifest as manifests
from models.gating import with_gates
from models.metrics import Family
from models.refusals import RefusalReason
from models.requests import AlertLabel, BacktestRequest, Refusal
from models.signal import NS_PER_S

BLOB_PATIENCE_S = 60.0
_SPARE_S = 60.0  # to start, and to end a file, beyond backtest_max_s
_HOUR_NS = 3600 * NS_PER_S

log = structlog.get_logger("linewatch.backtest")

Done = Callable[[BacktestRequest, Told], None]


class Backtests:
    """See the module's docstring; on the gateway's loop. ``done`` is told what came of each."""

    def __init__(self, home: Adoption, state_dir: Path | None, done: Done) -> None:
        self._home = home
        self._state_dir = state_dir
        self._done = done
        self._task: asyncio.Task[None] | None = None
        self.outcomes: Counter[str] = Counter()  # "done", and reasons
        self.n_windows = 0

    def begin(self, asked: BacktestRequest, labels: Mapping[str, AlertLabel]) -> None:
        """Answers ``asked`` as soon as it is known; ``labels``: what operators called alerts of this gateway."""
        if self._task is not None:
            self._end(
                asked, Told(refusal=Refusal.BUSY, text="another backtest is under way: ask again later")
            )
        elif self._home.crowded():
            self._end(asked, Told(refusal=Refusal.BUSY, text="samples pile up here: ask again later"))
        else:
            self._task = self._home.spawn(self._answer(asked, dict(labels)))

    def stop(self) -> None:
        """The gateway stops: what is under way is answered so."""
        if self._task is not None:
            self._task.cancel()

    def families(self) -> list[Family]:
        """What is counted."""
        return [
            Family(
                "backtests",
                "Backtests that were asked for, by what came of them.",
                "counter",
                ("outcome",),
                {(outcome,): float(n) for outcome, n in self.outcomes.items()},
            ),
            Family(
                "backtest_running",
                "Whether one is under way.",
                "gauge",
                (),
                {(): float(self._task is not None)},
            ),
            Family(
                "backtest_windows",
                "Windows that candidates have scored in backtests.",
                "counter",
                (),
                {(): float(self.n_windows)},
            ),
        ]

    def _end(self, asked: BacktestRequest, told: Told) -> None:
        self.outcomes["done" if told.refusal is None else told.refusal.value] += 1
        if told.found is not None:
            self.n_windows += told.found.candidate.n_windows
        self._done(asked, told)

    async def _answer(self, asked: BacktestRequest, labels: Mapping[str, AlertLabel]) -> None:
        try:
            told = await self._backtest(asked, labels)
        except NotAdmitted as refused:
            told = Told(refusal=Refusal.CANDIDATE_REFUSED, text=f"{refused.reason}: {refused}")
        except (asyncio.CancelledError, ProbeStopped):
            self._task = None
            self._end(asked, Told(refusal=Refusal.STOPPING, text="the gateway stops"))
            return
        self._task = None
        self._end(asked, told)

    async def _backtest(self, asked: BacktestRequest, labels: Mapping[str, AlertLabel]) -> Told:
        home = self._home
        config, kept = home.config, self._state_dir
        if kept is None or not (config.black_box.enabled or config.feature_log.enabled):
            text = "the black box of this gateway is off, and so is its feature log"
            return Told(refusal=Refusal.NOTHING_RECORDED, text=text)
        no_model = Told(refusal=Refusal.NO_MODEL, text=f"no device here runs model {asked.model_id}")
        if not self._plans(asked.model_id):
            return no_model
        bundle = await self._candidate(asked)
        await home.probe(bundle)
        # From here to the task nothing waits: what is in service does not change meanwhile.
        served = self._plans(asked.model_id)
        if not served:
            return no_model
        changed = {
            plan.device.device_id: admission.fitting(home.config, plan, bundle)
            for plan in served
            if plan.model is not None and plan.model.model_id == asked.model_id
        }
        log.info(f"backtest of model {asked.model_id} version {bundle.manifest.version}", hours=asked.hours)
        gateway, models = home.config.gateway, home.config.models
        task = Task(
            Asked(
                folder=kept / FOLDER,
                features=kept / FEATURES if config.feature_log.enabled else None,
                from_ns=home.now_ns() - round(asked.hours * _HOUR_NS),
                max_s=models.backtest_max_s,
                site=gateway.site,
                gateway=gateway.name,
                served=served,
                candidate=tuple(changed.get(p.device.device_id, p) for p in served),
                model_id=asked.model_id,
                version=bundle.manifest.version,
                against=max(
                    p.model.version
                    for p in served
                    if p.model is not None and p.model.model_id == asked.model_id
                ),
                sha256=asked.sha256,
                labels=labels,
                max_batches_out=gateway.max_batches_out,
                max_waiting=gateway.max_waiting,
            ),
            self._graphs(served, changed, bundle),
            models.backtest_memory_mb,
        )
        given = await asyncio.to_thread(packed, task)
        return await _run(given, models.backtest_max_s + _SPARE_S)

    async def _candidate(self, asked: BacktestRequest) -> Bundle:
        """The bundle that is asked about, if it may be tried here. Raises NotAdmitted."""
        home, limits = self._home, self._home.config.models
        if not home.config.trusted_keys:
            raise NotAdmitted(RefusalReason.NOT_TRUSTED, "no key is trusted here, see [models] trusted_keys")
        if asked.n_bytes > limits.max_bytes:
            text = f"its manifest has {asked.n_bytes} bytes, and [models] max_bytes is {limits.max_bytes}"
            raise NotAdmitted(RefusalReason.TOO_LARGE, text)
        came = await home.fetch_blobs(asked.model_id, {asked.sha256: asked.n_bytes}, BLOB_PATIENCE_S)
        payload = came[asked.sha256]
        if hashlib.sha256(payload).hexdigest() != asked.sha256:
            raise NotAdmitted(
                RefusalReason.CORRUPT, "what came as its manifest is not of the digest asked for"
            )
        keys = home.config.trusted_keys
        manifest = await asyncio.to_thread(admission.screen, payload, asked.model_id, keys)
        admission.check_sizes(manifest, limits.max_bytes)
        blobs = await home.fetch(asked.model_id, manifest, BLOB_PATIENCE_S)
        return await asyncio.to_thread(admission.examine, manifest, blobs)

    def _plans(self, model_id: str) -> tuple[DevicePlan, ...]:
        """Of the devices that run the model, and of those that say when they count."""
        plans = {plan.device.device_id: plan for plan in self._home.core.plans}
        own = [n for n, p in plans.items() if p.model is not None and p.model.model_id == model_id]
        chosen = with_gates(own, {name: plan.gate for name, plan in plans.items()})
        return tuple(plan for name, plan in plans.items() if name in chosen)

    def _graphs(
        self, served: Sequence[DevicePlan], changed: Mapping[str, DevicePlan], bundle: Bundle
    ) -> dict[str, Graphs]:
        """What every engine of both sides is built from: the CPU's twin of what is in service."""
        found: dict[str, Graphs] = {}
        for plan in served:
            if not plan.engine:
                continue
            device_id = plan.device.device_id
            precision: Precision = (
                "float32" if self._home.core.engines[plan.engine].target == "cpu-float32" else "int8"
            )
            ours = self._home.bundle_of(device_id)
            if ours is not None and plan.engine not in found:
                found[plan.engine] = _graphs(ours, precision, is_candidate=False)
            if (new := changed.get(device_id)) is not None and new.engine not in found:
                found[new.engine] = _graphs(bundle, precision, is_candidate=True)
        return found


def _graphs(bundle: Bundle, precision: Precision, *, is_candidate: bool) -> Graphs:
    manifest = manifests.encode(bundle.manifest)
    return Graphs(manifest, dict(bundle.artifacts), precision, is_candidate)


async def _run(task: bytes, max_s: float) -> Told:
    """What the process for ``task`` says; it is no more when this returns, however that is."""
    with _memory("said") as said, _memory("told") as told:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "edge_node.backtest_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=said,
                stderr=told,
                env=environment(),
            )
        except OSError as error:
            text = f"this gateway could not start a process for it: {error.strerror}"
            return Told(refusal=Refusal.BACKTEST_FAILED, text=text)
        try:
            assert process.stdin is not None
            async with asyncio.timeout(max_s):
                with contextlib.suppress(ConnectionError):  # it has ended: its exit status says more
                    process.stdin.write(task)
                    await process.stdin.drain()
                code = await process.wait()
        except TimeoutError:
            text = f"it had not ended after {max_s:g} s"
            return Told(refusal=Refusal.BACKTEST_FAILED, text=text)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
        said.seek(0)
        told.seek(0)
        if code == 0:
            with contextlib.suppress(msgspec.DecodeError):
                return msgspec.json.decode(said.read(MAX_SAID_BYTES), type=Told)
        last = told.read(MAX_SAID_BYTES).decode("utf-8", "replace").strip().splitlines()[-1:]
        text = f"its process ended with status {code}: {' '.join(last)[:300]}"
        return Told(refusal=Refusal.BACKTEST_FAILED, text=text)


def _memory(name: str) -> IO[bytes]:
    """A file without a disk."""
    return os.fdopen(os.memfd_create(name), "w+b")
