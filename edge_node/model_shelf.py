"""The models that a gateway has adopted, on disk: the one in service and the one before it, and what is remembered of
all versions.

Invariant: at any instant the record names bundles that are there whole; a new one is written and synced under another
name, renamed, and only then named by the record, itself replaced by one rename. What is damaged is set aside under a name
that begins with "damaged", never deleted and never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from pathlib import Path

import msgspec
import structlog

from edge_node.model_record import Kept, Record
from edge_node.model_store import MANIFEST_NAME, Bundle
from models import manifest as manifests
from models.files import sync_folder, write_whole

RECORD_NAME = "record.json"
MAX_DAMAGED = 3  # that are kept for somebody to look at
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")

log = structlog.get_logger("linewatch.models")


class Shelf:
    """What is kept of one model below the directory ``state``; None: nothing is."""

    def __init__(self, state: Path | None, model_id: str) -> None:
        self._path = None if state is None else state / "models" / folder_name(model_id)
        self.model_id = model_id

    @property
    def record_file(self) -> Path | None:
        """Where the record is, once there is one; None where nothing is kept on disk."""
        return None if self._path is None else self._path / RECORD_NAME

    def load(self) -> Record:
        """The record; one that is damaged is set aside, and all is as if nothing had ever been adopted."""
        file = self.record_file
        if file is None:
            return Record()
        try:
            return read_record(self)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._say(f"{file} is damaged ({error}): the model that the configuration names is served")
            self._set_aside(file)
        except OSError as error:
            self._say(
                f"{file} cannot be read ({error.strerror}): the model that the configuration names is served"
            )
        return Record()

    def place(self, kept: Kept) -> Path | None:
        """The directory of the bundle ``kept``; None where nothing is kept on disk."""
        return None if self._path is None else self._path / _name(kept)

    def set_aside(self, kept: Kept, why: str) -> None:
        """The bundle ``kept`` cannot be used, because of ``why``."""
        place = self.place(kept)
        if place is not None and place.exists():
            self._say(f"{place} cannot be used and is set aside: {why}")
            self._set_aside(place)

    def keep(self, record: Record, bundle: Bundle | None = None) -> None:
        """Remember ``record``, whose current version is ``bundle`` (None: it is here already). OSError where it cannot be
        written: what is on disk is then as before."""
        if self._path is None:
            return
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if bundle is not None and record.current is not None:
            self._write_bundle(self._path / _name(record.current), bundle)
        write_whole(
            self._path / RECORD_NAME, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
        )
        sync_folder(self._path)
        self._clear(record)

    def _write_bundle(self, place: Path, bundle: Bundle) -> None:
        assert self._path is not None
        if place.exists():
            if _holds(place, bundle):
                return
            self._set_aside(place)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=self._path))
        try:
            for artifact in bundle.manifest.artifacts:
                write_whole(fresh / artifact.file, bundle.artifacts[artifact.target])
            write_whole(fresh / MANIFEST_NAME, manifests.encode(bundle.manifest))
            sync_folder(fresh)
            fresh.rename(place)
            sync_folder(self._path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _clear(self, record: Record) -> None:
        """Delete what ``record`` does not name, and the oldest of what is damaged."""
        assert self._path is not None
        named = {_name(kept) for kept in (record.current, record.before) if kept is not None}
        damaged = []
        for found in self._path.iterdir():
            if found.name.startswith("damaged"):
                damaged.append(found)
            elif found.name not in named and found.name != RECORD_NAME:
                _delete(found)
        for found in sorted(damaged, key=lambda path: path.stat().st_mtime)[:-MAX_DAMAGED]:
            _delete(found)

    def _set_aside(self, place: Path) -> None:
        for i in range(1000):
            aside = place.with_name(f"damaged-{i}-{place.name}")
            if not aside.exists():
                with contextlib.suppress(OSError):
                    place.rename(aside)
                return

    def _say(self, text: str) -> None:
        log.error(text, model=self.model_id)


def read_record(shelf: Shelf) -> Record:
    """The record of ``shelf`` as it is; an empty one where there is none. Raises OSError, msgspec.DecodeError and
    UnicodeDecodeError where it cannot be read, and leaves it where it is."""
    if shelf.record_file is None:
        return Record()
    try:
        data = shelf.record_file.read_bytes()
    except FileNotFoundError:
        return Record()
    return msgspec.json.decode(data, type=Record)


def folder_name(model_id: str) -> str:
    """What the folder of a model is called: after it, where that can be a name."""
    if _PLAIN.fullmatch(model_id):
        return model_id
    return f"_{hashlib.sha256(model_id.encode()).hexdigest()[:32]}"


def _name(kept: Kept) -> str:
    return f"v{kept.version}-{kept.digest[:16]}"


def _holds(place: Path, bundle: Bundle) -> bool:
    files = {a.file: bundle.artifacts[a.target] for a in bundle.manifest.artifacts}
    files[MANIFEST_NAME] = manifests.encode(bundle.manifest)
    try:
        return all((place / name).read_bytes() == data for name, data in files.items())
    except OSError:
        return False


def _delete(found: Path) -> None:
    if found.is_dir() and not found.is_symlink():
        shutil.rmtree(found, ignore_errors=True)
    else:
        found.unlink(missing_ok=True)
