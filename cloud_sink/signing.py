"""Signing bundles that are there: ``cloud-sink keygen`` and ``cloud-sink sign``.

Invariant: a bundle that is signed anew is at any instant the one from before or the one from after.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_sink.bundle import MANIFEST_NAME, replace_manifest
from models import manifest as manifests
from models.cli_values import Parser, count
from models.keys import public_text, read_private_key, write_key_pair
from models.manifest import ManifestError, ModelManifest, Rollback, key_id


class NotSigned(Exception):
    """A bundle that cannot be signed; the text says why and what to do."""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the two commands."""
    keygen = commands.add_parser(
        "keygen",
        help="make a key that models are signed with",
        description="Writes a private key, for you alone (mode 600), and beside it FILE.pub, which gateways are told in "
        "[models] trusted_keys. It never replaces a file.",
    )
    keygen.add_argument("file", type=Path, metavar="FILE", help="the private key; FILE.pub is the public one")
    keygen.set_defaults(act=_keygen)
    sign = commands.add_parser(
        "sign",
        help="sign a bundle that is there",
        description="Signs a bundle, in place of any signature that it has. With --takes-back it becomes the order to go back "
        "to it from that version.",
    )
    sign.add_argument("bundle", type=Path, metavar="DIR", help="what cloud-sink train wrote")
    add_key(sign, required=True)
    sign.add_argument(
        "--takes-back",
        type=count(1),
        metavar="VERSION",
        help="gateways that run VERSION go back to this older one; default: none does",
    )
    sign.set_defaults(act=_sign)


def add_key(command: argparse.ArgumentParser | argparse._ArgumentGroup, *, required: bool) -> None:
    """Adds ``--key``."""
    command.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        required=required,
        help="the private key, from cloud-sink keygen" + ("" if required else "; default: not signed"),
    )


def sign_bundle(path: Path, key: Ed25519PrivateKey, *, takes_back: int | None, now_ns: int) -> ModelManifest:
    """Signs the bundle in ``path`` and returns its manifest. NotSigned where it is none, or ``takes_back`` is no newer
    version; BundleError where it cannot be written."""
    file = path / MANIFEST_NAME
    try:
        manifest = manifests.decode(file.read_bytes())
    except OSError as error:
        raise NotSigned(
            f"{file}: {error.strerror}: give the directory that cloud-sink train wrote"
        ) from error
    except ManifestError as error:
        raise NotSigned(f"{file}: {error}: train the model again") from error
    if takes_back is not None and takes_back <= manifest.version:
        raise NotSigned(
            f"{path} is version {manifest.version}, and --takes-back {takes_back} is no newer one: that is no way back"
        )
    rollback = msgspec.UNSET if takes_back is None else Rollback(takes_back=takes_back, issued_ns=now_ns)
    signed = manifests.sign(msgspec.structs.replace(manifest, rollback=rollback), key)
    replace_manifest(path, signed, key.public_key())
    return signed


def _keygen(given: argparse.Namespace) -> int:
    public, key = write_key_pair(given.file)
    print(f"wrote {given.file}, which signs models: keep it off the gateways, and keep a copy of it")
    print(
        f'wrote {public} (key {key_id(key)}); a gateway trusts it with [models] trusted_keys = ["{public_text(key)}"]'
    )
    return 0


def _sign(given: argparse.Namespace) -> int:
    key = read_private_key(given.key)
    signed = sign_bundle(given.bundle, key, takes_back=given.takes_back, now_ns=time.time_ns())
    back = f", taking back version {given.takes_back}" if given.takes_back is not None else ""
    print(
        f"signed {given.bundle} ({signed.model_id} version {signed.version}{back}) with key {signed.key_id}"
    )
    return 0
