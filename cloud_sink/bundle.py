"""Writing a model bundle: a directory with ``manifest.json`` and its .tflite files, whole or not at all.

Strategy: a new bundle is written and synced under another name beside the target and renamed into place. A newer
version of the same model comes into the directory of the older one: graphs are named after their content, so
that those of two versions lie side by side, and the one rename that puts the new manifest in the old one's place is
the change. Invariant: at any instant there is a manifest, and every file that it names is there and as it says; the
files of the version before stay, for a reader that has just read its manifest. A failure leaves what was there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models import manifest as manifests
from models.files import sync_folder, write_whole
from models.keys import KeyUnusable, public_text, read_public_key
from models.manifest import ManifestError, ModelManifest, artifact_file, key_id
from models.signal import ArtifactTarget

MANIFEST_NAME = "manifest.json"
# The public key of whoever signed it: that it was changed since shows here, and not on gateways first.
SIGNER_NAME = "signer.pub"
# Graphs that we wrote, also before they were named after their content, and what a kill has left half-written.
_OURS = re.compile(r"\.?(?:cpu-float32|cpu-int8|edgetpu-int8)(?:-[0-9a-f]{12})?\.tflite(?:\.new)?")


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


def read_manifest(path: Path) -> ModelManifest:
    """The manifest of the bundle ``path``. Raises BundleError."""
    try:
        return manifests.decode((path / MANIFEST_NAME).read_bytes())
    except OSError as error:
        raise BundleError(f"{path / MANIFEST_NAME} cannot be read: {error.strerror}") from error
    except ManifestError as error:
        raise BundleError(f"{path / MANIFEST_NAME} cannot be read as a model: {error}") from error


def read_bundle(path: Path) -> tuple[ModelManifest, dict[ArtifactTarget, bytes]]:
    """The manifest of the bundle ``path`` and the graphs that it names, as they are. Raises BundleError, also where its signature
    does not hold, as far as the key is there."""
    manifest = read_manifest(path)
    _check_signature(path, manifest)
    artifacts: dict[ArtifactTarget, bytes] = {}
    for artifact in manifest.artifacts:
        try:
            data = (path / artifact.file).read_bytes()
        except OSError as error:
            raise BundleError(f"{path / artifact.file} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise BundleError(f"{path / artifact.file} is not what the manifest names: copy the bundle again")
        artifacts[artifact.target] = data
    return manifest, artifacts


def _check_signature(path: Path, manifest: ModelManifest) -> None:
    if manifest.signature is None:
        return
    try:
        signer = read_public_key(path / SIGNER_NAME)
    except KeyUnusable:
        return  # of a bundle that was copied without it; gateways have keys of their own
    if key_id(signer) != manifest.key_id:
        return
    try:
        manifests.verify(manifest, (signer,))
    except ManifestError as error:
        raise BundleError(
            f"{path / MANIFEST_NAME} has been changed since it was signed: copy the bundle again, or sign it (cloud-sink sign)"
        ) from error


def write_bundle(
    path: Path,
    manifest: ModelManifest,
    artifacts: Mapping[ArtifactTarget, bytes],
    signer: Ed25519PublicKey | None = None,
) -> None:
    """Writes ``manifest`` and its ``artifacts`` as the directory ``path``; ``signer``: the key that its signature is of. Raises
    BundleError; ValueError where a file is not named after its content (``models.manifest.artifact_file``)."""
    files: dict[str, bytes] = {}
    for artifact in manifest.artifacts:
        if artifact.file != artifact_file(artifact.target, artifact.sha256):
            raise ValueError(f"{artifact.file} is not named after its content")
        files[artifact.file] = artifacts[artifact.target]
    if signer is not None:
        files[SIGNER_NAME] = _line(signer)
    try:
        if (path / MANIFEST_NAME).exists():
            _replace(path, manifest, files)
        else:
            _create(path, manifest, files)
    except OSError as error:
        raise _failed(path, error) from error


def replace_manifest(path: Path, manifest: ModelManifest, signer: Ed25519PublicKey) -> None:
    """``manifest``, which ``signer`` has signed, in place of the one of the bundle ``path``, whose files it names. Raises
    BundleError."""
    try:
        write_whole(path / SIGNER_NAME, _line(signer))
        write_whole(path / MANIFEST_NAME, manifests.encode(manifest))
        sync_folder(path)
    except OSError as error:
        raise BundleError(f"{path / MANIFEST_NAME} cannot be written ({error.strerror or error})") from error


def _line(key: Ed25519PublicKey) -> bytes:
    return f"{public_text(key)}\n".encode()


def _create(path: Path, manifest: ModelManifest, files: Mapping[str, bytes]) -> None:
    parent = path.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    try:
        for name, data in files.items():
            write_whole(fresh / name, data)
        write_whole(fresh / MANIFEST_NAME, manifests.encode(manifest))
        fresh.chmod(0o755)
        sync_folder(fresh)
        fresh.rename(path)
        sync_folder(parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace(path: Path, manifest: ModelManifest, files: Mapping[str, bytes]) -> None:
    before = _files_named_in(path)
    with contextlib.ExitStack() as undo:
        for name, data in files.items():
            if not (path / name).exists():
                undo.callback((path / name).unlink, missing_ok=True)
            write_whole(path / name, data)
        sync_folder(path)
        write_whole(path / MANIFEST_NAME, manifests.encode(manifest))
        undo.pop_all()
    sync_folder(path)
    for file in path.iterdir():
        if _OURS.fullmatch(file.name) and file.name not in (*before, *files):
            file.unlink(missing_ok=True)


def _files_named_in(path: Path) -> tuple[str, ...]:
    """What the manifest in ``path`` names; nothing where it cannot be read."""
    try:
        old = manifests.decode((path / MANIFEST_NAME).read_bytes())
    except ManifestError:
        return ()
    return tuple(artifact.file for artifact in old.artifacts)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _failed(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be written ({error.strerror or error}): choose another directory with -o"
    )
