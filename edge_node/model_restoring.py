"""Serving again what was adopted: at start, from the shelf, all of it verified once more; with a new configuration, from
memory.

Invariant: what is not as it was adopted, or not trusted, or does not fit, is not served; then the one before is, or what
the configuration names, and the log says so.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import msgspec
import structlog

from edge_node import model_admission as admission
from edge_node import model_record as records
from edge_node.assembly import Core
from edge_node.config import Config
from edge_node.model_probe import ProbeStopped
from edge_node.model_record import Kept, NotAdmitted, Record
from edge_node.model_shelf import Shelf
from edge_node.model_store import Bundle, BundleRefused, read_bundle
from edge_node.plans import DevicePlan
from models import manifest as manifests
from models.manifest import ManifestError
from models.refusals import RefusalReason
from models.signal import NS_PER_S

# What a file may do of itself; anything else is the configuration's or this computer's doing.
_DAMAGE = frozenset(
    {
        RefusalReason.UNREADABLE,
        RefusalReason.CORRUPT,
        RefusalReason.BAD_MANIFEST,
        RefusalReason.BAD_GRAPH,
    }
)

log = structlog.get_logger("linewatch.models")


@dataclass(frozen=True, slots=True)
class Restored:
    """``bundle``, the current one of ``record``, which serves now (None: what the configuration names does, whatever is
    remembered), and the version that was given up because no gateway lives long with it."""

    record: Record
    bundle: Bundle | None
    given_up: Kept | None = None


def restore(
    config: Config,
    core: Core,
    shelf: Shelf,
    record: Record,
    bundle: Bundle | None,
    *,
    starting: bool,
    now_ns: int,
    stop: threading.Event,
) -> Restored:
    """Serves what ``record`` says was adopted in ``core``, to which nothing was pushed yet. ``bundle``: what serves in the
    core before this one; None: ``shelf`` has it."""
    plans = [p for p in core.plans if p.track == shelf.model_id]
    bundles = [b for p in plans if (b := core.bundles.get(p.device.device_id)) is not None]
    versions = [b.manifest.version for b in bundles if b.manifest.model_id == shelf.model_id]
    configured = max(versions, default=0)  # a fleet's model takes the place of whatever was learned
    given_up = None
    tried = record  # as far as it is of any use now
    while tried.current is not None and config.trusted_keys and records.serves(tried, configured):
        kept = tried.current
        watched = now_ns - tried.adopted_ns <= config.models.watch_s * NS_PER_S
        if starting and watched and tried.n_starts >= records.MAX_STARTS:
            given_up = kept
            tried = record = records.gone_back(tried, RefusalReason.RESTARTS, now_ns, ban=True)
            continue
        try:
            in_memory = bundle is not None
            bundle = kept_bundle(config, shelf, kept) if bundle is None else _still_trusted(config, bundle)
            try:
                _serve(config, core, plans, bundle, stop, probed=in_memory)
            except NotAdmitted as error:
                if error.reason is not RefusalReason.OVERLOADED or in_memory:
                    raise
                log.warning(
                    f"model {shelf.model_id} version {kept.version}: {error}; it passed when it was adopted"
                )
                _serve(config, core, plans, bundle, stop, probed=True)
        except NotAdmitted as error:
            log.error(f"model {shelf.model_id} version {kept.version} cannot be served again: {error}")
            tried, bundle = msgspec.structs.replace(tried, current=tried.before, before=None), None
            if error.reason in _DAMAGE:
                shelf.set_aside(kept, str(error))
                record = tried
            continue
        if starting and watched:
            tried = msgspec.structs.replace(tried, n_starts=tried.n_starts + 1)
        return Restored(tried, bundle, given_up)
    return Restored(record, None, given_up)


def kept_bundle(config: Config, shelf: Shelf, kept: Kept) -> Bundle:
    """The bundle that is on the shelf as ``kept``, verified as far as that goes without running it; NotAdmitted."""
    place = shelf.place(kept)
    if place is None:
        raise NotAdmitted(RefusalReason.UNREADABLE, "nothing is kept on disk")
    try:
        bundle = read_bundle(place, config.trusted_keys, require_signature=True)
    except BundleRefused as error:
        raise NotAdmitted(error.reason, str(error)) from error
    manifest = bundle.manifest
    if (manifest.model_id, manifests.digest(manifest)) != (shelf.model_id, kept.digest):
        raise NotAdmitted(RefusalReason.CORRUPT, f"{place} holds another model than was put there")
    return bundle


def _still_trusted(config: Config, bundle: Bundle) -> Bundle:
    try:
        manifests.verify(bundle.manifest, config.trusted_keys)
    except ManifestError as error:
        raise NotAdmitted(RefusalReason.NOT_TRUSTED, str(error)) from error
    return bundle


def _serve(
    config: Config,
    core: Core,
    plans: list[DevicePlan],
    bundle: Bundle,
    stop: threading.Event,
    *,
    probed: bool,
) -> None:
    try:
        prepared = admission.prepare(
            config,
            plans,
            lambda _: bundle,
            workers=core.workers,
            stop=stop,
            on_notice=log.warning,
            probed=probed,
            apart=False,  # nothing scores before this does
        )
    except ProbeStopped:
        raise NotAdmitted(RefusalReason.PROBE_HUNG, "the gateway is stopping") from None
    for engine in core.adopt(prepared.plans, prepared.engines):
        engine.close()
