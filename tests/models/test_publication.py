from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models import manifest as manifests
from models.manifest import ManifestError, Rollback
from models.publication import publication, withdrawal
from models.topics import GatewayTopics, ModelTopics
from tests.edge_node.versions import KEY, TOPICS, Version, back_to, good, signed


def published(version: Version, gateway: str | None = None) -> list[tuple[str, bytes]]:
    manifest, files = version
    return list(
        publication(
            manifest, {a.target: files[a.target] for a in manifest.artifacts}, TOPICS, gateway=gateway
        )
    )


def test_graphs_go_first_and_the_manifest_last() -> None:
    version = signed(good(2))
    *blobs, (topic, payload) = published(version)
    assert topic == "linewatch/models/fixture/stable"
    assert manifests.decode(payload) == version[0]
    assert dict(blobs) == {
        f"linewatch/models/fixture/blob/{a.sha256}": version[1][a.target] for a in version[0].artifacts
    }
    assert published(version, "s1/g1")[-1][0] == "linewatch/models/fixture/gateway/s1/g1"
    assert withdrawal(TOPICS, "s1/g1") == ("linewatch/models/fixture/gateway/s1/g1", b"")


def test_what_is_not_signed_or_of_another_model_is_not_published() -> None:
    with pytest.raises(ValueError, match="is not signed"):
        published(good(2))
    with pytest.raises(ValueError, match="on the topics of fixture"):
        published(signed(good(2), model_id="another"))


def test_names_that_cannot_be_topics() -> None:
    with pytest.raises(ValueError, match="model 'a/b' cannot be part"):
        ModelTopics("linewatch", "a/b")
    with pytest.raises(ValueError, match="gateway '\\+' cannot be part"):
        TOPICS.canary("s1/+")
    with pytest.raises(ValueError, match="site '' cannot be part"):
        TOPICS.canary("/g1")
    with pytest.raises(ValueError, match="gateway 'a/b' cannot be part"):
        TOPICS.canary("s1/a/b")
    with pytest.raises(ValueError, match="gateway 'g1' is of no site: write SITE/GATEWAY"):
        TOPICS.canary("g1")
    with pytest.raises(ValueError, match="is where models are published"):
        GatewayTopics("linewatch", "models", "g1")


def test_an_order_to_go_back_is_signed_with_all_the_rest() -> None:
    order = back_to(good(2), 3)[0]
    trusted = (KEY.public_key(),)
    manifests.verify(manifests.decode(manifests.encode(order)), trusted)
    for other in (Rollback(takes_back=4, issued_ns=1), Rollback(takes_back=3, issued_ns=2), msgspec.UNSET):
        with pytest.raises(ManifestError, match="does not hold"):
            manifests.verify(msgspec.structs.replace(order, rollback=other), trusted)


def test_a_manifest_without_an_order_has_the_bytes_that_it_always_had() -> None:
    assert b"rollback" not in manifests.signed_bytes(good(2)[0])


def test_the_same_model_whoever_signed_it() -> None:
    stranger = Ed25519PrivateKey.generate()
    assert manifests.same_model(signed(good(2))[0], signed(good(2), stranger)[0])
    assert manifests.same_model(signed(good(2))[0], back_to(good(2), 3)[0])
    assert not manifests.same_model(signed(good(2))[0], signed(good(3))[0])
    assert manifests.digest(signed(good(2))[0]) != manifests.digest(signed(good(2), stranger)[0])
