from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from models.keys import (
    KeyUnusable,
    looks_like_a_key,
    public_key,
    public_text,
    read_private_key,
    read_public_key,
    write_key_pair,
)


def test_a_pair_that_is_written_can_be_read(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        public, key = write_key_pair(tmp_path / "plant")
    finally:
        os.umask(old)
    assert public == tmp_path / "plant.pub"
    assert (tmp_path / "plant").stat().st_mode & 0o777 == 0o600
    assert read_public_key(public) == key == read_private_key(tmp_path / "plant").public_key()
    assert public_key(public_text(key)) == key
    assert looks_like_a_key(public_text(key))
    assert not looks_like_a_key("plant.pub")


@pytest.mark.parametrize("there", ["plant", "plant.pub"])
def test_a_key_is_never_replaced(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(KeyUnusable, match="is there already"):
        write_key_pair(tmp_path / "plant")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="cannot be written: No such file"):
        write_key_pair(tmp_path / "no" / "plant")


def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_key_pair(tmp_path / "plant")
    (tmp_path / "plant").chmod(0o640)
    with pytest.raises(KeyUnusable, match="can be read by others: chmod 600"):
        read_private_key(tmp_path / "plant")


def test_the_public_key_in_place_of_the_private_one_is_told_as_such(tmp_path: Path) -> None:
    public, _ = write_key_pair(tmp_path / "plant")
    for mode in (0o644, 0o600):
        public.chmod(mode)
        with pytest.raises(
            KeyUnusable, match=r"plant\.pub is the public key .*: the private one is .*/plant$"
        ):
            read_private_key(public)
    other = public.rename(tmp_path / "plant.key")
    with pytest.raises(KeyUnusable, match=r"plant\.key is the public key of a pair, which signs nothing$"):
        read_private_key(other)


def test_what_is_no_private_key(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for data in (b"", b"secret", other):
        file = tmp_path / "key"
        file.write_bytes(data)
        file.chmod(0o600)
        with pytest.raises(KeyUnusable, match="cloud-sink keygen"):
            read_private_key(file)
    with pytest.raises(KeyUnusable, match="cannot be read: No such file"):
        read_private_key(tmp_path / "none")


@pytest.mark.parametrize("data", [b"", b"\xff", b"AAAA", b"# only a comment\n", 2 * (b"A" * 43 + b"=\n")])
def test_what_is_no_public_key(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key.pub").write_bytes(data)
    with pytest.raises(KeyUnusable, match="is no public key"):
        read_public_key(tmp_path / "key.pub")
