"""An operator's word that how a machine runs now is normal: part of what a pipeline is given, as blocks and ticks are. Pure."""

from __future__ import annotations

import msgspec


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """``device_id`` runs normally as it does now, says ``by`` at ``arrival_ns``. ``transaction`` names the request, so that
    its verdict can be told to who asked."""

    device_id: str
    arrival_ns: int
    transaction: str
    by: str
    note: str = ""
