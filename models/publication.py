"""A model as it is published over MQTT: its graphs, then its signed manifest. This module is pure.

Invariant: whoever has heard the manifest finds the graphs that it names, since they were published before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import msgspec

from models import manifest as manifests
from models.manifest import ModelManifest
from models.signal import ArtifactTarget
from models.topics import ModelTopics


def publication(
    manifest: ModelManifest,
    artifacts: Mapping[ArtifactTarget, bytes],
    topics: ModelTopics,
    *,
    gateway: str | None = None,
) -> Iterator[tuple[str, bytes]]:
    """(topic, payload) of each retained message that publishes ``manifest`` with its ``artifacts``, in their order: to all
    gateways, or as the canary of ``gateway`` (site/gateway) alone. ValueError where it is not signed, or of another model."""
    yield from _graphs(manifest, artifacts, topics)
    yield (topics.stable if gateway is None else topics.canary(gateway)), manifests.encode(manifest)


def candidacy(
    manifest: ModelManifest, artifacts: Mapping[ArtifactTarget, bytes], topics: ModelTopics
) -> Iterator[tuple[str, bytes]]:
    """As :func:`publication`, for gateways that are asked to try it and not to serve it: the manifest is where graphs are, under
    its digest, of which a request tells them."""
    yield from _graphs(manifest, artifacts, topics)
    payload = manifests.encode(manifest)
    yield topics.blob(hashlib.sha256(payload).hexdigest()), payload


def _graphs(
    manifest: ModelManifest, artifacts: Mapping[ArtifactTarget, bytes], topics: ModelTopics
) -> Iterator[tuple[str, bytes]]:
    if manifest.signature is None:
        raise ValueError(f"model {manifest.model_id} version {manifest.version} is not signed")
    if manifest.model_id != topics.model_id:
        raise ValueError(f"model {manifest.model_id} on the topics of {topics.model_id}")
    for artifact in manifest.artifacts:
        yield topics.blob(artifact.sha256), artifacts[artifact.target]


def outranks(there: ModelManifest, ours: ModelManifest) -> bool:
    """Whether ``there``, which a topic keeps, must not give way to ``ours``: it is a newer version, and ours is not the order to
    go back from it; or the order to go back from ours; or the same version of another model. Gateways would refuse ours; one that
    comes later would be given it."""
    if there.version == ours.version:
        return not manifests.same_model(there, ours)
    if there.rollback is not msgspec.UNSET and there.rollback.takes_back == ours.version:
        return True
    back = ours.rollback
    return there.version > ours.version and (back is msgspec.UNSET or back.takes_back != there.version)


def withdrawal(topics: ModelTopics, gateway: str) -> tuple[str, bytes]:
    """(topic, payload) of the retained message that takes the canary of ``gateway`` (site/gateway) back."""
    return topics.canary(gateway), b""
