"""Versions of the fixture's model, signed: good ones, and such as should not be served."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from models import manifest as manifests
from models.keys import public_text
from models.manifest import Artifact, ModelManifest, Rollback
from models.publication import publication
from models.signal import ArtifactTarget
from models.topics import ModelTopics
from tests.fixtures.make_bundle import make, signal

KEY = Ed25519PrivateKey.generate()
STRANGER = Ed25519PrivateKey.generate()
PUBLIC = public_text(KEY.public_key())
TOPICS = ModelTopics("linewatch", "fixture")

Files = Mapping[str, bytes]
Version = tuple[ModelManifest, Files]


def calm(n: int, seed: int) -> NDArray[np.float32]:
    """The fixture's signal on a day on which nothing moves: its noise without the slow wave."""
    rng = np.random.default_rng(seed)
    noise = 0.3 * rng.normal(size=n)
    values = [40 + 2 * noise + 0.2 * rng.normal(size=n), 3 - 0.5 * noise + 0.05 * rng.normal(size=n)]
    return np.stack(values, axis=1).astype(np.float32)


@functools.cache
def good(version: int, seed: int = 0) -> Version:
    """Fitted on healthy running; ``seed`` is of which."""
    return make(signal(4000, seed=100 + 2 * seed), signal(2000, seed=101 + 2 * seed), version)


@functools.cache
def narrow(version: int) -> Version:
    """Fitted on calm days alone: what the machine does on others is rare to it."""
    return make(calm(4000, seed=5), calm(2000, seed=6), version)


@functools.cache
def blind(version: int) -> Version:
    """Fitted on a signal so wild that it sees no fault."""
    centre = np.array([40.0, 3.0], np.float32)
    wild = [centre + 60 * (signal(n, seed=s) - centre) for n, s in ((4000, 7), (2000, 8))]
    return make(wild[0].astype(np.float32), wild[1].astype(np.float32), version)


def signed(version: Version, key: Ed25519PrivateKey = KEY, /, **changes: Any) -> Version:
    """``version`` with ``changes`` of its manifest, signed."""
    manifest, files = version
    return manifests.sign(msgspec.structs.replace(manifest, **changes), key), files


def back_to(version: Version, takes_back: int, issued_ns: int = 1) -> Version:
    """The signed order to go back to ``version``."""
    return signed(version, rollback=Rollback(takes_back=takes_back, issued_ns=issued_ns))


def with_graph(version: Version, data: bytes, index: int = 0, batch: int | None = None) -> Version:
    """``version`` with ``data`` as one of its graphs, its digest stated; signed."""
    manifest, files = version
    old = manifest.artifacts[index]
    new = msgspec.structs.replace(
        old, n_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), batch=batch
    )
    artifacts = [new if a is old else a for a in manifest.artifacts]
    return signed((manifest, {**files, old.target: data}), artifacts=tuple(artifacts))


def edited(version: Version, index: int = 0, **changes: Any) -> Version:
    """``version`` with ``changes`` of one artifact; signed."""
    manifest, files = version
    artifacts: list[Artifact] = list(manifest.artifacts)
    artifacts[index] = msgspec.structs.replace(artifacts[index], **changes)
    return signed((manifest, files), artifacts=tuple(artifacts))


def messages(
    version: Version, gateway: str | None = None, topics: ModelTopics = TOPICS
) -> list[tuple[str, bytes]]:
    """What publishes it."""
    manifest, files = version
    artifacts: dict[ArtifactTarget, bytes] = {a.target: files[a.target] for a in manifest.artifacts}
    return list(publication(manifest, artifacts, topics, gateway=gateway))


def written(folder: Path, version: Version) -> Path:
    """The bundle of ``version`` as a directory."""
    manifest, files = version
    folder.mkdir(parents=True)
    for artifact in manifest.artifacts:
        (folder / artifact.file).write_bytes(files[artifact.target])
    (folder / "manifest.json").write_bytes(manifests.encode(manifest))
    return folder
