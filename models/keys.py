"""Keys that models are signed with (Ed25519): how they are written down, and read.

A private key is PEM (PKCS 8, not encrypted), for its owner's eyes alone; a public key is one line of base64, the same
as text and as a file.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.manifest import key_id

MAX_KEY_BYTES = 4096
_TEXT = re.compile(r"[A-Za-z0-9+/]{43}=")


class KeyUnusable(ValueError):
    """A key that cannot be read or written; the text names the file and what to do."""


def public_text(key: Ed25519PublicKey) -> str:
    """``key`` as one line, without its end."""
    return base64.b64encode(key.public_bytes_raw()).decode("ascii")


def looks_like_a_key(text: str) -> bool:
    """Whether ``text`` is a public key and no name of a file."""
    return _TEXT.fullmatch(text.strip()) is not None


def public_key(text: str) -> Ed25519PublicKey:
    """The key that ``text`` writes; a line that begins with "#" is a comment. KeyUnusable where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1 or not looks_like_a_key(lines[0]):
        raise KeyUnusable("is no public key: expected the one line of base64 that cloud-sink keygen wrote")
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(lines[0]))


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The public key in the file ``path``; KeyUnusable says why there is none."""
    try:
        data = _read(path)
        return public_key(data.decode("ascii"))
    except UnicodeDecodeError:
        raise KeyUnusable(
            "is no public key: expected the file NAME.pub that cloud-sink keygen wrote"
        ) from None


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in the file ``path``. KeyUnusable where there is none, or others may read it."""
    data = _read(path)
    if _is_public(data):  # which everybody may read: to be told first
        of = f": the private one is {path.with_suffix('')}" if path.suffix == ".pub" else ""
        raise KeyUnusable(f"{path} is the public key of a pair, which signs nothing{of}")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyUnusable(f"{path} can be read by others: chmod 600 it, and use a new key if they may have")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyUnusable(f"{path} is no private key: expected what cloud-sink keygen wrote") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{path} holds a key of another kind: expected what cloud-sink keygen wrote")
    return key


def write_key_pair(path: Path) -> tuple[Path, Ed25519PublicKey]:
    """A new pair: the private key in ``path``, mode 600, the public one beside it in ``{path}.pub``, which is returned.

    KeyUnusable where either is there already, or cannot be written; then neither is left behind."""
    key = Ed25519PrivateKey.generate()
    public = path.with_name(f"{path.name}.pub")
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    line = f"# linewatch model key {key_id(key.public_key())}\n{public_text(key.public_key())}\n"
    _create(path, secret, 0o600)
    try:
        _create(public, line.encode("ascii"), 0o644)
    except KeyUnusable:
        path.unlink(missing_ok=True)
        raise
    return public, key.public_key()


def _is_public(data: bytes) -> bool:
    try:
        public_key(data.decode("ascii"))
    except (KeyUnusable, UnicodeDecodeError):
        return False
    return True


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        text = f"{path} is there already, and a key is never replaced: choose another name, or move it away"
        raise KeyUnusable(text) from None
    except OSError as error:
        raise KeyUnusable(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyUnusable(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_KEY_BYTES)
    except OSError as error:
        raise KeyUnusable(f"{path} cannot be read: {error.strerror}") from error
