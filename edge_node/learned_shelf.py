"""What devices of a gateway have learned by themselves, on its disk."""

from __future__ import annotations

from pathlib import Path

from edge_node.model_record import Kept, NotAdmitted, Record
from edge_node.model_shelf import Shelf, read_record
from edge_node.model_store import Bundle, BundleRefused, read_bundle
from edge_node.plans import LearnPlan
from models import manifest as manifests
from models.refusals import RefusalReason

FOLDER = "learned"  # below the state directory: apart from what came from elsewhere, which must be signed


def learned_shelf(state: Path | None, learn: LearnPlan) -> Shelf:
    """Where what is learned as ``learn`` is kept below the state directory; None: nowhere."""
    return Shelf(None if state is None else state / FOLDER, learn.model_id)


def keep(shelf: Shelf, bundle: Bundle) -> None:
    """``bundle`` is what was learned. OSError where it cannot be written."""
    manifest = bundle.manifest
    kept = Kept(version=manifest.version, digest=manifests.digest(manifest))
    shelf.keep(Record(current=kept), bundle)


def learned_before(shelf: Shelf) -> Bundle | None:
    """What was learned, verified as far as that goes without running it; None where nothing was. NotAdmitted where it is not
    as it was put there: it is then set aside."""
    kept = shelf.load().current
    if kept is None:
        return None
    try:
        return _verified(shelf, kept)
    except NotAdmitted as error:
        shelf.set_aside(kept, str(error))
        raise


def seen(shelf: Shelf) -> Bundle | None:
    """The same, and nothing is changed; None also where the record of it cannot be read."""
    try:
        kept = read_record(shelf).current
    except (OSError, ValueError):
        return None
    return None if kept is None else _verified(shelf, kept)


def _verified(shelf: Shelf, kept: Kept) -> Bundle | None:
    place = shelf.place(kept)
    if place is None:
        return None
    try:
        bundle = read_bundle(place)
    except BundleRefused as error:
        raise NotAdmitted(error.reason, str(error)) from error
    if manifests.digest(bundle.manifest) != kept.digest:
        raise NotAdmitted(RefusalReason.CORRUPT, f"{place} holds another model than was put there")
    return bundle
