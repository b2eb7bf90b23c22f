"""What a :class:`~edge_node.model_track.Track` needs of the gateway that it is on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from edge_node.assembly import Core
from edge_node.config import Config
from edge_node.inference import ScoringEngine
from edge_node.model_admission import Prepared
from edge_node.model_store import Bundle
from edge_node.plans import DevicePlan
from models.manifest import ModelManifest
from models.messages import ModelStage, ModelState
from models.refusals import RefusalReason


class ModelHome(Protocol):
    """:class:`edge_node.adoption.Adoption`, all of it on the gateway's loop."""

    config: Config
    core: Core
    adoptions: Counter[str]
    refusals: Counter[tuple[str, RefusalReason]]
    rollbacks: Counter[tuple[str, RefusalReason]]

    def now_ns(self) -> int:
        """The wall clock."""

    def crowded(self) -> bool:
        """Whether samples pile up."""

    def labelled_false(self) -> Collection[str]:
        """Ids of alerts that people have labelled false."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """``work`` as a task; what it raises ends the gateway."""

    def retire(self, engines: Iterable[ScoringEngine]) -> None:
        """These score nothing any more."""

    async def fetch(self, model_id: str, manifest: ModelManifest, patience_s: float) -> Mapping[str, bytes]:
        """The graphs of ``manifest``, by digest, as they came; NotAdmitted where they do not within ``patience_s``."""

    async def prepare(
        self, plans: Sequence[DevicePlan], bundles: Callable[[str], Bundle | None], *, probed: bool = False
    ) -> Prepared:
        """See :func:`edge_node.model_admission.prepare`."""

    def say(
        self,
        model_id: str,
        state: ModelStage,
        version: int,
        running: int,
        canary: bool,
        reason: RefusalReason | None,
        text: str,
    ) -> ModelState:
        """Log it, and publish it; returns what was published."""
