"""A model as it is published over MQTT: its graphs, then its signed manifest. This module is pure.

Invariant: whoever has heard the manifest finds the graphs that it names, since they were published before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
    gateways, or as the canary of ``gateway`` alone. ValueError where it is not signed, or of another model."""
    if manifest.signature is None:
        raise ValueError(f"model {manifest.model_id} version {manifest.version} is not signed")
    if manifest.model_id != topics.model_id:
        raise ValueError(f"model {manifest.model_id} on the topics of {topics.model_id}")
    for artifact in manifest.artifacts:
        yield topics.blob(artifact.sha256), artifacts[artifact.target]
    yield (topics.stable if gateway is None else topics.canary(gateway)), manifests.encode(manifest)


def withdrawal(topics: ModelTopics, gateway: str) -> tuple[str, bytes]:
    """(topic, payload) of the retained message that takes the canary of ``gateway`` back."""
    return topics.canary(gateway), b""
