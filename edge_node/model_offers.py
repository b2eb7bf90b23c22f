"""What a gateway is offered of one model, and which of it it should go to: the canary while there is one, else what is
there for all.

Invariant: only manifests whose signature holds are offers, so nobody else can put one in another's place. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.manifest import ModelManifest


@dataclass(frozen=True, slots=True)
class Offer:
    """A manifest that is signed, and whose version may be gone to. ``digest``: of all of it."""

    manifest: ModelManifest
    digest: str
    canary: bool


class Offers:
    """The offers for one model. ``refused``: digests of those that failed and would again."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self._canary_there = False
        self._stable: Offer | None = None
        self._canary: Offer | None = None

    @property
    def wanted(self) -> Offer | None:
        """What to go to; None: to stay."""
        offer = self._canary if self._canary_there else self._stable
        return None if offer is None or offer.digest in self.refused else offer

    def put(self, offer: Offer) -> None:
        """``offer`` is what its topic holds now."""
        if offer.canary:
            self._canary, self._canary_there = offer, True
        else:
            self._stable = offer

    def settled(self, *, canary: bool) -> None:
        """What the topic holds is what serves, or will serve when the canary is gone."""
        if canary:
            self._canary, self._canary_there = None, True
        else:
            self._stable = None

    def end_canary(self) -> None:
        """There is no canary any more, or it is what is there for all."""
        self._canary, self._canary_there = None, False

    def drop(self, offer: Offer) -> None:
        """``offer`` has been decided on."""
        if self._stable == offer:
            self._stable = None
        if self._canary == offer:
            self._canary = None
