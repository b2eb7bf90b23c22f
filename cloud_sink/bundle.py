"""Writing a model bundle: a directory with ``manifest.json`` and its .tflite files, whole or not at all.

Everything is written and synced under another name beside the target and renamed into place, so no reader
ever sees half a bundle, and a failure leaves what was there before. A newer version of the same model
replaces the older one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from models import manifest as manifests
from models.manifest import ManifestError, ModelManifest
from models.signal import ArtifactTarget

MANIFEST_NAME = "manifest.json"


class BundleError(Exception):
    """A bundle that cannot be written where it was asked for; the text names the path and what to do."""


def next_version(path: Path, model_id: str) -> int:
    """The version that a model ``model_id`` written to ``path`` gets: 1, or one more than the bundle that is
    there.

    Raises BundleError when ``path`` holds something else, or cannot be written to: call it before training.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise BundleError(f"{path} is not a directory: choose another with -o")
    parent = _existing(path.absolute().parent)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BundleError(f"{parent} cannot be written to: choose another directory with -o")
    if not path.exists() or not any(path.iterdir()):
        return 1
    try:
        old = manifests.decode((path / MANIFEST_NAME).read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{path} is not empty and holds no model: choose an empty or new directory with -o"
        ) from None
    except (OSError, ManifestError) as error:
        raise BundleError(
            f"{path / MANIFEST_NAME} cannot be read as a model ({error}): choose a new directory with -o"
        ) from error
    if old.model_id != model_id:
        raise BundleError(
            f"{path} holds model {old.model_id}, not {model_id}: choose another directory with -o, or "
            f"--model-id {old.model_id}"
        )
    return old.version + 1


def write_bundle(path: Path, manifest: ModelManifest, artifacts: Mapping[ArtifactTarget, bytes]) -> None:
    """Writes ``manifest`` and its ``artifacts`` as the directory ``path``. Raises BundleError."""
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    except OSError as error:
        raise _failed(path, error) from error
    try:
        for artifact in manifest.artifacts:
            _write(fresh / artifact.file, artifacts[artifact.target])
        _write(fresh / MANIFEST_NAME, manifests.encode(manifest))
        fresh.chmod(0o755)
        _sync(fresh)
        _replace(fresh, path)
        _sync(parent)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace(fresh: Path, path: Path) -> None:
    # A directory that is not empty cannot be renamed over: the old one steps aside first, and back when that
    # fails.
    if not path.exists() or not any(path.iterdir()):
        fresh.rename(path)
        return
    aside = fresh.with_name(fresh.name + ".old")
    path.rename(aside)
    try:
        fresh.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _write(file: Path, data: bytes) -> None:
    with file.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _failed(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be written ({error.strerror or error}): choose another directory with -o"
    )
