"""Rules on ``[models]``: every key that is trusted can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_node.config_schema import Models
from models.config_partial import sure
from models.config_validation import Problem
from models.keys import KeyUnusable, looks_like_a_key, public_key, read_public_key


def check_trust(models: Models, base: Path) -> Iterator[Problem]:
    """What is wrong with the keys of ``models``, of which parts may be UNKNOWN; files are relative to ``base``."""
    for i, given in enumerate(sure(models.trusted_keys)):
        try:
            trusted_key(sure(given), base)
        except KeyUnusable as error:
            yield Problem(("models", "trusted_keys", i), str(error), given, True)


def trusted_key(given: str, base: Path) -> Ed25519PublicKey:
    """The key that ``given`` is, or that the file of that name holds. KeyUnusable where it is neither."""
    return public_key(given) if looks_like_a_key(given) else read_public_key(base / given)
