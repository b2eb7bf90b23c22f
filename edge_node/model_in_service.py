"""Which version of each model serves with a gateway's state, as commands see it that run beside the gateway, or before it.

Invariant: nothing is changed: what is damaged stays where it is, for the gateway to set aside.
"""

from __future__ import annotations

import msgspec

from edge_node import model_record as records
from edge_node.assembly import Core
from edge_node.config import Config
from edge_node.model_record import NotAdmitted
from edge_node.model_restoring import kept_bundle
from edge_node.model_shelf import Shelf, read_record
from edge_node.state_dir import state_dir_of


class InService(msgspec.Struct, frozen=True, kw_only=True):
    """``version`` serves, where the configuration names ``configured``. ``trouble``: why what was adopted does not, or cannot be
    seen."""

    model_id: str
    configured: int
    version: int
    trouble: str | None = None

    @property
    def _configured(self) -> str:
        return f"v{self.configured} of the configuration" if self.configured else "what is learned here"

    @property
    def text(self) -> str:
        """In a sentence."""
        if self.version == self.configured:
            return f"{self.model_id}: {self.trouble}; then serves {self._configured}"
        told = f"{self.model_id} v{self.version}, adopted here, serves in place of {self._configured}"
        return told if self.trouble is None else f"{told}; {self.trouble}"


def in_service(config: Config, core: Core) -> dict[str, InService]:
    """By id, the models of ``core`` whose version in service is another than ``config`` names, or may be. A gateway that trusts
    no key has adopted nothing."""
    if not config.trusted_keys:
        return {}
    configured: dict[str, int] = {}
    for bundle in core.bundles.values():
        model_id, version = bundle.manifest.model_id, bundle.manifest.version
        configured[model_id] = max(version, configured.get(model_id, version))
    for plan in core.plans:
        if plan.learn is not None:
            configured.setdefault(plan.learn.fleet, 0)
    seen = (_seen(config, model_id, version) for model_id, version in configured.items())
    return {one.model_id: one for one in seen if one.version != one.configured or one.trouble is not None}


def _seen(config: Config, model_id: str, configured: int) -> InService:
    shelf = Shelf(state_dir_of(config), model_id)
    trouble = None
    try:
        record = read_record(shelf)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        trouble = f"what was adopted cannot be read ({shelf.record_file}: {why})"
        return InService(model_id=model_id, configured=configured, version=configured, trouble=trouble)
    while record.current is not None and records.serves(record, configured):
        kept = record.current
        try:
            kept_bundle(config, shelf, kept)
        except NotAdmitted as error:
            trouble = trouble or f"v{kept.version}, which was adopted, cannot be served again: {error}"
            record = msgspec.structs.replace(record, current=record.before, before=None)
            continue
        return InService(model_id=model_id, configured=configured, version=kept.version, trouble=trouble)
    return InService(model_id=model_id, configured=configured, version=configured, trouble=trouble)
